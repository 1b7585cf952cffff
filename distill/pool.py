"""The pool: pictures of the guided teacher, sampled once, that every phase of distillation learns from.

Row i is a caption, an initial noise and the trajectory the teacher's ODE takes from it: the states x_t at each of
`teacher_steps` timesteps and the final latents. Between two states the guided prediction the solver used is known, which is a
pruned student's target at no further cost. The timesteps are DDIM's: closer together towards clean data the solver ends nearer to
where the ODE leads, and its pictures are further from true ones (docs/log.md).

The pool is one safetensors file, written every few minutes and when it is interrupted: the next run goes on where it
stopped, and another run with the same teacher, source and settings finds it ready. A pool whose time was up is closed at the
size it has.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genin.distill.diffusion import Denoiser, Process, Solver, Trajectory, sample
from genin.distill.discriminator import encoder_features
from genin.distill.recipe import PoolRecipe
from genin.distill.sources import Source
from genin.distill.text_encoder import embed
from genin.runtimes.errors import GeninError

Report = Callable[[int, int], bool]  # (done, size) => whether time is up
SOLVER: Solver = "dpm-solver++"
SAVE_SECONDS = 300.0  # the file is written whole each time, and a large pool has gigabytes


@dataclass(frozen=True)
class Pool:
    """`states` (N, S + 1, C, H, W) float16, noise first, final latents last; `x0` (N, S, C, H, W) the guided prediction of
    the picture made at each state; `timesteps` (S,); row i belongs to caption i of the source."""

    states: Tensor
    x0: Tensor
    timesteps: tuple[int, ...]
    seconds: float = 0.0  # what sampling it took, over all runs

    def __len__(self) -> int:
        return len(self.states)

    def noise(self, rows: Tensor) -> Tensor:
        return self.states[rows, 0].float()

    def final(self, rows: Tensor) -> Tensor:
        return self.states[rows, -1].float()


@dataclass(frozen=True)
class Guided:
    """A teacher ready to be sampled: its frozen UNet in the schedule of its student, text encoder with tokenizer, the empty
    caption's states (1, L, D) and the guidance scale at which it is taken as the teacher."""

    denoiser: Denoiser
    text_encoder: Any
    tokenizer: Any
    empty: Tensor
    device: torch.device
    guidance_scale: float

    @property
    def unet(self) -> Any:
        return self.denoiser.unet

    @property
    def process(self) -> Process:
        """The student's, in which everything is noised; the network's own is `denoiser.own`."""
        return self.denoiser.process

    def __call__(self, x_t: Tensor, t: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """(x0, ε) of the guided teacher, each (N, C, H, W)."""
        return self.denoiser(x_t, t, text, self.empty, self.guidance_scale)

    def features(self, x_t: Tensor, t: Tensor, text: Tensor) -> tuple[list[Tensor], Tensor]:
        """Its encoder's maps and time embedding (`discriminator.encoder_features`)."""
        return encoder_features(self.unet, x_t, self.denoiser.timesteps(t), text)

    def sample(self, noise: Tensor, text: Tensor, timesteps: Sequence[int], solver: Solver = "ddim") -> Trajectory:
        """The guided teacher's way from noise (N, C, H, W) through `timesteps` (`diffusion.sample`)."""
        return sample(
            self.denoiser, noise, text, timesteps=timesteps, empty=self.empty, guidance_scale=self.guidance_scale,
            solver=solver,
        )  # fmt: skip

    def embed(self, captions: list[str]) -> Tensor:
        with torch.no_grad():
            return embed(self.text_encoder, self.tokenizer, captions, self.device)


@dataclass(frozen=True)
class Lesson:
    """What all phases learn from. Row i of the pool belongs to caption i of the source; `texts` are the pool's captions
    embedded once, (N, L, D) float16; `latents` are final latents of true pictures, row i with caption i, or None."""

    teacher: Guided
    pool: Pool
    source: Source
    texts: Tensor
    latents: Tensor | None = None

    def text(self, rows: Tensor) -> Tensor:
        return self.texts[rows.cpu()].float().to(self.teacher.device)


def build_pool(
    teacher: Guided, source: Source, recipe: PoolRecipe, path: Path, *, fingerprint: str, autocast: Any, report: Report
) -> Pool:
    """Sample (or read, or finish) the pool in `path`. `fingerprint` names the teacher's weights."""
    key = _key(recipe, source, fingerprint)
    pool, closed = _read(path, key)
    done = 0 if pool is None else len(pool)
    size = done if closed else recipe.size
    parts_s, parts_x = ([], []) if pool is None else ([pool.states], [pool.x0])
    timesteps, before, started = (
        (() if pool is None else pool.timesteps),
        pool.seconds if pool else 0.0,
        time.perf_counter(),
    )
    saved, last = done, started

    def pooled() -> Pool:
        whole = min(len(parts_s), len(parts_x))  # Ctrl-C may fall between the two
        states, x0 = torch.cat(parts_s[:whole]), torch.cat(parts_x[:whole])
        return Pool(states, x0, tuple(timesteps), before + time.perf_counter() - started)

    try:
        while done < size and not closed:
            count = min(recipe.batch_size, size - done)
            captions = source.captions([i % len(source) for i in range(done, done + count)])
            shape = (teacher.unet.config.in_channels, *(teacher.unet.config.sample_size,) * 2)
            # Keyed by row, so that batch size and interruptions change nothing.
            noise = torch.stack(
                [torch.randn(shape, generator=_generator(recipe.seed, row)) for row in range(done, done + count)]
            )
            with autocast():
                trajectory = teacher.sample(
                    noise.to(teacher.device),
                    teacher.embed(captions),
                    teacher.process.trailing_timesteps(recipe.teacher_steps),
                    SOLVER,
                )
            parts_s.append(trajectory.states.transpose(0, 1).half().cpu())
            parts_x.append(trajectory.x0.transpose(0, 1).half().cpu())
            timesteps = trajectory.timesteps
            done += count
            closed = report(done, size)
            if time.perf_counter() - last > SAVE_SECONDS:
                _write(path, key, pooled(), closed)
                saved, last = done, time.perf_counter()
    finally:
        if done > saved:
            _write(path, key, pooled(), closed)
    found = pool if pool is not None and done == len(pool) else pooled()
    return Pool(found.states[:size], found.x0[:size], found.timesteps, found.seconds)


def _generator(seed: int, row: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 0x9E3779B1 + row) & 0xFFFFFFFF)  # of a seed, torch reads 32 bits


def pool_settings(recipe: PoolRecipe) -> dict[str, Any]:
    """What makes two pools different, their teacher and captions aside: a longer one only goes on."""
    kept = {k: v for k, v in asdict(recipe).items() if k not in ("size", "batch_size")}
    if recipe.teacher_precision == "no":  # as before there was a choice
        del kept["teacher_precision"]
    return kept | {"solver": SOLVER, "spacing": "trailing"}


def _key(recipe: PoolRecipe, source: Source, fingerprint: str) -> str:
    return hashlib.sha256(
        json.dumps([pool_settings(recipe), source.digest, fingerprint], sort_keys=True).encode()
    ).hexdigest()


def _read(path: Path, key: str) -> tuple[Pool | None, bool]:
    """The pool in `path` if it is this one, and whether it is closed."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None, False
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            if facts.get("key") != key:
                return None, False
            tensors = file.get_tensor("states"), file.get_tensor("x0")
            pool = Pool(*tensors, tuple(json.loads(facts["timesteps"])), float(facts.get("seconds", 0)))
            return pool, facts.get("closed") == "yes"
    except (SafetensorError, OSError):  # a pool is only a cache: sample it again
        return None, False


def _write(path: Path, key: str, pool: Pool, closed: bool) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    partial = path.with_suffix(".partial")
    facts = {"key": key, "timesteps": json.dumps(list(pool.timesteps)), "closed": "yes" if closed else "no"}
    facts["seconds"] = f"{pool.seconds:.1f}"
    try:
        save_file({"states": pool.states.contiguous(), "x0": pool.x0.contiguous()}, partial, metadata=facts)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        reason = " ".join(str(error).split())[:120]
        remedy = "free some space and run again with --resume; what was saved before is whole"
        raise GeninError(f"could not save the pool ({reason})", where=path, remedy=remedy) from error

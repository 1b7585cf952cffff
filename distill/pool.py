"""The pool: pictures of the guided teacher, sampled once, that every phase of distillation learns from.

Row i is a caption, an initial noise and the trajectory the teacher's ODE takes from it: the states x_t at each of
`teacher_steps` timesteps and the final latents. DPM-Solver++(2M) walks the same ODE as the teacher's 100-step DDIM, and a
dozen of its steps end nearer to where that ODE leads. Between two states the guided
prediction the solver used is known, which is a pruned student's target at no further cost.

The pool is one safetensors file, written in chunks as it grows: an interrupted run goes on where it stopped, and another
run with the same teacher, source and settings finds it ready.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genin.distill.diffusion import Process, dpm_solver_sample
from genin.distill.recipe import PoolRecipe
from genin.distill.sources import Source
from genin.distill.text_encoder import embed

Report = Callable[[int, int], bool]  # (done, size) => whether to stop early


@dataclass(frozen=True)
class Pool:
    """`states` (N, S + 1, C, H, W) float16, noise first, final latents last; `x0` (N, S, C, H, W) the guided prediction of
    the picture made at each state; `timesteps` (S,); row i belongs to caption i of the source."""

    states: Tensor
    x0: Tensor
    timesteps: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.states)

    def noise(self, rows: Tensor) -> Tensor:
        return self.states[rows, 0].float()

    def final(self, rows: Tensor) -> Tensor:
        return self.states[rows, -1].float()


@dataclass(frozen=True)
class Guided:
    """A teacher ready to be sampled: frozen UNet, process, text encoder with tokenizer, the empty caption's states (1, L, D)
    and the guidance scale at which it is taken as the teacher."""

    unet: Any
    process: Process
    text_encoder: Any
    tokenizer: Any
    empty: Tensor
    device: torch.device
    guidance_scale: float

    def embed(self, captions: list[str]) -> Tensor:
        with torch.no_grad():
            return embed(self.text_encoder, self.tokenizer, captions, self.device)


def build_pool(
    teacher: Guided, source: Source, recipe: PoolRecipe, path: Path, *, fingerprint: str, autocast: Any, report: Report
) -> Pool:
    """Sample (or read, or finish) the pool in `path`. `fingerprint` names the teacher's weights."""
    key = _key(recipe, source.name, fingerprint)
    states, x0, timesteps = _read(path, key)
    size = recipe.size
    done = 0 if states is None else len(states)
    parts_s, parts_x = ([] if states is None else [states]), ([] if x0 is None else [x0])
    saved = done
    while done < size:
        count = min(recipe.batch_size, size - done)
        captions = source.captions([i % len(source) for i in range(done, done + count)])
        shape = (teacher.unet.config.in_channels, *(teacher.unet.config.sample_size,) * 2)
        # Keyed by row, so that batch size and interruptions change nothing.
        noise = torch.stack(
            [torch.randn(shape, generator=_generator(recipe.seed, row)) for row in range(done, done + count)]
        )
        with autocast():
            trajectory = dpm_solver_sample(
                teacher.unet,
                teacher.process,
                noise.to(teacher.device),
                teacher.embed(captions),
                steps=recipe.teacher_steps,
                empty=teacher.empty,
                guidance_scale=teacher.guidance_scale,
            )
        parts_s.append(trajectory.states.transpose(0, 1).half().cpu())
        parts_x.append(trajectory.x0.transpose(0, 1).half().cpu())
        timesteps = trajectory.timesteps
        done += count
        stop = report(done, size)
        if done - saved >= 1024 or done >= size or stop:
            _write(path, key, torch.cat(parts_s), torch.cat(parts_x), timesteps)
            saved = done
        if stop:
            break
    return Pool(torch.cat(parts_s)[:size], torch.cat(parts_x)[:size], tuple(timesteps))


def _generator(seed: int, row: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed << 32) + row)


def _key(recipe: PoolRecipe, source: str, fingerprint: str) -> str:
    settings = {k: v for k, v in asdict(recipe).items() if k not in ("size", "batch_size")}
    return hashlib.sha256(json.dumps([settings, source, fingerprint], sort_keys=True).encode()).hexdigest()


def _read(path: Path, key: str) -> tuple[Tensor | None, Tensor | None, tuple[int, ...]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None, None, ()
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != key:
                return None, None, ()
            return file.get_tensor("states"), file.get_tensor("x0"), tuple(json.loads(metadata["timesteps"]))
    except (SafetensorError, OSError):  # a pool is only a cache: sample it again
        return None, None, ()


def _write(path: Path, key: str, states: Tensor, x0: Tensor, timesteps: tuple[int, ...]) -> None:
    from safetensors.torch import save_file

    partial = path.with_suffix(".partial")
    metadata = {"key": key, "timesteps": json.dumps(list(timesteps))}
    save_file({"states": states.contiguous(), "x0": x0.contiguous()}, partial, metadata=metadata)
    partial.replace(path)

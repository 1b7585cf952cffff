"""The pool: pictures of the guided teacher, sampled once, that every phase of distillation learns from.

Row i is a caption, an initial noise and the trajectory the teacher's ODE takes from it: the states x_t at each of `teacher_steps`
timesteps and the final latents. The guided prediction that the solver used between two states is kept: a pruned student's target at
no further cost. The timesteps are DDIM's: closer together towards clean data the solver ends nearer to where the ODE leads, and its
pictures are further from true ones (docs/log.md).

All processes of a run sample it, each every Nth row. A batch is on disk as soon as it is done (`pool_parts`): the next run
continues where one stopped, and another run with the same teacher, source and settings finds the pool ready. A pool whose time is
up keeps its size until a run has more time for it. It is read by mapping, so it may be larger than memory.

Precision: rows are the same to the bit in whatever order and batch they are sampled, if the networks' operations are; a batch of
another size may round differently (fp32: 1e-5 or so of a state).
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genin.distill.inputs.sources import Source
from genin.distill.inputs.update import Update
from genin.distill.models.diffusion import Solver, Trajectory
from genin.distill.models.guided import Guided
from genin.distill.recipe import PoolRecipe
from genin.distill.student.pool_parts import TENSORS, PoolParts
from genin.processes import is_main_process, main_process_first, rank_and_world, wait_for_all
from genin.runtimes.errors import GeninError
from genin.runtimes.folder import square_latent_size

# (rows done, size, seconds of sampling over all runs) => whether time is up
TimeIsUp = Callable[[int, int, float], bool]
SOLVER: Solver = "dpm-solver++"


@dataclass(frozen=True)
class Pool:
    """`states` (N, S + 1, C, H, W) float16, noise first, final latents last; `x0` (N, S, C, H, W) the guided prediction of the
    picture made at each state; `timesteps` (S,); row i belongs to caption i of the source. Mapped: to be read only."""

    states: Tensor
    x0: Tensor
    timesteps: tuple[int, ...]
    seconds: float = 0.0  # of sampling, over all runs

    def __len__(self) -> int:
        return len(self.states)

    def noise(self, rows: Tensor) -> Tensor:
        return self.states[rows, 0].float()

    def final(self, rows: Tensor) -> Tensor:
        return self.states[rows, -1].float()


@dataclass(frozen=True)
class DistillationData:
    """What all phases learn from: pairs of a noise and the final latents that it belongs to, and their captions.

    Pair i belongs to row i of the pool; those from `len(pool)` on are true pictures with the noise that `inversion` has found,
    mixed with up to `jitter` of fresh noise. `texts` are the source's captions, embedded once, (M, L, D) float16: row i of either
    belongs to caption i, and more rows than captions reuse them in turn. `latents` are final latents of true pictures, row i with
    caption i, or None. `held_out` are a few pairs of captions that no phase learns from, None where the source has none: they show
    what has been learnt by heart."""

    teacher: Guided
    pool: Pool
    source: Source
    texts: Tensor
    latents: Tensor | None = None
    inverted: Pool | None = None
    jitter: float = 0.0
    held_out: DistillationData | None = None

    @property
    def pairs(self) -> int:
        return len(self.pool) + (0 if self.inverted is None else len(self.inverted))

    @property
    def seconds(self) -> float:
        """What making the pairs has taken, over all runs."""
        return self.pool.seconds + (0.0 if self.inverted is None else self.inverted.seconds)

    def caption_rows(self, rows: Tensor) -> Tensor:
        """The captions of these pairs, as places in the source, (N,), on the CPU."""
        rows = rows.cpu()
        return torch.where(rows < len(self.pool), rows, rows - len(self.pool)) % len(self.texts)

    def text(self, rows: Tensor) -> Tensor:
        return self.texts[self.caption_rows(rows)].float().to(self.teacher.device)

    def final(self, rows: Tensor) -> Tensor:
        """Final latents of these pairs, (N, C, H, W), on the device."""
        return self._column(rows, -1)

    def noise(self, rows: Tensor, update: Update | None = None) -> Tensor:
        """The noises of these pairs, (N, C, H, W), on the device; inverted ones with the jitter of an `update`."""
        noise = self._column(rows, 0)
        if self.inverted is None or update is None:
            return noise
        # Along the sphere, so that the norm of a Gaussian stays: arXiv:2510.25229 perturbs by spherical interpolation.
        angle = 0.5 * math.pi * self.jitter * update.rand().view(-1, 1, 1, 1)
        jittered = angle.cos() * noise + angle.sin() * update.randn(*noise.shape[1:])
        return torch.where((rows.to(noise.device) < len(self.pool)).view(-1, 1, 1, 1), noise, jittered)

    def _column(self, rows: Tensor, column: int) -> Tensor:
        rows, count = rows.cpu(), len(self.pool)
        values = self.pool.states[rows.clamp(max=count - 1), column].float()
        if self.inverted is not None and bool((own := rows >= count).any()):
            values[own] = self.inverted.states[rows[own] - count, column].float()
        return values.to(self.teacher.device)


def build_pool(
    teacher: Guided, source: Source, recipe: PoolRecipe, path: Path, *, fingerprint: str, time_is_up: TimeIsUp
) -> Pool:
    """Sample (or read, or finish) the pool in `path`; all processes call it together. `fingerprint` names the teacher's weights;
    `time_is_up` is called after every batch.

    Errors: GeninError where the disk is full.
    """
    key = pool_key(pool_settings(recipe), source, fingerprint)
    return fill_pool(
        PoolParts(path, key), recipe.size, recipe.batch_size, partial(_sample_rows, teacher, source, recipe), time_is_up
    )


def fill_pool(
    parts: PoolParts, size: int, batch_size: int, sample: Callable[[Sequence[int]], Trajectory], time_is_up: TimeIsUp
) -> Pool:
    """Let `sample` make the rows of a pool that are missing, batch by batch, shared out over the processes.

    Errors: GeninError where the disk is full.
    """
    whole, done_rows, seconds = parts.whole(), parts.done_rows(), parts.seconds()
    wait_for_all()  # no process samples before all have seen the same
    missing = [row for row in range(size) if row not in done_rows]
    done = size - len(missing)
    if whole is not None and missing and time_is_up(done, size, seconds):
        missing = []
    rank, world = rank_and_world()
    own = missing[rank::world]
    last = time.perf_counter()
    for start in range(0, len(own), batch_size):
        rows = own[start : start + batch_size]
        trajectory = sample(rows)
        now = time.perf_counter()
        states, x0 = trajectory.states.transpose(0, 1), trajectory.x0.transpose(0, 1)
        parts.add(rows, states, x0, trajectory.timesteps, rank=rank, seconds=now - last)
        seconds += now - last
        done, last = min(size, done + len(rows) * world), now
        if time_is_up(done, size, seconds):
            break
    wait_for_all()
    with main_process_first():
        if is_main_process():
            parts.merge()
        whole = parts.whole()
    if whole is None:
        raise GeninError("the pool could not be read again", where=parts.path, remedy="run it again with resume")
    states, x0 = (whole.tensor(name)[:size] for name in TENSORS)
    return Pool(states, x0, tuple(json.loads(whole.facts["timesteps"])), float(whole.facts.get("seconds", 0)))


def _sample_rows(teacher: Guided, source: Source, recipe: PoolRecipe, rows: Sequence[int]) -> Trajectory:
    """The teacher's trajectories for these rows of the pool."""
    captions = source.captions([row % len(source) for row in rows])
    shape = (teacher.unet.config.in_channels, *(square_latent_size(teacher.unet.config),) * 2)
    # Keyed by row, so that batch size, interruptions and the number of processes change nothing.
    noise = torch.stack([torch.randn(shape, generator=row_generator(recipe.seed, row)) for row in rows])
    timesteps = teacher.process.trailing_timesteps(recipe.teacher_steps)
    return teacher.sample(noise.to(teacher.device), teacher.embed(captions), timesteps, SOLVER)


def row_generator(seed: int, row: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 0x9E3779B1 + row) & 0xFFFFFFFF)  # torch uses 32 bits of a seed


def pool_settings(recipe: PoolRecipe) -> dict[str, Any]:
    """The settings in which pools differ, besides teacher and captions. Size is not one: a longer pool continues a shorter one."""
    settings = {
        k: v for k, v in asdict(recipe).items() if k not in ("size", "batch_size") and not k.startswith("inverted")
    }
    if recipe.teacher_precision == "no":  # as before this was a setting
        del settings["teacher_precision"]
    return settings | {"solver": SOLVER, "spacing": "trailing"}


def inverted_settings(recipe: PoolRecipe) -> dict[str, Any]:
    """What of a recipe is about inverted pairs: an update draws from them and from the pool alike."""
    return {k: v for k, v in asdict(recipe).items() if k.startswith("inverted")}


def pool_key(settings: Mapping[str, Any], source: Source, fingerprint: str) -> str:
    """What a pool's file must have been made of."""
    return hashlib.sha256(json.dumps([settings, source.digest, fingerprint], sort_keys=True).encode()).hexdigest()

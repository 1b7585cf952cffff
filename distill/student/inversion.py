"""Inversion: the noise from which the teacher's ODE leads to a true picture, for pairs that no guidance has touched.

A student that learns only the teacher's own pictures can at best be as good as these. Pairs of true pictures with their
inverted noises keep it from drifting away from the data (Balanced Conic Rectified Flow, 2025, arXiv:2510.25229).

With x = cos φ·x0 + sin φ·ε, the ODE is dx/dφ = v in the angle φ of the noise level (Salimans & Ho 2022, arXiv:2202.00512,
appendix D), without guidance and under the picture's caption. It is solved by Heun's method, whose second v serves as the next
step's first: one pass of the network a step. DDIM's own steps would shrink what they invert, by 4 % in 32 steps. It begins a little
above φ = 0, at the picture with noise of its own: where a network sees none, it predicts almost none, and what comes out is no
noise (a deviation of 0.9, four fifths of white noise's power; docs/log.md).

Not here: the pool and its files (`pool`, `pool_parts`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from genin.distill.inputs.sources import Source
from genin.distill.models.diffusion import Denoiser, Process, Trajectory
from genin.distill.models.guided import Guided
from genin.distill.recipe import PoolRecipe
from genin.distill.student.pool import Pool, TimeIsUp, fill_pool, row_generator
from genin.distill.student.pool_parts import PoolParts

FIRST_SHARE = 0.125  # of the timesteps: where the way begins


@torch.no_grad()
def invert(denoiser: Denoiser, latents: Tensor, noise: Tensor, text: Tensor, timesteps: Sequence[int]) -> Tensor:
    """The states at the first of `timesteps` (a sampler's: falling) that lead to these latents, with some `noise` at first, all
    (N, C, H, W)."""
    process, first = denoiser.process, first_timestep(denoiser.process)

    def angle_of(timestep: int) -> float:
        alpha, sigma = (float(part) for part in process.alpha_sigma(torch.tensor([timestep], device=latents.device)))
        return math.atan2(sigma, alpha)

    def velocity(x: Tensor, timestep: int) -> Tensor:
        t = torch.full((len(x),), timestep, dtype=torch.long, device=x.device)
        alpha, sigma = process.alpha_sigma(t)
        x0, eps = denoiser(x, t, text)
        return alpha * eps - sigma * x0

    x = process.add_noise(latents, noise, torch.full((len(latents),), first, device=latents.device))
    v, angle = velocity(x, first), angle_of(first)
    for timestep in reversed([t for t in timesteps if t > first]):
        step = angle_of(timestep) - angle
        following = velocity(x + step * v, timestep)
        x = x + 0.5 * step * (v + following)
        v, angle = following, angle + step
    return x


def first_timestep(process: Process) -> int:
    return round(FIRST_SHARE * process.num_train_timesteps) - 1


def build_inverted(
    teacher: Guided, source: Source, recipe: PoolRecipe, latents: Tensor, parts: PoolParts, time_is_up: TimeIsUp
) -> Pool:
    """Invert (or read, or finish) the first `recipe.inverted` true pictures, final latents (N, C, H, W) float16; all processes call
    it together. A row's states are its noise and its latents. Errors: GeninError where the disk is full."""
    sample = partial(_invert_rows, teacher, source, recipe, latents)
    return fill_pool(parts, min(recipe.inverted, len(latents)), recipe.batch_size, sample, time_is_up)


def inversion_settings(recipe: PoolRecipe, latents: Tensor) -> dict[str, Any]:
    """The settings in which inverted pairs differ, besides teacher and captions."""
    # Of bytes: a sum's last bits depend on the number of threads.
    return {
        "inverted_steps": recipe.inverted_steps,
        "inverted_from": FIRST_SHARE,
        "seed": recipe.seed,
        "of": hashlib.sha256(latents[:64].contiguous().numpy().tobytes()).hexdigest(),
    }


def _invert_rows(
    teacher: Guided, source: Source, recipe: PoolRecipe, latents: Tensor, rows: Sequence[int]
) -> Trajectory:
    timesteps = teacher.process.trailing_timesteps(recipe.inverted_steps)
    x0 = latents[torch.tensor(rows)].float().to(teacher.device)
    text: Any = teacher.embed(source.captions(list(rows)))
    first = torch.stack([torch.randn(x0.shape[1:], generator=row_generator(recipe.seed, row)) for row in rows])
    noise = invert(teacher.denoiser, x0, first.to(teacher.device), text, timesteps)
    return Trajectory(torch.stack([noise, x0]), x0[None], (timesteps[0],))

"""Held-out figures of a student while it trains: `kid` of its pictures (`loop.held_out`), and their `diversity`.

`diversity` is the distance between its pictures of two noises under one caption, divided by that between the teacher's: 1 is as
varied as the teacher, 0 is a student that ignores its noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genin.distill.inputs.sources import Source
from genin.distill.loop.held_out import SEED, HeldOutPictures, held_out_latents
from genin.distill.models.guided import Guided
from genin.distill.student.rollout import Student

PAIRS = 16  # captions of which the teacher draws two pictures
TEACHER_STEPS = 8


@dataclass(frozen=True)
class HeldOut(HeldOutPictures):
    """The reference for students: further noises for the first captions, and the mean distance between the teacher's pictures
    of two noises under one caption."""

    second_noise: Tensor
    teacher_distance: float

    @classmethod
    def of(cls, teacher: Guided, source: Source, vae: Any, size: int, count: int, cache: Path) -> HeldOut | None:
        """The first `count` captions and pictures of a held-out source; None where it has too few for KID. Latents are kept in
        the file `cache`."""
        latents = held_out_latents(source, vae, size, count, cache)
        if latents is None:
            return None
        plain = HeldOutPictures.seen_by(teacher, source.captions(range(len(latents))), latents)
        text, noise, pairs = plain.text, plain.noise, min(PAIRS, len(latents))
        generator = torch.Generator().manual_seed(SEED)
        torch.randn(noise.shape, generator=generator)  # these come after the first noises
        second = torch.randn(pairs, *noise.shape[1:], generator=generator)
        timesteps = teacher.process.trailing_timesteps(TEACHER_STEPS)
        drawn = [
            teacher.sample(one.to(teacher.device), text[:pairs], timesteps).states[-1]
            for one in (noise[:pairs], second)
        ]
        return cls(teacher, plain.captions, text, noise, plain.true, second, _distance(*drawn))

    def __call__(self, network: nn.Module, timesteps: Sequence[int]) -> dict[str, float]:
        """Figures of a student's network, which draws through `timesteps`."""
        student = Student(network, self.teacher.process)

        def draw(noise: Tensor, rows: slice) -> Tensor:
            return student.rollout(noise, self.text[rows], timesteps).pictures[-1]

        first, second = self.drawn(draw, self.noise), self.drawn(draw, self.second_noise)
        distance = _distance(first[: len(second)], second) / self.teacher_distance
        return {**self.kid(first), "diversity": distance}


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one.float() - other.float()).abs().mean())

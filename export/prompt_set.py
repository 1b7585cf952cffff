"""The pictures that an export draws to calibrate and to compare: prompts, seeds, how many."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from genin.benchmarks.prompts import DEFAULT_PROMPTS
from genin.distill.models.folder import ModelFolder

STEPS = 4  # at most: a teacher's hundred steps would add nothing
BATCH = 8  # for 12 pictures: a second batch of another size shows that the batch is free
FIRST_SEED = 40_000  # not those of the golden inputs
SMALL_LATENTS = 32  # px: up to this size a picture takes milliseconds


@dataclass(frozen=True)
class Amount:
    """How much is drawn."""

    pictures: int
    steps: int

    @classmethod
    def of(cls, model: ModelFolder, *, single_step: bool = False) -> Amount:
        """Enough for ranges and averages where pictures are cheap; else one picture, in a `single_step` if that will do."""
        if model.latent_size <= SMALL_LATENTS:
            return cls(12, STEPS)
        return cls(1, 1 if single_step else STEPS)


def batches(pictures: int) -> Iterator[range]:
    """Rows to draw together: 8, and 4."""
    return (range(start, min(start + BATCH, pictures)) for start in range(0, pictures, BATCH))


def prompts_and_seeds(rows: range) -> tuple[list[str], list[int]]:
    return [DEFAULT_PROMPTS[row % len(DEFAULT_PROMPTS)] for row in rows], [FIRST_SEED + row for row in rows]

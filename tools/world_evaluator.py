"""What the tools of this folder measure a student with: held-out captions of the built-in world."""

from __future__ import annotations

from genin.benchmarks.quality.evaluate import Evaluator
from genin.names import BUILTIN_WORLD, InstalledNames

SCENES = 200_000  # of the training split, as `genin distill` draws from


def world_evaluator(samples: int, features: tuple[str, ...]) -> Evaluator:
    names = InstalledNames()
    return Evaluator(
        names.reference(BUILTIN_WORLD, count=samples, size=64, seed=0),
        samples=samples,
        classifier=names.classifier(),
        features=features,
        reference_name=BUILTIN_WORLD,
    )

"""The evaluator that the tools of this folder use for students: held-out captions of the built-in world."""

from __future__ import annotations

from genin.benchmarks.quality.evaluator import Evaluator
from genin.benchmarks.quality.measures import load_suite
from genin.names import InstalledNames
from genin.runtimes.names import BUILTIN_WORLD

SCENES = 200_000  # of the training split, as `genin distill` draws from


def world_evaluator(samples: int, features: tuple[str, ...]) -> Evaluator:
    names = InstalledNames()
    return Evaluator(
        names.reference(BUILTIN_WORLD, count=samples, size=128, seed=0),
        load_suite(None, names.classifier(), features=features),
        samples=samples,
        reference_name=BUILTIN_WORLD,
    )

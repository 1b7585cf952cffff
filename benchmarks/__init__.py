"""Latency, memory and picture quality, measured alike on every runtime.

    from genin.benchmarks import bench, compare, evaluate

Each verb takes one options object and does what the command of its name does. Imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genin.runtimes.lazy import lazy_attribute

if TYPE_CHECKING:
    from genin.benchmarks.benchmarking import BenchOptions, bench
    from genin.benchmarks.comparison import CompareOptions, compare
    from genin.benchmarks.evaluation import EvaluateOptions, evaluate
    from genin.benchmarks.grids import Grid

__all__ = ["BenchOptions", "CompareOptions", "EvaluateOptions", "Grid", "bench", "compare", "evaluate"]

_HOME = {
    "BenchOptions": "benchmarking",
    "CompareOptions": "comparison",
    "EvaluateOptions": "evaluation",
    "Grid": "grids",
    "bench": "benchmarking",
    "compare": "comparison",
    "evaluate": "evaluation",
}


def __getattr__(name: str) -> Any:
    return lazy_attribute(__name__, _HOME, name, extra="metrics")


def __dir__() -> list[str]:
    return sorted(__all__)

"""What is measured in runs apart, after the timed ones and one configuration at a time, since it would disturb them: operators.

Not here: what is done in each (`operators`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from genin.benchmarks.speed.configurations import Configuration
from genin.benchmarks.speed.operators import COUNTING, NOT_COUNTED, profile
from genin.benchmarks.speed.protocol import Protocol
from genin.benchmarks.speed.samples import Measured
from genin.benchmarks.speed.worker import WorkerError


@dataclass(frozen=True)
class Apart:
    """What to measure apart: `profile`, the operators."""

    profile: bool = False


def add_apart(rows: Sequence[dict[str, Any]], measured: Sequence[Measured], protocol: Protocol, apart: Apart) -> None:
    """Fill in what is asked for; a process that fails costs only that. `rows` are those of `measured`, in order."""
    for row, one in zip(rows, measured, strict=True):
        if apart.profile:
            row["operators"] = None
            try:
                row["operators"] = _operators(as_measured(one), protocol, row)
            except WorkerError as error:
                row["notes"]["operators"] = str(error)


def as_measured(measured: Measured) -> Configuration:
    """The configuration with the runtime and precision that it got, where genin chose."""
    runtime, precision = str(measured.facts["runtime"]), str(measured.facts["precision"])
    return replace(measured.configuration, runtime=runtime, precision=precision)


def _operators(configuration: Configuration, protocol: Protocol, row: dict[str, Any]) -> dict[str, Any] | None:
    if configuration.runtime not in COUNTING:
        row["notes"]["operators"] = NOT_COUNTED
        return None
    return profile(configuration, protocol)

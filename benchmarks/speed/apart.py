"""What is measured in runs apart, after the timed ones, which it would disturb: operators, drawing for minutes, and the
frames of a game. One configuration at a time.

Not here: what is done in each (`operators`, `sustained`, `frames`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from genin.benchmarks.results.files import GENIN
from genin.benchmarks.speed.configurations import Configuration
from genin.benchmarks.speed.frames import BUNDLES_ONLY, frame_costs
from genin.benchmarks.speed.operators import COUNTING, NOT_COUNTED, profile
from genin.benchmarks.speed.protocol import Protocol
from genin.benchmarks.speed.samples import Measured
from genin.benchmarks.speed.sustained import NO_FREQUENCY, sustain
from genin.benchmarks.speed.worker import WorkerError


@dataclass(frozen=True)
class Apart:
    """What to measure apart: `profile`, the operators; `sustained_minutes` of drawing without a pause, None is none;
    `frames` of a game beside each bundle."""

    profile: bool = False
    sustained_minutes: float | None = None
    frames: bool = False


def add_apart(rows: Sequence[dict[str, Any]], measured: Sequence[Measured], protocol: Protocol, apart: Apart) -> None:
    """Fill in what is asked for; a process that fails costs only that. `rows` are those of `measured`, in order."""
    for row, one in zip(rows, measured, strict=True):
        configuration, minutes = as_measured(one), apart.sustained_minutes
        if apart.profile and configuration.runtime in COUNTING and configuration.program == GENIN:
            _add(row, "operators", partial(profile, configuration, protocol))
        elif apart.profile:
            row["operators"], row["notes"]["operators"] = None, NOT_COUNTED
        if minutes is not None:
            _add(row, "sustained", partial(sustain, configuration, protocol, minutes))
            if row["sustained"] is not None and row["sustained"]["throttled"] is None:
                row["notes"]["sustained"] = NO_FREQUENCY
    if apart.frames:
        _add_frames(rows, [as_measured(one) for one in measured])


def _add_frames(rows: Sequence[dict[str, Any]], configurations: Sequence[Configuration]) -> None:
    """Once for what a painter may be given: one picture of the model's own size at a time, with the painter's own threads."""
    seen: set[Configuration] = set()
    for row, one in zip(rows, configurations, strict=True):
        alike = replace(one, threads=1)
        if one.suffix or alike in seen or one.program != GENIN:
            continue
        seen.add(alike)
        if one.runtime == "pytorch":
            row["frames"], row["notes"]["frames"] = None, BUNDLES_ONLY
        else:
            _add(row, "frames", partial(frame_costs, one))


def _add(row: dict[str, Any], key: str, measure: Callable[[], dict[str, Any]]) -> None:
    row[key] = None
    try:
        row[key] = measure()
    except WorkerError as error:
        row["notes"][key] = str(error)


def as_measured(measured: Measured) -> Configuration:
    """The configuration with the runtime and precision that it got, where genin chose."""
    runtime, precision = str(measured.facts["runtime"]), str(measured.facts["precision"])
    return replace(measured.configuration, runtime=runtime, precision=precision)

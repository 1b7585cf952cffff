"""What is measured in runs apart, after the timed ones, which it would disturb: operators, drawing for minutes, several
clients at once, and the frames of a game. One configuration at a time.

Not here: what is done in each (`operators`, `sustained`, `clients`, `frames`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from genin.benchmarks.results.files import GENIN
from genin.benchmarks.speed.clients import serve
from genin.benchmarks.speed.configurations import Configuration
from genin.benchmarks.speed.frames import BUNDLES_ONLY, frame_costs
from genin.benchmarks.speed.operators import COUNTING, NOT_COUNTED, profile
from genin.benchmarks.speed.protocol import Protocol
from genin.benchmarks.speed.samples import Measured, as_measured
from genin.benchmarks.speed.sustained import NO_FREQUENCY, Told, sustain
from genin.benchmarks.speed.worker import WorkerError
from genin.runtimes.progress import progress

Row = dict[str, Any]
Task = tuple[Row, str, Callable[[Told], dict[str, Any]]]


@dataclass(frozen=True)
class Apart:
    """What to measure apart: `profile`, the operators; `sustained_minutes` of drawing without a pause, None is none;
    `clients`, the numbers of processes that draw at once; `frames` of a game beside each bundle."""

    profile: bool = False
    sustained_minutes: float | None = None
    clients: Sequence[int] = ()
    frames: bool = False


def add_apart(rows: Sequence[dict[str, Any]], measured: Sequence[Measured], protocol: Protocol, apart: Apart) -> None:
    """Fill in what is asked for; a process that fails costs only that. `rows` are those of `measured`, in order."""
    tasks = _tasks(rows, measured, protocol, apart)
    with progress("measuring apart", len(tasks), even=False) as shown:
        for done, (row, key, task) in enumerate(tasks):
            shown.reach(done, f"{row['name']}: {key}")
            row[key] = None
            try:
                row[key] = task(lambda share, done=done: shown.reach(done + share))  # type: ignore[misc]
            except WorkerError as error:
                row["notes"][key] = str(error)
            if key == "sustained" and row[key] is not None and row[key]["throttled"] is None:
                row["notes"][key] = NO_FREQUENCY


def _tasks(rows: Sequence[Row], measured: Sequence[Measured], protocol: Protocol, apart: Apart) -> list[Task]:
    """What is to be measured: a row, its key, and how. What cannot be is noted."""
    tasks: list[Task] = []
    for row, one in zip(rows, measured, strict=True):
        configuration, minutes = as_measured(one), apart.sustained_minutes
        if apart.profile and configuration.runtime in COUNTING and configuration.program == GENIN:
            tasks.append((row, "operators", _silent(partial(profile, configuration, protocol))))
        elif apart.profile:
            row["operators"], row["notes"]["operators"] = None, NOT_COUNTED
        if minutes is not None:
            tasks.append((row, "sustained", partial(sustain, configuration, protocol, minutes)))
        if apart.clients:
            tasks.append((row, "clients", partial(serve, configuration, protocol, apart.clients)))
    return tasks + (_frames(rows, [as_measured(one) for one in measured]) if apart.frames else [])


def _silent(measure: Callable[[], dict[str, Any]]) -> Callable[[Told], dict[str, Any]]:
    """What does not tell how far it is."""
    return lambda _told: measure()


def _frames(rows: Sequence[Row], configurations: Sequence[Configuration]) -> list[Task]:
    """Once for what a painter may be given: one picture of the model's own size at a time, with the painter's own threads."""
    tasks: list[Task] = []
    seen: set[Configuration] = set()
    for row, one in zip(rows, configurations, strict=True):
        alike = replace(one, threads=1)
        if not one.is_plain or alike in seen or one.program != GENIN:
            continue
        seen.add(alike)
        if one.runtime == "pytorch":
            row["frames"], row["notes"]["frames"] = None, BUNDLES_ONLY
        else:
            tasks.append((row, "frames", _silent(partial(frame_costs, one))))
    return tasks

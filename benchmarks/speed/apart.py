"""What is measured in runs apart, after the timed ones, which it would disturb: operators, drawing for minutes, several
clients at once, and the frames of a game. One configuration at a time.

Not here: what is done in each (`operators`, `sustained`, `clients`, `frames`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from genin.benchmarks.results.files import GENIN
from genin.benchmarks.speed.clients import serve
from genin.benchmarks.speed.configurations import Configuration
from genin.benchmarks.speed.frames import BUNDLES_ONLY, frame_costs
from genin.benchmarks.speed.journal import Journal
from genin.benchmarks.speed.operators import COUNTING, NOT_COUNTED, profile
from genin.benchmarks.speed.protocol import Protocol
from genin.benchmarks.speed.samples import Measured, as_measured
from genin.benchmarks.speed.sustained import NO_FREQUENCY, Told, sustain
from genin.benchmarks.speed.worker import WorkerError
from genin.runtimes.progress import Progress, progress

Row = dict[str, Any]


class Task(NamedTuple):
    """What is to be measured: the row's key, of which configuration, with what settings."""

    row: Row
    key: str
    configuration: Configuration
    settings: object
    measure: Callable[[Told], dict[str, Any]]

    def __str__(self) -> str:
        return f"{self.key} {self.configuration!r} {self.settings!r}"


@dataclass(frozen=True)
class Apart:
    """What to measure apart: `profile`, the operators; `sustained_minutes` of drawing without a pause, None is none;
    `clients`, the numbers of processes that draw at once; `frames` of a game beside each bundle."""

    profile: bool = False
    sustained_minutes: float | None = None
    clients: Sequence[int] = ()
    frames: bool = False


def add_apart(
    rows: Sequence[Row], measured: Sequence[Measured], protocol: Protocol, apart: Apart, journal: Journal | None = None
) -> None:
    """Fill in what is asked for; a process that fails costs only that. `rows` are those of `measured`, in order. What the journal
    has is not measured again."""
    journal = journal or Journal(None)
    tasks = _tasks(rows, measured, protocol, apart)
    with progress("measuring apart", len(tasks), even=False) as shown:
        for done, task in enumerate(tasks):
            row, key = task.row, task.key
            shown.reach(done, f"{row['name']}: {key}")
            row[key] = None
            try:
                row[key] = journal.keep(str(task), partial(task.measure, _telling(shown, done)))
            except WorkerError as error:
                row["notes"][key] = str(error)
            if key == "clients" and (missing := _missing(task.settings, row[key])):
                row["notes"][key] = f"{missing} clients could not be started at once"
            if key == "sustained" and row[key] is not None and row[key]["throttled"] is None:
                row["notes"][key] = NO_FREQUENCY


def _missing(asked: Any, found: Mapping[str, Any] | None) -> str:
    """Numbers of clients that are not among those that were measured, if some were."""
    return "" if found is None else ", ".join(str(count) for count in asked if str(count) not in found)


def _telling(shown: Progress, done: int) -> Told:
    """How far the task after so many others is."""
    return lambda share: shown.reach(done + share)


def _tasks(rows: Sequence[Row], measured: Sequence[Measured], protocol: Protocol, apart: Apart) -> list[Task]:
    """What is to be measured. What cannot be is noted."""
    tasks: list[Task] = []
    for row, one in zip(rows, measured, strict=True):
        configuration, minutes = as_measured(one), apart.sustained_minutes
        if apart.profile and configuration.runtime in COUNTING and configuration.program == GENIN:
            counted = _silent(partial(profile, configuration, protocol))
            tasks.append(Task(row, "operators", configuration, None, counted))
        elif apart.profile:
            row["operators"], row["notes"]["operators"] = None, NOT_COUNTED
        if minutes is not None:
            drawn = partial(sustain, configuration, protocol, minutes)
            tasks.append(Task(row, "sustained", configuration, minutes, drawn))
        if apart.clients:
            served = partial(serve, configuration, protocol, apart.clients)
            tasks.append(Task(row, "clients", configuration, tuple(apart.clients), served))
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
            tasks.append(Task(row, "frames", alike, None, _silent(partial(frame_costs, one))))
    return tasks

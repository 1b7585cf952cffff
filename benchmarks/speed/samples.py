"""What measuring gives: for every configuration its processes, for every process its start, its timed runs and their pictures.

Plain values and arrays, so that a run can be kept on disk and continued (`journal`). Not here: statistics (`rows`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from genin.benchmarks.results.statistics import Values
from genin.benchmarks.speed.configurations import Configuration
from genin.runtimes.vocabulary import COMPONENTS, TEXT_TO_IMAGE

Pictures = NDArray[np.uint8]

GRAPHS: Final = (*COMPONENTS, TEXT_TO_IMAGE)
STAGES: Final = (*GRAPHS, "other")


@dataclass(frozen=True)
class Run:
    """One timed call, of a picture or a batch: its round, when it began in seconds since measuring began, and milliseconds in
    all, by stage, by step; the energy of the processor meanwhile, if it is counted."""

    round: int
    at_s: float
    total_ms: float
    stages_ms: Mapping[str, float]
    steps_ms: Sequence[float] = ()
    joules: float | None = None

    @classmethod
    def of_answer(cls, answer: Mapping[str, Any], round: int, at_s: float, joules: float | None = None) -> Run:
        """From a worker's answer; time outside the graphs is `other`, so that the stages add up."""
        total, stages = float(answer["total_ms"]), answer["stages_ms"]
        graphs = {stage: float(stages.get(stage, 0.0)) for stage in GRAPHS}
        stages_ms = graphs | {"other": total - sum(graphs.values())}
        return cls(round, at_s, total, stages_ms, [float(step) for step in answer.get("steps_ms", ())], joules)


@dataclass
class ProcessRun:
    """One process of a configuration. `facts` are the worker's own; `pictures` (N, H, W, 3) are those of its runs."""

    facts: dict[str, Any]
    cold_start_s: float
    runs: list[Run] = field(default_factory=list)
    memory_bytes: dict[str, int | None] = field(default_factory=dict)
    pictures: Pictures | None = None

    @property
    def spent_s(self) -> float:
        return sum(run.total_ms for run in self.runs) / 1000


@dataclass
class Measured:
    """A configuration's processes, in the order in which they were started. Those of one `group` took turns; groups are measured
    one after the other."""

    configuration: Configuration
    processes: list[ProcessRun] = field(default_factory=list)
    group: int = 0

    @property
    def facts(self) -> Mapping[str, Any]:
        """What its first process says: runtime, provider and precision are the same in all."""
        return self.processes[0].facts

    def runs(self) -> Iterator[tuple[int, Run]]:
        """(process, run), all of them."""
        for index, process in enumerate(self.processes):
            for run in process.runs:
                yield index, run

    def groups(self) -> list[Values]:
        """Milliseconds of its runs, one array for each process."""
        return [np.array([run.total_ms for run in process.runs]) for process in self.processes]

    def total_ms(self) -> list[float]:
        return [run.total_ms for _, run in self.runs()]

    def stages_ms(self) -> dict[str, list[float]]:
        return {stage: [run.stages_ms[stage] for _, run in self.runs()] for stage in STAGES}

    def drawn(self) -> Iterator[tuple[int, int, Pictures]]:
        """(process, number, picture) of every timed picture that was kept, the first of each process, numbered as in
        `Protocol.picture`."""
        for index, process in enumerate(self.processes):
            if process.pictures is not None:
                numbers = [number for run in process.runs for number in self.configuration.numbers(run.round)]
                for number, picture in zip(numbers[: len(process.pictures)], process.pictures, strict=True):
                    yield index, number, picture

    def by_number(self) -> dict[int, Pictures]:
        """Number => picture (H, W, 3), of the first process that drew it."""
        found: dict[int, Pictures] = {}
        for _, number, picture in self.drawn():
            found.setdefault(number, picture)
        return found


def as_measured(measured: Measured) -> Configuration:
    """The configuration with the runtime and precision that it got, where genin chose."""
    runtime, precision = str(measured.facts["runtime"]), str(measured.facts["precision"])
    return replace(measured.configuration, runtime=runtime, precision=precision, asked=None)


@dataclass(frozen=True)
class Skipped:
    """A configuration that does not run here, and why."""

    configuration: Configuration
    reason: str

"""Latency, start and memory of several configurations, measured side by side.

Every configuration (model × runtime × precision × steps × threads × batch × size) gets several fresh processes, one after the
other: what one happens to get (memory, cores, caches) differs between processes more than between runs of one. The first processes
of all configurations are up together and asked in turn, one picture or batch each per round, in an order that changes
(`Protocol.turns`): whatever else the machine does affects all of them alike. Then they end, and the second ones start.

- cold start: from starting a process to its first picture, on a warm disk but for the first;
- latency: wall time of one whole `generate` call, after warm-up. It is measured with pictures back to back: a fast process, whose
  cores are asleep and caches cold after the others' turns, first draws one that is not counted;
- stages: text encoder, UNet (all steps, and each), decoder, or a single graph for all of it, and everything else;
- energy: of the processor's package, from asking for a picture to its answer;
- memory: of the process, before loading, loaded, after its pictures, and at its peak.

Not here: which configurations to measure (`configurations`), statistics (`rows`), quality.
"""

from __future__ import annotations

import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from genin.benchmarks.peers.table import PEERS
from genin.benchmarks.speed.configurations import Configuration
from genin.benchmarks.speed.energy import EnergyMeter
from genin.benchmarks.speed.journal import Journal
from genin.benchmarks.speed.machine import OtherWork
from genin.benchmarks.speed.memory import available_memory_bytes
from genin.benchmarks.speed.protocol import Protocol
from genin.benchmarks.speed.samples import Measured, Pictures, ProcessRun, Run, Skipped
from genin.benchmarks.speed.worker import Worker, WorkerError
from genin.runtimes.progress import progress

Advance = Callable[[float], None]
Asked = tuple[Configuration, Worker, ProcessRun]

PROCESS_BYTES: Final = 400_000_000  # for interpreter, engine and activations, in deciding what fits side by side
QUICK_MS: Final = 100.0  # pictures faster than this are drawn twice per turn
SLOW_MS: Final = 10_000.0  # a process that takes this long for its first picture is warm after it


def measure(
    configurations: Sequence[Configuration],
    protocol: Protocol,
    sizes: Mapping[Configuration, int],
    journal: Journal | None = None,
    other_work: OtherWork | None = None,
) -> tuple[list[Measured], list[Skipped]]:
    """Measure all, in groups of processes that fit into memory side by side; order is kept. What the journal has is not measured
    again: the groups stay those of the run that began, whatever memory is free now. What others did meanwhile, also while the
    earlier parts of an interrupted run were measured, is added to `other_work`."""
    journal, other_work = journal or Journal(None), other_work or OtherWork()
    measured = {one: Measured(one) for one in configurations}
    died: dict[Configuration, str] = {}
    passed_s = time.time() - journal.keep("began", time.time)
    shares, began = protocol.shares(), time.perf_counter() - max(0.0, passed_s)
    lengths = journal.keep("groups", lambda: [len(group) for group in memory_groups(configurations, sizes)])
    left = iter(configurations)
    groups = [list(itertools.islice(left, length)) for length in lengths]
    total = len(configurations) * protocol.parts()
    with progress("measuring", total, unit="runs" if protocol.duration_s is None else "seconds") as shown:
        for place, configured in enumerate(groups):
            for one in configured:
                measured[one].group = place
            group = _Group(configured, protocol, shown.advance, died, began)
            for number, rounds in enumerate(shares):
                if (kept := journal.read(configured, number)) is not None:
                    done, lost, meanwhile = kept
                    died |= lost
                else:
                    with OtherWork.watched() as meanwhile:
                        done = group.measure(number, rounds)
                    lost = {one: died[one] for one in configured if one in died}
                    journal.write(configured, number, done, lost, meanwhile)
                other_work.add(meanwhile)
                for one, process in done.items():
                    measured[one].processes.append(process)
                shown.reach(shown.done, _note([one for one in measured.values() if one.processes]))
    return (
        [one for one in measured.values() if one.configuration not in died],
        [Skipped(one, died[one]) for one in configurations if one in died],
    )


def memory_groups(
    configurations: Sequence[Configuration], sizes: Mapping[Configuration, int], budget: int | None = None
) -> list[list[Configuration]]:
    """Consecutive groups whose estimated memory (twice the weights, and the process) fits into what is free; each configuration
    alone where that is not known."""
    free = int((available_memory_bytes() or 0) * 0.8) if budget is None else budget
    groups: list[list[Configuration]] = []
    used = 0
    for configuration in configurations:
        need = 2 * sizes.get(configuration, 0) + PROCESS_BYTES
        if not groups or used + need > free:
            groups.append([])
            used = 0
        groups[-1].append(configuration)
        used += need
    return groups


def draw_untimed(configuration: Configuration, protocol: Protocol, numbers: Sequence[int]) -> dict[int, Pictures]:
    """The pictures of these numbers, by a process of its own. Errors: WorkerError."""
    worker = Worker(configuration, protocol)
    try:
        prompts, seeds = zip(*map(protocol.picture, numbers), strict=True)
        _, pictures = _finish(worker, len(numbers), do="draw", prompts=prompts, seeds=seeds, pictures=len(numbers))
    finally:
        worker.close()
    assert pictures is not None
    return dict(zip(numbers, pictures, strict=True))


def _note(measured: Sequence[Measured]) -> str:
    """The fastest so far."""
    best = min(measured, key=lambda one: float(np.median(one.total_ms())), default=None)
    return "" if best is None else f"{best.configuration}: {float(np.median(best.total_ms())):.1f} ms"


@dataclass
class _Group:
    """Configurations that are measured side by side; `died` are those that are not any more, and why."""

    configurations: Sequence[Configuration]
    protocol: Protocol
    advance: Advance
    died: dict[Configuration, str]
    began: float
    meter: EnergyMeter = field(default_factory=EnergyMeter)

    def measure(self, number: int, rounds: int) -> dict[Configuration, ProcessRun]:
        """Process `number` of each."""
        asked: list[Asked] = []
        try:
            for configuration in self.configurations:
                if configuration not in self.died:
                    with self._noted(configuration):
                        worker = Worker(configuration, self.protocol)
                        asked.append((configuration, worker, ProcessRun(worker.facts, worker.cold_start_s)))
                self._count(1)
            self._take_turns(asked, number, rounds)
            for configuration, worker, process in asked:
                if configuration not in self.died:
                    with self._noted(configuration):
                        kept = min(len(process.runs), self.protocol.kept_rounds())
                        memory, process.pictures = _finish(worker, kept * configuration.batch, do="finish")
                        process.memory_bytes = {**process.facts.get("memory_bytes", {}), **memory}
        finally:
            for _, worker, _ in asked:
                worker.close()
        return {one: process for one, _, process in asked if one not in self.died}

    @contextmanager
    def _noted(self, configuration: Configuration) -> Iterator[None]:
        """A process that dies (out of memory, say) loses only its own figures."""
        try:
            yield
        except WorkerError as error:
            self.died[configuration] = str(error)

    def _take_turns(self, asked: Sequence[Asked], number: int, rounds: int) -> None:
        """Warm-up and timed rounds: every process draws one picture per round, in turn. None may be left."""
        if not asked:
            return
        orders = self.protocol.turns(len(asked), number)
        took_ms = {one: first_ms(one, process) for one, _, process in asked}
        self._warm_up(asked, orders, took_ms)
        for turn in range(rounds):
            if all(self._has_enough(one) for one in asked):
                self._count((rounds - turn) * len(asked))
                break
            for index in next(orders):
                configuration, _, process = asked[index]
                if not self._has_enough(asked[index]):
                    with self._noted(configuration):
                        took_ms[configuration] = self._draw(asked[index], turn, took_ms[configuration])
                        self._count(seconds=process.runs[-1].total_ms / 1000)
                self._count(1)

    def _warm_up(
        self, asked: Sequence[Asked], orders: Iterator[list[int]], took_ms: dict[Configuration, float]
    ) -> None:
        """Rounds that do not count: so many, or until each process has drawn for so long; one that is slow is warm already."""
        spent_s, limit_s = dict.fromkeys(took_ms, 0.0), self.protocol.warmup_s
        for turn in itertools.count():
            enough = turn >= self.protocol.warmup if limit_s is None else min(spent_s.values()) >= limit_s
            if enough:
                return
            for index in next(orders):
                configuration = asked[index][0]
                begun = time.perf_counter()
                if configuration in self.died or took_ms[configuration] > SLOW_MS:
                    spent_s[configuration] = math.inf
                elif limit_s is None or spent_s[configuration] < limit_s:
                    with self._noted(configuration):
                        took_ms[configuration] = self._draw(asked[index], None, took_ms[configuration])
                    spent_s[configuration] += time.perf_counter() - begun
                self._count(1)

    def _has_enough(self, asked: Asked) -> bool:
        """Whether a process has drawn for its time, or does not draw any more."""
        configuration, _, process = asked
        least = len(process.runs) >= self.protocol.least_runs()
        return configuration in self.died or (least and process.spent_s > self.protocol.limit_s())

    def _count(self, runs: float = 0.0, seconds: float = 0.0) -> None:
        """Progress is in runs, or, where a duration is asked for, in seconds."""
        parts = runs if self.protocol.duration_s is None else seconds
        if parts:
            self.advance(parts)

    def _draw(self, asked: Asked, turn: int | None, last_ms: float) -> float:
        """One picture or batch, of a round, or (None) only to warm up => its milliseconds."""
        configuration, worker, process = asked
        request: dict[str, Any] = {"do": "time", **self.protocol.call(configuration.numbers(turn or 0))}
        if last_ms < QUICK_MS:
            worker.ask(**request, keep=False)
        at_s, energy = time.perf_counter() - self.began, self.meter.read()
        answer = worker.ask(**request, keep=turn is not None and turn < self.protocol.kept_rounds())
        if turn is not None:
            process.runs.append(Run.of_answer(answer, turn, at_s, self.meter.joules_since(energy)))
        return float(answer["total_ms"])


def first_ms(configuration: Configuration, process: ProcessRun) -> float:
    """How long the first picture took; one that has compiled says nothing of the next, which is drawn to warm up."""
    peer, first = PEERS.get(configuration.program), float(process.facts.get("first_run_ms", 0.0))
    return min(first, SLOW_MS) if peer is not None and peer.compiles else first


def _finish(worker: Worker, count: int, **request: Any) -> tuple[dict[str, int | None], Pictures | None]:
    """Memory, and the pictures that were kept, `count` if any. Errors: WorkerError for a file of anything else."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pictures.npy"
        answer = worker.ask(**request, out=str(out))
        pictures: Pictures | None = None
        try:
            pictures = np.load(out, allow_pickle=False)
        except FileNotFoundError:  # none were kept
            pictures = None
        except (OSError, ValueError, EOFError) as error:
            raise WorkerError("its pictures cannot be read") from error
    if pictures is not None and (pictures.dtype != np.uint8 or pictures.shape[:1] != (count,) or pictures.ndim != 4):
        raise WorkerError(f"its pictures are {pictures.dtype} of shape {pictures.shape}, and it drew {count}")
    return answer["memory_bytes"], pictures

"""Latency, start and memory of several configurations, measured side by side.

Every configuration (model × runtime × precision × steps) runs in a fresh process, so that one engine's threads, caches
and memory never touch another's figures. The processes stay up and are asked in turn, one picture each per round:
whatever else the machine does affects all of them alike. The number of threads is fixed for every engine.

- cold start: from starting the process to its first picture, on a warm disk (the last of `cold_starts` starts);
- latency: wall time of one whole `generate` call, after warm-up; percentiles over the rounds. It is measured with pictures
  back to back: a fast process, whose cores are asleep and caches cold after the others' turns, first draws one that is not counted;
- stages: text encoder, UNet (all steps), decoder, or a single graph for all of it, and everything else, so that they add up;
- peak memory: of the process, after all its pictures.

Not here: which configurations to measure, and quality (`bench`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from genin.benchmarks.prompts import DEFAULT_PROMPTS
from genin.benchmarks.speed.machine import usable_memory_bytes
from genin.runtimes.errors import GeninError, InputError
from genin.runtimes.limits import usable_cores
from genin.runtimes.progress import progress
from genin.runtimes.vocabulary import COMPONENTS, TEXT_TO_IMAGE

Advance = Callable[[], None]

GRAPHS: Final = (*COMPONENTS, TEXT_TO_IMAGE)
STAGES: Final = (*GRAPHS, "other")
PERCENTILES: Final = (50, 90, 99)
MIN_RUNS: Final = 3
PROCESS_BYTES: Final = 400_000_000  # for interpreter, engine and activations, in deciding what fits side by side
GRID_SEED: Final = 1000
QUICK_MS: Final = 100.0  # pictures faster than this are drawn twice per turn
EXIT_TIMEOUT_S: Final = 20.0
KILLED: Final = -9  # subprocess's return code after SIGKILL
ANSWER_TIMEOUT_S = 1800.0  # for one picture, or for loading the model (Core ML compiles for minutes)
WORKER_MODULE = "genin.benchmarks.speed.bench_worker"


@dataclass(frozen=True)
class Configuration:
    """One thing to measure; `label` is how the user named the model."""

    label: str
    path: Path
    runtime: str
    precision: str
    steps: int
    role: str | None = None
    device: str = "cpu"

    def __str__(self) -> str:
        return f"{self.label} · {self.runtime} {self.precision} · {self.steps} steps"


@dataclass(frozen=True)
class Protocol:
    """How to measure. `max_s` ends a slow configuration's rounds early, but not before three."""

    runs: int = 20
    warmup: int = 2
    cold_starts: int = 2
    threads: int = field(default_factory=usable_cores)
    prompts: Sequence[str] = DEFAULT_PROMPTS
    pictures: int = 6
    seed: int = 0
    max_s: float = 120.0

    def __post_init__(self) -> None:
        if self.runs < 1 or self.threads < 1 or self.cold_starts < 1 or not self.prompts:
            raise InputError("a benchmark needs at least one run, one thread, one start and one prompt")

    def grid(self) -> tuple[list[str], list[int]]:
        """Prompts and seeds of the pictures that every configuration draws alike."""
        prompts = [self.prompts[index % len(self.prompts)] for index in range(self.pictures)]
        return prompts, [self.seed + GRID_SEED + index for index in range(self.pictures)]


@dataclass
class Measured:
    """Results of one configuration's process: milliseconds per run, and its pictures of the grid, N×H×W×3."""

    configuration: Configuration
    facts: Mapping[str, Any]
    cold_start_s: float
    total_ms: list[float] = field(default_factory=list)
    stages_ms: dict[str, list[float]] = field(default_factory=lambda: {stage: [] for stage in STAGES})
    peak_rss_bytes: int = 0
    pictures: NDArray[np.uint8] | None = None

    def add(self, answer: Mapping[str, Any]) -> None:
        """Add one timed run; time outside the graphs is `other`."""
        total, stages = float(answer["total_ms"]), answer["stages_ms"]
        graphs = {stage: float(stages.get(stage, 0.0)) for stage in GRAPHS}
        self.total_ms.append(total)
        for stage, value in (graphs | {"other": total - sum(graphs.values())}).items():
            self.stages_ms[stage].append(value)


@dataclass(frozen=True)
class Skipped:
    """A configuration that does not run here, and why."""

    configuration: Configuration
    reason: str


class WorkerError(GeninError):
    """A configuration's process refused or died."""


class Worker:
    """One configuration's process."""

    def __init__(self, configuration: Configuration, protocol: Protocol) -> None:
        request = {
            "path": str(configuration.path),
            "runtime": configuration.runtime,
            "precision": configuration.precision,
            "steps": configuration.steps,
            "threads": protocol.threads,
            "device": configuration.device,
            "prompt": protocol.prompts[0],
            "seed": protocol.seed,
        }
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (closed in close)
        command = [sys.executable, "-m", WORKER_MODULE, json.dumps(request)]
        started = time.perf_counter()
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                text=True,
                encoding="utf-8",
                env=worker_environment(protocol.threads),
            )
        except OSError as error:
            self.errors.close()
            raise WorkerError(f"its process cannot be started ({error.strerror})") from error
        try:
            self.facts = self._read(ANSWER_TIMEOUT_S)
        except WorkerError:
            self.close()
            raise
        self.cold_start_s = time.perf_counter() - started

    def ask(self, *, pictures: int = 1, **request: Any) -> dict[str, Any]:
        """Send a request and read the answer; the time limit grows with the number of `pictures` asked for.

        Errors: WorkerError with the process's own reason, also if the process has ended or does not answer.
        """
        assert self.process.stdin is not None
        with suppress(OSError):  # the process has ended; reading finds out why
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        return self._read(pictures * ANSWER_TIMEOUT_S)

    def _read(self, limit_s: float) -> dict[str, Any]:
        assert self.process.stdout is not None
        timed_out = threading.Event()

        def time_out() -> None:
            timed_out.set()
            self.process.kill()

        timer = threading.Timer(limit_s, time_out)
        timer.start()
        try:
            line = self.process.stdout.readline()
        finally:
            timer.cancel()
        if line.endswith("\n"):
            answer: dict[str, Any] = json.loads(line)
        else:  # the process ended, perhaps in the middle of an answer
            answer = {
                "error": f"its process gave no answer within {limit_s:g} s" if timed_out.is_set() else self._end()
            }
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _end(self) -> str:
        """How the process ended, with the last line that it wrote to stderr."""
        self._wait()
        code = self.process.returncode
        if code == KILLED:
            return "its process was killed (SIGKILL), perhaps for lack of memory"
        self.errors.seek(0)
        lines = [line.strip() for line in self.errors.read().splitlines() if line.strip()]
        return f"its process ended with code {code}" + (f" ({lines[-1][:200]})" if lines else "")

    def close(self) -> None:
        """End the process by closing its input."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(OSError):  # a request to a killed process cannot be flushed
                    stream.close()
        self._wait()
        self.errors.close()

    def _wait(self) -> None:
        try:
            self.process.wait(timeout=EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def worker_environment(threads: int) -> dict[str, str]:
    """The process's environment: thread pools of every library at `threads`, and no log output."""
    pools = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    return {**os.environ, **pools, "DIFFUSERS_VERBOSITY": "error", "TRANSFORMERS_VERBOSITY": "error"}


def measure(
    configurations: Sequence[Configuration], protocol: Protocol, sizes: Mapping[Configuration, int]
) -> tuple[list[Measured], list[Skipped]]:
    """Measure all, in groups of processes that fit into memory side by side; order is kept."""
    measured: list[Measured] = []
    skipped: list[Skipped] = []
    total = len(configurations) * (protocol.cold_starts + protocol.warmup + protocol.runs)
    with progress("measuring", total, unit="runs") as shown:
        for group in memory_groups(configurations, sizes):
            done, not_run = _measure_group(group, protocol, shown.advance)
            measured += done
            skipped += not_run
    return measured, skipped


def memory_groups(
    configurations: Sequence[Configuration], sizes: Mapping[Configuration, int], budget: int | None = None
) -> list[list[Configuration]]:
    """Consecutive groups whose estimated memory (twice the weights, and the process) fits into what is free."""
    import psutil

    available = min(psutil.virtual_memory().available, usable_memory_bytes())
    free = int(available * 0.8) if budget is None else budget
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


def _measure_group(
    group: Sequence[Configuration], protocol: Protocol, advance: Advance
) -> tuple[list[Measured], list[Skipped]]:
    workers: list[tuple[Worker, Measured]] = []
    skipped: list[Skipped] = []
    try:
        for configuration in group:
            try:
                worker = _start(configuration, protocol, advance)
            except WorkerError as error:
                skipped.append(Skipped(configuration, str(error)))
            else:
                workers.append((worker, Measured(configuration, worker.facts, worker.cold_start_s)))
        died: dict[Configuration, str] = {}
        _rounds(workers, protocol, advance, died)
        for worker, measured in workers:
            if measured.configuration not in died:
                with _noted(died, measured.configuration):
                    measured.pictures = _draw(worker, protocol)
                    measured.peak_rss_bytes = int(worker.ask(do="memory")["peak_rss_bytes"])
    finally:
        for worker, _ in workers:
            worker.close()
    skipped += [Skipped(configuration, reason) for configuration, reason in died.items()]
    return [measured for _, measured in workers if measured.configuration not in died], skipped


@contextmanager
def _noted(died: dict[Configuration, str], configuration: Configuration) -> Iterator[None]:
    """A process that dies (out of memory, say) loses only its own figures."""
    try:
        yield
    except WorkerError as error:
        died[configuration] = str(error)


def _start(configuration: Configuration, protocol: Protocol, advance: Advance) -> Worker:
    """Start it `cold_starts` times, keep the last: the earlier ones have warmed the disk's cache."""
    for _ in range(protocol.cold_starts - 1):
        Worker(configuration, protocol).close()
        advance()
    worker = Worker(configuration, protocol)
    advance()
    return worker


def _rounds(
    workers: Sequence[tuple[Worker, Measured]], protocol: Protocol, advance: Advance, died: dict[Configuration, str]
) -> None:
    """Warm-up and timed rounds: every process draws one picture per round, in turn."""
    prompts = protocol.prompts
    took_ms: dict[Configuration, float] = {}
    for turn in range(protocol.warmup + protocol.runs):
        for worker, measured in workers:
            spent_s = sum(measured.total_ms) / 1000
            wanted = len(measured.total_ms) < MIN_RUNS or spent_s < protocol.max_s
            if wanted and measured.configuration not in died:
                with _noted(died, measured.configuration):
                    request: dict[str, Any] = {
                        "do": "time",
                        "prompt": prompts[turn % len(prompts)],
                        "seed": protocol.seed + turn,
                    }
                    if took_ms.get(measured.configuration, QUICK_MS) < QUICK_MS:
                        worker.ask(**request)
                    answer = worker.ask(**request)
                    took_ms[measured.configuration] = float(answer["total_ms"])
                    if turn >= protocol.warmup:
                        measured.add(answer)
            advance()


def _draw(worker: Worker, protocol: Protocol) -> NDArray[np.uint8] | None:
    if not protocol.pictures:
        return None
    prompts, seeds = protocol.grid()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pictures.npy"
        worker.ask(do="draw", prompts=prompts, seeds=seeds, out=str(out), pictures=len(prompts))
        pictures: NDArray[np.uint8] = np.load(out, allow_pickle=False)
    return pictures


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p90 and p99, linear between ranks."""
    found = np.percentile(np.asarray(values, np.float64), PERCENTILES)
    return {f"p{rank}": round(float(value), 4) for rank, value in zip(PERCENTILES, found, strict=True)}

"""What drawing costs the frames of a game: the same loop with and without drawing beside it, in turns.

    python -m genin.benchmarks.speed.frames '{"path": "student.genin", "runtime": "onnxruntime", "precision": "fp16", "steps": 4}'

A frame is 8 ms of work of the main thread (a fixed amount, calibrated once), the calls of a painter, and sleep until a sixtieth of
a second is over. Measured are whole frames, start to start, with drawing off and on in turns: games are judged by their slow
frames, not by a timer around the engine. `engine_defaults` is what a thread without a painter does: all cores, spinning, normal
priority.

Not here: the painter (`genin.runtimes.painting`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Self

import numpy as np

from genin.benchmarks.prompts import DEFAULT_PROMPTS
from genin.benchmarks.speed.configurations import Configuration
from genin.benchmarks.speed.worker import WorkerError
from genin.runtimes.errors import GeninError
from genin.runtimes.loading import load_pipeline
from genin.runtimes.painting.painter import Painter

FRAME_S, WORK_S, LATE_S = 1 / 60, 0.008, 0.020
ROUNDS, SECONDS, SETTLED_S = 4, 5.0, 0.3  # of drawing in each round, after what does not count
LOADING_S, LIMIT_S = 120.0, 1800.0
PROMPT: Final = DEFAULT_PROMPTS[0]
MODULE: Final = "genin.benchmarks.speed.frames"
BUNDLES_ONLY: Final = "frames are measured beside bundles"


def frame_costs(configuration: Configuration) -> dict[str, Any]:
    """The frames of a game beside a configuration's model, by a process of its own. Errors: WorkerError."""
    request: dict[str, Any] = {"path": str(configuration.path), "runtime": configuration.runtime}
    request |= {"precision": configuration.precision, "steps": configuration.steps}
    command = [sys.executable, "-m", MODULE, json.dumps(request)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT_S)
        found: dict[str, Any] = json.loads(done.stdout)
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or [f"code {error.returncode}"])[-1]
        raise WorkerError(f"its frames were not measured ({last[:200]})") from error
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise WorkerError(f"its frames were not measured ({type(error).__name__})") from error
    return found


def measure_frames(
    beside: Mapping[str, Beside], game: Game, rounds: int = ROUNDS, seconds: float = SECONDS
) -> dict[str, Any]:
    """Frames of the game alone (`off`) and beside each of these, in turns => their summaries by name."""
    times: dict[str, list[float]] = {"off": [], **{name: [] for name in beside}}
    for _ in range(rounds):
        for name, companion in beside.items():
            times["off"] += game.frames(seconds / len(beside), lambda: None)
            with companion:
                game.frames(SETTLED_S, companion.frame)
                times[name] += game.frames(seconds, companion.frame)
    figures = {name: companion.figures() for name, companion in beside.items()}
    return {name: summary(values) | figures.get(name, {}) for name, values in times.items()}


def summary(times_ms: list[float]) -> dict[str, float]:
    """Of the times from frame to frame; late ones took more than 20 ms."""
    p50, p99 = np.percentile(times_ms, [50, 99])
    late = 100 * float(np.mean(np.array(times_ms) > 1e3 * LATE_S))
    return {
        "frames": len(times_ms),
        "p50_ms": round(float(p50), 2),
        "p99_ms": round(float(p99), 2),
        "worst_ms": round(max(times_ms), 1),
        "late_percent": round(late, 2),
    }


# --- the game --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Game:
    """A loop of 60 frames a second; `work` is the game's own part of each. It ends when nobody is there to read its figures."""

    work: Callable[[], object]
    clock: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep
    parent: int = field(default_factory=os.getppid)

    @classmethod
    def calibrated(cls) -> Game:
        """One whose work takes 8 ms on a core that is idle now."""
        best = min(_seconds(100_000) for _ in range(20))
        return cls(partial(_compute, round(100_000 * WORK_S / best)))

    def frames(self, seconds: float, frame: Callable[[], None]) -> list[float]:
        """Milliseconds from the start of each frame to that of the next."""
        starts, end = [], self.clock() + seconds
        while (begun := self.clock()) < end:
            if os.getppid() != self.parent:  # killed; on Windows it keeps its number
                raise GeninError("the benchmark has ended")
            starts.append(begun)
            self.work()
            frame()
            self.sleep(max(0.0, FRAME_S - (self.clock() - begun)))
        return [1e3 * value for value in np.diff(starts)]


def _compute(rounds: int) -> int:
    """Some of a game's own computing, in Python, so that it competes for the interpreter as a game's does."""
    total = 0
    for number in range(rounds):
        total += number ^ (total & 7)
    return total


def _seconds(rounds: int) -> float:
    begun = time.perf_counter()
    _compute(rounds)
    return time.perf_counter() - begun


# --- what draws beside it --------------------------------------------------------------------------------------------


class Beside(AbstractContextManager["Beside"]):
    """Something that draws while its body runs, again in every round."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing."""

    def frame(self) -> None:
        """Its part of a frame."""

    def figures(self) -> dict[str, float]:
        """What is to be said of it, over all rounds."""
        return {}


class PainterBeside(Beside):
    """Keeps a painter busy, a frame at a time, and times the calls. `make` opens one."""

    def __init__(self, make: Callable[[], Any], **options: Any) -> None:
        self._make, self._options = make, options
        self._calls_us: dict[str, list[float]] = {"submit": [], "poll": [], "take": []}
        self._pictures, self._seed, self._drawing_s = 0, 0, 0.0

    def __enter__(self) -> Self:
        self._painter = self._make()
        if (loaded := self._painter.wait(self._painter.loading, LOADING_S)) != "ok":
            errors = [str(error) for event in self._painter.poll() if (error := getattr(event, "error", None))]
            self._painter.close()
            raise GeninError(f"the painter has not loaded the model ({next(iter(errors), loaded)})")
        self._begun = time.perf_counter()
        self._submit()
        return self

    def __exit__(self, *_: object) -> None:
        self._drawing_s += time.perf_counter() - self._begun
        self._painter.close()

    def frame(self) -> None:
        for event in self._timed("poll", self._painter.poll):
            if event.kind == "failed":  # it would be idle from now on
                raise GeninError(f"the painter has not drawn a picture ({event.error or event.result})")
            if event.kind == "done":
                self._pictures += self._timed("take", partial(self._painter.take, event.ticket)) is not None
                self._submit()

    def figures(self) -> dict[str, float]:
        slowest = {f"{name}_p999_us": each for name, each in self._calls_us.items() if each}
        found = {name: round(float(np.percentile(each, 99.9)), 1) for name, each in slowest.items()}
        return found | {"pictures_per_s": round(self._pictures / self._drawing_s, 1)}

    def _submit(self) -> None:
        self._seed += 1
        self._timed("submit", lambda: self._painter.submit(PROMPT, self._seed, **self._options))

    def _timed(self, name: str, call: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        result = call()
        self._calls_us[name].append(1e6 * (time.perf_counter() - begun))
        return result


class EngineDefaults(Beside):
    """A thread that draws without a painter. `load` opens a pipeline."""

    def __init__(self, load: Callable[[], Any], **options: Any) -> None:
        self._load, self._options = load, options

    def __enter__(self) -> Self:
        self._ended, self._pipeline = threading.Event(), self._load()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._draw)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._pipeline.close()

    def frame(self) -> None:
        if self._error is not None:
            raise GeninError(f"the engine has not drawn a picture ({self._error})") from self._error

    def _draw(self) -> None:
        seed = 0
        try:
            while not self._ended.is_set():
                self._pipeline.generate(PROMPT, seed, **self._options)
                seed += 1
        except Exception as error:  # of any kind: the frames that follow are not beside drawing
            self._error = error


def beside_bundle(path: str, runtime: str, precision: str, steps: int) -> dict[str, Beside]:
    """A bundle drawn in a thread, in a process, and without a painter."""
    load: dict[str, Any] = {"runtime": runtime, "precision": precision}
    return {
        "thread": PainterBeside(lambda: Painter(path, **load), steps=steps),
        "process": PainterBeside(lambda: Painter(path, process=True, **load), steps=steps),
        "engine_defaults": EngineDefaults(lambda: load_pipeline(path, **load), steps=steps),
    }


if __name__ == "__main__":
    try:
        sys.stdout.write(json.dumps(measure_frames(beside_bundle(**json.loads(sys.argv[1])), Game.calibrated())))
    except GeninError as error:
        sys.exit(str(error))

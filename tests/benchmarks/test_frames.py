"""The frame test: a game's loop by a fake clock, what draws beside it, and its table."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

from genin.benchmarks.results.files import seal
from genin.benchmarks.results.schema import errors_of
from genin.benchmarks.results.table import frames_text
from genin.benchmarks.speed import apart, frames
from genin.benchmarks.speed.apart import Apart, add_apart
from genin.benchmarks.speed.configurations import Configuration
from genin.benchmarks.speed.frames import (
    BUNDLES_ONLY,
    Beside,
    EngineDefaults,
    Game,
    PainterBeside,
    frame_costs,
    measure_frames,
)
from genin.benchmarks.speed.journal import Journal
from genin.benchmarks.speed.protocol import Protocol
from genin.benchmarks.speed.samples import Measured, ProcessRun
from genin.benchmarks.speed.worker import WorkerError
from genin.runtimes.errors import GeninError
from result_files import results, row


class Clock:
    """Time passes where somebody works or sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def pass_by(self, seconds: float) -> None:
        self.now += seconds

    def game(self) -> Game:
        return Game(lambda: self.pass_by(0.008), lambda: self.now, self.pass_by)


def test_a_game_whose_benchmark_was_killed_ends() -> None:
    clock = Clock()
    orphan = replace(clock.game(), parent=-1)
    with pytest.raises(GeninError, match="the benchmark has ended"):
        orphan.frames(100, lambda: None)
    assert clock.now == 0


class Disturbing(Beside):
    """Takes 15 ms in every tenth frame."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.count, self.opened = clock, 0, 0

    def __enter__(self) -> Self:
        self.opened += 1
        return self

    def frame(self) -> None:
        self.count += 1
        self.clock.pass_by(0.015 if self.count % 10 == 0 else 0.0)

    def figures(self) -> dict[str, float]:
        return {"pictures_per_s": 7.0}


def test_frames_that_wait_for_drawing_are_late() -> None:
    clock = Clock()
    beside = Disturbing(clock)
    found = measure_frames({"thread": beside}, clock.game(), rounds=2, seconds=3.0)
    assert found["off"].pop("frames") == pytest.approx(2 * 3 * 60, abs=4)  # the last of each turn has no end
    assert found["off"] == {"p50_ms": 16.67, "p99_ms": 16.67, "worst_ms": 16.7, "late_percent": 0.0}
    drawing = found["thread"]
    assert (drawing["p50_ms"], drawing["worst_ms"], drawing["pictures_per_s"]) == (16.67, 23.0, 7.0)
    assert drawing["late_percent"] == pytest.approx(10, abs=1) and beside.opened == 2


class Painter:
    """Every second frame one picture is done."""

    def __init__(self, loaded: str = "ok") -> None:
        self.loaded, self.asked, self.closed, self.events = loaded, [], False, self._events()
        self.loading = object()

    def wait(self, *_: Any) -> str:
        return self.loaded

    def submit(self, _: str, seed: int, **options: Any) -> None:
        self.asked.append((seed, options))

    def _events(self) -> Iterator[list[Any]]:
        while True:
            yield []
            yield [SimpleNamespace(kind="step"), SimpleNamespace(kind="done", ticket=1)]

    def poll(self) -> list[Any]:
        return next(self.events)

    def take(self, _: object) -> object:
        return object()

    def close(self) -> None:
        self.closed = True


def test_a_painter_is_kept_busy_and_its_calls_are_timed() -> None:
    painter = Painter()
    beside = PainterBeside(lambda: painter, steps=4)
    with beside:
        for _ in range(6):
            beside.frame()
    assert painter.asked == [(seed, {"steps": 4}) for seed in (1, 2, 3, 4)] and painter.closed
    found = beside.figures()
    assert found["pictures_per_s"] > 0 and found["poll_p999_us"] >= 0 and found["take_p999_us"] >= 0
    broken = Painter("failed")
    with pytest.raises(GeninError, match="has not loaded the model"), PainterBeside(lambda: broken):
        pass
    assert broken.closed


def test_frames_beside_a_picture_that_failed_are_none_beside_drawing() -> None:
    painter = Painter()
    painter.events = iter(
        [[], [SimpleNamespace(kind="failed", ticket=1, result="memory", error=MemoryError("no more"))]]
    )
    beside = PainterBeside(lambda: painter)
    with pytest.raises(GeninError, match=r"has not drawn a picture \(no more\)"), beside:
        beside.frame()
        beside.frame()
    assert painter.closed and len(painter.asked) == 1

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    closed: list[bool] = []
    engine = EngineDefaults(lambda: SimpleNamespace(generate=fail, close=lambda: closed.append(True)))
    with pytest.raises(GeninError, match=r"the engine has not drawn a picture \(out of memory\)"), engine:
        engine._thread.join(10)
        engine.frame()
    assert closed


def test_each_model_is_measured_once_and_a_failure_costs_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Configuration] = []

    def costs(configuration: Configuration) -> dict[str, Any]:
        asked.append(configuration)
        if configuration.runtime == "openvino":
            raise WorkerError("its frames were not measured (killed)")
        return {"off": {}}

    monkeypatch.setattr(apart, "frame_costs", costs)
    kinds: list[dict[str, Any]] = [{"threads": 1}, {"threads": 2}, {"threads": 1, "batch": 4}]
    runtimes = ["onnxruntime"] * 3 + ["openvino", "pytorch"]
    facts = [{"runtime": runtime, "precision": "fp16"} for runtime in runtimes]
    asking = zip(facts, [*kinds, {}, {}], strict=True)
    measured = [
        Measured(Configuration("m", Path("m"), "auto", "auto", 1, **kind), [ProcessRun(fact, 1.0)])
        for fact, kind in asking
    ]
    rows: list[dict[str, Any]] = [row(name, 10.0) for name in "abcde"]
    add_apart(rows, measured, Protocol(), Apart(frames=True))
    assert [one.get("frames", "absent") for one in rows] == [{"off": {}}, "absent", "absent", None, None]
    assert rows[3]["notes"]["frames"] == "its frames were not measured (killed)"
    assert rows[4]["notes"]["frames"] == BUNDLES_ONLY and len(asked) == 2


def test_what_was_measured_apart_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted in the second model's minutes: those of the first are kept, of the same length only."""
    drawn: list[tuple[str, float]] = []

    def draw(configuration: Configuration, _: Protocol, minutes: float, __: Any) -> dict[str, Any]:
        if configuration.label == "b" and not drawn[1:]:
            drawn.append(("interrupted", minutes))
            raise KeyboardInterrupt
        drawn.append((configuration.label, minutes))
        return {"throttled": False, "seconds": 60 * minutes}

    monkeypatch.setattr(apart, "sustain", draw)
    fact = {"runtime": "openvino", "precision": "fp16"}
    measured = [
        Measured(Configuration(name, Path(name), "openvino", "fp16", 1), [ProcessRun(fact, 1.0)]) for name in "ab"
    ]
    rows: list[dict[str, Any]] = [row(name, 10.0) for name in "ab"]
    with pytest.raises(KeyboardInterrupt):
        add_apart(rows, measured, Protocol(), Apart(sustained_minutes=2.0), Journal(tmp_path, {}))
    for minutes in (2.0, 3.0):
        add_apart(rows, measured, Protocol(), Apart(sustained_minutes=minutes), Journal(tmp_path, {}))
    assert drawn == [("a", 2.0), ("interrupted", 2.0), ("b", 2.0), ("a", 3.0), ("b", 3.0)]
    assert [one["sustained"]["seconds"] for one in rows] == [180, 180]


def test_a_process_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(
            1, "python", stderr="a warning\nthe painter has not loaded the model (failed)\n"
        )

    monkeypatch.setattr(frames.subprocess, "run", fail)
    with pytest.raises(WorkerError, match=r"not measured \(the painter has not loaded the model \(failed\)\)"):
        frame_costs(Configuration("m", Path("m"), "onnxruntime", "fp16", 1))


def test_the_table_shows_what_drawing_costs() -> None:
    clock = Clock()
    found = measure_frames({"thread": Disturbing(clock)}, clock.game(), rounds=1, seconds=2.0)
    measured = results(row("m", 10.0) | {"frames": found}, row("n", 10.0))
    assert not list(errors_of(seal(measured)))
    text = frames_text(measured)
    assert text.startswith("**m · onnxruntime fp16 · 4 steps: frames of a game at 60 a second**")
    assert "| off               |   16.7 |   16.7 |     16.7 |           0.00 % |          – |" in text
    assert "`Painter`, thread" in text and "| 7.00 |" in text.replace("       ", " ") and "n ·" not in text

"""What drawing costs the frames of a game: the same loop with and without a painter that draws without a pause, in turns.

    python tools/frame_times.py --rounds 4 --seconds 5 --out docs/runs/frame-times.json
    python tools/frame_times.py --library build/libgenin.so     # and the native library

A frame is 8 ms of work of the main thread (a fixed amount, calibrated once), the calls of a painter, and sleep until a sixtieth of
a second is over. Measured are whole frames, start to start, with drawing off and on in turns: games are judged by their slow
frames, not by a timer around the engine. `engine defaults` is what a thread without a painter does: all cores, spinning, normal
priority. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np

import genin

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests" / "helpers"))

FRAME_S, WORK_S = 1 / 60, 0.008
LATE_S = 0.020
PROMPT = "a ninja in the rain"

Frame = Callable[[], None]


def work(rounds: int) -> int:
    """Some of a game's own computing."""
    total = 0
    for number in range(rounds):
        total += number ^ (total & 7)
    return total


def calibrate() -> int:
    """How many rounds of `work` take 8 ms on an idle core."""
    best = min(_seconds(100_000) for _ in range(20))
    return round(100_000 * WORK_S / best)


def _seconds(rounds: int) -> float:
    begun = time.perf_counter()
    work(rounds)
    return time.perf_counter() - begun


def frames(seconds: float, rounds: int, frame: Frame) -> list[float]:
    """Milliseconds from the start of each frame to that of the next."""
    starts, end = [], time.perf_counter() + seconds
    while (begun := time.perf_counter()) < end:
        starts.append(begun)
        work(rounds)
        frame()
        time.sleep(max(0.0, FRAME_S - (time.perf_counter() - begun)))
    return [1e3 * value for value in np.diff(starts)]


class Drawing:
    """Keeps a painter busy, a frame at a time, and times the calls."""

    def __init__(self, painter: Any) -> None:
        self.painter, self.pictures, self.seed = painter, 0, 0
        self.calls: dict[str, list[float]] = {"submit": [], "poll": [], "take": []}
        assert painter.wait(painter.loading, 60) == "ok"
        self.submit()

    def submit(self) -> None:
        self.seed += 1
        self._timed("submit", lambda: self.painter.submit(PROMPT, self.seed))

    def frame(self) -> None:
        for event in self._timed("poll", self.painter.poll):
            if event.kind == "done":
                self.pictures += self._timed("take", lambda ticket=event.ticket: self.painter.take(ticket)) is not None
                self.submit()

    def _timed(self, name: str, call: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        result = call()
        self.calls[name].append(1e6 * (time.perf_counter() - begun))
        return result


@contextmanager
def nothing(_bundle: str) -> Iterator[Frame]:
    yield lambda: None


@contextmanager
def engine_defaults(bundle: str) -> Iterator[Frame]:
    ended = threading.Event()
    with genin.load(bundle, runtime="onnxruntime") as pipe:

        def draw() -> None:
            seed = 0
            while not ended.is_set():
                pipe(PROMPT, seed=seed)
                seed += 1

        thread = threading.Thread(target=draw)
        thread.start()
        try:
            yield lambda: None
        finally:
            ended.set()
            thread.join()


def painter_of(make: Callable[[str], Any], calls: dict[str, list[float]]) -> Callable[[str], Any]:
    @contextmanager
    def opened(bundle: str) -> Iterator[Frame]:
        with contextlib.closing(make(bundle)) as painter:
            drawing = Drawing(painter)
            yield drawing.frame
            for name, values in drawing.calls.items():
                calls.setdefault(name, []).extend(values)
            calls.setdefault("pictures", []).append(drawing.pictures)

    return opened


def native(library: Path) -> Callable[[str], Any]:
    from native_painter import NativePainter

    found = importlib.util.find_spec("onnxruntime")
    assert found is not None and found.origin is not None
    [engine] = (Path(found.origin).parent / "capi").glob("libonnxruntime.so.*")
    return lambda bundle: NativePainter(library, engine, bundle)


def summary(times_ms: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(times_ms, [50, 99])
    late = 100 * float(np.mean(np.array(times_ms) > 1e3 * LATE_S))
    return {
        "frames": len(times_ms),
        "p50_ms": round(float(p50), 2),
        "p99_ms": round(float(p99), 2),
        "worst_ms": round(max(times_ms), 1),
        "late_percent": round(late, 2),
    }


@click.command()
@click.option("--bundle", default=str(ROOT / "runtimes" / "weights" / "student-1step"))
@click.option("--rounds", default=4)
@click.option("--seconds", default=5.0, help="Of each kind in each round.")
@click.option("--library", type=click.Path(path_type=Path), help="libgenin.so, to measure it, too.")
@click.option(
    "--switch-interval", type=float, help="Seconds after which Python's threads give way; Python's own are 0.005."
)
@click.option("--out", type=click.Path(path_type=Path))
def main(
    bundle: str, rounds: int, seconds: float, library: Path | None, switch_interval: float | None, out: Path | None
) -> None:
    """Measure the frames of a game."""
    if switch_interval is not None:
        sys.setswitchinterval(switch_interval)
    amount = calibrate()
    calls: dict[str, dict[str, list[float]]] = {"thread": {}, "process": {}, "native": {}}
    kinds: dict[str, Any] = {
        "thread": painter_of(lambda path: genin.Painter(path, runtime="onnxruntime"), calls["thread"]),
        "process": painter_of(lambda path: genin.Painter(path, process=True, runtime="onnxruntime"), calls["process"]),
        "engine defaults": engine_defaults,
    }
    if library is not None:
        kinds["native"] = painter_of(native(library), calls["native"])
    times: dict[str, list[float]] = {"off": [], **{kind: [] for kind in kinds}}
    for _ in range(rounds):
        for kind, opened in kinds.items():
            with nothing(bundle) as frame:
                times["off"] += frames(seconds / len(kinds), amount, frame)
            with opened(bundle) as frame:
                frames(0.3, amount, frame)
                times[kind] += frames(seconds, amount, frame)
    found: dict[str, Any] = {kind: summary(values) for kind, values in times.items()}
    for kind, values in calls.items():
        for name, each in values.items():
            if name == "pictures":
                found[kind]["pictures_per_s"] = round(sum(each) / (len(each) * (seconds + 0.3)), 1)
            else:
                found[kind][f"{name}_p999_us"] = round(float(np.percentile(each, 99.9)), 1)
    report = {"cores": os.cpu_count(), "rounds": rounds, "seconds": seconds, "work_ms": 1e3 * WORK_S, "kinds": found}
    if out is not None:
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for kind, values in found.items():
        click.echo(f"{kind:16}" + "  ".join(f"{name} {value}" for name, value in values.items()))


if __name__ == "__main__":
    main()

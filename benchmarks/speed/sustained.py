"""Drawing without a pause for minutes: does it stay as fast?

One process draws, picture after picture, and its calls are gathered into windows of equal length: latency, and the processor's
frequency and temperature at the end of each, where the system tells. Drift is the slope of a line through the windows' median
latencies, on the logarithm, with Student's interval: windows, not calls, since calls of one window resemble each other. Batteries
and fans take minutes, so ten are worth more than one.

Not here: the plot (`genin.benchmarks.report.plots`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from genin.benchmarks.results.statistics import CONFIDENCE, t_quantile
from genin.benchmarks.speed.configurations import Configuration
from genin.benchmarks.speed.machine import frequency_mhz, temperature_c
from genin.benchmarks.speed.memory import rss_bytes
from genin.benchmarks.speed.protocol import Protocol
from genin.benchmarks.speed.worker import Worker

WINDOWS: Final = 30
LEAST_S: Final = 60.0  # for drift: that of a few seconds comes in hundreds of percent a minute
THROTTLED: Final = 0.9  # of the highest frequency so far: below this, the processor was slowed down
NO_FREQUENCY: Final = "the system does not tell the processor's frequency while it runs"

Read = Callable[[], float | None]
Told = Callable[[float], None]
SENSORS: Final[Mapping[str, Read]] = {"frequency_mhz": frequency_mhz, "temperature_c": temperature_c}


def sustain(
    configuration: Configuration, protocol: Protocol, minutes: float, told: Told = lambda _: None
) -> dict[str, Any]:
    """Draw for so many minutes, by a process of its own, whose memory is read, too; `told` is called with the share that is done.
    Errors: WorkerError."""
    worker = Worker(configuration, protocol)
    try:

        def draw(index: int) -> float:
            answer = worker.ask(do="time", keep=False, **protocol.call(configuration.numbers(index)))
            return float(answer["total_ms"])

        sensors = {**SENSORS, "rss_bytes": lambda: rss_bytes(worker.process.pid)}
        return watch(draw, 60 * minutes, sensors=sensors, told=told)
    finally:
        worker.close()


def watch(
    draw: Callable[[int], float],
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    sensors: Mapping[str, Read] = SENSORS,
    told: Told = lambda _: None,
) -> dict[str, Any]:
    """Call `draw` with 0, 1, … until `seconds` have passed; it returns milliseconds. At least one call is made. `sensors` are read
    at the end of every window."""
    began, length = clock(), seconds / WINDOWS
    windows: list[dict[str, Any]] = []
    times: list[float] = []
    started = 0.0
    for index in count():
        times.append(draw(index))
        now = clock() - began
        ended = now >= seconds
        if ended or now >= started + length:
            windows.append(_window(started, now, times) | {name: read() for name, read in sensors.items()})
            times, started = [], now
            told(min(now / seconds, 1.0))
        if ended:
            return _summary(windows)
    raise AssertionError


def _window(started: float, ended: float, times: Sequence[float]) -> dict[str, Any]:
    return {
        "at_s": round(started, 3),
        "seconds": round(ended - started, 3),
        "runs": len(times),
        "p50_ms": round(float(np.median(times)), 4),
        "max_ms": round(max(times), 4),
    }


def _summary(windows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    at = np.array([window["at_s"] + window["seconds"] / 2 for window in windows])
    seconds = float(sum(window["seconds"] for window in windows))
    enough = seconds >= LEAST_S
    drift = drift_percent_per_minute(at, [window["p50_ms"] for window in windows]) if enough else None
    frequencies = [window["frequency_mhz"] for window in windows if window["frequency_mhz"] is not None]
    first, last = windows[0]["p50_ms"], windows[-1]["p50_ms"]
    return {
        "seconds": round(seconds, 3),
        "runs": sum(window["runs"] for window in windows),
        "windows": list(windows),
        "drift_percent_per_minute": drift and drift[0],
        "drift_interval": drift and list(drift[1:]),
        "last_to_first": round(last / first, 4),
        "throttled": is_throttled(frequencies) if frequencies else None,
    }


def is_throttled(frequencies: Sequence[float]) -> bool:
    """Whether the frequency fell: a processor that is slow at first has only not woken up."""
    fastest = max(frequencies)
    return min(frequencies[frequencies.index(fastest) :]) < THROTTLED * fastest


def drift_percent_per_minute(
    at_s: Sequence[float] | NDArray[Any], p50_ms: Sequence[float] | NDArray[Any]
) -> tuple[float, float, float] | None:
    """Slope of a least-squares line through the logarithms, and its interval, in percent a minute; None for fewer than three."""
    minutes, logs = np.asarray(at_s, np.float64) / 60, np.log(np.asarray(p50_ms, np.float64))
    if len(minutes) < 3:
        return None
    centred = minutes - minutes.mean()
    spread = float(centred @ centred)
    slope = float(centred @ logs) / spread
    residuals = logs - logs.mean() - slope * centred
    error = float(np.sqrt(residuals @ residuals / (len(logs) - 2) / spread))
    reach = t_quantile((1 + CONFIDENCE) / 2, len(logs) - 2) * error
    low, estimate, high = (round(100 * float(np.expm1(slope + step)), 4) for step in (-reach, 0.0, reach))
    return estimate, low, high

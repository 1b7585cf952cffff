"""Drawing without a pause, by a fake clock: windows, drift, throttling, and their plot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genin.benchmarks.benchmarking import BenchOptions
from genin.benchmarks.report.plots import sustained_legend, sustained_svg
from genin.benchmarks.results.files import seal
from genin.benchmarks.results.schema import errors_of
from genin.benchmarks.results.table import sustained_text
from genin.benchmarks.speed import machine
from genin.benchmarks.speed.machine import frequency_mhz
from genin.benchmarks.speed.sustained import WINDOWS, drift_percent_per_minute, watch
from genin.runtimes.errors import InputError
from result_files import results, row


def watched(
    minutes: float, call_ms: Callable[[float], float], megahertz: Callable[[float], float | None]
) -> dict[str, Any]:
    """A machine whose calls take `call_ms` at each minute; the clock stands still between them."""
    now = 1000.0

    def minute() -> float:
        return (now - 1000.0) / 60

    def draw(_: int) -> float:
        nonlocal now
        took = call_ms(minute())
        now += took / 1000
        return took

    sensors = {"frequency_mhz": lambda: megahertz(minute()), "rss_bytes": lambda: int(1e8 + 1e6 * minute())}
    shares: list[float] = []
    found = watch(draw, 60 * minutes, lambda: now, sensors, shares.append)
    assert len(shares) == len(found["windows"]) and shares == sorted(shares) and shares[-1] == 1.0
    return found


def test_drift_and_throttling_are_found() -> None:
    noise = np.random.default_rng(3)
    found = watched(10, lambda minute: 50 * 1.02**minute * noise.normal(1, 0.01), lambda m: 3000 if m < 5 else 2400)
    low, high = found["drift_interval"]
    assert low < 2.0 < high and high - low < 0.2 and found["throttled"] is True
    assert found["last_to_first"] == pytest.approx(1.02**9.7, rel=0.01)
    assert len(found["windows"]) == WINDOWS and sum(w["seconds"] for w in found["windows"]) == pytest.approx(
        600, abs=0.1
    )
    assert found["runs"] == sum(window["runs"] for window in found["windows"])


def test_no_drift_is_none_in_most_tries_and_an_unknown_frequency_says_nothing() -> None:
    noise = np.random.default_rng(4)
    tries = [watched(1, lambda _: 50 * noise.normal(1, 0.02), lambda _: None) for _ in range(40)]
    held = sum(one["drift_interval"][0] <= 0 <= one["drift_interval"][1] for one in tries)
    assert 34 <= held <= 40 and {one["throttled"] for one in tries} == {None}


def test_the_interval_of_drift_covers_the_truth() -> None:
    noise, minutes = np.random.default_rng(5), np.arange(30) / 3
    drifts = [
        drift_percent_per_minute(60 * minutes, 1.01**minutes * np.exp(noise.normal(0, 0.02, 30))) for _ in range(400)
    ]
    covered = sum(one is not None and one[1] <= 1.0 <= one[2] for one in drifts)
    assert 366 <= covered <= 394  # 95 % of 400, and three deviations


def test_a_call_that_is_longer_than_all_is_one_window_without_drift() -> None:
    found = watched(0.5, lambda _: 90_000.0, lambda _: 3000)
    assert (len(found["windows"]), found["runs"], found["drift_percent_per_minute"], found["drift_interval"]) == (
        1,
        1,
        None,
        None,
    )
    assert found["throttled"] is False and found["windows"][0]["p50_ms"] == 90_000


def test_it_is_said_and_plotted() -> None:
    found = watched(10, lambda minute: 50 * 1.02**minute, lambda m: 3000 - 100 * m)
    measured = results(row("m", 50.0) | {"sustained": found}, row("n", 10.0))
    assert not list(errors_of(seal(measured)))
    text = sustained_text(measured)
    assert text.startswith("m · onnxruntime fp16 · 4 steps: 10 minutes without a pause, 50.2 ms at first")
    assert (
        text.endswith("(+2.00 to +2.00); 100 MB of memory at first, 110 MB at last; the processor was slowed down")
        and "n ·" not in text
    )
    assert sustained_legend(measured["results"]) == [
        ("■", "--s1", "m · onnxruntime fp16 · 4 steps: 50.2 ms, at last 60.8 ms", (0,))
    ]
    svg = sustained_svg(measured["results"])
    assert svg is not None and "minutes without a pause" in svg and "var(--s1)" in svg
    assert sustained_svg([row("n", 10.0)]) is None


def test_a_processor_that_wakes_up_is_not_throttled() -> None:
    assert watched(1, lambda _: 50.0, lambda minute: 2000 if minute < 0.2 else 3400)["throttled"] is False
    assert (
        watched(1, lambda _: 50.0, lambda minute: 2000 if minute < 0.2 or minute > 0.8 else 3400)["throttled"] is True
    )


def test_the_frequency_is_that_of_the_fastest_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CPU", tmp_path)
    assert frequency_mhz() is None
    for core, kilohertz in enumerate((2_000_000, 3_000_000)):
        (tmp_path / f"cpu{core}" / "cpufreq").mkdir(parents=True)
        (tmp_path / f"cpu{core}" / "cpufreq" / "scaling_cur_freq").write_text(f"{kilohertz}\n")
    assert frequency_mhz() == 3000.0


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), 1e9])
def test_minutes_that_make_no_sense_are_refused(wrong: float) -> None:
    with pytest.raises(InputError, match="sustained"):
        BenchOptions(sustained=wrong)

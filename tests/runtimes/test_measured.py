"""`runtime="auto"`: the fastest way is taken, remembered, and explained; where nothing can be measured, the order holds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genin.runtimes import measured
from genin.runtimes.engine import EngineSettings
from genin.runtimes.errors import BundleError, InputError
from genin.runtimes.loading import load_pipeline
from genin.runtimes.measured import decide, forget
from genin.runtimes.pipeline import Choice

CHOICES = (
    Choice("openvino", "fp32", "openvino"),
    Choice("onnxruntime", "fp32", "onnx"),
    Choice("openvino", "fp32", "onnx"),
)
SMALL = 1_000


class FakePipeline:
    """Draws for as long as it is told to."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __enter__(self) -> FakePipeline:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def generate(self, _prompt: str, _seed: int) -> None:
        time.sleep(self.seconds)


class Opening:
    """Opens fake pipelines, and remembers which."""

    def __init__(self, seconds: dict[tuple[str, int | None], float]) -> None:
        self.seconds, self.asked = seconds, []

    def __call__(self, choice: Choice, settings: EngineSettings) -> Any:
        self.asked.append((choice.runtime, settings.threads))
        if (choice.runtime, settings.threads) not in self.seconds:
            raise BundleError("this engine refuses it")
        return FakePipeline(self.seconds[choice.runtime, settings.threads])


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An idle one of two cores, with an empty cache."""
    monkeypatch.delenv("GENIN_AUTO")
    monkeypatch.setenv("GENIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(measured, "are_cores_idle", lambda count: True)
    monkeypatch.setattr(measured, "thread_limit", lambda: 2)


def test_the_fastest_way_is_taken_and_remembered() -> None:
    opening = Opening(
        {("openvino", 1): 0.02, ("openvino", 2): 0.01, ("onnxruntime", 1): 0.03, ("onnxruntime", 2): 0.004}
    )
    first = decide("a bundle", CHOICES, EngineSettings(), SMALL, opening)
    assert (first.way.choice, first.way.threads) == (CHOICES[1], 2) and "measured now" in first.why
    assert [(timing.runtime, timing.threads) for timing in first.timings] == opening.asked
    assert opening.asked == [("openvino", 1), ("openvino", 2), ("onnxruntime", 1), ("onnxruntime", 2)]
    again = decide("a bundle", CHOICES, EngineSettings(), SMALL, opening)
    assert again.way == first.way and again.timings == first.timings and len(opening.asked) == 4
    other = decide("another bundle", CHOICES, EngineSettings(), SMALL, opening)
    assert other.way == first.way and len(opening.asked) == 8
    forget("a bundle", CHOICES, EngineSettings())
    decide("a bundle", CHOICES, EngineSettings(), SMALL, opening)
    assert len(opening.asked) == 12


def test_a_few_pictures_are_not_worth_measuring() -> None:
    opening = Opening({("openvino", 1): 0.001, ("onnxruntime", 1): 0.002})
    for pictures, runtime, count in ((1, "onnxruntime", 0), (1000, "openvino", 4)):
        found = decide("a bundle", CHOICES, EngineSettings(pictures=pictures), SMALL, opening)
        assert found.way.choice.runtime == runtime and len(opening.asked) == count
    assert decide("a bundle", CHOICES[:1], EngineSettings(pictures=1), SMALL, opening).way.choice == CHOICES[0]


def test_loading_counts_where_few_pictures_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first load of an engine, which imports it."""
    rows = [("openvino", 1, 1.0, 0.9), ("openvino", 2, 1.1, 0.2), ("onnxruntime", 1, 2.0, 0.3)]
    timings = tuple(measured.Timing(name, "onnx", "fp32", threads, ms, s) for name, threads, ms, s in rows)
    monkeypatch.setattr(measured, "_read", lambda *_: timings)
    for pictures, runtime in ((1, "onnxruntime"), (599, "onnxruntime"), (601, "openvino"), (None, "openvino")):
        found = decide("a bundle", CHOICES, EngineSettings(pictures=pictures), SMALL, Opening({}))
        assert found.way.choice.runtime == runtime, pictures


def test_precision_is_never_traded_and_core_ml_not_measured() -> None:
    """Core ML's first load takes minutes, and it computes fp32 in fp16 where that is faster."""
    onnx, coreml = Choice("onnxruntime", "fp32", "onnx"), Choice("coreml", "fp32", "coreml")
    opening = Opening({("onnxruntime", 1): 0.0, ("onnxruntime", 2): 0.0, ("coreml", None): 0.0})
    assert decide("a", [onnx, coreml], EngineSettings(), SMALL, opening).way.choice is onnx
    assert {runtime for runtime, _ in opening.asked} == {"onnxruntime"}
    assert decide("b", [coreml], EngineSettings(), SMALL, opening).way.choice is coreml
    half = Choice("openvino", "fp16", "openvino")
    assert decide("c", [half, onnx], EngineSettings(pictures=1), SMALL, opening).way.choice is half


def test_threads_that_gain_nothing_are_left_to_others() -> None:
    opening = Opening({("onnxruntime", 1): 0.0300, ("onnxruntime", 2): 0.0299})
    assert decide("a bundle", CHOICES[1:2], EngineSettings(), SMALL, opening).way.threads == 1


@pytest.mark.parametrize(("settings", "threads"), [(EngineSettings(3), 3), (EngineSettings(background=True), 1)])
def test_threads_that_are_given_are_kept(settings: EngineSettings, threads: int) -> None:
    opening = Opening({("openvino", threads): 0.005, ("onnxruntime", threads): 0.001})
    found = decide("a bundle", CHOICES, settings, SMALL, opening)
    assert (found.way.choice.runtime, found.way.threads) == ("onnxruntime", threads)
    assert {asked for _, asked in opening.asked} == {threads}


def test_an_engine_that_refuses_the_bundle_is_not_taken() -> None:
    opening = Opening({("onnxruntime", 1): 0.001, ("onnxruntime", 2): 0.002})
    assert decide("a bundle", CHOICES, EngineSettings(), SMALL, opening).way.choice == CHOICES[1]


@pytest.mark.parametrize(
    ("patch", "size", "why"),
    [
        (lambda patch: patch.setattr(measured, "are_cores_idle", lambda count: count < 2), SMALL, "other work"),
        (lambda patch: patch.setenv("GENIN_AUTO", "order"), SMALL, "GENIN_AUTO"),
        (lambda patch: None, measured.LARGE_BYTES + 1, "too large"),
    ],
)
def test_what_cannot_be_measured_goes_by_the_order(
    monkeypatch: pytest.MonkeyPatch, patch: Callable[[pytest.MonkeyPatch], None], size: int, why: str
) -> None:
    patch(monkeypatch)
    opening = Opening({("openvino", 1): 0.0, ("onnxruntime", 1): 0.0})
    found = decide("a bundle", CHOICES, EngineSettings(), size, opening)
    assert found.way.choice == CHOICES[0] and why in found.why and not opening.asked and not found.timings


def test_a_misspelt_switch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENIN_AUTO", "ordr")
    with pytest.raises(InputError, match="the environment variable GENIN_AUTO is 'ordr'; set it to order"):
        decide("a bundle", CHOICES, EngineSettings(), SMALL, Opening({}))


def test_nothing_that_can_be_measured_is_no_error() -> None:
    found = decide("a bundle", CHOICES, EngineSettings(), SMALL, Opening({}))
    assert found.way.choice == CHOICES[0] and "no way" in found.why


def test_slow_pictures_keep_to_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "BUDGET_S", 0.3)
    opening = Opening(dict.fromkeys([("openvino", 1), ("openvino", 2), ("onnxruntime", 1), ("onnxruntime", 2)], 0.1))
    begun = time.perf_counter()
    assert decide("a bundle", CHOICES, EngineSettings(), SMALL, opening).timings
    assert time.perf_counter() - begun < 1.0


def timing(**changes: object) -> str:
    """A memory of one way."""
    kept = {
        "runtime": "openvino",
        "format": "openvino",
        "precision": "fp32",
        "threads": 1,
        "picture_ms": 1,
        "load_s": 0.1,
    }
    return json.dumps([kept | changes])


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{", '[{"runtime": 1}]', '[{"picture_ms": -1}]', "\x00", "[" * 100_000),
        *(timing(runtime="another"), timing(threads="two"), timing(load_s=None), timing(picture_ms=float("inf"))),
    ],
)
def test_a_damaged_memory_is_measured_anew(content: str, tmp_path: Path) -> None:
    opening = Opening(
        {("openvino", 1): 0.002, ("openvino", 2): 0.001, ("onnxruntime", 1): 0.003, ("onnxruntime", 2): 0.004}
    )
    decide("a bundle", CHOICES, EngineSettings(), SMALL, opening)
    [memory] = (tmp_path / "cache" / "measured").iterdir()
    memory.write_text(content, encoding="utf-8")
    assert decide("a bundle", CHOICES, EngineSettings(), SMALL, opening).why.startswith("measured now")


def test_a_cache_that_cannot_be_written_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GENIN_CACHE", str(tmp_path / "file"))
    opening = Opening(
        {("openvino", 1): 0.002, ("openvino", 2): 0.001, ("onnxruntime", 1): 0.003, ("onnxruntime", 2): 0.004}
    )
    assert decide("a bundle", CHOICES, EngineSettings(), SMALL, opening).way.choice == CHOICES[0]


@pytest.mark.export
def test_the_command_explains(genin: Callable[..., dict[str, Any]], tiny_bundle: Path) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    first = genin("runtimes", "--explain", tiny_bundle)
    assert first["why"].startswith("measured now") and len(first["measured"]) >= 2
    fastest = min(first["measured"], key=lambda timing: timing["picture_ms"])
    assert fastest["picture_ms"] * 1.03 >= min(
        t["picture_ms"] for t in first["measured"] if t["runtime"] == first["runtime"]
    )
    assert genin("runtimes", "--explain", tiny_bundle)["why"].startswith("measured before")
    assert genin("runtimes", "--explain", tiny_bundle, "--again")["why"].startswith("measured now")
    with load_pipeline(tiny_bundle) as pipeline:
        assert pipeline.runtime in ("openvino", "onnxruntime")
        pipeline.generate("ninja", steps=1)

"""`genin bench --profile`: operators by the engines' own counters, their sums and their tables."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest

from genin.benchmarks.results.files import seal
from genin.benchmarks.results.operators import operators_text
from genin.benchmarks.results.schema import errors_of
from genin.benchmarks.speed import apart
from genin.benchmarks.speed.apart import Apart, add_apart
from genin.benchmarks.speed.configurations import Configuration
from genin.benchmarks.speed.operators import NOT_COUNTED, Counters
from genin.benchmarks.speed.protocol import Protocol
from genin.benchmarks.speed.samples import Measured, ProcessRun
from genin.benchmarks.speed.worker import WorkerError
from genin.runtimes.engine import EngineSettings, OperatorTime
from genin.runtimes.loading import open_pipeline
from result_files import results, row

STUDENT = Path(__file__).parents[2] / "runtimes" / "weights" / "student"


def call(*times: tuple[str, str, float]) -> list[OperatorTime]:
    return [OperatorTime(*one) for one in times]


def counted() -> dict[str, Any]:
    counters = Counters()
    counters("unet", [call(("first", "Conv", 99.0))])
    counters("unet", [call(("a", "Conv", 3.0), ("b", "Add", 1.0)), call(("a", "Conv", 5.0), ("b", "Add", 1.0))])
    counters("unet", [call(("a", "Conv", 4.0), ("b", "Add", 1.0), ("c", "Conv", 3.0))])
    return counters.summary(pictures=2)


def test_milliseconds_are_those_of_a_picture_without_the_first_call() -> None:
    unet = counted()["unet"]
    assert (unet["calls"], unet["ms"]) == (2.0, 12.0)  # per call 4 + 1 + 1, two calls a picture
    assert unet["kinds"][0] == {"kind": "Conv", "operators": 2, "ms": 10.0, "share": 0.8333}
    assert [(layer["layer"], layer["ms"]) for layer in unet["layers"]] == [("a", 8.0), ("b", 2.0), ("c", 2.0)]


def test_only_the_ten_longest_are_kept_and_shares_are_of_all() -> None:
    counters = Counters()
    counters("unet", [call(*((f"layer {n}", f"kind {n}", float(n)) for n in range(1, 21)))])
    unet = counters.summary(pictures=1)["unet"]
    assert [layer["ms"] for layer in unet["layers"]] == [float(n) for n in range(20, 10, -1)]
    assert len(unet["kinds"]) == 10 and unet["kinds"][0]["share"] == round(20 / 210, 4)


@pytest.mark.parametrize(("runtime", "kind"), [("onnxruntime", "Conv"), ("openvino", "Convolution")])
def test_engines_count_their_operators(
    runtime: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(runtime)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    counters = Counters()
    with open_pipeline(STUDENT, runtime, "fp16", EngineSettings(1, profile=counters), "cpu") as pipe:
        timings = [pipe.generate("a ninja", seed=seed, steps=2).timings for seed in range(2)]
    found = counters.summary(pictures=2)
    assert {name: one["calls"] for name, one in found.items()} == {"text_encoder": 1, "unet": 2, "vae_decoder": 1}
    assert found["vae_decoder"]["kinds"][0]["kind"] == kind
    for name, one in found.items():
        assert 0 < one["ms"] < 2 * max(timing[name] for timing in timings)
        assert one["layers"] == sorted(one["layers"], key=lambda layer: -layer["ms"])
    assert not list(tmp_path.iterdir())  # no profile is left behind


def test_counting_costs_no_row_and_needs_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    def profile(configuration: Configuration, _: Protocol) -> dict[str, Any]:
        if configuration.precision == "int8":
            raise WorkerError("its process was killed")
        return counted()

    monkeypatch.setattr(apart, "profile", profile)
    asked = [("auto", "onnxruntime", "fp16"), ("openvino", "openvino", "int8"), ("pytorch", "pytorch", "fp32")]
    measured = [
        Measured(
            Configuration("m", Path("m"), runtime, "auto", 1), [ProcessRun({"runtime": got, "precision": bits}, 1.0)]
        )
        for runtime, got, bits in asked
    ]
    rows: list[dict[str, Any]] = [row("m", 10.0), row("n", 10.0), row("o", 10.0)]
    add_apart(rows, measured, Protocol(), Apart(profile=True))
    assert [one["operators"] for one in rows] == [counted(), None, None]
    assert [one["notes"].get("operators") for one in rows] == [None, "its process was killed", NOT_COUNTED]
    add_apart(plain := [row("m", 10.0)], measured[:1], Protocol(), Apart())
    assert "operators" not in plain[0]


def test_tables_name_the_row_and_the_network() -> None:
    measured = results(row("m", 10.0) | {"operators": counted()}, row("n", 10.0) | {"operators": None})
    assert not list(errors_of(seal(measured)))
    text = operators_text(measured)
    assert text.startswith("**m · onnxruntime fp16 · 4 steps: unet**, 12.0 ms in the operators of a picture (2 calls)")
    assert (
        "| Conv |         2 | 10.0 |  83 % |" in text
        and "| a     | Conv | 8.00 |  67 % |" in text
        and "n ·" not in text
    )
    assert operators_text(results(row("n", 10.0))) == ""

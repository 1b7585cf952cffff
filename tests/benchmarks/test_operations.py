"""What a picture takes, and its share of what the machine can do."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

import result_files
from genin.benchmarks.model_facts import ModelFacts, read_facts
from genin.benchmarks.results.table import results_table
from genin.benchmarks.speed import peak
from genin.benchmarks.speed.operations import KEYS, OTHER_SIZE, UNKNOWN, add_shares, macs_per_picture
from genin.benchmarks.speed.peak import best_s, higher, measure_here

STUDENT = Path(__file__).parents[2] / "runtimes" / "weights" / "student"
MACS = {"text_encoder": 10_000_000, "unet": 100_000_000, "vae_decoder": 50_000_000}


def facts(guidance_scale: float = 1.0, **macs: int) -> ModelFacts:
    return ModelFacts(Path("b"), "bundle", "b", "student", 64, 4, guidance_scale, component_macs=macs)


def row(**changed: Any) -> dict[str, Any]:
    sizes = {"text_encoder": 1_000_000, "unet": 2_000_000, "vae_decoder": 500_000}
    return {
        "latency_ms": {"p50": 10.0},
        "steps": 4,
        "threads": 2,
        "component_bytes": sizes,
        "notes": {},
        "batch_size": 1,
        "asked_size": None,
        "runtime": "onnxruntime",
        "device": "cpu",
    } | changed


def test_a_picture_takes_every_step_and_both_branches_of_guidance() -> None:
    assert macs_per_picture(facts(**MACS), 4) == 460_000_000
    assert macs_per_picture(facts(7.5, **MACS), 4) == 870_000_000
    assert macs_per_picture(facts(unet=1), 4) is None


def test_shares_are_of_the_peak_with_as_many_threads() -> None:
    peaks = [{"threads": n, "matmul_gflops": 100.0 * n, "copy_gb_per_s": 5.0 * n} for n in (1, 2)]
    found = row()
    add_shares(found, facts(**MACS), peaks)
    assert found["gflops"] == 92.0 and found["matmul_share"] == 0.46  # 920 million operations in 10 ms, of 200 GFLOP/s
    assert found["weight_bytes_per_picture"] == 9_500_000 and found["copy_share"] == 0.095  # 0.95 of 10 GB/s
    assert not found["notes"]


def test_what_is_unknown_is_null_and_says_why() -> None:
    found = row(component_bytes={}, notes={"component_bytes": "of the three networks"})
    add_shares(found, facts(), [])
    assert {found[key] for key in KEYS} == {None} and set(found["notes"]) >= set(KEYS)
    assert found["notes"]["gflops"] == UNKNOWN and found["notes"]["weight_bytes_per_picture"] == "of the three networks"


def test_pictures_of_a_batch_share_its_time_and_its_weights() -> None:
    found = row(batch_size=4)
    add_shares(found, facts(**MACS), [{"threads": 2, "matmul_gflops": 400.0, "copy_gb_per_s": 10.0}])
    assert (found["macs_per_picture"], found["gflops"], found["matmul_share"]) == (460_000_000, 368.0, 0.92)
    assert found["weight_bytes_per_picture"] == 2_375_000 and found["copy_share"] == 0.095
    resized = row(asked_size=96)
    add_shares(resized, facts(**MACS), [])
    assert resized["macs_per_picture"] is None and resized["notes"]["gflops"] == OTHER_SIZE


def test_bundles_state_the_multiply_adds_of_every_network() -> None:
    known = read_facts(STUDENT)
    assert known.component_macs["unet"] == known.macs and set(known.component_macs) >= set(MACS)


def test_the_best_of_several_calls_counts_and_the_first_does_not() -> None:
    now, durations = 0.0, iter([9.0, 0.15, 0.1, 0.3])

    def work() -> None:
        nonlocal now
        now += next(durations)

    assert best_s(work, lambda: now) == pytest.approx(0.1)


def test_the_machine_is_measured_and_a_process_that_fails_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "MEASURED_S", 0.0)
    monkeypatch.setattr(peak, "COPIED_BYTES", 1 << 20)
    found = measure_here(1)
    assert found["threads"] == 1 and found["matmul_gflops"] > 0.1 and found["copy_gb_per_s"] > 0.05

    def fail(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(-9, "python")

    monkeypatch.setattr(peak.subprocess, "run", fail)
    assert peak.measure_peaks([1]) == []


def test_a_product_of_several_threads_counts_each_and_the_higher_of_two_measurements_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peak, "COPIED_BYTES", 1 << 20)
    monkeypatch.setattr(peak, "best_s", lambda work: 0.001)
    monkeypatch.setattr(peak, "usable_cores", lambda: 16)
    assert measure_here(3)["matmul_gflops"] == pytest.approx(3 * measure_here(1)["matmul_gflops"], abs=0.1)
    assert measure_here(16)["matmul_gflops"] == pytest.approx(2 * 16 * measure_here(1)["matmul_gflops"], abs=1)
    before = [{"threads": 1, "matmul_gflops": 30.0, "copy_gb_per_s": 9.0}]
    after = [
        {"threads": 1, "matmul_gflops": 90.0, "copy_gb_per_s": 5.0},
        {"threads": 2, "matmul_gflops": 1.0, "copy_gb_per_s": 1.0},
    ]
    assert higher(before, after) == [{"threads": 1, "matmul_gflops": 90.0, "copy_gb_per_s": 9.0}, after[1]]
    assert higher([], after) == after and before[0]["matmul_gflops"] == 30.0


def test_a_share_above_the_peak_is_explained_below_the_table() -> None:
    above = result_files.row("a", 8.0) | {"matmul_share": 4.39}
    shown = results_table(result_files.results(above, result_files.row("b", 9.0)))
    table, _, below = shown.partition("\n\n- ")
    assert "439 %" in table and below.startswith("Above 100 % of fp32 peak: ")
    assert "Above" not in results_table(result_files.results(above | {"matmul_share": 1.0}))


def test_what_all_rows_share_is_said_once_above_the_table() -> None:
    rows = [result_files.row("a", 8.0), result_files.row("b", 9.0)]
    said, _, table = results_table(result_files.results(*rows)).partition("\n\n")
    assert (
        said.startswith("All rows: runtime ")
        and " threads " in said
        and "threads" not in table
        and "pictures/s" not in table
    )
    other = rows[1] | {"threads": 7, "batch_size": 4}
    table = results_table(result_files.results(rows[0], other)).partition("\n\n")[2]
    assert "| threads |" in table and "| pictures/s |" in table and "| batch |" in table
    assert results_table(result_files.results(rows[0])).startswith("| model")


def test_steps_that_a_student_was_not_trained_for_are_said_below_the_table() -> None:
    found = result_files.results(result_files.row("a", 8.0))
    found["notes"]["a"] = "trained for 2, 4 steps, measured at 3 anyway"
    assert results_table(found).endswith("\n\n- a: trained for 2, 4 steps, measured at 3 anyway")

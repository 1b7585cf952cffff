"""Whether pictures are right: bad weights, wrong seeds and steps, black pictures and other sizes are found, rounding is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import genin
from genin.benchmarks.contenders import Contender
from genin.benchmarks.model_facts import ModelFacts
from genin.benchmarks.quality.validity import EXACT, Pictures, judge, psnr_db, sha256_of, tolerance_of
from genin.benchmarks.speed import bench
from genin.benchmarks.speed.bench import measure_models
from genin.benchmarks.speed.configurations import Configuration
from genin.benchmarks.speed.journal import Journal
from genin.benchmarks.speed.picture_quality import PictureQuality, find_references
from genin.benchmarks.speed.protocol import Protocol
from genin.benchmarks.speed.samples import Measured, ProcessRun, Run

PROMPTS = (
    "a happy ninja with a red bun, a blue headband and a green outfit, running in a forest at night",
    "a calm ninja",
)


@pytest.fixture(scope="module")
def student() -> dict[tuple[int, int], Pictures]:
    """(seed, steps) => pictures of both prompts by the shipped student."""
    with genin.load("builtin:student", runtime="onnxruntime", threads=1) as pipe:
        return {
            (seed, steps): pipe.generate(PROMPTS, seed, steps=steps).images for seed, steps in ((3, 4), (3, 2), (9, 4))
        }


def verdict(pictures: Pictures, reference: Pictures, precision: str = "fp16") -> Any:
    drawn = [(0, round, picture) for round, picture in enumerate(pictures)]
    return judge(drawn, dict(enumerate(reference)), tolerance_of(precision))


def test_the_same_picture_is_valid_and_so_is_one_rounded_otherwise(student: dict[tuple[int, int], Pictures]) -> None:
    right = student[3, 4]
    same = verdict(right, right)
    assert not same.reasons and same.psnr_db is None and same.worst is None and same.pictures == 2
    shift = np.random.default_rng(0).integers(-1, 2, right.shape)
    rounded = verdict(np.clip(right + shift, 0, 255).astype(np.uint8), right)
    assert not rounded.reasons and rounded.psnr_db > 45


def test_wrong_pictures_are_found(student: dict[tuple[int, int], Pictures]) -> None:
    right = student[3, 4]
    black = right.copy()
    black[1] = 0
    noise = np.random.default_rng(1).normal(0, 12, right.shape)
    bad_int8 = np.clip(right + noise, 0, 255).astype(np.uint8)
    for wrong in (student[9, 4], student[3, 2], right[::-1], black):
        assert verdict(wrong, right).reasons
    assert "PSNR of the median picture" in verdict(bad_int8, right, "int8").reasons[0]
    assert (
        verdict(black, right).reasons[0] == "1 blank picture, the first is number 1"
        and verdict(black, right).worst == 1
    )
    assert "blank" in verdict(black, black).reasons[0]  # the reference itself
    assert verdict(right[:, ::2], right).reasons == ("pictures of 128x64, the reference's are 128x128",)
    assert verdict(right[:0], right).reasons == ("no pictures were drawn",)


def test_one_seed_that_tips_to_another_picture_is_allowed_by_the_median_and_bounded_by_the_worst() -> None:
    random = np.random.default_rng(2)
    right = random.integers(40, 200, (9, 16, 16, 3)).astype(np.uint8)
    tipped = right.copy()
    tipped[4] = np.clip(right[4] + random.normal(0, 15, right[4].shape), 0, 255)
    found = verdict(tipped, right)
    assert not found.reasons and found.psnr_db is None and found.worst_psnr_db < EXACT.psnr_db and found.worst == 4
    tipped[4] = random.integers(0, 255, right[4].shape)
    assert "PSNR of the worst picture" in verdict(tipped, right).reasons[0]


def test_lpips_counts_where_it_is_measured_for_fewer_bits() -> None:
    pictures = np.random.default_rng(3).integers(0, 255, (3, 8, 8, 3)).astype(np.uint8)
    other = np.random.default_rng(4).integers(0, 255, (3, 8, 8, 3)).astype(np.uint8)
    drawn, reference = [(0, i, one) for i, one in enumerate(other)], dict(enumerate(pictures))
    alike = judge(drawn, reference, tolerance_of("int8"), lambda one, _: np.full(len(one), 0.01, np.float32))
    assert not alike.reasons and alike.lpips == pytest.approx(0.01)
    apart = judge(drawn, reference, tolerance_of("int8"), lambda one, _: np.array([0.0, 0.0, 0.3], np.float32))
    assert [reason.split(" is ")[0] for reason in apart.reasons] == ["LPIPS", "LPIPS of the worst picture"]
    assert apart.worst == 2 and judge(drawn, reference, tolerance_of("fp16")).reasons


def test_a_process_that_draws_otherwise_is_found(student: dict[tuple[int, int], Pictures]) -> None:
    right, wrong = student[3, 4], student[9, 4]
    drawn = [(0, 0, right[0]), (0, 1, right[1]), (1, 0, right[0]), (1, 1, wrong[1])]
    found = judge(drawn, dict(enumerate(right)), EXACT)
    assert found.pictures == 3 and found.worst == 1 and found.reasons


def test_psnr_and_hashes() -> None:
    black, white = np.zeros((1, 4, 4, 3), np.uint8), np.full((1, 4, 4, 3), 255, np.uint8)
    assert psnr_db(black, white) == 0 and psnr_db(black, black) is None
    assert verdict(white, black).worst_psnr_db == 0
    assert sha256_of(black) != sha256_of(black.reshape(1, 2, 8, 3)) and sha256_of([]) != sha256_of(black)


# --- the reference ---------------------------------------------------------------------------------------------------


def drawn_by(runtime: str, precision: str, pictures: Pictures, took_ms: float = 10.0) -> Measured:
    configuration = Configuration("m", Path("m"), runtime, precision, 4)
    answer = {"total_ms": took_ms, "stages_ms": {"unet": took_ms / 2}}
    runs = [Run.of_answer(answer, index, 0.0) for index in range(len(pictures))]
    facts = {"runtime": runtime, "precision": precision, "provider": "CPU", "load_s": 0.1, "first_run_ms": 11.0}
    return Measured(configuration, [ProcessRun(facts, 0.2, runs, {"peak": 1}, pictures)])


def test_the_reference_is_fp32_if_there_is_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = np.random.default_rng(5).integers(0, 255, (2, 8, 8, 3)).astype(np.uint8)
    narrow, wide = drawn_by("onnxruntime", "int8", pictures), drawn_by("openvino", "fp32", pictures)
    facts = {Path("m"): ModelFacts(Path("m"), "bundle", "m", "student", 8, 4, 1.0)}
    key = Path("m"), 4, None
    assert find_references([narrow, wide], facts, Protocol(), Journal(None))[key].measured is wide
    asked: list[Configuration] = []

    def untimed(configuration: Configuration, protocol: Protocol, rounds: Any) -> dict[int, Pictures]:
        asked.append(configuration)
        return dict(enumerate(pictures))

    monkeypatch.setattr("genin.benchmarks.speed.picture_quality.draw_untimed", untimed)
    graphs = ({"component": "unet", "format": "onnx", "precision": "fp32", "files": []},)
    with_fp32 = {Path("m"): ModelFacts(Path("m"), "bundle", "m", "student", 8, 4, 1.0, graphs=graphs)}
    found = find_references([narrow], with_fp32, Protocol(), Journal(None))[key]
    assert found.is_fp32 and found.measured is None and [one.precision for one in asked] == ["fp32"]
    for _ in range(2):  # interrupted, and continued: they are drawn once
        kept = find_references([narrow], with_fp32, Protocol(), Journal(tmp_path, {}))[key]
        assert [*kept.pictures] == [0, 1] and np.array_equal([*kept.pictures.values()], pictures) and len(asked) == 2
    assert find_references([narrow], facts, Protocol(), Journal(None))[key].name == "onnxruntime int8"  # nothing better
    others = [drawn_by("onnxruntime", precision, pictures) for precision in ("palette4", "w8a8", "int8", "mixed")]
    for count, widest in ((1, "palette4"), (2, "w8a8"), (3, "int8"), (4, "mixed")):
        assert find_references(others[:count], facts, Protocol(), Journal(None))[key].name == f"onnxruntime {widest}"


def test_a_row_with_wrong_pictures_does_not_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted engine that is fast and draws black: struck through, not the page's headline, and said why."""
    random = np.random.default_rng(6)
    right = random.integers(0, 255, (3, 8, 8, 3)).astype(np.uint8)
    rows = [drawn_by("onnxruntime", "fp32", right), drawn_by("openvino", "fp16", np.zeros_like(right), 1.0)]
    facts = ModelFacts(Path("m"), "bundle", "m", "student", 8, 4, 1.0, graphs=())
    object.__setattr__(facts, "sha256", "0" * 64)
    monkeypatch.setattr(bench, "read_facts", lambda path: facts)
    monkeypatch.setattr(bench, "configure", lambda *_: [one.configuration for one in rows])
    monkeypatch.setattr(bench, "measure", lambda *_: (rows, []))
    monkeypatch.setattr(PictureQuality, "prepared", lambda *_: PictureQuality(None))
    results, grids = measure_models([Contender("m", Path("m"))])
    valid, invalid = results["results"]
    assert valid["valid"] is True and invalid["valid"] is False
    assert "3 blank pictures" in invalid["validity"]["reasons"][0]
    assert [row.detail.split(",")[0] for row in grids[0].rows] == ["onnxruntime fp32"]
    assert [(row.name, row.against) for row in grids[1].rows] == [(valid["name"], ""), (invalid["name"], valid["name"])]

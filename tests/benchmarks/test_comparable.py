"""Figures that would mislead: what is divided by what, what is called the fastest, which rows are the same ones."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import result_files
from genin.benchmarks import benchmarking
from genin.benchmarks.benchmarking import BenchOptions
from genin.benchmarks.contenders import Contender
from genin.benchmarks.model_facts import ModelFacts
from genin.benchmarks.peers.table import PEERS
from genin.benchmarks.report.report import Report, render
from genin.benchmarks.results.compare import compare_results, compare_with, markdown
from genin.benchmarks.results.exports import export
from genin.benchmarks.results.merge import Merged
from genin.benchmarks.results.table import columns_of, fastest, number, picture_ms, results_table
from genin.benchmarks.speed import selftest
from genin.benchmarks.speed.configurations import Choices, Configuration, configure_peers, first_steps
from genin.benchmarks.speed.machine import checkout_commit
from genin.benchmarks.speed.operations import NOT_THE_CPU, add_shares
from genin.benchmarks.speed.picture_quality import FD_KEYS, PictureQuality, add_quality
from genin.benchmarks.speed.protocol import Protocol
from genin.benchmarks.speed.rounds import SLOW_MS, first_ms
from genin.benchmarks.speed.rows import NO_TEACHER, add_speedups, speed_row
from genin.benchmarks.speed.samples import Measured, ProcessRun, Run
from genin.benchmarks.speed.selftest import measure_resolution
from genin.benchmarks.suites import FOLDER, read_suite
from genin.runtimes.errors import GeninError, InputError
from genin.runtimes.names import installed_names


def row(model: str, latency_ms: float, **more: Any) -> dict[str, Any]:
    found = result_files.row(model, latency_ms) | {"program": "genin", "device": "cpu", "group": 0, **more}
    return found | {"name": f"{found['name']} {more}"}


def speedups(*rows: dict[str, Any]) -> list[float | None]:
    add_speedups(rows, {one["bundle"]: one["steps"] for one in reversed(rows)})
    return [one["speedup"] and round(one["speedup"]) for one in rows]


def test_a_speed_up_is_over_the_teacher_with_as_many_threads_on_the_same_device() -> None:
    teachers = [row("t", 1000.0, role="teacher", threads=1), row("t", 300.0, role="teacher", threads=4)]
    assert speedups(*teachers, row("s", 10.0, threads=4)) == [1, 1, 30]
    on_a_gpu = row("t", 20.0, role="teacher", device="cuda")
    assert speedups(on_a_gpu, row("s", 10.0)) == [1, None]
    large = row(
        "t", 900.0, role="teacher", image_size=128
    )  # its own size, as 64 is the student's: neither was asked for
    assert speedups(large, row("s", 10.0)) == [1, None]
    assert speedups(large, row("s", 10.0, image_size=128, asked_size=128)) == [1, 90]
    wrong = row("t", 500.0, role="teacher", precision="fp16") | {"valid": False}
    right = row("t", 1000.0, role="teacher", precision="fp32")
    assert speedups(wrong, right, row("s", 10.0)) == [2, 1, 100]
    many, few = (row("t", ms, role="teacher", steps=steps) for ms, steps in ((1000.0, 100), (100.0, 16)))
    assert speedups(many, few, row("s", 10.0)) == [
        1,
        10,
        100,
    ]  # over the first, the number of steps that was named first
    other = row("t", 90.0, role="teacher", steps=16, runtime="openvino")
    on_it = row("s", 10.0, runtime="openvino")
    assert speedups(many, other, on_it) == [1, 11, 100]  # not over what its engine draws in fewer steps
    lost = [many | {"valid": False}, few, on_it]
    assert speedups(*lost) == [None, None, None] and "first of its steps" in on_it["notes"]["speedup"]
    skipped = [Configuration("t", Path("t"), "pytorch", "fp32", steps, "teacher") for steps in (100, 16)]
    assert first_steps(skipped) == {"t": 100}


@pytest.mark.parametrize("group", [0, 1])
def test_only_rows_that_took_turns_are_compared_by_rounds(group: int) -> None:
    """What does not fit into memory beside others is measured after them: of another temperature, of another neighbour."""
    drift = np.linspace(1.0, 1.5, 40)
    base = result_files.row("old", 10.0, factors=drift) | {"group": 0}
    both = result_files.results(base, result_files.row("new", 10.3, factors=drift, seed=2) | {"group": group})
    (found,) = compare_with(both, "old").rows
    assert found.paired == (group == 0) and found.verdict == ("unclear" if group else "slower")
    assert any("did not take turns" in note for note in found.notes) == bool(group)


def test_wrong_pictures_are_no_base_to_compare_with() -> None:
    wrong, right = row("s", 10.0, runtime="openvino") | {"valid": False}, row("s", 20.0)
    peer = row("s", 15.0, runtime="onnxruntime-web", program="onnxruntime-web")
    (found,) = compare_with(result_files.results(wrong, right, peer), "genin").rows
    assert found.verdict == "faster" and found.old_p50_ms == pytest.approx(20, rel=0.05)
    (found,) = compare_with(result_files.results(wrong, peer), "genin").rows
    assert found.verdict == "unclear" and not compare_with(result_files.results(wrong, peer), "genin").failed


def test_a_teacher_of_several_steps_is_a_base_and_what_differs_is_said() -> None:
    teachers = [row("t", ms, role="teacher", steps=steps) for steps, ms in ((100, 1000.0), (16, 160.0))]
    students = [row("s", ms, steps=steps) for steps, ms in ((16, 40.0), (4, 10.0))]
    found = compare_with(result_files.results(*teachers, *students), "t")
    assert [one.old_name for one in found.rows] == [teachers[1]["name"], teachers[0]["name"]] and not found.only_in_new
    assert [one.notes for one in found.rows] == [(), ("another number of steps: 100, now 4",)]
    assert (
        f"| {teachers[0]['name']} " in markdown(found) and found.to_json()["rows"][1]["old_name"] == teachers[0]["name"]
    )
    several = [row("a", 10.0, steps=steps) for steps in (1, 2)]
    assert compare_with(result_files.results(*several, students[1], several[0] | {"bundle": "b"}), "a").only_in_new
    one, other = row("a", 10.0), row("b", 10.0, runtime="openvino", precision="int8", provider="CPU")
    [alone] = compare_results(result_files.results(one), result_files.results(other, run_id="b")).rows
    assert alone.notes == ("another runtime: onnxruntime, now openvino", "another precision: fp16, now int8")
    assert "compared with" not in markdown(compare_results(result_files.results(one), result_files.results(one)))


def test_a_single_run_of_each_is_unclear_and_says_so() -> None:
    columns = ("samples_ms", "samples_process", "samples_round")
    old, new = (one | {name: one[name][:1] for name in columns} for one in (row("a", 10.0), row("b", 20.0)))
    [found] = compare_with(result_files.results(old, new), "a").rows
    assert (found.verdict, found.low, found.high) == ("unclear", None, None) and found.ratio == pytest.approx(
        2, rel=0.05
    )
    assert found.notes == ("a single run does not say how runs differ: measure more of them",)
    assert " – |" in markdown(compare_with(result_files.results(old, new), "a"))
    facts = ModelFacts(Path("m"), "bundle", "m", "student", 64, 4, 1.0)
    facts.__dict__["sha256"] = "0" * 64
    worker = {"runtime": "openvino", "precision": "fp16", "provider": "CPU", "load_s": 0.1, "first_run_ms": 1.0}
    run = Run.of_answer({"total_ms": 1.0, "stages_ms": {}}, 0, 0.0)
    once = speed_row(
        Measured(Configuration("m", Path("m"), "openvino", "fp16", 4), [ProcessRun(worker, 0.2, [run])]), facts
    )
    assert once["intervals_ms"] == {} and "single run" in once["notes"]["intervals_ms"]
    add_speedups([once | {"role": "teacher", "valid": True}, other := once | {"valid": True}], {"m": 4})
    assert other["speedup"] == 1 and other["speedup_interval"] is None


def test_a_selftest_needs_a_run_of_each_process() -> None:
    with pytest.raises(InputError, match="4 runs cannot be shared out over 20 processes; ask for --runs 20 or more"):
        measure_resolution(Contender("m", Path("m")), Choices(), Protocol(runs=4, processes=20))


def test_a_selftest_needs_the_model_twice_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other they would be no pairs."""
    one = Configuration("m", Path("m"), "onnxruntime", "fp16", 1)
    monkeypatch.setattr(selftest, "read_facts", lambda path: None)
    monkeypatch.setattr(selftest, "configure", lambda *_: [one])
    monkeypatch.setattr(selftest, "component_bytes", lambda *_: ({}, [10**15]))
    with pytest.raises(GeninError, match="not enough free memory for the model twice"):
        measure_resolution(Contender("m", Path("m")), Choices(), Protocol())


def test_cells_with_a_bar_stay_one_cell_and_small_figures_keep_three_digits() -> None:
    table = results_table(result_files.results(row("a|b.genin", 10.0)))
    assert "a\\|b.genin" in table and "| a|b" not in table
    assert [number(value) for value in (0.0014, 0.0123, 0.25, 1.25, 12.5, 1250.0)] == [
        *("0.0014", "0.0123", "0.25", "1.25", "12.5", "1,250"),
    ]


def test_the_fastest_is_one_whose_pictures_were_compared() -> None:
    right, unknown = row("s", 20.0), row("s", 5.0, program="stable-diffusion.cpp") | {"valid": None}
    assert fastest([right, unknown]) is right and fastest([unknown]) is unknown
    assert fastest([right | {"valid": False}]) is None
    shown = result_files.results(right, unknown)
    assert "A picture in 20.0 ms" in render(Report(results=shown))
    assert "stable-diffusion.cpp" not in export(shown, "card")
    assert "pictures not compared" in export(result_files.results(unknown), "card")


def test_a_batch_is_not_a_picture() -> None:
    four = row("s", 80.0, batch_size=4, threads=2)
    assert picture_ms(four) == pytest.approx(20, rel=0.05) and fastest([four, row("s", 30.0)]) is four
    shown = result_files.results(four)
    assert "A picture in 20." in render(Report(results=shown)) and "20.0 ms a picture" in export(shown, "badge")
    assert "2 threads, batch of 4" in export(shown, "card")


@pytest.mark.parametrize(
    ("more", "above", "beside"),
    [
        ({"batch_size": 4}, "batch 4", "batch 4"),
        ({"asked_size": 96, "image_size": 96}, "px 96", "96 px"),
        ({"program": "optimum-onnx"}, "program optimum-onnx", "optimum-onnx onnxruntime"),
    ],
)
def test_what_all_rows_have_is_said_where_it_is_not_the_usual(more: dict[str, Any], above: str, beside: str) -> None:
    """One picture of four costs four times as much; a table that does not say so compares it with others' single ones."""
    rows = [row(name, 80.0, **more) for name in "ab"]
    table = results_table(result_files.results(*rows))
    assert above in table.splitlines()[0] and ("pictures/s" in table) == ("batch_size" in more)
    assert above.split()[1] in results_table(result_files.results(rows[0])).splitlines()[2]  # a single row's own cell
    details = re.findall(
        r'<th scope="row">[ab]<span>(.*?)</span></th>', render(Report(results=result_files.results(*rows)))
    )
    assert len(details) == 2 and all(beside in detail for detail in details)
    usual = results_table(result_files.results(row("a", 80.0), row("b", 80.0)))
    assert not any(word in usual for word in ("batch", "px", "program"))


def test_a_configuration_is_found_again_whatever_its_name() -> None:
    old = [result_files.row("a", 10.0) | {"name": f"a · {n} threads", "threads": n} for n in (1, 2)]
    new = result_files.row("a", 10.0) | {"name": "a", "threads": 2}
    found = compare_results(result_files.results(*old), result_files.results(new, run_id="b"))
    assert [one.name for one in found.rows] == ["a"] and found.only_in_old == ("a · 1 threads",)
    other = compare_results(result_files.results(new | {"threads": 1}), result_files.results(new, run_id="b"))
    assert "another threads: 1, now 2" in other.rows[0].notes  # of the same name, and said


def test_another_graphics_card_is_another_machine() -> None:
    cards = [row("a", 10.0, device="cuda", provider=f"cuda:0 (Card {number})") for number in (1, 2)]
    found = compare_results(result_files.results(cards[0]), result_files.results(cards[1], run_id="b"))
    assert "other machine: cuda:0 (Card 1); and cuda:0 (Card 2)" in found.warnings


def test_a_graphics_cards_figures_are_not_credited_to_the_processor() -> None:
    card = "cuda:0 (Some Card)"
    fast = row("t", 5.0, role="teacher", runtime="pytorch", device="cuda", provider=card)
    both = result_files.results(fast, row("s", 10.0))
    names, cells = columns_of(both["results"])
    assert [line[names.index("device")] for line in cells] == ["cuda", "cpu"]
    alone = result_files.results(fast, fast | {"steps": 100})
    assert "All rows: device cuda," in results_table(alone) and "device" not in results_table(
        result_files.results(row("s", 1.0))
    )
    page = render(Report(results=both))
    assert f", on {card}." in page and "on Some Processor" not in page and ">cuda, onnxruntime" not in page
    details = re.findall(r'<th scope="row">[st]<span>(.*?)</span></th>', page)
    assert details == ["pytorch fp16, 4 steps, cuda", "onnxruntime fp16, 4 steps, cpu"]
    for format in ("badge", "card", "bibtex", "markdown"):
        assert card in export(alone, format) and "Some Processor" not in export(alone, format)
        assert "Some Processor" not in export(both, "badge")
    assert f"on Some Processor, 2 cores; {card}" in export(result_files.results(*both["results"][::-1]), "bibtex")
    [gpu, cpu] = Merged({"Some Processor, 2 cores": both}).rows
    assert (gpu["device_name"], cpu["device_name"]) == (f"{card}, Some Processor, 2 cores", "Some Processor, 2 cores")


def test_peers_are_not_measured_beside_a_graphics_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, "diffusers", replace(PEERS["diffusers"], is_here=lambda: True))
    folder = ModelFacts(Path("t"), "model", "t", None, 64, 50, 7.5)
    found, refused = configure_peers(Contender("t", Path("t")), folder, Choices(peers=["diffusers"], device="cuda"))
    assert not found and refused[0][1] == "peers are measured on the CPU, not on cuda; leave out --device"


def test_another_file_of_a_suites_name_is_not_that_suite(tmp_path: Path) -> None:
    (tmp_path / "paper.yaml").write_bytes((FOLDER / "paper.yaml").read_bytes())
    assert read_suite("paper")[1]["suite"] == "paper"
    assert read_suite(tmp_path / "paper.yaml")[1]["suite"].startswith("paper.yaml (sha256 ")


@pytest.mark.parametrize("more", [{"runtime": "coreml"}, {"device": "cuda"}])
def test_what_may_compute_elsewhere_has_no_share_of_the_processors_peak(more: dict[str, Any]) -> None:
    found = row("s", 10.0, **more) | {"component_bytes": {}}
    add_shares(found, ModelFacts(Path("s"), "bundle", "s", "student", 64, 4, 1.0), [])
    assert found["matmul_share"] is None and found["notes"]["matmul_share"] == NOT_THE_CPU


def test_fewer_pairs_than_pictures_are_said() -> None:
    """A slow teacher draws one picture in its time, a student eight: LPIPS to the teacher is of one."""
    protocol = Protocol()

    def drawn(path: str, count: int, role: str | None) -> Measured:
        pictures = np.random.default_rng(1).integers(0, 255, (count, 8, 8, 3)).astype(np.uint8)
        runs = [Run.of_answer({"total_ms": 1.0, "stages_ms": {"unet": 1.0}}, index, 0.0) for index in range(count)]
        facts = {"runtime": "onnxruntime", "precision": "fp32", "provider": "CPU", "load_s": 0.1, "first_run_ms": 1.0}
        configuration = Configuration(path, Path(path), "onnxruntime", "fp32", 4, role)
        return Measured(configuration, [ProcessRun(facts, 0.2, runs, {}, pictures)])

    measured = [drawn("t", 1, "teacher"), drawn("s", 8, "student")]
    facts = {Path(name): ModelFacts(Path(name), "bundle", name, "student", 8, 4, 1.0) for name in "ts"}

    def distance(firsts: dict[str, int], *teachers: Measured) -> tuple[float | None, str]:
        both = [*teachers, *measured]
        rows = [row(one.configuration.label, 1.0, role=one.configuration.role, image_size=8) for one in both]
        quality = PictureQuality(lambda one, other: np.abs(np.subtract(one, other, dtype=float)).mean((1, 2, 3)))
        add_quality(rows, both, facts, quality, protocol, firsts)
        assert rows[-1]["pairs"] == 8
        return rows[-1]["lpips_squeeze_to_teacher"], rows[-1]["notes"].get("lpips_squeeze_to_teacher", "")

    assert distance({"t": 4}) == (0, "of 1 picture that both drew, of 8")
    measured[1].configuration = replace(measured[1].configuration, size=8)  # asked for, and the teacher's own
    assert distance({"t": 4}) == (0, "of 1 picture that both drew, of 8")
    assert distance({"t": 100}) == (None, NO_TEACHER)
    black = drawn("t", 8, "teacher")
    black = replace(black, configuration=replace(black.configuration, path=Path("s"), batch=4))
    black.processes[0].pictures = np.zeros((8, 8, 8, 3), np.uint8)
    assert distance({"t": 4}, black) == (0, "of 1 picture that both drew, of 8")  # wrong pictures are no teacher's


def test_the_distance_of_each_model_is_to_a_reference_of_its_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A world rendered for the first model would be enlarged for the others, and their distances be those of a blur."""
    sizes = {"a": 64, "b": 64, "c": 128}

    class Reference(SimpleNamespace):
        def __init__(self, folder: Path, *_: object, **__: object) -> None:
            super().__init__(folder=folder, reference=SimpleNamespace(captions=list))

        def evaluate(self, *_: object) -> dict[str, Any]:
            return dict.fromkeys(FD_KEYS, int(self.folder.name)) | {"samples": 600, "notes": {}}

    def world(_names: object, _name: str, _samples: int, path: Path) -> Path:
        return Path(f"world/{sizes[path.name]}")

    monkeypatch.setattr("genin.benchmarks.quality.evaluator.Evaluator", Reference)
    monkeypatch.setattr("genin.benchmarks.quality.measures.load_suite", lambda *_: None)
    monkeypatch.setattr(benchmarking, "reference_folder", world)
    models = [Contender(name, Path(name)) for name in sizes]
    quality = benchmarking._quality(BenchOptions(samples=600), installed_names(), models)
    prepared = PictureQuality.prepared(quality, 0)
    found = [prepared._fd(Configuration(name, Path(name), "openvino", "fp16", 4), {})["fd_world"] for name in sizes]
    on_a_gpu = Configuration("c", Path("c"), "pytorch", "fp32", 4, device="cuda")
    assert found == [64, 64, 128] and prepared._fd(on_a_gpu, {})["fd_world"] == 128
    assert prepared.evaluators[Path("a")] is prepared.evaluators[Path("b")]


def test_a_first_picture_that_has_compiled_is_followed_by_another_to_warm_up() -> None:
    process = ProcessRun({"first_run_ms": 60_000.0}, 1.0)
    compiled = Configuration("t", Path("t"), "pytorch", "fp32", 50, program="diffusers-compile")
    assert first_ms(compiled, process) <= SLOW_MS < first_ms(replace(compiled, program="genin"), process)


def test_a_checkout_names_its_commit_and_whether_it_was_changed() -> None:
    commit = checkout_commit()
    assert commit is None or len(commit.removesuffix("-dirty")) == 40

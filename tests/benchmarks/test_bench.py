"""`genin bench` through the command line: keys, turns, processes, speed-ups, wrong pictures, and a page that loads nothing."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from genin import cli
from genin.benchmarks.contenders import Contender
from genin.benchmarks.grids import Grid, GridRow
from genin.benchmarks.model_facts import ModelFacts
from genin.benchmarks.report.plots import quality_axis, quality_latency_svg
from genin.benchmarks.report.report import Report, write_report
from genin.benchmarks.results.files import read_results
from genin.benchmarks.results.table import results_table
from genin.benchmarks.speed import auto, bench, machine, rounds, worker
from genin.benchmarks.speed.auto import settled
from genin.benchmarks.speed.bench_worker import Session
from genin.benchmarks.speed.configurations import Choices, Configuration, configure
from genin.benchmarks.speed.journal import Journal
from genin.benchmarks.speed.machine import OtherWork, busy_before, busy_during, busy_text, describe_machine
from genin.benchmarks.speed.picture_quality import FD_KEYS, PictureQuality
from genin.benchmarks.speed.protocol import Protocol
from genin.benchmarks.speed.rounds import measure, memory_groups
from genin.benchmarks.speed.samples import Run
from genin.benchmarks.speed.worker import WorkerError
from genin.cli import run
from genin.runtimes.engine import EngineSettings
from genin.runtimes.errors import InputError
from tiny_bundle import edit_manifest

NO_FD = dict.fromkeys((*FD_KEYS, "samples"))
SHARED = Path(__file__).parents[3] / "shared" / "data" / "lpips_squeezenet"
ROW_KEYS = {
    *("bundle", "runtime", "provider", "precision", "steps", "latency_ms", "stages_ms", "cold_start_s", "load_s"),
    *("peak_rss_bytes", "size_bytes", "component_bytes", "lpips_squeeze_to_fp32", "lpips_squeeze_to_teacher"),
    *("psnr_db_to_fp32", "fid", "fd_squeezenet", "fd_world", "samples"),
}


@pytest.fixture(scope="module")
def measured(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """One run of the command on bundles of a teacher and a student: its JSON and its page."""
    out = tmp_path_factory.mktemp("bench")
    teacher = out / "teacher"
    shutil.copytree(tiny_bundle, teacher)
    edit_manifest(teacher, "model", "kind", value="teacher")
    for key, value in (("guidance", "free"), ("guidance_scale", 3.0), ("few_step_timesteps", None)):
        edit_manifest(teacher, "sampler", key, value=value)
    student = out / "student"
    student.symlink_to(tiny_bundle)
    prompts = out / "prompts.txt"
    prompts.write_text('ninja on the mountain\n\nninja & "sunset" <b>\n', encoding="utf-8")
    arguments = [teacher, student, "--steps", "1", "--teacher-steps", "4", "--runs", "3", "--warmup", "1"]
    arguments += ["--runtime", "onnxruntime", "--precision", "fp32", "--processes", "1", "--threads", "1"]
    arguments += ["--prompts", prompts, "--out", out / "bench.json", "--report", out / "bench.html", "--json"]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.setenv("TORCH_HOME", str(out / "empty"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("GENIN_METRIC_WEIGHTS", str(SHARED) if SHARED.is_dir() else "")
        assert run(["bench", *map(str, arguments)]) == 0
    results = json.loads(printed.getvalue().splitlines()[-1])
    assert read_results(out / "bench.json") == results
    assert not list(out.glob("*.partial"))
    return results, (out / "bench.html").read_text(encoding="utf-8")


@pytest.mark.export
def test_every_configuration_has_every_promised_key(measured: tuple[dict[str, Any], str]) -> None:
    results = measured[0]
    rows = results["results"]
    assert [(row["bundle"], row["steps"]) for row in rows] == [("teacher", 4), ("student", 1)]
    for row in rows:
        assert set(row) >= ROW_KEYS
        assert (row["runtime"], row["precision"], row["runs"]) == ("onnxruntime", "fp32", 3)
        assert row["latency_ms"]["p50"] <= row["latency_ms"]["p90"]
        assert row["latency_ms"]["p95"] is row["latency_ms"]["p99"] is None
        assert row["notes"]["latency_ms"] == "of 3 runs p95 is close to the maximum: ask for --runs 20 or more"
        assert len(row["samples_ms"]) == 3 and row["samples_round"] == [0, 1, 2] and row["samples_process"] == [0] * 3
        low, high = row["intervals_ms"]["p50"]
        assert low <= row["latency_ms"]["p50"] <= high
        by_stage = [sum(column) for column in zip(*row["stages_samples_ms"].values(), strict=True)]
        assert by_stage == pytest.approx(row["samples_ms"], abs=0.001)
        assert len(row["steps_ms"]) == row["steps"] and 0 < sum(row["steps_ms"]) < row["latency_ms"]["max"]
        memory = row["memory_bytes"]
        assert 5e6 < memory["before_load"] < memory["loaded"] <= memory["peak"] == row["peak_rss_bytes"]
        assert row["first_run_ms"] > 0 and len(row["cold_starts_s"]) == 1
        assert row["valid"] is True and row["validity"]["pictures"] == 3 and len(row["pictures_sha256"]) == 64
        assert set(row["stages_ms"]) == {"text_encoder", "unet", "vae_decoder", "text_to_image", "other"}
        assert row["cold_start_s"] > row["load_s"] > 0 and row["peak_rss_bytes"] > 50e6
        assert row["size_bytes"] == sum(row["component_bytes"].values()) > 0
        assert row["fid"] is row["fd_world"] is row["samples"] is None
    assert results["machine"]["usable_cores"] >= 1 and results["protocol"]["interleaved"] is True
    assert results["protocol"]["threads"] == 1 and "samples" in results["notes"] and results["run_id"]


@pytest.mark.export
def test_speed_up_and_quality_are_relative_to_the_teacher(measured: tuple[dict[str, Any], str]) -> None:
    teacher, one_step = measured[0]["results"]
    assert teacher["speedup"] == 1
    assert one_step["speedup"] == pytest.approx(teacher["latency_ms"]["p50"] / one_step["latency_ms"]["p50"])
    assert one_step["speedup_baseline"].startswith("teacher")
    assert one_step["psnr_db_to_fp32"] is None and one_step["notes"]["psnr_db_to_fp32"] == "identical pictures"
    if SHARED.is_dir():
        assert one_step["lpips_squeeze_to_fp32"] == pytest.approx(0, abs=1e-6)
        assert one_step["lpips_squeeze_to_teacher"] > 0.01


@pytest.mark.export
def test_the_page_is_whole_and_loads_nothing(measured: tuple[dict[str, Any], str]) -> None:
    page = measured[1]
    assert "http:" not in page and "https:" not in page and "//" not in re.sub(r"base64,[^\"]+", "", page)
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)"', page))
    assert page.count("<img") == 2 * 3  # every configuration's timed pictures, which are at fp32 themselves
    for forbidden in ("<script src", "<link", "@import", "url(http"):
        assert forbidden not in page
    assert "prefers-color-scheme: dark" in page and "ninja &amp; &#34;sunset&#34; &lt;b&gt;" in page
    if SHARED.is_dir():
        assert page.count("<svg") == 1 and "DejaVu" not in page


@pytest.mark.export
def test_the_table_is_markdown(measured: tuple[dict[str, Any], str]) -> None:
    lines = results_table(measured[0]).partition("\n\n")[2].splitlines()  # below what all rows have in common
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1
    assert "p50 ms" in lines[0] and "FD ratio" not in lines[0]  # a column without a value is left out


class Recorder:
    """In place of a process: it writes down what it is asked; "slow" takes 10 s a picture, "dies" is killed in its second round."""

    order: ClassVar[list[str]] = []
    facts: ClassVar[dict[str, Any]] = {"first_run_ms": 5.0, "load_s": 0.1}
    cold_start_s = 1.0

    def __init__(self, configuration: Configuration, protocol: Protocol) -> None:
        self.label = configuration.label
        if self.label == "broken":
            raise WorkerError("it does not run here")
        self.order.append(f"start {self.label}")

    def ask(self, **request: Any) -> dict[str, Any]:
        if request["do"] != "time":
            return {"memory_bytes": {"peak": 7}}
        if self.label == "dies" and request["seed"] == 1:
            raise WorkerError("killed")
        self.order.append(f"{self.label}{request['seed']}{'' if request['keep'] else ' warm'}")
        slow = 10_000 if self.label == "slow" else 5
        return {"total_ms": slow, "stages_ms": {"unet": 3}, "steps_ms": [3]}

    def close(self) -> None:
        self.order.append(f"close {self.label}")


def recorded(labels: str, protocol: Protocol, monkeypatch: pytest.MonkeyPatch, **more: Any) -> Any:
    monkeypatch.setattr(rounds, "Worker", Recorder)
    monkeypatch.setattr(Recorder, "order", [])
    configurations = [Configuration(name, Path(name), "pytorch", "fp32", 1) for name in labels.split()]
    return (*measure(configurations, protocol, {}, **more), Recorder.order)


def test_processes_are_asked_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = Protocol(runs=5, warmup=1, processes=1, max_s=25)
    measured, skipped, order = recorded("slow broken fast", protocol, monkeypatch)
    timed = [one for one in order if one[-1].isdigit()]
    assert [sorted(timed[at : at + 2]) for at in (0, 2, 4)] == [[f"fast{turn}", f"slow{turn}"] for turn in range(3)]
    assert (
        order.count("fast1 warm") == 1 and "slow1 warm" not in order
    )  # a fast one is woken by a picture that does not count
    assert order.count("fast0 warm") == 3  # the warm-up and the first round, each woken
    assert [len(one.total_ms()) for one in measured] == [3, 5]  # the slow one ends early, but not before three
    assert measured[1].stages_ms()["other"] == [2.0] * 5 and measured[0].processes[0].memory_bytes == {"peak": 7}
    assert [(one.configuration.label, one.reason) for one in skipped] == [("broken", "it does not run here")]
    assert order[-2:] == ["close slow", "close fast"]


def test_a_range_of_numbers_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "builtin:student", "--threads", "1-9999999999"]) == 2
    assert "'1-9999999999' is more than 1024 numbers" in capsys.readouterr().err


def test_warming_up_where_no_process_has_started_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    measured, skipped, _ = recorded("broken", Protocol(runs=2, warmup_s=1.0, processes=2), monkeypatch)
    assert not measured and [one.configuration.label for one in skipped] == ["broken"]


def test_a_batch_is_one_call_and_its_first_pictures_are_those_of_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    answer: dict[str, Any] = {"total_ms": 200, "stages_ms": {}, "memory_bytes": {}}
    monkeypatch.setattr(rounds, "Worker", Recorder)
    monkeypatch.setattr(Recorder, "ask", lambda _, **request: asked.append(request) or answer)
    single = Configuration("b", Path("b"), "pytorch", "fp32", 1)
    batch, protocol = replace(single, batch=3), Protocol(runs=2, warmup=0, processes=1, prompts=["a", "b"], seed=5)
    measured, _ = measure([batch], protocol, {})
    calls = [(one["prompt"], one["seed"]) for one in asked if one["do"] == "time"]
    assert calls[-2:] == [(["a", "b", "a"], [5, 6, 7]), (["b", "a", "b"], [8, 9, 10])]
    assert protocol.call(single.numbers(1)) == {"prompt": "b", "seed": 6}
    measured[0].processes[0].pictures = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    assert {number: int(one.item()) for number, one in measured[0].by_number().items()} == {n: n for n in range(6)}


def test_every_configuration_gets_fresh_processes_and_a_dead_one_ends_only_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured, skipped, order = recorded("dies fast", Protocol(runs=5, warmup=0, processes=2), monkeypatch)
    assert [one.configuration.label for one in measured] == ["fast"]
    assert [len(process.runs) for process in measured[0].processes] == [3, 2]
    assert [process for process, _ in measured[0].runs()] == [0, 0, 0, 1, 1]
    assert [run.round for _, run in measured[0].runs()] == [0, 1, 2, 0, 1]  # every process draws the same pictures
    assert [(one.configuration.label, one.reason) for one in skipped] == [("dies", "killed")]
    assert (order.count("start fast"), order.count("start dies"), order.count("close dies")) == (2, 1, 1)


def test_every_round_has_another_order_and_the_next_is_its_reverse() -> None:
    turns = Protocol().turns(3, process=0)
    orders = [next(turns) for _ in range(40)]
    assert all(second == first[::-1] for first, second in zip(orders[::2], orders[1::2], strict=True))
    assert len({tuple(order) for order in orders}) == 6  # all of them come
    first = Counter(order[0] for order in orders)
    assert min(first.values()) >= 8
    again = Protocol().turns(3, process=0)
    assert [next(again) for _ in range(40)] == orders
    assert [Protocol(runs=r, processes=p).shares() for r, p in ((40, 5), (7, 3), (2, 5))] == [
        [8] * 5,
        [3, 2, 2],
        [1, 1],
    ]


def test_an_interrupted_benchmark_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the second process: the first is not measured again, and nothing is counted twice."""
    protocol, folder = Protocol(runs=4, warmup=0, processes=2), tmp_path / "r.json.partial"

    with monkeypatch.context() as patch:
        write, calls = Journal.write, iter([False, True])
        busy = OtherWork(100, 50)
        patch.setattr(Journal, "write", lambda *given: interrupt() if next(calls) else write(*given[:-1], busy))
        with pytest.raises(KeyboardInterrupt):
            recorded("fast broken", protocol, patch, journal=Journal(folder, {"asked": 1}))
    other_work = OtherWork()
    measured, skipped, order = recorded(
        "fast broken", protocol, monkeypatch, journal=Journal(folder, {"asked": 1}), other_work=other_work
    )
    assert other_work.seconds >= 100 and (other_work.busy_s is None or other_work.busy_s >= 50)  # the first part's, too
    assert order.count("start fast") == 1 and [len(one.runs) for one in measured[0].processes] == [2, 2]
    assert [one.configuration.label for one in skipped] == ["broken"]
    assert not Journal(folder, {"asked": 1}).continued
    again = recorded("fast broken", protocol, monkeypatch, journal=Journal(folder, {"asked": 1}))
    assert again[2] == [] and again[0][0].total_ms() == measured[0].total_ms()
    with pytest.raises(
        InputError, match=r"an interrupted benchmark of something else is in the way: .*r\.json\.partial"
    ):
        Journal(folder, {"asked": 2})
    Journal(folder, {"asked": 1}).remove()
    assert not folder.exists()


def test_what_is_resumed_stays_in_its_groups_and_its_runs_have_their_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More memory is free when it goes on, an hour later; nothing of the first processes is measured again."""
    protocol, hours = Protocol(runs=2, warmup=0, processes=2), iter([0.0, 3600.0])
    monkeypatch.setattr(rounds, "available_memory_bytes", lambda: 600_000_000)  # for one at a time
    monkeypatch.setattr(rounds.time, "time", lambda: now)
    with monkeypatch.context() as patch:
        now, ended = next(hours), iter([False, False, True])
        write = Journal.write
        patch.setattr(Journal, "write", lambda *given: interrupt() if next(ended) else write(*given))
        with pytest.raises(KeyboardInterrupt):
            recorded("a b", protocol, patch, journal=Journal(tmp_path, {}))
    monkeypatch.setattr(rounds, "available_memory_bytes", lambda: 64_000_000_000)
    now = next(hours)
    measured, _, order = recorded("a b", protocol, monkeypatch, journal=Journal(tmp_path, {}))
    assert [one.group for one in measured] == [0, 1] and (order.count("start a"), order.count("start b")) == (0, 2)
    began = [run.at_s for one in measured for _, run in one.runs()]
    assert began[0] < began[1] < 1 and 3600 <= began[2] < began[3] < 3601


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_distances_are_measured_once_for_all_threads_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    evaluator: Any = SimpleNamespace(
        evaluate=lambda *given: calls.append(given) or {"notes": {"fid": "none"}, **NO_FD, "fd_world": 2}
    )
    one = Configuration("m", Path("m"), "openvino", "fp16", 1)

    def distance(configuration: Configuration, journal: Journal) -> Any:
        quality = PictureQuality(None, {Path("m"): evaluator}, journal=journal)
        return [quality._fd(replace(configuration, threads=threads), {})["fd_world"] for threads in (1, 2)]

    assert distance(one, Journal(None)) == distance(one, Journal(tmp_path, {})) == [2, 2] and len(calls) == 2
    assert distance(one, Journal(tmp_path, {})) == [2, 2] and len(calls) == 2  # interrupted, and continued
    distance(replace(one, precision="int8"), Journal(tmp_path, {}))
    assert len(calls) == 3

    facts = ModelFacts(Path("m"), "bundle", "m", "student", 8, 1, 1.0)
    facts.__dict__["sha256"] = "0" * 64
    monkeypatch.setattr(rounds, "Worker", Recorder)
    monkeypatch.setattr(
        Recorder, "facts", Recorder.facts | {"runtime": "openvino", "precision": "fp16", "provider": "CPU"}
    )
    monkeypatch.setattr(bench, "read_facts", lambda _: facts)
    monkeypatch.setattr(bench, "configure", lambda *_: [one])
    monkeypatch.setattr(bench, "measure_peaks", lambda *_: [])
    for step in ("add_quality", "add_apart"):
        with monkeypatch.context() as patch:
            patch.setattr(PictureQuality, "prepared", lambda *_: PictureQuality(None))
            patch.setattr(bench, step, interrupt)
            with pytest.raises(
                KeyboardInterrupt, match=r"what has been measured is kept in .*p; the same command goes on"
            ):
                bench.measure_models([Contender("m", Path("m"))], protocol=Protocol(runs=3), partial=tmp_path / "p")


STAND_IN = """
import json, os, signal, sys, time
request = json.loads(sys.argv[1])
end = request["path"].rpartition("/")[2]
facts = {"runtime": "pytorch", "provider": "CPU", "precision": "fp32", "load_s": 0.1, "first_run_ms": 200.0}
print(json.dumps(facts), flush=True)
for number, line in enumerate(sys.stdin):
    if number == 1 and end == "silent":
        time.sleep(60)
    if number == 1 and end == "half":
        print('{"total_ms": 1', end="", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)
    print(json.dumps({"total_ms": 200.0, "stages_ms": {}, "memory_bytes": {"peak": 1}}), flush=True)
    if number == 1 and end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_lost_worker_costs_its_own_row_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between two pictures (as for lack of memory), killed within an answer, and one that does not answer any more."""
    (tmp_path / "stand_in_worker.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(worker, "WORKER_MODULE", "stand_in_worker")
    monkeypatch.setattr(worker, "ANSWER_TIMEOUT_S", 2.0)
    names = ("killed", "fine", "half", "silent", "fine too")
    configurations = [Configuration(name, tmp_path / name, "pytorch", "fp32", 1) for name in names]
    protocol = Protocol(runs=3, warmup=1, processes=1)
    measured, skipped = measure(configurations, protocol, {})
    assert [(one.configuration.label, len(one.total_ms())) for one in measured] == [("fine", 3), ("fine too", 3)]
    assert {one.configuration.label: one.reason for one in skipped} == {
        "killed": "its process was killed (SIGKILL), perhaps for lack of memory",
        "half": "its process was killed (SIGKILL), perhaps for lack of memory",
        "silent": "its process gave no answer within 2 s",
    }


def test_a_worker_that_cannot_be_started_costs_its_own_row_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(worker.subprocess, "Popen", refuse)
    configuration = Configuration("m", Path("m"), "pytorch", "fp32", 1)
    measured, skipped = measure([configuration], Protocol(processes=1), {})
    assert not measured
    assert skipped[0].reason == "its process cannot be started (Resource temporarily unavailable)"


@pytest.mark.parametrize(
    "error", [InputError("no captions"), MemoryError("no more"), RuntimeError("can't allocate memory")]
)
def test_a_distance_that_cannot_be_measured_costs_no_timings(error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    evaluator: Any = SimpleNamespace(evaluate=fail)
    notes: dict[str, str] = {}
    quality = PictureQuality(None, {Path("m"): evaluator})
    found = quality._fd(Configuration("m", Path("m"), "pytorch", "fp32", 1), notes)
    assert set(found.values()) == {None} and set(notes.values()) == {str(error)} and "fd_world" in notes


def test_what_does_not_fit_side_by_side_is_measured_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    configurations = [Configuration(str(index), Path(), "openvino", "int8", 1) for index in range(4)]
    sizes = dict.fromkeys(configurations, 1_000_000_000)  # each needs 2.4 GB
    assert [len(group) for group in memory_groups(configurations, sizes, budget=5_000_000_000)] == [2, 2]
    assert [len(group) for group in memory_groups(configurations, sizes, budget=1)] == [1, 1, 1, 1]
    monkeypatch.setattr(rounds, "available_memory_bytes", lambda: None)  # Windows without psutil
    assert [len(group) for group in memory_groups(configurations, sizes)] == [1, 1, 1, 1]


@pytest.mark.parametrize("openvino", [True, False])
def test_configurations_follow_what_a_bundle_has(openvino: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if openvino else None)
    graphs = tuple(
        {"component": "unet", "format": form, "precision": precision, "files": [{"size_bytes": 8}]}
        for form, precision in (("onnx", "fp32"), ("onnx", "int8"), ("coreml", "fp16"))
    )
    facts = ModelFacts(Path("b"), "bundle", "b", "student", 64, 4, 1.0, graphs=graphs)
    contender = Contender("b", Path("b"))

    def chosen(**choices: Any) -> list[tuple[str, str, int]]:
        return [(one.runtime, one.precision, one.steps) for one in configure(contender, facts, Choices(**choices))]

    onnx, coreml = [("onnxruntime", "fp32", 4), ("onnxruntime", "int8", 4)], [("coreml", "fp16", 4)]
    also = [("openvino", precision, 4) for _, precision, _ in onnx] if openvino else []  # it reads the ONNX graphs, too
    assert chosen() == [*onnx, *also, *coreml]
    assert chosen(runtimes=["openvino"], precisions=["int8"], steps=[1, 4]) == [
        ("openvino", "int8", 1),
        ("openvino", "int8", 4),
    ]
    assert chosen(runtimes=["openvino"]) == [("openvino", "fp32", 4), ("openvino", "int8", 4)]  # reads ONNX
    assert chosen(runtimes=["auto"]) == [("auto", "auto", 4)]
    for others in ((graphs[2],), ()):  # what it has no graphs for is skipped with the reason, which its process gives
        without = configure(contender, replace(facts, graphs=others), Choices(runtimes=["onnxruntime", "openvino"]))
        assert [(one.runtime, one.precision) for one in without] == [("onnxruntime", "auto"), ("openvino", "auto")]
    [nothing] = configure(contender, replace(facts, graphs=()), Choices())
    assert (nothing.runtime, nothing.precision) == ("auto", "auto")
    facts = replace(facts, trained_steps=(1,))  # of the steps asked for, those it was trained for
    assert chosen(runtimes=["auto"], steps=[4, 1]) == [("auto", "auto", 1)]
    assert chosen(runtimes=["auto"], steps=[4, 2]) == [("auto", "auto", 4), ("auto", "auto", 2)]
    teacher = ModelFacts(Path("t"), "model", "t", None, 64, 50, 7.5)  # someone else's: its own steps, on PyTorch
    (only,) = configure(Contender("t", Path("t")), teacher, Choices(runtimes=["openvino"], steps=[1]))
    assert (only.runtime, only.steps, only.role) == ("pytorch", 50, "teacher")
    sweep = configure(Contender("t", Path("t")), teacher, Choices(teacher_steps=[100, 16], steps=[1]))
    assert [one.steps for one in sweep] == [100, 16]
    sweep = configure(Contender("t", Path("t")), teacher, Choices(threads=[1, 2]))
    assert [one.threads for one in sweep] == [1, 2]
    sweep = configure(Contender("t", Path("t")), teacher, Choices(threads=[1], batches=[1, 4], sizes=[64, 96]))
    assert [(one.batch, one.size) for one in sweep] == [(1, None), (1, 96), (4, None), (4, 96)]  # 64 is its own
    assert [one.suffix for one in sweep] == ["", " · 96 px", " · batch 4", " · batch 4 · 96 px"]


def test_auto_is_decided_once_before_anything_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its processes are started with what was chosen, and draw FD with it; the row says that `auto` chose."""
    choices = {"b": ("openvino", "fp16"), "other": ("onnxruntime", "int8")}
    decided: list[str] = []

    def decide(path: Path, runtime: str, precision: str, settings: EngineSettings) -> Any:
        decided.append(f"{path} {runtime} {precision} {settings.threads}")
        if path.name not in choices:
            raise InputError("the bundle has no graphs for any runtime")
        runtime, precision = choices[path.name]
        return SimpleNamespace(way=SimpleNamespace(choice=SimpleNamespace(runtime=runtime, precision=precision)))

    monkeypatch.setattr(auto, "decide_for", decide)
    asked = [Configuration(name, Path(name), "auto", "auto", 1, threads=2) for name in ("b", "other", "none")]
    asked += [replace(asked[0], runtime="onnxruntime")]
    found = settled(asked, Journal(tmp_path, {}))
    assert [(one.runtime, one.precision) for one in found] == [
        *choices.values(),
        ("auto", "auto"),
        ("onnxruntime", "auto"),
    ]
    assert [one.asked for one in found] == [("auto", "auto"), ("auto", "auto"), None, None] and len(decided) == 3
    choices["b"] = (
        "onnxruntime",
        "fp16",
    )  # the machine was busy, and is not any more: an interrupted run goes on as it began
    assert settled(asked, Journal(tmp_path, {})) == found and len(decided) == 3

    facts = ModelFacts(Path("b"), "bundle", "b", "student", 8, 1, 1.0)
    facts.__dict__["sha256"] = "0" * 64
    sampled: list[Any] = []
    evaluator: Any = SimpleNamespace(evaluate=lambda _, sampling: sampled.append(sampling) or {"notes": {}, **NO_FD})
    started: list[Configuration] = []

    class Started(Recorder):
        def __init__(self, configuration: Configuration, protocol: Protocol) -> None:
            super().__init__(configuration, protocol)
            started.append(configuration)
            self.facts = self.facts | {"runtime": configuration.runtime, "precision": "fp16", "provider": "CPU"}

    monkeypatch.setattr(rounds, "Worker", Started)
    monkeypatch.setattr(bench, "read_facts", lambda _: facts)
    monkeypatch.setattr(bench, "configure", lambda *_: asked[:1])
    monkeypatch.setattr(bench, "measure_peaks", lambda *_: [])
    monkeypatch.setattr(PictureQuality, "prepared", lambda *_: PictureQuality(None, {Path("b"): evaluator}))
    [row] = bench.measure_models([Contender("b", Path("b"))], protocol=Protocol(runs=3, processes=2))[0]["results"]
    assert [one.runtime for one in started] == ["onnxruntime"] * 2 and row["asked"] == {
        "runtime": "auto",
        "precision": "auto",
    }
    assert (sampled[0].runtime, sampled[0].precision) == ("onnxruntime", "fp16")


def test_memory_and_machine() -> None:
    code = (
        "import numpy as np; from genin.benchmarks.speed.memory import peak_rss_bytes as peak; before = peak();"
        "block = np.ones(30_000_000); print(peak() - before)"
    )  # in a process of its own: a peak only grows
    grown = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert 200_000_000 < grown < 400_000_000
    found = describe_machine(["onnxruntime"])
    assert found["packages"]["numpy"] == np.__version__ and "torch" not in found["packages"]
    assert found["sha256"] == describe_machine([])["sha256"] and len(found["sha256"]) == 64
    with pytest.raises(InputError):
        Protocol(runs=0)


def test_stages_add_up() -> None:
    stages = {"unet": 6.0, "text_encoder": 1.0, "vae_decoder": 2.0, "other": 99.0}
    one = Run.of_answer({"total_ms": 10.0, "stages_ms": stages}, round=0, at_s=0.0)
    assert sum(one.stages_ms.values()) == 10 and one.stages_ms["other"] == 1


def test_a_busy_machine_is_said() -> None:
    assert busy_before(1.0, 2) is None and busy_before(None, 2) is None
    assert busy_before(4.13, 2) == "Load average before the run: 4.13 on 2 cores (timings unreliable)"
    assert busy_during(0.4, 2) is None and busy_during(None, 2) is None
    assert str(busy_during(1.3, 2)).startswith("Other processes kept 1.3 of 2 cores busy during the run")
    if sys.platform == "linux":
        with OtherWork.watched() as other:
            subprocess.run([sys.executable, "-c", "sum(range(10**6))"], check=True)  # our own process is no other work
        assert (other.cores() or 0.0) >= 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/stat")
def test_other_work_is_that_of_the_cores_that_may_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On 64 cores, of which two are ours (taskset): 30 others that are busy do not disturb; a quota does not make them fewer."""
    stat, ticks = tmp_path / "stat", os.sysconf("SC_CLK_TCK")

    def after(seconds: float, busy: set[int]) -> None:
        each = [f"cpu{core} {round(seconds * ticks * (core in busy))} 0 0 9999 0 0 0 0 0 0" for core in range(64)]
        stat.write_text(f"cpu {round(seconds * ticks * len(busy))} 0 0 9999 0 0 0 0 0 0\n" + "\n".join(each))

    def other_cores(busy: set[int]) -> float | None:
        after(0, busy)
        with OtherWork.watched() as other:
            after(100, busy)
        other.seconds = 100
        return other.cores()

    monkeypatch.setattr(machine, "STAT", stat)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4, 5})
    monkeypatch.setattr(machine, "_own_seconds", lambda: 0.0)
    assert other_cores(set(range(10, 40))) == 0 and other_cores({5, 6}) == pytest.approx(1, abs=0.02)
    described = {"load_average": 20.0, "logical_cores": 64, "usable_cores": 2}
    assert busy_text(described | {"other_cores": 0.4}) is None
    assert busy_text(described | {"other_cores": 1.0}) == busy_during(1.0, 2)
    assert busy_text(described | {"load_average": 40.0}) == busy_before(40.0, 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert busy_text(described | {"other_cores": 15.0}) is None  # 2 usable cores of 64 by a quota
    assert other_cores({1, 2}) == pytest.approx(2, abs=0.02)
    both = OtherWork(50, 100)
    both.add(OtherWork(50, 0))
    assert both.cores() == 1
    stat.write_text("cpu 1 2 3")
    with OtherWork.watched() as unknown:
        pass
    both.add(unknown)
    assert both.cores() is None


def test_the_harness_adds_less_than_50_microseconds() -> None:
    """What a worker reports for a picture that takes no time, at best of 200."""
    nothing = SimpleNamespace(images=[np.zeros((8, 8, 3), np.uint8)], timings={"unet": 0.0}, step_timings=())
    session = Session(SimpleNamespace(generate=lambda *_, **__: nothing), steps=1)
    assert min(session.time("a", seed)["total_ms"] for seed in range(200)) < 0.05


def test_a_page_of_evaluations_and_pictures_alone(tmp_path: Path) -> None:
    grid = Grid("Seeds", ("a caption",), (GridRow("model", "1 step", np.zeros((1, 8, 8, 3), np.uint8)),))
    evaluation = {"model": "m", "steps": 1, "samples": 5000, "fd_world": 1.5, "attribute_accuracy": {"mean": 0.93}}
    evaluation |= {"reference": "builtin:world", "reference_count": 5000, "notes": {"fid": "no weights"}}
    path = write_report(Report(grids=[grid], evaluations=[evaluation], title="A <title>"), tmp_path / "page.html")
    page = path.read_text(encoding="utf-8")
    assert "A &lt;title&gt;" in page and "0.930" in page and "fid: no weights" in page and "FD SqueezeNet" not in page


def test_the_plot_needs_quality_and_takes_the_pages_colours() -> None:
    row = {"bundle": "a", "runtime": "openvino", "precision": "int8", "steps": 1, "latency_ms": {"p50": 8.0}}
    assert quality_axis([row]) is None and quality_latency_svg([row]) is None
    svg = quality_latency_svg([row | {"fd_ratio": 1.1}, row | {"fd_ratio": 1.0, "latency_ms": {"p50": 900.0}}])
    assert svg is not None and svg.startswith("<svg role=") and "var(--s1)" in svg and "http" not in svg


def test_refusals(tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*arguments: str | Path) -> str:
        capsys.readouterr()
        assert run(["bench", *map(str, arguments)]) == 2
        return capsys.readouterr().err

    for wrong in ("1,x", "4-1", "0-2", ""):
        assert "list of positive integers" in refused(tiny_model_folder, "--steps", wrong)
    assert "did you mean openvino" in refused(tiny_model_folder, "--runtime", "openvin")
    assert "no such" in refused(tmp_path / "absent")
    (tmp_path / "none.txt").write_text("\n")
    assert "no prompts" in refused(tiny_model_folder, "--prompts", tmp_path / "none.txt")
    assert "neither a model folder nor a bundle" in refused(tmp_path)

"""Other programs beside genin: what each is asked for, and that one that misbehaves costs its own row only."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import result_files
from genin.benchmarks import BenchOptions, bench
from genin.benchmarks.bench_commands import PEER_NAMES
from genin.benchmarks.contenders import Contender
from genin.benchmarks.model_facts import ModelFacts, read_facts
from genin.benchmarks.peers import node, table
from genin.benchmarks.peers.table import ALL, MODEL_FOLDER, OWN_NOISE, PEERS, Peer
from genin.benchmarks.results.compare import compare_with
from genin.benchmarks.results.files import read_results, seal
from genin.benchmarks.results.merge import merge
from genin.benchmarks.results.table import results_table
from genin.benchmarks.speed import rounds, worker
from genin.benchmarks.speed.configurations import Choices, configure_peers
from genin.benchmarks.speed.worker import WorkerError, checked_answer
from genin.runtimes.errors import InputError
from genin.runtimes.noise import normal

FAKE = """
import os, time
import numpy as np
from genin.benchmarks.peers.opened import Opened

def opener(misbehave=lambda number: None, side=None):
    def open_it(subject):
        drawn = [0]
        def draw(prompt, seed):
            time.sleep(0.11)  # no picture is drawn twice to wake it
            drawn[0] += 1
            misbehave(drawn[0])
            height, width = (side, side) if side else subject.side
            colours = np.arange(height * width * 3) % 251
            return (colours + seed).astype(np.uint8).reshape(height, width, 3)
        return Opened(draw)
    return open_it

def crash(number):
    if number == 3:
        os.abort()

def fail(number):
    if number == 3:
        raise RuntimeError("no more of this")

def hang(number):
    if number == 3:
        time.sleep(60)

def chatter(number):
    print("step 1 of 4", flush=True)
    os.write(1, b"loaded in 3 s\\n")

fine, crashes, fails, hangs, prints = map(opener, (lambda n: None, crash, fail, hang, chatter))
other_size = opener(side=8)
"""
STUDENT = Path(__file__).parents[2] / "runtimes" / "weights" / "student"


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Peer]:
    """Peers that open bundles' ONNX graphs, draw noise of their own, and misbehave as they are called."""
    (tmp_path / "fake_peers.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    names = ("fine", "crashes", "fails", "hangs", "prints", "other_size")
    fake = Peer("fake engine", "onnx", "pip install it", "json", "numpy", own_noise=True)
    peers = {name: replace(fake, opener=f"fake_peers:{name}") for name in names}
    peers["absent"] = replace(fake, module="no_such_module")
    peers["same noise"] = replace(fake, opener="fake_peers:fine", own_noise=False, differs=("it is a fake",))
    monkeypatch.setattr(table, "PEERS", peers)
    for name in ("configurations", "picture_quality", "rows"):
        monkeypatch.setattr(f"genin.benchmarks.speed.{name}.PEERS", peers)
    return peers


@pytest.mark.processes
def test_a_peer_that_misbehaves_costs_its_own_row_only(
    fakes: dict[str, Peer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "ANSWER_TIMEOUT_S", 8.0)
    options = BenchOptions(runs=3, processes=1, warmup=0, threads=1, runtimes="onnxruntime", prompts=["a ninja"])
    results = bench(STUDENT, replace(options, peers=tuple(fakes), out=tmp_path / "r.json", report=tmp_path / "r.html"))
    rows = {row["program"]: row for row in results["results"]}
    assert list(rows) == ["genin", "fine", "prints", "same noise"]
    assert all(row["runs"] == 3 for row in rows.values()) and rows["genin"]["valid"] is True
    assert rows["fine"]["valid"] is None and rows["fine"]["differs"] == [OWN_NOISE]
    assert rows["same noise"]["valid"] is False and "PSNR" in rows["same noise"]["validity"]["reasons"][0]
    assert rows["fine"]["name"] == "student · fine fake engine fp16 · 4 steps"
    assert rows["fine"]["stages_ms"]["other"] == rows["fine"]["latency_ms"]["p50"] and rows["fine"]["steps_ms"] == []
    assert rows["fine"]["encoded_prompt_ms"] is None and rows["fine"]["program_version"] == np.__version__
    assert rows["fine"]["macs_per_picture"] == rows["genin"]["macs_per_picture"]
    reasons = {one["program"]: one["reason"] for one in results["skipped"]}
    assert reasons == {
        "crashes": "its process ended by SIGABRT",
        "fails": "its process ended with code 1 (RuntimeError: no more of this)",
        "hangs": "its process gave no answer within 8 s",
        "other_size": "it drew 8x8 pixels, and 128x128 was asked for",
        "absent": "it is not installed: pip install it",
    }
    assert read_results(tmp_path / "r.json") == results
    shown = results_table(results)
    assert "| program " in shown and f"student · fine fake engine fp16 · 4 steps: {OWN_NOISE}" in shown
    assert "skipped: student by absent on fake engine fp16: it is not installed: pip install it" in shown
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "it is a fake" in page and "By every program" in page and "pip install it" in page


def test_an_answer_is_a_line_of_json_with_what_was_asked_for() -> None:
    def error(line: str, *needed: str) -> str:
        return str(checked_answer(line, needed).get("error"))

    assert error("loaded in 3 s\n") == "its process printed 'loaded in 3 s' in place of an answer"
    assert error("[1]\n") == "its process printed '[1]' in place of an answer"
    assert error('{"total_ms": 1}\n', "total_ms", "stages_ms") == "its process answered without stages_ms"
    for wrong in ("NaN", "-1", "0", '"1"', "true", "null"):
        assert "milliseconds" in error(f'{{"total_ms": {wrong}}}\n', "total_ms")
    assert error('{"error": "out of\\nmemory"}\n', "total_ms") == "out of memory"
    assert checked_answer('{"total_ms": 1.5}\n', ["total_ms"]) == {"total_ms": 1.5}


@pytest.mark.parametrize(
    "kept", [np.zeros((2, 8, 8, 3)), np.zeros((3, 8, 8, 3), np.uint8), np.zeros(2, np.uint8), None]
)
def test_pictures_that_are_none_are_refused(kept: Any) -> None:
    class Wrong:
        def ask(self, **request: Any) -> dict[str, Any]:
            if kept is None:
                Path(request["out"]).write_bytes(b"no array")
            else:
                np.save(request["out"], kept)
            return {"memory_bytes": {}}

    with pytest.raises(WorkerError, match="its pictures"):
        rounds._finish(Wrong(), 2, do="finish")  # type: ignore[arg-type]


def test_each_peer_gets_what_it_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (ALL, *PEERS) == PEER_NAMES
    for name, peer in PEERS.items():
        monkeypatch.setitem(PEERS, name, replace(peer, is_here=lambda: True))
    graphs = tuple(
        {"component": "unet", "format": form, "precision": precision, "files": []}
        for form, precision in (("onnx", "fp32"), ("onnx", "int8"), ("openvino", "fp16"))
    )
    bundle = ModelFacts(Path("b"), "bundle", "b", "student", 64, 4, 1.0, trained_steps=(4, 1), graphs=graphs)
    found, refused = configure_peers(
        Contender("b", Path("b")), bundle, Choices(steps=[4], threads=[1, 2], peers=tuple(PEERS))
    )
    chosen = [(one.program, one.runtime, one.precision, one.threads) for one in found if one.threads == 1]
    assert chosen == [
        ("optimum-onnx", "onnxruntime", "fp32", 1),
        ("optimum-onnx", "onnxruntime", "int8", 1),
        ("optimum-intel", "openvino", "fp16", 1),
        ("openvino-genai", "openvino", "fp16", 1),
        ("onnxruntime-web", "onnxruntime-web", "fp32", 1),
        ("onnxruntime-web", "onnxruntime-web", "int8", 1),
    ]
    assert len(found) == 2 * len(chosen) and {one.steps for one in found} == {4}
    assert {one.program for one, _ in refused} == {name for name, one in PEERS.items() if one.opens == MODEL_FOLDER}
    assert "name the model folder" in refused[0][1]
    named, refused = configure_peers(
        Contender("b", Path("b")), bundle, Choices(precisions=["fp32"], peers=["openvino-genai"])
    )
    assert not named and refused[0][1] == "it opens this model in fp16"
    folder = ModelFacts(Path("t"), "model", "t", None, 64, 50, 7.5)
    found, refused = configure_peers(
        Contender("t", Path("t")), folder, Choices(steps=[1], peers=["diffusers", "optimum-onnx"])
    )
    assert [(one.program, one.precision, one.steps, one.role) for one in found] == [
        ("diffusers", "fp32", 50, "teacher")
    ]
    assert "genin export MODEL --format onnx" in refused[0][1]
    with pytest.raises(InputError, match="unknown peer 'optimum'"):
        BenchOptions(peers="optimum")
    assert BenchOptions(peers="all").peers == tuple(PEERS)


def peer_row(model: str, latency_ms: float, program: str, **more: Any) -> dict[str, Any]:
    row = result_files.row(model, latency_ms, seed=len(program))
    name = row["name"] if program == "genin" else row["name"].replace("onnxruntime", f"{program} onnxruntime")
    return row | {"program": program, "name": name, **more}


def test_programs_of_one_run_are_compared_on_the_same_weights() -> None:
    source = {"source_sha256": "5" * 64}
    rows = [
        peer_row("student.genin", 10.0, "genin", **source),
        peer_row("student.genin", 20.0, "optimum-onnx", **source),
        peer_row("student", 30.0, "diffusers", runtime="pytorch", differs=["slow to start"], **source),
        peer_row("another", 5.0, "diffusers"),
    ]
    results = seal(result_files.results(*rows))
    found = compare_with(results, "genin")
    assert [(row.name.split(" · ")[0], row.verdict, row.paired) for row in found.rows] == [
        ("student.genin", "slower", True),
        ("student", "slower", True),
    ]
    assert found.rows[1].ratio == pytest.approx(3, rel=0.02) and found.rows[1].notes == ("slow to start",)
    assert found.only_in_new == (rows[3]["name"],)
    with pytest.raises(InputError, match="no model 'optimum'"):
        compare_with(results, "optimum")
    shown = results_table({"results": merge([("a.json", results)]).rows, "skipped": []})
    assert shown.count("optimum-onnx") == 1 and "| program " in shown  # the name says it, too, but is no column
    plain = result_files.row("a", 10.0)
    assert "program" not in results_table(result_files.results(plain))  # files without peers look as before


needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")


@needs_node
def test_node_draws_the_same_noise(tmp_path: Path) -> None:
    program = node.PROGRAM.read_text(encoding="utf-8").partition("// --- drawing")[0]
    script = tmp_path / "noise.cjs"
    script.write_text(program + "process.stdout.write(JSON.stringify([...noise(Number(process.argv[2]), 1026)]));")
    for seed in (0, 7, 2**43 + 5):
        done = subprocess.run(["node", str(script), str(seed)], capture_output=True, text=True, check=True)
        np.testing.assert_allclose(json.loads(done.stdout), normal(seed, (1026,)), rtol=2e-6, atol=1e-7)


QUICK = ("diffusers", "onnxruntime-web")  # one in Python and one in another language
EVERY = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in PEERS]


@pytest.mark.clients
@pytest.mark.parametrize("name", EVERY)
def test_a_peer_that_is_installed_draws_genin_s_pictures(
    name: str, tiny_bundle: Path, tiny_student_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = PEERS[name]
    if not peer.is_installed():
        pytest.skip(f"{name} is not installed: {peer.install}")
    path = tiny_student_folder if peer.opens == MODEL_FOLDER else tiny_bundle
    own = {"openvino": "openvino", "model": "pytorch"}.get(peer.opens, "onnxruntime")
    options = BenchOptions(
        runs=1, processes=1, warmup=0, threads=1, runtimes=own, precisions="fp32", steps=4, peers=name
    )
    results = bench(path, replace(options, prompts=["a ninja"]))
    assert results["skipped"] == []
    [row] = [one for one in results["results"] if one["program"] == name]
    assert row["valid"] is True or peer.own_noise, row["validity"]
    assert row["precision"] == "fp32" and row["first_run_ms"] > 0 and row["peak_rss_bytes"] > 1e7
    assert row["weights_sha256"] == read_facts(path).sha256

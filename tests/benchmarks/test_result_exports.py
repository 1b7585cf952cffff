"""Results in other formats, of several devices, of a machine against itself; suites. Other tools' readers open what is theirs."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genin import cli
from genin.benchmarks.bench_commands import EXPORT_FORMATS
from genin.benchmarks.results import statistics
from genin.benchmarks.results.exports import FORMATS, export
from genin.benchmarks.results.files import digest, write_results
from genin.benchmarks.results.merge import merge
from genin.benchmarks.results.selftest import resolution
from genin.benchmarks.suites import SHIPPED, read_suite
from genin.runtimes.errors import GeninError, InputError
from result_files import results, row


@pytest.fixture
def both() -> dict[str, Any]:
    wrong = row("wrong", 1.0) | {"valid": False}
    wrong["validity"] = wrong["validity"] | {"reasons": ["2 blank pictures, the first in round 0"]}
    return results(row("a", 10.0), row("b <&> 100%", 20.0, seed=2), wrong)


def test_csv_has_every_configuration_and_every_run(both: dict[str, Any]) -> None:
    lines = list(csv.DictReader(io.StringIO(export(both, "csv"))))
    assert [line["bundle"] for line in lines] == ["a", "b <&> 100%", "wrong"]
    assert float(lines[0]["p50_ms"]) == both["results"][0]["latency_ms"]["p50"] and lines[0]["p99_ms"] == ""
    assert float(lines[0]["p50_low_ms"]) < float(lines[0]["p50_ms"]) < float(lines[0]["p50_high_ms"])
    assert [line["valid"] for line in lines] == ["True", "True", "False"]
    runs = list(csv.DictReader(io.StringIO(export(both, "runs-csv"))))
    assert len(runs) == 120 and [float(run["total_ms"]) for run in runs[:40]] == both["results"][0]["samples_ms"]
    assert runs[9]["process"] == "1" and float(runs[0]["unet_ms"]) > 0


def test_pyperf_reads_its_format(both: dict[str, Any], tmp_path: Path) -> None:
    pyperf = pytest.importorskip("pyperf")
    (tmp_path / "p.json").write_text(export(both, "pyperf"))
    suite = pyperf.BenchmarkSuite.load(str(tmp_path / "p.json"))
    first = suite.get_benchmarks()[0]
    assert suite.get_benchmark_names()[0] == both["results"][0]["name"] and first.get_nrun() == 5
    assert list(first.get_values()) == pytest.approx([one / 1000 for one in both["results"][0]["samples_ms"]])
    assert first.median() == pytest.approx(both["results"][0]["latency_ms"]["p50"] / 1000, rel=1e-4)


def test_optimum_s_keys_have_its_units(both: dict[str, Any]) -> None:
    report = json.loads(export(both, "optimum"))[both["results"][0]["name"]]
    assert list(report) == ["load_model", "first_call", "call", "per_step", "genin"]
    call = report["call"]
    assert list(call) == ["memory", "latency", "throughput", "energy", "efficiency"]
    assert call["latency"]["unit"] == "s" and call["latency"]["count"] == 40
    assert call["latency"]["p50"] == pytest.approx(both["results"][0]["latency_ms"]["p50"] / 1000, rel=1e-4)
    assert call["throughput"]["value"] == pytest.approx(1000 / both["results"][0]["latency_ms"]["mean"], rel=1e-4)
    assert (call["memory"]["max_ram"], call["memory"]["unit"]) == (95.0, "MB")
    assert report["per_step"]["latency"]["count"] == 160


def test_a_card_is_what_the_hub_reads(both: dict[str, Any]) -> None:
    yaml, hub = pytest.importorskip("yaml"), pytest.importorskip("huggingface_hub")
    block = yaml.safe_load(export(both, "card"))
    assert [one["name"] for one in block["model-index"]] == ["a", "b <&> 100%"]  # not the one with wrong pictures
    card = hub.ModelCardData(**block)
    assert card.model_name == "a" or card.eval_results
    first = block["model-index"][0]["results"][0]
    assert first["task"]["type"] == "text-to-image"
    assert first["metrics"][0]["value"] == pytest.approx(both["results"][0]["latency_ms"]["p50"], rel=1e-4)
    assert first["metrics"][0]["args"]["results_sha256"] == digest(both)


def test_a_badge_shows_the_fastest_valid_row(both: dict[str, Any]) -> None:
    badge = export(both, "badge")
    tree = ElementTree.fromstring(badge)
    texts = [element.text for element in tree.iter() if element.tag.endswith("text")]
    assert texts == ["genin bench", "10.0 ms"] and digest(both)[:16] in badge
    busy = both | {"notes": {"busy": "Load average before the run: 4.00 on 2 cores (timings unreliable)"}}
    assert "busy machine" in export(busy, "badge") and export(busy, "markdown").startswith("**Load average")
    with pytest.raises(GeninError, match="no row has valid pictures"):
        export(results(both["results"][2]), "badge")


def test_bibtex_cites_the_hash_and_escapes_names(both: dict[str, Any]) -> None:
    entry = export(both, "bibtex")
    assert re.match(rf"@misc\{{genin-bench-{digest(both)[:8]},", entry) and digest(both) in entry
    assert r"b <\&> 100\%" in entry and "year = {2026}" in entry and entry.count("{") == entry.count("}")


def test_the_command_writes_every_format(
    both: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tuple(FORMATS) == EXPORT_FORMATS
    write_results(both, tmp_path / "r.json")
    for format in FORMATS:
        capsys.readouterr()
        assert cli.run(["bench", "export", str(tmp_path / "r.json"), "--format", format]) == 0
        assert capsys.readouterr().out == export(both, format)
    out = tmp_path / "badge.svg"
    assert cli.run(["bench", "export", str(tmp_path / "r.json"), "--format", "badge", "--out", str(out)]) == 0
    assert out.read_text() == export(both, "badge")
    assert cli.run(["bench", "export", str(tmp_path / "r.json"), "--format", "xml"]) == 2


def test_every_export_says_where_it_is_from_and_that_the_machine_was_busy(both: dict[str, Any]) -> None:
    """And raw formats that a row's pictures are wrong."""
    both["notes"]["busy"] = "Load average before the run: 9.00 on 2 cores (timings unreliable)"
    hash, said = digest(both), {format: export(both, format) for format in FORMATS}
    assert [format for format, text in said.items() if hash[:16] not in text] == []
    assert [format for format, text in said.items() if "busy machine" not in text and "9.00" not in text] == []
    for format in ("csv", "runs-csv"):
        rows = list(csv.DictReader(io.StringIO(said[format])))
        assert {row["valid"] for row in rows if row["name"].startswith("wrong")} == {"False"}
    assert {one["genin"]["valid"] for one in json.loads(said["optimum"]).values()} == {True, False}


# --- several devices -------------------------------------------------------------------------------------------------


def test_devices_are_merged_into_one_table_and_page(
    both: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    phone = results(row("a", 50.0, seed=3))
    phone["notes"] |= {"a": "steps: 9 were measured, and it was trained for 4"}
    phone["results"][0] |= {
        "valid": False,
        "validity": {"pictures": 2, "reference": None, "reasons": ["2 blank pictures"]},
    }
    phone["notes"]["busy"] = "Load average before the run: 9.00 on 1 core (timings unreliable)"
    phone["machine"] = phone["machine"] | {"processor": "A Phone", "usable_cores": 1}
    for name, content in (("laptop.json", both), ("phone.json", phone)):
        write_results(content, tmp_path / name)
    page = tmp_path / "devices.html"
    files = [str(tmp_path / name) for name in ("laptop.json", "phone.json")]
    assert cli.run(["bench", "merge", files[0], "--report", str(page)]) == 0
    lead = re.search(r'class="lead">(.*?)<', page.read_text(encoding="utf-8"))
    assert lead and lead[1].count("Some Processor") == 1
    capsys.readouterr()
    assert cli.run(["bench", "merge", *files, "--report", str(page)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("**A Phone, 1 core: Load average before the run: 9.00")
    assert re.search(r"^\| Some Processor, 2 cores +\| a +\|", said, re.MULTILINE) and "~~wrong~~" in said
    assert re.search(r"^\| ~~A Phone, 1 core~~ +\| ~~a~~ +\|", said, re.MULTILINE)
    assert "a: steps: 9 were measured, and it was trained for 4 (A Phone, 1 core)" in said
    html = page.read_text(encoding="utf-8")
    assert "steps · A Phone, 1 core: not valid: 2 blank pictures" in html and "trained for 4 (A Phone, 1 core)" in html
    assert "Machine and method: A Phone, 1 core" in html and 'class="busy"' in html and 'class="invalid"' in html
    assert "A picture in 10.0 ms" in html and "The fastest of 2 devices" in html and "b &lt;&amp;&gt; 100%" in html
    assert cli.run(["bench", "merge", *files, "--json"]) == 0
    merged = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(merged["devices"]) == ["Some Processor, 2 cores", "A Phone, 1 core"] and len(merged["results"]) == 4
    assert cli.run(["bench", "merge", files[0], files[0]]) == 2


def test_equal_devices_are_told_apart_by_their_files() -> None:
    merged = merge([("monday.json", results(row("a", 1.0)) | {"sha256": "1"}), ("friday.json", results(row("a", 1.1)))])
    assert list(merged.devices) == ["Some Processor, 2 cores (monday.json)", "Some Processor, 2 cores (friday.json)"]
    assert len({one["name"] for one in merged.rows}) == 2


# --- a machine against itself ----------------------------------------------------------------------------------------


def a_machine(noise: float, seed: int, processes: int = 5, between: float | None = None) -> list[Any]:
    random = np.random.default_rng(seed)
    levels = random.normal(0, noise / 5 if between is None else between, processes)
    return [10 * np.exp(level + random.normal(0, noise, 8)) for level in levels]


def test_a_quiet_machine_shows_smaller_differences_than_a_noisy_one() -> None:
    quiet, noisy = (resolution(a_machine(noise, 1), a_machine(noise, 2), tries=20) for noise in (0.005, 0.05))
    assert 0.2 < quiet.resolves_percent < 2 < noisy.resolves_percent < 30
    assert quiet.false_alarms == 0 and noisy.false_alarms <= 1 and quiet.tries == 20


def test_more_processes_make_different_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five processes alone sixteen comparisons are different, so that one alarm among them is counted six times."""
    monkeypatch.setattr(statistics, "RESAMPLES", 100)
    few, many = (resolution(a_machine(0.01, 1, count), a_machine(0.01, 2, count)) for count in (5, 20))
    assert few.different <= 16 and many.different >= 95 and few.compared == many.compared == 5
    two = resolution(a_machine(0.01, 1, 2), a_machine(0.01, 2, 2), tries=10)
    assert (two.different, two.compared) == (2, 2)


# --- suites ----------------------------------------------------------------------------------------------------------


def test_shipped_suites_are_what_they_were() -> None:
    """Results are compared by these prompts: another one is another suite."""
    for name in SHIPPED:
        models, options = read_suite(name)
        assert models[-1] == "builtin:student-1step" and options["suite"] == name
        prompts = hashlib.sha256(json.dumps(options["prompts"]).encode()).hexdigest()
        assert prompts == "a36e06550cbbbda81c3040f2f3cf578c5a6caf2db0dc4e8c242813570ee4f806"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("models: [a]\nprompts: [b]\nrunz: 3\n", "a suite has no 'runz': {file}; did you mean runs"),
        ("models: [a]\nprompts: [b]\nout: x.json\n", "a suite has no 'out'"),
        ("models: [a]\nprompts: [b]\nruns: many\n", "runs must be a whole number, at least 1; got 'many': {file}"),
        ("models: [a]\n", "a suite needs prompts: a list of texts: {file}"),
        ("models: a\nprompts: [b]\n", "a suite needs models: a list of texts"),
        ("models: [a\n", "the suite is not YAML (line"),
        ("- a\n", "a suite is a list of options: key: value"),
        ("", "a suite is a list of options"),
    ],
)
def test_a_wrong_suite_is_one_line(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        read_suite(file)
    assert says.format(file=file) in str(caught.value)


def test_the_command_line_goes_before_the_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def remember(models: Any, options: Any) -> dict[str, Any]:
        asked.append((tuple(models), options))
        return results()

    monkeypatch.setattr("genin.benchmarks.benchmarking.bench", remember)
    (tmp_path / "mine.yaml").write_text("models: [a, b]\nprompts: [a ninja]\nruns: 7\nthreads: [1, 2]\n")
    assert cli.run(["bench", "--suite", str(tmp_path / "mine.yaml")]) == 0
    assert cli.run(["bench", "c", "--suite", str(tmp_path / "mine.yaml"), "--runs", "9"]) == 0
    assert cli.run(["bench"]) == 0
    (first, of_first), (second, of_second), (default, of_default) = asked
    name = of_first.suite
    assert name.startswith("mine.yaml (sha256 ")
    assert (first, of_first.runs, of_first.threads, of_first.suite) == (("a", "b"), 7, (1, 2), name)
    assert (second, of_second.runs, of_second.threads, of_second.suite) == (("c",), 9, (1, 2), f"{name}, changed")
    assert default == ("builtin:student", "builtin:student-1step") and of_default.suite is None
    assert cli.run(["bench", "--suite", "quik"]) == 2


# --- figures that not every row has ----------------------------------------------------------------------------------


@pytest.fixture
def rich() -> dict[str, Any]:
    """A row with everything, of batches of two, and one by a peer."""
    windows = [{"at_s": 0.0, "seconds": 60.0, "runs": 9, "p50_ms": 20.0, "max_ms": 30.0}]
    sustained = {"seconds": 60.0, "runs": 9, "windows": windows, "drift_percent_per_minute": 1.25, "last_to_first": 1.1}
    sustained |= {"drift_interval": [1.0, 1.5], "throttled": None}
    frames = {"frames": 1200, "p50_ms": 16.7, "p99_ms": 19.4, "worst_ms": 33.2, "late_percent": 1.9}
    costs = {"kinds": [{"kind": "Conv", "operators": 4, "ms": 7.0, "share": 0.7}], "layers": []}
    first = row("a", 20.0) | {"batch_size": 2, "joules_per_picture": 0.5, "matmul_share": 0.61, "gflops": 92.0}
    first |= {"sustained": sustained, "frames": {"off": frames, "thread": frames}, "source_sha256": "7" * 64}
    first |= {"operators": {"unet": {"calls": 4.0, "ms": 10.0, **costs}}, "outliers": 1}
    first["validity"] = first["validity"] | {"worst_psnr_db": 41.0}
    peer = row("a", 9.0, seed=2) | {"program": "optimum-onnx", "program_version": "0.1", "differs": ["it is slow"]}
    return results(first, peer | {"name": "a · optimum-onnx onnxruntime fp16 · 4 steps"})


def test_what_is_measured_apart_is_exported(rich: dict[str, Any]) -> None:
    first, peer = csv.DictReader(io.StringIO(export(rich, "csv")))
    shown = {"joules_per_picture": "0.5", "matmul_share": "0.61", "gflops": "92.0", "outliers": "1"}
    shown |= {"sustained_drift_percent_per_minute": "1.25", "frames_thread_p99_ms": "19.4", "frames_process_p99_ms": ""}
    shown |= {"validity_worst_psnr_db": "41.0", "source_sha256": "7" * 64, "differs": ""}
    assert {name: first[name] for name in shown} == shown
    assert (peer["program"], peer["program_version"], peer["differs"]) == ("optimum-onnx", "0.1", "it is slow")
    markdown = export(rich, "markdown")
    for text in ("minutes without a pause", "frames of a game", "unet**, 10.0 ms", "it is slow"):
        assert text in markdown


def test_other_tools_keys_have_energy_batches_and_programs(rich: dict[str, Any], tmp_path: Path) -> None:
    call, other = (one["call"] for one in json.loads(export(rich, "optimum")).values())
    assert call["energy"]["unit"] == "kWh" and call["energy"]["cpu"] == pytest.approx(1.0 / 3.6e6)  # of a batch
    assert call["efficiency"] == {"unit": "images/kWh", "value": pytest.approx(7.2e6)}
    assert call["throughput"]["value"] == pytest.approx(2000 / rich["results"][0]["latency_ms"]["mean"], rel=1e-4)
    assert other["energy"] is other["efficiency"] is None
    pyperf = pytest.importorskip("pyperf")
    (tmp_path / "p.json").write_text(export(rich, "pyperf"))
    first, peer = pyperf.BenchmarkSuite.load(str(tmp_path / "p.json")).get_benchmarks()
    metadata = first.get_metadata()
    assert metadata["mem_max_rss"] == 95_000_000 and metadata["drift_percent_per_minute"] == 1.25
    assert peer.get_metadata()["program"] == "optimum-onnx"


def test_what_is_cited_names_programs_and_shows_genin_s_own(rich: dict[str, Any]) -> None:
    yaml = pytest.importorskip("yaml")
    own, peer = yaml.safe_load(export(rich, "card"))["model-index"][0]["results"]
    figures = {one["type"]: one["value"] for one in own["metrics"]}
    assert (figures["energy_j"], figures["matmul_share"], figures["drift_percent_per_minute"]) == (0.5, 0.61, 1.25)
    assert (figures["frame_p99_ms"], figures["psnr_db_of_worst_picture"]) == (19.4, 41.0)
    assert "optimum-onnx onnxruntime fp16" in peer["metrics"][0]["name"]
    assert "10.0 ms" in export(rich, "badge")  # 20 of a batch of two; a peer's 9 ms are not ours to show
    entry = export(rich, "bibtex")
    assert ", optimum-onnx 0.1," in entry and "pictures right in 2 of 2 rows" in entry

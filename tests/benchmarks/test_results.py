"""Result files: written, read, checked, brought up to date, compared; every kind of damaged file is one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genin import cli
from genin.benchmarks.results.compare import compare_results, compare_with, markdown
from genin.benchmarks.results.exports import export
from genin.benchmarks.results.files import digest, read_results, seal, write_results
from genin.benchmarks.results.schema import errors_of, json_schema
from genin.benchmarks.results.table import results_table
from genin.runtimes.errors import GeninError, InputError
from result_files import results, row

ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_results(results(row("a", 10.0), row("b", 20.0)), tmp_path / "r.json")
    return tmp_path / "r.json"


def test_a_file_comes_back_as_it_was_written(file: Path) -> None:
    read = read_results(file)
    assert read == seal(results(row("a", 10.0), row("b", 20.0)))
    assert read["sha256"] == digest(read) and len(read["results"][0]["samples_ms"]) == 40


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[: len(text) // 2], "cut off, or not JSON (line"),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 2'), "schema version 2"),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": "one"'), "schema version 'one'"),
        (lambda text: text.replace('"runs": 40', '"runs": 41', 1), "edited since they were written"),
        (lambda text: text.replace('"sha256": "', '"old": "'), "no sha256"),
        (lambda text: "[]", "not results of genin bench"),
        (lambda text: "{}", "not results of genin bench"),
        (lambda text: '{"machine": NaN, "results": []}', "the number NaN"),
        (lambda text: '{"machine": 1e999, "results": []}', "the number 1e999"),
        (lambda text: '{"machine": ' + "9" * 5000 + "}", "cut off, or not JSON"),
        (lambda text: "[" * 100_000, "cut off, or not JSON"),
        (lambda text: text.encode("utf-16").decode("latin-1"), ""),
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(file: Path, damage: Callable[[str], str], says: str) -> None:
    file.write_text(damage(file.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_results(file)
    assert says in str(caught.value) and str(file) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r["results"][0].pop("runtime"), "results[0] has no runtime"),
        (lambda r: r["results"][1].update(runs=True), "results[1].runs is not an integer"),
        (lambda r: r["results"][0]["latency_ms"].update(p50=-1.0), "results[0].latency_ms.p50 is -1.0, less than 0"),
        (lambda r: r["results"][0]["samples_ms"].append("x"), "results[0].samples_ms[40] is not a number"),
        (lambda r: r["results"][0]["samples_ms"].append(1.0), "samples_process has 40 runs, samples_ms 41"),
        (lambda r: r.update(run_id=7), "run_id is not a string"),
        (lambda r: r["machine"].update(packages=[]), "machine.packages is not an object"),
    ],
)
def test_a_file_that_does_not_fit_the_schema_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    wrong = results(row("a", 10.0), row("b", 20.0))
    change(wrong)
    (tmp_path / "r.json").write_text(json.dumps(seal(wrong)))
    with pytest.raises(InputError) as caught:
        read_results(tmp_path / "r.json")
    assert says in str(caught.value)
    if "samples_process" not in says:
        with pytest.raises(ValueError, match="do not fit their schema"):
            write_results(wrong, tmp_path / "w.json")


def test_our_checks_are_those_of_json_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    good = seal(results(row("a", 10.0)))
    assert not list(errors_of(good)) and validator.is_valid(good)
    random = np.random.default_rng(0)
    places: list[tuple[Any, Any]] = [(good, key) for key in good] + [
        (good["results"][0], key) for key in good["results"][0]
    ]
    for _ in range(60):
        place, key = places[random.integers(len(places))]
        kept = place[key]
        place[key] = [None, -1, "x", [], {}, True, 1.5, ["x"], [1.0], {"x": 1}][random.integers(10)]
        assert bool(list(errors_of(good))) == (not validator.is_valid(good)), (key, place[key])
        place[key] = kept


def test_the_published_schema_is_current() -> None:
    published = (ROOT / "docs" / "bench.schema.json").read_text(encoding="utf-8")
    wanted = "run: python -m genin.benchmarks.results.schema > docs/bench.schema.json"
    assert json.loads(published) == json_schema(), wanted


def test_results_without_a_version_are_brought_up_to_date(tmp_path: Path) -> None:
    """The file of docs/results.md, of before genin kept every run."""
    old = json.loads((ROOT / "docs" / "runs" / "results-64.json").read_text(encoding="utf-8"))["bench"]
    (tmp_path / "old.json").write_text(json.dumps(old))
    read = read_results(tmp_path / "old.json")
    assert read["schema_version"] == 1 and read["results"][0]["samples_ms"] == []
    assert read["results"][0]["latency_ms"]["p50"] == old["results"][0]["latency_ms"]["p50"]
    assert results_table(read).count("\n") >= len(old["results"])
    with pytest.raises(InputError, match="cannot be compared: written before genin kept every run"):
        compare_results(read, read)
    for format in ("pyperf", "runs-csv"):
        with pytest.raises(GeninError, match="the results have no runs; measure again"):
            export(read, format)


# --- compare ---------------------------------------------------------------------------------------------------------


def test_every_verdict(tmp_path: Path) -> None:
    old = results(row("a", 10.0), row("b", 10.0), row("c", 10.0), row("d", 10.0), row("gone", 1.0))
    noisy = row("d", 10.0, noise=0.1, seed=8)
    new = results(
        row("a", 10.5, seed=5), row("b", 9.5, seed=6), row("c", 10.0, seed=7), noisy, row("new", 1.0), run_id="b"
    )
    found = compare_results(old, new)
    assert [one.verdict for one in found.rows] == ["slower", "faster", "same", "unclear"]
    assert [one.low < one.ratio < one.high for one in found.rows] == [True] * 4 and found.failed
    assert found.rows[0].ratio == pytest.approx(1.05, abs=0.01) and not found.rows[0].paired
    assert (found.only_in_old, found.only_in_new) == ((name("gone"),), (name("new"),))
    shown = markdown(found)
    assert "1 faster, 1 slower, 1 same, 1 unclear" in shown and "**slower**" in shown and "- only in the old" in shown
    assert not compare_results(old, new, margin=0.2).failed  # within 20 %


def name(model: str) -> str:
    return f"{model} · onnxruntime fp16 · 4 steps"


def test_models_of_one_run_are_compared_round_by_round() -> None:
    drift = np.linspace(1.0, 1.5, 40)
    both = results(row("old", 10.0, factors=drift), row("new", 10.3, factors=drift, seed=2))
    (found,) = compare_with(both, "old").rows
    assert found.paired and found.verdict == "slower" and found.name == name("new")
    (unpaired,) = compare_results(results(both["results"][0]), results(both["results"][1], run_id="b")).rows
    assert not unpaired.paired and unpaired.verdict == "unclear"
    with pytest.raises(InputError, match="no model 'odl' in these results; did you mean old"):
        compare_with(both, "odl")


def test_a_file_and_itself_are_the_same() -> None:
    (found,) = compare_results(results(row("a", 10.0)), results(row("a", 10.0))).rows
    assert (found.ratio, found.low, found.high, found.verdict) == (1.0, 1.0, 1.0, "same")


def test_wrong_pictures_are_no_speed() -> None:
    wrong = row("a", 5.0) | {"valid": False}
    wrong["validity"] = wrong["validity"] | {
        "reasons": ["PSNR of the median picture is 9.0 dB, at least 40 is allowed"]
    }
    found = compare_results(results(row("a", 10.0)), results(wrong))
    assert found.rows[0].verdict == "unclear" and found.failed and "PSNR" in found.rows[0].notes[0]
    assert "~~" in results_table(results(wrong)) and "not valid: PSNR" in results_table(results(wrong))


def test_other_machines_are_said_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = results(row("a", 10.0))
    other["machine"] |= {"sha256": "0" * 64, "processor": "Another", "packages": {"onnxruntime": "1.0"}}
    other["notes"]["busy"] = "Load average before the run: 4.13 on 2 cores (timings unreliable)"
    for file, content in (("old.json", results(row("a", 10.0))), ("new.json", other)):
        write_results(content, tmp_path / file)
    files = [str(tmp_path / file) for file in ("old.json", "new.json")]
    assert cli.run(["bench", "compare", *files]) == 0
    said = capsys.readouterr().out
    assert "> other machine" in said and "> onnxruntime 1.20 and 1.0" in said and "> busy machine (new): Load" in said
    assert cli.run(["bench", "compare", *files, "--strict"]) == 2
    assert "other machine" in capsys.readouterr().err


def test_the_command_prints_json_and_fails_where_something_is_slower(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_results(results(row("a", 10.0)), tmp_path / "old.json")
    write_results(results(row("a", 11.0, seed=4)), tmp_path / "new.json")
    files = [str(tmp_path / file) for file in ("old.json", "new.json")]
    assert cli.run(["bench", "compare", *files, "--json"]) == 1
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"name", "ratio", "low", "high", "verdict"} <= set(found["rows"][0]) and found["rows"][0][
        "verdict"
    ] == "slower"
    assert cli.run(["bench", "compare", *files, "--margin", "15%"]) == 0
    for wrong in (["--margin", "2"], ["--margin", "x"], ["--baseline", "a"]):
        assert cli.run(["bench", "compare", *files, *wrong]) == 2
    assert cli.run(["bench", "compare", files[0]]) == 2
    capsys.readouterr()
    assert cli.run(["bench", "compare", files[0], str(tmp_path / "absent.json")]) == 2
    assert "no such result file" in capsys.readouterr().err


def test_results_without_a_common_row_are_refused() -> None:
    two = results(row("b", 1.0), row("c", 1.0))
    with pytest.raises(InputError, match="no configuration in common: a · onnx"):
        compare_results(results(row("a", 1.0)), two)
    assert compare_results(results(row("a", 1.0)), results(row("b", 1.0))).rows  # one of each: they are meant

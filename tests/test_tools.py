"""Programs of `tools/` whose figures go into the docs: what another run left is no figure, and what fails says so."""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from genin.runtimes.origin import fingerprint
from genin.runtimes.vocabulary import PRECISIONS
from programs import ROOT, load_program


def test_a_folder_of_figures_answers_one_question(tmp_path: Path) -> None:
    check_question = load_program("tools/question.py").check_question
    path = tmp_path / "question.json"
    check_question(path, {"samples": 64, "seeds": (1, 2)})
    check_question(path, {"samples": 64, "seeds": (1, 2)})
    with pytest.raises(click.ClickException, match="another samples, another teacher; name another --out"):
        check_question(path, {"samples": 32, "seeds": [1, 2], "teacher": "a"})
    with pytest.raises(click.ClickException, match="does not say what its figures are of"):
        check_question(tmp_path / "lost.json", {}, figures=path)


def test_students_of_the_table_can_be_cut_from_the_shipped_teacher() -> None:
    from genin.distill.models.student_config import pruning_of, student_config
    from genin.names import InstalledNames

    architectures = load_program("tools/architectures.py")
    config = json.loads(
        (InstalledNames().model("builtin:teacher") / "unet" / "config.json").read_text(encoding="utf-8")
    )
    for recipe in architectures.UNETS.values():
        student_config(config, pruning_of(recipe))


def test_a_case_that_takes_too_long_has_no_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busy_machine = load_program("tools/busy_machine.py")
    monkeypatch.setattr(busy_machine, "run", lambda case, work, *, before: (None if before else 2.0, "hash"))
    row = busy_machine.measure(busy_machine.cases(tmp_path)[0], tmp_path, 2, ("idle",))
    assert row["idle_ratio"] is None and row["busy_ratio"] is None and row["median"]["idle_after"] == 2.0


def test_a_command_that_fails_without_a_limit_is_no_base_of_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cgroup_limits = load_program("tools/cgroup_limits.py")
    (tmp_path / "finetune-None").mkdir()
    monkeypatch.setattr(cgroup_limits, "run", lambda words, limit: {"exit_code": 2, "last": "genin: no"})
    done = CliRunner().invoke(cgroup_limits.main, ["--work", str(tmp_path), "--only", "finetune"])
    assert done.exit_code == 1 and "finetune fails without a limit: genin: no" in done.output
    assert not list(tmp_path.iterdir())  # what an earlier call left is gone


def test_a_process_that_dies_ends_the_fuzzing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz = load_program("tools/fuzz.py")
    monkeypatch.setattr(fuzz, "_some", lambda *_: os._exit(1))
    with pytest.raises(click.ClickException, match="1 of 1 processes ended early"):
        fuzz.run_all(tmp_path, 1, range(4), (), 1)


def test_every_arm_of_the_ablation_is_another_recipe() -> None:
    from genin.distill.recipe import load_recipe

    ablation, recipe = load_program("tools/ablation.py"), load_recipe(ROOT / "recipes" / "builtin.yaml")
    for phase, arms in (("adversarial", ablation.ARMS), ("prune", ablation.PRUNE_ARMS)):
        made = [ablation.of_arm(recipe, phase, changes, 64, 0).as_dict() for changes in arms.values()]
        assert len({json.dumps(one, sort_keys=True) for one in made}) == len(arms)


def test_results_are_measured_once_and_the_teacher_at_its_best_guidance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, asked = load_program("tools/results.py"), []

    def genin(command: str, *words: object) -> dict[str, Any]:
        asked.append((command, *map(str, words)))
        options = dict(itertools.pairwise(asked[-1]))
        if "--save-statistics" in options:
            Path(options["--save-statistics"]).mkdir()
        if command == "evaluate" and options.get("--steps") == "2":
            raise click.ClickException("no memory")
        if command == "bench":
            rows = [("teacher", 100, 1000.0), ("teacher", 16, 160.0), ("teacher", 8, 80.0), ("student", 4, 4.0)]
            keys = {"teacher": "teacher-bundle", "student": "builtin:student"}
            return {
                "results": [
                    {"role": role, "name": role, "bundle": keys[role], "steps": steps, "latency_ms": {"p50": ms}}
                    for role, steps, ms in rows
                ]
            }
        fd = 100 + abs(float(options.get("--guidance-scale", 2)) - 1.5) + (4 if options.get("--steps") == "8" else 0)
        facts = {
            "parameters": 2e6,
            "macs": 1e6,
            "pairs": 200,
            "guidance_scale": float(options.get("--guidance-scale", 1)),
        }
        return {"fd_squeezenet": fd, **facts}

    monkeypatch.setattr(results, "genin", genin)
    monkeypatch.setattr(results, "metric_weights", lambda classifier: {})
    arguments = ["--out", str(tmp_path / "results.json"), "--work", str(tmp_path / "work"), "--samples", "8"]
    done = CliRunner().invoke(results.main, arguments)
    assert done.exit_code == 1 and "no memory" in done.output
    scales = [words[words.index("--guidance-scale") + 1] for words in asked if "--guidance-scale" in words]
    assert scales[:4] == ["1.0", "1.5", "2.0", "3.0"] and set(scales[4:]) == {"1.5"}
    before = len(asked)
    monkeypatch.setattr(results, "STUDENTS", {"student, 4 steps": ("builtin:student", 4)})
    done = CliRunner().invoke(results.main, arguments)
    assert done.exit_code == 0, done.output
    assert not any("--save-statistics" in words for words in asked[before:]), "the teacher is measured once"
    assert "over 16 steps of the teacher" in done.output and "| 4.0 | 250× | 40.0× |" in done.output
    assert "| 1.5, fp32 | 100.000 |" in done.output and "| 1.5, 100 steps | 100.000 |" in done.output
    assert "LPIPS (200 pairs)" in done.output and "| 2.00 | 100.0% | 1.00 | 100.0% |" in done.output
    count = len(asked)
    assert CliRunner().invoke(results.main, arguments).exit_code == 0 and len(asked) == count
    page = tmp_path / "page.md"
    tables = sys.modules["result_tables"]
    monkeypatch.setattr(tables, "PAGES", {page: {"results": tables.summary}})
    page.write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n", encoding="utf-8")
    tables.write_pages(json.loads((tmp_path / "results.json").read_text(encoding="utf-8")))
    written = page.read_text(encoding="utf-8")
    assert written.startswith("before\n<!-- results -->\n| held-out") and written.endswith(
        "\n<!-- /results -->\nafter\n"
    )
    assert "old" not in written and re.search(r"\| student, 4 steps .* 4.0 ms \| 250× \|", written)
    with pytest.raises(click.ClickException, match="no place between <!-- speed --> and"):
        tables.with_table(written, "speed", "")


def test_what_a_fast_student_gains_is_extrapolated_on_the_same_engine(tmp_path: Path) -> None:
    full_table = load_program("tools/full_table.py")
    facts = {"program": "genin", "runtime": "onnxruntime", "precision": "fp32", "threads": 2}
    stages = {"text_encoder": 100.0, "vae_decoder": 5000.0, "other": 10.0}
    passes = [[9000.0], [11000.0], [10000.0]]
    slow = facts | {"steps_samples_ms": passes, "stages_ms": stages, "latency_ms": {"p50": 15_000.0}}
    fast = facts | {"steps_samples_ms": [[2000.0]], "stages_ms": stages, "latency_ms": {"p50": 4000.0}}
    other = fast | {"runtime": "openvino"}
    paths = {}
    for name, rows in (("sd15", [slow]), ("swift", [fast, other])):
        paths[name] = tmp_path / f"{name}.json"
        paths[name].write_text(json.dumps({"results": rows}), encoding="utf-8")
    [line] = full_table.gains(paths)  # 200 passes of 10 s, two texts, one decoding
    assert line == "onnxruntime fp32: 4.00 s against 2005 s, extrapolated from 3 passes: 501 times"
    assert full_table.gains({"swift": paths["swift"]}) == []


def test_a_model_that_has_changed_is_exported_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_table, out = load_program("tools/export_table.py"), tmp_path / "rows.json"
    made: list[str] = []

    def rows_of(name: str, path: Path, format: str, *_: object) -> list[dict[str, Any]]:
        made.append(format)
        return [row(name, format, precision, fingerprint(path)) for precision in PRECISIONS]

    def row(name: str, format: str, precision: str, weights: str) -> dict[str, Any]:
        parity = {"parity_db": dict.fromkeys(export_table.COMPONENTS), "pictures": None}
        return {"model": name, "format": format, "precision": precision, "weights": weights, "size_bytes": 1} | (
            {"export_s": 1, "peak_rss_bytes": 1} | parity
        )

    monkeypatch.setattr(export_table, "rows_of", rows_of)
    old = [row("student", "onnx", precision, "another") for precision in PRECISIONS]
    out.write_text(json.dumps([row("other", "onnx", "fp32", "another"), *old]), encoding="utf-8")
    student = ROOT / "runtimes" / "weights" / "student"
    for _ in range(2):
        done = CliRunner().invoke(export_table.main, ["--model", f"student={student}", "--out", str(out)])
        assert done.exit_code == 0, done.output
        assert made == ["onnx", "openvino", "coreml"]
    rows = json.loads(out.read_text(encoding="utf-8"))
    assert len(rows) == 10 and rows[0]["model"] == "other"
    assert {one["weights"] for one in rows[1:]} == {fingerprint(student)}


def test_the_sample_of_a_manifest_takes_the_shipped_one_s_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ship_weights, page = load_program("tools/ship_weights.py"), tmp_path / "bundle.md"
    real = (ROOT / "docs" / "bundle.md").read_text(encoding="utf-8")
    [images] = re.findall(r'"images_seen": (\d+)', real)
    [digest] = re.findall(r'"path": "golden/unet.npz", "sha256": "(\w+)…"', real)
    page.write_text(real.replace(images, "123456").replace(digest, "fedcba98"), encoding="utf-8")
    monkeypatch.setattr(ship_weights, "SAMPLE", page)
    ship_weights.remake_sample()
    assert page.read_text(encoding="utf-8") == real


def test_the_pages_tables_are_those_of_the_results() -> None:
    tables = load_program("tools/result_tables.py")
    results = json.loads((ROOT / "docs" / "runs" / "results.json").read_text(encoding="utf-8"))
    for page, of_page in tables.PAGES.items():
        text = page.read_text(encoding="utf-8")
        for name, table in of_page.items():
            assert tables.with_table(text, name, table(results)) == text, f"{page.name}: {name}"

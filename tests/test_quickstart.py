"""`genin quickstart`, from a tiny teacher to the page, with an interruption on the way."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exported import part_of
from genin import cli
from genin.benchmarks.contenders import Contender
from genin.benchmarks.grids import Grid, GridRow
from genin.benchmarks.model_facts import ModelFacts
from genin.benchmarks.speed.configurations import Choices, Configuration, configure
from genin.distill.loop import host
from genin.distill.recipe import Recipe
from genin.distill.recipe_optimisation import Precision
from genin.export.exporter import ExportOptions, export
from genin.names import InstalledNames
from genin.quickstart import stages as quickstart_stages
from genin.quickstart.commands import RECORD, STAGES, Display, headline, leave_partial, open_record, summarise
from genin.runtimes.errors import InputError
from result_files import row
from tiny_bundle import edit_manifest
from tunable import empty_curves

METRIC_WEIGHTS = Path(__file__).parents[2] / "shared" / "data" / "lpips_squeezenet"
MINUTES = "0.02"
KEYS = (
    *("page", "speedup_4_steps", "speedup_1_step", "fd_ratio_4_steps", "fd_ratio_1_step"),
    *("lpips_squeeze_paired_4_steps", "sizes"),
)


@pytest.fixture(scope="module")
def tiny_run(tiny_model_folder: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(out, teacher) of one run. The teacher's bundle is the tests' own, and what runs on PyTorch in a process of its own, which
    takes long to start, is the teacher alone."""
    out = tmp_path_factory.mktemp("quickstart") / "out"

    def export_or_copy(path: Path, to: Path, options: ExportOptions, **names: Any) -> Any:
        if path == out / "student":
            return export(path, to, options, **names)
        assert (path, to) == (tiny_model_folder, out / "teacher-bundle")
        assert [list(options.formats), list(options.precisions or ())] == [["openvino"], ["fp16"]]
        part_of(tiny_bundle, to, format="openvino", precision="fp16")
        edit_manifest(to, "model", "kind", value="teacher")
        return None

    def few(model: Contender, facts: ModelFacts, choices: Choices) -> list[Configuration]:
        return [
            one
            for one in configure(model, facts, choices)
            if one.runtime == "openvino" or (one.runtime, one.role) == ("pytorch", "teacher")
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENIN_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("genin.distill.loop.previews.plot_curves", empty_curves)
        patch.setenv("GENIN_METRIC_WEIGHTS", str(METRIC_WEIGHTS))
        for name, value in {"FD_SAMPLES": 200, "TEACHER_STEPS": 3, "BENCH_RUNS": 1, "BENCH_WARMUP": 0}.items():
            patch.setattr(quickstart_stages, name, value)
        patch.setattr(quickstart_stages, "quick_recipe", small_recipe)
        for name in ("FORMATS", "TEACHER_FORMATS"):
            patch.setattr(quickstart_stages, name, ("openvino",))  # the format that is converted fastest
        patch.setattr(quickstart_stages, "PRECISIONS", ("fp32",))
        patch.setattr("genin.export.exporter.export", export_or_copy)
        patch.setattr("genin.benchmarks.speed.bench.configure", few)
        yield out, tiny_model_folder


def small_recipe(
    student: str, mixed_precision: Precision, of: Callable[[str, Precision], Recipe] = quickstart_stages.quick_recipe
) -> Recipe:
    """The real one with fewer pictures of the world in memory."""
    recipe = of(student, mixed_precision)
    return replace(recipe, adversarial=replace(recipe.adversarial, cache_images=64))


def run(out: Path, *arguments: str) -> int:
    return cli.run(["quickstart", "--out", str(out), *arguments])


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.train
def test_the_chain_survives_interruptions_and_ends_in_a_page(tiny_run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    out, teacher = tiny_run
    with pytest.MonkeyPatch.context() as first:
        first.setattr("genin.distill.student.distillation.build_pool", interrupt)
        assert run(out, "--teacher", str(teacher), "--student", "bk-small", "--minutes", MINUTES) == 130
    said = capsys.readouterr().err
    assert "interrupted; finished: teacher\n" in said
    assert f"resume with: genin quickstart --out {out} --resume" in said
    assert not (out / "index.html").exists()

    with pytest.MonkeyPatch.context() as second:
        second.setattr("genin.export.exporter.export", interrupt)
        assert run(out, "--resume") == 130
    said = capsys.readouterr().err
    assert "[1/7] Load the teacher: kept" in said
    assert "finished: teacher, distil, improvement" in said
    assert "genin generate" in said
    assert (out / "student" / "model_index.json").is_file()
    partial_page = (out / "index.html").read_text(encoding="utf-8")
    assert "data:image" in partial_page
    before = json.loads((out / RECORD).read_text(encoding="utf-8"))["stages"]

    assert run(out, "--resume", "--json") == 0
    shown = capsys.readouterr()
    assert "[3/7] Compare with its untrained self: kept" in shown.err
    after = json.loads((out / RECORD).read_text(encoding="utf-8"))["stages"]
    assert {name: after[name] for name in before} == before
    check_summary(json.loads(shown.out.splitlines()[-1]), out)
    page = (out / "index.html").read_text(encoding="utf-8")
    assert len(page) > len(partial_page)
    assert "your student" in page

    assert run(out, "--resume") == 0  # nothing left to do: only the headline, for people
    assert str(out / "index.html") in capsys.readouterr().out.splitlines()[-1]


def check_summary(summary: dict[str, Any], out: Path) -> None:
    assert set(KEYS) <= set(summary)
    assert summary["page"] == str(out / "index.html")
    assert summary["speedup_4_steps"] > 0
    assert summary["fastest_1_step"]["runtime"] in ("pytorch", "onnxruntime", "openvino")
    assert {"teacher", "student", "openvino/fp32"} <= set(summary["sizes"])
    assert summary["sizes"]["student"] < summary["sizes"]["teacher"]
    assert summary["improvement"]["fd_world"] > 0
    for key in KEYS:
        assert summary[key] is not None or summary["notes"][key]


@pytest.mark.train
def test_the_untrained_student_is_the_pruned_teacher_and_the_student_is_not(tiny_run: Any) -> None:
    from safetensors.numpy import load_file

    out, teacher = tiny_run
    file = "unet/diffusion_pytorch_model.safetensors"
    parent, untrained, student = (load_file(f / file) for f in (teacher, out / "student-untrained", out / "student"))
    name = "down_blocks.0.resnets.0.conv1.weight"
    assert np.array_equal(parent[name], untrained[name])
    assert not np.array_equal(student[name], untrained[name])


@pytest.mark.train
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "resume it with --resume"),
        (("--resume", "--minutes", "3"), f"this run was started with --minutes {MINUTES}"),
    ],
)
def test_a_run_in_the_way_is_neither_overwritten_nor_changed(
    tiny_run: Any, arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny_run[0], *arguments) == 2
    assert says in capsys.readouterr().err


def test_a_run_is_resumed_with_its_own_settings_only(tmp_path: Path) -> None:
    names = InstalledNames()
    record = open_record(tmp_path, {"minutes": 1.0}, names, resume=False)
    assert open_record(tmp_path, {"minutes": 1.0}, names, resume=True) == record
    with pytest.raises(InputError, match=r"started with --minutes 1\.0"):
        open_record(tmp_path, {"minutes": 2.0}, names, resume=True)


@pytest.mark.parametrize(("ratio", "precision"), [(5.0, "no"), (0.5, "bf16")])
def test_it_trains_in_the_precision_that_this_machine_is_faster_in(
    ratio: float, precision: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And goes on in it, whatever is measured when it is resumed."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(host, "_bf16_time", lambda: ratio)
    record = open_record(tmp_path, {}, InstalledNames(), resume=False)
    monkeypatch.setattr(host, "_bf16_time", lambda: 1 / ratio)
    assert open_record(tmp_path, {}, InstalledNames(), resume=True) == record
    recipe = quickstart_stages.quick_recipe("bk-tiny", record["settings"]["mixed_precision"])
    assert {phase.mixed_precision for phase in (recipe.prune, recipe.steps, recipe.adversarial)} == {precision}


def test_the_phase_that_replaces_blocks_is_for_students_that_lack_some() -> None:
    images = {name: quickstart_stages.quick_recipe(name, "no").prune.images for name in ("full", "bk-small")}
    assert images["full"] == 0 < images["bk-small"]


def test_a_record_without_a_precision_is_of_another_version(tmp_path: Path) -> None:
    record = open_record(tmp_path, {}, InstalledNames(), resume=False)
    del record["settings"]["mixed_precision"]
    (tmp_path / RECORD).write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(InputError, match="of another version"):
        open_record(tmp_path, {}, InstalledNames(), resume=True)


def test_a_teacher_by_path_is_the_same_from_every_folder(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        "genin.quickstart.commands.run_stages", lambda one, *_: interrupt(seen.append(one.teacher_path))
    )
    monkeypatch.chdir(tiny_model_folder.parent)
    assert run(tmp_path / "out", "--teacher", tiny_model_folder.name) == 130
    monkeypatch.chdir(tmp_path)
    assert run(tmp_path / "out", "--resume") == 130
    assert run(tmp_path / "out", "--resume", "--teacher", str(tiny_model_folder)) == 130
    assert seen == 3 * [tiny_model_folder]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--resume",), "there is nothing to resume"),
        (("--student", "bk-tinny"), "did you mean bk-tiny"),
        (("--teacher", "builtin:techer"), "did you mean builtin:teacher"),
        (("--teacher", "builtin:student"), "this is already a bundle"),
        (("--minutes", "0"), "'--minutes'"),
        (("--minutes", "nan"), "minutes must be a number above 0; got nan"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    tmp_path: Path, arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "out", *arguments) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("package", ["matplotlib", "transformers"])
def test_a_package_of_a_late_stage_is_missed_at_once(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    assert run(tmp_path / "out") == 2
    assert f"'{package}' is not installed; pip install 'genin[all]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def record_of(*rows: dict[str, Any]) -> dict[str, Any]:
    """Of a run whose speed test has these rows."""
    evaluations = [
        {"model": "your student", "steps": steps, "fd_ratio": 1.0, "lpips_squeeze_paired": None, "notes": {}}
        for steps in quickstart_stages.STEPS
    ]
    stages = {
        "teacher": {"bytes": 2, "parameters": 2},
        "distil": {"bytes": 1, "parameters": 1},
        "improvement": {"better_by": None},
        "export": {"sizes": {}, "skipped": {}},
        "quality": {"evaluations": evaluations},
        "bench": {"results": rows, "skipped": []},
    }
    return {"stages": {name: {"seconds": 0, "result": result} for name, result in stages.items()}}


def test_rows_with_wrong_pictures_are_no_figures(tmp_path: Path) -> None:
    run = quickstart_stages.Run(tmp_path, "", "", 1, "no", InstalledNames())
    good = {"encoded_prompt_ms": {"p50": 1.0}, "speedup_baseline": "the teacher", "pairs": 6}
    right = row("your student", 9.0) | good | {"speedup": 2.0, "lpips_squeeze_to_teacher": 0.2}
    wrong = row("your student", 1.0) | good | {"speedup": 18.0, "lpips_squeeze_to_teacher": 0.9, "valid": False}
    rows = [one | {"runtime": runtime} for one in (wrong, right) for runtime in ("pytorch", "openvino")]
    summary = summarise(run, record_of(*rows, wrong | {"steps": 1}))
    assert summary["fastest_4_steps"]["p50_ms"] == right["latency_ms"]["p50"]
    assert summary["speedup_4_steps"] == summary["speedup_pytorch_4_steps"] == 2.0
    assert summary["lpips_squeeze_paired_4_steps"] == 0.2
    assert summary["fastest_1_step"] is summary["speedup_1_step"] is summary["speedup_pytorch_1_step"] is None
    assert summary["notes"]["speedup_1_step"] == "the pictures of no configuration are right"
    assert "1 step   the pictures of no configuration are right" in headline(summary).splitlines()


def test_a_path_is_shown_as_it_is_and_its_commands_can_be_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Square brackets are no markup and :x: no emoji, on a terminal and elsewhere."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    out = tmp_path / "my runs[/old]" / ":x:"
    run = quickstart_stages.Run(out, "", "", 1, "no", InstalledNames())
    run.student_path.mkdir(parents=True)
    (run.student_path / "model_index.json").touch()
    display = Display(7)
    display.done(STAGES[-1], 1.0, {"page": str(run.page_path)})
    leave_partial(run, {"stages": {}}, display)
    said = capsys.readouterr().err
    assert display.console.is_terminal and f"  {run.page_path}\n" in said
    assert f"genin quickstart --out '{out}' --resume\n" in said and f"-m '{run.student_path}'\n" in said


def test_pictures_of_the_page_come_back_as_they_were(tmp_path: Path) -> None:
    pictures = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    grids = [Grid("same seeds", ("a", "b"), (GridRow("teacher", "100 steps", pictures, "row", "other"),), True)]
    quickstart_stages.save_grids(tmp_path / "g.npz", grids)
    (back,) = quickstart_stages.load_grids(tmp_path / "g.npz")
    assert (back.title, back.captions, back.rows[0].label) == ("same seeds", ("a", "b"), "teacher")
    assert back.folded and (back.rows[0].name, back.rows[0].against) == ("row", "other")
    assert np.array_equal(back.rows[0].pictures, pictures)
    assert quickstart_stages.load_grids(tmp_path / "none.npz") == []

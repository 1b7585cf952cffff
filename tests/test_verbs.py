"""The verbs of the parts from Python: imported when they are used, one options object each, wrong options as InputError."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import genin
import genin.benchmarks
import genin.distill
import genin.export
from genin.benchmarks import BenchOptions, CompareOptions, EvaluateOptions, bench, compare, evaluate
from genin.benchmarks.prompts import prompts_of
from genin.distill.data.caption import CaptionOptions
from genin.distill.data.extract import FitOptions
from genin.distill.data.prepare import PrepareOptions
from genin.distill.loop.run_folder import RunOptions
from genin.export import ExportOptions, Plan, PlanOptions, export
from genin.export.precision_plan import uniform
from genin.runtimes.generation import GenerateOptions, generate
from genin.runtimes.vocabulary import check_device

PLAN = uniform("int8")
PARTS = (genin.benchmarks, genin.distill, genin.export)


def test_parts_are_imported_without_torch_and_their_verbs_are_there() -> None:
    heavy = ("torch", "numpy", "click")
    code = f"import sys, genin.benchmarks, genin.distill, genin.export; print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
    for part in PARTS:
        assert all(getattr(part, name) is not None for name in part.__all__)
        with pytest.raises(AttributeError, match=f"module '{part.__name__}' has no attribute 'paint'"):
            part.paint  # noqa: B018
    assert callable(genin.distill.distill) and callable(genin.export.export)


@pytest.mark.parametrize(
    ("options", "wrong", "says"),
    [
        (ExportOptions, {"formats": ["onx"]}, "unknown format 'onx'; did you mean onnx"),
        (ExportOptions, {"precisions": ["fp8"]}, "unknown precision 'fp8'"),
        (ExportOptions, {"batch": 65}, "batch must be a whole number from 1 to 64; got 65"),
        (ExportOptions, {"single_graphs": [0]}, "a single graph's steps must be a whole number, at least 1; got 0"),
        (PlanOptions, {"weights": ()}, "no precision to choose"),
        (PlanOptions, {"weights": ("fp16",), "activations": True}, "need 8-bit weights"),
        (EvaluateOptions, {"samples": 0}, "samples must be a whole number, at least 1; got 0"),
        (EvaluateOptions, {"seed": -1}, "seed must be a whole number from 0 to .*; got -1"),
        (EvaluateOptions, {"device": "gpu"}, "unknown device 'gpu'"),
        (EvaluateOptions, {"floor": True, "save_images": Path("x")}, "leaves no pictures to save; leave one"),
        (BenchOptions, {"runs": 0}, "runs must be a whole number.*got 0"),
        (BenchOptions, {"runtimes": ["onnx"]}, "unknown runtime 'onnx'; did you mean onnxruntime"),
        (BenchOptions, {"steps": [1, 0]}, "steps must be a whole number.*got 0"),
        (CompareOptions, {"split": "val"}, "a split is a part of a reference"),
        (CompareOptions, {"prompts": ["a"], "reference": "x"}, "both say what to draw"),
        (CompareOptions, {"layout": "columns"}, "unknown layout"),
        (GenerateOptions, {"count": 0}, "count must be a whole number from 1 to 10,000; got 0"),
        (GenerateOptions, {"seed": 2**64 - 1, "count": 2}, "seed"),
        (GenerateOptions, {"noise": "numpy"}, "unknown noise mode"),
        (GenerateOptions, {"out": "a\0.png"}, "out must be a path"),
        (PrepareOptions, {"fit": FitOptions(buckets=True)}, "--buckets needs --size"),
        (ExportOptions, {"formats": "onx"}, "unknown format 'onx'; did you mean onnx"),
        (ExportOptions, {"plans": 5}, "a plan must be a path; got 5"),
        (PlanOptions, {"plot": 5}, "plot must be a path; got 5"),
        (PlanOptions, {"target_lpips": True}, "target_lpips must be a number above 0; got True"),
        (EvaluateOptions, {"steps": 2.5}, "steps must be a whole number, at least 1; got 2.5"),
        (EvaluateOptions, {"threads": 5000}, "threads must be a whole number from 1 to 1,024; got 5000"),
        (EvaluateOptions, {"guidance_scale": 10**400}, "guidance_scale must be a number; got 1000"),
        (EvaluateOptions, {"guidance_scale": float("nan")}, "guidance_scale must be a number; got nan"),
        (EvaluateOptions, {"split": "tset"}, "unknown split 'tset'; did you mean test"),
        (EvaluateOptions, {"runtime": "onnx"}, "unknown runtime 'onnx'; did you mean onnxruntime"),
        (EvaluateOptions, {"save_images": ""}, "save_images must be a path; got ''"),
        (BenchOptions, {"steps": True}, "steps must be a whole number, at least 1; got True"),
        (BenchOptions, {"precisions": [None]}, "precision must be a text; got None"),
        (BenchOptions, {"report": "~nobody-here/a.html"}, "there is no such user: ~nobody-here"),
        (CompareOptions, {"count": 2.0}, "count must be a whole number, at least 1; got 2.0"),
        (CompareOptions, {"precision": None}, "precision has no value"),
        (RunOptions, {"minutes": "5"}, "minutes must be a number above 0; got '5'"),
        (RunOptions, {"minutes": float("inf")}, "minutes must be a number above 0; got inf"),
        (RunOptions, {"resume": 1}, "resume must be True or False; got 1"),
        (CaptionOptions, {"template": "{mood}"}, "asks for 'mood'"),
        (CaptionOptions, {"questions": {"mood": "what mood"}}, "--ask needs a --template"),
    ],
)
def test_wrong_options_are_refused_where_they_are_made(options: Any, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(genin.InputError, match=says):
        options(**wrong)


@pytest.mark.parametrize(
    ("one", "same"),
    [
        (ExportOptions(formats="onnx"), ExportOptions(formats=("onnx",))),
        (ExportOptions(formats=["onnx"], precisions="fp16"), ExportOptions(formats=("onnx",), precisions=("fp16",))),
        (
            ExportOptions(plans="plan.json", single_graphs=4),
            ExportOptions(plans=[Path("plan.json")], single_graphs=[4]),
        ),
        (ExportOptions(plans=PLAN), ExportOptions(plans=[PLAN])),
        (PlanOptions(weights="int8", plot="~/a.png"), PlanOptions(weights=["int8"], plot=Path.home() / "a.png")),
        (
            BenchOptions(runtimes="openvino", precisions="fp16"),
            BenchOptions(runtimes=("openvino",), precisions=["fp16"]),
        ),
        (BenchOptions(steps=np.array([1, 4]), runs=np.int64(3)), BenchOptions(steps=(1, 4), runs=3)),  # type: ignore[arg-type]
        (BenchOptions(steps=4, report="~/a.html"), BenchOptions(steps=[4], report=Path.home() / "a.html")),
        (BenchOptions(steps=np.array(4)), BenchOptions(steps=4)),  # type: ignore[arg-type]
        (
            EvaluateOptions(save_images="~/a", save_statistics="b", metric_weights="c"),
            EvaluateOptions(save_images=Path.home() / "a", save_statistics=Path("b"), metric_weights=Path("c")),
        ),
        (EvaluateOptions(guidance_scale=np.float32(2)), EvaluateOptions(guidance_scale=2.0)),  # type: ignore[arg-type]
        (GenerateOptions(out="~/a.png", seed=np.uint8(200)), GenerateOptions(out=Path.home() / "a.png", seed=200)),
        (RunOptions(minutes=np.float64(2)), RunOptions(minutes=2.0)),
    ],
)
def test_options_hold_plain_values_however_they_are_given(one: object, same: object) -> None:
    """A path as text, one value for a sequence of one, numpy's numbers."""
    assert one == same
    kinds = {type(value) for given in vars(one).values() for value in (given if isinstance(given, tuple) else (given,))}
    assert kinds <= {str, int, float, bool, type(None), Plan, type(Path())}


def test_prompts_are_a_file_or_some_texts(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a ninja\n\na monk\n")
    assert prompts_of(tmp_path / "prompts.txt") == prompts_of(["a ninja", "a monk"]) == ("a ninja", "a monk")
    for wrong in ([], 5, [5], [None]):
        with pytest.raises(genin.InputError, match="prompts must be a file or a list of texts, at least one; got"):
            compare("builtin:student", tmp_path / "a.png", CompareOptions(prompts=wrong))  # type: ignore[arg-type]
    with pytest.raises(genin.InputError, match=r"no such file of prompts: a ninja; .*given as a list"):
        prompts_of("a ninja")


def test_bench_refuses_a_precision_that_no_bundle_has() -> None:
    with pytest.raises(genin.InputError, match="no bundle has the precision 'fp61'; did you mean fp16"):
        bench("builtin:student", BenchOptions(precisions="fp61"))


@pytest.mark.parametrize("data", [5, None, ["a"]])
def test_data_of_another_type_is_refused(tmp_path: Path, data: Any) -> None:
    with pytest.raises(genin.InputError, match="data must be a dataset folder, 'builtin:world' or an open source; got"):
        genin.distill.distill("builtin:teacher", data, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_home_folder_is_found_wherever_a_path_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "x").mkdir()
    with pytest.raises(genin.InputError) as caught:
        genin.distill.distill("builtin:teacher", "~/x", tmp_path / "out")
    assert str(tmp_path / "x") in str(caught.value) and "no such" not in str(caught.value)
    with pytest.raises(genin.InputError, match=f"{tmp_path / 'absent.yaml'}"):
        genin.distill.load_recipe("~/absent.yaml")
    (tmp_path / "a.yaml").write_text("prune: {images: 7}\n")
    assert genin.distill.load_recipe("~/a.yaml").prune.images == 7
    (tmp_path / "bundle").mkdir()
    with pytest.raises(genin.InputError, match="the output already exists"):
        export("builtin:teacher", "~/bundle")
    (tmp_path / "a.txt").write_text("a ninja\n")
    compare("builtin:student", "~/sheet.png", CompareOptions(prompts="~/a.txt", steps=1))
    assert (tmp_path / "sheet.png").is_file()


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:1", "mps"])
def test_devices_of_pytorch(name: str) -> None:
    assert check_device(name) == name
    for wrong in (f"{name}:", f"{name}:x", f"{name}:²", "gpu", ""):
        with pytest.raises(genin.InputError, match="unknown device"):
            check_device(wrong)


@pytest.mark.parametrize("wrong", [None, SimpleNamespace(type="cuda")])
def test_a_device_is_a_text(wrong: Any) -> None:
    with pytest.raises(genin.InputError, match="not a text"):
        check_device(wrong)


def test_the_processor_has_one_name() -> None:
    """Or fp16, which it does not draw in, would be taken on cpu:0."""
    assert GenerateOptions(device="cpu:0").device == EvaluateOptions(device="cpu:0").device == "cpu"
    with pytest.raises(genin.InputError, match="fp16 is for cuda and mps"):
        genin.load("builtin:teacher", device="cpu:0", precision="fp16")
    with pytest.raises(genin.InputError, match="count"):
        GenerateOptions(count=None)  # type: ignore[arg-type]
    with pytest.raises(genin.InputError, match=r"the prompt must be a text; got \['a ninja'\]"):
        generate(["a ninja"])  # type: ignore[arg-type]


def test_a_device_is_refused_where_nothing_runs_on_it(tmp_path: Path) -> None:
    """Before any work, and in the words of `genin.load`; a model folder on a device that this machine lacks likewise."""
    student, sheet = "builtin:student", tmp_path / "sheet.png"
    calls = (
        lambda device: bench([student], BenchOptions(device=device)),
        lambda device: compare([student], sheet, CompareOptions(device=device)),
        lambda device: evaluate(student, EvaluateOptions(reference=tmp_path, device=device)),
        lambda device: generate("a ninja", GenerateOptions(device=device)),
    )
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "a ninja"}\n')
    genin.load(student)("a ninja").save(tmp_path / "0.png")
    for call in calls:
        with pytest.raises(genin.InputError, match="on the cpu, not on cuda"):
            call("cuda")
    with pytest.raises(genin.InputError, match="device cuda:99 is not available"):
        generate("a ninja", GenerateOptions(model="builtin:teacher", device="cuda:99"))


def test_the_provider_is_the_device_that_was_got(tiny_student_folder: Path, tmp_path: Path) -> None:
    report = generate(
        "a ninja", GenerateOptions(model=tiny_student_folder, device="cpu", out=tmp_path / "new" / "a.png")
    )
    assert report["provider"] == "cpu" and report["runtime"] == "pytorch"
    assert report["notes"] == [f"made the folder {tmp_path / 'new'}"] and Path(report["images"][0]).is_file()
    assert (
        generate("a ninja", GenerateOptions(model=tiny_student_folder, out=tmp_path / "new" / "b.png"))["notes"] == []
    )


def test_compare_from_python(tiny_student_folder: Path, tmp_path: Path) -> None:
    options = CompareOptions(prompts=["a ninja", "a monk"], steps=1)
    grid = compare([tiny_student_folder], tmp_path / "sheet.png", options)
    assert grid.captions == ("a ninja", "a monk") and (tmp_path / "sheet.png").is_file()
    assert grid.rows[0].pictures.shape == (2, 32, 32, 3) and grid.rows[0].pictures.dtype == np.uint8
    with pytest.raises(genin.InputError, match="no model is given"):
        compare([], tmp_path / "sheet.png")


def test_export_refuses_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(genin.InputError, match=r"a bundle is a folder or one \.genin file"):
        export("builtin:teacher", tmp_path / "x.onnx")
    with pytest.raises(genin.InputError, match="the output already exists"):
        export("builtin:teacher", tmp_path)
    with pytest.raises(genin.InputError, match="a single graph is not available in coreml"):
        export("builtin:teacher", tmp_path / "x", ExportOptions(formats=["coreml"], single_graphs=[4]))
    with pytest.raises(genin.InputError, match="no such"):
        export(tmp_path / "absent", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_what_is_drawn_is_shown_in_a_line() -> None:
    with genin.load("builtin:student", runtime="onnxruntime") as pipe:
        assert repr(pipe).startswith("<Pipeline builtin:student: onnxruntime fp16 on CPU") and "4 steps>" in repr(pipe)
        drawn = pipe.generate(["a ninja"] * 6, 7, steps=1)
        assert repr(drawn).startswith("<Generation: 6 pictures of 128x128, seed 7, 8, 9, 10, …, 1 step, ")
        with pytest.raises(TypeError, match="unexpected keyword argument 'seeds'; did you mean seed"):
            pipe("a ninja", seeds=7)  # type: ignore[call-overload]
    assert "closed" in repr(pipe)


def test_steps_that_are_refused_are_not_warned_of(recwarn: pytest.WarningsRecorder) -> None:
    with genin.load("builtin:student") as pipe, pytest.raises(genin.InputError, match="5000 steps cannot be taken"):
        pipe("a ninja", steps=5000)
    assert not [warning for warning in recwarn if "trained for" in str(warning.message)]

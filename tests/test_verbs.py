"""The verbs of the parts from Python: imported when they are used, one options object each, wrong options as InputError."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import genin
import genin.benchmarks
import genin.distill
import genin.export
from genin.benchmarks import BenchOptions, CompareOptions, EvaluateOptions, bench, compare, evaluate
from genin.distill.data.caption import CaptionOptions
from genin.distill.data.extract import FitOptions
from genin.distill.data.prepare import PrepareOptions
from genin.export import ExportOptions, PlanOptions, export
from genin.runtimes.generation import GenerateOptions, generate
from genin.runtimes.vocabulary import check_device

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
        (ExportOptions, {"batch": 65}, "outside 1 … 64"),
        (ExportOptions, {"single_graphs": [0]}, "number of steps 0 is not a whole number of 1 at least"),
        (PlanOptions, {"weights": ()}, "no precision to choose"),
        (PlanOptions, {"weights": ("fp16",), "activations": True}, "want 8-bit weights"),
        (EvaluateOptions, {"samples": 0}, "samples 0"),
        (EvaluateOptions, {"seed": -1}, "seed -1 is not a whole number from 0"),
        (EvaluateOptions, {"device": "gpu"}, "unknown device 'gpu'"),
        (EvaluateOptions, {"floor": True, "save_images": Path("x")}, "leave out --save-images"),
        (BenchOptions, {"runs": 0}, "runs 0"),
        (BenchOptions, {"runtimes": ["onnx"]}, "unknown runtime 'onnx'; did you mean onnxruntime"),
        (BenchOptions, {"steps": [1, 0]}, "steps 0"),
        (CompareOptions, {"split": "val"}, "--split is of a reference"),
        (CompareOptions, {"prompts": ["a"], "reference": "x"}, "both say what to draw"),
        (CompareOptions, {"layout": "columns"}, "unknown layout"),
        (GenerateOptions, {"count": 0}, "count 0"),
        (GenerateOptions, {"seed": 2**64 - 1, "count": 2}, "seed"),
        (GenerateOptions, {"noise": "numpy"}, "unknown noise mode"),
        (PrepareOptions, {"fit": FitOptions(buckets=True)}, "--buckets needs --size"),
        (CaptionOptions, {"template": "{mood}"}, "asks for 'mood'"),
        (CaptionOptions, {"questions": {"mood": "what mood"}}, "--ask needs a --template"),
    ],
)
def test_wrong_options_are_refused_where_they_are_made(options: Any, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(genin.InputError, match=says):
        options(**wrong)


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:1", "mps"])
def test_devices_of_pytorch(name: str) -> None:
    assert check_device(name) == name
    for wrong in (f"{name}:", f"{name}:x", "gpu", ""):
        with pytest.raises(genin.InputError, match="unknown device"):
            check_device(wrong)


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
    with pytest.raises(genin.InputError, match="device cuda:99 is not here"):
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
    with pytest.raises(genin.InputError, match="no model is named"):
        compare([], tmp_path / "sheet.png")


def test_export_refuses_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(genin.InputError, match=r"a bundle is a folder or one \.genin file"):
        export("builtin:teacher", tmp_path / "x.onnx")
    with pytest.raises(genin.InputError, match="the output exists already"):
        export("builtin:teacher", tmp_path)
    with pytest.raises(genin.InputError, match="--single-graph has no effect on coreml"):
        export("builtin:teacher", tmp_path / "x", ExportOptions(formats=["coreml"], single_graphs=[4]))
    with pytest.raises(genin.InputError, match="no such"):
        export(tmp_path / "absent", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_what_is_drawn_is_shown_in_a_line() -> None:
    with genin.load("builtin:student", runtime="onnxruntime") as pipe:
        assert repr(pipe).startswith("<Pipeline builtin:student: onnxruntime fp16 on CPU") and "4 steps>" in repr(pipe)
        drawn = pipe.generate(["a ninja"] * 6, 7, steps=1)
        assert repr(drawn).startswith("<Generation: 6 pictures of 64x64, seed 7, 8, 9, 10, …, 1 steps, ")
        with pytest.raises(TypeError, match="unexpected keyword argument 'seeds'; did you mean seed"):
            pipe("a ninja", seeds=7)  # type: ignore[call-overload]
    assert "closed" in repr(pipe)


def test_steps_that_are_refused_are_not_warned_of(recwarn: pytest.WarningsRecorder) -> None:
    with genin.load("builtin:student") as pipe, pytest.raises(genin.InputError, match="5000 steps cannot be taken"):
        pipe("a ninja", steps=5000)
    assert not [warning for warning in recwarn if "trained for" in str(warning.message)]

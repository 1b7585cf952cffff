"""What PyInstaller is told of genin: the hook is found, names modules that exist, and brings the shipped students whole."""

from __future__ import annotations

import importlib.util
import runpy
import tomllib
from pathlib import Path

import pytest

from genin import pyinstaller
from genin.names import InstalledNames
from genin.runtimes.errors import InputError

ROOT = Path(__file__).parents[1]


def test_the_entry_point_leads_to_the_hook() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pyinstaller40"] == {"hook-dirs": "genin.pyinstaller:hook_dirs"}
    (folder,) = pyinstaller.hook_dirs()
    hook = runpy.run_path(str(Path(folder) / "hook-genin.py"))
    assert hook["hiddenimports"] == pyinstaller.hidden_imports() and hook["datas"] == pyinstaller.data_files()


def test_imports_are_there_and_no_torch_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENIN_ENGINES", "onnxruntime")
    names = pyinstaller.hidden_imports()
    assert {"genin.api", "genin.runtimes.onnxruntime_engine", "onnxruntime"} <= set(names)
    assert not {"torch", "genin.runtimes.pytorch_engine", "openvino"} & set(names)
    assert all(importlib.util.find_spec(name) for name in names)
    left_out = pyinstaller.excluded_imports()
    assert {"torch", "genin.export", "openvino"} <= set(left_out)
    assert not [name for name in names if any(f"{name}.".startswith(f"{one}.") for one in left_out)]


def test_an_engine_that_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENIN_ENGINES", "onnx")
    with pytest.raises(InputError, match=r"unknown engine 'onnx'.*did you mean onnxruntime"):
        pyinstaller.engines()


def test_the_shipped_students_are_copied_where_genin_looks_for_them() -> None:
    files = {f"{folder}/{Path(file).name}" for file, folder in pyinstaller.data_files()}
    for name in ("student", "student-1step"):
        bundle = InstalledNames().model(f"builtin:{name}")
        own = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
        assert {f"genin/runtimes/weights/{name}/{path}" for path in own} <= files
    assert not [file for file in files if "teacher" in file]

"""What Nuitka is told of genin: modules that exist, the same as PyInstaller is told, and the shipped students."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from genin import pyinstaller
from genin.names import InstalledNames
from genin.nuitka import CONFIGURATION
from genin.runtimes.engine import ENGINES

yaml = pytest.importorskip("yaml")


@pytest.fixture(scope="module")
def configured() -> dict[str, Any]:
    rows: list[dict[str, Any]] = yaml.safe_load(CONFIGURATION.read_text(encoding="utf-8"))
    return {row["module-name"]: row for row in rows}


def depends(row: dict[str, Any]) -> set[str]:
    return {name for group in row["implicit-imports"] for name in group["depends"]}


def test_modules_that_are_imported_by_name(configured: dict[str, Any]) -> None:
    assert depends(configured["genin"]) == set(pyinstaller.LAZY_MODULES)
    adapters = {ENGINES[name].target.partition(":")[0] for name in ("onnxruntime", "openvino", "native")}
    assert depends(configured["genin.runtimes.engine"]) == adapters
    assert all(importlib.util.find_spec(name) for name in depends(configured["genin"]) | adapters)


def test_the_shipped_students(configured: dict[str, Any]) -> None:
    [group] = configured["genin.runtimes"]["data-files"]
    root = InstalledNames().model("builtin:student").parent
    assert {root / Path(name).name for name in group["dirs"]} == {
        InstalledNames().model(f"builtin:{name}") for name in ("student", "student-1step")
    }


def test_the_command_prints_its_path() -> None:
    found = subprocess.run([sys.executable, "-m", "genin.nuitka"], capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()).samefile(CONFIGURATION)

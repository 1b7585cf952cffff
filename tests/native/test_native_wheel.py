"""The wheel `genin-native`: what is in it, and that it is all that `--runtime native` needs beside onnxruntime."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "runtimes" / "native"


def test_it_has_the_version_of_genin() -> None:
    ours, library = (
        tomllib.loads((ROOT / path / "pyproject.toml").read_text(encoding="utf-8")) for path in (".", NATIVE)
    )
    assert library["project"]["version"] == ours["project"]["version"]
    assert f"project(genin VERSION {ours['project']['version']} " in (NATIVE / "CMakeLists.txt").read_text("utf-8")
    assert any(line.startswith("genin-native>=") for line in ours["project"]["optional-dependencies"]["native"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_wheel_draws(tmp_path: Path) -> None:
    """A minute: `python -m pytest -n0 -m slow tests/native/test_native_wheel.py`."""
    pytest.importorskip("scikit_build_core", reason="pip install scikit-build-core")
    copy = shutil.copytree(NATIVE, tmp_path / "native")
    code = f"import scikit_build_core.build as backend; print(backend.build_wheel({str(tmp_path)!r}))"
    built = subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    [wheel] = tmp_path.glob("genin_native-*-py3-none-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if "dist-info" not in name]
        archive.extractall(tmp_path / "site")
    assert len(names) == 2 and "genin_native/__init__.py" in names
    assert wheel.stat().st_size < 1_000_000

    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(tmp_path / "site"), os.environ.get("PYTHONPATH", ""))),
    }
    command = [sys.executable, "-m", "genin"]
    listed = subprocess.run(
        [*command, "runtimes", "--json"], env=environment, capture_output=True, text=True, check=True
    )
    [row] = [row for row in json.loads(listed.stdout)["runtimes"] if row["runtime"] == "native"]
    assert row["available"] and row["version"] is not None
    options = ["-m", "builtin:student-1step", "--runtime", "native", "--out", str(tmp_path / "x.png"), "--json"]
    drawn = subprocess.run(
        [*command, "generate", "a ninja", *options], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(drawn.stdout.splitlines()[-1])["runtime"] == "native"
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")

"""genin-bench.pyz: one file that measures with nothing but numpy and an engine installed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from genin.benchmarks.results.files import read_results
from genin.names import cache_folder

TOOLS = Path(__file__).parents[2] / "tools"


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built: Path = tool("bench_pyz").build(tmp_path_factory.mktemp("pyz") / "genin-bench.pyz")
    return built


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A folder that sees numpy and ONNX Runtime, and nothing else of this environment."""
    site = tmp_path / "site"
    site.mkdir()
    for name in ("numpy", "onnxruntime"):
        found = importlib.util.find_spec(name)
        assert found is not None and found.origin is not None
        packages = Path(found.origin).parents[1]
        for entry in packages.glob(f"{name}*"):
            (site / entry.name).symlink_to(entry)
    return site


def run(archive: Path, site: Path | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(archive.parent),
        "GENIN_CACHE": str(archive.parent / "cache"),
    }
    environment |= {"PYTHONPATH": str(site)} if site else {}
    command = [sys.executable, "-S", str(archive), *arguments]  # -S: without this environment's packages
    return subprocess.run(command, env=environment, cwd=archive.parent, capture_output=True, text=True, check=False)


def test_only_python_is_inside(archive: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        names = file.namelist()
    assert not [name for name in names if name.endswith((".so", ".pyd", ".pyc", ".dylib"))]
    assert {"genin/cli.py", "genin/runtimes/weights/student/manifest.json", "genin/benchmarks/suites/quick.yaml"} < {
        *names
    }
    assert "yaml/loader.py" in names  # of --suite
    assert any(name.endswith("licenses/LICENSE.txt") for name in names) and "genin/LICENSE" in names
    assert not any(name.startswith(("genin/distill", "genin/export", "genin/runtimes/native/")) for name in names)


def test_a_host_without_numpy_is_told(archive: Path) -> None:
    done = run(archive, None, "--help")
    assert done.returncode == 1
    assert done.stderr == "genin-bench needs numpy and an engine: pip install numpy onnxruntime\n"


def test_a_cache_that_cannot_be_written_is_named(archive: Path, host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = tool("bench_pyz_start")
    for folder in ("/proc/nowhere", str(archive)):  # refused, and a file
        monkeypatch.setenv("GENIN_CACHE", folder)
        with pytest.raises(SystemExit, match=rf"cannot be unpacked into {folder} \(.*\); set GENIN_CACHE to a folder"):
            start.unpacked(archive)


@pytest.mark.parametrize("chosen", [None, "~/caches"])
def test_its_cache_is_genins(chosen: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENIN_CACHE", raising=False)
    if chosen:
        monkeypatch.setenv("GENIN_CACHE", chosen)
    assert tool("bench_pyz_start").cache() == cache_folder()


@pytest.mark.slow
def test_it_measures_the_student_and_a_bundle_by_path(archive: Path, host: Path) -> None:
    shown = run(archive, host, "--help")
    assert shown.returncode == 0 and "Usage: genin bench" in shown.stdout and not shown.stderr
    (unpacked,) = (archive.parent / "cache").glob("bench-*")
    options = ["--runtime", "onnxruntime", "--runs", "2", "--processes", "1", "--warmup", "0", "--threads", "1"]
    student = unpacked / "genin" / "runtimes" / "weights" / "student-1step"
    done = run(archive, host, "builtin:student", str(student), *options, "--out", "results.json", "--json")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert read_results(archive.parent / "results.json") == results
    assert [row["bundle"] for row in results["results"]] == ["builtin:student", "student-1step"]
    assert results["command"].startswith("genin bench builtin:student") and not results["skipped"]
    assert all(row["runs"] == 2 and row["notes"]["lpips_squeeze_to_teacher"] for row in results["results"])
    assert len(list((archive.parent / "cache").glob("bench-*"))) == 1  # unpacked once

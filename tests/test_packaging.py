"""What is in the wheel: every module, template and shipped weight, under `genin` and nowhere else."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from genin import names
from genin.runtimes.engine import ENGINES
from genin.runtimes.errors import InputError

pytestmark = pytest.mark.processes  # builds a wheel
ROOT = Path(__file__).parents[1]
FOLDERS = {"genin": "src/genin", **{f"genin/{part}": part for part in ("benchmarks", "distill", "export", "runtimes")}}
LIMIT_BYTES = re.compile(r"^LIMIT_BYTES = ([\d_]+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files that git would give a newcomer."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in checked_out():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(checkout, tmp_path_factory.mktemp("wheel"))


def built(project: Path, out: Path) -> Path:
    """The project's wheel, by the build backend that pip would use."""
    code = f"import setuptools.build_meta as backend; print(backend.build_wheel({str(out)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = out.glob("*.whl")
    return wheel


def checked_out() -> list[str]:
    """Tracked files, and new ones that are not ignored; links (they serve only type checkers) left out."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is not a git checkout")
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file() and "typepath" not in name]


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def expected(pattern: str) -> set[str]:
    """The checkout's files that match, under the names they have once installed."""
    return {
        f"{package}/{path.relative_to(ROOT / folder)}"
        for package, folder in FOLDERS.items()
        for path in (ROOT / folder).glob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_every_module_is_in_the_wheel(wheel: Path) -> None:
    assert {name for name in names_in(wheel) if name.endswith(".py")} == expected("**/*.py")
    assert "genin/py.typed" in names_in(wheel)


def test_the_wheel_has_the_students_and_no_weights_of_training(wheel: Path) -> None:
    weights = {name for name in names_in(wheel) if "/weights/" in name}
    assert weights == expected("weights/**/*")
    assert {name.split("/")[3] for name in weights} == {"NOTICE", "student", "student-1step"}


def test_weights_of_training_are_a_wheel_of_their_own(checkout: Path, tmp_path: Path) -> None:
    names = names_in(built(checkout / "weights", tmp_path))
    package = ROOT / "weights" / "genin_training_weights"
    files = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {f"{package.name}/{path.relative_to(package).as_posix()}" for path in files} == {
        name for name in names if ".dist-info/" not in name
    }
    assert {"teacher", "teacher_statistics", "world_classifier.safetensors"} <= {name.split("/")[1] for name in names}


def test_without_weights_of_training_the_teacher_is_named_and_the_rest_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "TRAINING_WEIGHTS", "no_such_package")
    monkeypatch.setitem(names.BUILTIN_MODELS, "builtin:teacher", ("no_such_package", "teacher"))  # type: ignore[misc]
    installed = names.InstalledNames()
    with pytest.raises(InputError, match=r"package no-such-package, which is not installed.*pip install \./weights"):
        installed.model("builtin:teacher")
    assert installed.model("builtin:student").is_dir()
    assert installed.classifier() is None
    assert installed.teacher_statistics() is None


def test_all_templates_are_in_the_wheel(wheel: Path) -> None:
    templates = expected("**/templates/*")
    assert {Path(name).suffix for name in templates} == {".jinja", ".css", ".js"}
    assert templates <= names_in(wheel)


def test_all_suites_are_in_the_wheel(wheel: Path) -> None:
    assert expected("suites/*.yaml") and expected("suites/*.yaml") <= names_in(wheel)


def test_peers_in_other_languages_are_in_the_wheel(wheel: Path) -> None:
    assert expected("peers/*.cjs") and expected("peers/*.cjs") <= names_in(wheel)


def test_nothing_but_genin_stands_at_the_top(wheel: Path) -> None:
    assert {name.partition("/")[0] for name in names_in(wheel)} == {"genin", f"genin-{version()}.dist-info"}


def test_the_wheel_brings_the_licence_and_the_command(wheel: Path) -> None:
    info = f"genin-{version()}.dist-info"
    assert f"{info}/licenses/LICENSE" in names_in(wheel)
    with zipfile.ZipFile(wheel) as archive:
        assert "genin = genin.cli:main" in archive.read(f"{info}/entry_points.txt").decode()


def test_committed_weights_stay_small_and_hold_no_pickle() -> None:
    files = [ROOT / name for name in checked_out() if "weights/" in name and "teacher_statistics" not in name]
    limit = LIMIT_BYTES.search((ROOT / "tools" / "ship_weights.py").read_text(encoding="utf-8"))
    weights = [path for path in files if path.suffix in (".onnx", ".safetensors")]
    assert limit and sum(path.stat().st_size for path in weights) <= int(limit[1])
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt")]


def test_a_game_needs_no_training_package() -> None:
    core = {line.partition(">")[0] for line in project()["dependencies"] + extras()["onnxruntime"]}
    assert core == {"click", "numpy", "pillow", "platformdirs", "rich", "onnxruntime"}


def test_releases_of_onnxruntime_that_are_not_used_are_excluded() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"].values()
    lines = [line for group in (project()["dependencies"], *extras().values(), *groups) for line in group]
    requirements = [Requirement(line) for line in lines if isinstance(line, str)]
    found = [requirement for requirement in requirements if requirement.name == "onnxruntime"]
    assert found and set(ENGINES["onnxruntime"].broken) == {"1.24.0", "1.24.1"}
    for requirement in found:
        assert not [release for release in ENGINES["onnxruntime"].broken if requirement.specifier.contains(release)]
        assert requirement.specifier.contains("1.24.2")


def test_every_extra_is_bounded_so_that_an_install_next_year_works() -> None:
    lines = project()["dependencies"] + [line for extra in extras().values() for line in extra]
    assert all(line.startswith("genin[") or ("<" in line and ">=" in line) for line in lines)


def project() -> dict[str, list[str]]:
    found: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return found


def extras() -> dict[str, list[str]]:
    found: dict[str, list[str]] = project()["optional-dependencies"]  # type: ignore[assignment]
    return found


def version() -> str:
    from genin import __version__

    return __version__


@pytest.fixture(scope="module")
def bare_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new virtual environment with onnxruntime alone, from the index; 20 seconds and a network."""
    venv = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    python = venv / ("Scripts" if os.name == "nt" else "bin") / "python"
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", f"{wheel}[onnxruntime]"], check=True)
    return python


def bare_environment() -> dict[str, str]:
    """Without the checkout on the path."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.mark.slow
def test_the_readme_s_example_runs_where_only_onnxruntime_is_installed(bare_python: Path, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    code += "import sys; assert not {'torch', 'click'} & set(sys.modules)\n"
    subprocess.run([str(bare_python), "-c", code], cwd=tmp_path, check=True, env=bare_environment())
    assert (tmp_path / "ninja.png").read_bytes().startswith(b"\x89PNG")
    listed = subprocess.run([str(bare_python), "-m", "pip", "list"], check=True, capture_output=True, text=True).stdout
    assert "torch" not in listed and "onnxruntime" in listed


@pytest.mark.slow
def test_latency_is_measured_where_only_onnxruntime_is_installed(bare_python: Path, tmp_path: Path) -> None:
    """`genin bench` alone, its results compared and exported; rows of quality say what they lack."""

    def genin(*arguments: str) -> str:
        command = [str(bare_python), "-m", "genin", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False, env=bare_environment()
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    printed = genin("bench", "--runs", "6", "--processes", "2", "--out", "r.json")
    assert printed.count("builtin:student") == 2 and "onnxruntime" in printed
    results = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert results["notes"]["lpips_squeeze_to_fp32"] == "LPIPS needs PyTorch: pip install 'genin[metrics]'"
    for row in results["results"]:
        assert row["valid"] is True and len(row["samples_ms"]) == 6 and row["peak_rss_bytes"] > 50e6
        assert row["lpips_squeeze_to_fp32"] is None and row["macs"] > 0
    assert genin("bench", "compare", "r.json", "r.json").startswith("**2 same**")
    assert "can be seen here" in genin("bench", "selftest", "--runs", "4", "--processes", "2")
    for format in ("csv", "card", "badge", "bibtex", "pyperf"):
        assert genin("bench", "export", "r.json", "--format", format)
    refused = subprocess.run(
        [str(bare_python), "-m", "genin", "bench", "--report", "p.html", "--runs", "1", "--warmup", "0"],
        cwd=tmp_path, capture_output=True, text=True, check=False, env=bare_environment(),
    )  # fmt: skip
    assert refused.returncode == 2 and "pip install 'genin[metrics]'" in refused.stderr


GAME = """
import sys

import genin

painter = genin.Painter("builtin:student-1step")
ticket = painter.submit("a ninja in the rain", seed=7)
painter.wait(ticket)
painter.take(ticket).save(sys.argv[1])
painter.close()
"""


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.skipif(not shutil.which("patchelf") or not shutil.which("gcc"), reason="apt install gcc patchelf")
def test_a_game_that_nuitka_compiled_draws(wheel: Path, tmp_path: Path) -> None:
    """In a new virtual environment, with packages from the index; numpy and genin are compiled to C, which takes half an hour."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", f"{wheel}[onnxruntime]", "nuitka"], check=True, env=alone
    )
    (tmp_path / "game.py").write_text(GAME, encoding="utf-8")
    told = subprocess.run([python, "-m", "genin.nuitka"], check=True, capture_output=True, text=True, env=alone)
    options = ["--standalone", "--assume-yes-for-downloads", f"--user-package-configuration-file={told.stdout.strip()}"]
    subprocess.run([python, "-m", "nuitka", *options, "game.py"], cwd=tmp_path, check=True, env=alone)
    shutil.rmtree(tmp_path / "venv")
    subprocess.run([str(tmp_path / "game.dist" / "game.bin"), str(tmp_path / "ninja.png")], check=True, env=alone)
    assert (tmp_path / "ninja.png").read_bytes().startswith(b"\x89PNG")

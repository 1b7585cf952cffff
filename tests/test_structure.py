"""Who may import whom (the contracts of pyproject.toml), no import cycles, and a package for every folder of modules."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from programs import load_program

ROOT = Path(__file__).parents[1]
PARTS = ("benchmarks", "distill", "export", "runtimes")
ABSENT_IN_A_GAME = (
    *("torch", "torchvision", "diffusers", "transformers", "accelerate", "peft", "safetensors", "huggingface_hub"),
    *("lpips", "torch_fidelity", "jinja2", "yaml", "psutil", "matplotlib", "onnx", "nncf", "optimum"),
    *("coremltools", "openvino", "onnxruntime"),
)
IMPORT_ALL = """
import importlib, pkgutil, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Absent())
import genin.cli, genin.names, genin.runtimes
for found in pkgutil.iter_modules(genin.runtimes.__path__):
    if found.name == "pytorch_engine":  # the one adapter that is made of its engine
        continue
    importlib.import_module("genin.runtimes." + found.name)
    print(found.name)
"""


@pytest.fixture(scope="module")
def structure() -> ModuleType:
    return load_program("tools/structure.py")


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(root / "tools" / "typepath")}
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--config", "pyproject.toml"]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_every_package_imports_only_packages_below_it() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


PLANTED = {  # module => its content, and the import that has to be found
    "runtimes/upward.py": (
        "from genin.benchmarks.quality.frechet import frechet_distance",
        "genin.runtimes.upward -> genin.benchmarks.quality.frechet",
    ),
    "benchmarks/late.py": (
        "def late() -> None:\n    import genin.export.components",
        "genin.benchmarks.late -> genin.export.components",
    ),
    "runtimes/heavy.py": ("import torch", "genin.runtimes.heavy -> torch"),
    "distill/models/upward.py": (
        "from genin.distill.loop.training import Training",
        "genin.distill.models.upward -> genin.distill.loop.training",
    ),
}


def test_imports_against_the_contracts_are_found(tmp_path: Path) -> None:
    """By every contract at once: of what stands above, a late one, one within a part, an engine outside its adapter."""
    ignore = shutil.ignore_patterns("weights", "__pycache__")
    for folder in (*PARTS, "src"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignore)
    (tmp_path / "tools" / "typepath").mkdir(parents=True)
    shutil.copytree(ROOT / "tools" / "typepath" / "genin", tmp_path / "tools" / "typepath" / "genin", symlinks=True)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name, (content, _) in PLANTED.items():
        (tmp_path / name).write_text(content + "\n", encoding="utf-8")
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    assert not [found for _, found in PLANTED.values() if found not in done.stdout], done.stdout


def test_no_import_cycle_between_files(structure: ModuleType, tmp_path: Path) -> None:
    assert structure.structure(ROOT).cycles == []
    (tmp_path / "runtimes").mkdir()
    (tmp_path / "runtimes" / "a.py").write_text("from genin.runtimes import b")
    (tmp_path / "runtimes" / "b.py").write_text("def late() -> None:\n    import genin.runtimes.a")
    assert structure.structure(tmp_path).cycles == [["genin.runtimes.a", "genin.runtimes.b"]]


def test_every_folder_of_modules_is_an_installed_package(structure: ModuleType) -> None:
    """One that is not listed would import from a checkout and be missing from the wheel."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    modules: dict[str, Path] = structure.modules(ROOT)
    packages = {structure.package_of(module, modules) for module in modules}
    assert packages == set(settings["tool"]["setuptools"]["packages"])
    assert packages <= modules.keys(), "a folder of modules lacks its __init__.py"


def test_the_tree_of_the_architecture_page_lists_every_module(structure: ModuleType) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = page.partition("## The tree")[2].partition("```text\n")[2].partition("```")[0]
    folders: dict[int, str] = {}  # by indentation
    listed: list[str] = []
    for line in tree.splitlines():
        depth = len(line) - len(line.lstrip())
        folders = {indent: folder for indent, folder in folders.items() if indent < depth}
        if folder := re.match(r" *([\w/]+/) ", line):
            folders[depth] = folder[1]
        listed += ["".join(folders.values()) + name for name in re.findall(r"[\w-]+\.py\b", line)]
    assert len(listed) == len(set(listed))
    packages = ("__init__.py", "__main__.py")
    exist = [
        path.relative_to(ROOT).as_posix() for path in structure.modules(ROOT).values() if path.name not in packages
    ]
    assert {*listed} - {"src/genin/__init__.py", "tools/structure.py"} == {*exist}


def test_type_checkers_see_the_package_as_it_is_installed() -> None:
    seen = {path.name for path in (ROOT / "tools" / "typepath" / "genin").iterdir()}
    assert seen - {"__pycache__"} == {*PARTS, *(path.name for path in (ROOT / "src" / "genin").iterdir())} - {
        "__pycache__"
    }


def test_all_of_runtimes_imports_where_no_engine_and_no_torch_is_installed() -> None:
    code = IMPORT_ALL.replace("{absent}", repr(set(ABSENT_IN_A_GAME)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert {"errors", "bundle", "samplers"} <= set(done.stdout.split())


def test_no_top_level_module_is_named_like_a_dependency() -> None:
    taken = {*ABSENT_IN_A_GAME, "numpy", "PIL", "click", "rich"}
    modules = {path.stem for part in PARTS for path in (ROOT / part).glob("*.py")}
    assert not modules & taken


def test_no_two_test_files_have_one_name() -> None:
    """pytest imports them by their names alone."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))

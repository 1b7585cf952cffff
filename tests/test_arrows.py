"""Who may import whom: export → distill → benchmarks → runtimes, never the other way; engines only in adapters."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

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


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(root / "tools" / "typepath")}
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--config", "pyproject.toml"]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_every_part_imports_only_what_stands_below_it() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


PLANTED = {  # module => its content, and the import that has to be found
    "runtimes/upward.py": (
        "from genin.benchmarks.frechet import frechet_distance",
        "genin.runtimes.upward -> genin.benchmarks.frechet",
    ),
    "benchmarks/late.py": (
        "def late() -> None:\n    import genin.export.components",
        "genin.benchmarks.late -> genin.export.components",
    ),
    "runtimes/heavy.py": ("import torch", "genin.runtimes.heavy -> torch"),
}


def test_imports_against_the_arrows_are_found(tmp_path: Path) -> None:
    """By every contract at once: an import of what stands above, a late one, and an engine outside its adapter."""
    for part in PARTS:
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("weights", "__pycache__"))
    (tmp_path / "tools" / "typepath" / "genin").mkdir(parents=True)
    for part in PARTS:
        (tmp_path / "tools" / "typepath" / "genin" / part).symlink_to(tmp_path / part)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name, (content, _) in PLANTED.items():
        (tmp_path / name).write_text(content + "\n", encoding="utf-8")
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    assert not [found for _, found in PLANTED.values() if found not in done.stdout], done.stdout


def test_all_of_runtimes_imports_where_no_engine_and_no_torch_is_installed() -> None:
    code = IMPORT_ALL.replace("{absent}", repr(set(ABSENT_IN_A_GAME)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert {"errors", "bundle", "samplers"} <= set(done.stdout.split())


def test_no_module_is_named_like_a_dependency() -> None:
    taken = {*ABSENT_IN_A_GAME, "numpy", "PIL", "click", "rich"}
    modules = {path.stem for part in PARTS for path in (ROOT / part).glob("*.py")}
    assert not modules & taken


def test_folders_are_flat() -> None:
    """A sub-package would import from a checkout and be missing from the wheel."""
    assert not [path for part in PARTS for path in (ROOT / part).glob("*/**/*.py")]

"""The runtime is whole without PyTorch: it imports and draws a picture where torch and its kin cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import importlib, pkgutil, sys

class Blocker:
    blocked = {"torch", "diffusers", "transformers", "torchvision", "safetensors", "accelerate", "tokenizers"}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.blocked:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocker())
import genin.cli, genin.runtimes
for module in pkgutil.iter_modules(genin.runtimes.__path__):
    if module.name != "pytorch_engine":  # the one adapter that is PyTorch
        importlib.import_module(f"genin.runtimes.{module.name}")
heavy = {"onnxruntime", "openvino", "coremltools", "PIL"} & set(sys.modules)
assert not heavy, f"imported before they are needed: {heavy}"
code = genin.cli.run(sys.argv[1:])
assert not Blocker.blocked & set(sys.modules)
sys.exit(code)
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False, timeout=300
    )


@pytest.mark.export
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_draws_a_picture(tiny_bundle: Path, tmp_path: Path, runtime: str) -> None:
    out = tmp_path / "ninja.png"
    done = run("generate", "a ninja", "-m", str(tiny_bundle), "--runtime", runtime, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert out.read_bytes().startswith(b"\x89PNG")
    again, start = tmp_path / "again.png", ("--image", str(out), "--strength", "0.5")
    done = run("generate", "a ninja", "-m", str(tiny_bundle), "--runtime", runtime, "--out", str(again), *start)
    assert done.returncode == 0 and again.is_file(), done.stderr


def test_says_how_to_install_what_model_folders_need(tiny_student_folder: Path) -> None:
    done = run("generate", "a ninja", "-m", str(tiny_student_folder))
    assert done.returncode == 2
    assert "'torch' is not installed; pip install 'genin[distill]'" in done.stderr


@pytest.mark.processes
def test_verifies_a_bundle() -> None:
    done = run("verify", "builtin:student", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["ok"]

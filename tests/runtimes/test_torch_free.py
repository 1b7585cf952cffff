"""The runtime is whole without PyTorch: it imports and draws a picture where torch and its kin cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

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


REFUSED = (
    "teacher train --data nowhere --out out",
    "teacher finetune --data pictures --out out",
    "teacher finetune --data builtin:world --recipe typo.yaml --out out",
    "teacher finetune --data builtin:world --out full",
    "distill --teacher nowhere --data builtin:world --out out",
    "distill --teacher builtin:teacher --data builtin:world --student bk-bse --out out",
    "distill --teacher builtin:teacher --data nowhere --out out",
    "export nowhere --out out",
    "plan nowhere --out out.json",
    "compare nowhere --out out.png",
    "bench nowhere",
)


def test_what_is_refused_is_refused_before_pytorch_is_imported(tmp_path: Path) -> None:
    """It takes seconds, and half a minute where other work runs: too long for a word that is misspelt."""
    Image.new("RGB", (16, 16)).save(make_folder(tmp_path / "pictures") / "0.png")
    (make_folder(tmp_path / "full") / "file").write_text("")
    (tmp_path / "typo.yaml").write_text("finetune:\n  imagse: 8\n")
    code = (
        "import sys, genin.cli as cli\nfor words in sys.argv[1:]: print(cli.run(words.split()), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *REFUSED], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.splitlines() == ["2 False"] * len(REFUSED)
    assert len(done.stderr.strip().splitlines()) == len(REFUSED)


def make_folder(path: Path) -> Path:
    path.mkdir()
    return path

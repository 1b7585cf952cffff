"""A program that uses genin, type-checked against the wheel's content as pip would install it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes
ROOT = Path(__file__).parents[1]
CLIENT = Path(__file__).with_name("typed_client")
PARTS = ("benchmarks", "distill", "export", "runtimes")
# Libraries of the extras are 9 of 10 modules that mypy would read. None of their types is in what the client sees.
CONFIGURATION = """
[mypy]
strict = True
follow_imports = silent
cache_dir = cache
[mypy-accelerate.*,av.*,cv2.*,diffusers.*,huggingface_hub.*,jinja2.*,matplotlib.*,onnx.*,onnx_ir.*,onnxscript.*]
follow_imports = skip
[mypy-peft.*,torch.*,transformers.*]
follow_imports = skip
"""


def test_a_client_sees_the_types(tmp_path: Path) -> None:
    """Strictly; the client marks its two wrong calls, and an error that is not found fails as an unused mark."""
    ignored = shutil.ignore_patterns("__pycache__", "weights")
    site = tmp_path / "site"
    shutil.copytree(ROOT / "src" / "genin", site / "genin", ignore=ignored)
    for part in PARTS:
        shutil.copytree(ROOT / part, site / "genin" / part, ignore=ignored)
    shutil.copy(CLIENT / "client.py", tmp_path)
    (tmp_path / "mypy.ini").write_text(CONFIGURATION)
    command = [sys.executable, "-m", "mypy", "client.py"]
    environment = {**os.environ, "MYPYPATH": str(site)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

"""sha256 of the pictures that the shipped models draw on every runtime: are they, to the bit, what another commit draws here?

    python tools/picture_hashes.py > after.json
    PYTHONPATH=OTHER_CHECKOUT/tools/typepath python tools/picture_hashes.py > before.json

Only the command line is used, so that it runs in any commit. Bits are one machine's: engines choose kernels by processor.
`tests/runtimes/test_shipped_models.py` compares with stored pictures to a level or two on any machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np
from PIL import Image

PROMPT = "a happy ninja with a red bun, a blue headband and a green outfit, running through a forest at night"
RUNS = (
    ("builtin:student", "onnxruntime", "4"),
    ("builtin:student", "openvino", "4"),
    ("builtin:student", "onnxruntime", "2"),
    ("builtin:student-1step", "onnxruntime", "1"),
    ("builtin:student-1step", "openvino", "1"),
    ("builtin:teacher", "pytorch", "10"),
)


def draw(model: str, runtime: str, steps: str, out: Path) -> None:
    command = [sys.executable, "-m", "genin", "generate", PROMPT, "-m", model, "--runtime", runtime, "--steps", steps]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--seed", "7", "--out", str(out)], check=True, env=environment, stdout=subprocess.PIPE)


@click.command()
@click.option("--save", type=click.Path(path_type=Path), help="Folder to keep the pictures in.")
def main(save: Path | None) -> None:
    """Print one JSON object: MODEL RUNTIME STEPS => sha256 of the pixels."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for run in RUNS:
            name = "-".join(run).replace("builtin:", "")
            out = (save or Path(folder)) / f"{name}.png"
            draw(*run, out)
            with Image.open(out) as image:
                found[name] = hashlib.sha256(np.asarray(image.convert("RGB")).tobytes()).hexdigest()
    click.echo(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

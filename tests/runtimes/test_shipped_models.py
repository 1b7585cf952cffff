"""The shipped models draw the pictures that lie here, on every runtime and whatever else has changed.

Bits depend on the processor (engines choose their kernels by it), so pictures are compared to a few levels of 255;
`tools/picture_hashes.py` compares two commits on one machine to the bit (docs/runs/picture-hashes.json).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import genin

SHIPPED = Path(__file__).with_name("shipped")
PROMPT = "a happy ninja with a red bun, a blue headband and a green outfit, running through a forest at night"
LEVELS = 3


@pytest.mark.parametrize(
    ("model", "runtime", "steps", "stored"),
    [
        ("student", "onnxruntime", 4, "student-onnxruntime-4"),
        ("student", "openvino", 4, "student-onnxruntime-4"),
        ("student", "onnxruntime", 2, "student-onnxruntime-2"),
        ("student-1step", "onnxruntime", 1, "student-1step-onnxruntime-1"),
        ("student-1step", "openvino", 1, "student-1step-onnxruntime-1"),
        ("teacher", "pytorch", 10, "teacher-pytorch-10"),
    ],
)
def test_the_shipped_models_draw_what_they_drew(model: str, runtime: str, steps: int, stored: str) -> None:
    pytest.importorskip({"pytorch": "torch"}.get(runtime, runtime))
    with genin.load(f"builtin:{model}", runtime=runtime, threads=1) as pipe:
        drawn = pipe(PROMPT, seed=7, steps=steps).array.astype(int)
    with Image.open(SHIPPED / f"{stored}.png") as image:
        wanted = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(drawn - wanted).max() <= LEVELS

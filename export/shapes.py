"""Batches and sizes of the tensors that go through exported graphs."""

from __future__ import annotations

from dataclasses import dataclass

MAX_BATCH = 64


@dataclass(frozen=True)
class Shapes:
    """The one batch that ONNX graphs take, or any; pictures of the model's size only, or of any (in ONNX and OpenVINO)."""

    batch: int | None = None
    any_size: bool = False


ANY_BATCH = Shapes()

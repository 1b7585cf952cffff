"""Batches and sizes of the tensors that go through exported graphs."""

from __future__ import annotations

from dataclasses import dataclass

from genin.runtimes.errors import InputError

MAX_BATCH = 64


@dataclass(frozen=True)
class Shapes:
    """The one batch that ONNX graphs take, or any; pictures of the model's size only, or of any (in ONNX and OpenVINO)."""

    batch: int | None = None
    any_size: bool = False

    def __post_init__(self) -> None:
        if self.batch is not None and not 1 <= self.batch <= MAX_BATCH:
            raise InputError(f"a batch of {self.batch} is outside 1 … {MAX_BATCH}")


ANY_BATCH = Shapes()

"""safetensors files that may be larger than memory: made at their full length, filled row by row, read by mapping.

The library writes a file in one go, from tensors in memory, and maps files writable, which the system refuses for more than the
machine's memory. Here rows are written in place, by several processes if need be, and pages that are read are shared by all
processes of the machine. The library still checks every file that is opened: header, offsets, length.

Not here: which rows have been written (`latents`, `pool`).
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

NAMES = {torch.float16: "F16", torch.int64: "I64"}
TYPES: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "I64": np.dtype("<i8")}


def create(path: Path, tensors: Mapping[str, tuple[torch.dtype, Sequence[int]]], facts: Mapping[str, str]) -> None:
    """A file of zeros that holds these (dtype, shape) tensors; on most systems it takes no space yet."""
    header: dict[str, object] = {"__metadata__": dict(facts)}
    end = 0
    # The widest types first, so that each begins at a multiple of its width.
    for name, (dtype, shape) in sorted(tensors.items(), key=lambda item: -item[1][0].itemsize):
        begin, end = end, end + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(8 + len(encoded) + end)


class TensorFile:
    """A file that exists. `facts` are its metadata, `shapes` those of its tensors.

    Errors: OSError, or ValueError for a file that is not safetensors or is incomplete.
    """

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="np"):
                pass
        except SafetensorError as error:
            raise ValueError(str(error)) from error
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        self.path, self.facts = path, dict(header.pop("__metadata__", {}))
        self.shapes: dict[str, tuple[int, ...]] = {name: tuple(one["shape"]) for name, one in header.items()}
        self._types = {name: TYPES[one["dtype"]] for name, one in header.items()}
        self._places = {name: 8 + length + one["data_offsets"][0] for name, one in header.items()}

    def tensor(self, name: str) -> Tensor:
        """A tensor, mapped read-only: writing to it crashes the process."""
        if 0 in self.shapes[name]:
            return torch.zeros(self.shapes[name], dtype=torch.from_numpy(np.empty(0, self._types[name])).dtype)
        mapped = np.memmap(self.path, self._types[name], "r", self._places[name], self.shapes[name])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch has no read-only tensors
            return torch.from_numpy(mapped)

    def write(self, name: str, rows: Sequence[int], values: Tensor) -> None:
        """Values (n, …) at these rows, on the disk when it returns. Errors: OSError, ValueError for values of another shape."""
        shape, kind = self.shapes[name], self._types[name]
        if tuple(values.shape) != (len(rows), *shape[1:]):
            raise ValueError(f"'{name}' has rows of {shape[1:]}, not {tuple(values.shape[1:])}")
        data = values.numpy().astype(kind, casting="no", copy=False)
        width = int(np.prod(shape[1:], dtype=np.int64)) * kind.itemsize
        with self.path.open("r+b") as file:
            for start, stop in _runs(rows):
                file.seek(self._places[name] + rows[start] * width)
                file.write(data[start:stop].tobytes())
            file.flush()
            os.fsync(file.fileno())


def _runs(rows: Sequence[int]) -> list[tuple[int, int]]:
    """The runs of consecutive numbers in `rows`: [begin, end) of each."""
    if isinstance(rows, range) and rows.step == 1:
        return [(0, len(rows))]
    cuts = [0, *(i for i in range(1, len(rows)) if rows[i] != rows[i - 1] + 1), len(rows)]
    return list(pairwise(cuts))

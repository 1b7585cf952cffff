"""Where training pictures come from: the built-in world or a dataset folder, behind one small interface.

`builtin:world` is rendered, not stored; a dataset folder is anything `genin.distill.datasets` reads. A source knows its
captions (the world's are phrased anew each epoch), its attribute columns if it has any, and renders or reads pictures
on all cores once, into an array that training indexes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genin.runtimes.errors import InputError

BUILTIN_WORLD = "builtin:world"
Split = Literal["train", "val", "test"]


class Source(Protocol):
    """Captioned pictures, indexed from 0."""

    name: str
    columns: Mapping[str, Sequence[str]]
    licence: str
    origins: Sequence[Mapping[str, Any]]  # whose pictures they are: `datasets.origins_of`
    digest: str  # of what it holds: other pictures or captions, another digest
    rephrases: bool  # whether captions of later epochs say the same in other words

    def __len__(self) -> int: ...

    def pictures(self, start: int, count: int, size: int) -> NDArray[np.uint8]:
        """Pictures start…start+count as (count, size, size, 3) uint8."""

    def captions(self, indices: Sequence[int], epoch: int = 0) -> list[str]: ...

    def row(self, index: int) -> Mapping[str, str]: ...

    def labels(self, captions: Sequence[str], rows: Sequence[Mapping[str, str]]) -> dict[str, Tensor]: ...

    def held_out(self) -> Source | None:
        """The val split of the same, or None where it has none."""
        ...


class WorldSource:
    """`count` scenes of one split of the built-in world."""

    name = BUILTIN_WORLD
    licence = "Apache-2.0"
    rephrases = True
    origins: Sequence[Mapping[str, Any]] = (
        {
            "source": "drawn by genin's built-in world",
            "rights": "genin's authors",
            "licence": "Apache-2.0",
            "pictures": 0,
        },
    )

    def __init__(self, split: Split, count: int, seed: int = 0) -> None:
        from genin.distill.world import ATTRIBUTES
        from genin.distill.world_captions import VERSION

        self.split, self.count, self.seed = split, count, seed
        self.digest = f"{self.name}-{split}-{count}-{seed}-captions{VERSION}"
        self.columns: Mapping[str, Sequence[str]] = ATTRIBUTES

    def __len__(self) -> int:
        return self.count

    def pictures(self, start: int, count: int, size: int) -> NDArray[np.uint8]:
        from genin.distill.world import render_batch

        return render_batch(self.split, self.seed, start, count, size)[0]

    def captions(self, indices: Sequence[int], epoch: int = 0) -> list[str]:
        from genin.distill.world import scene_at
        from genin.distill.world_captions import caption

        return [caption(scene_at(self.split, self.seed, i), seed=epoch * 1_000_003 + i) for i in indices]

    def row(self, index: int) -> Mapping[str, str]:
        from genin.distill.world import scene_at

        scene = scene_at(self.split, self.seed, index)
        return {name: getattr(scene, name) for name in self.columns}

    def labels(self, captions: Sequence[str], rows: Sequence[Mapping[str, str]]) -> dict[str, Tensor]:
        from genin.distill.text_encoder import labels_of

        return labels_of(captions, rows, self.columns)

    def held_out(self) -> Source | None:
        return WorldSource("val", self.count, self.seed)


class FolderSource:
    """A dataset folder: imagefolder with metadata, or what `genin data prepare` wrote."""

    rephrases = False

    def __init__(self, folder: Path, split: Split = "train") -> None:
        from genin.distill.datasets import ImageDataset

        self.folder, self.dataset = folder, ImageDataset.open(folder, split=split)
        self.name, self.licence = folder.name, self.dataset.licence
        self.columns: Mapping[str, Sequence[str]] = self.dataset.columns
        self.origins: Sequence[Mapping[str, Any]] = self.dataset.origins
        if lacking := [row.file_name for row in self.dataset.rows if not row.text]:
            raise InputError(
                f"{len(lacking)} of {len(self.dataset)} pictures have no caption, {lacking[0]} the first",
                where=folder,
                remedy="write them into metadata.jsonl, or: genin data caption",
            )
        self.digest = self.dataset.digest()

    def __len__(self) -> int:
        return len(self.dataset)

    def pictures(self, start: int, count: int, size: int) -> NDArray[np.uint8]:
        return np.stack([self.dataset.picture(i % len(self.dataset), size) for i in range(start, start + count)])

    def captions(self, indices: Sequence[int], epoch: int = 0) -> list[str]:
        return [self.dataset.caption(i) for i in indices]

    def row(self, index: int) -> Mapping[str, str]:
        return self.dataset.row(index)

    def labels(self, captions: Sequence[str], rows: Sequence[Mapping[str, str]]) -> dict[str, Tensor]:
        from genin.distill.text_encoder import labels_of

        return labels_of(captions, rows, self.columns)

    def held_out(self) -> Source | None:
        try:
            return FolderSource(self.folder, "val")
        except InputError:  # too few pictures to split
            return None


def open_source(name: str, split: Split = "train", *, count: int, seed: int = 0) -> Source:
    """`builtin:world` (of which `count` scenes are used), or a dataset folder (used whole)."""
    if name == BUILTIN_WORLD:
        return WorldSource(split, count, seed)
    folder = Path(name)
    if not folder.is_dir():
        raise InputError("no such dataset folder", where=name, remedy=f"give a folder or '{BUILTIN_WORLD}'")
    return FolderSource(folder, split)


def load_pictures(source: Source, count: int, size: int) -> NDArray[np.uint8]:
    """The first `count` pictures of a source as one uint8 array NHWC, made on all cores."""
    count = min(count, len(source))
    starts = range(0, count, CHUNK)
    sizes = [min(CHUNK, count - start) for start in starts]
    workers = min(len(sizes), os.cpu_count() or 1)
    if workers <= 1 or count < 4 * CHUNK:
        parts = [source.pictures(start, n, size) for start, n in zip(starts, sizes, strict=True)]
    else:
        with ProcessPoolExecutor(workers) as pool:
            parts = list(pool.map(source.pictures, starts, sizes, [size] * len(sizes)))
    return np.concatenate(parts)


CHUNK = 256


def joined_licences(*licences: str | None) -> str:
    """All that something was made of, each once; "unknown" is one of them: pictures of unknown licence leave weights of none."""
    parts = [part.strip() for licence in licences if licence is not None for part in (licence or "unknown").split(",")]
    return ", ".join(dict.fromkeys(part for part in parts if part)) or "unknown"


def to_tensor(pictures: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """NHWC uint8 => NCHW float in [−1, 1]."""
    return torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1

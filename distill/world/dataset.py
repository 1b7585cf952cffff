"""Scenes of the built-in world as arrays, and as a dataset folder of PNG files with captions and attributes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from genin.dataset.splits import Split
from genin.distill.world.captions import caption
from genin.distill.world.render import render
from genin.distill.world.scene import CaptionKind, Scene, scene_at
from genin.files import new_folder


def render_batch(split: Split, seed: int, start: int, count: int, size: int) -> tuple[NDArray[np.uint8], list[Scene]]:
    """Scenes start…start+count of a split => (pictures (count, size, size, 3) uint8, scenes)."""
    scenes = [scene_at(split, seed, index) for index in range(start, start + count)]
    return np.stack([render(scene, size) for scene in scenes]), scenes


def write_dataset(
    out: Path, *, split: Split, count: int, size: int, seed: int, captions: CaptionKind = "mixed"
) -> None:
    """Write an imagefolder data set (PNG files and metadata.jsonl); `out` appears whole or not at all.

    Errors: InputError if `out` exists, also if another process wrote it meanwhile.
    """
    with new_folder(out) as folder, (folder / "metadata.jsonl").open("w", encoding="utf-8") as metadata:
        for index in range(count):
            scene = scene_at(split, seed, index)
            name = f"{index:06d}.png"
            Image.fromarray(render(scene, size)).save(folder / name)
            row = {"file_name": name, "text": caption(scene, seed=index, kind=captions), **asdict(scene)}
            row |= {"split": split, "source": "genin built-in world", "licence": "Apache-2.0"}
            metadata.write(json.dumps(row) + "\n")

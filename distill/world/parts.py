"""Which part of the world each place of a picture shows: the same drawing, with part numbers for colours.

It is coarse: not a segmentation of thin details. No training here uses it: aligning a teacher's features with it was raced, and
gained nothing that was kept (docs/log.md).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from genin.distill.world.canvas import Canvas, Colour, Points
from genin.distill.world.render import draw_scene
from genin.distill.world.scene import Scene

PARTS: tuple[str, ...] = (
    "sky", "clouds", "far", "ground", "near", "shadow", "hair", "headband", "skin", "face", "outfit", "hands", "legs",
    "weapon", "effect",
)  # fmt: skip
MAP_SIZE = 16
_FACTOR = 4
_SOLID = 0.3  # what is more transparent than this shows what lies behind it


def part_map(scene: Scene) -> NDArray[np.uint8]:
    """The scene's parts as (16, 16) uint8 indices into `PARTS`; the part that fills most of each square."""
    canvas = _PartCanvas()
    return canvas.finish(flip=draw_scene(canvas, scene))


class _PartCanvas(Canvas):
    """A canvas whose colours are indices into `PARTS`, without anti-aliasing."""

    def __init__(self) -> None:
        super().__init__(MAP_SIZE)
        self.factor, self.pixels = _FACTOR, MAP_SIZE * _FACTOR
        self.image = Image.new("L", (self.pixels, self.pixels))
        self.opaque = ImageDraw.Draw(self.image)

    def sky(self, stops: tuple[tuple[float, Colour], ...]) -> None:
        self.image.paste(PARTS.index("sky"), (0, 0, self.pixels, self.pixels))

    def _area(self, corners: Points, colour: Colour, alpha: float = 1.0) -> None:
        if alpha >= _SOLID:
            self.opaque.polygon(corners.ravel().tolist(), fill=PARTS.index(self.part))

    def _line(self, corners: Points, colour: Colour, width: float, alpha: float = 1.0) -> None:
        stroke = max(1, round(width * self.zoom * self.pixels))
        if alpha >= 1:
            self.opaque.line(corners.ravel().tolist(), fill=PARTS.index(self.part), width=stroke)

    def finish(self, *, flip: bool = False) -> NDArray[np.uint8]:
        blocks = np.asarray(self.image).reshape(MAP_SIZE, _FACTOR, MAP_SIZE, _FACTOR)
        counts = (blocks[..., None] == np.arange(len(PARTS))).sum(axis=(1, 3))
        parts: NDArray[np.uint8] = counts.argmax(axis=-1).astype(np.uint8)
        return parts[:, ::-1].copy() if flip else parts

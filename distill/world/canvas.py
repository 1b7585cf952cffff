"""A small anti-aliased canvas in unit coordinates: (0, 0) top left, (1, 1) bottom right, at any size in pixels.

Shapes are drawn with Pillow on a supersampled picture that `finish` averages down. Every colour passes through the
scene's light on its way in: `tint` is what a sunset does to a green roof.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Colour: TypeAlias = tuple[int, int, int]
Point: TypeAlias = tuple[float, float]

INK: Colour = (28, 20, 36)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """`share` of b in a."""
    return tuple(round(p + (q - p) * share) for p, q in zip(a, b, strict=True))  # type: ignore[return-value]


class Canvas:
    """Draws in unit coordinates; `shift` and `zoom` place what is drawn (the figure), `flip` mirrors everything."""

    def __init__(self, size: int) -> None:
        # 256 or more pixels a side while drawing: four times 64, and still twice 256.
        self.factor = max(2, -(-256 // size))
        self.size = size
        self.pixels = size * self.factor
        self.image = Image.new("RGB", (self.pixels, self.pixels))
        self.draw = ImageDraw.Draw(self.image, "RGBA")
        self.origin: Point = (0.0, 0.0)
        self.pivot: Point = (0.5, 0.9)
        self.zoom = 1.0
        self.light: Colour = (255, 255, 255)
        self.light_share = 0.0
        self.gain = 1.0

    # --- colour and place ------------------------------------------------------------------------------------------

    def tint(self, colour: Colour) -> Colour:
        """The colour under the current light: multiplied by it for `light_share`, then scaled by `gain`."""
        lit = (
            c * (1 - self.light_share + self.light_share * w / 255) * self.gain
            for c, w in zip(colour, self.light, strict=True)
        )
        return tuple(min(255, max(0, round(c))) for c in lit)  # type: ignore[return-value]

    def _fill(self, colour: Colour | None, alpha: float) -> tuple[int, ...] | None:
        if colour is None:
            return None
        tinted = self.tint(colour)
        return tinted if alpha >= 1 else (*tinted, round(255 * alpha))

    def _at(self, point: Point) -> Point:
        x = self.pivot[0] + (point[0] - self.pivot[0]) * self.zoom + self.origin[0]
        y = self.pivot[1] + (point[1] - self.pivot[1]) * self.zoom + self.origin[1]
        return x * self.pixels, y * self.pixels

    def _width(self, width: float) -> int:
        return max(1, round(width * self.zoom * self.pixels))

    # --- shapes ----------------------------------------------------------------------------------------------------

    def sky(self, stops: Sequence[tuple[float, Colour]]) -> None:
        """A vertical gradient through (height, colour) stops; covers everything."""
        rows = (np.arange(self.pixels) + 0.5) / self.pixels
        heights = [height for height, _ in stops]
        column = np.stack([np.interp(rows, heights, [colour[i] for _, colour in stops]) for i in range(3)], axis=1)
        picture = np.broadcast_to(column[:, None, :].round().astype(np.uint8), (self.pixels, self.pixels, 3))
        self.image.paste(Image.fromarray(np.ascontiguousarray(picture)))

    def polygon(
        self, points: Sequence[Point], fill: Colour, *, outline: float = 0.0, ink: Colour = INK, alpha: float = 1.0
    ) -> None:
        corners = [self._at(point) for point in points]
        self.draw.polygon(corners, fill=self._fill(fill, alpha))
        if outline:
            self.draw.line(
                [*corners, corners[0], corners[1]], fill=self._fill(ink, 1), width=self._width(outline), joint="curve"
            )

    def ellipse(
        self,
        centre: Point,
        radii: Point,
        fill: Colour | None,
        *,
        outline: float = 0.0,
        ink: Colour = INK,
        alpha: float = 1.0,
    ) -> None:
        (x0, y0), (x1, y1) = (
            self._at((centre[0] - radii[0], centre[1] - radii[1])),
            self._at((centre[0] + radii[0], centre[1] + radii[1])),
        )
        self.draw.ellipse(
            (x0, y0, x1, y1),
            fill=self._fill(fill, alpha),
            outline=self._fill(ink, 1) if outline else None,
            width=self._width(outline) if outline else 1,
        )

    def line(self, points: Sequence[Point], colour: Colour, width: float, *, alpha: float = 1.0) -> None:
        """A polyline with round joints and ends."""
        corners = [self._at(point) for point in points]
        stroke = self._width(width)
        fill = self._fill(colour, alpha)
        self.draw.line(corners, fill=fill, width=stroke, joint="curve")
        if alpha >= 1 and stroke > 2:
            radius = stroke / 2
            for x, y in (corners[0], corners[-1]):
                self.draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)

    def limb(self, points: Sequence[Point], colour: Colour, width: float, outline: float) -> None:
        """An outlined, rounded stroke: arms, legs, tails of cloth."""
        self.line(points, INK, width + 2 * outline)
        self.line(points, colour, width)

    def arc(self, centre: Point, radii: Point, start: float, end: float, colour: Colour, width: float) -> None:
        """Part of an ellipse's rim; degrees clockwise from three o'clock."""
        (x0, y0), (x1, y1) = (
            self._at((centre[0] - radii[0], centre[1] - radii[1])),
            self._at((centre[0] + radii[0], centre[1] + radii[1])),
        )
        self.draw.arc((x0, y0, x1, y1), start, end, fill=self._fill(colour, 1), width=self._width(width))

    def glow(self, centre: Point, radius: float, colour: Colour, strength: float) -> None:
        """A soft light: a few translucent discs."""
        for share in (1.0, 0.75, 0.5):
            self.ellipse(centre, (radius * share, radius * share), colour, alpha=strength)

    def finish(self, *, flip: bool = False) -> NDArray[np.uint8]:
        """Average down to (size, size, 3) uint8."""
        picture = self.image.reduce(self.factor)
        if flip:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(picture)

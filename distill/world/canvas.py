"""A small anti-aliased canvas in unit coordinates: (0, 0) top left, (1, 1) bottom right, at any size in pixels.

Shapes are drawn with Pillow on a supersampled picture that `finish` averages down. Every colour passes through the
scene's light on its way in: `tint` is what a sunset does to a green roof. A shape's outline has the same weight
everywhere; its shadow lies at the lower right and, where the light has one, a rim of light at the upper left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Colour: TypeAlias = tuple[int, int, int]
Point: TypeAlias = tuple[float, float]
Knot: TypeAlias = tuple[float, ...]  # x, y; a third number makes it a corner
Points: TypeAlias = NDArray[np.float64]
Path: TypeAlias = Sequence[Knot] | Points

INK: Colour = (28, 20, 36)
GROUND_SHADOW: Colour = (20, 16, 36)
SHADE: Colour = (34, 22, 66)
WHITE: Colour = (255, 255, 255)
LINE = 0.012  # the weight of every outline: 1.5 pixels at 128 px

SAMPLES = 6  # of a curve between two knots
ROUNDED = np.cos(np.radians(28))  # outlines are rounded off where they turn by more


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """`share` of b in a."""
    return (
        round(a[0] + (b[0] - a[0]) * share),
        round(a[1] + (b[1] - a[1]) * share),
        round(a[2] + (b[2] - a[2]) * share),
    )


def shaded(colour: Colour, share: float = 0.28) -> Colour:
    return mix(colour, SHADE, share)


# --- paths -----------------------------------------------------------------------------------------------------------


@lru_cache
def _hermite(samples: int) -> Points:
    """The four cubic Hermite weights (start, its tangent, end, its tangent) => (samples, 4)."""
    t = np.arange(samples) / samples
    return np.stack(
        [(1 + 2 * t) * (1 - t) ** 2, t * (1 - t) ** 2, t * t * (3 - 2 * t), t * t * (t - 1)],
        axis=1,
    )


@lru_cache(maxsize=4096)
def _curve(path: tuple[Knot, ...], closed: bool, samples: int) -> Points:
    points = np.array([knot[:2] for knot in path])
    sharp = [len(knot) > 2 for knot in path]
    if not closed:
        sharp[0] = sharp[-1] = True
    return _smooth(points, np.array(sharp)[:, None], closed, samples)


def curve(path: Path, *, closed: bool = True, samples: int = SAMPLES) -> Points:
    """A smooth curve through the knots (Catmull–Rom, tangents as long as their segments); knots of three stay corners.
    Returns N×2, in the units of the knots."""
    return _curve(tuple(map(tuple, path)), closed, samples)


def _smooth(knots: Points, sharp: NDArray[np.bool_], closed: bool, samples: int) -> Points:
    ahead = np.arange(1, len(knots) + 1)
    ahead[-1] = 0
    after = knots[ahead]
    step = after - knots
    chord = step + step[ahead - 2]  # from the knot before to the knot after
    length = np.hypot(step[:, :1], step[:, 1:])
    unit = chord / np.maximum(np.hypot(chord[:, :1], chord[:, 1:]), 1e-9)
    leave = np.where(sharp, step, unit * length)
    arrive = np.where(sharp[ahead], step, unit[ahead] * length)
    tangents = np.concatenate([knots, leave, after, arrive], axis=1).reshape(-1, 4, 2)
    points: Points = (_hermite(samples) @ tangents).reshape(-1, 2)
    return points if closed else points[: (len(knots) - 1) * samples + 1]


@lru_cache
def _circle(count: int) -> Points:
    angles = 2 * np.pi * np.arange(count) / count
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def ring(centre: Point, radii: Point) -> Points:
    """An ellipse as a polygon: N×2."""
    return centre + _circle(36 if max(radii) > 0.1 else 20) * radii


def arc(centre: Point, radii: Point, start: float, end: float) -> Points:
    """Part of an ellipse's rim; degrees clockwise from three o'clock. Returns 13×2."""
    angles = np.radians(np.linspace(start, end, 13))
    return np.stack([centre[0] + radii[0] * np.cos(angles), centre[1] + radii[1] * np.sin(angles)], axis=1)


def tube(path: Path, widths: Sequence[float]) -> Points:
    """The outline of a round-ended band along a curve; its full width runs through `widths`, evenly over the curve's samples (0
    at an end: a point). Returns N×2."""
    return _tube(tuple(map(tuple, path)), tuple(widths))


@lru_cache(maxsize=4096)
def _tube(path: tuple[Knot, ...], widths: tuple[float, ...]) -> Points:
    line = _curve(path, False, SAMPLES)
    along = np.empty_like(line)
    along[1:-1], along[0], along[-1] = line[2:] - line[:-2], line[1] - line[0], line[-1] - line[-2]
    along /= np.maximum(np.hypot(along[:, :1], along[:, 1:]), 1e-9)
    across = along[:, ::-1] * _LEFT
    half = np.interp(_even(len(line)), _even(len(widths)), widths)[:, None] / 2
    head = line[-1] + half[-1] * (_CAP_COS * along[-1] - _CAP_SIN * across[-1])
    tail = line[0] - half[0] * (_CAP_COS * along[0] - _CAP_SIN * across[0])
    left, right = (_unfolded(line + side * across * half, line, half) for side in (1, -1))
    return np.concatenate([left, head, right[::-1], tail])


def _unfolded(side: Points, line: Points, half: Points) -> Points:
    """A side of a tube without the points that a tight bend brings nearer to the middle line than the side should be."""
    apart = side[:, None] - line
    kept: Points = side[np.einsum("ijk,ijk->ij", apart, apart).min(axis=1) >= 0.9 * half[:, 0] ** 2]
    return kept


@lru_cache
def _even(count: int) -> Points:
    return np.linspace(0, 1, count)


_LEFT = np.array([-1.0, 1.0])
_CAP = np.radians(np.linspace(-64.3, 64.3, 6))[:, None]  # turns too small to be rounded off
_CAP_COS, _CAP_SIN = np.cos(_CAP), np.sin(_CAP)


# --- the canvas ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=16)
def _gradient(stops: tuple[tuple[float, Colour], ...], pixels: int) -> Image.Image:
    rows = (np.arange(pixels) + 0.5) / pixels
    heights = [height for height, _ in stops]
    column = np.stack([np.interp(rows, heights, [colour[i] for _, colour in stops]) for i in range(3)], axis=1)
    return Image.fromarray(column[:, None, :].round().astype(np.uint8)).resize((pixels, pixels))


@lru_cache(maxsize=4096)
def _tinted(colour: Colour, light: Colour, share: float, gain: float) -> Colour:
    lit = (c * (1 - share + share * w / 255) * gain for c, w in zip(colour, light, strict=True))
    return tuple(min(255, max(0, round(c))) for c in lit)  # type: ignore[return-value]


class Canvas:
    """Draws in unit coordinates; `frame` places what is drawn inside it (the figure, its head)."""

    def __init__(self, size: int) -> None:
        # Four times as fine while drawing, twice above 256 px; small pictures are drawn as finely as one of 64 px.
        self.factor = max(4 if size <= 256 else 2, -(-256 // size))
        self.pixels = size * self.factor
        self.image = Image.new("RGB", (self.pixels, self.pixels))
        self.opaque = ImageDraw.Draw(self.image)
        self.veil = ImageDraw.Draw(self.image, "RGBA")
        self.linear: Points = np.eye(2)
        self.offset: Points = np.zeros(2)
        self.zoom = 1.0
        self.light: Colour = WHITE
        self.light_share = 0.0
        self.gain = 1.0
        self.rim: Colour | None = None  # the colour of the light's rim on shaded shapes
        self.part = "sky"  # what is drawn now; only a part map (`parts.py`) reads it

    # --- colour and place ------------------------------------------------------------------------------------------

    def tint(self, colour: Colour) -> Colour:
        """The colour under the current light: multiplied by it for `light_share`, then scaled by `gain`."""
        return _tinted(colour, self.light, self.light_share, self.gain)

    def unlit(self) -> None:
        """What is drawn from here on shines by itself."""
        self.light_share, self.gain, self.rim = 0.0, 1.0, None

    @contextmanager
    def frame(self, at: Point, *, pivot: Point = (0.0, 0.0), zoom: float = 1.0, turn: float = 0.0) -> Iterator[None]:
        """Inside, the local point `pivot` stands at `at`, zoomed and turned (radians, clockwise) about it."""
        before = self.linear, self.offset, self.zoom
        cos, sin = zoom * np.cos(turn), zoom * np.sin(turn)
        linear = self.linear @ np.array([[cos, -sin], [sin, cos]])
        self.offset = self.linear @ np.array(at) + self.offset - linear @ np.array(pivot)
        self.linear, self.zoom = linear, self.zoom * zoom
        yield
        self.linear, self.offset, self.zoom = before

    def _at(self, points: Path) -> Points:
        placed: Points = (np.asarray(points, dtype=float) @ self.linear.T + self.offset) * self.pixels
        return placed

    # --- the two strokes everything is made of ---------------------------------------------------------------------

    def _area(self, corners: Points, colour: Colour, alpha: float = 1.0) -> None:
        if alpha <= 0:
            return
        tinted = self.tint(colour)
        if alpha >= 1:
            self.opaque.polygon(corners.ravel().tolist(), fill=tinted)
        else:
            self.veil.polygon(corners.ravel().tolist(), fill=(*tinted, round(255 * alpha)))

    def _line(self, corners: Points, colour: Colour, width: float, alpha: float = 1.0) -> None:
        """A polyline; where it turns sharply and at its ends it is round."""
        stroke = max(1, round(width * self.zoom * self.pixels))
        tinted = self.tint(colour)
        if alpha < 1:
            self.veil.line(corners.ravel().tolist(), fill=(*tinted, round(255 * alpha)), width=stroke)
            return
        # Between two pieces of a thick line gapes a notch: below half a pixel, up to 1024 pixels.
        self.opaque.line(
            corners.ravel().tolist(), fill=tinted, width=stroke, joint="curve" if self.pixels > 1024 else None
        )
        if stroke < 3:
            return
        step = corners[1:] - corners[:-1]
        length = np.hypot(step[:, 0], step[:, 1]) + 1e-9
        sharp = np.einsum("ij,ij->i", step[1:], step[:-1]) < ROUNDED * length[1:] * length[:-1]
        radius = (stroke - 1) / 2
        for x, y in [*corners[[0, -1]].tolist(), *corners[1:-1][sharp].tolist()]:
            self.opaque.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tinted)

    # --- shapes ----------------------------------------------------------------------------------------------------

    def sky(self, stops: tuple[tuple[float, Colour], ...]) -> None:
        """A vertical gradient through (height, colour) stops; covers everything."""
        self.image.paste(_gradient(stops, self.pixels))

    def polygon(
        self, points: Path, fill: Colour, *, outline: float = 0.0, ink: Colour = INK, alpha: float = 1.0,
        shade: Colour | None = None,
    ) -> None:  # fmt: skip
        """A closed shape; with `shade`, the shadow and the rim of light are left round a smaller copy of it."""
        corners = self._at(points)
        self._area(corners, shade or fill, alpha)
        if shade:
            centre = (corners.min(axis=0) + corners.max(axis=0)) / 2
            reach = (corners.max(axis=0) - corners.min(axis=0)) @ np.array([0.5, 0.5])
            if self.rim:
                self._area(centre + (corners - centre) * 0.94 - 0.026 * reach, mix(fill, self.rim, 0.42))
                centre = centre + 0.012 * reach
            self._area(centre + (corners - centre) * 0.87 - 0.045 * reach, fill)
        if outline:
            self._line(np.concatenate([corners, corners[:1]]), ink, outline)

    def shape(
        self, path: Path, fill: Colour, *, outline: float = LINE, ink: Colour = INK, alpha: float = 1.0,
        shade: Colour | None = None,
    ) -> None:  # fmt: skip
        """A polygon with smooth sides."""
        self.polygon(curve(path), fill, outline=outline, ink=ink, alpha=alpha, shade=shade)

    def ellipse(
        self, centre: Point, radii: Point, fill: Colour, *, outline: float = 0.0, ink: Colour = INK, alpha: float = 1.0
    ) -> None:
        self.polygon(ring(centre, radii), fill, outline=outline, ink=ink, alpha=alpha)

    def band(
        self, path: Path, widths: Sequence[float], fill: Colour, *, shade: Colour | None = None,
        outline: float = LINE, ink: Colour = INK,
    ) -> None:  # fmt: skip
        """An outlined `tube`: a limb, a lock of hair, a tail of cloth; its shadow runs along its lower right."""
        outer = self._at(tube(path, widths))
        self._area(outer, shade or fill)
        if shade:
            width = max(widths)
            inner = self._at(tube(path, [0.62 * w for w in widths]))
            shift = 0.15 * width * self.zoom * self.pixels
            self._area(inner - shift, fill)
        if outline:
            self._line(np.concatenate([outer, outer[:1]]), ink, outline)

    def stroke(self, path: Path, colour: Colour, width: float, *, alpha: float = 1.0, smooth: bool = True) -> None:
        """A line with round ends."""
        self._line(self._at(curve(path, closed=False) if smooth else path), colour, width, alpha)

    def arc(self, centre: Point, radii: Point, start: float, end: float, colour: Colour, width: float) -> None:
        self._line(self._at(arc(centre, radii, start, end)), colour, width)

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

"""What several places are made of: hills, ground, rocks, trees, roofs, lanterns; and the free variation they stand by."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from genin.distill.world.canvas import GROUND_SHADOW, LINE, WHITE, Canvas, Colour, Knot, mix, shaded
from genin.distill.world.sky import Light, far

STONE: Colour = (150, 148, 148)
WOOD: Colour = (112, 72, 44)
LAMP: Colour = (255, 224, 122)
MOST_NUMBERS = 128  # that a place may take


class Chance:
    """Free variation, one number at a time. All are taken from the generator at once, so that what is drawn later stays as it is
    however many a place needs."""

    def __init__(self, chance: np.random.Generator) -> None:
        self._numbers: Iterator[float] = iter(chance.random(MOST_NUMBERS).tolist())

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * next(self._numbers)

    def around(self, middle: float, reach: float) -> float:
        return self.between(middle - reach, middle + reach)


def draw_hills(canvas: Canvas, chance: Chance, y: float, reach: float, colour: Colour) -> None:
    """A rolling ridge across the picture."""
    canvas.part = "far"
    ridge: list[Knot] = [(x, chance.around(y, reach)) for x in (-0.15, 0.12, 0.38, 0.62, 0.88, 1.15)]
    canvas.shape([(-0.15, 1.0, 1), *ridge, (1.15, 1.0, 1)], colour, outline=0)


def draw_ground(canvas: Canvas, y: float, colour: Colour, edge: Colour, bend: float = 0.012) -> None:
    """The ground, lighter where it begins, with a dark edge."""
    canvas.part = "ground"
    rim: list[Knot] = [(-0.1, y + bend), (0.25, y - bend), (0.5, y), (0.78, y + bend), (1.1, y - bend)]
    canvas.shape(
        [(-0.1, 1.1, 1), (-0.1, y + bend, 1), *rim[1:-1], (1.1, y - bend, 1), (1.1, 1.1, 1)], colour, outline=0
    )
    canvas.shape(
        [(-0.1, 1.1, 1), (-0.1, 0.94, 1), (0.5, 0.97), (1.1, 0.94, 1), (1.1, 1.1, 1)], shaded(colour, 0.16), outline=0
    )
    canvas.stroke(rim, edge, LINE)


def draw_tufts(canvas: Canvas, chance: Chance, colour: Colour, count: int) -> None:
    """Blades of grass, left and right of the figure."""
    canvas.part = "near"
    for i in range(count):
        x, y = 0.5 + (chance.between(0.2, 0.5) if i % 2 else -chance.between(0.2, 0.5)), chance.between(0.83, 0.98)
        canvas.shape(
            [(x - 0.034, y, 1), (x - 0.042, y - 0.046, 1), (x - 0.012, y - 0.02, 1), (x + 0.002, y - 0.07, 1),
             (x + 0.014, y - 0.022, 1), (x + 0.044, y - 0.05, 1), (x + 0.034, y, 1)], colour, outline=0,
        )  # fmt: skip


def draw_rock(canvas: Canvas, chance: Chance, x: float, y: float, r: float, colour: Colour) -> None:
    """A boulder of facets: a light top, a dark side, a crack, its shadow on the ground."""
    canvas.part = "near"
    lean = chance.around(0.0, 0.2)
    canvas.ellipse((x + 0.1 * r, y + 0.46 * r), (1.25 * r, 0.2 * r), GROUND_SHADOW, alpha=0.28)
    a, b, c, d, e, f, g = (
        (x + dx * r, y + dy * r) for dx, dy in (
            (-1.0, 0.46), (-0.82, -0.1), (-0.36 + lean, -0.62), (0.28 + lean, -0.54), (0.8, -0.02), (1.0, 0.46), (0.2, -0.06),
        )
    )  # fmt: skip
    low = (x + 0.36 * r, y + 0.5 * r)
    canvas.polygon([a, b, c, d, e, f, low], colour)
    canvas.polygon([b, c, d, g], mix(colour, WHITE, 0.26))
    canvas.polygon([d, e, f, low, g], shaded(colour, 0.34))
    canvas.stroke([(x - 0.4 * r, y + 0.02 * r), (x - 0.3 * r, y + 0.22 * r)], shaded(colour, 0.5), 0.0095, smooth=False)
    canvas.polygon([a, b, c, d, e, f, low], colour, alpha=0.0, outline=LINE)


def draw_pine(canvas: Canvas, x: float, base: float, height: float, colour: Colour) -> None:
    """Three skirts of needles, the lowest drawn first."""
    canvas.part = "far"
    for share in (0.0, 0.26, 0.5):
        w, low, top = 0.3 * height * (1 - 0.8 * share), base - share * height, base - min(1.0, share + 0.52) * height
        skirt: tuple[Knot, ...] = ((x - w, low, 1), (x - 0.4 * w, low - 0.5 * (low - top)), (x, top, 1),
                                   (x + 0.4 * w, low - 0.5 * (low - top)), (x + w, low, 1), (x, low + 0.02))  # fmt: skip
        canvas.shape(skirt, mix(colour, WHITE, 0.1 * share), outline=0)
        canvas.shape(((x + 0.1 * w, low + 0.01), (x + 0.12 * w, top + 0.04, 1), (x + 0.36 * w, low - 0.45 * (low - top)),
                      (x + 0.86 * w, low, 1)), shaded(colour, 0.2), outline=0)  # fmt: skip


def draw_crown(canvas: Canvas, chance: Chance, x: float, y: float, r: float, colour: Colour) -> None:
    """A crown of leaves: a lobed outline, a shadow below, light leaves above."""
    canvas.part = "near"
    turn, count = chance.between(0, 0.8), 8
    path: list[Knot] = []
    for i in range(count):
        for share, reach, *corner in ((0.0, 0.86, 1), (0.32, 1.03), (0.68, 1.03)):
            angle = turn + 2 * np.pi * (i + share) / count
            path.append((x + r * reach * np.cos(angle), y + 0.84 * r * reach * np.sin(angle), *corner))
    canvas.shape(path, colour, shade=shaded(colour, 0.36))
    for dx, dy, size in ((-0.34, -0.3, 0.3), (0.16, -0.42, 0.22), (-0.14, 0.14, 0.2)):
        at, radii = (x + dx * r, y + dy * r), (size * r, 0.6 * size * r)
        canvas.ellipse(at, radii, mix(colour, (190, 222, 96), 0.28))


def draw_trunk(canvas: Canvas, x: float, base: float, width: float, lean: float) -> None:
    canvas.part = "near"
    w = width
    path: tuple[Knot, ...] = (
        (x - 1.5 * w, base, 1), (x - 0.62 * w, base - 0.08), (x - 0.5 * w + 0.5 * lean, 0.5), (x - 0.55 * w + lean, -0.05, 1),
        (x + 0.55 * w + lean, -0.05, 1), (x + 0.5 * w + 0.5 * lean, 0.5), (x + 0.62 * w, base - 0.08), (x + 1.5 * w, base, 1),
        (x, base - 0.025),
    )  # fmt: skip
    canvas.shape(path, WOOD)
    canvas.shape(((x + 0.1 * w, base - 0.04), (x + 0.2 * w + 0.5 * lean, 0.5), (x + 0.1 * w + lean, 0.0), (x + 0.5 * w + lean, 0.0),
                  (x + 0.44 * w + 0.5 * lean, 0.5), (x + 0.6 * w, base - 0.04)), shaded(WOOD, 0.36), outline=0)  # fmt: skip
    for y in (0.34, 0.5, 0.66):
        canvas.stroke(
            [(x - 0.22 * w + 0.5 * lean, y), (x - 0.14 * w + 0.5 * lean, y + 0.07)], shaded(WOOD, 0.5), 0.0105
        )


def draw_roof(canvas: Canvas, x: float, top: float, half: float, height: float, colour: Colour) -> None:
    """A curved gable with upturned eaves, ridge and rows of tiles."""
    low = top + height
    path: tuple[Knot, ...] = (
        (x - half, low - 0.016, 1), (x - 0.66 * half, low - 0.42 * height), (x - 0.42 * half, top, 1), (x + 0.42 * half, top, 1),
        (x + 0.66 * half, low - 0.42 * height), (x + half, low - 0.016, 1), (x + 0.9 * half, low + 0.016), (x, low + 0.01),
        (x - 0.9 * half, low + 0.016),
    )  # fmt: skip
    canvas.shape(path, colour)
    for share in (-0.66, -0.33, 0.0, 0.33, 0.66):
        a, b = x + 0.42 * half * share, x + 0.86 * half * share
        canvas.stroke([(a, top + 0.015), ((a + b) / 2, top + 0.55 * height), (b, low)], shaded(colour, 0.4), 0.0095)
    canvas.band(((x - 0.46 * half, top), (x + 0.46 * half, top)), (0.032, 0.032), shaded(colour, 0.25))


def draw_lantern(canvas: Canvas, x: float, y: float, colour: Colour) -> None:
    canvas.stroke([(x, y - 0.075), (x, y - 0.04)], (40, 30, 40), 0.0105)
    canvas.ellipse((x, y), (0.034, 0.042), colour, outline=LINE)
    canvas.ellipse((x - 0.004, y), (0.016, 0.028), mix(colour, LAMP, 0.75))
    canvas.stroke([(x - 0.016, y - 0.042), (x + 0.016, y - 0.042)], (40, 30, 40), 0.014)
    canvas.stroke([(x - 0.016, y + 0.042), (x + 0.016, y + 0.042)], (40, 30, 40), 0.014)


def draw_tower(canvas: Canvas, light: Light, x: float, top: float, distance: float) -> None:
    """A pagoda's two storeys against the sky."""
    colour = far(light, (96, 92, 132), distance)
    dark = mix(colour, (40, 44, 84), 0.42)
    canvas.stroke([(x, top - 0.1), (x, top)], dark, 0.0125, smooth=False)
    for low, half in ((top + 0.06, 0.09), (top + 0.2, 0.125)):
        canvas.polygon(
            [(x - 0.6 * half, low + 0.1), (x - 0.6 * half, low), (x + 0.6 * half, low), (x + 0.6 * half, low + 0.1)],
            colour,
        )
        canvas.shape(((x - half, low + 0.004, 1), (x - 0.4 * half, low - 0.03), (x, low - 0.07, 1), (x + 0.4 * half, low - 0.03),
                      (x + half, low + 0.004, 1), (x, low + 0.012)), dark, outline=0)  # fmt: skip
        canvas.polygon(
            [(x - 0.022, low + 0.035), (x + 0.022, low + 0.035), (x + 0.022, low + 0.085), (x - 0.022, low + 0.085)],
            (255, 222, 120),
        )
    canvas.polygon([(x - 0.1, 0.9), (x - 0.1, top + 0.28), (x + 0.1, top + 0.28), (x + 0.1, 0.9)], colour)


def draw_cactus(canvas: Canvas, x: float, y: float, zoom: float) -> None:
    green = (62, 146, 86)
    with canvas.frame((x, y), zoom=zoom):
        canvas.band(((0.02, -0.2), (0.1, -0.22), (0.11, -0.33)), (0.056, 0.056, 0.05), green, shade=shaded(green, 0.3))
        canvas.band(
            ((-0.02, -0.26), (-0.1, -0.28), (-0.105, -0.38)), (0.056, 0.056, 0.05), green, shade=shaded(green, 0.3)
        )
        canvas.band(((0.0, 0.02), (0.004, -0.25), (0.0, -0.46)), (0.09, 0.088, 0.074), green, shade=shaded(green, 0.3))
        for dx in (-0.02, 0.012):
            canvas.stroke([(dx, -0.04), (dx, -0.44)], shaded(green, 0.42), 0.0105, smooth=False)
        canvas.ellipse((0.0, -0.495), (0.026, 0.022), (244, 110, 150), outline=0.0105)


def draw_stone_lantern(canvas: Canvas, x: float, y: float) -> None:
    canvas.band(((x, y), (x, y - 0.13)), (0.045, 0.04), STONE, shade=shaded(STONE, 0.3))
    canvas.shape(
        ((x - 0.05, y + 0.02, 1), (x - 0.04, y - 0.014), (x + 0.04, y - 0.014), (x + 0.05, y + 0.02, 1)), STONE
    )
    canvas.polygon(
        [(x - 0.04, y - 0.13), (x - 0.045, y - 0.2), (x + 0.045, y - 0.2), (x + 0.04, y - 0.13)], STONE, outline=LINE
    )
    canvas.polygon([(x - 0.02, y - 0.145), (x - 0.022, y - 0.186), (x + 0.022, y - 0.186), (x + 0.02, y - 0.145)], LAMP)
    canvas.shape(((x - 0.078, y - 0.19, 1), (x - 0.03, y - 0.23), (x, y - 0.27, 1), (x + 0.03, y - 0.23), (x + 0.078, y - 0.19, 1)),
                 STONE, shade=shaded(STONE, 0.3))  # fmt: skip


def draw_trunk_and_crown(canvas: Canvas, chance: Chance, x: float, base: float, leaves: Colour) -> None:
    """A whole small tree."""
    canvas.part = "near"
    top = chance.between(0.42, 0.54)
    canvas.band(
        ((x, base), (x + 0.01, 0.5 * (base + top)), (x, top)), (0.05, 0.034, 0.03), WOOD, shade=shaded(WOOD, 0.36)
    )
    draw_crown(canvas, chance, x, top, chance.between(0.085, 0.12), leaves)


def draw_banner(canvas: Canvas, chance: Chance, x: float) -> None:
    """A pole with a long flag in the wind."""
    top, blown = chance.between(0.3, 0.42), chance.around(0.0, 0.02)
    canvas.band(((x, 0.8), (x, top)), (0.018, 0.018), WOOD, outline=0.0095)
    flag: tuple[Knot, ...] = (
        (x + 0.008, top + 0.02, 1), (x + 0.05, top + 0.026), (x + 0.085, top + 0.012, 1), (x + 0.09 + blown, top + 0.15),
        (x + 0.08 + blown, top + 0.27, 1), (x + 0.045, top + 0.255), (x + 0.008, top + 0.27, 1),
    )  # fmt: skip
    cloth: Colour = (222, 214, 196)
    canvas.shape(flag, cloth, shade=shaded(cloth, 0.24))
    canvas.ellipse((x + 0.046, top + 0.1), (0.022, 0.026), (176, 54, 58))
    canvas.stroke([(x + 0.046, top + 0.16), (x + 0.046, top + 0.215)], (176, 54, 58), 0.014, smooth=False)

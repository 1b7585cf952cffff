"""Places of the built-in world: far, middle and near layers, each drawn under the scene's light.

A place must be told at 64 px from what shows beside and above the figure, so each owns a silhouette, a ground and one
strong colour: snow peaks, trunks, gabled houses, a fall, tiles, red planks, dunes, a vermilion gate. Far layers take on
the horizon's colour, near ones are dark and large; what stands where varies freely.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from genin.distill.world.canvas import INK, LINE, WHITE, Canvas, Colour, Knot, arc, mix, shaded
from genin.distill.world.pieces import (
    LAMP,
    WOOD,
    Chance,
    draw_banner,
    draw_cactus,
    draw_crown,
    draw_ground,
    draw_hills,
    draw_lantern,
    draw_pine,
    draw_rock,
    draw_roof,
    draw_stone_lantern,
    draw_tower,
    draw_trunk,
    draw_trunk_and_crown,
    draw_tufts,
)
from genin.distill.world.sky import LIGHTS, Light, far

VERMILION: Colour = (224, 62, 40)


def draw_place(canvas: Canvas, environment: str, light_name: str, chance: np.random.Generator) -> None:
    """Far, middle and near layers of a place."""
    light = LIGHTS[light_name]
    canvas.light, canvas.light_share, canvas.gain = light.colour, light.share, light.gain
    _PLACES[environment](canvas, light, Chance(chance))


# --- places ----------------------------------------------------------------------------------------------------------


def _peak(canvas: Canvas, light: Light, x: float, top: float, half: float, distance: float) -> None:
    """A snow peak: lit and shaded face, a ragged edge of snow."""
    canvas.part = "far"
    rock, snow = far(light, (104, 110, 146), distance), far(light, (250, 252, 255), 0.4 * distance)
    base, h = 0.82, 0.4 * (0.82 - top)
    w = half * h / (base - top)
    canvas.polygon([(x - half, base), (x, top), (x + half, base)], rock)
    canvas.polygon(
        [(x, top), (x + half, base), (x + 0.12 * half, base), (x - 0.06, top + 1.6 * h), (x + 0.03, top + 1.2 * h)],
        shaded(rock, 0.26),
    )
    edge = [(x + w, top + h), (x + 0.5 * w, top + 0.74 * h), (x + 0.22 * w, top + 1.16 * h), (x - 0.12 * w, top + 0.72 * h),
            (x - 0.5 * w, top + 1.1 * h), (x - 0.62 * w, top + 0.78 * h), (x - w, top + h)]  # fmt: skip
    canvas.polygon([(x, top), *edge], snow)
    canvas.polygon([(x, top), *edge[:3], (x + 0.1 * w, top + 0.5 * h)], mix(snow, (150, 166, 214), 0.42))
    canvas.stroke([(x - half, base), (x, top), (x + half, base)], mix(INK, rock, 0.5 * distance), LINE, smooth=False)


def _mountain(canvas: Canvas, light: Light, chance: Chance) -> None:
    if chance.between(0, 1) < 0.5:
        _peak(canvas, light, chance.around(0.5, 0.35), chance.around(0.34, 0.05), chance.between(0.2, 0.3), 0.66)
    _peak(canvas, light, chance.around(0.5, 0.12), chance.around(0.27, 0.04), 0.42, 0.55)
    _peak(canvas, light, chance.around(0.1, 0.06), chance.around(0.14, 0.05), 0.36, 0.16)
    _peak(canvas, light, chance.around(0.92, 0.05), chance.around(0.2, 0.05), 0.33, 0.2)
    draw_hills(canvas, chance, 0.7, 0.03, far(light, (92, 112, 118), 0.3))
    for side in (0.0, 0.72):
        for _ in range(2):
            draw_pine(
                canvas,
                side + chance.between(0.02, 0.28),
                0.79,
                chance.between(0.14, 0.22),
                far(light, (48, 96, 84), 0.12),
            )
    draw_ground(canvas, 0.78, (142, 132, 124), (70, 62, 66))
    for x in (0.3, 0.62):
        at = chance.around(x, 0.06)
        canvas.stroke([(at, 0.85), (at + 0.06, 0.87), (at + 0.05, 0.9)], (104, 96, 94), 0.0105)
    draw_rock(canvas, chance, chance.between(0.02, 0.14), 0.92, chance.between(0.09, 0.13), (112, 106, 112))
    draw_rock(canvas, chance, chance.between(0.86, 0.98), 0.9, chance.between(0.09, 0.14), (112, 106, 112))


def _forest(canvas: Canvas, light: Light, chance: Chance) -> None:
    draw_hills(canvas, chance, 0.42, 0.05, far(light, (92, 156, 112), 0.6))
    for i in range(6):
        draw_pine(
            canvas,
            -0.02 + 0.21 * i + chance.around(0, 0.05),
            0.8,
            chance.between(0.36, 0.54),
            far(light, (58, 132, 90), 0.4),
        )
    draw_ground(canvas, 0.77, (98, 160, 66), (44, 84, 44))
    canvas.shape(((0.2, 0.87), (0.5, 0.84), (0.8, 0.87), (0.5, 0.92)), (128, 182, 80), outline=0)
    for x in (0.25, 0.75):  # never behind the head, out of which it would seem to grow
        if chance.between(0, 1) < 0.4:
            draw_trunk(canvas, chance.around(x, 0.04), 0.81, chance.between(0.04, 0.055), chance.around(0.0, 0.06))
    left, right = chance.around(0.06, 0.04), chance.around(0.94, 0.04)
    draw_trunk(canvas, left, 0.86, chance.between(0.07, 0.1), chance.around(0.0, 0.05))
    draw_trunk(canvas, right, 0.87, chance.between(0.07, 0.1), chance.around(0.0, 0.05))
    for x, y, r in ((0.26, 0.02, 0.14), (0.75, 0.02, 0.14), (left - 0.02, 0.12, 0.2), (right + 0.02, 0.12, 0.2)):
        draw_crown(canvas, chance, chance.around(x, 0.03), chance.around(y, 0.03), r, (44, 126, 60))
    draw_tufts(canvas, chance, (54, 112, 46), 6)
    x, y = chance.between(0.14, 0.24), chance.between(0.86, 0.92)
    canvas.band(((x, y), (x, y - 0.02)), (0.03, 0.026), (246, 234, 210))
    canvas.shape(
        ((x - 0.044, y - 0.022, 1), (x - 0.026, y - 0.056), (x + 0.026, y - 0.056), (x + 0.044, y - 0.022, 1)),
        (214, 60, 48),
    )


def _house(canvas: Canvas, chance: Chance, x: float, top: float, wall: Colour, roof: Colour) -> None:
    canvas.part = "near"
    canvas.polygon(
        [(x - 0.16, 0.81), (x - 0.16, top + 0.1), (x + 0.16, top + 0.1), (x + 0.16, 0.81)], wall, outline=LINE
    )
    canvas.polygon(
        [(x + 0.08, 0.8), (x + 0.08, top + 0.15), (x + 0.152, top + 0.15), (x + 0.152, 0.8)], shaded(wall, 0.2)
    )
    canvas.polygon(
        [(x - 0.153, top + 0.19), (x + 0.153, top + 0.19), (x + 0.153, top + 0.15), (x - 0.153, top + 0.15)],
        shaded(wall, 0.32),
    )
    for dx in (-0.15, 0.15):
        canvas.stroke([(x + dx, top + 0.15), (x + dx, 0.8)], WOOD, 0.018, smooth=False)
    canvas.polygon([(x - 0.085, 0.54), (x + 0.085, 0.54), (x + 0.085, 0.66), (x - 0.085, 0.66)], LAMP, outline=LINE)
    canvas.stroke([(x, 0.54), (x, 0.66)], WOOD, 0.0115, smooth=False)
    canvas.stroke([(x - 0.085, 0.6), (x + 0.085, 0.6)], WOOD, 0.0115, smooth=False)
    draw_roof(canvas, x, top, 0.24, 0.17, roof)
    side = 1 if x < 0.5 else -1
    draw_lantern(canvas, x + 0.16 * side, top + 0.26 + chance.between(0.0, 0.02), (226, 70, 52))


def _village(canvas: Canvas, light: Light, chance: Chance) -> None:
    draw_hills(canvas, chance, 0.44, 0.05, far(light, (120, 150, 130), 0.6))
    canvas.part = "far"
    for x in (0.33, 0.52, 0.7):
        x, top = chance.around(x, 0.04), chance.around(0.45, 0.04)
        colour = far(light, (168, 140, 126), 0.45)
        canvas.polygon([(x - 0.075, 0.82), (x - 0.075, top + 0.06), (x + 0.075, top + 0.06), (x + 0.075, 0.82)], colour)
        canvas.shape(((x - 0.12, top + 0.09, 1), (x - 0.06, top + 0.05), (x - 0.04, top, 1), (x + 0.04, top, 1),
                      (x + 0.06, top + 0.05), (x + 0.12, top + 0.09, 1)), shaded(colour, 0.34), outline=0)  # fmt: skip
        canvas.polygon(
            [(x - 0.024, top + 0.13), (x + 0.024, top + 0.13), (x + 0.024, top + 0.18), (x - 0.024, top + 0.18)],
            far(light, LAMP, 0.2),
        )
    roofs: tuple[Colour, ...] = ((66, 88, 136), (158, 66, 58), (74, 108, 92))
    first = int(chance.between(0, 3))
    for x in (0.27, 0.74):
        if chance.between(0, 1) < 0.5:
            draw_trunk_and_crown(canvas, chance, chance.around(x, 0.03), 0.79, (86, 150, 76))
    _house(canvas, chance, chance.around(0.09, 0.035), chance.around(0.27, 0.05), (240, 218, 182), roofs[first])
    _house(
        canvas, chance, chance.around(0.91, 0.035), chance.around(0.31, 0.05), (234, 210, 172), roofs[(first + 1) % 3]
    )
    draw_ground(canvas, 0.79, (196, 168, 124), (112, 86, 62))
    canvas.shape(
        ((0.38, 0.79, 1), (0.62, 0.79, 1), (0.7, 0.9), (0.9, 1.08, 1), (0.1, 1.08, 1), (0.3, 0.9)),
        (226, 206, 166),
        outline=0,
    )
    for i in range(5):
        x, y = chance.between(0.3, 0.7), 0.84 + 0.03 * i
        canvas.ellipse((x, y), (0.034, 0.011), (196, 172, 132))
    draw_tufts(canvas, chance, (96, 132, 70), 4)


def _fall(canvas: Canvas, chance: Chance, x: float, width: float, top: float) -> None:
    canvas.part = "far"
    path: tuple[Knot, ...] = (
        (x - width, 0.82, 1), (x - 0.86 * width, 0.4), (x - 0.8 * width, top + 0.03), (x - 0.5 * width, top),
        (x + 0.5 * width, top), (x + 0.8 * width, top + 0.03), (x + 0.86 * width, 0.4), (x + width, 0.82, 1),
    )  # fmt: skip
    canvas.shape(path, (112, 194, 240))
    canvas.shape(((x + 0.4 * width, 0.8), (x + 0.3 * width, top + 0.05), (x + 0.66 * width, top + 0.05), (x + 0.84 * width, 0.8)),
                 (70, 150, 212), outline=0)  # fmt: skip
    for dx in (-0.6, -0.2, 0.16, 0.6):
        start, end = chance.between(top + 0.03, 0.3), chance.between(0.5, 0.76)
        canvas.stroke([(x + dx * width, start), (x + dx * width * 1.08, end)], (240, 252, 255), 0.02, smooth=False)


def _waterfall(canvas: Canvas, light: Light, chance: Chance) -> None:
    canvas.part = "far"
    tops = [chance.around(y, 0.03) for y in (0.12, 0.08, 0.11, 0.06)]
    cliff, moss = (98, 108, 112), (84, 152, 86)
    canvas.shape(
        [(-0.15, 0.84, 1), (-0.15, tops[0], 1), (0.3, tops[1]), (0.62, tops[2]), (1.15, tops[3], 1), (1.15, 0.84, 1)],
        cliff,
    )
    for _ in range(7):
        x, y, w = chance.between(0.0, 1.0), chance.between(0.24, 0.7), chance.between(0.06, 0.12)
        canvas.shape(
            ((x - w, y), (x, y - 0.03), (x + w, y + 0.01), (x + 0.6 * w, y + 0.06), (x - 0.7 * w, y + 0.05)),
            shaded(cliff, 0.24),
            outline=0,
        )
        canvas.stroke([(x - w, y - 0.004), (x, y - 0.03), (x + 0.9 * w, y + 0.002)], mix(cliff, WHITE, 0.26), 0.0115)
    grass: list[Knot] = [
        (-0.15, tops[0] - 0.05, 1),
        (0.3, tops[1] - 0.05),
        (0.62, tops[2] - 0.05),
        (1.15, tops[3] - 0.05, 1),
    ]
    fringe: list[Knot] = [(1.15, tops[3] + 0.05, 1)]
    for i in range(9, -1, -1):
        fringe.append((0.12 * i - 0.05, 0.1 + (0.07 if i % 2 else 0.01) + chance.around(0, 0.012)))
    canvas.shape([*grass, *fringe], moss)
    _fall(canvas, chance, chance.around(0.84, 0.04), chance.between(0.13, 0.16), 0.07)
    _fall(canvas, chance, chance.around(0.15, 0.04), chance.between(0.09, 0.12), 0.09)
    draw_ground(canvas, 0.79, (64, 150, 206), (230, 246, 252))
    canvas.part = "ground"
    for x in (0.15, 0.84):
        for dx, r in ((-0.12, 0.05), (0.12, 0.05), (-0.04, 0.062), (0.06, 0.058)):
            canvas.ellipse((x + dx, 0.805), (r, 0.034), (238, 251, 255))
    for _ in range(3):
        x, y = chance.between(0.0, 0.9), chance.between(0.85, 0.97)
        canvas.stroke([(x, y), (x + 0.06, y - 0.006), (x + 0.12, y)], (150, 212, 240), 0.0125)
    canvas.shape(
        ((0.1, 0.93), (0.2, 0.875), (0.5, 0.862), (0.8, 0.875), (0.9, 0.93), (0.72, 0.985), (0.28, 0.985)),
        (132, 132, 128),
        shade=(92, 92, 98),
    )


def _rooftop(canvas: Canvas, light: Light, chance: Chance) -> None:
    draw_hills(canvas, chance, 0.6, 0.02, far(light, (120, 120, 160), 0.62))
    for x, top in ((0.3, 0.5), (0.7, 0.5)):
        draw_tower(canvas, light, chance.around(x, 0.05), chance.around(top, 0.04), 0.5)
    for x, top in ((0.07, 0.32), (0.93, 0.28)):
        draw_tower(canvas, light, chance.around(x, 0.04), chance.around(top, 0.07), 0.22)
    canvas.part = "ground"
    tile, dark = (70, 102, 150), (36, 56, 94)
    canvas.polygon([(-0.1, 1.1), (-0.1, 0.85), (0.1, 0.79), (0.9, 0.79), (1.1, 0.85), (1.1, 1.1)], tile, outline=LINE)
    for row, y in enumerate((0.845, 0.9, 0.965)):
        spread, count = 1.0 + 0.28 * row, 11
        points: list[Knot] = []
        for i in range(count + 1):
            x = 0.5 + (i / count - 0.5 + 0.5 * (row % 2) / count) * 1.25 * spread
            points += [(x, y, 1), (x + 0.62 * spread / count, y + 0.022 + 0.006 * row)]
        canvas.stroke(points, dark, 0.0125)
    for x in np.linspace(-0.05, 1.05, 9).tolist():
        canvas.stroke(
            [(0.5 + (x - 0.5) * 0.88, 0.805), (0.5 + (x - 0.5) * 1.38, 1.05)], shaded(tile, 0.2), 0.0115, smooth=False
        )
    canvas.band(((0.07, 0.79), (0.93, 0.79)), (0.045, 0.045), (226, 190, 96), shade=(170, 128, 60))
    canvas.part = "near"
    if chance.between(0, 1) < 0.5:
        draw_banner(canvas, chance, chance.around(0.2, 0.03))
    if chance.between(0, 1) < 0.5:
        draw_banner(canvas, chance, chance.around(0.8, 0.03))
    for x, side in ((0.06, 1), (0.94, -1)):
        fish: tuple[Knot, ...] = ((x - 0.04 * side, 0.81), (x - 0.05 * side, 0.73), (x - 0.005 * side, 0.64, 1),
                                  (x + 0.02 * side, 0.7),
                                  (x + 0.065 * side, 0.67, 1), (x + 0.03 * side, 0.75), (x + 0.05 * side, 0.81))  # fmt: skip
        canvas.shape(fish, (240, 200, 92), shade=(180, 132, 60))


def _bridge(canvas: Canvas, light: Light, chance: Chance) -> None:
    draw_hills(canvas, chance, 0.42, 0.05, far(light, (110, 150, 170), 0.66))
    leaves: Colour = (214, 92, 56) if chance.between(0, 1) < 0.5 else (62, 140, 72)  # autumn or summer
    for x, r in ((0.06, 0.24), (0.34, 0.16), (0.68, 0.15), (0.95, 0.24)):
        canvas.part = "far"
        canvas.ellipse((chance.around(x, 0.04), 0.62), (r, chance.between(0.12, 0.2)), far(light, (84, 152, 98), 0.36))
    canvas.part = "ground"
    canvas.polygon([(-0.1, 0.62), (1.1, 0.62), (1.1, 1.1), (-0.1, 1.1)], (70, 160, 200))
    for i in range(6):
        x, y = chance.between(-0.05, 1.0), 0.645 + 0.026 * i
        canvas.stroke([(x, y), (x + 0.05, y - 0.006), (x + 0.1, y)], (202, 236, 246), 0.0125)
    for x in (0.0, 1.0):
        if chance.between(0, 1) < 0.6:
            draw_crown(
                canvas, chance, chance.around(x, 0.04), chance.around(0.08, 0.05), chance.between(0.16, 0.22), leaves
            )
    canvas.part = "near"
    rail, dark = (220, 60, 44), (150, 32, 34)
    for y in (0.54, 0.68):
        path: tuple[Knot, ...] = ((-0.1, y + 0.05), (0.2, y + 0.012), (0.5, y), (0.8, y + 0.012), (1.1, y + 0.05))
        canvas.band(path, (0.038, 0.038), rail, shade=dark)
    shift = chance.around(0.0, 0.03)
    for x in (0.05, 0.25, 0.75, 0.95):
        x += shift
        canvas.band(((x, 0.5), (x, 0.86)), (0.048, 0.048), rail, shade=dark)
        cap: tuple[Knot, ...] = (
            (x - 0.032, 0.505),
            (x - 0.034, 0.47),
            (x, 0.425, 1),
            (x + 0.034, 0.47),
            (x + 0.032, 0.505),
        )
        canvas.shape(cap, (248, 206, 92), shade=(190, 140, 60))
    plank = (192, 120, 72)
    canvas.part = "ground"
    canvas.polygon([(-0.1, 1.1), (-0.1, 0.82), (0.5, 0.795), (1.1, 0.82), (1.1, 1.1)], plank, outline=LINE)
    for x in np.linspace(-0.1, 1.1, 9).tolist():
        canvas.stroke(
            [(0.5 + (x - 0.5) * 0.9, 0.81), (0.5 + (x - 0.5) * 1.36, 1.05)], shaded(plank, 0.45), 0.0115, smooth=False
        )
    for _ in range(4):
        x, y = chance.between(0.02, 0.9), chance.between(0.85, 0.97)
        canvas.stroke([(x, y), (x + 0.05, y)], shaded(plank, 0.28), 0.0105, smooth=False)
    canvas.stroke([(-0.1, 0.83), (0.5, 0.806), (1.1, 0.83)], mix(plank, WHITE, 0.3), 0.0125)


def _desert(canvas: Canvas, light: Light, chance: Chance) -> None:
    canvas.part = "far"
    for x, top, half, distance in (
        (chance.around(0.35, 0.1), 0.52, 0.12, 0.55), (chance.around(0.88, 0.05), chance.around(0.34, 0.04), 0.16, 0.12),
    ):  # fmt: skip
        rock = far(light, (196, 104, 68), distance)
        mesa = [
            (x - 1.2 * half, 0.84),
            (x - 0.8 * half, top + 0.12),
            (x - 0.7 * half, top),
            (x + 0.6 * half, top + 0.012),
            (x + 0.8 * half, top + 0.14),
            (x + 1.3 * half, 0.84),
        ]
        canvas.polygon(mesa, rock, outline=LINE if distance < 0.3 else 0)
        canvas.polygon(
            [
                (x + 0.1 * half, 0.84),
                (x + 0.2 * half, top + 0.02),
                (x + 0.58 * half, top + 0.02),
                (x + 0.76 * half, top + 0.14),
                (x + 1.2 * half, 0.84),
            ],
            shaded(rock, 0.26),
        )
        for y in (0.08, 0.15, 0.24):
            canvas.stroke([(x - 0.7 * half, top + y), (x + 0.05 * half, top + y + 0.012)], shaded(rock, 0.34), 0.0125)
    for y, share, colour in ((0.7, 0.4, (236, 190, 118)), (0.755, 0.16, (232, 178, 100))):
        draw_hills(canvas, chance, y, 0.03, far(light, colour, share))
    draw_ground(canvas, 0.79, (242, 202, 128), (190, 134, 74), 0.02)
    for i in range(4):
        x, y = chance.between(-0.05, 0.8), 0.845 + 0.036 * i
        canvas.stroke([(x, y), (x + 0.08, y - 0.012), (x + 0.16, y), (x + 0.24, y - 0.01)], (212, 160, 92), 0.0115)
    canvas.part = "near"
    draw_cactus(canvas, chance.around(0.12, 0.035), 0.88, chance.between(0.85, 1.08))
    if chance.between(0, 1) < 0.5:
        draw_cactus(canvas, chance.around(0.9, 0.05), 0.86, chance.between(0.42, 0.6))
    draw_rock(canvas, chance, chance.between(0.8, 0.95), 0.93, chance.between(0.06, 0.09), (204, 128, 84))


def _shrine(canvas: Canvas, light: Light, chance: Chance) -> None:
    draw_hills(canvas, chance, 0.46, 0.04, far(light, (96, 146, 122), 0.6))
    canvas.part = "far"
    for x, r in ((0.0, 0.22), (1.0, 0.24), (0.3, 0.15), (0.7, 0.16)):
        canvas.ellipse(
            (chance.around(x, 0.04), chance.around(0.62, 0.04)), (r, 0.86 * r), far(light, (72, 132, 92), 0.3)
        )
    draw_ground(canvas, 0.785, (178, 172, 162), (104, 100, 104), 0.0)
    for y in (0.85, 0.93):
        canvas.stroke([(-0.1, y), (1.1, y)], (134, 128, 126), 0.0125, smooth=False)
    for i, (y, low) in enumerate(((0.79, 0.85), (0.85, 0.93), (0.93, 1.05))):
        for x in (0.12, 0.36, 0.6, 0.84):
            at = x + 0.12 * (i % 2) + chance.around(0, 0.03)
            canvas.stroke([(at, y), (at + (at - 0.5) * 0.06, low)], (134, 128, 126), 0.0105, smooth=False)
    canvas.part = "near"
    wide, high = chance.between(0.38, 0.42), chance.around(0.0, 0.03)
    dark = shaded(VERMILION, 0.4)
    for side in (-1, 1):
        x = 0.5 + wide * side
        canvas.band(((x - 0.012 * side, 0.1 + high), (x, 0.86)), (0.066, 0.078), VERMILION, shade=dark)
        canvas.polygon(
            [(x - 0.056, 0.9), (x - 0.048, 0.82), (x + 0.048, 0.82), (x + 0.056, 0.9)], (62, 56, 66), outline=LINE
        )
    canvas.polygon(
        [(0.0, 0.235 + high), (1.0, 0.235 + high), (1.0, 0.295 + high), (0.0, 0.295 + high)], VERMILION, outline=LINE
    )
    canvas.polygon([(0.005, 0.27 + high), (0.995, 0.27 + high), (0.995, 0.29 + high), (0.005, 0.29 + high)], dark)
    beam: tuple[Knot, ...] = ((-0.03, 0.06 + high, 1), (0.5, 0.1 + high), (1.03, 0.06 + high, 1), (0.99, 0.155 + high, 1),
                              (0.5, 0.175 + high), (0.01, 0.155 + high, 1))  # fmt: skip
    canvas.shape(beam, VERMILION)
    lid: tuple[Knot, ...] = ((-0.08, 0.0 + high, 1), (0.5, 0.055 + high), (1.08, 0.0 + high, 1), (1.05, 0.075 + high, 1),
                             (0.5, 0.11 + high),
                             (-0.05, 0.075 + high, 1))  # fmt: skip
    canvas.shape(lid, (66, 54, 66))
    canvas.stroke([(-0.06, 0.022 + high), (0.5, 0.074 + high), (1.06, 0.022 + high)], (126, 106, 116), 0.0115)
    sag = arc((0.5, 0.29 + high), (wide - 0.04, 0.07), 180, 0)
    canvas.stroke(sag[::3], (236, 214, 158), 0.022)
    for x in (0.2, 0.8):
        y = 0.335 + high
        canvas.polygon(
            [
                (x, y),
                (x + 0.035, y),
                (x + 0.012, y + 0.04),
                (x + 0.045, y + 0.04),
                (x + 0.01, y + 0.1),
                (x + 0.014, y + 0.055),
                (x - 0.014, y + 0.055),
            ],
            WHITE,
        )
    lit = chance.between(0, 1)
    for x, drawn in ((0.25, lit < 0.67), (0.75, lit > 0.33)):
        if drawn:
            draw_stone_lantern(canvas, chance.around(x, 0.03), 0.84)


_PLACES: dict[str, Callable[[Canvas, Light, Chance], None]] = {
    "mountain": _mountain,
    "forest": _forest,
    "village": _village,
    "waterfall": _waterfall,
    "rooftop": _rooftop,
    "bridge": _bridge,
    "desert": _desert,
    "shrine": _shrine,
}

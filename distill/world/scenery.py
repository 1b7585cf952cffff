"""Skies and places of the built-in world: far, middle and near layers, each drawn under the scene's light.

A place must be told at 64 px from what shows beside and above the figure, so each owns a silhouette, a ground and one
strong colour: snow peaks, trunks, gabled houses, a fall, tiles, red planks, dunes, a vermilion gate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from genin.distill.world.canvas import Canvas, Colour, mix

LINE = 0.011


@dataclass(frozen=True)
class Light:
    """Sky stops from top to horizon, the light's colour, its share and gain on scenery, and the haze at the horizon."""

    top: Colour
    middle: Colour
    horizon: Colour
    colour: Colour
    share: float
    gain: float


LIGHTS: dict[str, Light] = {
    "noon": Light((66, 150, 232), (124, 196, 246), (208, 238, 252), (255, 255, 255), 0.0, 1.0),
    "sunset": Light((116, 52, 120), (240, 110, 70), (255, 200, 96), (255, 158, 96), 0.75, 0.95),
    "dawn": Light((150, 150, 226), (246, 182, 208), (255, 232, 196), (255, 206, 226), 0.65, 1.0),
    "night": Light((10, 14, 48), (24, 36, 92), (50, 74, 140), (112, 138, 226), 0.9, 0.62),
    "storm": Light((44, 52, 62), (78, 88, 98), (120, 130, 134), (160, 176, 184), 0.85, 0.66),
    "mist": Light((206, 216, 218), (222, 228, 228), (236, 238, 236), (232, 238, 238), 0.3, 1.0),
}


def draw_sky(canvas: Canvas, light_name: str, chance: np.random.Generator) -> None:
    """Gradient, sun or moon, stars, clouds."""
    light = LIGHTS[light_name]
    canvas.light_share, canvas.gain = 0.0, 1.0
    canvas.sky([(0.0, light.top), (0.36, light.middle), (0.68, light.horizon), (1.0, light.horizon)])
    x = 0.16 + 0.1 * chance.random()
    if light_name == "noon":
        canvas.glow((x, 0.13), 0.13, (255, 250, 214), 0.25)
        canvas.ellipse((x, 0.13), (0.065, 0.065), (255, 246, 190))
    elif light_name == "sunset":
        canvas.glow((x, 0.36), 0.24, (255, 214, 120), 0.22)
        canvas.ellipse((x, 0.36), (0.12, 0.12), (255, 232, 140))
    elif light_name == "dawn":
        canvas.glow((x, 0.5), 0.2, (255, 246, 214), 0.3)
        canvas.ellipse((x, 0.5), (0.09, 0.09), (255, 250, 226))
    elif light_name == "night":
        for sx, sy in chance.random((12, 2)):
            canvas.ellipse((sx, 0.02 + 0.45 * sy), (0.009, 0.009), (232, 236, 255))
        canvas.glow((x, 0.15), 0.13, (200, 212, 255), 0.12)
        canvas.ellipse((x, 0.15), (0.08, 0.08), (246, 244, 222))
        canvas.ellipse((x + 0.04, 0.13), (0.066, 0.066), light.top)
    clouds = {"noon": (255, 255, 255), "sunset": (255, 176, 128), "dawn": (255, 226, 232), "storm": (58, 64, 74)}
    if light_name in clouds:
        for _ in range(5 if light_name == "storm" else 2):
            _cloud(canvas, 0.1 + 0.9 * chance.random(), 0.06 + 0.16 * chance.random(), clouds[light_name])


def _cloud(canvas: Canvas, x: float, y: float, colour: Colour) -> None:
    for dx, dy, radius in ((-0.09, 0.012, 0.045), (0.0, 0.0, 0.065), (0.09, 0.012, 0.05)):
        canvas.ellipse((x + dx, y + dy), (radius * 1.35, radius * 0.75), colour, alpha=0.9)


def draw_place(canvas: Canvas, environment: str, light_name: str, chance: np.random.Generator) -> None:
    """Far, middle and near layers of a place."""
    light = LIGHTS[light_name]
    canvas.light, canvas.light_share, canvas.gain = light.colour, light.share, light.gain
    _PLACES[environment](canvas, light, chance)


def draw_weather(canvas: Canvas, light_name: str, chance: np.random.Generator) -> None:
    """What stands between the viewer and the scene: rain, or a veil of mist."""
    canvas.light_share, canvas.gain = 0.0, 1.0
    if light_name == "storm":
        for x, y in chance.random((22, 2)):
            canvas.line([(1.2 * x, y), (1.2 * x - 0.035, y + 0.1)], (206, 222, 236), 0.008, alpha=0.55)
    elif light_name == "mist":
        for y, alpha in ((0.6, 0.28), (0.74, 0.3), (0.9, 0.34)):
            x = 0.3 + 0.4 * chance.random()
            canvas.ellipse((x, y), (0.75, 0.07), (240, 243, 242), alpha=alpha)


# --- places ----------------------------------------------------------------------------------------------------------


def _far(light: Light, colour: Colour, share: float = 0.45) -> Colour:
    """Aerial perspective: far things take on the horizon's colour (before the light, which they also get)."""
    return mix(colour, mix(light.horizon, (255, 255, 255), 0.2), share)


def _ground(canvas: Canvas, y: float, colour: Colour, edge: Colour) -> None:
    canvas.polygon([(-0.1, y), (1.1, y), (1.1, 1.1), (-0.1, 1.1)], colour)
    canvas.line([(-0.1, y), (1.1, y)], edge, LINE)


def _mountain(canvas: Canvas, light: Light, chance: np.random.Generator) -> None:
    shift = 0.08 * (chance.random() - 0.5)
    for cx, top, half, far in ((0.5, 0.3, 0.5, 0.5), (0.08, 0.12, 0.36, 0.15), (0.93, 0.2, 0.32, 0.2)):
        cx += shift
        rock, snow = _far(light, (104, 110, 142), far), _far(light, (250, 252, 255), far / 2)
        canvas.polygon([(cx - half, 0.8), (cx, top), (cx + half, 0.8)], rock, outline=LINE)
        h = 0.4 * (0.8 - top)
        w = half * h / (0.8 - top)
        points = [(cx - w, top + h), (cx, top), (cx + w, top + h), (cx + w * 0.4, top + h * 0.75), (cx, top + h * 1.1)]
        canvas.polygon([*points, (cx - w * 0.45, top + h * 0.75)], snow)
    _ground(canvas, 0.77, (128, 120, 112), (70, 62, 66))
    for x, y, r in ((0.1, 0.93, 0.09), (0.9, 0.9, 0.11)):
        canvas.polygon(
            [(x - r, y + r * 0.6), (x - r * 0.5, y - r * 0.5), (x + r * 0.4, y - r * 0.6), (x + r, y + r * 0.6)],
            (98, 92, 96),
            outline=LINE,
        )


def _forest(canvas: Canvas, light: Light, chance: np.random.Generator) -> None:
    for x in np.linspace(-0.02, 1.02, 9):
        y = 0.42 + 0.06 * chance.random()
        canvas.polygon([(x - 0.11, 0.8), (x, y), (x + 0.11, 0.8)], _far(light, (58, 128, 88), 0.35))
    _ground(canvas, 0.77, (92, 150, 64), (44, 84, 44))
    jitter = 0.04 * (chance.random() - 0.5)
    for x in (0.06 + jitter, 0.94 + jitter):
        canvas.polygon(
            [(x - 0.05, 0.86), (x - 0.035, 0.2), (x + 0.035, 0.2), (x + 0.05, 0.86)], (112, 72, 44), outline=LINE
        )
    for x, y, r in ((0.02, 0.16, 0.19), (0.24, 0.07, 0.13), (0.98, 0.16, 0.19), (0.77, 0.07, 0.13)):
        canvas.ellipse((x + jitter, y), (r, r * 0.85), (44, 122, 58), outline=LINE)
        canvas.ellipse((x + jitter - 0.03, y - 0.035), (r * 0.55, r * 0.42), (84, 164, 76))
    for x in (0.14, 0.3, 0.72, 0.86):
        canvas.polygon([(x - 0.03, 0.9), (x, 0.83), (x + 0.03, 0.9)], (64, 124, 48))


def _house(canvas: Canvas, x: float, top: float, wall: Colour, roof: Colour) -> None:
    canvas.polygon(
        [(x - 0.15, 0.8), (x - 0.15, top + 0.14), (x + 0.15, top + 0.14), (x + 0.15, 0.8)], wall, outline=LINE
    )
    canvas.polygon([(x - 0.22, top + 0.17), (x - 0.1, top), (x + 0.1, top), (x + 0.22, top + 0.17)], roof, outline=LINE)
    canvas.polygon(
        [(x - 0.05, 0.56), (x + 0.05, 0.56), (x + 0.05, 0.68), (x - 0.05, 0.68)], (255, 226, 130), outline=LINE
    )


def _village(canvas: Canvas, light: Light, chance: np.random.Generator) -> None:
    far = _far(light, (150, 120, 110), 0.4)
    canvas.polygon([(0.3, 0.8), (0.3, 0.5), (0.42, 0.42), (0.58, 0.42), (0.7, 0.5), (0.7, 0.8)], far)
    lift = 0.05 * chance.random()
    _house(canvas, 0.1, 0.28 - lift, (238, 214, 176), (66, 86, 132))
    _house(canvas, 0.9, 0.33 + lift, (232, 206, 168), (156, 66, 58))
    _ground(canvas, 0.78, (200, 172, 128), (120, 92, 66))
    canvas.polygon([(0.38, 0.78), (0.62, 0.78), (0.86, 1.05), (0.14, 1.05)], (224, 202, 160))


def _waterfall(canvas: Canvas, light: Light, chance: np.random.Generator) -> None:
    shift = 0.05 * (chance.random() - 0.5)
    canvas.polygon(
        [(-0.1, 0.8), (-0.1, 0.12), (0.3, 0.06), (0.62, 0.1), (1.1, 0.02), (1.1, 0.8)], (92, 104, 104), outline=LINE
    )
    canvas.polygon(
        [(-0.1, 0.16), (-0.1, 0.08), (0.3, 0.02), (0.62, 0.06), (1.1, -0.02), (1.1, 0.07), (0.6, 0.14), (0.3, 0.1)],
        (78, 146, 84),
    )
    for x, width in ((0.84 + shift, 0.15), (0.16 + shift, 0.1)):
        canvas.polygon(
            [(x - width, 0.82), (x - width * 0.85, 0.1), (x + width * 0.85, 0.1), (x + width, 0.82)],
            (120, 200, 240),
            outline=LINE,
        )
        for dx in (-0.5, 0.05, 0.55):
            canvas.line([(x + dx * width, 0.16), (x + dx * width * 1.1, 0.76)], (240, 252, 255), 0.028)
    _ground(canvas, 0.79, (64, 150, 206), (230, 246, 252))
    for x in (0.16 + shift, 0.84 + shift):
        canvas.ellipse((x, 0.81), (0.17, 0.035), (236, 250, 255))
    canvas.ellipse((0.5, 0.93), (0.36, 0.07), (122, 124, 120), outline=LINE)


def _rooftop(canvas: Canvas, light: Light, chance: np.random.Generator) -> None:
    for x, top in ((0.05, 0.5), (0.28, 0.6), (0.72, 0.58), (0.95, 0.46)):
        top += 0.04 * (chance.random() - 0.5)
        colour = _far(light, (96, 92, 128), 0.35)
        canvas.polygon([(x - 0.1, 0.9), (x - 0.1, top + 0.06), (x + 0.1, top + 0.06), (x + 0.1, 0.9)], colour)
        canvas.polygon([(x - 0.15, top + 0.08), (x, top - 0.04), (x + 0.15, top + 0.08)], mix(colour, INK_BLUE, 0.35))
        canvas.polygon(
            [(x - 0.03, top + 0.12), (x + 0.03, top + 0.12), (x + 0.03, top + 0.18), (x - 0.03, top + 0.18)],
            (255, 222, 120),
        )
    canvas.polygon(
        [(-0.1, 1.1), (-0.1, 0.86), (0.1, 0.78), (0.9, 0.78), (1.1, 0.86), (1.1, 1.1)], (66, 96, 140), outline=LINE
    )
    for y in (0.86, 0.95):
        canvas.line([(-0.1, y + 0.02), (1.1, y + 0.02)], (38, 58, 94), 0.014)
    for x in np.linspace(-0.05, 1.05, 9):
        canvas.line([(0.5 + (x - 0.5) * 0.86, 0.79), (0.5 + (x - 0.5) * 1.3, 1.05)], (38, 58, 94), 0.014)
    canvas.line([(0.08, 0.785), (0.92, 0.785)], (226, 190, 96), 0.028)


INK_BLUE: Colour = (40, 44, 84)


def _bridge(canvas: Canvas, light: Light, chance: np.random.Generator) -> None:
    canvas.ellipse((0.12, 0.64), (0.36, 0.17), _far(light, (84, 148, 96), 0.35))
    canvas.ellipse((0.9, 0.64), (0.34, 0.13), _far(light, (84, 148, 96), 0.45))
    canvas.polygon([(-0.1, 0.62), (1.1, 0.62), (1.1, 1.1), (-0.1, 1.1)], (70, 158, 196))
    for y in (0.66, 0.72):
        x = chance.random()
        canvas.line([(x - 0.2, y), (x + 0.1, y)], (196, 232, 244), 0.014)
    for y in (0.55, 0.68):
        canvas.line([(-0.1, y + 0.04), (0.5, y), (1.1, y + 0.04)], (92, 24, 24), 0.052)
        canvas.line([(-0.1, y + 0.04), (0.5, y), (1.1, y + 0.04)], (216, 58, 44), 0.034)
    for x in (0.06, 0.24, 0.76, 0.94):
        canvas.limb([(x, 0.5), (x, 0.84)], (216, 58, 44), 0.045, LINE)
        canvas.ellipse((x, 0.49), (0.034, 0.028), (246, 204, 92), outline=LINE)
    _ground(canvas, 0.8, (184, 112, 66), (92, 24, 24))
    for x in np.linspace(-0.1, 1.1, 10):
        canvas.line([(0.5 + (x - 0.5) * 0.9, 0.8), (0.5 + (x - 0.5) * 1.3, 1.05)], (120, 66, 40), 0.012)


def _desert(canvas: Canvas, light: Light, chance: np.random.Generator) -> None:
    x = 0.86 + 0.06 * (chance.random() - 0.5)
    canvas.polygon([(x - 0.16, 0.8), (x - 0.13, 0.4), (x - 0.04, 0.34), (x + 0.1, 0.36), (x + 0.2, 0.8)],
                   _far(light, (190, 104, 70), 0.15), outline=LINE)  # fmt: skip
    canvas.ellipse((0.15, 0.86), (0.55, 0.22), _far(light, (232, 180, 104), 0.2))
    _ground(canvas, 0.78, (240, 198, 122), (196, 142, 78))
    canvas.ellipse((0.85, 1.0), (0.6, 0.17), (226, 176, 98))
    canvas.limb([(0.13, 0.86), (0.13, 0.42)], (62, 140, 84), 0.075, LINE)
    canvas.limb([(0.14, 0.66), (0.23, 0.64), (0.23, 0.52)], (62, 140, 84), 0.05, LINE)
    canvas.limb([(0.12, 0.6), (0.035, 0.58), (0.035, 0.48)], (62, 140, 84), 0.05, LINE)
    canvas.line([(0.13, 0.84), (0.13, 0.44)], (62, 140, 84), 0.075)


def _shrine(canvas: Canvas, light: Light, chance: np.random.Generator) -> None:
    for x, r in ((0.0, 0.24), (1.0, 0.26), (0.3, 0.17), (0.72, 0.18)):
        y = 0.62 + 0.04 * chance.random()
        canvas.ellipse((x, y), (r, r * 0.9), _far(light, (72, 128, 92), 0.3))
    _ground(canvas, 0.78, (172, 168, 160), (104, 100, 104))
    for y in (0.86, 0.94):
        canvas.line([(-0.1, y), (1.1, y)], (126, 122, 122), 0.012)
    vermilion = (224, 62, 40)
    for x in (0.1, 0.9):
        canvas.limb([(x, 0.16), (x, 0.86)], vermilion, 0.07, LINE)
        canvas.polygon(
            [(x - 0.06, 0.9), (x - 0.05, 0.83), (x + 0.05, 0.83), (x + 0.06, 0.9)], (60, 54, 62), outline=LINE
        )
    canvas.polygon([(0.02, 0.25), (0.98, 0.25), (0.98, 0.31), (0.02, 0.31)], vermilion, outline=LINE)
    canvas.polygon(
        [(-0.04, 0.04), (0.5, 0.085), (1.04, 0.04), (1.0, 0.15), (0.5, 0.17), (0.0, 0.15)], vermilion, outline=LINE
    )
    canvas.polygon([(-0.06, 0.0), (0.5, 0.05), (1.06, 0.0), (1.04, 0.06), (0.5, 0.095), (-0.04, 0.06)], (60, 48, 58))


_PLACES: dict[str, Callable[[Canvas, Light, np.random.Generator], None]] = {
    "mountain": _mountain,
    "forest": _forest,
    "village": _village,
    "waterfall": _waterfall,
    "rooftop": _rooftop,
    "bridge": _bridge,
    "desert": _desert,
    "shrine": _shrine,
}

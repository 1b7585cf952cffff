"""The six lights: gradient, sun or moon, stars and clouds behind the scene; rain and mist before it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genin.distill.world.canvas import WHITE, Canvas, Colour, mix, shaded


@dataclass(frozen=True)
class Light:
    """Sky from top to horizon, the light's colour, its share and gain on scenery, and the rim it draws on the figure."""

    top: Colour
    middle: Colour
    horizon: Colour
    colour: Colour
    share: float
    gain: float
    rim: Colour | None = None


LIGHTS: dict[str, Light] = {
    "noon": Light((56, 142, 230), (124, 196, 246), (214, 240, 252), WHITE, 0.0, 1.0),
    "sunset": Light((104, 46, 122), (240, 106, 70), (255, 206, 100), (255, 158, 96), 0.75, 0.95, (255, 222, 120)),
    "dawn": Light((146, 148, 228), (248, 180, 208), (255, 234, 198), (255, 206, 226), 0.65, 1.0, (255, 240, 214)),
    "night": Light((10, 14, 50), (24, 38, 98), (58, 84, 154), (112, 138, 226), 0.88, 0.7, (150, 190, 255)),
    "storm": Light((42, 50, 62), (76, 86, 98), (124, 134, 138), (160, 176, 184), 0.85, 0.74),
    "mist": Light((200, 212, 216), (220, 228, 228), (238, 240, 238), (232, 238, 238), 0.3, 1.0),
}
_CLOUDS: dict[str, tuple[Colour, int]] = {
    "noon": (WHITE, 3),
    "sunset": ((255, 178, 132), 3),
    "dawn": ((255, 230, 236), 3),
    "night": ((52, 66, 126), 2),
    "storm": ((62, 68, 80), 6),
}


def far(light: Light, colour: Colour, share: float = 0.45) -> Colour:
    """Aerial perspective: far things take on the horizon's colour (before the light, which they also get)."""
    return mix(colour, mix(light.horizon, WHITE, 0.2), share)


def draw_sky(canvas: Canvas, light_name: str, chance: np.random.Generator) -> None:
    light = LIGHTS[light_name]
    canvas.unlit()
    canvas.sky(((0.0, light.top), (0.36, light.middle), (0.7, light.horizon), (1.0, light.horizon)))
    canvas.part = "clouds"
    x, y = 0.14 + 0.14 * chance.random(), 0.05 * chance.random()
    if light_name == "noon":
        canvas.glow((x, 0.11 + y), 0.15, (255, 250, 214), 0.25)
        canvas.ellipse((x, 0.11 + y), (0.068, 0.068), (255, 246, 186))
    elif light_name == "sunset":
        canvas.glow((x, 0.36 + y), 0.27, (255, 214, 120), 0.2)
        canvas.ellipse((x, 0.36 + y), (0.125, 0.125), (255, 234, 146))
    elif light_name == "dawn":
        canvas.glow((x, 0.46 + y), 0.24, (255, 246, 214), 0.28)
        canvas.ellipse((x, 0.46 + y), (0.09, 0.09), (255, 251, 230))
    elif light_name == "night":
        for sx, sy, size in chance.random((14, 3)).tolist():
            radius = 0.005 + 0.005 * size
            canvas.ellipse((sx, 0.02 + 0.42 * sy), (radius, radius), (232, 236, 255))
        canvas.glow((x, 0.13 + y), 0.16, (200, 212, 255), 0.12)
        canvas.ellipse((x, 0.13 + y), (0.082, 0.082), (248, 246, 226))
        canvas.ellipse((x + 0.042, 0.112 + y), (0.066, 0.066), mix(light.top, light.middle, 0.35))
    if light_name in _CLOUDS:
        colour, count = _CLOUDS[light_name]
        for cx, cy, size in chance.random((count, 3)).tolist():
            _cloud(canvas, (1.1 * cx, 0.05 + 0.2 * cy), 0.7 + 0.7 * size, colour)
    x, y, birds = chance.random(3).tolist()
    if birds < 0.5 and light_name in ("noon", "sunset", "dawn"):
        _birds(canvas, (0.1 + 0.8 * x, 0.06 + 0.12 * y), (70, 52, 84))


def _birds(canvas: Canvas, at: tuple[float, float], colour: Colour) -> None:
    for dx, dy, size in ((0.0, 0.0, 0.026), (0.06, 0.03, 0.02), (-0.05, 0.034, 0.018)):
        x, y = at[0] + dx, at[1] + dy
        wings = [
            (x - size, y - 0.4 * size),
            (x - 0.4 * size, y - 0.5 * size),
            (x, y, 1),
            (x + 0.4 * size, y - 0.5 * size),
        ]
        canvas.stroke([*wings, (x + size, y - 0.4 * size)], colour, 0.0095)


def _cloud(canvas: Canvas, at: tuple[float, float], zoom: float, colour: Colour) -> None:
    """Three heaps on a flat base, shaded below."""
    with canvas.frame(at, zoom=zoom):
        base = ((-0.16, 0.05), (-0.12, 0.0), (-0.06, -0.005), (0.0, -0.055), (0.07, -0.015), (0.12, 0.0), (0.17, 0.05))
        canvas.shape((*base, (0.0, 0.058)), shaded(colour, 0.14), outline=0)
        top = (
            (-0.15, 0.036),
            (-0.115, 0.0),
            (-0.06, -0.004),
            (0.0, -0.055),
            (0.065, -0.012),
            (0.1, 0.012),
            (0.02, 0.03),
        )
        canvas.shape(top, colour, outline=0)


def draw_haze(canvas: Canvas, light_name: str, chance: np.random.Generator) -> None:
    """Banks of mist between the place and the figure."""
    if light_name != "mist":
        return
    canvas.unlit()
    canvas.part = "clouds"
    for y, alpha in ((0.48, 0.15), (0.62, 0.2), (0.76, 0.26)):
        x = 0.2 + 0.6 * chance.random()
        for share in (1.0, 0.86, 0.7):
            canvas.ellipse((x, y), (0.8 * share, 0.1 * share), (242, 245, 244), alpha=alpha)


def draw_weather(canvas: Canvas, light_name: str, chance: np.random.Generator) -> None:
    """What stands between the viewer and the scene: rain, or a thin veil of mist at the feet."""
    canvas.unlit()
    if light_name == "storm":
        for x, y, long in chance.random((22, 3)).tolist():
            reach = 0.07 + 0.05 * long
            drop = [(1.2 * x, y), (1.2 * x - 0.32 * reach, y + reach)]
            canvas.stroke(drop, (212, 226, 238), 0.009, alpha=0.5, smooth=False)
    elif light_name == "mist":
        x = 0.2 + 0.6 * chance.random()
        for share in (1.0, 0.86, 0.7, 0.5):
            canvas.ellipse((x, 0.97), (0.9 * share, 0.09 * share), (240, 243, 242), alpha=0.17)

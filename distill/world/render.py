"""One scene → one picture: sky, place, shadow, effect behind, figure, effect before, weather.

`render` is a pure function of the scene and the size; at any size the same shapes stand in the same places. Free
variation (from `scene.variation`) is smooth: a small shift and scale of the figure, the layout of the background, a
mirror. It never touches what an attribute means.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from genin.distill.world.canvas import Canvas, mix
from genin.distill.world.figure import draw_figure, draw_shadow
from genin.distill.world.scene import Scene
from genin.distill.world.scenery import LIGHTS, draw_place, draw_sky, draw_weather
from genin.runtimes.errors import InputError


def render(scene: Scene, size: int) -> NDArray[np.uint8]:
    """The scene as (size, size, 3) uint8 sRGB; 16 ≤ size ≤ 1024 pixels."""
    if not 16 <= size <= 1024:
        raise InputError(f"cannot render at {size} px", remedy="choose a size from 16 to 1024")
    chance = np.random.Generator(np.random.PCG64(scene.variation))
    shift_x, shift_y, zoom, flip = chance.random(4)
    canvas = Canvas(size)
    draw_sky(canvas, scene.light, chance)
    draw_place(canvas, scene.environment, scene.light, chance)

    # The figure takes a little of the scenery's light, so that an orange outfit stays orange at night.
    light = LIGHTS[scene.light]
    canvas.light_share, canvas.gain = 0.28 * light.share, 1 - 0.3 * (1 - light.gain)
    canvas.origin = (0.06 * (shift_x - 0.5), 0.03 * (shift_y - 0.5))
    canvas.zoom = 0.95 + 0.08 * zoom
    draw_shadow(canvas, scene.action)
    if scene.effect in _BEHIND:
        _BEHIND[scene.effect](canvas)
    draw_figure(canvas, scene)
    if scene.effect in _BEFORE:
        _BEFORE[scene.effect](canvas, chance)
    canvas.origin, canvas.zoom = (0.0, 0.0), 1.0
    draw_weather(canvas, scene.light, chance)
    return canvas.finish(flip=flip < 0.5)


# --- effects: they shine by themselves, so the light does not touch them ---------------------------------------------


def _unlit(canvas: Canvas) -> None:
    canvas.light_share, canvas.gain = 0.0, 1.0


def _fire_behind(canvas: Canvas) -> None:
    _unlit(canvas)
    for x, height, width in (
        (0.2, 0.34, 0.1),
        (0.36, 0.5, 0.12),
        (0.5, 0.4, 0.14),
        (0.64, 0.52, 0.12),
        (0.8, 0.34, 0.1),
    ):
        _flame(canvas, x, height, width, (255, 96, 16))
        _flame(canvas, x, height * 0.6, width * 0.6, (255, 206, 56))


def _flame(canvas: Canvas, x: float, height: float, width: float, colour: tuple[int, int, int]) -> None:
    base = 0.95
    canvas.polygon(
        [
            (x - width, base),
            (x - width * 0.7, base - height * 0.45),
            (x - width * 0.1, base - height * 0.7),
            (x + width * 0.1, base - height),
            (x + width * 0.7, base - height * 0.5),
            (x + width, base),
        ],
        colour,
    )


def _fire_before(canvas: Canvas, chance: np.random.Generator) -> None:
    _unlit(canvas)
    for x in (0.12, 0.27, 0.73, 0.88):
        _flame(canvas, x, 0.17 + 0.06 * chance.random(), 0.07, (255, 112, 20))
        _flame(canvas, x, 0.1, 0.04, (255, 226, 92))


def _leaves(canvas: Canvas, chance: np.random.Generator) -> None:
    _scatter(canvas, chance, (76, 200, 60), (24, 96, 36))


def _petals(canvas: Canvas, chance: np.random.Generator) -> None:
    _scatter(canvas, chance, (255, 156, 204), (206, 70, 140))


def _scatter(
    canvas: Canvas, chance: np.random.Generator, colour: tuple[int, int, int], ink: tuple[int, int, int]
) -> None:
    """Nine leaf shapes on a ring round the figure, so that they hide neither face nor clothes."""
    _unlit(canvas)
    turn = 2 * np.pi * chance.random()
    for i in range(9):
        angle = turn + 2 * np.pi * i / 9
        x, y = 0.5 + 0.41 * np.cos(angle), 0.52 + 0.4 * np.sin(angle)
        tilt = angle * 2 + turn
        dx, dy = 0.058 * np.cos(tilt), 0.058 * np.sin(tilt)
        canvas.polygon(
            [(x - dx, y - dy), (x + dy * 0.55, y - dx * 0.55), (x + dx, y + dy), (x - dy * 0.55, y + dx * 0.55)],
            colour,
            outline=0.01,
            ink=ink,
        )


def _lightning(canvas: Canvas, chance: np.random.Generator) -> None:
    _unlit(canvas)
    drop = 0.06 * chance.random()
    for x, top in ((0.14, 0.1 + drop), (0.86, 0.16 - drop)):
        bolt = [
            (x + 0.03, top),
            (x - 0.07, top + 0.26),
            (x - 0.0, top + 0.25),
            (x - 0.06, top + 0.52),
            (x + 0.08, top + 0.19),
            (x + 0.01, top + 0.2),
            (x + 0.09, top),
        ]
        canvas.polygon(bolt, (255, 240, 70), outline=0.012, ink=(186, 110, 10))


def _water(canvas: Canvas, chance: np.random.Generator) -> None:
    """A ring of water round the body: its near half before the figure."""
    _unlit(canvas)
    canvas.arc((0.5, 0.76), (0.4, 0.13), -8, 188, (20, 84, 190), 0.075)
    canvas.arc((0.5, 0.76), (0.39, 0.12), -4, 184, (60, 160, 250), 0.05)
    canvas.arc((0.5, 0.745), (0.385, 0.11), 10, 170, (206, 240, 255), 0.016)
    for x, y in ((0.1, 0.62), (0.9, 0.6), (0.06, 0.5), (0.93, 0.47)):
        canvas.ellipse((x, y + 0.03 * chance.random()), (0.03, 0.036), (92, 184, 255), outline=0.01, ink=(20, 84, 190))


def _water_behind(canvas: Canvas) -> None:
    _unlit(canvas)
    canvas.arc((0.5, 0.76), (0.4, 0.13), 180, 360, (20, 84, 190), 0.06)
    canvas.arc((0.5, 0.76), (0.39, 0.12), 180, 360, (70, 150, 230), 0.036)


def _smoke(canvas: Canvas, chance: np.random.Generator) -> None:
    _unlit(canvas)
    for x, y, radius in (
        (0.08, 0.86, 0.11),
        (0.26, 0.93, 0.1),
        (0.5, 0.98, 0.1),
        (0.74, 0.93, 0.1),
        (0.92, 0.86, 0.11),
        (0.1, 0.7, 0.07),
        (0.9, 0.7, 0.07),
    ):
        radius *= 0.9 + 0.25 * chance.random()
        canvas.ellipse((x, y), (radius, radius * 0.85), (214, 208, 222), outline=0.01, ink=(136, 126, 156))
        canvas.ellipse(
            (x - 0.02, y - 0.025), (radius * 0.55, radius * 0.42), mix((214, 208, 222), (255, 255, 255), 0.75)
        )


_BEHIND: dict[str, Callable[[Canvas], None]] = {"fire": _fire_behind, "water": _water_behind}
_BEFORE: dict[str, Callable[[Canvas, np.random.Generator], None]] = {
    "fire": _fire_before,
    "leaves": _leaves,
    "petals": _petals,
    "lightning": _lightning,
    "water": _water,
    "smoke": _smoke,
}

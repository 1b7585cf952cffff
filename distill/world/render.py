"""One scene → one picture: sky, place, shadow, effect behind, figure, effect before, weather.

`render` is a pure function of the scene and the size; at any size the same shapes stand in the same places. Free
variation (from `scene.variation`) is smooth: a small shift and scale of the figure, bent limbs, a tilted head, the
layout of the background, a mirror. It never touches what an attribute means. The layout also depends on the light, whose stars and
clouds take their numbers before the place does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genin.distill.world.canvas import Canvas
from genin.distill.world.effects import draw_effect_before, draw_effect_behind
from genin.distill.world.figure import draw_figure, draw_shadow, look_of
from genin.distill.world.scene import Scene
from genin.distill.world.scenery import draw_place
from genin.distill.world.sky import LIGHTS, draw_haze, draw_sky, draw_weather
from genin.runtimes.errors import InputError

VERSION = 2  # raised when the same scene gives another picture: what was encoded of the old ones no longer fits


def render(scene: Scene, size: int) -> NDArray[np.uint8]:
    """The scene as (size, size, 3) uint8 sRGB; 16 ≤ size ≤ 1024 pixels."""
    if not 16 <= size <= 1024:
        raise InputError(f"cannot render at {size} px", remedy="choose a size from 16 to 1024")
    canvas = Canvas(size)
    return canvas.finish(flip=draw_scene(canvas, scene))


def draw_scene(canvas: Canvas, scene: Scene) -> bool:
    """Draw everything; whether the finished picture is to be mirrored."""
    chance = np.random.Generator(np.random.PCG64(scene.variation))
    shift_x, shift_y, zoom, flip = chance.random(4)
    look = look_of(scene, chance)
    draw_sky(canvas, scene.light, chance)
    draw_place(canvas, scene.environment, scene.light, chance)
    draw_haze(canvas, scene.light, chance)

    light_figure(canvas, scene.light)
    at = (0.5 + 0.06 * (shift_x - 0.5), 0.9 + 0.03 * (shift_y - 0.5))
    with canvas.frame(at, pivot=(0.5, 0.9), zoom=0.95 + 0.08 * zoom):
        draw_shadow(canvas, look.pose)
        draw_effect_behind(canvas, scene.effect, chance)
        draw_figure(canvas, scene, look)
        draw_effect_before(canvas, scene.effect, chance)
    draw_weather(canvas, scene.light, chance)
    return bool(flip < 0.5)


def light_figure(canvas: Canvas, light_name: str) -> None:
    """The figure takes a little of the scenery's light, so that an orange outfit stays orange at night."""
    light = LIGHTS[light_name]
    canvas.light, canvas.rim = light.colour, light.rim
    canvas.light_share, canvas.gain = 0.22 * light.share, 1 - 0.24 * (1 - light.gain)

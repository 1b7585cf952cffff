"""Six effects round the figure; they shine by themselves, so the light does not touch them.

They stand behind the figure, at its feet and at its sides: face, hair and clothes stay free.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from genin.distill.world.canvas import WHITE, Canvas, Colour, Knot, Point, arc, mix, shaded


def draw_effect_behind(canvas: Canvas, effect: str, chance: np.random.Generator) -> None:
    _draw(canvas, _BEHIND, effect, chance)


def draw_effect_before(canvas: Canvas, effect: str, chance: np.random.Generator) -> None:
    _draw(canvas, _BEFORE, effect, chance)


def _draw(canvas: Canvas, table: dict[str, _Effect], effect: str, chance: np.random.Generator) -> None:
    if effect in table:
        lit = canvas.light_share, canvas.gain, canvas.rim
        canvas.unlit()
        canvas.part = "effect"
        table[effect](canvas, chance)
        canvas.light_share, canvas.gain, canvas.rim = lit


# --- fire ------------------------------------------------------------------------------------------------------------

_FLAME: tuple[Knot, ...] = (
    (0.0, 0.02), (-0.42, -0.02), (-0.5, -0.26), (-0.34, -0.46), (-0.36, -0.66, 1), (-0.16, -0.56), (-0.06, -0.76),
    (0.1, -1.0, 1), (0.14, -0.72), (0.28, -0.56), (0.4, -0.7, 1), (0.46, -0.4), (0.5, -0.2), (0.4, -0.02),
)  # fmt: skip


def _flame(canvas: Canvas, at: Point, width: float, height: float, lean: float) -> None:
    """Three tongues in red, orange and yellow, one within the other."""
    side = 1 if lean > 0 else -1
    for share, colour, ink in ((1.0, (250, 84, 20), 0.0105), (0.7, (255, 152, 32), 0.0), (0.42, (255, 232, 110), 0.0)):
        path = tuple(
            (at[0] + share * width * side * x + 0.35 * lean * y * y * share, at[1] + share * height * y, *corner)
            for x, y, *corner in _FLAME
        )
        canvas.shape(path, colour, outline=ink, ink=(166, 30, 22))


def _fire_behind(canvas: Canvas, chance: np.random.Generator) -> None:
    for x, height, width in ((0.34, 0.44, 0.2), (0.66, 0.46, 0.2), (0.17, 0.46, 0.22), (0.83, 0.46, 0.22)):
        a, b = (chance.random(2) - 0.5).tolist()
        _flame(canvas, (x + 0.03 * a, 0.95), width, height * (1 + 0.3 * b), 0.2 * a + (0.08 if a > 0 else -0.08))


def _fire_before(canvas: Canvas, chance: np.random.Generator) -> None:
    for x, height in ((0.08, 0.24), (0.25, 0.15), (0.75, 0.15), (0.92, 0.24)):
        a, b = (chance.random(2) - 0.5).tolist()
        _flame(canvas, (x + 0.03 * a, 0.98), 0.14, height * (1 + 0.3 * b), 0.12 * a + (0.04 if a > 0 else -0.04))
    for x, y in (chance.random((5, 2)) - 0.5).tolist():
        x = 0.5 + (0.33 + 0.26 * abs(x)) * (1 if x > 0 else -1)
        canvas.ellipse((x, 0.45 + 0.4 * y), (0.012, 0.014), (255, 190, 60))


# --- leaves and petals -----------------------------------------------------------------------------------------------

_LEAF: tuple[Knot, ...] = (
    (-0.066, 0.0, 1),
    (-0.02, -0.032),
    (0.03, -0.026),
    (0.07, 0.004, 1),
    (0.026, 0.03),
    (-0.024, 0.03),
)
_PETAL: tuple[Knot, ...] = (
    (-0.056, 0.0, 1),
    (-0.01, -0.034),
    (0.044, -0.034),
    (0.034, 0.0, 1),
    (0.048, 0.032),
    (-0.008, 0.036),
)


def _leaf(canvas: Canvas, shade: float) -> None:
    colour, ink = mix((76, 196, 58), (168, 206, 52), shade), (22, 84, 36)
    canvas.shape(_LEAF, colour, ink=ink, shade=shaded(colour, 0.2))
    canvas.stroke([(-0.078, 0.008), (-0.03, 0.0), (0.044, 0.003)], ink, 0.0095)
    canvas.stroke([(-0.014, 0.0), (0.008, -0.017)], ink, 0.0085)


def _petal(canvas: Canvas, shade: float) -> None:
    colour = mix((255, 166, 206), (255, 196, 220), shade)
    canvas.shape(_PETAL, colour, outline=0.0105, ink=(198, 66, 132), shade=mix(colour, (226, 84, 150), 0.4))
    canvas.stroke([(-0.034, 0.0), (0.004, 0.0)], (226, 84, 150), 0.0095)


def _scatter(draw: Callable[[Canvas, float], None], low: bool) -> _Effect:
    """Ten on a ring round the figure: the low ones before it, the others behind it."""

    def scattered(canvas: Canvas, chance: np.random.Generator) -> None:
        for i, (a, b, c, d) in enumerate(chance.random((5, 4)).tolist()):
            # Half the ring each: 36 degrees apart, clockwise from three o'clock.
            angle = np.pi * (i + 0.5 + 0.5 * (a - 0.5)) / 5 + (0.0 if low else np.pi)
            out = 0.43 + 0.05 * (b - 0.5)
            at = (0.5 + out * float(np.cos(angle)), 0.54 + (0.86 if low else 0.95) * out * float(np.sin(angle)))
            with canvas.frame(at, turn=angle + 1.2 + 1.6 * c, zoom=0.85 + 0.35 * d):
                draw(canvas, b)

    return scattered


# --- lightning, water, smoke -----------------------------------------------------------------------------------------

_BOLT: tuple[Point, ...] = (
    (0.035, 0.0), (-0.07, 0.25), (-0.012, 0.24), (-0.066, 0.4), (-0.022, 0.395), (-0.05, 0.56), (0.076, 0.32), (0.026, 0.325),
    (0.084, 0.175), (0.024, 0.19), (0.1, 0.0),
)  # fmt: skip


def _lightning(canvas: Canvas, chance: np.random.Generator) -> None:
    for side in (-1, 1):
        a, b, c = (chance.random(3) - 0.5).tolist()
        with canvas.frame((0.5 + (0.42 + 0.02 * a) * side, 0.14 + 0.1 * b), turn=0.16 * c):
            canvas.stroke(
                [(0.06, 0.02), (-0.03, 0.24), (0.05, 0.22), (-0.04, 0.52)],
                (255, 250, 190),
                0.12,
                alpha=0.3,
                smooth=False,
            )
            canvas.polygon(_BOLT, (255, 238, 66), outline=0.012, ink=(180, 100, 10))
            canvas.stroke([(0.052, 0.02), (-0.03, 0.22)], WHITE, 0.014, smooth=False)
            canvas.stroke([(0.05, 0.215), (-0.02, 0.38)], WHITE, 0.011, smooth=False)
            for x, y in ((-0.075, 0.5), (0.0, 0.54), (0.085, 0.42)):
                canvas.stroke([(x, y), (x * 1.35, y + 0.035)], (255, 238, 66), 0.011, smooth=False)


_DEEP: Colour = (20, 84, 190)
_DROP: tuple[Knot, ...] = (
    (0.0, -0.052, 1),
    (0.028, -0.004),
    (0.022, 0.026),
    (0.0, 0.036),
    (-0.022, 0.026),
    (-0.028, -0.004),
)


_CREST: tuple[Knot, ...] = (
    (-0.05, 0.0, 1),
    (-0.03, -0.04),
    (0.02, -0.062),
    (0.05, -0.04, 1),
    (0.016, -0.034),
    (0.034, 0.0, 1),
)


def _water_behind(canvas: Canvas, chance: np.random.Generator) -> None:
    """The far half of a ring of water, and the drops that it throws up."""
    canvas.band(
        arc((0.5, 0.795), (0.4, 0.1), 176, 364)[::2], (0.05, 0.034, 0.03, 0.034, 0.05), (74, 150, 232),
        outline=0.0105, ink=_DEEP,
    )  # fmt: skip
    for x, y in ((0.1, 0.63), (0.9, 0.61), (0.05, 0.49), (0.94, 0.47), (0.1, 0.36), (0.9, 0.33)):
        a, b = (chance.random(2) - 0.5).tolist()
        with canvas.frame((x + 0.04 * a, y + 0.05 * b), zoom=0.95 + 0.4 * a):
            canvas.shape(_DROP, (96, 186, 255), outline=0.0105, ink=_DEEP)
            canvas.stroke([(-0.009, -0.004), (-0.01, 0.012)], (230, 248, 255), 0.0105, smooth=False)


def _water(canvas: Canvas, chance: np.random.Generator) -> None:
    """The near half: crests on its rim, highlights along it."""
    for angle in (172, 152, 28, 8):
        a = chance.random()
        at = arc((0.5, 0.785), (0.4, 0.11), angle, angle)[0].tolist()
        with canvas.frame((at[0], at[1]), zoom=0.9 + 0.5 * a):
            path = _CREST if angle > 90 else tuple((-x, y, *corner) for x, y, *corner in _CREST)
            canvas.shape(path, (150, 214, 255), outline=0.0105, ink=_DEEP)
    canvas.band(
        arc((0.5, 0.795), (0.4, 0.115), -4, 184)[::2], (0.046, 0.06, 0.056, 0.06, 0.046), (64, 158, 246),
        outline=0.0115, ink=_DEEP, shade=(40, 118, 222),
    )  # fmt: skip
    shift = 12 * chance.random()
    for start, end in ((4, 40), (52, 66), (78, 120), (134, 146), (152, 168)):
        canvas.arc((0.5, 0.786), (0.394, 0.108), start + shift, end + shift, (214, 244, 255), 0.013)


_PUFF: tuple[Knot, ...] = (
    (-0.98, 0.4), (-0.9, -0.1), (-0.56, -0.36, 1), (-0.42, -0.78), (0.06, -0.86), (0.4, -0.44, 1), (0.82, -0.34),
    (1.0, 0.14), (0.8, 0.5), (0.0, 0.62),
)  # fmt: skip


def _smoke(canvas: Canvas, chance: np.random.Generator) -> None:
    """Clouds at the feet and beside the knees, each of three lobes."""
    for x, y, radius in (
        (0.07, 0.7, 0.075), (0.93, 0.7, 0.075), (0.07, 0.85, 0.12), (0.93, 0.85, 0.12), (0.28, 0.975, 0.1), (0.72, 0.975, 0.1),
        (0.5, 1.01, 0.085),
    ):  # fmt: skip
        a, b = (chance.random(2) - 0.5).tolist()
        side = 1 if x < 0.5 else -1
        zoom = radius * (1.05 + 0.3 * b)
        with canvas.frame((x + 0.03 * a, y)):
            path = tuple((side * zoom * px, zoom * py, *corner) for px, py, *corner in _PUFF)
            canvas.shape(path, (236, 232, 242), outline=0.0115, ink=(116, 106, 140), shade=(190, 182, 208))
            canvas.arc((-0.1 * zoom, 0.05 * zoom), (0.36 * zoom, 0.32 * zoom), 20, 190, (170, 162, 192), 0.0105)


_Effect = Callable[[Canvas, np.random.Generator], None]
_BEHIND: dict[str, _Effect] = {
    "fire": _fire_behind,
    "leaves": _scatter(_leaf, low=False),
    "petals": _scatter(_petal, low=False),
    "lightning": _lightning,
    "water": _water_behind,
}
_BEFORE: dict[str, _Effect] = {
    "fire": _fire_before,
    "leaves": _scatter(_leaf, low=True),
    "petals": _scatter(_petal, low=True),
    "water": _water,
    "smoke": _smoke,
}

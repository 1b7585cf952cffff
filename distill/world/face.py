"""The head under the hair: skull, ears, headband and six emotions.

Each emotion has shapes (eyes, brows, mouth) and a colour (blush, flush, tears). Coordinates are the head's own, as in
`hair`.
"""

from __future__ import annotations

from collections.abc import Callable

from genin.distill.world.canvas import INK, LINE, WHITE, Canvas, Colour, Knot, mix, ring, shaded

SKIN: Colour = (255, 216, 180)
FLUSHED = mix(SKIN, (176, 74, 74), 0.5)  # the tip of the nose, lines between fingers
HEADBANDS: dict[str, Colour] = {
    "red": (228, 24, 50),
    "blue": (34, 84, 232),
    "green": (30, 160, 60),
    "white": (252, 252, 255),
    "yellow": (255, 202, 0),
    "purple": (150, 54, 206),
}
IRISES: tuple[Colour, ...] = ((112, 66, 36), (42, 92, 168), (40, 120, 84), (94, 66, 140), (86, 88, 104))
METAL: Colour = (206, 214, 226)

_SKULL: tuple[Knot, ...] = (
    (0.0, -0.2), (0.15, -0.155), (0.206, -0.02), (0.182, 0.1), (0.1, 0.178), (0.0, 0.2), (-0.1, 0.178), (-0.182, 0.1),
    (-0.206, -0.02), (-0.15, -0.155),
)  # fmt: skip
_BAND: tuple[Knot, ...] = (
    (-0.214, -0.112, 1), (-0.11, -0.142), (0.0, -0.15), (0.11, -0.142), (0.214, -0.112, 1), (0.213, -0.028, 1),
    (0.11, -0.058), (0.0, -0.066), (-0.11, -0.058), (-0.213, -0.028, 1),
)  # fmt: skip
_PLATE: tuple[Knot, ...] = (
    (-0.068, -0.141, 1), (0.0, -0.147), (0.068, -0.141, 1), (0.066, -0.072, 1), (0.0, -0.077), (-0.066, -0.072, 1),
)  # fmt: skip
_BROW_Y = -0.016


def draw_knot(canvas: Canvas, headband: str, sway: float) -> None:
    """The headband's knot and its two loose ends, blown back."""
    colour = HEADBANDS[headband]
    canvas.part = "headband"
    low: tuple[Knot, ...] = ((-0.19, -0.07), (-0.26, -0.05), (-0.315, 0.01 + sway), (-0.375, 0.015 + sway))
    high: tuple[Knot, ...] = ((-0.19, -0.08), (-0.27, -0.1), (-0.33, -0.075 + sway), (-0.4, -0.11 + sway))
    canvas.band(low, (0.036, 0.046, 0.056), shaded(colour, 0.22), shade=shaded(colour, 0.4))
    canvas.band(high, (0.036, 0.048, 0.06), colour, shade=shaded(colour))
    canvas.polygon(ring((-0.213, -0.072), (0.03, 0.036)), colour, outline=LINE, shade=shaded(colour))


def draw_skull(canvas: Canvas, emotion: str) -> None:
    canvas.part = "skin"
    skin = mix(SKIN, (255, 60, 40), 0.3) if emotion == "angry" else SKIN
    shade = mix(skin, (190, 84, 84), 0.32)
    for side in (-1, 1):
        canvas.ellipse((0.2 * side, 0.035), (0.036, 0.048), skin, outline=LINE)
        canvas.arc((0.205 * side, 0.038), (0.016, 0.026), 100, 260, shade, 0.01)
    rim, canvas.rim = canvas.rim, None
    canvas.shape(_SKULL, skin, shade=shade)
    canvas.rim = rim
    # The shadow of hair and headband on the brow.
    canvas.shape(
        ((-0.195, -0.05), (0.0, -0.08), (0.195, -0.05), (0.19, -0.012), (0.0, -0.042), (-0.19, -0.012)),
        shade,
        outline=0,
    )


def draw_headband(canvas: Canvas, headband: str) -> None:
    colour = HEADBANDS[headband]
    canvas.part = "headband"
    canvas.shape(_BAND, colour)
    dark = shaded(colour, 0.26)
    canvas.shape(((0.206, -0.105, 1), (0.206, -0.038, 1), (0.11, -0.066), (0.15, -0.084)), dark, outline=0)
    canvas.stroke([(-0.195, -0.062), (-0.14, -0.077), (-0.09, -0.083)], dark, 0.011)
    canvas.stroke([(0.09, -0.104), (0.14, -0.102), (0.19, -0.086)], shaded(colour, 0.4), 0.0095)
    canvas.shape(_PLATE, METAL, outline=0.0105)
    canvas.shape(
        ((-0.058, -0.131, 1), (0.0, -0.137), (0.012, -0.137), (-0.03, -0.083), (-0.057, -0.082, 1)), WHITE, outline=0
    )
    canvas.polygon([(0.0, -0.131), (0.021, -0.109), (0.0, -0.087), (-0.021, -0.109)], (74, 82, 104))


def draw_face(canvas: Canvas, emotion: str, iris: Colour) -> None:
    canvas.part = "face"
    tip = FLUSHED
    canvas.stroke([(0.012, 0.072), (0.02, 0.086), (0.004, 0.09)], tip, 0.0105)
    _FACES[emotion](canvas, iris)


# --- the pieces of a face --------------------------------------------------------------------------------------------


def _cheeks(canvas: Canvas, colour: Colour, y: float = 0.102) -> None:
    for side in (-1, 1):
        canvas.ellipse((0.135 * side, y), (0.036, 0.021), colour)


def _eyes(canvas: Canvas, iris: Colour, *, y: float, high: float, lid: float = 0.0, glance: float = 0.0) -> None:
    """White, iris, pupil, two lights, and a heavy upper lid; `lid` is how far it slants down to the nose."""
    for side in (-1, 1):
        cx = 0.09 * side
        top_out, top_in = y - high, y - high + lid
        white: tuple[Knot, ...] = (
            (cx + 0.048 * side, top_out + 0.012, 1), (cx, (top_out + top_in) / 2 - 0.006), (cx - 0.045 * side, top_in + 0.012, 1),
            (cx - 0.04 * side, y + 0.55 * high), (cx, y + high), (cx + 0.042 * side, y + 0.55 * high),
        )  # fmt: skip
        canvas.shape(white, WHITE, outline=0)
        ix, iy, tall = cx + glance - 0.004 * side, y + 0.004 + 0.3 * lid, 0.84 * high - 0.3 * lid
        canvas.ellipse((ix, iy), (0.034, tall), shaded(iris, 0.62))
        canvas.ellipse((ix, iy + 0.3 * tall), (0.026, 0.62 * tall), iris)
        canvas.ellipse((ix, iy + 0.02 * tall), (0.015, 0.42 * tall), INK)
        canvas.ellipse((ix - 0.012, iy - 0.4 * tall), (0.0125, 0.0145), WHITE)
        canvas.ellipse((ix + 0.012, iy + 0.5 * tall), (0.007, 0.008), mix(iris, WHITE, 0.6))
        canvas.stroke(
            [(cx + 0.058 * side, top_out + 0.022), (cx + 0.04 * side, top_out + 0.006),
             (cx, (top_out + top_in) / 2 - 0.006), (cx - 0.046 * side, top_in + 0.012)],
            INK, 0.018,
        )  # fmt: skip
        canvas.stroke(
            [(cx + 0.022 * side, y + high * 0.95), (cx - 0.022 * side, y + high * 0.95)], (110, 62, 66), 0.0095
        )


def _brows(canvas: Canvas, outer: float, inner: float, width: float, arch: float = 0.0) -> None:
    for side in (-1, 1):
        middle = (outer + inner) / 2 - arch
        canvas.stroke([(0.15 * side, outer), (0.095 * side, middle), (0.042 * side, inner)], INK, width)


def _happy(canvas: Canvas, iris: Colour) -> None:
    _cheeks(canvas, (255, 140, 136))
    for side in (-1, 1):
        canvas.stroke([(0.138 * side, 0.062), (0.12 * side, 0.026), (0.09 * side, 0.014), (0.06 * side, 0.026),
                       (0.044 * side, 0.062)], INK, 0.02)  # fmt: skip
    _brows(canvas, -0.012, -0.012, 0.012, 0.016)
    mouth: tuple[Knot, ...] = (
        (-0.066, 0.104, 1),
        (0.0, 0.113),
        (0.066, 0.104, 1),
        (0.044, 0.15),
        (0.0, 0.168),
        (-0.044, 0.15),
    )
    canvas.shape(mouth, (168, 28, 44), outline=0)
    canvas.shape(((-0.03, 0.154), (0.0, 0.138), (0.03, 0.154), (0.0, 0.164)), (255, 122, 122), outline=0)
    canvas.shape(
        ((-0.056, 0.107, 1), (0.0, 0.114), (0.056, 0.107, 1), (0.036, 0.124), (-0.036, 0.124)), WHITE, outline=0
    )
    canvas.shape(mouth, (0, 0, 0), alpha=0.0, outline=0.011)


def _angry(canvas: Canvas, iris: Colour) -> None:
    _eyes(canvas, iris, y=0.052, high=0.04, lid=0.03)
    for side in (-1, 1):
        canvas.stroke([(0.158 * side, -0.02), (0.1 * side, -0.006), (0.036 * side, 0.032)], INK, 0.027)
        canvas.stroke([(0.018 * side, -0.004), (0.012 * side, 0.02)], (186, 60, 48), 0.0095)
    mouth: tuple[Knot, ...] = (
        (-0.064, 0.158, 1),
        (-0.046, 0.118),
        (0.0, 0.11),
        (0.046, 0.118),
        (0.064, 0.158, 1),
        (0.0, 0.148),
    )
    canvas.shape(mouth, WHITE, outline=0.013)
    canvas.stroke([(-0.048, 0.134), (0.0, 0.129), (0.048, 0.134)], INK, 0.0085)
    for x in (-0.022, 0.022):
        canvas.stroke([(x, 0.115), (x * 1.1, 0.148)], INK, 0.0085)


def _sad(canvas: Canvas, iris: Colour) -> None:
    for side in (-1, 1):
        canvas.shape(((0.064 * side, 0.075), (0.12 * side, 0.075), (0.135 * side, 0.15), (0.118 * side, 0.182),
                      (0.086 * side, 0.176), (0.066 * side, 0.13)), (92, 180, 255), outline=0.0095, ink=(36, 104, 196))  # fmt: skip
        canvas.stroke([(0.088 * side, 0.1), (0.098 * side, 0.155)], (222, 242, 255), 0.012)
    _eyes(canvas, iris, y=0.044, high=0.042, lid=-0.014)
    for side in (-1, 1):
        canvas.stroke([(0.152 * side, 0.014), (0.1 * side, -0.018), (0.044 * side, -0.026)], INK, 0.016)
    canvas.stroke([(-0.042, 0.152), (-0.018, 0.134), (0.018, 0.134), (0.042, 0.152)], INK, 0.017)


def _surprised(canvas: Canvas, iris: Colour) -> None:
    for side in (-1, 1):
        canvas.ellipse((0.094 * side, 0.036), (0.06, 0.066), WHITE, outline=0.014)
        canvas.ellipse((0.092 * side, 0.038), (0.025, 0.027), shaded(iris, 0.3))
        canvas.ellipse((0.092 * side, 0.038), (0.013, 0.015), INK)
        canvas.ellipse((0.084 * side - 0.006, 0.028), (0.009, 0.01), WHITE)
    mouth = ((0.0, 0.142), (0.034, 0.04))
    canvas.ellipse(*mouth, (140, 26, 42), outline=0.012)
    canvas.ellipse((0.0, 0.16), (0.02, 0.014), (250, 116, 116))


def _calm(canvas: Canvas, iris: Colour) -> None:
    _cheeks(canvas, mix(SKIN, (255, 120, 120), 0.36))
    for side in (-1, 1):
        canvas.stroke(
            [(0.142 * side, 0.04), (0.115 * side, 0.062), (0.085 * side, 0.066), (0.046 * side, 0.048)], INK, 0.018
        )
        canvas.stroke([(0.128 * side, 0.056), (0.148 * side, 0.066)], INK, 0.011)
    _brows(canvas, 0.0, -0.006, 0.0115, 0.012)
    canvas.stroke([(-0.03, 0.134), (0.0, 0.143), (0.03, 0.134)], (140, 56, 58), 0.014)


def _determined(canvas: Canvas, iris: Colour) -> None:
    _eyes(canvas, iris, y=0.05, high=0.05, lid=0.012)
    for side in (-1, 1):
        canvas.stroke([(0.16 * side, -0.03), (0.1 * side, -0.026), (0.04 * side, -0.004)], INK, 0.023)
    canvas.stroke([(-0.04, 0.136), (0.0, 0.142), (0.04, 0.134), (0.062, 0.116)], INK, 0.016)
    canvas.stroke([(0.058, 0.108), (0.072, 0.12)], INK, 0.0105)


_FACES: dict[str, Callable[[Canvas, Colour], None]] = {
    "happy": _happy,
    "angry": _angry,
    "sad": _sad,
    "surprised": _surprised,
    "calm": _calm,
    "determined": _determined,
}

"""The ninja: a big-headed figure whose pose, clothes, hair and face can all be read at 64 px.

The head is two fifths of the picture's width, because six emotions have to be told apart on it; each emotion has a
shape (eyes, brows, mouth) and a colour (blush, flush, tears). Poses are named joints for a body with a fixed head.
"""

from __future__ import annotations

from dataclasses import dataclass

from genin.distill.world.canvas import INK, Canvas, Colour, Point, mix
from genin.distill.world.scene import Scene

LINE = 0.012
SKIN: Colour = (255, 214, 176)

OUTFITS: dict[str, Colour] = {
    "orange": (255, 132, 20),
    "blue": (44, 104, 226),
    "green": (48, 168, 72),
    "red": (216, 36, 44),
    "purple": (142, 64, 196),
    "black": (58, 56, 68),
    "white": (244, 244, 248),
}
HEADBANDS: dict[str, Colour] = {
    "red": (226, 32, 40),
    "blue": (34, 84, 232),
    "green": (30, 160, 60),
    "white": (252, 252, 255),
    "yellow": (255, 214, 26),
    "purple": (150, 54, 206),
}
HAIRS: dict[str, Colour] = {
    "spiky blond": (255, 212, 72),
    "long black": (48, 44, 58),
    "silver ponytail": (206, 214, 226),
    "red bun": (200, 52, 40),
    "short brown": (132, 80, 44),
    "teal bob": (40, 170, 170),
    "pink twintails": (255, 138, 184),
}


@dataclass(frozen=True)
class Pose:
    """Joints in unit coordinates, the figure facing right; limbs are (shoulder or hip, elbow or knee, end)."""

    head: Point
    neck: Point
    hip: Point
    back_arm: tuple[Point, Point, Point]
    front_arm: tuple[Point, Point, Point]
    back_leg: tuple[Point, Point, Point]
    front_leg: tuple[Point, Point, Point]
    lift: float = 0.0  # how far the feet are off the ground


POSES: dict[str, Pose] = {
    "meditating": Pose(
        (0.5, 0.45), (0.5, 0.63), (0.5, 0.79),
        ((0.42, 0.66), (0.33, 0.76), (0.46, 0.79)), ((0.58, 0.66), (0.67, 0.76), (0.54, 0.79)),
        ((0.46, 0.82), (0.27, 0.86), (0.52, 0.89)), ((0.54, 0.82), (0.73, 0.86), (0.48, 0.89)),
    ),
    "running": Pose(
        (0.54, 0.4), (0.52, 0.58), (0.46, 0.72),
        ((0.46, 0.61), (0.34, 0.6), (0.2, 0.55)), ((0.52, 0.64), (0.38, 0.69), (0.25, 0.67)),
        ((0.43, 0.74), (0.32, 0.8), (0.16, 0.78)), ((0.5, 0.74), (0.64, 0.78), (0.66, 0.9)),
    ),
    "throwing": Pose(
        (0.46, 0.4), (0.47, 0.58), (0.46, 0.73),
        ((0.4, 0.61), (0.3, 0.66), (0.24, 0.74)), ((0.54, 0.61), (0.66, 0.62), (0.78, 0.6)),
        ((0.42, 0.75), (0.36, 0.82), (0.3, 0.9)), ((0.52, 0.75), (0.6, 0.81), (0.63, 0.9)),
    ),
    "jumping": Pose(
        (0.5, 0.34), (0.5, 0.52), (0.5, 0.66),
        ((0.42, 0.54), (0.26, 0.46), (0.2, 0.28)), ((0.58, 0.54), (0.74, 0.46), (0.8, 0.28)),
        ((0.46, 0.68), (0.34, 0.7), (0.37, 0.8)), ((0.54, 0.68), (0.66, 0.7), (0.63, 0.8)),
        lift=0.11,
    ),
    "guarding": Pose(
        (0.48, 0.4), (0.48, 0.58), (0.48, 0.73),
        ((0.41, 0.62), (0.45, 0.7), (0.6, 0.68)), ((0.55, 0.62), (0.62, 0.72), (0.68, 0.66)),
        ((0.43, 0.75), (0.38, 0.82), (0.35, 0.9)), ((0.53, 0.75), (0.59, 0.82), (0.6, 0.9)),
    ),
    "casting": Pose(
        (0.5, 0.4), (0.5, 0.58), (0.5, 0.73),
        ((0.42, 0.62), (0.34, 0.7), (0.46, 0.72)), ((0.58, 0.62), (0.66, 0.7), (0.54, 0.72)),
        ((0.46, 0.75), (0.44, 0.83), (0.43, 0.9)), ((0.54, 0.75), (0.56, 0.83), (0.57, 0.9)),
    ),
    "waving": Pose(
        (0.5, 0.4), (0.5, 0.58), (0.5, 0.73),
        ((0.42, 0.61), (0.33, 0.68), (0.35, 0.77)), ((0.58, 0.61), (0.74, 0.57), (0.8, 0.38)),
        ((0.46, 0.75), (0.44, 0.83), (0.43, 0.9)), ((0.54, 0.75), (0.56, 0.83), (0.57, 0.9)),
    ),
}  # fmt: skip


def draw_shadow(canvas: Canvas, action: str) -> None:
    width = {"meditating": 0.27, "running": 0.26, "jumping": 0.17}.get(action, 0.22)
    canvas.ellipse((0.49, 0.925), (width, 0.035), (20, 16, 36), alpha=0.42)


def draw_figure(canvas: Canvas, scene: Scene) -> None:
    """Back to front: hair behind, back limbs, torso, front leg, head, front arm, what the hands hold."""
    pose = POSES[scene.action]
    cloth = OUTFITS[scene.outfit]
    shade = mix(cloth, (34, 22, 66), 0.3)
    _hair_behind(canvas, pose.head, scene.hair)
    _knot(canvas, pose.head, HEADBANDS[scene.headband])
    _leg(canvas, pose.back_leg, shade)
    _arm(canvas, pose.back_arm, shade)
    if scene.action != "meditating":
        _leg(canvas, pose.front_leg, cloth)
    _torso(canvas, pose, cloth, shade)
    if scene.action == "meditating":
        _leg(canvas, pose.front_leg, cloth)
    _head(canvas, pose.head, scene)
    _arm(canvas, pose.front_arm, cloth)
    _prop(canvas, pose, scene.action)


def _leg(canvas: Canvas, joints: tuple[Point, Point, Point], colour: Colour) -> None:
    canvas.limb(joints, colour, 0.082, LINE)
    x, y = joints[2]
    canvas.ellipse((x + 0.012, y), (0.055, 0.035), (66, 58, 76), outline=LINE)


def _arm(canvas: Canvas, joints: tuple[Point, Point, Point], colour: Colour) -> None:
    canvas.limb(joints, colour, 0.062, LINE)
    canvas.ellipse(joints[2], (0.042, 0.042), SKIN, outline=LINE)


def _torso(canvas: Canvas, pose: Pose, cloth: Colour, shade: Colour) -> None:
    (nx, ny), (hx, hy) = pose.neck, pose.hip
    body = [(nx - 0.105, ny - 0.02), (nx + 0.105, ny - 0.02), (hx + 0.1, hy + 0.05), (hx - 0.1, hy + 0.05)]
    canvas.polygon(body, cloth, outline=2 * LINE)
    canvas.polygon(body, cloth)
    canvas.polygon(
        [(nx - 0.105, ny - 0.02), (nx - 0.04, ny - 0.02), (hx - 0.045, hy + 0.05), (hx - 0.1, hy + 0.05)], shade
    )
    canvas.polygon([(nx - 0.045, ny - 0.02), (nx + 0.055, ny - 0.02), (nx + 0.005, ny + 0.07)], (250, 240, 222))
    canvas.line([(hx - 0.095, hy), (hx + 0.095, hy)], (52, 44, 60), 0.036)


# --- head ------------------------------------------------------------------------------------------------------------


def _hair_behind(canvas: Canvas, head: Point, hair: str) -> None:
    x, y = head
    colour = mix(HAIRS[hair], (30, 18, 58), 0.18)
    if hair == "long black":
        canvas.polygon([(x - 0.2, y - 0.05), (x + 0.2, y - 0.05), (x + 0.25, y + 0.34), (x + 0.12, y + 0.38),
                        (x - 0.12, y + 0.38), (x - 0.25, y + 0.34)], colour, outline=LINE)  # fmt: skip
    elif hair == "silver ponytail":
        canvas.limb(
            [(x - 0.12, y - 0.16), (x - 0.27, y - 0.13), (x - 0.33, y + 0.04), (x - 0.29, y + 0.2)],
            HAIRS[hair],
            0.085,
            LINE,
        )
    elif hair == "teal bob":
        canvas.ellipse((x, y + 0.05), (0.25, 0.22), colour, outline=LINE)
    elif hair == "pink twintails":
        for side in (-1, 1):
            canvas.limb(
                [(x + 0.18 * side, y - 0.1), (x + 0.3 * side, y - 0.06), (x + 0.32 * side, y + 0.16)],
                HAIRS[hair],
                0.1,
                LINE,
            )
    elif hair == "red bun":
        canvas.ellipse((x, y - 0.245), (0.105, 0.095), HAIRS[hair], outline=LINE)
        canvas.ellipse((x - 0.03, y - 0.27), (0.035, 0.025), mix(HAIRS[hair], (255, 255, 255), 0.4))


def _knot(canvas: Canvas, head: Point, colour: Colour) -> None:
    """The headband's two loose ends, blown back."""
    x, y = head
    dark = mix(colour, (30, 18, 58), 0.2)
    canvas.limb([(x - 0.18, y - 0.07), (x - 0.3, y - 0.03), (x - 0.37, y - 0.06)], dark, 0.036, LINE)
    canvas.limb([(x - 0.18, y - 0.07), (x - 0.29, y - 0.1), (x - 0.36, y - 0.16)], colour, 0.036, LINE)


def _head(canvas: Canvas, head: Point, scene: Scene) -> None:
    x, y = head
    skin = mix(SKIN, (255, 60, 40), 0.42) if scene.emotion == "angry" else SKIN
    for side in (-1, 1):
        canvas.ellipse((x + 0.195 * side, y + 0.03), (0.04, 0.05), skin, outline=LINE)
    canvas.ellipse((x, y), (0.205, 0.2), skin, outline=LINE)
    _hair_front(canvas, head, scene.hair)
    band = HEADBANDS[scene.headband]
    canvas.polygon(
        [
            (x - 0.203, y - 0.095),
            (x, y - 0.125),
            (x + 0.203, y - 0.095),
            (x + 0.207, y - 0.022),
            (x, y - 0.05),
            (x - 0.207, y - 0.022),
        ],
        band,
        outline=LINE,
    )
    canvas.ellipse((x, y - 0.086), (0.032, 0.03), (255, 246, 214), outline=0.009)
    _FACES[scene.emotion](canvas, x, y)


def _hair_front(canvas: Canvas, head: Point, hair: str) -> None:
    x, y = head
    colour = HAIRS[hair]
    light = mix(colour, (255, 255, 255), 0.38)
    cap = [(x - 0.225, y + 0.0), (x - 0.215, y - 0.12), (x - 0.14, y - 0.205), (x, y - 0.235), (x + 0.14, y - 0.205),
           (x + 0.215, y - 0.12), (x + 0.225, y + 0.0)]  # fmt: skip
    if hair == "spiky blond":
        cap = [
            (x - 0.23, y + 0.03),
            (x - 0.31, y - 0.08),
            (x - 0.22, y - 0.1),
            (x - 0.27, y - 0.24),
            (x - 0.14, y - 0.2),
            (x - 0.1, y - 0.34),
            (x + 0.0, y - 0.24),
            (x + 0.1, y - 0.34),
            (x + 0.14, y - 0.2),
            (x + 0.27, y - 0.24),
            (x + 0.22, y - 0.1),
            (x + 0.31, y - 0.08),
            (x + 0.23, y + 0.03),
        ]
    fringe = [(x + 0.15, y - 0.04), (x + 0.06, y - 0.1), (x, y - 0.06), (x - 0.06, y - 0.1), (x - 0.15, y - 0.04)]
    canvas.polygon([*cap, *fringe], colour, outline=LINE)
    if hair in ("long black", "teal bob"):
        reach = 0.2 if hair == "long black" else 0.13
        for side in (-1, 1):
            canvas.polygon(
                [
                    (x + 0.15 * side, y - 0.08),
                    (x + 0.235 * side, y - 0.06),
                    (x + 0.225 * side, y + reach),
                    (x + 0.165 * side, y + reach - 0.02),
                ],
                colour,
                outline=LINE,
            )
    if hair != "spiky blond":
        canvas.arc((x, y - 0.04), (0.15, 0.155), 215, 285, light, 0.022)
    else:
        canvas.arc((x, y - 0.04), (0.17, 0.165), 220, 300, light, 0.022)


def _round_eyes(canvas: Canvas, x: float, y: float, radii: Point) -> None:
    for side in (-1, 1):
        cx = x + 0.088 * side
        canvas.ellipse((cx, y + 0.035), radii, (36, 26, 48))
        canvas.ellipse((cx + 0.012, y + 0.018), (0.014, 0.016), (255, 255, 255))


def _happy(canvas: Canvas, x: float, y: float) -> None:
    for side in (-1, 1):
        canvas.ellipse((x + 0.125 * side, y + 0.092), (0.042, 0.026), (255, 128, 128))
        canvas.arc((x + 0.088 * side, y + 0.05), (0.042, 0.045), 190, 350, INK, 0.022)
    canvas.polygon(
        [(x - 0.062, y + 0.085), (x + 0.062, y + 0.085), (x + 0.035, y + 0.15), (x - 0.035, y + 0.15)],
        (192, 32, 44),
        outline=0.01,
    )
    canvas.line([(x - 0.045, y + 0.094), (x + 0.045, y + 0.094)], (255, 255, 255), 0.016)


def _angry(canvas: Canvas, x: float, y: float) -> None:
    _round_eyes(canvas, x, y + 0.014, (0.03, 0.034))
    for side in (-1, 1):
        canvas.line([(x + 0.15 * side, y - 0.02), (x + 0.034 * side, y + 0.03)], INK, 0.03)
    canvas.polygon(
        [(x - 0.062, y + 0.15), (x - 0.05, y + 0.105), (x + 0.05, y + 0.105), (x + 0.062, y + 0.15)],
        (255, 255, 255),
        outline=0.014,
    )


def _sad(canvas: Canvas, x: float, y: float) -> None:
    for side in (-1, 1):
        canvas.polygon(
            [
                (x + 0.06 * side, y + 0.06),
                (x + 0.118 * side, y + 0.06),
                (x + 0.125 * side, y + 0.17),
                (x + 0.068 * side, y + 0.17),
            ],
            (84, 178, 255),
        )
    _round_eyes(canvas, x, y + 0.01, (0.032, 0.034))
    for side in (-1, 1):
        canvas.line([(x + 0.135 * side, y + 0.012), (x + 0.05 * side, y - 0.018)], INK, 0.02)
    canvas.arc((x, y + 0.155), (0.045, 0.035), 200, 340, INK, 0.02)


def _surprised(canvas: Canvas, x: float, y: float) -> None:
    for side in (-1, 1):
        canvas.ellipse((x + 0.09 * side, y + 0.035), (0.06, 0.064), (255, 255, 255), outline=0.013)
        canvas.ellipse((x + 0.09 * side, y + 0.037), (0.02, 0.022), (36, 26, 48))
    canvas.ellipse((x, y + 0.14), (0.033, 0.036), (150, 30, 44), outline=0.011)


def _calm(canvas: Canvas, x: float, y: float) -> None:
    for side in (-1, 1):
        canvas.arc((x + 0.09 * side, y + 0.02), (0.05, 0.04), 15, 165, INK, 0.02)
    canvas.line([(x - 0.026, y + 0.125), (x + 0.026, y + 0.125)], (150, 70, 66), 0.016)


def _determined(canvas: Canvas, x: float, y: float) -> None:
    _round_eyes(canvas, x, y + 0.012, (0.036, 0.045))
    for side in (-1, 1):
        canvas.line([(x + 0.142 * side, y - 0.022), (x + 0.04 * side, y - 0.008)], INK, 0.024)
    canvas.line([(x - 0.03, y + 0.128), (x + 0.02, y + 0.132), (x + 0.06, y + 0.112)], INK, 0.018)


_FACES = {
    "happy": _happy,
    "angry": _angry,
    "sad": _sad,
    "surprised": _surprised,
    "calm": _calm,
    "determined": _determined,
}


# --- what the hands hold ---------------------------------------------------------------------------------------------


def _prop(canvas: Canvas, pose: Pose, action: str) -> None:
    x, y = pose.front_arm[2]
    if action == "throwing":
        cx, cy, long, short = x + 0.115, y - 0.015, 0.1, 0.034
        corners = [
            (long, 0),
            (short, short),
            (0, long),
            (-short, short),
            (-long, 0),
            (-short, -short),
            (0, -long),
            (short, -short),
        ]
        canvas.polygon([(cx + dx, cy + dy) for dx, dy in corners], (196, 206, 220), outline=LINE)
        canvas.ellipse((cx, cy), (0.02, 0.02), INK)
    elif action == "guarding":
        canvas.line([(x - 0.005, y + 0.05), (x + 0.09, y - 0.37)], INK, 0.062)
        canvas.line([(x - 0.0, y + 0.03), (x + 0.09, y - 0.37)], (218, 228, 240), 0.036)
        canvas.line([(x - 0.015, y + 0.1), (x + 0.0, y + 0.03)], (120, 70, 40), 0.046)
        canvas.line([(x - 0.05, y - 0.02), (x + 0.06, y + 0.005)], (230, 184, 60), 0.03)
        canvas.ellipse((x - 0.005, y + 0.045), (0.042, 0.042), SKIN, outline=LINE)
    elif action == "casting":
        canvas.glow((0.5, 0.68), 0.13, (120, 240, 255), 0.4)
        canvas.ellipse((0.5, 0.68), (0.062, 0.062), (206, 252, 255), outline=0.01, ink=(40, 150, 210))
    elif action == "waving":
        for dx, dy in ((-0.035, -0.035), (0.0, -0.05), (0.035, -0.035)):
            canvas.limb([(x, y), (x + dx, y + dy)], SKIN, 0.022, 0.008)
        canvas.ellipse((x, y), (0.036, 0.036), SKIN)

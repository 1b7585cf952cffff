"""The ninja: a big-headed figure whose pose, clothes, hair and face can all be read at 64 px.

The head is two fifths of the picture's width, because six emotions have to be told apart on it. Poses are named joints
for a body with a fixed head; free variation bends them a little and tilts the head. Here is the body; `face` and
`hair` draw the head.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from genin.distill.world.canvas import GROUND_SHADOW, LINE, WHITE, Canvas, Colour, Knot, Point, mix, shaded
from genin.distill.world.face import FLUSHED, IRISES, SKIN, draw_face, draw_headband, draw_knot, draw_skull
from genin.distill.world.hair import draw_fringe, draw_hair_before, draw_hair_behind
from genin.distill.world.scene import Scene
from genin.distill.world.weapons import draw_held, draw_motion, draw_sheath

OUTFITS: dict[str, Colour] = {
    "orange": (255, 132, 20),
    "blue": (44, 104, 226),
    "green": (48, 168, 72),
    "red": (216, 36, 44),
    "purple": (142, 64, 196),
    "black": (62, 60, 74),
    "white": (244, 244, 248),
}
BELTS: tuple[Colour, ...] = ((58, 48, 64), (78, 60, 56), (52, 58, 78), (84, 74, 70))
BANDAGE: Colour = (240, 230, 212)
BOOT: Colour = (62, 54, 74)

Limb = tuple[Point, Point, Point]


@dataclass(frozen=True)
class Pose:
    """Joints in unit coordinates, the figure facing right; limbs are (shoulder or hip, elbow or knee, end)."""

    head: Point
    neck: Point
    hip: Point
    back_arm: Limb
    front_arm: Limb
    back_leg: Limb
    front_leg: Limb
    turn: float = 0.0  # of the head, radians
    shadow: tuple[float, float] = (0.22, 1.0)  # half its width, its strength


POSES: dict[str, Pose] = {
    "meditating": Pose(
        (0.5, 0.45), (0.5, 0.63), (0.5, 0.79),
        ((0.415, 0.665), (0.33, 0.76), (0.455, 0.8)), ((0.585, 0.665), (0.67, 0.76), (0.545, 0.8)),
        ((0.46, 0.82), (0.26, 0.86), (0.53, 0.9)), ((0.54, 0.82), (0.74, 0.86), (0.47, 0.9)),
        shadow=(0.3, 1.0),
    ),
    "running": Pose(
        (0.55, 0.41), (0.53, 0.59), (0.46, 0.735),
        ((0.46, 0.625), (0.34, 0.63), (0.2, 0.57)), ((0.5, 0.65), (0.38, 0.71), (0.25, 0.69)),
        ((0.43, 0.755), (0.32, 0.82), (0.165, 0.795)), ((0.5, 0.755), (0.655, 0.785), (0.66, 0.905)),
        turn=0.07, shadow=(0.27, 1.0),
    ),
    "throwing": Pose(
        (0.45, 0.4), (0.46, 0.58), (0.45, 0.73),
        ((0.385, 0.62), (0.28, 0.66), (0.22, 0.75)), ((0.535, 0.62), (0.64, 0.635), (0.755, 0.6)),
        ((0.415, 0.755), (0.34, 0.82), (0.28, 0.9)), ((0.505, 0.755), (0.6, 0.81), (0.63, 0.9)),
        turn=-0.05, shadow=(0.26, 1.0),
    ),
    "jumping": Pose(
        (0.5, 0.36), (0.5, 0.535), (0.5, 0.67),
        ((0.42, 0.56), (0.26, 0.5), (0.2, 0.32)), ((0.58, 0.56), (0.74, 0.5), (0.8, 0.32)),
        ((0.455, 0.69), (0.32, 0.7), (0.36, 0.81)), ((0.545, 0.69), (0.68, 0.7), (0.64, 0.81)),
        shadow=(0.14, 0.75),
    ),
    "guarding": Pose(
        (0.46, 0.4), (0.46, 0.58), (0.46, 0.73),
        ((0.385, 0.62), (0.42, 0.72), (0.6, 0.75)), ((0.535, 0.62), (0.59, 0.74), (0.665, 0.69)),
        ((0.42, 0.755), (0.36, 0.82), (0.32, 0.9)), ((0.5, 0.755), (0.58, 0.82), (0.6, 0.9)),
        shadow=(0.25, 1.0),
    ),
    "casting": Pose(
        (0.5, 0.4), (0.5, 0.58), (0.5, 0.73),
        ((0.42, 0.62), (0.31, 0.7), (0.42, 0.735)), ((0.58, 0.62), (0.69, 0.7), (0.58, 0.735)),
        ((0.455, 0.755), (0.43, 0.83), (0.41, 0.9)), ((0.545, 0.755), (0.57, 0.83), (0.59, 0.9)),
    ),
    "waving": Pose(
        (0.49, 0.4), (0.49, 0.58), (0.49, 0.73),
        ((0.41, 0.62), (0.31, 0.69), (0.36, 0.765)), ((0.57, 0.62), (0.74, 0.6), (0.8, 0.4)),
        ((0.445, 0.755), (0.425, 0.83), (0.41, 0.9)), ((0.535, 0.755), (0.555, 0.83), (0.575, 0.9)),
        turn=0.05,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """The free variation of one figure: nothing here changes what an attribute means."""

    pose: Pose
    tilt: float  # of the head, radians
    sway: float  # of loose hair and cloth
    volume: float  # of the hair
    iris: Colour
    belt: Colour


def look_of(scene: Scene, chance: np.random.Generator) -> Look:
    pose = POSES[scene.action]
    tilt, sway, volume, iris, belt, *bends = (chance.random(15) - 0.5).tolist()

    def bent(limb: Limb, knee: Point, end: Point) -> Limb:
        return limb[0], _moved(limb[1], knee, 0.03), _moved(limb[2], end, 0.02)

    hands, planted = (bends[0], bends[1]), (bends[2], 0.0)
    pose = replace(
        pose,
        head=_moved(pose.head, (bends[3], bends[4]), 0.016),
        back_arm=bent(pose.back_arm, (bends[5], bends[6]), hands),
        front_arm=bent(pose.front_arm, (bends[7], bends[8]), hands),
        back_leg=bent(pose.back_leg, (bends[9], 0.0), planted),
        front_leg=bent(pose.front_leg, (-bends[9], 0.0), (-bends[2], 0.0)),
    )
    return Look(
        pose, pose.turn + 0.16 * tilt, 0.07 * sway, 1.01 + 0.06 * volume, _chosen(IRISES, iris), _chosen(BELTS, belt)
    )


def _moved(point: Point, by: Point, share: float) -> Point:
    return point[0] + by[0] * share, point[1] + by[1] * share


def _chosen(colours: tuple[Colour, ...], centred: float) -> Colour:
    return colours[int((centred + 0.5) * len(colours))]


def draw_shadow(canvas: Canvas, pose: Pose) -> None:
    """A soft contact shadow; smaller and paler where the feet are off the ground."""
    canvas.part = "shadow"
    width, strength = pose.shadow
    x = (pose.back_leg[2][0] + pose.front_leg[2][0]) / 2
    for share, alpha in ((1.15, 0.14), (1.0, 0.2), (0.82, 0.34)):
        canvas.ellipse((x, 0.925), (width * share, 0.036 * share), GROUND_SHADOW, alpha=alpha * strength)


def draw_figure(canvas: Canvas, scene: Scene, look: Look) -> None:
    """Back to front: hair behind, back limbs, torso, front leg, head, front arm, what the hands hold."""
    pose, cloth = look.pose, OUTFITS[scene.outfit]
    dark = shaded(cloth, 0.22)
    draw_motion(canvas, scene.action, pose.front_arm[2])
    with canvas.frame(pose.head, turn=look.tilt):
        with canvas.frame((0.0, 0.0), zoom=look.volume):
            draw_hair_behind(canvas, scene.hair, look.sway)
        draw_knot(canvas, scene.headband, 0.6 * look.sway)
    if scene.action == "guarding":
        draw_sheath(canvas, pose.hip)
    sitting = scene.action == "meditating"
    _leg(canvas, pose.back_leg, dark, sitting)
    _arm(canvas, pose.back_arm, dark)
    if not sitting:
        _leg(canvas, pose.front_leg, cloth, sitting)
    _torso(canvas, pose, cloth, look)
    if sitting:
        _leg(canvas, pose.front_leg, cloth, sitting)
    with canvas.frame(pose.head, turn=look.tilt):
        draw_skull(canvas, scene.emotion)
        with canvas.frame((0.0, 0.0), zoom=look.volume):
            draw_hair_before(canvas, scene.hair, look.sway)
        draw_headband(canvas, scene.headband)
        draw_fringe(canvas, scene.hair, look.sway)
        draw_face(canvas, scene.emotion, look.iris)
    _arm(canvas, pose.front_arm, cloth)
    draw_held(canvas, scene.action, pose.back_arm[2], pose.front_arm[2])


def _along(a: Point, b: Point, share: float) -> Point:
    return a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share


def _leg(canvas: Canvas, joints: Limb, cloth: Colour, sitting: bool) -> None:
    """Loose trousers, bandaged shins, a boot with a pale sole."""
    hip, knee, foot = joints
    canvas.part = "legs"
    dx, dy = foot[0] - knee[0], foot[1] - knee[1]
    turn = 0.0 if sitting else float(np.clip(-np.arctan2(dx, max(dy, 0.02)) * 0.7, -1.1, 0.35))
    shin = _along(knee, foot, 0.5)
    canvas.band((shin, _along(knee, foot, 0.9)), (0.066, 0.06), BANDAGE, shade=shaded(BANDAGE))
    canvas.band((hip, knee, _along(knee, foot, 0.56)), (0.098, 0.104, 0.088), cloth, shade=shaded(cloth))
    canvas.stroke((_along(hip, knee, 0.5), _along(hip, knee, 0.9)), shaded(cloth, 0.42), 0.0095)
    side = -1 if sitting and dx < 0 else 1
    boot: tuple[Knot, ...] = (
        (-0.042 * side, -0.034), (0.012 * side, -0.036), (0.062 * side, -0.008), (0.072 * side, 0.022, 1),
        (0.0, 0.026), (-0.046 * side, 0.022, 1),
    )  # fmt: skip
    with canvas.frame(foot, turn=turn):
        canvas.shape(boot, BOOT)
        canvas.stroke([(-0.036 * side, 0.016), (0.06 * side, 0.016)], (170, 150, 134), 0.011)
        canvas.stroke([(-0.012 * side, -0.02), (0.026 * side, -0.014)], mix(BOOT, WHITE, 0.4), 0.0105)


def _arm(canvas: Canvas, joints: Limb, cloth: Colour) -> None:
    """A sleeve that widens, a bandaged wrist, a mitten of a hand with its thumb."""
    shoulder, elbow, hand = joints
    canvas.part = "hands"
    dx, dy = hand[0] - elbow[0], hand[1] - elbow[1]
    turn = float(np.arctan2(dy, dx))
    canvas.band((_along(elbow, hand, 0.5), _along(elbow, hand, 0.86)), (0.05, 0.048), BANDAGE, shade=shaded(BANDAGE))
    thumb = -1 if dx > 0 else 1
    with canvas.frame(hand, turn=turn):
        canvas.band(((-0.012, 0.02 * thumb), (0.014, 0.046 * thumb)), (0.026, 0.022), SKIN, outline=0.0105)
        canvas.ellipse((0.006, 0.0), (0.044, 0.037), SKIN, outline=LINE)
        canvas.stroke([(0.004, 0.016 * thumb), (-0.012, 0.012 * thumb)], FLUSHED, 0.0095)
    canvas.part = "outfit"
    canvas.band((shoulder, elbow, _along(elbow, hand, 0.6)), (0.07, 0.074, 0.088), cloth, shade=shaded(cloth))
    fold = _along(elbow, hand, 0.12)
    canvas.stroke((_along(shoulder, elbow, 0.78), (fold[0], fold[1] + 0.018)), shaded(cloth, 0.42), 0.0095)


def _torso(canvas: Canvas, pose: Pose, cloth: Colour, look: Look) -> None:
    """A wrapped jacket: shadow side, crossed lapels over a pale shirt, belt with its knot, skirt below it."""
    canvas.part = "outfit"
    (nx, ny), (hx, hy) = pose.neck, pose.hip
    dark, fold = shaded(cloth), shaded(cloth, 0.46)
    waist = hy - 0.012
    body: tuple[Knot, ...] = (
        (nx - 0.06, ny - 0.03), (nx + 0.06, ny - 0.03), (nx + 0.108, ny + 0.012), (hx + 0.088, waist),
        (hx + 0.11, hy + 0.048), (hx + 0.07, hy + 0.062),
        (hx, hy + 0.056), (hx - 0.07, hy + 0.062), (hx - 0.11, hy + 0.048), (hx - 0.088, waist), (nx - 0.108, ny + 0.012),
    )  # fmt: skip
    canvas.shape(body, cloth, shade=dark)
    canvas.shape(
        ((nx - 0.04, ny - 0.02, 1), (nx + 0.046, ny - 0.02, 1), (nx + 0.006, ny + 0.09, 1)), BANDAGE, outline=0
    )
    trim = mix(cloth, WHITE, 0.55) if sum(cloth) < 300 else shaded(cloth, 0.5)
    end = ((nx + hx) / 2 - 0.045, (ny + waist) / 2 + 0.05)
    canvas.stroke([(nx - 0.048, ny - 0.02), (nx - 0.018, ny + 0.055), (nx + 0.012, ny + 0.1)], trim, 0.019)
    canvas.stroke([(nx + 0.052, ny - 0.02), (nx + 0.02, ny + 0.06), end], trim, 0.019)
    for x, y in ((-0.05, 0.035), (0.055, 0.03)):
        canvas.stroke([(hx + x * 0.8, waist + 0.022), (hx + x, hy + y + 0.02)], fold, 0.0095)
    belt = look.belt if sum(cloth) > 300 else mix(look.belt, BANDAGE, 0.72)
    ends: tuple[Knot, ...] = ((hx + 0.03, waist), (hx + 0.05, waist + 0.045), (hx + 0.042 + look.sway, waist + 0.1))
    canvas.band(ends, (0.028, 0.032, 0.03), belt, shade=shaded(belt))
    canvas.band(((hx - 0.082, waist), (hx, waist + 0.008), (hx + 0.082, waist)), (0.04, 0.04), belt, shade=shaded(belt))
    canvas.ellipse((hx + 0.03, waist + 0.006), (0.024, 0.026), mix(belt, WHITE, 0.16), outline=0.0105)

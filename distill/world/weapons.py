"""What the hands hold and how it moves: katana, throwing star, kunai, a ball of light; lines of motion."""

from __future__ import annotations

import numpy as np

from genin.distill.world.canvas import INK, LINE, WHITE, Canvas, Knot, Point
from genin.distill.world.face import FLUSHED, METAL, SKIN

GOLD = (234, 188, 64)
EDGE = (150, 162, 182)
GRIP = (86, 44, 54)
CHI = (120, 236, 255)

_BLADE: tuple[Knot, ...] = (
    (-0.017, -0.03, 1), (-0.02, -0.2), (-0.004, -0.4), (0.03, -0.462, 1), (0.026, -0.38), (0.014, -0.2), (0.017, -0.03, 1),
)  # fmt: skip


def draw_motion(canvas: Canvas, action: str, hand: Point) -> None:
    """Lines of motion behind the figure."""
    canvas.part = "weapon"
    x, y = hand
    pale = (250, 248, 255)
    if action == "running":
        for y, start, end in ((0.5, 0.02, 0.13), (0.66, -0.02, 0.1), (0.86, 0.0, 0.12)):
            canvas.stroke([(start, y), (end, y)], pale, 0.014)
    elif action == "waving":
        for radius in (0.085, 0.125):
            canvas.arc((x, y), (radius, radius), -50, 12, pale, 0.014)
            canvas.arc((x, y), (radius, radius), 168, 230, pale, 0.014)


def draw_sheath(canvas: Canvas, hip: Point) -> None:
    canvas.part = "weapon"
    x, y = hip
    canvas.band(
        ((x - 0.02, y - 0.02), (x - 0.13, y + 0.03), (x - 0.27, y + 0.05)), (0.04, 0.04, 0.034), GRIP, shade=INK
    )
    canvas.stroke([(x - 0.255, y + 0.05), (x - 0.265, y + 0.05)], GOLD, 0.026)


def draw_held(canvas: Canvas, action: str, back: Point, front: Point) -> None:
    canvas.part = "weapon"
    if action == "throwing":
        _star(canvas, (front[0] + 0.135, front[1] - 0.02))
    elif action == "guarding":
        _katana(canvas, back, front)
    elif action == "running":
        _kunai(canvas, front)
    elif action == "casting":
        _spell(canvas, ((back[0] + front[0]) / 2, (back[1] + front[1]) / 2 - 0.01))
    elif action == "waving":
        _open_hand(canvas, front)


def _star(canvas: Canvas, at: Point) -> None:
    with canvas.frame(at, turn=0.35):
        turns = np.arange(4) * np.pi / 2
        star: list[Knot] = []
        for turn in turns.tolist():
            for radius, angle, *corner in ((0.105, turn, 1), (0.05, turn + 0.4), (0.032, turn + 0.79)):
                star.append((radius * np.cos(angle), radius * np.sin(angle), *corner))
        canvas.shape(star, METAL)
        for turn in turns.tolist():
            tip = (0.086 * np.cos(turn), 0.086 * np.sin(turn))
            side = (0.034 * np.cos(turn + 0.75), 0.034 * np.sin(turn + 0.75))
            canvas.polygon([(0.0, 0.0), tip, side], EDGE)
        canvas.ellipse((0.0, 0.0), (0.021, 0.021), INK)


def _katana(canvas: Canvas, back: Point, front: Point) -> None:
    turn = float(np.arctan2(front[0] - back[0], back[1] - front[1])) - 0.5
    with canvas.frame(front, turn=turn):
        canvas.part = "weapon"
        canvas.shape(_BLADE, METAL)
        canvas.shape(((-0.007, -0.05), (-0.008, -0.2), (0.004, -0.36), (0.0, -0.2)), WHITE, outline=0)
        canvas.stroke([(0.01, -0.05), (0.008, -0.2), (0.02, -0.38)], EDGE, 0.0095)
        canvas.band(((0.0, -0.02), (0.0, 0.115)), (0.036, 0.034), GRIP)
        for y in (0.03, 0.062, 0.094):
            canvas.stroke([(-0.012, y - 0.008), (0.012, y + 0.008)], (232, 214, 186), 0.0095)
        canvas.ellipse((0.0, -0.034), (0.058, 0.02), GOLD, outline=LINE)
        canvas.part = "hands"
        for y in (0.012, 0.078):
            canvas.ellipse((0.0, y), (0.042, 0.032), SKIN, outline=LINE)
            canvas.stroke([(0.012, y - 0.008), (0.028, y - 0.006)], FLUSHED, 0.0095)


def _kunai(canvas: Canvas, at: Point) -> None:
    """Held backwards, behind the runner."""
    with canvas.frame(at, turn=0.25):
        canvas.shape(((-0.03, 0.0, 1), (-0.06, -0.032), (-0.15, 0.0, 1), (-0.06, 0.032)), METAL)
        canvas.polygon([(-0.04, 0.004), (-0.06, 0.022), (-0.13, 0.003)], EDGE)
        canvas.part = "hands"
        canvas.ellipse((0.0, 0.0), (0.042, 0.036), SKIN, outline=LINE)


def _spell(canvas: Canvas, at: Point) -> None:
    canvas.part = "effect"
    with canvas.frame(at):
        canvas.glow((0.0, 0.0), 0.125, CHI, 0.3)
        for turn in range(0, 360, 45):
            cos, sin = np.cos(np.radians(turn + 12)), np.sin(np.radians(turn + 12))
            canvas.stroke([(0.082 * cos, 0.082 * sin), (0.112 * cos, 0.112 * sin)], (236, 254, 255), 0.011)
        canvas.ellipse((0.0, 0.0), (0.056, 0.056), (178, 246, 255), outline=0.0105, ink=(36, 140, 206))
        canvas.ellipse((-0.006, -0.006), (0.036, 0.036), (240, 255, 255))
        canvas.arc((0.0, 0.0), (0.042, 0.042), 20, 130, (96, 200, 240), 0.012)
        canvas.arc((0.0, 0.0), (0.024, 0.024), 190, 330, (96, 200, 240), 0.011)


def _open_hand(canvas: Canvas, at: Point) -> None:
    canvas.part = "hands"
    with canvas.frame(at):
        for dx, dy in ((-0.048, -0.018), (-0.03, -0.056), (0.002, -0.066), (0.034, -0.052)):
            canvas.band(((0.0, 0.0), (dx, dy)), (0.026, 0.024), SKIN, outline=0.0105)
        canvas.ellipse((0.0, 0.0), (0.036, 0.034), SKIN)
        canvas.arc((0.004, 0.004), (0.016, 0.012), 20, 160, FLUSHED, 0.0095)

"""Seven hairstyles as tables: what hangs behind the head, the cap above the headband, locks, strands and shine.

Coordinates are the head's own: (0, 0) is its middle, the skull reaches ±0.205 across and ±0.2 down, the headband lies
from −0.14 to −0.05. Each style has a silhouette of its own, for that is what is left of it at 64 px.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from genin.distill.world.canvas import WHITE, Canvas, Colour, Knot, Point, mix, shaded

Band = tuple[tuple[Knot, ...], tuple[float, ...]]  # a path and its widths

HAIRS: dict[str, Colour] = {
    "spiky blond": (255, 228, 140),
    "long black": (52, 46, 64),
    "silver ponytail": (190, 200, 218),
    "red bun": (204, 58, 30),
    "short brown": (132, 80, 44),
    "teal bob": (40, 170, 170),
    "pink twintails": (255, 138, 184),
}


@dataclass(frozen=True)
class Style:
    cap: tuple[Knot, ...]
    behind: tuple[tuple[Knot, ...], ...] = ()  # shapes behind the head
    tails: tuple[Band, ...] = ()  # loose hair behind the head: it sways
    locks: tuple[Band, ...] = ()  # before the head, under the headband
    over: tuple[Band, ...] = ()  # locks that fall over the headband
    strands: tuple[tuple[Knot, ...], ...] = ()
    shine: tuple[tuple[Knot, ...], ...] = ()
    ties: tuple[Point, ...] = ()  # ribbons


def _mirrored(path: Sequence[Knot]) -> tuple[Knot, ...]:
    return tuple((-knot[0], *knot[1:]) for knot in path)


def _both(*bands: Band) -> tuple[Band, ...]:
    return tuple(one for path, widths in bands for one in ((path, widths), (_mirrored(path), widths)))


def _spikes(valleys: Sequence[Point], tips: Sequence[Point], bend: float) -> tuple[Knot, ...]:
    """Curved spikes between valleys, all bent the same way, closed under the headband."""
    path: list[Knot] = []
    for start, tip, end in zip(valleys[:-1], tips, valleys[1:], strict=True):
        path.append((*start, 1))
        for a, b, bulge in ((start, tip, bend), (tip, end, -0.5 * bend)):
            dx, dy = b[0] - a[0], b[1] - a[1]
            path.append((a[0] + 0.5 * dx + bulge * dy, a[1] + 0.5 * dy - bulge * dx))
            if b is tip:
                path.append((*tip, 1))
    return (*path, (*valleys[-1], 1), (0.17, -0.06), (0.0, -0.09), (-0.17, -0.06))


_CAP: tuple[Knot, ...] = (
    (-0.212, 0.035, 1), (-0.238, -0.09), (-0.172, -0.212), (0.0, -0.262), (0.172, -0.212), (0.238, -0.09),
    (0.212, 0.035, 1), (0.185, -0.05), (0.09, -0.085), (0.0, -0.09), (-0.09, -0.085), (-0.185, -0.05),
)  # fmt: skip
_FAN: tuple[tuple[Knot, ...], ...] = (
    ((0.0, -0.25), (-0.055, -0.21), (-0.08, -0.14)),
    ((0.01, -0.25), (0.09, -0.21), (0.13, -0.13)),
    ((0.09, -0.235), (0.17, -0.18), (0.2, -0.1)),
)
_SHINE: tuple[tuple[Knot, ...], ...] = (
    ((-0.185, -0.145), (-0.15, -0.19), (-0.1, -0.217)),
    ((-0.06, -0.23), (-0.04, -0.233)),
)
_TEMPLES = _both((((0.19, -0.07), (0.2, -0.01), (0.178, 0.05)), (0.05, 0.036, 0.0)))

STYLES: dict[str, Style] = {
    "spiky blond": Style(
        cap=_spikes(
            ((-0.2, 0.03), (-0.225, -0.05), (-0.215, -0.15), (-0.12, -0.235), (0.02, -0.25), (0.14, -0.225),
             (0.215, -0.14), (0.225, -0.05), (0.2, 0.03)),
            ((-0.315, 0.045), (-0.345, -0.105), (-0.285, -0.265), (-0.11, -0.355), (0.1, -0.36), (0.27, -0.285),
             (0.345, -0.13), (0.315, 0.035)),
            0.12,
        ),
        locks=_both((((0.17, -0.07), (0.19, 0.0), (0.165, 0.045)), (0.055, 0.04, 0.0))),
        over=((((-0.12, -0.17), (-0.15, -0.11), (-0.125, -0.06)), (0.07, 0.046, 0.0)),
              (((0.13, -0.17), (0.165, -0.12), (0.15, -0.055)), (0.07, 0.05, 0.0))),
        strands=(((-0.1, -0.14), (-0.14, -0.2), (-0.2, -0.23)), ((-0.02, -0.14), (-0.03, -0.22), (-0.07, -0.29)),
                 ((0.07, -0.14), (0.09, -0.21), (0.095, -0.29)), ((0.14, -0.13), (0.19, -0.18), (0.23, -0.23))),
        shine=(((-0.16, -0.15), (-0.12, -0.19), (-0.07, -0.21)), ((0.0, -0.21), (0.035, -0.215))),
    ),
    "long black": Style(
        cap=_CAP,
        behind=(((-0.2, -0.12), (-0.235, 0.06), (-0.262, 0.24), (-0.235, 0.385, 1), (-0.17, 0.352), (-0.12, 0.392, 1),
                 (0.0, 0.36), (0.12, 0.392, 1), (0.17, 0.352), (0.235, 0.385, 1), (0.262, 0.24), (0.235, 0.06),
                 (0.2, -0.12)),),
        locks=_both((((0.192, -0.1), (0.228, 0.06), (0.218, 0.25)), (0.07, 0.074, 0.0)),
                    (((0.15, -0.07), (0.178, 0.0), (0.17, 0.07)), (0.05, 0.034, 0.0))),
        over=_both((((0.03, -0.215), (0.13, -0.175), (0.188, -0.09), (0.196, 0.01)), (0.06, 0.085, 0.06, 0.0))),
        strands=(((0.0, -0.255), (0.0, -0.14)), ((-0.02, -0.25), (-0.1, -0.21), (-0.14, -0.12)),
                 ((0.02, -0.25), (0.1, -0.21), (0.14, -0.12))),
        shine=(((-0.19, -0.13), (-0.15, -0.18), (-0.07, -0.205)), ((0.07, -0.205), (0.15, -0.18), (0.185, -0.14))),
    ),
    "silver ponytail": Style(
        cap=_CAP,
        tails=((((-0.1, -0.215), (-0.25, -0.27), (-0.345, -0.13), (-0.325, 0.05), (-0.25, 0.2)), (0.06, 0.13, 0.14, 0.1, 0.0)),
               (((-0.13, -0.2), (-0.26, -0.17), (-0.285, 0.0), (-0.33, 0.12)), (0.05, 0.08, 0.07, 0.0))),
        locks=(*_TEMPLES, (((-0.1, -0.08), (-0.15, -0.035), (-0.165, 0.02)), (0.06, 0.045, 0.0))),
        over=((((0.08, -0.2), (0.0, -0.17), (-0.1, -0.125), (-0.165, -0.045)), (0.05, 0.075, 0.066, 0.0)),
              (((0.14, -0.18), (0.19, -0.12), (0.196, -0.03)), (0.06, 0.05, 0.0))),
        strands=(((0.15, -0.1), (0.06, -0.2), (-0.1, -0.235)), ((0.2, -0.1), (0.14, -0.2), (0.0, -0.25)),
                 ((-0.02, -0.14), (-0.08, -0.19), (-0.15, -0.2))),
        shine=_SHINE,
        ties=((-0.125, -0.225),),
    ),
    "red bun": Style(
        cap=_CAP,
        behind=(((-0.1, -0.28), (-0.085, -0.35), (0.0, -0.378), (0.085, -0.35), (0.1, -0.28), (0.06, -0.225),
                 (-0.06, -0.225)),),
        locks=_both((((0.175, -0.06), (0.2, 0.02), (0.18, 0.11)), (0.034, 0.032, 0.0))),
        over=((((-0.1, -0.2), (-0.165, -0.13), (-0.16, -0.045)), (0.05, 0.046, 0.0)),
              (((0.1, -0.2), (0.175, -0.14), (0.19, -0.03)), (0.05, 0.042, 0.0))),
        strands=(((-0.18, -0.11), (-0.12, -0.2), (-0.03, -0.245)), ((-0.08, -0.13), (-0.05, -0.2), (-0.01, -0.245)),
                 ((0.08, -0.13), (0.05, -0.2), (0.01, -0.245)), ((0.18, -0.11), (0.12, -0.2), (0.03, -0.245)),
                 ((-0.05, -0.275), (0.0, -0.325), (0.055, -0.31))),
        shine=(((-0.15, -0.165), (-0.115, -0.2)), ((-0.062, -0.31), (-0.035, -0.338))),
        ties=((0.0, -0.25),),
    ),
    "short brown": Style(
        cap=_spikes(
            ((-0.208, 0.04), (-0.23, -0.06), (-0.2, -0.165), (-0.1, -0.235), (0.04, -0.245), (0.15, -0.205),
             (0.226, -0.1), (0.208, 0.04)),
            ((-0.255, -0.0), (-0.265, -0.135), (-0.18, -0.25), (-0.015, -0.295), (0.13, -0.27), (0.245, -0.18),
             (0.25, -0.02)),
            0.2,
        ),
        locks=(*_TEMPLES, (((0.05, -0.085), (0.09, -0.05), (0.135, -0.03)), (0.07, 0.045, 0.0))),
        over=((((-0.13, -0.18), (-0.13, -0.12), (-0.165, -0.06)), (0.075, 0.052, 0.0)),
              (((0.09, -0.19), (0.12, -0.13), (0.1, -0.075)), (0.08, 0.052, 0.0)),
              (((0.16, -0.16), (0.19, -0.11), (0.18, -0.05)), (0.06, 0.05, 0.0))),
        strands=(((-0.14, -0.12), (-0.13, -0.18), (-0.08, -0.22)), ((-0.03, -0.14), (0.0, -0.2), (0.05, -0.23)),
                 ((0.1, -0.13), (0.13, -0.17), (0.17, -0.19))),
        shine=(((-0.185, -0.14), (-0.16, -0.175), (-0.12, -0.2)),),
    ),
    "teal bob": Style(
        cap=_CAP,
        behind=(((-0.2, -0.15), (-0.262, 0.02), (-0.268, 0.16), (-0.2, 0.255, 1), (0.0, 0.22), (0.2, 0.255, 1),
                 (0.268, 0.16), (0.262, 0.02), (0.2, -0.15)),),
        locks=_both((((0.19, -0.1), (0.238, 0.03), (0.225, 0.14), (0.16, 0.205)), (0.07, 0.088, 0.08, 0.0))),
        over=((((-0.15, -0.2), (-0.196, -0.13), (-0.19, -0.03)), (0.07, 0.056, 0.0)),
              (((0.0, -0.215), (0.07, -0.17), (0.125, -0.1)), (0.06, 0.06, 0.0)),
              (((0.15, -0.2), (0.196, -0.13), (0.19, -0.03)), (0.07, 0.056, 0.0))),
        strands=(((-0.03, -0.25), (-0.11, -0.2), (-0.15, -0.12)), ((-0.01, -0.25), (-0.03, -0.2), (-0.04, -0.14)),
                 ((0.01, -0.25), (0.06, -0.2), (0.08, -0.14)), ((0.06, -0.245), (0.15, -0.19), (0.185, -0.12))),
        shine=_SHINE,
    ),
    "pink twintails": Style(
        cap=_CAP,
        tails=_both((((0.18, -0.17), (0.335, -0.2), (0.375, -0.02), (0.31, 0.16), (0.33, 0.29)),
                     (0.06, 0.13, 0.14, 0.1, 0.0))),
        locks=_both((((0.185, -0.08), (0.205, 0.02), (0.182, 0.1)), (0.05, 0.044, 0.0))),
        over=((((0.0, -0.215), (-0.09, -0.17), (-0.14, -0.12), (-0.135, -0.08)), (0.05, 0.06, 0.044, 0.0)),
              (((0.07, -0.205), (0.145, -0.16), (0.175, -0.11), (0.168, -0.06)), (0.05, 0.06, 0.044, 0.0))),
        strands=(((0.0, -0.255), (0.0, -0.14)), ((-0.08, -0.13), (-0.12, -0.17), (-0.19, -0.19)),
                 ((0.08, -0.13), (0.12, -0.17), (0.19, -0.19))),
        shine=(((-0.13, -0.2), (-0.09, -0.22)), ((0.05, -0.225), (0.1, -0.212))),
        ties=((-0.195, -0.18), (0.195, -0.18)),
    ),
}  # fmt: skip


_DARK_SIDE: tuple[Knot, ...] = (
    (0.232, -0.06), (0.225, -0.12), (0.16, -0.208), (0.04, -0.246), (0.14, -0.17), (0.175, -0.08),
)  # fmt: skip


_RIM: tuple[Knot, ...] = ((-0.222, -0.075), (-0.203, -0.15), (-0.14, -0.22), (-0.08, -0.242))


def _swayed(path: tuple[Knot, ...], sway: float) -> tuple[Knot, ...]:
    """The wind moves a tail the more, the farther from its root."""
    last = len(path) - 1
    return tuple((k[0] + sway * (i / last) ** 2, k[1], *k[2:]) for i, k in enumerate(path))


def draw_hair_behind(canvas: Canvas, hair: str, sway: float) -> None:
    style, colour = STYLES[hair], HAIRS[hair]
    canvas.part = "hair"
    for path in style.behind:
        fill = colour if hair == "red bun" else shaded(colour, 0.16)
        canvas.shape(path, fill, shade=shaded(colour, 0.36))
    for path, widths in style.tails:
        swayed = _swayed(path, sway)
        canvas.band(swayed, widths, colour, shade=shaded(colour))
        canvas.stroke(swayed[1:-1], shaded(colour, 0.36), 0.011)
    if hair in ("long black", "teal bob"):
        low = 0.34 if hair == "long black" else 0.2
        for x in (-0.19, 0.19):
            canvas.stroke([(x, 0.1), (x * 1.03, low)], shaded(colour, 0.5), 0.011)


def draw_hair_before(canvas: Canvas, hair: str, sway: float) -> None:
    """The cap and the locks under the headband."""
    style, colour = STYLES[hair], HAIRS[hair]
    canvas.part = "hair"
    for path, widths in style.locks:
        canvas.band(_swayed(path, 0.3 * sway), widths, colour, shade=shaded(colour) if max(widths) > 0.06 else None)
    canvas.shape(style.cap, colour)
    canvas.shape(_DARK_SIDE, shaded(colour, 0.24), outline=0)
    for path in style.strands:
        canvas.stroke(path, shaded(colour, 0.42), 0.0095)


def draw_fringe(canvas: Canvas, hair: str, sway: float) -> None:
    """Locks that fall over the headband, light on the crown, ribbons."""
    style, colour = STYLES[hair], HAIRS[hair]
    canvas.part = "hair"
    for path, widths in style.over:
        lock = _swayed(path, 0.25 * sway)
        canvas.band(lock, widths, colour, outline=0.0105)
        # No line where the lock leaves the cap.
        canvas.band(lock[:2], (widths[0] * 0.9, widths[1] * 0.6), colour, outline=0)
    if canvas.rim and style.cap is _CAP:
        canvas.stroke(_RIM, mix(colour, canvas.rim, 0.55), 0.014)
    for path in style.shine:
        canvas.stroke(path, mix(colour, WHITE, 0.38 if hair == "long black" else 0.55), 0.019)
    for centre in style.ties:
        radii = (0.05, 0.016) if hair == "red bun" else (0.03, 0.034)
        canvas.ellipse(centre, radii, (250, 244, 230), outline=0.0095)

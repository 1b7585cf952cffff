"""The panels of a comic page.

A panel is what the gutters leave: first the parts of the page that the paper surrounds (frames of any shape, slanted ones too),
then each of those is cut along straight gutters that something crosses, a speech bubble for example. A cut goes along rows or
columns with next to no ink that are paper at both ends: within a frame they would meet its line there.

Works on paper that is nearly white or nearly black; any other page, and one that its drawing fills, is one picture. Not here:
reading order, bubbles, pages that are two in one scan (their gutter in the middle is cut like any other).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from genin.runtimes.errors import MissingExtraError

PAPER_WHITE, PAPER_BLACK = 215, 40
INK = 40  # grey levels from the paper's
SMALLEST = 0.015  # of the page's area
BRIDGED = 0.05  # share of a gutter that a bubble may cover
GUTTER = 0.004  # least width, as a share of the page's longer side
DEPTH = 6

Ink = NDArray[np.bool_]
Box = tuple[int, int, int, int]


def panels_of(page: Image.Image) -> list[Image.Image]:
    """An RGB page => its panels from top to bottom, left to right; the page itself where none can be told apart."""
    boxes = panel_boxes(np.asarray(page.convert("L")))
    return [page.crop(box) for box in boxes] or [page]


def panel_boxes(grey: NDArray[np.uint8]) -> list[Box]:
    """(left, top, right, bottom) of every panel. Errors: MissingExtraError."""
    try:
        import cv2
    except ImportError as error:
        raise MissingExtraError("cv2", "data") from error
    height, width = grey.shape
    paper = _paper(grey)
    if paper is None or min(height, width) < 64:
        return []
    ink = (np.abs(grey.astype(np.int16) - paper) > INK).astype(np.uint8)
    side = max(height, width)
    # Breaks in a frame's line are closed, so that the paper does not leak in.
    sealed = cv2.morphologyEx(ink, cv2.MORPH_CLOSE, np.ones((max(2, round(0.003 * side)),) * 2, np.uint8))
    flooded = np.pad(sealed, 1)
    cv2.floodFill(flooded, None, (0, 0), 2)
    inside = (flooded[1:-1, 1:-1] != 2).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=8)
    found = [(int(x), int(y), int(x + w), int(y + h)) for x, y, w, h, _ in stats[1:]]
    found = _without_inner([box for box in found if _area(box) >= SMALLEST * height * width])
    gutter = max(3, round(GUTTER * side))
    cut = [part for box in found for part in _cut(ink.astype(bool), box, gutter, DEPTH)]
    panels = [box for box in cut if _area(box) >= SMALLEST * height * width]
    return sorted(panels, key=lambda box: (box[1], box[0]))


def _paper(grey: NDArray[np.uint8]) -> int | None:
    """The grey of the page's edge; None where that is neither white nor black paper."""
    rim = max(1, min(grey.shape) // 60)
    edge = np.concatenate([grey[:rim].ravel(), grey[-rim:].ravel(), grey[:, :rim].ravel(), grey[:, -rim:].ravel()])
    middle = int(np.median(edge))
    if PAPER_BLACK < middle < PAPER_WHITE or (np.abs(edge.astype(np.int16) - middle) <= INK).mean() < 0.5:
        return None
    return middle


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _without_inner(boxes: list[Box]) -> list[Box]:
    """Those that do not lie mostly within a larger one: an inset, or a sound effect drawn over the gutter."""
    kept: list[Box] = []
    for box in sorted(boxes, key=_area, reverse=True):
        if all(_shared(box, other) <= 0.6 * _area(box) for other in kept):
            kept.append(box)
    return kept


def _shared(a: Box, b: Box) -> int:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(0, width) * max(0, height)


def _cut(ink: Ink, box: Box, gutter: int, depth: int) -> list[Box]:
    """The box cut along its widest gutter, and its parts in turn; trimmed to their ink."""
    left, top, right, bottom = box
    part = ink[top:bottom, left:right]
    if not part.any():
        return []
    rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
    left, right = left + int(columns[0]), left + int(columns[-1]) + 1
    top, bottom = top + int(rows[0]), top + int(rows[-1]) + 1
    part = ink[top:bottom, left:right]
    across, down = _widest_gutter(part, gutter), _widest_gutter(part.T, gutter)
    if not depth or (across is None and down is None):
        return [(left, top, right, bottom)]
    if down is None or (across is not None and across[1] - across[0] >= down[1] - down[0]):
        assert across is not None
        parts = [(left, top, right, top + across[0]), (left, top + across[1], right, bottom)]
    else:
        parts = [(left, top, left + down[0], bottom), (left + down[1], top, right, bottom)]
    return [piece for part_box in parts for piece in _cut(ink, part_box, gutter, depth - 1)]


def _widest_gutter(ink: Ink, least: int) -> tuple[int, int] | None:
    """The widest run of rows with next to no ink, open at both ends; None if there is none of `least` rows."""
    height, width = ink.shape
    end = max(2, width // 60)
    open_ends = ~ink[:, :end].any(1) & ~ink[:, -end:].any(1)
    empty = np.flatnonzero(open_ends & (ink.mean(1) <= BRIDGED))
    if not len(empty):
        return None
    runs = np.split(empty, np.flatnonzero(np.diff(empty) > 1) + 1)
    widest = max(runs, key=len)
    least_part = max(8, height // 20)  # a gutter divides: a strip at the edge is not a panel
    if len(widest) < least or widest[0] < least_part or height - widest[-1] - 1 < least_part:
        return None
    return int(widest[0]), int(widest[-1]) + 1

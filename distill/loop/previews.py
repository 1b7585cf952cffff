"""Pictures of a run while it runs: a grid of samples with their captions, and the curves of everything logged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from genin.processes import is_main_process

SHOWN_PX = 192  # about the side to which small pictures are enlarged in a grid


def grid(rows: Sequence[NDArray[np.uint8]], *, scale: int = 2, gap: int = 2) -> Image.Image:
    """Rows of NHWC uint8 pictures => one picture, enlarged without smoothing."""
    height, width = rows[0].shape[1:3]
    columns = max(len(row) for row in rows)
    sheet = np.full(((height + gap) * len(rows) + gap, (width + gap) * columns + gap, 3), 24, np.uint8)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            top, left = gap + y * (height + gap), gap + x * (width + gap)
            sheet[top : top + height, left : left + width] = picture
    image = Image.fromarray(sheet)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def save_grid(rows: Sequence[NDArray[np.uint8]], path: Path) -> None:
    """As a PNG, small pictures enlarged; of several processes that draw it together the first writes it."""
    if is_main_process():
        grid(rows, scale=max(1, SHOWN_PX // rows[0].shape[2])).save(path)


FEW_POINTS = 8
NOT_CURVES = {"update", "images_seen", "elapsed_s"}


def plot_curves(history: Sequence[Mapping[str, float]], path: Path, *, title: str) -> None:
    """One small panel per logged quantity over images seen, as a PNG."""
    if not history:
        return
    from matplotlib.figure import Figure

    keys = [key for key in dict.fromkeys(key for row in history for key in row) if key not in NOT_CURVES]
    columns = min(4, len(keys))
    lines = -(-len(keys) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.3 * lines), layout="constrained")
    figure.suptitle(title)
    axes = np.atleast_1d(figure.subplots(lines, columns)).ravel()
    for axis, key in zip(axes, keys, strict=False):
        points = [(row["images_seen"] / 1000, row[key]) for row in history if key in row]
        marker = "o" if len(points) < FEW_POINTS else ""  # a line needs two points
        axis.plot(*zip(*points, strict=True), color="#d9541e", linewidth=1.2, marker=marker, markersize=3)
        axis.set_title(key, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(keys) :]:
        axis.set_visible(False)
    for axis in axes[max(0, len(keys) - columns) : len(keys)]:
        axis.set_xlabel("thousand images seen", fontsize=7)
    figure.savefig(path, dpi=110)

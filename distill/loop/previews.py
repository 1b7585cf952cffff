"""Pictures of a run while it runs: a grid of samples with their captions, and the curves of everything logged."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from genin.benchmarks.report.fonts import font_for, wrap
from genin.files import atomic_path
from genin.processes import is_main_process

TEXT_PX, LINE_PX, CAPTION_LINES = 15, 19, 4
CELLS = "genin_cells"  # the text in a grid's file
PAPER, INK = (250, 249, 246), (28, 27, 25)
GAP = 2  # px of pictures that are not enlarged
SHOWN_PX = 192  # about the side to which small pictures are enlarged in a grid


def grid(rows: Sequence[NDArray[np.uint8]], *, scale: int = 2, gap: int = GAP) -> Image.Image:
    """Rows of NHWC uint8 pictures => one picture, enlarged without smoothing."""
    height, width = rows[0].shape[1:3]
    columns = max(len(row) for row in rows)
    sheet = np.full(((height + gap) * len(rows) + gap, (width + gap) * columns + gap, 3), PAPER, np.uint8)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            top, left = gap + y * (height + gap), gap + x * (width + gap)
            sheet[top : top + height, left : left + width] = picture
    image = Image.fromarray(sheet)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def save_grid(
    rows: Sequence[NDArray[np.uint8]],
    path: Path,
    *,
    labels: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
) -> None:
    """As a PNG, small pictures enlarged, with a label above each row and a caption below each picture, where they are given (a row
    may have none). The file also says in text where each picture is, for pages (`read_cells`). Of several processes that draw it
    together the first writes it."""
    if is_main_process():
        height, width = rows[0].shape[1:3]
        scale = max(1, SHOWN_PX // width)
        texts = [*captions, *[()] * (len(rows) - len(captions))]
        plain = grid(rows, scale=scale)
        picture, tops = labelled(plain, max(map(len, rows)), labels or [""] * len(rows), texts)
        gap, strip = GAP * scale, plain.height // len(rows)
        tops = [top + gap + row * ((height + GAP) * scale - strip) for row, top in enumerate(tops)]
        cells = Cells(
            width * scale, height * scale, gap, (width + GAP) * scale, tuple(tops), tuple(map(len, rows)), tuple(labels),
            tuple(map(tuple, texts)),
        )  # fmt: skip
        note = PngInfo()
        note.add_itxt(CELLS, json.dumps(dataclasses.asdict(cells), ensure_ascii=False))
        with atomic_path(path, sync=False) as partial:
            picture.save(partial, "PNG", pnginfo=note)


def labelled(
    plain: Image.Image, columns: int, labels: Sequence[str], captions: Sequence[Sequence[str]]
) -> tuple[Image.Image, list[int]]:
    """A grid of rows of equal height, cut apart, with text between them; and where each row begins."""
    rows = len(labels)
    height, cell = plain.height // rows, plain.width // columns
    font = font_for(" ".join((*labels, *(text for row in captions for text in row))), TEXT_PX)
    texts = [[wrap(text, font, cell - 8, max_lines=CAPTION_LINES) for text in row] for row in captions]
    above = LINE_PX + 4 if any(labels) else 0
    below = [LINE_PX * max(map(len, row)) + 8 if row else 0 for row in texts]
    sheet = Image.new("RGB", (plain.width, plain.height + above * rows + sum(below)), PAPER)
    draw, top, tops = ImageDraw.Draw(sheet), 0, []
    for row, lines_of_row in enumerate(texts):
        if above:
            draw.text((6, top + 2), labels[row], INK, font)
        tops.append(top + above)
        sheet.paste(plain.crop((0, row * height, plain.width, (row + 1) * height)), (0, tops[-1]))
        top = tops[-1] + height
        for column, lines in enumerate(lines_of_row):
            for number, line in enumerate(lines):
                draw.text((column * cell + 4, top + 2 + number * LINE_PX), line, INK, font)
        top += below[row]
    return sheet, tops


@dataclass(frozen=True)
class Cells:
    """Where the pictures of a grid are, in pixels: each `width` × `height`, a row's first at `left`, the next ones `step` apart,
    the rows at `tops`, with `counts` pictures each; and what is said about them."""

    width: int
    height: int
    left: int
    step: int
    tops: tuple[int, ...]
    counts: tuple[int, ...]
    labels: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]


def read_cells(path: Path) -> tuple[Cells, tuple[int, int]] | None:
    """What a grid's file says of its pictures, and the size of all; None for a file that is damaged, or that says nothing."""
    try:
        with Image.open(path) as file:
            said, size = json.loads(str(file.info[CELLS])), file.size
        return Cells(**{name: _fixed(value) for name, value in said.items()}), size
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, AttributeError):
        return None


def _fixed(value: Any) -> Any:
    return tuple(map(_fixed, value)) if isinstance(value, list) else value


FEW_POINTS = 8
NOT_CURVES = {"update", "images_seen", "elapsed_s"}
FIRST, LAST = ("loss", "held_out_loss", "kid", "kid_error"), ("images_per_s", "lr_factor")
TITLES = {
    "held_out_loss": "loss on held-out captions",
    "kid": "KID of held-out captions",
    "kid_error": "standard error of that KID",
    "images_per_s": "images per second",
    "lr_factor": "learning rate, share of its peak",
    "grad_norm": "gradient norm",
}


def plot_curves(history: Sequence[Mapping[str, float]], path: Path, *, title: str) -> None:
    """One small panel per logged quantity over images seen, as a PNG."""
    if not history:
        return
    from matplotlib.figure import Figure

    found = [key for key in dict.fromkeys(key for row in history for key in row) if key not in NOT_CURVES]
    keys = sorted(found, key=lambda key: (FIRST.index(key) if key in FIRST else len(FIRST), key in LAST))
    columns = min(4, len(keys))
    lines = -(-len(keys) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.3 * lines), layout="constrained")
    figure.suptitle(title)
    axes = np.atleast_1d(figure.subplots(lines, columns)).ravel()
    for axis, key in zip(axes, keys, strict=False):
        points = [(row["images_seen"] / 1000, row[key]) for row in history if key in row]
        marker = "o" if len(points) < FEW_POINTS else ""  # a line needs two points
        axis.plot(*zip(*points, strict=True), color="#d9541e", linewidth=1.2, marker=marker, markersize=3)
        axis.set_title(TITLES.get(key, key.replace("_", " ")), fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(keys) :]:
        axis.set_visible(False)
    for axis in axes[max(0, len(keys) - columns) : len(keys)]:
        axis.set_xlabel("thousand images seen", fontsize=7)
    with atomic_path(path, sync=False) as partial:
        figure.savefig(partial, dpi=110, format="png")

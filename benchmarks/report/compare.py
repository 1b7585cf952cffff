"""Models side by side on the same prompts and seeds: one picture sheet, models as rows, captions below each column.

Every model draws prompt i from seed `seed + i`, so a column shows what each model draws from the same noise. Prompts may be a data
set's captions, whose true pictures are then the first row. Small pictures are enlarged; long lists of prompts are laid out in
several bands, or, as *blocks*, in one square per model without captions, to see what sixty-four pictures have in common.

Not here: figures (`evaluate`, `bench`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from genin.benchmarks.grids import Grid, GridRow
from genin.benchmarks.quality.subjects import ModelSubject, Sampling
from genin.benchmarks.report.fonts import Font, font_for, wrap
from genin.dataset.sets import Pictures, PictureSet, load_pictures, open_picture_set
from genin.dataset.text import listed
from genin.files import atomic_path
from genin.runtimes.progress import progress
from genin.runtimes.wording import counted

BLOCK_CELL_PX, BLOCK_GAP_PX = 96, 3
CELL_PX, GAP_PX, MARGIN_PX, LABEL_PX, BAND_PX = 192, 12, 36, 220, 32
COLUMNS = 8
PAPER, INK, SOFT = (250, 249, 246), (28, 27, 25), (117, 113, 106)


@dataclass(frozen=True)
class SheetModel:
    """A model of the sheet: its label, its path, and how it draws."""

    label: str
    path: Path
    sampling: Sampling


@dataclass(frozen=True)
class Sheet:
    """Sizes of one sheet in pixels, and its fonts."""

    cell: int
    title: Font
    text: Font
    line: int


def true_row(reference: Path, name: str, count: int, split: str | None = None) -> tuple[list[str], GridRow, list[str]]:
    """The first captions of a folder of pictures, or of one of its splits, those pictures as a row, and what was left out."""
    picture_set = open_picture_set(reference, split)
    loaded = load_pictures(picture_set, limit=count)
    captions = PictureSet(reference, loaded.rows).captions()
    left_out = (
        [f"{counted(len(loaded.broken), 'unreadable picture')}: {listed(loaded.broken)}"] if loaded.broken else []
    )
    return captions, GridRow("true pictures", name, loaded.pictures), [*picture_set.notes, *left_out]


def draw_grid(models: Sequence[SheetModel], prompts: Sequence[str], seed: int, first: GridRow | None = None) -> Grid:
    """Every model's pictures of every prompt, below the row `first`."""
    rows = [] if first is None else [first]
    with progress("drawing", len(models) * len(prompts), unit="pictures") as shown:
        for model in models:
            with ModelSubject(model.path, model.sampling) as subject:
                steps, scale, pipeline = subject.steps, subject.guidance_scale, subject.pipeline
                pictures = []
                for index, prompt in enumerate(prompts):
                    generation = pipeline.generate([prompt], [seed + index], steps=steps, guidance_scale=scale)
                    pictures.append(generation.images[0])
                    shown.advance()
            guidance = f", guidance {scale:g}" if scale != 1 else ""
            detail = f"{pipeline.runtime} {pipeline.precision}, {counted(steps, 'step')}{guidance}"
            rows.append(GridRow(model.label, detail, np.stack(pictures)))
    return Grid(
        f"Seeds {seed}–{seed + len(prompts) - 1}" if len(prompts) > 1 else f"Seed {seed}", tuple(prompts), tuple(rows)
    )


def draw_blocks(grid: Grid) -> Image.Image:
    """The grid as one RGB picture of squares: two models per line, three where there are three, each with its name above."""
    count = len(grid.captions)
    columns = math.ceil(count**0.5)
    cell = _cell_side(grid, BLOCK_CELL_PX if columns > 4 else CELL_PX)
    step = cell + BLOCK_GAP_PX
    width, height = columns * step - BLOCK_GAP_PX, math.ceil(count / columns) * step - BLOCK_GAP_PX
    across = 3 if len(grid.rows) == 3 else min(2, len(grid.rows))
    texts = "".join(row.label + row.detail for row in grid.rows)
    title, text = font_for(texts, 22), font_for(texts, 16)
    head = 44
    lines = math.ceil(len(grid.rows) / across)
    size = (
        2 * MARGIN_PX + across * width + (across - 1) * MARGIN_PX,
        2 * MARGIN_PX + lines * (head + height) + (lines - 1) * BAND_PX,
    )
    image = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(image)
    for number, row in enumerate(grid.rows):
        left = MARGIN_PX + number % across * (width + MARGIN_PX)
        top = MARGIN_PX + number // across * (head + height + BAND_PX)
        draw.text((left, top), row.label, INK, title)
        draw.text((left + title.getlength(row.label) + 12, top + 5), row.detail, SOFT, text)
        for index, picture in enumerate(row.pictures):
            place = left + index % columns * step, top + head + index // columns * step
            image.paste(_cell(picture, cell), place)
    return image


def draw_sheet(grid: Grid) -> Image.Image:
    """The grid as one RGB picture."""
    texts = "".join([*grid.captions, *(row.label + row.detail for row in grid.rows)])
    sheet = Sheet(_cell_side(grid, CELL_PX), font_for(texts, 18), font_for(texts, 14), 19)
    bands = [range(start, min(start + COLUMNS, len(grid.captions))) for start in range(0, len(grid.captions), COLUMNS)]
    captions = [wrap(caption, sheet.text, sheet.cell) for caption in grid.captions]
    heights = [_band_height(sheet, grid, [captions[index] for index in band]) for band in bands]
    width = 2 * MARGIN_PX + LABEL_PX + len(bands[0]) * (sheet.cell + GAP_PX) - GAP_PX
    image = Image.new("RGB", (width, 2 * MARGIN_PX + sum(heights) + BAND_PX * (len(bands) - 1)), PAPER)
    top = MARGIN_PX
    for band, height in zip(bands, heights, strict=True):
        _draw_band(image, sheet, grid, band, captions, top)
        top += height + BAND_PX
    return image


def save_sheet(grid: Grid, out: Path, layout: str = "rows") -> None:
    """Write the sheet as a PNG, by rename."""
    with atomic_path(out) as partial:
        (draw_blocks if layout == "blocks" else draw_sheet)(grid).save(partial, format="PNG")


def _band_height(sheet: Sheet, grid: Grid, captions: Sequence[Sequence[str]]) -> int:
    return len(grid.rows) * (sheet.cell + GAP_PX) + sheet.line * max(len(lines) for lines in captions)


def _draw_band(
    image: Image.Image, sheet: Sheet, grid: Grid, band: range, captions: Sequence[Sequence[str]], top: int
) -> None:
    draw = ImageDraw.Draw(image)
    for number, row in enumerate(grid.rows):
        y = top + number * (sheet.cell + GAP_PX)
        _draw_label(draw, sheet, row, y)
        for column, index in enumerate(band):
            x = MARGIN_PX + LABEL_PX + column * (sheet.cell + GAP_PX)
            image.paste(_cell(row.pictures[index], sheet.cell), (x, y))
    bottom = top + len(grid.rows) * (sheet.cell + GAP_PX)
    for column, index in enumerate(band):
        x = MARGIN_PX + LABEL_PX + column * (sheet.cell + GAP_PX)
        for line, text in enumerate(captions[index]):
            draw.text((x, bottom + line * sheet.line), text, SOFT, sheet.text)


def _draw_label(draw: ImageDraw.ImageDraw, sheet: Sheet, row: GridRow, y: int) -> None:
    """Name and detail, set in the middle of the row's height."""
    width = LABEL_PX - 24
    lines = [(text, INK, sheet.title) for text in wrap(row.label, sheet.title, width, max_lines=3)]
    lines += [(text, SOFT, sheet.text) for text in wrap(row.detail, sheet.text, width, max_lines=3)]
    y += (sheet.cell - len(lines) * (sheet.line + 3)) // 2
    for text, colour, font in lines:
        draw.text((MARGIN_PX, y), text, colour, font)
        y += sheet.line + 3


def _cell_side(grid: Grid, least: int) -> int:
    """Pixels: a whole multiple of the largest picture's, since any other enlargement blurs it."""
    largest: int = max(row.pictures.shape[1] for row in grid.rows)
    return largest * math.ceil(least / largest)


def _cell(picture: Pictures, size: int) -> Image.Image:
    image = Image.fromarray(picture)
    return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.LANCZOS)

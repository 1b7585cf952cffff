"""Sheets of drawing from a picture and inside a mask, for docs/apps.md.

    python tools/start_sheet.py builtin:student --out docs/images/from-a-picture.png --masked docs/images/inside-a-mask.png

The pictures started from are true ones of held-out scenes: each is redrawn under the next scene's caption, once for every strength
that the model has, and under its own inside a mask of its upper half. Nothing is chosen: the first captions, seeds from `--seed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

import genin
from genin.benchmarks.grids import Grid, GridRow
from genin.benchmarks.report.compare import save_sheet, true_row
from genin.dataset.sets import Pictures
from genin.files import claim_output
from genin.runtimes.names import BUILTIN_WORLD, installed_names


@click.command()
@click.argument("model")
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--masked", type=click.Path(path_type=Path), required=True)
@click.option("--count", default=6, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(model: str, out: Path, masked: Path, count: int, seed: int) -> None:
    for path in (out, masked):
        claim_output(path, ".png")
    pipe = genin.load(model)
    side = pipe.image.width
    folder = installed_names().reference(BUILTIN_WORLD, count=count + 1, size=side, seed=0, split="test")
    captions, row, _ = true_row(folder, BUILTIN_WORLD, count + 1)
    starts, own, others = row.pictures[:count], tuple(captions[:count]), tuple(captions[1:])
    mask = np.zeros((side, side), np.uint8)
    mask[: side // 2] = 255

    def drawn(prompts: Sequence[str], **options: Any) -> Pictures:
        pictures = [
            pipe(prompt, seed=seed + index, image=start, **options).array
            for index, (prompt, start) in enumerate(zip(prompts, starts, strict=True))
        ]
        return np.stack(pictures)

    first = GridRow("started from", "true pictures", starts)
    rows = [GridRow(f"strength {value:g}", pipe.name, drawn(others, strength=value)) for value in pipe.strengths()]
    save_sheet(Grid("From a picture", others, (first, *rows)), out)
    shown = np.where(mask[..., None] > 0, np.minimum(starts // 3 + 255 - 255 // 3, 255), starts).astype(np.uint8)
    rows = [GridRow("mask", "pale: drawn anew", shown), GridRow("inside the mask", pipe.name, drawn(own, mask=mask))]
    save_sheet(Grid("Inside a mask", own, (first, *rows)), masked)
    click.echo(f"{out}, {masked}")


if __name__ == "__main__":
    main()

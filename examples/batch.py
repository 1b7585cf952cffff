"""Many pictures at once: a text file with one prompt per line becomes a folder of PNG files and a contact sheet.

python examples/batch.py prompts.txt --seeds 4 --out pictures/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

import genin
from genin import GeninError, Pipeline

Pixels = NDArray[np.uint8]
BATCH_SIZE = 8


def draw(pipeline: Pipeline, prompts: Sequence[str], seeds: Sequence[int]) -> Iterator[tuple[str, int, Pixels]]:
    """Every prompt with every seed => (prompt, seed, (H, W, 3) uint8). Batching does not change a picture."""
    wanted = list(product(prompts, seeds))
    for start in range(0, len(wanted), BATCH_SIZE):
        texts, numbers = zip(*wanted[start : start + BATCH_SIZE], strict=True)
        images = pipeline.generate(texts, seed=numbers).images
        yield from zip(texts, numbers, images, strict=True)


@click.command()
@click.argument("prompts", type=click.File(encoding="utf-8-sig"))  # editors on Windows write a byte-order mark
@click.option("-m", "--model", default="builtin:student", show_default=True)
@click.option("--seeds", type=click.IntRange(1), default=4, show_default=True, help="Pictures of each prompt.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("pictures"), show_default=True)
def main(prompts: Iterable[str], model: str, seeds: int, out: Path) -> None:
    """Draw every line of PROMPTS with several seeds."""
    try:
        lines = list(dict.fromkeys(line.strip() for line in prompts if line.strip()))
    except UnicodeDecodeError as error:
        raise click.ClickException(f"the file is not UTF-8 ({error.reason}): save it as UTF-8") from error
    if not lines:
        raise click.ClickException("the file has no prompts: one a line")
    if out.is_dir() and any(out.glob("*.png")):
        raise click.ClickException(f"{out} has pictures already: name another --out")
    rows: dict[str, list[Pixels]] = {}
    try:
        out.mkdir(parents=True, exist_ok=True)
        with genin.load(model) as pipeline:
            for prompt, seed, pixels in draw(pipeline, lines, range(seeds)):
                rows.setdefault(prompt, []).append(pixels)
                Image.fromarray(pixels).save(out / f"{lines.index(prompt):03d}-{seed}.png")
        Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows.values()])).save(out / "sheet.png")
    except (GeninError, OSError) as error:  # its text says what, where and what to do
        raise click.ClickException(str(error)) from error
    click.echo(f"{len(lines)} prompts × {seeds} seeds in {out}")


if __name__ == "__main__":
    main()

"""`genin world render`: the built-in world as a dataset folder on disk.

Not here: the world itself (`scene`, `render`, `captions`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import click

from genin.dataset.splits import Split
from genin.distill.world.scene import CaptionKind
from genin.runtimes.options import Side
from genin.runtimes.wording import counted


@click.command(
    "render",
    epilog="Example: genin world render --count 1000 --split train --seed 0 --out world/train",
)
@click.option("--count", type=click.IntRange(min=1), required=True, help="How many pictures.")
@click.option("--size", type=Side(16, 1024), default=128, show_default=True, help="Side in pixels.")
@click.option(
    "--split", type=click.Choice(get_args(Split)), default="train", show_default=True, help="Splits share no scene."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the scenes.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write; it must not exist.")
@click.option(
    "--captions",
    type=click.Choice(get_args(CaptionKind)),
    default="mixed",
    show_default=True,
    help="Complete ones mention every attribute; short ones only some, so do not use them to measure attribute accuracy.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def render_command(count: int, size: int, split: str, seed: int, out: Path, captions: str, as_json: bool) -> None:
    """Render COUNT captioned pictures of the built-in ninja world.

    Writes an imagefolder dataset: PNG files and metadata.jsonl with the caption and the exact attributes of each
    picture. The same options give the same dataset.
    """
    import time

    from genin.distill.world.dataset import write_dataset

    started = time.perf_counter()
    write_dataset(out, split=split, count=count, size=size, seed=seed, captions=captions)  # type: ignore[arg-type]
    seconds = time.perf_counter() - started
    if as_json:
        facts = {"out": str(out), "count": count, "size": size, "split": split, "seed": seed}
        click.echo(json.dumps({**facts, "seconds": round(seconds, 3), "images_per_s": round(count / seconds, 1)}))
    else:
        click.echo(f"{counted(count, 'picture')} of {size} px in {out} ({count / seconds:.0f} pictures/s)")

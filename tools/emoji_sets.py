"""The same emoji in two styles, with the same captions: Google's Noto and Microsoft's Fluent in 3D.

    python tools/emoji_sets.py noto_emoji_128 fluent_emoji_3d --out sets

Both folders hold `metadata.jsonl` and `png/`. Of each emoji that both have, found by its characters, OUT/noto and OUT/fluent get
the picture under Fluent's name for it, ready for `genin data prepare`: captions that agree put both pictures in the same split.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import click

VARIATION_SELECTOR = "\ufe0f"  # selects the coloured form of a character; only one of the sets writes it


def rows(folder: Path, glyph: str) -> dict[str, dict[str, Any]]:
    """Characters => metadata of the set at `folder`, whose column `glyph` holds the characters."""
    lines = (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    if not any(glyph in row for row in found):
        raise click.ClickException(
            f"{folder}: no column '{glyph}'; are the two folders given in the order of the usage line?"
        )
    return {row[glyph].replace(VARIATION_SELECTOR, ""): row for row in found if row.get(glyph)}


@click.command()
@click.argument("noto", type=click.Path(path_type=Path, exists=True))
@click.argument("fluent", type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(noto: Path, fluent: Path, out: Path) -> None:
    styles = {"noto": (noto, rows(noto, "emoji")), "fluent": (fluent, rows(fluent, "glyph"))}
    named = styles["fluent"][1]
    if out.exists():
        raise click.ClickException(f"{out} exists; name another --out or remove it")
    both = [glyph for glyph in named if glyph in styles["noto"][1]]
    if not both:
        raise click.ClickException("the two sets have no emoji in common; are they the folders asked for?")
    for style, (folder, found) in styles.items():
        target = out / style
        target.mkdir(parents=True)
        with (target / "metadata.jsonl").open("w", encoding="utf-8") as stream:
            for glyph in both:
                shutil.copyfile(folder / "png" / found[glyph]["file"], target / found[glyph]["file"])
                row = {"file": found[glyph]["file"], "text": named[glyph]["cldr"], "group": named[glyph]["group"]}
                stream.write(json.dumps(row) + "\n")
    click.echo(f"{len(both)} emoji in both styles: {out / 'noto'}, {out / 'fluent'}")


if __name__ == "__main__":
    main()

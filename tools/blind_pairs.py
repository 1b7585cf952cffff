"""Can anybody tell a student's pictures from true ones? Pairs in random order on one page, the answers in a file apart.

    python tools/blind_pairs.py builtin:student --out docs/images/pairs.html

Each pair is a held-out caption's true picture and the model's own, either on the left. The page keeps no scores and does not know
the answers: they are in pairs.key.json, "left" or "right" for the side of the true picture. Twenty pairs sorted at random come out
with 15 or more right in 2 % of all tries.
"""

from __future__ import annotations

import html
import json
import random
import tempfile
from pathlib import Path

import click

from genin.benchmarks import CompareOptions, compare
from genin.benchmarks.report.pictures import data_uri
from genin.files import claim_output

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>True or drawn?</title><style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }}
ol {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)); gap: 1.6rem 3rem; padding-left: 2rem; }}
li::marker {{ color: #666; }}
div {{ display: flex; gap: 0.4rem; }}
img {{ width: calc(50% - 0.2rem); aspect-ratio: 1; border-radius: 6px; }}
p {{ font-size: 0.85rem; margin: 0.3rem 0; }}
</style></head><body><h1>True or drawn?</h1>
<p>One picture of each pair is true, the other was drawn by {name} ({detail}). Which is which? The answers: {key}.</p>
<ol>{pairs}</ol></body></html>
"""
PAIR = '<li><div><img src="{}" alt="left"><img src="{}" alt="right"></div><p>{}</p></li>'


@click.command()
@click.argument("model")
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--steps", type=int, help="[default: the model's]")
@click.option("--count", default=20, show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of the sides.")
def main(model: str, out: Path, steps: int | None, count: int, seed: int) -> None:
    claim_output(out, ".html")
    with tempfile.TemporaryDirectory() as folder:
        options = CompareOptions(reference="builtin:world", split="test", count=count, steps=steps)
        grid = compare(model, Path(folder) / "sheet.png", options)
    true, drawn = grid.rows
    chance, pairs, answers = random.Random(seed), [], {}
    for number, caption in enumerate(grid.captions):
        both = [true.pictures[number], drawn.pictures[number]]
        answers[number + 1] = side = chance.choice(("left", "right"))
        left, right = map(data_uri, both if side == "left" else both[::-1])
        pairs.append(PAIR.format(left, right, html.escape(caption)))
    key = out.with_suffix(".key.json")
    names = {"name": html.escape(model), "detail": html.escape(drawn.detail), "key": html.escape(key.name)}
    out.write_text(PAGE.format(pairs="\n".join(pairs), **names), encoding="utf-8")
    key.write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")
    click.echo(f"{out}, {key}")


if __name__ == "__main__":
    main()

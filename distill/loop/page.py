"""The page of a training: `OUT/training/index.html`, to look at while it runs and afterwards.

Curves, grids of samples over time, events and settings of every stage, from the files that the stages write beside it (`logbook`);
pictures are loaded from there, nothing from elsewhere. A page of a running training loads itself anew every half minute, until its
checkbox is cleared. Without jinja2 there is no page.

Not here: what is in the files.
"""

from __future__ import annotations

import json
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from genin.benchmarks.report.page import render_page
from genin.distill.loop.previews import read_cells
from genin.files import write_text

PAGE = "index.html"
MOST_GRIDS = 24  # of a stage, evenly over time; the newest is always among them
ORDER = ("autoencoder", "text_encoder", "teacher", "finetune", "alignment", "prune", "steps", "adversarial", "decoder")
FIGURES = {"loss": "loss", "images_per_s": "images per second", "kid": "KID, held out", "elapsed_s": "seconds"}


def write_page(folder: Path, *, running: str | None = None, progress: float = 1.0) -> None:
    """Write the page of a run's folder; `running` is the stage that is not finished, `progress` its share done."""
    if find_spec("jinja2") is None:
        return
    stages = [_stage(folder, name) for name in _stages(folder)]
    recipe = folder / "recipe.yaml"
    values = {
        "name": folder.resolve().parent.name,
        "running": running,
        "progress": f"{100 * progress:.0f} %",
        "written": time.strftime("%Y-%m-%d %H:%M"),
        "stages": stages,
        "recipe": recipe.read_text("utf-8") if recipe.is_file() else "",
    }
    write_text(folder / PAGE, render_page("genin.distill.loop", "training.html.jinja", values) + "\n")


def _stages(folder: Path) -> list[str]:
    found = {path.name.removesuffix(".log.jsonl") for path in folder.glob("*.log.jsonl")}
    return sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def _stage(folder: Path, name: str) -> dict[str, Any]:
    rows = _rows(folder / f"{name}.log.jsonl")
    last = rows[-1] if rows else {}
    grids = sorted(folder.glob(f"{name}.samples-*.png"))
    step = max(1, -(-len(grids) // MOST_GRIDS))
    shown = [
        {"address": quote(path.name), "images": _images(path), "cards": _cards(path)} for path in grids[::-1][::step]
    ]
    curves = folder / f"{name}.curves.png"
    return {
        "name": name.replace("_", " "),
        "images": f"{last.get('images_seen', 0):,}",
        "figures": [(title, f"{last[key]:,.4g}") for key, title in FIGURES.items() if key in last],
        "curves": f"{quote(curves.name)}?{curves.stat().st_mtime_ns}" if curves.is_file() else "",
        "grids": shown,
        "left_out": len(grids) - len(shown),
        "events": _rows(folder / f"{name}.events.jsonl"),
    }


def _cards(path: Path) -> list[dict[str, Any]]:
    """The pictures of a grid with their words, which the page's style cuts out of its file. Where rows have labels, pictures below
    each other belong together: the same noise, drawn by several models."""
    found = read_cells(path)
    if found is None:
        return []
    cells, (width, height) = found
    groups: dict[Any, list[tuple[int, int]]] = {}
    for row, count in enumerate(cells.counts):
        for column in range(count):
            groups.setdefault(column if cells.labels else (row, column), []).append((row, column))
    shape = {"ratio": f"{cells.width} / {cells.height}"}
    shape |= {"wide": _percent(width, cells.width), "high": _percent(height, cells.height)}
    cards = []
    for places in groups.values():
        said = [cells.captions[row][column] for row, column in places if column < len(cells.captions[row])]
        pictures = [
            {
                "label": cells.labels[row] if cells.labels else "",
                "x": _percent(cells.left + column * cells.step, width - cells.width),
                "y": _percent(cells.tops[row], height - cells.height),
            }
            for row, column in places
        ]
        cards.append({"pictures": pictures, "caption": said[-1] if said else "", **shape})
    return cards


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(1, whole):.3f}%"


def _images(path: Path) -> str:
    count = path.stem.rpartition("-")[2]
    return f"{int(count):,} images" if count.isdecimal() else count


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows that are whole: the last one may be written just now."""
    rows = []
    for line in path.read_text("utf-8", "replace").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows += [row] if isinstance(row, dict) else []
    return rows

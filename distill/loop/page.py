"""The page of a training: `OUT/training/index.html`, to look at while it runs and afterwards.

Curves, grids of samples over time, events and settings of every stage, from the files that the stages write beside it (`logbook`);
pictures are loaded from there, nothing from elsewhere. A page of a running training loads itself anew every half minute, until its
checkbox is cleared. The command that trains writes it once more when it ends, and why (`saying_how_it_ends`). A process that is
killed cannot: the page of a running training says when to expect the next, and notices that none came. Without jinja2 there is no
page.

Not here: what is in the files; curves (`page_curves`), settings (`page_settings`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from genin.benchmarks.report.page import render_page
from genin.distill.loop.page_curves import curves, figures
from genin.distill.loop.page_settings import RunSettings
from genin.distill.loop.previews import Cells, read_cells
from genin.files import write_text
from genin.processes import is_main_process

PAGE = "index.html"
MOST_GRIDS = 24  # of a stage, evenly over time; the newest is always among them
ORDER = ("autoencoder", "text_encoder", "teacher", "finetune", "alignment", "prune", "steps", "adversarial", "decoder")
FIGURES = {"loss": "loss", "images_per_s": "images per second", "kid": "KID, held out", "elapsed_s": "of training"}


def write_page(folder: Path, *, running: str | None = None, progress: float = 1.0, stopped: str = "") -> None:
    """Write the page of a run's folder; `running` is the stage in progress, `progress` its share done. Otherwise the run is over:
    finished, or `stopped` by what this says."""
    if find_spec("jinja2") is None:
        return
    settings, names = RunSettings(folder), _stages(folder)
    stages = [_stage(folder, name, settings) for name in names]
    now = time.time()
    values = {
        "name": folder.resolve().parent.name,
        "running": running and running.replace("_", " "),
        "percent": f"{100 * min(1.0, progress):.0f} %",
        "stage_over": progress >= 1,
        "stopped": stopped,
        "cut_short": [stage["name"] for stage in stages if stage["short"]] if not running and not stopped else [],
        "written": time.strftime("%Y-%m-%d %H:%M", time.localtime(now)),
        "written_s": int(now),
        "interval_s": _interval_s(_rows(folder / f"{running}.log.jsonl"), settings.get(running, "batch_size"))
        if running
        else None,
        "stages": stages,
        "settings": settings.shown(names),
    }
    write_text(folder / PAGE, render_page("genin.distill.loop", "training.html.jinja", values) + "\n")


@contextmanager
def saying_how_it_ends(folder: Path) -> Iterator[None]:
    """Write the page once more when the run in this folder ends: finished, interrupted, or stopped by an error."""
    stopped = ""
    try:
        yield
    except KeyboardInterrupt:
        stopped = "Interrupted."
        raise
    except BaseException as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        stopped = f"Stopped by an error: {first}{'' if first.endswith('.') else '.'}"
        raise
    finally:
        if is_main_process() and any(folder.glob("*.log.jsonl")):
            with suppress(OSError):  # what ended the run is what its command says
                write_page(folder, stopped=stopped)


def _interval_s(rows: Sequence[Mapping[str, Any]], batch_size: Any) -> int | None:
    """About how many seconds pass until the page is written again, after an update; None where that is not known."""
    rate = rows[-1].get("images_per_s") if rows else None
    if not isinstance(rate, (int, float)) or not isinstance(batch_size, int) or rate <= 0:
        return None
    return max(30, round(batch_size / rate))


def _stages(folder: Path) -> list[str]:
    found = {path.name.removesuffix(".log.jsonl") for path in folder.glob("*.log.jsonl")}
    return sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def _stage(folder: Path, name: str, settings: RunSettings) -> dict[str, Any]:
    rows = _rows(folder / f"{name}.log.jsonl")
    last = rows[-1] if rows else {}
    seen, due = last.get("images_seen", 0), settings.images(name)
    grids = sorted(folder.glob(f"{name}.samples-*.png"))
    step = max(1, -(-len(grids) // MOST_GRIDS))
    return {
        "name": name.replace("_", " "),
        "images": f"{seen:,} of {due:,}" if seen < due else f"{seen:,}",
        "short": seen < due,
        "figures": [(title, _said(key, last[key])) for key, title in FIGURES.items() if key in last],
        "others": figures(rows, ("lr_factor", *FIGURES)),
        "curves": curves(rows),
        "grids": [
            {"address": quote(path.name), "images": _images(path), **_sheet(path)} for path in grids[::-1][::step]
        ],
        "left_out": len(grids) - len(grids[::-1][::step]),
        "events": _rows(folder / f"{name}.events.jsonl"),
    }


def _said(key: str, value: Any) -> str:
    """A figure in words: a time as people read it."""
    if key != "elapsed_s":
        return f"{value:,.4g}"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


def _sheet(path: Path) -> dict[str, Any]:
    """The pictures of a grid with their words, which the page's style cuts out of its file. Where rows have labels, pictures below
    each other belong together, the same noise drawn by several models: `rows` keeps them so, with `captions` below. Others are
    `cards`, each with its caption."""
    found = read_cells(path)
    if found is None:
        return {"rows": [], "cards": [], "captions": []}
    cells, (width, height) = found
    shape = {"ratio": f"{cells.width} / {cells.height}"}
    shape |= {"wide": _percent(width, cells.width), "high": _percent(height, cells.height)}
    rows = [
        [
            {
                "x": _percent(cells.left + column * cells.step, width - cells.width),
                "y": _percent(cells.tops[row], height - cells.height),
                "caption": _caption(cells, row, column),
            }
            for column in range(count)
        ]
        for row, count in enumerate(cells.counts)
    ]
    if not cells.labels:
        return {**shape, "rows": [], "cards": [one for row in rows for one in row], "captions": []}
    columns = max(cells.counts, default=0)
    said = [
        next((text for row in reversed(range(len(rows))) if (text := _caption(cells, row, column))), "")
        for column in range(columns)
    ]
    labelled = [
        (label, [one | {"caption": said[column]} for column, one in enumerate(row)])
        for label, row in zip(cells.labels, rows, strict=True)
    ]
    return {**shape, "rows": labelled, "cards": [], "captions": said, "columns": columns}


def _caption(cells: Cells, row: int, column: int) -> str:
    texts = cells.captions[row] if row < len(cells.captions) else ()
    return texts[column] if column < len(texts) else ""


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

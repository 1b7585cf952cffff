"""Export captions for people to correct, and read the corrections back.

A CSV for spreadsheets, or a page with every picture above its caption that saves a JSON Lines file; both are read back by file
name, several rows of one picture in their order. Only what is in the file changes: pictures and columns that it lacks stay as they
are. An empty caption removes the caption.
`metadata.jsonl` is replaced as a whole, and the dataset's page shows the new captions (`report`).

Not here: captions by a model (`caption`).
"""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from genin.benchmarks.report.page import render_page
from genin.dataset import shards
from genin.dataset.tables import CAPTION_COLUMNS, Table, is_metadata, read_table
from genin.dataset.text import clean
from genin.distill.data.dataset import KNOWN_COLUMNS, read_facts
from genin.distill.data.report import rewrite_captions, small_jpeg
from genin.distill.data.rows import read_rows, remove_caption, write_rows
from genin.files import write_text
from genin.runtimes.errors import InputError, MissingExtraError
from genin.runtimes.wording import counted

FIXED = ("file_name", "split", "seed", "source_file")  # columns that corrections never change


@dataclass(frozen=True)
class Edited:
    """`changed` rows differ from before; `captions` is how many of all rows have a caption now, `notes` what of the table
    was read otherwise than it is written."""

    changed: int
    unchanged: int
    captions: int
    missing: int
    notes: tuple[str, ...] = ()


def write_for_editing(folder: Path, path: Path) -> int:
    """Write the captions of a dataset folder as a table or a page, by the suffix; returns how many rows it has.

    Errors: InputError for another suffix or a folder without pictures, MissingExtraError for a page without jinja2.
    """
    rows = read_rows(folder)
    columns = ["file_name", "text", *_columns(folder, rows), "source_file"]
    suffix = path.suffix.lower()
    if is_metadata(path.name) and path.parent.resolve() == folder.resolve():
        what, remedy = "that is the dataset's own table, which has more columns", "name another file"
        raise InputError(what, where=path, remedy=remedy)
    if suffix == ".csv":
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, columns, extrasaction="ignore", restval="")
        table.writeheader()
        table.writerows(rows)
        content = "\ufeff" + text.getvalue()  # without the byte order mark Excel assumes the system's code page
    elif suffix == ".jsonl":
        kept = ({name: row.get(name) or "" for name in columns} for row in rows)
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
    elif suffix == ".html":
        content = _page(folder, path, rows, columns[2:-1])
    else:
        raise InputError(
            "captions are written as .csv, .jsonl or .html", where=path, remedy="give one of these suffixes"
        )
    write_text(path, content, newline="")
    return len(rows)


def read_edited(folder: Path, path: Path) -> Edited:
    """Apply a table of corrections. Errors: InputError for a file that is not such a table, or names pictures that do not exist."""
    rows = read_rows(folder)
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(row["file_name"], []).append(row)
    before = json.dumps(rows, sort_keys=True)
    table = _table(path)
    said = [row.values for row in table.rows]
    names = [row["file_name"] for row in said]
    if unknown := [name for name in names if name not in by_name]:
        what = f"{counted(len(unknown), 'row names', 'rows name')} no picture of {folder.name}, first '{unknown[0]}'"
        raise InputError(what, where=path, remedy="file_name is the picture's name in the dataset folder")
    for name, count in Counter(names).items():
        if count != len(by_name[name]):
            what = f"'{name}' has {counted(count, 'row')}, and {len(by_name[name])} in the dataset"
            remedy = "keep all rows of a picture, in their order, or none: which one is meant cannot be told otherwise"
            raise InputError(what, where=path, remedy=remedy)
    changed = 0
    for name, entry in zip(names, said, strict=True):
        changed += _change(by_name[name].pop(0), entry)
    if json.dumps(rows, sort_keys=True) != before:
        write_rows(folder, rows)
        rewrite_captions(folder)
    captions = sum(bool(row.get("text")) for row in rows)
    return Edited(changed, len(rows) - changed, captions, len(rows) - captions, tuple(table.notes))


def _change(row: dict[str, Any], said: Mapping[str, Any]) -> bool:
    was = dict(row)
    for name, value in said.items():
        if name in FIXED:
            continue
        text = clean(value)
        if text == clean(row.get(name) or ""):
            continue
        if text:
            row[name] = text
        elif name == "text":
            remove_caption(row)
        else:
            row.pop(name, None)
    return row != was


def _columns(folder: Path, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns that say what is in the picture, of those that a row has."""
    named = dict.fromkeys((*(read_facts(folder).get("columns") or ()), *KNOWN_COLUMNS))
    present = [name for name in named if any(row.get(name) for row in rows)]
    return [name for name in present if all(isinstance(row.get(name) or "", str) for row in rows)]


def _table(path: Path) -> Table:
    try:
        table = read_table(path, known=("file_name",))
    except OSError as error:
        raise InputError(
            "no such table of captions", where=path, remedy="genin data edit DIR --to FILE writes one"
        ) from error
    if table.bad:
        number, reason = table.bad[0]
        raise InputError(f"line {number} is not a row of captions ({reason})", where=path, remedy="repair the line")
    if other := next((name for name in table.columns() if _is_other_caption(name)), None):
        what = f"the column of captions is called '{other}'"
        raise InputError(what, where=path, remedy="call it text: other columns are attributes")
    for row in table.rows:
        if not isinstance(row.values.get("file_name"), str):
            what = f"the table has no column file_name (line {row.number})"
            raise InputError(what, where=path, remedy="keep the header as it was written")
        if not all(isinstance(value, str) for value in row.values.values()):
            remedy = 'every line is an object of texts: {"file_name": "000000.png", "text": "…"}'
            raise InputError(f"line {row.number} is not a row of captions", where=path, remedy=remedy)
    return table


def _is_other_caption(name: str) -> bool:
    return name != "text" and name.lower() in CAPTION_COLUMNS


def _page(folder: Path, path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    if find_spec("jinja2") is None:
        raise MissingExtraError("jinja2", "data")
    place = quote(Path(os.path.relpath(folder, path.parent)).as_posix())
    pictures = []
    for row in rows:
        inside = shards.SUFFIX + "/" in row["file_name"]  # where browsers do not display it
        address = small_jpeg(folder / row["file_name"]) if inside else f"{place}/{quote(row['file_name'])}"
        pictures.append({"said": row, "address": address})
    values = {
        "name": folder.name,
        "rows": pictures,
        "columns": columns,
        "missing": sum(not (row.get("text") or "").strip() for row in rows),
        "written": time.strftime("%Y-%m-%d %H:%M"),
    }
    return render_page("genin.distill.data", "edit.html.jinja", values)

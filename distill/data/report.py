"""The page that shows how a dataset came about: what is in it, what was dropped and why.

One HTML file that contains its small pictures and loads nothing. Commands that change captions write its first part anew, what is
in the dataset (`rewrite_captions`); what was dropped stays, as those pictures are not in the folder.

Not here: markup (`templates/report.html.jinja`), the card (`card`), deciding anything (`prepare`).
"""

from __future__ import annotations

import base64
import io
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from genin.benchmarks.report.page import render_page
from genin.dataset.files import PictureError, read_picture
from genin.dataset.rows import PictureRow
from genin.dataset.sets import open_picture_set
from genin.distill.data.dataset import read_facts
from genin.distill.data.find import Dropped
from genin.distill.data.inspection import caption_tokens, common_words
from genin.files import write_text

PAGE = "report.html"
SHOWN = 120  # dropped pictures
SAMPLES = (24, 12)  # pictures of the dataset; either fills rows of 3, 4 and 6
PREVIEW = 96
BEGIN, END = "<!-- begin: what is in it -->", "<!-- end: what is in it -->"
KINDS = {"picture": "pictures", "page": "pages", "comic": "comics", "video": "videos", "table": "tables"}
CAPTION_ORIGINS = {"metadata": "tables", "sidecar": "text files beside the pictures", "name": "folder and file names"}


@dataclass(frozen=True)
class Entry:
    """Something that was read and dropped: its picture, where there is one, and the picture that it duplicates."""

    path: str
    reason: str
    png: str | None = None
    like: str | None = None


def write_page(
    path: Path,
    report: Mapping[str, Any],
    rows: Sequence[PictureRow],
    entries: Sequence[Entry],
    unread: Sequence[Dropped],
    pieces: Path,
) -> bool:
    """Write the page; False where jinja2 is not installed (`genin[data]`)."""
    if find_spec("jinja2") is None:
        return False
    shown = [
        {
            "path": entry.path,
            "reason": entry.reason,
            "picture": _jpeg(pieces, entry.png),
            "like": _jpeg(pieces, entry.like),
        }
        for entry in _spread(entries, SHOWN)
    ]
    reasons = Counter(_kind(reason) for reason in (*(e.reason for e in entries), *(d.reason for d in unread)))
    values = {
        "reasons": reasons.most_common(),
        "repeated": any(count > 1 for count in reasons.values()),  # otherwise each is said at its picture
        "shown": shown,
        "more": len(entries) - len(shown),
        "unread": unread,
    }
    contents = _contents(path.parent, report, rows)
    text = render_page("genin.distill.data", "report.html.jinja", contents | values)
    path.write_text(text, encoding="utf-8")
    return True


def rewrite_captions(folder: Path) -> bool:
    """Write the part of a dataset's page anew that says what is in it; False where it has no such page, or jinja2 is missing."""
    path, report = folder / PAGE, read_facts(folder).get("report")
    if find_spec("jinja2") is None or not path.is_file() or not isinstance(report, Mapping):
        return False
    page = path.read_text(encoding="utf-8", errors="replace")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.rpartition(END)
    if not begin or not end:  # written by an earlier version, or by something else
        return False
    rows = open_picture_set(folder).rows
    now = {**report, "kept": len(rows), "captions_missing": sum(not row.text for row in rows)}
    contents = _contents(folder, now, rows) | {"corrected": True}
    part = render_page("genin.distill.data", "contents.html.jinja", contents)
    write_text(path, f"{before}{begin}\n{part}\n{end}{after}")
    return True


def _contents(folder: Path, report: Mapping[str, Any], rows: Sequence[PictureRow]) -> dict[str, Any]:
    """What the page says of the pictures that are in the dataset."""
    captions = [row.text for row in rows if row.text]
    count = next((number for number in SAMPLES if len(rows) >= number), len(rows))
    return {
        "begin": BEGIN,
        "end": END,
        "report": report,
        "name": Path(report["out"]).name,
        "written": time.strftime("%Y-%m-%d %H:%M"),
        "corrected": False,
        "taken_from": [(KINDS.get(kind, kind), number) for kind, number in report["taken_from"].items()],
        "sizes": [(size.replace("x", "×"), number) for size, number in report["sizes"].items()],
        "captions_from": [(CAPTION_ORIGINS.get(by, by), number) for by, number in report["captions_from"].items()],
        "tokens": caption_tokens(captions, None, None) if captions else None,
        "words": common_words(captions),
        "distinct": len(set(captions)),
        "sample": [(small_jpeg(folder / row.file_name), row.text or "", row.file_name) for row in _spread(rows, count)],
    }


def _kind(reason: str) -> str:
    """The kind of a reason, without the details of one file."""
    return reason.partition(" (")[0].partition(" of ")[0] if "duplicate of" in reason or " (" in reason else reason


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """Up to `count` of them, evenly."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def _jpeg(folder: Path, name: str | None) -> str:
    return small_jpeg(folder / name) if name else ""


def small_jpeg(path: Path) -> str:
    """A picture as a data address, empty for a broken one; small pictures keep hard pixels."""
    try:
        small = read_picture(path)
    except PictureError:
        return ""
    if max(small.size) < PREVIEW:
        scale = PREVIEW // max(small.size)
        small = small.resize((small.width * scale, small.height * scale), Image.Resampling.NEAREST)
    small.thumbnail((PREVIEW * 2, PREVIEW * 2))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()

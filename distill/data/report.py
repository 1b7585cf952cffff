"""The page that shows how a dataset came about: what is in it, what was dropped and why.

One HTML file that contains its small pictures and loads nothing. Not here: markup (`templates/report.html.jinja`), the card
(`card`), deciding anything (`prepare`).
"""

from __future__ import annotations

import base64
import io
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
from genin.distill.data.find import Dropped
from genin.distill.data.inspection import caption_tokens, common_words

PAGE = "report.html"
SHOWN = 120  # dropped pictures
PREVIEW = 96


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
    captions = [row.text for row in rows if row.text]
    shown = [
        {
            "path": entry.path,
            "reason": entry.reason,
            "picture": _jpeg(pieces, entry.png),
            "like": _jpeg(pieces, entry.like),
        }
        for entry in _spread(entries, SHOWN)
    ]
    values = {
        "report": report,
        "name": Path(report["out"]).name,
        "reasons": Counter(
            _kind(reason) for reason in (*(e.reason for e in entries), *(d.reason for d in unread))
        ).most_common(),
        "shown": shown,
        "more": len(entries) - len(shown),
        "unread": unread,
        "tokens": caption_tokens(captions, None, None) if captions else None,
        "words": common_words(captions),
        "distinct": len(set(captions)),
        "sample": [
            (small_jpeg(path.parent / row.file_name), row.text or "(no caption)", row.file_name)
            for row in _spread(rows, 24)
        ],
    }
    text = render_page("genin.distill.data", "report.html.jinja", values)
    path.write_text(text, encoding="utf-8")
    return True


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

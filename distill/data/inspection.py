"""What is in a dataset folder: counts, sizes, captions, columns, and a contact sheet to look at.

Every picture is decoded, so that a broken one is found here and not after an hour of training. Token counts are exact
with a tokenizer; without one they are a lower bound (words, marks and digits as CLIP splits them, before any word is
spelt in pieces), and the result says which.

Not here: changing anything in the folder.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from genin.benchmarks.report.fonts import font_for, wrap
from genin.dataset.beside import left_out
from genin.dataset.files import PictureError, fit_square, open_picture, read_picture
from genin.dataset.rows import PictureRow
from genin.dataset.sets import open_picture_set
from genin.dataset.splits import SPLITS, splits_of
from genin.dataset.text import listed
from genin.distill.data.dataset import attribute_columns, licence_of, read_facts
from genin.distill.data.find import Dropped
from genin.runtimes.errors import InputError
from genin.runtimes.folder import plain_json
from genin.runtimes.wording import counted

CLIP_LIMIT = 77
COMMON_WORDS = 20
CLIP_PIECES = re.compile(r"'(?:s|t|re|ve|m|ll|d)|[^\W\d_]+|\d|[^\s\w]+|_")
STOP_WORDS = frozenset(("a", "an", "and", "at", "by", "for", "from", "in", "is", "it", "of", "on", "the", "to", "with"))
TILE, LABEL = 128, 28


def inspect_dataset(
    folder: Path,
    *,
    tokenizer: Any | None = None,
    limit: int | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """The facts of a dataset folder, ready for JSON. `limit`: tokens a model reads. Errors: InputError."""
    pictures = open_picture_set(folder)
    rows, facts = pictures.rows, read_facts(folder)
    sizes: Counter[str] = Counter()
    broken: list[Dropped] = []
    several: list[str] = []
    for row in rows:
        try:
            opened = open_picture(folder / row.file_name)
            width, height = opened.image.size
            sizes[f"{width}x{height}"] += 1
            several += [row.file_name] if opened.frames > 1 else []
        except PictureError as error:
            broken.append(Dropped(row.file_name, error.what))
        advance(1)
    captions = [row.text for row in rows if row.text]
    columns = attribute_columns(rows, facts.get("columns"))
    splits = Counter(splits_of(rows))
    return {
        "folder": str(folder),
        "pictures": len(rows),
        "broken": [{"path": entry.path, "reason": entry.reason} for entry in broken],
        "sizes": dict(sizes.most_common()),
        "splits": {split: splits[split] for split in SPLITS},
        "captions": {"present": len(captions), "missing": len(rows) - len(captions), "distinct": len(set(captions))},
        "tokens": caption_tokens(captions, tokenizer, limit) if captions else None,
        "words": [list(pair) for pair in common_words(captions)],
        "columns": {name: dict(Counter(row.columns.get(name, "none") for row in rows)) for name in columns},
        "licence": licence_of(rows, facts),
        "notes": [*pictures.notes, *left_out(folder, rows), *_notes(rows, several)],
    }


def _notes(rows: Sequence[PictureRow], several: Sequence[str]) -> Iterator[str]:
    if several:
        yield (
            f"{counted(len(several), 'file holds', 'files hold')} several pictures, of which the first is used "
            f"(animations, pages): {listed(several)}"
        )
    if damaged := [row.file_name for row in rows if "\ufffd" in (row.text or "")]:
        yield (
            f"{counted(len(damaged), 'caption holds', 'captions hold')} replacement characters (an earlier program "
            f"could not read them): {listed(damaged)}"
        )


def caption_tokens(captions: Sequence[str], tokenizer: Any | None, limit: int | None) -> dict[str, Any]:
    """Lengths of captions in tokens, start and end included, against what a model reads."""
    if tokenizer is None:
        counts = [len(CLIP_PIECES.findall(caption)) + 2 for caption in captions]
    else:
        counts = [len(ids) for ids in tokenizer(list(captions), truncation=False, verbose=False)["input_ids"]]
        limit = limit or min(int(tokenizer.model_max_length), 1_000_000)
    limit = limit or CLIP_LIMIT
    over = [caption for caption, count in zip(captions, counts, strict=True) if count > limit]
    return {
        "exact": tokenizer is not None,
        "mean": round(float(np.mean(counts)), 1),
        "p99": int(np.percentile(counts, 99)),
        "max": max(counts),
        "limit": limit,
        "over_limit": len(over),
        "longest": captions[int(np.argmax(counts))],
    }


def common_words(captions: Sequence[str], count: int = COMMON_WORDS) -> list[tuple[str, int]]:
    """The most frequent content words, with the number of captions that contain them."""
    words = Counter(word for caption in captions for word in set(re.findall(r"\w*[^\W\d_]\w*", caption.casefold())))
    ordered = sorted(words.items(), key=lambda item: (-item[1], item[0]))
    return [(word, n) for word, n in ordered if word not in STOP_WORDS][:count]


def load_tokenizer(path: Path) -> Any:
    """The tokenizer of a model folder, a bundle or a tokenizer's own folder. Errors: InputError."""
    from transformers import AutoTokenizer

    folder = path / "tokenizer" if (path / "tokenizer").is_dir() else path
    try:
        with plain_json(folder) as plain:
            return AutoTokenizer.from_pretrained(plain, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise InputError("no readable tokenizer", where=path, remedy="give a model folder") from error


# --- contact sheet ---------------------------------------------------------------------------------------------------


def contact_sheet(folder: Path, *, columns: int = 10, rows: int = 10, tile: int = TILE) -> Image.Image:
    """Up to columns × rows pictures, evenly spread over the folder, each over the start of its caption."""
    every = open_picture_set(folder).rows
    count = min(len(every), columns * rows)
    chosen = [every[i * len(every) // count] for i in range(count)]
    lines = -(-count // columns)
    sheet = Image.new("RGB", (min(columns, count) * tile, lines * (tile + LABEL)), "white")
    draw = ImageDraw.Draw(sheet)
    font = font_for("".join(row.text or "" for row in chosen), 10)
    for index, row in enumerate(chosen):
        x, y = index % columns * tile, index // columns * (tile + LABEL)
        sheet.paste(_tile(folder, row, tile), (x, y))
        draw.text(
            (x + 2, y + tile + 1),
            "\n".join(wrap(row.text or "(no caption)", font, tile - 4, max_lines=2)),
            "black",
            font,
        )
    return sheet


def _tile(folder: Path, row: PictureRow, tile: int) -> Image.Image:
    """The picture as training sees it; small ones keep hard pixels, broken ones are a red square."""
    try:
        picture = read_picture(folder / row.file_name)
    except PictureError:
        return Image.new("RGB", (tile - 2, tile - 2), (200, 40, 40))
    side = min(picture.size)
    if side <= tile // 2:
        square = fit_square(picture, side)
        return square.resize((tile - 2, tile - 2), Image.Resampling.NEAREST)
    return fit_square(picture, tile - 2)

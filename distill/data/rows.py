"""The rows of a dataset folder as they are in `metadata.jsonl`, to be changed and written back: every column and number is kept. A
folder of shards, or with one folder per split, has no such file until then: it gets one beside them, with their texts.

Not here: what the columns mean (`dataset`), the checked rows that training reads (`dataset.sets`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genin.dataset.sets import METADATA, open_picture_set
from genin.files import write_text


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Raw rows, checked by the reader that training uses; a folder without metadata has one row per picture, with what a shard says
    about it. Errors: InputError."""
    checked = open_picture_set(folder).rows
    metadata = folder / METADATA
    if not metadata.is_file():
        said = [{"text": row.text, "seed": row.seed, **row.columns} for row in checked]
        return [
            {"file_name": row.file_name} | {key: value for key, value in more.items() if value is not None}
            for row, more in zip(checked, said, strict=True)
        ]
    return [json.loads(line) for line in metadata.read_text(encoding="utf-8").split("\n") if line.strip()]


def write_rows(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Replace `metadata.jsonl` as a whole."""
    write_text(folder / METADATA, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

"""The rows of a dataset folder as they are in its metadata, to be changed and written back as `metadata.jsonl`: every column and
number is kept. A folder of shards, one with one folder per split, or one whose metadata is a CSV or parquet file has no such file
until then: it gets one beside them, which is read from then on.

Not here: what the columns mean (`dataset`), the checked rows that training reads (`dataset.sets`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genin.dataset.rows import PictureRow
from genin.dataset.sets import METADATA, open_picture_set, table_rows
from genin.dataset.tables import FILE_COLUMNS, column_of, is_null, json_line
from genin.files import write_text
from genin.runtimes.errors import InputError


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Raw rows, checked by the reader that training uses; a folder without metadata has one row per picture, with what a shard or a
    text file says about it. Errors: InputError."""
    checked = open_picture_set(folder).rows
    for row in checked:
        try:
            row.file_name.encode("utf-8")
        except UnicodeEncodeError as error:
            remedy = "rename the file, or: genin data prepare"
            raise InputError("a file's name is not Unicode", where=folder / row.file_name, remedy=remedy) from error
    rows = table_rows(folder, [])
    if rows is not None:
        return [_raw(row, values) for row, values in rows]
    said = [{"text": row.text, "seed": row.seed, **row.columns} for row in checked]
    return [
        {"file_name": row.file_name} | {key: value for key, value in more.items() if value is not None}
        for row, more in zip(checked, said, strict=True)
    ]


def _raw(row: PictureRow, values: Mapping[str, Any]) -> dict[str, Any]:
    """The table's row under the names that training reads."""
    kept = {key: value for key, value in values.items() if key != column_of(values, FILE_COLUMNS)}
    if row.text is not None:
        kept["text"] = row.text
    elif is_null(kept.get("text")):
        kept.pop("text", None)
    return {"file_name": row.file_name} | kept


def write_rows(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Replace `metadata.jsonl` as a whole."""
    write_text(folder / METADATA, "".join(map(json_line, rows)))

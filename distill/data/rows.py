"""The rows of a dataset folder as they are in its metadata, to be changed and written back as `metadata.jsonl`: every column and
number is kept. A folder of shards, one with one folder per split, or one whose metadata is a CSV or parquet file has no such file
until then: it gets one beside them, which is read from then on.

Not here: what the columns mean (`dataset`), the checked rows that training reads (`dataset.sets`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genin.dataset.rows import PictureRow
from genin.dataset.sets import METADATA, stored_rows
from genin.dataset.shards import SUFFIX
from genin.dataset.tables import CAPTION_COLUMNS, FILE_COLUMNS, column_of, json_line, text_of
from genin.files import write_text
from genin.runtimes.errors import InputError


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Raw rows, checked as by training; a folder without metadata has one row per picture, with what a shard or a text file says
    about it. Errors: InputError."""
    rows = stored_rows(folder, [])
    for row, _ in rows:
        try:
            row.file_name.encode("utf-8")
        except UnicodeEncodeError as error:
            remedy = "rename the file, or: genin data prepare"
            raise InputError("a file's name is not Unicode", where=folder / row.file_name, remedy=remedy) from error
    return [_raw(row, values) for row, values in rows]


def _raw(row: PictureRow, values: Mapping[str, Any]) -> dict[str, Any]:
    """A row as it is stored, under the names that training reads. In a shard the file and its caption may be said elsewhere than in
    `values`, and other columns may have their usual names."""
    table = SUFFIX + "/" not in row.file_name.lower()
    named = {column_of(values, FILE_COLUMNS)} if table else {"file_name"}
    captions = [column_of(values, (name,)) for name in CAPTION_COLUMNS]
    used = next((name for name in captions if name is not None and text_of(values[name])), None)
    if used is not None and (table or row.text in (values[used], text_of(values[used]))):
        named.add(used)
    kept = {key: _storable(value) for key, value in values.items() if key not in (*named, "text")}
    found = {"file_name": row.file_name} | ({} if row.text is None else {"text": _storable(row.text)}) | kept
    if "split" in row.columns:
        found["split"] = row.columns["split"]
    return found if row.seed is None else found | {"seed": row.seed}


def remove_caption(row: dict[str, Any]) -> None:
    """Without the columns that would be read in its place."""
    for name in [key for key in row if key.lower() in CAPTION_COLUMNS]:
        del row[name]


def _storable(value: Any) -> Any:
    """A value as JSON in UTF-8 has it: half a character becomes �, dates and decimals become texts, bytes null."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if value is None or isinstance(value, bytes | bytearray) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_storable(one) for one in value]
    if isinstance(value, Mapping):
        return {_storable(str(key)): _storable(one) for key, one in value.items()}
    return str(value)


def write_rows(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Replace `metadata.jsonl` as a whole."""
    write_text(folder / METADATA, "".join(map(json_line, rows)))


class Filling:
    """Rows that are given captions over hours. Meanwhile others may correct the table: what is in it then stays.

    Errors: as `read_rows`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows, self._state = folder, read_rows(folder), _state(folder)

    def save(self, filled: Sequence[dict[str, Any]]) -> None:
        """Write the table with what these of the rows were given; a row that has a caption in the table keeps that one."""
        if _state(self.folder) != self._state:
            self.rows = read_rows(self.folder)
        waiting: dict[str, list[dict[str, Any]]] = {}
        for row in filled:
            waiting.setdefault(row["file_name"], []).append(row)
        for row in self.rows:
            if not row.get("text") and (own := waiting.get(row["file_name"])):
                row.update(own.pop(0) | row)
        write_rows(self.folder, self.rows)
        self._state = _state(self.folder)


def _state(folder: Path) -> tuple[int, int, int] | None:
    try:
        stat = (folder / METADATA).stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns

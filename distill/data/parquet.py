"""Parquet files of captioned pictures, as the hub keeps its image sets: a column of pictures, and columns that say what they show.

    image: {bytes, path} or bytes  |  text  |  label (a class: its number becomes its name)  |  …

A file is read by row groups, with only a few rows in memory at a time, so that its size does not matter.

Not here: opening the pictures (`extract`), which column is the caption (`find`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genin.dataset.files import PictureError
from genin.runtimes.errors import InputError

SUFFIXES = (".parquet",)
ROWS_AT_ONCE = 16
BUFFER_BYTES = 1 << 20
NOT_TEXT = "a text of the row is not UTF-8"
USUAL = ("image", "picture", "img", "jpg", "png", "webp", "file", "bytes")


@dataclass(frozen=True)
class RowGroup:
    """Some rows of a table: which row group, the number of its first row in the file, and the column of the pictures."""

    number: int
    first_row: int
    column: str


@dataclass(frozen=True)
class Table:
    """What a file's footer says: its row groups, and the columns that hold texts or numbers."""

    groups: tuple[RowGroup, ...]
    columns: tuple[str, ...]


@dataclass(frozen=True)
class TableRow:
    """`content` is the picture's file, None with a `reason` where the row has none; `name` its file name if the row says one."""

    number: int
    content: bytes | None
    name: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None


def open_table(path: Path, wanted: str | None = None) -> Table:
    """Read a file's footer. Pictures are in the column `wanted`, else in the first with a usual name, else in the only one.

    Errors: InputError for a file that is not parquet, or has no such column.
    """
    with _open(path) as file:
        schema, metadata = file.schema_arrow, file.metadata
        able = [column.name for column in schema if _holds_files(column.type)]
        column = next((name for name in (wanted, *USUAL) if name in able), able[0] if len(able) == 1 else None)
        if column is None:
            found = (
                f"several columns could hold the pictures: {', '.join(able)}" if able else "no column holds pictures"
            )
            remedy = f"--file-column names it; the columns are: {', '.join(schema.names)}"
            raise InputError(found, where=path, remedy=remedy)
        groups, first = [], 0
        for number in range(metadata.num_row_groups):
            groups.append(RowGroup(number, first, column))
            first += metadata.row_group(number).num_rows
        return Table(tuple(groups), tuple(column.name for column in schema if _says(column.type)))


def rows_of(path: Path, group: RowGroup) -> Iterator[TableRow]:
    """The rows of a row group, in order. Errors: PictureError where the file is damaged, after the rows before that."""
    import pyarrow

    try:
        with _open(path) as file:
            says = [column.name for column in file.schema_arrow if _says(column.type)]
            classes = _classes(file.schema_arrow)
            batches = file.iter_batches(
                ROWS_AT_ONCE, row_groups=[group.number], columns=[group.column, *says], use_threads=False
            )
            number = group.first_row
            for batch in batches:
                for row in _values(batch):
                    yield _row(number, row, group.column, classes) if row else TableRow(number, None, reason=NOT_TEXT)
                    number += 1
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise PictureError(f"row group {group.number} cannot be read ({reason})", where=path) from error


def _values(batch: Any) -> list[dict[str, Any] | None]:
    """A batch's rows; None for one with a text that is not UTF-8, which costs no other its place."""
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return [None]
        return [row for start in range(batch.num_rows) for row in _values(batch.slice(start, 1))]


def _open(path: Path) -> Any:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError("not a parquet file, or truncated", where=path, remedy="download it again") from error


def _holds_files(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return any(kind.field(i).name == "bytes" and _holds_files(kind.field(i).type) for i in range(kind.num_fields))
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _says(kind: Any) -> bool:
    """Texts, numbers and lists of texts; embeddings and nested things are not read."""
    from pyarrow import types

    if types.is_list(kind) or types.is_large_list(kind):
        return _is_text(kind.value_type)
    return _is_text(kind) or bool(types.is_integer(kind) or types.is_floating(kind))


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _classes(schema: Any) -> dict[str, Sequence[str]]:
    """Column => the names that its numbers stand for (`ClassLabel`), as the datasets library notes them in the file."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        known = {name: feature.get("names") for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}
    return {name: names for name, names in known.items() if isinstance(names, list)}


def _row(number: int, row: dict[str, Any], column: str, classes: Mapping[str, Sequence[str]]) -> TableRow:
    cell = row.pop(column)
    content, name = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    for key, names in classes.items():
        if isinstance(row.get(key), int):
            row[key] = names[row[key]] if 0 <= row[key] < len(names) else None
    reason = None
    if not content:
        reason = "the row names a file but does not contain it" if name else "the row has no picture"
    return TableRow(number, content or None, name if isinstance(name, str) else "", row, reason)

"""Tables of pictures and captions: `.jsonl`, `.csv` and `.parquet`, read the same for every command.

    rows with their places, rows that cannot be used with the reasons, and notes on what was taken for what

CSV is what spreadsheets write: commas, semicolons or tabs, quotes, line breaks and cells of any length. A cell or number that says
"no value" (null, NaN, and their names as pandas writes them) is none: no caption becomes the word "nan".

Not here: which file a row means (`folders`), parquet files that hold the pictures themselves (`genin.distill.data.parquet`).
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genin.dataset.folders import said_of_encoding
from genin.dataset.text import clean, decode_any, says_nothing
from genin.runtimes.errors import InputError, MissingExtraError
from genin.runtimes.text import SAVE_AS_UTF8, json_object, lines_of

# In the order in which they count where a folder has several.
METADATA_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
FILE_COLUMNS = ("file_name", "file", "filename", "image", "path")
CAPTION_COLUMNS = ("text", "caption", "prompt")
DELIMITERS = ",;\t|"
CELL_LIMIT = 1 << 30  # characters; the csv module's own limit is 131,072
END = "\x1cend of the table"


@dataclass(frozen=True)
class TableRow:
    """`number` is the line that the row begins in; that of the row in a parquet file."""

    number: int
    values: Mapping[str, Any]


@dataclass
class Table:
    """`bad` are lines that are no rows, with the reason."""

    path: Path
    rows: list[TableRow] = field(default_factory=list)
    bad: list[tuple[int, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def columns(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows for name in row.values))


def is_metadata(name: str) -> bool:
    return name.lower() in METADATA_NAMES


def holds_metadata(path: Path) -> bool:
    """Whether a file is a table that says something about picture files: by its name, and a parquet file by naming files, since it
    may as well hold the pictures. Errors: MissingExtraError for parquet without pyarrow."""
    if not is_metadata(path.name) or path.suffix.lower() != ".parquet":
        return is_metadata(path.name)
    pyarrow, parquet = _pyarrow()
    try:
        schema = parquet.read_schema(path)
    except (pyarrow.ArrowException, OSError):
        return False
    texts = (pyarrow.string(), pyarrow.large_string())
    return any(name in schema.names and schema.field(name).type in texts for name in FILE_COLUMNS)


def read_table(path: Path, *, encoding: str | None = None, known: Sequence[str] = FILE_COLUMNS) -> Table:
    """The table in a file, by its suffix. `encoding` is that of files that are not Unicode, `known` names a column of which tables
    have one, to tell the delimiter.

    Errors: InputError for a file that cannot be read, decoded or parsed, FileNotFoundError, MissingExtraError for parquet without
    pyarrow.
    """
    table = Table(path)
    if path.suffix.lower() == ".parquet":
        table.rows = _parquet(path)
        return table
    try:
        decoded = decode_any(path.read_bytes(), encoding)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(
            f"the table cannot be read ({error.strerror})", where=path, remedy="check its rights"
        ) from error
    except ValueError as error:
        remedy = f"{SAVE_AS_UTF8}, or: genin data prepare --encoding NAME"
        raise InputError(f"the table is {error}", where=path, remedy=remedy) from error
    table.notes += said_of_encoding(path, decoded)
    if path.suffix.lower() == ".csv":
        _read_cells(decoded.text, known, table)
    else:
        for number, line in enumerate(lines_of(decoded.text), 1):
            if line.strip():
                row = json_object(line)
                if row is None:
                    table.bad.append((number, "the line is not a JSON object"))
                else:
                    table.rows.append(TableRow(number, row))
    return table


# --- CSV -------------------------------------------------------------------------------------------------------------


def _read_cells(text: str, known: Sequence[str], table: Table) -> None:
    head, _, rest = text.partition("\n")
    first = 1
    if head.strip().lower().startswith("sep="):  # Excel's own line
        text, first = rest, 2
    before = csv.field_size_limit(CELL_LIMIT)
    try:
        lines = list(_cells(text, _delimiter(text, known), first))
    except csv.Error as error:
        raise InputError(
            f"the table cannot be read ({error})", where=table.path, remedy="look for a stray quote"
        ) from error
    finally:
        csv.field_size_limit(before)
    if not lines or lines[-1][1] != [END]:
        number = lines[-1][0] if lines else first
        what = f"a quote that is opened in line {number} is never closed"
        raise InputError(what, where=table.path, remedy="close it, or write two quotes for one inside a text")
    if len(lines) == 1:
        raise InputError("the table is empty", where=table.path, remedy="its first row names the columns")
    header = [name.strip() for name in lines[0][1]]
    if twice := next((name for name in header if name and header.count(name) > 1), None):
        raise InputError(f"the table has two columns '{twice}'", where=table.path, remedy="rename one of them")
    for number, cells in lines[1:-1]:
        if len(cells) > len(header):
            reason = f"the line has more cells ({len(cells)}) than the first row ({len(header)}): put texts with commas into quotes"
            table.bad.append((number, reason))
        elif any(cells):
            table.rows.append(TableRow(number, {name: cell for name, cell in zip(header, cells, strict=False) if name}))


def _cells(text: str, delimiter: str, first: int) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of every row, and of a last one, `END`: where that is missing a quote has swallowed it."""
    content = text if text.endswith(("\n", "\r")) else text + "\n"
    reader = csv.reader(io.StringIO(content + END, newline=""), delimiter=delimiter)
    number = first
    for cells in reader:
        if cells:
            yield number, cells
        number = first + reader.line_num


def _delimiter(text: str, known: Sequence[str]) -> str:
    """The one that makes a known column of the first row; else the one that makes most columns."""
    head = next((line for line in lines_of(text[:CELL_LIMIT]) if line.strip()), "")

    def columns(delimiter: str) -> list[str]:
        return [cell.strip() for cell in next(csv.reader([head], delimiter=delimiter), [])]

    return max(DELIMITERS, key=lambda delimiter: (bool({*columns(delimiter)} & {*known}), len(columns(delimiter))))


# --- parquet ---------------------------------------------------------------------------------------------------------


def _parquet(path: Path) -> list[TableRow]:
    pyarrow, parquet = _pyarrow()
    try:
        rows = parquet.read_table(path).to_pylist()
    except UnicodeDecodeError as error:
        raise InputError("a text in it is not UTF-8", where=path, remedy="write its texts in UTF-8") from error
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError("not a parquet file, or truncated", where=path, remedy="write it again") from error
    except (ValueError, OverflowError) as error:  # a date of the year 10000
        what = f"it cannot be read as Python's values ({error})"
        raise InputError(what, where=path, remedy="leave that column out") from error
    return [TableRow(number, row) for number, row in enumerate(rows)]


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "data") from error
    return pyarrow, parquet


# --- values ----------------------------------------------------------------------------------------------------------


def is_null(value: object) -> bool:
    """Whether a value stands for none: null, NaN, blank text, or a name of them."""
    if isinstance(value, str):
        return says_nothing(value)
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def text_of(value: object) -> str:
    """Texts and numbers as they are, lists joined; anything else says nothing."""
    if isinstance(value, list):
        return " ".join(filter(None, map(text_of, value)))
    if is_null(value) or isinstance(value, bool):
        return ""
    return clean(value) if isinstance(value, str | int | float) else ""


def column_of(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of these columns that a row has, in any case."""
    if found := next((name for name in names if name in row), None):
        return found
    lower = {name.lower(): name for name in row}
    return next((lower[name] for name in names if name in lower), None)


def caption_in_row(row: Mapping[str, Any], columns: Sequence[str] = ()) -> str:
    """The caption that a row holds: the first usual column that says something, or the named ones, joined."""
    if columns:
        return " ".join(text for text in (text_of(row.get(name)) for name in columns) if text)
    usual = (column_of(row, (name,)) for name in CAPTION_COLUMNS)
    return next((text for text in (text_of(row[name]) for name in usual if name is not None) if text), "")


def json_line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"

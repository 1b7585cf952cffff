"""Dataset folders as training sees them: captioned pictures of one split, read at one size.

A dataset folder follows Hugging Face's `imagefolder` convention: pictures and `metadata.jsonl` with `file_name`, `text`
and free columns. Two rules are defined here, for every command (the rule for splits is in `genin.dataset.splits`):

- **Attribute columns** say what is in the picture: the `columns` of `dataset.json` (`genin data prepare --columns`),
  else the names in `KNOWN_COLUMNS`; with 2 to 64 distinct values. A row without a value has the value "none".
- **Licence.** `dataset.json` says it, else the rows' `licence` column, else "unknown".

Not here: decoding (`duplicates`), cleaning other people's folders (`prepare`), the built-in world (`distill.world`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genin.dataset.files import fit, picture_size, read_picture
from genin.dataset.row_table import RowTable
from genin.dataset.rows import PictureRow
from genin.dataset.sets import open_picture_set
from genin.dataset.shards import member_size
from genin.dataset.splits import SPLITS, Split
from genin.distill.world.scene import ATTRIBUTES
from genin.runtimes.errors import InputError
from genin.runtimes.text import json_object, read_text
from genin.runtimes.vocabulary import check_choice
from genin.runtimes.wording import quoted

DATASET_FILE = "dataset.json"
KNOWN_COLUMNS = (*ATTRIBUTES, "character")
MAX_VALUES = 64
NO_VALUE = "none"
ORIGIN = ("source", "rights", "licence")
MAX_ORIGINS = 40


@dataclass(frozen=True)
class ImageDataset:
    """The rows of one split, in the folder's order; the other attributes are those of the whole folder."""

    folder: Path
    rows: Sequence[PictureRow]
    columns: Mapping[str, tuple[str, ...]]
    licence: str
    origins: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def open(cls, folder: Path, split: Split = "train") -> ImageDataset:
        """Read the rows of one split, not the pixels. Errors: InputError (no pictures, wrong metadata, empty split)."""
        check_choice(split, SPLITS, "split")
        whole, facts = open_picture_set(folder), read_facts(folder)
        rows, chosen = whole.rows, whole.only(split).rows
        columns = attribute_columns(rows, facts.get("columns"))
        return cls(folder, chosen, columns, licence_of(rows, facts), origins_of(rows, facts), whole.notes)

    def __len__(self) -> int:
        return len(self.rows)

    def digest(self) -> str:
        """SHA-256 of the rows and of each picture file's size (reading all of them would take minutes); of a large set, its table's
        digest."""
        if isinstance(self.rows, RowTable):
            return f"{self.rows.facts['digest']} {self.rows.split}"
        found = hashlib.sha256()
        for row in self.rows:
            path = self.folder / row.file_name
            size = path.stat().st_size if path.is_file() else member_size(path)
            facts = (row.file_name, row.text, sorted(row.columns.items()), size)
            found.update(repr(facts).encode("utf-8", "surrogatepass"))
        return found.hexdigest()

    def picture(self, index: int, size: int | tuple[int, int]) -> NDArray[np.uint8]:
        """Picture `index` as (size, size, 3) uint8, or of a (width, height): Lanczos until it is covered, centre cut, transparency
        on white.

        Errors: InputError naming a file that is missing or broken.
        """
        shape = (size, size) if isinstance(size, int) else size
        return np.asarray(fit(read_picture(self.folder / self.rows[index].file_name), shape))

    def size(self, index: int) -> tuple[int, int]:
        """(width, height) of picture `index` as it is on disk, upright. Errors: as above."""
        return picture_size(self.folder / self.rows[index].file_name)

    def caption(self, index: int) -> str:
        """The caption of picture `index`. Errors: InputError if it has none."""
        text = self.rows[index].text
        if not text:
            raise InputError(
                "the picture has no caption",
                where=self.folder / self.rows[index].file_name,
                remedy=write_captions(self.folder),
            )
        return text

    def without_caption(self) -> tuple[int, str] | None:
        """How many pictures have no caption, and the first of them; None if all have one."""
        if isinstance(self.rows, RowTable) and not self.rows.facts["no_text"]:
            return None
        lacking = [row.file_name for row in self.rows if not row.text]
        return (len(lacking), lacking[0]) if lacking else None

    def row(self, index: int) -> dict[str, str]:
        """Attribute column => value of picture `index`."""
        values = self.rows[index].columns
        return {name: values.get(name) or NO_VALUE for name in self.columns}


def read_facts(folder: Path) -> dict[str, Any]:
    """What `genin data prepare` noted about the folder; {} if it did not make it. Errors: InputError."""
    path = folder / DATASET_FILE
    if not path.is_file():
        return {}
    try:
        facts = json_object(read_text(path), strict=True)
    except ValueError as error:
        raise InputError("not valid JSON", where=path, remedy="prepare the dataset again") from error
    if facts is None:
        raise InputError("not a JSON object", where=path, remedy="prepare the dataset again")
    names = facts.get("columns")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise InputError("'columns' is not a list of names", where=path, remedy="prepare the dataset again")
    if not isinstance(facts.get("licence"), str | None):
        raise InputError("'licence' is not text", where=path, remedy="put it in quotes")
    return facts


# --- the rules -------------------------------------------------------------------------------------------------------


def attribute_columns(rows: Sequence[PictureRow], named: Sequence[str] | None = None) -> dict[str, tuple[str, ...]]:
    """Column => its distinct values, sorted, for the columns that say what is in the picture."""
    columns = {}
    for name in KNOWN_COLUMNS if named is None else named:
        values = _values(rows, name)
        if 2 <= len(values) <= MAX_VALUES:
            columns[name] = tuple(sorted(values))
    return columns


def _values(rows: Sequence[PictureRow], name: str) -> set[str]:
    """The distinct values of a column; none where a large set has too many."""
    if isinstance(rows, RowTable):
        return {value or NO_VALUE for value in rows.values_of(name) or ()}
    return {row.columns.get(name) or NO_VALUE for row in rows}


def _origin_counts(rows: Sequence[PictureRow]) -> Counter[tuple[str, ...]]:
    """(source, rights, licence) as the rows say them, and how many rows do."""
    if isinstance(rows, RowTable):
        return Counter({tuple(origin): count for *origin, count in rows.facts["origins"]})
    said = (row.columns for row in rows)
    return Counter(
        (one.get("source", ""), one.get("rights", ""), one.get("licence") or one.get("license") or "") for one in said
    )


def origins_of(rows: Sequence[PictureRow], facts: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Where pictures come from (`source`), whose they are (`rights`) and under what `licence`, with how many `pictures` there are
    of each; most first. A row without a licence has the folder's. Where every picture has its own address, these are counted, not
    listed: the rows have them."""
    whole = str(facts.get("licence") or "")
    counts: Counter[tuple[str, ...]] = Counter()
    for (source, rights, licence), count in _origin_counts(rows).items():
        counts[source, rights, licence or whole] += count
    for place in range(len(ORIGIN)):
        if len(counts) > MAX_ORIGINS:
            many = f"{len({key[place] for key in counts})} different ones"
            merged: Counter[tuple[str, ...]] = Counter()
            for key, count in counts.items():
                merged[(*key[:place], many, *key[place + 1 :])] += count
            counts = merged
    return tuple(
        {**dict(zip(ORIGIN, origin, strict=True)), "pictures": count} for origin, count in counts.most_common()
    )


def joined_origins(*parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The origins of everything that a model was made from, each once; a set that was used twice has the larger count."""
    found: dict[tuple[str, ...], int] = {}
    for origin in (origin for part in parts for origin in part):
        key = tuple(str(origin.get(name) or "") for name in ORIGIN)
        pictures = origin.get("pictures")
        found[key] = max(found.get(key, 0), pictures if isinstance(pictures, int) else 0)
    return [{**dict(zip(ORIGIN, key, strict=True)), "pictures": count} for key, count in found.items()]


def origins_table(origins: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of Markdown, for cards."""
    lines = ["| source | rights | licence | pictures |", "|---|---|---|---|"]
    for origin in origins:
        cells = [str(origin.get(name) or "not said").replace("|", "\\|").replace("\n", " ") for name in ORIGIN]
        lines.append(f"| {' | '.join(cells)} | {origin.get('pictures') or 'not counted'} |")
    return lines


def licence_of(rows: Sequence[PictureRow], facts: Mapping[str, Any]) -> str:
    """The licence of the whole folder; several are joined by commas."""
    if facts.get("licence"):
        return str(facts["licence"])
    said = {licence for _, _, licence in _origin_counts(rows)} - {""}
    return ", ".join(sorted(said)) or "unknown"


def write_captions(folder: Path) -> str:
    """What to do about pictures without captions."""
    name = quoted(folder)
    return f"write them on a page: genin data edit {name} --to captions.html; or let a model: genin data caption {name}"

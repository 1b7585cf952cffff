"""Folders of pictures: references, other people's samples, and the pictures an evaluation saved.

A folder is read by the `imagefolder` convention: `metadata.jsonl` (or `.csv`, `.parquet`) with `file_name`, `text` and free
columns; `seed` is the noise a picture was drawn from, and every other text column may be an attribute. A folder without metadata is
just its pictures, sorted by name, with the text files beside them as captions. All pictures are brought to one square size
(Lanczos, shorter side, centre cut; transparency on white), which is stated in every result, because FD compares only at equal size.
A folder of WebDataset shards is read like one of pictures (`shards`).

Broken pictures are named, counted and skipped; `PictureSet.notes` says what else was left out or taken for something else. Not
covered: preparing data sets (`genin data prepare`).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genin.dataset.beside import beside, where_shards_are
from genin.dataset.files import PictureError, fit_square, read_picture, stored_size
from genin.dataset.folders import PICTURE_SUFFIXES, Sidecars, Tree, is_picture, leads_outside, within
from genin.dataset.row_table import RowTable, build_once, place_of
from genin.dataset.rows import PictureRow
from genin.dataset.shards import COMPRESSED, Sample, Shards, shards_of
from genin.dataset.splits import CHOICES, SMALLEST_TO_SPLIT, folders_of, split_in_name, splits_of
from genin.dataset.tables import (
    CAPTION_COLUMNS,
    FILE_COLUMNS,
    METADATA_NAMES,
    TableRow,
    column_of,
    holds_metadata,
    is_null,
    json_line,
    read_table,
    text_of,
)
from genin.dataset.text import NULLS, listed
from genin.files import write_text
from genin.runtimes.errors import InputError
from genin.runtimes.names import installed_names
from genin.runtimes.text import json_object
from genin.runtimes.vocabulary import check_choice
from genin.runtimes.wording import counted

Pictures = NDArray[np.uint8]
StoredRow = tuple[PictureRow, Mapping[str, Any]]  # checked, and the table's or the shard's own values
METADATA = METADATA_NAMES[0]  # what is written
LARGE_BYTES = 64 << 20  # of a metadata.jsonl whose rows are mapped: some 300,000 of them
MANY_ARCHIVES = 300
LOOKED_AT = 5_000  # pictures whose headers say which size is usual


class EmptySplitError(InputError):
    """A dataset has nothing in the split that was asked for."""


class UnreadableError(InputError):
    """Every picture that was asked for is missing or broken."""


@dataclass(frozen=True)
class PictureSet:
    """A folder and its rows, in the folder's order; of large sets in mapped files (`row_table`). `notes`: what was left out of it,
    or read otherwise than it is written."""

    folder: Path
    rows: Sequence[PictureRow]
    notes: tuple[str, ...] = ()

    def captions(self) -> list[str]:
        """Every row's caption. InputError if one has none."""
        texts = [row.text for row in self.rows]
        if None in texts:
            remedy = f"add a 'text' column to {METADATA} (genin data prepare writes one)"
            raise InputError("the reference has no captions to draw pictures from", where=self.folder, remedy=remedy)
        return [text for text in texts if text is not None]

    def only(self, split: str) -> PictureSet:
        """The rows of one split, of `splits.CHOICES`. InputError if there is no such split, or nothing in it."""
        wanted = CHOICES[check_choice(split, tuple(CHOICES), "split")]
        rows: Sequence[PictureRow]
        if isinstance(self.rows, RowTable):
            rows = self.rows.only(wanted)
        else:
            rows = tuple(row for row, own in zip(self.rows, splits_of(self.rows), strict=True) if own in wanted)
        if not rows:
            remedy = f"give {METADATA} a 'split' column, or at least {SMALLEST_TO_SPLIT} pictures to split by chance"
            raise EmptySplitError(f"the dataset has no pictures in its {split} split", where=self.folder, remedy=remedy)
        return replace(self, rows=rows)


def open_picture_set(folder: Path, split: str | None = None) -> PictureSet:
    """The rows of a folder, without pixels; with `split` those of that split alone. Where there is one folder per split, its name
    becomes the column `split`.

    Errors: InputError if there is no such folder, or the metadata is wrong.
    """
    if not folder.is_dir():
        raise InputError("no such folder of pictures", where=folder)
    if (large := large_table(folder)) is not None:
        whole = PictureSet(folder, large, tuple(large.facts["notes"]))
        return whole if split is None else whole.only(split)
    notes: list[str] = []
    rows = tuple(row for row, _ in stored_rows(folder, notes))
    whole = PictureSet(folder, rows, tuple(dict.fromkeys(notes)))
    return whole if split is None else whole.only(split)


def stored_rows(folder: Path, notes: list[str]) -> list[StoredRow]:
    """Every row of a folder, checked and as it is stored. Errors: as `open_picture_set`."""
    if not folder.is_dir():
        raise InputError("no such folder of pictures", where=folder)
    if rows := _rows(folder, notes):
        notes += beside(folder, [row for row, _ in rows])
    else:
        rows = _rows_of_parts(folder, notes)
    if not rows:
        shards = Shards(folder)
        rows = [(_of_shard(sample), sample.columns) for sample in shards.samples()]
        notes += [*shards.notes(), *beside(folder, [row for row, _ in rows])]
    if not rows:
        raise InputError("the folder has no pictures", where=folder, remedy=_instead(folder, notes))
    return rows


def _rows_of_parts(folder: Path, notes: list[str]) -> list[StoredRow]:
    """Of folders of splits."""
    rows: list[StoredRow] = []
    for part in folders_of(folder):
        if found := _rows(part, notes):
            notes += [f"{part.name}: {note}" for note in beside(part, [row for row, _ in found])]
            rows += [(_of_part(row, part), values) for row, values in found]
    if rows:
        notes += beside(folder, [row for row, _ in rows])
    return rows


def _instead(folder: Path, notes: Sequence[str]) -> str:
    """What may help with a folder in which nothing was found."""
    if compressed := [path.name for path in folder.iterdir() if path.name.lower().endswith(COMPRESSED)]:
        return f"compressed archives allow no random access: unpack {listed(compressed)} to .tar"
    if places := where_shards_are(folder):
        return f"there are shards in {listed(places)}: give that folder"
    known = f"known suffixes: {', '.join(PICTURE_SUFFIXES)}"
    return "; ".join((*notes, f"{known}; folders inside folders, parquet files, videos: genin data prepare"))


def _of_part(row: PictureRow, part: Path) -> PictureRow:
    return replace(row, file_name=f"{part.name}/{row.file_name}", columns={**row.columns, "split": part.name})


def _of_shard(sample: Sample) -> PictureRow:
    """A shard's name begins with its split where the row does not say it."""
    columns = _columns(sample.columns, ("text",))
    if split := split_in_name(sample.file_name):
        columns.setdefault("split", split)
    seed = sample.columns.get("seed")
    return PictureRow(sample.file_name, sample.text, seed if isinstance(seed, int) else None, columns)


# --- large sets --------------------------------------------------------------------------------------------------------


def large_table(folder: Path) -> RowTable | None:
    """The rows of a folder with a large `metadata.jsonl`, or many archives, in mapped files, which are made here if need be; None
    for smaller ones, and where pyarrow is missing. Errors: as `open_picture_set`."""
    metadata = metadata_of(folder)
    archives = [] if metadata is not None else shards_of(folder)
    large_file = metadata is not None and metadata.suffix.lower() == ".jsonl" and metadata.stat().st_size >= LARGE_BYTES
    many = len(archives) >= MANY_ARCHIVES and not any(map(_has_pictures, (folder, *folders_of(folder))))
    if not (large_file or many) or not (find_spec("pyarrow") and find_spec("filelock")):
        return None
    place = place_of([metadata] if metadata is not None else archives, installed_names().cache())
    notes: list[str] = []
    try:
        build_once(
            place, lambda: _lines(folder, metadata, notes) if metadata else _archived(folder, notes), notes, folder
        )
    except UnicodeError:  # another encoding, which only the whole file tells
        return None
    table = RowTable(place)
    return table if len(table) else None  # what a small one says of an empty set


def _has_pictures(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(is_picture(entry.name) for entry in entries)


def _lines(folder: Path, metadata: Path, notes: list[str]) -> Iterator[PictureRow]:
    """The rows of a `metadata.jsonl` in UTF-8, one at a time. Errors: UnicodeError for another encoding."""
    metadata_of(folder, notes)
    tree, before = Tree(folder), Counter[str]()
    with metadata.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            values = json_object(line)
            if values is None:
                reason = "the line is not a JSON object"
                raise InputError(f"line {number} is not a picture's row ({reason})", where=metadata, remedy=ROW)
            yield _row(TableRow(number, values), metadata, tree, before)
    notes += _said_before(before, metadata)


def _archived(folder: Path, notes: list[str]) -> Iterator[PictureRow]:
    shards = Shards(folder)
    yield from map(_of_shard, shards.samples())
    notes += [*shards.notes(), *beside(folder, [PictureRow(f"{path.name}/") for path in shards_of(folder)])]


# --- rows of a folder ------------------------------------------------------------------------------------------------


def metadata_of(folder: Path, notes: list[str] | None = None) -> Path | None:
    """The table that says what the folder's pictures are; None without one. Where there are several, the others are noted."""
    order = {name: place for place, name in enumerate(METADATA_NAMES)}
    names = [entry.name for entry in os.scandir(folder) if entry.name[:8].lower() == "metadata"]
    found = [folder / name for name in names if name.lower() in order and (folder / name).is_file()]
    found = [path for path in found if holds_metadata(path)]
    found.sort(
        key=lambda path: (order[path.name.lower()], path.name not in order, path.name)
    )  # what is written comes first
    if notes is not None and len(found) > 1:
        others = listed([path.name for path in found[1:]])
        notes.append(f"{others} is not read, because there is a {found[0].name}: {folder}")
    return found[0] if found else None


def table_rows(folder: Path, notes: list[str]) -> list[StoredRow] | None:
    """The rows of the folder's metadata, checked and as they are; None without metadata. Errors: InputError."""
    metadata = metadata_of(folder, notes)
    if metadata is None:
        return None
    table = read_table(metadata)
    notes += table.notes
    if table.bad:
        raise InputError(
            f"line {table.bad[0][0]} is not a picture's row ({table.bad[0][1]})", where=metadata, remedy=ROW
        )
    tree, rows, before = Tree(folder), [], Counter[str]()
    for row in table.rows:
        rows.append((_row(row, metadata, tree, before), row.values))
    before["again"] = len(rows) - len({row.file_name for row, _ in rows})
    notes += _said_before(before, metadata)
    return rows


def _said_before(before: Counter[str], metadata: Path) -> list[str]:
    notes = []
    if before["name"]:
        how = "backslashes, capitals, blanks or Unicode forms differ"
        said = counted(before["name"], f"row of {metadata} names its file", f"rows of {metadata} name their files")
        notes.append(f"{said} otherwise than the disk ({how}), and found")
    if before["null"]:
        said = counted(before["null"], f"caption of {metadata} only stands", f"captions of {metadata} only stand")
        notes.append(f"{said} for none (null, NaN), counted as missing")
    if before["again"]:
        said = counted(before["again"], f"row of {metadata} names", f"rows of {metadata} name")
        notes.append(f"{said} a file that an earlier row names: every row counts as a picture")
    return notes


def _is_none(value: object) -> bool:
    return not text_of(value) if isinstance(value, list) else is_null(value)


ROW = 'every row has "file_name", and a caption in "text"'


def _row(row: TableRow, metadata: Path, tree: Tree, before: Counter[str]) -> PictureRow:
    """A checked row. `before` counts what was otherwise in the file."""
    values, place = row.values, f"line {row.number}"
    column, captions = _layout(tuple(values))
    name = None if column is None else values[column]
    if not isinstance(name, str) or not name:
        raise InputError(f"{place} is not a picture's row", where=metadata, remedy=ROW)
    name = within(tree.folder, name)
    on_disk = tree.find(name)
    if on_disk is None and leads_outside(name):
        raise InputError(f"{place} names a file outside the folder", where=metadata)
    before["name"] += on_disk is not None and on_disk != name and on_disk != Path(name).as_posix()
    used = next((caption for caption in captions if not _is_none(values[caption])), None)
    text = None if used is None else values[used]
    if isinstance(text, list):  # several captions, as `data prepare` reads them
        text = text_of(text) or None
    if not isinstance(text, str | None):
        raise InputError(f"{place}: '{used}' is not text", where=metadata, remedy="put the caption in quotes")
    if text is None:
        before["null"] += any(isinstance(values[known], str) and values[known].strip() for known in captions)
    seed = values.get("seed")
    if isinstance(seed, str) and seed.isascii() and seed.isdigit():  # a table of texts
        seed = int(seed)
    known = (column, used, "text", *(("seed",) if isinstance(seed, int) else ()))
    file_name = on_disk or name.replace("\\", "/")
    return PictureRow(file_name, text, seed if isinstance(seed, int) else None, _columns(values, known))


@lru_cache(maxsize=256)
def _layout(columns: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    """Of a row's columns, the one with the file and those that may be the caption, first to last."""
    row = dict.fromkeys(columns)
    captions = (column_of(row, (known,)) for known in CAPTION_COLUMNS)
    return column_of(row, FILE_COLUMNS), tuple(caption for caption in captions if caption is not None)


def _columns(values: Mapping[str, Any], without: Collection[str | None]) -> dict[str, str]:
    return {
        key: value
        for key, value in values.items()
        if isinstance(value, str) and key not in without and value.strip() not in NULLS
    }


def _rows(folder: Path, notes: list[str]) -> list[StoredRow]:
    rows = table_rows(folder, notes)
    if rows is not None:
        return rows
    names = sorted(entry.name for entry in os.scandir(folder) if is_picture(entry.name) and not Path(entry).is_dir())
    sidecars = Sidecars(folder)
    found: list[StoredRow] = [(PictureRow(name, sidecars.read(name) or None), {}) for name in names]
    notes += sidecars.notes()
    return found


# --- writing and loading ---------------------------------------------------------------------------------------------


def write_metadata(folder: Path, rows: Sequence[PictureRow]) -> None:
    """Write `metadata.jsonl` by rename."""
    lines = []
    for row in rows:
        known = {"file_name": row.file_name, "text": row.text, "seed": row.seed}
        lines.append(json_line({key: value for key, value in known.items() if value is not None} | dict(row.columns)))
    write_text(folder / METADATA, "".join(lines))


@dataclass(frozen=True)
class LoadedPictures:
    """Pixels (N, size, size, 3) of the rows that could be read; `broken` names the others."""

    pictures: Pictures
    rows: tuple[PictureRow, ...]
    broken: tuple[str, ...]
    resize: str


def usual_size(picture_set: PictureSet) -> tuple[int, str | None]:
    """The shorter side that most of the first 5,000 pictures have (of equally many the smaller one, so that nothing is
    enlarged), and a note where there are others. InputError if none can be read."""
    sides: Counter[int] = Counter()
    for row in picture_set.rows[:LOOKED_AT]:
        try:
            sides[min(stored_size(picture_set.folder / row.file_name))] += 1
        except PictureError:
            continue
    if not sides:
        raise UnreadableError("none of the pictures can be read", where=picture_set.folder)
    most = min(sides, key=lambda side: (-sides[side], side))
    if len(sides) == 1:
        return most, None
    others = listed([f"{count} of {side} px" for side, count in sorted(sides.items()) if side != most])
    return most, f"mixed sizes ({others}, {sides[most]} of {most} px): all are measured at {most} px"


def load_pictures(picture_set: PictureSet, *, size: int | None = None, limit: int | None = None) -> LoadedPictures:
    """Read `limit` pictures at `size` px (None: the usual size), passing over broken ones. InputError if none can be read."""
    loaded: list[Pictures] = []
    rows: list[PictureRow] = []
    broken: list[str] = []
    resized: set[tuple[int, int]] = set()
    size = size or usual_size(picture_set)[0]
    for row in picture_set.rows:
        if limit is not None and len(rows) >= limit:
            break
        try:
            picture = read_picture(picture_set.folder / row.file_name)
        except PictureError:
            broken.append(row.file_name)
            continue
        if picture.size != (size, size):
            resized.add(picture.size)
            picture = fit_square(picture, size)
        loaded.append(np.asarray(picture))
        rows.append(row)
    if not loaded:
        raise UnreadableError("none of the pictures can be read", where=picture_set.folder)
    resize = f"lanczos-{size} from {len(resized)} size(s)" if resized else "none"
    return LoadedPictures(np.stack(loaded), tuple(rows), tuple(broken), resize)


def picture_batches(
    picture_set: PictureSet, *, size: int, limit: int | None = None, batch_size: int = 64
) -> Iterator[LoadedPictures]:
    """`load_pictures` in batches, for sets larger than memory, until `limit` pictures are read; a batch whose every picture is
    broken is empty."""
    rows, start, left = picture_set.rows, 0, len(picture_set.rows) if limit is None else limit
    while left > 0 and start < len(rows):
        batch = replace(picture_set, rows=rows[start : start + min(batch_size, left)])
        try:
            loaded = load_pictures(batch, size=size)
        except UnreadableError:
            names = tuple(row.file_name for row in batch.rows)
            loaded = LoadedPictures(np.zeros((0, size, size, 3), np.uint8), (), names, "none")
        start, left = start + len(batch.rows), left - len(loaded.rows)
        yield loaded

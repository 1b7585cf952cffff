"""Rows of a large dataset in memory-mapped files, built once and read by all processes.

    rows.arrow                  file_name, text, seed, columns (a JSON object), as Arrow
    train.npy, val.npy, test.npy    the places of each split's rows
    facts.json                  counts, values of columns, origins, digest, notes

They lie in genin's cache, by path, size and time of the dataset's table, and are built while the table is read line by line, so
that neither the building process nor a reading one holds the rows: a mapped page that no process uses costs nothing. `RowTable` is
a sequence of `PictureRow` like a tuple of them, and goes to another process as the path of its folder.

Not here: which tables are large, and what a row may hold (`sets`); the rule for splits (`splits`).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from genin.dataset.rows import PictureRow
from genin.dataset.splits import ALIASES, SMALLEST_TO_SPLIT, SPLITS, Split, share_of_key, unknown_split
from genin.files import write_text, writing

VERSION = 3
BATCH = 8192  # rows that are built, or turned into Python, at once
MOST_VALUES = 65  # of a column, kept for attribute columns
MOST_ORIGINS = 10_000
UNUSED_S = 30 * 86_400
ORIGIN = ("source", "rights", "licence")
UNSAID = 255
NUMBERS: Mapping[Split, int] = {split: number for number, split in enumerate(SPLITS)}


class RowTable(Sequence[PictureRow]):
    """The rows of a built table, or those at `places`. `facts` are those of the whole table."""

    def __init__(self, folder: Path, split: str | None = None, part: slice | None = None) -> None:
        self.folder, self.split, self.part = folder, split, part
        self.facts: Mapping[str, Any] = json.loads((folder / "facts.json").read_text("utf-8"))
        with suppress(OSError):  # a cache that others own
            os.utime(folder / "facts.json")  # it is in use
        self._batches = _mapped(folder / "rows.arrow")
        self._places: NDArray[np.uint32] | range = (
            range(self.facts["rows"]) if split is None else _places(folder, split)
        )
        if part is not None:
            self._places = self._places[part]

    def __reduce__(self) -> tuple[Any, ...]:
        part = None if self.part is None else (self.part.start, self.part.stop, self.part.step)
        return _opened, (self.folder, self.split, part)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> PictureRow: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[PictureRow]: ...
    def __getitem__(self, index: int | slice) -> PictureRow | Sequence[PictureRow]:
        if isinstance(index, slice):
            if self.part is None:
                return RowTable(self.folder, self.split, index)
            return [self._row(int(place)) for place in self._places[index]]
        return self._row(int(self._places[index]))

    def __iter__(self) -> Iterator[PictureRow]:
        for start in range(0, len(self), BATCH):
            for place in self._places[start : start + BATCH]:
                yield self._row(int(place))

    def _row(self, place: int) -> PictureRow:
        batch, row = divmod(place, BATCH)
        name, text, seed, columns = (column[row].as_py() for column in self._batches[batch])
        return PictureRow(name, text, None if seed is None else int(seed), json.loads(columns) if columns else {})

    def only(self, splits: Sequence[Split]) -> RowTable:
        """The rows of these splits; of a table that is whole."""
        return RowTable(self.folder, "+".join(splits))

    def values_of(self, column: str) -> list[str] | None:
        """The distinct values of a column over the whole table, "" where a row has none; None where there are more than 64."""
        said = self.facts["values"].get(column, {})
        if said is None:
            return None
        lacking = sum(said.values()) < self.facts["rows"]
        return [*said, *([""] if lacking else [])]


def _opened(folder: Path, split: str | None, part: tuple[int | None, ...] | None) -> RowTable:
    return RowTable(folder, split, None if part is None else slice(*part))


def _places(folder: Path, splits: str) -> NDArray[np.uint32]:
    parts = [np.load(folder / f"{split}.npy", mmap_mode="r") for split in splits.split("+")]
    return parts[0] if len(parts) == 1 else np.sort(np.concatenate(parts))


def _mapped(path: Path) -> list[list[Any]]:
    """The columns of every record batch, mapped."""
    import pyarrow

    reader = pyarrow.ipc.open_file(pyarrow.memory_map(str(path)))
    return [reader.get_batch(number).columns for number in range(reader.num_record_batches)]


# --- building --------------------------------------------------------------------------------------------------------


@dataclass
class Summary:
    """What is learnt of the rows while they are written: little memory, however many there are."""

    rows: int = 0
    no_text: int = 0
    first_without: str | None = None
    values: dict[str, Counter[str] | None] = field(default_factory=dict)
    origins: Counter[tuple[str, ...]] = field(default_factory=Counter)
    digest: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=32))

    def add(self, row: PictureRow) -> None:
        self.rows += 1
        if not row.text:
            self.no_text += 1
            self.first_without = self.first_without or row.file_name
        for name, value in row.columns.items():
            counts = self.values.setdefault(name, Counter())
            if counts is not None:
                counts[value] += 1
                if len(counts) > MOST_VALUES:
                    self.values[name] = None
        said = row.columns
        origin = (said.get("source", ""), said.get("rights", ""), said.get("licence") or said.get("license") or "")
        if len(self.origins) >= MOST_ORIGINS and origin not in self.origins:
            origin = ("many different ones", "", origin[2])  # every picture has its own: counted, not listed
        self.origins[origin] += 1

    def facts(self, notes: Sequence[str]) -> dict[str, Any]:
        return {
            "version": VERSION,
            "rows": self.rows,
            "no_text": self.no_text,
            "first_without": self.first_without,
            "values": self.values,
            "origins": [[*origin, count] for origin, count in self.origins.most_common()],
            "digest": self.digest.hexdigest(),
            "notes": list(notes),
        }


class SplitPlaces:
    """The split of every row, by the same rule as `splits.splits_of`, from a few bytes a row."""

    def __init__(self) -> None:
        self.said, self.by_caption = bytearray(), bytearray()
        self.hashes: list[NDArray[np.uint64]] = []
        self._hashes: list[int] = []

    def add(self, row: PictureRow) -> None:
        name = row.columns.get("split")
        if not name:
            self.said.append(UNSAID)
        else:
            split = ALIASES.get(name.lower())
            if split is None:
                raise unknown_split(name, row.file_name)
            self.said.append(NUMBERS[split])
        concept = " ".join((row.text or "").casefold().split())
        self.by_caption.append(NUMBERS[share_of_key(concept or row.file_name)])
        self._hashes.append(hash(concept) & 0xFFFFFFFFFFFFFFFF)
        if len(self._hashes) == 1 << 16:
            self._flush()

    def _flush(self) -> None:
        self.hashes.append(np.array(self._hashes, np.uint64))
        self._hashes = []

    def places(self, names: Callable[[], Iterator[str]]) -> dict[Split, NDArray[np.uint32]]:
        """The places of each split's rows. `names`: every row's file, which decides where captions repeat."""
        self._flush()
        said = np.frombuffer(self.said, np.uint8)
        if (said != UNSAID).any():
            chosen = np.where(said == UNSAID, 0, said)
        elif len(said) < SMALLEST_TO_SPLIT:
            chosen = np.zeros(len(said), np.uint8)
        elif 2 * _distinct(np.concatenate(self.hashes)) >= len(said):
            chosen = np.frombuffer(self.by_caption, np.uint8)
        else:
            chosen = np.fromiter((NUMBERS[share_of_key(name)] for name in names()), np.uint8, len(said))
        return {split: np.flatnonzero(chosen == number).astype(np.uint32) for split, number in NUMBERS.items()}


def _distinct(hashes: NDArray[np.uint64]) -> int:
    hashes.sort()
    return 1 + int((hashes[1:] != hashes[:-1]).sum())


def build_once(folder: Path, rows: Callable[[], Iterable[PictureRow]], notes: Sequence[str], of: Path) -> None:
    """`build`, unless it is done; of several processes that want the table one builds it, and the others wait. Tables of `of`, a
    dataset, from before it changed are removed when nobody has opened them for a month: a training may run so long."""
    from filelock import FileLock

    if is_built(folder):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not is_built(folder):
            build(rows(), notes, folder, of)
            _remove_earlier(folder, of)


def _remove_earlier(folder: Path, of: Path) -> None:
    for path in folder.parent.glob("*/facts.json"):
        with suppress(OSError, ValueError):
            earlier = path.parent != folder and json.loads(path.read_text("utf-8")).get("of") == str(of.resolve())
            if earlier and time.time() - path.stat().st_mtime > UNUSED_S:
                shutil.rmtree(path.parent, ignore_errors=True)


def build(rows: Iterable[PictureRow], notes: Sequence[str], folder: Path, of: Path) -> None:
    """Write the files of a table of the dataset `of` to `folder`, which appears whole; `notes` may still grow while `rows` are
    read."""
    with writing(folder):
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with writing(folder, partial):
            _write_files(rows, notes, partial, of)
        shutil.rmtree(folder, ignore_errors=True)  # damaged, if it is there
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_files(rows: Iterable[PictureRow], notes: Sequence[str], place: Path, of: Path) -> None:
    import pyarrow

    schema = pyarrow.schema([
        ("file_name", pyarrow.string()), ("text", pyarrow.string()), ("seed", pyarrow.string()), ("columns", pyarrow.string()),
    ])  # fmt: skip
    summary, splits = Summary(), SplitPlaces()
    with pyarrow.ipc.new_file(str(place / "rows.arrow"), schema) as writer:
        for batch in _batches(rows):
            columns: list[list[str | None]] = [[], [], [], []]
            for row in batch:
                summary.add(row)
                splits.add(row)
                more = json.dumps(dict(row.columns), sort_keys=True) if row.columns else None
                seed = None if row.seed is None else str(row.seed)  # of any size
                for column, value in zip(columns, (row.file_name, row.text, seed, more), strict=True):
                    column.append(value)
            summary.digest.update(repr(columns).encode("utf-8"))
            arrays = [pyarrow.array(column, pyarrow.string()) for column in columns]
            writer.write_batch(pyarrow.record_batch(arrays, schema=schema))

    def names() -> Iterator[str]:
        for name, *_ in _mapped(place / "rows.arrow"):
            yield from name.to_pylist()

    for split, places in splits.places(names).items():
        np.save(place / f"{split}.npy", places)
    write_text(place / "facts.json", json.dumps(summary.facts(notes) | {"of": str(of.resolve())}))


def _batches(rows: Iterable[PictureRow]) -> Iterator[list[PictureRow]]:
    batch: list[PictureRow] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def is_built(folder: Path) -> bool:
    try:
        facts = json.loads((folder / "facts.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(facts, dict) and facts.get("version") == VERSION


def place_of(files: Sequence[Path], cache: Path) -> Path:
    """Where the rows of a dataset's table or archives are: other files, or the same files changed, have another place."""
    key = hashlib.blake2b(str(VERSION).encode(), digest_size=12)
    for file in files:
        state = file.stat()
        key.update(f"{file.resolve()} {state.st_size} {state.st_mtime_ns}".encode("utf-8", "surrogatepass"))
    return cache / "rows" / key.hexdigest()

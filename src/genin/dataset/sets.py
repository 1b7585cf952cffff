"""Folders of pictures: references, other people's samples, and the pictures an evaluation saved.

A folder is read by the `imagefolder` convention: `metadata.jsonl` with `file_name`, `text` and free columns; `seed` is
the noise a picture was drawn from, and every other text column may be an attribute. A folder without metadata is
just its pictures, sorted by name. All pictures are brought to one square size (Lanczos, shorter side, centre cut;
transparency on white), which is stated in every result, because FD compares only at equal size. A folder of WebDataset
shards is read like one of pictures (`shards`).

Broken pictures are named, counted and skipped. Not covered: preparing data sets (`genin data prepare`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genin.dataset.files import PictureError, fit_square, read_picture
from genin.dataset.rows import PictureRow
from genin.dataset.shards import Sample, samples, shards_of
from genin.dataset.splits import ALIASES, CHOICES, SMALLEST_TO_SPLIT, folders_of, splits_of
from genin.files import write_text
from genin.runtimes.errors import InputError
from genin.runtimes.vocabulary import check_choice

Pictures = NDArray[np.uint8]
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
METADATA = "metadata.jsonl"


class UnreadableError(InputError):
    """Every picture that was asked for is missing or broken."""


@dataclass(frozen=True)
class PictureSet:
    """A folder and its rows, in the folder's order."""

    folder: Path
    rows: tuple[PictureRow, ...]

    def captions(self) -> list[str]:
        """Every row's caption. InputError if one has none."""
        texts = [row.text for row in self.rows]
        if any(text is None for text in texts):
            remedy = f"add a 'text' column to {METADATA} (genin data prepare writes one)"
            raise InputError("the reference has no captions to draw pictures from", where=self.folder, remedy=remedy)
        return [text for text in texts if text is not None]

    def only(self, split: str) -> PictureSet:
        """The rows of one split, of `splits.CHOICES`. InputError if there is no such split, or nothing in it."""
        wanted = CHOICES[check_choice(split, tuple(CHOICES), "split")]
        rows = tuple(row for row, own in zip(self.rows, splits_of(self.rows), strict=True) if own in wanted)
        if not rows:
            remedy = f"give {METADATA} a 'split' column, or at least {SMALLEST_TO_SPLIT} pictures to split by chance"
            raise InputError(f"the dataset has no pictures in its {split} split", where=self.folder, remedy=remedy)
        return replace(self, rows=rows)


def open_picture_set(folder: Path, split: str | None = None) -> PictureSet:
    """The rows of a folder, without pixels; with `split` those of that split alone. Where there is one folder per split, its name
    becomes the column `split`.

    Errors: InputError if there is no such folder, or the metadata is wrong.
    """
    if not folder.is_dir():
        raise InputError("no such folder of pictures", where=folder)
    rows = _rows(folder) or [_of_part(row, part) for part in folders_of(folder) for row in _rows(part)]
    rows = rows or [_of_shard(sample) for shard in shards_of(folder) for sample in samples(shard, SUFFIXES)]
    if not rows:
        raise InputError("the folder has no pictures", where=folder, remedy=f"known suffixes: {', '.join(SUFFIXES)}")
    whole = PictureSet(folder, tuple(rows))
    return whole if split is None else whole.only(split)


def _of_part(row: PictureRow, part: Path) -> PictureRow:
    return replace(row, file_name=f"{part.name}/{row.file_name}", columns={**row.columns, "split": part.name})


def _of_shard(sample: Sample) -> PictureRow:
    """A shard's name begins with its split where the row does not say it."""
    columns = {key: value for key, value in sample.columns.items() if isinstance(value, str) and key != "text"}
    begins = Path(sample.file_name).parent.name.split("-")[0]
    if begins in ALIASES:
        columns.setdefault("split", begins)
    seed = sample.columns.get("seed")
    return PictureRow(sample.file_name, sample.text, seed if isinstance(seed, int) else None, columns)


def _rows(folder: Path) -> list[PictureRow]:
    metadata = folder / METADATA
    if not metadata.is_file():
        return [PictureRow(path.name) for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES]
    try:
        lines = metadata.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 ({error.reason})", where=metadata, remedy="save it as UTF-8") from error
    return [_row(line, metadata, number) for number, line in enumerate(lines, 1) if line.strip()]


def _row(line: str, metadata: Path, number: int) -> PictureRow:
    try:
        data = json.loads(line)
        file_name = str(data["file_name"])
    except (ValueError, KeyError, TypeError) as error:
        remedy = 'every line is a JSON object with "file_name"'
        raise InputError(f"line {number} is not a picture's row", where=metadata, remedy=remedy) from error
    if Path(file_name).is_absolute() or ".." in Path(file_name).parts:
        raise InputError(f"line {number} names a file outside the folder", where=metadata)
    text, seed = data.get("text"), data.get("seed")
    if not isinstance(text, str | None):
        raise InputError(f"line {number}: 'text' is not text", where=metadata, remedy="put the caption in quotes")
    columns = {key: value for key, value in data.items() if isinstance(value, str) and key not in ("file_name", "text")}
    return PictureRow(file_name, text, seed if isinstance(seed, int) else None, columns)


def write_metadata(folder: Path, rows: Sequence[PictureRow]) -> None:
    """Write `metadata.jsonl` by rename."""
    lines = []
    for row in rows:
        known = {"file_name": row.file_name, "text": row.text, "seed": row.seed}
        data = {key: value for key, value in known.items() if value is not None} | dict(row.columns)
        lines.append(json.dumps(data, ensure_ascii=False))
    write_text(folder / METADATA, "\n".join(lines) + "\n")


@dataclass(frozen=True)
class LoadedPictures:
    """Pixels (N, size, size, 3) of the rows that could be read; `broken` names the others."""

    pictures: Pictures
    rows: tuple[PictureRow, ...]
    broken: tuple[str, ...]
    resize: str


def load_pictures(picture_set: PictureSet, *, size: int | None = None, limit: int | None = None) -> LoadedPictures:
    """Read up to `limit` pictures at `size` px (None: the size of the first). InputError if none can be read."""
    wanted = picture_set.rows[:limit]
    loaded: list[Pictures] = []
    rows: list[PictureRow] = []
    broken: list[str] = []
    resized: set[tuple[int, int]] = set()
    for row in wanted:
        try:
            picture = read_picture(picture_set.folder / row.file_name)
        except PictureError:
            broken.append(row.file_name)
            continue
        size = size or min(picture.size)
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
    picture_set: PictureSet, *, size: int | None = None, limit: int | None = None, batch_size: int = 64
) -> Iterator[LoadedPictures]:
    """`load_pictures` in batches, for sets larger than memory; a batch whose every picture is broken is empty."""
    rows = picture_set.rows[:limit]
    for start in range(0, len(rows), batch_size):
        batch = PictureSet(picture_set.folder, rows[start : start + batch_size])
        try:
            loaded = load_pictures(batch, size=size)
        except UnreadableError:
            names = tuple(row.file_name for row in batch.rows)
            loaded = LoadedPictures(np.zeros((0, size or 1, size or 1, 3), np.uint8), (), names, "none")
        size = size or (loaded.pictures.shape[1] if len(loaded.pictures) else None)
        yield loaded

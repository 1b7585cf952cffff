"""Dataset folders as training sees them: captioned pictures of one split, read at one size.

A dataset folder follows Hugging Face's `imagefolder` convention: pictures and `metadata.jsonl` with `file_name`, `text`
and free columns. Three rules are decided here, once for every command:

- **Splits.** A `split` column decides; else folders called `train`, `val` and `test`; else a hash of the caption sends
  5 % to val and 5 % to test, so that equal captions (the same thing in two styles, say) never stand in two splits.
  Where captions repeat too much to be concepts the file name is hashed, and a set of under 40 pictures is all `train`.
- **Attribute columns** say what is in the picture: the `columns` of `dataset.json` (`genin data prepare --columns`),
  else the names in `KNOWN_COLUMNS`; with 2 to 64 distinct values. A row without a value has the value "none".
- **Licence.** `dataset.json` says it, else the rows' `licence` column, else "unknown".

Not here: decoding (`data_pictures`), cleaning other people's folders (`data_prepare`), the built-in world (`world`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from genin.benchmarks.picture_files import fit_square, read_picture
from genin.benchmarks.picture_sets import METADATA, PictureRow, open_picture_set
from genin.distill.world import ATTRIBUTES
from genin.runtimes.errors import InputError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
SPLIT_ALIASES: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}
DATASET_FILE = "dataset.json"
KNOWN_COLUMNS = (*ATTRIBUTES, "character")
MAX_VALUES = 64
SMALLEST_TO_SPLIT = 40
NO_VALUE = "none"


@dataclass(frozen=True)
class ImageDataset:
    """The rows of one split, in the folder's order; `columns` and `licence` are those of the whole folder."""

    folder: Path
    rows: tuple[PictureRow, ...]
    columns: Mapping[str, tuple[str, ...]]
    licence: str

    @classmethod
    def open(cls, folder: Path, split: Split = "train") -> ImageDataset:
        """Read the rows of one split, not the pixels. Errors: InputError (no pictures, wrong metadata, empty split)."""
        if split not in SPLITS:
            raise InputError(f"unknown split '{split}'", remedy=f"choose from: {', '.join(SPLITS)}")
        folder, inner = _split_folder(folder, split)
        rows = open_picture_set(folder).rows
        facts = read_facts(folder)
        chosen = rows if inner else tuple(r for r, s in zip(rows, splits_of(rows), strict=True) if s == split)
        if not chosen:
            raise InputError(
                f"the dataset has no pictures in its {split} split",
                where=folder,
                remedy=f"give {METADATA} a 'split' column, or at least {SMALLEST_TO_SPLIT} pictures to split by chance",
            )
        return cls(folder, chosen, attribute_columns(rows, facts.get("columns")), licence_of(rows, facts))

    def __len__(self) -> int:
        return len(self.rows)

    def digest(self) -> str:
        """SHA-256 of the rows and of each picture file's size (reading all of them would take minutes)."""
        found = hashlib.sha256()
        for row in self.rows:
            path = self.folder / row.file_name
            size = path.stat().st_size if path.is_file() else None
            facts = (row.file_name, row.text, sorted(row.columns.items()), size)
            found.update(repr(facts).encode("utf-8", "surrogatepass"))
        return found.hexdigest()

    def picture(self, index: int, size: int) -> NDArray[np.uint8]:
        """Picture `index` as (size, size, 3) uint8: Lanczos, shorter side, centre cut, transparency on white.

        Errors: InputError naming a file that is missing or broken.
        """
        return np.asarray(fit_square(read_picture(self.folder / self.rows[index].file_name), size))

    def caption(self, index: int) -> str:
        """The caption of picture `index`. Errors: InputError if it has none."""
        text = self.rows[index].text
        if not text:
            raise InputError(
                "the picture has no caption",
                where=self.folder / self.rows[index].file_name,
                remedy=f"run: genin data caption {self.folder}",
            )
        return text

    def row(self, index: int) -> dict[str, str]:
        """Attribute column => value of picture `index`."""
        values = self.rows[index].columns
        return {name: values.get(name) or NO_VALUE for name in self.columns}


def _split_folder(folder: Path, split: Split) -> tuple[Path, bool]:
    """The other layout of `imagefolder`: no metadata on top, one folder a split."""
    if folder.is_dir() and not (folder / METADATA).is_file():
        for name, meaning in SPLIT_ALIASES.items():
            if meaning == split and (folder / name).is_dir():
                return folder / name, True
    return folder, False


def read_facts(folder: Path) -> dict[str, Any]:
    """What `genin data prepare` noted about the folder; {} if it did not make it. Errors: InputError."""
    path = folder / DATASET_FILE
    if not path.is_file():
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError("not valid JSON", where=path, remedy="prepare the dataset again") from error
    if not isinstance(facts, dict):
        raise InputError("not a JSON object", where=path, remedy="prepare the dataset again")
    return facts


# --- the rules -------------------------------------------------------------------------------------------------------


def splits_of(rows: Sequence[PictureRow]) -> list[Split]:
    """The split of every row: its `split` column, else by chance (see `splits_by_chance`). Errors: InputError."""
    said = [row.columns.get("split") for row in rows]
    if not any(said):
        return splits_by_chance([row.text or "" for row in rows], [row.file_name for row in rows])
    splits: list[Split] = []
    for row, name in zip(rows, said, strict=True):
        split = SPLIT_ALIASES.get((name or "train").lower())
        if split is None:
            raise InputError(f"unknown split '{name}'", where=row.file_name, remedy=f"choose from: {', '.join(SPLITS)}")
        splits.append(split)
    return splits


def splits_by_chance(captions: Sequence[str], file_names: Sequence[str]) -> list[Split]:
    """Stable splits, 90/5/5: by caption where at least half of them differ, else by file name."""
    if len(captions) < SMALLEST_TO_SPLIT:
        return ["train"] * len(captions)
    concepts = [" ".join(caption.casefold().split()) for caption in captions]
    told_apart = 2 * len(set(concepts)) >= len(concepts)
    keys = [concept or name for concept, name in zip(concepts, file_names, strict=True)] if told_apart else file_names
    return [_share(key) for key in keys]


def _share(key: str) -> Split:
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    share = int.from_bytes(digest, "little") % 100
    return "train" if share < 90 else "val" if share < 95 else "test"


def attribute_columns(rows: Sequence[PictureRow], named: Sequence[str] | None = None) -> dict[str, tuple[str, ...]]:
    """Column => its distinct values, sorted, for the columns that say what is in the picture."""
    columns = {}
    for name in KNOWN_COLUMNS if named is None else named:
        values = {row.columns.get(name) or NO_VALUE for row in rows}
        if 2 <= len(values) <= MAX_VALUES:
            columns[name] = tuple(sorted(values))
    return columns


def licence_of(rows: Sequence[PictureRow], facts: Mapping[str, Any]) -> str:
    """The licence of the whole folder; several are joined by commas."""
    if facts.get("licence"):
        return str(facts["licence"])
    said = {row.columns.get("licence") or row.columns.get("license") or "" for row in rows} - {""}
    return ", ".join(sorted(said)) or "unknown"

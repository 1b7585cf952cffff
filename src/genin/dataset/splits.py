"""Which pictures of a dataset folder are for training, and which are held out: one rule for every command.

A `split` column decides; else folders called `train`, `val` and `test`; else a hash of the caption sends 5 % to val and 5 % to
test, so that equal captions (the same thing in two styles, say) are never in two splits. Where captions repeat too much to be
concepts the file name is hashed, and a set of under 40 pictures is all `train`.

Not here: reading the rows (`sets`), the built-in world's own splits.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from genin.runtimes.errors import InputError
from genin.runtimes.vocabulary import check_choice

if TYPE_CHECKING:
    from genin.dataset.rows import PictureRow

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
HELD_OUT = "held-out"
# What can be asked for => the splits it means.
CHOICES: Mapping[str, tuple[Split, ...]] = {**{split: (split,) for split in SPLITS}, HELD_OUT: ("val", "test")}
ALIASES: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}
SMALLEST_TO_SPLIT = 40


def check_split(name: str | None) -> None:
    """Errors: InputError for a split that cannot be asked for; None, all of them, can be."""
    if name is not None:
        check_choice(name, tuple(CHOICES), "split")


def split_in_name(file_name: str) -> Split | None:
    """The split whose name a file's begins with: `val-000.tar`, `Test_0.parquet`, `train.tar`; None for any other first word."""
    return ALIASES.get(re.split("[^a-z]", file_name.lower(), maxsplit=1)[0])


def folders_of(folder: Path) -> list[Path]:
    """The other layout of `imagefolder`: one folder per split, their names in any case."""
    order = {name: place for place, name in enumerate(ALIASES)}
    parts = [path for path in folder.iterdir() if path.name.lower() in order and path.is_dir()]
    return sorted(parts, key=lambda path: (order[path.name.lower()], path.name))


def splits_of(rows: Sequence[PictureRow]) -> list[Split]:
    """The split of every row: its `split` column, else by chance (see `splits_by_chance`). Errors: InputError."""
    said = [row.columns.get("split") for row in rows]
    if not any(said):
        return splits_by_chance([row.text or "" for row in rows], [row.file_name for row in rows])
    splits: list[Split] = []
    for row, name in zip(rows, said, strict=True):
        split = ALIASES.get((name or "train").lower())
        if split is None:
            raise unknown_split(str(name), row.file_name)
        splits.append(split)
    return splits


def unknown_split(name: str, file_name: str) -> InputError:
    return InputError(f"unknown split '{name}'", where=file_name, remedy=f"choose from: {', '.join(SPLITS)}")


def splits_by_chance(captions: Sequence[str], file_names: Sequence[str], groups: Sequence[str] = ()) -> list[Split]:
    """Stable splits, 90/5/5: by group for a picture that has one, else by caption where at least half of them differ, else by file
    name. Where groups leave val or test empty, the smallest that can be spared goes there."""
    if len(captions) < SMALLEST_TO_SPLIT:
        return ["train"] * len(captions)
    concepts = [" ".join(caption.casefold().split()) for caption in captions]
    told_apart = 2 * len(set(concepts)) >= len(concepts)
    keys = [concept or name for concept, name in zip(concepts, file_names, strict=True)] if told_apart else file_names
    keys = [group or key for group, key in zip(groups or [""] * len(keys), keys, strict=True)]
    return (
        _none_empty([share_of_key(key) for key in keys], keys) if any(groups) else [share_of_key(key) for key in keys]
    )


def _none_empty(splits: list[Split], keys: Sequence[str]) -> list[Split]:
    """A set of few films or volumes has few groups, and chance may send them all to train."""
    for lacking in ("val", "test"):
        counts = Counter(key for key, split in zip(keys, splits, strict=True) if split == "train")
        if lacking not in splits and len(counts) > 2:
            moved = min(counts, key=lambda key: (counts[key], key))
            splits = [lacking if key == moved else split for key, split in zip(keys, splits, strict=True)]
    return splits


def share_of_key(key: str) -> Split:
    """The split that chance gives a caption, a file or a group."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    share = int.from_bytes(digest, "little") % 100
    return "train" if share < 90 else "val" if share < 95 else "test"

"""A dataset folder as WebDataset shards, for sets too large to be a million files.

    data/naruto/*.png + metadata.jsonl ─▶ shards/{train,val,test}-000000.tar …     000000123.png, .txt, .json

Each split has archives of its own. The same folder gives the same bytes. Training, inspecting and captioning read them as they
read a folder (`genin.dataset.shards`), and so does `webdataset.WebDataset`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from genin.dataset.folders import PICTURE_SUFFIXES
from genin.dataset.sets import open_picture_set
from genin.dataset.shards import open_member
from genin.dataset.splits import splits_of
from genin.distill.data.dataset import DATASET_FILE
from genin.distill.data.rows import read_rows
from genin.files import new_folder, refuse_existing
from genin.runtimes.errors import InputError, MissingExtraError

CARRIED = (DATASET_FILE, "README.md")


def write_shards(
    folder: Path,
    out: Path,
    per_shard: int,
    *,
    bar: Callable[[int], Callable[[int], None]] = lambda total: lambda count: None,
) -> dict[str, int]:
    """Write the shards of a dataset folder into `out`, which must not exist; returns archives per split.

    Errors: InputError (the output exists, a picture is missing), MissingExtraError.
    """
    refuse_existing(out)
    try:
        import webdataset
    except ImportError as error:
        raise MissingExtraError("webdataset", "data") from error
    rows = read_rows(folder)
    splits = splits_of(open_picture_set(folder).rows)
    advance = bar(len(rows))
    counts: dict[str, int] = {}
    with new_folder(out) as target:
        for split in dict.fromkeys(splits):
            chosen = [(index, row) for index, (row, own) in enumerate(zip(rows, splits, strict=True)) if own == split]
            for number, start in enumerate(range(0, len(chosen), per_shard)):
                with (
                    (target / f"{split}-{number:06d}.tar").open("wb") as file,
                    closing(webdataset.TarWriter(file, encoder=False, mtime=0)) as writer,
                ):
                    for index, row in chosen[start : start + per_shard]:
                        writer.write(_sample(folder, index, row, split))
                        advance(1)
                counts[split] = number + 1
        for name in CARRIED:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, target / name)
    return counts


def _sample(folder: Path, index: int, row: dict[str, Any], split: str) -> dict[str, Any]:
    path = folder / row["file_name"]
    try:
        member = open_member(path)
        content = path.read_bytes() if member is None else member.getvalue()
    except OSError as error:
        raise InputError(
            "the picture is missing", where=path, remedy="genin data inspect lists what is broken"
        ) from error
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        what = f"readers of shards know {', '.join(PICTURE_SUFFIXES)}, not {path.suffix or 'files without a suffix'}"
        raise InputError(what, where=path, remedy="genin data prepare writes PNG")
    said = {key: value for key, value in row.items() if key not in ("file_name", "text")} | {"split": split}
    suffix = path.suffix.lower().lstrip(".")
    return {
        "__key__": f"{index:09d}",
        suffix: content,
        "txt": (row.get("text") or "").encode(),
        "json": json.dumps(said, ensure_ascii=False, sort_keys=True).encode(),
    }

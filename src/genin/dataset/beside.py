"""What lies in a folder of pictures and is not read, so that nothing is left out without a word.

A folder has one layout: pictures with their table, one folder per split, or shards. What another layout would read is named for
every command (`beside`); single files are listed where a folder is looked at (`left_out`).

Not here: reading a folder (`sets`), folders inside folders (`genin.distill.data.find`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from genin.dataset.folders import PICTURE_SUFFIXES, Tree, is_hidden, is_picture
from genin.dataset.rows import PictureRow
from genin.dataset.shards import COMPRESSED, SUFFIX, shards_of
from genin.dataset.splits import folders_of
from genin.dataset.tables import METADATA_NAMES, is_metadata
from genin.dataset.text import listed
from genin.runtimes.wording import counted

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")
JSON_BEGINS = ("metadata", "caption", "meta_")  # of one JSON file for all pictures: other tools write it


def beside(folder: Path, rows: Sequence[PictureRow]) -> list[str]:
    """What a folder of pictures has that only other layouts read: shards, folders that no row leads into, tables of other names."""
    names = _names(folder)
    notes = []
    if archives := [name for name in names if name.lower().endswith((SUFFIX, *COMPRESSED))]:
        notes.append(f"shards are not read where a folder has pictures or a table of its own: {listed(archives)}")
    used = {row.file_name.partition("/")[0] for row in rows}
    splits = {part.name for part in folders_of(folder)}
    unread = sorted(path.name for path in folder.iterdir() if path.name not in used and _has_pictures(path))
    if parts := [name for name in unread if name in splits]:
        notes.append(f"folders of splits are not read where a folder has pictures of its own: {listed(parts)}")
    if others := [name for name in unread if name not in splits]:
        notes.append(f"pictures in {listed(others)} are not read (genin data prepare reads folders inside folders)")
    return [*notes, *other_tables(names)]


def beside_shards(folder: Path) -> list[str]:
    """What a folder of shards has that is not read: compressed ones."""
    packed = [name for name in _names(folder) if name.lower().endswith(COMPRESSED)]
    return [f"compressed archives are not read (unpack them to .tar): {listed(packed)}"] if packed else []


def other_tables(names: Sequence[str]) -> list[str]:
    """A note on tables that are not called as `imagefolder` has it."""
    tables = [name for name in names if _may_be_table(PurePosixPath(name).name.lower())]
    if not tables:
        return []
    return [f"tables are read only if they are called {', '.join(METADATA_NAMES)}, these are not: {listed(tables)}"]


def _may_be_table(name: str) -> bool:
    if is_metadata(name):
        return False
    return name.endswith(TABLE_SUFFIXES) or (name.endswith(".json") and name.startswith(JSON_BEGINS))


def where_shards_are(folder: Path) -> list[str]:
    """The folders in a folder that hold shards."""
    return [path.name for path in sorted(folder.iterdir()) if _is_read(path) and shards_of(path)]


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if not is_hidden(entry.name) and entry.is_file())


def _is_read(path: Path) -> bool:
    return path.is_dir() and not is_hidden(path.name) and os.access(path, os.R_OK | os.X_OK)


def _has_pictures(folder: Path) -> bool:
    return _is_read(folder) and any(is_picture(entry.name) for entry in os.scandir(folder))


def left_out(folder: Path, rows: Sequence[PictureRow]) -> list[str]:
    """The pictures that a folder has and its rows do not: those without a row, hidden ones, those in deeper folders."""
    used = {row.file_name for row in rows}
    tree = Tree(folder)
    notes = []
    inside = {""} | {Path(name).parent.as_posix() for name in used if "/" in name and ".tar/" not in name.lower()}
    present = [
        f"{place}/{name}" if place not in ("", ".") else name
        for place in sorted(inside)
        for name in tree.names(place) or ()
    ]
    rest = sorted(name for name in present if is_picture(name) and name not in used)
    if rest := [name for name in rest if not (folder / name).is_dir()]:
        said = counted(
            len(rest), "picture has no row in the metadata and is", "pictures have no row in the metadata and are"
        )
        notes.append(f"{said} not used: {listed(rest)}")
    if hidden := [name for name in present if is_hidden(name) and Path(name).suffix.lower() in PICTURE_SUFFIXES]:
        notes.append(f"{counted(len(hidden), 'hidden file')} with a picture's suffix left out")
    deeper = [
        name for name in present if "/" in name and name not in inside and not is_hidden(name)
    ]  # others: `beside`
    if unread := sorted(name for name in deeper if _has_pictures(folder / name)):
        notes.append(f"pictures in {listed(unread)} are not read (genin data prepare reads folders inside folders)")
    return notes

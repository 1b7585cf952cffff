"""What lies in a folder of pictures and is not read, so that nothing is left out without a word.

A folder has one layout: pictures with their table, one folder per split, or shards. What lies directly in it and only another
layout would read is named for every command (`beside`); single files are listed where a folder is looked at (`left_out`).

Not here: reading a folder (`sets`), folders inside folders (`genin.distill.data.find`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path, PurePosixPath

from genin.dataset.folders import PICTURE_SUFFIXES, Tree, is_hidden, is_picture
from genin.dataset.rows import PictureRow
from genin.dataset.shards import COMPRESSED, SUFFIX
from genin.dataset.splits import folders_of
from genin.dataset.tables import METADATA_NAMES, is_metadata
from genin.dataset.text import listed
from genin.runtimes.wording import counted

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")
JSON_BEGINS = ("metadata", "caption", "meta_")  # of one JSON file for all pictures: other tools write it
MOST_FOLDERS, MOST_FILES = 1000, 1000  # that are looked at: a folder of latents may have millions


def beside(folder: Path, rows: Sequence[PictureRow]) -> list[str]:
    """What a folder has directly in it that its `rows` do not come from: shards, folders with pictures, tables of other names."""
    files, folders = contents(folder)
    used = {row.file_name.partition("/")[0] for row in rows}
    notes = []
    if packed := [name for name in files if name.lower().endswith(COMPRESSED)]:
        notes.append(f"compressed archives are not read (unpack them to .tar): {listed(packed)}")
    if archives := [name for name in files if name.lower().endswith(SUFFIX) and name not in used]:
        notes.append(f"shards are not read beside pictures, tables and folders of splits: {listed(archives)}")
    splits = {part.name for part in folders_of(folder)}
    unread = [name for name in folders if name not in used][:MOST_FOLDERS]
    unread = [name for name in unread if _has_pictures(folder / name)]
    if parts := [name for name in unread if name in splits]:
        notes.append(f"folders of splits are not read where a folder has pictures of its own: {listed(parts)}")
    if others := [name for name in unread if name not in splits]:
        notes.append(f"pictures in {listed(others)} are not read (genin data prepare reads folders inside folders)")
    return [*notes, *other_tables(files)]


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
    return [name for name in contents(folder)[1][:MOST_FOLDERS] if any(contents(folder / name, shard=True)[0])]


def contents(folder: Path, *, shard: bool = False) -> tuple[list[str], list[str]]:
    """Names of the files and of the folders in a folder, hidden ones left out, in order; with `shard` of shards alone. None of a
    folder that cannot be read: a note never ends a command. Nothing is asked of each file, which takes long on network disks."""
    files: list[str] = []
    folders: list[str] = []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if is_hidden(entry.name) or (shard and not entry.name.lower().endswith(SUFFIX)):
                continue
            (folders if _is_folder(entry) else files).append(entry.name)
    return sorted(files), sorted(folders)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link into a folder that may not be entered, or to itself
        return False


def _has_pictures(folder: Path) -> bool:
    """Whether there is a picture among the first files of a folder."""
    with suppress(OSError), os.scandir(folder) as entries:
        return any(is_picture(entry.name) for entry in islice(entries, MOST_FILES))
    return False


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

"""WebDataset shards as folders of pictures: a member of a tar archive is addressed like a file in a folder.

    train-000000.tar/000000123.png     the picture; 000000123.txt beside it is its caption, 000000123.json its row

The headers of an archive are read once and remembered; a picture then takes one read at its offset. Nothing is unpacked, so names
in an archive cannot lead outside; links and devices in it are ignored.

Not here: writing shards (`genin data shard`), compressed archives (they allow no random access).
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from genin.runtimes.errors import InputError

SUFFIX = ".tar"
TEXT_LIMIT = 1 << 20  # bytes of a caption or a row


@dataclass(frozen=True)
class Sample:
    """What a shard has under one key: the picture's file name, its caption, its row."""

    file_name: str
    text: str | None
    columns: Mapping[str, Any]


def shards_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if path.is_file())


def open_member(path: Path) -> io.BytesIO | None:
    """The content of `….tar/name`, None where no part of the path is an archive. Errors: FileNotFoundError, InputError."""
    found = _place(path)
    if found is None:
        return None
    archive, place = found
    if place is None:
        raise FileNotFoundError(path)
    offset, size = place
    with archive.open("rb") as file:
        file.seek(offset)
        return io.BytesIO(file.read(size))


def _place(path: Path) -> tuple[Path, tuple[int, int] | None] | None:
    """The archive that a path leads into and its member's place there; None where no part of it is an archive."""
    archive = next((parent for parent in path.parents if parent.suffix == SUFFIX and parent.is_file()), None)
    if archive is None:
        return None
    return archive, _members(archive, archive.stat().st_mtime_ns).get(path.relative_to(archive).as_posix())


def member_size(path: Path) -> int | None:
    """Bytes of a picture in an archive, None for any other path."""
    found = _place(path)
    return None if found is None or found[1] is None else found[1][1]


def samples(archive: Path, picture_suffixes: tuple[str, ...]) -> list[Sample]:
    """The samples of a shard that have a picture, in its order. Errors: InputError for a file that is not an archive, or a row that
    is not JSON."""
    members = _members(archive, archive.stat().st_mtime_ns)
    found = []
    for name in members:
        if PurePosixPath(name).suffix.lower() not in picture_suffixes:
            continue
        path = PurePosixPath(name)
        key = (path.parent / path.name.split(".", 1)[0]).as_posix()  # up to the first dot, as webdataset has it
        text = _read(archive, f"{key}.txt", members)
        row = _read(archive, f"{key}.json", members)
        try:
            columns = json.loads(row) if row else {}
        except ValueError as error:
            raise InputError(
                f"'{key}.json' is not valid JSON", where=archive, remedy="write the shard again"
            ) from error
        columns = columns if isinstance(columns, dict) else {}
        caption = text.decode("utf-8", "replace").strip() if text is not None else columns.get("text")
        found.append(
            Sample(f"{archive.name}/{name}", caption if isinstance(caption, str) and caption else None, columns)
        )
    return found


def _read(archive: Path, name: str, members: Mapping[str, tuple[int, int]]) -> bytes | None:
    if name not in members:
        return None
    offset, size = members[name]
    if size > TEXT_LIMIT:
        raise InputError(f"'{name}' is larger than a caption can be", where=archive, remedy="write the shard again")
    with archive.open("rb") as file:
        file.seek(offset)
        return file.read(size)


@lru_cache(maxsize=4096)
def _members(archive: Path, changed_ns: int) -> dict[str, tuple[int, int]]:
    """Regular files: name => (offset, size). `changed_ns` is part of the cache's key: a changed archive is read again."""
    try:
        with tarfile.open(archive, "r:") as tar:
            return {
                member.name.removeprefix("./"): (member.offset_data, member.size) for member in tar if member.isreg()
            }
    except tarfile.TarError as error:
        raise InputError(f"not a readable tar archive ({error})", where=archive, remedy="write it again") from error

"""WebDataset shards as folders of pictures: a member of a tar archive is addressed like a file in a folder.

    train-000000.tar/000000123.png     the picture; 000000123.txt beside it is its caption, 000000123.json its row

A sample is what has one key: the name up to its first dot. Of several pictures in it (a mask, a depth map) one is the sample's: the
only one without a second suffix, or the one that is called the image. The others are counted by suffix, and are not read.

The headers of an archive are read once and remembered; a picture then takes one read at its offset. Nothing is unpacked, so names
in an archive cannot lead outside; links and devices in it are ignored.

Not here: writing shards (`genin data shard`), compressed archives (they allow no random access).
"""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from genin.dataset.folders import SIDECAR_SUFFIXES, FileNames, is_hidden, is_picture
from genin.dataset.tables import caption_in_row, is_null
from genin.dataset.text import decode_any, listed
from genin.runtimes.errors import InputError
from genin.runtimes.text import decode_text, json_object
from genin.runtimes.wording import counted

SUFFIX = ".tar"
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
MAIN = ("image", "img", "picture", "input", "rgb", "original")  # what a sample's picture is called among others
TEXT_LIMIT = 1 << 20  # bytes of a caption or a row


@dataclass(frozen=True)
class Sample:
    """What a shard has under one key: the picture's file name, its caption, its row."""

    file_name: str
    text: str | None
    columns: Mapping[str, Any]


def shards_of(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() == SUFFIX and not is_hidden(path.name) and path.is_file()
    )


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
    archive = next((parent for parent in path.parents if parent.suffix.lower() == SUFFIX and parent.is_file()), None)
    if archive is None:
        return None
    return archive, _members(archive, archive.stat().st_mtime_ns).get(path.relative_to(archive).as_posix())


def member_size(path: Path) -> int | None:
    """Bytes of a picture in an archive, None for any other path."""
    found = _place(path)
    return None if found is None or found[1] is None else found[1][1]


@dataclass
class Shards:
    """The samples of a folder's archives, and what was met in reading them: `others` counts further pictures by suffix, `unclear`
    are samples of which no picture is plainly the sample's, `again` pictures whose name comes again in their archive, `unreadable`
    captions that cannot be decoded, `decoded` those of a code page."""

    folder: Path
    others: Counter[str] = field(default_factory=Counter)
    unclear: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    decoded: Counter[str] = field(default_factory=Counter)

    def samples(self) -> Iterator[Sample]:
        """Of every archive, in its order. Errors: InputError for a file that is not an archive, or a row that is not JSON."""
        for archive in shards_of(self.folder):
            members = _members(archive, archive.stat().st_mtime_ns)
            names = FileNames(members)
            again = _index(archive, archive.stat().st_mtime_ns)[1]
            self.again += [f"{archive.name}/{name}" for name in again if is_picture(name)]
            for pictures in _keys(members).values():
                yield from self._of_key(archive, members, names, pictures)

    def notes(self) -> list[str]:
        """What was left out, and what was guessed."""
        notes = []
        if self.others:
            counts = ", ".join(f"{suffix} ×{count}" for suffix, count in self.others.most_common())
            notes.append(f"further pictures of samples are not read: {counts}")
        if self.unclear:
            notes.append(
                f"{counted(len(self.unclear), 'sample has', 'samples have')} several pictures, none plainly the main "
                f"one: {listed(self.unclear)}"
            )
        if self.again:
            said = counted(len(self.again), "name comes", "names come")
            notes.append(f"{said} twice in an archive, the last is read: {listed(self.again)}")
        if self.unreadable:
            notes.append(
                f"{counted(len(self.unreadable), 'caption is', 'captions are')} in an unknown encoding, counted as "
                f"missing: {listed(self.unreadable)}"
            )
        if self.decoded:
            counts = ", ".join(f"{encoding} ×{count}" for encoding, count in self.decoded.most_common())
            notes.append(f"captions that are not UTF-8 were read by their code page, check them: {counts}")
        return notes

    def _of_key(
        self, archive: Path, members: Mapping[str, tuple[int, int]], names: FileNames, pictures: Sequence[str]
    ) -> Iterator[Sample]:
        """One sample, or one for every picture that has a text or row of its own."""
        own = [name for name in pictures if len(pictures) > 1 and _has_own(names, PurePosixPath(name).with_suffix(""))]
        main = _main(pictures)
        chosen = own if own and (main is None or len(own) == len(pictures)) else [main] if main else []
        if not chosen:
            self.unclear.append(f"{archive.name}/{pictures[0]}")
        self.others.update(_suffixes(name) for name in pictures if chosen and name not in chosen)
        for name in chosen:
            key, whole = _key(name), PurePosixPath(name).with_suffix("")
            if own == chosen or not _has_own(names, key):
                key = whole  # a name with dots: img_1.5.png
            columns = self._row(archive, members, names.find(f"{key}.json"))
            text = self._caption(archive, members, _beside(names, key))
            text = (caption_in_row(columns) or None) if text == "" else text
            yield Sample(f"{archive.name}/{name}", text, columns)

    def _caption(self, archive: Path, members: Mapping[str, tuple[int, int]], name: str | None) -> str | None:
        """ "" without a caption, None for one that cannot be decoded."""
        if name is None:
            return ""
        try:
            decoded = decode_any(_read(archive, name, members))
        except ValueError:
            self.unreadable.append(f"{archive.name}/{name}")
            return None
        self.decoded.update([decoded.encoding] if decoded.encoding else [])
        return "" if is_null(decoded.text) else decoded.text.strip()

    def _row(self, archive: Path, members: Mapping[str, tuple[int, int]], name: str | None) -> Mapping[str, Any]:
        if name is None:
            return {}
        try:
            return json_object(decode_text(_read(archive, name, members)), strict=True) or {}
        except ValueError as error:
            raise InputError(f"'{name}' is not valid JSON", where=archive, remedy="write the shard again") from error


def _keys(members: Mapping[str, tuple[int, int]]) -> dict[PurePosixPath, list[str]]:
    """Key => its pictures, hidden ones aside."""
    keys: dict[PurePosixPath, list[str]] = {}
    for name in members:
        if is_picture(name):
            keys.setdefault(_key(name), []).append(name)
    return keys


def _key(name: str) -> PurePosixPath:
    """Up to the first dot of the file's name, as webdataset has it."""
    path = PurePosixPath(name)
    return path.parent / path.name.split(".", 1)[0]


def _suffixes(name: str) -> str:
    return "." + PurePosixPath(name).name.split(".", 1)[1].lower()


def _main(pictures: Sequence[str]) -> str | None:
    """The picture of a sample: the only one, the only one with one suffix, the one that is called the image."""
    plain = [name for name in pictures if _suffixes(name).count(".") == 1]
    named = [name for name in pictures if _suffixes(name).split(".")[1] in MAIN]
    return next((found[0] for found in (pictures, plain, named) if len(found) == 1), None)


def _beside(names: FileNames, key: PurePosixPath) -> str | None:
    """The text of a key: `.txt` or `.caption`."""
    return next(filter(None, (names.find(f"{key}{suffix}") for suffix in SIDECAR_SUFFIXES)), None)


def _has_own(names: FileNames, key: PurePosixPath) -> bool:
    """Whether a key has a text or a row."""
    return _beside(names, key) is not None or names.find(f"{key}.json") is not None


def _read(archive: Path, name: str, members: Mapping[str, tuple[int, int]]) -> bytes:
    offset, size = members[name]
    if size > TEXT_LIMIT:
        raise InputError(f"'{name}' is larger than a caption can be", where=archive, remedy="write the shard again")
    with archive.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def _members(archive: Path, changed_ns: int) -> dict[str, tuple[int, int]]:
    return _index(archive, changed_ns)[0]


@lru_cache(maxsize=256)  # 50 MB of names
def _index(archive: Path, changed_ns: int) -> tuple[dict[str, tuple[int, int]], tuple[str, ...]]:
    """Regular files: name => (offset, size), and names that are there again; the last one counts, as where an archive was appended
    to. `changed_ns` is part of the cache's key: a changed archive is read again."""
    found: dict[str, tuple[int, int]] = {}
    again: list[str] = []
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                again += [name] if member.isreg() and name in found else []
                if member.isreg():
                    found[name] = (member.offset_data, member.size)
            _check_end(archive, tar.offset)
        return found, tuple(again)
    except tarfile.TarError as error:
        raise InputError(f"not a readable tar archive ({error})", where=archive, remedy="write it again") from error


def _check_end(archive: Path, offset: int) -> None:
    """`tarfile` takes a damaged or cut header for the end. Errors: ReadError where the archive does not end there."""
    with archive.open("rb") as file:
        file.seek(offset)
        block = file.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0") or len(block) not in (0, tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"it is damaged or cut at byte {offset:,}")

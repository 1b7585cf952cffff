"""Which files of a folder are pictures, and which of them a name means: one rule for every reader.

Suffixes count in any case. Files whose names begin with a dot, and what macOS and network storage put beside pictures, are hidden.
A name is looked for as it is written first, then with `/` for `\\`, in the other Unicode form (NFC, NFD), in the other case and
without blanks around it, as long as only one file is meant: tables are written on one system and read on another.

`walk` follows links to folders, each folder once. Not here: opening pictures (`files`), tables (`tables`).
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath

from genin.dataset.text import Decoded, decode_any, listed, says_nothing
from genin.runtimes.wording import counted

PICTURE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jfif", ".tga", ".ppm", ".jp2"),
    *(".apng", ".jpe", ".mpo", ".pgm", ".pbm", ".pnm", ".j2k", ".jpx", ".dib"),
    *(".avif", ".heic", ".heif", ".jxl"),
)
FOREIGN_SUFFIXES = (".svg", ".psd", ".xcf", ".cr2", ".nef", ".arw", ".dng", ".exr", ".hdr")
SIDECAR_SUFFIXES = (".txt", ".caption")
HIDDEN_FOLDERS = ("__MACOSX", "@eaDir")


def is_hidden(name: str) -> bool:
    """Whether a relative path, or any part of it, is hidden."""
    parts = PurePosixPath(name).parts
    return any((part.startswith(".") and part != "..") or part in HIDDEN_FOLDERS for part in parts)


def is_picture(name: str) -> bool:
    """Whether a file's name says that it is a picture that is not hidden."""
    return PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES and not is_hidden(name)


# --- names -----------------------------------------------------------------------------------------------------------


class FileNames:
    """Names of files, found in any spelling that means one of them."""

    def __init__(self, names: Iterable[str]) -> None:
        self._exact = frozenset(names)
        self._alike: list[tuple[Callable[[str], str], dict[str, list[str]]]] = []

    def __contains__(self, name: str) -> bool:
        return name in self._exact

    def __iter__(self) -> Iterator[str]:
        return iter(self._exact)

    def find(self, name: str) -> str | None:
        """The name as the disk has it; None where none or several could be meant."""
        if name in self._exact:
            return name
        if not self._alike:  # only now: most names are found at once
            self._alike = [(spelling, self._by(spelling)) for spelling in (_composed, _folded, _trimmed)]
        for key, alike in self._alike:
            found = alike.get(key(name), [])
            if len(found) == 1:
                return found[0]
        return None

    def _by(self, spelling: Callable[[str], str]) -> dict[str, list[str]]:
        alike: dict[str, list[str]] = {}
        for name in self._exact:
            alike.setdefault(spelling(name), []).append(name)
        return alike


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(_composed(name).casefold())


def _trimmed(name: str) -> str:
    return _folded(name.strip())


class Tree:
    """The files below a folder, by the paths that tables have for them. A folder is listed when a path first leads into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: dict[str, FileNames | None] = {}

    def names(self, inside: str = "") -> FileNames | None:
        """What the folder has at the relative path `inside`; None where that is no folder."""
        if inside not in self._names:
            try:
                self._names[inside] = FileNames(entry.name for entry in os.scandir(self.folder / inside))
            except OSError:
                self._names[inside] = None
        return self._names[inside]

    def find(self, path: str) -> str | None:
        """The relative path on disk that is meant; None where there is no such file."""
        inside, _, name = path.rpartition("/")
        if (names := self._names.get(inside)) is not None and name in names:
            return path  # nearly always: a set may have millions of rows
        if names is None and inside in self._names and "\\" not in path:
            return None  # there is no such folder
        return self._descend(path) or (self._descend(path.replace("\\", "/")) if "\\" in path else None)

    def _descend(self, path: str) -> str | None:
        inside = ""
        for part in PurePosixPath(path).parts:
            names = self.names(inside)
            found = None if names is None else names.find(part)
            if found is None:
                return None
            inside = f"{inside}/{found}" if inside else found
        return inside or None


def within(folder: Path, path: str) -> str:
    """A table's path; from its folder on, where it is an absolute one that leads into it, as other tools write them."""
    if path[:1] not in ("/", "\\") and path[1:2] != ":":
        return path  # nearly always
    return next(
        (Path(path).relative_to(top).as_posix() for top in _tops(folder) if Path(path).is_relative_to(top)), path
    )


@lru_cache(maxsize=64)
def _tops(folder: Path) -> tuple[Path, Path]:
    return folder.absolute(), folder.resolve()


def leads_outside(path: str) -> bool:
    """Whether a table's path leaves its folder, on any system."""
    if ".." not in path and ":" not in path and path[:1] not in ("/", "\\"):
        return False  # nearly always
    plain = PurePosixPath(path.replace("\\", "/"))
    return plain.is_absolute() or ".." in plain.parts or bool(PureWindowsPath(path).drive)


# --- captions beside pictures ----------------------------------------------------------------------------------------


@dataclass
class Sidecars:
    """The text files beside the pictures below `folder`. `used` are those that were read, `unreadable` those whose encoding is not
    known, each with the reason; `decoded` those of a code page, with its name."""

    folder: Path
    encoding: str | None = None
    used: set[str] = field(default_factory=set)
    unreadable: dict[str, str] = field(default_factory=dict)
    decoded: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._tree = Tree(self.folder)

    def read(self, picture: str) -> str | None:
        """The text beside the picture at a relative path: `a.txt`, `a.png.txt` or `a.caption` for `a.png`, "" where none says
        anything, None where it cannot be decoded."""
        path = PurePosixPath(picture)
        inside = "" if path.parent.as_posix() == "." else path.parent.as_posix()
        names = self._tree.names(inside)
        for wanted in (f"{path.stem}.txt", f"{path.name}.txt", f"{path.stem}.caption"):
            name = None if names is None else names.find(wanted)
            file = f"{inside}/{name}" if inside else name
            if not file or not (self.folder / file).is_file():
                continue
            self.used.add(file)
            try:
                content = decode_any((self.folder / file).read_bytes(), self.encoding)
            except (ValueError, OSError) as error:
                self.unreadable[file] = str(getattr(error, "strerror", "") or error)
                return None
            if content.encoding:
                self.decoded[file] = content.encoding
            if not says_nothing(content.text):
                return content.text
        return ""

    def notes(self) -> list[str]:
        """Text files whose encoding is not known, or was detected."""
        notes = [f"{file} cannot be read as a caption ({reason})" for file, reason in sorted(self.unreadable.items())]
        if self.decoded:
            files = listed([f"{file} as {encoding}" for file, encoding in sorted(self.decoded.items())])
            notes.append(
                f"{counted(len(self.decoded), 'caption is', 'captions are')} not UTF-8 but read by code page, to be "
                f"checked: {files}"
            )
        return notes


def said_of_encoding(file: str | Path, decoded: Decoded) -> list[str]:
    """A note about a file that is not Unicode."""
    return [f"{file} is not UTF-8 and was read as {decoded.encoding}: check it"] if decoded.encoding else []


# --- walking ---------------------------------------------------------------------------------------------------------


@dataclass
class Walked:
    """The files below a folder, sorted, as paths that begin with it. `unread`: folders and files that cannot be read, with the
    reason; `hidden` counts pictures that are hidden."""

    files: list[Path] = field(default_factory=list)
    unread: list[tuple[Path, str]] = field(default_factory=list)
    hidden: int = 0


def walk(top: Path) -> Walked:
    """All files below `top`. Links to folders are followed once all real folders are known, and each folder is read once, so that
    cycles end and nothing is there twice."""
    found, seen = Walked(), {_identity(top)}
    folders, links = [top], list[Path]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        if folder.is_symlink() and folder != top:
            if (identity := _identity(folder)) in seen:
                found.unread.append((folder, f"a link to a folder that is read anyway ({folder.readlink()})"))
                continue
            seen.add(identity)
        for entry in _entries(folder, found):
            path = folder / entry.name
            try:
                if is_hidden(entry.name):
                    found.hidden += (
                        PurePosixPath(entry.name).suffix.lower() in PICTURE_SUFFIXES and Path(entry).is_file()
                    )
                elif entry.is_dir(follow_symlinks=False):
                    seen.add(_identity(path))
                    folders.append(path)
                elif path.is_dir():
                    links.append(path)
                elif entry.is_file() or not path.exists():  # a link that leads nowhere is a file that is missing
                    found.files.append(path)
                else:
                    found.unread.append((path, "not a regular file (a pipe, a socket or a device)"))
            except OSError as error:  # of a folder that may be listed and not entered
                found.unread.append((path, f"cannot be read ({error.strerror})"))
    found.files.sort()
    return found


def _entries(folder: Path, found: Walked) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        found.unread.append((folder, f"the folder cannot be read ({error.strerror})"))
        return []


def _identity(folder: Path) -> tuple[int, int] | str:
    stat = folder.stat()
    return (stat.st_dev, stat.st_ino) if stat.st_ino else os.path.realpath(folder)  # Windows may have no inode

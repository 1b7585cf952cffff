"""Other people's folders: which files hold pictures (videos, comics and tables among them), and what is known about each.

Captions come from metadata (`metadata.jsonl` or `metadata.csv` in any folder, with columns of any name; a table has its own), from
sidecar text files (`a.txt`, `a.png.txt`, `a.caption`), or from folder and file names, in the order that the caller gives. Nothing
is lost silently: rows without a file, lines that cannot be parsed and unreadable picture formats are listed with their reasons;
hidden files are ignored, and other files are counted by suffix.

Not here: opening any picture (`extract`), or a table (`parquet`).
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from genin.dataset.sets import SUFFIXES
from genin.dataset.splits import ALIASES, Split
from genin.distill.data.parquet import SUFFIXES as TABLE_SUFFIXES
from genin.distill.data.parquet import RowGroup, open_table
from genin.runtimes.errors import InputError
from genin.runtimes.vocabulary import nearest

PICTURE_SUFFIXES = (*SUFFIXES, ".gif", ".tif", ".tiff", ".avif", ".jfif", ".tga", ".ppm", ".jp2")
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".ogv")
COMIC_SUFFIXES = (".cbz",)
FOREIGN_SUFFIXES = (
    ".heic",
    ".heif",
    ".jxl",
    ".svg",
    ".psd",
    ".xcf",
    ".cr2",
    ".nef",
    ".arw",
    ".dng",
    ".exr",
    ".hdr",
    ".cbr",
)
Kind = Literal["picture", "page", "comic", "video", "table"]
CAPTION_SOURCES = ("metadata", "sidecar", "name")
METADATA_NAMES = ("metadata.jsonl", "metadata.csv")
CARD_NAME = "README.md"  # a data set's card, which may state the licence
FILE_COLUMNS = ("file_name", "file", "filename", "image", "path")
CAPTION_COLUMNS = ("text", "caption", "prompt")
SIDECAR_SUFFIXES = (".txt", ".caption")
KNOWN_SUFFIXES = (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES, *COMIC_SUFFIXES, *TABLE_SUFFIXES)
# Words of file and folder names that say where a picture comes from, not what it shows.
NO_WORDS = frozenset(
    (
        *("train", "training", "val", "valid", "validation", "test", "data", "dataset", "file", "download", "copy"),
        *("image", "images", "img", "imgs", "picture", "pictures", "pic", "pics", "photo", "photos", "frame"),
        *("png", "jpg", "jpeg", "webp", "dsc", "dscn", "dscf", "pxl", "mvi", "screenshot", "untitled"),
    )
)


@dataclass(frozen=True)
class SourceOptions:
    """How to read the sources. Without column names, the usual ones are looked for. `pages`: globs of comic pages."""

    file_column: str | None = None
    caption_columns: tuple[str, ...] = ()
    captions: tuple[str, ...] = CAPTION_SOURCES
    exclude: tuple[str, ...] = ()
    pages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dropped:
    """Something that did not become part of the dataset, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Candidate:
    """A file that should hold pictures, or the rows `group` of a table; `caption_from` is one of CAPTION_SOURCES, or None without a
    caption."""

    path: Path
    name: str
    caption: str = ""
    caption_from: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    split: Split | None = None
    kind: Kind = "picture"
    group: RowGroup | None = None


@dataclass
class Found:
    """Everything in the sources, in the order of the sources and of the file names."""

    candidates: list[Candidate] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    columns: set[str] = field(default_factory=set)
    excluded: int = 0


def find_pictures(
    sources: Sequence[Path], options: SourceOptions, said: Mapping[Path, Mapping[str, str]] | None = None
) -> Found:
    """List the pictures of folders (or single files). `said` maps a source to the columns of all its pictures whose rows lack them.

    Errors: InputError for no such source, or unknown columns.
    """
    found = Found()
    for source in sources:
        if not source.exists():
            raise InputError("no such source of pictures", where=source, remedy="give a folder of pictures")
        top = source if source.is_dir() else source.parent
        files = _files(source, top, options.exclude, found) if source.is_dir() else [source]
        rows = _rows(top, files, options, found)
        whole = (said or {}).get(source, {})
        tables = [path for path in files if path.suffix.lower() in TABLE_SUFFIXES]
        split_of = _splits_of_tables(tables, top)
        for path in sorted({*_pictures(files, found), *rows}):
            if path in split_of:
                found.candidates.extend(_row_groups(path, top, split_of[path], whole, options, found))
            else:
                found.candidates.append(_candidate(path, top, rows.get(path), whole, options))
    wanted = [name for name in (options.file_column, *options.caption_columns) if name]
    for name in wanted:
        if name not in found.columns:
            known = sorted(found.columns)
            remedy = nearest(name, known) if known else f"the sources have no {', '.join(METADATA_NAMES)} or .parquet"
            raise InputError(f"no metadata has a column '{name}'", remedy=remedy)
    return found


def clean(text: object) -> str:
    """The text as one line of normalised Unicode without line breaks or stray surrogates, which any file can hold."""
    safe = str(text).encode("utf-8", "replace").decode("utf-8")
    return " ".join(unicodedata.normalize("NFC", safe).replace("\0", " ").split())


# --- files -----------------------------------------------------------------------------------------------------------


def _files(source: Path, top: Path, exclude: Sequence[str], found: Found) -> list[Path]:
    files = []
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(top)
        if any(part.startswith(".") or part == "__MACOSX" for part in relative.parts):
            continue
        if not path.is_file() and not path.is_symlink():
            continue
        if is_excluded(relative.as_posix(), exclude):
            found.excluded += path.suffix.lower() in KNOWN_SUFFIXES
        else:
            files.append(path)
    return files


def is_excluded(name: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern matches. It may match the relative path or any one part of it: `UNUSED`, `*_old.png`, `gui/spells/*`."""
    return any(fnmatchcase(text, pattern) for pattern in patterns for text in (name, *name.split("/")))


def _pictures(files: Sequence[Path], found: Found) -> Iterator[Path]:
    for path in files:
        suffix = path.suffix.lower()
        if suffix in KNOWN_SUFFIXES:
            yield path
        elif suffix in FOREIGN_SUFFIXES:
            found.dropped.append(Dropped(clean(path), f"{suffix} is not supported: convert it to PNG or JPEG"))
        elif path.name not in (*METADATA_NAMES, CARD_NAME) and suffix not in SIDECAR_SUFFIXES:
            found.ignored[suffix or "no suffix"] += 1


# --- metadata --------------------------------------------------------------------------------------------------------


def _rows(top: Path, files: Sequence[Path], options: SourceOptions, found: Found) -> dict[Path, Mapping[str, Any]]:
    """File => its row of the nearest metadata file in or above its folder, whichever folder the paths in it start from."""
    by_name: dict[str, list[Path]] = {}
    for path in files:
        by_name.setdefault(path.name, []).append(path)
    rows: dict[Path, Mapping[str, Any]] = {}
    for table in (path for path in files if path.name in METADATA_NAMES):
        for place, row in _table(table, found):
            found.columns.update(row)
            column = options.file_column or next((name for name in FILE_COLUMNS if name in row), "")
            value = row.get(column)
            if not isinstance(value, str) or not value:
                found.dropped.append(Dropped(place, "the row names no file (--file-column says which column does)"))
                continue
            inside = (table.parent / value).relative_to(top).as_posix() if _is_inside(value) else value
            if is_excluded(inside, options.exclude):
                continue
            match = _locate(table.parent, value, by_name)
            if isinstance(match, str):
                found.dropped.append(Dropped(clean(f"{place}: {value}"), match))
            elif match in rows:
                found.dropped.append(Dropped(clean(f"{place}: {value}"), "a second row for the same file"))
            else:
                rows[match] = row
    return rows


def _is_inside(value: str) -> bool:
    path = PurePosixPath(value)
    return not path.is_absolute() and ".." not in path.parts


def _locate(folder: Path, value: str, by_name: Mapping[str, Sequence[Path]]) -> Path | str:
    """The listed file, even where the metadata leaves out its folder; or why there is none."""
    value = value.replace("\\", "/")
    if not _is_inside(value):
        return "the row names a file outside its folder"
    path = folder / value
    same_name = by_name.get(path.name, ())
    if path in same_name:
        return path
    tail = "/" + value.removeprefix("./")
    matches = [other for other in same_name if folder in other.parents and f"/{other.as_posix()}".endswith(tail)]
    if len(matches) > 1:
        return f"the row could mean {len(matches)} files of that name"
    return matches[0] if matches else "listed in the metadata, but there is no such file"


def _table(path: Path, found: Found) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place for messages, row) of a metadata file; lines that are not rows are reported as dropped."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError("the metadata is not UTF-8", where=path, remedy="save it as UTF-8") from error
    if path.suffix == ".csv":
        # Cells beyond the header are under the key None, and missing ones are None: both are ignored.
        for number, cells in enumerate(csv.DictReader(io.StringIO(text, newline="")), 2):
            yield f"{path}:{number}", {key: value for key, value in cells.items() if key and value is not None}
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            yield f"{path}:{number}", row
        else:
            found.dropped.append(Dropped(clean(f"{path}:{number}"), "the line is not a JSON object"))


# --- tables ----------------------------------------------------------------------------------------------------------


def _splits_of_tables(tables: Sequence[Path], top: Path) -> dict[Path, Split | None]:
    """`train-00000-of-00002.parquet`, `default/train/0000.parquet`: their names say the split, if there are several. A set with
    only one split is divided like any other."""
    splits: dict[Path, Split | None] = {
        path: next(filter(None, map(ALIASES.get, _words(path, top))), None) for path in tables
    }
    return splits if len(set(splits.values()) - {None}) > 1 else dict.fromkeys(tables, None)


def _words(path: Path, top: Path) -> list[str]:
    """What may be a split's name: what the file's name begins with, then its folders, nearest first."""
    relative = path.relative_to(top)
    return [relative.stem.split("-")[0].lower(), *(part.lower() for part in reversed(relative.parent.parts))]


def _row_groups(
    path: Path, top: Path, split: Split | None, whole: Mapping[str, str], options: SourceOptions, found: Found
) -> Iterator[Candidate]:
    try:
        table = open_table(path, options.file_column)
    except InputError as error:
        found.dropped.append(Dropped(clean(path), f"{error.what} ({error.remedy})"))
        return
    found.columns.update(table.columns)
    name = clean(path.relative_to(top).as_posix())
    for group in table.groups:
        if group.column == options.file_column:
            found.columns.add(group.column)
        yield Candidate(path, name, columns=whole, split=split, kind="table", group=group)


# --- captions --------------------------------------------------------------------------------------------------------


def _candidate(
    path: Path, top: Path, row: Mapping[str, Any] | None, whole: Mapping[str, str], options: SourceOptions
) -> Candidate:
    relative = PurePosixPath(path.relative_to(top).as_posix())
    kind = _kind(path, relative.as_posix(), options)
    # The name of an episode or a volume says nothing about a single picture in it.
    name = relative if kind == "picture" else None
    caption, caption_from = _caption(row or {}, path, name, options)
    columns = _columns(row or {}, whole)
    split = ALIASES.get(columns.get("split", relative.parts[0] if len(relative.parts) > 1 else "").lower())
    return Candidate(path, clean(relative.as_posix()), caption, caption_from, columns, split, kind)


def of_row(candidate: Candidate, row: Mapping[str, Any], name: str, options: SourceOptions) -> Candidate:
    """The candidate of one row of a table; `name` is what the row calls the picture's file, "" where it does not."""
    caption, caption_from = _caption(row, None, PurePosixPath(name.replace("\\", "/")) if name else None, options)
    columns = _columns(row, candidate.columns)
    split = ALIASES.get(columns.get("split", "").lower()) or candidate.split
    return replace(candidate, caption=caption, caption_from=caption_from, columns=columns, split=split)


def _columns(row: Mapping[str, Any], whole: Mapping[str, str]) -> dict[str, str]:
    """The row's columns, and its source's where the row has none."""
    columns = {clean(key): text for key, value in row.items() if (text := text_of(value))}
    if "license" in columns:
        columns.setdefault("licence", columns.pop("license"))
    return {**whole, **columns}


def _caption(
    row: Mapping[str, Any], path: Path | None, name: PurePosixPath | None, options: SourceOptions
) -> tuple[str, str | None]:
    """The first caption found, and where; `path` may have sidecars, `name` may be a caption."""
    for source in options.captions:
        caption = ""
        if source == "metadata":
            caption = caption_in_row(row, options.caption_columns)
        elif source == "sidecar" and path is not None:
            caption = caption_beside(path)
        elif source == "name" and name is not None:
            caption = caption_in_name(name)
        if caption:
            return caption, source
    return "", None


def _kind(path: Path, relative: str, options: SourceOptions) -> Kind:
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return "video"
    if suffix in COMIC_SUFFIXES:
        return "comic"
    return "page" if is_excluded(relative, options.pages) else "picture"


def caption_in_row(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    """The caption a metadata row holds: the first usual column, or the named ones, joined."""
    if columns:
        return " ".join(text for text in (text_of(row.get(name)) for name in columns) if text)
    return next((text for text in (text_of(row.get(name)) for name in CAPTION_COLUMNS) if text), "")


def text_of(value: object) -> str:
    """Texts and numbers as they are, lists joined; anything else says nothing."""
    if isinstance(value, list):
        return " ".join(filter(None, map(text_of, value)))
    return clean(value) if isinstance(value, str | int | float) else ""


def caption_beside(path: Path) -> str:
    """The content of a text file of the same name."""
    for sidecar in (path.with_suffix(".txt"), path.with_name(f"{path.name}.txt"), path.with_suffix(".caption")):
        if sidecar.is_file():
            return clean(sidecar.read_text(encoding="utf-8-sig", errors="replace"))
    return ""


def caption_in_name(relative: PurePosixPath) -> str:
    """`mon/dragons/swamp_dragon.png` => "mon dragons swamp dragon"; counters and `IMG_2041` say nothing."""
    text = clean(" ".join((*relative.parent.parts, relative.stem)))
    words = [word for word in re.split(r"[\s_\-.()\[\]+]+", text) if word]
    kept = [word for word in words if word.casefold() not in NO_WORDS and any(c.isalpha() for c in word)]
    return " ".join(kept)

"""Other people's folders: which files hold pictures (videos, comics and tables among them), and what is known about each.

Captions come from metadata (`metadata.jsonl`, `.csv` or `.parquet` in any folder, with columns of any name; a table has its own),
from sidecar text files (`a.txt`, `a.png.txt`, `a.caption`), or from folder and file names, in the order that the caller gives.
Nothing is lost silently: rows without a file, lines that cannot be parsed, captions that cannot be decoded, folders and picture
formats that cannot be read are listed with their reasons; hidden, other and unused files are counted.

Not here: names and links (`genin.dataset.folders`), opening any picture (`extract`), or a table of pictures (`parquet`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from genin.dataset.beside import other_tables
from genin.dataset.folders import (
    FOREIGN_SUFFIXES,
    PICTURE_SUFFIXES,
    SIDECAR_SUFFIXES,
    FileNames,
    Sidecars,
    Tree,
    leads_outside,
    walk,
    within,
)
from genin.dataset.splits import ALIASES, Split, split_in_name
from genin.dataset.tables import (
    FILE_COLUMNS,
    METADATA_NAMES,
    caption_in_row,
    column_of,
    holds_metadata,
    is_metadata,
    is_null,
    read_table,
    text_of,
)
from genin.dataset.text import check_encoding, clean, listed
from genin.distill.data.parquet import SUFFIXES as TABLE_SUFFIXES
from genin.distill.data.parquet import RowGroup, open_table
from genin.runtimes.errors import InputError
from genin.runtimes.vocabulary import nearest
from genin.runtimes.wording import counted

VIDEO_SUFFIXES = (
    *(".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".ogv"),
    *(".3gp", ".3g2", ".mts", ".m2ts", ".vob", ".asf", ".divx", ".f4v"),
)
COMIC_SUFFIXES = (".cbz",)
UNPACK = "unpack it (an archive of comic pages may be called .cbz)"
# What is no picture, but may hold some => what to do.
OTHER_SUFFIXES: Mapping[str, str] = {
    **dict.fromkeys((*FOREIGN_SUFFIXES, ".cbr"), "convert it to PNG or JPEG"),
    **dict.fromkeys((".zip", ".rar", ".7z", ".gz", ".tgz", ".bz2", ".xz", ".zst"), UNPACK),
    ".tar": "training and the other commands read a folder of shards as it is; or unpack it",
}
Kind = Literal["picture", "page", "comic", "video", "table"]
CAPTION_SOURCES = ("metadata", "sidecar", "name")
CARD_NAME = "README.md"  # a data set's card, which may state the licence
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
    """How to read the sources. Without column names, the usual ones are looked for. `pages`: globs of comic pages.
    `encoding`: of captions and tables that are not Unicode."""

    file_column: str | None = None
    caption_columns: tuple[str, ...] = ()
    captions: tuple[str, ...] = CAPTION_SOURCES
    exclude: tuple[str, ...] = ()
    pages: tuple[str, ...] = ()
    encoding: str | None = None

    def __post_init__(self) -> None:
        check_encoding(self.encoding)


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
    hidden: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """A folder (or the folder of a single file), its files, and what is said about all its pictures."""

    top: Path
    files: Sequence[Path]
    options: SourceOptions
    said: Mapping[str, str]
    sidecars: Sidecars


def find_pictures(
    sources: Sequence[Path], options: SourceOptions, said: Mapping[Path, Mapping[str, str]] | None = None
) -> Found:
    """List the pictures of folders (or single files). `said` maps a source to the columns of all its pictures whose rows lack them.

    Errors: InputError for no such source, or unknown columns.
    """
    found = Found()
    for path in sources:
        if not path.exists():
            raise InputError("no such source of pictures", where=path, remedy="give a folder of pictures")
        _search(path, options, (said or {}).get(path, {}), found)
    wanted = [name for name in (options.file_column, *options.caption_columns) if name]
    for name in wanted:
        if name not in found.columns:
            known = sorted(found.columns)
            remedy = nearest(name, known) if known else f"the sources have no {', '.join(METADATA_NAMES)} or .parquet"
            raise InputError(f"no metadata has a column '{name}'", remedy=remedy)
    # Names on disk may hold what is no Unicode, and no report could be written with it.
    found.dropped = [Dropped(clean(entry.path), clean(entry.reason)) for entry in found.dropped]
    return found


def _search(path: Path, options: SourceOptions, said: Mapping[str, str], found: Found) -> None:
    """Everything in one source."""
    top = path if path.is_dir() else path.parent
    files = _files(path, options.exclude, found) if path.is_dir() else [path]
    source = Source(top, files, options, said, Sidecars(top, options.encoding))
    metadata = [file for file in files if is_metadata(file.name) and holds_metadata(file)]
    rows = _rows(source, metadata, found)
    pictures = _pictures(files, metadata, found)
    tables = [file for file in pictures if file.suffix.lower() in TABLE_SUFFIXES]
    split_of = _splits_of_tables(tables, top)
    for file in sorted({*pictures, *rows}):
        if file in split_of:
            found.candidates.extend(_row_groups(file, source, split_of[file], found))
        else:
            found.candidates.append(_candidate(file, source, rows.get(file)))
    _say_what_sidecars_were(source, found)


def _say_what_sidecars_were(source: Source, found: Found) -> None:
    sidecars = source.sidecars
    remedy = "save it as UTF-8, or say what it is with --encoding"
    for file, reason in sorted(sidecars.unreadable.items()):
        found.dropped.append(Dropped(str(source.top / file), f"the caption is {reason}: {remedy}"))
    if sidecars.decoded:
        files = listed([f"{file} as {encoding}" for file, encoding in sorted(sidecars.decoded.items())])
        found.notes.append(
            f"{counted(len(sidecars.decoded), 'caption is', 'captions are')} not UTF-8 but read by code page, to be "
            f"checked: {files}"
        )
    texts = [
        file.relative_to(source.top).as_posix() for file in source.files if file.suffix.lower() in SIDECAR_SUFFIXES
    ]
    if unused := [name for name in texts if name not in sidecars.used]:
        found.notes.append(
            f"{counted(len(unused), 'text file was', 'text files were')} not used as captions: {listed(unused)}"
        )


# --- files -----------------------------------------------------------------------------------------------------------


def _files(source: Path, exclude: Sequence[str], found: Found) -> list[Path]:
    walked, files = walk(source), []
    found.hidden += walked.hidden
    found.dropped += [Dropped(str(path), reason) for path, reason in walked.unread]
    for path in walked.files:
        if is_excluded(path.relative_to(source).as_posix(), exclude):
            found.excluded += path.suffix.lower() in KNOWN_SUFFIXES
        else:
            files.append(path)
    return files


def is_excluded(name: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern matches. It may match the relative path or any one part of it: `UNUSED`, `*_old.png`, `gui/spells/*`."""
    return any(fnmatchcase(text, pattern) for pattern in patterns for text in (name, *name.split("/")))


def _pictures(files: Sequence[Path], metadata: Sequence[Path], found: Found) -> list[Path]:
    """The files that should hold pictures."""
    pictures, tables = [], {*metadata}
    for path in files:
        suffix = path.suffix.lower()
        if path in tables or path.name == CARD_NAME or suffix in SIDECAR_SUFFIXES:
            continue
        if suffix in KNOWN_SUFFIXES:
            pictures.append(path)
        elif suffix in OTHER_SUFFIXES:
            found.dropped.append(Dropped(str(path), f"{suffix} is not supported: {OTHER_SUFFIXES[suffix]}"))
        elif path.is_symlink() and not path.exists():
            found.dropped.append(Dropped(str(path), "a link that leads nowhere"))
        else:
            found.ignored[suffix or "no suffix"] += 1
    found.notes += other_tables([path.name for path in files])
    return pictures


# --- metadata --------------------------------------------------------------------------------------------------------


class Endings:
    """Files by how their paths end: whoever writes a table may leave out the folders above."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files, self._deepest = files, max((len(path.parts) for path in files), default=0)
        self._by_length: dict[int, tuple[FileNames, dict[str, list[Path]]]] = {}

    def find(self, ending: PurePosixPath) -> Sequence[Path]:
        """The files whose paths end so, in any spelling that means one ending."""
        length = len(ending.parts)
        if length > self._deepest:
            return ()
        if length not in self._by_length:
            paths: dict[str, list[Path]] = {}
            for path in self._files:
                paths.setdefault("/".join(path.parts[-length:]), []).append(path)
            self._by_length[length] = FileNames(paths), paths
        names, paths = self._by_length[length]
        return paths.get(names.find(ending.as_posix()) or "", ())


def _rows(source: Source, metadata: Sequence[Path], found: Found) -> dict[Path, Mapping[str, Any]]:
    """File => its row of the nearest metadata file in or above its folder, whichever folder the paths in it start from."""
    files, endings, tree, options = {*source.files}, Endings(source.files), Tree(source.top), source.options
    rows: dict[Path, Mapping[str, Any]] = {}
    columns = (options.file_column,) if options.file_column else FILE_COLUMNS
    for path in sorted(metadata, key=lambda path: (-len(path.parts), METADATA_NAMES.index(path.name.lower()))):
        table = read_table(path, encoding=options.encoding, known=columns)
        found.notes += table.notes
        found.dropped += [Dropped(f"{path}:{number}", reason) for number, reason in table.bad]
        named = []
        for row in table.rows:
            place = f"{path}:{row.number}"
            found.columns.update(row.values)
            column = column_of(row.values, columns)
            value = None if column is None else row.values[column]
            if not isinstance(value, str) or is_null(value):
                found.dropped.append(Dropped(place, "the row names no file (--file-column says which column does)"))
                continue
            value = within(path.parent, value)
            inside = value if leads_outside(value) else (path.parent / value).relative_to(source.top).as_posix()
            if not is_excluded(inside, options.exclude):
                named.append((f"{place}: {value}", value, row.values, _in_place(path.parent, value, tree, files)))
        # A row that names a file where it is counts before one whose path only ends alike.
        all_in_place = {in_place for *_, in_place in named}
        for place, value, values, in_place in named:
            match = in_place or _by_ending(path.parent, value, endings)
            if isinstance(match, str):
                found.dropped.append(Dropped(place, match))
            elif match in rows or (in_place is None and match in all_in_place):
                found.dropped.append(Dropped(place, "a second row for the same file"))
            else:
                rows[match] = values
    return rows


def _in_place(folder: Path, value: str, tree: Tree, files: Collection[Path]) -> Path | None:
    """The listed file that lies where the metadata in `folder` says."""
    if leads_outside(value):
        return None
    inside = folder.relative_to(tree.folder).as_posix()
    on_disk = tree.find(value if inside == "." else f"{inside}/{value}")
    path = None if on_disk is None else tree.folder / on_disk
    return path if path in files else None


def _by_ending(folder: Path, value: str, endings: Endings) -> Path | str:
    """The file below `folder` whose path ends as a row says; or why there is none."""
    if leads_outside(value):
        return "the row names a file outside its folder"
    alike = endings.find(PurePosixPath(value.replace("\\", "/")))
    matches = [path for path in alike if folder in path.parents]
    if len(matches) > 1:
        return f"the row could mean {len(matches)} files of that name"
    return matches[0] if matches else "listed in the metadata, but there is no such file"


# --- tables ----------------------------------------------------------------------------------------------------------


def _splits_of_tables(tables: Sequence[Path], top: Path) -> dict[Path, Split | None]:
    """`train-00000-of-00002.parquet`, `default/train/0000.parquet`: their names say the split, if there are several. A set with
    only one split is divided like any other."""
    splits = {path: _split_of_table(path.relative_to(top)) for path in tables}
    return splits if len(set(splits.values()) - {None}) > 1 else dict.fromkeys(tables, None)


def _split_of_table(path: Path) -> Split | None:
    """What its name begins with, else its folders, nearest first."""
    folders = (ALIASES.get(part.lower()) for part in reversed(path.parent.parts))
    return split_in_name(path.name) or next(filter(None, folders), None)


def _row_groups(path: Path, source: Source, split: Split | None, found: Found) -> list[Candidate]:
    try:
        table = open_table(path, source.options.file_column)
    except InputError as error:
        found.dropped.append(Dropped(str(path), f"{error.what} ({error.remedy})"))
        return []
    found.columns.update(table.columns)
    found.columns.update(group.column for group in table.groups if group.column == source.options.file_column)
    name = clean(path.relative_to(source.top).as_posix())
    return [
        Candidate(path, name, columns=source.said, split=split, kind="table", group=group) for group in table.groups
    ]


# --- captions --------------------------------------------------------------------------------------------------------


def _candidate(path: Path, source: Source, row: Mapping[str, Any] | None) -> Candidate:
    relative = PurePosixPath(path.relative_to(source.top).as_posix())
    kind = _kind(path, relative.as_posix(), source.options)
    # The name of an episode or a volume says nothing about a single picture in it.
    name = relative if kind == "picture" else None
    caption, caption_from = _caption(row or {}, relative, name, source.options, source.sidecars)
    columns = _columns(row or {}, source.said)
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
    row: Mapping[str, Any],
    path: PurePosixPath | None,
    name: PurePosixPath | None,
    options: SourceOptions,
    sidecars: Sidecars | None = None,
) -> tuple[str, str | None]:
    """The first caption found, and where; `path` may have sidecars, `name` may be a caption. Where a sidecar cannot be decoded
    there is none: what stands in it is not known to be what the name says."""
    for source in options.captions:
        caption: str | None = ""
        if source == "metadata":
            caption = caption_in_row(row, options.caption_columns)
        elif source == "sidecar" and sidecars is not None:
            caption = sidecars.read(str(path))
        elif source == "name" and name is not None:
            caption = caption_in_name(name)
        if caption is None:
            break
        if not is_null(caption) and (caption := clean(caption)):
            return caption, source
    return "", None


def _kind(path: Path, relative: str, options: SourceOptions) -> Kind:
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return "video"
    if suffix in COMIC_SUFFIXES:
        return "comic"
    return "page" if is_excluded(relative, options.pages) else "picture"


def caption_in_name(relative: PurePosixPath) -> str:
    """`mon/dragons/swamp_dragon.png` => "mon dragons swamp dragon"; counters and `IMG_2041` say nothing."""
    text = clean(" ".join((*relative.parent.parts, relative.stem)))
    words = [word for word in re.split(r"[\s_\-.()\[\]+]+", text) if word]
    kept = [word for word in words if word.casefold() not in NO_WORDS and any(c.isalpha() for c in word)]
    return " ".join(kept)

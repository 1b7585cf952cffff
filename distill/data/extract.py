"""The pictures in one source file: a picture itself, a page's panels, those of a comic archive's pages, a frame of every shot of a
video, the pictures in the rows of a table's row group.

    file ─ open ─▶ pieces ─ check (too small, blank), fit (square, bucket) ─▶ PNG files + records

Pieces of one file that look alike share a `group`, so that they land in one split: all panels of a page, all shots of a minute. A
broken file raises nothing: a record says what is wrong with it, and what came before is kept.

Not here: finding files (`find`), duplicates and numbers (`prepare`).
"""

from __future__ import annotations

import base64
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from genin.dataset.files import PictureError, fit, open_picture, read_picture
from genin.dataset.folders import is_picture
from genin.dataset.tables import text_of
from genin.dataset.text import clean
from genin.distill.data.aspect import bucket_of
from genin.distill.data.duplicates import THUMBNAIL, is_blank, pixel_digest, thumbnail
from genin.distill.data.find import Candidate
from genin.files import atomic_path

ARCHIVE_MEMBER_BYTES = 256 << 20


@dataclass(frozen=True)
class FitOptions:
    """`size`: side of the squares, or of the square with a bucket's area; None keeps sizes."""

    size: int | None = None
    buckets: bool = False
    min_size: int = 16
    background: str = "white"


@dataclass(frozen=True)
class Piece:
    """One picture out of a file. `where` says which one ("" for the file itself, "panel 2", "shot 7 at 31.2 s"), `reason` why it is
    left out of the dataset (None if it is not). `digest` and `fingerprint` are those of `duplicates`. A picture that was read has
    its PNG file even if it is left out, for the report. For a table's row, `row` holds its other columns and `name` the picture's
    file name in it. `frames`: how many the file has, of which this is the first."""

    where: str
    png: str | None = None
    width: int = 0
    height: int = 0
    digest: str = ""
    fingerprint: str = ""
    group: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None
    row: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    frames: int = 1

    @property
    def pixels(self) -> int:
        """Of the picture as it was read."""
        return self.width * self.height

    def fitted(self, options: FitOptions) -> tuple[int, int]:
        """(width, height) of the PNG file."""
        return _fitted((self.width, self.height), options)

    def thumbnail(self) -> NDArray[np.uint8]:
        """(16, 16, 3), as `data_pictures.thumbnail` gave it."""
        values = np.frombuffer(base64.b64decode(self.fingerprint), np.uint8)
        return values.reshape(THUMBNAIL, THUMBNAIL, 3)


@dataclass(frozen=True)
class Opened:
    """A picture and where in the file it comes from; None with a reason for a part of the file that is broken."""

    image: Image.Image | None
    where: str = ""
    group: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None
    row: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    frames: int = 1


def pieces_of(
    candidate: Candidate, options: FitOptions, folder: Path, stem: str, ended: Callable[[], bool] = lambda: False
) -> list[Piece]:
    """The pieces of one file; their PNG files are written to `folder` as `stem-N.png`. Errors: OSError for a full disk,
    MissingExtraError, CancelledError once `ended()`: reading a film takes minutes."""
    pieces: list[Piece] = []
    try:
        for number, opened in enumerate(_open(candidate, options, ended)):
            if ended():
                raise CancelledError
            pieces.append(_piece(opened, options, folder, f"{stem}-{number}.png"))
    except PictureError as error:
        pieces.append(Piece("", reason=error.what))
    return pieces


def _piece(opened: Opened, options: FitOptions, folder: Path, name: str) -> Piece:
    picture = opened.image
    if picture is None:
        return Piece(opened.where, reason=opened.reason, row=opened.row, name=opened.name)
    reason = None
    if min(picture.size) < options.min_size:
        reason = f"too small ({picture.width}×{picture.height}, --min-size {options.min_size})"
    elif is_blank(picture):
        reason = "blank: one colour all over"
    # Never over a file that is there: it may be a finished dataset's, too (a link), or one that another thread looks at.
    with atomic_path(folder / name, sync=False) as partial:
        fit(picture, _fitted(picture.size, options)).save(partial, "PNG")
    return Piece(
        opened.where,
        name,
        *picture.size,
        digest=pixel_digest(picture).hex(),
        fingerprint=base64.b64encode(thumbnail(picture).tobytes()).decode(),
        group=opened.group,
        columns=opened.columns,
        reason=reason,
        row=opened.row,
        name=opened.name,
        frames=opened.frames,
    )


def _fitted(picture: tuple[int, int], options: FitOptions) -> tuple[int, int]:
    if options.size is None:
        return picture
    return bucket_of(picture, options.size) if options.buckets else (options.size, options.size)


# --- opening ---------------------------------------------------------------------------------------------------------


def _open(candidate: Candidate, options: FitOptions, ended: Callable[[], bool]) -> Iterator[Opened]:
    if candidate.kind == "video":
        yield from _shots(candidate, ended)
    elif candidate.kind == "comic":
        yield from _comic(candidate, options.background)
    elif candidate.kind == "table":
        yield from _rows(candidate, options.background)
    elif candidate.kind == "page":
        yield from _panels(read_picture(candidate.path, options.background), candidate.name)
    else:
        opened = open_picture(candidate.path, options.background)
        yield Opened(opened.image, frames=opened.frames)


def _shots(candidate: Candidate, ended: Callable[[], bool]) -> Iterator[Opened]:
    from genin.distill.data.video import frames_of

    for frame in frames_of(candidate.path, ended):
        columns = {"shot": str(frame.shot), "time_s": f"{frame.time_s:.3f}"}
        where = f"shot {frame.shot} at {frame.time_s:.1f} s"
        yield Opened(frame.image, where, f"{candidate.name}#{frame.group}", columns)


def _rows(candidate: Candidate, background: str) -> Iterator[Opened]:
    from genin.distill.data.parquet import rows_of

    assert candidate.group is not None
    for row in rows_of(candidate.path, candidate.group):
        where, said = f"row {row.number}", {key: text for key, value in row.values.items() if (text := text_of(value))}
        if row.content is None:
            yield Opened(None, where, reason=row.reason)
            continue
        try:
            picture = open_picture(candidate.path / where, background, io.BytesIO(row.content))
        except PictureError as error:
            yield Opened(None, where, reason=error.what)
        else:
            yield Opened(picture.image, where, row=said, name=row.name, frames=picture.frames)


def _panels(
    page: Image.Image, group: str, prefix: str = "", columns: Mapping[str, str] | None = None
) -> Iterator[Opened]:
    from genin.distill.data.comics import panels_of

    for number, panel in enumerate(panels_of(page)):
        yield Opened(panel, f"{prefix}panel {number}", group, {**(columns or {}), "panel": str(number)})


def _natural(name: str) -> list[tuple[int, str]]:
    """Page 2 before page 10: numbers are compared by length, then by digits (`int` refuses some digits, and very long numbers)."""
    parts = re.split(r"0*(\d+)", name)  # texts and numbers in turn
    return [(len(part), part) if index % 2 else (0, part) for index, part in enumerate(parts)]


# OSError: a member that should begin before the file does.
UNPACKING = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, EOFError, ValueError, OSError)


def _comic(candidate: Candidate, background: str) -> Iterator[Opened]:
    """A .cbz or .zip of pages. Members are read one at a time and never unpacked to disk, so their names are harmless."""
    try:
        archive = zipfile.ZipFile(candidate.path)
    except UNPACKING as error:  # a name that is not Unicode, a version to come
        raise PictureError("not a readable zip archive", where=candidate.path, remedy="replace it") from error
    with archive:
        members = [member for member in archive.infolist() if is_picture(member.filename)]
        if not members:
            raise PictureError("the archive has no pages", where=candidate.path, remedy="replace or remove it")
        for member in sorted(members, key=lambda member: _natural(member.filename)):  # a name may be there twice
            name, called = member.filename, clean(member.filename)
            if member.file_size > ARCHIVE_MEMBER_BYTES:
                yield Opened(None, called, reason="unpacks to more than 256 MB")
                continue
            try:
                page = read_picture(Path(name), background, io.BytesIO(archive.read(member)))
            except PictureError as error:
                yield Opened(None, called, reason=error.what)
            except UNPACKING:
                yield Opened(None, called, reason="cannot be unpacked")
            else:
                yield from _panels(page, f"{candidate.name}#{called}", f"{called}, ", {"page": called})

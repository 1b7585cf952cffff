"""Picture files of datasets, which may lie in shards; what is read, and how, is that of `genin.runtimes.picture_files`.

Not here: reading and converting a file of any kind (`genin.runtimes.picture_files`).
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING

from genin.dataset.shards import open_member
from genin.runtimes.picture_files import (
    OpenedPicture,
    PictureError,
    fit,
    fit_square,
    open_rgb,
    opened,
    orientation,
    reasons,
)

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "OpenedPicture",
    "PictureError",
    "fit",
    "fit_square",
    "is_intact",
    "open_picture",
    "picture_size",
    "read_picture",
    "stored_size",
]


def read_picture(path: Path, background: str = "white", file: IO[bytes] | None = None) -> Image.Image:
    """An upright sRGB picture, transparency laid on `background`. A path may lead into a shard (`….tar/000123.png`); `file` is the
    content, where `path` is only its name.

    Errors: PictureError with the reason.
    """
    return open_picture(path, background, file).image


def open_picture(path: Path, background: str = "white", file: IO[bytes] | None = None) -> OpenedPicture:
    """`read_picture`, with what else the file holds. Errors: as there."""
    return open_rgb(path, background, file or _content(path))


def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) of an upright picture, from its header alone. Errors: PictureError with the reason."""
    from PIL import ExifTags

    content = _content(path)
    with reasons(path, content), opened(path, content) as file:
        width, height = file.size
        if file.format == "TIFF":  # whose sides some releases of Pillow have swapped already
            tags = file.getexif()
            width, height = tags[ExifTags.Base.ImageWidth], tags[ExifTags.Base.ImageLength]
        return (height, width) if orientation(file) >= 5 else (width, height)


def stored_size(path: Path) -> tuple[int, int]:
    """(width, height) as the file has it, upright or not: of a PNG file `picture_size` reads every pixel. Errors: as above."""
    content = _content(path)
    with reasons(path, content), opened(path, content) as file:
        return file.size


def is_intact(path: Path) -> bool:
    """Whether a PNG file is complete: its chunks up to the last one, with their checksums. Pixels are not decoded."""
    from PIL import Image

    try:
        with reasons(path), Image.open(path) as picture:
            picture.verify()
    except PictureError:
        return False
    return True


def _content(path: Path) -> IO[bytes] | None:
    """A shard's member; None for a file. Errors: PictureError with the reason."""
    with reasons(path):
        return open_member(path)

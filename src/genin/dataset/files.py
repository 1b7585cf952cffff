"""Picture files of datasets, which may lie in shards; reading and fitting are those of `genin.runtimes.picture_files`.

Not here: what a picture is converted to (`genin.runtimes.picture_files`).
"""

from __future__ import annotations

from pathlib import Path
from typing import IO

from PIL import ExifTags, Image

from genin.dataset.shards import open_member
from genin.runtimes.picture_files import PictureError, fit, fit_square, read_rgb, reasons

__all__ = ["PictureError", "fit", "fit_square", "is_intact", "picture_size", "read_picture"]


def read_picture(path: Path, background: str = "white", file: IO[bytes] | None = None) -> Image.Image:
    """`read_rgb` of a path that may lead into a shard (`….tar/000123.png`). Errors: PictureError with the reason."""
    with reasons(path, in_file=file is None):
        return read_rgb(path, background, file or open_member(path))


def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) of an upright picture, from its header alone. Errors: PictureError with the reason."""
    with reasons(path), Image.open(open_member(path) or path) as file:
        turned = file.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return (file.height, file.width) if turned else (file.width, file.height)


def is_intact(path: Path) -> bool:
    """Whether a PNG file is complete: its chunks up to the last one, with their checksums. Pixels are not decoded."""
    try:
        with reasons(path), Image.open(path) as picture:
            picture.verify()
    except PictureError:
        return False
    return True

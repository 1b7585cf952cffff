"""One picture file of any kind as upright RGB, the same for training, measuring and viewing.

Handled: transparency of every kind (on a background), EXIF orientation, colour profiles (to sRGB), palettes, grey, CMYK, 16 bits,
animations (the first frame, which `open_picture` says). AVIF, HEIC and JPEG XL need Pillow's own decoder or a package of it, which
the error names. Not here: floating-point pixels, RAW and vector formats.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError, features

from genin.dataset.shards import open_member
from genin.runtimes.errors import InputError

SEVERAL = ("GIF", "PNG", "WEBP", "AVIF", "TIFF")  # formats that may hold several pictures: frames, pages
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What a file begins with (after how many bytes) => its usual suffix.
KINDS = (
    (4, (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1"), ".heic"),
    (4, (b"ftypavif", b"ftypavis"), ".avif"),
    (0, (b"\xff\x0a", b"\0\0\0\x0cJXL "), ".jxl"),
)


@dataclass(frozen=True)
class Plugin:
    """A package that teaches Pillow a kind of file: on import, or by calling one of its functions."""

    package: str
    module: str = ""
    function: str = ""


PLUGINS = {
    ".heic": Plugin("pillow-heif", "pillow_heif", "register_heif_opener"),
    ".heif": Plugin("pillow-heif", "pillow_heif", "register_heif_opener"),
    ".avif": Plugin("pillow>=11.3"),
    ".jxl": Plugin("pillow-jxl-plugin", "pillow_jxl"),
}
NO_PICTURES = (
    (b"version https://git-lfs", "a Git LFS pointer, not the picture: run git lfs pull"),
    (b"<!doctype html", "a web page, not a picture"),
    (b"<html", "a web page, not a picture"),
    (b"<svg", "a vector drawing (SVG): convert it to PNG"),
    (b"%pdf", "a PDF, not a picture"),
)


@dataclass(frozen=True)
class OpenedPicture:
    """An upright sRGB picture. `frames`: how many the file has, of which this is the first."""

    image: Image.Image
    frames: int = 1


class PictureError(InputError):
    """A picture that cannot be used; `what` is the reason."""


def read_picture(path: Path, background: str = "white", file: IO[bytes] | None = None) -> Image.Image:
    """An upright sRGB picture, transparency laid on `background`. A path may lead into a shard (`….tar/000123.png`); `file` is the
    content, where `path` is only its name.

    Errors: PictureError with the reason.
    """
    return open_picture(path, background, file).image


def open_picture(path: Path, background: str = "white", file: IO[bytes] | None = None) -> OpenedPicture:
    """`read_picture`, with what else the file holds. Errors: as there."""
    with _reasons(path, file):
        return _read(path, background, file or _content(path))


def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) of an upright picture, from its header alone. Errors: PictureError with the reason."""
    with _reasons(path), _opened(path, _content(path)) as file:
        return (file.height, file.width) if _orientation(file) >= 5 else (file.width, file.height)


def stored_size(path: Path) -> tuple[int, int]:
    """(width, height) as the file has it, upright or not: of a PNG file `picture_size` reads every pixel. Errors: as above."""
    with _reasons(path), _opened(path, _content(path)) as file:
        return file.size


def is_intact(path: Path) -> bool:
    """Whether a PNG file is complete: its chunks up to the last one, with their checksums. Pixels are not decoded."""
    try:
        with _reasons(path), Image.open(path) as picture:
            picture.verify()
    except PictureError:
        return False
    return True


@contextmanager
def _reasons(path: Path, content: IO[bytes] | None = None) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures (too large ones are errors), and of odd metadata
            yield
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError(_instead(path, content), where=path, remedy="replace or remove it") from error
    except FileNotFoundError as error:
        raise PictureError("the file is missing", where=path, remedy="replace it or remove its row") from error
    except Exception as error:  # decoders of broken files raise nearly anything: struct.error, SyntaxError, KeyError …
        reason = " ".join(f"{error}".replace(str(path), "").split())[:120] or type(error).__name__
        raise PictureError(f"cannot be read ({reason})", where=path, remedy="replace or remove it") from error


def _instead(path: Path, content: IO[bytes] | None) -> str:
    """What a file is that Pillow does not know."""
    start = _start(path, content)
    if not start:
        return "the file is empty"
    kind = _kind(start) or path.suffix.lower()
    if kind in PLUGINS and not _can_decode(kind):
        return f"{kind} is not supported here: pip install '{PLUGINS[kind].package}', or convert it to PNG"
    text = start.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    said = next((what for begins, what in NO_PICTURES if text.startswith(begins)), None)
    return said or "not a picture, or damaged from its first bytes on"


def _start(path: Path, content: IO[bytes] | None) -> bytes:
    try:
        if content is None:
            content = open_member(path)
        if content is not None:
            content.seek(0)
            return content.read(64)
        with path.open("rb") as file:
            return file.read(64)
    except (OSError, ValueError):
        return b"?"


def _kind(start: bytes) -> str | None:
    return next((suffix for place, begins, suffix in KINDS if start[place:].startswith(begins)), None)


def _content(path: Path) -> IO[bytes] | None:
    """A shard's member; None for a file. Errors: PictureError for what is there and is no file (a pipe would be waited for)."""
    content = open_member(path)
    if content is None and path.exists() and not path.is_file():
        raise PictureError("not a regular file", where=path, remedy="remove it")
    return content


def _opened(path: Path, content: IO[bytes] | None) -> Image.Image:
    try:
        return Image.open(content or path)
    except UnidentifiedImageError:
        kind = _kind(_start(path, content))
        if kind is None or not _can_decode(kind):
            raise
    if content is not None:
        content.seek(0)
    return Image.open(content or path)


@cache
def _can_decode(suffix: str) -> bool:
    """Whether Pillow, or a plugin that is installed, decodes such files; the plugin is registered then. Asked once such a file is
    met."""
    plugin = PLUGINS[suffix]
    if not plugin.module:
        return features.check("avif") is True
    try:
        module = import_module(plugin.module)
    except ImportError:
        return False
    if plugin.function:
        getattr(module, plugin.function)()
    return True


def _orientation(file: Image.Image) -> int:
    """1 to 8, as EXIF has it; 1 where that says nothing, or nothing that can be read. No other tag is looked at."""
    try:
        value = file.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken metadata raises nearly anything, and is no reason to lose the picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _frames(file: Image.Image) -> int:
    """How many pictures the file has; 1 where only the first can be found. A photo's preview or depth map (MPO) is none."""
    try:
        return int(getattr(file, "n_frames", 1)) if file.format in SEVERAL else 1
    except Exception:  # a later frame is broken
        file.seek(0)
        return 1


def _read(path: Path, background: str, content: IO[bytes] | None) -> OpenedPicture:
    with _opened(path, content) as file:
        if file.mode == "F":
            raise PictureError("floating-point pixels are not supported", where=path, remedy="convert it to PNG")
        frames = _frames(file)
        file.load()
        profile = file.info.get("icc_profile")
        turn = UPRIGHT.get(_orientation(file))
        picture = file.transpose(turn) if turn is not None else file.copy()
    return OpenedPicture(_as_rgb(picture, profile, path, background), frames)


def _as_rgb(picture: Image.Image, profile: bytes | None, path: Path, background: str) -> Image.Image:
    if picture.mode.startswith("I"):
        return _to_srgb(_from_16_bits(picture), profile).convert("RGB")
    if picture.mode not in ("RGBA", "RGBa", "LA", "La", "PA") and "transparency" not in picture.info:
        return _to_srgb(picture, profile).convert("RGB")
    rgba = picture.convert("RGBA")
    if rgba.getchannel("A").getextrema() == (0, 0):
        raise PictureError("fully transparent", where=path, remedy="replace or remove it")
    if profile and picture.mode not in ("LA", "La"):
        colours = _to_srgb(rgba.convert("RGB"), profile)
        colours.putalpha(rgba.getchannel("A"))
        rgba = colours
    return Image.alpha_composite(Image.new("RGBA", rgba.size, background), rgba).convert("RGB")


def _to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Colours by the picture's own profile; as they are where it has none, or one that is broken or of other channels."""
    if not profile:
        return picture
    if picture.mode == "P":
        picture = picture.convert("RGB")
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(picture, own, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return picture
    return converted or picture


def _from_16_bits(picture: Image.Image) -> Image.Image:
    """Pillow's own conversion clips 16 bits to white; modes `I;16…` are 16 bits, `I` may also hold 8."""
    values = np.asarray(picture).astype(np.float64)
    top = 65535 if picture.mode != "I" or values.max() > 255 else 255
    return Image.fromarray((values.clip(0, top) * (255 / top)).round().astype(np.uint8))


def fit_square(picture: Image.Image, size: int) -> Image.Image:
    """Lanczos to `size` on the shorter side, then the centre: a picture of another shape loses its edges."""
    return fit(picture, (size, size))


def fit(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Lanczos until the picture covers (width, height), then the centre."""
    return picture if picture.size == size else ImageOps.fit(picture, size, Image.Resampling.LANCZOS)

"""A picture of any kind as upright RGB, and pictures brought to a size: the same for training, measuring, viewing and drawing from.

Handled: transparency of every kind (on a background), EXIF orientation, colour profiles (to sRGB), palettes, grey, CMYK, 16 bits,
animations (the first frame, which `open_rgb` says). AVIF, HEIC and JPEG XL need Pillow's own decoder or a package of it, which the
error names. Pillow is imported when it is used.

Not here: floating-point pixels, RAW and vector formats; files inside shards (`genin.dataset.files`).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from genin.runtimes.errors import InputError
from genin.runtimes.quiet import warnings_ignored

if TYPE_CHECKING:
    from PIL import Image

SEVERAL = ("GIF", "PNG", "WEBP", "AVIF", "TIFF", "HEIF")  # formats that may hold several pictures: frames, pages
UPRIGHT = {  # EXIF's orientation => the transposition of Pillow that undoes it
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
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


@contextmanager
def reasons(path: Path, content: IO[bytes] | None = None) -> Iterator[None]:
    """Whatever a reader or decoder raises, as a PictureError with the reason. `content` is that of `path`, where it is no file."""
    from PIL import UnidentifiedImageError

    try:
        with warnings_ignored():  # of large pictures (too large ones are errors), and of odd metadata
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
        if content is not None:
            content.seek(0)
            return content.read(64)
        with path.open("rb") as file:
            return file.read(64)
    except (OSError, ValueError):
        return b"?"


def _kind(start: bytes) -> str | None:
    return next((suffix for place, begins, suffix in KINDS if start[place:].startswith(begins)), None)


def opened(path: Path, content: IO[bytes] | None = None) -> Image.Image:
    """By Pillow, whose plugins are loaded where a file needs one.

    Errors: PictureError for what is there and is no file (a pipe would be waited for), and those of Pillow.
    """
    from PIL import Image, UnidentifiedImageError

    if content is None and path.exists() and not path.is_file():
        raise PictureError("not a regular file", where=path, remedy="remove it")
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
    from PIL import features

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


def orientation(file: Image.Image) -> int:
    """1 to 8, as EXIF has it; 1 where that says nothing, or nothing that can be read. No other tag is looked at."""
    from PIL import ExifTags

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


def open_rgb(path: Path, background: str = "white", content: IO[bytes] | None = None) -> OpenedPicture:
    """An upright sRGB picture, transparency laid on `background`, and what else the file holds. `content` is the file's, where
    `path` is only its name. Errors: PictureError with the reason."""
    with reasons(path, content), opened(path, content) as file:
        frames = _frames(file)
        return OpenedPicture(to_rgb(file, path, background), frames)


def to_rgb(picture: Image.Image, path: Path, background: str = "white") -> Image.Image:
    """`open_rgb` of a picture that is open already; errors call it `path`. Errors: PictureError, and those of Pillow."""
    from PIL import Image

    picture.load()  # Pillow's reader of TIFF turns it upright then, and its orientation is 1
    if picture.mode == "F":
        raise PictureError("floating-point pixels are not supported", where=path, remedy="convert it to PNG")
    if picture.mode == "I" and not _within_16_bits(picture):
        raise PictureError("pixels of 32 bits are not supported", where=path, remedy="convert it to PNG")
    profile, turn = picture.info.get("icc_profile"), UPRIGHT.get(orientation(picture))
    upright = picture.copy() if turn is None else picture.transpose(Image.Transpose[turn])
    return _as_rgb(upright, profile, path, background)


def _as_rgb(picture: Image.Image, profile: bytes | None, path: Path, background: str) -> Image.Image:
    from PIL import Image

    if picture.mode not in ("RGBA", "RGBa", "LA", "La", "PA") and "transparency" not in picture.info:
        return _to_srgb(_from_16_bits(picture), profile).convert("RGB")
    rgba = _from_16_bits(picture).convert("RGBA")
    if picture.mode.startswith("I"):  # one value of 65,536 is transparent
        seen = np.asarray(picture) != picture.info["transparency"]
        rgba.putalpha(Image.fromarray(np.where(seen, 255, 0).astype(np.uint8)))
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
    from PIL import ImageCms

    if picture.mode == "P":
        picture = picture.convert("RGB")
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(picture, own, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return picture
    return converted or picture


def _within_16_bits(picture: Image.Image) -> bool:
    values = np.asarray(picture)
    return not values.size or (int(values.min()) >= 0 and int(values.max()) <= 65535)


def _from_16_bits(picture: Image.Image) -> Image.Image:
    """8 bits of 16, any other picture as it is. Pillow's own conversion clips 16 bits to white; modes `I;16…` are 16 bits, `I` may
    also hold 8."""
    from PIL import Image

    if not picture.mode.startswith("I"):
        return picture
    values = np.asarray(picture).astype(np.float64)
    top = 65535 if picture.mode != "I" or values.max() > 255 else 255
    return Image.fromarray((values.clip(0, top) * (255 / top)).round().astype(np.uint8))


def fit_square(picture: Image.Image, size: int) -> Image.Image:
    """Lanczos to `size` on the shorter side, then the centre: a picture of another shape loses its edges."""
    return fit(picture, (size, size))


def fit(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Lanczos until the picture covers (width, height), then the centre."""
    from PIL import Image, ImageOps

    return picture if picture.size == size else ImageOps.fit(picture, size, Image.Resampling.LANCZOS)

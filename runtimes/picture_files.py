"""A picture of any kind as upright RGB, and pictures brought to a size: the same for training, measuring, viewing and drawing from.

Handled: transparency of every kind (on a background), EXIF orientation, colour profiles (to sRGB), palettes, grey, CMYK, 16 bits,
animations (the first frame). Pillow is imported when it is used.

Not here: floating-point pixels, RAW, HEIC and vector formats; files inside shards (`genin.dataset.files`).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from genin.runtimes.errors import InputError

if TYPE_CHECKING:
    from PIL import Image


class PictureError(InputError):
    """A picture that cannot be used; `what` is the reason."""


@contextmanager
def reasons(path: Path, *, in_file: bool = True) -> Iterator[None]:
    """Whatever a reader or decoder raises, as a PictureError with the reason. `in_file`: the content is the file `path` itself."""
    from PIL import UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures (too large ones are errors), and of odd metadata
            yield
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        size = path.stat().st_size if in_file and path.is_file() else 1
        reason = "not a picture, or damaged from its first bytes on" if size else "the file is empty"
        raise PictureError(reason, where=path, remedy="replace or remove it") from error
    except FileNotFoundError as error:
        raise PictureError("the file is missing", where=path, remedy="replace it or remove its row") from error
    except Exception as error:  # decoders of broken files raise nearly anything: struct.error, SyntaxError, KeyError …
        reason = " ".join(f"{error}".replace(str(path), "").split())[:120] or type(error).__name__
        raise PictureError(f"cannot be read ({reason})", where=path, remedy="replace or remove it") from error


def read_rgb(path: Path, background: str = "white", file: IO[bytes] | None = None) -> Image.Image:
    """An upright sRGB picture, transparency laid on `background`; `file` is the content, where `path` is only its name.

    Errors: PictureError with the reason.
    """
    from PIL import Image

    with reasons(path, in_file=file is None), Image.open(file or path) as opened:
        opened.load()
        return to_rgb(opened, path, background)


def to_rgb(picture: Image.Image, path: Path, background: str = "white") -> Image.Image:
    """`read_rgb` of a picture that is open already; `path` is what errors call it. Errors: PictureError with the reason."""
    from PIL import Image, ImageOps

    if picture.mode == "F":
        raise PictureError("floating-point pixels are not supported", where=path, remedy="convert it to PNG")
    profile = picture.info.get("icc_profile")
    picture = ImageOps.exif_transpose(picture)
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
    from PIL import ImageCms

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
    from PIL import Image

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

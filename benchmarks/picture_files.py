"""One picture file, whatever it holds, as upright RGB: the same for whoever trains on it, measures it or looks at it.

Handled: transparency of every kind (on a background), EXIF orientation, palettes, grey, CMYK, 16 bits, animations (the
first frame). Not here: colour profiles (pixels are taken as sRGB), floating-point pixels, RAW, HEIC and vector formats.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from genin.runtimes.errors import InputError


class PictureError(InputError):
    """A picture that cannot be used; `what` is the reason."""


def read_picture(path: Path, background: str = "white") -> Image.Image:
    """An upright RGB picture, transparency laid on `background`. Errors: PictureError with the reason."""
    try:
        with Image.open(path) as file:
            if file.mode == "F":
                raise PictureError("floating-point pixels are not supported", where=path, remedy="convert it to PNG")
            file.load()
            picture = ImageOps.exif_transpose(file)
            if picture.mode.startswith("I"):
                return _from_16_bits(picture).convert("RGB")
            if picture.mode not in ("RGBA", "RGBa", "LA", "La", "PA") and "transparency" not in picture.info:
                return picture.convert("RGB")
            rgba = picture.convert("RGBA")
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        size = path.stat().st_size
        reason = "not a picture, or broken from its first bytes on" if size else "the file is empty"
        raise PictureError(reason, where=path, remedy="replace or remove it") from error
    except FileNotFoundError as error:
        raise PictureError("the file is missing", where=path, remedy="replace it or remove its row") from error
    except Exception as error:  # decoders of broken files raise nearly anything: struct.error, SyntaxError, KeyError …
        reason = " ".join(f"{error}".replace(str(path), "").split())[:120] or type(error).__name__
        raise PictureError(f"cannot be read ({reason})", where=path, remedy="replace or remove it") from error
    if rgba.getchannel("A").getextrema() == (0, 0):
        raise PictureError("fully transparent", where=path, remedy="replace or remove it")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, background), rgba).convert("RGB")


def _from_16_bits(picture: Image.Image) -> Image.Image:
    """Pillow's own conversion clips 16 bits to white; modes `I;16…` are 16 bits, `I` may also hold 8."""
    values = np.asarray(picture).astype(np.float64)
    top = 65535 if picture.mode != "I" or values.max() > 255 else 255
    return Image.fromarray((values.clip(0, top) * (255 / top)).round().astype(np.uint8))


def fit_square(picture: Image.Image, size: int) -> Image.Image:
    """Lanczos to `size` on the shorter side, then the centre: a picture of another shape loses its edges."""
    if picture.size == (size, size):
        return picture
    return ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)

"""One picture, whatever its file holds, as RGB; and whether it was seen before.

Handled: transparency of every kind (on a background), EXIF orientation, palettes, grey, CMYK, 16 bits, animations (the
first frame). `benchmarks.picture_sets` reads pictures that are clean already; this is the reader for those that may not
be, and `genin data prepare` leaves only such as both read alike.

Duplicates: exact ones have equal pixels. Near ones (recompressed, rescaled) have 16×16 colour thumbnails that differ by
at most 2 levels on average and 12 anywhere, a perceptual hash in which a red and a blue heart, or two clocks with
other hands, stay different pictures. Crops and mirror images are not found.

Not here: colour profiles (pixels are taken as sRGB), floating-point pixels, RAW, HEIC and vector formats.
"""

from __future__ import annotations

import bisect
import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from genin.runtimes.errors import InputError

THUMBNAIL = 16
NEAR_MEAN, NEAR_MAX = 2.0, 12


class PictureError(InputError):
    """A picture that cannot be used; `what` is the reason."""


def read_rgb(path: Path, background: str = "white") -> Image.Image:
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
    """Lanczos to `size` on the shorter side, then the centre: what `benchmarks.picture_sets` does to references."""
    if picture.size == (size, size):
        return picture
    return ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)


def thumbnail(picture: Image.Image) -> NDArray[np.uint8]:
    """RGB picture => (16, 16, 3) uint8, its fingerprint."""
    return np.asarray(picture.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))


def pixel_digest(picture: Image.Image) -> bytes:
    """Equal for equal pixels."""
    return hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).digest()


class SeenPictures:
    """Remembers pictures by name and finds earlier equals; candidates for near ones are searched by mean brightness."""

    def __init__(self, *, near: bool = True) -> None:
        self.near = near
        self._exact: dict[bytes, str] = {}
        self._names: list[str] = []
        self._thumbnails = np.empty((64, THUMBNAIL, THUMBNAIL, 3), np.int16)
        self._by_mean: list[tuple[float, int]] = []

    def add(self, name: str, digest: bytes, fingerprint: NDArray[np.uint8]) -> str | None:
        """None for a new picture, which is then remembered; else why it is a duplicate and of what."""
        if digest in self._exact:
            return f"exact duplicate of {self._exact[digest]}"
        mean = float(fingerprint.mean())
        if self.near and (earlier := self._nearest(mean, fingerprint)) is not None:
            return f"near duplicate of {self._names[earlier]}"
        index = len(self._names)
        if index == len(self._thumbnails):
            self._thumbnails = np.concatenate([self._thumbnails, np.empty_like(self._thumbnails)])
        self._thumbnails[index] = fingerprint
        bisect.insort(self._by_mean, (mean, index))
        self._names.append(name)
        self._exact[digest] = name
        return None

    def _nearest(self, mean: float, fingerprint: NDArray[np.uint8]) -> int | None:
        # |mean a − mean b| ≤ mean |a − b|: whoever is near lies inside this window.
        first = bisect.bisect_left(self._by_mean, (mean - NEAR_MEAN, -1))
        last = bisect.bisect_right(self._by_mean, (mean + NEAR_MEAN, len(self._names)))
        indices = np.array([index for _, index in self._by_mean[first:last]], dtype=np.intp)
        if not len(indices):
            return None
        difference = np.abs(self._thumbnails[indices] - fingerprint.astype(np.int16)).reshape(len(indices), -1)
        means = difference.mean(1)
        means[difference.max(1) > NEAR_MAX] = np.inf
        best = int(means.argmin())
        return int(indices[best]) if means[best] <= NEAR_MEAN else None

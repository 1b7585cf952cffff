"""Whether a picture was seen before, or shows nothing.

Exact duplicates have equal pixels. Near ones (recompressed, rescaled) have 16×16 colour thumbnails that differ by at most 2 levels
on average and 12 anywhere, a perceptual hash that distinguishes a red heart from a blue one, or two clocks with different hands.
Crops and mirror images are not found.
"""

from __future__ import annotations

import bisect
import hashlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

THUMBNAIL = 16
NEAR_MEAN, NEAR_MAX = 2.0, 12
BLANK = 1.5  # levels


def thumbnail(picture: Image.Image) -> NDArray[np.uint8]:
    """RGB picture => (16, 16, 3) uint8, its fingerprint."""
    return np.asarray(picture.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))


def pixel_digest(picture: Image.Image) -> bytes:
    """Equal for equal pixels."""
    return hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).digest()


def is_blank(picture: Image.Image) -> bool:
    """Whether an RGB picture has only one colour, compression noise aside."""
    return bool(np.asarray(picture.resize((64, 64), Image.Resampling.BOX)).std((0, 1)).max() < BLANK)


class SeenPictures:
    """Remembers pictures by name and finds earlier duplicates; candidates for near ones are searched by mean brightness."""

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
        # |mean a − mean b| ≤ mean |a − b|: every near duplicate is inside this window.
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

"""Whether a picture was seen before, or shows nothing.

Exact duplicates have equal pixels. Near ones (recompressed, rescaled) have 16×16 colour thumbnails that differ by at most 2 levels
on average and 12 anywhere, a perceptual hash that distinguishes a red heart from a blue one, or two clocks with different hands.
On a thumbnail, though, all drawings of thin lines are paper: before a picture is called a near duplicate, both are compared where
there is ink (`differ_in_detail`). Crops and mirror images are not found.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

THUMBNAIL, POOLS = 16, 4
NEAR_MEAN, NEAR_MAX = 2.0, 12
BLANK = 1.5  # levels
DETAIL, BLOCKS = 64, 8  # side at which details are compared, and blocks along it
UNLIKE = 0.75  # 1 − <a, b> / max(<a, a>, <b, b>): 0 for equal details, 1 for ink in only one of the two
INK, TINT = 9.0, 0.25  # mean square in levels above which a block has ink, a picture colour
LOOKS = 16  # earlier pictures that one is compared with in detail, the most alike first
# Side => what the thumbnail lacks of the grey picture, and its colours (`_details`).
Details = Mapping[int, tuple[NDArray[np.float32], NDArray[np.float32]]]


def thumbnail(picture: Image.Image) -> NDArray[np.uint8]:
    """RGB picture => (16, 16, 3) uint8, its fingerprint."""
    return np.asarray(picture.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))


def pixel_digest(picture: Image.Image) -> bytes:
    """Equal for equal pixels."""
    return hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).digest()


def is_blank(picture: Image.Image) -> bool:
    """Whether an RGB picture has only one colour, compression noise aside."""
    return bool(np.asarray(picture.resize((64, 64), Image.Resampling.BOX)).std((0, 1)).max() < BLANK)


# --- details ---------------------------------------------------------------------------------------------------------


def differ_in_detail(first: Image.Image, second: Image.Image) -> bool:
    """Whether two RGB pictures with alike thumbnails show different things: in one of 8×8 blocks, what the thumbnail does not have
    (fine lines) is unlike, or its colours are. Recompressed and rescaled copies measure up to 0.5 in their worst block, a single
    line that was moved 0.9 and more. Below 64 px the thumbnail says enough."""
    return _differ(details_of(first), details_of(second))


def details_of(picture: Image.Image) -> Details:
    """A picture's details at every side at which another may be compared with it: 32, 48 and 64, as far as it is large enough."""
    largest = min(DETAIL, min(picture.size) // 2)
    return {side: _details(picture, side) for side in range(2 * THUMBNAIL, largest + 1, THUMBNAIL)}


def _differ(first: Details, second: Details) -> bool:
    side = max(first.keys() & second.keys(), default=None)
    if side is None:
        return False
    details, colours = zip(first[side], second[side], strict=True)
    return bool(_unlike(*details, INK).max() > UNLIKE or _unlike(*colours, TINT).max() > UNLIKE)


def _details(picture: Image.Image, side: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(blocks, values): what the 16×16 thumbnail lacks of the grey picture; and (1, values): its colours, without the paper's."""
    planes = picture.convert("YCbCr").resize((side, side), Image.Resampling.BOX)
    values = np.asarray(planes, np.float32)
    cell = side // THUMBNAIL
    cells = values.reshape(THUMBNAIL, cell, THUMBNAIL, cell, 3)
    means = cells.mean((1, 3))
    grey = (cells - means[:, None, :, None])[..., 0].reshape(BLOCKS, side // BLOCKS, BLOCKS, side // BLOCKS)
    tint = means[..., 1:].reshape(-1, 2)
    return grey.transpose(0, 2, 1, 3).reshape(BLOCKS * BLOCKS, -1), (tint - np.median(tint, 0)).reshape(1, -1)


def _unlike(first: NDArray[np.float32], second: NDArray[np.float32], floor: float) -> NDArray[np.float32]:
    """(blocks, values) twice => how unlike each block is; 0 where neither has anything."""
    most = np.maximum((first**2).mean(1), (second**2).mean(1))
    unlike: NDArray[np.float32] = 1 - (first * second).mean(1) / np.maximum(most, 1e-6)
    return np.where(most > floor, unlike, np.float32(0))


class SeenPictures:
    """Remembers pictures by names that no two share, and finds earlier duplicates; candidates for near ones are searched by mean
    brightness. `look` opens a picture by its name, for details; without it thumbnails decide alone."""

    def __init__(self, *, near: bool = True, look: Callable[[str], Image.Image] | None = None) -> None:
        self.near = near
        # The details and not the pictures, of which 64 of a camera's are gigabytes.
        self._details = None if look is None else lru_cache(maxsize=512)(lambda name: details_of(look(name)))
        self._exact: dict[bytes, str] = {}
        self._names: list[str] = []
        self._thumbnails = np.empty((64, THUMBNAIL, THUMBNAIL, 3), np.int16)
        self._ranges = np.empty((64, 2 * 3 * POOLS * POOLS), np.int16)
        self._by_mean: list[tuple[float, int]] = []

    def add(self, name: str, digest: bytes, fingerprint: NDArray[np.uint8]) -> tuple[str, str] | None:
        """None for a new picture, which is then remembered; else ("exact" or "near", the picture that it duplicates)."""
        if digest in self._exact:
            return "exact", self._exact[digest]
        mean = float(fingerprint.mean())
        ranges = _ranges(fingerprint)
        if self.near and (earlier := self._nearest(name, mean, fingerprint, ranges)) is not None:
            return "near", self._names[earlier]
        index = len(self._names)
        if index == len(self._thumbnails):
            self._thumbnails = np.concatenate([self._thumbnails, np.empty_like(self._thumbnails)])
            self._ranges = np.concatenate([self._ranges, np.empty_like(self._ranges)])
        self._thumbnails[index], self._ranges[index] = fingerprint, ranges
        bisect.insort(self._by_mean, (mean, index))
        self._names.append(name)
        self._exact[digest] = name
        return None

    def _nearest(self, name: str, mean: float, fingerprint: NDArray[np.uint8], ranges: NDArray[np.int16]) -> int | None:
        # |mean a − mean b| ≤ mean |a − b|: every near duplicate is inside this window.
        first = bisect.bisect_left(self._by_mean, (mean - NEAR_MEAN, -1))
        last = bisect.bisect_right(self._by_mean, (mean + NEAR_MEAN, len(self._names)))
        indices = np.array([index for _, index in self._by_mean[first:last]], dtype=np.intp)
        # |max a − max b| ≤ max |a − b|, and so for the least: pale drawings, which all have about one brightness, are told apart by
        # an eighth of the work.
        indices = indices[np.abs(self._ranges[indices] - ranges).max(1, initial=0) <= NEAR_MAX]
        if not len(indices):
            return None
        difference = np.abs(self._thumbnails[indices] - fingerprint.astype(np.int16)).reshape(len(indices), -1)
        means = difference.mean(1)
        means[difference.max(1) > NEAR_MAX] = np.inf
        alike = [int(indices[place]) for place in means.argsort(kind="stable") if means[place] <= NEAR_MEAN]
        return next((earlier for earlier in alike[:LOOKS] if not self._differ(name, self._names[earlier])), None)

    def _differ(self, name: str, earlier: str) -> bool:
        return self._details is not None and _differ(self._details(name), self._details(earlier))


def _ranges(fingerprint: NDArray[np.uint8]) -> NDArray[np.int16]:
    """(16, 16, 3) => (96,): the least and the largest value in each of 4×4 cells."""
    cell = THUMBNAIL // POOLS
    cells = fingerprint.astype(np.int16).reshape(POOLS, cell, POOLS, cell, 3)
    return np.stack([cells.min((1, 3)), cells.max((1, 3))]).reshape(-1)

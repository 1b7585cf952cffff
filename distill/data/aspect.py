"""Aspect buckets: a few shapes of about the same area, so that wide and tall pictures keep their edges in training.

For squares of side S the buckets have sides that are multiples of S/8 (64 at 512 px), areas of at most S², and aspect ratios up to
2:1 either way: the scheme of NovelAI's report (2022), with its one rule that a picture goes into the bucket where it loses least.
"""

from __future__ import annotations

from functools import cache

WIDEST = 2.0
MULTIPLE = 8  # of any autoencoder of the family


@cache
def buckets(size: int) -> tuple[tuple[int, int], ...]:
    """(width, height) of every bucket of a size in pixels, from tall to wide; the square is one of them."""
    step = max(MULTIPLE, size // 8 // MULTIPLE * MULTIPLE)
    found = {(size, size)}
    for short in range(step, size + 1, step):
        long = size * size // short // step * step
        if short <= long <= WIDEST * short:
            found |= {(short, long), (long, short)}
    return tuple(sorted(found, key=lambda shape: shape[0] / shape[1]))


@cache
def buckets_within(size: int, multiple: int) -> tuple[tuple[int, int], ...]:
    """Those whose sides are multiples of `multiple` pixels, for networks that halve them several times."""
    return tuple(shape for shape in buckets(size) if shape[0] % multiple == shape[1] % multiple == 0)


def bucket_of(picture: tuple[int, int], size: int, multiple: int = 1) -> tuple[int, int]:
    """The bucket that keeps most of a (width, height) picture, among those whose sides are multiples of `multiple` pixels."""
    width, height = picture

    def kept(shape: tuple[int, int]) -> float:
        scale = max(shape[0] / width, shape[1] / height)
        return shape[0] * shape[1] / (scale * width * scale * height)

    return max(buckets_within(size, multiple), key=lambda shape: (kept(shape), shape[0] * shape[1]))

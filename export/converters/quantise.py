"""How numbers lose bits, in numpy: 8-bit weights with a scale a channel, palettes of a few values, 8-bit activations over a range.

The converters store what their own libraries make (but for ONNX weights, which are these); the sensitivity pass uses these for all.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BINS = 8192  # palettes are found on a histogram: of millions of weights it loses less than a palette does
ROUNDS = 50


def quantise(weights: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 with one scale an index of `axis`: (int8 like weights, scale broadcastable to it)."""
    others = tuple(i for i in range(weights.ndim) if i != axis)
    scale = np.maximum(np.abs(weights).max(axis=others, keepdims=True) / 127, np.finfo(np.float32).tiny)
    return np.rint(weights / scale).astype(np.int8), scale.astype(np.float32)


def eight_bits(weights: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """What is left of weights in int8."""
    quantised, scale = quantise(weights, axis)
    return quantised * scale


def palette(weights: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """What is left of weights as 2^bits values: k-means in one dimension (Lloyd 1982), begun where the best values lie if there are
    many, as dense as the cube root of the weights (Panter & Dite 1951)."""
    coarse, ends = np.histogram(weights, 2 ** (bits + 1))
    shares = np.concatenate([[0.0], np.cumsum(np.cbrt(coarse))])
    values = np.interp((np.arange(2**bits) + 0.5) / 2**bits, shares / shares[-1], ends)
    counts, edges = np.histogram(weights, BINS)
    centres = (edges[:-1] + edges[1:]) / 2
    for _ in range(ROUNDS):
        nearest = np.searchsorted((values[:-1] + values[1:]) / 2, centres)
        total = np.bincount(nearest, counts, len(values))
        sums = np.bincount(nearest, counts * centres, len(values))
        values = np.sort(np.where(total > 0, sums / np.maximum(total, 1), values))
    found: NDArray[np.float32] = values[np.searchsorted((values[:-1] + values[1:]) / 2, weights)].astype(np.float32)
    return found


def activations(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of unsigned 8 bits over a range, which always holds zero exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / 255, float(np.finfo(np.float32).tiny))
    return scale, round(-low / scale)

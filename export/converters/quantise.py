"""Quantisation in numpy: 8-bit weights with one scale per channel, palettes of a few values, 8-bit activations over a range.

The converters use their own libraries' quantisation (except for ONNX weights, which use this); the sensitivity pass always uses
this.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BINS = 8192  # palettes are fitted to a histogram: for millions of weights, its error is smaller than the palette's
ROUNDS = 50


def quantise(weights: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 with one scale per index of `axis`: (int8 like weights, scale broadcastable to it)."""
    others = tuple(i for i in range(weights.ndim) if i != axis)
    scale = np.maximum(np.abs(weights).max(axis=others, keepdims=True) / 127, np.finfo(np.float32).tiny)
    return np.rint(weights / scale).astype(np.int8), scale.astype(np.float32)


def eight_bits(weights: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Weights rounded to int8 and back."""
    quantised, scale = quantise(weights, axis)
    return quantised * scale


def palette(weights: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """Weights rounded to 2^bits values: k-means in one dimension (Lloyd 1982), initialised at the asymptotically best values, whose
    density is the cube root of that of the weights (Panter & Dite 1951)."""
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

"""All noise of genin: seeded, counter-based, the same words in every language and on every machine.

`philox` is the contract: Philox 4×32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), keyed
by the seed and indexed by (step, element), so any part can be drawn alone, in any order, by any implementation. 32-bit
words are exact everywhere; normals come from Box–Muller in double precision and agree to rounding, since `log`, `sin`
and `cos` differ between libraries. docs/noise.md states the layout and test vectors for other implementations.

`torch` reproduces `torch.randn(..., generator=torch.Generator().manual_seed(seed))` on a CPU (MT19937), to 2e-7, so
that pictures can be compared with diffusers' pipelines. It is for comparison only, drawn from the start each time.

Not here: noise between steps (shipped samplers are deterministic; `step` is in the layout for samplers that are not).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from genin.runtimes.arguments import is_whole
from genin.runtimes.errors import InputError
from genin.runtimes.vocabulary import check_choice

NoiseMode = Literal["philox", "torch"]
MODES: tuple[str, ...] = get_args(NoiseMode)
SEED_LIMIT = 1 << 64

# Multipliers and key increments ("Weyl constants") of Philox 4×32, table 2 of the paper and Random123's philox.h.
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
LOW32 = np.uint64(0xFFFFFFFF)
SHIFT32 = np.uint64(32)


def philox_4x32(counters: NDArray[np.uint32], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Philox 4×32-10: (n, 4) counters => (n, 4) random words."""
    c0, c1, c2, c3 = counters.T.astype(np.uint64)
    k0, k1 = key
    for _ in range(ROUNDS):
        product0, product1 = c0 * np.uint64(MULTIPLIERS[0]), c2 * np.uint64(MULTIPLIERS[1])
        c0, c1 = (product1 >> SHIFT32) ^ c1 ^ np.uint64(k0), product1 & LOW32
        c2, c3 = (product0 >> SHIFT32) ^ c3 ^ np.uint64(k1), product0 & LOW32
        k0, k1 = (k0 + WEYL[0]) & 0xFFFFFFFF, (k1 + WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def philox_words(seed: int, step: int, count: int) -> NDArray[np.uint32]:
    """The first `count` words of (seed, step).

    Word i is lane i mod 4 of the block whose counter is (⌊i/4⌋ low, ⌊i/4⌋ high, step, 0), under the key (seed low, seed
    high), low and high being the 32-bit halves. Errors: InputError for a seed outside [0, 2⁶⁴), a step outside [0, 2³²).
    """
    check_seed(seed)
    if not 0 <= step < 1 << 32:
        raise InputError(f"noise step {step} is outside [0, 2**32)")
    blocks = np.arange(-(-count // 4), dtype=np.uint64)
    counters = np.zeros((len(blocks), 4), np.uint32)
    counters[:, 0], counters[:, 1], counters[:, 2] = blocks & LOW32, blocks >> SHIFT32, step
    return philox_4x32(counters, (seed & 0xFFFFFFFF, seed >> 32)).reshape(-1)[:count]


def philox_normal(seed: int, step: int, count: int) -> NDArray[np.float32]:
    """`count` standard normals: Box–Muller on consecutive pairs of words, u = (word + 1)·2⁻³² in (0, 1]."""
    pairs = philox_words(seed, step, count + count % 2).reshape(-1, 2)
    uniform = (pairs.astype(np.float64) + 1.0) * 2.0**-32
    radius, angle = np.sqrt(-2.0 * np.log(uniform[:, 0])), (2.0 * math.pi) * uniform[:, 1]
    normals = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return normals.reshape(-1)[:count].astype(np.float32)


def torch_normal(seed: int, count: int) -> NDArray[np.float32]:
    """What `torch.randn(count, generator=torch.Generator().manual_seed(seed))` gives on a CPU, to 2e-7.

    PyTorch seeds MT19937 with the low 32 bits, as numpy's RandomState does with an integer seed.
    """
    check_seed(seed)
    words = np.random.RandomState(seed & 0xFFFFFFFF)
    return _torch_short(words, count) if count < 16 else _torch_blocks(words, count)


def _torch_short(words: np.random.RandomState, count: int) -> NDArray[np.float32]:
    """Fewer than 16: scalar Box–Muller in double, 53 bits from two words (at::normal_distribution<double>)."""
    pairs = -(-count // 2)
    raw = _words(words, 4 * pairs).astype(np.uint64).reshape(-1, 2)
    uniform = ((raw[:, 0] << SHIFT32 | raw[:, 1]) & np.uint64((1 << 53) - 1)).astype(np.float64) * 2.0**-53
    angle, radius = (2.0 * math.pi) * uniform[0::2], np.sqrt(-2.0 * np.log1p(-uniform[1::2]))
    normals = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return normals.reshape(-1)[:count].astype(np.float32)


def _torch_blocks(words: np.random.RandomState, count: int) -> NDArray[np.float32]:
    """16 or more: 24-bit uniforms, Box–Muller between the halves of each block of 16 (ATen's `normal_fill`).

    A remainder redraws the last 16 elements from fresh words, as ATen does.
    """
    whole = count - count % 16
    normals = np.empty(count, np.float32)
    first = _words(words, count)
    normals[:whole] = _torch_fill(first[:whole])
    if whole < count:
        normals[-16:] = _torch_fill(_words(words, 16))
    return normals


def _torch_fill(words: NDArray[np.uint32]) -> NDArray[np.float32]:
    """ATen's kernel works in float32: the angle must be rounded as it is there, the rest may be more exact."""
    uniform = ((words & np.uint32((1 << 24) - 1)).astype(np.float32) * np.float32(2.0**-24)).reshape(-1, 2, 8)
    angle = (np.float32(2.0 * math.pi) * uniform[:, 1]).astype(np.float64)
    radius = np.sqrt(-2.0 * np.log((np.float32(1.0) - uniform[:, 0]).astype(np.float64)))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1).astype(np.float32)


def _words(words: np.random.RandomState, count: int) -> NDArray[np.uint32]:
    return np.frombuffer(words.bytes(4 * count), "<u4").astype(np.uint32)


def normal(seed: int, shape: Sequence[int], *, step: int = 0, mode: NoiseMode | str = "philox") -> NDArray[np.float32]:
    """Standard normal float32 of `shape` (row-major) for one seed.

    Errors: InputError for an unknown mode, a seed outside [0, 2⁶⁴), or a step other than 0 in `torch` mode.
    """
    check_choice(mode, MODES, "noise mode")
    count = math.prod(shape)
    if mode == "torch":
        if step:
            raise InputError("torch noise has no steps", remedy="use noise mode philox")
        return torch_normal(seed, count).reshape(shape)
    return philox_normal(seed, step, count).reshape(shape)


def batch_normal(
    seeds: Sequence[int], shape: Sequence[int], *, mode: NoiseMode | str = "philox"
) -> NDArray[np.float32]:
    """One `normal(seed, shape)` per seed, stacked: row i depends on seeds[i] alone, whatever the batch."""
    return np.stack([normal(seed, shape, mode=mode) for seed in seeds])


def check_seed(seed: Any) -> int:
    """`seed` as an int. Errors: InputError outside [0, 2⁶⁴)."""
    if not is_whole(seed) or not 0 <= operator.index(seed) < SEED_LIMIT:
        raise InputError(f"seed must be a whole number from 0 to 2**64 - 1; got {seed!r}")
    return operator.index(seed)

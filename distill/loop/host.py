"""The host machine: memory limits and what to do about them, allocator settings, Ctrl-C between two updates."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType

import torch

from genin.benchmarks.speed.memory import usable_memory_bytes
from genin.distill.recipe_optimisation import Precision
from genin.runtimes.errors import GeninError
from genin.runtimes.limits import PYTORCH_BYTES, memory_limit_bytes

SLOW_BF16 = 1.2  # times fp32's time: where bf16 has lost for certain, whatever else the machine does
NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|out of memory|bad_alloc", re.IGNORECASE)


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks: by default every large tensor is mapped and unmapped anew, and on a CPU the kernel's
    zeroing of those pages can take half of an update (docs/log.md). No effect except on Linux with glibc."""
    if not sys.platform.startswith("linux"):
        return
    mmap_max, trim_threshold = -4, -1  # M_MMAP_MAX, M_TRIM_THRESHOLD of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


def faster_precision() -> Precision:
    """The `mixed_precision` of a recipe in which this machine trains faster."""
    return "no" if not torch.cuda.is_available() and _bf16_time() > SLOW_BF16 else "bf16"


@cache  # one word a process
def warn_of_slow_bf16() -> None:
    """Say so, once a process, where this processor multiplies in bf16 more slowly than in fp32: some have the instructions but no
    matrix units behind them, or a virtual machine hides these. Only the user knows whether a run may change its precision."""
    ratio = _bf16_time()
    if ratio > SLOW_BF16:
        message = f"a matrix product in bf16 takes {ratio:.1f} times as long as in fp32 on this processor"
        warnings.warn(f'{message}; the recipe\'s mixed_precision: "no" may be faster here', stacklevel=2)


def _bf16_time(side: int = 512, rounds: int = 5) -> float:
    """A product of matrices in bf16, in times of one in fp32: the least of several, in turn (about 20 ms)."""
    factors = {precision: torch.ones(side, side, dtype=precision) for precision in (torch.float32, torch.bfloat16)}
    least = dict.fromkeys(factors, float("inf"))
    for _ in range(rounds):
        for precision, factor in factors.items():
            start = time.perf_counter()
            factor @ factor
            least[precision] = min(least[precision], time.perf_counter() - start)
    return least[torch.bfloat16] / least[torch.float32]


def check_memory(what: str, needed: int, device: torch.device, remedies: Callable[[], Sequence[str]]) -> None:
    """Warn before work that is estimated to need more bytes than the machine has: an operating system that runs out of
    memory ends a process without a message. On a CPU the libraries' own memory comes on top of `needed`."""
    cuda = device.type == "cuda"
    available = torch.cuda.get_device_properties(device).total_memory if cuda else usable_memory_bytes()
    needed = needed if cuda else needed + PYTORCH_BYTES
    if needed > available:
        options = remedies()
        advice = f"; it needs less with {', '.join(options)}" if options else ""
        limited = not cuda and memory_limit_bytes() == available
        what_has = "device" if cuda else "container" if limited else "machine"
        machine = f"this {what_has} has {available / 1e9:.1f}"
        warnings.warn(f"{what} needs about {needed / 1e9:.1f} GB, and {machine}{advice}", stacklevel=2)


@contextmanager
def out_of_memory(what: str, where: Path, remedies: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Turn the several ways in which PyTorch runs out of memory into one error with remedies. Errors: GeninError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, (MemoryError, torch.OutOfMemoryError)) or NO_MEMORY.search(str(error))):
            raise
        options = remedies()
        remedy = f"write into the recipe: {', '.join(options)}" if options else "use a machine with more memory"
        raise GeninError(
            f"out of memory in {what}; saved checkpoints are intact", where=where, remedy=remedy
        ) from error


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a request to stop after the current update; a second one interrupts at once."""
    pressed = False

    def handle(_signal: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True
        os.write(2, b"\nstops after this update; a second Ctrl-C ends at once\n")  # a handler must not print

    try:
        previous = signal.signal(signal.SIGINT, handle)
    except ValueError:  # not in the main thread: leave signals alone
        yield lambda: False
        return
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, previous)

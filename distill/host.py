"""What a training asks of its host: freed memory that stays, no more of it than there is, and Ctrl-C between two updates."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks: by default every large tensor is mapped and unmapped anew, and on a CPU the kernel's
    zeroing of those pages can take half of an update (docs/log.md). No effect elsewhere than on Linux with glibc."""
    if not sys.platform.startswith("linux"):
        return
    mmap_max, trim_threshold = -4, -1  # M_MMAP_MAX, M_TRIM_THRESHOLD of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


def at_once(most: int, side: int, base: int) -> int:
    """How many squares of a `side` are worked on together, so that they are no more than `most` of a `base`."""
    return max(1, most * base**2 // side**2)


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a request to stop after the current update; a second one interrupts at once."""
    seen = False

    def handle(_signal: int, _frame: FrameType | None) -> None:
        nonlocal seen
        if seen:
            raise KeyboardInterrupt
        seen = True

    try:
        previous = signal.signal(signal.SIGINT, handle)
    except ValueError:  # not in the main thread: leave signals alone
        yield lambda: False
        return
    try:
        yield lambda: seen
    finally:
        signal.signal(signal.SIGINT, previous)

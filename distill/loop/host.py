"""What a training asks of its host: freed memory that stays, no more of it than there is, and Ctrl-C between two updates."""

from __future__ import annotations

import ctypes
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch

from genin.runtimes.errors import GeninError

NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|out of memory|bad_alloc", re.IGNORECASE)


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


def check_memory(what: str, needed: int, device: torch.device, remedies: Callable[[], Sequence[str]]) -> None:
    """Warn before a training that is reckoned to need more bytes than the machine has: an operating system that runs out of them
    ends a process without a word."""
    import psutil

    cuda = device.type == "cuda"
    there = torch.cuda.get_device_properties(device).total_memory if cuda else psutil.virtual_memory().total
    if needed > there:
        found = remedies()
        ways = f"; less is needed with {', '.join(found)}" if found else ""
        says = f"{what} needs about {needed / 1e9:.1f} GB, and this {'device' if cuda else 'machine'} has {there / 1e9:.1f}{ways}"
        warnings.warn(says, stacklevel=2)


@contextmanager
def out_of_memory(what: str, where: Path, remedies: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Turn the several ways in which PyTorch runs out of memory into one error with remedies. Errors: GeninError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, (MemoryError, torch.OutOfMemoryError)) or NO_MEMORY.search(str(error))):
            raise
        found = remedies()
        remedy = f"write into the recipe: {', '.join(found)}" if found else "give it a machine with more of it"
        raise GeninError(f"out of memory in {what}; what was saved is whole", where=where, remedy=remedy) from error


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

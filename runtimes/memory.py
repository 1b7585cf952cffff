"""Keeping a bundle's networks within a number of bytes: which stay loaded, and which are loaded anew for every picture.

What a network takes is not known before it has run. So with a limit, one network at a time is loaded, its weights and its peak are
measured, and from then on as many stay as fit beside the one that runs; the least recently used goes first. Pictures of a batch are
drawn one by one. On Linux the process's resident memory is read, and what else the process allocates meanwhile counts along;
elsewhere three times the size of a graph's files stands for it.

Not here: limits that the system sets (`limits`), what a training needs (`genin.distill.loop.memory`).
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from genin.runtimes.arguments import whole
from genin.runtimes.errors import MemoryLimitError, OutOfMemoryError

MAX_BYTES = 1 << 50
TOLERANCE = 1.05  # of the limit, for what is measured
GUESSED = 3  # times the files' bytes: the file itself, weights in fp32, activations
REMEDY = "allow more, draw a smaller size, or take a smaller precision (genin inspect shows which the bundle has)"
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def check_max_memory(value: int | None) -> int | None:
    """Errors: InputError unless it is a number of bytes, or None for no limit."""
    return None if value is None else whole(value, "max_memory", 1, MAX_BYTES)


@dataclass(frozen=True)
class Taken:
    """Bytes that one network takes: while it is loaded, and at its peak, loading included."""

    held: int
    peak: int


class MemoryLimit:
    """Decides which networks must go before another is loaded or run. `files` are the bytes of each one's files, which it takes at
    least; `names` are for messages."""

    def __init__(self, limit: int, files: Mapping[Hashable, int], names: Mapping[Hashable, str]) -> None:
        self.limit, self._files, self._names = limit, files, names
        self._taken: dict[tuple[Hashable, ...], Taken] = {}
        self._loaded: list[Hashable] = []  # the least recently used first

    def check(self, keys: Iterable[Hashable]) -> None:
        """Errors: MemoryLimitError where the files alone of one of these networks are larger than the limit."""
        for key in keys:
            if self._files[key] > self.limit:
                what = f"the weights of the {self._names[key]} alone are {_megabytes(self._files[key])}"
                raise MemoryLimitError(f"{what}, more than max_memory {_megabytes(self.limit)}", remedy=REMEDY)

    @contextmanager
    def running(self, key: Hashable, shapes: Sequence[Hashable], drop: Callable[[Hashable], None]) -> Iterator[None]:
        """Around loading and running a network on inputs of these shapes. Before it, as many others are dropped as must.

        Errors: those of `check`; OutOfMemoryError if it has taken more than the limit by itself, which is known from then on.
        """
        self.check([key])
        case = (key, *shapes)
        known = self._taken.get(case)
        if known is not None:
            self._refuse_if_too_large(key, known)
        others = [other for other in self._loaded if other != key]
        while others and (known is None or self._held(others) + known.peak > self.limit):
            drop(others.pop(0))
            release()
        base = self._held([key]) if key in self._loaded else 0  # what it holds from other shapes
        self._loaded = [*others, key]
        if known is not None:  # nothing is measured then: that would reset the peak that others read
            yield
            return
        release()  # what an ended run has left, or this one would be measured too small
        before = Resident.now()
        try:
            yield
            guess = GUESSED * self._files[key]
            taken = Taken(guess, guess) if before is None else before.taken_since(base)
            self._taken[case] = taken
            self._refuse_if_too_large(key, taken)
        except BaseException:  # also one that was cancelled: what stayed loaded would never be measured
            self._loaded.remove(key)
            drop(key)
            release()
            raise

    def _held(self, keys: Sequence[Hashable]) -> int:
        return sum(
            max((taken.held for case, taken in self._taken.items() if case[0] == key), default=0) for key in keys
        )

    def _refuse_if_too_large(self, key: Hashable, taken: Taken) -> None:
        if taken.peak > self.limit * TOLERANCE:
            what = f"the {self._names[key]} takes {_megabytes(taken.peak)} by itself at this size"
            raise OutOfMemoryError(f"{what}, more than max_memory {_megabytes(self.limit)}", remedy=REMEDY)


@dataclass(frozen=True)
class Resident:
    """What the process held at some moment; its peak begins there."""

    bytes: int

    @classmethod
    def now(cls) -> Resident | None:
        """None where the system does not say."""
        try:
            CLEAR.write_text("5", encoding="ascii")
        except OSError:
            return None
        size = _status("VmRSS")
        return None if size is None else cls(size)

    def taken_since(self, base: int) -> Taken:
        """What has been added since, on top of `base`."""
        peak, now = (base + max(0, (_status(name) or self.bytes) - self.bytes) for name in ("VmHWM", "VmRSS"))
        return Taken(now, max(peak, now))


def release() -> None:
    """Give freed memory back to the system, where the allocator (glibc's) keeps it."""
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # musl has no malloc_trim
            ctypes.CDLL(None).malloc_trim(0)


def _status(name: str) -> int | None:
    """A line of /proc/self/status, in bytes."""
    with suppress(OSError, ValueError, IndexError):
        for line in STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    return None


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"

"""Warnings that nobody should see, in a process of several threads.

`warnings.catch_warnings` saves and restores the filters of the whole process: of two threads that overlap, the one that leaves last
restores what the other had set, for good. So genin's own warnings are silenced by thread, and those of libraries by one filter that
all threads share, until the last of them has left.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

_silent: ContextVar[bool] = ContextVar("silent", default=False)


def is_silent() -> bool:
    """Whether genin has nothing to say here: in a painter's drawing thread, whose caller would not know what is meant."""
    return _silent.get()


def be_silent() -> None:
    """For the rest of this thread."""
    _silent.set(True)


class _Ignoring:
    def __init__(self) -> None:
        self._lock, self._inside, self._stack = threading.Lock(), 0, ExitStack()

    def enter(self) -> None:
        with self._lock:
            if not self._inside:
                self._stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._stack.close()


_ignoring = _Ignoring()


@contextmanager
def warnings_ignored() -> Iterator[None]:
    """Within it the process's warnings are ignored."""
    _ignoring.enter()
    try:
        yield
    finally:
        _ignoring.leave()

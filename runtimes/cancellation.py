"""Ending a drawing from another thread: between networks by any function, inside a network by a `Cancellation`.

Not here: what an engine does when it is interrupted (`engine`), requests that wait (`painting`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from genin.runtimes.errors import CancelledError


class Interruptible(Protocol):
    """Something that runs for a while in one thread and can be stopped from another."""

    def interrupt(self) -> None:
        """End what runs, and whatever begins until `proceed`, with any error. Never waits."""

    def proceed(self) -> None:
        """Run again."""


class Uninterruptible:
    """For what ends soon anyway."""

    def interrupt(self) -> None:
        pass

    def proceed(self) -> None:
        pass


class Interruption:
    """What is interrupted: `check` raises between `interrupt` and `proceed`. Engines subclass it to stop inside a network."""

    def __init__(self) -> None:
        self._interrupted = threading.Event()

    def interrupt(self) -> None:
        self._interrupted.set()

    def proceed(self) -> None:
        self._interrupted.clear()

    def check(self) -> None:
        """Errors: CancelledError."""
        if self._interrupted.is_set():
            raise CancelledError("the network was interrupted")


class Cancellation:
    """Ends a drawing: `stop = Cancellation(); pipe("a ninja", cancel=stop)`, and from any other thread `stop.cancel()`.

    A network that runs ends inside, where its engine can do that; other drawings of the same pipeline are left alone.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a finaliser or a signal handler may cancel while its thread holds it
        self._cancelled = threading.Event()
        self._running: Interruptible | None = None

    def __call__(self) -> bool:
        """Whether it has been cancelled."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """End the drawing. Never waits; calling it again does nothing."""
        with self._lock:
            if not self._cancelled.is_set():
                self._cancelled.set()
                if self._running is not None:
                    self._running.interrupt()

    def wait(self, seconds: float) -> bool:
        """Sleep until cancelled, or so long. Returns whether it has been cancelled."""
        return self._cancelled.wait(seconds)

    @contextmanager
    def _interrupting(self, what: Interruptible) -> Iterator[None]:
        """While the body runs, `cancel` interrupts `what`. Errors: CancelledError in place of any, once cancelled."""
        with self._lock:
            self._running = what
        try:
            if self._cancelled.is_set():  # from here on `cancel` interrupts; before, this finds it
                raise cancelled()
            yield
        except Exception as error:  # an interrupted engine raises whatever it likes
            if self._cancelled.is_set():
                raise cancelled() from error
            raise
        finally:
            with self._lock:
                self._running = None
                if self._cancelled.is_set():
                    what.proceed()


def check(cancel: Callable[[], bool]) -> None:
    """Errors: CancelledError if `cancel` says so."""
    if cancel():
        raise cancelled()


def interruptible(cancel: Callable[[], bool], what: Interruptible) -> AbstractContextManager[None]:
    """While the body runs, a `Cancellation` interrupts `what`; other functions have no effect on it. Errors: CancelledError."""
    return cancel._interrupting(what) if isinstance(cancel, Cancellation) else nullcontext()


def never() -> bool:
    """The `cancel` of a drawing that is not cancelled."""
    return False


def cancelled() -> CancelledError:
    return CancelledError("the generation was cancelled")

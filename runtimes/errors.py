"""The errors genin raises: one line each, saying what went wrong, where, and what to do about it.

They are in `runtimes` because every other part may import from here. The command line turns them into a line on
stderr and an exit code: 2 for bad usage or input, 1 for a job that failed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class GeninError(Exception):
    """A job that failed. `str()` is one line: "what: where; remedy"."""

    exit_code = 1

    def __init__(self, what: str, *, where: str | Path | None = None, remedy: str | None = None) -> None:
        self.what, self.where, self.remedy = what, where, remedy
        line = what if where is None else f"{what}: {where}"
        super().__init__(line if remedy is None else f"{line}; {remedy}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Worker processes hand errors back pickled, which by default would call `__init__` with the line alone."""
        return _restored, (type(self), self.args, self.__dict__)


class InputError(GeninError):
    """Bad usage or bad input, which the user can fix."""

    exit_code = 2


class MissingExtraError(InputError):
    """A package that an optional feature needs is not installed, or in a release that genin cannot use."""

    def __init__(self, package: str, extra: str, problem: str | None = None) -> None:
        super().__init__(problem or f"'{package}' is not installed", remedy=f"pip install 'genin[{extra}]'")
        self.package, self.extra = package, extra


class BundleError(InputError):
    """A bundle that is refused: wrong schema, hash, path or content."""


class CancelledError(GeninError):
    """The caller cancelled the generation."""


class OutOfMemoryError(GeninError):
    """The system has too little memory left, or `max_memory` is too little."""


class MemoryLimitError(OutOfMemoryError, InputError):
    """A limit of memory that can be known to be too little before anything is loaded."""


class QueueFullError(GeninError):
    """More requests wait than a painter's queue holds: nothing was taken."""


@contextlib.contextmanager
def on_interrupt(kept: str) -> Iterator[None]:
    """A KeyboardInterrupt inside the block says what is `kept` and how to go on, unless it has words already."""
    try:
        yield
    except KeyboardInterrupt as error:
        if str(error):
            raise
        raise KeyboardInterrupt(f"interrupted; {kept}") from error


def _restored(kind: type[GeninError], args: tuple[Any, ...], state: dict[str, Any]) -> GeninError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error

"""Words of messages that depend on a number, "1 caption is", "3 captions are", or on the system: a quoted argument.

Not here: names in a message (`genin.dataset.text.listed`).
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable


def one_line(error: BaseException) -> str:
    """What an error says, as a part of a message; its kind if it says nothing."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def quoted(argument: object) -> str:
    """An argument in a command to be copied, as this system's shell takes it."""
    if os.name != "nt":
        return shlex.quote(str(argument))
    from subprocess import list2cmdline  # an import of milliseconds

    return list2cmdline([str(argument)])


def counted(count: int, one: str, many: str | None = None) -> str:
    """`count` and its noun, with whatever else depends on it: (1, "caption is", "captions are") => "1 caption is".

    `many` is `one` and an s unless it is given.
    """
    number = f"{count:,}" if abs(count) >= 10_000 else str(count)
    return f"{number} {one if count == 1 else many or one + 's'}"


def counted_each(counts: Iterable[int], one: str) -> str:
    """Several counts of one noun, in order: ([4, 1], "step") => "1, 4 steps", ([1], "step") => "1 step"."""
    *others, last = sorted(counts)
    return ", ".join([*map(str, others), counted(last, one)])

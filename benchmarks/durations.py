"""Times as `genin bench` takes them: seconds as a number or a text, and warm-up in pictures or in seconds.

Not here: minutes (`sustained` is a plain number of them).
"""

from __future__ import annotations

import re
from typing import Any, Final, overload

from genin.runtimes.arguments import number, whole
from genin.runtimes.errors import InputError

MOST_SECONDS: Final = 24 * 3600
_TEXT: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(s?)")


@overload
def seconds_of(value: None, what: str) -> None: ...
@overload
def seconds_of(value: float | str, what: str) -> float: ...
@overload
def seconds_of(value: float | str | None, what: str) -> float | None: ...
def seconds_of(value: Any, what: str) -> float | None:
    """10, "10", "10s" or "0.5 s" => seconds; None, a default, stays.

    Errors: InputError for anything else, and for more than a day.
    """
    if isinstance(value, str):
        match = _TEXT.fullmatch(value.strip())
        if match is None:
            raise InputError(f"{what} must be seconds; got {value!r}", remedy="write 10 or 10s")
        value = float(match[1])
    seconds: float | None = number(value, what, above=0)
    if seconds is not None and seconds > MOST_SECONDS:
        raise InputError(f"{what} is {seconds:g} seconds", remedy=f"name up to {MOST_SECONDS}, a day")
    return seconds


def warm_up_of(value: int | str) -> tuple[int, float | None]:
    """2 or "2" => (2 pictures, None); "2s" => (0, 2.0 seconds).

    Errors: InputError for anything else.
    """
    if not isinstance(value, str):
        return whole(value, "warmup", 0), None
    match = _TEXT.fullmatch(value.strip())
    if match is None or not (match[2] or match[1].isdecimal()):
        raise InputError(f"warmup must be pictures or seconds; got {value!r}", remedy="write 2 or 2s")
    return (0, seconds_of(value, "warmup")) if match[2] else (int(match[1]), None)

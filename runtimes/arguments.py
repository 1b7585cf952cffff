"""Arguments as they come from Python, checked, and as the code works with them: whole numbers, paths, one value for a sequence.

numpy's integers, `~` in a path and a text where a list is wanted are meant well, so they are taken; True for 1, or 2.5 for 2, is a
slip and refused. An options object writes what it was given back into itself by `settle`, so that it holds plain values.

Not here: choices and their nearest names (`vocabulary`), options of the command line (`options`).
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from numbers import Real
from pathlib import Path
from typing import Any, SupportsIndex, TypeVar, overload

from genin.runtimes.errors import InputError

T = TypeVar("T")


def is_whole(value: object) -> bool:
    """Whether it is one whole number, of Python, numpy or another library; True and False are none."""
    if isinstance(value, bool):
        return False
    try:
        operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return False
    return True


@overload
def whole(value: None, what: str, least: int = 1, most: int | None = None) -> None: ...
@overload
def whole(value: SupportsIndex, what: str, least: int = 1, most: int | None = None) -> int: ...
@overload
def whole(value: SupportsIndex | None, what: str, least: int = 1, most: int | None = None) -> int | None: ...
def whole(value: Any, what: str, least: int = 1, most: int | None = None) -> int | None:
    """`value` as an int; None, a default, stays. Errors: InputError if it is no whole number from `least` to `most`."""
    if value is None:
        return None
    if is_whole(value) and least <= operator.index(value) and (most is None or operator.index(value) <= most):
        return operator.index(value)
    limits = f", at least {least:,}" if most is None else f" from {least:,} to {most:,}"
    raise InputError(f"{what} must be a whole number{limits}; got {value!r}")


def wholes(values: Any, what: str, least: int = 1, most: int | None = None) -> tuple[int, ...]:
    """One whole number or several as ints; None is none. Errors: InputError as of `whole`."""
    given: Sequence[SupportsIndex] = several(() if values is None else values)
    return tuple(whole(one, what, least, most) for one in given)


@overload
def number(value: None, what: str, *, above: float | None = None) -> None: ...
@overload
def number(value: float, what: str, *, above: float | None = None) -> float: ...
@overload
def number(value: float | None, what: str, *, above: float | None = None) -> float | None: ...
def number(value: Any, what: str, *, above: float | None = None) -> float | None:
    """`value` as a float; None, a default, stays. Errors: InputError if it is no finite number (above `above`)."""
    if value is None:
        return None
    try:
        finite = not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        finite = False
    if finite and (above is None or value > above):
        return float(value)
    limits = "" if above is None else f" above {above:g}"
    raise InputError(f"{what} must be a number{limits}; got {value!r}")


def required(value: T | None, what: str) -> T:
    """`value`, for which None stands for no default. Errors: InputError for None."""
    if value is None:
        raise InputError(f"{what} must be a number; got None")
    return value


@overload
def local_path(path: None, what: str) -> None: ...
@overload
def local_path(path: str | Path, what: str) -> Path: ...
@overload
def local_path(path: str | Path | None, what: str) -> Path | None: ...
def local_path(path: str | Path | None, what: str) -> Path | None:
    """A path with `~` written out; None, a default, stays. Errors: InputError for what is no path, or nobody's home."""
    if path is None:
        return None
    if not isinstance(path, str | os.PathLike) or not os.fspath(path) or "\0" in str(path):
        raise InputError(f"{what} must be a path; got {path!r}")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError("there is no such user", where=path, remedy="write the home folder out") from error


@overload
def several(values: str | Sequence[str]) -> tuple[str, ...]: ...
@overload
def several(values: int | Sequence[int]) -> tuple[int, ...]: ...
@overload
def several(values: object) -> tuple[Any, ...]: ...
def several(values: Any) -> tuple[Any, ...]:
    """Values of a sequence, or the one value that stands in its place."""
    if isinstance(values, str | os.PathLike | Mapping):
        return (values,)
    try:
        return tuple(values)
    except TypeError:  # an array without dimensions says that it is iterable, too
        return (values,)


def refuse_none(options: object) -> None:
    """Of a dataclass with defaults: None (a key that a YAML file leaves empty) is a value only where the default is None, or of no
    values. Errors: InputError naming the field."""
    for field in fields(options):  # type: ignore[arg-type]
        if getattr(options, field.name) is None and field.default not in (None, ()):
            raise InputError(f"{field.name} has no value", remedy="give it one, or leave it out")


def settle(options: object, **values: object) -> None:
    """Put checked values into a frozen dataclass, from its `__post_init__`."""
    for name, value in values.items():
        object.__setattr__(options, name, value)

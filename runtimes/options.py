"""Options that several commands share: names of runtimes and precisions, lists of choices.

Options that take several values take commas, repetition or both (`--format onnx,openvino --format coreml`), keep their
order, drop repeats, and refuse an unknown value with the list of choices and the nearest one.

Not here: the commands.
"""

from __future__ import annotations

import functools
import math
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from genin.runtimes.errors import InputError
from genin.runtimes.limits import PYTORCH_BYTES, memory_limit_bytes
from genin.runtimes.threads import MAX_THREADS, limit_threads
from genin.runtimes.vocabulary import split_choices

Value = TypeVar("Value")

if TYPE_CHECKING:
    ListParameter = click.ParamType[tuple[str, ...]]
else:  # generic only since click 8.3
    ListParameter = click.ParamType


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--json`, which the command sees as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")(command)


def needs_pytorch(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command that imports PyTorch: it warns before that in a container that has less memory than PyTorch alone needs, since
    the system would end it without a word."""

    @functools.wraps(command)
    def warning(*given: Any, **options: Any) -> Any:
        limit = memory_limit_bytes()
        if limit is not None and limit < PYTORCH_BYTES:
            needed, has = PYTORCH_BYTES / 1e9, f"this container has {limit / 1e9:.1f}"
            warnings.warn(
                f"PyTorch and what comes with it need about {needed:.1f} GB, and {has}", UserWarning, stacklevel=1
            )
        return command(*given, **options)

    return warning


def threads_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--threads N`, which limits the whole process; the command itself does not see it."""

    def limit(_context: click.Context, _option: click.Parameter, count: int | None) -> None:
        if count is not None:
            limit_threads(count)

    return click.option(
        "--threads",
        type=click.IntRange(1, MAX_THREADS),
        callback=limit,
        expose_value=False,
        help="Processor threads of PyTorch and of every engine.  [default: their own choice, mostly one per core]",
    )(command)


def device_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--device`, where PyTorch runs a model folder."""
    return click.option(
        "--device",
        default="cpu",
        show_default=True,
        metavar="cpu|cuda|cuda:N|mps",
        help="Where PyTorch runs model folders; bundles run on cpu.",
    )(command)


class Bytes(click.ParamType):  # type: ignore[type-arg]
    """A number of bytes, or one with kB, MB or GB after it: "2.5MB" => 2,500,000.0."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        parts = re.fullmatch(r"([0-9.]+)\s*(k|m|g)?b?", str(value).strip().lower())
        try:
            number = float(parts[1]) * {None: 1, "k": 1e3, "m": 1e6, "g": 1e9}[parts[2]] if parts else 0.0
        except ValueError:
            number = 0.0
        if not 0 < number < math.inf:
            self.fail(f"'{value}' is not a size; write 2.5MB", param, ctx)
        return number


class PixelSize(click.ParamType):  # type: ignore[type-arg]
    """ "512x768", width first as pictures are named, => (height, width); "64" is 64x64."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        parts = re.fullmatch(r"(\d{1,5})(?:[x×](\d{1,5}))?", str(value).strip().lower())
        if parts is None:
            self.fail(f"'{value}' is not a size; write 512x768, the width first, or 512 for a square", param, ctx)
        return int(parts[2] or parts[1]), int(parts[1])


class Side(click.IntRange):
    """The side of square pictures: "64", or "64x64", => 64."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        side = square_side(str(value))
        if side is None:
            self.fail(f"'{value}' is not a side in pixels; write one number, such as 64: {SQUARE}", param, ctx)
        return int(super().convert(int(side), param, ctx))


SQUARE = "pictures are squares here"


def square_side(text: str) -> str | None:
    """ "64" or "64x64" => "64"; None for anything else."""
    width, _, height = re.sub("[x×]", "x", text.strip().lower()).partition("x")
    return width if width.isdecimal() and height in ("", width) else None


class CommaChoice(ListParameter):
    """A click type for one or several of `choices`, separated by commas: "a,b" => ("a", "b").

    With `multiple=True` the option's value is a tuple of tuples; `flatten` joins them.
    """

    name = "list"

    def __init__(self, choices: Sequence[str]) -> None:
        self.choices = tuple(choices)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join(self.choices)}][,…]"

    def convert(
        self, value: str | tuple[str, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        try:
            return split_choices(value, self.choices)
        except InputError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        done, _, begun = incomplete.rpartition(",")
        prefix = f"{done}," if done else ""
        from click.shell_completion import CompletionItem

        return [CompletionItem(prefix + choice) for choice in self.choices if choice.startswith(begun)]


class CommaNames(click.ParamType):  # type: ignore[type-arg]
    """One or several names, separated by commas: "fp16,int8" => ("fp16", "int8")."""

    name = "names"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return param.metavar or "NAME,…"

    def convert(
        self, value: str | tuple[str, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        return value if isinstance(value, tuple) else tuple(part.strip() for part in value.split(",") if part.strip())


def flatten(values: Iterable[Iterable[Value]]) -> tuple[Value, ...]:
    """The distinct values of a repeated option of several values, in order."""
    return tuple(dict.fromkeys(value for group in values for value in group))

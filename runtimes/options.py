"""What the command line's options have in common: names of runtimes and precisions, lists of choices, model names.

Options that take several values take commas, repetition or both (`--format onnx,openvino --format coreml`), keep their
order, drop repeats, and refuse an unknown value with the list of choices and the nearest one.

Not here: the commands, and what `builtin:` names mean (`Names` is implemented by the root package, which knows where
the shipped files lie; a command that is run without it takes plain paths).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import click

from genin.runtimes.errors import InputError
from genin.runtimes.threads import MAX_THREADS, limit_threads
from genin.runtimes.vocabulary import AUTO, split_choices

if TYPE_CHECKING:
    ListParameter = click.ParamType[tuple[str, ...]]
else:  # generic only since click 8.3
    ListParameter = click.ParamType


@runtime_checkable
class Names(Protocol):
    """Resolves what stands where a model, a bundle or a reference is expected. Lives in `click.Context.obj`."""

    def model(self, name: str, runtime: str | None = AUTO, precision: str | None = AUTO) -> Path:
        """`builtin:…`, a path or a hub name => local folder or `.genin` file; InputError lists the nearest names.

        Of a bundle on the hub, only the graphs for `runtime` and `precision` are fetched; all of them if either is None.
        """

    def reference(self, name: str, *, count: int, size: int | None, seed: int, split: str | None = None) -> Path:
        """`builtin:world` (rendered; its test split unless `split` is another) or a path => a dataset folder."""

    def classifier(self) -> Path | None:
        """The shipped attribute classifier, if this installation has one."""


def claim_output(path: Path, suffix: str = "") -> None:
    """Make sure before long work that the file `path` can be written after it, and ends as its kind does. Errors: InputError."""
    if suffix and path.suffix.lower() != suffix:
        kind = suffix.removeprefix(".").upper()
        raise InputError(f"this is written as {kind}", where=path, remedy=f"let the name end in {suffix}")
    if path.is_dir():
        raise InputError("the output is a folder", where=path, remedy="name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"cannot write here ({error.strerror})", where=path, remedy="name another place") from error


def model_path(names: object, name: str, runtime: str | None = AUTO, precision: str | None = AUTO) -> Path:
    """The local folder or file that `name` stands for; `names` is the click context's `obj`, or None for plain paths.
    `runtime` and `precision` say what is fetched of a bundle on the hub (`Names.model`).

    Errors: InputError if nothing is there.
    """
    if isinstance(names, Names):
        return names.model(name, runtime, precision)
    path = Path(name)
    if not path.exists():
        raise InputError("no such model or bundle", where=name, remedy="give a folder or a .genin file")
    return path


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


def flatten(values: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """The distinct values of a repeated `CommaChoice` option, in order."""
    return tuple(dict.fromkeys(value for group in values for value in group))

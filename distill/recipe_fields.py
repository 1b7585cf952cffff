"""How a recipe's settings are declared: types with their limits, sections that pydantic checks, and refusals in one line.

A setting's type, limits, default and description are in one place, its class. Pydantic derives from it the check, the allowed range
in an error, and the JSON schema. Types are strict: a quoted "1e-4", 10.0 for a whole number, or 1 for true is refused.

Not here: the settings (`recipe`), YAML (`recipe_yaml`).
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, Strict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass
from pydantic.json_schema import GenerateJsonSchema

from genin.runtimes.errors import InputError

T = TypeVar("T")
Keys = Sequence[str | int]

FROM_LIST = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
Several = Annotated[tuple[T, ...], Strict(), FROM_LIST]
AtLeastOne = Annotated[tuple[T, ...], Strict(), Field(min_length=1), FROM_LIST]
Flag = Annotated[bool, Strict()]
Text = Annotated[str, Strict()]
Number = Annotated[float, Strict(), Field(ge=0)]
Above0 = Annotated[float, Strict(), Field(gt=0)]
Share = Annotated[float, Strict(), Field(ge=0, le=1)]
Count = Annotated[int, Strict(), Field(ge=0, le=10**15)]
Positive = Annotated[int, Strict(), Field(ge=1, le=10**9)]
Size = Annotated[int, Strict(), Field(ge=1, le=10**6)]  # of a network or a pool

TYPES = {"float_type": "float", "int_type": "int", "bool_type": "bool", "string_type": "str", "tuple_type": "a list"}


class WithoutTitles(GenerateJsonSchema):
    """Without the titles that pydantic would derive from the keys' names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def key(default: T, description: str) -> T:
    """A setting: its default, and its description in docs/recipes.md and the JSON schema."""
    return dataclasses.field(default=default, metadata={"description": description})


@typing.dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def section(cls: type[T]) -> type[T]:
    """Make a frozen dataclass that checks its values whenever one is constructed. Errors: InputError naming class and key.

    A subclass that overrides the default of a key keeps the key's type, limits and description.
    """
    fields: Mapping[str, dataclasses.Field[Any]] = getattr(cls, "__dataclass_fields__", {})  # of the bases
    hints = typing.get_type_hints(cls.__base__, include_extras=True)
    for name in fields.keys() & cls.__annotations__.keys():
        cls.__annotations__[name] = hints[name]
        setattr(cls, name, dataclasses.field(default=getattr(cls, name), metadata=fields[name].metadata))
    config = ConfigDict(extra="forbid", allow_inf_nan=False)
    kind = typing.cast("type[T]", checked_dataclass(frozen=True, config=config)(cls))
    construct: Callable[..., None] = kind.__init__
    names = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]

    @functools.wraps(construct)
    def refusing(self: T, *positional: Any, **values: Any) -> None:
        if len(positional) > len(names):
            raise TypeError(f"{kind.__name__} takes {len(names)} values, not {len(positional)}")
        by_position = dict(zip(names, positional, strict=False))
        if twice := by_position.keys() & values.keys():
            raise TypeError(f"{kind.__name__} got two values for '{min(twice)}'")
        values = by_position | values
        try:
            construct(self, **values)
        except ValidationError as error:
            raise refusal(kind, error, values, prefix=f"{kind.__name__}.") from error

    kind.__init__ = refusing  # type: ignore[assignment]
    return kind


def refusal(
    kind: type[Any],
    error: ValidationError,
    values: Any,
    *,
    prefix: str = "",
    place: Callable[[Keys], str] | None = None,
) -> InputError:
    """The first thing that is wrong with `values` for a section or recipe, in one line: the key, its value and what is allowed.

    `prefix` goes before the key's name; `place` gives the file and line of a value.
    """
    found = error.errors(include_url=False)[0]
    owner, keys = _setting(kind, found["loc"])
    name = prefix + ".".join(map(str, keys))
    where = place(found["loc"]) if place else None
    if found["type"] == "dataclass_type":
        return InputError(f"section '{name or 'recipe'}' must be a mapping", where=where)
    if found["type"] in ("unexpected_keyword_argument", "invalid_key"):
        known = sorted(f.name for f in dataclasses.fields(owner))
        near = difflib.get_close_matches(str(keys[-1]), known, n=3, cutoff=0.4) or known
        return InputError(f"unknown key '{name}'", where=where, remedy=f"did you mean: {', '.join(near)}")
    value = found["input"] if found["type"] in TYPES else functools.reduce(lambda inside, at: inside[at], keys, values)
    value = tuple(value) if isinstance(value, list) else value
    allowed = TypeAdapter(owner).json_schema()["properties"][keys[-1]]
    if found["type"] == "too_short":
        return InputError(f"'{name}' is empty", where=where)
    what = f"'{name}' must be {_requirement(found['type'], allowed) or found['msg']}, not {value!r}"
    return InputError(what, where=where, remedy=_nearest(value, allowed.get("enum", ())))


def _setting(kind: type[Any], keys: Keys) -> tuple[type[Any], Keys]:
    """The class that an error's location ends in, and the location without indices into a list."""
    for depth, part in enumerate(keys, 1):
        inner = typing.get_type_hints(kind).get(str(part))
        if not dataclasses.is_dataclass(inner):
            return kind, keys[:depth]
        kind = typing.cast("type[Any]", inner)
    return kind, keys


def _requirement(error_type: str, allowed: Mapping[str, Any]) -> str | None:
    """What a value has to be, by pydantic's type of error and the key's part of the JSON schema."""
    if error_type in TYPES:
        return TYPES[error_type]
    if error_type == "finite_number":
        return "a finite number"
    if "enum" in allowed:
        return " or ".join(allowed["enum"])
    limits = allowed.get("items", allowed)
    if "exclusiveMinimum" in limits:
        return f"above {_plain(limits['exclusiveMinimum'])}"
    if "minimum" not in limits:
        return None
    low, high = limits["minimum"], limits.get("maximum")
    low, high = (None if limit is None else _plain(limit) for limit in (low, high))
    return f"at least {low}" if high is None else f"from {low} to {high}"


def _plain(limit: float) -> str:
    """Without an exponent where it is a whole number: 1,000,000,000 in the place of 1e+09."""
    return f"{int(limit):,}" if limit == int(limit) else f"{limit:g}"


def _nearest(value: Any, choices: Sequence[str]) -> str | None:
    if value is False and "no" in choices:
        return 'did you mean: "no" (in quotes, as YAML takes it for false)'
    near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.4)
    return f"did you mean: {near[0]}" if near else None

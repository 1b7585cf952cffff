"""The longest operators of a result's rows as Markdown, by component.

Not here: counting them (`genin.benchmarks.speed.operators`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from genin.benchmarks.results.table import markdown_table, number, percent

KINDS = ("kind", "operators", "ms", "share")
LAYERS = ("layer", "kind", "ms", "share")


@dataclass(frozen=True)
class Operators:
    """One network of one row: the row's place, its title, what it takes, and lines of `KINDS` and of `LAYERS`."""

    place: int
    title: str
    taken: str
    kinds: list[list[str]]
    layers: list[list[str]]


def operators_of(rows: Iterable[Mapping[str, Any]]) -> Iterator[Operators]:
    """Every network of every row whose operators were counted."""
    for place, row in enumerate(rows):
        for component, one in (row.get("operators") or {}).items():
            calls = f"{one['calls']:g} call{'s' if one['calls'] != 1 else ''}"
            yield Operators(
                place,
                f"{row['name']}: {component}",
                f"{number(one['ms'])} ms in the operators of a picture ({calls})",
                [[str(k["kind"]), str(k["operators"]), number(k["ms"]), percent(k["share"])] for k in one["kinds"]],
                [[str(k["layer"]), str(k["kind"]), number(k["ms"]), percent(k["share"])] for k in one["layers"]],
            )


def operators_text(results: Mapping[str, Any]) -> str:
    """A heading and two tables for every network of every row whose operators were counted; empty if none were."""
    return "\n\n".join(part for one in operators_of(results["results"]) for part in _parts(one))


def _parts(one: Operators) -> Iterator[str]:
    yield f"**{one.title}**, {one.taken}"
    yield markdown_table(KINDS, one.kinds, ["kind"])
    yield markdown_table(LAYERS, one.layers, ["layer", "kind"])

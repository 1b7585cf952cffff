"""The longest operators of a result's rows as Markdown, by component.

Not here: counting them (`genin.benchmarks.speed.operators`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from genin.benchmarks.results.table import markdown_table, number, percent


def operators_text(results: Mapping[str, Any]) -> str:
    """A heading and two tables for every network of every row whose operators were counted; empty if none were."""
    rows = [row for row in results["results"] if row.get("operators")]
    return "\n\n".join(
        part for row in rows for name, one in row["operators"].items() for part in _parts(row, name, one)
    )


def _parts(row: Mapping[str, Any], component: str, one: Mapping[str, Any]) -> Iterator[str]:
    calls = f"{one['calls']:g} call{'s' if one['calls'] != 1 else ''}"
    yield f"**{row['name']}: {component}**, {number(one['ms'])} ms in the operators of a picture ({calls})"
    kinds = [[str(k["kind"]), str(k["operators"]), number(k["ms"]), percent(k["share"])] for k in one["kinds"]]
    yield markdown_table(["kind", "operators", "ms", "share"], kinds, ["kind"])
    layers = [[str(k["layer"]), str(k["kind"]), number(k["ms"]), percent(k["share"])] for k in one["layers"]]
    yield markdown_table(["layer", "kind", "ms", "share"], layers, ["layer", "kind"])

"""The pictures of a benchmark's page: each model on its fastest engine, and all engines side by side.

Every row says which one its pictures are compared with (`picture_quality.Reference`). A reference that was drawn untimed has a row
of its own, so that the page can show differences without a third picture. Not here: the page (`genin.benchmarks.report`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from genin.benchmarks.grids import Grid, GridRow
from genin.benchmarks.results.files import GENIN, engine_text
from genin.benchmarks.results.table import is_ranked, number
from genin.benchmarks.speed.picture_quality import Key, Reference, draws_own_noise, key_of
from genin.benchmarks.speed.protocol import Protocol
from genin.benchmarks.speed.samples import Measured
from genin.runtimes.wording import counted

PICTURES: Final = 6
SIDE_BY_SIDE: Final = "Same prompts, same seeds"
ENGINES, PROGRAMS = "On every runtime and precision", "By every program, on every runtime and precision"

Row = Mapping[str, Any]
Drawn = tuple[Measured, Row]


def picture_grids(
    measured: Sequence[Measured], rows: Sequence[Row], protocol: Protocol, references: Mapping[Key, Reference]
) -> list[Grid]:
    """Each model at each number of steps on its fastest engine; folded below, all engines and precisions: side by side they
    should look the same. `rows` are those of `measured`."""
    drawn = [(one, row) for one, row in zip(measured, rows, strict=True) if one.by_number()]
    if not drawn:
        return []
    common = set.intersection(*(set(one.by_number()) for one, _ in drawn))
    numbers = sorted(common)[:PICTURES]
    own = [pair for pair in drawn if pair[0].configuration.program == GENIN]
    fastest = _fastest(own or drawn)
    captions = tuple(protocol.picture(number)[0] for number in numbers)
    names = {id(one): str(row["name"]) for one, row in drawn}
    everything = _with_references(drawn, names, numbers, references)
    if len(drawn) == len(fastest):
        return [Grid(SIDE_BY_SIDE, captions, everything)]
    shown = {row["name"] for _, row in fastest}
    title = PROGRAMS if len(own) < len(drawn) else ENGINES
    return [
        Grid(SIDE_BY_SIDE, captions, tuple(row for row in everything if row.name in shown)),
        Grid(title, captions, everything, folded=True),
    ]


def _fastest(drawn: Sequence[Drawn]) -> list[Drawn]:
    """Of every model at a number of steps and a size."""
    fastest: dict[tuple[str, int, int | None], Drawn] = {}
    for one, row in drawn:
        key = one.configuration.label, one.configuration.steps, one.configuration.size
        if key not in fastest or _rank(row) < _rank(fastest[key][1]):
            fastest[key] = one, row
    return list(fastest.values())


def _rank(row: Row) -> tuple[bool, float]:
    return not is_ranked(row), row["latency_ms"]["p50"]


def _with_references(
    drawn: Sequence[Drawn], names: Mapping[int, str], numbers: Sequence[int], references: Mapping[Key, Reference]
) -> tuple[GridRow, ...]:
    """All rows, and before the first that is compared with it, each reference that was not timed."""
    grid_rows: dict[str, GridRow] = {}
    for one, row in drawn:
        reference = references.get(key_of(one.configuration))
        against = ""
        if reference is not None and not draws_own_noise(one.configuration) and reference.measured is not one:
            against = _name_of(reference, one, names)
            if reference.measured is None and against not in grid_rows:
                grid_rows[against] = _untimed(reference, one, row, numbers, against)
        grid_rows[row["name"]] = _timed(one, row, numbers, against)
    return tuple(grid_rows.values())


def _name_of(reference: Reference, measured: Measured, names: Mapping[int, str]) -> str:
    if reference.measured is not None:
        return names[id(reference.measured)]
    configuration = measured.configuration
    return f"{configuration.label} · {reference.name} · {_steps(configuration.steps)} · {configuration.size} · untimed"


def _untimed(reference: Reference, measured: Measured, row: Row, numbers: Sequence[int], name: str) -> GridRow:
    size = measured.configuration.size
    parts = [reference.name, _steps(row["steps"]), *([] if size is None else [f"{size} px"]), "not timed"]
    return GridRow(row["bundle"], ", ".join(parts), np.stack([reference.pictures[one] for one in numbers]), name)


def _timed(measured: Measured, row: Row, numbers: Sequence[int], against: str) -> GridRow:
    more = measured.configuration.suffix.replace(" · ", ", ")
    engine = engine_text(row["program"], row["runtime"], row["precision"])
    detail = f"{engine}, {_steps(row['steps'])}{more}, {number(row['latency_ms']['p50'])} ms"
    pictures = measured.by_number()
    return GridRow(row["bundle"], detail, np.stack([pictures[one] for one in numbers]), row["name"], against)


def _steps(count: int) -> str:
    return counted(count, "step")

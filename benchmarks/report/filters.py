"""What the page's filters choose between, and which parts of it belong to which row of the results.

A part of the page that is about rows has `data-rows`, their places; the page's script hides it where none of them is chosen. Not
here: the script (`templates/report.js`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from genin.benchmarks.results.table import device_text, is_ranked, program_of

Row = Mapping[str, Any]

VALID: Final = "valid"


def facets_of(rows: Sequence[Row]) -> list[dict[str, str]]:
    """What each row can be chosen by."""
    return [
        {
            "model": str(row["bundle"]),
            "program": program_of(row),
            "runtime": str(row["runtime"]),
            "precision": str(row["precision"]),
            "device": device_text(row),
            VALID: "only" if is_ranked(row) else "",
        }
        for row in rows
    ]


def filters_of(facets: Sequence[Mapping[str, str]]) -> list[tuple[str, list[tuple[str, str]]]]:
    """(name, values with their labels) of each filter; only where there is more than one value."""
    names = [name for name in (facets[0] if facets else ()) if name != VALID]
    values = {name: list(dict.fromkeys(facet[name] for facet in facets)) for name in names}
    filters = [(name, [(value, value) for value in found]) for name, found in values.items() if len(found) > 1]
    if len({facet[VALID] for facet in facets}) > 1:
        filters.append((VALID, [("only", "valid only")]))
    return filters


def places_of(rows: Sequence[Row], chosen: Sequence[Row]) -> str:
    """Where the chosen rows stand among all, for `data-rows`."""
    return " ".join(str(place) for place, row in enumerate(rows) if any(row is one for one in chosen))

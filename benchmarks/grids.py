"""A grid of pictures: models as rows, prompts as columns, the same seeds throughout.

The data of both the PNG sheet (`compare`) and the report's page (`report`). Not here: drawing either.
"""

from __future__ import annotations

from dataclasses import dataclass

from genin.dataset.sets import Pictures


@dataclass(frozen=True)
class GridRow:
    """One model: its label, a line of detail below it, and one picture per column, N×H×W×3 uint8. `name` is the row of the results
    that drew them, `against` the name of the grid row that they are compared with, on the same page; both may be empty."""

    label: str
    detail: str
    pictures: Pictures
    name: str = ""
    against: str = ""


@dataclass(frozen=True)
class Grid:
    """Rows over common columns; `captions` go below the columns. A page shows a folded grid when asked to. `notes`: what was left
    out of the folder that the first row is from."""

    title: str
    captions: tuple[str, ...]
    rows: tuple[GridRow, ...]
    folded: bool = False
    notes: tuple[str, ...] = ()

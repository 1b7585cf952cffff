"""A grid of pictures: models as rows, prompts as columns, the same seeds throughout.

The data of both the PNG sheet (`compare`) and the report's page (`report`). Not here: drawing either.
"""

from __future__ import annotations

from dataclasses import dataclass

from genin.dataset.sets import Pictures


@dataclass(frozen=True)
class GridRow:
    """One model: its label, a line of detail below it, and one picture per column, N×H×W×3 uint8."""

    label: str
    detail: str
    pictures: Pictures


@dataclass(frozen=True)
class Grid:
    """Rows over common columns; `captions` go below the columns. A page shows a folded grid when asked to. `notes`: what was left
    out of the folder that the first row is from."""

    title: str
    captions: tuple[str, ...]
    rows: tuple[GridRow, ...]
    folded: bool = False
    notes: tuple[str, ...] = ()

"""Grids of pictures as the page's template takes them: each picture once, as a PNG inside the page, and how far it is from the one
that it is compared with.

The page lays two pictures over each other to show their difference, so only the figures are worked out here. Not here: which
pictures are compared (`genin.benchmarks.speed.picture_grids`).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from genin.benchmarks.grids import Grid, GridRow
from genin.dataset.sets import Pictures


def page_grids(grids: Sequence[Grid], places: Mapping[str, int]) -> list[dict[str, Any]]:
    """`places` is where a row of that name stands in the results. The first row of a name that others are compared with has ids."""
    rows = [row for grid in grids for row in grid.rows]
    by_name: dict[str, GridRow] = {}
    for row in rows:
        by_name.setdefault(row.name, row)
    compared = [row for row in rows if _reference(row, by_name) is not None]
    ids = {name: f"pictures-{index}" for index, name in enumerate(dict.fromkeys(row.against for row in compared))}
    for_rows = {
        name: sorted({places[row.name] for row in compared if row.against == name and row.name in places})
        for name in ids
    }

    def page_row(row: GridRow) -> dict[str, Any]:
        own = [places[row.name]] if row.name in places else for_rows.get(row.name, [])
        return {
            **_pictures(row, _reference(row, by_name)),
            "places": " ".join(map(str, own)),
            "id": ids.get(row.name) if by_name[row.name] is row else None,
            "against": ids[row.against] if _reference(row, by_name) is not None else None,
        }

    return [
        {
            "title": grid.title,
            "captions": grid.captions,
            "rows": [page_row(row) for row in grid.rows],
            "folded": grid.folded,
        }
        for grid in grids
    ]


def _reference(row: GridRow, by_name: Mapping[str, GridRow]) -> GridRow | None:
    """What a row's pictures are compared with: pictures of the same size."""
    reference = by_name.get(row.against) if row.against else None
    return reference if reference is not None and reference.pictures.shape == row.pictures.shape else None


def _pictures(row: GridRow, reference: GridRow | None) -> dict[str, Any]:
    pairs = [] if reference is None else zip(row.pictures, reference.pictures, strict=True)
    return {
        "label": row.label,
        "detail": row.detail,
        "pictures": [data_uri(picture) for picture in row.pictures],
        "differences": [difference_text(*pair) for pair in pairs],
    }


def difference_text(picture: Pictures, other: Pictures) -> str:
    """How far two H×W×3 uint8 pictures are apart, of 255."""
    apart = np.abs(picture.astype(np.int16) - other)
    if not apart.any():
        return "identical"
    return f"largest {apart.max()} of 255, mean {apart.mean():.3f}"


def data_uri(picture: Pictures) -> str:
    """H×W×3 uint8 => a PNG as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")

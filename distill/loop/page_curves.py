"""Curves for the page of a training: a log => points, ticks and words that the page's template draws as SVG.

Drawn in the page, they take its colours, light or dark, and any width. A quantity with fewer than three points has no curve: it is
a figure.

Not here: markup (`templates/training.html.jinja`), curves as a picture (`previews`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from genin.distill.loop.previews import FEW_POINTS, FIRST, LAST, NOT_CURVES, TITLES

FEWEST, MOST = 3, 240  # points of a curve; of more, means over neighbours
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 280.0, 128.0, 38.0, 8.0, 20.0  # of a panel and its margins, in SVG units
ERRORS = {"kid": "kid_error"}  # a quantity => its standard error, which is drawn as a band around it
Points = list[tuple[float, float]]


def curves(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A panel for every quantity with enough points, in the order of a run's importance."""
    return [_panel(key, points, rows) for key, points in _series(rows).items() if len(points) >= FEWEST]


def figures(rows: Sequence[Mapping[str, Any]], leave_out: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Title and last value of every quantity that has too few points for a curve."""
    few = {key: points for key, points in _series(rows).items() if len(points) < FEWEST}
    return [(_title(key), f"{points[-1][1]:,.4g}") for key, points in few.items() if key not in leave_out]


def _series(rows: Sequence[Mapping[str, Any]]) -> dict[str, Points]:
    found: dict[str, Points] = {}
    for row in rows:
        seen = row.get("images_seen")
        for key, value in row.items() if _is_number(seen) else ():
            if key not in NOT_CURVES and key not in ERRORS.values() and _is_number(value):
                found.setdefault(key, []).append((float(seen), float(value)))  # type: ignore[arg-type]
    keys = sorted(found, key=lambda key: (FIRST.index(key) if key in FIRST else len(FIRST), key in LAST))
    only = [
        key for key in keys if key == "loss" or found[key] != found.get("loss")
    ]  # the loss's only term says nothing new
    return {key: found[key] for key in only}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _title(key: str) -> str:
    return TITLES.get(key, key.replace("_", " "))


def _panel(key: str, points: Points, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    errors = {row.get("images_seen"): row.get(ERRORS.get(key, "")) for row in rows}
    spread = [float(errors[x] or 0) if _is_number(errors.get(x)) else 0.0 for x, _ in points]
    low = min(y - error for (_, y), error in zip(points, spread, strict=True))
    high = max(y + error for (_, y), error in zip(points, spread, strict=True))
    ticks = ticks_between(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    end = points[-1][0]

    def place(x: float, y: float) -> str:
        across = LEFT + (WIDTH - LEFT - 4) * x / (end or 1)
        return f"{across:.1f},{TOP + (HEIGHT - TOP - BOTTOM) * (1 - (y - low) / (high - low)):.1f}"

    banded = [(x, y, error) for (x, y), error in zip(points, spread, strict=True)]
    there = [place(x, y + error) for x, y, error in banded]
    back = [place(x, y - error) for x, y, error in reversed(banded)]
    thinned = _thinned(points)
    return {
        "title": _title(key),
        "last": f"{points[-1][1]:,.4g}",
        "line": " ".join(place(x, y) for x, y in thinned),
        "marks": [place(x, y).split(",") for x, y in points] if len(points) < FEW_POINTS else [],
        "band": " ".join(there + back) if any(spread) else "",
        "ticks": [(place(0, tick).partition(",")[2], f"{tick:.6g}") for tick in ticks],
        "end": f"{end:,.0f} images",
        "says": f"{_title(key)}: {points[0][1]:,.4g} after {points[0][0]:,.0f} images, "
        f"{points[-1][1]:,.4g} after {end:,.0f}",
    }


def ticks_between(low: float, high: float) -> list[float]:
    """Two to five round numbers that span the values; equal values get room around them."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = (low - abs(low) / 10, high + abs(high) / 10) if low else (0.0, 1.0)
    about = (high - low) / 3
    power = 10.0 ** math.floor(math.log10(about))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= about)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _thinned(points: Points) -> Points:
    """Means over neighbours, where there are more points than can be told apart; the last point stays."""
    size = -(-len(points) // MOST)
    groups = [points[at : at + size] for at in range(0, len(points), size)]
    means = [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]
    return means if size == 1 else [*means, points[-1]]

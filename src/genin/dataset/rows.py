"""A row of a dataset: one picture with its caption, seed and attributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class PictureRow:
    """One picture of a set: its file, caption, seed and attribute columns; None where the folder does not say."""

    file_name: str
    text: str | None = None
    seed: int | None = None
    columns: Mapping[str, str] = field(default_factory=dict)

"""Captions that stay as they are, embedded once: where the text encoder is frozen, training reads its states from a table.

A caption of 77 tokens at Stable Diffusion's width takes 118 kB, so ten thousand of them are 1.2 GB of the machine's memory (not
the device's, which the text encoder leaves).

Not here: captions that are rephrased every epoch (`Source.rephrases`), which are embedded as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BATCH = 64


@dataclass(frozen=True)
class TextCache:
    """`states` (N, L, D) float16 on the CPU; `rows` is the row of each caption."""

    rows: Mapping[str, int]
    states: Tensor

    @classmethod
    def of(cls, captions: Iterable[str], embed: Callable[[list[str]], Tensor]) -> TextCache:
        """Embed each distinct caption once, and the empty one. `embed`: N captions => (N, L, D)."""
        distinct = list(dict.fromkeys(["", *captions]))
        parts = []
        with torch.no_grad():
            for start in range(0, len(distinct), BATCH):
                parts.append(embed(distinct[start : start + BATCH]).half().cpu())
        return cls({caption: row for row, caption in enumerate(distinct)}, torch.cat(parts))

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """(N, L, D) float32, on the CPU."""
        return self.states[[self.rows[caption] for caption in captions]].float()

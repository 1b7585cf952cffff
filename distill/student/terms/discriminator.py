"""Discriminators: small heads on a frozen network's features, conditioned on the caption and on the noise of the picture.

Each feature map goes to its own head: group norm → convolution → FiLM on embedding and caption → patch logits. Only the heads
learn. The frozen network may be the teacher's own down path and middle, which work on noised latents.

Not here: where features come from (`features`), the losses (`losses`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn


class Head(nn.Module):
    """Patch logits of one feature map: (N, C, H, W), condition (N, D) => (N, 1, H', W')."""

    def __init__(self, channels: int, hidden: int, condition: int) -> None:
        super().__init__()
        groups = next(g for g in (16, 8, 4, 2, 1) if channels % g == 0 and hidden % g == 0)
        self.norm_in = nn.GroupNorm(groups, channels)
        self.conv_in = nn.Conv2d(channels, hidden, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(groups, hidden, affine=False)
        self.film = nn.Linear(condition, 2 * hidden)
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.out = nn.Conv2d(hidden, 1, 1)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        hidden = self.norm(self.conv_in(self.norm_in(features)))
        scale, shift = self.film(condition)[..., None, None].chunk(2, dim=1)
        hidden = F.silu(hidden * (1 + scale) + shift)
        return cast(Tensor, self.out(hidden + F.silu(self.conv(hidden))))


class Discriminator(nn.Module):
    """One head per feature map, or only one, on the finest. Forward: features, embedding, text states => list of logits."""

    def __init__(
        self, channels: Sequence[int], hidden: int, embedding: int, text_size: int, *, multi_scale: bool = True
    ) -> None:
        super().__init__()
        condition = 128
        self.time, self.text = nn.Linear(embedding, condition), nn.Linear(text_size, condition)
        self.heads = nn.ModuleList(Head(c, hidden, condition) for c in (channels if multi_scale else channels[:1]))

    def forward(self, features: Sequence[Tensor], emb: Tensor, text: Tensor) -> list[Tensor]:
        # The state at the last position (padding repeats the end of text) has seen the whole caption.
        condition = F.silu(self.time(emb.float()) + self.text(text[:, -1].float()))
        return [head(f.float(), condition) for head, f in zip(self.heads, features, strict=False)]

"""The discriminator: small heads on the frozen features of the teacher's own encoder, told the caption and the noise.

Any teacher brings a feature extractor along (nothing to download), and one that works on noised latents, as in LADD
(Sauer et al. 2024, arXiv:2403.12015). A picture is re-noised to timestep t, run through the teacher's down path and
middle, and each level's feature map goes to its own head: group norm → convolution → FiLM on time and caption → patch
logits. Only the heads learn.

Not here: DINOv2 features on decoded pictures (the ADD paper's), and the losses (`losses`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def encoder_features(unet: Any, x_t: Tensor, t: Tensor, text: Tensor) -> tuple[list[Tensor], Tensor]:
    """The down path and middle of a diffusers UNet => (feature maps, finest first; time embedding (N, E))."""
    emb = unet.time_embedding(unet.get_time_embed(sample=x_t, timestep=t))
    if (extra := unet.get_aug_embed(emb=emb, encoder_hidden_states=text, added_cond_kwargs={})) is not None:
        emb = emb + extra
    hidden = unet.conv_in(x_t)
    features = []
    for block in unet.down_blocks:
        states = {"encoder_hidden_states": text} if getattr(block, "has_cross_attention", False) else {}
        entered = hidden
        hidden, residuals = block(hidden_states=hidden, temb=emb, **states)
        # Before the downsampling, where there is one: the finest view this level has.
        features.append((entered, *residuals)[-2] if block.downsamplers else hidden)
    if unet.mid_block is not None:
        features.append(unet.mid_block(hidden, emb, encoder_hidden_states=text))
    return features, emb


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
    """One head a feature map of the teacher. Forward: features, time embedding, text states => list of logits."""

    def __init__(self, channels: Sequence[int], hidden: int, time_size: int, text_size: int) -> None:
        super().__init__()
        condition = 128
        self.time, self.text = nn.Linear(time_size, condition), nn.Linear(text_size, condition)
        self.heads = nn.ModuleList(Head(c, hidden, condition) for c in channels)

    def forward(self, features: Sequence[Tensor], emb: Tensor, text: Tensor) -> list[Tensor]:
        # The state at the last position (padding repeats the end of text) has seen the whole caption.
        condition = F.silu(self.time(emb.float()) + self.text(text[:, -1].float()))
        return [head(f.float(), condition) for head, f in zip(self.heads, features, strict=True)]


def build_discriminator(teacher: Any, hidden: int) -> Discriminator:
    """Heads that fit a teacher's UNet."""
    config = teacher.config
    channels = list(config.block_out_channels)
    if teacher.mid_block is not None:
        channels.append(config.block_out_channels[-1])
    time_size = teacher.time_embedding.linear_2.out_features
    text_size = config.cross_attention_dim
    text_size = text_size if isinstance(text_size, int) else text_size[-1]
    with torch.no_grad():
        return Discriminator(channels, hidden, time_size, text_size)

"""Feature maps of a UNet's down path and middle: the input of discriminators, alignment and held-out figures."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from genin.distill.models.diffusion import autocast_to_weights


def encoder_features(unet: Any, x_t: Tensor, t: Tensor, text: Tensor) -> tuple[list[Tensor], Tensor]:
    """The down path and middle of a diffusers UNet => (feature maps, finest first; time embedding (N, E))."""
    with autocast_to_weights(unet, x_t.device):
        emb = unet.time_embedding(unet.get_time_embed(sample=x_t, timestep=t))
        if (extra := unet.get_aug_embed(emb=emb, encoder_hidden_states=text, added_cond_kwargs={})) is not None:
            emb = emb + extra
        hidden = unet.conv_in(x_t)
        features = []
        for block in unet.down_blocks:
            states = {"encoder_hidden_states": text} if getattr(block, "has_cross_attention", False) else {}
            entered = hidden
            hidden, residuals = block(hidden_states=hidden, temb=emb, **states)
            # Before the downsampling, where there is one: the finest features of this level.
            features.append((entered, *residuals)[-2] if block.downsamplers else hidden)
        if unet.mid_block is not None:
            features.append(unet.mid_block(hidden, emb, encoder_hidden_states=text))
    return features, emb

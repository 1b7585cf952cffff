"""Latents in their principal axes: the channel that varies most comes first, and one scale serves them all.

A rotation of the latents is a product with the encoder's last convolution and with the decoder's first, so that it costs
nothing at run time. In this order noise drowns detail first and a diffusion model learns from coarse to fine, without channels
that are all of unit variance (docs/log.md); it is also the order in which `channel_dropout` takes channels away.

`AutoencoderTiny` bends latents softly at ±3. Turned latents are therefore made small (`RMS`), where that bend is a straight line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

RMS = 0.25


@torch.no_grad()
def principal_axes(latents: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Of latents (N, C, h, w): their mean (C,), the orthogonal matrix (C, C) whose rows are their principal axes, the first the one
    of the largest variance, and the variances (C,)."""
    values = torch.cat([part.double().transpose(0, 1).flatten(1) for part in latents], dim=1)
    mean = values.mean(dim=1)
    variances, vectors = torch.linalg.eigh(torch.cov(values))
    axes = vectors.flip(1).T
    # An axis has two directions: the one whose largest component is positive, so that a second turn changes nothing.
    strongest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    return mean, axes * strongest.sign(), variances.flip(0)


@torch.no_grad()
def turn_latents(vae: Any, latents: Sequence[Tensor]) -> Tensor:
    """Turn the latents of an `AutoencoderTiny` into the principal axes of `latents`, which are some of its own, with mean 0 and a
    root mean square of `RMS`. Pictures that it decodes stay as they are, but for the border of one latent and the soft bend.

    Returns: the share of the variance that each channel now has, (C,).
    """
    mean, axes, variances = principal_axes(latents)
    scale = RMS / variances.mean().sqrt()
    last, first = vae.encoder.layers[-1], vae.decoder.layers[0]
    assert (
        isinstance(last, nn.Conv2d)
        and isinstance(first, nn.Conv2d)
        and last.bias is not None
        and first.bias is not None
    )
    _replace(last.weight, torch.einsum("kc,cihw->kihw", axes * scale, last.weight.double()))
    _replace(last.bias, (axes * scale) @ (last.bias.double() - mean))
    weight = first.weight.double()
    _replace(first.bias, first.bias.double() + torch.einsum("ochw,c->o", weight, mean))
    _replace(first.weight, torch.einsum("ochw,kc->okhw", weight, axes / scale))
    return variances / variances.sum()


def _replace(weight: Tensor, value: Tensor) -> None:
    weight.copy_(value.to(weight))

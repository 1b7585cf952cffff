"""The autoencoder's objective: pictures ⇄ latents, small enough that decoding costs about as much as one UNet step.

The network is diffusers' `AutoencoderTiny` (plain convolutions, no attention, no normalisation: every pipeline opens
it and every exporter knows its operators). It is trained on three terms: L1 on pixels, L1 on finite differences at two
scales (edges are what a cartoon is made of, and plain L1 blurs them), and a pull of the latents towards zero mean and unit
variance, so that diffusion starts from a space whose scale is known.

Not here: a perceptual or adversarial term.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from genin.distill.models.pixels import batch_size_for, to_tensor, to_uint8
from genin.distill.recipe import AutoencoderRecipe

ENCODER_PIXELS = 256 * 64 * 64  # in flight at once


def build_autoencoder(recipe: AutoencoderRecipe) -> nn.Module:
    """An untrained AutoencoderTiny that halves the picture once for every entry of `decoder_blocks` but the first."""
    from diffusers import AutoencoderTiny

    channels = (recipe.channels,) * len(recipe.decoder_blocks)
    model: nn.Module = AutoencoderTiny(
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        num_encoder_blocks=recipe.encoder_blocks,
        num_decoder_blocks=recipe.decoder_blocks,
        latent_channels=recipe.latent_channels,
        act_fn="relu",
    )
    return model


def encode(vae: Any, images: Tensor) -> Tensor:
    """Pictures in [−1, 1], NCHW => raw latents. A variational encoder gives its mean: training data must not jitter."""
    encoded = vae.encode(images)
    if hasattr(encoded, "latent_dist"):
        return encoded.latent_dist.mean  # type: ignore[no-any-return]
    return encoded.latents  # type: ignore[no-any-return]


def encoder_batch(width: int, height: int) -> int:
    """How many pictures an encoder gets at once: 256 of 64 px, as many pixels of larger ones."""
    return max(1, min(256, ENCODER_PIXELS // (width * height)))


@torch.no_grad()
def encode_pictures(vae: Any, pictures: NDArray[np.uint8], device: torch.device) -> Tensor:
    """NHWC uint8 => final latents (N, C, h, w), float16 on the CPU."""
    factor, batch = float(vae.config.scaling_factor), encoder_batch(pictures.shape[2], pictures.shape[1])
    parts = (to_tensor(pictures[start : start + batch], device) for start in range(0, len(pictures), batch))
    return torch.cat([(encode(vae, images) * factor).half().cpu() for images in parts])


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Final latents (already multiplied by `scaling_factor`) => pictures in [−1, 1], NCHW."""
    return vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]  # type: ignore[no-any-return]


@torch.no_grad()
def decode_pictures(vae: Any, latents: Tensor) -> NDArray[np.uint8]:
    """Final latents (N, C, h, w) => NHWC uint8, a few at once."""
    size = batch_size_for(16, latents.shape[-1], 16)
    few = (latents[start : start + size].float() for start in range(0, len(latents), size))
    parts = [to_uint8(decode(vae, part).float().cpu().numpy()) for part in few]
    return np.concatenate(parts)


def _differences(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def edge_loss(a: Tensor, b: Tensor) -> Tensor:
    """Mean |∇a − ∇b| at full and half resolution."""
    total = a.new_zeros(())
    for scale in (1, 2):
        x, y = (F.avg_pool2d(z, scale) if scale > 1 else z for z in (a, b))
        total = total + sum((p - q).abs().mean() for p, q in zip(_differences(x), _differences(y), strict=True))
    return total


def latent_prior(latents: Tensor) -> Tensor:
    """Squared distance of the batch's per-channel mean and log-deviation from those of a unit Gaussian."""
    mean = latents.mean(dim=(0, 2, 3))
    log_std = latents.std(dim=(0, 2, 3)).clamp_min(1e-4).log()
    return (mean.square() + log_std.square()).mean()


def autoencoder_loss(
    vae: Any, images: Tensor, recipe: AutoencoderRecipe, randn: Callable[..., Tensor]
) -> dict[str, Tensor]:
    """Loss terms for pictures in [−1, 1], NCHW; `loss` is their weighted sum, `psnr_db` a by-product (peak 2). `randn`
    draws noise of the batch's length and the given shape."""
    latents = encode(vae, images).float()
    # A little noise on the latents: the decoder must forgive what a diffusion model gets slightly wrong.
    noised = latents + recipe.latent_noise * randn(*latents.shape[1:])
    decoded = vae.decode(noised, return_dict=False)[0].float()
    pixel = (decoded - images).abs().mean()
    edge = edge_loss(decoded, images)
    prior = latent_prior(latents)
    mse = (decoded.detach() - images).square().mean()
    return {
        "loss": pixel + recipe.edge_weight * edge + recipe.prior_weight * prior,
        "pixel": pixel,
        "edge": edge,
        "prior": prior,
        "psnr_db": 10 * torch.log10(4.0 / mse),
    }

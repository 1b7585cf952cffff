"""The autoencoder's objective: pictures ⇄ latents, small enough that decoding costs about as much as one UNet step.

The network is diffusers' `AutoencoderTiny` (plain convolutions, no attention, no normalisation: every pipeline opens
it and every exporter knows its operators). It is trained on three terms: L1 on pixels, L1 on finite differences at two
scales (edges are what a cartoon is made of, and plain L1 blurs them), and a pull of the latents towards zero mean and unit
variance, so that diffusion starts from a space whose scale is known. What makes latents easier to diffuse is optional: agreement
with shrunk pictures, noise, channels in order (`latent_axes`).

Not here: a perceptual or adversarial term.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from genin.distill.inputs.update import Update
from genin.distill.models.pixels import batch_size_for, to_tensor, to_uint8
from genin.distill.recipe import AutoencoderRecipe
from genin.runtimes.errors import InputError

ENCODER_PIXELS = 256 * 64 * 64  # at once


def check_autoencoder(recipe: AutoencoderRecipe) -> None:
    """Errors: InputError for settings that contradict each other."""
    levels, factor = len(recipe.decoder_blocks), 2 ** (len(recipe.decoder_blocks) - 1)
    if len(recipe.encoder_blocks) != levels:
        what = f"autoencoder.encoder_blocks has {len(recipe.encoder_blocks)} levels, decoder_blocks {levels}"
        raise InputError(what, remedy="give both one number per level")
    side = recipe.crop or recipe.image_size
    if side > recipe.image_size:
        what = f"autoencoder.crop is {side} px, more than the pictures' {recipe.image_size}"
        raise InputError(what, remedy="set crop to 0 for whole pictures, or image_size to more")
    multiple = factor * 4 if recipe.scale_weight > 0 else factor
    if side % multiple:
        what = (
            f"autoencoder.{'crop' if recipe.crop else 'image_size'} is {side} px, which is not a multiple of {multiple}"
        )
        why = " and scale_weight shrinks latents by 4" if recipe.scale_weight > 0 else ""
        fitting = side // multiple * multiple or multiple
        raise InputError(what, remedy=f"{levels} levels divide a side by {factor}{why}: choose {fitting}")
    if recipe.channel_dropout > 0 and recipe.latent_channels < 4:
        what = f"autoencoder.channel_dropout takes quarters of {recipe.latent_channels} latent channels"
        raise InputError(what, remedy="set latent_channels to 4 or more, or channel_dropout to 0")
    if recipe.principal_axes and recipe.prior_weight > 0:
        what = "autoencoder.principal_axes gives channels variances of their own, prior_weight pulls each to 1"
        raise InputError(what, remedy="set prior_weight to 0")


def build_autoencoder(recipe: AutoencoderRecipe) -> nn.Module:
    """An untrained AutoencoderTiny that halves the picture once for every entry of `decoder_blocks` but the first.

    Errors: InputError for settings that contradict each other.
    """
    check_autoencoder(recipe)
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
    """Pictures in [−1, 1], NCHW => raw latents. A variational encoder gives its mean, so that training data are deterministic."""
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


def spread(latents: Tensor) -> Tensor:
    """Root mean square of the latents about each channel's mean, over the batch: a number."""
    return latents.detach().var(dim=(0, 2, 3), correction=0).mean().sqrt()


def noise_levels(recipe: AutoencoderRecipe, update: Update) -> Tensor:
    """The deviation of each picture's latent noise, as a share of the latents' own, (N, 1, 1, 1)."""
    levels = torch.full((update.batch,), float(recipe.latent_noise), device=update.device)
    if recipe.latent_noise_max > 0:
        every_other, _ = update.rows_every(2)
        levels[every_other] = recipe.latent_noise_max * update.rand()[every_other]
    return levels.view(-1, 1, 1, 1)


def kept_channels(channels: int, share: float, update: Update) -> Tensor:
    """1 for the channels that each picture is decoded from and 0 for the others, (N, C, 1, 1): `share` of the pictures keep only
    the first one, two or three quarters."""
    quarters = update.randint(3) + 1
    kept = torch.where(update.rand() < share, quarters * channels // 4, channels)
    return (torch.arange(channels, device=kept.device) < kept[:, None]).float()[..., None, None]


def scale_loss(vae: Any, latents: Tensor, images: Tensor, update: Update) -> Tensor:
    """|decode(shrunk latents) − shrunk picture|, by averages over squares of 2 or 4 (Skorokhodov et al. 2025, arXiv:2502.14831)."""
    factor = 2 * (update.shared_randint(2) + 1)
    decoded = vae.decode(F.avg_pool2d(latents, factor), return_dict=False)[0].float()
    return (decoded - F.avg_pool2d(images, factor)).abs().mean()


def autoencoder_loss(vae: Any, images: Tensor, recipe: AutoencoderRecipe, update: Update) -> dict[str, Tensor]:
    """Loss terms for pictures in [−1, 1], NCHW; `loss` is their weighted sum, `psnr_db` a by-product (peak 2)."""
    latents = encode(vae, images).float()
    # A little noise on the latents: the decoder must forgive what a diffusion model gets slightly wrong.
    shown = latents + noise_levels(recipe, update) * spread(latents) * update.randn(*latents.shape[1:])
    if recipe.channel_dropout > 0:
        shown = shown * kept_channels(latents.shape[1], recipe.channel_dropout, update)
    decoded = vae.decode(shown, return_dict=False)[0].float()
    mse = (decoded.detach() - images).square().mean()
    terms = {
        "pixel": (decoded - images).abs().mean(),
        "edge": edge_loss(decoded, images),
        "prior": latent_prior(latents),
    }
    loss = terms["pixel"] + recipe.edge_weight * terms["edge"] + recipe.prior_weight * terms["prior"]
    if recipe.scale_weight > 0:
        terms["scale"] = scale_loss(vae, latents, images, update)
        loss = loss + recipe.scale_weight * terms["scale"]
    return {"loss": loss, **terms, "psnr_db": 10 * torch.log10(4.0 / mse)}

"""The autoencoder: pictures ⇄ latents, small enough that decoding costs about as much as one UNet step.

It is diffusers' `AutoencoderTiny`: plain convolutions, no attention, no normalisation. Every pipeline opens it and every exporter
knows its operators.

Not here: its training (`teacher.autoencoder`), a student's own decoder (`student.decoder`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

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
    """NHWC uint8 => final latents (N, C, h, w), float16 on the CPU. Under autocast the encoder works in bf16."""
    factor, batch = float(vae.config.scaling_factor), encoder_batch(pictures.shape[2], pictures.shape[1])
    parts = (to_tensor(pictures[start : start + batch], device) for start in range(0, len(pictures), batch))
    # Autocast has no rule for a `cat` of fp16.
    return torch.cat([(encode(vae, images).float() * factor).cpu() for images in parts]).half()


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Final latents (already multiplied by `scaling_factor`) => pictures in [−1, 1], NCHW."""
    scaled = latents / vae.config.scaling_factor
    if scaled.device.type == "cpu":  # 1.2 times as fast
        scaled = scaled.contiguous(memory_format=torch.channels_last)
    return vae.decode(scaled, return_dict=False)[0]  # type: ignore[no-any-return]


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

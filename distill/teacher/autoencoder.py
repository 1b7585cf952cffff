"""The autoencoder's stage and its objective: pictures ⇄ latents.

The network (`models.autoencoder`) is trained on L1 of pixels, L1 of finite differences at two scales (edges are what a cartoon
is made of, and plain L1 blurs them), and a pull of the latents towards zero mean and unit variance, so that diffusion starts from
a space whose scale is known. What makes latents easier to diffuse is optional: agreement with shrunk pictures, noise, channels in
the order of their variance (`models.latent_axes`).

Not here: a perceptual or adversarial term.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from genin.distill.inputs.sources import Source, load_pictures
from genin.distill.inputs.update import Update
from genin.distill.loop.previews import save_grid
from genin.distill.loop.training import GRAD_NORM, Training
from genin.distill.models import autoencoder as ae
from genin.distill.models.latent_axes import turn_latents
from genin.distill.models.pixels import to_tensor, to_uint8
from genin.distill.models.taesd import load_initial_weights
from genin.distill.recipe import AutoencoderRecipe
from genin.distill.teacher.run import Run, autoencoder_settings, decoder_settings, start_from

AUTOENCODER_SHARE = 0.3  # of a budget in minutes
LABELS = ("true pictures", "encoded and decoded")
AXES_PICTURES = 256  # whose latents determine the principal axes


def train_autoencoder(run: Run) -> Any:
    """The autoencoder's stages; returns its average with `scaling_factor` set so that final latents have unit deviation. With no
    images to see, the one that `initial_weights` name or the earlier teacher's stays as it is."""
    settings = run.recipe.autoencoder
    if run.start is not None and settings.images == 0 and not settings.initial_weights:
        vae: Any = run.start.vae.requires_grad_(False).eval()
    else:
        vae = _train_both(run)
    if settings.decoder_images > 0:
        refine_decoder(run, vae)
    return vae


def _train_both(run: Run) -> Any:
    settings, source = autoencoder_settings(run.recipe.autoencoder), run.source
    training = Training(run.folder, "autoencoder", settings, minutes=run.options.left(AUTOENCODER_SHARE))
    torch.manual_seed(settings.seed)
    fresh = initial_autoencoder(run, training.device)
    # Channels last: 1.3 times the images per second on a CPU (docs/log.md).
    both = training.add("both", Both(fresh.to(memory_format=torch.channels_last), settings))
    if run.options.resume:
        training.resume()
    step = autoencoder_step(training, both, source, settings)

    def preview(path: Path) -> None:
        average: Any = training.ema_weights("both").vae
        images = to_tensor(source.pictures(0, 10, settings.image_size), training.device)
        with torch.no_grad():
            decoded = average.decode(ae.encode(average, images), return_dict=False)[0]
        save_grid([to_uint8(images.cpu().numpy()), to_uint8(decoded.float().cpu().numpy())], path, labels=LABELS)

    training.run(step, preview, once=True)
    averaged: Any = training.ema_weights("both").vae
    trained: Any = averaged.requires_grad_(False).eval().to(memory_format=torch.contiguous_format)
    latents = latents_of(trained, source, settings.image_size, training.device)
    if settings.principal_axes:
        turn_latents(trained, latents)
        latents = latents_of(trained, source, settings.image_size, training.device)
    trained.register_to_config(scaling_factor=round(1.0 / float(torch.cat(latents).std()), 5))
    return trained


def refine_decoder(run: Run, vae: Any) -> None:
    """The decoder's own stage: what it gave up to forgive noise and missing channels it learns again, for latents that stay as
    they are. Changes `vae`."""
    settings = decoder_settings(run.recipe.autoencoder)
    training = Training(run.folder, "decoder", settings, minutes=run.options.left(AUTOENCODER_SHARE))
    train_decoder(training, vae, run.source, settings, resume=run.options.resume)


def train_decoder(training: Training, vae: Any, source: Source, settings: AutoencoderRecipe, *, resume: bool) -> None:
    """Train the decoder of `vae` in place, on latents of its encoder, which stays as it is."""
    vae.to(training.device)
    decoder = training.add("decoder", vae.decoder.to(memory_format=torch.channels_last))
    if resume:
        training.resume()
    training.run(decoder_step(training, vae.encoder, decoder, source, settings), once=True)
    trained = training.ema_weights("decoder").to(memory_format=torch.contiguous_format)
    vae.decoder.load_state_dict(trained.state_dict())
    vae.decoder.to(memory_format=torch.contiguous_format)
    vae.requires_grad_(False).eval()


def decoder_step(
    training: Training, encoder: nn.Module, decoder: nn.Module, source: Source, settings: AutoencoderRecipe
) -> Callable[[Update], dict[str, Tensor | float]]:
    """One update of the decoder alone, on latents of the frozen encoder, with the recipe's noise."""
    crops = crops_of(training, source, settings)

    def step(update: Update) -> dict[str, Tensor | float]:
        images = crops(update)
        with training.autocast():
            with torch.no_grad():
                latents = with_noise(encoder(images).float(), settings, update)
            terms = reconstruction(decoder(latents).float(), images, settings)
        norm = training.optimise("decoder", terms["loss"])
        return {**{key: value.detach() for key, value in terms.items()}, GRAD_NORM: norm}

    return step


def initial_autoencoder(run: Run, device: torch.device) -> nn.Module:
    """The autoencoder that training begins with: fresh, or with the weights that the recipe or an earlier teacher gives it.

    Errors: InputError for weights that do not fit.
    """
    settings = run.recipe.autoencoder
    vae = ae.build_autoencoder(settings)
    if run.start is not None:
        start_from(vae, run.start.vae)
    if settings.initial_weights:
        load_initial_weights(vae, Path(settings.initial_weights).expanduser())
    if settings.principal_axes:
        vae = vae.to(device)
        turn_latents(vae, latents_of(vae, run.source, settings.image_size, device))
    return vae


@torch.no_grad()
def latents_of(vae: Any, source: Source, image_size: int, device: torch.device) -> list[Tensor]:
    """Raw latents of some of the source's pictures, a few pictures each."""
    pictures = source.pictures(0, min(AXES_PICTURES, len(source)), image_size)
    batch = ae.encoder_batch(image_size, image_size)
    starts = range(0, len(pictures), batch)
    return [ae.encode(vae, to_tensor(pictures[start : start + batch], device)).cpu() for start in starts]


def autoencoder_step(
    training: Training, both: nn.Module, source: Source, settings: AutoencoderRecipe
) -> Callable[[Update], dict[str, Tensor]]:
    """One update of encoder and decoder."""
    crops = crops_of(training, source, settings)

    def step(update: Update) -> dict[str, Tensor]:
        images = crops(update)
        with training.autocast():
            terms = both(images, update)
        training.optimise("both", terms["loss"])
        return {key: value.detach() for key, value in terms.items()}

    return step


def crops_of(training: Training, source: Source, settings: AutoencoderRecipe) -> Callable[[Update], Tensor]:
    """What an update sees of the source's first pictures, which are loaded here, once, if any are still needed: NCHW, in [−1, 1],
    channels last."""
    pictures = None
    if training.progress < 1:
        pictures = load_pictures(source, settings.cache_images, settings.image_size, training.folder)

    def crops(update: Update) -> Tensor:
        assert pictures is not None
        shown = random_crops(pictures, settings.crop, update)
        return to_tensor(shown, training.device).contiguous(memory_format=torch.channels_last)

    return crops


def random_crops(pictures: NDArray[np.uint8], side: int, update: Update) -> NDArray[np.uint8]:
    """An update's rows of NHWC pictures; of each a random square of `side` pixels, or all of it for 0."""
    rows = update.randint(len(pictures)).cpu().numpy()
    height, width = pictures.shape[1:3]
    if side in (0, min(height, width)):
        return np.asarray(pictures[rows])
    tops, lefts = (update.randint(length - side + 1).tolist() for length in (height, width))
    places = zip(rows, tops, lefts, strict=True)
    return np.stack([pictures[row, top : top + side, left : left + side] for row, top, left in places])


# --- the objective ---------------------------------------------------------------------------------------------------------


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


def with_noise(latents: Tensor, recipe: AutoencoderRecipe, update: Update) -> Tensor:
    """A little noise on the latents: the decoder must forgive what a diffusion model gets slightly wrong."""
    return latents + noise_levels(recipe, update) * spread(latents) * update.randn(*latents.shape[1:])


def kept_channels(channels: int, share: float, update: Update) -> Tensor:
    """1 for the channels that each picture is decoded from and 0 for the others, (N, C, 1, 1): `share` of the pictures keep only
    the first one, two or three quarters."""
    quarters = update.randint(3) + 1
    kept = torch.where(update.rand() < share, quarters * channels // 4, channels)
    return (torch.arange(channels, device=kept.device) < kept[:, None]).float()[..., None, None]


def scale_loss(vae: Any, latents: Tensor, images: Tensor, update: Update) -> Tensor:
    """|decode(shrunk latents) − shrunk picture|, by averages over squares of 2 or 4 (arXiv:2502.14831)."""
    factor = 2 * (update.shared_randint(2) + 1)
    decoded: Tensor = vae.decode(F.avg_pool2d(latents, factor), return_dict=False)[0].float()
    return (decoded - F.avg_pool2d(images, factor)).abs().mean()


def reconstruction(decoded: Tensor, images: Tensor, recipe: AutoencoderRecipe) -> dict[str, Tensor]:
    """Distances of decoded pictures from pictures in [−1, 1], NCHW: `pixel`, `edge`, `loss`, their weighted sum, and `psnr_db`, a
    by-product (peak 2)."""
    pixel, edge = (decoded - images).abs().mean(), ae.edge_loss(decoded, images)
    mse = (decoded.detach() - images).square().mean()
    loss = pixel + recipe.edge_weight * edge
    return {"loss": loss, "pixel": pixel, "edge": edge, "psnr_db": 10 * torch.log10(4.0 / mse)}


class Both(nn.Module):
    """Encoder and decoder with their loss as one module: several processes average the gradients of what `forward` computes."""

    def __init__(self, vae: nn.Module, settings: AutoencoderRecipe) -> None:
        super().__init__()
        self.vae, self.settings = vae, settings

    def forward(self, images: Tensor, update: Update) -> dict[str, Tensor]:
        return autoencoder_loss(self.vae, images, self.settings, update)


def autoencoder_loss(vae: Any, images: Tensor, recipe: AutoencoderRecipe, update: Update) -> dict[str, Tensor]:
    """`reconstruction` of pictures, from latents that noise and dropped channels have damaged, with the latents' own terms."""
    latents = ae.encode(vae, images).float()
    shown = with_noise(latents, recipe, update)
    if recipe.channel_dropout > 0:
        shown = shown * kept_channels(latents.shape[1], recipe.channel_dropout, update)
    terms = reconstruction(vae.decode(shown, return_dict=False)[0].float(), images, recipe)
    terms["prior"] = latent_prior(latents)
    terms["loss"] = terms["loss"] + recipe.prior_weight * terms["prior"]
    if recipe.scale_weight > 0:
        terms["scale"] = scale_loss(vae, latents, images, update)
        terms["loss"] = terms["loss"] + recipe.scale_weight * terms["scale"]
    return terms

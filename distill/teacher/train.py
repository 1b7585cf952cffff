"""Training a teacher: autoencoder, text encoder, then the diffusion UNet, into one diffusers model folder.

Each part is a stage with its own checkpoint under `OUT/training/`; a stage that has finished is not run again, so the
same command with `resume` takes up wherever the last one stopped. With `init`, an earlier teacher's text encoder is kept and
its other weights are where training starts, wherever shapes overlap: latents may get more channels, networks more
blocks. Pictures are rendered (or read) and encoded once: training
indexes cached latents, and captions are embedded on the fly by the frozen text encoder (about 5 % of an update).
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genin.distill.inputs.latents import LatentCache, cache_latents, latent_shape
from genin.distill.inputs.sources import Source, captions_to_show
from genin.distill.inputs.update import Update
from genin.distill.loop.networks import NetworkOptions
from genin.distill.loop.page import saying_how_it_ends
from genin.distill.loop.previews import save_grid
from genin.distill.loop.run_folder import RunOptions
from genin.distill.loop.training import GRAD_NORM, Step, Training
from genin.distill.models import autoencoder as ae
from genin.distill.models.diffusion import TEACHER_SCHEDULER, Denoiser, Process, plain_attention, predict
from genin.distill.models.folder import ModelFolder, save_model_folder
from genin.distill.models.guided import Guided
from genin.distill.models.pixels import batch_size_for
from genin.distill.models.text import embed, warn_of_long_captions
from genin.distill.models.widening import may_widen, widened
from genin.distill.recipe import Recipe, TeacherRecipe
from genin.distill.teacher.autoencoder import train_autoencoder
from genin.distill.teacher.run import Run, start_from
from genin.distill.teacher.text_encoder import train_text_encoder, train_tokenizer
from genin.files import new_folder
from genin.processes import is_main_process, main_process_first

TEXT_SHARE = 0.15  # of the minutes that the autoencoder has left
PREVIEWS = 20  # captions that a grid shows
PREVIEW_STEPS = 10  # of DPM-Solver++(2M), guided


def train_teacher(
    source: Source, out: Path, recipe: Recipe, options: RunOptions | None = None, *, init: Path | None = None
) -> ModelFolder:
    """Train every stage that is not finished; a budget in minutes bounds all of them. Returns the saved model folder.

    Errors: InputError for data that no text encoder can be trained on.
    """
    run = Run.open(source, out, recipe, options or RunOptions(), init)
    torch.manual_seed(recipe.teacher.seed)
    with saying_how_it_ends(run.folder):
        vae = train_autoencoder(run)
        tokenizer, text_encoder = train_text(run)
        unet, images_seen = train_unet(run, vae, tokenizer, text_encoder)
        info = run.info(images_seen)
        model = ModelFolder(out, tokenizer, text_encoder, unet, vae, dict(TEACHER_SCHEDULER), info)
        save_model_folder(model, out)
    return model


# --- stages ------------------------------------------------------------------------------------------------------------


def train_text(run: Run) -> tuple[Any, nn.Module]:
    """Tokenizer, then the text encoder on the source's attribute columns; an earlier teacher's are kept."""
    from transformers import CLIPTokenizer

    if run.start is not None:
        warn_of_long_captions(run.start.tokenizer, run.source)
        return run.start.tokenizer, run.start.text_encoder.requires_grad_(False).eval()
    settings, source, resume = run.recipe.text_encoder, run.source, run.options.resume
    tokens = run.folder / "tokenizer"
    with main_process_first():
        if is_main_process() and not (resume and (tokens / "tokenizer_config.json").is_file()):
            shutil.rmtree(tokens, ignore_errors=True)  # an earlier run's
            with new_folder(tokens) as folder:
                captions = source.captions(range(min(len(source), 20_000)))
                train_tokenizer(captions, folder, settings).save_pretrained(folder)
    tokenizer = CLIPTokenizer.from_pretrained(tokens)
    warn_of_long_captions(tokenizer, source)
    torch.manual_seed(settings.seed)
    training = Training(run.folder, "text_encoder", settings, minutes=run.options.left(TEXT_SHARE))
    return tokenizer, train_text_encoder(training, source, tokenizer, settings, resume=resume)


def build_unet(
    recipe: TeacherRecipe, latent_channels: int, latent_size: int, text_size: int, time_size: int | None = None
) -> nn.Module:
    """A diffusers UNet without attention at the top resolution, where it costs most and helps least. `time_size` is that of the
    time embedding; None: four times the first width."""
    from diffusers import UNet2DConditionModel

    levels = len(recipe.channels)
    conditioning: dict[str, Any] = {}
    if recipe.text_in_time:
        conditioning = {
            "addition_embed_type": "text",
            "addition_embed_type_num_heads": max(1, text_size // recipe.head_dim),
            "resnet_time_scale_shift": "scale_shift",
        }
    model: nn.Module = UNet2DConditionModel(
        sample_size=latent_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=recipe.channels,
        layers_per_block=recipe.layers_per_block,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * (levels - 1),
        up_block_types=("CrossAttnUpBlock2D",) * (levels - 1) + ("UpBlock2D",),
        cross_attention_dim=text_size,
        time_embedding_dim=time_size,
        # diffusers calls the number of heads `attention_head_dim` (its issue 2011).
        attention_head_dim=tuple(max(1, width // recipe.head_dim) for width in recipe.channels),
        norm_num_groups=recipe.norm_groups,
        **conditioning,
    )
    return model


def train_unet(run: Run, vae: Any, tokenizer: Any, text_encoder: nn.Module) -> tuple[nn.Module, int]:
    """The diffusion stage; returns the average, and how many images it has seen."""
    settings, source = run.recipe.teacher, run.source
    training = Training(run.folder, "teacher", settings)
    vae, text_encoder = vae.to(training.device), text_encoder.to(training.device)
    image_size, path = run.recipe.autoencoder.image_size, run.folder / "latents.safetensors"
    multiple = 2 ** (len(settings.channels) - 1) if settings.aspect_buckets else 0
    with training.autocast():
        cache = cache_latents(source, vae, settings.cache_images, image_size, path, multiple=multiple)
    process = Process(TEACHER_SCHEDULER, training.device)
    torch.manual_seed(settings.seed)
    channels, size, _ = latent_shape(vae, image_size, training.device)
    earlier: Any = None if run.start is None else earlier_unet(run.start.unet, settings)
    time_size = None if earlier is None else earlier.config.get("time_embedding_dim")
    network: Any = build_unet(settings, channels, size, text_encoder.config.hidden_size, time_size)  # type: ignore[union-attr,arg-type]
    if earlier is not None:
        # Latents of another space have nothing in common with the earlier teacher's, channel by channel.
        start_from(network, earlier, ("conv_in", "conv_out") if run.recipe.autoencoder.initial_weights else ())
    plain_attention(network, training.device)
    unet = training.add("unet", network, NetworkOptions(large=True))
    if run.options.resume:
        training.resume()

    def states(captions: Sequence[str]) -> Tensor:
        with torch.no_grad():
            return embed(text_encoder, tokenizer, captions, training.device)

    def preview(path: Path) -> None:
        captions = captions_to_show(source, PREVIEWS)
        text, empty = states(captions), states([""])
        denoiser = Denoiser(training.ema_weights("unet"), process)
        guided = Guided(denoiser, text_encoder, tokenizer, empty, training.device, settings.guidance_scale)
        teacher_preview(training, guided, vae, text, captions, path)

    training.minutes = run.options.left()
    training.run(unet_step(training, unet, process, cache, source, states), preview, last=True)
    return training.final_weights("unet").requires_grad_(False).eval(), training.images_seen


def earlier_unet(unet: Any, recipe: TeacherRecipe) -> Any:
    """An earlier teacher's UNet, as wide as the recipe's where it can be widened; else as it is, to start from what fits."""
    widths = list(unet.config["block_out_channels"])
    if len(widths) != len(recipe.channels) or widths == list(recipe.channels):
        return unet
    if may_widen(unet, recipe.channels) and unet.config["norm_num_groups"] == recipe.norm_groups:
        return widened(unet, recipe.channels)
    if is_main_process():
        what = f"channels {widths} cannot be widened to {list(recipe.channels)} (whole multiples of levels without attention, "
        warnings.warn(f"{what}as many norm_groups): of the earlier teacher the first channels are taken", stacklevel=2)
    return unet


def unet_step(
    training: Training,
    unet: nn.Module,
    process: Process,
    cache: LatentCache,
    source: Source,
    states: Callable[[Sequence[str]], Tensor],
) -> Step:
    """One update: w(t)·‖prediction − target‖² at a timestep of each picture's own, w by min-SNR where the recipe says so.
    `states`: N captions => (N, L, D)."""
    settings: Any = training.settings

    def step(update: Update) -> dict[str, Tensor | float]:
        rows, x0 = cache.draw(update)
        noise = update.randn(*x0.shape[1:])
        t = update.randint(process.num_train_timesteps)
        dropped = update.rand() < settings.caption_dropout
        captions = source.captions(rows.tolist(), epoch=update.index)
        captions = ["" if drop else text for drop, text in zip(dropped.tolist(), captions, strict=True)]
        with training.autocast():
            predicted = predict(unet, process.add_noise(x0, noise, t), t, states(captions))
        error = (predicted.float() - process.target(x0, noise, t)).square().mean(dim=(1, 2, 3))
        loss = (error * process.min_snr_weight(t, settings.min_snr_gamma)).mean()
        norm = training.optimise("unet", loss)
        return {"loss": loss.detach(), GRAD_NORM: norm}

    return step


def teacher_preview(
    training: Training, guided: Guided, vae: Any, text: Tensor, captions: Sequence[str], path: Path
) -> None:
    """Write a grid of two rows: the guided pictures of N captions, whose states are `text` (N, L, D), of fixed noise, so that
    successive grids show the same pictures getting better."""
    config, count = guided.unet.config, len(text)
    noise = torch.randn(
        count, config.in_channels, config.sample_size, config.sample_size, generator=torch.Generator().manual_seed(1)
    )
    timesteps = guided.process.trailing_timesteps(PREVIEW_STEPS)
    pictures, size = [], batch_size_for(64, config.sample_size, 16)
    for start in range(0, count, size):
        rows = slice(start, start + size)
        with training.autocast():
            drawn = guided.sample(noise[rows].to(training.device), text[rows], timesteps, "dpm-solver++")
            pictures.append(ae.decode_pictures(vae, drawn.states[-1]))
    every, half = np.concatenate(pictures), -(-count // 2)
    halves = (slice(0, half), slice(half, count))
    shown = [one for one in halves if len(every[one])]
    save_grid([every[one] for one in shown], path, captions=[captions[one] for one in shown])

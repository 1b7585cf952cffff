"""Tuning a teacher on new pictures: the whole UNet or low-rank adapters, and optionally its text encoder and autoencoder.

A Stable Diffusion teacher needs its UNet tuned, or adapters on it (`lora`: in a file of their own, and merged, so that pruning and
export see plain weights); its text encoder and autoencoder are general enough. A small teacher that has only ever seen one world
needs all three: new words in its text encoder, new shapes in its decoder (`autoencoder_images`, `train_text_encoder`).

Frozen weights cost little: captions are embedded once and the text encoder leaves the device (`inputs.texts`), weights under
adapters are kept in bf16, and the averages and checkpoints hold only what learns (`averages`).

Stages, checkpoints and `resume` work as in `train`. Not here: the network that learns, and how captions reach it
(`captioned`); which models can be tuned (`models.check`), how the best checkpoint is chosen (`held_out`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genin.distill.data.dataset import joined_origins
from genin.distill.inputs.latents import LatentCache, cache_latents
from genin.distill.inputs.sources import Source, captions_to_show, joined_licences
from genin.distill.inputs.update import Update
from genin.distill.loop import sharding
from genin.distill.loop.held_out import HeldOutPictures, held_out_latents
from genin.distill.loop.host import check_memory, out_of_memory
from genin.distill.loop.memory import Others, Parts, Unet, advice, finetune_memory, finetune_options
from genin.distill.loop.networks import NetworkOptions
from genin.distill.loop.page import saying_how_it_ends
from genin.distill.loop.run_folder import RunOptions, claim_run
from genin.distill.loop.training import GRAD_NORM, Training, Validate
from genin.distill.models.autoencoder import check_autoencoder
from genin.distill.models.check import check_family, check_prediction_type, check_schedule, pictures_to_check
from genin.distill.models.diffusion import Denoiser, Process, plain_attention
from genin.distill.models.folder import ModelFolder, load_model_folder, save_model_folder
from genin.distill.models.guided import Guided
from genin.distill.models.lora import (
    FILE,
    Lora,
    digest,
    lower_frozen,
    merge_lora,
    save_adapters,
    shared_copy,
)
from genin.distill.models.pixels import batch_size_for
from genin.distill.models.text import embed, warn_of_long_captions
from genin.distill.recipe import AutoencoderRecipe, FinetuneRecipe, Recipe
from genin.distill.teacher.autoencoder import train_decoder
from genin.distill.teacher.captioned import Texts, prepare_denoiser, prepare_texts, trained_weights
from genin.distill.teacher.train import PREVIEWS, teacher_preview
from genin.processes import is_main_process, wait_for_all
from genin.runtimes.errors import InputError
from genin.runtimes.origin import fingerprint

AUTOENCODER_SHARE = 0.35  # of a budget in minutes, where the autoencoder is tuned, too
HELD_OUT_STEPS = 8  # of DPM-Solver++(2M), guided
SLOW = 32  # side of latents beyond which held-out pictures take hours on a CPU


@dataclass(frozen=True)
class Base:
    """A model folder to tune, and the LoRAs to merge into it first."""

    path: Path
    loras: Sequence[Lora] = ()

    def load(self) -> ModelFolder:
        """The base with its LoRAs merged into it, in fp32; `info` names them. Their files do not state a licence, so "unknown" is
        added to the base's.

        Errors: InputError for a model that cannot be tuned, or LoRAs that do not fit it.
        """
        model = load_model_folder(self.path)
        check_family(model)
        check_schedule(Process(model.scheduler_config), self.path / "scheduler")
        for lora in self.loras:
            merge_lora(model, lora)
        if self.loras:
            model.info["merged_loras"] = [*model.info.get("merged_loras", ()), *map(str, self.loras)]
            model.info["licence"] = joined_licences(model.info.get("licence", "unknown"), "unknown")
        return model


def finetune_teacher(
    base: Base,
    source: Source,
    out: Path,
    recipe: Recipe,
    options: RunOptions | None = None,
    *,
    lora_rank: int | None = None,
) -> ModelFolder:
    """Tune `base` on `source` into `out`; `lora_rank` overrides the recipe's. Returns what was saved. With a rank, the adapters are
    also saved, as `out/pytorch_lora_weights.safetensors`.

    Errors: InputError for a base that cannot be tuned, or LoRAs that do not fit it, before anything is written.
    """
    run = Run.open(base, source, out, recipe, options or RunOptions(), lora_rank)
    torch.manual_seed(run.settings.seed)
    with saying_how_it_ends(run.folder):
        if run.settings.autoencoder_images > 0:
            tune_decoder(run)
        stage = prepare_stage(run)
        run_stage(run, stage)
        result = tuned_model(run, stage)
        save_model_folder(result, out)
    return result


@dataclass(frozen=True)
class Run:
    """What is the same for a whole tuning. `model` is the loaded base; `rank` that of its adapters, 0 to tune it whole."""

    base: Base
    source: Source
    out: Path
    recipe: Recipe
    options: RunOptions
    model: ModelFolder
    rank: int

    @classmethod
    def open(
        cls, base: Base, source: Source, out: Path, recipe: Recipe, options: RunOptions, lora_rank: int | None
    ) -> Run:
        """Load the base, then make `out` this run's."""
        rank = recipe.finetune.lora_rank if lora_rank is None else lora_rank
        run = cls(base, source, out, recipe, options, base.load(), rank)
        begun_with = {"base": fingerprint(base.path), "data": source.digest, "lora": str(rank)}
        if base.loras:
            begun_with["merged LoRA"] = digest(base.loras)
        autoencoder = autoencoder_settings(recipe, run.model)
        if autoencoder.images:
            check_autoencoder(autoencoder)
        stages = {"autoencoder": autoencoder, "finetune": recipe.finetune}
        claim_run(run.folder, recipe, begun_with, stages, resume=options.resume)
        warn_of_long_captions(run.model.tokenizer, source)
        return run

    @property
    def folder(self) -> Path:
        return self.out / "training"

    @property
    def settings(self) -> FinetuneRecipe:
        return self.recipe.finetune

    def info(self, guidance_scale: float, images_seen: int) -> dict[str, Any]:
        """The tuned folder's `genin.json`: what it was made from, and how."""
        info, source = self.model.info, self.source
        finetune = {**self.recipe.as_dict()["finetune"], "lora_rank": self.rank}
        return {
            **{key: value for key, value in info.items() if key != "name"},
            "kind": "teacher",
            "parent": str(info.get("name") or self.base.path.name),
            "data": source.name,
            "licence": joined_licences(source.licence, info.get("licence", "unknown")),
            "origins": joined_origins(source.origins, info.get("origins", ())),
            "guidance": "free",
            "guidance_scale": guidance_scale,
            "image_size": self.model.image_size,
            "images_seen": images_seen,
            "recipe": {"finetune": finetune, "base": info.get("recipe")},
            "metrics": {},
        }


@dataclass(frozen=True)
class Stage:
    """The tuning of the UNet, prepared: its training, what it learns from, and what it is validated on. `prompts` are those that
    previews show, `others` the other networks in memory."""

    training: Training
    guided: Guided
    cache: LatentCache
    texts: Texts
    prompts: list[str]
    held_out: HeldOutPictures | None
    others: Others
    network: nn.Module


def prepare_stage(run: Run) -> Stage:
    """Encode pictures and captions, register the network, load its checkpoint."""
    model, source, settings = run.model, run.source, run.settings
    training = Training(run.folder, "finetune", settings)
    for part in (model.vae, model.unet, model.text_encoder):
        part.to(training.device)
    multiple = 2 ** (len(model.unet.config.block_out_channels) - 1) if settings.aspect_buckets else 0
    path = run.folder / "latents.safetensors"
    with training.autocast():
        cache = cache_latents(source, model.vae, settings.cache_images, model.image_size, path, multiple=multiple)
    plain_attention(model.unet, training.device)
    guided = as_guided(model, training.device)
    others = Others.of(model)  # before adapters are among them
    rows, latents = cache.first(pictures_to_check(model.latent_size))
    check_prediction_type(guided, latents, guided.embed(source.captions(rows)), model.path / "scheduler")
    held_out = hold_out(training, guided, source, model, settings, adapted=run.rank > 0)
    few = min(PREVIEWS, batch_size_for(PREVIEWS, model.latent_size, 16) + 3)
    prompts = list(settings.validation_prompts) or captions_to_show(source, few)
    further = [*prompts, *(held_out.captions if held_out else ())]
    texts = prepare_texts(training, guided, source, len(cache), further)
    options = NetworkOptions(large=True, trains=trained_weights(run.rank, settings))
    network = training.add("denoiser", prepare_denoiser(model, settings, run.rank, texts), options)
    if run.options.resume:
        training.resume()
    return Stage(training, guided, cache, texts, prompts, held_out, others, network)


def run_stage(run: Run, stage: Stage) -> None:
    """Update until the images or minutes are spent."""
    training, guided, texts, held_out = stage.training, stage.guided, stage.texts, stage.held_out
    settings, processes = replace(run.settings, lora_rank=run.rank), training.accelerator.num_processes
    unet = Unet.of(run.model.unet.config, run.model.tokenizer.model_max_length)
    others = stage.others
    if texts.table is not None and training.device.type != "cpu":
        others = others._replace(text_encoder=0)  # which has left the device

    def memory(settings: FinetuneRecipe) -> Parts:
        sharded = sharding.is_requested()
        return finetune_memory(settings, unet, settings.lora_rank, others, processes=processes, sharded=sharded)

    def preview(path: Path) -> None:
        average: Any = training.ema_weights("denoiser")
        text, empty = (texts.states(average, captions) for captions in (stage.prompts, [""]))
        tuned = replace(guided, denoiser=guided.denoiser.like(average.unet), empty=empty)
        teacher_preview(training, tuned, run.model.vae, text, stage.prompts, path)

    unfinished = held_out is not None and training.progress < 1
    validate = validation(training, guided, held_out, texts) if held_out is not None and unfinished else None
    remedies = partial(advice, settings, finetune_options(run.settings, run.rank, processes), memory)
    check_memory("tuning", sum(memory(settings).values()), training.device, remedies)
    step = tuning_step(training, stage.network, guided.process, stage.cache, run.source, texts)
    training.minutes = run.options.left()
    with out_of_memory("tuning", training.folder, remedies):
        training.run(step, preview, validate, last=True)


def tuned_model(run: Run, stage: Stage) -> ModelFolder:
    """The tuned teacher; of adapters, whose file is written here, the base with them merged into it."""
    model, training = run.model, stage.training
    tuned: Any = training.final_weights("denoiser").requires_grad_(False).eval()
    unet, text_encoder = tuned.unet, model.text_encoder if tuned.text_encoder is None else tuned.text_encoder
    if run.rank:
        adapted = {"unet": unet, **({"text_encoder": text_encoder} if run.settings.train_text_encoder else {})}
        if is_main_process():
            save_adapters(adapted, run.out)
        wait_for_all()
        # Into the weights as loaded: those under adapters may have been kept in fewer bits.
        merged = Base(run.base.path, [*run.base.loras, Lora(run.out / FILE)]).load()
        unet, text_encoder = merged.unet, merged.text_encoder
    info = run.info(stage.guided.guidance_scale, training.images_seen)
    return ModelFolder(run.out, model.tokenizer, text_encoder, unet, model.vae, model.scheduler_config, info)


def merge_teacher(base: Base, out: Path) -> ModelFolder:
    """Write `base`, its LoRAs merged into it, to `out`. Errors: InputError as for tuning."""
    model = base.load()
    info = {**model.info, "parent": str(model.info.get("name") or base.path.name), "metrics": {}}
    result = replace(model, path=out, info={key: value for key, value in info.items() if key != "name"})
    save_model_folder(result, out)
    return result


def as_guided(model: ModelFolder, device: torch.device) -> Guided:
    """The base as a teacher that can be sampled, at its folder's guidance scale."""
    with torch.no_grad():
        empty = embed(model.text_encoder, model.tokenizer, [""], device)
    denoiser = Denoiser(model.unet, Process(model.scheduler_config, device))
    return Guided(denoiser, model.text_encoder, model.tokenizer, empty, device, model.guidance_scale)


def hold_out(
    training: Training, guided: Guided, source: Source, model: ModelFolder, settings: FinetuneRecipe, *, adapted: bool
) -> HeldOutPictures | None:
    """Captions and pictures to choose the best checkpoint by, in features of the base's own encoder; None where there are too few.

    Under adapters that encoder is made of the same frozen tensors; else it is a copy.
    """
    val = source.held_out() if settings.held_out_images > 0 else None
    if val is None:
        return None
    path, count = training.folder / "held_out.safetensors", min(settings.held_out_images, len(val))
    latents = held_out_latents(val, model.vae, model.image_size, count, path)
    if latents is None:
        return None
    encoder: Any = shared_copy(guided.unet, guided.unet.parameters()) if adapted else encoder_of(guided.unet)
    if settings.mixed_precision == "bf16" and not adapted:
        lower_frozen(encoder)  # features are taken under autocast: they are the same
    if training.device.type == "cpu" and model.latent_size > SLOW:
        what = f"drawing {count} held-out pictures of {model.image_size} px takes hours on a CPU"
        warnings.warn(f"{what}; held_out_images: 0 draws none", stacklevel=1)
    with training.autocast():
        return HeldOutPictures.seen_by(
            replace(guided, denoiser=guided.denoiser.like(encoder)), val.captions(range(count)), latents
        )


def encoder_of(unet: Any) -> nn.Module:
    """A copy of a UNet without its up path, which has most of its weights and no part in features."""
    up, unet.up_blocks = unet.up_blocks, nn.ModuleList()
    try:
        return shared_copy(unet, ())
    finally:
        unet.up_blocks = up


def tuning_step(
    training: Training, network: nn.Module, process: Process, cache: LatentCache, source: Source, texts: Texts
) -> Callable[[Update], dict[str, Tensor | float]]:
    """One update: w(t)·‖prediction − target‖² at a timestep of each picture's own, w by min-SNR where the recipe says so."""
    settings: Any = training.settings

    def step(update: Update) -> dict[str, Tensor | float]:
        rows, x0 = cache.draw(update)
        noise = update.randn(*x0.shape[1:])
        t, dropped = update.randint(process.num_train_timesteps), update.rand() < settings.caption_dropout
        captions = source.captions(rows.tolist(), epoch=update.index)
        captions = ["" if drop else text for drop, text in zip(dropped.tolist(), captions, strict=True)]
        if settings.noise_offset > 0:  # drawn last, so that all other random numbers stay the same
            noise = noise + settings.noise_offset * update.randn(x0.shape[1], 1, 1)
        with training.autocast():
            predicted = network(process.add_noise(x0, noise, t), t, texts.inputs(captions))
        error = (predicted.float() - process.target(x0, noise, t)).square().mean(dim=(1, 2, 3))
        loss = (error * process.min_snr_weight(t, settings.min_snr_gamma)).mean()
        return {"loss": loss.detach(), GRAD_NORM: training.optimise("denoiser", loss)}

    return step


def validation(training: Training, guided: Guided, held_out: HeldOutPictures, texts: Texts) -> Validate:
    """Held-out figures of a tuned denoiser: it draws the captions as a user would, guided, in few steps."""
    timesteps = guided.process.trailing_timesteps(HELD_OUT_STEPS)

    def validate(network: nn.Module) -> dict[str, float]:
        denoiser: Any = network
        text, empty = (texts.states(denoiser, list(captions)) for captions in (held_out.captions, [""]))
        tuned = replace(guided, denoiser=guided.denoiser.like(denoiser.unet), empty=empty)

        def draw(noise: Tensor, rows: slice) -> Tensor:
            return tuned.sample(noise, text[rows], timesteps, "dpm-solver++").states[-1]

        with training.autocast():
            return held_out.kid(held_out.drawn(draw, held_out.noise))

    return validate


def autoencoder_settings(recipe: Recipe, model: ModelFolder) -> AutoencoderRecipe:
    """The recipe's, for the shape that the base's has.

    Errors: InputError for an autoencoder other than AutoencoderTiny (others have seen more than a small set can teach).
    """
    images, size, config = recipe.finetune.autoencoder_images, model.image_size, model.vae.config
    settings = replace(recipe.autoencoder, images=images, image_size=size, lr=3e-4, prior_weight=0.0)
    if not images:
        return settings
    if (kind := type(model.vae).__name__) != "AutoencoderTiny":
        what, remedy = f"autoencoder_images needs an AutoencoderTiny, not {kind}", "leave autoencoder_images at 0"
        raise InputError(what, where=model.path, remedy=remedy)
    encoder, decoder = (tuple(config[f"num_{part}_blocks"]) for part in ("encoder", "decoder"))
    return replace(settings, encoder_blocks=encoder, decoder_blocks=decoder, latent_channels=config.latent_channels)


def tune_decoder(run: Run) -> None:
    """Continue training the base's decoder on the new pictures. Its encoder stays: the UNet knows these latents, and an encoder
    that learns on moves their scale, channel by channel (docs/log.md)."""
    model = run.model
    settings = autoencoder_settings(run.recipe, model)
    training = Training(run.folder, "autoencoder", settings, minutes=run.options.left(AUTOENCODER_SHARE))
    train_decoder(training, model.vae, run.source, settings, resume=run.options.resume)

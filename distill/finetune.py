"""Tuning a teacher on new pictures: the whole UNet or low-rank adapters, and where asked its text encoder and autoencoder.

A Stable Diffusion teacher needs its UNet tuned (or LoRA, merged afterwards so that pruning and export see plain weights);
its text encoder and autoencoder know the world already. A small teacher that has only ever seen one universe needs all
three: new words in its text encoder, new shapes in its autoencoder (`autoencoder_images`, `train_text_encoder`).

Stages, checkpoints and `resume` work as in `teacher`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genin.benchmarks.model_facts import fingerprint
from genin.distill.datasets import joined_origins
from genin.distill.diffusion import Process, plain_attention, predict
from genin.distill.latent_cache import cache_latents
from genin.distill.model_folder import ModelFolder, load_model_folder, save_model_folder
from genin.distill.recipe import AutoencoderRecipe, FinetuneRecipe, Recipe
from genin.distill.sources import Source, joined_licences
from genin.distill.teacher import autoencoder_step, teacher_preview
from genin.distill.text_encoder import tokenize
from genin.distill.training import Training, Update, claim_run

LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


class Denoiser(nn.Module):
    """UNet and text encoder as one network: (x_t, t, token ids) => prediction."""

    def __init__(self, unet: nn.Module, text_encoder: nn.Module, *, train_text: bool) -> None:
        super().__init__()
        self.unet, self.text_encoder, self.train_text = unet, text_encoder, train_text

    def forward(self, x_t: Tensor, t: Tensor, input_ids: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.train_text and torch.is_grad_enabled()):
            text = self.text_encoder(input_ids)[0]
        return predict(self.unet, x_t, t, text)


def finetune_teacher(
    base: Path,
    source: Source,
    out: Path,
    recipe: Recipe,
    *,
    lora_rank: int | None = None,
    resume: bool = False,
    minutes: float | None = None,
) -> ModelFolder:
    """Tune the model folder `base` on `source` into `out`; `lora_rank` overrides the recipe's. Returns what was saved."""
    settings = recipe.finetune
    rank = settings.lora_rank if lora_rank is None else lora_rank
    model = load_model_folder(base)
    folder = out / "training"
    stages = {"autoencoder": autoencoder_settings(recipe, model), "finetune": settings}
    claim_run(folder, recipe, {"base": fingerprint(base), "data": source.digest, "lora": str(rank)}, stages)
    torch.manual_seed(settings.seed)
    if settings.autoencoder_images > 0:
        model.vae = tune_autoencoder(model, source, folder, recipe, resume=resume)
    training = Training(folder, "finetune", settings, minutes=minutes)
    model.vae.to(training.device)
    multiple = 2 ** (len(model.unet.config.block_out_channels) - 1) if settings.aspect_buckets else 0
    cached = folder / "latents.safetensors"
    cache = cache_latents(
        source, model.vae, settings.cache_images, model.image_size, training.device, cached, multiple=multiple
    )
    plain_attention(model.unet, training.device)
    if rank:
        _add_lora(model.unet, rank)
    denoiser = Denoiser(model.unet, model.text_encoder, train_text=settings.train_text_encoder)
    network = training.add("denoiser", denoiser, trains=_trained(rank, settings))
    if resume:
        training.resume()
    process = Process(model.scheduler_config, training.device)

    def step(update: Update) -> dict[str, Tensor | float]:
        rows, x0 = cache.draw(update)
        noise = update.randn(*x0.shape[1:])
        t, dropped = update.randint(process.num_train_timesteps), update.rand() < settings.caption_dropout
        captions = source.captions(rows.tolist(), epoch=update.index)
        captions = ["" if drop else text for drop, text in zip(dropped.tolist(), captions, strict=True)]
        ids = tokenize(model.tokenizer, captions).to(training.device)
        with training.autocast():
            predicted = network(process.add_noise(x0, noise, t), t, ids)
        loss = (predicted.float() - process.target(x0, noise, t)).square().mean()
        return {"loss": loss.detach(), "grad_norm": training.optimise("denoiser", loss)}

    guidance = float(model.info.get("guidance_scale", 7.5))

    def preview(path: Path) -> None:
        average: Any = training.average_of("denoiser")
        teacher_preview(
            source, training, process, model.vae, model.tokenizer, average.text_encoder, average.unet, guidance
        )(path)

    training.run(step, preview)
    tuned: Any = training.average_of("denoiser").requires_grad_(False).eval()
    if rank:
        tuned.unet.fuse_lora()
        tuned.unet.unload_lora()
    info = {
        **{key: value for key, value in model.info.items() if key != "name"},
        "kind": "teacher",
        "parent": str(model.info.get("name") or base.name),
        "data": source.name,
        "licence": joined_licences(source.licence, model.info.get("licence", "unknown")),
        "origins": joined_origins(source.origins, model.info.get("origins", ())),
        "guidance": "free",
        "guidance_scale": guidance,
        "image_size": model.image_size,
        "images_seen": training.images_seen,
        "recipe": {"finetune": recipe.as_dict()["finetune"], "base": model.info.get("recipe")},
        "metrics": {},
    }
    result = ModelFolder(out, model.tokenizer, tuned.text_encoder, tuned.unet, model.vae, model.scheduler_config, info)
    save_model_folder(result, out)
    return result


def autoencoder_settings(recipe: Recipe, model: ModelFolder) -> AutoencoderRecipe:
    images, size = recipe.finetune.autoencoder_images, model.image_size
    return replace(recipe.autoencoder, images=images, image_size=size, lr=3e-4)


def tune_autoencoder(model: ModelFolder, source: Source, folder: Path, recipe: Recipe, *, resume: bool) -> Any:
    """Go on training the base's autoencoder on the new pictures; its latents keep their scale (the UNet expects it).

    Errors: InputError for an autoencoder other than AutoencoderTiny (others have seen more than a small set can teach).
    """
    from genin.runtimes.errors import InputError

    if type(model.vae).__name__ != "AutoencoderTiny":
        raise InputError(
            f"autoencoder_images needs an AutoencoderTiny, not {type(model.vae).__name__}",
            where=model.path,
            remedy="leave autoencoder_images at 0",
        )
    settings = autoencoder_settings(recipe, model)
    training = Training(folder, "autoencoder", settings)
    vae = training.add("vae", model.vae.to(memory_format=torch.channels_last))
    if resume:
        training.resume()
    training.run(autoencoder_step(training, vae, source, settings))
    tuned: Any = training.average_of("vae")
    return tuned.requires_grad_(False).eval().to(memory_format=torch.contiguous_format)


def _add_lora(unet: Any, rank: int) -> None:
    from peft import LoraConfig

    unet.add_adapter(
        LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(LORA_TARGETS))
    )


def _trained(rank: int, settings: FinetuneRecipe) -> Any:
    """Which of the denoiser's weights learn, by name."""

    def trains(name: str) -> bool:
        if name.startswith("text_encoder."):
            return settings.train_text_encoder
        return "lora_" in name if rank else True

    return trains

"""Is a teacher what its folder says it is, and one that can be tuned? Asked before anything is learnt.

A scheduler's config is a few words beside the weights, and a wrong `prediction_type` makes no error anywhere: every sampler
turns the prediction into a picture, which is noise. What a trained denoiser cannot hide is that it knows pictures: read as
what it is, its prediction comes nearer to the true picture than any share of x_t does, a guess that has seen no other; read as
anything else it lies further off than that (whatever the latents' deviation, `tests/test_distillation.py`).

What can be tuned is of the Stable Diffusion 1.x and 2.x family: one text encoder's states, one timestep, final latents in and
their ε, v or x0 out (`check_family`).

Not here: the scale of latents (`latent_cache`).
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from genin.distill.diffusion import PredictionType, Process, predict
from genin.distill.model_folder import ModelFolder
from genin.distill.pool import Guided
from genin.runtimes.errors import InputError

PICTURES = 32
SEED = 20_210_521
SIGNAL = 0.25  # ᾱ of the timestep to ask at: where signal and noise are equal, ε and x0 cannot be told apart
# Share of the guess's error below which a teacher has learnt something; one that has not is not judged.
KNOWS = 0.8


FEW_STEP_SCHEDULERS = ("LCMScheduler", "TCDScheduler")
NO_INPUT = ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "time_cond_proj_dim")


def check_family(model: ModelFolder) -> None:
    """Errors: InputError for a model that is no teacher of this family, naming what in its folder says so."""
    where, unet, vae = model.path, model.unet.config, model.vae.config
    scheduler = str(model.scheduler_config.get("_class_name") or "")
    if model.info.get("kind") == "student" or scheduler in FEW_STEP_SCHEDULERS or unet.get("time_cond_proj_dim"):
        parent = model.info.get("parent")
        remedy = f"tune its teacher{f' ({parent})' if parent else ''}, then distil that"
        raise InputError("a few-step student cannot be tuned: its guidance is baked in", where=where, remedy=remedy)
    remedy = "supported: text-to-image models of the Stable Diffusion 1.x and 2.x family"
    if unet.get("addition_embed_type") not in (None, "text"):
        what = f"the UNet asks for more than a caption (addition_embed_type '{unet['addition_embed_type']}', as SDXL's does)"
        raise InputError(what, where=where / "unet", remedy=remedy)
    if inputs := [name for name in NO_INPUT if unet.get(name) is not None]:
        raise InputError(f"the UNet asks for more than a caption ({inputs[0]})", where=where / "unet", remedy=remedy)
    channels = {"takes": unet["in_channels"], "gives": unet["out_channels"]}
    for does, count in channels.items():
        if count != vae["latent_channels"]:
            what = f"the UNet {does} {count} channels, the autoencoder's latents have {vae['latent_channels']}"
            raise InputError(f"{what} (inpainting, editing?)", where=where / "unet", remedy=remedy)
    predicts = model.scheduler_config.get("prediction_type", "epsilon")
    if "FlowMatch" in scheduler or predicts not in get_args(PredictionType):
        what = f"the scheduler is a '{scheduler}' of prediction type '{predicts}'"
        raise InputError(what, where=where / "scheduler", remedy=remedy)
    width, said = unet["cross_attention_dim"], model.text_encoder.config.hidden_size
    if width != said:
        raise InputError(f"the UNet reads texts of width {width}, the encoder's are {said}", where=where, remedy=remedy)


def check_schedule(process: Process, where: Path) -> None:
    """Errors: InputError for a schedule that ends in pure noise under a teacher that predicts the noise, from which no picture
    follows there (Lin et al. 2024, arXiv:2305.08891)."""
    if process.prediction_type == "epsilon" and float(process.alphas[-1]) < 1e-4:
        what = "the schedule ends in pure noise, where a prediction of the noise (epsilon) says nothing of the picture"
        zero = process.config.get("rescale_betas_zero_snr")
        schedule = "set rescale_betas_zero_snr to false" if zero else "give a teacher with another beta_schedule"
        remedy = f"{schedule}, or one that predicts v"
        raise InputError(what, where=where, remedy=remedy)


@torch.no_grad()
def check_prediction_type(teacher: Guided, latents: Tensor, text: Tensor, where: Path) -> None:
    """Compare the types on the first final latents of true pictures (N, C, H, W), as many as there are captions' states (M, L, D).

    Errors: InputError if the predictions are clearly of another type than the scheduler's config says.
    """
    process, device = teacher.denoiser.own, teacher.device
    x0, text = latents[: len(text)].float().to(device), text.float().to(device)
    t = int((process.alphas.square() - SIGNAL).abs().argmin())
    times = torch.full((len(x0),), t, dtype=torch.long, device=device)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(SEED)).to(device)
    x_t = process.add_noise(x0, noise, times)
    prediction = predict(teacher.unet, x_t, times, text)
    best = (x0 * x_t).mean() / x_t.square().mean()  # the share of x_t that comes nearest to the pictures
    knowing_nothing = float((x0 - best * x_t).square().mean())
    errors = {}
    for kind in get_args(PredictionType):
        reading = Process({**process.config, "prediction_type": kind}, device)
        errors[kind] = float((x0 - reading.to_x0_eps(prediction, x_t, times)[0]).square().mean())
    said, seems = process.prediction_type, min(errors, key=lambda kind: errors[kind])
    if errors[said] > knowing_nothing and errors[seems] < KNOWS * knowing_nothing:
        raise InputError(
            f"the teacher's scheduler says that it predicts '{said}', its predictions are of '{seems}'",
            where=where,
            remedy=f"set prediction_type to {seems}, with which its weights were trained",
        )

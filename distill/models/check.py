"""Checks of a teacher before any training: whether it is what its folder says, and whether it can be tuned.

A scheduler's config is a small file beside the weights, and a wrong `prediction_type` raises no error anywhere: every sampler turns
the prediction into a picture, which is noise. But a trained denoiser knows pictures: interpreted correctly, its prediction is
nearer to the true picture than any multiple of x_t, the best guess without knowledge; interpreted as another type it is further off
than that (whatever the latents' deviation, `tests/distill/student/test_distillation.py`).

Not here: the scale of latents (`inputs.latents`), and which families can be read (`genin.runtimes.families`).
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from genin.distill.models.diffusion import PredictionType, Process, predict
from genin.distill.models.folder import ModelFolder
from genin.distill.models.guided import Guided
from genin.distill.models.pixels import batch_size_for
from genin.runtimes.errors import InputError
from genin.runtimes.vocabulary import check_choice

PICTURES = 32
SEED = 20_210_521
SIGNAL = 0.25  # ᾱ of the timestep that is compared at: where signal and noise are equal, ε and x0 look the same
# Share of that guess's error below which a teacher has learnt something; one that has not is not checked.
KNOWS = 0.8


def pictures_to_check(latent_size: int) -> int:
    """How many pictures are enough; fewer of large ones, which hold as many values."""
    return min(PICTURES, batch_size_for(PICTURES, latent_size, 16) + 3)


def check_family(model: ModelFolder) -> None:
    """Refuse models that `genin.runtimes.families` accepts but that cannot be tuned. Errors: InputError naming the reason."""
    if model.info.get("kind") == "student":
        parent = model.info.get("parent")
        remedy = f"tune its teacher{f' ({parent})' if parent else ''}, then distil that"
        raise InputError(
            "a few-step student cannot be tuned: its guidance is baked in", where=model.path, remedy=remedy
        )
    check_choice(
        str(model.scheduler_config.get("prediction_type", "epsilon")), get_args(PredictionType),
        f"prediction type in {model.path / 'scheduler'}",
    )  # fmt: skip
    width, hidden_size = model.unet.config["cross_attention_dim"], model.text_encoder.config.hidden_size
    if width != hidden_size:
        what = f"the UNet reads texts of width {width}, the encoder's are {hidden_size}"
        raise InputError(what, where=model.path, remedy="give a folder whose UNet and text encoder belong together")


def check_schedule(process: Process, where: Path) -> None:
    """Errors: InputError for a schedule that ends in pure noise under a teacher that predicts the noise, from which the picture
    cannot be recovered there (Lin et al. 2024, arXiv:2305.08891)."""
    if process.prediction_type == "epsilon" and float(process.alphas[-1]) < 1e-4:
        what = (
            "the schedule ends in pure noise, where a prediction of the noise (epsilon) says nothing about the picture"
        )
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
    best = (x0 * x_t).mean() / x_t.square().mean()  # the multiple of x_t that comes nearest to the pictures
    best_guess = float((x0 - best * x_t).square().mean())
    errors = {}
    for kind in get_args(PredictionType):
        reading = Process({**process.config, "prediction_type": kind}, device)
        errors[kind] = float((x0 - reading.to_x0_eps(prediction, x_t, times)[0]).square().mean())
    stated, likely = process.prediction_type, min(errors, key=lambda kind: errors[kind])
    if errors[stated] > best_guess and errors[likely] < KNOWS * best_guess:
        raise InputError(
            f"the teacher's scheduler says that it predicts '{stated}', but its predictions are of '{likely}'",
            where=where,
            remedy=f"set prediction_type to {likely}, with which its weights were trained",
        )

"""What a phase's recipe says of a finished picture: from its weights to the terms, and the networks that they need.

Networks of others (LPIPS, a DINOv2, a CLIP) are found before any work is done; those that are trained along are registered with
the phase's training.

Not here: what a term computes (`terms`), the loop (`training`), the order of phases (`distillation`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from genin.benchmarks.quality.perceptual import load_lpips
from genin.distill.loop.training import Training
from genin.distill.models.folder import ModelFolder
from genin.distill.models.lora import is_adapter, low_rank_copy
from genin.distill.recipe import AdversarialRecipe, Recipe, StepsRecipe
from genin.distill.student.alignment import Aligner, ClipAligner, load_clip, train_set_aligner
from genin.distill.student.discriminator import Discriminator
from genin.distill.student.matching import FakeScore
from genin.distill.student.pool import DistillationData
from genin.distill.student.terms import AddDistillation, Adversarial, Alignment, LpipsTerm, Matching, Perceptual, Term
from genin.distill.student.views import DinoView, TeacherView, View, load_dino
from genin.runtimes.errors import InputError

ALIGNMENT_SHARE = 0.2  # of the third phase's minutes, where its model is trained on the set


@dataclass(frozen=True)
class Frozen:
    """Networks of others that a recipe names: LPIPS, a DINOv2, a CLIP with its tokenizer; None where it names none."""

    lpips: Any = None
    dino: Any = None
    clip: tuple[Any, Any] | None = None


def load_frozen(recipe: Recipe, active: Sequence[str]) -> Frozen:
    """What the active phases name, found before any work. Errors: InputError or MetricUnavailableError naming what is missing."""
    few_steps = [phase for name in active if isinstance(phase := getattr(recipe, name), StepsRecipe)]
    with_lpips = [p for p in few_steps if p.perceptual_weight > 0 and p.perceptual_features == "lpips"]
    judged = recipe.adversarial if "adversarial" in active else None
    with_dino = judged is not None and judged.adversarial_weight > 0 and judged.discriminator == "dinov2"
    with_clip = judged is not None and judged.alignment_weight > 0 and judged.alignment_model != ""
    if len({phase.perceptual_weights for phase in with_lpips}) > 1:
        raise InputError("steps.perceptual_weights and adversarial.perceptual_weights differ", remedy="name one folder")
    return Frozen(
        load_lpips("squeeze", with_lpips[0].perceptual_weights or None).network if with_lpips else None,
        load_dino(judged.discriminator_weights) if judged is not None and with_dino else None,
        load_clip(judged.alignment_model) if judged is not None and with_clip else None,
    )


def build_loss_terms(
    training: Training,
    lesson: DistillationData,
    recipe: Recipe,
    settings: StepsRecipe,
    model: ModelFolder,
    frozen: Frozen,
    *,
    resume: bool,
) -> list[Term]:
    """What a phase's recipe says of the finished picture, beside the regression; their networks are registered with `training`."""
    terms: list[Term] = []
    teacher_view = TeacherView(training, lesson.teacher, settings.max_noise_timestep)
    if settings.perceptual_weight > 0 and settings.perceptual_features == "lpips":
        terms.append(LpipsTerm(training, model.vae, frozen.lpips.to(training.device), settings.perceptual_weight))
    elif settings.perceptual_weight > 0:
        terms.append(Perceptual(teacher_view, settings.perceptual_weight))
    if not isinstance(settings, AdversarialRecipe):
        return terms
    if settings.adversarial_weight > 0:  # without the term there is nothing to train a discriminator for
        view: View = teacher_view
        if settings.discriminator == "dinov2":
            view = DinoView(training, model.vae, frozen.dino)
        torch.manual_seed(settings.seed)
        hidden, multi_scale = settings.discriminator_hidden, settings.multi_scale
        heads = Discriminator(view.channels, hidden, view.embedding, lesson.texts.shape[-1], multi_scale=multi_scale)
        discriminator = training.add(
            "discriminator", heads, lr=settings.discriminator_lr, betas=(0.0, 0.99), average=False, compiled=False
        )
        terms.append(Adversarial(training, lesson, view, discriminator, settings))
    if settings.distillation_weight > 0:
        terms.append(AddDistillation(training, lesson.teacher, settings.distillation_weight))
    if settings.matching_weight > 0:
        rank, unet = settings.fake_score_rank, model.unet
        copied: Any = low_rank_copy(unet, rank) if rank else copy.deepcopy(unet).float()
        if settings.gradient_checkpointing:
            copied.enable_gradient_checkpointing()
        trains = is_adapter if rank else (lambda _name: True)
        network = training.add(
            "fake_score", copied, lr=settings.fake_score_lr, average=False, large=True, trains=trains
        )
        fake_score = FakeScore(training, lesson.teacher, network, settings.fake_score_updates)
        terms.append(Matching(fake_score, settings.matching_weight))
    if settings.alignment_weight > 0:
        aligner = _aligner(training, lesson, recipe, model, frozen, resume=resume)
        terms.append(Alignment(aligner, lesson, settings.alignment_weight))
    return terms


def _aligner(
    training: Training, lesson: DistillationData, recipe: Recipe, model: ModelFolder, frozen: Frozen, *, resume: bool
) -> Aligner:
    """A CLIP where the recipe names one; else a model trained on the set: true pictures where they are cached, else the pool's."""
    if frozen.clip is not None:
        count = len(lesson.source)

        def captions(rows: Sequence[int]) -> list[str]:
            return lesson.source.captions([row % count for row in rows])

        return ClipAligner(training, model.vae, *frozen.clip, captions)
    minutes = None if training.minutes is None else ALIGNMENT_SHARE * training.minutes
    if training.minutes is not None and minutes is not None:
        training.minutes -= minutes
    own = Training(training.folder, "alignment", recipe.alignment, minutes=minutes)
    latents = lesson.pool.states[:, -1] if lesson.latents is None else lesson.latents
    count = min(len(latents), len(lesson.texts))
    return train_set_aligner(own, latents[:count], lesson.texts[:count], recipe.alignment, resume=resume)

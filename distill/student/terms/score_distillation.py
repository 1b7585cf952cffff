"""Terms that noise the student's picture and ask the teacher what it would make of it: ADD's distillation loss (Sauer et al. 2023,
arXiv:2311.17042, eq. 4), one picture at a time; and distribution matching, which moves the student's pictures, taken together, to
where the teacher's pictures are.

A regression onto pairs pulls each picture towards one other, and to a blur where it cannot reach it. Here two denoisers see the
student's picture under noise: the guided teacher, and a *fake score*, a copy of the teacher that learns on the student's pictures
alone. Where they disagree, the picture is more of the student's kind than of the teacher's; their difference is the gradient of the
KL divergence between the two distributions (DMD: Yin et al. 2024, arXiv:2311.18828), and no pair is needed. The fake score must
keep up with a student that moves, so it may be updated several times for each of the student's (two time scales: DMD2, Yin et al.
2024, arXiv:2405.14867, section 4.2).

Not here: the loss as a function of tensors (`losses.distribution_matching`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genin.distill.inputs.update import Update
from genin.distill.loop.memory import PASSES, PhaseSizes, lora_parameters, network_parts
from genin.distill.loop.networks import NetworkOptions, without_muon
from genin.distill.loop.training import Training
from genin.distill.models.diffusion import predict
from genin.distill.models.guided import Guided
from genin.distill.models.lora import is_adapter, low_rank_copy
from genin.distill.recipe import AdversarialRecipe, Recipe
from genin.distill.student.losses import distribution_matching
from genin.distill.student.terms.term import Figures, Memory, PhaseContext, StudentBatch, Term
from genin.runtimes.errors import InputError

# Shares of the schedule between which pictures are noised: at either end one of the two cannot judge it (DMD, appendix).
LOWEST, HIGHEST = 0.02, 0.98


@dataclass(frozen=True)
class FakeScore:
    """`network` predicts as the teacher does, and is registered with `training` as "fake_score"."""

    training: Training
    teacher: Guided
    network: nn.Module
    updates: int = 1

    def loss(self, picture: Tensor, text: Tensor, update: Update) -> Tensor:
        """The student's loss on its finished pictures (N, C, H, W); gradients reach the pictures alone."""
        t, noise = self._noise(picture, update)
        with torch.no_grad(), self.training.autocast():
            x_t = self.teacher.process.add_noise(picture.detach(), noise, t)
            real, _ = self.teacher(x_t, t, text)
            fake, _ = self.teacher.denoiser.like(self.network)(x_t, t, text)
        return distribution_matching(picture, real, fake)

    def decoupled_loss(self, picture: Tensor, text: Tensor, update: Update, above: int) -> Tensor:
        """The same in two parts with a noise each (Liu et al. 2025, arXiv:2511.22677): what moves the distribution, the teacher
        without guidance against the fake score, at every noise; and guidance, which makes few steps look right, only at more noise
        than the timestep `above`, where the student's last step has not decided yet."""
        denoiser, process = self.teacher.denoiser, self.teacher.process
        t, noise = self._noise(picture, update)
        t_guidance, noise_guidance = self._noise(picture, update, above)
        with torch.no_grad(), self.training.autocast():
            x_t = process.add_noise(picture.detach(), noise, t)
            real, _ = denoiser(x_t, t, text)
            fake, _ = denoiser.like(self.network)(x_t, t, text)
            x_t = process.add_noise(picture.detach(), noise_guidance, t_guidance)
            guided, _ = self.teacher(x_t, t_guidance, text)
            unguided, _ = denoiser(x_t, t_guidance, text)
        return distribution_matching(picture, real, fake) + distribution_matching(picture, guided, unguided)

    def learn(self, picture: Tensor, text: Tensor, update: Update) -> Tensor:
        """Learn to denoise the student's pictures; returns the mean loss."""
        denoiser, losses = self.teacher.denoiser, []
        for _ in range(self.updates):
            t, noise = self._noise(picture, update)
            x_t = denoiser.process.add_noise(picture.detach(), noise, t)
            with self.training.autocast():
                predicted = predict(self.network, x_t, denoiser.timesteps(t), text)
            loss = (predicted.float() - denoiser.target(picture.detach(), noise, t)).square().mean()
            self.training.optimise("fake_score", loss)
            losses.append(loss.detach())
        return torch.stack(losses).mean()

    def _noise(self, picture: Tensor, update: Update, above: int = 0) -> tuple[Tensor, Tensor]:
        """Timesteps from the lowest one, or `above`, to the highest, and noise."""
        count = self.teacher.process.num_train_timesteps
        high = round(HIGHEST * count)
        low = min(max(round(LOWEST * count), above), high - 1)
        return low + update.randint(high - low), update.randn(*picture.shape[1:])


@dataclass(frozen=True)
class Matching(Term):
    """weight·distribution matching, after the fake score has learnt on the picture (`FakeScore`)."""

    section = AdversarialRecipe
    key = "matching_weight"
    fake_score: FakeScore
    weight: float
    decoupled: bool = False

    @classmethod
    def check(cls, recipe: Recipe, phase: AdversarialRecipe) -> None:
        if phase.fake_score_updates > 1 < phase.accumulate:
            what = "adversarial.accumulate works with one update of the fake score at a time only"
            raise InputError(what, remedy="set fake_score_updates to 1, or accumulate to 1")

    @classmethod
    def build(cls, context: PhaseContext) -> Matching:
        training, recipe, unet = context.training, context.phase, context.teacher.unet
        rank = recipe.fake_score_rank
        network: Any = low_rank_copy(unet, rank) if rank else copy.deepcopy(unet).float()
        if recipe.gradient_checkpointing:
            network.enable_gradient_checkpointing()
        trains = is_adapter if rank else (lambda _name: True)
        options = NetworkOptions(lr=recipe.fake_score_lr, average=False, large=True, trains=trains, muon=False)
        prepared = training.add("fake_score", network, options)
        fake_score = FakeScore(training, context.data.teacher, prepared, recipe.fake_score_updates)
        return cls(fake_score, recipe.matching_weight, recipe.matching_decoupled)

    @classmethod
    def memory(cls, phase: AdversarialRecipe, sizes: PhaseSizes) -> Memory:
        rank, teacher = phase.fake_score_rank, sizes.teacher
        weights = lora_parameters(teacher, rank) if rank else teacher.parameters
        shares = 1 if rank else sizes.shares
        networks = network_parts(without_muon(phase), weights, kept=0, name="fake score", shares=shares)
        # It learns while the student's activations are held.
        return Memory(networks, {"the fake score's pass": sizes.activations(phase, teacher)})

    @classmethod
    def operations(cls, phase: AdversarialRecipe, sizes: PhaseSizes) -> Mapping[str, float]:
        passes, macs = PASSES[phase.gradient_checkpointing], sizes.teacher.macs
        learns = passes - 1 if phase.fake_score_rank else passes
        scores = (2 + 3 if phase.matching_decoupled else 3) * macs
        return {"both scores": scores, "the fake score's updates": phase.fake_score_updates * learns * macs}

    @classmethod
    def lighter(cls, phase: AdversarialRecipe) -> Mapping[str, Any]:
        return {} if phase.fake_score_rank else {"fake_score_rank": 32}

    def __call__(self, batch: StudentBatch) -> tuple[Tensor, Figures]:
        fake_score_loss = self.fake_score.learn(batch.picture, batch.text, batch.update)
        if self.decoupled:
            loss = self.fake_score.decoupled_loss(batch.picture, batch.text, batch.update, batch.timestep)
        else:
            loss = self.fake_score.loss(batch.picture, batch.text, batch.update)
        return self.weight * loss, {"fake_score": fake_score_loss, "matching": loss.detach()}


@dataclass(frozen=True)
class AddDistillation(Term):
    """weight·c(t)·‖x0_student − x0_teacher(α_t·sg(x0_student) + σ_t·ε)‖² with c(t) = α_t (ADD's eq. 4)."""

    section = AdversarialRecipe
    key = "distillation_weight"
    training: Training
    teacher: Guided
    weight: float

    @classmethod
    def build(cls, context: PhaseContext) -> AddDistillation:
        return cls(context.training, context.data.teacher, context.phase.distillation_weight)

    @classmethod
    def operations(cls, phase: AdversarialRecipe, sizes: PhaseSizes) -> Mapping[str, float]:
        return {"the guided teacher's answer": 2 * sizes.teacher.macs}

    def __call__(self, batch: StudentBatch) -> tuple[Tensor, Figures]:
        teacher, picture, update = self.teacher, batch.picture, batch.update
        t, noise = update.randint(teacher.process.num_train_timesteps), update.randn(*picture.shape[1:])
        with torch.no_grad(), self.training.autocast():
            x_t = teacher.process.add_noise(picture.detach(), noise, t)
            target, _ = teacher(x_t, t, batch.text)
        alpha, _ = teacher.process.alpha_sigma(t)
        loss = (alpha * (picture - target).square()).mean()
        return self.weight * loss, {"distillation": loss.detach()}

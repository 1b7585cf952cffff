"""The terms of the student's objective on the picture that a rollout ends with: one class, one weight of the recipe each.

A term is called with a `Finished` picture and gives its share of the loss, already weighted, and figures for the log; networks of
its own that learn along (a discriminator, a fake score) are updated in the same call. Terms that look at the picture through
the same view (`views`) share one look.

| term | recipe | says |
|---|---|---|
| `Perceptual` | `perceptual_weight` | near to the picture aimed at, in a frozen network's features |
| `LpipsTerm` | the same, `perceptual_features: lpips` | the same by LPIPS, on decoded pictures |
| `Adversarial` | `adversarial_weight` | like a true picture, says a discriminator |
| `AddDistillation` | `distillation_weight` | what the teacher would make of it, noised (ADD) |
| `Matching` | `matching_weight` | its kind as likely among the teacher's pictures as among the student's |
| `Alignment` | `alignment_weight` | its own caption among others |

Not here: the regression onto the aim (`phases`), the losses as functions of tensors (`losses`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genin.benchmarks.quality.perceptual import SMALLEST_SIDE_PX
from genin.distill.inputs.update import Update
from genin.distill.loop.training import Training
from genin.distill.models.autoencoder import decode
from genin.distill.models.guided import Guided
from genin.distill.recipe import AdversarialRecipe
from genin.distill.student.alignment import Aligner
from genin.distill.student.losses import (
    accuracy,
    hinge_discriminator,
    hinge_generator,
    image_to_text,
    perceptual_distance,
    r1_penalty,
)
from genin.distill.student.matching import FakeScore
from genin.distill.student.pool import DistillationData
from genin.distill.student.views import Look, View

Figures = dict[str, Tensor | float]
# Share of the phase over which the adversarial loss gains its weight: at first the discriminator knows nothing.
RAMP_SHARE = 0.1


@dataclass(frozen=True)
class Finished:
    """The picture that a rollout ended with and the one it aims at, latents (N, C, h, w), with their captions' states: this
    process's part of the batch. `batch_rows` are the rows of the pool of the whole global batch; the update it is in."""

    picture: Tensor
    target: Tensor
    text: Tensor
    batch_rows: Tensor
    update: Update
    _looks: dict[int, tuple[Look, list[Tensor], Tensor]] = field(default_factory=dict, repr=False)

    @property
    def rows(self) -> Tensor:
        """The pool's rows of these pictures, (N,)."""
        return self.batch_rows[self.update.offset : self.update.offset + self.update.batch]

    def seen_by(self, view: View) -> tuple[Look, list[Tensor], Tensor]:
        """The view's look of this update; the picture's feature maps through it, with gradients; its embedding."""
        if id(view) not in self._looks:
            look = view.open(self.update, self.picture)
            self._looks[id(view)] = (look, *look(self.picture, self.text, learn=True))
        return self._looks[id(view)]


class Term(Protocol):
    def __call__(self, finished: Finished) -> tuple[Tensor, Figures]: ...


@dataclass(frozen=True)
class Perceptual:
    """weight·distance to the aim in a view's features."""

    view: View
    weight: float

    def __call__(self, finished: Finished) -> tuple[Tensor, Figures]:
        look, features, _ = finished.seen_by(self.view)
        distance = perceptual_distance(features, look(finished.target, finished.text)[0])
        return self.weight * distance, {"perceptual": distance.detach()}


@dataclass(frozen=True)
class LpipsTerm:
    """weight·LPIPS between the decoded picture and the decoded aim (Zhang et al. 2018, arXiv:1801.03924). `network` maps two
    batches of pictures in [−1, 1] to distances. What was trained on LPIPS must not be judged by it."""

    training: Training
    vae: Any
    network: nn.Module
    weight: float

    def __call__(self, finished: Finished) -> tuple[Tensor, Figures]:
        with self.training.autocast():
            drawn = decode(self.vae, finished.picture)
            with torch.no_grad():
                aim = decode(self.vae, finished.target)
        distance = self.network(enlarged(drawn.float()), enlarged(aim.float())).mean()
        return self.weight * distance, {"perceptual": distance.detach()}


def enlarged(pictures: Tensor) -> Tensor:
    """As LPIPS is measured: below 64 px its last layers vanish (`benchmarks.perceptual`)."""
    if min(pictures.shape[-2:]) >= SMALLEST_SIDE_PX:
        return pictures
    return F.interpolate(pictures, scale_factor=SMALLEST_SIDE_PX / min(pictures.shape[-2:]), mode="bilinear")


@dataclass(frozen=True)
class Adversarial:
    """weight·hinge of a discriminator on a view's features (ADD's eq. 2), which is updated first, on the same look: true
    pictures against the student's."""

    training: Training
    lesson: DistillationData
    view: View
    network: nn.Module
    recipe: AdversarialRecipe

    def __call__(self, finished: Finished) -> tuple[Tensor, Figures]:
        look, features, emb = finished.seen_by(self.view)
        figures = self._learn(finished, look, features, emb)
        with frozen(self.training, self.network) as network, self.training.autocast():
            loss = hinge_generator(network(features, emb, finished.text))
        weight = ramp(self.training) * self.recipe.adversarial_weight
        return weight * loss, {**figures, "adversarial": loss.detach()}

    def _learn(self, finished: Finished, look: Look, features: Sequence[Tensor], emb: Tensor) -> Figures:
        """One update of the discriminator, mismatched captions as a share of the fakes."""
        recipe, update, training = self.recipe, finished.update, self.training
        with training.autocast():
            fake_logits = self.network([f.detach() for f in features], emb.detach(), finished.text)
        latents, text = true_pictures(self.lesson, recipe.real_share, update, finished.rows)
        seen, true_emb = look(latents, text)
        with_r1 = recipe.r1_weight > 0 and update.index % recipe.r1_every == 0
        inputs = [f.float().requires_grad_(with_r1) for f in seen]
        with training.autocast():
            real_logits = self.network(inputs, true_emb, text)
        wrong_logits, wrong_weight = None, 1.0
        if recipe.mismatched_captions > 0:
            # A true picture under another's caption is as false as a drawn one (unless that says so little that it fits): the
            # discriminator must read. Which pictures and captions does not depend on how many processes share the batch.
            others = update.randint(len(self.lesson.pool))
            wrong, wrong_weight = update.rows_every(max(1, round(1 / recipe.mismatched_captions)))
            if len(wrong):
                other_text = self.lesson.text(others[wrong])
                wrong_seen, wrong_emb = look(latents[wrong], other_text, rows=wrong)
                with training.autocast():
                    wrong_logits = self.network(wrong_seen, wrong_emb, other_text)
        # A discriminator with one head uses one map: the others have no gradient.
        r1_inputs = inputs[: len(real_logits)] if with_r1 else []
        loss = hinge_discriminator(real_logits, fake_logits, wrong_logits, recipe.mismatched_captions, wrong_weight)
        figures: Figures = {"discriminator_accuracy": accuracy(real_logits, fake_logits)}
        if r1_inputs:
            penalty = r1_penalty(real_logits, r1_inputs)
            loss = loss + recipe.r1_weight * penalty
            figures["r1"] = penalty.detach()
        training.optimise("discriminator", loss)
        return {"discriminator": loss.detach(), **figures}


@contextmanager
def frozen(training: Training, network: nn.Module) -> Iterator[nn.Module]:
    """A discriminator for the generator's step: gradients for its inputs only, and unwrapped, so that no process waits for any of
    its own."""
    inner: nn.Module = training.accelerator.unwrap_model(network)
    inner.requires_grad_(False)
    try:
        yield inner
    finally:
        inner.requires_grad_(True)


def ramp(training: Training) -> float:
    """The factor on an adversarial loss by how far the phase is, and by what alarms have turned."""
    return min(1.0, training.progress / RAMP_SHARE) * training.dial("adversarial")


def true_pictures(lesson: DistillationData, real_share: float, update: Update, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Latents of true pictures with their captions' text states; a share of them the teacher's.

    As far as pictures are cached it is the one of the rollout's own caption, so that true and false differ in nothing else:
    a caption met on one side only would give the answer away.
    """
    device = lesson.teacher.device
    true, text = lesson.pool.final(rows).to(device), lesson.text(rows)
    if lesson.latents is None:
        return true, text
    own = rows % len(lesson.source) % len(lesson.latents)
    use = (update.rand() < real_share).view(-1, 1, 1, 1)
    true = torch.where(use, lesson.latents[own].float().to(device), true)
    return true, torch.where(use[..., 0], lesson.text(own), text)


@dataclass(frozen=True)
class AddDistillation:
    """weight·c(t)·‖x0_student − x0_teacher(α_t·sg(x0_student) + σ_t·ε)‖² with c(t) = α_t (ADD's eq. 4)."""

    training: Training
    teacher: Guided
    weight: float

    def __call__(self, finished: Finished) -> tuple[Tensor, Figures]:
        teacher, picture, update = self.teacher, finished.picture, finished.update
        t, noise = update.randint(teacher.process.num_train_timesteps), update.randn(*picture.shape[1:])
        with torch.no_grad(), self.training.autocast():
            x_t = teacher.process.add_noise(picture.detach(), noise, t)
            target, _ = teacher(x_t, t, finished.text)
        alpha, _ = teacher.process.alpha_sigma(t)
        loss = (alpha * (picture - target).square()).mean()
        return self.weight * loss, {"distillation": loss.detach()}


@dataclass(frozen=True)
class Matching:
    """weight·distribution matching, after the fake score has learnt on the picture (`matching`)."""

    fake_score: FakeScore
    weight: float

    def __call__(self, finished: Finished) -> tuple[Tensor, Figures]:
        learnt = self.fake_score.learn(finished.picture, finished.text, finished.update)
        loss = self.fake_score.loss(finished.picture, finished.text, finished.update)
        return self.weight * loss, {"fake_score": learnt, "matching": loss.detach()}


@dataclass(frozen=True)
class Alignment:
    """weight·cross-entropy of each picture's own caption among the batch's, by a frozen model of pictures and texts
    (`alignment`)."""

    aligner: Aligner
    lesson: DistillationData
    weight: float

    def __call__(self, finished: Finished) -> tuple[Tensor, Figures]:
        with torch.no_grad():  # of the whole batch, in every process and part: a picture's loss depends on all captions
            texts = self.aligner.embed_texts(self.lesson.text(finished.batch_rows), finished.batch_rows)
        images = self.aligner.embed_images(finished.picture)
        loss = image_to_text(images, texts, self.aligner.scale, finished.update.offset)
        return self.weight * loss, {"alignment": loss.detach()}

"""Terms by which the student's picture should be classified as true: a discriminator learns along, on features of frozen networks.

Features of the teacher's encoder, on latents (Adversarial Diffusion Distillation: Sauer et al. 2023, arXiv:2311.17042, in latents:
arXiv:2403.12015), and of networks trained on photographs, on decoded pictures (Projected GANs: Sauer et al. 2021,
arXiv:2111.01007).

Not here: the discriminator's heads (`discriminator`), the features (`features`), the losses as functions of tensors (`losses`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from genin.benchmarks.quality.efficientnet import load_efficientnet
from genin.benchmarks.quality.weights import EFFICIENTNET, find_weights, weights_folder
from genin.distill.inputs.update import Update
from genin.distill.loop.memory import PASSES, PhaseSizes
from genin.distill.loop.networks import NetworkOptions
from genin.distill.loop.training import Training
from genin.distill.recipe import AdversarialRecipe, Recipe
from genin.distill.student.features import DinoFeatures, EfficientNetFeatures, FeatureExtractor, load_dino
from genin.distill.student.losses import accuracy, hinge_discriminator, hinge_generator, r1_penalty
from genin.distill.student.pool import DistillationData
from genin.distill.student.terms.discriminator import Discriminator
from genin.distill.student.terms.perceptual import PICTURE_FEATURES, Perceptual
from genin.distill.student.terms.term import Figures, Memory, PhaseContext, StudentBatch, Term
from genin.runtimes.errors import InputError

# Share of the phase over which the adversarial weight rises to its full value: at first the discriminator knows nothing.
RAMP_SHARE = 0.1
DECODED_CROP = "what is decoded of it for the discriminator"


@dataclass(frozen=True)
class Adversarial(Term):
    """weight·hinge of a discriminator on an extractor's features (ADD's eq. 2), here the teacher's. The discriminator is updated
    first, in the same view: true pictures against the student's."""

    section = AdversarialRecipe
    key = "adversarial_weight"
    prefix: ClassVar[str] = ""  # of the names of its network and figures
    training: Training
    data: DistillationData
    extractor: FeatureExtractor
    network: nn.Module
    recipe: AdversarialRecipe

    @classmethod
    def build(cls, context: PhaseContext) -> Self:
        training, recipe = context.training, context.phase
        training.allow_adjustment("adversarial")
        extractor = cls.extractor_of(context)
        torch.manual_seed(recipe.seed)
        heads = Discriminator(
            extractor.channels, recipe.discriminator_hidden, extractor.embedding, context.data.texts.shape[-1],
            multi_scale=recipe.multi_scale,
        )  # fmt: skip
        options = NetworkOptions(
            lr=recipe.discriminator_lr, betas=(0.0, 0.99), muon=False, average=False, compiled=False
        )
        return cls(
            training, context.data, extractor, training.add(f"{cls.prefix}discriminator", heads, options), recipe
        )

    @classmethod
    def extractor_of(cls, context: PhaseContext) -> FeatureExtractor:
        """Where the discriminator looks."""
        return context.teacher_features

    @classmethod
    def memory(cls, phase: AdversarialRecipe, sizes: PhaseSizes) -> Memory:
        return Perceptual.memory(phase, sizes)  # heads are small

    @classmethod
    def operations(cls, phase: AdversarialRecipe, sizes: PhaseSizes) -> Mapping[str, float]:
        encoder = sizes.teacher.encoder_macs
        learnt = (PASSES[phase.gradient_checkpointing] - 1) * encoder
        wrong = phase.mismatched_captions * encoder
        return {PICTURE_FEATURES: learnt, "features of true pictures": encoder, "under wrong captions": wrong}

    def __call__(self, batch: StudentBatch) -> tuple[Tensor, Figures]:
        _, features = batch.features_of(self.extractor)
        figures = self._update_discriminator(batch)
        with frozen_weights(self.training, self.network) as network, self.training.autocast():
            loss = hinge_generator(network(*features, batch.text))
        weight = ramp(self.training) * getattr(self.recipe, self.key)
        return weight * loss, {**figures, f"{self.prefix}adversarial": loss.detach()}

    def _update_discriminator(self, batch: StudentBatch) -> Figures:
        """One update of the discriminator, mismatched captions as a share of the fakes."""
        recipe, update, training = self.recipe, batch.update, self.training
        view, fake = batch.features_of(self.extractor)
        with training.autocast():
            fake_logits = self.network([f.detach() for f in fake.maps], fake.embedding.detach(), batch.text)
        latents, text = true_pictures(self.data, recipe.real_share, update, batch.rows)
        true = self.extractor(latents, text, view)
        with_r1 = recipe.r1_weight > 0 and update.index % recipe.r1_every == 0
        inputs = [f.float().requires_grad_(with_r1) for f in true.maps]
        with training.autocast():
            real_logits = self.network(inputs, true.embedding, text)
        wrong_logits, wrong_weight = None, 1.0
        if recipe.mismatched_captions > 0:
            # A true picture under another's caption counts as a fake, too (unless that caption says so little that it fits), so
            # that the discriminator must read. Which pictures and captions does not depend on how many processes share the batch.
            others = update.randint(len(self.data.pool))
            wrong, wrong_weight = update.rows_every(max(1, round(1 / recipe.mismatched_captions)))
            if len(wrong):
                other_text = self.data.text(others[wrong])
                mismatched = self.extractor(latents[wrong], other_text, view.of(wrong))
                with training.autocast():
                    wrong_logits = self.network(*mismatched, other_text)
        # A discriminator with one head uses one map: the others have no gradient.
        r1_inputs = inputs[: len(real_logits)] if with_r1 else []
        loss = hinge_discriminator(real_logits, fake_logits, wrong_logits, recipe.mismatched_captions, wrong_weight)
        name = f"{self.prefix}discriminator"
        figures: Figures = {f"{name}_accuracy": accuracy(real_logits, fake_logits)}
        if r1_inputs:
            penalty = r1_penalty(real_logits, r1_inputs)
            loss = loss + recipe.r1_weight * penalty
            figures[f"{self.prefix}r1"] = penalty.detach()
        training.optimise(name, loss)
        return {name: loss.detach(), **figures}


@dataclass(frozen=True)
class PictureAdversarial(Adversarial):
    """The same on decoded pictures, in the features of a network trained on photographs, as ADD and Projected GAN have it. The
    decoder is that which the student starts with: a small one makes the term cheap. One with attention or norms over the whole
    picture decodes a crop a little differently, of true pictures and of the student's alike."""

    key = "picture_adversarial_weight"
    prefix = "picture_"

    @classmethod
    def check(cls, recipe: Recipe, phase: AdversarialRecipe) -> None:
        if phase.picture_discriminator == "dinov2" and phase.picture_discriminator_crop:
            what = "adversarial.picture_discriminator_crop is for EfficientNet, and picture_discriminator is dinov2"
            raise InputError(what, remedy="set the crop to 0, or picture_discriminator to efficientnet")

    @classmethod
    def load(cls, phases: Sequence[Any]) -> Any:
        path = phases[0].picture_discriminator_weights
        if phases[0].picture_discriminator == "dinov2":
            return load_dino(path)
        return load_efficientnet(path or find_weights(EFFICIENTNET, weights_folder()).path)

    @classmethod
    def extractor_of(cls, context: PhaseContext) -> FeatureExtractor:
        network = context.pretrained[cls]
        if context.phase.picture_discriminator == "dinov2":
            return DinoFeatures(context.training, context.vae, network)
        return EfficientNetFeatures(
            context.training, context.vae, network, crop=context.phase.picture_discriminator_crop
        )

    @classmethod
    def memory(cls, phase: AdversarialRecipe, sizes: PhaseSizes) -> Memory:
        return Memory(activations={DECODED_CROP: sizes.decoded(phase, phase.picture_discriminator_crop or 1.0)})

    @classmethod
    def operations(cls, phase: AdversarialRecipe, sizes: PhaseSizes) -> Mapping[str, float]:
        decoding = sizes.decoding_macs(
            phase.picture_discriminator_crop or 1.0
        )  # a published network is small beside it
        return {DECODED_CROP: 2 * decoding, "decoded true pictures": (1 + phase.mismatched_captions) * decoding}

    @classmethod
    def lighter(cls, phase: AdversarialRecipe) -> Mapping[str, Any]:
        whole = phase.picture_discriminator == "efficientnet" and not phase.picture_discriminator_crop
        return {"picture_discriminator_crop": 0.5} if whole else {}


@contextmanager
def frozen_weights(training: Training, network: nn.Module) -> Iterator[nn.Module]:
    """A discriminator for the generator's step: gradients for its inputs only, and unwrapped, so that no process waits for
    gradients of its weights."""
    inner: nn.Module = training.accelerator.unwrap_model(network)
    inner.requires_grad_(False)
    try:
        yield inner
    finally:
        inner.requires_grad_(True)


def ramp(training: Training) -> float:
    """The factor on an adversarial loss, by the phase's progress and the adjustments of alarms."""
    return min(1.0, training.progress / RAMP_SHARE) * training.adjustment("adversarial")


def true_pictures(data: DistillationData, real_share: float, update: Update, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Latents of true pictures with their captions' text states; a share of them the teacher's.

    Where it is cached, the true picture is that of the rollout's own caption, so that true and false differ in nothing else: a
    caption that occurs on one side only would give the answer away.
    """
    device = data.teacher.device
    true, text = data.final(rows), data.text(rows)
    if data.latents is None:
        return true, text
    own = data.caption_rows(rows) % len(data.latents)
    use = (update.rand() < real_share).view(-1, 1, 1, 1)
    true = torch.where(use, data.latents[own].float().to(device), true)
    return true, torch.where(use[..., 0], data.texts[own].float().to(device), text)

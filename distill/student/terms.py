"""The terms of the student's objective on the picture that a rollout ends with: one class each, one weight of the recipe each.

How to add one:
1. Its weight is a key of `StepsRecipe` (phases 2 and 3) or `AdversarialRecipe` (3) in `recipe.py`, 0 by default.
2. Its equation is a function of tensors in `losses`, where a test can compare it with known values.
3. Here, a class under `@register`: `section` and `key` name the weight, `build` makes the term when a phase begins (networks that
   are trained along go to `training.add`), and a call returns its share of the loss, weighted, and figures for the log.
4. `load` finds pretrained networks before any work; `check` refuses settings that it cannot work with.
5. `memory` and `operations` estimate its costs, `lighter` names settings that lower them: for --dry-run, warnings and advice.

| term | recipe | the student's picture should be |
|---|---|---|
| `Perceptual` | `perceptual_weight` | near the target, in a frozen network's features |
| `LpipsTerm` | the same, `perceptual_features: lpips` | the same by LPIPS, on decoded pictures |
| `Adversarial` | `adversarial_weight` | classified as true by a discriminator |
| `PictureAdversarial` | `picture_adversarial_weight` | the same when it is decoded |
| `AddDistillation` | `distillation_weight` | what the teacher makes of it, noised (ADD) |
| `Matching` | `matching_weight` | as likely among the teacher's pictures as among the student's |
| `kernel.Kernel` | `kernel_weight` | in a set of them, spread as true pictures of the caption are |
| `Alignment` | `alignment_weight` | recognised by its own caption among others |

Not here: what all terms are (`loss_term`), which of them a recipe has (`objective`), the regression onto the target (`phases`), a
phase's other costs (`cost`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genin.benchmarks.quality.efficientnet import load_efficientnet
from genin.benchmarks.quality.perceptual import SMALLEST_SIDE_PX, load_lpips
from genin.benchmarks.quality.weights import EFFICIENTNET, find_weights, weights_folder
from genin.distill.inputs.update import Update
from genin.distill.loop.memory import PASSES, PhaseSizes, lora_parameters, network_parts
from genin.distill.loop.networks import NetworkOptions, without_muon
from genin.distill.loop.training import Training
from genin.distill.models.autoencoder import decode
from genin.distill.models.guided import Guided
from genin.distill.models.lora import is_adapter, low_rank_copy
from genin.distill.recipe import AdversarialRecipe, Recipe, StepsRecipe
from genin.distill.student.alignment import Aligner, ClipAligner, load_clip, train_set_aligner
from genin.distill.student.discriminator import Discriminator
from genin.distill.student.features import DinoFeatures, EfficientNetFeatures, FeatureExtractor, load_dino
from genin.distill.student.loss_term import Figures, Memory, PhaseContext, StudentBatch, Term, register
from genin.distill.student.losses import (
    accuracy,
    falling,
    hinge_discriminator,
    hinge_generator,
    image_to_text,
    perceptual_distance,
    r1_penalty,
)
from genin.distill.student.matching import FakeScore
from genin.distill.student.pool import DistillationData
from genin.runtimes.errors import InputError

# Share of the phase over which the adversarial weight rises to its full value: at first the discriminator knows nothing.
RAMP_SHARE = 0.1
ALIGNMENT_SHARE = 0.2  # of the third phase's minutes, where the alignment's model is trained on the set
# The student's picture in the teacher's encoder: terms that see it there share the pass.
PICTURE_FEATURES = "features of the student's picture"
DECODED, DECODED_CROP = "its decoded picture", "what is decoded of it for the discriminator"


# --- near to the picture aimed at --------------------------------------------------------------------------------------


@register
@dataclass(frozen=True)
class Perceptual(Term):
    """weight·distance to the target in an extractor's features."""

    key = "perceptual_weight"
    extractor: FeatureExtractor
    weight: Callable[[], float]  # now

    @classmethod
    def is_active(cls, phase: Any) -> bool:
        return super().is_active(phase) and phase.perceptual_features != "lpips"

    @classmethod
    def build(cls, context: PhaseContext) -> Perceptual:
        return cls(context.teacher_features, perceptual_weight(context))

    @classmethod
    def memory(cls, phase: StepsRecipe, sizes: PhaseSizes) -> Memory:
        return Memory(activations={PICTURE_FEATURES: sizes.activations(phase, sizes.teacher, encoder=True)})

    @classmethod
    def operations(cls, phase: StepsRecipe, sizes: PhaseSizes) -> Mapping[str, float]:
        encoder = sizes.teacher.encoder_macs
        learnt = (PASSES[phase.gradient_checkpointing] - 1) * encoder  # gradients reach the picture alone
        return {PICTURE_FEATURES: learnt, "features of the aim": encoder}

    def __call__(self, batch: StudentBatch) -> tuple[Tensor, Figures]:
        view, features = batch.features_of(self.extractor)
        distance = perceptual_distance(features.maps, self.extractor(batch.target, batch.text, view).maps)
        return self.weight() * distance, {"perceptual": distance.detach()}


@register
@dataclass(frozen=True)
class LpipsTerm(Term):
    """weight·LPIPS between the decoded picture and the decoded target (Zhang et al. 2018, arXiv:1801.03924). `network` maps two
    batches of pictures in [−1, 1] to distances. A student that was trained on LPIPS must not be evaluated by it."""

    key = "perceptual_weight"
    training: Training
    vae: Any
    network: nn.Module
    weight: Callable[[], float]  # now

    @classmethod
    def is_active(cls, phase: Any) -> bool:
        return super().is_active(phase) and phase.perceptual_features == "lpips"

    @classmethod
    def load(cls, phases: Sequence[Any]) -> Any:
        folders = {phase.perceptual_weights for phase in phases}
        if len(folders) > 1:
            what = "steps.perceptual_weights and adversarial.perceptual_weights differ"
            raise InputError(what, remedy="name one folder")
        return load_lpips("squeeze", folders.pop() or None).network

    @classmethod
    def build(cls, context: PhaseContext) -> LpipsTerm:
        network = context.pretrained[cls].to(context.training.device)
        return cls(context.training, context.teacher.vae, network, perceptual_weight(context))

    @classmethod
    def memory(cls, phase: StepsRecipe, sizes: PhaseSizes) -> Memory:
        return Memory(activations={DECODED: sizes.decoded(phase)})

    @classmethod
    def operations(cls, phase: StepsRecipe, sizes: PhaseSizes) -> Mapping[str, float]:
        decoding = sizes.decoding_macs()  # the published network is small beside it
        return {DECODED: 2 * decoding, "the decoded aim": decoding}

    def __call__(self, batch: StudentBatch) -> tuple[Tensor, Figures]:
        with self.training.autocast():
            decoded = decode(self.vae, batch.picture)
            with torch.no_grad():
                target = decode(self.vae, batch.target)
        distance = self.network(enlarged(decoded.float()), enlarged(target.float())).mean()
        return self.weight() * distance, {"perceptual": distance.detach()}


def perceptual_weight(context: PhaseContext) -> Callable[[], float]:
    """The weight by the phase's progress."""
    phase, training = context.phase, context.training
    return lambda: falling(phase.perceptual_weight, phase.perceptual_final_share, training.progress)


def enlarged(pictures: Tensor) -> Tensor:
    """As LPIPS is measured: below 64 px its last layers vanish (`benchmarks.perceptual`)."""
    if min(pictures.shape[-2:]) >= SMALLEST_SIDE_PX:
        return pictures
    return F.interpolate(pictures, scale_factor=SMALLEST_SIDE_PX / min(pictures.shape[-2:]), mode="bilinear")


# --- like true pictures ------------------------------------------------------------------------------------------------


@register
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


@register
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


# --- what the teacher makes of it --------------------------------------------------------------------------------------


@register
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


@register
@dataclass(frozen=True)
class Matching(Term):
    """weight·distribution matching, after the fake score has learnt on the picture (`matching`)."""

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


# --- what its caption says ---------------------------------------------------------------------------------------------


@register
@dataclass(frozen=True)
class Alignment(Term):
    """weight·cross-entropy of each picture's own caption among the batch's, by a frozen model of pictures and texts
    (`alignment`): a CLIP where the recipe names one, else one that is trained on the set when the phase begins."""

    section = AdversarialRecipe
    key = "alignment_weight"
    training: Training
    aligner: Aligner
    data: DistillationData
    weight: float

    @classmethod
    def check(cls, recipe: Recipe, phase: AdversarialRecipe) -> None:
        if not phase.alignment_model and not recipe.alignment.images:
            what = "adversarial.alignment_weight needs a model, which alignment.images: 0 leaves untrained"
            raise InputError(what, remedy="give alignment some images, or name a CLIP (adversarial.alignment_model)")

    @classmethod
    def load(cls, phases: Sequence[Any]) -> Any:
        paths = [phase.alignment_model for phase in phases if phase.alignment_model]
        return load_clip(paths[0]) if paths else None

    @classmethod
    def build(cls, context: PhaseContext) -> Alignment:
        clip = context.pretrained.get(cls)
        aligner = _set_aligner(context) if clip is None else _clip_aligner(context, *clip)
        return cls(context.training, aligner, context.data, context.phase.alignment_weight)

    def __call__(self, batch: StudentBatch) -> tuple[Tensor, Figures]:
        with self.training.autocast():
            with (
                torch.no_grad()
            ):  # of the whole batch, in every process and part: a picture's loss depends on all captions
                texts = self.aligner.embed_texts(self.data.text(batch.batch_rows), batch.batch_rows)
            images = self.aligner.embed_images(batch.picture)
        loss = image_to_text(images, texts, self.aligner.scale, batch.update.offset)
        return self.weight * loss, {"alignment": loss.detach()}


def _clip_aligner(context: PhaseContext, clip: Any, tokenizer: Any) -> Aligner:
    source = context.data.source

    def captions(rows: Sequence[int]) -> list[str]:
        return source.captions(context.data.caption_rows(torch.tensor(rows)).tolist())

    return ClipAligner(context.training, context.teacher.vae, clip, tokenizer, captions)


def _set_aligner(context: PhaseContext) -> Aligner:
    """Trained on true pictures where they are cached, else on the pool's, in a share of the phase's minutes."""
    phase_training, data, recipe = context.training, context.data, context.recipe.alignment
    minutes = None
    if phase_training.minutes is not None:
        minutes = ALIGNMENT_SHARE * phase_training.minutes
        phase_training.minutes -= minutes
    training = Training(phase_training.folder, "alignment", recipe, minutes=minutes)
    latents = data.pool.states[:, -1] if data.latents is None else data.latents
    count = min(len(latents), len(data.texts))
    return train_set_aligner(training, latents[:count], data.texts[:count], recipe, resume=context.resume)

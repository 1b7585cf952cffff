"""Terms that pull the student's picture to the one it aims at, as it looks to a network rather than number by number.

Not here: the regression of latents (`phases`), the features (`features`), the distances as functions of tensors (`losses`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genin.benchmarks.quality.perceptual import SMALLEST_SIDE_PX, load_lpips
from genin.distill.loop.memory import PASSES, PhaseSizes
from genin.distill.loop.training import Training
from genin.distill.models.autoencoder import decode
from genin.distill.recipe import StepsRecipe
from genin.distill.student.features import FeatureExtractor
from genin.distill.student.losses import falling, perceptual_distance
from genin.distill.student.terms.term import Figures, Memory, PhaseContext, StudentBatch, Term
from genin.runtimes.errors import InputError

DECODED = "its decoded picture"
# The student's picture in the teacher's encoder: terms that see it there share the pass.
PICTURE_FEATURES = "features of the student's picture"


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
    """As LPIPS is measured: below 64 px its last layers vanish (`benchmarks.quality.perceptual`)."""
    if min(pictures.shape[-2:]) >= SMALLEST_SIDE_PX:
        return pictures
    return F.interpolate(pictures, scale_factor=SMALLEST_SIDE_PX / min(pictures.shape[-2:]), mode="bilinear")

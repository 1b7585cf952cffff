"""The kernel term: of one caption the student draws several pictures, which should lie where several true ones do.

Pairs and discriminators judge one picture at a time, so that a student may draw the same one for every noise. Here a set is
compared with a set: a conditional MMD, whose gradient attracts each picture to the true ones and repels it from its siblings.
Few-step generators learn from such a field alone (Drifting, 2026, arXiv:2602.04770; that a scalar kernel loss does as well:
arXiv:2604.06333). It needs captions that several pictures share: the built-in world draws them, and a dataset folder may
have them.

Features are the frozen teacher's own, at four quarters of each map, without noise. The student's pictures are those of its
longest rollout; gradients reach its last step.

Not here: the distance as a function of tensors (`losses.kernel_distance`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from genin.distill.inputs.sources import Source
from genin.distill.inputs.update import Update
from genin.distill.loop.held_out import TIMESTEP
from genin.distill.loop.memory import PASSES, PhaseSizes
from genin.distill.models.autoencoder import encode_pictures
from genin.distill.models.guided import Guided
from genin.distill.recipe import Recipe, StepsRecipe
from genin.distill.student.losses import kernel_distance
from genin.distill.student.rollout import Student
from genin.distill.student.terms.term import Figures, Memory, PhaseContext, StudentBatch, Term
from genin.files import atomic_path
from genin.processes import is_main_process, main_process_first
from genin.runtimes.errors import InputError
from genin.runtimes.origin import fingerprint

BANK = "caption_bank.safetensors"
QUARTERS = 2  # places a side that a map is averaged to
ENCODED = 64  # pictures whose features are made at once


@dataclass(frozen=True)
class CaptionBank:
    """G captions: their states (G, L, D), and features of R true pictures of each, (G, R, F), each feature at the bank's mean 0 and
    deviation 1 by `mean` and `deviation`, (F,)."""

    texts: Tensor
    features: Tensor
    mean: Tensor
    deviation: Tensor


@dataclass(frozen=True)
class Kernel(Term):
    """weight·MMD² between sets of the student's and of true pictures under one caption."""

    section = StepsRecipe
    key = "kernel_weight"
    context: PhaseContext
    student: Student

    @classmethod
    def build(cls, context: PhaseContext) -> Kernel:
        assert context.student is not None
        return cls(context, Student(context.student, context.data.teacher.process))

    @cached_property
    def bank(self) -> CaptionBank:
        """Made, or read, when the first update asks for it: a phase that is resumed after its end never does."""
        return bank_of(self.context)

    @classmethod
    def memory(cls, phase: StepsRecipe, sizes: PhaseSizes) -> Memory:
        own = sizes.activations(phase, sizes.student) + sizes.activations(phase, sizes.teacher, encoder=True)
        rows = phase.kernel_captions * phase.kernel_samples
        return Memory(activations={"the kernel term's pictures": round(own * rows / phase.batch_size)})

    @classmethod
    def operations(cls, phase: StepsRecipe, sizes: PhaseSizes) -> Mapping[str, float]:
        passes, rows = PASSES[phase.gradient_checkpointing], phase.kernel_captions * phase.kernel_samples
        rollout = (passes + max(phase.step_counts) - 1) * sizes.student.macs + (passes - 1) * sizes.teacher.encoder_macs
        return {"the kernel term's pictures": rollout * rows / phase.batch_size}

    def __call__(self, batch: StudentBatch) -> tuple[Tensor, Figures]:
        recipe, training, data, update = self.context.phase, self.context.training, self.context.data, batch.update
        groups, noise, factor = self._share(update)
        text = self.bank.texts[groups].repeat_interleave(recipe.kernel_samples, dim=0)
        timesteps = self.student.process.trailing_timesteps(max(recipe.step_counts))
        with training.autocast():
            done = self.student.rollout(
                noise.flatten(0, 1).to(training.device), text, timesteps, grad_steps=(len(timesteps) - 1,)
            )
            features = features_of(data.teacher, done.pictures[-1], text)
        drawn = (features - self.bank.mean) / self.bank.deviation
        drawn = drawn.view(len(groups), recipe.kernel_samples, -1)
        distance = factor * kernel_distance(drawn, self.bank.features[groups])
        return recipe.kernel_weight * distance, {"kernel": distance.detach()}

    def _share(self, update: Update) -> tuple[Tensor, Tensor, float]:
        """This share's groups of the update's captions, their noises (G, M, C, h, w), and the factor with which the
        mean over all shares is the mean over all captions. From a generator of its own: the term changes nothing else that an
        update draws."""
        recipe = self.context.phase
        captions, shares = recipe.kernel_captions, update.total // update.batch
        generator = update.own_generator("kernel")
        groups = torch.randint(len(self.bank.texts), (captions,), generator=generator)
        latent = self.context.data.pool.states.shape[2:]
        noise = torch.randn(captions, recipe.kernel_samples, *latent, generator=generator)
        own = torch.arange(update.offset // update.batch, captions, shares)
        return groups[own], noise[own], len(own) * shares / captions


def check_groups(source: Source, recipe: Recipe, phases: Sequence[str]) -> None:
    """Errors: InputError for data whose captions have not as many pictures as a phase's kernel term compares with."""
    for phase in (getattr(recipe, name) for name in phases):
        if isinstance(phase, StepsRecipe) and phase.kernel_weight > 0:
            source.check_groups(phase.kernel_true)


def check_shares(phase: Any, processes: int) -> None:
    """Errors: InputError for fewer captions in an update than parts of it."""
    if not isinstance(phase, StepsRecipe) or phase.kernel_weight == 0:
        return
    shares = processes * phase.accumulate
    if phase.kernel_captions < shares:
        what = f"kernel_captions {phase.kernel_captions} leaves some of the {shares} parts of an update none"
        raise InputError(what, remedy=f"set it to {shares} or more, or kernel_weight to 0")


def features_of(teacher: Guided, pictures: Tensor, text: Tensor) -> Tensor:
    """Final latents (N, C, h, w) => (N, F): every map of the teacher's encoder, averaged over its four quarters."""
    t = torch.full((len(pictures),), TIMESTEP, dtype=torch.long, device=pictures.device)
    maps, _ = teacher.features(pictures, t, text)
    return torch.cat([F.adaptive_avg_pool2d(one.float(), QUARTERS).flatten(1) for one in maps], dim=1)


def bank_of(context: PhaseContext) -> CaptionBank:
    """What an earlier phase or run has left in the folder, or else made by the first process; all processes call it together."""
    phase, training, model = context.phase, context.training, context.teacher
    path = training.folder / BANK
    made_of = [
        phase.kernel_bank,
        phase.kernel_true,
        phase.mixed_precision,
        model.image_size,
        context.data.source.digest,
    ]
    key = hashlib.sha256(json.dumps([*made_of, fingerprint(model.path)]).encode()).hexdigest()
    with main_process_first():
        found = _read_bank(path, key)
        if found is None:
            found = build_bank(context)
            if is_main_process():
                with atomic_path(path) as partial:
                    tensors = {name: value.cpu().contiguous() for name, value in vars(found).items()}
                    save_file(tensors, partial, {"key": key})
    return CaptionBank(**{name: value.to(training.device) for name, value in vars(found).items()})


def _read_bank(path: Path, key: str) -> CaptionBank | None:
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("key") == key:
                return CaptionBank(**{name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (OSError, SafetensorError, TypeError):
        pass  # missing, or damaged: it is only a cache
    return None


@torch.no_grad()
def build_bank(context: PhaseContext) -> CaptionBank:
    """Draw or read, encode, and look at the true pictures. Errors: InputError for data whose captions no pictures share."""
    phase, training, teacher = context.phase, context.training, context.data.teacher
    source: Any = context.data.source
    captions, pictures = source.caption_groups(phase.kernel_bank, phase.kernel_true, context.teacher.image_size)
    count = pictures.shape[1]
    with training.autocast():
        latents = encode_pictures(context.teacher.vae, pictures.reshape(-1, *pictures.shape[2:]), training.device)
    texts = torch.cat([teacher.embed(captions[i : i + ENCODED]) for i in range(0, len(captions), ENCODED)])
    features = []
    for start in range(0, len(latents), ENCODED):
        rows = torch.arange(start, min(start + ENCODED, len(latents)))
        with training.autocast():
            shown = latents[rows].float().to(training.device)
            features.append(features_of(teacher, shown, texts[rows.to(texts.device) // count]))
    found = torch.cat(features)
    mean, deviation = found.mean(dim=0), found.std(dim=0) + 1e-6
    return CaptionBank(texts, ((found - mean) / deviation).view(len(captions), count, -1), mean, deviation)

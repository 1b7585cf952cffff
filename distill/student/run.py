"""One distillation's run: networks, data, recipe and folder, and what is refused before any of them is used.

Not here: the phases and what they learn from (`distillation`), the division of a time budget (`budget`), what the model folder says
(`provenance`).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genin.distill.inputs.sources import Source
from genin.distill.loop import sharding
from genin.distill.loop.run_folder import ENDING_SHARE, RunOptions, claim_run
from genin.distill.models.check import check_schedule
from genin.distill.models.diffusion import Process
from genin.distill.models.folder import ModelFolder, load_model_folder
from genin.distill.models.lora import lower_frozen
from genin.distill.models.pruning import build_student, kept_channels
from genin.distill.models.student_config import pruning_of
from genin.distill.models.text import warn_of_long_captions
from genin.distill.recipe import Optimisation, Recipe, StepsRecipe
from genin.distill.student.budget import Budget
from genin.distill.student.decoder import build_tiny
from genin.distill.student.objective import Pretrained, check_terms, load_pretrained
from genin.distill.student.pool import inverted_settings, pool_settings
from genin.distill.student.provenance import (
    PHASES,
    Provenance,
    StartingStudent,
    load_starting_student,
)
from genin.distill.student.terms.kernel import check_groups, check_shares
from genin.processes import is_main_process, processes
from genin.runtimes.errors import InputError
from genin.runtimes.origin import fingerprint


@dataclass
class CurrentStudent:
    """What one phase hands to the next: the student's networks, and the images that its UNet has seen."""

    unet: Any
    vae: Any
    images_seen: int


@dataclass(frozen=True)
class Run:
    """What is the same for a whole distillation. `unet` is the student's initial UNet; for a narrower one `kept_channels` are the
    channels of the teacher that it has; `phases` are those that the recipe trains, in their order."""

    out: Path
    teacher: ModelFolder
    teacher_fingerprint: str
    source: Source
    recipe: Recipe
    phases: tuple[str, ...]
    unet: Any
    kept_channels: Sequence[Tensor] | None
    start: StartingStudent | None
    pretrained: Pretrained
    options: RunOptions

    @classmethod
    def open(
        cls, teacher_path: Path, source: Source, out: Path, recipe: Recipe, options: RunOptions, init: Path | None
    ) -> Run:
        """Load the networks and make `out` this run's. Everything that can be refused is refused here, before anything is
        written."""
        teacher = load_model_folder(teacher_path)
        if teacher.info.get("kind") == "student":
            remedy = "give the teacher it was distilled from"
            raise InputError("a student cannot teach", where=teacher_path, remedy=remedy)
        torch.manual_seed(recipe.pool.seed)
        unet, _ = build_student(teacher.unet, pruning_of(recipe.student))
        channels = kept_channels(teacher.unet, unet)
        if recipe.pool.teacher_precision == "bf16":
            lower_frozen(teacher.unet)
        start = None if init is None else load_starting_student(unet, init, str(recipe.student))
        if start is not None and not start.is_wider and not recipe.prune.repeat:
            recipe = replace(recipe, prune=replace(recipe.prune, images=0))
        phases = tuple(name for name in PHASES if getattr(recipe, name).images > 0)
        check_recipe(recipe, phases, start)
        check_groups(source, recipe, phases)
        check_batches(recipe, phases, processes())
        check_schedule(Process(teacher.scheduler_config), teacher_path / "scheduler")
        pretrained = load_pretrained(recipe, phases)
        if "decoder" in phases:
            build_tiny(teacher.vae, recipe.decoder, teacher.image_size // teacher.latent_size)
        run = cls(
            out, teacher, fingerprint(teacher_path), source, recipe, phases, unet, channels, start, pretrained, options
        )
        run._claim(init)
        warn_of_long_captions(teacher.tokenizer, source)
        if start is not None and run.vae is teacher.vae and is_main_process():
            warnings.warn(
                f"{init}: its decoder is of other latents than this teacher's, whose autoencoder is taken", stacklevel=2
            )
        return run

    def _claim(self, init: Path | None) -> None:
        begun_with = {
            "teacher": self.teacher_fingerprint,
            "data": self.source.digest,
            "student": str(self.recipe.student),
            "init": "nothing" if init is None else fingerprint(init),
            "pool": json.dumps(pool_settings(self.recipe.pool)),
            "inverted": json.dumps(inverted_settings(self.recipe.pool)),
        }
        stages = {"alignment": self.recipe.alignment, **{name: self.settings(name) for name in self.phases}}
        claim_run(self.folder, self.recipe, begun_with, stages, resume=self.options.resume)

    @property
    def folder(self) -> Path:
        return self.out / "training"

    @property
    def budget(self) -> Budget:
        minutes = self.options.minutes
        return Budget(None if minutes is None else minutes * (1 - ENDING_SHARE), self.phases)

    @property
    def vae(self) -> Any:
        """The student's initial autoencoder: the starting student's, where it decodes this teacher's latents."""
        if self.start is not None and self.start.decodes_latents_of(self.teacher.vae):
            return self.start.vae
        return self.teacher.vae

    def settings(self, phase: str) -> Optimisation:
        settings: Optimisation = getattr(self.recipe, phase)
        return settings

    def model_folder(self, student: CurrentStudent) -> ModelFolder:
        provenance = Provenance(self.teacher, self.source, self.recipe, self.start)
        return provenance.model_folder(student.unet, student.vae, self.out, student.images_seen)


def check_recipe(recipe: Recipe, phases: Sequence[str], start: StartingStudent | None) -> None:
    """Errors: InputError for settings that exclude each other, naming them."""
    trained = [name for name in phases if name != "decoder"]
    if not phases or (start is None and not trained):
        could_train = [name for name in PHASES[:-1] if start is None or start.is_wider or name != "prune"]
        what = "the recipe trains nothing" if not phases else "there is no trained student to make a decoder for"
        names = f"{', '.join(could_train[:-1])} or {could_train[-1]}"
        raise InputError(what, remedy=f"give {names} some images, or start from an earlier student (init)")
    if "prune" in phases and recipe.prune.feature_weight > 0 and start is not None:
        what = (
            "the channels of a student that starts from another student's weights cannot be compared with the teacher's"
        )
        raise InputError(what, remedy="set prune.feature_weight to 0")
    for name in phases:
        phase = getattr(recipe, name)
        if recipe.pool.teacher_precision == "bf16" and phase.mixed_precision == "no":
            what = f"the teacher's weights are in bf16 (pool.teacher_precision), but {name}.mixed_precision is no"
            raise InputError(what, remedy="set both to the same")
        if isinstance(phase, StepsRecipe) and phase.backward_distillation and not phase.rollout:
            what = f"{name}.backward_distillation starts where a rollout leads, but {name}.rollout is false"
            raise InputError(what, remedy="change one of them")
        if isinstance(phase, StepsRecipe) and phase.fresh_noise > 0 and not phase.backward_distillation:
            what = f"{name}.fresh_noise has no pairs, but {name}.backward_distillation, which needs none, is false"
            raise InputError(what, remedy="change one of them")
    for name in phases:
        count, of_pool = getattr(recipe, name).cache_images, recipe.pool.size
        changed = count != type(getattr(recipe, name))().cache_images
        if changed and name in ("prune", "steps"):
            what = f"{name}.cache_images has no effect: this phase learns from the pool alone"
            raise InputError(what, remedy="leave it out, or set pool.size, or adversarial.cache_images")
        if changed and count > of_pool:
            what = f"{name}.cache_images {count} is more than the pool's {of_pool}, which are all that are encoded"
            raise InputError(what, remedy="leave it out, or set pool.size")
    check_terms(recipe, phases)


def check_batches(recipe: Recipe, phases: Sequence[str], count: int) -> None:
    """Errors: InputError for what FSDP cannot shard, or a decoder's batch without pictures of both kinds."""
    sharded = sharding.is_requested() and count > 1
    for name in phases if sharded else ():
        optimizer = getattr(recipe, name).optimizer
        if optimizer != "adamw" and name != "decoder":
            what = f"{name}.optimizer {optimizer} cannot be sharded over processes"
            raise InputError(what, remedy="set it to adamw, or launch without FSDP")
    if "prune" in phases and recipe.prune.feature_weight > 0 and sharded:
        what = "prune.feature_weight needs features from within a network, which FSDP gathers only as a whole"
        raise InputError(what, remedy="set prune.feature_weight to 0, or launch without FSDP")
    for name in phases:
        check_shares(getattr(recipe, name), count)
    batch = recipe.decoder.batch_size // count // recipe.decoder.accumulate
    if "decoder" in phases and batch < 2:
        raise InputError(f"decoder.batch_size leaves a process {batch} picture; it needs 2", remedy="make it larger")

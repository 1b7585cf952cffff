"""Distillation from end to end: teacher and captions in, a student's model folder out.

Order: prune the teacher's UNet (or take an earlier student's weights), sample the pool, then the phases of `phases`. Each phase
starts from the average of the one before and has its own checkpoint, log, curves and pictures under `OUT/training/`; a finished
phase is not run again, so the same command with `resume` continues where the last one stopped. After each phase the student is
saved as a model folder, so that an interrupted run leaves something usable. A budget in minutes is divided by `budget`.

Not here: what a run is and what it refuses (`run`), what a phase computes (`phases`, `decoder`), what the model folder says
(`provenance`), and the command line (`commands`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genin.distill.inputs.latents import cache_latents
from genin.distill.inputs.sources import Source, source_of
from genin.distill.loop import sharding
from genin.distill.loop.checkpoints import checkpoint_path
from genin.distill.loop.host import check_memory, out_of_memory
from genin.distill.loop.memory import Decoder, Others, Parts, PhaseSizes, Unet, advice
from genin.distill.loop.networks import NetworkOptions
from genin.distill.loop.page import saying_how_it_ends
from genin.distill.loop.run_folder import RunOptions
from genin.distill.loop.training import Training, Validate
from genin.distill.models.check import check_prediction_type, pictures_to_check
from genin.distill.models.diffusion import Denoiser, Process, plain_attention, student_scheduler
from genin.distill.models.folder import ModelFolder, save_model_folder
from genin.distill.models.guided import Guided
from genin.distill.models.text import embed
from genin.distill.recipe import Recipe, StepsRecipe, load_recipe
from genin.distill.student.cost import BESIDE_BYTES, distill_memory, distill_options
from genin.distill.student.decoder import train_decoder
from genin.distill.student.held_out import HeldOut
from genin.distill.student.inversion import build_inverted, inversion_settings
from genin.distill.student.objective import build_loss_terms
from genin.distill.student.phases import PREVIEWS, held_out_loss, prune_step, steps_step, student_preview
from genin.distill.student.pool import DistillationData, Pool, TimeIsUp, build_pool, pool_key
from genin.distill.student.pool_parts import PoolParts
from genin.distill.student.provenance import trained_step_counts
from genin.distill.student.run import CurrentStudent, Run
from genin.distill.student.terms.term import PhaseContext
from genin.runtimes.arguments import local_path
from genin.runtimes.errors import InputError
from genin.runtimes.names import installed_names
from genin.runtimes.progress import progress

HELD_OUT_PAIRS, HELD_OUT_SEED = 64, 1_000_003


@dataclass(frozen=True)
class Distilled:
    """A distilled student, and how many images it has seen, including those of the student it started from."""

    student: ModelFolder
    images_seen: int


def distill(
    teacher: str | Path,
    data: str | Path | Source,
    out: str | Path,
    recipe: Recipe | str | Path | None = None,
    options: RunOptions | None = None,
    *,
    init: str | Path | None = None,
) -> Distilled:
    """Distil a teacher into a student of few steps, on the captions and pictures of a dataset.

    Args:
        teacher: a model folder, a built-in name of one, or a hub name.
        data: a dataset folder, `builtin:world`, or an open source.
        out: the student's model folder; its training logs and checkpoints are in `out/training`.
        recipe: settings, or a YAML file of them; None is the defaults (docs/recipes.md).
        options: whether to resume, and a time budget.
        init: a student of the same blocks, from whose weights training starts instead of the teacher's. One of the same widths
            is not pruned again: that phase would teach it to take many steps.

    Returns: the student, in memory, and how many images it has seen.
    Errors: InputError for a teacher that cannot be pruned as asked, an `init` of another shape, a recipe without a phase to
        train, or a checkpoint that does not fit it. KeyboardInterrupt after Ctrl-C, once everything is saved.
    """
    names, out, source = installed_names(), local_path(out, "out"), source_of(data)
    settings = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    start = None if init is None else names.folder(str(init))
    run = Run.open(names.folder(str(teacher)), source, out, settings, options or RunOptions(), start)
    with saying_how_it_ends(run.folder):
        student = train_phases(run)
    return Distilled(run.model_folder(student), student.images_seen)


def train_phases(run: Run) -> CurrentStudent:
    """Train every phase that is not finished, and save the student after each. Errors: as `distill`."""
    phases = [DecoderPhase(run, name) if name == "decoder" else UnetPhase(run, name) for name in run.phases]
    prepared = prepare_data(run, phases[0].training)
    student = CurrentStudent(run.unet, run.vae, 0 if run.start is None else run.start.images_seen)
    for number, phase in enumerate(phases):
        # Of an interrupted run the pool took longer than this command knows.
        spent = max(prepared.seconds / 60, run.options.spent)
        phase.training.minutes = run.budget.of(phase.name, spent, run.phases[:number])
        try:
            phase.run_on(prepared, student)
        except KeyboardInterrupt:
            phase.hand_over_unfinished(student)
            save_model_folder(run.model_folder(student), run.out)
            raise
        student.unet.requires_grad_(False).zero_grad(set_to_none=True)
        phase.training.release_memory()
        # A phase that was finished before is not saved again: a later one may have been saved over it.
        if phase.training.has_updated or phase.is_last:
            save_model_folder(run.model_folder(student), run.out)
    return student


# --- what the phases learn from ----------------------------------------------------------------------------------------


def prepare_data(run: Run, training: Training) -> DistillationData:
    """Encode the true pictures that are needed, sample (or find) the pool, invert what is asked for, embed the captions."""
    guided, source, recipe = guided_teacher(run, training.device), run.source, run.recipe
    adversarial, count = recipe.adversarial, pictures_to_check(run.teacher.latent_size)
    true_side = adversarial.images > 0 and adversarial.uses_true_pictures
    if true_side:
        count = min(recipe.pool.size, run.budget.pictures(adversarial.cache_images))
    inverted_count = min(recipe.pool.inverted, len(source))
    count = max(count, inverted_count)
    # Before the pool, which takes longer: a teacher whose latents or predictions contradict its config is refused here.
    with training.autocast():
        cache = cache_latents(
            source, run.teacher.vae, count, run.teacher.image_size, run.folder / "latents.safetensors"
        )
    captions = source.captions(range(min(pictures_to_check(run.teacher.latent_size), len(cache))))
    check_prediction_type(guided, cache.latents, guided.embed(captions), run.teacher.path / "scheduler")
    silent = not training.accelerator.is_main_process
    with training.autocast():
        pool = sample_pool(run, guided, silent=silent)
        inverted = invert_pictures(run, guided, cache.latents, silent=silent) if inverted_count else None
    texts, captions = [], source.captions(range(min(max(len(pool), inverted_count), len(source))))
    for start in range(0, len(captions), 256):
        texts.append(guided.embed(captions[start : start + 256]).half().cpu())
    latents = cache.latents if true_side else None
    with training.autocast():
        held_out = sample_held_out(run, guided, silent=silent)
    return DistillationData(
        guided, pool, source, torch.cat(texts), latents, inverted, recipe.pool.inverted_jitter, held_out
    )


def sample_held_out(run: Run, guided: Guided, *, silent: bool) -> DistillationData | None:
    """The teacher's pictures of a few held-out captions, of other noises than the pool's; None without such captions, or where no
    phase looks at them."""
    source = run.source.held_out()
    if source is None or not len(source) or run.phases == ("decoder",):
        return None
    count = min(HELD_OUT_PAIRS, max(PREVIEWS, run.recipe.pool.size // 8), len(source))
    own = run.recipe.pool
    recipe = replace(own, size=count, batch_size=min(8, own.batch_size), seed=own.seed + HELD_OUT_SEED)
    path, teacher = run.folder / "held_out_pool.safetensors", run.teacher_fingerprint
    with _filling(run, "sampling the teacher on held-out captions", count, silent) as time_is_up:
        pool = build_pool(guided, source, recipe, path, fingerprint=teacher, time_is_up=time_is_up)
    return DistillationData(guided, pool, source, guided.embed(source.captions(range(len(pool)))).half().cpu())


def guided_teacher(run: Run, device: torch.device) -> Guided:
    """The teacher on the device, in its students' schedule, ready to be sampled."""
    model = run.teacher
    for network in (model.unet, model.text_encoder, model.vae):
        network.to(device)
    plain_attention(model.unet, device)
    scale = run.recipe.pool.guidance_scale or model.guidance_scale
    with torch.no_grad():
        empty = embed(model.text_encoder, model.tokenizer, [""], device)
    own, process = (Process(c, device) for c in (model.scheduler_config, student_scheduler(model.scheduler_config)))
    return Guided(Denoiser(model.unet, own, process), model.text_encoder, model.tokenizer, empty, device, scale)


def sample_pool(run: Run, guided: Guided, *, silent: bool) -> Pool:
    """The run's pool, in its share of the budget, with a progress line."""
    with _filling(run, "sampling the teacher", run.recipe.pool.size, silent) as time_is_up:
        path, teacher = run.folder / "pool.safetensors", run.teacher_fingerprint
        return build_pool(guided, run.source, run.recipe.pool, path, fingerprint=teacher, time_is_up=time_is_up)


def invert_pictures(run: Run, guided: Guided, latents: Tensor, *, silent: bool) -> Pool:
    """The noises of true pictures, in their share of the budget, with a progress line."""
    recipe = run.recipe.pool
    with _filling(run, "inverting true pictures", recipe.inverted, silent) as time_is_up:
        key = pool_key(inversion_settings(recipe, latents), run.source, run.teacher_fingerprint)
        parts = PoolParts(run.folder / "inverted.safetensors", key)
        return build_inverted(guided, run.source, recipe, latents, parts, time_is_up)


@contextmanager
def _filling(run: Run, what: str, rows: int, silent: bool) -> Iterator[TimeIsUp]:
    """A progress line, and whether the time for these rows is up: the pool's minutes are shared out by rows."""
    minutes, recipe = run.budget.of("pool"), run.recipe.pool
    own = None if minutes is None else minutes * rows / (recipe.size + recipe.inverted + HELD_OUT_PAIRS)
    with progress(what, silent=silent) as shown:

        def time_is_up(done: int, size: int, seconds: float) -> bool:
            spent = 0.0 if own is None else seconds / (60 * own)
            shown.reach(max(done / size, spent), f"{done} of {size} pictures")
            return spent >= 1

        try:
            yield time_is_up
        except KeyboardInterrupt as error:
            kept = f"the pictures so far are in {run.folder}; the same again with resume continues"
            raise KeyboardInterrupt(f"interrupted while {what}; {kept}") from error


# --- the phases --------------------------------------------------------------------------------------------------------


class Phase(ABC):
    """A phase of a run. Its training is made at the start, so that a batch that does not divide is refused before any work."""

    def __init__(self, run: Run, name: str) -> None:
        self.run, self.name = run, name
        self.training = Training(run.folder, name, run.settings(name))
        self.is_last = name == run.phases[-1]

    def context(self, data: DistillationData, student: nn.Module | None = None) -> PhaseContext:
        run = self.run
        phase, resume = run.settings(self.name), run.options.resume
        return PhaseContext(
            self.training, data, run.teacher, run.recipe, phase, run.pretrained, resume, student, run.vae
        )

    def refuse_if_built_upon(self) -> None:
        """Errors: InputError where this phase, resumed, is to train on, but a later one has begun with what it had learnt."""
        later = self.run.phases[self.run.phases.index(self.name) + 1 :]
        begun = next((name for name in later if checkpoint_path(self.run.folder, name).exists()), None)
        if begun is not None and self.training.progress < 1:
            what = f"phase '{begun}' has begun with what '{self.name}' had learnt, so that cannot learn more"
            remedy = f"leave {self.name}.images as it was, or start another run from this student (init)"
            raise InputError(what, where=self.run.folder, remedy=remedy)

    @abstractmethod
    def run_on(self, data: DistillationData, student: CurrentStudent) -> None:
        """Train the student, or load what an earlier run has trained."""

    @abstractmethod
    def hand_over_unfinished(self, student: CurrentStudent) -> None:
        """After Ctrl-C: leave its best weights so far in `student`."""


class UnetPhase(Phase):
    """Pruning, few steps, adversarial: the student's UNet learns."""

    def run_on(self, data: DistillationData, student: CurrentStudent) -> None:
        step = self.prepare(data, student)
        self.train(step, data, student)

    def prepare(self, data: DistillationData, student: CurrentStudent) -> Callable[..., Mapping[str, Any]]:
        """Register the phase's networks, and load their checkpoint; returns the function of an update."""
        run, training = self.run, self.training
        plain_attention(student.unet, training.device)
        for network in (student.unet, run.teacher.unet):  # gradients go through the teacher's encoder to the picture
            if getattr(run.recipe, self.name).gradient_checkpointing:
                network.enable_gradient_checkpointing()
            else:  # an earlier phase may have turned it on
                network.disable_gradient_checkpointing()
        prepared = training.add("student", student.unet, NetworkOptions(large=True))
        step: Callable[..., Any]
        if self.name == "prune":
            step = prune_step(training, prepared, data, run.recipe.prune, run.kept_channels)
        else:
            step = steps_step(
                training, prepared, data, self._steps_recipe, build_loss_terms(self.context(data, prepared))
            )
        if run.options.resume:
            training.resume()
            self.refuse_if_built_upon()
        return step

    def train(self, step: Callable[..., Mapping[str, Any]], data: DistillationData, student: CurrentStudent) -> None:
        """Update until the phase is over, and leave its best average in `student`."""
        run, training, what = self.run, self.training, f"phase '{self.name}'"
        processes = training.accelerator.num_processes
        tokens = run.teacher.tokenizer.model_max_length
        teacher_unet, student_unet = (Unet.of(one.config, tokens) for one in (run.teacher.unet, student.unet))
        decoder = Decoder.of(run.vae, run.teacher.latent_size)
        sizes = PhaseSizes(
            teacher_unet, student_unet, Others.of(run.teacher), processes, sharding.is_requested(), decoder
        )

        def memory(recipe: Recipe) -> Parts:
            return distill_memory(self.name, recipe, sizes)

        validate = self._validation(data)
        preview = student_preview(training, data.held_out or data, run.teacher.vae, self._steps_recipe.step_counts)
        remedies = partial(advice, run.recipe, distill_options(self.name, run.recipe, processes), memory)
        check_memory(what, sum(memory(run.recipe).values()) + BESIDE_BYTES, training.device, remedies)
        with out_of_memory(what, training.folder, remedies):
            training.run(step, preview, validate, last=self.is_last, once=not self.is_last)
        student.unet = training.final_weights("student").requires_grad_(False).eval()
        student.images_seen += training.images_seen

    def hand_over_unfinished(self, student: CurrentStudent) -> None:
        training = self.training
        if "student" in training.averages:
            finished = training.progress >= 1
            unet = training.final_weights("student") if finished else training.current_weights("student")
            student.unet = unet.requires_grad_(False).eval()
        student.images_seen += training.images_seen

    @property
    def _steps_recipe(self) -> StepsRecipe:
        """The phase's own; pruning has none, and its previews have the step counts of the next phase."""
        recipe = self.run.recipe
        return recipe.adversarial if self.name == "adversarial" else recipe.steps

    def _validation(self, data: DistillationData) -> Validate | None:
        """A student's figures on held-out captions, at its largest number of steps; None without such captions."""
        if self.name == "prune":
            return None if data.held_out is None else held_out_loss(self.training, data.held_out)
        recipe, teacher = self._steps_recipe, self.run.teacher
        unfinished = recipe.held_out_images > 0 and self.training.progress < 1
        source = data.source.held_out() if unfinished else None
        if source is None:
            return None
        cache = self.training.folder / "held_out.safetensors"
        autocast, timesteps = self.training.autocast, data.teacher.process.trailing_timesteps(max(recipe.step_counts))
        with autocast():
            held_out = HeldOut.of(data.teacher, source, teacher.vae, teacher.image_size, recipe.held_out_images, cache)
        if held_out is None:
            return None

        def validate(network: nn.Module) -> dict[str, float]:
            with autocast():
                return held_out(network, timesteps)

        return validate


class DecoderPhase(Phase):
    """A tiny decoder in place of the teacher's; the UNet stays as it is."""

    def run_on(self, data: DistillationData, student: CurrentStudent) -> None:
        context, recipe = self.context(data), self.run.recipe.decoder
        few = replace(recipe, cache_images=self.run.budget.pictures(recipe.cache_images))
        counts = trained_step_counts(self.run.recipe)
        student.vae = train_decoder(replace(context, phase=few), student.unet, counts, initial=student.vae)

    def hand_over_unfinished(self, student: CurrentStudent) -> None:
        """Nothing: the UNet is unchanged, and the unfinished decoder is only in the checkpoint."""

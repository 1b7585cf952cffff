"""Distillation from end to end: teacher and captions in, a student's model folder out.

Order: prune the teacher's UNet (or take an earlier student's weights), sample the pool, then the phases of `phases`. Each phase
starts from the average of the one before and has its own checkpoint, log, curves and pictures under `OUT/training/`; a
finished phase is not run again, so the same command with `resume` goes on wherever the last one stopped. After each phase the
student is saved as a model folder, so that an interrupted run leaves something usable. A budget in minutes is shared out by
`SHARES`.

Not here: what a phase computes (`phases`), and the command line (`commands`).
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from genin.benchmarks.model_facts import fingerprint
from genin.benchmarks.perceptual import load_lpips
from genin.distill.alignment import Aligner, ClipAligner, load_clip, train_set_aligner
from genin.distill.decoder import build_tiny, train_decoder
from genin.distill.diffusion import Process, plain_attention
from genin.distill.discriminator import Discriminator
from genin.distill.held_out import HeldOut
from genin.distill.looks import DinoView, TeacherView, View, load_dino
from genin.distill.matching import FakeScore
from genin.distill.model_folder import ModelFolder, load_model_folder, save_model_folder
from genin.distill.phases import prune_step, steps_step, student_preview
from genin.distill.pool import Guided, Lesson, Pool, build_pool, pool_settings
from genin.distill.recipe import AdversarialRecipe, Optimisation, Recipe, StepsRecipe
from genin.distill.sources import Source, joined_licences
from genin.distill.student import build_student, narrowed_state, pruning_of
from genin.distill.teacher import cache_latents
from genin.distill.terms import (
    AddDistillation,
    Adversarial,
    Alignment,
    LpipsTerm,
    Matching,
    Perceptual,
    Term,
)
from genin.distill.text_encoder import embed
from genin.distill.training import Look, Training, claim_run
from genin.runtimes.errors import InputError
from genin.runtimes.progress import progress

# Shares of a budget in minutes; what the pool and phases that the recipe leaves out do not take goes to the others.
SHARES = {"pool": 0.3, "prune": 0.3, "steps": 0.3, "adversarial": 0.1, "decoder": 0.1}
PHASES = ("prune", "steps", "adversarial", "decoder")


@dataclass(frozen=True)
class Distilled:
    """A distilled student, and how many images it has seen, those of the student it went on from included."""

    student: ModelFolder
    images_seen: int


@dataclass(frozen=True)
class Earlier:
    """What a student hands down to the one that goes on from its weights; `recipe` is what made it, with its name and
    fingerprint."""

    data: str
    licence: str
    images_seen: int
    recipe: dict[str, Any]
    vae: Any
    cut: bool  # whether it was wider, and has lost channels


def distill(
    teacher_path: Path,
    source: Source,
    out: Path,
    recipe: Recipe,
    *,
    resume: bool = False,
    minutes: float | None = None,
    init: Path | None = None,
) -> Distilled:
    """Distil the model folder at `teacher_path` on the captions (and pictures) of `source` into `out`.

    With `init`, a student of the same blocks, training goes on from its weights; else from the teacher's own. One of the same
    widths is not pruned again: that phase would teach it to take many steps.

    Errors: InputError for a teacher that cannot be pruned as asked, an `init` of another shape, a recipe without a phase to
    train, or a checkpoint that does not fit it. KeyboardInterrupt after Ctrl-C, once everything is saved.
    """
    model = load_model_folder(teacher_path)
    if model.info.get("kind") == "student":
        raise InputError("a student cannot teach", where=teacher_path, remedy="give the teacher it was distilled from")
    torch.manual_seed(recipe.pool.seed)
    unet, _ = build_student(model.unet, pruning_of(recipe.student))
    earlier = None if init is None else take_weights(unet, init, str(recipe.student))
    if earlier is not None and not earlier.cut:
        recipe = replace(recipe, prune=replace(recipe.prune, images=0))
    settings: dict[str, Optimisation] = {name: getattr(recipe, name) for name in PHASES}
    active = [name for name in PHASES if settings[name].images > 0]
    if not active:
        phases = [name for name in PHASES if earlier is None or earlier.cut or name != "prune"]
        raise InputError(
            "the recipe trains nothing", remedy=f"give {', '.join(phases[:-1])} or {phases[-1]} some images"
        )
    if recipe.prune.images > 0 and recipe.prune.feature_weight > 0 and pruning_of(recipe.student).narrows:
        what = f"the features of {recipe.student} are narrower than its teacher's and cannot be compared"
        raise InputError(what, remedy="set prune.feature_weight to 0, or choose another student")
    frozen = load_frozen(recipe, active)
    if "decoder" in active:
        build_tiny(model.vae, recipe.decoder, model.image_size // model.latent_size)
    folder = out / "training"
    begun_with = {"teacher": fingerprint(teacher_path), "data": source.digest, "student": str(recipe.student)}
    begun_with["init"] = "nothing" if init is None else fingerprint(init)
    claim_run(folder, recipe, {**begun_with, "pool": json.dumps(pool_settings(recipe.pool))})

    vae = model.vae if earlier is None else earlier.vae

    def folder_of(network: Any, images_seen: int, path: Path) -> ModelFolder:
        return student_folder(model, network, vae, path, recipe, source, teacher_path, images_seen, earlier)

    trainings = {name: Training(folder, name, settings[name]) for name in active}
    budget = Budget(minutes, active)
    lesson = prepare_lesson(model, source, folder, recipe, trainings[active[0]], begun_with["teacher"], budget)
    seen = 0 if earlier is None else earlier.images_seen
    student: Any = unet
    for name, training in trainings.items():
        training.minutes = budget.of(name, lesson.pool.seconds / 60)
        try:
            if name == "decoder":
                counts = trained_step_counts(recipe)
                vae = train_decoder(
                    training, student, lesson, model, recipe.decoder, counts, earlier=vae, resume=resume
                )
            else:
                student = _run_phase(name, training, student, lesson, recipe, model, frozen, resume=resume)
        except KeyboardInterrupt:
            if "student" in training.averages:
                student = training.average_of("student").requires_grad_(False).eval()
            save_model_folder(folder_of(student, seen + training.images_seen, out), out)
            raise
        seen += 0 if name == "decoder" else training.images_seen
        save_model_folder(folder_of(student, seen, out), out)
    return Distilled(folder_of(student, seen, out), seen)


class Budget:
    """Minutes for each part, or None for as long as its images take; `phases` are those that the recipe runs."""

    def __init__(self, minutes: float | None, phases: Sequence[str] = PHASES) -> None:
        self.minutes, self.phases = minutes, phases

    def of(self, part: str, pool_minutes: float = 0.0) -> float | None:
        """The pool's share, or a phase's of what the pool has left."""
        if self.minutes is None:
            return None
        if part == "pool":
            return self.minutes * SHARES["pool"]
        left = max(0.0, self.minutes - pool_minutes)
        return left * SHARES[part] / sum(SHARES[name] for name in self.phases)


def prepare_lesson(
    model: ModelFolder, source: Source, folder: Path, recipe: Recipe, training: Training, teacher: str, budget: Budget
) -> Lesson:
    """Sample (or find) the pool, embed its captions, encode the true pictures that the discriminator will see."""
    device = training.device
    for part in (model.unet, model.text_encoder, model.vae):
        part.to(device)
    plain_attention(model.unet, device)
    scale = recipe.pool.guidance_scale or float(model.info.get("guidance_scale", 7.5))
    with torch.no_grad():
        empty = embed(model.text_encoder, model.tokenizer, [""], device)
    process = Process(model.scheduler_config, device)
    guided = Guided(model.unet, process, model.text_encoder, model.tokenizer, empty, device, scale)
    pool = _sample_pool(guided, source, folder, recipe, training, teacher, budget.of("pool"))
    texts = []
    for start in range(0, len(pool), 256):
        captions = source.captions([i % len(source) for i in range(start, min(start + 256, len(pool)))])
        texts.append(guided.embed(captions).half().cpu())
    latents = None
    judged = recipe.adversarial
    if judged.images > 0 and judged.adversarial_weight > 0 and judged.real_share > 0:
        count = min(len(pool), judged.cache_images if budget.minutes is None else min(2_000, judged.cache_images))
        latents = cache_latents(source, model.vae, count, model.image_size, device, folder / "latents.pt").latents
    return Lesson(guided, pool, source, torch.cat(texts), latents)


def _sample_pool(
    guided: Guided,
    source: Source,
    folder: Path,
    recipe: Recipe,
    training: Training,
    teacher: str,
    minutes: float | None,
) -> Pool:
    started = time.perf_counter()
    with progress("sampling the teacher", silent=not training.accelerator.is_main_process) as shown:

        def report(done: int, size: int) -> bool:
            spent = 0.0 if minutes is None else (time.perf_counter() - started) / (60 * minutes)
            shown.reach(max(done / size, spent), f"{done} of {size} pictures")
            return spent >= 1

        path = folder / "pool.safetensors"
        try:
            return build_pool(
                guided, source, recipe.pool, path, fingerprint=teacher, autocast=training.autocast, report=report
            )
        except KeyboardInterrupt as error:
            what = f"interrupted while sampling the teacher; what there is lies in {path}, --resume goes on"
            raise KeyboardInterrupt(what) from error


def _run_phase(
    name: str,
    training: Training,
    student: Any,
    lesson: Lesson,
    recipe: Recipe,
    model: ModelFolder,
    frozen: Frozen,
    *,
    resume: bool,
) -> Any:
    plain_attention(student, training.device)
    prepared = training.add("student", student)
    if name == "prune":
        step: Callable[..., Any] = prune_step(training, prepared, lesson, recipe.prune)
    else:
        settings = recipe.adversarial if name == "adversarial" else recipe.steps
        step = steps_step(
            training,
            prepared,
            lesson,
            settings,
            terms_of(training, lesson, recipe, settings, model, frozen, resume=resume),
        )
    if resume:
        training.resume()
    few_steps = recipe.adversarial if name == "adversarial" else recipe.steps
    look = None if name == "prune" else _look(training, lesson, model, few_steps)
    training.run(step, student_preview(training, lesson, model.vae, few_steps.step_counts), look)
    return training.best_of("student").requires_grad_(False).eval()


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
    return Frozen(
        load_lpips("squeeze", with_lpips[0].perceptual_weights or None).network if with_lpips else None,
        load_dino(judged.discriminator_weights) if judged is not None and with_dino else None,
        load_clip(judged.alignment_model) if judged is not None and with_clip else None,
    )


def terms_of(
    training: Training,
    lesson: Lesson,
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
        judge = training.add(
            "discriminator", heads, lr=settings.discriminator_lr, betas=(0.0, 0.99), average=False, compiled=False
        )
        terms.append(Adversarial(training, lesson, view, judge, settings))
    if settings.distillation_weight > 0:
        terms.append(AddDistillation(training, lesson.teacher, settings.distillation_weight))
    if settings.matching_weight > 0:
        copied = copy.deepcopy(model.unet).requires_grad_(True)
        network = training.add("fake_score", copied, lr=settings.fake_score_lr, average=False)
        fake_score = FakeScore(training, lesson.teacher, network, settings.fake_score_updates)
        terms.append(Matching(fake_score, settings.matching_weight))
    if settings.alignment_weight > 0:
        aligner = _aligner(training, lesson, recipe, model, frozen, resume=resume)
        terms.append(Alignment(aligner, settings.alignment_weight))
    return terms


def _aligner(
    training: Training, lesson: Lesson, recipe: Recipe, model: ModelFolder, frozen: Frozen, *, resume: bool
) -> Aligner:
    """A CLIP where the recipe names one; else a model trained on the set: true pictures where they are cached, else the pool's."""
    if frozen.clip is not None:
        count = len(lesson.source)

        def captions(rows: Sequence[int]) -> list[str]:
            return lesson.source.captions([row % count for row in rows])

        return ClipAligner(training, model.vae, *frozen.clip, captions)
    own = Training(training.folder, "alignment", recipe.alignment)
    latents = lesson.pool.states[:, -1] if lesson.latents is None else lesson.latents
    return train_set_aligner(own, latents, lesson.texts[: len(latents)], recipe.alignment, resume=resume)


def _look(training: Training, lesson: Lesson, model: ModelFolder, recipe: StepsRecipe) -> Look | None:
    """How a student does on held-out captions at the most steps it has, where there are such captions."""
    source = lesson.source.held_out() if recipe.held_out_images > 0 and training.progress < 1 else None
    if source is None:
        return None
    cache = training.folder / "held_out.pt"
    held_out = HeldOut.of(lesson.teacher, source, model.vae, model.image_size, recipe.held_out_images, cache)
    timesteps = lesson.teacher.process.trailing_timesteps(max(recipe.step_counts))
    return None if held_out is None else lambda network: held_out(network, timesteps)


def take_weights(unet: Any, path: Path, name: str) -> Earlier:
    """Copy the weights of the student at `path` into a UNet of preset `name`; of a wider one the best channels stay.
    Errors: InputError if it is no such student."""
    earlier = load_model_folder(path)
    remedy = "give a student of the same preset and teacher, or another --student"
    if earlier.info.get("kind") != "student":
        raise InputError("not a student", where=path, remedy=remedy)
    state = narrowed_state(unet, earlier.unet)
    if state is None:
        raise InputError(f"not the shape of {name}", where=path / "unet", remedy=remedy)
    unet.load_state_dict(state)
    info, known = earlier.info, {"name": str(earlier.info.get("name") or path.name), "fingerprint": fingerprint(path)}
    return Earlier(
        str(info.get("data") or "unknown"),
        str(info.get("licence") or "unknown"),
        int(info.get("images_seen") or 0),
        {**known, **(info.get("recipe") or {})},
        earlier.vae,
        list(earlier.unet.config.block_out_channels) != list(unet.config.block_out_channels),
    )


def trained_step_counts(recipe: Recipe) -> list[int]:
    """The numbers of steps that a recipe's phases train, the largest first."""
    trained = [phase for phase in (recipe.steps, recipe.adversarial) if phase.images > 0] or [recipe.steps]
    return sorted({count for phase in trained for count in phase.step_counts}, reverse=True)


def student_folder(
    teacher: ModelFolder,
    unet: Any,
    vae: Any,
    path: Path,
    recipe: Recipe,
    source: Source,
    teacher_path: Path,
    images_seen: int,
    earlier: Earlier | None = None,
) -> ModelFolder:
    """The student as a model folder: the teacher's text encoder and schedule, its own UNet and decoder. `images_seen` counts
    those of the `earlier` student that it went on from, too."""
    process = Process(teacher.scheduler_config)
    counts = trained_step_counts(recipe)
    made_by = {key: value for key, value in recipe.as_dict().items() if key in ("student", "pool", *PHASES)}
    if earlier is not None:
        made_by["init"] = earlier.recipe
    data, licences = [source.name], [teacher.info.get("licence", "unknown"), source.licence]
    if earlier is not None:
        data, licences = [earlier.data, *data], [*licences, earlier.licence]
    info = {
        "kind": "student",
        "parent": str(teacher.info.get("name") or teacher_path.name),
        "data": ", ".join(dict.fromkeys(data)),
        "licence": joined_licences(*licences),
        "guidance": "baked",
        "guidance_scale": 1.0,
        "default_steps": counts[0],
        "few_step_timesteps": {str(count): process.trailing_timesteps(count) for count in counts},
        "image_size": teacher.image_size,
        "images_seen": images_seen,
        "recipe": made_by,
        "metrics": {},
    }
    scheduler = {**teacher.scheduler_config, "timestep_spacing": "trailing"}
    return ModelFolder(path, teacher.tokenizer, teacher.text_encoder, unet, vae, scheduler, info)

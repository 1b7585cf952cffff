"""Distillation from end to end: teacher and captions in, a student's model folder out.

Order: prune the teacher's UNet (or take an earlier student's weights), sample the pool, then the phases of `phases`. Each phase
starts from the average of the one before and has its own checkpoint, log, curves and pictures under `OUT/training/`; a
finished phase is not run again, so the same command with `resume` goes on wherever the last one stopped. After each phase the
student is saved as a model folder, so that an interrupted run leaves something usable. A budget in minutes is shared out by
`SHARES`.

Not here: what a phase computes (`phases`), and the command line (`commands`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genin.benchmarks.model_facts import fingerprint
from genin.distill.data.dataset import joined_origins
from genin.distill.inputs.latents import cache_latents
from genin.distill.inputs.sources import Source, joined_licences
from genin.distill.loop import sharding
from genin.distill.loop.host import check_memory, out_of_memory
from genin.distill.loop.memory import Others, Parts, Unet, advice, distill_memory, distill_options
from genin.distill.loop.training import Training, Validate, claim_run
from genin.distill.models.check import check_prediction_type, check_schedule, pictures_to_check
from genin.distill.models.diffusion import Denoiser, Process, plain_attention, student_scheduler
from genin.distill.models.folder import ModelFolder, load_model_folder, save_model_folder
from genin.distill.models.guided import Guided
from genin.distill.models.lora import lower_frozen
from genin.distill.models.pruning import build_student, kept_channels, narrowed_state, pruning_of
from genin.distill.models.text import embed
from genin.distill.recipe import Optimisation, Recipe, StepsRecipe
from genin.distill.student.decoder import build_tiny, train_decoder
from genin.distill.student.held_out import HeldOut
from genin.distill.student.objective import Frozen, build_loss_terms, load_frozen
from genin.distill.student.phases import prune_step, steps_step, student_preview
from genin.distill.student.pool import DistillationData, Pool, build_pool, pool_settings
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
class StartingStudent:
    """What a student hands down to the one that goes on from its weights; `recipe` is what made it, with its name and
    fingerprint."""

    data: str
    licence: str
    origins: Sequence[Mapping[str, Any]]
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
    kept = kept_channels(model.unet, unet)
    if recipe.pool.teacher_precision == "bf16":
        lower_frozen(model.unet)
    earlier = None if init is None else take_weights(unet, init, str(recipe.student))
    if earlier is not None and not earlier.cut:
        recipe = replace(recipe, prune=replace(recipe.prune, images=0))
    settings: dict[str, Optimisation] = {name: getattr(recipe, name) for name in PHASES}
    active = [name for name in PHASES if settings[name].images > 0]
    check_recipe(recipe, active, earlier)
    check_schedule(Process(model.scheduler_config), teacher_path / "scheduler")
    frozen = load_frozen(recipe, active)
    if "decoder" in active:
        build_tiny(model.vae, recipe.decoder, model.image_size // model.latent_size)
    folder = out / "training"
    begun_with = {"teacher": fingerprint(teacher_path), "data": source.digest, "student": str(recipe.student)}
    begun_with["init"] = "nothing" if init is None else fingerprint(init)
    begun_with |= {"pool": json.dumps(pool_settings(recipe.pool))}
    stages = {"alignment": recipe.alignment, **{name: settings[name] for name in active}}
    claim_run(folder, recipe, begun_with, stages, resume=resume)

    vae = model.vae
    if earlier is not None and shares_encoder(earlier.vae, model.vae):
        vae = earlier.vae

    def folder_of(network: Any, images_seen: int, path: Path) -> ModelFolder:
        return student_folder(model, network, vae, path, recipe, source, teacher_path, images_seen, earlier)

    trainings = {name: Training(folder, name, settings[name]) for name in active}
    budget = Budget(minutes, active)
    check_batches(recipe, trainings[active[0]], active)
    lesson = prepare_lesson(model, source, folder, recipe, trainings[active[0]], begun_with["teacher"], budget)
    seen = 0 if earlier is None else earlier.images_seen
    student: Any = unet
    for name, training in trainings.items():
        training.minutes = budget.of(name, lesson.pool.seconds / 60)
        try:
            if name == "decoder":
                counts = trained_step_counts(recipe)
                decoding = recipe.decoder
                if minutes is not None:  # what is prepared is not timed
                    decoding = replace(decoding, cache_images=min(2_000, decoding.cache_images))
                vae = train_decoder(training, student, lesson, model, decoding, counts, earlier=vae, resume=resume)
            else:
                last = name == active[-1]
                student = _run_phase(
                    name, training, student, lesson, recipe, model, frozen, kept, resume=resume, last=last
                )
        except KeyboardInterrupt:
            if "student" in training.averages:
                finished = training.progress >= 1
                student = training.final_weights("student") if finished else training.current_weights("student")
                student.requires_grad_(False).eval()
            save_model_folder(folder_of(student, seen + unet_images(name, training), out), out)
            raise
        seen += unet_images(name, training)
        student.requires_grad_(False).zero_grad(set_to_none=True)
        training.release_memory()
        # What a phase leaves that was done before stays as it is: a later one may have been saved over it.
        if training.has_updated or name == active[-1]:
            save_model_folder(folder_of(student, seen, out), out)
    return Distilled(folder_of(student, seen, out), seen)


def check_recipe(recipe: Recipe, active: Sequence[str], earlier: StartingStudent | None) -> None:
    """Errors: InputError for settings that cannot be had together, naming them."""
    trained = [name for name in active if name != "decoder"]
    if not active or (earlier is None and not trained):
        phases = [name for name in PHASES[:-1] if earlier is None or earlier.cut or name != "prune"]
        what = "the recipe trains nothing" if not active else "there is no trained student to make a decoder for"
        raise InputError(
            what, remedy=f"give {', '.join(phases[:-1])} or {phases[-1]} some images, or an earlier student (--init)"
        )
    if "prune" in active and recipe.prune.feature_weight > 0 and earlier is not None:
        what = "a student cut from another one has channels of that one's choice, which cannot be compared with its teacher's"
        raise InputError(what, remedy="set prune.feature_weight to 0")
    for name in active:
        phase = getattr(recipe, name)
        if recipe.pool.teacher_precision == "bf16" and phase.mixed_precision == "no":
            what = f"the teacher's weights are in bf16 (pool.teacher_precision), and {name}.mixed_precision is no"
            raise InputError(what, remedy="set both to the same")
        if isinstance(phase, StepsRecipe) and phase.backward_distillation and not phase.rollout:
            what = f"{name}.backward_distillation starts where a rollout leads, and {name}.rollout is false"
            raise InputError(what, remedy="turn one of them around")
    judged = recipe.adversarial
    if "adversarial" in active and judged.matching_weight > 0 and judged.fake_score_updates > 1 < judged.accumulate:
        what = "adversarial.accumulate works for one update of the fake score at a time"
        raise InputError(what, remedy="set fake_score_updates to 1, or accumulate to 1")
    if (
        "adversarial" in active
        and judged.alignment_weight > 0
        and not judged.alignment_model
        and not recipe.alignment.images
    ):
        what = "adversarial.alignment_weight asks for a model that alignment.images: 0 leaves untrained"
        raise InputError(what, remedy="give alignment some images, or name a CLIP (adversarial.alignment_model)")


def check_batches(recipe: Recipe, training: Training, active: Sequence[str]) -> None:
    """Errors: InputError for features of a network that FSDP shares out, or a decoder's batch without pictures of both kinds."""
    processes = training.accelerator.num_processes
    if "prune" in active and recipe.prune.feature_weight > 0 and sharding.asked_for() and processes > 1:
        what = "features are taken within a network, which FSDP gathers as a whole only"
        raise InputError(what, remedy="set prune.feature_weight to 0, or launch without FSDP")
    batch = recipe.decoder.batch_size // processes // recipe.decoder.accumulate
    if "decoder" in active and batch < 2:
        raise InputError(f"decoder.batch_size leaves a process {batch} picture; it needs 2", remedy="make it larger")


def unet_images(phase: str, training: Training) -> int:
    """The images of a phase that the UNet has learnt from."""
    return 0 if phase == "decoder" else training.images_seen


def shares_encoder(vae: Any, teachers: Any) -> bool:
    """Whether an earlier student's autoencoder decodes the latents of this teacher: its encoder is the teacher's own."""
    if type(vae) is not type(teachers) or vae.config.scaling_factor != teachers.config.scaling_factor:
        return False
    mine, theirs = vae.encoder.state_dict(), teachers.encoder.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


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
) -> DistillationData:
    """Encode the true pictures that the discriminator will see, sample (or find) the pool, embed its captions."""
    device = training.device
    for part in (model.unet, model.text_encoder, model.vae):
        part.to(device)
    plain_attention(model.unet, device)
    scale = recipe.pool.guidance_scale or float(model.info.get("guidance_scale", 7.5))
    with torch.no_grad():
        empty = embed(model.text_encoder, model.tokenizer, [""], device)
    own, process = (Process(c, device) for c in (model.scheduler_config, student_scheduler(model.scheduler_config)))
    denoiser = Denoiser(model.unet, own, process)
    guided = Guided(denoiser, model.text_encoder, model.tokenizer, empty, device, scale)
    judged, count = recipe.adversarial, pictures_to_check(model.latent_size)
    true_side = judged.images > 0 and judged.adversarial_weight > 0 and judged.real_share > 0
    if true_side:
        most = judged.cache_images if budget.minutes is None else min(2_000, judged.cache_images)
        count = min(recipe.pool.size, most)
    # Before the pool, which takes longer: a teacher whose latents or predictions are not what it says is refused here.
    latents = cache_latents(source, model.vae, count, model.image_size, device, folder / "latents.safetensors").latents
    captions = source.captions(range(min(pictures_to_check(model.latent_size), len(latents))))
    check_prediction_type(guided, latents, guided.embed(captions), model.path / "scheduler")
    pool = _sample_pool(guided, source, folder, recipe, training, teacher, budget.of("pool"))
    texts, captions = [], source.captions(range(min(len(pool), len(source))))
    for start in range(0, len(captions), 256):
        texts.append(guided.embed(captions[start : start + 256]).half().cpu())
    return DistillationData(guided, pool, source, torch.cat(texts), latents if true_side else None)


def _sample_pool(
    guided: Guided,
    source: Source,
    folder: Path,
    recipe: Recipe,
    training: Training,
    teacher: str,
    minutes: float | None,
) -> Pool:
    with progress("sampling the teacher", silent=not training.accelerator.is_main_process) as shown:

        def report(done: int, size: int, seconds: float) -> bool:
            spent = 0.0 if minutes is None else seconds / (60 * minutes)
            shown.reach(max(done / size, spent), f"{done} of {size} pictures")
            return spent >= 1

        path = folder / "pool.safetensors"
        try:
            return build_pool(
                guided, source, recipe.pool, path, fingerprint=teacher, autocast=training.autocast, report=report
            )
        except KeyboardInterrupt as error:
            what = f"interrupted while sampling the teacher; what there is lies in {folder}, --resume goes on"
            raise KeyboardInterrupt(what) from error


def _run_phase(
    name: str,
    training: Training,
    student: Any,
    lesson: DistillationData,
    recipe: Recipe,
    model: ModelFolder,
    frozen: Frozen,
    kept: Sequence[Tensor] | None,
    *,
    resume: bool,
    last: bool,
) -> Any:
    plain_attention(student, training.device)
    for network in (student, model.unet):  # gradients go through the teacher's encoder to the picture
        if getattr(recipe, name).gradient_checkpointing:
            network.enable_gradient_checkpointing()
        else:  # a phase before may have turned it on
            network.disable_gradient_checkpointing()
    prepared = training.add("student", student, large=True)
    if name == "prune":
        step: Callable[..., Any] = prune_step(training, prepared, lesson, recipe.prune, kept)
    else:
        settings = recipe.adversarial if name == "adversarial" else recipe.steps
        step = steps_step(
            training,
            prepared,
            lesson,
            settings,
            build_loss_terms(training, lesson, recipe, settings, model, frozen, resume=resume),
        )
    if resume:
        training.resume()

    sharing = {"processes": training.accelerator.num_processes, "sharded": sharding.asked_for()}

    def needed(settings: Recipe) -> Parts:
        tokens = model.tokenizer.model_max_length
        teacher, student_unet = (Unet.of(network.config, tokens) for network in (model.unet, student))
        return distill_memory(name, settings, teacher, student_unet, Others.of(model), **sharing)

    few_steps = recipe.adversarial if name == "adversarial" else recipe.steps
    look = None if name == "prune" else _look(training, lesson, model, few_steps)
    remedies = partial(advice, recipe, distill_options(name, recipe, training.accelerator.num_processes), needed)
    check_memory(f"phase '{name}'", sum(needed(recipe).values()), training.device, remedies)
    with out_of_memory(f"phase '{name}'", training.folder, remedies):
        training.run(step, student_preview(training, lesson, model.vae, few_steps.step_counts), look, last=last)
    return training.final_weights("student").requires_grad_(False).eval()


def _look(training: Training, lesson: DistillationData, model: ModelFolder, recipe: StepsRecipe) -> Validate | None:
    """How a student does on held-out captions at the most steps it has, where there are such captions."""
    source = lesson.source.held_out() if recipe.held_out_images > 0 and training.progress < 1 else None
    if source is None:
        return None
    cache = training.folder / "held_out.safetensors"
    held_out = HeldOut.of(lesson.teacher, source, model.vae, model.image_size, recipe.held_out_images, cache)
    timesteps = lesson.teacher.process.trailing_timesteps(max(recipe.step_counts))
    return None if held_out is None else lambda network: held_out(network, timesteps)


def take_weights(unet: Any, path: Path, name: str) -> StartingStudent:
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
    return StartingStudent(
        str(info.get("data") or "unknown"),
        str(info.get("licence") or "unknown"),
        info.get("origins") or (),
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
    earlier: StartingStudent | None = None,
) -> ModelFolder:
    """The student as a model folder: the teacher's text encoder and schedule, its own UNet and decoder. `images_seen` counts
    those of the `earlier` student that it went on from, too."""
    scheduler = student_scheduler(teacher.scheduler_config)
    process, counts = Process(scheduler), trained_step_counts(recipe)
    made_by = {
        key: value for key, value in recipe.as_dict().items() if key in ("student", "pool", "alignment", *PHASES)
    }
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
        "origins": joined_origins(teacher.info.get("origins", ()), source.origins, earlier.origins if earlier else ()),
        "guidance": "baked",
        "guidance_scale": 1.0,
        "default_steps": counts[0],
        "few_step_timesteps": {str(count): process.trailing_timesteps(count) for count in counts},
        "image_size": teacher.image_size,
        "images_seen": images_seen,
        "recipe": made_by,
        "metrics": {},
    }
    return ModelFolder(path, teacher.tokenizer, teacher.text_encoder, unet, vae, scheduler, info)

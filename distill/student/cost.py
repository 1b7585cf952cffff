"""What the phases of a distillation take in memory and operations, estimated before they begin: their own, and their terms'.

Not here: what a network's pass takes (`loop.memory`), what a term takes (`terms`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from genin.distill.loop.memory import BF16, FP32, PASSES, Parts, PhaseSizes, network_parts, options_of
from genin.distill.recipe import PruneRecipe, Recipe, StepsRecipe
from genin.distill.student.objective import active_terms
from genin.distill.student.phases import COMPLETION_HALVINGS

# Measured beside what is estimated (docs/log.md): grids of samples, compiled kernels, freed blocks that are kept.
BESIDE_BYTES: Final = 600_000_000


def distill_memory(phase: str, recipe: Recipe, sizes: PhaseSizes) -> Parts:
    """Peak bytes of a phase's updates in each process. Pool and encoded pictures are mapped from files."""
    settings: PruneRecipe | StepsRecipe = getattr(recipe, phase)
    teacher, student = sizes.teacher, sizes.student
    validated = isinstance(settings, PruneRecipe) or settings.held_out_images > 0
    kept = len(settings.ema_decays) + validated
    parts = {
        "teacher": (BF16 if recipe.pool.teacher_precision == "bf16" else FP32) * teacher.parameters,
        "text encoder and autoencoder": FP32 * sum(sizes.others),
        **network_parts(settings, student.parameters, kept=kept, name="student", shares=sizes.shares),
    }
    own = sizes.activations(settings, student)
    if isinstance(settings, PruneRecipe):
        return parts | {"activations": own * (2 if settings.feature_weight > 0 else 1)}
    activations: Parts = {"rollout": max(learnt_steps(settings)) * own}
    for term in active_terms(settings):
        memory = term.memory(settings, sizes)
        parts |= memory.networks
        activations |= memory.activations
    return parts | {"activations": sum(activations.values())}


def learnt_steps(settings: StepsRecipe) -> list[int]:
    """How many of a rollout's predictions carry gradients, for each of the recipe's numbers of steps."""
    return [min(2, count) if settings.backward_distillation else count for count in settings.step_counts]


def distill_flop(phase: str, recipe: Recipe, sizes: PhaseSizes) -> float:
    """Floating-point operations of an update, for one picture (two per multiply-add); of the `pool`, for one row."""
    teacher, student = sizes.teacher, sizes.student
    if phase == "pool":
        return 2.0 * recipe.pool.teacher_steps * 2 * teacher.macs
    settings: PruneRecipe | StepsRecipe = getattr(recipe, phase)
    passes = PASSES[settings.gradient_checkpointing]
    if isinstance(settings, PruneRecipe):
        total = passes * student.macs + settings.random_conditioning / 2 * 2 * teacher.macs
        if settings.feature_weight > 0:
            total += passes * student.encoder_macs + teacher.encoder_macs
        return 2.0 * total
    total = _rollout_macs(settings, sizes)
    if settings.consistency_weight > 0:
        total += (passes + 1) * student.macs
    operations: dict[str, float] = {}
    for term in active_terms(settings):
        operations |= term.operations(settings, sizes)
    return 2.0 * (total + sum(operations.values()))


def _rollout_macs(settings: StepsRecipe, sizes: PhaseSizes) -> float:
    """Multiply-adds of a rollout and its backward pass for one picture: the mean over step counts, and over where it ends."""
    passes, most, total = PASSES[settings.gradient_checkpointing], max(settings.step_counts), 0.0
    for count, learnt in zip(settings.step_counts, learnt_steps(settings), strict=True):
        backward = settings.backward_distillation and count > 1
        lengths = [*range(2, count + 1), count] if backward else [count]  # the last end comes twice
        for length in lengths:
            completion = 0.0
            if backward:  # the guided teacher, from there to the end
                done = (length - 1) / count
                completion = 2 * (max(1, round((1 - done) * most)) + COMPLETION_HALVINGS) * sizes.teacher.macs
            own = (learnt * passes + length - learnt) * sizes.student.macs
            total += (own + completion) / len(lengths)
    return total / len(settings.step_counts)


def distill_options(phase: str, recipe: Recipe, processes: int = 1) -> dict[str, dict[str, Any]]:
    """What can be written in a recipe to save memory in a phase => the sections it changes."""
    settings = getattr(recipe, phase)
    changes = options_of(phase, settings, processes)
    for term in active_terms(settings):
        changes |= {f"{phase}.{key}: {value}": {key: value} for key, value in term.lighter(settings).items()}
    options = {option: {phase: replace(settings, **changed)} for option, changed in changes.items()}
    if settings.mixed_precision == "bf16":
        options["pool.teacher_precision: bf16"] = {"pool": replace(recipe.pool, teacher_precision="bf16")}
    return options

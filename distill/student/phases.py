"""What an update of each phase of distillation computes: one step function each, on the shared training loop.

1. `prune`: a network with blocks removed learns the guided teacher's prediction along the pool's trajectories (BK-SDM's
   output and feature terms; guidance is baked in from here on).
2. `steps`: the student rolls out from pure noise with the sampler it ships with, and at every state it reaches it is pulled towards
the teacher's final picture for that noise: regression onto the ODE's end, as in consistency models,
   with exact pairs instead of a bootstrap. Regression alone makes pictures soft; other terms on the last picture join it
   where the recipe has them (`terms`).
3. `adversarial`: the same update, where a discriminator is one of those terms (ADD, in LADD's features).

All step counts are trained together; what the student predicts at a timestep is always the final picture, so one network
serves one, two and four steps.

Not here: the networks (`models.pruning`, `terms.discriminator`), the rollout (`rollout`), the terms (`terms`), the losses
(`losses`), the order of phases (`distillation`), the decoder's phase (`decoder`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genin.distill.inputs.update import Update
from genin.distill.loop.training import GRAD_NORM, Preview, Training, Validate
from genin.distill.models.diffusion import Process
from genin.distill.models.unet_features import encoder_features
from genin.distill.recipe import PruneRecipe, StepsRecipe
from genin.distill.student.losses import falling, feature_loss, pseudo_huber
from genin.distill.student.pool import SOLVER, DistillationData
from genin.distill.student.rollout import Rollout, Student
from genin.distill.student.terms.term import Figures, StudentBatch, Term

PREVIEWS = 10  # pictures of a grid for each number of steps
COMPLETION_HALVINGS = 2  # of the last few-step timestep, for the teacher's last steps from a student's state

# --- phase 1 -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StateBatch:
    """States x of the teacher's trajectories (N, C, H, W) at timesteps t (N,), the pictures it predicts there, and their captions'
    states (N, L, D)."""

    x: Tensor
    t: Tensor
    target: Tensor
    text: Tensor


def prune_step(
    training: Training,
    network: nn.Module,
    data: DistillationData,
    recipe: PruneRecipe,
    kept_channels: Sequence[Tensor] | None = None,
) -> Callable[[Update], Any]:
    """output_weight·‖v_s − v_T‖² + feature_weight·mean ‖f_s − f_T‖²/‖f_T‖² at states of the teacher's own trajectories. A narrower
    student's features are compared with those of the channels that it has kept (`pruning.kept_channels`)."""
    process, student = data.teacher.process, Student(network, data.teacher.process)
    timesteps = torch.tensor(data.pool.timesteps)

    def step(update: Update) -> dict[str, Tensor | float]:
        rows, at = update.randint(len(data.pool)).cpu(), update.randint(len(timesteps)).cpu()
        x, target = (part[rows, at].float().to(training.device) for part in (data.pool.states, data.pool.x0))
        batch = StateBatch(x, timesteps[at].to(training.device), target, data.text(rows))
        if recipe.random_conditioning > 0:
            batch = shuffle_captions(training, data, batch, recipe.random_conditioning, update)
        with training.autocast():
            x0, _ = student(batch.x, batch.t, batch.text)
        output = output_distance(process, x0, batch)
        metrics: dict[str, Tensor | float] = {"output": output.detach()}
        loss = recipe.output_weight * output
        if recipe.feature_weight > 0:
            features = _feature_distance(training, network, data, batch, kept_channels)
            metrics["features"] = features.detach()
            loss = loss + recipe.feature_weight * features
        norm = training.optimise("student", loss)
        return {"loss": loss.detach(), **metrics, GRAD_NORM: norm}

    return step


def output_distance(process: Process, x0: Tensor, batch: StateBatch) -> Tensor:
    """‖v_s − v_T‖², of a student's predictions x0 (N, C, H, W). An x0 error of 1 is a v error of 1/σ (v = (α·x − x0)/σ): the
    teacher's own weighting, bounded near clean data."""
    _, sigma = process.alpha_sigma(batch.t)
    return ((x0 - batch.target).square() / sigma.clamp_min(0.1).square()).mean()


def held_out_loss(training: Training, data: DistillationData) -> Validate:
    """The output term of `prune` on all states of held-out pairs: a student that has learnt its pool by heart is worse there."""
    process, pool = data.teacher.process, data.pool
    timesteps = torch.tensor(pool.timesteps, device=training.device)

    @torch.no_grad()
    def validate(network: nn.Module) -> dict[str, float]:
        student, distances = Student(network, process), []
        for row in range(len(pool)):
            x, target = (part[row, : len(timesteps)].float().to(training.device) for part in (pool.states, pool.x0))
            rows = torch.full((len(timesteps),), row)
            batch = StateBatch(x, timesteps, target, data.text(rows))
            with training.autocast():
                x0, _ = student(batch.x, batch.t, batch.text)
            distances.append(float(output_distance(process, x0, batch)))
        return {"held_out_loss": sum(distances) / len(distances)}

    return validate


def _feature_distance(
    training: Training,
    network: nn.Module,
    data: DistillationData,
    batch: StateBatch,
    kept_channels: Sequence[Tensor] | None,
) -> Tensor:
    """Between the maps of the student's encoder and of the teacher's."""
    with training.autocast():
        ours, _ = encoder_features(training.accelerator.unwrap_model(network), batch.x, batch.t, batch.text)
        with torch.no_grad():
            theirs, _ = data.teacher.features(batch.x, batch.t, batch.text)
            if kept_channels is not None:
                theirs = [f[:, kept.to(f.device)] for f, kept in zip(theirs, kept_channels, strict=True)]
    return feature_loss(ours[: len(theirs)], theirs[: len(ours)])


def shuffle_captions(
    training: Training, data: DistillationData, batch: StateBatch, share: float, update: Update
) -> StateBatch:
    """Random conditioning (2025, arXiv:2504.02011): a state is shown with another row's caption with probability share·t/T, and
    its target becomes what the guided teacher predicts there."""
    teacher = data.teacher
    swap = update.rand() < share * batch.t / (teacher.process.num_train_timesteps - 1)
    # Rows of the pool: a neighbour in the batch would depend on how the batch is split.
    others = update.randint(len(data.pool))
    if not bool(swap.any()):
        return batch
    text = torch.where(swap.view(-1, 1, 1), data.text(others), batch.text)
    with torch.no_grad(), training.autocast():
        predicted, _ = teacher(batch.x[swap], batch.t[swap], text[swap])
    target = batch.target.clone()
    target[swap] = predicted.float()
    return replace(batch, target=target, text=text)


# --- phases 2 and 3 ----------------------------------------------------------------------------------------------------


def steps_step(
    training: Training, network: nn.Module, data: DistillationData, recipe: StepsRecipe, terms: Sequence[Term] = ()
) -> Callable[[Update], Any]:
    """One rollout; every prediction of it is regressed onto the teacher's final latents for its noise, and the last one goes to
    `terms`.

    With backward distillation a rollout ends at one of its later steps, in turn. Its first prediction aims at the noise's
    final latents, its last at where the teacher leads from the state that the student has reached; those between get no target.
    Such a last aim needs no pair, so a share of these rollouts begins with noise that the pool does not have.

    Student: regression_weight·pseudo-Huber + consistency_weight·L_consistency + Σ terms (ADD's eq. 1, and more).
    """
    student = Student(network, data.teacher.process)

    def step(update: Update) -> Figures:
        batch_rows = update.batch_randint(data.pairs)
        rows = batch_rows[update.offset : update.offset + update.batch]
        noise, target, text = data.noise(rows, update), data.final(rows), data.text(rows)
        timesteps, backward = _rollout_timesteps(student.process, recipe, update)
        paired: Tensor | float = 1.0
        if backward and recipe.fresh_noise > 0:
            noise, paired = with_fresh_noise(noise, recipe.fresh_noise, update)
        last = len(timesteps) - 1
        aims = {0: target, last: target} if backward else dict.fromkeys(range(len(timesteps)), target)
        replace_state = None if recipe.rollout else renoise(student.process, target, update)
        with training.autocast():
            done = student.rollout(noise, text, timesteps, grad_steps=aims, replace_state=replace_state)
        if backward:
            aims[last] = target = teacher_completion(training, data, done, text, recipe.step_counts)
        weights = {0: paired}
        losses = [pseudo_huber(done.pictures[i], aim, recipe.huber_c, weights.get(i, 1.0)) for i, aim in aims.items()]
        weight = falling(recipe.regression_weight, recipe.regression_final_share, training.progress)
        loss = weight * torch.stack(losses).mean()
        picture = done.pictures[-1]
        metrics: Figures = {"first": losses[0].detach(), "last": losses[-1].detach(), **_against(picture, target)}
        if recipe.consistency_weight > 0:
            consistency = consistency_loss(training, network, data, recipe, update)
            loss = loss + recipe.consistency_weight * consistency
            metrics["consistency"] = consistency.detach()
        batch = StudentBatch(picture, target, text, batch_rows, update, timesteps[last])
        for term in terms:
            share, figures = term(batch)
            loss, metrics = loss + share, metrics | figures
        norm = training.optimise("student", loss)
        return {"loss": loss.detach(), **metrics, GRAD_NORM: norm}

    return step


def _rollout_timesteps(process: Process, recipe: StepsRecipe, update: Update) -> tuple[list[int], bool]:
    """The timesteps of this update's rollout: step counts take turns, and with backward distillation so do its ends, the last one
    twice: its picture is the one that is shown. And whether it is distilled backwards, which a rollout of one step is not."""
    round_, turn = divmod(update.index, len(recipe.step_counts))
    timesteps = process.trailing_timesteps(recipe.step_counts[turn])
    backward = recipe.backward_distillation and len(timesteps) > 1
    return (timesteps[: 2 + round_ % len(timesteps)] if backward else timesteps), backward


def with_fresh_noise(noise: Tensor, share: float, update: Update) -> tuple[Tensor, Tensor]:
    """The noise (N, C, H, W), about a `share` of its rows drawn anew; and the weights (N, 1, 1, 1) of the rows in what is compared
    with the pair's picture: 0 for new ones, and of mean 1."""
    fresh = (update.rand() < share).view(-1, 1, 1, 1)
    weight = (~fresh).float() / max(1.0 - share, 1e-6)
    return torch.where(fresh, update.randn(*noise.shape[1:]), noise), weight


def renoise(process: Process, picture: Tensor, update: Update) -> Callable[[Tensor], Tensor]:
    """Timesteps => the picture noised to them, by noise of this update: states that no sampler has produced."""

    def state(t: Tensor) -> Tensor:
        return process.add_noise(picture, update.randn(*picture.shape[1:]), t)

    return state


def consistency_loss(
    training: Training, network: nn.Module, data: DistillationData, recipe: StepsRecipe, update: Update
) -> Tensor:
    """Pseudo-Huber between where the student leads from a state of the teacher's trajectory and where its average leads from the
    next state, each by one DDIM step to the first few-step timestep that neither has passed (to the picture, below the last), times
    the mean gap between the pool's states over this one.

    The pool's neighbouring states lie on one path of the guided teacher: its step from one to the other is known already.
    """
    process, pool = data.teacher.process, data.pool
    rows, at = update.randint(len(pool)).cpu(), update.randint(len(pool.timesteps)).cpu()
    few = sorted({t for count in recipe.step_counts for t in process.trailing_timesteps(count)}, reverse=True)
    following = [*pool.timesteps[1:], -1]
    # A pool's timesteps are not the few-step ones: both states lead to the first of those that neither has passed.
    ends = [next((t for t in few if t <= later), -1) for later in following]
    now, then, end = (torch.tensor(times)[at].to(training.device) for times in (list(pool.timesteps), following, ends))
    x, x_then = (pool.states[rows, at + i].float().to(training.device) for i in (0, 1))
    text = data.text(rows)
    student, average = Student(network, process), Student(training.ema_weights("student"), process)
    with training.autocast():
        x0, eps = student(x, now, text)
        with torch.no_grad():
            x0_then, eps_then = average(x_then, then.clamp_min(0), text)
    ours = process.ddim_step(x0.float(), eps.float(), end)
    theirs = process.ddim_step(x0_then.float(), eps_then.float(), end)
    arrived = (then == end).view(-1, 1, 1, 1)  # the next state is the end itself: nothing to predict
    theirs = torch.where(arrived, x_then, theirs)
    # The pool's mean, not the batch's: a row's weight must not depend on the others.
    mean_gap = (pool.timesteps[0] + 1) / len(pool.timesteps)
    return pseudo_huber(ours, theirs, recipe.huber_c, (mean_gap / (now - then)).view(-1, 1, 1, 1))


@torch.no_grad()
def _against(picture: Tensor, target: Tensor) -> dict[str, Tensor | float]:
    """The latents' deviation as a share of the teacher's, and their means' distance in deviations: for `health`."""
    deviation = target.std()
    return {"spread": picture.std() / deviation, "shift": (picture.mean() - target.mean()).abs() / deviation}


def teacher_completion(
    training: Training, data: DistillationData, done: Rollout, text: Tensor, step_counts: Sequence[int]
) -> Tensor:
    """Where the guided teacher leads from the last state of a rollout, by DPM-Solver++ at the finest timesteps that are trained and
    two more below them: its prediction at the last trained timestep alone is as soft as the mean of what it leaves open there.

    The pair's picture is where the *noise* leads. A student that has left the teacher's trajectory can no longer reach it. If it is
    regressed onto it regardless, it learns the mean of all candidates: a soft picture, and, under a caption that leaves things
    open, the same one for every noise.
    """
    teacher, start = data.teacher, int(done.timesteps[-1][0])
    finest = teacher.process.trailing_timesteps(max(step_counts))
    below = [finest[-1] // 2**halvings for halvings in range(1, COMPLETION_HALVINGS + 1)]
    timesteps = [start, *(t for t in dict.fromkeys((*finest, *below)) if t < start)]
    with training.autocast():
        return teacher.sample(done.states[-1], text, timesteps, SOLVER).states[-1].float()


# --- pictures of a run -------------------------------------------------------------------------------------------------


def student_preview(
    training: Training, data: DistillationData, vae: Any, step_counts: Sequence[int], *, count: int = PREVIEWS
) -> Preview:
    """A grid writer: the teacher's pictures on top, below them the student's for the same noises, one row per step count."""
    from genin.distill.loop.previews import save_grid
    from genin.distill.models.autoencoder import decode_pictures

    rows = torch.arange(min(count, len(data.pool)))
    captions = data.source.captions(data.caption_rows(rows).tolist())

    def preview(path: Path) -> None:
        student = Student(training.ema_weights("student"), data.teacher.process)
        pictures = [decode_pictures(vae, data.pool.final(rows).to(training.device))]
        labels = ["teacher"]
        with torch.no_grad(), training.autocast():
            for steps in sorted(set(step_counts), reverse=True):
                noise = data.pool.noise(rows).to(training.device)
                timesteps = student.process.trailing_timesteps(steps)
                done = student.rollout(noise, data.text(rows), timesteps)
                pictures.append(decode_pictures(vae, done.pictures[-1]))
                labels.append(f"student, {steps} step{'s' * (steps > 1)}")
        save_grid(pictures, path, labels=labels, captions=[*[()] * (len(pictures) - 1), captions])

    return preview

"""The phases of distillation, each one update function on the shared training loop.

1. `prune`: a network with blocks taken out learns the guided teacher's prediction along the pool's trajectories (BK-SDM's
   output and feature terms; guidance is baked in from here on).
2. `steps`: from pure noise the student walks with the sampler it ships with, and at every state of its own making is
   pulled towards the teacher's final picture for that noise: regression onto the ODE's end, as in consistency models,
   with exact pairs instead of a bootstrap. Number by number alone that makes pictures soft; where asked, other terms on the
   finished picture join it (`terms`).
3. `adversarial`: the same update, where a discriminator's word is one of those terms (ADD, in LADD's features).

All step counts are trained together; what the student predicts at a timestep is always the finished picture, so one network
serves one, two and four steps.

Not here: the networks (`models.pruning`, `discriminator`), what is said of a finished picture (`terms`), the losses (`losses`), the
order of phases (`distillation`), the decoder's phase (`decoder`).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genin.distill.inputs.update import Update
from genin.distill.loop.training import Training
from genin.distill.models.diffusion import Process, predict
from genin.distill.models.unet_features import encoder_features
from genin.distill.recipe import PruneRecipe, StepsRecipe
from genin.distill.student.losses import feature_loss, pseudo_huber
from genin.distill.student.pool import DistillationData
from genin.distill.student.terms import Figures, Finished, Term


@dataclass(frozen=True)
class Rollout:
    """A few-step rollout: at each step the state (detached), its timestep, and the picture predicted there."""

    states: list[Tensor]
    timesteps: list[Tensor]
    pictures: list[Tensor]


def rollout(
    student: nn.Module,
    process: Process,
    noise: Tensor,
    text: Tensor,
    timesteps: Sequence[int],
    *,
    grad_steps: Container[int] = (),
    replace_state: Callable[[Tensor], Tensor] | None = None,
) -> Rollout:
    """Deterministic DDIM (η = 0) from noise through `timesteps`. The predictions of the steps in `grad_steps` carry gradients, no
    state does: each step learns from where the student really arrives, and no gradient runs through the sampler. `replace_state`
    gives other states, by timestep, to all steps but the first."""
    x, states, times, pictures = noise, [], [], []
    for i, t_now in enumerate(timesteps):
        t = torch.full((len(x),), t_now, dtype=torch.long, device=x.device)
        with torch.set_grad_enabled(i in grad_steps):
            x0, eps = process.to_x0_eps(predict(student, x, t, text), x, t)
        states.append(x)
        times.append(t)
        pictures.append(x0)
        if i + 1 < len(timesteps):
            t_next = torch.full_like(t, timesteps[i + 1])
            x = process.ddim_step(x0.detach(), eps.detach(), t_next) if replace_state is None else replace_state(t_next)
    return Rollout(states, times, pictures)


# --- phase 1 -----------------------------------------------------------------------------------------------------------


def prune_step(
    training: Training,
    student: nn.Module,
    lesson: DistillationData,
    recipe: PruneRecipe,
    kept: Sequence[Tensor] | None = None,
) -> Callable[[Update], Any]:
    """output_weight·‖v_s − v_T‖² + feature_weight·mean ‖f_s − f_T‖²/‖f_T‖² at states of the teacher's own trajectories. Of a
    narrower student the features are those of the channels that it has `kept` (`student.kept_channels`)."""
    process, teacher = lesson.teacher.process, lesson.teacher
    timesteps = torch.tensor(lesson.pool.timesteps)

    def step(update: Update) -> dict[str, Tensor | float]:
        rows, at = update.randint(len(lesson.pool)).cpu(), update.randint(len(timesteps)).cpu()
        x = lesson.pool.states[rows, at].float().to(training.device)
        target = lesson.pool.x0[rows, at].float().to(training.device)
        t, text = timesteps[at].to(training.device), lesson.text(rows)
        if recipe.random_conditioning > 0:
            target, text = shuffle_captions(training, lesson, recipe.random_conditioning, x, t, target, text, update)
        with training.autocast():
            x0, _ = process.to_x0_eps(predict(student, x, t, text), x, t)
        _, sigma = process.alpha_sigma(t)
        # An x0 error of 1 is a v error of 1/σ (v = (α·x − x0)/σ): the teacher's own weighting, bounded near clean data.
        output = ((x0 - target).square() / sigma.clamp_min(0.1).square()).mean()
        metrics: dict[str, Tensor | float] = {"output": output.detach()}
        loss = recipe.output_weight * output
        if recipe.feature_weight > 0:
            with training.autocast():
                mine, _ = encoder_features(training.accelerator.unwrap_model(student), x, t, text)
                with torch.no_grad():
                    theirs, _ = teacher.features(x, t, text)
                    if kept is not None:
                        theirs = [f[:, channels.to(f.device)] for f, channels in zip(theirs, kept, strict=True)]
            features = feature_loss(mine[: len(theirs)], theirs[: len(mine)])
            metrics["features"] = features.detach()
            loss = loss + recipe.feature_weight * features
        norm = training.optimise("student", loss)
        return {"loss": loss.detach(), **metrics, "grad_norm": norm}

    return step


def shuffle_captions(
    training: Training,
    lesson: DistillationData,
    share: float,
    x: Tensor,
    t: Tensor,
    target: Tensor,
    text: Tensor,
    update: Update,
) -> tuple[Tensor, Tensor]:
    """Random conditioning (2025, arXiv:2504.02011): a state is shown with another row's caption with probability share·t/T, and
    its target becomes what the guided teacher predicts there. Returns targets and text states."""
    teacher = lesson.teacher
    swap = update.rand() < share * t / (teacher.process.num_train_timesteps - 1)
    others = update.randint(
        len(lesson.pool)
    )  # of the pool: a neighbour in the batch would depend on how the batch is split
    if not bool(swap.any()):
        return target, text
    text = torch.where(swap.view(-1, 1, 1), lesson.text(others), text)
    with torch.no_grad(), training.autocast():
        other, _ = teacher(x[swap], t[swap], text[swap])
    target = target.clone()
    target[swap] = other.float()
    return target, text


# --- phases 2 and 3 ----------------------------------------------------------------------------------------------------


def steps_step(
    training: Training, student: nn.Module, lesson: DistillationData, recipe: StepsRecipe, terms: Sequence[Term] = ()
) -> Callable[[Update], Any]:
    """One rollout; every prediction of it is regressed onto the teacher's final latents for its noise, and the last is what `terms`
    speak of.

    With backward distillation a rollout ends at one of its later steps, each in its turn. Its first prediction aims at the noise's
    final latents, its last at where the teacher leads from the state that the student has arrived at there; those between only lead
    the way.

    Student: regression_weight·pseudo-Huber + consistency_weight·L_consistency + Σ terms (ADD's eq. 1, and more).
    """
    process = lesson.teacher.process

    def step(update: Update) -> Figures:
        batch_rows = update.batch_randint(len(lesson.pool))
        rows = batch_rows[update.offset : update.offset + update.batch]
        noise, target = (part.to(training.device) for part in (lesson.pool.noise(rows), lesson.pool.final(rows)))
        text = lesson.text(rows)
        round_, turn = divmod(update.index, len(recipe.step_counts))
        timesteps = process.trailing_timesteps(recipe.step_counts[turn])
        backward = recipe.backward_distillation and len(timesteps) > 1
        if backward:
            timesteps = timesteps[: 2 + round_ % (len(timesteps) - 1)]
        last = len(timesteps) - 1
        aims = {0: target, last: target} if backward else dict.fromkeys(range(len(timesteps)), target)
        replaced = None if recipe.rollout else renoise(process, target, update)
        with training.autocast():
            done = rollout(student, process, noise, text, timesteps, grad_steps=aims, replace_state=replaced)
        if backward:
            aims[last] = target = teacher_completion(training, lesson, done, text, recipe.step_counts)
        losses = [pseudo_huber(done.pictures[i], aim, recipe.huber_c) for i, aim in aims.items()]
        loss = recipe.regression_weight * torch.stack(losses).mean()
        picture = done.pictures[-1]
        metrics: Figures = {"first": losses[0].detach(), "last": losses[-1].detach(), **_against(picture, target)}
        if recipe.consistency_weight > 0:
            consistency = consistency_loss(training, student, lesson, recipe, update)
            loss = loss + recipe.consistency_weight * consistency
            metrics["consistency"] = consistency.detach()
        finished = Finished(picture, target, text, batch_rows, update)
        for term in terms:
            share, figures = term(finished)
            loss, metrics = loss + share, metrics | figures
        norm = training.optimise("student", loss)
        return {"loss": loss.detach(), **metrics, "grad_norm": norm}

    return step


def renoise(process: Process, picture: Tensor, update: Update) -> Callable[[Tensor], Tensor]:
    """Timesteps => the picture noised to them, by noise of this update: a state that no sampler has led to."""

    def state(t: Tensor) -> Tensor:
        return process.add_noise(picture, update.randn(*picture.shape[1:]), t)

    return state


def consistency_loss(
    training: Training, student: nn.Module, lesson: DistillationData, recipe: StepsRecipe, update: Update
) -> Tensor:
    """Pseudo-Huber between where the student leads from a state of the teacher's trajectory and where its average leads from the
    next state, each by one DDIM step to the first few-step timestep that neither has passed (to the picture, below the last), times
    the mean gap between the pool's states over this one.

    The pool's neighbouring states lie on one path of the guided teacher: its step from one to the other has been taken already.
    """
    process, pool = lesson.teacher.process, lesson.pool
    rows, at = update.randint(len(pool)).cpu(), update.randint(len(pool.timesteps)).cpu()
    few = sorted({t for count in recipe.step_counts for t in process.trailing_timesteps(count)}, reverse=True)
    following = [*pool.timesteps[1:], -1]
    # A pool's timesteps are not the few-step ones: both states lead to the first of those that neither has passed.
    ends = [next((t for t in few if t <= later), -1) for later in following]
    now, then, end = (torch.tensor(times)[at].to(training.device) for times in (list(pool.timesteps), following, ends))
    x, x_then = (pool.states[rows, at + i].float().to(training.device) for i in (0, 1))
    text = lesson.text(rows)
    average = training.ema_weights("student")
    with training.autocast():
        x0, eps = process.to_x0_eps(predict(student, x, now, text), x, now)
        with torch.no_grad():
            x0_then, eps_then = process.to_x0_eps(
                predict(average, x_then, then.clamp_min(0), text), x_then, then.clamp_min(0)
            )
    ours = process.ddim_step(x0.float(), eps.float(), end)
    theirs = process.ddim_step(x0_then.float(), eps_then.float(), end)
    arrived = (then == end).view(-1, 1, 1, 1)  # the next state is the end itself: nothing to predict
    theirs = torch.where(arrived, x_then, theirs)
    mean_gap = (pool.timesteps[0] + 1) / len(
        pool.timesteps
    )  # of the pool, not of the batch: each row's weight is its own
    return pseudo_huber(ours, theirs, recipe.huber_c, (mean_gap / (now - then)).view(-1, 1, 1, 1))


@torch.no_grad()
def _against(picture: Tensor, target: Tensor) -> dict[str, Tensor | float]:
    """The latents' deviation as a share of the teacher's, and their means' distance in deviations: for `health`."""
    deviation = target.std()
    return {"spread": picture.std() / deviation, "shift": (picture.mean() - target.mean()).abs() / deviation}


def teacher_completion(
    training: Training, lesson: DistillationData, done: Rollout, text: Tensor, step_counts: Sequence[int]
) -> Tensor:
    """Where the guided teacher leads from the last state of a walk, by DDIM at the finest timesteps that are trained.

    The pair's picture is where the *noise* leads. A student that has strayed from the teacher's way cannot reach it any more,
    and regressed onto it regardless learns the mean of what it might have been: a soft picture, and under a caption that leaves
    things open the same one for every noise.
    """
    teacher, start = lesson.teacher, int(done.timesteps[-1][0])
    timesteps = [start, *(t for t in teacher.process.trailing_timesteps(max(step_counts)) if t < start)]
    with training.autocast():
        return teacher.sample(done.states[-1], text, timesteps).states[-1].float()


# --- pictures of a run -------------------------------------------------------------------------------------------------


def student_preview(
    training: Training, lesson: DistillationData, vae: Any, step_counts: Sequence[int], *, count: int = 10
) -> Callable[[Path], None]:
    """A grid writer: the teacher's pictures on top, below them the student's for the same noises, a row a step count."""
    from genin.distill.loop.previews import save_grid
    from genin.distill.models.autoencoder import decode_pictures

    rows = torch.arange(min(count, len(lesson.pool)))

    def preview(path: Path) -> None:
        student = training.ema_weights("student")
        pictures = [decode_pictures(vae, lesson.pool.final(rows).to(training.device))]
        with torch.no_grad(), training.autocast():
            for steps in sorted(set(step_counts), reverse=True):
                noise = lesson.pool.noise(rows).to(training.device)
                timesteps = lesson.teacher.process.trailing_timesteps(steps)
                done = rollout(student, lesson.teacher.process, noise, lesson.text(rows), timesteps)
                pictures.append(decode_pictures(vae, done.pictures[-1]))
        save_grid(pictures, path)

    return preview

"""The phases of distillation, each one update function on the shared training loop.

1. `prune`: a network with blocks taken out learns the guided teacher's prediction along the pool's trajectories (BK-SDM's
   output and feature terms; guidance is baked in from here on).
2. `steps`: from pure noise the student walks with the sampler it ships with, and at every state of its own making is
   pulled towards the teacher's final picture for that noise: regression onto the ODE's end, as in consistency models,
   with exact pairs instead of a bootstrap.
3. `adversarial`: the same walk, plus a discriminator that tells its pictures from true ones (ADD).

All step counts are trained together; what the student predicts at a timestep is always the finished picture, so one network
serves one, two and four steps.

Not here: the networks (`student`, `discriminator`), the losses (`losses`), the order of phases (`distillation`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genin.distill.diffusion import Process, guided_predict, predict
from genin.distill.discriminator import Discriminator, encoder_features
from genin.distill.losses import (
    accuracy,
    feature_loss,
    hinge_discriminator,
    hinge_generator,
    pseudo_huber,
    r1_penalty,
)
from genin.distill.pool import Guided, Pool
from genin.distill.recipe import AdversarialRecipe, PruneRecipe, StepsRecipe
from genin.distill.sources import Source
from genin.distill.training import Training, Update


@dataclass(frozen=True)
class Lesson:
    """What all phases learn from. Row i of the pool belongs to caption i of the source; `texts` are the pool's captions
    embedded once, (N, L, D) float16; `latents` are final latents of true pictures, row i with caption i, or None."""

    teacher: Guided
    pool: Pool
    source: Source
    texts: Tensor
    latents: Tensor | None = None

    def text(self, rows: Tensor) -> Tensor:
        return self.texts[rows.cpu()].float().to(self.teacher.device)


@dataclass(frozen=True)
class Walk:
    """A few-step rollout: at each step the state (detached), its timestep, and the picture predicted there."""

    states: list[Tensor]
    timesteps: list[Tensor]
    pictures: list[Tensor]


def walk(
    student: nn.Module, process: Process, noise: Tensor, text: Tensor, timesteps: Sequence[int], *, learn: bool = True
) -> Walk:
    """Deterministic DDIM (η = 0) from noise through `timesteps`. Every prediction carries gradients, no state does: each
    step learns from where the student really arrives, and no gradient runs through the sampler."""
    x, states, times, pictures = noise, [], [], []
    for i, t_now in enumerate(timesteps):
        t = torch.full((len(x),), t_now, dtype=torch.long, device=x.device)
        with torch.set_grad_enabled(learn):
            x0, eps = process.to_x0_eps(predict(student, x, t, text), x, t)
        states.append(x)
        times.append(t)
        pictures.append(x0)
        if i + 1 < len(timesteps):
            x = process.ddim_step(x0.detach(), eps.detach(), torch.full_like(t, timesteps[i + 1]))
    return Walk(states, times, pictures)


# --- phase 1 -----------------------------------------------------------------------------------------------------------


def prune_step(training: Training, student: nn.Module, lesson: Lesson, recipe: PruneRecipe) -> Callable[[Update], Any]:
    """output_weight·‖v_s − v_T‖² + feature_weight·Σ‖f_s − f_T‖²/‖f_T‖² at states of the teacher's own trajectories."""
    process, teacher = lesson.teacher.process, lesson.teacher.unet
    timesteps = torch.tensor(lesson.pool.timesteps)

    def step(update: Update) -> dict[str, Tensor | float]:
        rows, at = update.randint(len(lesson.pool)).cpu(), update.randint(len(timesteps)).cpu()
        x = lesson.pool.states[rows, at].float().to(training.device)
        target = lesson.pool.x0[rows, at].float().to(training.device)
        t, text = timesteps[at].to(training.device), lesson.text(rows)
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
                    theirs, _ = encoder_features(teacher, x, t, text)
            features = feature_loss(mine[: len(theirs)], theirs[: len(mine)])
            metrics["features"] = features.detach()
            loss = loss + recipe.feature_weight * features
        norm = training.optimise("student", loss)
        return {"loss": loss.detach(), **metrics, "grad_norm": norm}

    return step


# --- phase 2 -----------------------------------------------------------------------------------------------------------


def steps_step(training: Training, student: nn.Module, lesson: Lesson, recipe: StepsRecipe) -> Callable[[Update], Any]:
    """Pseudo-Huber distance between every prediction of a rollout and the teacher's final latents for its noise."""
    process = lesson.teacher.process

    def step(update: Update) -> dict[str, Tensor | float]:
        rows = update.randint(len(lesson.pool)).cpu()
        noise, target = (part.to(training.device) for part in (lesson.pool.noise(rows), lesson.pool.final(rows)))
        count = recipe.step_counts[update.index % len(recipe.step_counts)]
        with training.autocast():
            done = walk(student, process, noise, lesson.text(rows), process.trailing_timesteps(count))
        losses = [pseudo_huber(x0, target, recipe.huber_c) for x0 in done.pictures]
        loss = torch.stack(losses).mean()
        norm = training.optimise("student", loss)
        return {"loss": loss.detach(), "first": losses[0].detach(), "last": losses[-1].detach(), "grad_norm": norm}

    return step


# --- phase 3 -----------------------------------------------------------------------------------------------------------


def adversarial_step(
    training: Training, student: nn.Module, discriminator: Discriminator, lesson: Lesson, recipe: AdversarialRecipe
) -> Callable[[Update], Any]:
    """Some discriminator updates, each on other true pictures and noise, then one student update, on one rollout.

    Student: regression_weight·pseudo-Huber to the pair + adversarial_weight·L_adv + distillation_weight·L_distil (ADD's
    eq. 1 with its pair term). Discriminator: hinge, mismatched captions as a share of the fakes, R1 every few updates.
    """
    process, teacher = lesson.teacher.process, lesson.teacher.unet

    def judged(x0: Tensor, noise: Tensor, t: Tensor, text: Tensor) -> tuple[list[Tensor], Tensor]:
        return encoder_features(teacher, process.add_noise(x0, noise, t), t, text)

    def reals(update: Update, rows: Tensor) -> tuple[Tensor, Tensor]:
        """True pictures with their captions; a share of them the teacher's."""
        true, text = lesson.pool.final(rows).to(training.device), lesson.text(rows)
        if lesson.latents is not None:
            own = update.randint(len(lesson.latents)).cpu()
            use = (update.rand() < recipe.real_share).view(-1, 1, 1, 1)
            captions = lesson.source.captions(own.tolist(), epoch=update.index)
            true = torch.where(use, lesson.latents[own].float().to(training.device), true)
            text = torch.where(use[..., 0], lesson.teacher.embed(captions), text)
        return true, text

    def step(update: Update) -> dict[str, Tensor | float]:
        rows = update.randint(len(lesson.pool)).cpu()
        noise, target = (part.to(training.device) for part in (lesson.pool.noise(rows), lesson.pool.final(rows)))
        text = lesson.text(rows)
        timesteps = process.trailing_timesteps(recipe.step_counts[update.index % len(recipe.step_counts)])
        with training.autocast():
            done = walk(student, process, noise, text, timesteps)
        # Every prediction of the walk is regressed; the finished one alone is judged.
        regression = torch.stack([pseudo_huber(x0, target, recipe.huber_c) for x0 in done.pictures]).mean()
        picture = done.pictures[-1]
        metrics: dict[str, Tensor | float] = {}
        if recipe.adversarial_weight > 0:  # without the term there is nothing to train a discriminator for
            for _ in range(recipe.discriminator_updates):
                real = reals(update, rows)
                t, renoise = update.randint(recipe.max_noise_timestep), update.randn(*picture.shape[1:])
                metrics = _discriminate(
                    training, discriminator, judged, update, recipe, (picture.detach(), text), real, t, renoise
                )

        loss = recipe.regression_weight * regression
        metrics["regression"] = regression.detach()
        if recipe.adversarial_weight > 0:
            t, renoise = update.randint(recipe.max_noise_timestep), update.randn(*picture.shape[1:])
            with training.autocast():
                features, emb = judged(picture, renoise, t, text)
            adversarial = hinge_generator(discriminator(features, emb, text))
            loss = loss + recipe.adversarial_weight * adversarial
            metrics["adversarial"] = adversarial.detach()
        if recipe.distillation_weight > 0:
            distillation = _distillation_loss(training, lesson, picture, text, update)
            loss = loss + recipe.distillation_weight * distillation
            metrics["distillation"] = distillation.detach()
        norm = training.optimise("student", loss)
        return {"loss": loss.detach(), **metrics, "grad_norm": norm}

    return step


Labelled = tuple[Tensor, Tensor]  # latents and the text states of their captions


def _discriminate(
    training: Training,
    discriminator: Discriminator,
    judged: Callable[..., tuple[list[Tensor], Tensor]],
    update: Update,
    recipe: AdversarialRecipe,
    fake: Labelled,
    real: Labelled,
    t: Tensor,
    noise: Tensor,
) -> dict[str, Tensor | float]:
    """One update of the discriminator."""
    with torch.no_grad(), training.autocast():
        fake_features, fake_emb = judged(fake[0], noise, t, fake[1])
        real_features, real_emb = judged(real[0], noise, t, real[1])
    with_r1 = recipe.r1_weight > 0 and update.index % recipe.r1_every == 0
    real_inputs = [f.float().requires_grad_(with_r1) for f in real_features]
    real_logits = discriminator(real_inputs, real_emb, real[1])
    fake_logits = discriminator(fake_features, fake_emb, fake[1])
    metrics: dict[str, Tensor | float] = {"discriminator_accuracy": accuracy(real_logits, fake_logits)}
    wrong_logits = None
    if recipe.mismatched_captions > 0:
        # A true picture under its neighbour's caption is as false as a drawn one: the discriminator must read.
        wrong = max(1, round(recipe.mismatched_captions * len(t)))
        shifted = real[1].roll(1, dims=0)[:wrong]
        with torch.no_grad(), training.autocast():
            features, emb = judged(real[0][:wrong], noise[:wrong], t[:wrong], shifted)
        wrong_logits = discriminator(features, emb, shifted)
    loss = hinge_discriminator(real_logits, fake_logits, wrong_logits, recipe.mismatched_captions)
    if with_r1:
        penalty = r1_penalty(real_logits, real_inputs)
        loss = loss + recipe.r1_weight * penalty
        metrics["r1"] = penalty.detach()
    training.optimise("discriminator", loss)
    return {"discriminator": loss.detach(), **metrics}


def _distillation_loss(training: Training, lesson: Lesson, picture: Tensor, text: Tensor, update: Update) -> Tensor:
    """ADD's L_distil = c(t)·‖x0_student − x0_teacher(α_t·sg(x0_student) + σ_t·ε)‖² with c(t) = α_t (eq. 4)."""
    teacher = lesson.teacher
    t, noise = update.randint(teacher.process.num_train_timesteps), update.randn(*picture.shape[1:])
    with torch.no_grad(), training.autocast():
        x_t = teacher.process.add_noise(picture.detach(), noise, t)
        guided = guided_predict(teacher.unet, x_t, t, text, teacher.empty, teacher.guidance_scale)
        target, _ = teacher.process.to_x0_eps(guided, x_t, t)
    alpha, _ = teacher.process.alpha_sigma(t)
    return (alpha * (picture - target).square()).mean()


# --- pictures of a run -------------------------------------------------------------------------------------------------


def student_preview(
    training: Training, lesson: Lesson, vae: Any, step_counts: Sequence[int], *, count: int = 10
) -> Callable[[Path], None]:
    """A grid writer: the teacher's pictures on top, below them the student's for the same noises, a row a step count."""
    from genin.distill.autoencoder import decode
    from genin.distill.previews import save_grid, to_uint8

    rows = torch.arange(min(count, len(lesson.pool)))

    def preview(path: Path) -> None:
        student = training.average_of("student")
        latents = [lesson.pool.final(rows).to(training.device)]
        with torch.no_grad(), training.autocast():
            for steps in sorted(step_counts, reverse=True):
                noise = lesson.pool.noise(rows).to(training.device)
                timesteps = lesson.teacher.process.trailing_timesteps(steps)
                latents.append(
                    walk(student, lesson.teacher.process, noise, lesson.text(rows), timesteps, learn=False).pictures[-1]
                )
        with torch.no_grad():
            save_grid([to_uint8(decode(vae, part.float()).cpu().numpy()) for part in latents], path, scale=3)

    return preview

"""The phases of distillation, each one update function on the shared training loop.

1. `prune`: a network with blocks taken out learns the guided teacher's prediction along the pool's trajectories (BK-SDM's
   output and feature terms; guidance is baked in from here on).
2. `steps`: from pure noise the student walks with the sampler it ships with, and at every state of its own making is
   pulled towards the teacher's final picture for that noise: regression onto the ODE's end, as in consistency models,
   with exact pairs instead of a bootstrap. Number by number alone that makes pictures soft; where asked, a distance in the
   frozen teacher's features joins it (Lin & Yang 2024, arXiv:2401.00110; on pairs: Kang et al. 2024, arXiv:2405.05967).
3. `adversarial`: the same update, plus a discriminator that tells its pictures from true ones (ADD, in LADD's features), and
   where asked distribution matching (`matching`).

All step counts are trained together; what the student predicts at a timestep is always the finished picture, so one network
serves one, two and four steps.

Not here: the networks (`student`, `discriminator`), the losses (`losses`), the order of phases (`distillation`).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genin.distill.diffusion import Process, guided_predict, predict, sample
from genin.distill.discriminator import Discriminator, encoder_features
from genin.distill.losses import (
    accuracy,
    feature_loss,
    hinge_discriminator,
    hinge_generator,
    perceptual_distance,
    pseudo_huber,
    r1_penalty,
)
from genin.distill.matching import FakeScore
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
    student: nn.Module,
    process: Process,
    noise: Tensor,
    text: Tensor,
    timesteps: Sequence[int],
    *,
    learn: Container[int] = (),
) -> Walk:
    """Deterministic DDIM (η = 0) from noise through `timesteps`. The predictions of the steps in `learn` carry gradients, no state
    does: each step learns from where the student really arrives, and no gradient runs through the sampler."""
    x, states, times, pictures = noise, [], [], []
    for i, t_now in enumerate(timesteps):
        t = torch.full((len(x),), t_now, dtype=torch.long, device=x.device)
        with torch.set_grad_enabled(i in learn):
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


# Share of the third phase over which the discriminator's word gains its weight: at first it knows nothing.
RAMP_SHARE = 0.1

# --- phases 2 and 3 ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """How the frozen teacher looks at pictures in one update: noised by `noise` to `t`, through its encoder."""

    lesson: Lesson
    autocast: Callable[[], Any]
    t: Tensor
    noise: Tensor

    def __call__(self, x0: Tensor, text: Tensor, *, learn: bool = False) -> tuple[list[Tensor], Tensor]:
        """Latents and their captions => (feature maps, time embedding); gradients only if asked for."""
        teacher = self.lesson.teacher
        with torch.set_grad_enabled(learn), self.autocast():
            return encoder_features(teacher.unet, teacher.process.add_noise(x0, self.noise, self.t), self.t, text)


def steps_step(
    training: Training,
    student: nn.Module,
    lesson: Lesson,
    recipe: StepsRecipe,
    discriminator: Discriminator | None = None,
    fake_score: FakeScore | None = None,
) -> Callable[[Update], Any]:
    """One rollout; every prediction of it is regressed onto the teacher's final latents for its noise, and the last, where the
    recipe says so, also compared in the teacher's features and judged by a discriminator.

    With backward distillation a rollout ends at one of its later steps, each in its turn. Its first prediction aims at the noise's
    final latents, its last at where the teacher leads from the state that the student has arrived at there; those between only lead
    the way.

    Student: regression_weight·pseudo-Huber + perceptual_weight·L_features + adversarial_weight·L_adv +
    distillation_weight·L_distil (ADD's eq. 1, and terms of our own for the pair) + matching_weight·L_matching. Distance,
    discriminator's update and its word on the student share one look at the picture.
    """
    process = lesson.teacher.process
    adversarial = recipe if isinstance(recipe, AdversarialRecipe) else None

    def step(update: Update) -> dict[str, Tensor | float]:
        rows = update.randint(len(lesson.pool)).cpu()
        noise, target = (part.to(training.device) for part in (lesson.pool.noise(rows), lesson.pool.final(rows)))
        text = lesson.text(rows)
        round_, turn = divmod(update.index, len(recipe.step_counts))
        timesteps = process.trailing_timesteps(recipe.step_counts[turn])
        backward = recipe.backward_distillation and len(timesteps) > 1
        if backward:
            timesteps = timesteps[: 2 + round_ % (len(timesteps) - 1)]
        last = len(timesteps) - 1
        aims = {0: target, last: target} if backward else dict.fromkeys(range(len(timesteps)), target)
        with training.autocast():
            done = walk(student, process, noise, text, timesteps, learn=aims)
        if backward:
            aims[last] = target = finished_by_teacher(training, lesson, done, text, recipe.step_counts)
        losses = [pseudo_huber(done.pictures[i], aim, recipe.huber_c) for i, aim in aims.items()]
        loss = recipe.regression_weight * torch.stack(losses).mean()
        picture = done.pictures[-1]
        metrics = {"first": losses[0].detach(), "last": losses[-1].detach(), **_against(picture, target)}
        if recipe.perceptual_weight > 0 or discriminator is not None:
            highest = min(round(recipe.max_noise_timestep * training.dial("noise")), process.num_train_timesteps)
            t, renoise = update.randint(max(1, highest)), update.randn(*picture.shape[1:])
            look = Look(lesson, training.autocast, t, renoise)
            features, emb = look(picture, text, learn=True)
            if recipe.perceptual_weight > 0:
                perceptual = perceptual_distance(features, look(target, text)[0])
                loss = loss + recipe.perceptual_weight * perceptual
                metrics["perceptual"] = perceptual.detach()
            if adversarial and discriminator is not None:
                with training.autocast():
                    fake_logits = discriminator([f.detach() for f in features], emb, text)
                true = true_pictures(lesson, adversarial.real_share, update, rows)
                metrics |= _discriminate(training, discriminator, look, update, adversarial, fake_logits, true)
                word = hinge_generator(_frozen(training, discriminator, features, emb, text))
                ramp = min(1.0, training.progress / RAMP_SHARE) * training.dial("adversarial")
                loss = loss + ramp * adversarial.adversarial_weight * word
                metrics["adversarial"] = word.detach()
        if adversarial and adversarial.distillation_weight > 0:
            distillation = _distillation_loss(training, lesson, picture, text, update)
            loss = loss + adversarial.distillation_weight * distillation
            metrics["distillation"] = distillation.detach()
        if adversarial and fake_score is not None:
            metrics["fake_score"] = fake_score.learn(picture, text, update)
            matching = fake_score.loss(picture, text, update)
            loss = loss + adversarial.matching_weight * matching
            metrics["matching"] = matching.detach()
        norm = training.optimise("student", loss)
        return {"loss": loss.detach(), **metrics, "grad_norm": norm}

    return step


@torch.no_grad()
def _against(picture: Tensor, target: Tensor) -> dict[str, Tensor | float]:
    """The latents' deviation as a share of the teacher's, and their means' distance in deviations: for `health`."""
    deviation = target.std()
    return {"spread": picture.std() / deviation, "shift": (picture.mean() - target.mean()).abs() / deviation}


def finished_by_teacher(
    training: Training, lesson: Lesson, done: Walk, text: Tensor, step_counts: Sequence[int]
) -> Tensor:
    """Where the guided teacher leads from the last state of a walk, by DDIM at the finest timesteps that are trained.

    The pair's picture is where the *noise* leads. A student that has strayed from the teacher's way cannot reach it any more,
    and regressed onto it regardless learns the mean of what it might have been: a soft picture, and under a caption that leaves
    things open the same one for every noise.
    """
    teacher, start = lesson.teacher, int(done.timesteps[-1][0])
    timesteps = [start, *(t for t in teacher.process.trailing_timesteps(max(step_counts)) if t < start)]
    with training.autocast():
        return sample(
            teacher.unet, teacher.process, done.states[-1], text, timesteps=timesteps, empty=teacher.empty,
            guidance_scale=teacher.guidance_scale,
        ).float()  # fmt: skip


def _frozen(training: Training, discriminator: nn.Module, *inputs: Any) -> Any:
    """The discriminator's logits with gradients for its inputs only: unwrapped, so that no process waits for any of its own."""
    network = training.accelerator.unwrap_model(discriminator)
    network.requires_grad_(False)
    try:
        with training.autocast():
            return network(*inputs)
    finally:
        network.requires_grad_(True)


def true_pictures(lesson: Lesson, real_share: float, update: Update, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Latents of true pictures with their captions' text states; a share of them the teacher's.

    As far as pictures are cached it is the one of the rollout's own caption, so that true and false differ in nothing else:
    a caption met on one side only would give the answer away.
    """
    device = lesson.teacher.device
    true, text = lesson.pool.final(rows).to(device), lesson.text(rows)
    if lesson.latents is None:
        return true, text
    own = rows % len(lesson.source) % len(lesson.latents)
    use = (update.rand() < real_share).view(-1, 1, 1, 1)
    true = torch.where(use, lesson.latents[own].float().to(device), true)
    return true, torch.where(use[..., 0], lesson.text(own), text)


def _discriminate(
    training: Training,
    discriminator: Discriminator,
    look: Look,
    update: Update,
    recipe: AdversarialRecipe,
    fake_logits: list[Tensor],
    true: tuple[Tensor, Tensor],
) -> dict[str, Tensor | float]:
    """One update of the discriminator: hinge, mismatched captions as a share of the fakes, R1 every few updates."""
    latents, text = true
    features, emb = look(latents, text)
    with_r1 = recipe.r1_weight > 0 and update.index % recipe.r1_every == 0
    inputs = [f.float().requires_grad_(with_r1) for f in features]
    with training.autocast():
        real_logits = discriminator(inputs, emb, text)
    metrics: dict[str, Tensor | float] = {"discriminator_accuracy": accuracy(real_logits, fake_logits)}
    wrong_logits = None
    if recipe.mismatched_captions > 0:
        # A true picture under its neighbour's caption is as false as a drawn one (unless that says so little that it fits): the
        # discriminator must read.
        wrong = max(1, round(recipe.mismatched_captions * len(text)))
        shifted = text.roll(1, dims=0)[:wrong]
        part = Look(look.lesson, look.autocast, look.t[:wrong], look.noise[:wrong])
        with training.autocast():
            wrong_logits = discriminator(*part(latents[:wrong], shifted), shifted)
    loss = hinge_discriminator(real_logits, fake_logits, wrong_logits, recipe.mismatched_captions)
    if with_r1:
        penalty = r1_penalty(real_logits, inputs)
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
            for steps in sorted(set(step_counts), reverse=True):
                noise = lesson.pool.noise(rows).to(training.device)
                timesteps = lesson.teacher.process.trailing_timesteps(steps)
                latents.append(walk(student, lesson.teacher.process, noise, lesson.text(rows), timesteps).pictures[-1])
        with torch.no_grad():
            save_grid([to_uint8(decode(vae, part.float()).cpu().numpy()) for part in latents], path, scale=3)

    return preview

"""The training-time diffusion process against diffusers, and the fast solver against many plain steps."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from genin.distill.models.diffusion import (  # noqa: E402
    TEACHER_SCHEDULER,
    Denoiser,
    Process,
    prediction_of,
    sample,
    student_scheduler,
)
from genin.distill.models.guided import Guided  # noqa: E402
from genin.distill.student.phases import teacher_completion  # noqa: E402
from genin.distill.student.rollout import Student  # noqa: E402


class Gaussian(nn.Module):
    """The exact v-prediction for data drawn from N(mean, scale²): its ODE has a closed form."""

    def __init__(self, process: Process, mean: float = 0.7, scale: float = 0.3) -> None:
        super().__init__()
        self.process, self.mean, self.scale = process, mean, scale

    def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, return_dict: bool) -> tuple[Tensor]:
        alpha, sigma = self.process.alpha_sigma(t)
        variance = alpha.square() * self.scale**2 + sigma.square()
        x0 = self.mean + alpha * self.scale**2 / variance * (x - alpha * self.mean)
        eps = (x - alpha * x0) / sigma.clamp_min(1e-6)
        return (alpha * eps - sigma * x0,)


def noise(seed: int = 0, count: int = 8) -> Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon", "sample"])
def test_conversions_invert_the_forward_process(prediction: str) -> None:
    process = Process({**TEACHER_SCHEDULER, "prediction_type": prediction, "rescale_betas_zero_snr": False})
    x0, eps, t = noise(0), noise(1), torch.tensor([0, 10, 250, 499, 700, 900, 990, 999])
    x_t = process.add_noise(x0, eps, t)
    found_x0, found_eps = process.to_x0_eps(process.target(x0, eps, t), x_t, t)
    assert torch.allclose(found_x0, x0, atol=2e-4) and torch.allclose(found_eps, eps, atol=2e-3)


def test_steps_are_those_of_diffusers() -> None:
    from diffusers import DDIMScheduler

    process, scheduler = Process(TEACHER_SCHEDULER), DDIMScheduler.from_config(TEACHER_SCHEDULER)
    for steps in (1, 2, 4, 10, 50):
        scheduler.set_timesteps(steps)
        assert process.trailing_timesteps(steps) == scheduler.timesteps.tolist()
    scheduler.set_timesteps(4)
    v, x = noise(2), noise(3)
    for t_now, t_next in ((999, 749), (749, 499), (249, -1)):
        t = torch.full((len(x),), t_now)
        x0, eps = process.to_x0_eps(v, x, t)
        ours = process.ddim_step(x0, eps, torch.full_like(t, t_next))
        theirs = scheduler.step(v, t_now, x, eta=0.0).prev_sample
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_pure_noise_holds_nothing_of_the_picture() -> None:
    process = Process(TEACHER_SCHEDULER)
    assert float(process.alphas[-1]) == 0.0 and float(process.sigmas[-1]) == 1.0
    assert process.half_log_snr(999) == float("-inf")


def test_steps_of_second_order_stay_nearer_to_the_ode_than_as_many_plain_ones() -> None:
    process = Process(TEACHER_SCHEDULER)
    unet, start, text = Gaussian(process), noise(4), torch.zeros(8, 3, 5)
    denoiser = Denoiser(unet, process)
    exact = sample(denoiser, start, text, timesteps=process.trailing_timesteps(1000))
    few = process.trailing_timesteps(12)
    plain = sample(denoiser, start, text, timesteps=few)
    second = sample(denoiser, start, text, timesteps=few, solver="dpm-solver++")
    assert second.states.shape == (13, 8, 4, 8, 8) and second.x0.shape == (12, 8, 4, 8, 8)
    assert torch.equal(plain.states[:2], second.states[:2])  # from pure noise the first step is of first order
    there = exact.states[exact.timesteps.index(few[-1])]  # the last one is, too
    error_plain, error_second = (float((way.states[-2] - there).square().mean().sqrt()) for way in (plain, second))
    assert error_second < 0.5 * error_plain, (error_second, error_plain)


@pytest.mark.parametrize(("count", "way"), [(4, [249, 124, 62]), (2, [499, 249, 124, 62])])
def test_backward_distillation_asks_the_teacher_from_the_students_own_state(count: int, way: list[int]) -> None:
    """The finest steps that are trained, and two more below them, of second order."""
    process = Process(TEACHER_SCHEDULER)
    unet, start, text = Gaussian(process), noise(6), torch.zeros(8, 3, 5)
    denoiser = Denoiser(unet, process)
    teacher = Guided(denoiser, None, None, text[:1], torch.device("cpu"), 3.0)  # no caption, no guidance
    training: Any = SimpleNamespace(autocast=nullcontext)
    done = Student(unet, process).rollout(start, text, process.trailing_timesteps(count), grad_steps=range(count))
    data: Any = SimpleNamespace(teacher=teacher)
    target = teacher_completion(training, data, done, text, (4, 2, 1))
    wanted = sample(denoiser, done.states[-1], text, timesteps=way, solver="dpm-solver++").states[-1]
    assert torch.allclose(target, wanted, atol=1e-5) and not target.requires_grad
    assert float((done.pictures[-1] - target).abs().max()) > 0.01  # more steps of the teacher are not one
    assert teacher_completion(training, data, done, text, (1000,)).isfinite().all()  # no timestep twice


@given(
    gamma=st.floats(0.5, 50),
    seed=st.integers(0, 2**31),
    schedule=st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"]),
)
@settings(max_examples=30)
def test_weighted_losses_of_one_prediction_agree_whatever_it_is_called(gamma: float, seed: int, schedule: str) -> None:
    """v, ε and x0 of one and the same guess: each loss times its weight is the same, up to one constant a type."""
    generator = torch.Generator().manual_seed(seed)
    x0, eps, guess = (torch.randn(64, 4, 4, 4, generator=generator) for _ in range(3))
    t = torch.randint(5, 990, (64,), generator=generator)
    weighted = {}
    for kind in ("v_prediction", "epsilon", "sample"):
        process = Process(
            {**TEACHER_SCHEDULER, "beta_schedule": schedule, "prediction_type": kind, "rescale_betas_zero_snr": False}
        )
        x_t = process.add_noise(x0, eps, t)
        alpha, sigma = process.alpha_sigma(t)
        # The guess is a picture; what it would be called under this type follows from x_t = α·x0 + σ·ε.
        guessed_eps = (x_t.double() - alpha.double() * guess.double()) / sigma.double()
        output = process.target(guess.double(), guessed_eps, t)
        error = (output - process.target(x0, eps, t).double()).square().mean(dim=(1, 2, 3))
        weighted[kind] = error * process.min_snr_weight(t, gamma).double()
    for kind in ("epsilon", "sample"):
        ratio = weighted[kind] / weighted["v_prediction"]
        assert float((ratio / ratio.median() - 1).abs().max()) < 1e-3, kind


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon", "sample"])
def test_min_snr_weights_are_finite_at_both_ends_and_one_on_average(prediction: str) -> None:
    process = Process({**TEACHER_SCHEDULER, "prediction_type": prediction})  # ends in pure noise
    weights = process.min_snr_weight(torch.arange(1000), 5.0)
    assert bool(torch.isfinite(weights).all()) and float(weights.mean()) == pytest.approx(1.0, rel=1e-4)
    assert float(weights.min()) >= 0 and (prediction != "epsilon" or float(weights[-1]) == float(weights.max()))


def test_min_snr_weights_follow_the_paper() -> None:
    process, t = Process(TEACHER_SCHEDULER), torch.arange(0, 990, 37)
    assert torch.equal(process.min_snr_weight(t, 0.0), torch.ones(len(t)))
    alpha, sigma = (part.flatten().double().numpy() for part in process.alpha_sigma(t))
    snr = alpha**2 / sigma**2
    expected = np.minimum(snr, 5.0) / (snr + 1)
    ratio = process.min_snr_weight(t, 5.0).double().numpy() / expected
    assert np.allclose(ratio, ratio[0], rtol=1e-4)


# Stable Diffusion 1.5's, as its folder has it, and 2.1's.
SD15 = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "skip_prk_steps": True,
}
SD21 = {**SD15, "prediction_type": "v_prediction"}


class Bell(nn.Module):
    """What an ideal network of `process`, its kind and its schedule, predicts of data drawn from N(mean, scale²), also between two
    timesteps."""

    def __init__(self, process: Process, mean: float = 0.7, scale: float = 0.3) -> None:
        super().__init__()
        self.process, self.mean, self.scale, self.asked = process, mean, scale, torch.zeros(0)

    def forward(self, x: Tensor, t: Tensor, **_: Any) -> tuple[Tensor]:
        self.asked, angles = t, torch.atan2(self.process.sigmas, self.process.alphas)
        low, part = t.floor().long().clamp_max(len(angles) - 2), t - t.floor().clamp_max(len(angles) - 2)
        angle = (angles[low] + part * (angles[low + 1] - angles[low])).view(-1, 1, 1, 1)
        alpha, sigma = angle.cos(), angle.sin()
        x0 = self.mean + alpha * self.scale**2 / (alpha**2 * self.scale**2 + sigma**2) * (x - alpha * self.mean)
        return (prediction_of(self.process.prediction_type, x0, (x - alpha * x0) / sigma, alpha, sigma),)


@pytest.mark.parametrize("teacher", [SD15, SD21, {"prediction_type": "sample", "beta_schedule": "linear"}])
def test_a_students_schedule_is_its_teachers_rescaled_to_end_in_pure_noise(teacher: dict[str, Any]) -> None:
    from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

    own, ours = Process(teacher), Process(student_scheduler(teacher))
    assert float(own.alphas[-1]) > 0.005 and float(ours.alphas[-1]) == 0.0
    assert ours.prediction_type == "v_prediction"
    products = own.alphas.double().square()
    betas = 1 - products / torch.cat([torch.ones(1).double(), products[:-1]])
    rescaled = torch.cumprod(1 - rescale_zero_terminal_snr(betas.float()), 0).sqrt()
    assert torch.allclose(ours.alphas, rescaled, atol=2e-3)
    assert student_scheduler(TEACHER_SCHEDULER) == TEACHER_SCHEDULER  # has both already


@pytest.mark.parametrize("teacher", [SD15, SD21, {**SD15, "prediction_type": "sample"}, TEACHER_SCHEDULER])
def test_a_denoiser_says_the_same_in_its_students_schedule(teacher: dict[str, Any]) -> None:
    """Of one state of one picture, whatever the network predicts and however its schedule runs; x0 to 1/1000 wherever its own
    schedule reaches."""
    own, process = Process(teacher), Process(student_scheduler(teacher))
    denoiser, exact = Denoiser(Bell(own), own, process), Bell(process)
    t = torch.tensor([0, 3, 100, 251, 499, 650, 750, 860])
    x0, eps = 0.7 + 0.3 * noise(1), noise(2)
    x_t = process.add_noise(x0, eps, t)
    expected = process.to_x0_eps(exact(x_t, t)[0], x_t, t)
    found = denoiser(x_t, t, torch.zeros(8, 1, 2))
    assert torch.allclose(found[0], expected[0], atol=2e-3)
    assert torch.allclose(found[1][2:], expected[1][2:], atol=2e-3)  # at 0 there is hardly any noise to tell
    asked = denoiser.timesteps(t)
    if teacher is TEACHER_SCHEDULER:
        assert torch.equal(asked, t)
    else:  # the student's schedule has more noise at the same timestep
        assert bool((asked >= t.float() - 1e-3).all()) and float(asked[-1]) < 999
        assert float(denoiser.timesteps(torch.tensor([999]))) == 999
    # What a copy that learns should predict there is of its own kind.
    ideal = denoiser.target(*expected, t)
    assert torch.allclose(ideal[2:], denoiser.unet(x_t, asked)[0][2:], atol=5e-3)


@pytest.mark.parametrize("teacher", [SD15, SD21, {**SD15, "prediction_type": "sample"}, TEACHER_SCHEDULER])
def test_what_a_copy_learns_is_read_as_the_picture_at_every_noise(teacher: dict[str, Any]) -> None:
    """A fake score is trained on `target` and read by the call: in the noise beyond the teacher's schedule, too."""
    own, process = Process(teacher), Process(student_scheduler(teacher))
    t = torch.tensor([1, 100, 500, 800, 880, 900, 940, 979])
    x0, eps = 0.7 + 0.3 * noise(1), noise(2)
    x_t = process.add_noise(x0, eps, t)
    learnt = Denoiser(None, own, process).target(x0, eps, t)
    found = Denoiser(lambda *_given, **_named: (learnt,), own, process)(x_t, t, torch.zeros(8, 1, 2))
    assert torch.allclose(found[0], x0, atol=1e-3)
    assert torch.allclose(found[1][1:], eps[1:], atol=1e-3)


@pytest.mark.parametrize("teacher", [SD15, SD21])
def test_in_its_students_schedule_a_teacher_of_noise_draws_the_same_pictures(teacher: dict[str, Any]) -> None:
    """Fifty steps from pure noise; started there in a schedule that only comes near to it, pictures lose some of their mean."""
    own, process = Process({**teacher, "set_alpha_to_one": True}), Process(student_scheduler(teacher))
    start, text, network = noise(3), torch.zeros(8, 1, 2), Bell(Process(teacher))
    denoiser = Denoiser(network, own, process)
    ours = sample(denoiser, start, text, timesteps=process.trailing_timesteps(50)).states[-1]
    theirs = sample(Denoiser(network, own), start, text, timesteps=own.trailing_timesteps(50)).states[-1]
    assert abs(float(ours.mean()) - 0.7) < 0.015 < abs(float(theirs.mean()) - 0.7)
    assert float((ours - theirs).abs().max()) < 0.03
    exact = sample(Denoiser(Bell(process), process), start, text, timesteps=process.trailing_timesteps(50)).states[-1]
    assert float((ours - exact).abs().max()) < 0.02

"""The numpy sampler against diffusers' DDIMScheduler and against the training-time twin."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from genin.runtimes.errors import InputError
from genin.runtimes.samplers import Schedule, guide

CONFIGS = [
    {"beta_schedule": schedule, "prediction_type": prediction, "timestep_spacing": spacing, **extra}
    for schedule, prediction, spacing, extra in itertools.product(
        ["scaled_linear", "linear", "squaredcos_cap_v2"],
        ["v_prediction", "epsilon", "sample"],
        ["trailing", "leading", "linspace"],
        [
            {"rescale_betas_zero_snr": True, "set_alpha_to_one": True, "steps_offset": 0, "clip_sample": False},
            {"rescale_betas_zero_snr": False, "set_alpha_to_one": False, "steps_offset": 1, "clip_sample": False},
            {"rescale_betas_zero_snr": False, "num_train_timesteps": 250, "clip_sample_range": 1.5},
        ],
    )
    # ε on pure noise says nothing about x0: diffusers divides by zero there.
    if not (prediction == "epsilon" and extra.get("rescale_betas_zero_snr"))
]


def _label(config: dict[str, Any]) -> str:
    return "-".join(str(value) for value in config.values())


@pytest.mark.parametrize("config", CONFIGS, ids=_label)
def test_equals_diffusers(config: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    from diffusers import DDIMScheduler

    config = {"beta_start": 0.00085, "beta_end": 0.012, **config}
    theirs, ours = DDIMScheduler.from_config(config), Schedule.from_config(config)
    np.testing.assert_allclose(ours.alphas_cumprod, theirs.alphas_cumprod.numpy(), rtol=0, atol=3e-6)
    draw = np.random.default_rng(0)
    for count in (1, 2, 3, 4, 7, 30, 50):
        theirs.set_timesteps(count)
        steps = ours.steps(count)
        assert [t for t, _ in steps] == theirs.timesteps.tolist()
        for t, t_next in steps:
            x, prediction = (draw.standard_normal((2, 4, 3, 3), np.float32) for _ in range(2))
            expected = theirs.step(torch.from_numpy(prediction), t, torch.from_numpy(x))
            x_next, x0 = ours.step(prediction, x, t, t_next)
            assert x_next.dtype == x0.dtype == np.float32
            # Their float32 ᾱ is off by 1e-6, which dividing by a small α or σ magnifies.
            scale = max(1.0, float(np.abs(x0).max()))
            np.testing.assert_allclose(x0, expected.pred_original_sample.numpy(), rtol=2e-3, atol=2e-4 * scale)
            np.testing.assert_allclose(x_next, expected.prev_sample.numpy(), rtol=2e-3, atol=2e-4 * scale)


def test_equals_the_training_time_twin() -> None:
    torch = pytest.importorskip("torch")
    from genin.distill.models.diffusion import TEACHER_SCHEDULER, Denoiser, Process, sample

    process, schedule = Process(TEACHER_SCHEDULER), Schedule.from_config(TEACHER_SCHEDULER)
    timesteps = [999, 749, 499, 249]
    assert schedule.explicit_steps(timesteps) == schedule.steps(4)

    class Network(torch.nn.Module):  # type: ignore[name-defined,misc]
        def forward(self, x: Any, t: Any, **_: Any) -> Any:
            return (torch.sin(3 * x + t.view(-1, 1, 1, 1) / 100),)

    noise = np.random.default_rng(1).standard_normal((2, 4, 3, 3), np.float32)
    expected = (
        sample(Denoiser(Network(), process), torch.from_numpy(noise), torch.zeros(2, 1, 1), timesteps=timesteps)
        .states[-1]
        .numpy()
    )
    x = noise
    for t, t_next in schedule.explicit_steps(timesteps):
        x, _ = schedule.step(np.sin(3 * x + np.float32(t / 100)), x, t, t_next)
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-4)


def test_one_step_from_pure_noise_is_minus_v() -> None:
    schedule = Schedule.from_config(
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "clip_sample": False}
    )
    v = np.full((1, 1, 2, 2), 0.25, np.float32)
    x, x0 = schedule.step(v, np.ones_like(v), 999, -1)
    np.testing.assert_allclose(x, -v, atol=1e-7)
    np.testing.assert_allclose(x0, -v, atol=1e-7)


def test_other_schedulers_are_run_with_ddim_without_clipping() -> None:
    euler = {"_class_name": "EulerDiscreteScheduler", "beta_schedule": "scaled_linear", "interpolation_type": "linear"}
    assert Schedule.from_config(euler).clip is None
    assert Schedule.from_config({"beta_schedule": "scaled_linear"}).clip == 1.0


def test_guidance() -> None:
    u, c = np.zeros(3, np.float32), np.ones(3, np.float32)
    assert guide(u, c, 7.5).tolist() == [7.5] * 3
    assert guide(u, c, 1.0).tolist() == [1.0] * 3


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"beta_schedule": "sigmoid"}, "beta_schedule.*scaled_linear"),
        ({"prediction_type": "flow"}, "prediction_type"),
        ({"timestep_spacing": "karras"}, "timestep_spacing"),
        ({"num_train_timesteps": "many"}, "num_train_timesteps"),
        ({"num_train_timesteps": 10**8}, "num_train_timesteps"),
        ({"beta_end": float("nan")}, "beta_end"),
        ({"beta_end": 4.0}, "betas"),
        ({"trained_betas": ["x"]}, "trained_betas"),
        ({"thresholding": True}, "thresholding"),
    ],
)
def test_wrong_configurations_are_refused(config: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Schedule.from_config(config)


def test_wrong_steps_are_refused() -> None:
    schedule = Schedule.from_config({})
    for count in (0, -1, 1001):
        with pytest.raises(InputError, match="from 1 to 1000"):
            schedule.steps(count)
    for offset in (-1, 501):
        with pytest.raises(InputError, match=f"steps_offset {offset} leaves the schedule at 2 steps"):
            Schedule.from_config({"steps_offset": offset}).steps(2)
    with pytest.raises(InputError, match="timestep 1000"):
        schedule.explicit_steps([1000])

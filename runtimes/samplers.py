"""Deterministic DDIM in numpy, on the schedule that a diffusers `scheduler_config.json` describes.

`Schedule.from_config` reads the betas (`linear`, `scaled_linear`, `squaredcos_cap_v2`, `trained_betas`), zero-SNR
rescaling, spacing and prediction type; `steps` lists the pairs (t, t_next) that `step` walks through (Song et al. 2021,
arXiv:2010.02502, eq. 12, η = 0). For a number of steps everything is as in diffusers' DDIMScheduler, which after
timestep t goes to t − ⌊T/steps⌋ even where the next timestep of the list differs by one (`trailing`, steps that do not
divide T) or more (`linspace`). Explicit few-step timesteps go from each to the next, as students are trained.

Configurations of other schedulers (PNDM, Euler, DPM-Solver … in third-party folders) are run with DDIM on the same
betas: the same distribution, not the same picture as their own scheduler's. Arithmetic is float32 on coefficients
computed in float64.

Not here: noise (`genin.runtimes.noise`), stochastic or higher-order samplers, dynamic thresholding. The training-time
twin is `genin.distill.models.diffusion`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from genin.runtimes.errors import InputError
from genin.runtimes.vocabulary import check_choice
from genin.runtimes.wording import counted

Array = NDArray[np.float32]
Coefficients = NDArray[np.float64]
PredictionType = Literal["v_prediction", "epsilon", "sample"]
PREDICTION_TYPES = ("v_prediction", "epsilon", "sample")
SPACINGS = ("leading", "trailing", "linspace")
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
MAX_TRAINING_STEPS = 100_000
END = -1  # as a timestep: sampling is over
SMALLEST = 1e-6  # the smallest α or σ to divide by; only a schedule that ends in pure noise goes below


@dataclass(frozen=True, eq=False)
class Schedule:
    """ᾱ_t of every training timestep, ᾱ at the end of sampling, and how to interpret the network's output.

    x_t = √ᾱ_t·x0 + √(1 − ᾱ_t)·ε. `clip` bounds x0 to ±clip where a pixel-like model asks for it.
    """

    alphas_cumprod: Coefficients
    final_alpha_cumprod: float
    prediction_type: PredictionType
    spacing: str
    steps_offset: int
    clip: float | None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Schedule:
        """Errors: InputError naming the entry that is unknown or of the wrong type. Defaults are DDIMScheduler's."""
        alphas_cumprod = np.cumprod(1.0 - _betas(config)).astype(np.float64)
        if config.get("thresholding"):
            raise InputError("the scheduler asks for dynamic thresholding, which latent models do not use")
        offset = _number(config, "steps_offset", 0)
        own = (
            config.get("_class_name", "DDIMScheduler") == "DDIMScheduler"
        )  # configurations of other schedulers do not clip
        clips = config.get("clip_sample", own)
        return cls(
            alphas_cumprod,
            1.0 if config.get("set_alpha_to_one", True) else float(alphas_cumprod[0]),
            cast(PredictionType, _choice(config, "prediction_type", "epsilon", PREDICTION_TYPES)),
            _choice(config, "timestep_spacing", "leading", SPACINGS),
            int(offset),
            _number(config, "clip_sample_range", 1.0) if clips else None,
        )

    @property
    def training_steps(self) -> int:
        return len(self.alphas_cumprod)

    def steps(self, count: int) -> tuple[tuple[int, int], ...]:
        """`count` pairs (t, t_next), as DDIMScheduler walks them. Errors: InputError outside [1, training steps]."""
        total = self.training_steps
        if not 1 <= count <= total:
            raise InputError(f"{counted(count, 'step')} cannot be taken", remedy=f"choose from 1 to {total}")
        stride = total // count
        timesteps: NDArray[Any]
        if self.spacing == "linspace":
            timesteps = np.linspace(0, total - 1, count).round()[::-1]
        elif self.spacing == "leading":
            timesteps = (np.arange(count) * stride)[::-1] + self.steps_offset
        else:
            timesteps = np.round(np.arange(total, 0, -total / count)[:count]) - 1
        if timesteps[0] >= total or timesteps[-1] < 0:
            raise InputError(f"steps_offset {self.steps_offset} leaves the schedule at {counted(count, 'step')}")
        return tuple((int(t), max(int(t) - stride, END)) for t in timesteps)

    def explicit_steps(self, timesteps: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """Pairs (t, next of the list), ending at clean latents. Errors: InputError for a timestep off the schedule."""
        for timestep in timesteps:
            if not 0 <= timestep < self.training_steps:
                raise InputError(f"timestep {timestep} is outside the schedule of {self.training_steps}")
        return tuple(zip(timesteps, [*timesteps[1:], END], strict=True))

    def alpha_sigma(self, timestep: int) -> tuple[float, float]:
        """√ᾱ_t and √(1 − ᾱ_t)."""
        cumprod = self.final_alpha_cumprod if timestep < 0 else float(self.alphas_cumprod[timestep])
        return math.sqrt(cumprod), math.sqrt(1.0 - cumprod)

    def to_x0_eps(self, prediction: Array, x: Array, timestep: int) -> tuple[Array, Array]:
        """Network output → (x0, ε). v: Salimans & Ho 2022, arXiv:2202.00512."""
        alpha, sigma = self.alpha_sigma(timestep)
        if self.prediction_type == "v_prediction":
            return alpha * x - sigma * prediction, alpha * prediction + sigma * x
        if self.prediction_type == "epsilon":
            return (x - sigma * prediction) * np.float32(1 / max(alpha, SMALLEST)), prediction
        return prediction, (x - alpha * prediction) * np.float32(1 / max(sigma, SMALLEST))

    def step(self, prediction: Array, x: Array, timestep: int, next_timestep: int) -> tuple[Array, Array]:
        """One DDIM step (eq. 12, η = 0): x_t => (x at the next timestep, the estimate of x0), float32 of x's shape."""
        x0, eps = self.to_x0_eps(prediction, x, timestep)
        if self.clip is not None:
            x0 = np.clip(x0, -self.clip, self.clip)
        alpha, sigma = self.alpha_sigma(next_timestep)
        return alpha * x0 + sigma * eps, x0


def guide(unconditional: Array, conditional: Array, scale: float) -> Array:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598): u + s·(c − u)."""
    return unconditional + scale * (conditional - unconditional)


def _betas(config: Mapping[str, Any]) -> Coefficients:
    count = int(_number(config, "num_train_timesteps", 1000))
    if not 1 <= count <= MAX_TRAINING_STEPS:
        raise InputError(f"num_train_timesteps {count} is outside 1 … {MAX_TRAINING_STEPS}")
    first, last = _number(config, "beta_start", 0.0001), _number(config, "beta_end", 0.02)
    trained = config.get("trained_betas")
    betas: Coefficients
    if trained is not None:
        try:
            betas = np.asarray(trained, np.float64)
        except (TypeError, ValueError) as error:
            raise InputError("the scheduler's trained_betas are not numbers") from error
    else:
        kind = _choice(config, "beta_schedule", "linear", BETA_SCHEDULES)
        if kind == "linear":
            betas = np.linspace(first, last, count)
        elif kind == "scaled_linear":
            betas = np.square(np.linspace(math.sqrt(max(first, 0)), math.sqrt(max(last, 0)), count))
        else:
            betas = _cosine_betas(count)
    if betas.shape != (count,) or not ((betas >= 0) & (betas < 1)).all():
        raise InputError(f"the scheduler's betas are not {count} numbers in [0, 1)")
    return _zero_snr(betas) if config.get("rescale_betas_zero_snr") else betas


def _cosine_betas(count: int) -> Coefficients:
    """Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17, with β ≤ 0.999."""
    alphas_cumprod: Coefficients = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.minimum(1 - alphas_cumprod[1:] / alphas_cumprod[:-1], 0.999)


def _zero_snr(betas: Coefficients) -> Coefficients:
    """The last timestep becomes pure noise (Lin et al. 2024, arXiv:2305.08891, algorithm 1)."""
    roots = np.sqrt(np.cumprod(1.0 - betas))
    if len(roots) > 1:
        roots = (roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))
    alphas_cumprod = roots**2
    return 1.0 - np.concatenate([alphas_cumprod[:1], alphas_cumprod[1:] / alphas_cumprod[:-1]])


def _number(config: Mapping[str, Any], key: str, default: float) -> float:
    value = config.get(key, default)
    if type(value) not in (int, float) or not math.isfinite(value) or abs(value) > 1e9:
        raise InputError(f"the scheduler's {key} is not a number: {str(value)[:40]}")
    return float(value)


def _choice(config: Mapping[str, Any], key: str, default: str, choices: Sequence[str]) -> str:
    return check_choice(str(config.get(key, default))[:40], choices, f"scheduler {key}")

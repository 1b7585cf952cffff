"""The diffusion process, once: schedule, parameterisations, guidance and the deterministic DDIM step, in PyTorch.

Every network of the toolkit (teacher, student, a teacher that others trained) is seen as a *denoiser*: it is given a
noised latent x_t and a timestep and predicts v, ε or x0; `Process.to_x0_eps` turns any of the three into the pair
(x0, ε), in which all losses and samplers are written. Latents here are *final latents*: raw autoencoder latents times
the model's `scaling_factor`, close to unit variance.

Not here: the samplers that ship (numpy, `genin.runtimes.samplers`); this module is their training-time twin and is
tested against diffusers' DDIMScheduler, whose configuration it reads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from genin.runtimes.options import check_choice

PredictionType = Literal["v_prediction", "epsilon", "sample"]
Solver = Literal["ddim", "dpm-solver++"]

# v-prediction on a schedule whose last step is pure noise, so that one step from noise is well posed
# (Lin et al. 2024, arXiv:2305.08891); trailing spacing so that every step count starts at that last step.
TEACHER_SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "set_alpha_to_one": True,
    "clip_sample": False,
    "steps_offset": 1,  # trailing spacing ignores it; diffusers warns about 0
}


class Process:
    """A variance-preserving forward process x_t = α_t·x0 + σ_t·ε with α_t = √ᾱ_t, σ_t = √(1 − ᾱ_t).

    All tensors are NCHW float; `t` is an int64 tensor of shape (N,) in [0, num_train_timesteps).
    Errors: InputError for a scheduler with another prediction type.
    """

    def __init__(self, scheduler_config: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        from diffusers import DDIMScheduler

        scheduler = DDIMScheduler.from_config(dict(scheduler_config))
        alphas_cumprod = scheduler.alphas_cumprod.to(torch.float64).clamp(0.0, 1.0)
        self.config = dict(scheduler_config)
        prediction = str(scheduler.config.prediction_type)
        self.prediction_type = cast(
            PredictionType, check_choice(prediction, get_args(PredictionType), "prediction type")
        )
        self.num_train_timesteps = int(scheduler.config.num_train_timesteps)
        self.alphas = alphas_cumprod.sqrt().float().to(device)
        self.sigmas = (1.0 - alphas_cumprod).sqrt().float().to(device)
        # What DDIM steps to after the last timestep: clean data, or the first training step (`set_alpha_to_one`).
        final = float(scheduler.final_alpha_cumprod)
        self._final = (final**0.5, (1.0 - final) ** 0.5)

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """α_t and σ_t, shaped (N, 1, 1, 1); t = −1 stands for the end of sampling."""
        index = t.clamp_min(0)
        alpha = torch.where(t < 0, self.alphas.new_tensor(self._final[0]), self.alphas[index])
        sigma = torch.where(t < 0, self.sigmas.new_tensor(self._final[1]), self.sigmas[index])
        return alpha.view(-1, 1, 1, 1), sigma.view(-1, 1, 1, 1)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = α_t·x0 + σ_t·ε."""
        alpha, sigma = self.alpha_sigma(t)
        return alpha * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What a network of this process's prediction type should output (v: Salimans & Ho 2022, arXiv:2202.00512)."""
        alpha, sigma = self.alpha_sigma(t)
        if self.prediction_type == "v_prediction":
            return alpha * noise - sigma * x0
        return noise if self.prediction_type == "epsilon" else x0

    def min_snr_weight(self, t: Tensor, gamma: float) -> Tensor:
        """Weight of each sample's loss on what a network of this process predicts: min(SNR, γ)/(SNR + 1) on v, min(SNR, γ)/SNR on
        ε, min(SNR, γ) on x0, scaled to mean 1 over the schedule; 1 for γ = 0 (Hang et al. 2023, arXiv:2303.09556, eq. 6 to 9).

        `t` (N,) => (N,). The three weigh one and the same prediction alike, up to a constant.
        """
        if gamma <= 0:
            return torch.ones_like(t, dtype=torch.float32)
        alpha, sigma = (part.flatten() for part in self.alpha_sigma(t))
        mean = self._min_snr(self.alphas.square(), self.sigmas.square(), gamma).mean()
        return self._min_snr(alpha.square(), sigma.square(), gamma) / mean

    def _min_snr(self, signal: Tensor, noise: Tensor, gamma: float) -> Tensor:
        """The weights of α² = `signal` and σ² = `noise`, with SNR = α²/σ² and SNR + 1 = 1/σ², so that neither end divides by 0."""
        if self.prediction_type == "v_prediction":
            return torch.minimum(signal, gamma * noise)
        if self.prediction_type == "epsilon":
            return torch.clamp(gamma * noise / signal.clamp_min(1e-12), max=1.0)
        return torch.clamp(signal / noise.clamp_min(1e-12), max=gamma)

    def to_x0_eps(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Network output → (x0, ε), in float32 whatever the network computed in."""
        alpha, sigma = self.alpha_sigma(t)
        prediction, x_t = prediction.float(), x_t.float()
        if self.prediction_type == "v_prediction":
            return alpha * x_t - sigma * prediction, alpha * prediction + sigma * x_t
        if self.prediction_type == "epsilon":
            return (x_t - sigma * prediction) / alpha.clamp_min(1e-4), prediction
        return prediction, (x_t - alpha * prediction) / sigma.clamp_min(1e-4)

    def half_log_snr(self, t: int) -> float:
        """λ_t = ln(α_t/σ_t); −∞ at pure noise."""
        alpha, sigma = float(self.alphas[t]), float(self.sigmas[t])
        return math.log(alpha / sigma) if alpha > 1e-6 else float("-inf")

    def ddim_step(self, x0: Tensor, eps: Tensor, t_next: Tensor) -> Tensor:
        """Deterministic DDIM (Song et al. 2021, arXiv:2010.02502, eq. 12, η = 0): x_{t_next} = α·x0 + σ·ε."""
        alpha, sigma = self.alpha_sigma(t_next)
        return alpha * x0 + sigma * eps

    def trailing_timesteps(self, steps: int) -> list[int]:
        """`steps` timesteps from the last training step downwards, as diffusers' `timestep_spacing="trailing"`."""
        stride = self.num_train_timesteps / steps
        return [round(self.num_train_timesteps - i * stride) - 1 for i in range(steps)]


def plain_attention(unet: Any, device: torch.device) -> None:
    """On a CPU, compute a UNet's attention as two matrix products: for the short sequences of small latents PyTorch's fused
    kernel takes five times as long, forwards and backwards (docs/log.md). The weights and the result are the same."""
    from diffusers.models.attention_processor import AttnProcessor

    if device.type == "cpu":
        unet.set_attn_processor(AttnProcessor())


def predict(unet: nn.Module, x_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
    """One forward pass of a diffusers UNet: x_t (N,C,H,W), t (N,), text (N,L,D) => prediction (N,C,H,W)."""
    return cast(Tensor, unet(x_t, t, encoder_hidden_states=text, return_dict=False)[0])


def guided_predict(unet: nn.Module, x_t: Tensor, t: Tensor, text: Tensor, empty: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598): u + s·(c − u), both branches in one batch.

    `empty` is the empty prompt's embedding, (1, L, D).
    """
    if scale == 1.0:
        return predict(unet, x_t, t, text)
    both = torch.cat([empty.expand_as(text), text])
    uncond, cond = predict(unet, torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
    return uncond + scale * (cond - uncond)


@dataclass(frozen=True)
class Trajectory:
    """What a sampler passed through: `states` (S + 1, N, C, H, W), noise first, clean latents last; `x0` (S, N, C, H, W), the
    picture predicted at each state; `timesteps` (S,)."""

    states: Tensor
    x0: Tensor
    timesteps: tuple[int, ...]


@torch.no_grad()
def sample(
    unet: nn.Module,
    process: Process,
    noise: Tensor,
    text: Tensor,
    *,
    timesteps: Sequence[int],
    empty: Tensor | None = None,
    guidance_scale: float = 1.0,
    solver: Solver = "ddim",
) -> Trajectory:
    """The deterministic way from pure noise (N, C, H, W) through `timesteps` to clean latents.

    `ddim` is of first order (Song et al. 2020, arXiv:2010.02502, eq. 12 with η = 0), `dpm-solver++` of second (2M: Lu et al. 2022,
    arXiv:2211.01095, algorithm 2) but for its first and last step: at pure noise the half log-SNR λ is −∞, and the step to
    λ = ∞ is DDIM's.
    """
    x, states, pictures = noise, [noise], []
    empty = text[:1] if empty is None else empty
    previous: tuple[Tensor, float] | None = None  # the last step's (x0, λ)
    for i, t_now in enumerate(timesteps):
        t = torch.full((len(x),), t_now, dtype=torch.long, device=x.device)
        x0, eps = process.to_x0_eps(guided_predict(unet, x, t, text, empty, guidance_scale), x, t)
        last = i + 1 == len(timesteps)
        t_next = torch.full_like(t, -1 if last else timesteps[i + 1])
        if solver == "ddim" or previous is None or last or previous[1] == float("-inf"):
            x = process.ddim_step(x0, eps, t_next)
        else:
            here, there = process.half_log_snr(t_now), process.half_log_snr(timesteps[i + 1])
            ratio = (here - previous[1]) / (there - here)
            mixed = x0 + (x0 - previous[0]) / (2 * ratio)
            (alpha, sigma), (_, sigma_now) = process.alpha_sigma(t_next), process.alpha_sigma(t)
            # σ_s/σ_t·x − α_s(e^{−h} − 1)·D, with e^{−h} = (σ_s/α_s)(α_t/σ_t)
            x = sigma / sigma_now * x - alpha * (math.exp(here - there) - 1) * mixed
        previous = (x0, process.half_log_snr(t_now))
        states.append(x)
        pictures.append(x0)
    return Trajectory(torch.stack(states), torch.stack(pictures), tuple(timesteps))

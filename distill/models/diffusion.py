"""The diffusion process, once: schedule, parameterisations, guidance and the deterministic DDIM step, in PyTorch.

Every network of the toolkit (teacher, student, a third-party teacher) is treated as a *denoiser*: given a noised latent x_t and a
timestep, it predicts v, ε or x0; `Process.to_x0_eps` turns any of the three into the pair (x0, ε), in which all losses and samplers
are written. A teacher that predicts ε on a schedule of its own is a `Denoiser` in the schedule of its student
(`student_scheduler`), so that no other code is affected. Latents here are *final latents*: raw autoencoder latents times the
model's `scaling_factor`, close to unit variance.

Not here: the samplers that ship (numpy, `genin.runtimes.samplers`); this module is their training-time twin and is
tested against diffusers' DDIMScheduler, whose configuration it reads.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

from genin.runtimes.vocabulary import check_choice

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


def ddim_scheduler(config: Mapping[str, Any]) -> Any:
    """The DDIMScheduler with the schedule of a scheduler's config, of whatever class.

    It never clips the predicted x0: DDIMScheduler's default, ±1, is meant for pixels, and latents exceed it. `steps_offset` is
    1 as in every Stable Diffusion (trailing spacing ignores it). StableDiffusionPipeline changes both to the same, with warnings.
    """
    from diffusers import DDIMScheduler

    return DDIMScheduler.from_config({**config, "clip_sample": False, "steps_offset": 1})


class Process:
    """A variance-preserving forward process x_t = α_t·x0 + σ_t·ε with α_t = √ᾱ_t, σ_t = √(1 − ᾱ_t).

    All tensors are NCHW float; `t` is an int64 tensor of shape (N,) in [0, num_train_timesteps).
    Errors: InputError for a scheduler with another prediction type.
    """

    def __init__(self, scheduler_config: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        scheduler = ddim_scheduler(scheduler_config)
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
        """What a network of this process's prediction type should output."""
        return prediction_of(self.prediction_type, x0, noise, *self.alpha_sigma(t))

    def min_snr_weight(self, t: Tensor, gamma: float) -> Tensor:
        """Weight of each sample's loss on what a network of this process predicts: min(SNR, γ)/(SNR + 1) on v, min(SNR, γ)/SNR on
        ε, min(SNR, γ) on x0, scaled to mean 1 over the schedule; 1 for γ = 0 (Hang et al. 2023, arXiv:2303.09556, eq. 6 to 9).

        `t` (N,) => (N,). Up to a constant, the three give the same prediction the same weight.
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
        return x0_eps(self.prediction_type, prediction, x_t, *self.alpha_sigma(t))

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


def prediction_of(kind: PredictionType, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """(x0, ε) => a prediction of that kind at x_t = α·x0 + σ·ε (v: Salimans & Ho 2022, arXiv:2202.00512)."""
    if kind == "v_prediction":
        return alpha * eps - sigma * x0
    return eps if kind == "epsilon" else x0


def x0_eps(
    kind: PredictionType, prediction: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor
) -> tuple[Tensor, Tensor]:
    """The inverse of `prediction_of`: prediction => (x0, ε) at x_t, in float32."""
    prediction, x_t = prediction.float(), x_t.float()
    if kind == "v_prediction":
        return alpha * x_t - sigma * prediction, alpha * prediction + sigma * x_t
    if kind == "epsilon":
        return (x_t - sigma * prediction) / alpha.clamp_min(1e-4), prediction
    return prediction, (x_t - alpha * prediction) / sigma.clamp_min(1e-4)


def student_scheduler(teacher: Mapping[str, Any]) -> dict[str, Any]:
    """The scheduler's config of a teacher's students: v-prediction on a schedule that ends in pure noise, which one step from
    noise needs. A teacher that has both passes its own on; any other's betas are rescaled to zero terminal SNR (Lin et al. 2024,
    arXiv:2305.08891, algorithm 1)."""
    process = Process(teacher)
    if process.prediction_type == "v_prediction" and float(process.alphas[-1]) < 1e-4:
        return {**teacher, "timestep_spacing": "trailing"}
    config = ddim_scheduler(teacher).config  # keys that a config leaves out have defaults
    betas = ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "trained_betas")
    return {**TEACHER_SCHEDULER, **{key: config[key] for key in betas if config[key] is not None}}


def plain_attention(unet: Any, device: torch.device) -> None:
    """On a CPU, compute a UNet's short attention as two matrix products (`_ByLength`)."""
    if device.type == "cpu":
        unet.set_attn_processor(_ByLength())


class _ByLength:
    """Attention over few tokens as two matrix products, over many by PyTorch's fused kernel.

    On a CPU the kernel takes up to five times as long over the short sequences of small latents, forwards and backwards, but a
    third of the time, and none of the memory, over those of 512 px (docs/log.md). The weights and the result are the same.
    """

    MOST = 256  # tokens

    def __init__(self) -> None:
        from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

        self.short, self.long = AttnProcessor(), AttnProcessor2_0()

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        tokens = hidden_states.shape[1] if hidden_states.ndim == 3 else hidden_states.shape[-2:].numel()
        processor = self.short if tokens <= self.MOST else self.long
        return cast(Tensor, processor(attn, hidden_states, *args, **kwargs))


def predict(unet: nn.Module, x_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
    """One forward pass of a diffusers UNet: x_t (N,C,H,W), t (N,), text (N,L,D) => prediction (N,C,H,W)."""
    with autocast_to_weights(unet, x_t.device):
        return cast(Tensor, unet(x_t, t, encoder_hidden_states=text, return_dict=False)[0])


def autocast_to_weights(unet: nn.Module, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast for weights that are kept in bf16 (`lora.lower_frozen`), wherever the network is used."""
    weight = next(unet.parameters(), None) if isinstance(unet, nn.Module) else None
    if weight is None or weight.dtype != torch.bfloat16:
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def guided_predict(unet: nn.Module, x_t: Tensor, t: Tensor, text: Tensor, empty: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598): u + s·(c − u), both branches in one batch.

    `empty` is the empty prompt's embedding, (1, L, D).
    """
    if scale == 1.0:
        return predict(unet, x_t, t, text)
    both = torch.cat([empty.expand_as(text), text])
    # In bf16 the difference of two predictions that nearly agree would lose most of its digits.
    uncond, cond = predict(unet, torch.cat([x_t, x_t]), torch.cat([t, t]), both).float().chunk(2)
    return uncond + scale * (cond - uncond)


class Denoiser:
    """A UNet as x0(x_t, t) in the schedule of `process`, whatever schedule and prediction type are its `own`.

    What matters for a noised latent is its share of noise, not its timestep: a state of `process` is shown to the network at the
    (fractional) timestep of its own schedule with the same α and σ. Where `process` has more noise than the network has seen, the
    network's last timestep is used, as by samplers that start from pure noise.
    """

    def __init__(self, unet: Any, own: Process, process: Process | None = None) -> None:
        self.unet, self.own, self.process = unet, own, own if process is None else process
        self.times: Tensor | None = None  # timestep of `process` => the network's own; None: the same
        if not torch.equal(self.own.alphas, self.process.alphas):
            # The angle of (α, σ) runs from 0 to π/2 at most and is finite everywhere, unlike the SNR's logarithm.
            angles, own_angles = (
                torch.atan2(p.sigmas.double(), p.alphas.double()).cpu().numpy() for p in (self.process, self.own)
            )
            places = np.interp(angles, own_angles, np.arange(len(own_angles)))
            self.times = torch.from_numpy(places).float().to(self.process.alphas.device)

    def like(self, unet: Any) -> Denoiser:
        """Another network with the same schedules and prediction type."""
        other = copy.copy(self)
        other.unet = unet
        return other

    def timesteps(self, t: Tensor) -> Tensor:
        """The network's own timesteps, (N,), int64 or, between two of them, float."""
        return t if self.times is None else self.times[t]

    def __call__(
        self, x_t: Tensor, t: Tensor, text: Tensor, empty: Tensor | None = None, scale: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """(x0, ε), each (N, C, H, W), at timesteps t of `process`; guided with `empty` by `scale`."""
        times = self.timesteps(t)
        if empty is None or scale == 1.0:
            prediction = predict(self.unet, x_t, times, text)
        else:
            prediction = guided_predict(self.unet, x_t, times, text, empty, scale)
        alpha, sigma = self.process.alpha_sigma(t)
        if self.times is None:
            return x0_eps(self.own.prediction_type, prediction, x_t, alpha, sigma)
        # At its last timestep, the network answers for the noise there; ε is what remains of the actual state.
        x0, eps = x0_eps(self.own.prediction_type, prediction, x_t, *self._reading(t))
        beyond = alpha < self.own.alphas[-1]
        return x0, torch.where(beyond, (x_t.float() - alpha * x0) / sigma.clamp_min(1e-4), eps)

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should predict at timesteps t of `process`, so that it is interpreted as x0 there."""
        alpha, sigma = self.process.alpha_sigma(t)
        if self.times is None:
            return prediction_of(self.own.prediction_type, x0, noise, alpha, sigma)
        x_t = alpha * x0 + sigma * noise
        alpha, sigma = self._reading(t)
        return prediction_of(self.own.prediction_type, x0, (x_t - alpha * x0) / sigma.clamp_min(1e-4), alpha, sigma)

    def _reading(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """α and σ by which its predictions are interpreted: beyond its own schedule, those of its last timestep."""
        alpha, sigma = self.process.alpha_sigma(t)
        return alpha.maximum(self.own.alphas[-1]), sigma.minimum(self.own.sigmas[-1])


@dataclass(frozen=True)
class Trajectory:
    """A sampler's path: `states` (S + 1, N, C, H, W), noise first, clean latents last; `x0` (S, N, C, H, W), the
    picture predicted at each state; `timesteps` (S,)."""

    states: Tensor
    x0: Tensor
    timesteps: tuple[int, ...]


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    noise: Tensor,
    text: Tensor,
    *,
    timesteps: Sequence[int],
    guidance: tuple[Tensor, float] | None = None,
    solver: Solver = "ddim",
) -> Trajectory:
    """The deterministic path from pure noise (N, C, H, W) through `timesteps` of the denoiser's process to clean latents, with
    `guidance` by the empty caption's states (1, L, D) and a scale.

    `ddim` is of first order (Song et al. 2020, arXiv:2010.02502, eq. 12 with η = 0), `dpm-solver++` of second (2M: Lu et al. 2022,
    arXiv:2211.01095, algorithm 2) but for its first and last step: at pure noise the half log-SNR λ is −∞, and the step to
    λ = ∞ is DDIM's.
    """
    process, x, states, pictures = denoiser.process, noise, [noise], []
    empty, guidance_scale = guidance or (None, 1.0)
    previous: tuple[Tensor, float] | None = None  # the last step's (x0, λ)
    for i, t_now in enumerate(timesteps):
        t = torch.full((len(x),), t_now, dtype=torch.long, device=x.device)
        x0, eps = denoiser(x, t, text, empty, guidance_scale)
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

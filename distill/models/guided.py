"""A frozen teacher under classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598), ready to be sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genin.distill.models.diffusion import Denoiser, Process, Solver, Trajectory, sample
from genin.distill.models.text import embed
from genin.distill.models.unet_features import encoder_features


@dataclass(frozen=True)
class Guided:
    """A teacher ready to be sampled: its frozen UNet in the schedule of its student, text encoder with tokenizer, the empty
    caption's states (1, L, D) and the guidance scale that it is sampled with."""

    denoiser: Denoiser
    text_encoder: Any
    tokenizer: Any
    empty: Tensor
    device: torch.device
    guidance_scale: float

    @property
    def unet(self) -> Any:
        return self.denoiser.unet

    @property
    def process(self) -> Process:
        """The student's, in which everything is noised; the network's own is `denoiser.own`."""
        return self.denoiser.process

    def __call__(self, x_t: Tensor, t: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """(x0, ε) of the guided teacher, each (N, C, H, W)."""
        return self.denoiser(x_t, t, text, self.empty, self.guidance_scale)

    def features(self, x_t: Tensor, t: Tensor, text: Tensor) -> tuple[list[Tensor], Tensor]:
        """Its encoder's maps and time embedding (`unet_features.encoder_features`)."""
        return encoder_features(self.unet, x_t, self.denoiser.timesteps(t), text)

    def sample(self, noise: Tensor, text: Tensor, timesteps: Sequence[int], solver: Solver = "ddim") -> Trajectory:
        """The guided teacher's path from noise (N, C, H, W) through `timesteps` (`diffusion.sample`)."""
        guidance = self.empty, self.guidance_scale
        return sample(self.denoiser, noise, text, timesteps=timesteps, guidance=guidance, solver=solver)

    def embed(self, captions: list[str]) -> Tensor:
        with torch.no_grad():
            return embed(self.text_encoder, self.tokenizer, captions, self.device)

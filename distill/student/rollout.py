"""A student in use: its predictions, and the few-step rollout that it is trained with and ships with.

Not here: what is learnt from a rollout (`phases`).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genin.distill.models.diffusion import Process, predict


@dataclass(frozen=True)
class Rollout:
    """A few-step rollout: at each step the state (detached), its timestep, and the picture predicted there."""

    states: list[Tensor]
    timesteps: list[Tensor]
    pictures: list[Tensor]


@dataclass(frozen=True)
class Student:
    """A student's network, and the process in which it predicts."""

    network: nn.Module
    process: Process

    def __call__(self, x_t: Tensor, t: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """(x0, ε) at the states x_t (N, C, H, W), timesteps (N,), under captions' states (N, L, D)."""
        return self.process.to_x0_eps(predict(self.network, x_t, t, text), x_t, t)

    def rollout(
        self,
        noise: Tensor,
        text: Tensor,
        timesteps: Sequence[int],
        *,
        grad_steps: Container[int] = (),
        replace_state: Callable[[Tensor], Tensor] | None = None,
    ) -> Rollout:
        """Deterministic DDIM (η = 0) from noise through `timesteps`. Only the predictions of the steps in `grad_steps` carry
        gradients, the states do not: each step learns from the state that the student really reaches, and no gradient passes
        through the sampler. `replace_state` gives other states, by timestep, to all steps but the first."""
        x, states, times, pictures = noise, [], [], []
        for i, t_now in enumerate(timesteps):
            t = torch.full((len(x),), t_now, dtype=torch.long, device=x.device)
            if i in grad_steps and i:
                # Before PyTorch 2.10 weights that autocast has cast without gradients are used again with them, and learn nothing.
                torch.clear_autocast_cache()
            with torch.set_grad_enabled(i in grad_steps):
                x0, eps = self(x, t, text)
            states.append(x)
            times.append(t)
            pictures.append(x0)
            if i + 1 < len(timesteps):
                t_next = torch.full_like(t, timesteps[i + 1])
                drawn = None if replace_state is None else replace_state(t_next)
                x = self.process.ddim_step(x0.detach(), eps.detach(), t_next) if drawn is None else drawn
        return Rollout(states, times, pictures)

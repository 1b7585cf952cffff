"""Muon: an optimiser for the matrices of a network, with AdamW for everything else.

The momentum of a weight matrix is replaced by the nearest matrix whose singular values are one (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon/), so that a step is as long in directions that few gradients point to as in those that
all do. A convolution's weight is one matrix: output channels × (input channels · height · width). `torch.optim.Muon` takes
two-dimensional weights alone, and a UNet has few of them.

Measured (docs/log.md, 2026-11-30): a student of 2.6 M parameters needs a third to a quarter of AdamW's images for the same loss.

Not here: which optimiser a recipe asks for (`averages.make_optimizer`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of the quintic iteration, and how often: Jordan et al. 2024
ITERATIONS = 5
EPSILON = 1e-8  # of AdamW
SMALLEST_SIDE = 16  # of a matrix: with fewer rows or columns there is little to make orthogonal
# Root mean square of a matrix's update, in learning rates. Liu et al. 2025 (arXiv:2502.16982, eq. 4) have 0.2, AdamW's own at its
# usual rates; ours is by a race at AdamW's usual rate.
UPDATE_RMS = 1.5


class Muon(torch.optim.Optimizer):
    """Muon for the weights of a network's linear layers and convolutions, AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) for
    the others that learn, under one learning rate: embeddings, biases, norms, matrices with a side below 16."""

    def __init__(self, network: nn.Module, lr: float, betas: tuple[float, float], weight_decay: float) -> None:
        matrices = list(_matrices(network))
        chosen = {id(weight) for weight in matrices}
        others = [p for p in network.parameters() if p.requires_grad and id(p) not in chosen]
        groups: list[dict[str, Any]] = [{"params": matrices, "muon": True}, {"params": others, "muon": False}]
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all weights that have a gradient."""
        for group in self.param_groups:
            move = _step_matrix if group["muon"] else _step_adamw
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    move(weight, weight.grad, self.state[weight], group)


def _step_matrix(weight: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    if not state:
        state["momentum_buffer"] = torch.zeros_like(weight)
    momentum = state["momentum_buffer"].lerp_(grad, 1 - MOMENTUM)
    update = orthogonalised(grad.lerp(momentum, MOMENTUM).flatten(1))  # Nesterov's
    weight.add_(update.view_as(weight), alpha=-group["lr"] * UPDATE_RMS * max(update.shape) ** 0.5)


def _step_adamw(weight: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    if not state:
        state.update(step=torch.tensor(0.0), exp_avg=torch.zeros_like(weight), exp_avg_sq=torch.zeros_like(weight))
    first, second = group["betas"]
    state["step"] += 1
    step = state["step"].item()
    mean = state["exp_avg"].lerp_(grad, 1 - first)
    square = state["exp_avg_sq"].mul_(second).addcmul_(grad, grad, value=1 - second)
    scale = square.div(1 - second**step).sqrt_().add_(EPSILON)
    weight.addcdiv_(mean, scale, value=-group["lr"] / (1 - first**step))


def orthogonalised(matrix: Tensor) -> Tensor:
    """About U·Vᵀ of a matrix U·S·Vᵀ (M, N): its singular values come to lie between 0.7 and 1.2, by Newton–Schulz's iteration. In
    bf16 on graphics cards; on processors fp32 is as fast at these sizes."""
    a, b, c = NEWTON_SCHULZ
    x = matrix.to(torch.bfloat16 if matrix.is_cuda else torch.float32)
    if tall := x.shape[0] > x.shape[1]:
        x = x.mT
    x = x / x.norm().clamp_min(1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrix.dtype)


def _matrices(network: nn.Module) -> Iterator[Tensor]:
    """The weights that learn of linear layers and convolutions, large enough to be worth it; each once."""
    seen: set[int] = set()
    for layer in network.modules():
        if not isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            continue
        weight = layer.weight
        is_large = min(weight.shape[0], weight[0].numel()) >= SMALLEST_SIDE
        if weight.requires_grad and is_large and id(weight) not in seen:
            seen.add(id(weight))
            yield weight

"""The trainable part of a network: its moving average, its state, its optimiser; and which average is kept.

Weights that do not learn are shared and never copied, so that adapters on a network of gigabytes cost megabytes in averages and
checkpoints. States hold whole tensors, even of networks that are sharded over processes (`sharding`).

Not here: when they are updated and saved (`training`).
"""

from __future__ import annotations

import importlib
from collections.abc import Container, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from genin.distill.loop import sharding
from genin.distill.loop.muon import Muon
from genin.distill.models.lora import shared_copy
from genin.distill.recipe import Optimisation
from genin.runtimes.errors import InputError

CRITERIA = ("kid", "held_out_loss")  # figures on held-out pictures that choose an average; the lower, the better


class Average(nn.Module):
    """An exponential moving average of a network's weights that train; `module` is the network that has them.

    Its frozen weights are the very tensors of the network it was made from: neither copied nor written to checkpoints, so that
    adapters on a large network cost only the adapters' size. Changing frozen weights changes them in both.
    """

    n_averaged: Tensor

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = shared_copy(network, [p for p in network.parameters() if not p.requires_grad])
        self.trained = [name for name, p in network.named_parameters() if p.requires_grad]
        self.register_buffer("n_averaged", torch.tensor(0, dtype=torch.long))
        self.decay = decay
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """One step towards the network's current weights; the first is a copy of them. Buffers are always copies."""
        own, other = dict(self.module.named_parameters()), dict(network.named_parameters())
        averages, current = ([sharding.local(these[name].detach()) for name in self.trained] for these in (own, other))
        # The decay grows as (1 + n)/(10 + n), so that early averages do not hold on to the initial weights: none reaches back
        # further than a ninth of the updates, and in a run too short for two decays they are the same.
        n = int(self.n_averaged)
        if n == 0:
            torch._foreach_copy_(averages, current)
        else:
            torch._foreach_lerp_(averages, current, 1.0 - min(self.decay, (1 + n) / (10 + n)))
        for buffer, source in zip(self.module.buffers(), network.buffers(), strict=True):
            buffer.copy_(source)
        self.n_averaged += 1


def better_average(figures: Mapping[str, Mapping[str, float]]) -> tuple[str, str] | None:
    """The better average, and the figure that says so; None where figures choose nothing."""
    for name in CRITERIA:
        if all(name in one for one in figures.values()):
            return min(figures, key=lambda key: figures[key][name]), name
    return None


def bar_to_keep(figure: float, error: float, best: Mapping[str, Any] | None) -> dict[str, float] | None:
    """The lowest figure so far and its error, if an average of this `figure` is to be kept in place of `best`; None if not.

    It is kept unless an earlier one was better by more than chance: of two that differ by chance only the later has learnt more,
    at a lower rate.
    """
    bar = {"lowest": figure, "error": error}
    if best is not None and best["lowest"] < figure:
        bar = {name: float(best[name]) for name in bar}
    return bar if figure <= bar["lowest"] + bar["error"] else None


def learnt_state(network: nn.Module, frozen: Container[str]) -> dict[str, Tensor]:
    """A state dictionary of whole tensors without the parameters whose names are `frozen`."""
    return {name: sharding.whole(value) for name, value in network.state_dict().items() if name not in frozen}


def load_learnt_state(network: nn.Module, state: Mapping[str, Tensor], frozen: Container[str]) -> None:
    """The inverse of `learnt_state`. Errors: RuntimeError naming weights that are missing or unknown."""
    if any(isinstance(weight, DTensor) for weight in network.parameters()):
        own = network.state_dict().keys()
        missing, unknown = [name for name in own if name not in state], [name for name in state if name not in own]
        sharding.take_whole(network, state)
    else:
        missing, unknown = network.load_state_dict(state, strict=False)
    if wrong := [name for name in missing if name not in frozen] + list(unknown):
        raise RuntimeError(f"{len(wrong)} weight(s) missing or unknown, e.g. '{wrong[0]}'")


def make_optimizer(
    settings: Optimisation, network: nn.Module, lr: float, betas: tuple[float, float]
) -> torch.optim.Optimizer:
    """The recipe's optimiser, of the weights of `network` that learn.

    Errors: InputError where its package is not installed: another one would train differently.
    """
    decay = settings.weight_decay
    parameters = [p for p in network.parameters() if p.requires_grad]
    if settings.optimizer == "muon":
        return Muon(network, lr, betas, decay)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, betas=betas, weight_decay=decay, fused=True)
    try:
        bitsandbytes = importlib.import_module("bitsandbytes")
    except ImportError as error:
        remedy = "pip install bitsandbytes, or set optimizer to adamw"
        raise InputError(
            f"'bitsandbytes' is not installed, which optimizer {settings.optimizer} needs", remedy=remedy
        ) from error
    optimizer: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(parameters, lr=lr, betas=betas, weight_decay=decay)
    return optimizer

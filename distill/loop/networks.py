"""The networks that a stage trains: each with its optimiser, its averages, and the names of its weights that do not learn.

accelerate prepares them; where the launcher asks for FSDP, a large network without frozen weights is sharded over the processes
(`sharding`), and so are its averages.

Not here: when they are updated (`training`), when their states are saved (`checkpoints`), what an average is (`averages`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genin.distill.loop import sharding
from genin.distill.loop.averages import Average, learnt_state, load_learnt_state, make_optimizer
from genin.distill.loop.checkpoints import copied, mismatch_error
from genin.distill.recipe import Optimisation
from genin.runtimes.errors import InputError


@dataclass(frozen=True)
class NetworkOptions:
    """How a network is trained, where that differs from the recipe.

    `muon` False trains it with AdamW where the recipe has Muon, whose momentum a discriminator does not want. `trains` says by name
    which weights learn; the others stay as they are. A network without `average` has no moving averages. `compiled` False leaves it
    out where the recipe compiles: a compiled network has no second derivatives, which R1 needs. A `large` one without frozen
    weights is sharded over the processes where the launcher asks for that.
    """

    lr: float | None = None
    betas: tuple[float, float] = (0.9, 0.99)
    muon: bool = True
    average: bool = True
    compiled: bool = True
    large: bool = False
    trains: Callable[[str], bool] = lambda _name: True


def without_muon(settings: Optimisation) -> Optimisation:
    """With AdamW in its place."""
    return replace(settings, optimizer="adamw") if settings.optimizer == "muon" else settings


class Networks:
    """The networks of one stage by name. Averages are keyed by the network's name, further ones by "name/decay"."""

    def __init__(self, accelerator: Any, settings: Optimisation) -> None:
        self.accelerator, self.settings = accelerator, settings
        self.modules: dict[str, nn.Module] = {}
        self.optimizers: dict[str, Any] = {}
        self.base_lrs: dict[str, float] = {}
        self.averages: dict[str, Average] = {}
        self.frozen_names: dict[str, frozenset[str]] = {}  # network => its parameters that do not learn
        self.unsharded: dict[str, nn.Module] = {}  # for sharded networks: unsharded copies that take whole weights

    def add(self, name: str, module: nn.Module, options: NetworkOptions) -> nn.Module:
        """Register a network; returns it prepared by accelerate. Its averages start as copies of it."""
        module = module.to(self.accelerator.device).train()
        for key, parameter in module.named_parameters():
            parameter.requires_grad_(options.trains(key))
        lr = self.settings.lr if options.lr is None else options.lr
        settings = self.settings if options.muon else without_muon(self.settings)
        optimizer = make_optimizer(settings, module, lr, options.betas)
        self.frozen_names[name] = frozenset(key for key, p in module.named_parameters() if not p.requires_grad)
        for i, decay in enumerate(self.settings.ema_decays if options.average else ()):
            self.averages[name if i == 0 else f"{name}/{decay}"] = Average(module, decay)
        sharded = options.large and not self.frozen_names[name]
        prepared, optimizer = self._prepare(name, module, optimizer, sharded)
        self.modules[name], self.optimizers[name], self.base_lrs[name] = prepared, optimizer, lr
        compiled = self.settings.compile and options.compiled
        return torch.compile(prepared) if compiled else prepared  # type: ignore[return-value]

    def _prepare(self, name: str, module: nn.Module, optimizer: Any, sharded: bool) -> tuple[nn.Module, Any]:
        device = self.accelerator.device
        if not sharding.is_requested() or self.accelerator.num_processes == 1:
            prepared: tuple[nn.Module, Any] = self.accelerator.prepare(module, optimizer)
            return prepared
        if not sharded:
            device_ids = [device] if device.type == "cuda" else None
            return nn.parallel.DistributedDataParallel(module, device_ids=device_ids), optimizer
        if self.settings.optimizer != "adamw":
            what = f"optimizer {self.settings.optimizer} cannot be sharded over processes"
            raise InputError(what, remedy="set optimizer to adamw, or launch without FSDP")
        self.unsharded[name] = copy.deepcopy(module.cpu())
        module.to(device)
        for average in self.averages_of(name):
            sharding.shard(self.accelerator, average.module)
        return sharding.shard(self.accelerator, module, optimizer)

    @contextmanager
    def gradients_kept(self, kept: bool) -> Iterator[None]:
        """Where `kept`, gradients are added up in each process and not averaged over all: a later pass does that once. FSDP, which
        has only a part of them in each process, averages always."""
        with ExitStack() as stack:
            for module in self.modules.values() if kept else ():
                if isinstance(module, nn.parallel.DistributedDataParallel):  # accelerate's no_sync takes all for FSDP's
                    stack.enter_context(module.no_sync())
            yield

    def unwrapped(self, name: str) -> nn.Module:
        module: nn.Module = self.accelerator.unwrap_model(self.modules[name])
        return module

    def averages_of(self, name: str) -> list[Average]:
        return [average for key, average in self.averages.items() if key.partition("/")[0] == name]

    def average_state(self, key: str) -> dict[str, Tensor]:
        """The trained weights of one of the averages, whole; all processes call it together."""
        return learnt_state(self.averages[key].module, self.frozen_names[key.partition("/")[0]])

    def with_average_state(self, name: str, state: Mapping[str, Tensor]) -> nn.Module:
        """The network of the first average, whole in every process, with the weights of `state`."""
        network = self.unsharded.get(name, self.averages[name].module)
        load_learnt_state(network, state, self.frozen_names[name])
        return network

    def release(self) -> None:
        """Drop all networks: another stage needs their memory."""
        for held in (self.modules, self.optimizers, self.averages, self.unsharded):
            held.clear()
        self.accelerator.free_memory()

    def state(self) -> dict[str, Any]:
        """All trained weights and optimiser states, as a checkpoint holds them; for sharded networks all processes call it
        together."""
        return {
            "modules": {name: learnt_state(self.unwrapped(name), self.frozen_names[name]) for name in self.modules},
            "optimizers": {name: sharding.whole(one.state_dict()) for name, one in self.optimizers.items()},
            "averages": {key: learnt_state(one, self._frozen_in_average(key)) for key, one in self.averages.items()},
        }

    def load(self, state: Mapping[str, Any], path: Path) -> None:
        """The inverse of `state`, as read from the checkpoint `path`. Errors: InputError for one of other networks."""
        on_cpu = self.accelerator.device.type == "cpu"
        try:
            for name in self.modules:
                load_learnt_state(self.unwrapped(name), state["modules"][name], self.frozen_names[name])
                moments = sharding.part_moments(state["optimizers"][name], self.optimizers[name])
                self.optimizers[name].state.clear()  # the current moments are freed before the earlier ones are loaded
                self.optimizers[name].load_state_dict(copied(moments) if on_cpu else moments)
            for key, average in self.averages.items():
                load_learnt_state(average, state["averages"][key], self._frozen_in_average(key))
        except (KeyError, RuntimeError, ValueError) as error:
            raise mismatch_error(path, error) from error

    def _frozen_in_average(self, key: str) -> frozenset[str]:
        return frozenset(f"module.{name}" for name in self.frozen_names[key.partition("/")[0]])

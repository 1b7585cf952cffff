"""Networks sharded over processes: fully sharded data parallel (FSDP2: Zhao et al. 2023, arXiv:2304.11277), by accelerate.

    accelerate launch --use_fsdp --fsdp_version 2 -m genin distill …

Each process keeps a part of every weight, gradient and moment of a large network without frozen weights, and of its averages, and
gathers each block when it is needed. Everything else (adapters on frozen weights, a discriminator's heads, which take second
derivatives) is small and stays whole in every process, as under plain data parallel.

Checkpoints and model folders hold whole tensors, so a run can be resumed with any number of processes, sharded or not.

Not here: which networks are sharded (`networks`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

# What is gathered at once; also a UNet within another module, since it is called on its own, too.
BLOCKS = ("ResnetBlock2D", "BasicTransformerBlock", "CLIPEncoderLayer", "UNet2DConditionModel")


def is_requested() -> bool:
    """Whether the launcher asks for it, in accelerate's way."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def plugin() -> Any:
    """accelerate's settings for networks of this kind; None where nothing is sharded."""
    if not is_requested():
        return None
    from accelerate.utils import FullyShardedDataParallelPlugin

    return FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
    )


def shard(accelerator: Any, network: nn.Module, optimizer: Any = None) -> tuple[nn.Module, Any]:
    """The same network, its weights sharded in place; and an optimiser for those parts."""
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model

    present = {type(module).__name__ for module in network.modules() if module is not network}
    accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = [name for name in BLOCKS if name in present]
    if optimizer is None:
        prepared: Any = fsdp2_prepare_model(accelerator, network)
    else:
        prepared, optimizer = accelerator.prepare(network, optimizer)
    # The outermost block as well: a pass without gradients has no backward pass that would free it.
    prepared.set_reshard_after_forward(True)
    return prepared, optimizer


def whole(tree: Any) -> Any:
    """Sharded tensors in nested dictionaries and lists, gathered to whole ones on the CPU; all processes call it together."""
    if isinstance(tree, DTensor):
        return tree.full_tensor().cpu()
    if isinstance(tree, Mapping):
        return {key: whole(value) for key, value in tree.items()}
    return [whole(value) for value in tree] if isinstance(tree, list) else tree


def local(tensor: Tensor) -> Tensor:
    """This process's part, to compute with element by element."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def parted(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, sharded as `like` is."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def part_moments(state: dict[str, Any], optimizer: Any) -> dict[str, Any]:
    """An optimiser's state with whole tensors => the state for sharded weights."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    parts = {
        place: {
            name: parted(value, weights[place]) if isinstance(value, Tensor) and value.ndim else value
            for name, value in moments.items()
        }
        for place, moments in state["state"].items()
    }
    return {**state, "state": parts}


@torch.no_grad()
def take_whole(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load whole weights into a sharded network."""
    for name, tensor in network.state_dict().items():
        if name in state:
            tensor.copy_(parted(state[name], tensor))

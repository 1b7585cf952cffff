"""Students: a teacher's UNet with blocks taken out and the remaining weights copied.

The block map is BK-SDM's (Kim et al. 2023, arXiv:2305.15798), written in terms of diffusers' state-dict names so that it works for
any `UNet2DConditionModel`: of each level's pairs of residual block and attention the first is kept (going up, the first and the
last); then the middle block is removed; then the deepest level. Beyond BK-SDM, for latency: attention can be removed from chosen
levels (what the caption says still arrives with the time embedding where the teacher was built so), and the levels below the top
can be narrower (`narrowing`). The student's config says all of this by itself, so plain diffusers opens the result.

Not here: which blocks and channels (`student_config`), training the student (`phases`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from genin.distill.models.narrowing import Narrowing
from genin.distill.models.student_config import Pruning, student_config
from genin.runtimes.errors import InputError


def build_student(teacher: Any, pruning: Pruning) -> tuple[nn.Module, float]:
    """The pruned copy of a diffusers UNet, and the share of its weights that were copied (the rest start fresh)."""
    from diffusers import UNet2DConditionModel

    student: Any = UNet2DConditionModel.from_config(student_config(teacher.config, pruning))
    source = teacher.state_dict()
    layers = _layers(teacher.config)
    last_pair = layers if pruning.one_pair_per_level else None
    if min(pruning.shares(len(student.config["block_out_channels"]))) < 1:
        narrower = Narrowing.to(student.config["block_out_channels"], source, teacher.config, layers)
        source = {key: narrower.cut(key, value) for key, value in (plain_shortcuts(teacher) | source).items()}
    state: dict[str, Tensor] = student.state_dict()
    copied = 0
    for key, value in state.items():
        old = source.get(teacher_key(key, last_pair=last_pair, shift=int(pruning.deepest_level)))
        if old is not None and old.shape == value.shape:
            state[key] = old.detach().clone()
            copied += value.numel()
    student.load_state_dict(state)
    return student, copied / sum(value.numel() for value in state.values())


def plain_shortcuts(teacher: Any) -> dict[str, Tensor]:
    """The identity as a convolution, for levels that are as wide as the one above: a student may narrow only one of the two."""
    widths, shortcuts = teacher.config["block_out_channels"], {}
    for level in range(1, len(widths)):
        if widths[level] == widths[level - 1]:
            name = f"down_blocks.{level}.resnets.0.conv_shortcut"
            shortcuts[f"{name}.weight"] = torch.eye(widths[level])[..., None, None]
            shortcuts[f"{name}.bias"] = torch.zeros(widths[level])
    return shortcuts


def kept_channels(teacher: Any, student: Any) -> list[Tensor] | None:
    """Which of the channels of each of its teacher's levels (and of its middle, where it has one) a student has kept, sorted
    indices; None where it has all of them."""
    widths = list(student.config["block_out_channels"])
    if widths == list(teacher.config["block_out_channels"])[: len(widths)]:
        return None
    kept = list(Narrowing.to(widths, teacher.state_dict(), teacher.config, _layers(teacher.config)).kept)
    return kept if teacher.mid_block is None else [*kept, kept[-1]]


def narrowed_state(student: Any, wider: Any) -> dict[str, Tensor] | None:
    """A wider UNet's weights cut to a student of the same blocks; None where they differ in more than widths."""
    state, config = wider.state_dict(), wider.config
    before, after = list(config["block_out_channels"]), list(student.config["block_out_channels"])
    if before == after:
        cut = dict(state)
    elif len(before) != len(after) or any(a < b for a, b in zip(before, after, strict=True)):
        return None
    else:
        narrower = Narrowing.to(after, state, config, _layers(config))
        cut = {key: narrower.cut(key, value) for key, value in state.items()}
    shapes = {key: value.shape for key, value in student.state_dict().items()}
    return cut if {key: value.shape for key, value in cut.items()} == shapes else None


def teacher_key(key: str, *, last_pair: int | None, shift: int) -> str:
    """The teacher's name for a student's weight: up blocks count from the bottom, and their second pair was the last."""
    match = re.match(r"up_blocks\.(\d+)\.(?:(resnets|attentions)\.(\d+)\.)?(.*)", key)
    if match is None:
        return key
    block, kind, pair, rest = match.groups()
    name = f"up_blocks.{int(block) + shift}."
    if kind is None:
        return name + rest
    index = int(pair)
    return f"{name}{kind}.{last_pair if last_pair is not None and index == 1 else index}.{rest}"


def _layers(config: Mapping[str, Any]) -> int:
    layers = config["layers_per_block"]
    if isinstance(layers, int):
        return layers
    if len(set(layers)) == 1:
        return int(layers[0])
    raise InputError(f"the teacher's levels have {tuple(layers)} layers", remedy="only equal levels can be pruned")

"""Students: a teacher's UNet with blocks taken out and the remaining weights copied.

The block map is BK-SDM's (Kim et al. 2023, arXiv:2305.15798), written in terms of diffusers' state-dict names so that it works for
any `UNet2DConditionModel`: of each level's pairs of residual block and attention the first is kept (going up, the first and the
last); then the middle block is removed; then the deepest level. Beyond BK-SDM, for latency: attention can be removed from chosen
levels (what the caption says still arrives with the time embedding where the teacher was built so), and the levels below the top
can be narrower (`narrowing`). The student's config says all of this by itself, so plain diffusers opens the result.

Not here: training the student (`phases`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from genin.distill.models.narrowing import Narrowing, narrowed
from genin.distill.recipe import StudentRecipe
from genin.runtimes.errors import InputError
from genin.runtimes.vocabulary import check_choice


@dataclass(frozen=True)
class Pruning:
    """What is removed from the teacher's UNet."""

    one_pair_per_level: bool = True
    middle: bool = False
    deepest_level: bool = False
    attention_levels: tuple[int, ...] = ()  # levels, 0 at the top, that lose their attention
    width: float = 1.0  # share of their channels that the levels below the top keep
    top_width: float = 1.0  # and the top: most of the multiply-adds, and the sharpness of edges
    level_widths: tuple[float, ...] = ()  # in place of both, for each level that is left, the top first

    def shares(self, levels: int) -> tuple[float, ...]:
        """The share of its channels that each level keeps. Errors: InputError for shares of another number of levels."""
        if not self.level_widths:
            return (self.top_width, *(self.width,) * (levels - 1))
        if len(self.level_widths) != levels or not all(self.level_widths):
            what = f"student.level_widths is {list(self.level_widths)}, and the student has {levels} levels"
            raise InputError(what, remedy="give one share above 0 for each level, the finest first")
        return self.level_widths


PRESETS: Mapping[str, Pruning] = {
    "full": Pruning(one_pair_per_level=False),
    "bk-base": Pruning(),
    "bk-small": Pruning(middle=True),
    "bk-tiny": Pruning(middle=True, deepest_level=True),
    "bk-small-fast": Pruning(middle=True, attention_levels=(0,)),
    "bk-small-conv": Pruning(middle=True, attention_levels=(0, 1)),
    "bk-small-narrow": Pruning(middle=True, attention_levels=(0, 1), width=0.75),
    "bk-small-narrower": Pruning(middle=True, attention_levels=(0, 1), width=0.625),
    "bk-small-slim": Pruning(middle=True, attention_levels=(0, 1), width=0.75, top_width=0.75),
    # Chosen by latency, for teachers with Stable Diffusion's four levels: it keeps 215 of an SD-1.5's 803 GFLOP per step at 512 px.
    "swift": Pruning(middle=True, deepest_level=True, attention_levels=(0,), width=0.75, top_width=0.75),
}


def student_config(teacher: Mapping[str, Any], pruning: Pruning) -> dict[str, Any]:
    """The student's `UNet2DConditionModel` config. Errors: InputError where the teacher has too few levels."""
    config = {key: value for key, value in teacher.items() if not key.startswith("_")}
    down, up = list(config["down_block_types"]), list(config["up_block_types"])
    for level in pruning.attention_levels:  # a preset may name more levels than there are
        if level < len(down):
            down[level], up[-1 - level] = "DownBlock2D", "UpBlock2D"
    if pruning.one_pair_per_level:
        config["layers_per_block"] = 1
    if pruning.middle:
        config["mid_block_type"] = None
    if pruning.deepest_level:
        if len(down) < 3:
            raise InputError(
                f"the teacher's UNet has {len(down)} levels: its deepest cannot be taken out",
                remedy="choose bk-base or bk-small",
            )
        down, up = down[:-1], up[1:]
        config["block_out_channels"] = tuple(config["block_out_channels"])[:-1]
        for key in ("attention_head_dim", "num_attention_heads", "cross_attention_dim", "transformer_layers_per_block"):
            if isinstance(config.get(key), (list, tuple)):
                config[key] = tuple(config[key])[:-1]
    config["down_block_types"], config["up_block_types"] = tuple(down), tuple(up)
    attends = any("CrossAttn" in kind for kind in down) or config.get("mid_block_type") == "UNetMidBlock2DCrossAttn"
    if not attends and config.get("addition_embed_type") is None:
        raise InputError(
            "without its attention the student would not see the caption",
            remedy="choose a preset that keeps attention: bk-base, bk-small or bk-tiny",
        )
    before = tuple(config["block_out_channels"])
    shares = pruning.shares(len(before))
    if min(shares) < 1:
        groups = config["norm_num_groups"]
        if shares[0] < 1:  # diffusers would narrow the time embedding with the top
            config["time_embedding_dim"] = config.get("time_embedding_dim") or 4 * before[0]
        config["block_out_channels"] = tuple(
            narrowed(width, share, groups) for width, share in zip(before, shares, strict=True)
        )
    return config


def pruning_of(recipe: StudentRecipe) -> Pruning:
    """What a recipe removes: its preset, with any widths of its own. Errors: InputError for an unknown preset."""
    preset = PRESETS[check_choice(recipe.name, tuple(PRESETS), "student")]
    return replace(
        preset,
        width=recipe.width or preset.width,
        top_width=recipe.top_width or preset.top_width,
        level_widths=recipe.level_widths,
        attention_levels=recipe.levels_without_attention or preset.attention_levels,
    )


def build_student(teacher: Any, pruning: Pruning) -> tuple[nn.Module, float]:
    """The pruned copy of a diffusers UNet, and the share of its weights that were copied (the rest start fresh)."""
    from diffusers import UNet2DConditionModel

    student: Any = UNet2DConditionModel.from_config(student_config(teacher.config, pruning))
    source = teacher.state_dict()
    layers = _layers(teacher.config)
    last_pair = layers if pruning.one_pair_per_level else None
    if min(pruning.shares(len(student.config["block_out_channels"]))) < 1:
        narrower = Narrowing.to(student.config["block_out_channels"], source, teacher.config, layers)
        source = {key: narrower.cut(key, value) for key, value in (_plain_shortcuts(teacher) | source).items()}
    state: dict[str, Tensor] = student.state_dict()
    copied = 0
    for key, value in state.items():
        old = source.get(teacher_key(key, last_pair=last_pair, shift=int(pruning.deepest_level)))
        if old is not None and old.shape == value.shape:
            state[key] = old.detach().clone()
            copied += value.numel()
    student.load_state_dict(state)
    return student, copied / sum(value.numel() for value in state.values())


def _plain_shortcuts(teacher: Any) -> dict[str, Tensor]:
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

"""What a student keeps of its teacher's UNet: the presets of `student.name`, and the config that each makes of a teacher's.

Without PyTorch, so that a misspelt preset is refused, and a student's size is estimated, before it is imported.

Not here: the weights (`pruning`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

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


def narrowed(width: int, share: float, groups: int) -> int:
    """About `share` of `width`, in whole channels per group."""
    return max(1, round(width * share / groups)) * groups

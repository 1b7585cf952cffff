"""Wider levels: a UNet's weights spread over more channels, so that training starts from about the network that it was
(Net2WiderNet: Chen et al. 2016, arXiv:1511.05641, section 2.2).

Every channel of a level becomes a few equal ones, side by side, so that the groups of normalisations keep their statistics. A layer
that reads them divides its old weight among the copies in random, uneven shares: even ones would get equal gradients for ever.

Two things are not kept exactly and left to training. Where two levels' channels are concatenated, groups may span both, and the
groups of a wider one lie elsewhere. And diffusers' residual blocks have a projection in their shortcut only where input and output
differ in width: where a level becomes as wide as the one above, its projection moves into the downsampler before it, and the other
readers of that downsampler get its pseudo-inverse.

Not here: which layer reads what (`narrowing.streams`), a teacher of more levels (`teacher.run.start_from`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from genin.distill.models.narrowing import Stream, is_entrance_norm, resized_sinusoids, sees_others, streams
from genin.distill.models.pruning import plain_shortcuts
from genin.runtimes.errors import InputError

UNEVENNESS = 0.15  # standard deviation of a copy's share, where the mean is 1 / copies


def may_widen(unet: Any, widths: Sequence[int]) -> bool:
    """Whether `widened` can: as many levels, whole multiples, and levels with attention as wide as before."""
    before = unet.config["block_out_channels"]
    if len(widths) != len(before):
        return False
    levels = zip(widths, before, levels_with_attention(unet), strict=True)
    return all(new % old == 0 and (new == old or not attends) for new, old, attends in levels)


def levels_with_attention(unet: Any) -> list[bool]:
    """By level, the finest first; the middle block is part of the last."""
    config = unet.config
    down, up = config["down_block_types"], reversed(config["up_block_types"])
    found = ["Attn" in one or "Attn" in other for one, other in zip(down, up, strict=True)]
    return [*found[:-1], found[-1] or "Attn" in (config.get("mid_block_type") or "")]


def widened(unet: Any, widths: Sequence[int]) -> Any:
    """A UNet of `widths` channels per level, the finest first, that computes about what the diffusers UNet `unet` does.

    Errors: InputError where a width is no whole multiple, or a level with attention would become wider.
    """
    from diffusers import UNet2DConditionModel

    before = list(unet.config["block_out_channels"])
    if len(widths) != len(before) or any(new % old for new, old in zip(widths, before, strict=False)):
        what = f"a UNet of widths {before} cannot become one of {list(widths)}"
        raise InputError(what, remedy="give each level a whole multiple of its width")
    copies = [new // old for new, old in zip(widths, before, strict=True)]
    for level, attends in enumerate(levels_with_attention(unet)):
        if attends and copies[level] > 1:
            what = f"level {level} has attention, so it cannot become wider: {before[level]} channels, {widths[level]} asked for"
            raise InputError(what, remedy="widen levels without attention")
    heads = unet.config["attention_head_dim"]
    heads = [heads] * len(before) if isinstance(heads, int) else heads
    changed = {
        "block_out_channels": list(widths),
        "attention_head_dim": [count * factor for count, factor in zip(heads, copies, strict=True)],
        "time_embedding_dim": unet.config.get("time_embedding_dim") or 4 * before[0],
    }
    # `_use_default_values` among them would undo a change of what was the default.
    config = {key: value for key, value in unet.config.items() if not key.startswith("_")}
    wide: Any = UNet2DConditionModel.from_config({**config, **changed})
    wide.load_state_dict(Widening(unet, copies).state(wide.state_dict()))
    return wide


class Widening:
    """How `unet`'s weights become those of one whose levels have `copies` of every channel."""

    def __init__(self, unet: Any, copies: Sequence[int]) -> None:
        self.copies, self.config = copies, unet.config
        self.before: list[int] = list(unet.config["block_out_channels"])
        layers = unet.config["layers_per_block"]
        self.layers = layers if isinstance(layers, int) else int(layers[0])
        shortcuts = plain_shortcuts(unet)
        self.source: Mapping[str, Tensor] = {key: one.float() for key, one in (shortcuts | unet.state_dict()).items()}
        self.generator = torch.Generator().manual_seed(0)
        after = [width * factor for width, factor in zip(self.before, copies, strict=True)]
        # Level => the projection, (C', C), that the shortcut into the level below it loses.
        self.projections = {
            level: self.source[f"{_shortcut_below(level)}.weight"][:, :, 0, 0]
            for level in range(len(after) - 1)
            if after[level] == after[level + 1] and self.before[level] != self.before[level + 1]
        }

    @torch.no_grad()
    def state(self, shapes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The wider network's weights; `shapes` is its state."""
        state = {key: self._spread(key, self.source[key]) for key in shapes}
        for level in self.projections:
            # What was projected has the projection's bias in it, which its other readers did not see.
            bias = self.source[f"{_shortcut_below(level)}.bias"]
            name = f"up_blocks.{len(self.before) - 2 - level}.resnets.{self.layers}.conv_shortcut"
            read = self.source[f"{name}.weight"][:, -self.before[level] :, 0, 0]
            state[f"{name}.bias"] -= (read @ self._inverse(level) @ bias).repeat_interleave(self.copies[level + 1])
        return state

    def _spread(self, key: str, value: Tensor) -> Tensor:
        if key == "time_embedding.linear_1.weight":
            sinusoids = {
                "flip_sin_to_cos": self.config["flip_sin_to_cos"],
                "downscale_freq_shift": self.config["freq_shift"],
            }
            return resized_sinusoids(value, self.before[0] * self.copies[0], sinusoids)
        writes, reads = streams(key, len(self.before), self.layers)
        if is_entrance_norm(key):
            return torch.cat([self._normalised(part, stream) for part, stream in self._parts(value, reads, 0)])
        if value.dim() > 1 and reads and not sees_others(key):
            value = torch.cat([self._read(part, stream) for part, stream in self._parts(value, reads, 1)], dim=1)
        return value if writes is None else self._written(key, value, writes)

    def _parts(self, value: Tensor, reads: Sequence[Stream], dim: int) -> list[tuple[Tensor, Stream]]:
        """The streams side by side in a layer's input, repeated as often as they occur."""
        widths = [self.before[stream.level] for stream in reads]
        times = value.shape[dim] // sum(widths)
        return list(zip(torch.split(value, widths * times, dim), list(reads) * times, strict=True))

    def _read(self, weight: Tensor, stream: Stream) -> Tensor:
        """(O, C, …) => the same on the stream's new channels."""
        copies = self.copies[stream.level]
        if self._projected(stream):
            weight = torch.einsum("oi...,ij->oj...", weight, self._inverse(stream.level))
            copies = self.copies[stream.level + 1]
        if copies == 1:
            return weight
        shares = UNEVENNESS * torch.randn(copies, *weight.shape, generator=self.generator)
        shares = shares - shares.mean(0) + 1 / copies
        return (shares * weight).movedim(0, 2).flatten(1, 2)

    def _normalised(self, weight: Tensor, stream: Stream) -> Tensor:
        if not self._projected(stream):
            return weight.repeat_interleave(self.copies[stream.level])
        return weight.mean().expand(self.before[stream.level] * self.copies[stream.level])  # another basis

    def _written(self, key: str, value: Tensor, stream: Stream) -> Tensor:
        """(O, …) => the same to the stream's new channels."""
        if not self._projected(stream):
            return value.repeat_interleave(self.copies[stream.level], 0)
        value = torch.tensordot(self.projections[stream.level], value, dims=1)
        if key.endswith(".bias"):
            value = value + self.source[f"{_shortcut_below(stream.level)}.bias"]
        return value.repeat_interleave(self.copies[stream.level + 1], 0)

    def _projected(self, stream: Stream) -> bool:
        return stream.lowered and stream.level in self.projections

    def _inverse(self, level: int) -> Tensor:
        inverse: Tensor = torch.linalg.pinv(self.projections[level])
        return inverse


def _shortcut_below(level: int) -> str:
    return f"down_blocks.{level + 1}.resnets.0.conv_shortcut"

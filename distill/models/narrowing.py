"""Narrower levels: which of a level's channels a student keeps, and its teacher's weights cut to them.

One set of channels per level: residual blocks add to one stream, so all layers that write to it or read from it must keep the same
channels. Channels are ranked by the squared norm of the filters that write them (magnitude pruning of filters, Li et al. 2017,
arXiv:1608.08710, with L2 for L1), and the best of every normalisation group are kept, so that the groups remain.

Written in terms of diffusers' state-dict names of a `UNet2DConditionModel`, as the block map of `pruning` is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

TIMESTEPS = 1000  # of every Stable Diffusion's schedule
BLOCK = re.compile(r"(down_blocks|up_blocks)\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)")


class Stream(NamedTuple):
    """The channels that the residual blocks of a level add to, level 0 at the top; `lowered`: after its downsampler, as the level
    below and the way up read them."""

    level: int
    lowered: bool = False


def streams(key: str, levels: int, layers: int) -> tuple[Stream | None, list[Stream]]:
    """The stream that a layer writes, and those that it reads, in the order of concatenation, by the name of its weight in a UNet
    of that many levels with `layers` pairs of residual block and attention going down.

    Only the entrance of a residual block reads other levels' streams: going down that of the level above, going up what comes from
    below and what was kept on the way down. Outside the blocks the top level's begins and ends; the time and caption embeddings
    have none."""
    deepest = levels - 1
    match = BLOCK.match(key)
    if match is None:
        if key.startswith("conv_out."):
            return None, [Stream(0)]
        if key.startswith(("conv_in.", "conv_norm_out.")):
            return Stream(0), []
        return (Stream(deepest), [Stream(deepest)]) if key.startswith("mid_block.") else (None, [])
    level, index = _level(match, levels), int(match[4])
    own, below = Stream(level), Stream(min(level + 1, deepest))
    above = Stream(level - 1, lowered=True) if level else own
    if match[3] == "downsamplers":
        return Stream(level, lowered=True), [own]
    if match[3] != "resnets" or not re.match(r"(norm1|conv1|conv_shortcut)\.", match[5]):
        return own, [own]
    if match[1] == "down_blocks":
        return own, [above if index == 0 else own]
    return own, [below if index == 0 else own, above if index == layers else own]


def is_entrance_norm(key: str) -> bool:
    """Whether this is the normalisation at a residual block's entrance, which has the channels that the block reads."""
    return ".norm1." in key and ".resnets." in key


def sees_others(key: str) -> bool:
    """Whether a layer's inputs are no stream's: the time embedding, the caption."""
    return re.search(r"time_emb_proj\.|attn2\.to_[kv]\.", key) is not None


@dataclass(frozen=True)
class Narrowing:
    """`kept[level]` are the sorted indices of the channels that are kept, level 0 at the top; `widths` are the widths before,
    `layers` the number of pairs of residual block and attention in a level going down."""

    kept: Sequence[Tensor]
    widths: Sequence[int]
    layers: int
    sinusoids: Mapping[str, Any]  # the config's settings for the timestep's sinusoids

    @classmethod
    def to(
        cls, widths: Sequence[int], state: Mapping[str, Tensor], config: Mapping[str, Any], layers: int
    ) -> Narrowing:
        """The best channels of a UNet with weights `state` and config `config`, `widths[level]` of each level. Levels below the
        last width are dropped: layers that read them read the last one's stream."""
        before = list(config["block_out_channels"])
        scores = [torch.zeros(width) for width in before]
        for key, value in state.items():
            match = BLOCK.match(key)
            writes = match is not None and re.fullmatch(r"(conv2|conv_shortcut|conv)\.weight", match[5])
            if writes or key == "conv_in.weight":
                level = 0 if match is None else _level(match, len(before))
                scores[level] += value.detach().float().square().flatten(1).sum(1).cpu()
        kept = []
        for score, width in zip(scores, widths, strict=False):
            grouped = score.view(config["norm_num_groups"], -1)
            best = grouped.topk(width // len(grouped), dim=1).indices
            first = torch.arange(len(grouped)).unsqueeze(1) * grouped.shape[1]
            kept.append((best + first).flatten().sort().values)
        kept += [kept[-1]] * (len(before) - len(kept))
        sinusoids = {
            "flip_sin_to_cos": config.get("flip_sin_to_cos", True),
            "downscale_freq_shift": config.get("freq_shift", 0),
        }
        return cls(kept, before, layers, sinusoids)

    def cut(self, key: str, value: Tensor) -> Tensor:
        """The weight `key` without the removed outputs and inputs."""
        if key.startswith("time_embedding.linear_1.weight"):
            return resized_sinusoids(value, len(self.kept[0]), self.sinusoids)
        writes, reads = streams(key, len(self.kept), self.layers)
        if is_entrance_norm(key):
            return self._select(value, 0, reads)
        if writes is not None:
            value = self._select(value, 0, [writes])
        return value if value.dim() < 2 or sees_others(key) or not reads else self._select(value, 1, reads)

    def _select(self, value: Tensor, dim: int, kept: Sequence[Stream]) -> Tensor:
        """Keep the channels of streams side by side, repeated as often as they occur (scale with shift, feed-forward)."""
        parts: list[Tensor] = []
        first = 0
        while first < value.shape[dim]:
            for level, _ in kept:
                parts.append(self.kept[level] + first)
                first += self.widths[level]
        return value.index_select(dim, torch.cat(parts).to(value.device))


def resized_sinusoids(weight: Tensor, count: int, sinusoids: Mapping[str, Any]) -> Tensor:
    """The first layer of the time embedding for `count` sinusoids: about what it gave at every timestep, by least squares.

    The slow sinusoids are almost constant over a thousand timesteps. Singular values below a hundredth of the largest are left
    out: with all of them weights reach 10⁶ for a fit that is no better, and such a network does not train (docs/log.md).
    """
    from diffusers.models.embeddings import get_timestep_embedding

    if count == weight.shape[1]:
        return weight
    before, after = (
        get_timestep_embedding(torch.arange(TIMESTEPS), size, **sinusoids).double() for size in (weight.shape[1], count)
    )
    target = before @ weight.detach().double().cpu().T
    solution: Tensor = torch.linalg.lstsq(after, target, rcond=1e-2, driver="gelsd").solution
    return solution.T.to(weight)


def _level(match: re.Match[str], levels: int) -> int:
    """The level whose stream a block writes."""
    return int(match[2]) if match[1] == "down_blocks" else levels - 1 - int(match[2])

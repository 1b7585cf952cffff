"""Narrower levels: which of a level's channels a student keeps, and its teacher's weights cut to them.

One set of channels per level: residual blocks add to one stream, so all layers that write to it or read from it must keep the same
channels. Between its two convolutions a residual block has channels of its own, chosen block by block. Channels are ranked by the
squared norm of the filters that write them (magnitude pruning of filters, Li et al. 2017, arXiv:1608.08710, with L2 for L1), those
inside a block, which are normalised, by that of the filters that read them. The best of every normalisation group are kept, so that
the groups remain.

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
    below and the way up read them; `block`: instead, those between the convolutions of that residual block."""

    level: int
    lowered: bool = False
    block: str = ""


def streams(key: str, levels: int, layers: int) -> tuple[Stream | None, list[Stream]]:
    """The stream that a layer writes, and those that it reads, in the order of concatenation, by the name of its weight in a UNet
    of that many levels with `layers` pairs of residual block and attention going down.

    Only the entrance of a residual block reads other levels' streams: going down that of the level above, going up what comes from
    below and what was kept on the way down; its first convolution writes the block's own channels, its second reads them. Outside
    the blocks the top level's begins and ends; the time and caption embeddings have none."""
    deepest = levels - 1
    match = BLOCK.match(key)
    if match is None:
        if key.startswith("conv_out."):
            return None, [Stream(0)]
        if key.startswith(("conv_in.", "conv_norm_out.")):
            return Stream(0), []
        if not key.startswith("mid_block."):
            return None, []
        inside = Stream(deepest, block=_block(key))
        return _of_block(key, inside, Stream(deepest), [Stream(deepest)])
    level, index = _level(match, levels), int(match[4])
    own, below = Stream(level), Stream(min(level + 1, deepest))
    above = Stream(level - 1, lowered=True) if level else own
    if match[3] == "downsamplers":
        return Stream(level, lowered=True), [own]
    if match[3] != "resnets":
        return own, [own]
    entrance = [above if index == 0 else own]
    if match[1] == "up_blocks":
        entrance = [below if index == 0 else own, above if index == layers else own]
    return _of_block(key, Stream(level, block=_block(key)), own, entrance)


def _block(key: str) -> str:
    """The residual block that a layer belongs to; empty for another."""
    match = re.match(r".*\.resnets\.\d+(?=\.)", key)
    return match[0] if match else ""


def _of_block(key: str, inside: Stream, own: Stream, entrance: list[Stream]) -> tuple[Stream, list[Stream]]:
    """What a layer of a residual block writes and reads."""
    name = key.removeprefix(f"{inside.block}.").partition(".")[0] if inside.block else ""
    if name in ("conv1", "time_emb_proj", "norm2"):
        return inside, entrance if name == "conv1" else [inside]
    if name == "conv2":
        return own, [inside]
    return own, entrance if name in ("norm1", "conv_shortcut") else [own]


def is_entrance_norm(key: str) -> bool:
    """Whether this is the normalisation at a residual block's entrance, which has the channels that the block reads."""
    return ".norm1." in key and ".resnets." in key


def sees_others(key: str) -> bool:
    """Whether a layer's inputs are no stream's: the time embedding, the caption."""
    return re.search(r"time_emb_proj\.|attn2\.to_[kv]\.", key) is not None


@dataclass(frozen=True)
class Narrowing:
    """`kept[level]` are the sorted indices of the channels that are kept, level 0 at the top, `inside[block]` those of a residual
    block; `widths` are the widths before, `layers` the number of pairs of residual block and attention in a level going down."""

    kept: Sequence[Tensor]
    inside: Mapping[str, Tensor]
    widths: Sequence[int]
    layers: int
    sinusoids: Mapping[str, Any]  # the config's settings for the timestep's sinusoids

    @classmethod
    def to(
        cls, widths: Sequence[int], state: Mapping[str, Tensor], config: Mapping[str, Any], layers: int
    ) -> Narrowing:
        """The best channels of a UNet with weights `state` and config `config`, `widths[level]` of each level. Levels below the
        last width are dropped: layers that read them read the last one's stream."""
        before, groups = list(config["block_out_channels"]), config["norm_num_groups"]
        scores = [torch.zeros(width) for width in before]
        inside: dict[str, Tensor] = {}
        for key, value in state.items():
            match = BLOCK.match(key)
            writes = match is not None and re.fullmatch(r"(conv2|conv_shortcut|conv)\.weight", match[5])
            level = 0 if match is None else _level(match, len(before))
            if writes or key == "conv_in.weight":
                scores[level] += value.detach().float().square().flatten(1).sum(1).cpu()
            if key.endswith(".conv2.weight"):
                block, level = _block(key), level if match else len(before) - 1
                read = value.detach().float().square().sum(dim=(0, 2, 3)).cpu()
                norm = state[f"{block}.norm2.weight"].detach().float().square().cpu()
                width = widths[min(level, len(widths) - 1)]
                inside[block] = _best_of_groups(read * norm, width, groups)
        kept = [_best_of_groups(score, width, groups) for score, width in zip(scores, widths, strict=False)]
        kept += [kept[-1]] * (len(before) - len(kept))
        sinusoids = {
            "flip_sin_to_cos": config.get("flip_sin_to_cos", True),
            "downscale_freq_shift": config.get("freq_shift", 0),
        }
        return cls(kept, inside, before, layers, sinusoids)

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
            for stream in kept:
                parts.append((self.inside[stream.block] if stream.block else self.kept[stream.level]) + first)
                first += self.widths[stream.level]
        return value.index_select(dim, torch.cat(parts).to(value.device))


def _best_of_groups(score: Tensor, width: int, groups: int) -> Tensor:
    """The sorted indices of the `width` best channels, as many of each of the normalisation's groups."""
    grouped = score.view(groups, -1)
    best = grouped.topk(width // groups, dim=1).indices
    first = torch.arange(groups).unsqueeze(1) * grouped.shape[1]
    return (best + first).flatten().sort().values


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

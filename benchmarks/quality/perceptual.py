"""LPIPS between paired pictures, and diversity between seeds.

`lpips_squeeze` is the lpips package's network with net `squeeze`, version 0.1, and the published weights (see `weights`); built
offline: trunk and heads are loaded by hand. LPIPS is meaningful only for *pairs* (same caption, same initial noise); between
unrelated pictures it is 0.6–0.75 for any models.

Resize rule, named in every result: **pictures are measured at their own size** (`native`), since the human judgements
behind LPIPS were made on 64 px patches; only pictures with a side under 64 px are first enlarged to 64 px on the
shorter side (`bilinear-64`), because the network's last layers vanish below that. Compare values of equal size only.

Not covered: `lpips_alex` and `lpips_vgg` (their trunks are 60–130 MB downloads and nothing here needs them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from genin.benchmarks.quality.weights import (
    LPIPS_SQUEEZE_HEADS,
    SQUEEZENET,
    MetricUnavailableError,
    find_weights,
    weights_folder,
)
from genin.runtimes.errors import InputError

Pictures = NDArray[np.uint8]
LPIPS_NETS: Final = ("squeeze",)
SMALLEST_SIDE_PX: Final = 64


@dataclass(frozen=True)
class Lpips:
    """A loaded LPIPS network; call it with two equal stacks of pictures."""

    net: str
    weights: Mapping[str, Mapping[str, str]]
    network: Any
    batch_size: int = 32

    @torch.inference_mode()
    def __call__(self, first: Pictures, second: Pictures) -> NDArray[np.float32]:
        """N×H×W×3 uint8, twice => N distances. InputError if the shapes differ."""
        if first.shape != second.shape or first.ndim != 4 or first.shape[-1] != 3:
            raise InputError(f"LPIPS needs two equal stacks of RGB pictures, not {first.shape} and {second.shape}")
        distances = np.empty(len(first), np.float32)
        for start in range(0, len(first), self.batch_size):
            batch = slice(start, start + self.batch_size)
            distances[batch] = self.between(_to_input(first[batch]), _to_input(second[batch])).numpy()
        return distances

    @torch.inference_mode()
    def between(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """N3HW floats in [−1, 1], twice, as they are (no resize) => N distances."""
        distances: torch.Tensor = self.network(first, second).flatten()
        return distances


def why_no_lpips() -> str:
    """Why LPIPS is unavailable here, and what to do; empty if it is available."""
    try:
        folder = weights_folder(None)
        for part in (SQUEEZENET, LPIPS_SQUEEZE_HEADS):
            find_weights(part, folder)
    except MetricUnavailableError as error:
        return str(error)
    return ""


def load_lpips(net: str = "squeeze", weights: str | Path | None = None) -> Lpips:
    """LPIPS v0.1 with the published weights, from the folder `weights` or as `weights.find_weights` searches.

    Raises InputError for another net, MetricUnavailableError (with the reason) where the weights are unavailable.
    """
    if net not in LPIPS_NETS:
        raise InputError(f"unknown LPIPS net '{net}'", remedy=f"choose from: {', '.join(LPIPS_NETS)}")
    import lpips

    folder = weights_folder(weights)
    trunk, heads = find_weights(SQUEEZENET, folder), find_weights(LPIPS_SQUEEZE_HEADS, folder)
    with torch.random.fork_rng(devices=[]):  # torchvision draws initial weights from the global generator
        network = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    # lpips cuts the trunk into slices but keeps torchvision's layer numbers: "3.squeeze…" => "slice2.3.squeeze…"
    slice_of = {name.split(".", 1)[1]: name for name in network.net.state_dict()}
    network.net.load_state_dict({slice_of[name]: value for name, value in trunk.tensors.items()})
    network.load_state_dict(dict(heads.tensors), strict=False)
    network.requires_grad_(False).eval()
    return Lpips(net, {"trunk": trunk.record(), "heads": heads.record()}, network)


def resize_rule(height: int, width: int) -> str:
    """The name of what happens to pictures of this size before LPIPS."""
    return "native" if min(height, width) >= SMALLEST_SIDE_PX else f"bilinear-{SMALLEST_SIDE_PX}"


def diversity(lpips: Lpips, pictures_by_seed: Sequence[Pictures]) -> float:
    """Mean LPIPS between seeds of the same caption: S stacks of N pictures, row i of each drawn from caption i."""
    if len(pictures_by_seed) < 2:
        raise InputError("diversity needs pictures of at least two seeds per caption")
    return float(np.mean([lpips(one, other).mean() for one, other in combinations(pictures_by_seed, 2)]))


def _to_input(pictures: Pictures) -> torch.Tensor:
    """NHWC uint8 => N3HW float in [−1, 1], enlarged if small."""
    x = torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).float() / 127.5 - 1
    height, width = x.shape[2:]
    if min(height, width) >= SMALLEST_SIDE_PX:
        return x
    scale = SMALLEST_SIDE_PX / min(height, width)
    return F.interpolate(x, size=(round(height * scale), round(width * scale)), mode="bilinear", align_corners=False)

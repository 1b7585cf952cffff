"""A small convolutional network that names the attributes of a picture, and whose features give `fd_world`.

One trunk, one linear head per attribute. The network knows no data set: which attributes there are, their values, how it was
trained and its test accuracies are in the metadata of its safetensors file, so a file made for another captioned world loads just
as well. Pictures of any size are brought to the trained size by area averaging (bilinear upwards).

Not here: the training, which belongs with the data (`genin.distill.world_classifier` for the built-in world).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from genin.files import atomic_path
from genin.runtimes.errors import InputError

FORMAT = 1
FEATURES = 192


class _Residual(nn.Module):
    """Two 3×3 convolutions, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels)
        self.second = _convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(self.first(x))
        return out


def _convolution(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class AttributeClassifier(nn.Module):
    """RGB pictures → one value per attribute; 0.47 M parameters, 37 M multiply-adds at 64 px, 47 M at 128.

    Larger pictures are halved more often before the wide layers, once for each doubling of 64 px.
    """

    def __init__(self, attributes: Mapping[str, Sequence[str]], *, image_size: int = 64) -> None:
        super().__init__()
        self.attributes = {name: tuple(values) for name, values in attributes.items()}
        self.image_size = image_size
        self.metadata: dict[str, Any] = {}
        self.trunk = nn.Sequential(
            _convolution(3, 24, stride=2),
            *(_convolution(24, 24, stride=2) for _ in range(max(0, round(math.log2(image_size / 64))))),
            _convolution(24, 64, stride=2),
            _convolution(64, 64),
            _convolution(64, 128, stride=2),
            _Residual(128),
            _convolution(128, FEATURES, kernel=1),
        )
        self.heads = nn.ModuleDict({name: nn.Linear(FEATURES, len(v)) for name, v in self.attributes.items()})

    def pooled(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) floats in [−1, 1] → penultimate features (N, 192), averaged over place."""
        features: Tensor = self.trunk(images).mean(dim=(2, 3))
        return features

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, S, S) floats in [−1, 1] → logits per attribute, (N, values) each."""
        features = self.pooled(images)
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def features(self, pictures: NDArray[np.uint8], *, batch_size: int = 256) -> NDArray[np.float32]:
        """(N, H, W, 3) uint8 → (N, 192) float32."""
        parts = [self.pooled(batch).float().cpu().numpy() for batch in self._batches(pictures, batch_size)]
        return np.concatenate(parts) if parts else np.zeros((0, FEATURES), np.float32)

    @torch.no_grad()
    def predict(self, pictures: NDArray[np.uint8], *, batch_size: int = 256) -> dict[str, NDArray[np.str_]]:
        """(N, H, W, 3) uint8 → per attribute an array of N value names."""
        chosen: dict[str, list[Tensor]] = {name: [] for name in self.attributes}
        for batch in self._batches(pictures, batch_size):
            for name, logits in self(batch).items():
                chosen[name].append(logits.argmax(dim=1).cpu())
        return {
            name: np.array(self.attributes[name])[torch.cat(parts).numpy() if parts else np.zeros(0, int)]
            for name, parts in chosen.items()
        }

    def _batches(self, pictures: NDArray[np.uint8], batch_size: int) -> list[Tensor]:
        if pictures.ndim != 4 or pictures.shape[-1] != 3 or pictures.dtype != np.uint8:
            raise InputError(f"pictures must be (N, H, W, 3) uint8, not {pictures.shape} {pictures.dtype}")
        if self.training:
            raise RuntimeError(
                "call eval() before features() or predict(): batch statistics would leak into the answer"
            )
        device = next(self.parameters()).device
        return [self._to_input(pictures[i : i + batch_size]).to(device) for i in range(0, len(pictures), batch_size)]

    def _to_input(self, pictures: NDArray[np.uint8]) -> Tensor:
        images = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
        size = (self.image_size, self.image_size)
        if tuple(images.shape[2:]) == size:
            return images
        if min(images.shape[2:]) >= self.image_size:
            return F.interpolate(images, size=size, mode="area")
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def save_classifier(model: AttributeClassifier, path: Path, facts: Mapping[str, Any]) -> None:
    """Write the weights as fp16 safetensors, with attributes and `facts` (recipe, test accuracies) as metadata."""
    from safetensors.torch import save_file

    tensors = {
        name: value.detach().cpu().half().contiguous() if value.is_floating_point() else value.cpu()
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    header = {
        "genin_classifier": FORMAT,
        "attributes": {name: list(values) for name, values in model.attributes.items()},
        "image_size": model.image_size,
        **facts,
    }
    with atomic_path(path) as partial:
        save_file(tensors, partial, metadata={"format": "pt", "genin": json.dumps(header)})


def load_classifier(path: str | Path) -> AttributeClassifier:
    """Read a classifier file; the model is in eval mode, fp32, on the CPU. InputError if it is missing or not one."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise InputError("no such classifier", where=path, remedy="give a .safetensors file that genin trained")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("genin", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise InputError("not a readable classifier", where=path, remedy="fetch or train it again") from error
    if header.get("genin_classifier") != FORMAT:
        raise InputError(f"not a genin classifier of format {FORMAT}", where=path, remedy="train it with this version")
    model = AttributeClassifier(header["attributes"], image_size=header["image_size"])
    try:
        missing, unexpected = model.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=False)
    except RuntimeError as error:
        raise InputError("the weights do not fit the network", where=path, remedy="train it again") from error
    if unexpected or any(not name.endswith("num_batches_tracked") for name in missing):
        raise InputError("the weights do not fit the network", where=path, remedy="train it again")
    model.metadata = header
    return model.requires_grad_(False).eval()

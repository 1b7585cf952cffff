"""Feature extractors for FD, KID and precision/recall, registered with torch-fidelity.

Four sets, all uint8 pictures in, float32 features out:

- `world`: 192 features of an attribute classifier that genin trained (always available; does its own resizing);
- `squeezenet`: torchvision's squeezenet1_1, last feature map averaged over place, 512 features. Pictures are brought to
  224 px (bilinear, anti-aliased), the size the network was trained at, as FID brings them to 299;
- `efficientnet`: EfficientNet-Lite0, last feature map averaged over place, 320 features, of pictures brought to 224 px likewise;
- `inception`: torch-fidelity's Inception-2015 `2048`, its own resize. Only this one makes a number called FID.

`load_features` returns a callable on arrays; the same classes work inside `torch_fidelity.calculate_metrics` under the
names `genin-world`, `genin-squeezenet` and `genin-efficientnet`. Not covered: training or fine-tuning any of these networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor
from torch_fidelity.utils import create_feature_extractor

from genin.benchmarks.quality.efficientnet import DEVIATION, MEAN, load_efficientnet
from genin.benchmarks.quality.weights import (
    EFFICIENTNET,
    IMAGENET_MEAN,
    IMAGENET_STD,
    INCEPTION_2015,
    SQUEEZENET,
    MetricUnavailableError,
    find_weights,
    read_tensors,
    sha256_of,
    weights_folder,
)
from genin.runtimes.errors import InputError

FEATURE_SETS: Final = ("world", "squeezenet", "efficientnet", "inception")
IMAGENET_INPUT_PX: Final = 224


class _SingleLayerExtractor(FeatureExtractorBase):  # type: ignore[misc]
    """What torch-fidelity asks of an extractor that provides one vector per picture."""

    LAYER = ""

    @classmethod
    def get_provided_features_list(cls) -> tuple[str, ...]:
        return (cls.LAYER,)

    @classmethod
    def get_default_feature_layer_for_metric(cls, metric: str) -> str:
        return cls.LAYER

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    @staticmethod
    def get_dummy_input_for_compile() -> torch.Tensor:
        return torch.zeros(1, 3, 64, 64, dtype=torch.uint8)


class _ImageNetExtractor(_SingleLayerExtractor):
    """A network that was trained on ImageNet, whose pictures have its size and normalisation."""

    def _normalise_by(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))


class SqueezeNetFeatures(_ImageNetExtractor):
    """squeezenet1_1 `.features`, averaged over place: N3HW uint8 => N×512 float32."""

    LAYER = "512"

    def __init__(
        self,
        name: str,
        features_list: list[str],
        feature_extractor_weights_path: str | None = None,
        **_other_metrics_options: Any,  # torch-fidelity passes every option of every metric to each extractor
    ) -> None:
        super().__init__(name, features_list)
        from torchvision.models import squeezenet1_1

        with torch.random.fork_rng(devices=[]):  # torchvision draws initial weights from the global generator
            self.trunk = squeezenet1_1(weights=None).features
        if feature_extractor_weights_path is None:
            tensors: Mapping[str, torch.Tensor] = find_weights(SQUEEZENET, weights_folder()).tensors
        else:
            tensors = read_tensors(SQUEEZENET, Path(feature_extractor_weights_path))
        self.trunk.load_state_dict(dict(tensors))
        self._normalise_by(IMAGENET_MEAN, IMAGENET_STD)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.trunk((_at_imagenet_size(images) - self.mean) / self.std).mean(dim=(2, 3)),)


class EfficientNetFeatures(_ImageNetExtractor):
    """EfficientNet-Lite0's last stage, averaged over place: N3HW uint8 => N×320 float32."""

    LAYER = "320"

    def __init__(
        self,
        name: str,
        features_list: list[str],
        feature_extractor_weights_path: str | None = None,
        **_other_metrics_options: Any,
    ) -> None:
        super().__init__(name, features_list)
        path = feature_extractor_weights_path or find_weights(EFFICIENTNET, weights_folder()).path
        self.network = load_efficientnet(path)
        self._normalise_by(MEAN, DEVIATION)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.network((_at_imagenet_size(images) - self.mean) / self.std)[-1].mean(dim=(2, 3)),)


def _at_imagenet_size(images: torch.Tensor) -> torch.Tensor:
    """uint8 => float32 in [0, 1], 224 px either way."""
    size = (IMAGENET_INPUT_PX, IMAGENET_INPUT_PX)
    x = images.float() / 255
    return (
        x if x.shape[2:] == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)
    )


class WorldFeatures(_SingleLayerExtractor):
    """Penultimate features of an attribute classifier file: N3HW uint8 => N×192 float32."""

    LAYER = "192"

    def __init__(
        self,
        name: str,
        features_list: list[str],
        feature_extractor_weights_path: str | None = None,
        **_other_metrics_options: Any,
    ) -> None:
        super().__init__(name, features_list)
        from genin.benchmarks.quality.classifier import load_classifier

        if feature_extractor_weights_path is None:
            raise InputError(
                "the world's features need a classifier file", remedy="give feature_extractor_weights_path"
            )
        self.classifier = load_classifier(feature_extractor_weights_path)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        pictures = images.permute(0, 2, 3, 1).cpu().numpy()
        return (torch.from_numpy(self.classifier.features(pictures)),)


@dataclass(frozen=True)
class FeatureSet:
    """A loaded extractor. Call it with N×H×W×3 uint8 pictures; it gives N×F float32 features.

    `resize` names what happens to the pictures first; `weights` is the provenance a result records.
    """

    name: str
    dimension: int
    resize: str
    weights: Mapping[str, str]
    extractor: torch.nn.Module
    batch_size: int = 64

    @property
    def fingerprint(self) -> str:
        """Features of two files may be compared only if this is equal: weights and resize in one string."""
        return f"{self.weights['tensors_sha256']}:{self.resize}"

    @torch.inference_mode()
    def __call__(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        if pictures.ndim != 4 or pictures.shape[-1] != 3 or pictures.dtype != np.uint8:
            raise InputError(f"pictures must be (N, H, W, 3) uint8, not {pictures.shape} {pictures.dtype}")
        features = np.empty((len(pictures), self.dimension), np.float32)
        for start in range(0, len(pictures), self.batch_size):
            batch = np.ascontiguousarray(pictures[start : start + self.batch_size].transpose(0, 3, 1, 2))
            features[start : start + len(batch)] = self.extractor(torch.from_numpy(batch))[0].numpy()
        return features


def load_features(name: str, weights: str | Path | None = None) -> FeatureSet:
    """The extractor called `name`.

    `weights` is the classifier file for `world`, and the folder of metric weights (or None) for the others.
    Raises InputError for an unknown name and MetricUnavailableError, with the reason, where the weights are unavailable.
    """
    if name == "world":
        return _load_world(None if weights is None else Path(weights))
    if name == "squeezenet":
        found = find_weights(SQUEEZENET, weights_folder(weights))
        extractor = _create("genin-squeezenet", SqueezeNetFeatures.LAYER, found.path)
        return FeatureSet(name, 512, f"bilinear-{IMAGENET_INPUT_PX}", found.record(), extractor)
    if name == "efficientnet":
        found = find_weights(EFFICIENTNET, weights_folder(weights))
        extractor = _create("genin-efficientnet", EfficientNetFeatures.LAYER, found.path)
        return FeatureSet(name, 320, f"bilinear-{IMAGENET_INPUT_PX}", found.record(), extractor)
    if name == "inception":
        # find_weights has read the file with weights_only=True; torch-fidelity's own loader would run any pickle.
        found = find_weights(INCEPTION_2015, weights_folder(weights))
        extractor = _create("inception-v3-compat", "2048", found.path)
        return FeatureSet(name, 2048, "tensorflow-bilinear-299", found.record(), extractor, batch_size=32)
    raise InputError(f"unknown feature set '{name}'", remedy=f"choose from: {', '.join(FEATURE_SETS)}")


def _load_world(classifier: Path | None) -> FeatureSet:
    if classifier is None or not classifier.is_file():
        where = "this installation" if classifier is None else classifier
        raise MetricUnavailableError(
            "the attribute classifier of the built-in world is not part of this installation", where=where
        )
    digest = sha256_of(classifier)
    record = {
        "title": "attribute classifier (genin)",
        "file": classifier.name,
        "file_sha256": digest,
        "tensors_sha256": digest,
    }
    extractor = _create("genin-world", WorldFeatures.LAYER, classifier)
    size = extractor.classifier.image_size
    return FeatureSet("world", int(WorldFeatures.LAYER), f"area-{size}", record, extractor)


def register_extractors() -> None:
    """Register the extractors above with torch-fidelity; calling it again changes nothing."""
    own = {"squeezenet": SqueezeNetFeatures, "efficientnet": EfficientNetFeatures, "world": WorldFeatures}
    for name, extractor in ((f"genin-{name}", extractor) for name, extractor in own.items()):
        if name not in FEATURE_EXTRACTORS_REGISTRY:
            register_feature_extractor(name, extractor)


def _create(name: str, layer: str, path: Path) -> Any:
    register_extractors()
    return create_feature_extractor(name, [layer], cuda=False, verbose=False, feature_extractor_weights_path=str(path))

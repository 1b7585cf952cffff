"""The formats a bundle may hold: which packages each needs, where its graphs are, and what a converter returns.

A converter is a module with `convert(component, targets)`, a target being a precision plan and the path to write; it is
imported only when its packages are installed. A format whose packages are absent is left out of the bundle and reported.

Not here: the converters (`to_onnx`, `to_openvino`, `to_coreml`), the additional files for other clients (`client_files`).
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from numpy.typing import NDArray

from genin.export.precision_plan import WEIGHTS, Plan, Storage, storable
from genin.runtimes.engine import ENGINES
from genin.runtimes.errors import MissingExtraError
from genin.runtimes.manifest import TensorSpec
from genin.runtimes.vocabulary import ALL_COMPONENTS

if TYPE_CHECKING:
    from genin.export.components import Component

# Tensors of at least this many elements are stored in fewer bits. Smaller ones are biases, norms and, above all, the frequencies of
# the timestep embedding, which at timestep 999 are useless with the 11 bits of fp16.
STORED_SMALL_FROM = 1024
FP16_MAX = 65504.0


@dataclass(frozen=True)
class Target:
    """A graph to write: how its weights are stored, and where."""

    plan: Plan
    path: Path


@dataclass(frozen=True)
class Written:
    """A graph on disk, as its converter describes it: for the manifest."""

    path: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    converter: str
    stored: str
    compute: str
    operations: Mapping[str, int]
    opset: int | None = None


Convert = Callable[["Component", Sequence[Target]], dict[str, Written]]  # by the names of the plans


@dataclass(frozen=True)
class Format:
    """`places` is the graph of each component, relative to FORMAT/PRECISION/, `stores` the ways in which it can store weights,
    `single` the file of a single graph; None where the format has no 8-bit pictures."""

    module: str
    packages: tuple[str, ...]
    places: Mapping[str, str]
    stores: tuple[str, ...] = ("fp32", "fp16", "int8")
    single: str | None = None


def _diffusers_places(file: str) -> dict[str, str]:
    return {name: f"{name}/{file}" for name in ALL_COMPONENTS}


TABLE: Mapping[str, Format] = {
    "onnx": Format(
        "genin.export.converters.to_onnx",
        ("onnx", "onnxscript", "onnxruntime"),
        _diffusers_places("model.onnx"),
        single="model.onnx",
    ),
    "openvino": Format(
        "genin.export.converters.to_openvino",
        ("openvino", "openvino_tokenizers", "nncf"),
        _diffusers_places("openvino_model.xml"),
        single="openvino_model.xml",
    ),
    "coreml": Format(
        "genin.export.converters.to_coreml",
        ("coremltools",),
        {
            "text_encoder": "TextEncoder.mlpackage",
            "unet": "Unet.mlpackage",
            "vae_decoder": "VAEDecoder.mlpackage",
            "vae_encoder": "VAEEncoder.mlpackage",
        },
        WEIGHTS,
    ),
}


def count_operations(names: Iterable[str], besides: Sequence[str] = ()) -> dict[str, int]:
    """Kinds of operations in the format's own words, without `besides` => how often, the most frequent first."""
    return dict(Counter(name for name in names if name not in besides).most_common())


def is_large(shape: Sequence[int]) -> bool:
    """Whether a tensor is worth storing in fewer bits: not if only one dimension is above 1, as in biases and per-channel
    scales."""
    size = math.prod(shape)
    return size >= STORED_SMALL_FROM and size > max(shape)


def missing_package(name: str) -> MissingExtraError | None:
    """The error for the first package of format `name` that is absent or a release that cannot be used, or None."""
    for package in TABLE[name].packages:
        if importlib.util.find_spec(package) is None:
            return MissingExtraError(package, "export")
        if package in ENGINES and (reason := ENGINES[package].reason()):
            return MissingExtraError(package, "export", reason)
    return None


def converter(name: str) -> Convert:
    """The `convert` function of format `name`."""
    return cast(Convert, importlib.import_module(TABLE[name].module).convert)


def stored(storages: Mapping[str, Storage], kinds: tuple[str, ...]) -> str:
    """For the manifest: the ways in which layers' weights are stored, the widest first ("fp16, int8")."""
    found = {storable(storage.weights, kinds) for storage in storages.values()}
    return ", ".join(kind for kind in WEIGHTS if kind in found)


def component_specs(component: Component) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs as ONNX and OpenVINO graphs have them."""

    def spec(name: str, array: NDArray[Any]) -> TensorSpec:
        free = component.free_axes(name)
        sizes = [array.shape[0] if name == "timestep" else component.shapes.batch, *array.shape[1:]]
        return TensorSpec(name, tuple(free.get(axis, size) for axis, size in enumerate(sizes)), str(array.dtype))

    case = component.cases[0]
    inputs, outputs = (
        tuple(spec(name, case[name]) for name in names) for names in (component.inputs, component.outputs)
    )
    return inputs, outputs


def formats_of_single(formats: Sequence[str]) -> list[str]:
    """Those of `formats` that can hold all of a model as one graph."""
    return [name for name in formats if TABLE[name].single]

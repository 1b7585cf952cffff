"""Core ML packages of a bundle on a Mac, through coremltools.

The packages have the interface of Apple's Swift package: `TextEncoder` (`input_ids` => `last_hidden_state`), `Unet` (`sample`,
`timestep`, `encoder_hidden_states` as (N, D, 1, L) => `noise_pred`), `VAEDecoder` (`z` => `image`), and perhaps `VAEEncoder`
(`z` => `latent`: mean and log variance, of which we take the mean), which is loaded when it is first used. Shapes are fixed, with a
batch of one or two (the two branches of guidance); other numbers of pictures are run in batches of that size.

Not here: running elsewhere than on macOS (Core ML exists nowhere else), `.mlmodelc`, Swift.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from genin.runtimes.bundle import Bundle, GraphEntry
from genin.runtimes.cancellation import Interruption
from genin.runtimes.engine import DEFAULT_SETTINGS, Array, EngineSettings, graph_error, graph_failed, in_batches
from genin.runtimes.errors import BundleError, GeninError, InputError
from genin.runtimes.tensors import APPLE_INPUTS, APPLE_OUTPUTS, INPUTS
from genin.runtimes.vocabulary import COMPONENTS, VAE_ENCODER


class Predictor(Protocol):
    """What is used of `coremltools.models.MLModel`."""

    def predict(self, data: dict[str, NDArray[Any]]) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Package:
    """One loaded package and the shape and dtype of each input, batch first."""

    model: Predictor
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, np.dtype[Any]]

    def run(self, component: str, arrays: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> dict[str, Array]:
        """Arrays of any batch under diffusers' names => `outputs`, computed in batches of the package's own size."""
        size = self.shapes[APPLE_INPUTS[component][0]][0]

        def run(batch: Mapping[str, NDArray[Any]]) -> dict[str, Array]:
            given = {
                name: np.ascontiguousarray(array, self.dtypes[name])
                for name, array in apple_names(component, batch).items()
            }
            predicted = self.model.predict(given)
            found = {name: np.asarray(predicted[name], np.float32) for name in outputs}
            if component == VAE_ENCODER and latent in found:
                found[latent] = found[latent][:, : found[latent].shape[1] // 2]
            return found

        [latent] = APPLE_OUTPUTS[VAE_ENCODER]
        return in_batches(run, arrays, size)


def apple_names(component: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """A component's inputs under diffusers' names and shapes => Apple's."""
    if component != "unet":
        [ours], [apples] = INPUTS[component], APPLE_INPUTS[component]
        return {apples: arrays[ours]}
    sample, timestep, text = (arrays[name] for name in INPUTS["unet"])
    times = np.broadcast_to(timestep, (len(sample),))
    return {"sample": sample, "timestep": times, "encoder_hidden_states": text.transpose(0, 2, 1)[:, :, None]}


ALL = "ALL"  # compute units


class CoreMLEngine:
    """A model's packages. Core ML chooses threads itself, and compute units where they all compute alike."""

    provider = "Core ML, all compute units"

    def __init__(
        self, packages: Mapping[str, Package], waiting: Mapping[str, Callable[[], Package]] | None = None
    ) -> None:
        """`waiting` loads what is not needed for drawing from text, when it is first used."""
        for component, package in packages.items():
            _check_inputs(component, package)
        self._packages, self._waiting = dict(packages), dict(waiting or {})
        self._interruption = Interruption()

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        graphs: Mapping[str, GraphEntry],
        *,
        single: Mapping[int, GraphEntry] | None = None,
        settings: EngineSettings = DEFAULT_SETTINGS,
    ) -> CoreMLEngine:
        """No Core ML bundle has a `single` graph.

        Errors: InputError elsewhere than on macOS or if threads are given, BundleError if a package is refused."""
        if platform.system() != "Darwin":
            raise InputError(
                f"Core ML runs on macOS only; this is {platform.system()}", remedy="choose onnxruntime or openvino"
            )
        if settings.threads is not None:
            raise InputError("Core ML chooses its own threads", remedy="leave out the threads option")
        if settings.max_memory is not None:
            raise InputError("Core ML has no limit of memory", remedy="leave out max_memory, or choose onnxruntime")
        waiting = {name: partial(_load, bundle, graph) for name, graph in graphs.items() if name not in COMPONENTS}
        engine = cls({name: _load(bundle, graphs[name]) for name in COMPONENTS}, waiting)
        engine.provider = f"Core ML, {'all compute units' if units_of(graphs['unet']) == ALL else 'the processor'}"
        return engine

    def encode(self, ids: NDArray[np.int64]) -> Array:
        return self._run("text_encoder", {"input_ids": ids})

    def predict(self, latents: Array, timestep: int, text: Array) -> Array:
        steps = np.full(len(latents), timestep)
        return self._run("unet", {"sample": latents, "timestep": steps, "encoder_hidden_states": text})

    def decode(self, latents: Array) -> Array:
        return self._run("vae_decoder", {"latent_sample": latents})

    def encode_picture(self, pictures: Array) -> Array:
        if VAE_ENCODER in self._waiting:
            package = self._waiting.pop(VAE_ENCODER)()
            _check_inputs(VAE_ENCODER, package)
            self._packages[VAE_ENCODER] = package
        return self._run(VAE_ENCODER, {"sample": pictures})

    def _run(self, component: str, arrays: Mapping[str, NDArray[Any]]) -> Array:
        if component not in self._packages:
            raise GeninError("the engine is closed", remedy="load the bundle again")
        name = APPLE_OUTPUTS[component][0]
        self._interruption.check()  # Core ML cannot stop inside a network
        try:
            return self._packages[component].run(component, arrays, (name,))[name]
        except Exception as error:  # coremltools hands on whatever Core ML throws
            raise graph_failed(component, error) from error

    def interrupt(self) -> None:
        self._interruption.interrupt()

    def proceed(self) -> None:
        self._interruption.proceed()

    def close(self) -> None:
        self._packages.clear()
        self._waiting.clear()


def _check_inputs(component: str, package: Package) -> None:
    """Errors: BundleError for a package of another component."""
    if missing := [name for name in APPLE_INPUTS[component] if name not in package.shapes]:
        have = ", ".join(package.shapes)
        raise BundleError(f"the {component} package has no input '{missing[0]}' (it has: {have})")


def units_of(graph: GraphEntry) -> str:
    """The processor for fp32: the other units run even its programs in fp16."""
    return "CPU_ONLY" if graph.precision == "fp32" else ALL


def _load(bundle: Bundle, graph: GraphEntry) -> Package:
    path = bundle.local_graph(graph)
    try:
        return open_package(path, units=units_of(graph))
    except Exception as error:  # coremltools hands on whatever Core ML throws
        raise graph_error(bundle, graph, error) from error


def open_package(path: Path, *, units: str = ALL) -> Package:
    """Compile and load one `.mlpackage`, on a Mac, for a `ComputeUnit` of coremltools. Errors: whatever Core ML throws."""
    import coremltools

    model = coremltools.models.MLModel(str(path), compute_units=coremltools.ComputeUnit[units])
    inputs = {item.name: item.type.multiArrayType for item in model.get_spec().description.input}
    types = coremltools.proto.FeatureTypes_pb2.ArrayFeatureType
    numpy_types = {types.FLOAT16: np.float16, types.FLOAT32: np.float32, types.INT32: np.int32}
    return Package(
        model,
        {name: tuple(int(n) for n in item.shape) for name, item in inputs.items()},
        {name: np.dtype(numpy_types.get(item.dataType, np.float32)) for name, item in inputs.items()},
    )

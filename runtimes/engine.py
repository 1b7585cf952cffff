"""What runs a model's networks: the small interface of an engine, and the table of those that genin knows.

An engine is four callables on numpy arrays (`encode`, `predict`, `decode`, `encode_picture`); the pipeline does the rest. An
adapter module imports its engine when it is opened, never before: the table holds strings, so a process that runs ONNX never
imports OpenVINO or PyTorch, and a package that is missing is an error with the line that installs it.

Also here, for engines that are fed by tensor names: `feed` puts arrays into the dtype and rank a graph declares.

Not here: sampling, text, choosing a precision (`genin.runtimes.pipeline`).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from genin.runtimes.bundle import Bundle, GraphEntry
from genin.runtimes.cancellation import Interruption
from genin.runtimes.errors import BundleError, GeninError, InputError, MissingExtraError, OutOfMemoryError
from genin.runtimes.memory import MemoryLimit
from genin.runtimes.tensors import INPUTS
from genin.runtimes.vocabulary import VAE_ENCODER, check_choice

Array = NDArray[np.float32]


class Engine(Protocol):
    """A model's networks, ready to run. `provider` is the device actually in use, as the engine calls it."""

    provider: str

    def encode(self, ids: NDArray[np.int64]) -> Array:
        """Token ids (N, L) => text embeddings (N, L, D)."""

    def predict(self, latents: Array, timestep: int, text: Array) -> Array:
        """Noised latents (N, C, H, W), one timestep, embeddings (N, L, D) => the UNet's output (N, C, H, W)."""

    def decode(self, latents: Array) -> Array:
        """Latents divided by the scaling factor (N, C, H, W) => pictures (N, 3, H, W) in about [−1, 1]."""

    def encode_picture(self, pictures: Array) -> Array:
        """Pictures (N, 3, H, W) in [−1, 1] => latents (N, C, h, w) that `decode` takes. Only for models with an encoder."""

    def interrupt(self) -> None:
        """End the network that runs, and whatever begins until `proceed`, with any error. From any thread; never waits. An engine
        that cannot stop inside a network lets it finish."""

    def proceed(self) -> None:
        """Run networks again."""

    def close(self) -> None:
        """Free the networks."""


@dataclass(frozen=True)
class OperatorTime:
    """Milliseconds that one operator of a graph took in one call, with the engine's name for it and for its kind."""

    layer: str
    kind: str
    ms: float


@dataclass(frozen=True)
class EngineSettings:
    """How an engine is opened. `threads` within an operator; None leaves them to the engine. With `background`, threads that wait
    do not spin and are not pinned to cores: other work in the process matters more. `max_memory` is the bytes that the networks of
    a bundle may take. `pictures` are to be drawn; None is many, where it does not matter how long an engine takes to load.
    `profile` is told a component and the operators of its calls, at the latest when the engine is closed; engines without counters
    never call it."""

    threads: int | None = None
    background: bool = False
    max_memory: int | None = None
    pictures: int | None = None
    profile: Callable[[str, Sequence[Sequence[OperatorTime]]], None] | None = None

    @property
    def own_threads(self) -> int | None:
        """Those that were asked for, or one in the background; None leaves them to the engine."""
        return self.threads or (1 if self.background else None)


DEFAULT_SETTINGS = EngineSettings()


@dataclass(frozen=True)
class EngineRow:
    """One runtime: its adapter ("module:Class"), the package it needs, and the formats of bundles it runs, best first.

    The runtime without formats runs model folders.
    """

    target: str
    package: str
    extra: str
    formats: tuple[str, ...]
    title: str
    broken: Mapping[str, str] = field(default_factory=dict)  # releases of the package that are not used => why
    also: tuple[str, ...] = ()  # further packages that it needs

    @property
    def installable(self) -> bool:
        """Whether it exists for this system."""
        return self.extra != "coreml" or platform.system() == "Darwin"

    def missing(self) -> list[str]:
        """The packages it needs that cannot be found (none is imported)."""
        return [name for name in (self.package, *self.also) if not _is_installed(name)]

    def reason(self) -> str | None:
        """Why this runtime cannot run here, or None if it can."""
        if not self.installable:
            return f"Core ML runs on macOS only; this is {platform.system()}"
        if missing := self.missing():
            return f"'{missing[0]}' is not installed"
        version = self.version() or ""
        return f"{self.package} {version} {self.broken[version]}" if version in self.broken else None

    def require(self) -> None:
        """Errors: InputError if this system cannot run it, MissingExtraError with the line that installs its package."""
        reason = self.reason()
        if not self.installable:
            raise InputError(str(reason), remedy="choose another runtime: onnxruntime, openvino")
        if reason is not None:
            raise MissingExtraError(next(iter(self.missing()), self.package), self.extra, reason)

    def version(self) -> str | None:
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return None

    @property
    def install(self) -> str:
        return f"pip install 'genin[{self.extra}]'"


ENGINES: Mapping[str, EngineRow] = {
    "pytorch": EngineRow(
        "genin.runtimes.pytorch_engine:PyTorchEngine",
        "torch",
        "distill",
        (),
        "PyTorch",
        also=("diffusers", "transformers"),
    ),
    "onnxruntime": EngineRow(
        "genin.runtimes.onnxruntime_engine:OnnxRuntimeEngine",
        "onnxruntime",
        "onnxruntime",
        ("onnx",),
        "ONNX Runtime",
        # microsoft/onnxruntime#27353; pyproject.toml excludes the same releases.
        dict.fromkeys(("1.24.0", "1.24.1"), "does not read external weights in the Hugging Face cache"),
    ),
    "openvino": EngineRow(
        "genin.runtimes.openvino_engine:OpenVinoEngine", "openvino", "openvino", ("openvino", "onnx"), "OpenVINO"
    ),
    "coreml": EngineRow("genin.runtimes.coreml_engine:CoreMLEngine", "coremltools", "coreml", ("coreml",), "Core ML"),
    "native": EngineRow(
        "genin.runtimes.native_engine:NativeEngine",
        "genin_native",
        "native",
        ("onnx",),
        "genin's native library",
        also=("onnxruntime",),
    ),
}


def engine_class(runtime: str) -> Any:
    """The adapter class of a runtime. Errors: InputError for an unknown runtime, and those of `EngineRow.require`."""
    row = ENGINES[check_choice(runtime, tuple(ENGINES), "runtime")]
    row.require()
    module, _, name = row.target.partition(":")
    return getattr(importlib.import_module(module), name)


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ModuleNotFoundError, ValueError):  # raised by import hooks and half-loaded modules
        return False


# --- graphs of a bundle ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GraphInput:
    """What a loaded graph declares of one input: numpy dtype, rank, and the batch size if it is fixed."""

    dtype: np.dtype[Any]
    rank: int
    batch: int | None = None


@dataclass(frozen=True)
class Loaded:
    """One graph in memory: a function from named arrays to one array, what it declares of its inputs, and what must be done before
    it can be freed."""

    run: Callable[[dict[str, NDArray[Any]]], NDArray[Any]]
    inputs: Mapping[str, GraphInput]
    let_go: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Loader:
    """How an engine loads one graph, and what stops graphs that it has loaded."""

    load: Callable[[GraphEntry], Loaded]
    interruption: Interruption


class BundleEngine:
    """An engine over the graphs of a bundle: its networks, and the single graph of each number of steps that has one. A graph that
    is not loaded yet is loaded on first use. A subclass names its `provider` and says how a graph is loaded (`loader`)."""

    provider: str

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        graphs: Mapping[str, GraphEntry],
        *,
        single: Mapping[int, GraphEntry] | None = None,
        settings: EngineSettings = DEFAULT_SETTINGS,
    ) -> Self:
        """An engine over `graphs` and, by steps, `single` graphs. Errors: BundleError if the engine refuses a graph."""
        memory = None
        if settings.max_memory is not None:
            entries: dict[Any, GraphEntry] = {**graphs, **(single or {})}
            sizes = {key: entry.size_bytes for key, entry in entries.items()}
            memory = MemoryLimit(settings.max_memory, sizes, {key: entry.name for key, entry in entries.items()})
        return cls(cls.loader(bundle, settings), graphs, single, memory)

    @classmethod
    def loader(cls, bundle: Bundle, settings: EngineSettings) -> Loader:
        """What loads a graph, which may raise BundleError, and what stops those that it has loaded."""
        raise NotImplementedError

    def __init__(
        self,
        loader: Loader,
        graphs: Mapping[str, GraphEntry],
        single: Mapping[int, GraphEntry] | None = None,
        memory: MemoryLimit | None = None,
    ) -> None:
        self._loader, self._single, self._memory = loader, dict(single or {}), memory
        self._graphs: dict[Any, GraphEntry] = {**graphs, **self._single}
        self._loaded: dict[Any, Loaded] = {}

    def encode(self, ids: NDArray[np.int64]) -> Array:
        return self._numbers("text_encoder", {"input_ids": ids})

    def predict(self, latents: Array, timestep: int, text: Array) -> Array:
        steps = np.full(len(latents), timestep, np.int64)
        return self._numbers("unet", {"sample": latents, "timestep": steps, "encoder_hidden_states": text})

    def decode(self, latents: Array) -> Array:
        return self._numbers("vae_decoder", {"latent_sample": latents})

    def encode_picture(self, pictures: Array) -> Array:
        return self._numbers(VAE_ENCODER, {"sample": pictures})

    def draw(self, ids: NDArray[np.int64], noise: Array, steps: int) -> NDArray[np.uint8]:
        """Token ids (N, L) and noise (N, C, H, W) through the single graph of `steps` => pictures (N, H, W, 3)."""
        return np.asarray(self._run(steps, {"input_ids": ids, "noise": noise}), np.uint8)

    def load(self, graphs: Iterable[str | int]) -> None:
        """Load these now: components, or numbers of steps. With a limit of memory they are loaded when they run.

        Errors: BundleError for a graph that is refused, InputError for one that is beyond the limit.
        """
        if self._memory is not None:
            self._memory.check(graphs)
            return
        for key in graphs:
            self._graph(key)

    def _numbers(self, component: str, arrays: dict[str, NDArray[Any]]) -> Array:
        return np.asarray(self._run(component, arrays), np.float32)

    def _run(self, key: str | int, arrays: dict[str, NDArray[Any]]) -> NDArray[Any]:
        if self._memory is None:
            return self._run_in_batches(key, arrays, None)
        shapes = [array.shape[1:] for array in arrays.values()]
        with self._memory.running(key, shapes, self._drop):
            return self._run_in_batches(key, arrays, 1)

    def _drop(self, key: Any) -> None:
        if (loaded := self._loaded.pop(key, None)) is not None:
            loaded.let_go()

    def _run_in_batches(self, key: str | int, arrays: dict[str, NDArray[Any]], size: int | None) -> NDArray[Any]:
        loaded = self._graph(key)
        size = loaded.inputs[next(iter(arrays))].batch or size

        def run(batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            self._loader.interruption.check()
            return {"": loaded.run(feed(batch, loaded.inputs))}

        try:
            return in_batches(run, arrays, size)[""]
        except Exception as error:  # engines' errors share no base class
            raise graph_failed(self._graphs[key].component, error) from error

    def _graph(self, key: str | int) -> Loaded:
        if key not in self._loaded:
            if key not in self._graphs:
                raise GeninError("the engine is closed", remedy="load the bundle again")
            graph = self._graphs[key]
            loaded = self._loader.load(graph)
            if missing := [name for name in INPUTS[graph.component] if name not in loaded.inputs]:
                have = ", ".join(loaded.inputs)
                raise BundleError(f"the {graph.component} graph has no input '{missing[0]}' (it has: {have})")
            self._loaded[key] = loaded
        return self._loaded[key]

    def interrupt(self) -> None:
        self._loader.interruption.interrupt()

    def proceed(self) -> None:
        self._loader.interruption.proceed()

    def close(self) -> None:
        for key in list(self._loaded):
            self._drop(key)
        self._graphs.clear()


def in_batches(
    run: Callable[[dict[str, NDArray[Any]]], Mapping[str, NDArray[Any]]],
    arrays: Mapping[str, NDArray[Any]],
    size: int | None,
) -> dict[str, NDArray[Any]]:
    """Call `run` on arrays of any number of rows, `size` rows at a time; the last batch is padded with copies. None takes all at
    once. A single timestep goes into every batch as it is."""
    count = max(len(array) for array in arrays.values())
    parts = [run(batch) for batch in cut(arrays, size)]
    return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}


def cut(arrays: Mapping[str, NDArray[Any]], size: int | None) -> Iterator[dict[str, NDArray[Any]]]:
    """The batches of `in_batches`."""
    count = max(len(array) for array in arrays.values())
    if size is None or size == count:
        yield dict(arrays)
        return
    one = [name for name, array in arrays.items() if array.shape == (1,)]
    for start in range(0, count, size):
        rows = np.minimum(np.arange(start, start + size), count - 1)
        yield {name: array if name in one else array[rows] for name, array in arrays.items()}


def feed(arrays: Mapping[str, NDArray[Any]], inputs: Mapping[str, GraphInput]) -> dict[str, NDArray[Any]]:
    """`arrays` in the dtype and rank of `inputs`: a timestep per picture becomes one, or a scalar, where the graph declares
    that."""
    fed = {}
    for name, array in arrays.items():
        wanted = inputs[name]
        if wanted.rank == 0:
            array = array[0]
        elif array.ndim == 1 and wanted.batch == 1:
            array = array[:1]
        fed[name] = np.ascontiguousarray(array, wanted.dtype).reshape(np.shape(array))
    return fed


def graph_failed(component: str, error: BaseException) -> GeninError:
    """An engine failed while it ran a graph, as one line."""
    kind = OutOfMemoryError if isinstance(error, MemoryError) else GeninError
    return kind(f"the {component} graph failed ({' '.join(str(error).split())[:300] or type(error).__name__})")


def graph_error(bundle: Bundle, graph: GraphEntry, error: BaseException) -> BundleError:
    """An engine refused a graph, as one line."""
    reason = " ".join(str(error).split())[:300]
    return BundleError(f"cannot load '{graph.path}' ({reason})", where=bundle.path, remedy="export it again")

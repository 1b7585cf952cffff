"""Pictures drawn through the networks of an export: by PyTorch, whose intermediate inputs calibrate 8-bit activations, and by each
format and precision for comparison, from the same seeds, end to end.

They are drawn in the model's own few steps by the runtime's own pipeline; only the networks are exchanged. One graph is open at a
time, so that a model's graphs need only the memory of the largest.

Not here: parity of single networks (`parity`), the use of a calibration (the converters).
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genin.benchmarks.quality.perceptual import load_lpips
from genin.benchmarks.quality.validity import psnr_db
from genin.benchmarks.quality.weights import MetricUnavailableError
from genin.distill.models.folder import ModelFolder
from genin.export.checks.parity import Case, Run
from genin.export.prompt_set import Amount, batches, prompts_and_seeds
from genin.runtimes.cancellation import Uninterruptible
from genin.runtimes.engine import Array, Engine
from genin.runtimes.loading import folder_pipeline
from genin.runtimes.manifest import EXACT_PSNR_DB, PictureParity
from genin.runtimes.pytorch_engine import Networks, PyTorchEngine
from genin.runtimes.starts import encoder_input
from genin.runtimes.tensors import INPUTS, OUTPUTS
from genin.runtimes.vocabulary import COMPONENTS, VAE_ENCODER

Pictures = NDArray[np.uint8]


@dataclass(frozen=True)
class Drawn:
    """Pictures, and what the networks were given while they were drawn: component => batches by input name. The encoder's are the
    pictures themselves."""

    pictures: Pictures
    inputs: Mapping[str, tuple[Case, ...]]


def draw(path: Path, engine: Engine, amount: Amount) -> Drawn:
    """Pictures of the model folder `path`, with another engine than its own."""
    noted: dict[str, list[Case]] = {component: [] for component in COMPONENTS}
    parts = []
    with folder_pipeline(path, lambda: _Noting(engine, noted), runtime="pytorch", precision="fp32") as pipeline:
        steps = min(pipeline.default_steps, amount.steps)
        for rows in batches(amount.pictures):
            prompts, seeds = prompts_and_seeds(rows)
            with warnings.catch_warnings():  # the warning about a step count that the student was not trained for
                warnings.simplefilter("ignore")
                parts.append(pipeline.generate(prompts, seeds, steps=steps).images)
    noted[VAE_ENCODER] = [{"sample": encoder_input(pictures)} for pictures in parts]
    return Drawn(np.concatenate(parts), {component: tuple(cases) for component, cases in noted.items()})


def draw_with_pytorch(model: ModelFolder, amount: Amount) -> Drawn:
    """The reference: a model that is loaded already."""
    return draw(model.path, PyTorchEngine(Networks(model.text_encoder, model.unet, model.vae)), amount)


def draw_with_graphs(path: Path, open_graph: Callable[[str], Run], amount: Amount) -> Pictures:
    """Through graphs on disk; `open_graph` is given a component."""
    return draw(path, _OneAtATime(open_graph), amount).pictures


def compare(pictures: Pictures, reference: Pictures, format: str, precision: str) -> PictureParity:
    """The median and the lowest PSNR, and the mean LPIPS where its weights are available."""
    each = [psnr_db(pictures[i : i + 1], reference[i : i + 1]) for i in range(len(pictures))]
    every = [EXACT_PSNR_DB if value is None else value for value in each]
    median, worst = round(float(np.median(every)), 2), round(min(every), 2)
    return PictureParity(format, precision, median, worst, mean_lpips(pictures, reference), len(pictures))


def mean_lpips(pictures: Pictures, reference: Pictures) -> float | None:
    """None where its weights are not available."""
    try:
        return round(float(load_lpips("squeeze")(pictures, reference).mean()), 5)
    except MetricUnavailableError:
        return None


class _Noting(Uninterruptible):
    """An engine that records its inputs."""

    def __init__(self, engine: Engine, noted: Mapping[str, list[Case]]) -> None:
        self.provider, self._engine, self._noted = engine.provider, engine, noted

    def encode(self, ids: NDArray[np.int64]) -> Array:
        self._noted["text_encoder"].append({"input_ids": np.asarray(ids, np.int64)})
        return self._engine.encode(ids)

    def predict(self, latents: Array, timestep: int, text: Array) -> Array:
        given = (latents, np.array([timestep], np.int64), text)
        self._noted["unet"].append(
            {name: np.ascontiguousarray(x) for name, x in zip(INPUTS["unet"], given, strict=True)}
        )
        return self._engine.predict(latents, timestep, text)

    def decode(self, latents: Array) -> Array:
        self._noted["vae_decoder"].append({"latent_sample": np.ascontiguousarray(latents)})
        return self._engine.decode(latents)

    def encode_picture(self, pictures: Array) -> Array:
        return self._engine.encode_picture(pictures)

    def close(self) -> None:
        self._engine.close()


class _OneAtATime(Uninterruptible):
    """An engine that keeps only the graph in use open."""

    provider = "one graph at a time"

    def __init__(self, open_graph: Callable[[str], Run]) -> None:
        self._open_graph, self._name = open_graph, ""
        self._run: Run | None = None

    def encode(self, ids: NDArray[np.int64]) -> Array:
        return self._through("text_encoder", {"input_ids": np.asarray(ids, np.int64)})

    def predict(self, latents: Array, timestep: int, text: Array) -> Array:
        steps = np.array([timestep], np.int64)
        return self._through(
            "unet", {"sample": latents, "timestep": steps, "encoder_hidden_states": np.ascontiguousarray(text)}
        )

    def decode(self, latents: Array) -> Array:
        return self._through("vae_decoder", {"latent_sample": latents})

    def encode_picture(self, pictures: Array) -> Array:
        return self._through(VAE_ENCODER, {"sample": pictures})

    def close(self) -> None:
        self._run = None

    def _through(self, component: str, arrays: dict[str, NDArray[Any]]) -> Array:
        if self._run is None or self._name != component:
            self._run = None
            gc.collect()
            self._run, self._name = self._open_graph(component), component
        return np.asarray(self._run(arrays)[OUTPUTS[component][0]], np.float32)

"""What a peer in Python opens and gives back: a model as its files, and a pipeline that is timed as genin's own is.

An opener is a function from a `Subject` to an `Opened`: what it loads, and how it draws one picture. `open_peer` finds the files,
times the opener, and checks every picture's size. Not here: the openers (`diffusers_like`, `genai`, `sdcpp`).
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genin.runtimes.bundle import Bundle
from genin.runtimes.errors import GeninError
from genin.runtimes.folder import is_model_folder, read_constants
from genin.runtimes.manifest import ModelConstants
from genin.runtimes.noise import normal
from genin.runtimes.samplers import Schedule

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Subject:
    """What a peer draws with: `folder` is the model folder, or the part of a bundle with the graphs of one precision."""

    folder: Path
    constants: ModelConstants
    runtime: str
    precision: str
    steps: int
    threads: int

    @property
    def side(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.constants.image.height, self.constants.image.width

    @property
    def guidance_scale(self) -> float:
        sampler = self.constants.sampler
        return sampler.default_guidance_scale

    def noise(self, seed: int) -> NDArray[np.float32]:
        """genin's noise for a seed, (1, C, H, W)."""
        return normal(seed, (1, *self.constants.latents.shape))

    def steps_are_a_schedulers(self) -> bool:
        """Whether DDIM, given the number of steps alone, takes the timesteps that genin takes."""
        sampler = self.constants.sampler
        schedule = Schedule.from_config(sampler.scheduler)
        explicit = (sampler.few_step_timesteps or {}).get(str(self.steps))
        return explicit is None or schedule.explicit_steps(explicit) == schedule.steps(self.steps)


@dataclass(frozen=True)
class Opened:
    """A loaded peer: `draw(prompt, seed)` gives one picture (H, W, 3); `provider` is the device, as the peer calls it."""

    draw: Callable[[str, int], Picture]
    provider: str = "CPU"


class PeerPipeline:
    """An opened peer with the attributes of genin's pipeline that measuring asks for."""

    def __init__(self, subject: Subject, opened: Opened, load_s: float) -> None:
        self._subject, self._draw = subject, opened.draw
        self.runtime, self.precision, self.provider = subject.runtime, subject.precision, opened.provider
        self.load_s = load_s
        self.default_steps = subject.constants.sampler.default_steps
        self.default_guidance_scale = subject.guidance_scale

    def generate(self, prompt: str, *, seed: int, steps: int) -> Any:
        """One picture, without stages: a peer does not tell them. Errors: GeninError for a picture of another size."""
        picture = np.asarray(self._draw(prompt, seed))
        if picture.shape != (*self._subject.side, 3) or picture.dtype != np.uint8:
            height, width = self._subject.side
            raise GeninError(f"it drew {_shown(picture)}, and {width}x{height} was asked for")
        return SimpleNamespace(images=picture[None], timings={}, step_timings=())


def _shown(picture: NDArray[Any]) -> str:
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        return f"an array of shape {picture.shape}, {picture.dtype}"
    return f"{picture.shape[1]}x{picture.shape[0]} pixels"


@contextmanager
def open_peer(request: Mapping[str, Any]) -> Iterator[PeerPipeline]:
    """The peer whose opener the request names, loaded. `request` is what a process of a benchmark gets."""
    module, _, name = str(request["opener"]).partition(":")
    with ExitStack() as kept:
        subject = _subject(Path(request["path"]), request, kept)
        began = time.perf_counter()
        opener: Callable[[Subject], Opened] = getattr(importlib.import_module(module), name)
        opened = opener(subject)
        yield PeerPipeline(subject, opened, time.perf_counter() - began)


def _subject(path: Path, request: Mapping[str, Any], kept: ExitStack) -> Subject:
    rest = request["runtime"], request["precision"], request["steps"], request["threads"]
    if is_model_folder(path):
        return Subject(path, read_constants(path), *rest)
    bundle = kept.enter_context(Bundle.open(path))
    return Subject(graphs_folder(bundle, request["format"], request["precision"]), bundle.manifest.constants, *rest)


def graphs_folder(bundle: Bundle, format: str, precision: str) -> Path:
    """FORMAT/PRECISION of a bundle as other clients open it; a packed bundle's files are unpacked."""
    inside = f"{format}/{precision}/"
    places = {name: bundle.local(name) for name in bundle.manifest.all_files() if name.startswith(inside)}
    if not places:
        raise GeninError(f"the bundle has no {format} graphs of {precision}", where=bundle.path)
    name, place = next(iter(places.items()))
    return place.parents[len(Path(name).parts) - 3]

"""Engines that draw whole pictures: text, noise and sampling are inside them, too.

The pipeline checks a call's arguments and hands the request over, instead of running networks one by one. What such an engine
cannot do (the sampler's state, single networks) it refuses in one line.

Not here: engines that run single networks (`engine`); the one that draws whole pictures (`native_engine`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from genin.runtimes.engine import Array
from genin.runtimes.errors import GeninError
from genin.runtimes.requests import Request
from genin.runtimes.results import Generation, StreamStep


class PictureEngine(ABC):
    """A model that is ready to draw. `provider` is the device actually in use."""

    provider: str

    @abstractmethod
    def generate(self, request: Request, cancel: Callable[[], bool]) -> Generation:
        """All pictures of a request. From any thread. Errors: InputError for what it cannot draw, CancelledError, GeninError."""

    @abstractmethod
    def stream(self, request: Request, cancel: Callable[[], bool]) -> Iterator[StreamStep]:
        """The same step by step, as far as it shows them."""

    @abstractmethod
    def interrupt(self) -> None:
        """End what is drawn, and whatever begins until `proceed`, with any error. From any thread; never waits."""

    @abstractmethod
    def proceed(self) -> None:
        """Draw again."""

    @abstractmethod
    def close(self) -> None:
        """End what is drawn and free the model."""

    def encode(self, ids: NDArray[np.int64]) -> Array:
        raise self._refusal()

    def predict(self, latents: Array, timestep: int, text: Array) -> Array:
        raise self._refusal()

    def decode(self, latents: Array) -> Array:
        raise self._refusal()

    def encode_picture(self, pictures: Array) -> Array:
        raise self._refusal()

    def _refusal(self) -> GeninError:
        return GeninError("this runtime draws whole pictures and runs no single networks")

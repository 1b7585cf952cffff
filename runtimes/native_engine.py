"""Bundles drawn by genin's native library (runtimes/native): the runtime of games, for Python programs and for tests.

The package `genin_native` holds the library; the engine below it is ONNX Runtime's own shared library, taken from the wheel of
`onnxruntime` unless GENIN_ENGINE_PATH names another. The library draws whole pictures in a thread of its own, one after the other,
so a program is never kept from Ctrl-C. A function that may cancel a drawing is asked every few milliseconds, not before every
network, and steps that are drawn faster than a program looks are left out of a stream.

Not here: the library's C interface (`native_library`); requests that wait (`painting`).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from genin.runtimes.bundle import Bundle, GraphEntry
from genin.runtimes.cancellation import Cancellation, cancelled, check, interruptible, never
from genin.runtimes.engine import DEFAULT_SETTINGS, EngineSettings
from genin.runtimes.errors import GeninError, InputError
from genin.runtimes.limits import usable_cores
from genin.runtimes.native_library import NativeEvent, NativeWorker, error_of
from genin.runtimes.picture_engine import PictureEngine
from genin.runtimes.requests import Request
from genin.runtimes.results import Generation, Pictures, StreamStep, generation_of
from genin.runtimes.stage_clock import OTHER, StageClock
from genin.runtimes.threads import thread_limit
from genin.runtimes.vocabulary import TEXT_TO_IMAGE

ENGINE_LIBRARIES = ("libonnxruntime.so.*", "libonnxruntime.*.dylib", "onnxruntime.dll")
# How long the caller's thread stays inside the library: a Ctrl-C, or a function that cancels, is seen after that.
WAIT_S, ASK_S = 0.05, 0.002


def library_path() -> Path:
    """The native library of the installed package."""
    library: Path = importlib.import_module("genin_native").LIBRARY
    return library


def engine_path() -> Path | None:
    """ONNX Runtime's shared library in its wheel; None leaves the search to the native library."""
    found = importlib.util.find_spec("onnxruntime")
    if os.environ.get("GENIN_ENGINE_PATH") or found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / "capi"
    return next((path for pattern in ENGINE_LIBRARIES for path in sorted(folder.glob(pattern))), None)


class NativeEngine(PictureEngine):
    """A worker of the library. `provider` is the engine below it."""

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        graphs: Mapping[str, GraphEntry],
        *,
        single: object = None,
        settings: EngineSettings = DEFAULT_SETTINGS,
    ) -> NativeEngine:
        """Errors: BundleError for a bundle that the library refuses, GeninError where it cannot be loaded."""
        [precision] = {graph.precision for graph in graphs.values()}
        threads = settings.own_threads or thread_limit() or usable_cores()
        options = {"threads": threads, "precision": precision, "max_memory": settings.max_memory or 0}
        worker = NativeWorker(library_path(), bundle.path, engine_path(), **options)
        engine = cls(worker)
        try:
            engine._await_loading()
        except BaseException as error:
            engine.close()
            if type(error) is GeninError:  # of the engine, which is missing, or refuses a graph
                raise InputError(error.what, where=bundle.path) from error
            raise
        return engine

    def __init__(self, worker: NativeWorker) -> None:
        self._worker, self.provider = worker, ""
        self._events: dict[int, list[NativeEvent]] = defaultdict(list)
        self._collecting = threading.Lock()
        self._interrupted = False
        self._free = weakref.finalize(self, worker.close)  # at the latest when the program ends

    def generate(self, request: Request, cancel: Callable[[], bool]) -> Generation:
        self._check_request(request)
        clock = StageClock(cancel)
        wait_s = WAIT_S if cancel is never or isinstance(cancel, Cancellation) else ASK_S
        pictures = np.empty((len(request.prompts), *request.size, 3), np.uint8)
        for index in range(len(pictures)):
            check(cancel)
            with self._drawing(request, index, 0) as ticket:
                clock.lap(OTHER)
                with interruptible(cancel, _Ticket(self._worker, ticket)):
                    while not self._is_done(ticket, wait_s):
                        check(cancel)
                clock.lap(TEXT_TO_IMAGE)
                pictures[index] = self._picture(ticket, request.size)[0]
        clock.lap(OTHER)
        return generation_of(request, pictures, clock)

    def stream(self, request: Request, cancel: Callable[[], bool]) -> Iterator[StreamStep]:
        """The steps that there was time to look at, and the last one. Their `latents` are empty: they stay inside the library."""
        self._check_request(request)
        if len(request.prompts) > 1:
            raise InputError("the native library draws one picture after another", remedy="stream one prompt at a time")
        return self._stream(request, cancel)

    def _stream(self, request: Request, cancel: Callable[[], bool]) -> Iterator[StreamStep]:
        clock, steps = StageClock(cancel), len(request.timesteps)
        nothing = np.empty((1, 0, 0, 0), np.float32)
        check(cancel)
        with self._drawing(request, 0, 1) as ticket, interruptible(cancel, _Ticket(self._worker, ticket)):
            clock.lap(OTHER)
            while not self._is_done(ticket, ASK_S):
                check(cancel)
                for event in self._previews(ticket):
                    if (rgba := self._worker.take(ticket, request.size, preview=True)) is not None:
                        clock.lap(TEXT_TO_IMAGE)
                        yield StreamStep(event.step - 1, steps, nothing, None, partial(_pixels, rgba, request.size))
                        clock.resume()
            clock.lap(TEXT_TO_IMAGE)
            picture = self._picture(ticket, request.size)
        clock.lap(OTHER)
        generation = generation_of(request, picture, clock)
        yield StreamStep(steps - 1, steps, nothing, generation, lambda: generation.images)

    def interrupt(self) -> None:
        self._interrupted = True
        self._worker.cancel()

    def proceed(self) -> None:
        self._interrupted = False

    def close(self) -> None:
        self._free()

    # --- one ticket --------------------------------------------------------------------------------------------------

    def _check_request(self, request: Request) -> None:
        if request.noise != "philox":
            raise InputError(f"the native library draws from philox noise, not from {request.noise}")
        if request.guidance_scale <= 0:
            raise InputError(f"the native library takes guidance scales above 0, not {request.guidance_scale:g}")

    @contextmanager
    def _drawing(self, request: Request, index: int, previews: int) -> Iterator[int]:
        """The ticket of one picture of a request. It is cancelled when the body ends before it has been drawn."""
        height, width = request.size
        options: dict[str, Any] = {"steps": request.steps, "guidance_scale": request.guidance_scale}
        options |= {"width": width, "height": height, "previews": previews}
        if request.start is not None:
            options |= {"strength": request.strength, "image_width": width, "image_height": height}
            options |= {"image": _rgba(request.start.image), "mask": None}
            if request.start.mask is not None:
                options["mask"] = request.start.mask.tobytes()
        if self._interrupted:
            raise cancelled()
        ticket = self._worker.submit(request.prompts[index], request.seeds[index], **options)
        try:
            yield ticket
        finally:
            with suppress(GeninError):  # closed meanwhile
                if self._worker.cancel(ticket) == "ok":
                    self._worker.wait(ticket)
                self._collect()
            self._events.pop(ticket, None)

    def _is_done(self, ticket: int, seconds: float) -> bool:
        """Wait so long. Errors: those of a drawing that failed."""
        result = self._worker.wait(ticket, seconds)
        if result in ("ok", "timeout"):
            return result == "ok"
        self._collect()
        raise error_of(result, next((event.message for event in self._events[ticket] if event.kind == "failed"), ""))

    def _picture(self, ticket: int, size: tuple[int, int]) -> Pictures:
        """(1, H, W, 3). Errors: GeninError if it is gone."""
        rgba = self._worker.take(ticket, size)
        if rgba is None:
            raise GeninError("the picture is gone: others were drawn before it was fetched")
        return _pixels(rgba, size)

    def _previews(self, ticket: int) -> list[NativeEvent]:
        """Those that have come since it was last asked."""
        self._collect()
        found = self._events.pop(ticket, [])
        self._events[ticket] = [event for event in found if event.kind != "preview"]
        return [event for event in found if event.kind == "preview"][-1:]

    def _collect(self) -> None:
        """Events of all tickets, each to its own: several threads may draw."""
        with self._collecting:
            for event in self._worker.poll():
                self._events[event.ticket].append(event)

    def _await_loading(self) -> None:
        loading = self._worker.loading
        while not self._is_done(loading, WAIT_S):
            pass
        self._collect()
        self._events.clear()
        self.provider = self._worker.engine()


class _Ticket:
    """A drawing that a `Cancellation` ends inside a network."""

    def __init__(self, worker: NativeWorker, ticket: int) -> None:
        self._worker, self._ticket = worker, ticket

    def interrupt(self) -> None:
        self._worker.cancel(self._ticket)

    def proceed(self) -> None:
        pass


def _pixels(rgba: bytes, size: tuple[int, int]) -> Pictures:
    """=> (1, H, W, 3)."""
    return np.frombuffer(rgba, np.uint8).reshape(1, *size, 4)[..., :3]


def _rgba(image: Pictures) -> bytes:
    """(H, W, 3) => RGBA bytes."""
    return np.pad(image, ((0, 0), (0, 0), (0, 1)), constant_values=255).tobytes()

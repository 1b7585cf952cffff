"""Drawing one request, in this process: what `Painter`'s thread does, and what a helper process does.

Not here: whose turn it is (`tickets`), the process around it (`helper`).
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypedDict

from genin.runtimes.cancellation import Cancellation, Interruptible, check
from genin.runtimes.engine import EngineSettings
from genin.runtimes.errors import GeninError
from genin.runtimes.names import installed_names
from genin.runtimes.pictures import Picture
from genin.runtimes.pipeline import Pipeline
from genin.runtimes.vocabulary import AUTO

Show = Callable[[Picture, int, int], object]  # a preview, the step it is of, and of how many
Priority = Literal["normal", "low", "idle"]
PRIORITIES: tuple[Priority, ...] = ("normal", "low", "idle")
LOOK_S = 0.1  # after which who sleeps for a share looks whether it has changed
LOW_NICENESS, LOWEST_NICENESS = 5, 19  # beside the program's own


@dataclass(frozen=True)
class Drawing:
    """What to draw, and what may end it."""

    prompt: str
    seed: int
    options: Mapping[str, Any]
    previews: int
    cancellation: Cancellation = field(default_factory=Cancellation)


class HelperDiedError(GeninError):
    """A process has died, not the model: another one may draw."""


class Drawer(Protocol):
    """Draws one request at a time, in the thread that has opened it."""

    def open(self, cancellation: Cancellation) -> None:
        """Load the model. Errors: those of `genin.load`; CancelledError where loading can be ended."""

    def draw(self, drawing: Drawing, show: Show) -> Picture:
        """Errors: those of a pipeline, CancelledError."""

    def set_share(self) -> None:
        """From another thread, when the pace that it was given has another share."""

    def kill(self) -> None:
        """From another thread, when a drawing does not end though it was cancelled: end it, if it is in another process."""

    def close(self) -> None: ...


class LoadOptions(TypedDict, total=False):
    """How a model is loaded, as by `genin.load`; all may be left out. `threads` is 1 here: the other cores are the program's."""

    runtime: str
    precision: str
    threads: int | None
    device: str
    max_memory: int | None


def load_in_background(name: str, options: LoadOptions) -> Pipeline:
    """A pipeline whose engine leaves the other threads of the machine alone. Errors: those of `genin.load`."""
    from genin.runtimes.loading import open_pipeline

    runtime, precision = options.get("runtime", AUTO), options.get("precision", AUTO)
    path = installed_names().model(name, runtime, precision)
    settings = EngineSettings(options.get("threads"), background=True, max_memory=options.get("max_memory"))
    pipeline = open_pipeline(path, runtime, precision, settings, options.get("device", "cpu"))
    pipeline.name = name
    return pipeline


class PipelineDrawer:
    """Draws on a pipeline that is loaded, or on one that it loads and closes."""

    def __init__(self, load: Callable[[], Pipeline], *, own: bool) -> None:
        self._load, self._own = load, own
        self._pipeline: Pipeline | None = None

    def open(self, cancellation: Cancellation) -> None:
        self._pipeline = self._load()
        check(cancellation)

    def draw(self, drawing: Drawing, show: Show) -> Picture:
        pipeline = self._pipeline
        assert pipeline is not None
        asked: dict[str, Any] = {**drawing.options, "cancel": drawing.cancellation}
        if not drawing.previews:
            return pipeline.pictures(pipeline.generate(drawing.prompt, drawing.seed, **asked))[0]
        for step in pipeline.stream(drawing.prompt, drawing.seed, **asked):
            if step.generation is not None:
                return pipeline.pictures(step.generation)[0]
            if (step.index + 1) % drawing.previews == 0:
                show(Picture(step.preview()[0].copy()), step.index + 1, step.steps)
        raise AssertionError("a stream ends with a picture")

    def set_share(self) -> None:
        pass  # the pace is the drawings' own

    def kill(self) -> None:
        pass  # threads cannot be killed

    def close(self) -> None:
        if self._own and self._pipeline is not None:
            self._pipeline.close()


@dataclass
class Pace:
    """The share of the time that networks may run, above 0 and at most 1; it may change while they do. The last network took
    `took_s` and ended at `ended`, of `time.perf_counter`: time that has passed since then is not slept again."""

    share: float
    took_s: float = 0.0
    ended: float = 0.0

    def owed_s(self) -> float:
        """To be slept before the next network."""
        return max(0.0, self.took_s * (1 / self.share - 1) - (time.perf_counter() - self.ended))


class Paced(Cancellation):
    """A cancellation that sleeps between networks as its pace says."""

    def __init__(self, pace: Pace) -> None:
        super().__init__()
        self._pace = pace

    def __call__(self) -> bool:
        while (owed_s := self._pace.owed_s()) > 0:
            if self.wait(min(owed_s, LOOK_S)):
                return True
        return super().__call__()

    @contextmanager
    def _interrupting(self, what: Interruptible) -> Iterator[None]:
        with super()._interrupting(what):
            begun = time.perf_counter()
            try:
                yield
            finally:  # one that was ended early has taken its time, too
                self._pace.ended = time.perf_counter()
                self._pace.took_s = self._pace.ended - begun


def lower_priority(priority: Priority) -> None:
    """Let this thread, and those that it starts, give way to others. Where the system does not let it, it runs as before.

    On Linux threads have a niceness of their own, on Apple's systems a class of service.
    """
    if priority == "normal":
        return
    with contextlib.suppress(OSError, AttributeError):
        if sys.platform == "win32":
            import ctypes

            level = -15 if priority == "idle" else -1  # THREAD_PRIORITY_IDLE, THREAD_PRIORITY_BELOW_NORMAL
            kernel = ctypes.windll.kernel32
            kernel.GetCurrentThread.restype = ctypes.c_void_p  # a handle: an int would lose its upper half
            kernel.SetThreadPriority.argtypes = ctypes.c_void_p, ctypes.c_int
            kernel.SetThreadPriority(kernel.GetCurrentThread(), level)
        elif sys.platform == "darwin":
            import ctypes

            service = 0x09 if priority == "idle" else 0x11  # QOS_CLASS_BACKGROUND, QOS_CLASS_UTILITY
            ctypes.CDLL(None).pthread_set_qos_class_self_np(service, 0)
        elif sys.platform == "linux" and priority == "idle":
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        elif sys.platform == "linux":
            thread = threading.get_native_id()
            own = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, min(own + LOW_NICENESS, LOWEST_NICENESS))

"""`libgenin` through ctypes: the structs of runtimes/native/include/genin.h and a worker with its functions.

The names are those of the header, which says what they mean. Of genin it needs nothing but its errors, so that it also serves
programs whose Python has no ONNX Runtime.

Not here: drawing with it as a runtime (`native_engine`), finding it.
"""

from __future__ import annotations

import ctypes as c
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genin.runtimes.errors import BundleError, CancelledError, GeninError, InputError, OutOfMemoryError, QueueFullError

RESULTS = {
    0: "ok",
    -1: "argument",
    -2: "bundle",
    -3: "engine",
    -4: "memory",
    -5: "cancelled",
    -6: "superseded",
    -7: "full",
    -8: "gone",
    -9: "timeout",
    -10: "prompt",
}
KINDS = {1: "ready", 2: "preview", 3: "done", 4: "failed"}
ERRORS = {
    "argument": InputError,
    "bundle": BundleError,
    "memory": OutOfMemoryError,
    "cancelled": CancelledError,
    "superseded": CancelledError,
    "full": QueueFullError,
    "prompt": InputError,
}
MAX_WAIT_S = 365 * 86400.0
EVENTS_AT_ONCE = 16
MESSAGE_BYTES = 512


class OpenOptions(c.Structure):
    """`genin_open_options`."""

    _fields_ = (
        ("size", c.c_uint32),
        ("threads", c.c_uint32),
        ("engine_path", c.c_char_p),
        ("precision", c.c_char_p),
        ("max_memory", c.c_uint64),
        ("thread_priority", c.c_int32),
        ("queue_capacity", c.c_uint32),
        ("check_hashes", c.c_uint32),
        ("reserved", c.c_uint32),
        ("io", c.c_void_p),
        ("wake", c.c_void_p),
        ("wake_user", c.c_void_p),
        ("engine", c.c_char_p),
        ("bundle_data", c.c_void_p),
        ("bundle_bytes", c.c_uint64),
    )


class RequestStruct(c.Structure):
    """`genin_request`."""

    _fields_ = (
        ("size", c.c_uint32),
        ("steps", c.c_uint32),
        ("prompt", c.c_char_p),
        ("prompt_bytes", c.c_uint64),
        ("seed", c.c_uint64),
        ("slot", c.c_uint32),
        ("priority", c.c_int32),
        ("previews", c.c_uint32),
        ("guidance_scale", c.c_float),
        ("tag", c.c_uint64),
        ("width", c.c_uint32),
        ("height", c.c_uint32),
        ("image", c.c_void_p),
        ("mask", c.c_void_p),
        ("image_stride", c.c_int64),
        ("mask_stride", c.c_int64),
        ("image_width", c.c_uint32),
        ("image_height", c.c_uint32),
        ("strength", c.c_double),
    )


class EventStruct(c.Structure):
    """`genin_event`."""

    _fields_ = (
        ("size", c.c_uint32),
        ("kind", c.c_int32),
        ("ticket", c.c_uint64),
        ("tag", c.c_uint64),
        ("result", c.c_int32),
        ("step", c.c_uint32),
        ("steps", c.c_uint32),
        ("width", c.c_uint32),
        ("height", c.c_uint32),
        ("reserved", c.c_uint32),
        ("queued_ns", c.c_uint64),
        ("drawing_ns", c.c_uint64),
        ("message", c.c_char * 192),
    )


class StatsStruct(c.Structure):
    """`genin_stats`."""

    _fields_ = (
        ("size", c.c_uint32),
        ("waiting", c.c_uint32),
        ("done", c.c_uint64),
        ("cancelled", c.c_uint64),
        ("failed", c.c_uint64),
        ("engine_ns", c.c_uint64),
        ("other_ns", c.c_uint64),
        ("memory_now", c.c_uint64),
        ("memory_peak", c.c_uint64),
    )


class InfoStruct(c.Structure):
    """`genin_info`."""

    _fields_ = (
        ("size", c.c_uint32),
        ("width", c.c_uint32),
        ("height", c.c_uint32),
        ("multiple", c.c_uint32),
        ("steps", c.c_uint32),
        ("takes_images", c.c_uint32),
        ("guidance_scale", c.c_float),
        ("reserved", c.c_uint32),
        ("engine", c.c_char * 32),
        ("precision", c.c_char * 32),
    )


@dataclass(frozen=True)
class NativeEvent:
    """What has become of a ticket. `kind` is one of `KINDS`, `result` one of `RESULTS`."""

    kind: str
    ticket: int
    result: str
    message: str
    step: int
    steps: int
    tag: int
    width: int
    height: int


class NativeWorker:
    """`genin_worker`: a bundle, one drawing thread, its queue. `loading` is the ticket of its loading. From any thread.

    Methods raise what `error_of` makes of a result, except those that return it, and GeninError once the worker is closed."""

    def __init__(self, library: Path, bundle: Path, engine_path: Path | None = None, **options: Any) -> None:
        """Begins to load the bundle. `options` are fields of `genin_open_options`. Errors: GeninError without the library."""
        try:
            self._library = _declared(c.CDLL(str(library)))
        except OSError as error:
            raise GeninError(f"the native library cannot be loaded ({error})", where=library) from error
        self._lock, self._inside, self._process = threading.Condition(), 0, os.getpid()
        own: dict[str, Any] = {name: _bytes(value) for name, value in options.items()}
        given = OpenOptions(c.sizeof(OpenOptions), engine_path=_bytes(engine_path), **own)
        handle, ticket = c.c_void_p(), c.c_uint64()
        self._check(self._library.genin_open(_bytes(bundle), c.byref(given), c.byref(handle), c.byref(ticket)))
        self._handle: c.c_void_p | None = handle
        self.loading = ticket.value

    def engine(self) -> str:
        """What runs the networks, "onnxruntime 1.32.0", once the bundle is loaded."""
        info = InfoStruct(c.sizeof(InfoStruct))
        with self._open() as worker:
            self._check(self._library.genin_get_info(worker, c.byref(info)))
        return _text(info.engine)

    def submit(
        self, prompt: str, seed: int, image: bytes | None = None, mask: bytes | None = None, **options: Any
    ) -> int:
        """The ticket of a request. `options` are fields of `genin_request`; `image` is RGBA, `mask` a byte a pixel, no gaps."""
        text, ticket = prompt.encode(errors="surrogatepass"), c.c_uint64()
        pixels = {
            name: c.cast(c.c_char_p(data), c.c_void_p) for name, data in (("image", image), ("mask", mask)) if data
        }
        request = RequestStruct(
            c.sizeof(RequestStruct), prompt=text, prompt_bytes=len(text), seed=seed, **pixels, **options
        )
        with self._open() as worker:
            self._check(self._library.genin_submit(worker, c.byref(request), c.byref(ticket)))
        return ticket.value

    def poll(self) -> list[NativeEvent]:
        found: list[NativeEvent] = []
        room = (EventStruct * EVENTS_AT_ONCE)()
        with self._open() as worker:
            while count := self._library.genin_poll(worker, room, EVENTS_AT_ONCE, c.sizeof(EventStruct)):
                found += [_event_of(event) for event in room[:count]]
        return found

    def wait(self, ticket: int, seconds: float = MAX_WAIT_S) -> str:
        """Its result, or "timeout"."""
        with self._open() as worker:
            return RESULTS[self._library.genin_wait(worker, ticket, int(min(seconds, MAX_WAIT_S) * 1e9))]

    def cancel(self, ticket: int = 0) -> str:
        with self._open() as worker:
            return RESULTS[self._library.genin_cancel(worker, ticket)]

    def take(self, ticket: int, size: tuple[int, int], *, preview: bool = False) -> bytes | None:
        """The RGBA bytes of a picture of (height, width), or None if it is gone."""
        height, width = size
        rgba = c.create_string_buffer(4 * height * width)
        copy = self._library.genin_preview if preview else self._library.genin_take
        with self._open() as worker:
            code = copy(worker, ticket, rgba, 4 * width, len(rgba))
            if RESULTS[code] == "gone":
                return None
            self._check(code)
        return rgba.raw

    def pause(self, paused: bool) -> None:
        with self._open() as worker:
            self._check(self._library.genin_pause(worker, paused))

    def set_share(self, percent: int) -> None:
        with self._open() as worker:
            self._check(self._library.genin_set_share(worker, percent))

    def close(self) -> None:
        """End what is drawn, wait for threads that are inside, and free it. Calling it again does nothing.

        Nor does a process that was forked later: the drawing thread is not there."""
        if self._process != os.getpid():
            return
        with self._lock:
            handle, self._handle = self._handle, None
            if handle is not None:
                self._library.genin_cancel(handle, 0)
                self._lock.wait_for(lambda: not self._inside)
                self._library.genin_close(handle)

    @contextmanager
    def _open(self) -> Iterator[c.c_void_p]:
        """The handle, which is not freed while the body runs."""
        with self._lock:
            if self._handle is None:
                raise GeninError("the engine is closed", remedy="load the bundle again")
            handle = self._handle
            self._inside += 1
        try:
            yield handle
        finally:
            with self._lock:
                self._inside -= 1
                self._lock.notify_all()

    def _check(self, code: int) -> None:
        if code != 0:
            text = c.create_string_buffer(MESSAGE_BYTES)
            self._library.genin_last_error(text, MESSAGE_BYTES)
            raise error_of(RESULTS[code], _text(text.value))


def error_of(result: str, message: str) -> GeninError:
    """The error of a result that is not "ok"."""
    return ERRORS.get(result, GeninError)(message or result)


def _event_of(event: EventStruct) -> NativeEvent:
    kind, result = KINDS[event.kind], RESULTS[event.result]
    at = (event.step, event.steps, event.tag, event.width, event.height)
    return NativeEvent(kind, event.ticket, result, _text(event.message), *at)


def _text(message: bytes) -> str:
    """One line. The library cuts messages by bytes, and quotes file names of any encoding."""
    return " ".join(message.decode(errors="replace").splitlines())


def _bytes(value: Any) -> Any:
    return os.fsencode(value) if isinstance(value, (str, Path)) else value


def _declared(library: c.CDLL) -> c.CDLL:
    """The library with the types of its functions: without them ctypes would pass 32 bits of a ticket."""
    signed, worker, number = c.c_int32, c.c_void_p, c.c_uint64
    pixels = [worker, number, c.c_void_p, c.c_int64, number]
    for name, result, arguments in (
        ("open", signed, [c.c_char_p, c.c_void_p, c.c_void_p, c.c_void_p]),
        ("submit", signed, [worker, c.c_void_p, c.c_void_p]),
        ("cancel", signed, [worker, number]),
        ("poll", c.c_uint32, [worker, c.c_void_p, c.c_uint32, c.c_uint32]),
        ("wait", signed, [worker, number, number]),
        ("pause", signed, [worker, c.c_uint32]),
        ("set_share", signed, [worker, c.c_uint32]),
        ("take", signed, pixels),
        ("preview", signed, pixels),
        ("get_stats", signed, [worker, c.c_void_p]),
        ("get_info", signed, [worker, c.c_void_p]),
        ("last_error", number, [c.c_void_p, number]),
        ("close", signed, [worker]),
    ):
        function = getattr(library, f"genin_{name}")
        function.restype, function.argtypes = result, arguments
    return library

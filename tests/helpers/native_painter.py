"""The native library through ctypes, with the methods of `genin.Painter`, so that both can be run by the same tests."""

from __future__ import annotations

import ctypes as c
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genin.runtimes.bundle import Bundle
from genin.runtimes.errors import InputError, QueueFullError
from genin.runtimes.native_library import KINDS, NativeEvent, OpenOptions
from genin.runtimes.native_library import RESULTS as CODES
from genin.runtimes.native_library import EventStruct as RawEvent
from genin.runtimes.native_library import RequestStruct as Request
from genin.runtimes.native_library import StatsStruct as Stats
from genin.runtimes.pictures import Picture

YEAR_NS = 365 * 86400 * 10**9


class NativePainter:
    """A worker of `libgenin`. `options` are further fields of genin_open_options."""

    def __init__(self, library: Path, engine: Path, bundle: str, /, *, capacity: int = 64, **options: Any) -> None:
        self._library = c.CDLL(str(library))
        for name in ("open", "submit", "cancel", "wait", "pause", "set_share", "take", "preview", "get_stats", "close"):
            getattr(self._library, f"genin_{name}").restype = c.c_int32
        self._library.genin_last_error.restype = c.c_uint64
        asked = OpenOptions(
            c.sizeof(OpenOptions), 1, str(engine).encode(), queue_capacity=capacity, thread_priority=-1, **options
        )
        self._worker, ticket = c.c_void_p(), c.c_uint64()
        code = self._library.genin_open(bundle.encode(), c.byref(asked), c.byref(self._worker), c.byref(ticket))
        self._check(code)
        self.loading = ticket.value
        self._bundle = bundle

    def submit(
        self,
        prompt: str,
        seed: int = 0,
        image: NDArray[np.uint8] | None = None,
        mask: NDArray[np.uint8] | None = None,
        **options: Any,
    ) -> int:
        """`image` is (H, W, 4) and `mask` (H, W), without gaps."""
        text, ticket = prompt.encode(), c.c_uint64()
        request = Request(c.sizeof(Request), prompt=text, prompt_bytes=len(text), seed=seed, **options)
        if image is not None:
            request.image = image.ctypes.data
            request.image_height, request.image_width = image.shape[:2]
        if mask is not None:
            request.mask = mask.ctypes.data
        self._check(self._library.genin_submit(self._worker, c.byref(request), c.byref(ticket)))
        return ticket.value

    def poll(self) -> list[NativeEvent]:
        found: list[NativeEvent] = []
        room = (RawEvent * 16)()
        while count := self._library.genin_poll(self._worker, room, 16, c.sizeof(RawEvent)):
            for event in room[:count]:
                found.append(
                    NativeEvent(
                        KINDS[event.kind],
                        event.ticket,
                        CODES[event.result],
                        event.message.decode(),
                        event.step,
                        event.steps,
                        event.tag,
                        event.width,
                        event.height,
                    )
                )
        return found

    def take(self, ticket: int, width: int = 0, height: int = 0) -> Picture | None:
        """By default of the bundle's own size."""
        if not width:
            with Bundle.open(self._bundle) as opened:
                width = opened.manifest.image.width
        height = height or width
        rgba = np.zeros((height, width, 4), np.uint8)
        code = self._library.genin_take(
            self._worker,
            c.c_uint64(ticket),
            rgba.ctypes.data_as(c.c_void_p),
            c.c_int64(width * 4),
            c.c_uint64(rgba.nbytes),
        )
        if CODES[code] == "gone":
            return None
        self._check(code)
        return Picture(rgba[..., :3].copy())

    def cancel(self, ticket: int | None = None) -> bool:
        return CODES[self._library.genin_cancel(self._worker, c.c_uint64(ticket or 0))] == "ok"

    def wait(self, ticket: int, seconds: float | None = None) -> str:
        nanoseconds = YEAR_NS if seconds is None else int(seconds * 1e9)
        return CODES[self._library.genin_wait(self._worker, c.c_uint64(ticket), c.c_uint64(nanoseconds))]

    def pause(self, paused: bool = True) -> None:
        self._check(self._library.genin_pause(self._worker, c.c_uint32(paused)))

    def set_share(self, share: float) -> None:
        self._check(self._library.genin_set_share(self._worker, c.c_uint32(round(share * 100))))

    def stats(self) -> Stats:
        found = Stats(c.sizeof(Stats))
        self._check(self._library.genin_get_stats(self._worker, c.byref(found)))
        return found

    def close(self) -> None:
        if self._worker:
            self._library.genin_close(self._worker)
            self._worker = c.c_void_p()

    def _check(self, code: int) -> None:
        if code == 0:
            return
        text = c.create_string_buffer(512)
        self._library.genin_last_error(text, c.c_uint64(512))
        kind = QueueFullError if CODES[code] == "full" else InputError
        raise kind(f"{CODES[code]}: {text.value.decode()}")

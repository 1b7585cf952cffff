"""A helper process that draws: what crashes or runs out of memory there ends a ticket, not the program.

    program ──► (Model, folder for what is unpacked), then ("draw", number, the pickled (prompt, seed, options, previews)),
                ("end", number), ("share", share); at the end it closes the pipe
    helper  ──► ("open", error | None), ("preview", number, picture, step, steps), ("done", number, picture),
                ("failed", number, error)

Messages are pickled, between a program and its own child only. They go through the child's stdin and stdout, so that either end
sees at once when the other is gone; what engines print goes to stderr.

Not here: the program's end (`child`), the drawing itself (`drawing`), whose turn it is (`tickets`).
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from genin.runtimes.cancellation import Cancellation
from genin.runtimes.errors import GeninError, InputError
from genin.runtimes.painting.drawing import (
    Drawing,
    LoadOptions,
    Pace,
    Paced,
    PipelineDrawer,
    Priority,
    load_in_background,
    lower_priority,
)
from genin.runtimes.pictures import Picture
from genin.runtimes.quiet import be_silent

MODULE = "genin.runtimes.painting.helper"


class Channel(Protocol):
    """One direction, and one end of it; so are connections of `multiprocessing`. Errors: EOFError or OSError when the other end is
    gone."""

    def send_bytes(self, message: bytes) -> None: ...
    def recv_bytes(self) -> bytes: ...
    def close(self) -> None: ...


def pickled(message: tuple[Any, ...]) -> bytes:
    return pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)


class Pipe:
    """A channel over a file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def send_bytes(self, message: bytes) -> None:
        self._file.write(len(message).to_bytes(8, "little"))
        self._file.write(message)
        self._file.flush()

    def recv_bytes(self) -> bytes:
        length = int.from_bytes(self._exactly(8), "little")
        return self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        found = self._file.read(count)
        if len(found) < count:
            raise EOFError
        return found

    def close(self) -> None:
        with suppress(OSError):
            self._file.close()


@dataclass(frozen=True)
class Model:
    """What the helper loads, as `genin.load` names it."""

    name: str
    options: LoadOptions
    priority: Priority


def main() -> None:
    """The helper as a module. Messages own stdout: whatever prints must not come between them."""
    reads = os.fdopen(os.dup(0), "rb")
    writes = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    serve(Pipe(reads), Pipe(writes))


def serve(reads: Channel, writes: Channel) -> None:
    """Load a model and draw until the program closes the pipe or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal reaches both; the program decides
    with suppress(EOFError, OSError):
        model, tempfile.tempdir = pickle.loads(reads.recv_bytes())
        _Helper(reads, writes, model).run()


class _Helper:
    """Draws in the main thread, while another one listens for what is asked and what is ended."""

    def __init__(self, reads: Channel, writes: Channel, model: Model) -> None:
        self._reads, self._writes, self._model = reads, writes, model
        self._loading = True
        self._requests: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._drawing: tuple[int, Paced] | None = None
        self._ended = 0  # the last number that was ended
        self._pace = Pace(1.0)

    def run(self) -> None:
        be_silent()
        lower_priority(self._model.priority)
        threading.Thread(target=self._listen, daemon=True).start()
        model = self._model
        drawer = PipelineDrawer(lambda: load_in_background(model.name, model.options), own=True)
        try:
            drawer.open(Cancellation())
        except Exception as error:
            self._send("open", _portable(error))
            return
        self._loading = False
        self._send("open", None)
        while (request := self._requests.get()) is not None:
            number, content = request
            try:
                asked = pickle.loads(content)
            except Exception as error:  # of a class that only the program knows
                self._send("failed", number, unsendable(error))
            else:
                self._draw(drawer, number, *asked)
        drawer.close()

    def _draw(self, drawer: PipelineDrawer, number: int, prompt: str, seed: int, *rest: Any) -> None:
        options, previews = rest
        cancellation = Paced(self._pace)
        with self._lock:
            self._drawing = number, cancellation
            if self._ended >= number:
                cancellation.cancel()

        def show(picture: Picture, step: int, steps: int) -> None:
            self._send("preview", number, picture, step, steps)

        try:
            picture = drawer.draw(Drawing(prompt, seed, options, previews, cancellation), show)
            message: tuple[Any, ...] = ("done", number, picture)
        except Exception as error:
            message = ("failed", number, _portable(error))
        with self._lock:
            self._drawing = None
        self._send(*message)

    def _send(self, *message: Any) -> None:
        self._writes.send_bytes(pickled(message))

    def _listen(self) -> None:
        try:
            with suppress(EOFError, OSError):
                while True:
                    kind, *rest = pickle.loads(self._reads.recv_bytes())
                    if kind == "draw":
                        self._requests.put((rest[0], rest[1]))
                    elif kind == "share":
                        self._pace.share = rest[0]
                    else:
                        self._end(rest[0])
        finally:  # also after a MemoryError: nothing more can be asked
            if self._loading:  # which nothing else ends
                os._exit(1)
            self._end(sys.maxsize)
            self._requests.put(None)

    def _end(self, number: int) -> None:
        with self._lock:
            self._ended = number
            if self._drawing is not None and self._drawing[0] <= number:
                self._drawing[1].cancel()


def unsendable(error: Exception) -> InputError:
    what = f"an option cannot be sent to the helper process ({error})"
    return InputError(what, remedy="use process=False, or plain arrays and paths")


def _portable(error: Exception) -> Exception:
    """The error as the program can read it: with modules that only the helper has imported, it could not."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return GeninError(f"drawing failed ({type(error).__name__}: {error})")
    return error


if __name__ == "__main__":
    from genin.runtimes.painting import helper

    helper.main()  # not this module's own: messages name classes by their module

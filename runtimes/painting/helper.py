"""A helper process that draws: what crashes or runs out of memory there ends a ticket, not the program.

    program ──► (Model, folder for what is unpacked), then ("draw", number, the pickled (prompt, seed, options, previews, share)),
                ("end", number), ("close",)
    helper  ──► ("open", error | None), ("preview", number, picture, step, steps), ("done", number, picture),
                ("failed", number, error)

Messages are pickled, between a program and its own child only. They go through the child's stdin and stdout, so that either end
sees at once when the other is gone; what engines print goes to stderr. A frozen program (PyInstaller, Nuitka) cannot run a module
by its name: there the child is one of `multiprocessing`, whose `freeze_support()` must be called first.

Not here: the drawing itself (`drawing`), whose turn it is (`tickets`).
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from genin.runtimes.cancellation import Cancellation, interruptible
from genin.runtimes.errors import GeninError, InputError
from genin.runtimes.painting.drawing import (
    Drawing,
    LoadOptions,
    Pace,
    Paced,
    PipelineDrawer,
    Priority,
    Show,
    load_in_background,
    lower_priority,
)
from genin.runtimes.pictures import Picture
from genin.runtimes.quiet import be_silent

CLOSING_S = 5.0  # after which a helper that does not end is killed
MODULE = "genin.runtimes.painting.helper"


class Channel(Protocol):
    """Both ends have one; so have connections of `multiprocessing`. Errors: EOFError or OSError when the other end is gone."""

    def send_bytes(self, message: bytes) -> None: ...
    def recv_bytes(self) -> bytes: ...
    def close(self) -> None: ...


def pickled(message: tuple[Any, ...]) -> bytes:
    return pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)


class Pipes:
    """A channel over two files."""

    def __init__(self, reads: IO[bytes], writes: IO[bytes]) -> None:
        self._reads, self._writes = reads, writes

    def send_bytes(self, message: bytes) -> None:
        self._writes.write(len(message).to_bytes(8, "little") + message)
        self._writes.flush()

    def recv_bytes(self) -> bytes:
        length = int.from_bytes(self._exactly(8), "little")
        return self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        found = self._reads.read(count)
        if len(found) < count:
            raise EOFError
        return found

    def close(self) -> None:
        for file in (self._writes, self._reads):
            with suppress(OSError):
                file.close()


@dataclass(frozen=True)
class Model:
    """What the helper loads, as `genin.load` names it."""

    name: str
    options: LoadOptions
    priority: Priority


# --- the program's end -------------------------------------------------------------------------------------------------


class HelperDrawer:
    """Draws in a helper process, which is started again for the next picture if it has died."""

    def __init__(self, model: Model, pace: Pace) -> None:
        self._model, self._pace = model, pace
        self._child: Child | None = None
        self._number = 0

    def open(self, cancellation: Cancellation) -> None:
        child = Child(self._model)
        self._child = child
        try:
            with interruptible(cancellation, child):
                try:
                    error = child.recv()[1]
                except (EOFError, OSError):
                    error = self._died()
                if error is not None:
                    raise error
        except BaseException:  # also where it was cancelled before it waits
            self.close()
            raise

    def draw(self, drawing: Drawing, show: Show) -> Picture:
        if self._child is not None and not self._child.is_alive():  # it has died between two pictures
            self._died()
        if self._child is None:
            self.open(drawing.cancellation)
        child = self._child
        assert child is not None
        self._number += 1
        ending = Ending(child, self._number)
        request = (drawing.prompt, drawing.seed, dict(drawing.options), drawing.previews, self._pace.share)
        try:
            message = pickled(("draw", ending.number, pickled(request)))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise _unsendable(error) from error
        with interruptible(drawing.cancellation, ending):
            try:
                child.send(message)
                found = _picture_of(child, ending.number, show)
            except (EOFError, OSError):
                raise self._died() from None
        if isinstance(found, BaseException):  # an OSError among them says nothing about the helper
            raise found
        return found

    def _died(self) -> GeninError:
        child, self._child = self._child, None
        assert child is not None
        code = child.end()
        how = f"exit code {code}"
        if code is not None and code < 0:
            with suppress(ValueError):
                how = signal.Signals(-code).name
        remedy = "the next picture starts another one"
        return GeninError(f"the helper process has died ({how})", remedy=remedy)

    def close(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None


def _picture_of(child: Child, number: int, show: Show) -> Picture | BaseException:
    """What the helper says of a drawing, until it is at its end: the picture, or what went wrong."""
    while True:
        kind, of, *rest = child.recv()
        if of != number:
            continue
        if kind == "preview":
            show(*rest)
        elif kind == "done":
            picture: Picture = rest[0]
            return picture
        else:
            error: BaseException = rest[0]
            return error


class Child:
    """A running helper process, seen from the program."""

    def __init__(self, model: Model) -> None:
        self._sending = threading.Lock()
        # What it unpacks goes here: one that is killed removes nothing.
        self._temporary = tempfile.TemporaryDirectory(prefix="genin-", ignore_cleanup_errors=True)
        self._process, self._channel = _start_frozen() if is_frozen() else _start()
        with suppress(OSError):  # it is gone already, which `recv` will tell
            self.send(pickled((model, self._temporary.name)))

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def send(self, message: bytes) -> None:
        with self._sending:
            self._channel.send_bytes(message)

    def recv(self) -> tuple[Any, ...]:
        message: tuple[Any, ...] = pickle.loads(self._channel.recv_bytes())
        return message

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def interrupt(self) -> None:
        """While it loads: it can only be killed."""
        self._process.kill()

    def proceed(self) -> None:
        pass

    def end(self) -> int | None:
        """Let it end, or kill it; its exit code, below 0 for a signal."""
        with suppress(OSError, ValueError):
            self.send(pickled(("close",)))
        self._channel.close()
        try:
            return self._process.end()
        finally:
            self._temporary.cleanup()


@dataclass(frozen=True)
class Ending:
    """Ends one drawing of a helper."""

    child: Child
    number: int

    def interrupt(self) -> None:
        with suppress(OSError, ValueError):  # it has died meanwhile
            self.child.send(pickled(("end", self.number)))

    def proceed(self) -> None:
        pass  # a number is never drawn twice


class Process(Protocol):
    @property
    def pid(self) -> int | None: ...
    def is_alive(self) -> bool: ...
    def kill(self) -> None: ...
    def end(self) -> int | None: ...


class ModuleProcess:
    """The helper as a module of this Python."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process, self.pid = process, process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> int | None:
        try:
            return self._process.wait(CLOSING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


class FrozenProcess:
    """The helper as a process of `multiprocessing`."""

    def __init__(self, process: Any) -> None:
        self._process, self.pid = process, process.pid

    def is_alive(self) -> bool:
        return bool(self._process.is_alive())

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> int | None:
        self._process.join(CLOSING_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        code: int | None = self._process.exitcode
        return code


def _unsendable(error: Exception) -> InputError:
    what = f"an option cannot be sent to the helper process ({error})"
    return InputError(what, remedy="use process=False, or plain arrays and paths")


def is_frozen() -> bool:
    """Whether this program was made by PyInstaller or Nuitka."""
    return bool(getattr(sys, "frozen", False)) or "__compiled__" in globals()


def _start() -> tuple[Process, Channel]:
    quiet: dict[str, Any] = {"creationflags": 0x08000000} if sys.platform == "win32" else {}  # CREATE_NO_WINDOW
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", MODULE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment(), **quiet
    )
    assert process.stdin is not None and process.stdout is not None
    return ModuleProcess(process), Pipes(process.stdout, process.stdin)


def _environment() -> dict[str, str]:
    """This process's, with its import path: the helper must find the same genin."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _start_frozen() -> tuple[Process, Channel]:
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    return FrozenProcess(process), ours


# --- the helper's end --------------------------------------------------------------------------------------------------


def main() -> None:
    """The helper as a module. Messages own stdout: whatever prints must not come between them."""
    reads = os.fdopen(os.dup(0), "rb")
    writes = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    serve(Pipes(reads, writes))


def serve(channel: Channel) -> None:
    """Load a model and draw until the program closes the channel or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal reaches both; the program decides
    with suppress(EOFError, OSError):
        model, tempfile.tempdir = pickle.loads(channel.recv_bytes())
        _Helper(channel, model).run()


class _Helper:
    """Draws in the main thread, while another one listens for what ends a drawing."""

    def __init__(self, channel: Channel, model: Model) -> None:
        self._channel, self._model = channel, model
        self._requests: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._drawing: tuple[int, Paced] | None = None
        self._ended = 0  # the last number that was ended
        self._pace = Pace(1.0)

    def run(self) -> None:
        be_silent()
        lower_priority(self._model.priority)
        model = self._model
        drawer = PipelineDrawer(lambda: load_in_background(model.name, model.options), own=True)
        try:
            drawer.open(Cancellation())
        except Exception as error:
            self._send("open", _portable(error))
            return
        self._send("open", None)
        threading.Thread(target=self._listen, daemon=True).start()
        while (request := self._requests.get()) is not None:
            number, content = request
            try:
                asked = pickle.loads(content)
            except Exception as error:  # of a class that only the program knows
                self._send("failed", number, _unsendable(error))
            else:
                self._draw(drawer, number, *asked)
        drawer.close()

    def _draw(self, drawer: PipelineDrawer, number: int, prompt: str, seed: int, *rest: Any) -> None:
        options, previews, self._pace.share = rest
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
        self._channel.send_bytes(pickled(message))

    def _listen(self) -> None:
        with suppress(EOFError, OSError):
            while (message := pickle.loads(self._channel.recv_bytes()))[0] != "close":
                kind, number, *rest = message
                if kind == "draw":
                    self._requests.put((number, rest[0]))
                else:
                    self._end(number)
        self._end(sys.maxsize)
        self._requests.put(None)

    def _end(self, number: int) -> None:
        with self._lock:
            self._ended = number
            if self._drawing is not None and self._drawing[0] <= number:
                self._drawing[1].cancel()


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

"""The program's end of a helper process: starting it, drawing in it, ending it.

A frozen program (PyInstaller, Nuitka) cannot run a module by its name: there the child is one of `multiprocessing`, whose
`freeze_support()` must be called first.

Not here: what the helper does, and the messages (`helper`).
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from genin.runtimes.cancellation import Cancellation, interruptible
from genin.runtimes.errors import GeninError
from genin.runtimes.painting.drawing import Drawing, Pace, Show
from genin.runtimes.painting.helper import MODULE, Channel, Model, Pipes, pickled, serve, unsendable
from genin.runtimes.pictures import Picture

CLOSING_S = 5.0  # after which a helper that does not end is killed


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
            raise unsendable(error) from error
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

"""The program's end of a helper process: starting it, drawing in it, ending it.

A frozen program (PyInstaller, Nuitka) cannot run a module by its name: there the child is one of `multiprocessing`, whose
`freeze_support()` must be called first.

Not here: what the helper does, and the messages (`helper`).
"""

from __future__ import annotations

import os
import pickle
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from genin.runtimes.cancellation import Cancellation, cancelled, interruptible
from genin.runtimes.painting.drawing import Drawing, HelperDiedError, Pace, Show
from genin.runtimes.painting.helper import MODULE, Channel, Model, Pipe, pickled, serve, unsendable
from genin.runtimes.pictures import Picture

CLOSING_S = 5.0  # after which a helper that does not end is killed


class HelperDrawer:
    """Draws in a helper process, which is started again for the next picture if it has died."""

    def __init__(self, model: Model, pace: Pace) -> None:
        self._model, self._pace = model, pace
        self._child: Child | None = None
        self._number = 0
        self._sharing = threading.RLock()  # or a share that was read before a change could be sent after it

    def open(self, cancellation: Cancellation) -> None:
        try:
            self._loaded(cancellation)
        except BaseException:  # also where it was cancelled before it waits
            self.close()
            raise

    def draw(self, drawing: Drawing, show: Show) -> Picture:
        child = self._loaded(drawing.cancellation)
        self._number += 1
        ending = Ending(child, self._number)
        request = (drawing.prompt, drawing.seed, dict(drawing.options), drawing.previews)
        try:
            message = pickled(("draw", ending.number, pickled(request)))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise unsendable(error) from error
        with interruptible(drawing.cancellation, ending):
            try:
                self.set_share()  # which a new helper does not know
                child.post(message)
                found = _picture_of(child, ending.number, show)
            except EOFError:
                raise self._died() from None
        if isinstance(found, BaseException):
            raise found
        return found

    def _loaded(self, cancellation: Cancellation) -> Child:
        """The helper, once it has loaded the model. If that is cancelled, it goes on loading: for the next picture."""
        if self._child is not None and self._child.is_ready and not self._child.is_alive():
            self._died()  # between two pictures
        child = self._child = self._child or Child(self._model)
        if child.is_ready:
            return child
        with interruptible(cancellation, child):
            try:
                kind, error = child.recv()
            except EOFError:
                raise self._died() from None
            if kind == "woken":
                raise cancelled()
        if error is not None:
            self.close()
            raise error
        child.is_ready = True
        return child

    def _died(self) -> HelperDiedError:
        child, self._child = self._child, None
        assert child is not None
        code = child.end()
        how = f"exit code {code}"
        if code is not None and code < 0:
            with suppress(ValueError):
                how = signal.Signals(-code).name
        remedy = "the next picture starts another one"
        return HelperDiedError(f"the helper process has died ({how})", remedy=remedy)

    def set_share(self) -> None:
        with self._sharing:
            if (child := self._child) is not None:
                child.post(pickled(("share", self._pace.share)))

    def kill(self) -> None:
        if (child := self._child) is not None:  # of another thread
            child.kill()

    def close(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            if not child.is_ready:
                child.kill()
            child.end()


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
    """A running helper process, seen from the program. `is_ready` once it has loaded the model, which is its drawer's to know.

    Two threads carry the messages. So whoever posts one never waits for a pipe, which holds less than an image, and whoever waits
    for one can be woken.
    """

    def __init__(self, model: Model) -> None:
        self.is_ready = False
        with _interrupts_blocked():
            self._process, self._reads, self._writes = _start_frozen() if is_frozen() else _start()
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()  # None: nothing more will be asked
        self._inbox: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()  # None: it is gone
        # What it unpacks goes here: one that is killed removes nothing. No TemporaryDirectory: that goes when any fork ends, too.
        self._temporary = tempfile.mkdtemp(prefix="genin-")
        self.post(pickled((model, self._temporary)))
        self._threads = [threading.Thread(target=carry, daemon=True) for carry in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def post(self, message: bytes) -> None:
        """Send it when its turn comes. Never waits."""
        self._outbox.put(message)

    def recv(self) -> tuple[Any, ...]:
        """The next message. Errors: EOFError when the helper is gone."""
        message = self._inbox.get()
        if message is None:
            raise EOFError
        return message

    def _send(self) -> None:
        try:
            while (message := self._outbox.get()) is not None:
                self._writes.send_bytes(message)
        except OSError:  # it is gone, which `_receive` notices
            pass
        except Exception:  # such as MemoryError: it would wait for the rest
            self.kill()
        finally:
            self._writes.close()

    def _receive(self) -> None:
        try:
            while True:
                self._inbox.put(pickle.loads(self._reads.recv_bytes()))
        except (EOFError, OSError):
            self._inbox.put(None)
        except Exception:  # such as MemoryError: what it says further belongs to nothing
            self.kill()
        finally:
            self._reads.close()

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def interrupt(self) -> None:
        """While it loads: let it, but wake who waits for it."""
        self._inbox.put(("woken", 0))

    def proceed(self) -> None:
        pass

    def kill(self) -> None:
        """From any thread. Who waits for a message is told, whatever has become of the pipe."""
        self._process.kill()
        self._inbox.put(None)

    def end(self) -> int | None:
        """Let it end, or kill it; its exit code, below 0 for a signal."""
        self._outbox.put(None)  # which closes the pipe: so it ends
        try:
            return self._process.end()
        finally:
            for thread in self._threads:
                thread.join(CLOSING_S)
            shutil.rmtree(self._temporary, ignore_errors=True)


@dataclass(frozen=True)
class Ending:
    """Ends one drawing of a helper."""

    child: Child
    number: int

    def interrupt(self) -> None:
        self.child.post(pickled(("end", self.number)))

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


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """A Ctrl-C in the terminal reaches a helper before it can ignore it; what its maker blocks is blocked there from the start."""
    if sys.platform == "win32":  # a helper has no console there
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def is_frozen() -> bool:
    """Whether this program was made by PyInstaller or Nuitka."""
    return bool(getattr(sys, "frozen", False)) or "__compiled__" in globals()


def _start() -> tuple[Process, Channel, Channel]:
    quiet: dict[str, Any] = {"creationflags": 0x08000000} if sys.platform == "win32" else {}  # CREATE_NO_WINDOW
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", MODULE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment(), **quiet
    )
    assert process.stdin is not None and process.stdout is not None
    return ModuleProcess(process), Pipe(process.stdout), Pipe(process.stdin)


def _environment() -> dict[str, str]:
    """This process's, with its import path: the helper must find the same genin."""
    found = [entry for entry in sys.path if isinstance(entry, str) and entry]  # others, such as paths, are not searched
    return {**os.environ, "PYTHONPATH": os.pathsep.join(found)}


def _start_frozen() -> tuple[Process, Channel, Channel]:
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    (reads, their_writes), (their_reads, writes) = context.Pipe(duplex=False), context.Pipe(duplex=False)
    process = context.Process(target=serve, args=(their_reads, their_writes), daemon=True)
    process.start()
    their_reads.close()
    their_writes.close()
    return FrozenProcess(process), reads, writes

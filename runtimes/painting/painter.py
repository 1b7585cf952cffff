"""`genin.Painter`: pictures for a program with a loop that must not wait.

    painter = genin.Painter("builtin:student-1step")
    ticket = painter.submit("a ninja in a forest", seed=7)
    ...
    for event in painter.poll():                    # every frame; takes microseconds
        if event.kind == "done":
            show(painter.take(event.ticket))

One thread loads the model and draws, with a lower priority than its maker; or a helper process does. Closing, also by leaving
the program, ends what is being drawn.

Not here: the states of a ticket (`tickets`), drawing (`drawing`, `child`).
"""

from __future__ import annotations

import asyncio
import copy
import os
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Unpack

from genin.runtimes.arguments import local_path, number, required, whole
from genin.runtimes.errors import CancelledError, GeninError, InputError
from genin.runtimes.noise import check_seed
from genin.runtimes.painting.child import CLOSING_S, HelperDrawer
from genin.runtimes.painting.drawing import (
    PRIORITIES,
    Drawer,
    Drawing,
    LoadOptions,
    Pace,
    Paced,
    PipelineDrawer,
    Priority,
    load_in_background,
    lower_priority,
)
from genin.runtimes.painting.helper import Model
from genin.runtimes.painting.tickets import Board, Counts, Event, Loading, Result, Submission, Ticket, new_ticket
from genin.runtimes.pictures import Picture
from genin.runtimes.pipeline import Pipeline
from genin.runtimes.quiet import be_silent
from genin.runtimes.requests import Options, check_options
from genin.runtimes.starts import as_array
from genin.runtimes.threads import check_threads
from genin.runtimes.vocabulary import check_choice
from genin.runtimes.wording import one_line

CAPACITY = 64
MAX_CAPACITY = 4096
PRIORITY_LIMIT = 2**31 - 1


class Painter:
    """Draws beside a program: `submit` gives a ticket at once, `poll` tells what has become of tickets, `take` gives the pictures.

    Every method may be called from any thread. A context manager that closes. `await painter.submit(…)` gives the picture.
    `loading` is the ticket of the model itself.
    """

    def __init__(
        self,
        model: Pipeline | str | Path = "builtin:student",
        process: bool = False,
        *,
        thread_priority: Priority = "low",
        share: float = 1.0,
        capacity: int = CAPACITY,
        **load: Unpack[LoadOptions],
    ) -> None:
        """Returns at once; the model is loaded meanwhile (`ready`).

        Args:
            model: a pipeline, which stays the caller's and is not closed; or a name, as of `genin.load`.
            process: draw in a helper process: a crash there fails one ticket, and the next picture starts another process.
            thread_priority: of the drawing thread: `normal`, `low`, or `idle`: only when nothing else wants the processor.
            share: of the time that networks may run, above 0 and at most 1: between them the thread sleeps.
            capacity: requests that may wait, and finished pictures that are kept.
            load: runtime, precision, threads, device.

        Errors: InputError for arguments that cannot be; a model that cannot be loaded is an event (`failed`).
        """
        check_choice(thread_priority, PRIORITIES, "thread_priority")
        capacity = whole(required(capacity, "capacity"), "capacity", 1, MAX_CAPACITY)
        self._pace = Pace(_check_share(share))
        drawer = _drawer(model, Model(_lasting(str(model)), load, thread_priority), self._pace, process=process)
        self._drawer = drawer
        self.loading = new_ticket(self, Loading)
        board = Board(Submission(self.loading, Drawing("", 0, {}, 0)), capacity)
        self._process, self._own_board = os.getpid(), board
        thread = threading.Thread(
            target=_work,
            args=(board, drawer, "normal" if process else thread_priority),
            name="genin.Painter",
            daemon=True,
        )
        # Also when the program ends or forgets the painter: an engine that still runs then would end it with a crash.
        self._close = weakref.finalize(self, _close, self._process, board, drawer, thread)
        thread.start()

    @property
    def _board(self) -> Board:
        """Errors: InputError in a forked process, where no thread draws and the board's lock may be held for ever."""
        if self._process != os.getpid():
            what, remedy = "the painter was opened before this process was forked", "open one in the new process"
            raise InputError(what, remedy=remedy)
        return self._own_board

    def submit(
        self,
        prompt: str,
        seed: int = 0,
        *,
        slot: object = None,
        priority: int = 0,
        previews: int = 0,
        tag: object = None,
        **options: Unpack[Options],
    ) -> Ticket:
        """Ask for a picture; returns its ticket at once.

        Args:
            prompt: one text.
            seed: the same seed draws the same picture, on every runtime.
            slot: anything that can be compared: a newer request of this slot takes the place of one that waits, and ends one that
                is being drawn.
            priority: higher ones are drawn first, equal ones in the order in which they came.
            previews: 0 for none; n for a preview after every n-th step.
            tag: comes back with every event.
            options: as of a pipeline: steps, guidance_scale, size, noise, image, strength, mask. Pictures and arrays are copied.

        Errors: QueueFullError; InputError for arguments that cannot be, a painter that is closed, or a model that could not be
            loaded; from every method in a forked process. What only the model knows (steps, sizes) fails as an event.
        """
        if not isinstance(prompt, str):
            raise InputError(f"prompt must be one text, not {prompt!r}")
        if options.get("cancel") is not None:
            raise InputError("a painter's requests are cancelled by their ticket", remedy="call cancel(ticket)")
        check_options(options)
        previews = whole(required(previews, "previews"), "previews", 0)
        priority = whole(required(priority, "priority"), "priority", -PRIORITY_LIMIT, PRIORITY_LIMIT)
        drawing = Drawing(prompt, check_seed(seed), _copied(options), previews, Paced(self._pace))
        ticket = new_ticket(self, Ticket)
        self._board.submit(Submission(ticket, drawing, slot, priority, tag))
        return ticket

    def poll(self) -> list[Event]:
        """What has happened since the last call. Never waits."""
        return self._board.poll()

    def take(self, ticket: int) -> Picture | None:
        """The picture of a finished ticket, once; None if there is none, any more or yet."""
        return self._board.take(ticket)

    def preview(self, ticket: int) -> Picture | None:
        """The latest preview of a ticket that is being drawn, or None."""
        return self._board.preview(ticket)

    def cancel(self, ticket: int | None = None) -> bool:
        """End a ticket, or all requests; inside a network, too. Never waits: the event comes when it has happened. Returns whether
        there was anything to end."""
        return self._board.cancel(ticket)

    def wait(self, ticket: int, seconds: float | None = None) -> Result:
        """Sleep until a ticket is finished. Returns its result, `timeout`, or `gone` for a ticket that is not known any more."""
        return self._board.wait(ticket, seconds)

    def pause(self, paused: bool = True) -> None:
        """Begin nothing new until `pause(False)`; what is being drawn is finished."""
        self._board.pause(paused)

    def set_share(self, share: float) -> None:
        """The share of the time that networks may run. It holds at once, also while the painter sleeps for the one before."""
        if (share := _check_share(share)) != self._pace.share:  # a game may call this every frame
            self._pace.share = share
            self._drawer.set_share()

    def counts(self) -> Counts:
        """How many requests wait, and how many were done, cancelled or failed."""
        return self._board.counts()

    async def picture(self, ticket: Ticket) -> Picture:
        """The picture of a ticket, when it is finished. A task that is cancelled cancels its ticket.

        Errors: CancelledError for one that was cancelled or superseded, or whose picture was taken; the error of one that failed.
        """
        event = await self._finished(ticket)
        picture = self.take(ticket)
        if picture is None:
            raise CancelledError(
                "the picture was taken" if event is None or event.result == "ok" else f"the request was {event.result}"
            )
        return picture

    async def ready(self) -> None:
        """Wait until the model is loaded. A task that is cancelled cancels that. Errors: why it could not be loaded."""
        event = await self._finished(self.loading)
        if event is not None and event.result != "ok":
            raise CancelledError(f"loading was {event.result}")

    async def _finished(self, ticket: Ticket) -> Event | None:
        """A ticket's last event, once it is finished; None if it is not known any more. Errors: that of one that failed."""
        loop = asyncio.get_running_loop()
        finished: asyncio.Future[None] = loop.create_future()

        def finish() -> None:
            if not finished.done():
                finished.set_result(None)

        def tell() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(finish)

        if self._board.when_finished(ticket, tell):
            try:
                await finished
            except asyncio.CancelledError:
                self.cancel(ticket)
                raise
        event = self._board.outcome(ticket)
        if event is not None and event.error is not None:
            raise copy.copy(event.error)  # which is kept, and would keep the frames of all who ask
        return event

    def close(self) -> None:
        """End everything and wait for the drawing thread. Calling it again does nothing."""
        self._close()

    def __enter__(self) -> Painter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._process != os.getpid():
            return "<Painter: of another process>"
        counts = self.counts()
        state = "closed" if not self._close.alive else f"{counts.waiting} waiting"
        return f"<Painter: {state}, {counts.done} done, {counts.cancelled} cancelled, {counts.failed} failed>"


def _lasting(name: str) -> str:
    """The name of a model. A path is the one of today's working folder, also for a helper that is started later."""
    with suppress(RuntimeError, OSError):  # nobody's home, or a closed folder, which loading will name
        path = Path(name).expanduser()
        return str(path.absolute()) if path.exists() else name
    return name


def _drawer(model: Pipeline | str | Path, named: Model, pace: Pace, *, process: bool) -> Drawer:
    """Errors: InputError for what contradicts itself."""
    if isinstance(model, Pipeline):
        if process or named.options:
            what = "a pipeline that is loaded draws in this process, as it was loaded"
            raise InputError(what, remedy="give the painter the model's name")
        pipeline = model
        return PipelineDrawer(lambda: pipeline, own=False)
    if unknown := sorted(set(named.options) - set(LoadOptions.__annotations__)):
        raise TypeError(f"unexpected keyword argument '{unknown[0]}'")
    check_threads(named.options.get("threads"))
    if process:
        return HelperDrawer(named, pace)
    return PipelineDrawer(lambda: load_in_background(named.name, named.options), own=True)


def _work(board: Board, drawer: Drawer, priority: Priority) -> None:
    """The drawing thread."""
    be_silent()  # of a number of steps that a student was not trained for
    lower_priority(priority)
    begun = time.perf_counter()
    try:
        drawer.open(board.loading.drawing.cancellation)
        board.finish(board.loading, time.perf_counter() - begun, None)
    except Exception as error:
        board.finish(board.loading, time.perf_counter() - begun, error)
    while (next_one := board.next()) is not None:
        _draw(board, drawer, next_one)
    drawer.close()


def _draw(board: Board, drawer: Drawer, submission: Submission) -> None:
    def show(preview: Picture, step: int, steps: int) -> None:
        board.show(submission, preview, step, steps)

    begun = time.perf_counter()
    outcome: Picture | Exception
    try:
        outcome = drawer.draw(submission.drawing, show)
    except Exception as error:
        outcome = error
    board.finish(submission, time.perf_counter() - begun, outcome)


def _copied(options: Options) -> Options:
    """A game draws the next frame into the same array, or changes the working folder, while the request waits.

    Errors: InputError for what cannot be copied: a Pillow image reads its file only now, a tensor may be on another device.
    """
    found: Options = {**options}
    for key in ("image", "mask"):
        given = options.get(key)
        try:
            if isinstance(given, str | Path):
                found[key] = local_path(given, f"the {key}").absolute()
            elif isinstance(given, Picture):
                found[key] = given.array.copy()
            elif hasattr(given, "copy"):  # an array, or a Pillow image
                found[key] = given.copy()
            elif (array := as_array(given)) is not None:  # a tensor
                found[key] = array.copy()
        except GeninError:
            raise
        except Exception as error:
            raise InputError(f"the {key} cannot be used ({one_line(error)})") from error
    return found


def _close(process: int, board: Board, drawer: Drawer, thread: threading.Thread) -> None:
    if process != os.getpid():  # forked: the thread and the helper are the other's
        return
    board.close()
    if thread is threading.current_thread():  # the garbage collector has run there
        return
    thread.join(CLOSING_S)
    while thread.is_alive():
        drawer.kill()
        thread.join(CLOSING_S)


def _check_share(share: float) -> float:
    share = number(required(share, "share"), "share")
    if not 0 < share <= 1:
        raise InputError(f"share {share:g} is no share of the time", remedy="give a number above 0 and at most 1")
    return share

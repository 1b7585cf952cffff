"""What becomes of requests: a board that the asking threads and one drawing thread share.

    waiting ── next() ──► drawing ── finish() ──► finished ── take() ──► gone

Every function takes one short lock and returns; only `wait` and `next` sleep. Results are values, named as the codes of the native
library: `ok`, `cancelled`, `superseded`, `argument`, `bundle`, `engine`, `memory`; `gone` and `timeout` of a ticket that is asked
for. A finished picture waits to be taken. What is kept is bounded: as many requests and as many pictures as the queue holds, one
preview a ticket, results and events of the last 4,096 tickets.

Not here: threads and pipelines (`painter`, `drawing`).
"""

from __future__ import annotations

import copy
import itertools
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from genin.runtimes.errors import (
    BundleError,
    CancelledError,
    GeninError,
    InputError,
    MissingExtraError,
    OutOfMemoryError,
    QueueFullError,
)
from genin.runtimes.painting.drawing import Drawing, HelperDiedError
from genin.runtimes.pictures import Picture
from genin.runtimes.wording import counted

REMEMBERED = 4096  # tickets whose results and events are kept

Kind = Literal["ready", "preview", "done", "failed"]
Result = Literal["ok", "argument", "bundle", "engine", "memory", "cancelled", "superseded", "gone", "timeout"]

ENDED_EARLY = ("cancelled", "superseded")  # which is no fault

AnyTicket = TypeVar("AnyTicket", bound="Ticket")

_numbers = itertools.count(1)


class Waiting(Protocol):
    """What a ticket asks of its painter."""

    async def picture(self, ticket: Ticket) -> Picture: ...
    async def ready(self) -> None: ...


class Ticket(int):
    """The number of a request, never used twice in a process. `await ticket` gives its picture, or raises what went wrong."""

    _painter: weakref.ref[Waiting]

    def __await__(self) -> Generator[Any, None, Picture]:
        return self._its_painter().picture(self).__await__()

    def _its_painter(self) -> Waiting:
        painter = self._painter()
        if painter is None:
            raise CancelledError("the painter of this ticket is gone")
        return painter


class Loading(Ticket):
    """The ticket of a model. `await ticket` waits until it is loaded, or raises what went wrong."""

    def __await__(self) -> Generator[Any, None, None]:  # type: ignore[override]
        return self._its_painter().ready().__await__()


@dataclass(frozen=True)
class Event:
    """What has become of a ticket.

    Attributes:
        kind: `ready` when the model is loaded, `preview` after a step, `done` or `failed` at the end: one of these a ticket.
        ticket: whose.
        result: `ok`, or why it failed: `cancelled`, `superseded`, `argument`, `bundle`, `engine`, `memory`.
        error: the error, of those that are neither cancelled nor superseded.
        step, steps: of a preview: how far it is.
        size: (height, width) of the picture or preview; (0, 0) where there is none.
        queued_s, drawing_s: seconds that it waited, and that it was drawn.
        tag: what `submit` was given.
    """

    kind: Kind
    ticket: Ticket
    result: Result = "ok"
    error: GeninError | None = None
    step: int = 0
    steps: int = 0
    size: tuple[int, int] = (0, 0)
    queued_s: float = 0.0
    drawing_s: float = 0.0
    tag: object = None

    @property
    def message(self) -> str:
        """What went wrong, where, and what to do; empty where nothing did."""
        return "" if self.error is None else str(self.error)


@dataclass(frozen=True, eq=False)
class Submission:
    """A request, and how it waits. `slot` None shares its place with nothing."""

    ticket: Ticket
    drawing: Drawing
    slot: object = None
    priority: int = 0
    tag: object = None
    submitted: float = field(default_factory=time.perf_counter)


@dataclass
class Counts:
    """Requests since the painter was opened, and those that wait now."""

    waiting: int = 0
    done: int = 0
    cancelled: int = 0
    failed: int = 0

    def add(self, result: Result) -> None:
        if result == "ok":
            self.done += 1
        elif result in ENDED_EARLY:
            self.cancelled += 1
        else:
            self.failed += 1


class Board:
    """The requests of one painter. `loading` is the ticket of its model.

    Whoever has the lock may take it again. For what is forgotten with it, or by the garbage collector meanwhile, may be a program's
    own, with a finaliser that calls the painter. So what a function has just looked at may be cancelled when it goes on.
    """

    def __init__(self, loading: Submission, capacity: int) -> None:
        self.loading, self._capacity = loading, capacity
        self._lock = threading.RLock()
        self._work, self._finished = threading.Condition(self._lock), threading.Condition(self._lock)
        self._queue: list[Submission] = []
        self._running: Submission | None = loading
        self._ending: Result | None = None  # why the running one ends early
        self._events: deque[Event] = deque()
        self._outcomes: OrderedDict[int, Event] = OrderedDict()
        self._pictures: OrderedDict[int, Picture] = OrderedDict()
        self._previews: dict[int, Picture] = {}
        self._waiters: dict[int, list[Callable[[], object]]] = {}
        self._counts = Counts()
        self._paused = self._closing = False
        self._broken: GeninError | None = None  # why the model could not be loaded

    # --- for those who ask -------------------------------------------------------------------------------------------

    def submit(self, new: Submission) -> None:
        """Errors: QueueFullError; InputError on a closed board or for a model that could not be loaded."""
        with self._lock:
            if self._closing:
                raise InputError("the painter is closed", remedy="open another one")
            if self._broken is not None:
                raise copy.copy(self._broken)  # each time it is raised, an error keeps more frames
            if new.slot is not None:
                for old in [waiting for waiting in self._queue if waiting.slot == new.slot]:
                    self._drop(old, "superseded")
            if len(self._queue) >= self._capacity:
                what = f"the queue holds {counted(len(self._queue), 'request')}"
                raise QueueFullError(what, remedy="wait for pictures, or cancel some")
            if new.slot is not None and self._running is not None and self._running.slot == new.slot:
                self._end(self._running, "superseded")
            after = [i for i, waiting in enumerate(self._queue) if waiting.priority < new.priority]
            self._queue.insert(after[0] if after else len(self._queue), new)
            self._work.notify()

    def cancel(self, ticket: int | None) -> bool:
        """Of a ticket, or of all requests; loading ends by its own ticket only. Returns whether there was anything to cancel."""
        with self._lock:
            found = [waiting for waiting in self._queue if ticket is None or waiting.ticket == ticket]
            for waiting in found:
                self._drop(waiting, "cancelled")
            running = self._running
            if running is not None and (running.ticket == ticket or (ticket is None and running is not self.loading)):
                self._end(running, "cancelled")
                return True
            return bool(found)

    def poll(self) -> list[Event]:
        with self._lock:
            events, self._events = self._events, deque()
            return list(events)

    def wait(self, ticket: int, seconds: float | None) -> Result:
        """Sleep until a ticket is finished; its result, `timeout`, or `gone` for a ticket that is not known."""
        with self._lock:
            ended = self._finished.wait_for(lambda: ticket in self._outcomes or not self._knows(ticket), seconds)
            if not ended:
                return "timeout"
            return self._outcomes[ticket].result if ticket in self._outcomes else "gone"

    def when_finished(self, ticket: int, tell: Callable[[], object]) -> bool:
        """Call `tell`, from any thread, when a ticket is finished. Returns False, without a call, if it is or is not known."""
        with self._lock:
            if ticket in self._outcomes or not self._knows(ticket):
                return False
            self._waiters.setdefault(ticket, []).append(tell)
            return True

    def outcome(self, ticket: int) -> Event | None:
        """The last event of a ticket that is finished."""
        with self._lock:
            return self._outcomes.get(ticket)

    def pause(self, paused: bool) -> None:
        with self._lock:
            self._paused = paused
            self._work.notify()

    def take(self, ticket: int) -> Picture | None:
        with self._lock:
            return self._pictures.pop(ticket, None)

    def preview(self, ticket: int) -> Picture | None:
        with self._lock:
            return self._previews.get(ticket)

    def counts(self) -> Counts:
        with self._lock:
            return Counts(len(self._queue), self._counts.done, self._counts.cancelled, self._counts.failed)

    def close(self) -> None:
        """Cancel everything and take nothing more."""
        with self._lock:
            self._closing = True
            for waiting in list(self._queue):
                self._drop(waiting, "cancelled")
            if self._running is not None:
                self._end(self._running, "cancelled")
            self._work.notify()

    # --- for the drawing thread --------------------------------------------------------------------------------------

    def next(self) -> Submission | None:
        """Sleep until there is something to draw; None when the board is closed."""
        with self._lock:
            while not self._closing:
                if self._queue and not self._paused:
                    self._running, self._ending = self._queue.pop(0), None
                    return self._running
                self._work.wait()
            return None

    def show(self, of: Submission, preview: Picture, step: int, steps: int) -> None:
        """A preview. It takes the place of an earlier one of its ticket that nobody has polled."""
        with self._lock:
            height, width, _ = preview.shape
            self._previews[of.ticket] = preview
            for event in list(self._events):
                if event.kind == "preview" and event.ticket == of.ticket:
                    with suppress(ValueError):  # polled meanwhile
                        self._events.remove(event)
            self._add(Event("preview", of.ticket, step=step, steps=steps, size=(height, width), tag=of.tag))

    def finish(self, of: Submission, drawing_s: float, outcome: Picture | Exception | None) -> None:
        """What is drawn is done (None: the model is loaded), or failed with an error, which loses its traceback."""
        if isinstance(outcome, Exception):
            forget_frames(outcome)
        with self._lock:
            result: Result = "ok"
            error: GeninError | None = None
            if isinstance(outcome, Exception):
                result = self._ending or result_of(outcome, loading=of is self.loading)
                error = as_genin_error(outcome) if result not in ENDED_EARLY else None
            elif outcome is not None:
                self._keep(of.ticket, outcome)
            if of is self.loading and result != "ok" and not isinstance(outcome, HelperDiedError):
                self._break(result, error)
            kind: Kind = "failed" if result != "ok" else "ready" if of is self.loading else "done"
            size = (outcome.shape[0], outcome.shape[1]) if isinstance(outcome, Picture) else (0, 0)
            queued_s = time.perf_counter() - of.submitted - drawing_s
            self._running = self._ending = None
            self._tell(Event(kind, of.ticket, result, error, 0, 0, size, queued_s, drawing_s, of.tag))

    # --- with the lock -----------------------------------------------------------------------------------------------

    def _knows(self, ticket: int) -> bool:
        running = self._running is not None and self._running.ticket == ticket
        return running or any(waiting.ticket == ticket for waiting in self._queue)

    def _drop(self, waiting: Submission, result: Result, error: GeninError | None = None) -> None:
        if waiting not in self._queue:
            return
        self._queue.remove(waiting)
        queued_s = time.perf_counter() - waiting.submitted
        self._tell(Event("failed", waiting.ticket, result, error, queued_s=queued_s, tag=waiting.tag))

    def _break(self, result: Result, error: GeninError | None) -> None:
        """The model could not be loaded: nothing will be drawn."""
        self._broken = error or InputError("loading was cancelled", remedy="open another painter")
        for waiting in list(self._queue):
            self._drop(waiting, result, error)

    def _end(self, running: Submission, reason: Result) -> None:
        if self._ending is None:
            self._ending = reason
            running.drawing.cancellation.cancel()

    def _keep(self, ticket: int, picture: Picture) -> None:
        self._pictures[ticket] = picture
        if len(self._pictures) > self._capacity:  # the oldest that nobody took
            self._pictures.popitem(last=False)

    def _tell(self, event: Event) -> None:
        if event.ticket != self.loading.ticket:
            self._counts.add(event.result)
        self._previews.pop(event.ticket, None)
        self._outcomes[event.ticket] = event
        if len(self._outcomes) > REMEMBERED:
            self._outcomes.popitem(last=False)
        self._add(event)
        for tell in self._waiters.pop(event.ticket, ()):
            tell()
        self._finished.notify_all()

    def _add(self, event: Event) -> None:
        self._events.append(event)
        if len(self._events) > 2 * REMEMBERED:  # nobody polls
            self._events.popleft()


def new_ticket(painter: Waiting, kind: type[AnyTicket]) -> AnyTicket:
    ticket = kind(next(_numbers))
    ticket._painter = weakref.ref(painter)
    return ticket


def result_of(error: Exception, *, loading: bool) -> Result:
    """The word for an error, which while `loading` is the bundle's or the engine's."""
    words: tuple[tuple[type[Exception], Result], ...] = (
        (CancelledError, "cancelled"),
        (OutOfMemoryError, "memory"),
        (MissingExtraError, "engine"),
        (BundleError, "bundle"),
        (InputError, "bundle" if loading else "argument"),
        (TypeError, "argument"),
        (MemoryError, "memory"),
    )
    return next((word for kind, word in words if isinstance(error, kind)), "engine")


def forget_frames(error: BaseException) -> None:
    """Of an error that is kept, and of what caused it: frames hold images, latents and networks."""
    errors: list[BaseException] = [error]
    for one in errors:  # which grows meanwhile
        one.__traceback__ = None
        errors += [other for other in (one.__cause__, one.__context__) if other is not None and other not in errors]


def as_genin_error(error: Exception) -> GeninError:
    """Any error as one of genin's."""
    return error if isinstance(error, GeninError) else GeninError(f"drawing failed ({type(error).__name__}: {error})")

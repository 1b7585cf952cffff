"""Painters: one table of cases for the native library and both kinds of `genin.Painter`, then what is Python's own."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import pickle
import queue
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import genin
from genin import CancelledError, Event, GeninError, InputError, Painter, QueueFullError
from genin.runtimes.bundle import pack
from genin.runtimes.cancellation import Cancellation, Uninterruptible, interruptible
from genin.runtimes.engine import graph_failed
from genin.runtimes.memory import MemoryLimit
from genin.runtimes.painting import child, helper, tickets
from genin.runtimes.painting import painter as painter_module
from genin.runtimes.painting.child import Child, Ending, HelperDrawer
from genin.runtimes.painting.drawing import (
    LOW_NICENESS,
    LOWEST_NICENESS,
    Drawing,
    Pace,
    Paced,
    PipelineDrawer,
    lower_priority,
)
from genin.runtimes.painting.helper import MODULE, Model, _Helper, pickled
from genin.runtimes.painting.painter import _close, _copied, _lasting
from genin.runtimes.painting.tickets import REMEMBERED, Board, Submission, Ticket, _numbers, result_of
from genin.runtimes.pictures import Picture
from genin.runtimes.quiet import warnings_ignored
from genin.runtimes.starts import open_image
from native_painter import NativePainter

HERE = Path(__file__).parent
ONE_STEP = HERE.parents[1] / "runtimes" / "weights" / "student-1step"
CASES = json.loads((HERE / "cases.json").read_text(encoding="utf-8"))["cases"]
LONG = {"steps": 1000, "previews": 1}
PATIENCE_S = 60.0
CLOSING_S = 10.0

ANY = Model("any", {}, "low")

Open = Callable[..., Any]
Start = Callable[..., None]

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]


@pytest.fixture(params=["thread", "process", "native"])
def open_painter(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens painters of one kind, and closes them."""
    pytest.importorskip("onnxruntime")
    opened: list[Any] = []

    def open_one(bundle: str = str(ONE_STEP), **options: Any) -> Any:
        if request.param == "native":
            library = request.getfixturevalue("native_build") / "libgenin.so"
            painter: Any = NativePainter(library, request.getfixturevalue("ort"), bundle, **options)
        else:
            painter = Painter(bundle, process=request.param == "process", runtime="onnxruntime", **options)
        opened.append(painter)
        return painter

    yield open_one
    for painter in opened:
        painter.close()


class Script:
    """Runs a case on a painter."""

    def __init__(self, painter: Any) -> None:
        self.painter = painter
        self.tickets: dict[str, Any] = {"loading": painter.loading, "unknown": 1 << 60}
        self.events: list[Any] = []
        self.pictures: dict[str, Any] = {}

    def run(self, script: list[list[Any]]) -> None:
        for step in script:
            action, *arguments = step
            getattr(self, f"do_{action}")(*arguments)

    def poll(self) -> None:
        self.events += self.painter.poll()

    def do_submit(self, name: str, options: dict[str, Any], expected: str) -> None:
        asked = dict(options)
        prompt = asked.pop("prompt", "a ninja") * asked.pop("repeat", 1)
        if asked.pop("long", False):
            asked |= LONG
        try:
            self.tickets[name] = self.painter.submit(prompt, **asked)
            found = "ok"
        except QueueFullError:
            found = "full"
        except InputError:
            found = "refused"
        assert expected in (found, "any"), name

    def do_wait(self, name: str, expected: str) -> None:
        seconds = 0.1 if expected == "timeout" else PATIENCE_S
        assert self.painter.wait(self.tickets[name], seconds) == expected, name

    def do_preview(self, name: str) -> None:
        until = time.monotonic() + PATIENCE_S
        while not any(event.kind == "preview" and event.ticket == self.tickets[name] for event in self.events):
            assert time.monotonic() < until, "no preview"
            time.sleep(0.002)
            self.poll()

    def do_cancel(self, name: str, expected: str) -> None:
        found = self.painter.cancel(None if name == "all" else self.tickets[name])
        assert found == (expected == "ok"), name

    def do_take(self, name: str, expected: str) -> None:
        assert (self.painter.take(self.tickets[name]) is not None) == (expected == "picture"), name

    def do_same(self, one: str, other: str, expected: bool) -> None:
        for name in (one, other):
            if name not in self.pictures:
                self.pictures[name] = self.painter.take(self.tickets[name]).array
        assert (self.pictures[one] == self.pictures[other]).all() == expected

    def do_pause(self) -> None:
        self.painter.pause(True)

    def do_resume(self) -> None:
        self.painter.pause(False)

    def do_share(self, percent: int) -> None:
        self.painter.set_share(percent / 100)

    def do_close(self) -> None:
        begun = time.monotonic()
        self.painter.close()
        assert time.monotonic() - begun < CLOSING_S

    def do_events(self, expected: list[list[str]]) -> None:
        self.poll()
        names = {ticket: name for name, ticket in self.tickets.items()}
        found = [[event.kind, names[event.ticket], event.result] for event in self.events if event.kind != "preview"]
        assert found == expected


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_case(open_painter: Open, case: dict[str, Any], tmp_path: Path) -> None:
    options = dict(case.get("open", {}))
    if "bundle" in options:
        options["bundle"] = str(tmp_path / options["bundle"])
    Script(open_painter(**options)).run(case["script"])


def test_pictures_are_the_pipelines(open_painter: Open) -> None:
    painter = open_painter()
    ticket = painter.submit("a ninja, 忍者", seed=7)
    assert painter.wait(ticket, PATIENCE_S) == "ok"
    with genin.load(ONE_STEP, runtime="onnxruntime", threads=1) as pipe:
        assert (painter.take(ticket).array == pipe("a ninja, 忍者", seed=7).array).all()


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_at_random(open_painter: Open, count: int) -> None:
    """Submit, cancel, supersede, pause, take and reopen at random: every ticket ends exactly once, and nothing hangs."""
    chance = random.Random(count)
    painter = open_painter()
    submitted: dict[int, int] = {}

    def poll() -> None:
        ended = [event for event in painter.poll() if event.kind in ("done", "failed")]
        for event in ended:
            submitted[event.ticket] += 1
            if event.result == "ok" and chance.random() < 0.8:
                painter.take(event.ticket)

    for _ in range(count):
        kind = chance.random()
        if kind < 0.2:
            time.sleep(chance.uniform(0, 0.01))  # long enough for a picture
        if kind < 0.5:
            slow = {"steps": 50, "previews": chance.choice([0, 7])} if chance.random() < 0.05 else {}
            try:
                ticket = painter.submit(
                    "a ninja", chance.randrange(99), slot=chance.randrange(3), priority=chance.randrange(3), **slow
                )
                submitted[ticket] = 0
            except QueueFullError:
                time.sleep(0.01)
        elif kind < 0.7 and submitted:
            painter.cancel(chance.choice(list(submitted)))
        elif kind < 0.72:
            painter.cancel()
        elif kind < 0.76:
            painter.pause(chance.random() < 0.5)
        elif kind < 0.762 and count > 1000:
            painter.close()
            for ticket, seen in submitted.items():
                assert seen <= 1, ticket
            submitted.clear()
            painter = open_painter()
        else:
            poll()
    painter.pause(False)
    for ticket in submitted:
        assert painter.wait(ticket, PATIENCE_S) != "timeout"
    poll()
    assert set(submitted.values()) <= {1}


# --- Python's own ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["thread", "process"])
def painter(request: pytest.FixtureRequest) -> Iterator[Painter]:
    pytest.importorskip("onnxruntime")
    with Painter(ONE_STEP, process=request.param == "process", runtime="onnxruntime") as opened:
        yield opened


def test_tickets_can_be_awaited(painter: Painter) -> None:
    async def draw() -> None:
        first, second = painter.submit("a ninja", seed=7), painter.submit("a ninja", seed=7, steps=5000)
        assert (await first).seed == 7
        with pytest.raises(InputError, match="5000"):
            await second
        superseded = painter.submit("a ninja", slot="hero", **LONG)
        newer = painter.submit("a ninja", slot="hero")
        with pytest.raises(CancelledError, match="superseded"):
            await superseded
        await newer
        with pytest.raises(CancelledError, match="taken"):
            await newer

    asyncio.run(draw())


def test_a_task_that_is_cancelled_cancels_its_ticket(painter: Painter) -> None:
    async def draw() -> None:
        ticket = painter.submit("a ninja", **LONG)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_awaited(ticket), 0.3)
        assert painter.wait(ticket, PATIENCE_S) == "cancelled"

    asyncio.run(draw())


async def _awaited(ticket: genin.Ticket) -> genin.Picture:
    return await ticket


def test_events_say_what_happened(painter: Painter) -> None:
    ticket = painter.submit("a ninja", seed=3, tag="hero", steps=4, previews=2)
    wrong = painter.submit("a ninja", size=(99, 99), tag="villain")
    painter.wait(wrong, PATIENCE_S)
    events: dict[str, Event] = {f"{event.tag} {event.kind}": event for event in painter.poll()}
    done, failed = events["hero done"], events["villain failed"]
    assert done.ticket == ticket and done.size == (128, 128) and done.drawing_s > 0 and done.queued_s >= 0
    assert isinstance(failed.error, InputError) and "128x128" in failed.message and failed.result == "argument"
    picture = painter.take(ticket)
    assert picture is not None and picture.settings["steps"] == 4 and picture.origin["model"] == ONE_STEP.name
    assert painter.counts().done == 1 and painter.counts().failed == 1
    assert "1 done" in repr(painter)


@pytest.fixture(scope="module")
def one_painter() -> Iterator[Painter]:
    pytest.importorskip("onnxruntime")
    with Painter(ONE_STEP, runtime="onnxruntime") as opened:
        yield opened


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"previews": -1}, "previews"),
        ({"priority": 1e300}, "priority"),
        ({"priority": None}, "priority"),
        ({"previews": None}, "previews"),
        ({"image": ""}, "image"),
        ({"cancel": lambda: True}, "ticket"),
        ({"noise": "white"}, "noise"),
    ],
)
def test_wrong_arguments_are_refused_at_once(one_painter: Painter, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        one_painter.submit(**{"prompt": "a ninja", **options})


@pytest.mark.parametrize(
    "options",
    [
        {"share": 0},
        {"share": 1.5},
        {"share": None},
        {"capacity": None},
        {"capacity": 0},
        {"thread_priority": "high"},
        {"threads": 0},
        {"process": True, "threads": "two"},
    ],
)
def test_a_painter_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Painter(ONE_STEP, **options)
    with pytest.raises(TypeError, match="runtme"):
        Painter(ONE_STEP, runtme="onnxruntime")  # type: ignore[call-arg]


def test_a_closed_painter_takes_nothing(painter: Painter) -> None:
    painter.close()
    painter.close()
    with pytest.raises(InputError, match="closed"):
        painter.submit("a ninja")
    assert painter.poll() is not None


def test_events_that_nobody_polls_are_bounded(painter: Painter) -> None:
    painter.pause()
    for _ in range(2 * REMEMBERED + 50):
        painter.cancel(painter.submit("a ninja"))
    assert len(painter.poll()) <= 2 * REMEMBERED + 1


def test_time_that_has_passed_is_not_slept_again() -> None:
    """A share of 1 % owes 99 s for a decoder of one second; not an hour later, and not of a share that is over."""
    now = time.perf_counter()
    assert 98 < Pace(0.01, 1.0, now).owed_s() <= 99
    assert Pace(0.01, 1.0, now - 3600).owed_s() == Pace(1.0, 1.0, now).owed_s() == Pace(0.01).owed_s() == 0


def test_a_network_that_was_ended_early_owes_its_time() -> None:
    """Or a slot that is refreshed all the time would have the whole processor; one that was not begun owes nothing."""
    pace = Pace(0.01)
    stop = Paced(pace)
    with pytest.raises(CancelledError), interruptible(stop, Uninterruptible()):
        time.sleep(0.02)
        stop.cancel()
        raise OSError
    assert pace.took_s >= 0.02 and pace.owed_s() > 1
    with pytest.raises(CancelledError), interruptible(stop, Uninterruptible()):
        raise AssertionError
    assert pace.took_s >= 0.02


def test_a_new_share_holds_at_once() -> None:
    pace = Pace(0.01, 60.0, time.perf_counter())
    asked = threading.Timer(0.05, lambda: setattr(pace, "share", 1.0))
    asked.start()
    stop = Paced(pace)
    assert within(5, stop) and not stop()


def test_a_new_share_reaches_a_helper_that_draws(start_helpers: Start) -> None:
    running = Scripted(("open", None))
    start_helpers(running)
    with Painter("any", process=True, share=0.5) as painter:
        ticket = painter.submit("a ninja")
        sent = [pickle.loads(running.sent.get(timeout=PATIENCE_S)) for _ in range(3)]
        assert [message[0] for message in sent[1:]] == ["share", "draw"] and sent[1][1] == 0.5
        painter.set_share(0.25)
        assert pickle.loads(running.sent.get(timeout=PATIENCE_S)) == ("share", 0.25)
        running.says.put(("done", 1, drawn(7)))
        assert painter.wait(ticket, PATIENCE_S) == "ok"
    pipe: Any = Scripted(("share", 0.25), None)
    listening = _Helper(pipe, pipe, ANY)
    listening._loading = False
    listening._listen()
    assert listening._pace.share == 0.25


def test_closing_leaves_the_painter_of_another_process_alone() -> None:
    board = Board(a_submission(), 4)
    _close(os.getpid() + 1, board, HelperDrawer(ANY, Pace(1.0)), threading.Thread())
    assert not board._closing


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a niceness of their own on Linux")
def test_a_low_priority_is_below_the_programs_own() -> None:
    found: list[int] = []

    def run() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), base + 3)
        lower_priority("low")
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    base = os.getpriority(os.PRIO_PROCESS, 0)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [min(base + 3 + LOW_NICENESS, LOWEST_NICENESS)]


def test_what_is_submitted_is_copied(one_painter: Painter) -> None:
    """A game draws its next frame into the same array."""
    frame, mask = np.zeros((64, 64, 3), np.uint8), np.full((64, 64), 255, np.uint8)
    one_painter.pause()
    tickets = [one_painter.submit("a ninja", image=frame, mask=mask, strength=0.5, steps=4)]
    queued = one_painter._board._queue[0].drawing.options
    frame[:], mask[:] = 255, 0
    assert not queued["image"].any() and queued["mask"].all()
    assert one_painter.cancel(tickets[0])


def test_an_image_that_cannot_be_copied_is_refused_at_once(one_painter: Painter, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "whole.bmp")
    (tmp_path / "cut.bmp").write_bytes((tmp_path / "whole.bmp").read_bytes()[:500])
    elsewhere: Any = Tensor(None)
    for name, given in (("truncated", Image.open(tmp_path / "cut.bmp")), ("cannot be an array", elsewhere)):
        with pytest.raises(InputError, match=name):
            one_painter.submit("a ninja", image=given)
    with pytest.raises(InputError, match="share"):
        one_painter.set_share(None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="cannot be an array"):
        open_image(elsewhere, "image")


def test_paths_are_those_of_the_folder_in_which_they_were_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ONE_STEP.parent)
    names = (ONE_STEP.name, "builtin:student", "owner/name", "~nobody/a", "a\0b")
    assert [_lasting(name) for name in names] == [str(ONE_STEP), *names[1:]]
    copied = _copied({"image": "a.png", "mask": Path("~/b.png")})
    assert copied["image"] == ONE_STEP.parent / "a.png" and copied["mask"] == Path.home() / "b.png"
    painter = Painter(ONE_STEP.name, process=True)
    assert isinstance(painter._drawer, HelperDrawer) and painter._drawer._model.name == str(ONE_STEP)
    painter.close()


def test_a_path_object_in_the_import_path_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [Path("/somewhere"), "", "/else"])
    assert child._environment()["PYTHONPATH"] == "/else"


class Tensor:
    """Like torch's: an array by its interface, without a method `copy`."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __array__(self, *_: object, **__: object) -> Any:
        if self.array is None:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        return self.array


def test_a_tensor_that_is_submitted_is_copied() -> None:
    frame = np.zeros((64, 64, 3), np.uint8)
    given: Any = {"image": Tensor(frame), "strength": 0.5}
    queued = _copied(given)
    frame[:] = 255
    assert not np.asarray(queued["image"]).any() and queued["strength"] == 0.5


def test_an_error_that_a_helper_reports_is_no_death(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many open files, say: the message is kept, and so is the helper."""
    said: list[Any] = []
    running: Any = SimpleNamespace(
        is_alive=lambda: True,
        is_ready=True,
        post=said.append,
        end=lambda: 0,
        recv=lambda: ("failed", 1, OSError(24, "Too many open files")),
    )
    drawer = HelperDrawer(ANY, Pace(1.0))
    drawer._child = running
    drawing: Any = Drawing("a ninja", 0, {}, 0)
    with pytest.raises(OSError, match="Too many open files"):
        drawer.draw(drawing, lambda *_: None)
    assert drawer._child is running and said


class Entity:
    """Something of a game that is forgotten, and says so."""

    def __init__(self, forgotten: Callable[[], object]) -> None:
        self.forgotten = forgotten

    def __del__(self) -> None:
        self.forgotten()


@pytest.mark.parametrize("call", ["cancel", "poll", "submit", "close"])
def test_what_is_forgotten_may_call_its_painter(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest outcome is dropped with the board's lock, and with it maybe the last reference to a tag."""
    monkeypatch.setattr(tickets, "REMEMBERED", 1)
    board, done = Board(a_submission(), 4), list[str]()
    calls: dict[str, Callable[[], object]] = {
        "cancel": lambda: board.cancel(None),
        "poll": board.poll,
        "submit": lambda: board.submit(a_submission()),
        "close": board.close,
    }

    def play() -> None:
        board.submit(a_submission(tag=Entity(lambda: done.append(str(calls[call]())))))
        board.cancel(None)
        board.poll()  # only the outcome has it now
        board.submit(a_submission())
        board.cancel(None)

    assert within(5, play) and done


def test_a_drawing_may_be_cancelled_again_while_it_is_being_ended() -> None:
    """By a finaliser, or by the handler of a signal."""
    stop = Cancellation()

    def end() -> None:
        with (
            pytest.raises(CancelledError),
            interruptible(stop, SimpleNamespace(interrupt=stop.cancel, proceed=stop.cancel)),
        ):
            stop.cancel()
            raise OSError

    assert within(5, end) and stop()
    with pytest.raises(CancelledError), interruptible(stop, Uninterruptible()):
        raise AssertionError


def test_a_painter_that_is_forgotten_in_its_own_thread_ends() -> None:
    """The garbage collector may run in the drawing thread, while that has the board's lock."""
    board = Board(Submission(Ticket(1), Drawing("", 0, {}, 0)), 4)
    with board._lock:
        _close(os.getpid(), board, PipelineDrawer(lambda: None, own=False), threading.current_thread())  # type: ignore[arg-type,return-value]
    assert board.next() is None


def a_submission(**waits: Any) -> Submission:
    return Submission(Ticket(next(_numbers)), a_drawing(Cancellation()), **waits)


def failing(board: Board, kind: type[GeninError] = GeninError) -> weakref.ref[Any]:
    """Lets the running request fail; returns what the frame held in which it failed."""
    held: list[weakref.ref[Any]] = []

    def inner() -> None:
        array = np.zeros(4)
        held.append(weakref.ref(array))
        raise KeyError

    def outer() -> None:
        try:
            inner()
        except KeyError as error:
            raise kind("it broke", remedy="mend it") from error

    error = raised(outer)
    assert isinstance(error, GeninError) and board._running is not None
    board.finish(board._running, 0.0, error)
    return held[0]


def test_a_failed_ticket_keeps_its_error_without_what_was_drawn() -> None:
    board = Board(loading := a_submission(), 4)
    board.finish(loading, 0.0, None)
    board.submit(asked := a_submission())
    assert board.next() is asked
    held, event = failing(board), board.outcome(asked.ticket)
    assert held() is None
    assert event is not None and isinstance(event.error, GeninError) and isinstance(event.error.__cause__, KeyError)


def test_an_error_that_is_raised_again_and_again_does_not_grow() -> None:
    board = Board(loading := a_submission(), 4)
    assert failing(board, InputError)() is None
    errors = [raised(lambda: board.submit(a_submission())) for _ in range(2)]
    event = board.outcome(loading.ticket)
    assert event is not None and event.error is not None and event.error.__traceback__ is None
    assert errors[0] is not errors[1] and [str(error) for error in errors] == ["it broke; mend it"] * 2

    async def ask(painter: Any) -> None:
        await Painter._finished(painter, loading.ticket)

    painter: Any = SimpleNamespace(_board=board)
    assert str(raised(lambda: asyncio.run(ask(painter)))) == "it broke; mend it"
    assert event.error.__traceback__ is None


def test_loading_can_be_awaited(one_painter: Painter, tmp_path: Path, start_helpers: Start) -> None:
    async def wait_for(painter: Painter) -> None:
        for _ in range(2):
            await painter.loading

    asyncio.run(wait_for(one_painter))
    with Painter(tmp_path / "missing", runtime="onnxruntime") as painter, pytest.raises(InputError, match="missing"):
        asyncio.run(wait_for(painter))
    start_helpers(Scripted())
    with Painter("any", process=True) as painter:
        painter.cancel(painter.loading)
        with pytest.raises(CancelledError, match="loading was cancelled"):
            asyncio.run(wait_for(painter))


def test_too_little_memory_has_its_own_result() -> None:
    too_large = MemoryLimit(1, {"unet": 2}, {"unet": "unet"})
    limited = raised(lambda: too_large.check(["unet"]))
    assert (
        isinstance(limited, InputError)
        and result_of(limited, loading=True) == result_of(limited, loading=False) == "memory"
    )
    assert result_of(graph_failed("unet", MemoryError()), loading=False) == "memory"
    assert result_of(graph_failed("unet", RuntimeError()), loading=False) == "engine"
    with Painter("builtin:student", runtime="onnxruntime", max_memory=2_000_000) as painter:
        assert painter.wait(painter.loading, PATIENCE_S) == "memory"


def test_a_helper_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is killed removes nothing of what it has unpacked."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    packed = tmp_path.with_suffix(".genin")
    pack(ONE_STEP, packed)
    painter = Painter(packed, process=True, runtime="onnxruntime")
    assert painter.wait(painter.loading, PATIENCE_S) == "ok"
    [folder] = tmp_path.iterdir()
    assert any(folder.iterdir())
    os.kill(_pid_of(painter), signal.SIGKILL)
    painter.close()
    assert not any(tmp_path.iterdir())


def test_warnings_of_a_program_come_back() -> None:
    """Two threads that ignore them overlap: who leaves last restores what was there before both."""
    before, entered, left = list(warnings.filters), threading.Event(), threading.Event()

    def first() -> None:
        with warnings_ignored():
            entered.set()
            left.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait(10)
    with warnings_ignored():
        left.set()
        thread.join()
        assert warnings.filters[0][0] == "ignore"
    assert list(warnings.filters) == before


def test_a_pipeline_stays_its_owners() -> None:
    pytest.importorskip("onnxruntime")
    with genin.load(ONE_STEP, runtime="onnxruntime", threads=1) as pipe:
        with Painter(pipe) as painter:
            ticket = painter.submit("a ninja", **LONG)
            time.sleep(0.05)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                own = threading.Thread(target=lambda: pipe("a ninja", seed=1, steps=20))
                own.start()
                painter.cancel(ticket)
                own.join()
        assert pipe("a ninja", seed=7).seed == 7
        with pytest.raises(InputError, match="loaded"):
            Painter(pipe, process=True)


def test_a_forgotten_painter_closes() -> None:
    pytest.importorskip("onnxruntime")
    before = set(threading.enumerate())
    painter = Painter(ONE_STEP, runtime="onnxruntime")
    painter.submit("a ninja", **LONG)
    del painter
    gc.collect()
    until = time.monotonic() + PATIENCE_S
    while set(threading.enumerate()) - before:
        assert time.monotonic() < until
        time.sleep(0.01)


# --- the helper process ------------------------------------------------------------------------------------------------


def _pid_of(painter: Painter) -> int:
    """The helper process of a painter, once it is there."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        for found in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
            for pid in map(int, found.read_text().split()):
                if MODULE.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        time.sleep(0.01)
    raise AssertionError("no helper process")


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_a_killed_helper_fails_one_ticket(kills: int) -> None:
    pytest.importorskip("onnxruntime")
    chance = random.Random(kills)
    with Painter(ONE_STEP, process=True, runtime="onnxruntime") as painter:
        assert painter.wait(painter.loading, PATIENCE_S) == "ok"
        for _ in range(kills):
            ticket = painter.submit("a ninja", **LONG)
            time.sleep(chance.uniform(0, 0.3))
            os.kill(_pid_of(painter), signal.SIGKILL)
            assert painter.wait(ticket, PATIENCE_S) == "engine"
            [failed] = [event for event in painter.poll() if event.kind == "failed"]
            assert failed.ticket == ticket and "SIGKILL" in failed.message
            after = painter.submit("a ninja", seed=7)
            assert painter.wait(after, PATIENCE_S) == "ok" and painter.take(after) is not None


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_a_helper_that_is_killed_while_its_drawing_is_cancelled_harms_no_other() -> None:
    pytest.importorskip("onnxruntime")
    with Painter(ONE_STEP, process=True, runtime="onnxruntime") as painter:
        ticket = painter.submit("a ninja", **LONG)
        while painter.preview(ticket) is None:
            time.sleep(0.01)
        os.kill(_pid_of(painter), signal.SIGSTOP)
        painter.cancel(ticket)
        os.kill(_pid_of(painter), signal.SIGKILL)
        after = painter.submit("a ninja")
        assert painter.wait(ticket, PATIENCE_S) == "cancelled"
        assert painter.wait(after, PATIENCE_S) == "ok"


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_a_helper_that_dies_between_two_pictures_harms_none() -> None:
    pytest.importorskip("onnxruntime")
    with Painter(ONE_STEP, process=True, runtime="onnxruntime") as painter:
        assert painter.wait(painter.submit("a ninja"), PATIENCE_S) == "ok"
        pid = _pid_of(painter)
        os.kill(pid, signal.SIGKILL)
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:  # its last thread takes a while
            time.sleep(0.001)
        assert painter.wait(painter.submit("a ninja"), PATIENCE_S) == "ok"


def test_options_that_cannot_be_sent_are_named() -> None:
    pytest.importorskip("onnxruntime")
    with Painter(ONE_STEP, process=True, runtime="onnxruntime") as painter:
        ticket = painter.submit("a ninja", image=(lambda: None))  # type: ignore[arg-type]
        assert painter.wait(ticket, PATIENCE_S) == "argument"


class OnlyHere:
    """A class that the helper process cannot import."""


def test_options_that_only_the_program_knows_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(OnlyHere, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "OnlyHere", OnlyHere, raising=False)
    with Painter(ONE_STEP, process=True, runtime="onnxruntime") as painter:
        ticket = painter.submit("a ninja", image=OnlyHere())  # type: ignore[arg-type]
        assert painter.wait(ticket, PATIENCE_S) == "argument"
        [failed] = [event for event in painter.poll() if event.kind == "failed"]
        assert "cannot be sent" in failed.message
        assert painter.wait(painter.submit("a ninja"), PATIENCE_S) == "ok"


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_an_interrupt_does_not_end_a_helper_that_starts() -> None:
    pytest.importorskip("onnxruntime")
    with Painter(ONE_STEP, process=True, runtime="onnxruntime") as painter:
        os.kill(_pid_of(painter), signal.SIGINT)
        assert painter.wait(painter.loading, PATIENCE_S) == "ok"


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_closing_does_not_wait_for_a_helper_that_loads() -> None:
    begun = time.monotonic()
    with Painter(ONE_STEP, process=True, runtime="onnxruntime") as painter:
        os.kill(_pid_of(painter), signal.SIGSTOP)  # it will never be ready
    assert time.monotonic() - begun < CLOSING_S
    assert painter.wait(painter.loading, 0) == "cancelled"


def within(seconds: float, what: Callable[[], object]) -> bool:
    """Whether it returns within so long. A test of what may hang must not hang."""
    thread = threading.Thread(target=what, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_closing_does_not_wait_for_a_helper_that_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(painter_module, "CLOSING_S", 0.1)
    painter = Painter(ONE_STEP, process=True, runtime="onnxruntime")
    ticket = painter.submit("a ninja", **LONG)
    while painter.preview(ticket) is None:
        time.sleep(0.01)
    pid = _pid_of(painter)
    os.kill(pid, signal.SIGSTOP)
    try:
        assert within(CLOSING_S, painter.close)
        assert painter.wait(ticket, 0) == "cancelled"
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Scripted:
    """A helper, and both of its pipes, that says what a test puts into `says`; None is its end. `clogged`: it reads nothing."""

    def __init__(self, *says: tuple[Any, ...] | None, clogged: bool = False) -> None:
        self.pid, self.clogged, self.killed = 1, clogged, threading.Event()
        self.says: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self.sent: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        for message in says:
            self.says.put(message)

    def recv_bytes(self) -> bytes:
        if (message := self.says.get(timeout=PATIENCE_S)) is None:
            raise EOFError
        return pickled(message)

    def send_bytes(self, message: bytes) -> None:
        if self.clogged:
            self.killed.wait(PATIENCE_S)
            raise OSError
        self.sent.put(message)

    def is_alive(self) -> bool:
        return not self.killed.is_set()

    def kill(self) -> None:
        self.killed.set()
        self.says.put(None)

    def end(self) -> int:
        self.kill()
        return 0

    def close(self) -> None:
        pass


@pytest.fixture
def start_helpers(monkeypatch: pytest.MonkeyPatch) -> Start:
    """Lets the next helpers be these."""

    def start(*helpers: Scripted) -> None:
        left = iter(helpers)
        monkeypatch.setattr(child, "_start", lambda: [next(left)] * 3)

    return start


def drawn(seed: int) -> Picture:
    return Picture(np.full((8, 8, 3), seed, np.uint8))


def a_drawing(cancellation: Cancellation) -> Drawing:
    return Drawing("a ninja", 0, {}, 0, cancellation)


def raised(what: Callable[[], object]) -> BaseException | None:
    try:
        what()
    except BaseException as error:
        return error
    return None


def test_ending_a_drawing_does_not_wait_until_the_helper_has_read_its_image(start_helpers: Start) -> None:
    """It is ended with the lock that every call of the game takes."""
    start_helpers(Scripted(clogged=True))
    running = Child(ANY)
    try:
        assert within(5, lambda: running.post(b"an image"))
        assert within(5, Ending(running, 1).interrupt)
    finally:
        running.end()


def test_a_cancelled_request_lets_the_helper_load(start_helpers: Start) -> None:
    """A slot that is refreshed sooner than a helper loads would kill one after the other, and draw nothing."""
    running = Scripted()
    start_helpers(running)
    drawer, stop = HelperDrawer(ANY, Pace(1.0)), Cancellation()
    errors: list[BaseException | None] = []
    waiting = threading.Thread(target=lambda: errors.append(raised(lambda: drawer.draw(a_drawing(stop), print))))
    waiting.start()
    while stop._running is None:
        time.sleep(0.001)
    stop.cancel()
    waiting.join(PATIENCE_S)
    assert isinstance(errors[0], CancelledError) and running.is_alive()
    for message in (("open", None), ("done", 1, drawn(7))):
        running.says.put(message)
    assert drawer.draw(a_drawing(Cancellation()), print).array.max() == 7
    drawer.close()


def test_closing_ends_a_helper_that_loads(start_helpers: Start) -> None:
    running = Scripted(clogged=True)
    start_helpers(running)
    painter = Painter("any", process=True)
    assert within(5, painter.close) and not running.is_alive()
    assert painter.wait(painter.loading, 0) == "cancelled"


def test_a_helper_that_dies_while_it_loads_does_not_end_its_painter(start_helpers: Start) -> None:
    start_helpers(Scripted(None), Scripted(("open", None), ("done", 1, drawn(7))))
    with Painter("any", process=True) as painter:
        ticket = painter.submit("a ninja")
        assert painter.wait(painter.loading, PATIENCE_S) == "engine"
        assert painter.wait(ticket, PATIENCE_S) == "ok"


def test_a_helper_ends_when_the_program_is_gone_while_it_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    exits = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda code: exits.set())
    monkeypatch.setattr(helper, "load_in_background", lambda *_: exits.wait(2))
    gone: Any = Scripted(None)
    assert within(5, _Helper(gone, gone, Model("any", {}, "normal")).run)
    assert exits.is_set()


def test_a_helper_that_cannot_listen_any_more_ends() -> None:
    def out_of_memory() -> bytes:
        raise MemoryError

    pipe: Any = SimpleNamespace(recv_bytes=out_of_memory)
    listening = _Helper(pipe, pipe, ANY)
    listening._loading = False
    with pytest.raises(MemoryError):
        listening._listen()
    assert listening._requests.get(timeout=1) is None


def test_a_frozen_program_uses_multiprocessing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(child, "is_frozen", lambda: True)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", None, raising=False)
    with Painter(ONE_STEP, process=True, runtime="onnxruntime") as painter:
        ticket = painter.submit("a ninja")
        assert painter.wait(ticket, PATIENCE_S) == "ok"


GAME = """
import sys, time
import genin
painter = genin.Painter(sys.argv[1], process=sys.argv[2] == "process", runtime="onnxruntime")
painter.submit("a ninja", steps=1000, previews=1)
while not any(event.kind == "preview" for event in painter.poll()):
    time.sleep(0.01)
print("drawing", flush=True)
end = sys.argv[3]
if end == "exit":
    sys.exit(3)
elif end == "raise":
    raise ValueError("the game's own")
elif end == "loop":
    while True:
        time.sleep(0.01)
"""


@pytest.mark.parametrize("kind", ["thread", "process"])
@pytest.mark.parametrize(
    ("end", "code"), [("return", 0), ("exit", 3), ("raise", 1), ("loop", -signal.SIGINT), ("loop", -signal.SIGTERM)]
)
def test_a_game_that_ends_while_it_draws_ends_cleanly(kind: str, end: str, code: int) -> None:
    pytest.importorskip("onnxruntime")
    command = [sys.executable, "-c", GAME, str(ONE_STEP), kind, end]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as game:
        assert game.stdout is not None and game.stderr is not None
        assert game.stdout.readline() == "drawing\n"
        if code < 0:
            game.send_signal(-code)
        assert game.wait(PATIENCE_S) == code
        said = game.stderr.read()
    assert ("ValueError" in said) == (end == "raise") and "terminate" not in said and "Fatal" not in said


FORK = """
import os, sys, tempfile
import genin
painter = genin.Painter(sys.argv[1], process=sys.argv[2] == "process", runtime="onnxruntime")
assert painter.wait(painter.loading, 60) == "ok"
if not os.fork():
    said = []
    for call in (lambda: painter.submit("a ninja"), painter.poll, lambda: painter.wait(painter.loading), painter.cancel):
        try:
            call()
        except genin.InputError as error:
            said.append(str(error))
    painter.close()
    sys.exit(7 if len(said) == 4 and "before this process was forked" in said[0] and "another" in repr(painter) else 1)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
assert sys.argv[2] != "process" or len(os.listdir(tempfile.gettempdir())) == 1
assert painter.wait(painter.submit("a ninja"), 60) == "ok"
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("kind", ["thread", "process"])
def test_a_painter_is_refused_in_a_forked_process_and_draws_on_in_its_own(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    command = [sys.executable, "-W", "ignore", "-c", FORK, str(ONE_STEP), kind]
    subprocess.run(command, env={**os.environ, "TMPDIR": str(tmp_path)}, timeout=PATIENCE_S, check=True)
    assert not any(tmp_path.iterdir())


def test_painters_are_cheap_to_ask(painter: Painter) -> None:
    """submit, poll, cancel and take, in CPU time of the calling thread, while pictures are drawn."""
    painter.wait(painter.loading, PATIENCE_S)
    spent: list[float] = []
    for seed in range(300):
        begun = time.thread_time()
        ticket = painter.submit("a ninja", seed, slot="hero")
        painter.poll()
        painter.cancel(ticket)
        painter.take(ticket)
        spent.append(time.thread_time() - begun)
    assert sorted(spent)[150] < 0.002

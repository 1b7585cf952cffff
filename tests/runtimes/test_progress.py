"""Progress of long work: lines for logs, a bar for terminals, nothing for work that is soon done."""

from __future__ import annotations

import io
import sys

import pytest

from genin.runtimes import progress as module
from genin.runtimes.progress import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_lines_soon_then_every_minute_with_the_time_left(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with progress("sampling", 2_000, unit="pictures") as shown:
        # The first is what an earlier run had done; it says nothing of this one's speed.
        for done, seconds in ((1_000, 0), (1_010, 6), (1_100, 54), (1_101, 1), (1_900, 239), (2_500, 30)):
            clock[0] += seconds
            shown.reach(done, "teacher")
    assert capsys.readouterr().err.splitlines() == [
        "sampling: 50 % · 1,010 of 2,000 pictures · teacher",
        "sampling: 55 % · 1,100 of 2,000 pictures · teacher · 9 min left",
        "sampling: 95 % · 1,900 of 2,000 pictures · teacher · less than a minute left",
    ]
    assert shown.done == 2_000


def test_soon_done_or_silent_work_writes_nothing(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with progress("exporting", 3, unit="parts") as shown:
        for part in "abc":
            clock[0] += 1.6
            shown.begin(part)
    assert shown.done == 2 and shown.note == "c"  # the third is under way
    with progress("steps", silent=True) as shown:
        clock[0] += 1_000
        shown.advance(0.5)
    assert shown.done == 0.5 and capsys.readouterr().err == ""


def test_work_in_uneven_parts_says_nothing_of_the_time_left(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with progress("exporting", 4, unit="parts", even=False) as shown:
        for part in "abc":
            clock[0] += 61
            shown.begin(part)
    assert capsys.readouterr().err.splitlines() == [
        "exporting: 0 % · 0 of 4 parts · a",
        "exporting: 25 % · 1 of 4 parts · b",
        "exporting: 50 % · 2 of 4 parts · c",
    ]


def test_a_program_without_a_console_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with progress("steps") as shown:
        shown.reach(1)


def test_a_terminal_gets_a_bar_with_the_note(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress("drawing [a/b]", 4, unit="pictures") as shown:
        shown.reach(3, "seed[/7]")  # no markup
    text = stderr.getvalue()
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(module, "LINE_SECONDS", 0.0)
    with progress("lines", 4) as shown:
        shown.advance(1)
    assert stderr.getvalue().removeprefix(text).startswith("lines: 25 %")
    assert "drawing [a/b]" in text and "3/4" in text and "pictures" in text and "seed[/7]" in text


def test_lines_become_rarer(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with progress("steps", 1_000) as shown:
        for _ in range(300):
            clock[0] += 1
            shown.advance()
    shares = [line.split(" %")[0] for line in capsys.readouterr().err.splitlines()]
    assert shares == [f"steps: {share}" for share in (0, 1, 2, 4, 8, 14, 20, 26)]

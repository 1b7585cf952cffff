"""Progress of long work, on stderr: a bar with the time left on a terminal, an occasional line elsewhere.

A training under nohup, in a notebook or on a build machine takes as long as one that is watched, so its log gets a line after five
seconds, and then as often as its time doubles, at least once a minute. Work of less than five seconds writes nothing there.

Not here: results (each command's own output).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

LINE_SECONDS, FIRST_SECONDS = 60.0, 5.0
SURE_SECONDS = 30.0  # of work, before which the time left would be a guess


class Progress:
    """Work of `total` parts, of which `done` were there before; made by `progress`."""

    def __init__(self, total: float, done: float, show: Callable[[float, str], None]) -> None:
        self.total, self.done, self.note = total, done, ""
        self._show, self._under_way = show, False

    def begin(self, note: str) -> None:
        """The next part begins, so the one before is done."""
        self.reach(self.done + self._under_way, note)
        self._under_way = True

    def advance(self, parts: float = 1) -> None:
        self.reach(self.done + parts)

    def reach(self, done: float, note: str | None = None) -> None:
        """`done` parts are finished now; the note is shown until the next one."""
        self.done, self.note = min(done, self.total), self.note if note is None else note
        self._show(self.done, self.note)


@contextmanager
def progress(
    title: str, total: float = 1.0, *, unit: str = "", done: float = 0, silent: bool = False, even: bool = True
) -> Iterator[Progress]:
    """Show work of `total` parts while the block runs: with a unit as "3 of 40 pictures", else as a share. Where the parts are not
    `even`, the time left is not shown: it would jump up and down."""
    # The stream itself, not whatever sys.stderr becomes: converters are silenced by redirecting that.
    stream = sys.stderr
    if silent or stream is None:  # a program without a console has none
        yield Progress(total, done, lambda _done, _note: None)
    elif stream.isatty() and os.environ.get("TERM") != "dumb":
        with _bar(title, total, unit, stream, even) as show:
            show(done, "")
            yield Progress(total, done, show)
    else:
        yield Progress(total, done, _lines(title, total, unit, stream, even))


@contextmanager
def _bar(title: str, total: float, unit: str, stream: Any, even: bool) -> Iterator[Callable[[float, str], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    counted = (MofNCompleteColumn(), TextColumn(unit)) if unit else (TextColumn("{task.percentage:3.0f} %"),)
    left = (TimeElapsedColumn(), *((TextColumn("ETA"), TimeRemainingColumn(compact=True)) if even else ()))
    named, noted = (TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[note]}"))
    columns = (named, BarColumn(), *counted, *left, noted)
    with Bar(*columns, console=Console(file=stream), transient=True) as bar:
        task = bar.add_task(title, total=total, note="")
        yield lambda reached, note: bar.update(task, completed=reached, note=note)


def _lines(title: str, total: float, unit: str, stream: Any, even: bool) -> Callable[[float, str], None]:
    created = last = time.monotonic()
    # When progress was first reported, and how much: perhaps an earlier run's part, which says nothing about this run's speed.
    first: tuple[float, float] | None = None

    def show(reached: float, note: str) -> None:
        nonlocal last, first
        now = time.monotonic()
        first = first or (now, reached)
        if now - last < min(LINE_SECONDS, max(FIRST_SECONDS, last - created)):
            return
        last, (started, done) = now, first
        share = reached / total if total else 1.0
        parts = [f"{title}: {100 * share:.0f} %", f"{reached:,.0f} of {total:,.0f} {unit}" if unit else "", note]
        if even and done < reached < total and now - started >= SURE_SECONDS:
            minutes = (now - started) / 60 * (total - reached) / (reached - done)
            parts.append(f"{minutes:.0f} min left" if minutes >= 1 else "less than a minute left")
        stream.write(" · ".join(part for part in parts if part) + "\n")
        stream.flush()

    return show

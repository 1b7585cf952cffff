"""What `map_source` is given in tests: functions that worker processes find without importing torch."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from typing import Any

from genin.distill.inputs.sources import going_on
from genin.runtimes.errors import InputError


def squares(source: Any, start: int) -> list[int]:
    if start == 13:
        raise InputError("unlucky", where="13")
    return [i * i for i in range(start, start + source.count)]


def about_the_worker(_source: Any, _task: int) -> tuple[str | None, bool, bool]:
    """How it was started, whether it has loaded torch, and whether Ctrl-C is left to its parent."""
    ignores = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    return multiprocessing.get_start_method(allow_none=True), "torch" in sys.modules, ignores


def until_the_end(_source: Any, number: int) -> int:
    """At once for 0, else within 20 seconds, unless the pool ends."""
    for _ in going_on(range(0 if number == 0 else 2000)):
        time.sleep(0.01)
    return number


def killed(_source: Any, _number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)

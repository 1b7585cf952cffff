"""What reaches the user's terminal while genin runs as a command: genin's own messages only.

Libraries warn, at import and later, about things that a genin user can do nothing about (which of two distributions
they picked, an argument of theirs that another library still uses). As a command, genin keeps its own warnings and
drops theirs; errors always pass. `GENIN_DEBUG=1` lets everything through. Used as a library, genin changes nothing.

Not here: progress displays, and the line an error becomes (`cli`).
"""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

# Read by the libraries at import; child processes inherit them. A value that the user has set stays.
QUIET_ENVIRONMENT = {
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",  # else a warning after each fork
}


def debugging() -> bool:
    """Whether the user asked to see everything."""
    return os.environ.get("GENIN_DEBUG", "") not in ("", "0")


def open_missing_streams() -> None:
    """A service, or `2>&-`, may start a command without a stream; then what it says goes nowhere."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open("r" if name == "stdin" else "w", encoding="utf-8")  # noqa: SIM115 (for good)
            setattr(sys, name, stream)


def as_typed(words: Sequence[str]) -> list[str]:
    """Arguments that Python decoded by a locale that lacks their letters (`LC_ALL=C`), as the UTF-8 that they are."""
    found = []
    for word in words:
        try:
            found.append(
                os.fsencode(word).decode("utf-8") if any("\udc80" <= sign <= "\udcff" for sign in word) else word
            )
        except UnicodeError:
            found.append(word)
    return found


def show_all_letters() -> None:
    """Let a terminal or pipe whose encoding lacks a letter show its number (`\\u5fcd`), where it would end the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def quiet_libraries() -> None:
    """Silence other libraries' log lines below an error, and their warnings. Call once, before importing any."""
    if debugging():
        return
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    logging.disable(logging.WARNING)  # some set their own level at import, and one logs to stdout
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("default", category=UserWarning, module=r"genin\.")
    warnings.showwarning = OwnWarnings().show


class OwnWarnings:
    """genin's warnings as lines on stderr: the first few of a kind (the same line of code), then only that there are more."""

    SHOWN = 3

    def __init__(self) -> None:
        self.seen: Counter[tuple[str, int]] = Counter()

    def show(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        """What `warnings.showwarning` is replaced with."""
        self.seen[filename, lineno] += 1
        if (count := self.seen[filename, lineno]) <= self.SHOWN:
            text = " ".join(str(message).split())
            sys.stderr.write(f"genin: {text}\n")
        elif count == self.SHOWN + 1:
            sys.stderr.write("genin: … and more warnings like this one\n")

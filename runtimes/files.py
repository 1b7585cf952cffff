"""Files that appear whole or not at all: written under another name beside their place, then renamed.

Decided here, once: the temporary name is unique, so that two commands that write the same file do not write into each other's; the
data is on the disk before the name is (a power cut leaves the old file or the new one, not an empty one); permissions are those of
any new file (the umask); the temporary file is removed after an error.

Also here: whether a file can be written, checked before hours of work. Not here: whole folders (`genin.files`), locks.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genin.runtimes.errors import InputError

NAME_PART = 60  # characters of the name that the temporary one begins with: file systems allow 255 bytes


@contextmanager
def atomic_path(path: Path, *, sync: bool = True, partial: Path | None = None) -> Iterator[Path]:
    """A temporary path to write to, renamed to `path` when the block ends without an error, and removed otherwise.

    The folder of `path` is made. `sync=False` does not wait for the disk: for thousands of files that are checked when they are
    read. `partial` is the temporary path, where only one process writes: what a killed one left there is then overwritten, not
    left beside the next. Errors: OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if partial is None:
        partial = path.with_name(f".{path.name[:NAME_PART]}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        partial.touch()
        mode = partial.stat().st_mode  # safetensors, for one, leaves its files to their owner alone
        yield partial
        partial.chmod(mode)
        if sync:
            with partial.open("r+b") as file:
                os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str, *, newline: str | None = None) -> None:
    """Write a text file in UTF-8, whole or not at all. Errors: OSError."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8", newline=newline)


def claim_output(path: Path, suffix: str = "") -> None:
    """Make sure before long work that the file `path` can be written after it, and ends as its kind does. Errors: InputError."""
    if suffix and path.suffix.lower() != suffix:
        kind = suffix.removeprefix(".").upper()
        raise InputError(f"this is written as {kind}", where=path, remedy=f"let the name end in {suffix}")
    if path.is_dir():
        raise InputError("the output is a folder", where=path, remedy="name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"cannot write here ({error.strerror})", where=path, remedy="name another place") from error

"""Files that appear whole or not at all: written under another name beside their place, then renamed.

Decided here, once: the temporary name is unique, so that two commands that write the same file do not write into each other's; the
data is on the disk before the name is (a power cut leaves the old file or the new one, not an empty one); permissions are those of
any new file (the umask); the temporary file is removed after an error.

Also here: whether a file can be written, checked before hours of work; what is said where the system refuses to write.
Not here: whole folders (`genin.files`), locks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from genin.runtimes.errors import GeninError, InputError

NAME_BYTES = 160  # of a name that is made longer: file systems allow 255
PROBED_BYTES = 1 << 20  # a disk with less space than that is full


# What the system says where a file cannot be written, through no fault of ours => what the user can do.
REFUSALS = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EFBIG: "write to another disk, or raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "name another place",
}


def refused_write(error: BaseException, where: Path | None = None, then: str = "") -> GeninError | None:
    """The error for a write that the system refused: no space, a limit, a disk that is read-only. None for any other error.
    `then` ends the remedy."""
    number = _refusal(error)
    if number is None:
        return None
    name = error.filename if isinstance(error, OSError) else None
    where = where or (None if name is None else Path(os.fsdecode(name)))
    return GeninError(f"cannot write ({os.strerror(number)})", where=where, remedy=REFUSALS[number] + then)


def _refusal(error: BaseException) -> int | None:
    """The number of the system's refusal, if the error is one."""
    if isinstance(error, OSError):
        number = error.errno
    else:  # safetensors quotes the system
        found = re.search(r"\(os error (\d+)\)|\bcode: (\d+)\b", str(error))
        number = int(found[1] or found[2]) if found else None
    return number if number in REFUSALS else None


@contextmanager
def writing(path: Path, partial: Path | None = None) -> Iterator[None]:
    """Where the system refuses to write in this block, the error is an OSError that names `path`. By itself a failed write has no
    name, or that of the `partial` file or folder that becomes `path`; and several libraries raise errors of their own."""
    partial = path if partial is None else partial
    try:
        yield
    except GeninError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and _refusal(error) is not None:
            if error.filename is None or _lies_in(Path(os.fsdecode(error.filename)), partial):
                error.filename = str(path)
            raise
        number = _hidden_refusal(error, partial)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _lies_in(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents


def _hidden_refusal(error: BaseException, partial: Path) -> int | None:
    """The system's refusal behind an error of a library, or behind one while a file was closed after it; else what the system says
    now: torch, numpy and Pillow only say that they could not write."""
    cause: BaseException | None = error
    while cause is not None:
        if (number := _refusal(cause)) is not None:
            return number
        cause = cause.__cause__ or cause.__context__
    nameless = isinstance(error, OSError) and error.errno is None and error.filename is None
    if not nameless and not isinstance(error, RuntimeError):
        return None
    refusal = refusal_of_size(partial.parent, _largest_bytes(partial) + PROBED_BYTES)
    return None if refusal is None else _refusal(refusal)


def _largest_bytes(partial: Path) -> int:
    """Size of a file, or of the largest one in a folder."""
    files = [partial, *(partial.rglob("*") if partial.is_dir() else ())]
    return max((file.stat().st_size for file in files if file.is_file()), default=0)


def refusal_of_size(folder: Path, size_bytes: int) -> OSError | None:
    """What the system would say to a file of this size in `folder`, for libraries that only say that they could not write. Nothing
    is written: the file gets a hole of that size."""
    try:
        if shutil.disk_usage(folder).free < size_bytes:
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        with tempfile.TemporaryFile(dir=folder) as file:
            file.truncate(size_bytes)
    except OSError as error:
        return error
    return None


def reserve(file: IO[bytes], size_bytes: int) -> None:
    """Make a file that long, and its space ours, where the system can: a hole that is mapped into memory ends the process, with
    SIGBUS, when it is written to on a full disk. Errors: OSError."""
    if size_bytes == 0 or not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file.fileno(), 0, size_bytes)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # a file system that cannot
            raise


@contextmanager
def atomic_path(path: Path, *, sync: bool = True, partial: Path | None = None) -> Iterator[Path]:
    """A temporary path to write to, renamed to `path` when the block ends without an error, and removed otherwise.

    The folder of `path` is made. `sync=False` does not wait for the disk: for thousands of files that are checked when they are
    read. `partial` is the temporary path, where only one process writes: what a killed one left there is then overwritten, not
    left beside the next. Errors: OSError, which names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if partial is None:
        partial = path.with_name(f"{hidden_prefix(path)}{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        with writing(path, partial):
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


def hidden_prefix(path: Path) -> str:
    """What the temporary file or folder beside `path` is called, up to something unique: `.NAME.`"""
    return f".{cut_to_bytes(path.name, NAME_BYTES)}."


def cut_to_bytes(name: str, limit: int) -> str:
    """The beginning of a file name that takes at most so many bytes, in whole characters."""
    return name.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore")


def write_text(path: Path, text: str, *, newline: str | None = None) -> None:
    """Write a text file in UTF-8, whole or not at all. Errors: OSError."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8", newline=newline)


def claim_output(path: Path, suffix: str = "") -> None:
    """Make sure before long work that the file `path` can be written after it, and ends as its kind does. Errors: InputError."""
    if suffix and path.suffix.lower() != suffix:
        kind = suffix.removeprefix(".").upper()
        raise InputError(f"this is written as {kind}", where=path, remedy=f"let the name end in {suffix}")
    try:
        with contextlib.suppress(FileNotFoundError):
            os.lstat(path)  # a name that is too long
        if path.is_dir():
            raise InputError("the output is a folder", where=path, remedy="name a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"cannot write here ({error.strerror})", where=path, remedy="name another place") from error

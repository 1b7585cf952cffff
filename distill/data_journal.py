"""What a preparation has read, so that one that was stopped goes on.

    .OUT.partial/journal.jsonl     a line for the options, then one for every file: its size and time, its pieces
    .OUT.partial/pieces/*.png      the pieces' pictures

A line is written when its pictures are on disk, so a line that is whole can be trusted; one that was cut off is dropped, and so is
that of a file that has changed since. Other options begin anew. One process at a time: the folder is locked.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from genin.distill.data_pieces import Piece
from genin.runtimes.errors import InputError

VERSION = 1


class Journal:
    """Made by `open`. `resumed` counts the files that an earlier run had read and that are as they were."""

    def __init__(self, folder: Path, file: IO[str], known: Mapping[str, Any]) -> None:
        self.pieces, self._file, self._known = folder / "pieces", file, known
        self.resumed = 0

    @classmethod
    @contextmanager
    def open(cls, folder: Path, options: Mapping[str, Any]) -> Iterator[Journal]:
        """Go on with the journal in `folder`, or begin one. Errors: InputError while another process writes it."""
        (folder / "pieces").mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            path = folder / "journal.jsonl"
            header = {"genin_prepare": VERSION, "options": json.loads(json.dumps(options))}
            lines = _whole_lines(path)
            if not lines or lines[0] != header:
                shutil.rmtree(folder / "pieces")
                (folder / "pieces").mkdir()
                lines = [header]
            partial = path.with_suffix(".new")
            partial.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
            partial.replace(path)
            with path.open("a", encoding="utf-8") as file:
                yield cls(folder, file, {line["file"]: line for line in lines[1:]})

    @staticmethod
    def stem(path: Path) -> str:
        """What the names of a file's pictures begin with: its own, whatever else lies in the sources."""
        return hashlib.blake2b(str(path).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()

    def pieces_of(self, path: Path) -> list[Piece] | None:
        """What was read of a file, if it is as it was and all its pictures are there."""
        line = self._known.get(str(path))
        if line is None or line["stat"] != _stat(path):
            return None
        pieces = [Piece(**piece) for piece in line["pieces"]]
        return pieces if all(piece.png is None or (self.pieces / piece.png).is_file() for piece in pieces) else None

    def write(self, path: Path, pieces: Sequence[Piece]) -> None:
        """Note what was read of a file, unless it stands there already."""
        if self.pieces_of(path) == pieces:
            self.resumed += 1
            return
        line = {"file": str(path), "stat": _stat(path), "pieces": [asdict(piece) for piece in pieces]}
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()


def _stat(path: Path) -> list[int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def _whole_lines(path: Path) -> list[Any]:
    """The lines up to the first that is not whole."""
    lines: list[Any] = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                lines.append(json.loads(line))
            except ValueError:
                break
    return lines


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Only one process at a time; the lock of one that was killed is taken over."""
    path = folder / "lock"
    with suppress(OSError, ValueError):
        if not _runs(int(path.read_text())):
            path.unlink()
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError as error:
        raise InputError("another run is preparing this dataset", where=folder, remedy="wait for it") from error
    with os.fdopen(descriptor, "w") as file:
        file.write(str(os.getpid()))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    if os.name == "nt":  # there a signal would end it
        import psutil

        return bool(psutil.pid_exists(process))
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

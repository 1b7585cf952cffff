"""What a preparation has read, so that an interrupted one can continue.

    .OUT.partial/journal.jsonl     a line for the options, then one for every file with pictures: its size and time, its pieces
    .OUT.partial/pieces/*.png      the pieces' pictures

A line is written after its pictures, without waiting for the disk: checksums tell whether they got there. A line is ignored, and
its file read again, if it is incomplete, if the file has changed since, or if one of its pictures is missing or damaged (after a
power cut, say). With other options everything starts over.
One process at a time: the folder is locked.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from genin.dataset.files import is_intact
from genin.distill.data.extract import Piece
from genin.distill.data.find import Candidate
from genin.files import write_text
from genin.runtimes.errors import InputError

VERSION = 2


class Journal:
    """Made by `open`. `resumed` counts the files that an earlier run had read and that have not changed since."""

    def __init__(self, folder: Path, file: IO[str], known: Mapping[str, Any]) -> None:
        self.pieces, self._file, self._known = folder / "pieces", file, known
        self._lock = threading.Lock()
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
            write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
            with path.open("a", encoding="utf-8") as file:
                yield cls(folder, file, {line["file"]: line for line in lines[1:]})

    @staticmethod
    def stem(candidate: Candidate) -> str:
        """The beginning of the names of a file's pictures: unique to the file, whatever else the sources hold and however it is
        read."""
        rows = f" {candidate.group.number} {candidate.group.column}" if candidate.group else ""
        key = f"{candidate.kind} {candidate.name} {candidate.path}{rows}"
        return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()

    def known(self, candidate: Candidate) -> list[Piece] | None:
        """What was read from a file, if it has not changed and all its pictures are intact."""
        line = self._known.get(self.stem(candidate))
        if line is None or line["stat"] != self.stat(candidate.path):
            return None
        pieces = [Piece(**piece) for piece in line["pieces"]]
        return pieces if all(piece.png is None or is_intact(self.pieces / piece.png) for piece in pieces) else None

    def write(self, candidate: Candidate, pieces: Sequence[Piece], stat: list[int] | None) -> None:
        """Note what was read from a file whose size and time were `stat` before. Threads may write at once."""
        line = {"file": self.stem(candidate), "stat": stat, "pieces": [asdict(piece) for piece in pieces]}
        with self._lock:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    @staticmethod
    def stat(path: Path) -> list[int] | None:
        """Size and time of a file, taken before it is read: one that is still being copied is read again."""
        try:
            stat = path.stat()
        except OSError:
            return None
        return [stat.st_size, stat.st_mtime_ns]


def _whole_lines(path: Path) -> list[Any]:
    """The lines before the first incomplete one."""
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
    """Only one process at a time. The system frees the lock of one that was killed."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(folder / "lock", blocking=False):
            yield
    except Timeout as error:
        raise InputError("another run is preparing this dataset", where=folder, remedy="wait for it") from error

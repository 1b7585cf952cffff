"""Files and folders that appear whole or not at all: written beside their place, then renamed.

What is for single files is in `genin.runtimes.files`, since the runtime needs it, too.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genin.runtimes.errors import InputError
from genin.runtimes.files import atomic_path, claim_output, hidden_prefix, write_text, writing

__all__ = [
    "atomic_path",
    "claim_output",
    "hidden_prefix",
    "move_into_place",
    "new_folder",
    "refuse_existing",
    "remove_partial_files",
    "write_text",
    "writing",
]


PARTIAL = re.compile(r"\..+\.\d+-[0-9a-f]{8}\.partial", re.DOTALL)  # as `atomic_path` names them


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """An empty folder to fill, renamed to `out` when the block ends without an error.

    Errors: InputError if `out` exists, at the start or because another process has written it meanwhile; OSError, naming `out`.
    """
    refuse_existing(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=hidden_prefix(out)) as beside:
        folder = Path(beside) / "folder"
        with writing(out, folder):
            folder.mkdir()
            yield folder
        move_into_place(folder, out)


def move_into_place(folder: Path, out: Path) -> None:
    """Rename a finished folder to `out`. Errors: InputError if another process has written `out` meanwhile."""
    try:
        folder.replace(out)
    except OSError:
        refuse_existing(out)
        raise


def remove_partial_files(folder: Path) -> None:
    """Remove the temporary files that killed processes left in `folder`, which only this process writes to."""
    for path in folder.glob(".*.partial"):
        if PARTIAL.fullmatch(path.name):
            path.unlink(missing_ok=True)


def refuse_existing(out: Path) -> None:
    """Errors: InputError if `out` exists, be it as a link that leads nowhere: nothing can be renamed to that."""
    if os.path.lexists(out):
        raise InputError("the output already exists", where=out, remedy="choose another name, or remove it")

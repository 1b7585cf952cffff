"""`genin evaluate` several times in one process of a `torchrun` of several, with a note of who saves which picture.

    torchrun --nproc_per_node 2 tests/helpers/evaluations.py FOLDER

FOLDER/commands.json holds name => arguments. Each process writes FOLDER/RANK.json: name => [what it printed, [folder, picture] of
every picture that it saved]. A command that fails ends the run with its exit code, as the command itself does.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any


def main(folder: Path) -> int:
    from genin import cli
    from genin.benchmarks import evaluation
    from genin.benchmarks.quality import sampling
    from genin.benchmarks.quality.measures import load_suite

    commands = json.loads((folder / "commands.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = {}
    saved: list[tuple[str, str]] = []
    save = sampling.save_picture

    def save_and_note(path: Path, picture: sampling.Pictures, row: sampling.PictureRow) -> None:
        saved.append((path.parent.name, path.name))
        save(path, picture, row)

    sampling.save_picture = save_and_note
    # One of the feature networks, the fastest: how work is shared does not depend on which.
    evaluation.load_suite = partial(load_suite, features=("world",))  # type: ignore[assignment]
    for name, arguments in commands.items():
        saved.clear()
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            code = cli.run(["evaluate", *arguments, "--json"])
        found[name] = [printed.getvalue(), list(saved)]
        # In one step: torchrun ends this process when another one has failed, whatever it is doing.
        unfinished = folder / f"{os.environ['RANK']}.partial"
        unfinished.write_text(json.dumps(found), encoding="utf-8")
        unfinished.replace(unfinished.with_suffix(".json"))
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

"""The folder of a run: which run it belongs to, and how a command resumes one.

    run.json       what the run was started with: digests of weights and data
    recipe.yaml    its settings

Not here: what a stage writes there (`checkpoints`, `logbook`).
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from genin.distill.loop.checkpoints import check_settings, checkpoint_path, read_checkpoint, remove_stage
from genin.distill.recipe import Optimisation, Recipe, save_recipe
from genin.files import remove_partial_files, write_text
from genin.processes import broadcast_from_main, is_main_process, main_process_first
from genin.runtimes.arguments import number, settle
from genin.runtimes.errors import InputError

ENDING_SHARE = 0.05  # of a budget: what comes after a training's last update


@dataclass(frozen=True)
class RunOptions:
    """How a training runs: `resume` continues from the checkpoints in its folder, `minutes` is a time budget of all its stages
    (None: until all images are seen). The clock starts when the options are made."""

    resume: bool = False
    minutes: float | None = None
    began: float = field(default_factory=time.monotonic, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.resume, bool):
            raise InputError(f"resume must be True or False; got {self.resume!r}")
        settle(self, minutes=number(self.minutes, "minutes", above=0))

    def left(self, share: float = 1.0) -> float | None:
        """A share of the minutes that are left of the budget, without those for the last grids and for saving; None without a
        budget."""
        if self.minutes is None:
            return None
        return max(0.0, share * (self.minutes * (1 - ENDING_SHARE) - self.spent))

    @property
    def spent(self) -> float:
        """Minutes since the options were made, by a clock that nobody can set; the first process's."""
        return broadcast_from_main((time.monotonic() - self.began) / 60)


def claim_run(
    folder: Path,
    recipe: Recipe,
    begun_with: Mapping[str, str],
    stages: Mapping[str, Optimisation],
    *,
    resume: bool = True,
) -> None:
    """Claim `folder` for this run: write the recipe, and what the run was started with (digests of weights and data). Without
    `resume` an earlier run's checkpoints and logs of these stages are removed: a later `resume` must not take them for this run's.
    Settings that a resumed run may change are said where they have changed.

    Errors: InputError if an earlier run there was started with something else, or one of its `stages` with other settings: its
    checkpoints would not mean the same. Nothing has been written then.
    """
    if is_main_process():
        _lock(folder)
    with main_process_first():
        changed = _claim(folder, recipe, begun_with, stages)
        if resume and changed and is_main_process():
            warnings.warn(f"the run goes on with other settings than before: {', '.join(changed)}", stacklevel=2)
        if not resume and is_main_process():
            for stage in stages:
                remove_stage(folder, stage)


_locks: dict[Path, FileLock] = {}  # until the process ends


def _lock(folder: Path) -> None:
    """Errors: InputError if another process trains in this folder: both would write the same checkpoints."""
    place = folder.resolve()
    if place in _locks:
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        remedy = "wait for it, or name another output folder"
        raise InputError("another process is training here", where=folder, remedy=remedy) from error
    _locks[place] = lock
    remove_partial_files(folder)


def is_claimed(folder: Path) -> bool:
    """Whether this process has claimed the folder."""
    return folder.resolve() in _locks


def _claim(
    folder: Path, recipe: Recipe, begun_with: Mapping[str, str], stages: Mapping[str, Optimisation]
) -> list[str]:
    """The settings that have changed since an earlier run there. Errors: InputError."""
    changed: list[str] = []
    for stage, settings in stages.items():
        if (checkpoint := checkpoint_path(folder, stage)).is_file():
            changed += check_settings(checkpoint, read_checkpoint(checkpoint), stage, settings)
    path = folder / "run.json"
    if path.is_file():
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            stored = {}
        earlier = stored if isinstance(stored, dict) and stored else begun_with  # a damaged file is ignored
        if others := [key for key, value in earlier.items() if value != begun_with.get(key)]:
            what = f"this run was started with another {' and '.join(others)}"
            raise InputError(what, where=folder, remedy="give what it was started with, or name another output folder")
    write_text(path, json.dumps(dict(begun_with), indent=1) + "\n")
    save_recipe(recipe, folder / "recipe.yaml")
    return changed

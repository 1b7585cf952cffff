"""The files that a stage is resumed from: its checkpoint, and its log of rows.

Each is written beside the old one and renamed over it: a crash or a full disk leaves the previous one whole. A checkpoint holds the
settings it was made with, and is refused under others. Where a recipe asks for it, averages of the weights at earlier times are
beside them.

Not here: what is in a checkpoint (`checkpoint_keeper`).
"""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from genin.distill.recipe import Optimisation, plain
from genin.files import atomic_path, write_text
from genin.runtimes.errors import GeninError, InputError
from genin.runtimes.files import refused_write

# Settings that a resumed run may change: how long and how often, nothing that changes what has been done.
MAY_CHANGE = {
    "images",
    "preview_images",
    "checkpoint_minutes",
    "cache_images",
    "compile",
    "keep_averages",
    "gradient_checkpointing",
    "accumulate",
    "validation_prompts",
}


def checkpoint_path(folder: Path, stage: str) -> Path:
    return folder / f"{stage}.checkpoint.pt"


def write_checkpoint(path: Path, state: Mapping[str, Any], settings: Optimisation) -> None:
    """Errors: GeninError where it cannot be written; the previous one is kept."""
    try:
        with atomic_path(path, partial=path.with_suffix(".partial")) as partial:
            torch.save({**state, "settings": plain(dataclasses.asdict(settings))}, partial)
    except (OSError, RuntimeError) as error:
        then = ", then run it again with resume; the previous checkpoint is intact"
        if refused := refused_write(error, path, then):
            raise refused from error
        what = f"could not save the checkpoint ({' '.join(str(error).split())[:120]})"
        raise GeninError(what, where=path, remedy=f"free some space{then}") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint on the CPU, mapped: tensors are read only when they are used. Keep only `copied` ones: the next
    checkpoint replaces the file. Errors: InputError for a file that is damaged."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (KeyError, RuntimeError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise mismatch_error(path, error) from error
    return state


def copied(tree: Any) -> Any:
    """Nested dictionaries and lists with copies of their tensors."""
    if isinstance(tree, Tensor):
        return tree.clone()
    if isinstance(tree, Mapping):
        return {key: copied(value) for key, value in tree.items()}
    return [copied(value) for value in tree] if isinstance(tree, list) else tree


def remove_stage(folder: Path, stage: str) -> None:
    """Remove what an earlier run left of a stage: its checkpoint, log, events and kept averages."""
    for name in ("checkpoint.pt", "log.jsonl", "events.jsonl"):
        (folder / f"{stage}.{name}").unlink(missing_ok=True)
    for path in folder.glob(f"{stage}.average-*.safetensors"):
        path.unlink()


def mismatch_error(path: Path, error: Exception) -> InputError:
    """A checkpoint that is damaged, or of other networks."""
    reason = " ".join(str(error).split())[:160]
    what = f"this checkpoint does not fit the recipe ({reason})"
    return InputError(what, where=path, remedy="use the recipe it was made with, or another output folder")


def save_average(path: Path, state: Mapping[str, Tensor]) -> None:
    """Weights as they are now, in half precision: a point of a curve, not a checkpoint to resume from."""
    with atomic_path(path, partial=path.with_suffix(".partial")) as partial:
        save_file({name: value.half().contiguous().cpu() for name, value in state.items()}, partial)


def check_settings(path: Path, state: Mapping[str, Any], stage: str, settings: Optimisation) -> list[str]:
    """The settings that have changed and may: "steps.images 640 (was 320)". A key that did not exist then had its default.

    Errors: InputError for a checkpoint made with another recipe: the work so far would be attributed to settings it was not done
    with."""
    if not state.get("update_index"):
        return []  # nothing has been done under them
    defaults, now = (plain(dataclasses.asdict(one)) for one in (type(settings)(), settings))
    earlier = {**defaults, **plain(state.get("settings", {}))}
    changed = [key for key in now if earlier[key] != now[key]]
    if refused := [key for key in changed if key not in MAY_CHANGE]:
        begun_with = ", ".join(f"{stage}.{key} {earlier[key]}" for key in refused)
        remedy = "use the recipe it was started with, or name another output folder"
        raise InputError(f"this run was started with {begun_with}", where=path, remedy=remedy)
    return [f"{stage}.{key} {now[key]} (was {earlier[key]})" for key in changed]


def read_rows(path: Path) -> list[dict[str, float]]:
    """The rows of a log, without one that was cut off by a crash."""
    rows = [_row(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row is not None]


def write_rows(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def _row(line: str) -> dict[str, float] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "images_seen" in row else None

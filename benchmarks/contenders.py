"""Names of models, from the command line or Python => local paths, with each model's label in results.

Not here: what names mean (`genin.names`), measuring.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from genin.benchmarks.model_facts import read_facts
from genin.benchmarks.quality.subjects import is_model
from genin.runtimes.arguments import several
from genin.runtimes.errors import InputError
from genin.runtimes.folder import is_model_folder
from genin.runtimes.names import BUILTIN_WORLD, Names

BUILTIN_SAMPLES = 5000


@dataclass(frozen=True)
class Contender:
    """A model or bundle to measure: its label and its local path."""

    label: str
    path: Path


def contenders(
    names: Names, models: str | Path | Sequence[str | Path], runtime: str | None = None, precision: str | None = None
) -> list[Contender]:
    """The named models with their local paths; labels are what the user wrote, shortened to the last part of a path.
    `runtime` and `precision` say which graphs of a bundle on the hub are downloaded (`Names.model`)."""
    written = [str(model) for model in several(models)]
    if not written:
        raise InputError("no model is given", remedy="give at least one")
    short = [name if name.startswith("builtin:") else Path(name).name or name for name in written]
    labels = [label if short.count(label) == 1 else name for label, name in zip(short, written, strict=True)]
    paths = [names.model(name, runtime, precision) for name in written]
    return [Contender(label, path) for label, path in zip(labels, paths, strict=True)]


def reference_folder(names: Names, name: str, samples: int | None, subject: Path, split: str | None = None) -> Path:
    """The reference's folder; `builtin:world` is rendered at the subject's size, in the split asked for."""
    size = read_facts(subject).image_size if name == BUILTIN_WORLD and is_model(subject) else None
    return names.reference(name, count=samples or BUILTIN_SAMPLES, size=size, seed=0, split=split)


def device_of(path: Path, device: str) -> str:
    """Where `path` runs if model folders run on `device`: bundles stay on the cpu."""
    return device if is_model_folder(path) else "cpu"


def refuse_device_without_folders(device: str, models: Sequence[Contender]) -> None:
    """Errors: InputError for a device other than cpu where nothing runs on it."""
    if device != "cpu" and not any(is_model_folder(model.path) for model in models):
        remedy = "leave the device out, or name a model folder"
        raise InputError(f"bundles run on the cpu, not on {device}", where=models[0].path, remedy=remedy)

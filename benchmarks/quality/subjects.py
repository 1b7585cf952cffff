"""What can be evaluated: a model folder or bundle (its pictures are drawn), or a folder of pictures (they are read).

Both yield batches of pictures with the rows they were made from, so that everything downstream is the same for a
model, for its saved pictures and for third-party samples.

Not here: which captions and seeds to draw (`sampling.plan`), and what is measured (`measures`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genin.benchmarks.model_facts import ModelFacts, read_facts
from genin.benchmarks.quality.sampling import DEFAULT_BATCH_SIZE, SamplingSettings, sample
from genin.dataset.rows import PictureRow
from genin.dataset.sets import Pictures, PictureSet, open_picture_set, picture_batches, usual_size

if TYPE_CHECKING:
    from genin.runtimes.pipeline import Pipeline

Batch = tuple[Pictures, Sequence[PictureRow]]
MODEL_FILES = ("model_index.json", "manifest.json")


@dataclass(frozen=True)
class Sampling:
    """How a model draws; None and "auto" leave it to the model and the machine."""

    steps: int | None = None
    guidance_scale: float | None = None
    runtime: str = "auto"
    precision: str = "auto"
    batch_size: int = DEFAULT_BATCH_SIZE
    threads: int | None = None
    device: str = "cpu"  # of PyTorch, for model folders


def is_model(path: Path) -> bool:
    """Whether `path` is a model folder, a bundle folder or a file: pictures are in folders, so a file can only be a packed bundle,
    which may be damaged (`read_facts` says so)."""
    return path.is_file() or any((path / name).is_file() for name in MODEL_FILES)


class ModelSubject:
    """A model that draws. Its pipeline is loaded on first use; close it (or use it as a context) when done."""

    def __init__(self, path: Path, sampling: Sampling) -> None:
        self.path, self.sampling = path, sampling
        self.facts: ModelFacts = read_facts(path)
        self.image_size = self.facts.image_size
        self._pipeline: Pipeline | None = None

    def __enter__(self) -> ModelSubject:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None

    @property
    def pipeline(self) -> Pipeline:
        """The loaded pipeline."""
        if self._pipeline is None:
            from genin.runtimes.loading import load_pipeline

            chosen = self.sampling
            self._pipeline = load_pipeline(
                self.path, chosen.runtime, chosen.precision, threads=chosen.threads, device=chosen.device
            )
        return self._pipeline

    @property
    def steps(self) -> int:
        """Sampling steps: those asked for, else the model's own."""
        return self.pipeline.default_steps if self.sampling.steps is None else self.sampling.steps

    @property
    def guidance_scale(self) -> float:
        """The guidance scale asked for, else the model's own."""
        asked = self.sampling.guidance_scale
        return self.pipeline.default_guidance_scale if asked is None else asked

    def settings(self) -> SamplingSettings:
        """Everything its pictures depend on. The first call reads all weights."""
        return SamplingSettings(
            model=self.facts.sha256,
            steps=self.steps,
            guidance_scale=self.guidance_scale,
            runtime=self.pipeline.runtime,
            precision=self.pipeline.precision,
            device=self.sampling.device,
        )

    def batches(self, rows: Sequence[PictureRow], folder: Path | None, title: str) -> Iterator[Batch]:
        """Draw `rows`, or read those that are already in `folder`."""
        size = self.sampling.batch_size
        drawn = sample(self.pipeline, rows, self.settings(), folder=folder, batch_size=size, title=title)
        for index, pictures in enumerate(drawn):
            yield pictures, rows[index * size : index * size + len(pictures)]

    def record(self) -> dict[str, Any]:
        """Its fields in a result."""
        settings = self.settings()
        return {
            "model": self.facts.name,
            "path": str(self.path),
            "kind": self.facts.kind,
            "role": self.facts.role,
            "model_sha256": settings.model,
            "source_sha256": self.facts.source_sha256,
            "steps": settings.steps,
            "guidance_scale": settings.guidance_scale,
            "runtime": settings.runtime,
            "provider": self.pipeline.provider,
            "precision": settings.precision,
            "parameters": self.facts.parameters,
            "macs": self.facts.macs,
        }

    def notes(self) -> dict[str, str]:
        """Why some of `record` is null."""
        return dict(self.facts.notes)


class FolderSubject:
    """Pictures that are already there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pictures: PictureSet = open_picture_set(path)
        self.broken: list[str] = []
        self.image_size, self._mixed = usual_size(self.pictures)

    def __enter__(self) -> FolderSubject:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def batches(self, rows: Sequence[PictureRow], folder: Path | None, title: str) -> Iterator[Batch]:
        """Read the folder's first pictures, as many as there are `rows`."""
        for loaded in picture_batches(self.pictures, size=self.image_size, limit=len(rows)):
            self.broken.extend(loaded.broken)
            yield loaded.pictures, loaded.rows

    def record(self) -> dict[str, Any]:
        """Its fields in a result."""
        unknown = (
            "role",
            "model_sha256",
            "source_sha256",
            "steps",
            "guidance_scale",
            "runtime",
            "provider",
            "precision",
        )
        facts = {"model": self.path.name, "path": str(self.path), "kind": "pictures"}
        return facts | dict.fromkeys((*unknown, "parameters", "macs"))

    def notes(self) -> dict[str, str]:
        """Why some of `record` is null, and what of the folder was left out or brought to another size."""
        reason = "a folder of pictures does not say how they were made"
        notes = dict.fromkeys(("steps", "guidance_scale", "parameters", "macs"), reason)
        if self._mixed:
            notes["picture_size"] = self._mixed
        if self.pictures.notes:
            notes["pictures"] = "; ".join(self.pictures.notes)
        return notes


Subject = ModelSubject | FolderSubject


def open_subject(path: Path, sampling: Sampling) -> Subject:
    """The model or folder of pictures at `path`. Errors: InputError if it is neither."""
    return ModelSubject(path, sampling) if is_model(path) else FolderSubject(path)

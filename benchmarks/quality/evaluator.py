"""Picture quality of a model, a bundle or a folder of pictures against a reference: one dictionary, ready for JSON.

The rules that make figures comparable (docs/benchmarks.md) live here:

- picture i is drawn from reference caption i (cycled) and seed `seed · 1,000,000 + i`, for every model alike;
- the reference is its first `samples` pictures, brought to the subject's size; both facts are in the result;
- a ratio to another model (`against`) needs equal numbers of pictures, the same weights and the same resize;
- LPIPS is taken on pairs only: same caption, same seed. Diversity is LPIPS between two seeds of one caption.

An `Evaluator` keeps the reference's features, and those of a teacher it was compared with, for any number of models.

Not here: metrics (`measures`), sampling (`sampling`), the autoencoder's floor (`floor`), names and options (`evaluate`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from genin.benchmarks.quality.floor import AutoencoderSubject
from genin.benchmarks.quality.frechet import Features, Moments, TooFewPicturesError, frechet_distance
from genin.benchmarks.quality.measures import (
    FD_NAMES,
    KID_NAMES,
    Figures,
    StatisticsAccumulator,
    Suite,
    distances,
    statistics_distances,
)
from genin.benchmarks.quality.perceptual import diversity, resize_rule
from genin.benchmarks.quality.sampling import SEED_STRIDE, plan, with_other_seeds
from genin.benchmarks.quality.statistics_file import (
    Statistics,
    caption_numbers,
    is_statistics,
    load_statistics,
    save_statistics,
)
from genin.benchmarks.quality.subjects import FolderSubject, ModelSubject, Sampling, Subject, open_subject
from genin.dataset.files import read_picture
from genin.dataset.rows import PictureRow
from genin.dataset.sets import Pictures, open_picture_set, picture_batches
from genin.runtimes.errors import InputError
from genin.runtimes.wording import counted

DEFAULT_SAMPLES: Final = 5000
DIVERSITY_CAPTIONS: Final = 100
THE_SAME: Final = "these are the reference's own pictures: the figures are those of a set and itself"
SAVED_PAIRS: Final = 200
SOURCE_KEYS: Final = (
    *("model", "model_sha256", "source_sha256", "steps", "guidance_scale", "runtime", "provider", "precision"),
    *("samples", "seed"),
    *("reference", "reference_sha256", "picture_size", "attribute_accuracy", "diversity", "parameters", "macs"),
    *FD_NAMES.values(),
    *KID_NAMES.values(),
)


@dataclass(frozen=True)
class Scored:
    """One subject's result and what further comparisons need: its pictures by (caption, seed), and its features."""

    result: dict[str, Any]
    pictures: Mapping[tuple[str, int], Pictures]
    accumulator: StatisticsAccumulator | None = None
    statistics: Statistics | None = None


@dataclass(frozen=True)
class Against:
    """Another model, saved pictures or saved statistics to compare with, and how it is sampled."""

    path: Path
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True)
class SaveTo:
    """What is kept of an evaluation: the pictures in a folder, the features as FILE.safetensors or as a folder with pairs."""

    images: Path | None = None
    statistics: Path | None = None


class Evaluator:
    """A reference, the available metrics (`load_suite`), and how many pictures to compare.

    `samples` None means as many as the reference has, at most 5,000. Errors: InputError for a folder that is not a dataset.
    """

    def __init__(
        self,
        reference: Path,
        suite: Suite,
        *,
        samples: int | None = None,
        seed: int = 0,
        reference_name: str | None = None,
        split: str | None = None,
    ) -> None:
        self.reference = open_picture_set(reference, split)
        self.samples = samples or min(len(self.reference.rows), DEFAULT_SAMPLES)
        self.seed, self.suite = seed, suite
        name = reference_name or str(reference)
        self.reference_name = name if split is None else f"{name} ({split})"
        self._references: dict[int, tuple[StatisticsAccumulator, dict[str, Any]]] = {}
        self._others: dict[Against, Scored] = {}

    def evaluate(
        self,
        model: Path,
        sampling: Sampling | None = None,
        *,
        against: Against | None = None,
        save: SaveTo | None = None,
        floor: bool = False,
    ) -> dict[str, Any]:
        """Measure one subject. See docs/benchmarks.md for the keys; a null has its reason in `notes`. With `floor` it is the
        model's autoencoder alone: the reference, encoded and decoded.

        Errors: InputError for unusable paths, or a folder that holds other pictures.
        """
        save = save or SaveTo()
        saved = load_statistics(against.path) if against is not None and is_statistics(against.path) else None
        opened = AutoencoderSubject(model, self.reference) if floor else open_subject(model, sampling or Sampling())
        with opened as subject:
            scored = self._score(subject, save.images)
            if against is not None:
                folder = save.images and save.images / "against"
                other = self._saved(saved, against.path, subject) if saved else None
                self._compare(subject, scored, other or self._other(against, subject, folder))
            if save.statistics is not None:
                self._save(save.statistics, scored)
        return scored.result

    # --- one subject -------------------------------------------------------------------------------------------------

    def rows(self) -> list[PictureRow]:
        """The captions and seeds that models draw. InputError if the reference has no captions."""
        drawn = replace(self.reference, rows=tuple(self.reference.rows[: self.samples]))  # of millions the first
        return plan(drawn.captions(), self.samples, self.seed, [row.columns for row in drawn.rows])

    def other_seeds(self, rows: Sequence[PictureRow]) -> list[PictureRow]:
        """The first captions with other noise, as diversity needs them; none where its network is missing."""
        return [] if self.suite.lpips is None else with_other_seeds(rows[:DIVERSITY_CAPTIONS], SEED_STRIDE // 2)

    def _score(self, subject: Subject | AutoencoderSubject, folder: Path | None) -> Scored:
        rows = self._rows_of(subject)
        accumulator = StatisticsAccumulator(self.suite)
        to_originals: list[np.ndarray[Any, Any]] = []
        for pictures, of in subject.batches(rows, folder, f"sampling {subject.path.name}"):
            accumulator.add(pictures, of)
            if isinstance(subject, AutoencoderSubject) and self.suite.lpips is not None:
                to_originals.append(self.suite.lpips(pictures, subject.originals))
        if accumulator.count == 0:
            raise InputError("no picture there can be read", where=subject.path, remedy="copy the pictures again")
        real, facts = self.reference_at(subject.image_size)
        figures = distances(accumulator, real)
        figures.notes = {**self.suite.reasons(), **subject.notes(), **figures.notes}
        if isinstance(subject, ModelSubject) and facts["reference_count"] < accumulator.count:
            figures.notes["samples"] = (
                f"the reference's {facts['reference_count']} captions are drawn again, from other noise"
            )
        figures.values["attribute_accuracy"] = accumulator.accuracy()
        if figures.values["attribute_accuracy"] is None:
            figures.notes.setdefault(
                "attribute_accuracy", "no column of the metadata is an attribute that the classifier knows"
            )
        if to_originals:
            figures.values["lpips_squeeze"] = float(np.concatenate(to_originals).mean())
        self._diversity(subject, rows, accumulator, folder, figures)
        if self.reference.notes:
            figures.notes["reference"] = "; ".join(self.reference.notes)
        if isinstance(subject, FolderSubject) and accumulator.sha256() == facts["reference_sha256"]:
            figures.notes["reference"] = "; ".join([*self.reference.notes, THE_SAME])
        if isinstance(subject, FolderSubject) and subject.broken:
            figures.notes["broken"] = (
                f"{counted(len(subject.broken), 'unreadable picture')}: {', '.join(subject.broken[:5])}"
            )
        result = {**subject.record(), "samples": accumulator.count, "seed": self.seed, **facts, **figures.values}
        seeds = [row.seed for row in accumulator.rows if row.seed is not None]
        result["seeds"] = {"first": min(seeds), "last": max(seeds)} if seeds else None
        result["picture_size"] = subject.image_size
        result["pictures_sha256"] = accumulator.sha256()
        result["resize"] = {
            "reference": facts["reference_resize"],
            **{name: found.resize for name, found in self.suite.features.items()},
            "lpips_squeeze": resize_rule(subject.image_size, subject.image_size),
        }
        result |= {"weights": self.suite.weights(), "intervals": figures.intervals, "notes": figures.notes}
        result["lpips_squeeze_paired"] = None
        result["notes"].setdefault("lpips_squeeze_paired", "needs the teacher's pictures: name what to compare against")
        return Scored(result, accumulator.by_caption_and_seed(), accumulator)

    def _rows_of(self, subject: Subject | AutoencoderSubject) -> Sequence[PictureRow]:
        if isinstance(subject, ModelSubject):
            return self.rows()
        return (self.reference if isinstance(subject, AutoencoderSubject) else subject.pictures).rows[: self.samples]

    def reference_at(self, size: int) -> tuple[StatisticsAccumulator, dict[str, Any]]:
        """The reference at `size` px, and its fields in a result."""
        if size not in self._references:
            accumulator = StatisticsAccumulator(self.suite, keep=0)
            broken: list[str] = []
            resizes: set[str] = set()
            for loaded in picture_batches(self.reference, size=size, limit=self.samples):
                accumulator.add(loaded.pictures, loaded.rows)
                broken.extend(loaded.broken)
                resizes.add(loaded.resize)
            if not accumulator.count:
                raise InputError("none of the pictures can be read", where=self.reference.folder)
            facts = {
                "reference": self.reference_name,
                "reference_count": accumulator.count,
                "reference_sha256": accumulator.sha256(),
                "reference_resize": "none" if resizes == {"none"} else f"lanczos-{size}",
                "reference_broken": broken,
                "attribute_accuracy_reference": accumulator.accuracy(),
            }
            self._references[size] = accumulator, facts
        return self._references[size]

    def _diversity(
        self,
        subject: Subject | AutoencoderSubject,
        rows: Sequence[PictureRow],
        own: StatisticsAccumulator,
        folder: Path | None,
        figures: Figures,
    ) -> None:
        """LPIPS between two seeds of the first captions."""
        figures.values["diversity"] = None
        if self.suite.lpips is None:
            return
        if not isinstance(subject, ModelSubject):
            figures.notes["diversity"] = "only a model can draw its captions again"
            return
        others = self.other_seeds(rows)
        drawn = subject.batches(others, folder and folder / "other_seeds", "other seeds")
        again = np.concatenate([pictures for pictures, _ in drawn])
        figures.values["diversity"] = diversity(self.suite.lpips, [np.stack(own.kept[: len(again)]), again])

    # --- against another ---------------------------------------------------------------------------------------------

    def _compare(self, subject: Subject | AutoencoderSubject, scored: Scored, other: Scored) -> None:
        result = scored.result
        result["against"] = other.result
        notes = result["notes"]
        ratios = {}
        if (why := _not_comparable(result, other.result)) is not None:
            notes["fd_ratio"] = why
        for name, metric in FD_NAMES.items():
            own, theirs = result.get(metric), other.result.get(metric) if why is None else None
            ratios[name] = own / theirs if own is not None and theirs else None
        result["fd_ratios"] = ratios
        result["fd_ratio_features"] = next(
            (name for name in ("squeezenet", "efficientnet", "world") if ratios.get(name)), None
        )
        result["fd_ratio"] = ratios.get(result["fd_ratio_features"] or "")
        if result["fd_ratio"] is None:
            notes.setdefault("fd_ratio", "the distance of one side is not available")
        result["fd_to_against"] = self._between(scored, other)
        self._paired(subject, scored, other)

    def _other(self, against: Against, subject: Subject | AutoencoderSubject, folder: Path | None) -> Scored:
        if against not in self._others:
            with open_subject(against.path, against.sampling) as other:
                self._others[against] = self._score(other, folder)
        scored = self._others[against]
        if scored.result["picture_size"] != subject.image_size:
            sizes = f"{scored.result['picture_size']} px against {subject.image_size} px"
            raise InputError(f"pictures of different sizes cannot be compared ({sizes})", where=against.path)
        return scored

    def _saved(self, statistics: Statistics, path: Path, subject: Subject | AutoencoderSubject) -> Scored:
        real, _ = self.reference_at(subject.image_size)
        figures = statistics_distances(statistics, real)
        counts = {found.moments.count for found in statistics.sets.values()}
        result = {**statistics.source, **figures.values, "path": str(path), "statistics_sha256": statistics.sha256}
        result |= {"samples": max(counts, default=0), "intervals": figures.intervals, "notes": figures.notes}
        pictures: dict[tuple[str, int], Pictures] = {}
        if statistics.pairs is not None:
            for row in statistics.pairs.rows:
                if row.text is not None and row.seed is not None:
                    pictures[row.text, row.seed] = np.asarray(read_picture(statistics.pairs.folder / row.file_name))
        return Scored(result, pictures, statistics=statistics)

    def _between(self, scored: Scored, other: Scored) -> dict[str, float | None]:
        """FD of the subject's pictures to the other's own pictures, per feature set."""
        assert scored.accumulator is not None
        found: dict[str, float | None] = {}
        for name, metric in FD_NAMES.items():
            if name not in scored.accumulator.collectors:
                continue
            if other.accumulator is not None:
                theirs: Features | Moments = other.accumulator.features(name)
            elif other.statistics is not None and other.result.get(metric) is not None:
                theirs = other.statistics.sets[name].moments
            else:
                continue
            try:
                found[metric] = frechet_distance(scored.accumulator.features(name), theirs, singular="refuse")
            except TooFewPicturesError:
                found[metric] = None
        return found

    def _paired(self, subject: Subject | AutoencoderSubject, scored: Scored, other: Scored) -> None:
        """LPIPS over the pictures that both drew from the same caption and seed; a model draws missing ones."""
        result, ours = scored.result, dict(scored.pictures)
        missing = [key for key in other.pictures if key not in ours]
        if isinstance(subject, ModelSubject) and missing and other.statistics is not None:
            rows = [PictureRow(f"{index:06d}.png", text, seed) for index, (text, seed) in enumerate(missing)]
            for pictures, of in subject.batches(rows, None, "paired pictures"):
                ours |= {(row.text or "", row.seed or 0): one for row, one in zip(of, pictures, strict=True)}
        shared = [key for key in other.pictures if key in ours]
        result["pairs"] = len(shared)
        if self.suite.lpips is None:
            return
        if not shared:
            reason = "the two have no picture of the same caption and seed in common"
            result["notes"]["lpips_squeeze_paired"] = reason
            return
        first, second = (np.stack([side[key] for key in shared]) for side in (ours, other.pictures))
        if first.shape != second.shape:
            raise InputError(f"pictures of different sizes cannot be paired ({first.shape[1]}, {second.shape[1]} px)")
        distances_of = self.suite.lpips(first, second)
        result["lpips_squeeze_paired"] = float(distances_of.mean())
        result["intervals"]["lpips_squeeze_paired"] = _mean_interval(distances_of)
        result["notes"].pop("lpips_squeeze_paired", None)

    # --- extras ------------------------------------------------------------------------------------------------------

    def _save(self, target: Path, scored: Scored) -> None:
        assert scored.accumulator is not None
        own = scored.accumulator
        source = {key: scored.result.get(key) for key in SOURCE_KEYS}
        kept = [(row, picture) for row, picture in zip(own.rows, own.kept, strict=False) if row.seed is not None]
        rows, pictures = [row for row, _ in kept[:SAVED_PAIRS]], [picture for _, picture in kept[:SAVED_PAIRS]]
        pairs = (rows, np.stack(pictures)) if pictures else None
        numbers = caption_numbers(own.captions())
        scored.result["statistics"] = str(save_statistics(target, own.statistics(), source, pairs, numbers))


def _not_comparable(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Why the FDs of two results have no ratio: other numbers, sizes or references. None where they have one."""
    if one["samples"] != other["samples"]:
        return f"{counted(one['samples'], 'picture')} here, {other['samples']} there: FD compares at equal numbers only"
    for key, what in (("picture_size", "pictures of another size"), ("reference_sha256", "another reference")):
        if other.get(key) is not None and one.get(key) != other[key]:
            return f"the other was measured on {what}: FD compares on the same only"
    return None


def _mean_interval(values: np.ndarray[Any, Any]) -> list[float]:
    """95 % interval of a mean of independent values."""
    error = 1.959964 * float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return [float(values.mean()) - error, float(values.mean()) + error]

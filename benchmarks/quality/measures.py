"""The metrics of a set of pictures, gathered while the pictures stream by, under names that say which features they use.

A `Suite` is what can be measured here: feature extractors, LPIPS and the attribute classifier, each loaded once, and a
reason for each that is missing. A `StatisticsAccumulator` takes batches and keeps features, hits per attribute and the first few
pictures (for LPIPS), never all pixels. `distances` turns two gatherings into figures.

Naming rule: only Inception-2015 features make `fid` and `kid`; others are `fd_<features>` and `kid_<features>`. An unavailable
figure is None, and its reason is in `notes` under its name; nothing takes its place.

Not here: where pictures come from (`subjects`), and the distances' mathematics (`frechet`, `perceptual`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from genin.benchmarks.quality.classifier import AttributeClassifier, load_classifier
from genin.benchmarks.quality.features import FEATURE_SETS, FeatureSet, load_features
from genin.benchmarks.quality.frechet import (
    Captions,
    Estimate,
    Features,
    TooFewPicturesError,
    frechet_distance,
    frechet_interval,
    kid_of_pairs,
    precision_recall,
)
from genin.benchmarks.quality.perceptual import Lpips, load_lpips
from genin.benchmarks.quality.statistics_file import FeatureCollector, SetStatistics, Statistics, caption_numbers
from genin.benchmarks.quality.weights import MetricUnavailableError
from genin.dataset.rows import PictureRow
from genin.dataset.sets import Pictures

FD_NAMES: Final = {
    "world": "fd_world",
    "squeezenet": "fd_squeezenet",
    "efficientnet": "fd_efficientnet",
    "inception": "fid",
}
KID_NAMES: Final = {
    "world": "kid_world",
    "squeezenet": "kid_squeezenet",
    "efficientnet": "kid_efficientnet",
    "inception": "kid",
}
LPIPS_NAME: Final = "lpips_squeeze"
KEPT_PICTURES: Final = 1000
MAX_INTERVAL_FEATURES: Final = 512  # eleven square roots of 2,048 × 2,048 matrices take minutes


@dataclass(frozen=True)
class Suite:
    """What can be measured here; `unavailable` names what cannot ("squeezenet", "lpips_squeeze", …) and why."""

    features: Mapping[str, FeatureSet]
    lpips: Lpips | None
    classifier: AttributeClassifier | None
    unavailable: Mapping[str, str]

    def weights(self) -> dict[str, Any]:
        """Provenance of every network that took part, by metric family."""
        records: dict[str, Any] = {name: dict(found.weights) for name, found in self.features.items()}
        if self.lpips is not None:
            records[LPIPS_NAME] = {part: dict(record) for part, record in self.lpips.weights.items()}
        return records

    def reasons(self) -> dict[str, str]:
        """Metric name => why it is null."""
        reasons: dict[str, str] = {}
        for name, reason in self.unavailable.items():
            if name == LPIPS_NAME:
                reasons |= dict.fromkeys(("lpips_squeeze_paired", "diversity"), reason)
            else:
                reasons |= dict.fromkeys((FD_NAMES[name], KID_NAMES[name]), reason)
        if self.classifier is None:
            reasons["attribute_accuracy"] = "there is no attribute classifier here"
        return reasons


def load_suite(
    weights: Path | None = None, classifier: Path | None = None, *, features: Sequence[str] = FEATURE_SETS
) -> Suite:
    """Load those of `features`, LPIPS and the classifier that are available.

    `weights` is the folder of metric weights, searched before `GENIN_METRIC_WEIGHTS`. Errors: InputError if that is not a folder or
    a feature set is unknown; missing weights are not an error but a reason in `unavailable`.
    """
    found: dict[str, FeatureSet] = {}
    unavailable: dict[str, str] = {}
    for name in features:
        try:
            found[name] = load_features(name, classifier if name == "world" else weights)
        except MetricUnavailableError as error:
            unavailable[name] = str(error)
    unavailable |= {name: "not requested" for name in FEATURE_SETS if name not in features}
    lpips = None
    try:
        lpips = load_lpips("squeeze", weights)
    except MetricUnavailableError as error:
        unavailable[LPIPS_NAME] = str(error)
    present = classifier is not None and classifier.is_file()
    return Suite(found, lpips, load_classifier(classifier) if classifier and present else None, unavailable)


class StatisticsAccumulator:
    """What is kept of a set of pictures: features, right answers per attribute, a digest, and the first pictures."""

    def __init__(self, suite: Suite, *, keep: int = KEPT_PICTURES) -> None:
        self.suite, self.keep = suite, keep
        self.collectors = {name: FeatureCollector(found.fingerprint) for name, found in suite.features.items()}
        self.count = 0
        self.rows: list[PictureRow] = []
        self.kept: list[Pictures] = []
        self.right: dict[str, int] = {}
        self.asked: dict[str, int] = {}
        self._digest = hashlib.sha256()

    def add(self, pictures: Pictures, rows: Sequence[PictureRow]) -> None:
        """Add one batch, N×H×W×3 uint8, and its rows."""
        if not len(pictures):
            return
        for name, collector in self.collectors.items():
            collector.parts.append(self.suite.features[name](pictures))
        room = max(0, self.keep - len(self.kept))
        self.kept.extend(pictures[:room])
        self.rows.extend(rows)
        self.count += len(pictures)
        self._digest.update(np.ascontiguousarray(pictures).tobytes())
        self._answer(pictures, rows)

    def _answer(self, pictures: Pictures, rows: Sequence[PictureRow]) -> None:
        """Compare the classifier's answers with the columns that name one of its values."""
        classifier = self.suite.classifier
        if classifier is None or not any(name in row.columns for row in rows for name in classifier.attributes):
            return
        for name, predicted in classifier.predict(pictures).items():
            known = classifier.attributes[name]
            pairs = [(row.columns.get(name), str(value)) for row, value in zip(rows, predicted, strict=True)]
            answered = [wanted == value for wanted, value in pairs if wanted in known]
            self.right[name] = self.right.get(name, 0) + sum(answered)
            self.asked[name] = self.asked.get(name, 0) + len(answered)

    def sha256(self) -> str:
        """Digest of all pixels in order: identifies the set, whatever its file names."""
        return self._digest.hexdigest()

    def captions(self) -> list[str | None]:
        """The caption of every picture; None where it is unknown."""
        return [row.text for row in self.rows]

    def features(self, name: str) -> Features:
        """N×F features of one set."""
        return self.collectors[name].features()

    def statistics(self) -> dict[str, SetStatistics]:
        """What a statistics file keeps of every feature set."""
        return {name: collector.statistics() for name, collector in self.collectors.items()}

    def accuracy(self) -> dict[str, float] | None:
        """Share of right answers per attribute, and their mean; None if no row names an attribute."""
        shares = {name: self.right[name] / asked for name, asked in self.asked.items() if asked}
        return {**shares, "mean": sum(shares.values()) / len(shares)} if shares else None

    def by_caption_and_seed(self) -> dict[tuple[str, int], Pictures]:
        """The kept pictures that are drawn from a known caption and seed."""
        pairs = zip(self.rows, self.kept, strict=False)
        return {
            (row.text, row.seed): picture for row, picture in pairs if row.text is not None and row.seed is not None
        }


@dataclass
class Figures:
    """Named values (None where unavailable), 95 % intervals, and the reasons."""

    values: dict[str, Any] = field(default_factory=dict)
    intervals: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def keep(self, name: str, estimate: Estimate) -> None:
        """`name` with its interval, if it has one."""
        self.values[name] = estimate.value
        if estimate.interval is not None:
            self.intervals[name] = list(estimate.interval)

    def mark_unavailable(self, name: str, reason: str) -> None:
        """`name` is null, because of `reason`."""
        self.values[name], self.notes[name] = None, reason


def distances(subject: StatisticsAccumulator, reference: StatisticsAccumulator) -> Figures:
    """FD, KID, precision and recall of `subject` against `reference`, in every feature set both have."""
    figures = Figures(values={name: None for names in (FD_NAMES, KID_NAMES) for name in names.values()})
    for name in subject.collectors:
        own, real = subject.features(name), reference.features(name)
        _frechet(figures, FD_NAMES[name], own, real)
        _kid(figures, KID_NAMES[name], (own, subject.captions()), (real, reference.captions()))
        if min(len(own), len(real)) > 3:  # k = 3 nearest neighbours
            precision, recall = precision_recall(own, real)
            figures.values |= {f"precision_{name}": precision, f"recall_{name}": recall}
    return figures


def statistics_distances(statistics: Statistics, reference: StatisticsAccumulator) -> Figures:
    """The same for saved statistics: FD from their moments, KID from the features they keep; no interval for FD. Files without
    captions are split by position for KID, as the reference is then."""
    saved, numbers = statistics.sets, statistics.captions
    figures = Figures(values={name: None for names in (FD_NAMES, KID_NAMES) for name in names.values()})
    for name, collector in reference.collectors.items():
        if name not in saved or saved[name].fingerprint != collector.fingerprint:
            reason = "the saved statistics lack these features" if name not in saved else "other weights or resize"
            figures.mark_unavailable(FD_NAMES[name], reason)
            continue
        real = collector.features()
        try:
            figures.values[FD_NAMES[name]] = frechet_distance(saved[name].moments, real, singular="refuse")
            _note_bias(figures, FD_NAMES[name], min(saved[name].moments.count, len(real)), real.shape[1])
        except TooFewPicturesError as error:
            figures.mark_unavailable(FD_NAMES[name], str(error))
        kept = saved[name].features
        if kept is not None:
            own_captions: Captions = [None] * len(kept) if numbers is None else numbers
            captions = [None] * len(real) if numbers is None else caption_numbers(reference.captions())
            _kid(figures, KID_NAMES[name], (kept, own_captions), (real, captions))
    return figures


def _frechet(figures: Figures, name: str, own: Features, real: Features) -> None:
    try:
        if own.shape[1] > MAX_INTERVAL_FEATURES:
            figures.values[name] = frechet_distance(own, real, singular="refuse")
        else:
            figures.keep(name, frechet_interval(own, real))
    except TooFewPicturesError as error:
        figures.mark_unavailable(name, str(error))
        return
    _note_bias(figures, name, min(len(own), len(real)), own.shape[1])


def _note_bias(figures: Figures, name: str, pictures: int, features: int) -> None:
    if pictures < 4 * features:
        figures.notes[name] = (
            f"{pictures} pictures for {features} features make it too large: compare it only at this number of pictures, "
            f"or use at least {4 * features}"
        )


def _kid(figures: Figures, name: str, own: tuple[Features, Captions], real: tuple[Features, Captions]) -> None:
    try:
        figures.keep(name, kid_of_pairs(own[0], real[0], own[1], real[1]))
    except TooFewPicturesError as error:
        figures.mark_unavailable(name, str(error))

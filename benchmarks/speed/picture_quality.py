"""The pictures of a benchmark's rows: right or not, how far from fp32 and from the teacher, FD where it is asked for.

The pictures are those that were timed. The reference of a model at a number of steps and a size is itself at fp32: as it was
measured; otherwise its fp32 graphs draw the same prompts and seeds, untimed; a bundle without any
is held against its row with the widest weights, which finds engines that disagree.

FD needs thousands of pictures, so it is measured only where `samples` says how many. LPIPS and FD need torch: without it their
figures are null, with the reason in `notes`. Not here: the comparison of two pictures (`genin.benchmarks.quality.validity`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from genin.benchmarks.model_facts import ModelFacts
from genin.benchmarks.peers.table import OWN_NOISE, PEERS
from genin.benchmarks.quality.validity import (
    Distance,
    blank_pictures,
    describe,
    judge,
    psnr_db,
    sha256_of,
    tolerance_of,
)
from genin.benchmarks.results.files import GENIN
from genin.benchmarks.speed.configurations import Configuration
from genin.benchmarks.speed.journal import Journal
from genin.benchmarks.speed.protocol import Protocol
from genin.benchmarks.speed.rounds import draw_untimed
from genin.benchmarks.speed.rows import NO_TEACHER, teacher_of
from genin.benchmarks.speed.samples import Measured, Pictures, as_measured
from genin.benchmarks.speed.worker import WorkerError
from genin.runtimes.errors import GeninError, InputError
from genin.runtimes.lazy import missing_extra
from genin.runtimes.wording import counted

if TYPE_CHECKING:
    from genin.benchmarks.quality.clip_score import ClipScorer
    from genin.benchmarks.quality.evaluator import Evaluator

FD_KEYS: Final = ("fid", "fd_squeezenet", "fd_efficientnet", "fd_world")
PAIRED_KEYS: Final = ("lpips_squeeze_to_fp32", "psnr_db_to_fp32", "lpips_squeeze_to_teacher")
FD_NOT_ASKED: Final = "FD is measured only where a number of samples is given"
FD_ONCE: Final = "FD is measured of single pictures of the model's own size"
FD_OF_GENIN: Final = "FD is measured of genin's pictures; a peer's are compared with them"
EXTRA: Final = "metrics"
OWN_PLAN: Final = "a plan of its own"  # of several precisions
WIDEST_FIRST: Final = ("fp32", "bf16", "fp16", OWN_PLAN, "int8", "w8a8", "palette6", "palette4")

Key = tuple[Path, int, int | None]


@dataclass(frozen=True)
class Quality:
    """What is needed to measure quality; `samples` None leaves FD out, `clip` None the CLIP score. `references` are the dataset
    folders to measure FD against, by model: of pictures rendered at its size, if they are rendered."""

    samples: int | None = None
    references: Mapping[Path, Path] = field(default_factory=dict)
    metric_weights: Path | None = None
    classifier: Path | None = None
    clip: str | Path | None = None


@dataclass(frozen=True)
class Reference:
    """Number => picture of a model at a number of steps and a size, and what drew them; `measured` is its row, if it has one."""

    pictures: Mapping[int, Pictures]
    name: str
    is_fp32: bool
    measured: Measured | None = None


@dataclass(frozen=True)
class Drawn:
    """All that was measured, with its rows, how, and what it is compared with; `first_steps` as of `rows.teacher_of`."""

    rows: Sequence[Mapping[str, Any]]
    measured: Sequence[Measured]
    protocol: Protocol
    references: Mapping[Key, Reference]
    first_steps: Mapping[str, int]

    def teacher(self, of: Mapping[str, Any]) -> Measured | None:
        """Genin's, which drew pictures of a row's size; of a batch, if possible, which has as many pictures."""
        known = [pair for pair in zip(self.rows, self.measured, strict=True) if pair[1].configuration.program == GENIN]
        known.sort(key=lambda pair: _batch(pair[1]), reverse=True)
        found = teacher_of(of, [row for row, _ in known], self.first_steps, alike=("image_size",))
        return next((one for row, one in known if row is found), None)


@dataclass
class PictureQuality:
    """The metrics that are available, and why the others are not. Made before an hour of measuring, so that errors come first.
    `evaluators` measure FD, by model; the `journal` has what was measured already."""

    lpips: Distance | None
    evaluators: Mapping[Path, Evaluator] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    clip: ClipScorer | None = None
    asked: Quality = field(default_factory=Quality)
    journal: Journal = field(default_factory=lambda: Journal(None))

    @classmethod
    def prepared(cls, quality: Quality, seed: int) -> PictureQuality:
        """Errors: InputError for a reference of FD that cannot be used, MissingExtraError for FD without torch."""
        notes: dict[str, str] = {}
        lpips = _load_lpips(quality, notes)
        if quality.samples is None:
            notes |= dict.fromkeys((*FD_KEYS, "samples"), FD_NOT_ASKED)
        return cls(lpips, _evaluators(quality, seed), notes, _load_clip(quality.clip, notes), quality)

    def judge(self, row: dict[str, Any], measured: Measured, others: Drawn) -> None:
        """Fill in whether the row's pictures are right."""
        own = measured.by_number()
        row["pictures_sha256"] = sha256_of(own[number] for number in sorted(own))
        row |= self._validity(row, measured, others.references.get(key_of(measured.configuration)), others.protocol)

    def add_to(self, row: dict[str, Any], measured: Measured, others: Drawn) -> None:
        """Fill in what the row's pictures say, after those of all rows were judged: wrong ones of a teacher say nothing."""
        reference = others.references.get(key_of(measured.configuration))
        row |= self._paired(measured, reference, others.teacher(row), row["notes"])
        row |= self._clip(measured.by_number(), others.protocol)
        row |= self._fd(as_measured(measured), row["notes"])

    def _validity(
        self, row: Mapping[str, Any], measured: Measured, reference: Reference | None, protocol: Protocol
    ) -> dict[str, Any]:
        if reference is None or draws_own_noise(measured.configuration):
            blank = blank_pictures(measured.by_number().items())
            found = {"pictures": len(measured.by_number()), "reference": None, "reasons": blank}
            return {"valid": False if blank else None, "validity": found}
        tolerance = tolerance_of(str(measured.facts["precision"]))
        verdict = judge(measured.drawn(), reference.pictures, tolerance, self.lpips)
        picture = None if verdict.worst is None else protocol.picture(verdict.worst)
        found = describe(verdict, tolerance, picture, reference.name)
        if reference.measured is measured:
            row["notes"]["validity"] = "it is the reference itself: its processes were compared with each other"
        elif not reference.is_fp32:
            row["notes"]["validity"] = f"no fp32 to compare with: compared with {reference.name}"
        return {"valid": not verdict.reasons, "validity": found}

    def _paired(
        self, measured: Measured, reference: Reference | None, teacher: Measured | None, notes: dict[str, str]
    ) -> dict[str, Any]:
        """LPIPS and PSNR over the pictures of one process, to fp32 and to the teacher."""
        values: dict[str, Any] = {**dict.fromkeys(PAIRED_KEYS), "pairs": len(measured.by_number())}
        if draws_own_noise(measured.configuration):
            notes |= dict.fromkeys(PAIRED_KEYS, OWN_NOISE)
            return values
        if reference is None or not reference.is_fp32:
            notes |= dict.fromkeys(PAIRED_KEYS[:2], "this model was not drawn at fp32")
        elif (pairs := _pairs(measured.by_number(), reference.pictures)) is not None:
            values["psnr_db_to_fp32"] = psnr_db(*pairs)
            if values["psnr_db_to_fp32"] is None:
                notes["psnr_db_to_fp32"] = "identical pictures"
            _note_fewer(notes, PAIRED_KEYS[:2], pairs, values["pairs"])
            values["lpips_squeeze_to_fp32"] = self.lpips and float(self.lpips(*pairs).mean())
        else:
            notes |= dict.fromkeys(PAIRED_KEYS[:2], "its pictures have another size than those at fp32")
        if teacher is None or teacher is measured:
            notes["lpips_squeeze_to_teacher"] = "it is the teacher" if teacher else NO_TEACHER
        elif (pairs := _pairs(measured.by_number(), teacher.by_number())) is not None:
            _note_fewer(notes, PAIRED_KEYS[2:], pairs, values["pairs"])
            values["lpips_squeeze_to_teacher"] = self.lpips and float(self.lpips(*pairs).mean())
        else:
            notes["lpips_squeeze_to_teacher"] = "the teacher's pictures have another size"
        return values

    def _clip(self, drawn: Mapping[int, Pictures], protocol: Protocol) -> dict[str, Any]:
        """CLIP score of the timed pictures and their prompts."""
        if self.clip is None or not drawn:
            return {"clip_score": None, "clip_score_interval": None}
        from genin.benchmarks.quality.clip_score import mean_with_interval

        prompts = [protocol.picture(number)[0] for number in drawn]
        mean, interval = mean_with_interval(self.clip.scores(np.stack(list(drawn.values())), prompts).tolist(), prompts)
        return {
            "clip_score": round(mean, 4),
            "clip_score_interval": interval and [round(bound, 4) for bound in interval],
        }

    def _fd(self, configuration: Configuration, notes: dict[str, str]) -> dict[str, Any]:
        values: dict[str, Any] = dict.fromkeys((*FD_KEYS, "samples"))
        evaluator = self.evaluators.get(configuration.path)
        if evaluator is None:
            return values
        if not configuration.is_plain or configuration.program != GENIN:
            notes |= dict.fromkeys(FD_KEYS, FD_OF_GENIN if configuration.is_plain else FD_ONCE)
            return values
        from genin.benchmarks.quality.subjects import Sampling

        sampling = Sampling(
            steps=configuration.steps,
            runtime=configuration.runtime,
            precision=configuration.precision,
            batch_size=16,
            device=configuration.device,
        )

        def measure() -> dict[str, Any]:
            result = evaluator.evaluate(configuration.path, sampling)
            return {key: result[key] for key in (*values, "notes")}

        try:  # once for all numbers of threads, which draw the same pictures
            found = self.journal.keep(f"fd {configuration.path} {sampling!r} {self.asked!r}", measure)
        except (GeninError, MemoryError, RuntimeError) as error:  # torch raises RuntimeError when out of memory
            notes |= dict.fromkeys(FD_KEYS, str(error) or "out of memory")
            return values
        notes |= {key: reason for key, reason in found["notes"].items() if key in FD_KEYS}
        return {key: found[key] for key in values}


def add_quality(
    rows: Sequence[dict[str, Any]],
    measured: Sequence[Measured],
    facts: Mapping[Path, ModelFacts],
    quality: PictureQuality,
    protocol: Protocol,
    first_steps: Mapping[str, int],
) -> dict[Key, Reference]:
    """Fill in what the pictures of all rows say; `rows` are those of `measured`, in order. Returns what they were compared with."""
    references = find_references(measured, facts, protocol, quality.journal)
    drawn = Drawn(rows, measured, protocol, references, first_steps)
    for fill_in in (quality.judge, quality.add_to):
        for row, one in zip(rows, measured, strict=True):
            fill_in(row, one, drawn)
    return references


def find_references(
    measured: Sequence[Measured], facts: Mapping[Path, ModelFacts], protocol: Protocol, journal: Journal
) -> dict[Key, Reference]:
    """The reference of every model at every number of steps and every size that was measured; the `journal` may have it."""
    found: dict[Key, Reference] = {}
    for one in measured:
        key = key_of(one.configuration)
        if key not in found:
            drawn = [other for other in measured if other.configuration.program == GENIN and other.by_number()]
            same = [other for other in drawn if key_of(other.configuration) == key]
            reference = _measured_reference(same)
            if reference is None or not reference.is_fp32:
                reference = _untimed_reference(same, facts[key[0]], protocol, journal) or reference
            if reference is not None:
                found[key] = reference
    return found


def draws_own_noise(configuration: Configuration) -> bool:
    """Whether a seed gives other pictures than genin's, so that there is nothing to compare."""
    peer = PEERS.get(configuration.program)
    return peer is not None and peer.own_noise


def key_of(configuration: Configuration) -> Key:
    """What configurations have in common that are compared with one reference."""
    return configuration.path, configuration.steps, configuration.size


def _batch(measured: Measured) -> int:
    return measured.configuration.batch


def _measured_reference(same: Sequence[Measured]) -> Reference | None:
    """The widest weights', with activations of full width before those of eight bits; of equal ones the largest batch's: it drew
    the most pictures."""

    def narrowness(one: Measured) -> tuple[int, int]:
        precision = str(one.facts["precision"])
        return WIDEST_FIRST.index(precision if precision in WIDEST_FIRST else OWN_PLAN), -_batch(one)

    widest = min(same, key=narrowness, default=None)
    if widest is None:
        return None
    name = f"{widest.facts['runtime']} {widest.facts['precision']}"
    return Reference(widest.by_number(), name, widest.facts["precision"] == "fp32", widest)


def _untimed_reference(
    same: Sequence[Measured], facts: ModelFacts, protocol: Protocol, journal: Journal
) -> Reference | None:
    """Drawn by fp32 graphs that were not among the configurations, on the first runtime that can."""
    numbers = sorted({number for one in same for number in one.by_number()})
    for runtime, precision in facts.choices() if numbers else ():
        if precision == "fp32":
            asked = same[0].configuration
            wide = replace(asked, runtime=runtime, precision=precision, batch=1)
            draw = partial(draw_untimed, wide, protocol, numbers)
            try:
                return Reference(journal.pictures(repr(wide), numbers, draw), f"{runtime} {precision}", True)
            except WorkerError:
                continue
    return None


def _pairs(own: Mapping[int, Pictures], others: Mapping[int, Pictures]) -> tuple[Pictures, Pictures] | None:
    """Two stacks of the pictures that both have; None if they have no number, or no size, in common."""
    common = [number for number in sorted(own) if number in others and own[number].shape == others[number].shape]
    return (np.stack([own[one] for one in common]), np.stack([others[one] for one in common])) if common else None


def _note_fewer(notes: dict[str, str], keys: Sequence[str], pairs: tuple[Pictures, Pictures], drawn: int) -> None:
    """A slow process draws fewer pictures in its time."""
    if (common := len(pairs[0])) < drawn:
        for key in keys:
            notes[key] = f"of {counted(common, 'picture')} that both drew, of {drawn}" + (
                f": {notes[key]}" if key in notes else ""
            )


def _evaluators(quality: Quality, seed: int) -> dict[Path, Evaluator]:
    """By model, one for all of a reference. Errors: InputError for a reference of FD that cannot be used, MissingExtraError
    without torch."""
    if quality.samples is None:
        return {}
    from genin.benchmarks.quality.evaluator import Evaluator
    from genin.benchmarks.quality.measures import load_suite

    if not quality.references:
        raise InputError("samples for FD need a reference", remedy="name one")
    suite = load_suite(quality.metric_weights, quality.classifier)
    folders = set(quality.references.values())
    found = {folder: Evaluator(folder, suite, samples=quality.samples, seed=seed) for folder in folders}
    for evaluator in found.values():
        evaluator.reference.captions()
    return {model: found[folder] for model, folder in quality.references.items()}


def _load_clip(name: str | Path | None, notes: dict[str, str]) -> ClipScorer | None:
    """Errors: InputError for a folder without CLIP."""
    if name is None:
        return None
    try:
        from genin.benchmarks.quality.clip_score import load_clip

        return load_clip(name)
    except InputError:
        raise
    except GeninError as error:
        notes["clip_score"] = str(error)
    except ModuleNotFoundError as error:
        if (missing := missing_extra(error, EXTRA)) is None:
            raise
        notes["clip_score"] = f"CLIP score is not available: it needs PyTorch and transformers: {missing.remedy}"
    return None


def _load_lpips(quality: Quality, notes: dict[str, str]) -> Distance | None:
    try:
        from genin.benchmarks.quality.perceptual import load_lpips

        return load_lpips("squeeze", quality.metric_weights)
    except InputError:
        raise
    except GeninError as error:  # weights that are not available
        reason = str(error)
    except ModuleNotFoundError as error:
        if (missing := missing_extra(error, EXTRA)) is None:
            raise
        reason = f"LPIPS needs PyTorch: {missing.remedy}"
    notes |= dict.fromkeys(("lpips_squeeze_to_fp32", "lpips_squeeze_to_teacher"), reason)
    return None

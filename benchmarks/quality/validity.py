"""Whether pictures are right: each compared with the reference's of the same prompt, seed and steps.

A fast configuration that draws something else is no fast configuration. Weights in 16 or 32 bits must give nearly the same picture
on every runtime; with fewer bits a picture may differ as far as export allows (`genin.export.checks.acceptance`), by LPIPS where
its weights are available. Now and then a seed lies between two pictures and tips to the other, so the median picture is held to a
stricter limit than the worst.

In numpy alone; LPIPS is handed in. Not here: which pictures are the reference (`genin.benchmarks.speed.references`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from genin.runtimes.errors import InputError
from genin.runtimes.wording import counted

Pictures = NDArray[np.uint8]
Distance = Callable[[Pictures, Pictures], NDArray[np.float32]]

PEAK: Final = 255.0


@dataclass(frozen=True)
class Tolerance:
    """The least PSNR of the median picture and of the worst, in dB, and the greatest LPIPS, mean and worst. LPIPS counts where it
    is measured, otherwise PSNR."""

    psnr_db: float
    worst_psnr_db: float
    lpips: float | None = None
    worst_lpips: float | None = None

    def describe(self) -> dict[str, float]:
        limits = {"psnr_db": self.psnr_db, "worst_psnr_db": self.worst_psnr_db}
        others = {"lpips_squeeze": self.lpips, "worst_lpips_squeeze": self.worst_lpips}
        return limits | {name: limit for name, limit in others.items() if limit is not None}


EXACT: Final = Tolerance(40.0, 20.0)
ROUNDED: Final = Tolerance(30.0, 20.0, 0.02, 0.1)


def tolerance_of(precision: str) -> Tolerance:
    """What pictures of a precision are held to."""
    return EXACT if precision in ("fp32", "fp16") else ROUNDED


@dataclass(frozen=True)
class Verdict:
    """What the comparison says; PSNR is None where pictures are identical, `worst` the number of the picture that differs most."""

    pictures: int
    psnr_db: float | None = None
    worst_psnr_db: float | None = None
    lpips: float | None = None
    worst_lpips: float | None = None
    worst: int | None = None
    reasons: tuple[str, ...] = field(default=())


def judge(
    drawn: Iterable[tuple[int, int, Pictures]],
    reference: Mapping[int, Pictures],
    tolerance: Tolerance,
    lpips: Distance | None = None,
) -> Verdict:
    """Compare pictures with the reference's.

    Args:
        drawn: (process, number, picture (H, W, 3) uint8); equal pictures of one number are compared once.
        reference: number => picture; those that it lacks are left out.
        tolerance: what they are held to.
        lpips: measures distances of two stacks (N, H, W, 3).
    """
    distinct = {(number, picture.tobytes()): picture for _, number, picture in drawn if number in reference}
    if not distinct:
        return Verdict(0, reasons=("no pictures were drawn",))
    numbers = [number for number, _ in distinct]
    own, others = list(distinct.values()), [reference[number] for number in numbers]
    if any(one.shape != other.shape for one, other in zip(own, others, strict=True)):
        shapes = [f"{one.shape[1]}x{one.shape[0]}" for one in (own[0], others[0])]
        return Verdict(len(own), reasons=(f"pictures of {shapes[0]}, the reference's are {shapes[1]}",))
    found_db = [psnr_db(one, other) for one, other in zip(own, others, strict=True)]
    levels = np.array([math.inf if level is None else level for level in found_db])
    distances = None if lpips is None else lpips(np.stack(own), np.stack(others))
    worst = int(levels.argmin() if distances is None else distances.argmax())
    found = Verdict(
        pictures=len(own),
        psnr_db=_finite(float(np.median(levels))),
        worst_psnr_db=_finite(float(levels.min())),
        lpips=None if distances is None else float(distances.mean()),
        worst_lpips=None if distances is None else float(distances.max()),
        worst=numbers[worst] if math.isfinite(levels.min()) else None,
    )
    reasons = [*blank_pictures(zip(numbers, own, strict=True)), *_beyond(found, tolerance)]
    return Verdict(**(vars(found) | {"reasons": tuple(reasons)}))


def blank_pictures(pictures: Iterable[tuple[int, Pictures]]) -> list[str]:
    """Pictures of one colour: no model draws them on purpose."""
    blank = [number for number, picture in pictures if picture.min() == picture.max()]
    return [f"{counted(len(blank), 'blank picture')}, the first is number {blank[0]}"] if blank else []


def _beyond(found: Verdict, tolerance: Tolerance) -> list[str]:
    """What is outside the tolerance."""
    by_lpips = tolerance.lpips is not None and found.lpips is not None
    limits: list[tuple[str, float | None, float | None, bool, str]]
    if by_lpips:
        limits = [
            ("LPIPS", found.lpips, tolerance.lpips, False, ".3f"),
            ("LPIPS of the worst picture", found.worst_lpips, tolerance.worst_lpips, False, ".3f"),
        ]
    else:
        limits = [
            ("PSNR of the median picture", found.psnr_db, tolerance.psnr_db, True, ".1f"),
            ("PSNR of the worst picture", found.worst_psnr_db, tolerance.worst_psnr_db, True, ".1f"),
        ]
    reasons = []
    for name, value, limit, least, form in limits:
        if value is not None and limit is not None and (value < limit if least else value > limit):
            unit = " dB" if least else ""
            reasons.append(f"{name} is {value:{form}}{unit}, {'at least' if least else 'at most'} {limit:g} is allowed")
    return reasons


def psnr_db(pictures: Pictures, reference: Pictures) -> float | None:
    """Peak signal-to-noise ratio of pictures or whole stacks in dB, peak 255; None if they are identical."""
    if pictures.shape != reference.shape:
        raise InputError(f"PSNR needs equal shapes, not {pictures.shape} and {reference.shape}")
    error = float(np.mean((pictures.astype(np.float64) - reference.astype(np.float64)) ** 2))
    return None if error == 0 else float(10 * np.log10(PEAK**2 / error))


def sha256_of(pictures: Iterable[Pictures]) -> str:
    """Over shapes and pixels."""
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(str(picture.shape).encode())
        digest.update(np.ascontiguousarray(picture).tobytes())
    return digest.hexdigest()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def describe(verdict: Verdict, tolerance: Tolerance, picture: tuple[str, int] | None, reference: str) -> dict[str, Any]:
    """As a result file has it; `picture` is the prompt and seed of the worst."""

    def rounded(value: float | None) -> float | None:
        return None if value is None else round(value, 6)

    return {
        "pictures": verdict.pictures,
        "reference": reference,
        "psnr_db": rounded(verdict.psnr_db),
        "worst_psnr_db": rounded(verdict.worst_psnr_db),
        "lpips_squeeze": rounded(verdict.lpips),
        "worst_lpips_squeeze": rounded(verdict.worst_lpips),
        "worst_picture": None if picture is None else {"prompt": picture[0], "seed": picture[1]},
        "tolerance": tolerance.describe(),
        "reasons": list(verdict.reasons),
    }

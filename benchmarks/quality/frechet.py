"""Distances between two sets of features: Fréchet distance, KID, precision and recall, each with its interval.

The numbers come from torch-fidelity's own functions, so they are FID's and KID's published definitions; this module only adds: are
there enough pictures, and how far would the number move with other pictures?

- FD (Heusel et al. 2017, eq. 6): ‖μ₁−μ₂‖² + tr(Σ₁+Σ₂−2(Σ₁Σ₂)^½). With N ≤ features a covariance is singular and the number means
little: it is refused, or only warned about if the caller asks for that. Interval: delete-a-group jackknife over ten groups
  of the first set, the second held fixed. FD is biased upwards at small N; compare at equal N only.
- KID (Bińkowski et al. 2018): unbiased MMD² with kernel (x·y/F+1)³, mean over random subsets. Interval: the spread over
  subsets of size m rescaled to all n pictures, s·√(m/n)/√(1−m/n) (subsampling; conservative where both sets agree). Sets that show
  the same captions are not independent samples: `kid_of_pairs`.
- precision/recall (Kynkäänniemi et al. 2019), k = 3.

Not covered: FD extrapolated to infinite N.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from genin.runtimes.errors import InputError
from genin.runtimes.wording import counted

Captions = Sequence[str | int | None]  # of every picture, or a number for it; None where it is unknown
Features = NDArray[np.float32]
Z_95 = 1.959964  # two-sided 95 % of a normal distribution
JACKKNIFE_GROUPS = 10
KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000
MIN_KID_PICTURES = 4


class TooFewPicturesError(InputError):
    """The set has no more pictures than features: its covariance is singular."""


@dataclass(frozen=True)
class Moments:
    """Mean (F,) and covariance (F, F) of `count` features, float64."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    count: int


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval (None where it was not computed)."""

    value: float
    interval: tuple[float, float] | None = None

    @property
    def error(self) -> float:
        """Half of the interval's width; 0 where there is none."""
        return 0.0 if self.interval is None else (self.interval[1] - self.interval[0]) / 2


def moments(features: Features) -> Moments:
    """N×F features => their mean and unbiased covariance."""
    statistics = fid_features_to_statistics(torch.from_numpy(features.astype(np.float64)))
    return Moments(statistics["mu"], statistics["sigma"], len(features))


def frechet_distance(
    first: Features | Moments, second: Features | Moments, *, singular: Literal["refuse", "warn"] = "warn"
) -> float:
    """FD between two sets. With N ≤ F: TooFewPicturesError, or a warning if `singular` is "warn"."""
    one, other = _as_moments(first), _as_moments(second)
    dimension = len(one.mean)
    if dimension != len(other.mean):
        raise InputError(f"feature sets of {dimension} and {len(other.mean)} features cannot be compared")
    fewest = min(one.count, other.count)
    if fewest <= dimension:
        reason = f"{counted(fewest, 'picture')} for {dimension} features: the covariance is singular"
        if singular == "refuse":
            raise TooFewPicturesError(reason, remedy=f"use at least {dimension + 1} pictures, better {4 * dimension}")
        warnings.warn(reason, stacklevel=2)
    return _torch_fidelity_fd(one, other)


def frechet_interval(first: Features, second: Features | Moments) -> Estimate:
    """FD with a 95 % interval from a delete-a-group jackknife over `first`; refuses N ≤ F."""
    other = _as_moments(second)
    value = frechet_distance(first, other, singular="refuse")
    group_of = np.arange(len(first)) % JACKKNIFE_GROUPS  # i and i+1 in different groups: order does not matter
    left = [_torch_fidelity_fd(moments(first[group_of != group]), other) for group in range(JACKKNIFE_GROUPS)]
    error = float(np.sqrt((JACKKNIFE_GROUPS - 1) * np.var(left)))
    return Estimate(value, (max(0.0, value - Z_95 * error), value + Z_95 * error))


def kid(first: Features, second: Features, *, seed: int = 2020) -> Estimate:
    """Mean KID over subsets of at most 1,000 pictures, with a 95 % interval; at least four pictures per set."""
    smaller = min(len(first), len(second))
    if smaller < MIN_KID_PICTURES:
        raise TooFewPicturesError(f"{smaller} pictures are too few for KID", remedy=f"use {MIN_KID_PICTURES} or more")
    size = min(KID_SUBSET_SIZE, smaller // 2)
    result = kid_features_to_metric(
        torch.from_numpy(first.astype(np.float64)),
        torch.from_numpy(second.astype(np.float64)),
        kid_subsets=KID_SUBSETS,
        kid_subset_size=size,
        rng_seed=seed,
        verbose=False,
    )
    share = size / smaller
    error = result[KEY_METRIC_KID_STD] * (share / (1 - share)) ** 0.5
    mean = result[KEY_METRIC_KID_MEAN]
    return Estimate(mean, (mean - Z_95 * error, mean + Z_95 * error))


def kid_of_pairs(first: Features, second: Features, first_captions: Captions, second_captions: Captions) -> Estimate:
    """KID of two sets that show the same captions: one half of the captions in the one set against the other half in the other,
    and the other way round, averaged. Pictures without captions are split by position.

    KID's estimate is unbiased for independent samples. Pictures of one caption resemble each other more than those of two do:
    with one in each set the estimate comes out too low, below zero for good models; with two in one set, too high. Errors:
    TooFewPicturesError.
    """
    fewest = 2 * MIN_KID_PICTURES
    if (smaller := min(len(first), len(second))) < fewest:
        raise TooFewPicturesError(f"{smaller} pictures are too few for KID", remedy=f"use {fewest} or more")
    half = {caption: place % 2 for place, caption in enumerate(dict.fromkeys((*second_captions, *first_captions)))}
    one, other = (
        np.array([place % 2 if caption is None else half[caption] for place, caption in enumerate(captions)])
        for captions in (first_captions, second_captions)
    )
    found = [kid(first[one == side], second[other != side]) for side in (0, 1)]
    mean = sum(each.value for each in found) / 2
    error = float(np.linalg.norm([each.error for each in found])) / 2
    return Estimate(mean, (mean - error, mean + error))


def precision_recall(generated: Features, real: Features) -> tuple[float, float]:
    """Share of generated pictures inside the real manifold, and of real ones inside the generated manifold."""
    result = prc_features_to_metric(
        torch.from_numpy(generated), torch.from_numpy(real), verbose=False, save_cpu_ram=True, prc_batch_size=2048
    )
    return float(result[KEY_METRIC_PRECISION]), float(result[KEY_METRIC_RECALL])


def _as_moments(features: Features | Moments) -> Moments:
    return features if isinstance(features, Moments) else moments(features)


def _torch_fidelity_fd(one: Moments, other: Moments) -> float:
    statistics = [{"mu": side.mean, "sigma": side.covariance} for side in (one, other)]
    return float(fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID])

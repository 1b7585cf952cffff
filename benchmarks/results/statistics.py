"""Statistics of runs that come from several processes: quantiles with intervals, and the ratio of two latencies.

Runs of one process resemble each other: where its memory lies, which cores it got, what was in the cache. An interval from its runs
alone is too narrow, however many there are. So uncertainty is found by a hierarchical bootstrap: processes are drawn with
replacement, then runs within each. Few processes say little about how processes differ: their part of the variance is corrected
by P / (P − 1), and the interval takes Student's t with the degrees of freedom of Welch and Satterthwaite in place of the normal
distribution. Only what runs alone would contribute has as many degrees as there are runs: where processes differ more than their
runs do, P processes give P − 1. Everything is on the logarithm, since latencies are compared as ratios.

Runs that were interleaved (round by round, each process of one configuration beside one of the other) are compared as pairs: what
disturbs a round is in both, and cancels.

Checked by simulation in tests/benchmarks/test_statistics.py: coverage, planted slowdowns, outliers, drift and slow processes. In
numpy alone: scipy is not part of an installation without torch, and its bootstrap knows no levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 600
MOST_DRAWN: Final = 3_000_000  # numbers of all resamples together: thousands of runs are resampled less often
PERCENTILES: Final = (50, 90, 95, 99)
LEAST_RUNS: Final = {95: 20, 99: 100}  # of fewer, a percentile is close to the maximum
# For an interval: a bootstrap knows no more than the largest run. Of 15 runs, 84 of 100 intervals of p95 hold the truth, of 40 runs
# 93; of p99, 83 of 100 runs and 98 of 300. The others are too low.
INTERVAL_RUNS: Final = {90: 20, 95: 40, 99: 300}
FENCE: Final = 3.0  # times the distance of the quartiles: Tukey's far outliers
SEED: Final = 0

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate and its interval at `CONFIDENCE`: from 0 to infinity where a single run says nothing of how runs differ."""

    estimate: float
    low: float
    high: float

    def bounds(self, digits: int = 4) -> list[float] | None:
        """[low, high], rounded; None where they are not known."""
        return [round(self.low, digits), round(self.high, digits)] if np.isfinite(self.high) else None


@dataclass(frozen=True)
class _Uncertainty:
    """Variance of an estimate, and the degrees of freedom that it is known with."""

    variance: float
    freedom: float


def by_process(values: Sequence[float], processes: Sequence[int]) -> list[Values]:
    """Runs in one column, and the process of each => one array for each process, in the order of their numbers."""
    column, of = np.asarray(values, np.float64), np.asarray(processes)
    return [column[of == process] for process in np.unique(of)]


def quantile_interval(groups: Sequence[Values], rank: float) -> Interval:
    """The quantile `rank` (0.5 is the median) of all runs, one array of positive numbers for each process."""
    logs = [np.log(group) for group in groups]
    estimate = _quantile(logs, rank)
    reach = _reach([_uncertainty(logs, rank)])
    return Interval(*(float(np.exp(estimate + step)) for step in (0.0, -reach, reach)))


def ratio_interval(old: Sequence[Values], new: Sequence[Values], *, paired: bool) -> Interval:
    """How many times as long `new` takes as `old`.

    `paired`: entry i of process p of both ran in the same round; then it is the median of the rounds' ratios, otherwise the ratio
    of the medians. Errors: ValueError for pairs of unequal numbers.
    """
    if paired:
        if [len(group) for group in old] != [len(group) for group in new]:
            raise ValueError("pairs need as many runs of both")
        logs = [np.log(one) - np.log(other) for one, other in zip(new, old, strict=True)]
        estimate, parts = _quantile(logs, 0.5), [_uncertainty(logs, 0.5)]
    else:
        both = [[np.log(group) for group in groups] for groups in (old, new)]
        estimate = _quantile(both[1], 0.5) - _quantile(both[0], 0.5)
        parts = [_uncertainty(logs, 0.5) for logs in both]
    reach = _reach(parts)
    return Interval(*(float(np.exp(estimate + step)) for step in (0.0, -reach, reach)))


def summary(groups: Sequence[Values]) -> dict[str, float | None]:
    """`percentiles`, mean, standard deviation, minimum and maximum of all runs."""
    values = np.concatenate(groups)
    found = percentiles(values)
    found |= {"mean": values.mean(), "sd": values.std(ddof=1) if len(values) > 1 else None}
    found |= {"min": values.min(), "max": values.max()}
    return {name: value if value is None else round(float(value), 4) for name, value in found.items()}


def percentiles(values: Sequence[float] | Values) -> dict[str, float | None]:
    """p50, p90, p95 and p99, linear between ranks; None for fewer than `LEAST_RUNS`."""
    found = np.percentile(np.asarray(values, np.float64), PERCENTILES)
    return {
        f"p{rank}": round(float(value), 4) if len(values) >= LEAST_RUNS.get(rank, 1) else None
        for rank, value in zip(PERCENTILES, found, strict=True)
    }


def intervals(groups: Sequence[Values]) -> dict[str, list[float]]:
    """p50, p90, p95 and p99 => [low, high], of `INTERVAL_RUNS` or more. Empty for a single run."""
    runs = sum(map(len, groups))
    ranks = [rank for rank in PERCENTILES if runs >= INTERVAL_RUNS.get(rank, 1)]
    found = {f"p{rank}": quantile_interval(groups, rank / 100).bounds() for rank in ranks}
    return {name: bounds for name, bounds in found.items() if bounds is not None}


def outliers(values: Sequence[float] | Values) -> int:
    """How many runs took longer than the upper quartile and three times the distance of the quartiles."""
    column = np.asarray(values, np.float64)
    low, high = np.percentile(column, (25, 75))
    return int((column > high + FENCE * (high - low)).sum())


def t_quantile(probability: float, freedom: float) -> float:
    """The quantile of Student's t, for probabilities of at least a half.

    With t = √ν tan θ the density becomes cos^(ν−1) θ, which is smooth and bounded: its integral over a fine grid, inverted. Right
    to four digits for ν ≥ 1.
    """
    angles = np.linspace(0.0, np.pi / 2, 20_001)
    # As exp(log): cos is 0 at the end, where ν = 1 wants 0^0 = 1.
    with np.errstate(divide="ignore", invalid="ignore"):
        density = np.where(freedom == 1, 1.0, np.exp((freedom - 1) * np.log(np.cos(angles))))
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    angle = np.interp(2 * probability - 1, area / area[-1], angles)
    return float(np.sqrt(freedom) * np.tan(angle))


def _reach(parts: Sequence[_Uncertainty]) -> float:
    """Half of an interval: the variances of independent parts add up, with Welch's degrees of freedom."""
    variance = sum(part.variance for part in parts)
    if variance == 0 or variance == np.inf:
        return variance
    freedom = variance**2 / sum(part.variance**2 / part.freedom for part in parts)
    return t_quantile((1 + CONFIDENCE) / 2, freedom) * float(np.sqrt(variance))


def _uncertainty(groups: Sequence[Values], rank: float) -> _Uncertainty:
    """The variance of a quantile of all runs: between processes, and within them."""
    count, runs = len(groups), sum(map(len, groups))
    if runs < 2:
        return _Uncertainty(np.inf, 1.0)
    resampled = float(_resamples(groups, rank).var(ddof=1))
    if count == 1:  # how processes differ is not known
        return _Uncertainty(resampled, max(runs - 1, 1))
    between = float(np.var([np.quantile(group, rank) for group in groups], ddof=1)) / count
    within = max(resampled - between * (count - 1) / count, 0.0)
    variance = between + within
    if variance == 0:
        return _Uncertainty(0.0, 1.0)
    # The median of few processes is less certain than their mean: what is far above the runs' own part of `within` is theirs.
    of_runs = min(within, 2 * float(_resamples(groups, rank, of_processes=False).var(ddof=1)))
    parts = (variance - of_runs) ** 2 / (count - 1) + of_runs**2 / max(runs - count, 1)
    return _Uncertainty(variance, variance**2 / parts)


def _resamples(groups: Sequence[Values], rank: float, *, of_processes: bool = True) -> Values:
    """The quantile in every resample: as many processes as there are, each with as many runs as the longest has. Without
    `of_processes` only runs are drawn, within every process."""
    counts = np.array([len(group) for group in groups])
    table = np.zeros((len(groups), counts.max()))
    for row, group in zip(table, groups, strict=True):
        row[: len(group)] = group
    resamples = int(max(100, min(RESAMPLES, MOST_DRAWN // table.size)))
    random = np.random.default_rng(SEED)
    chosen = random.integers(0, len(groups), (resamples, len(groups)))
    if not of_processes:
        chosen[:] = np.arange(len(groups))
    runs = (random.random((*chosen.shape, table.shape[1])) * counts[chosen][..., None]).astype(np.int64)
    drawn = table[chosen[..., None], runs].reshape(resamples, -1)
    found: Values = np.quantile(drawn, rank, axis=1)
    return found


def _quantile(groups: Sequence[Values], rank: float) -> float:
    return float(np.quantile(np.concatenate(groups), rank))


def paired_runs(
    old: Mapping[tuple[int, int], float], new: Mapping[tuple[int, int], float]
) -> tuple[list[Values], list[Values]]:
    """(process, round) => milliseconds, twice => the runs of rounds that both have, one array for each process."""
    common = sorted(old.keys() & new.keys())
    processes = [process for process, _ in common]
    return tuple(by_process([runs[key] for key in common], processes) for runs in (old, new))  # type: ignore[return-value]

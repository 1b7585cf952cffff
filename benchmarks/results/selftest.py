"""What differences a machine can tell: one configuration compared with itself.

Two configurations that are the same (A and A) are measured as any two would be, with several times the processes of one comparison.
Choosing five of them and exchanging them between the two at random makes a hundred comparisons in which nothing is different: every
"slower" or "faster" among them is a false alarm. Of five processes alone there are but sixteen different exchanges, and one alarm
among them is six of a hundred.

A slowdown by the factor s moves an interval by s, so the least s that is found in 95 of them is read off without measuring it.

Not here: measuring (`genin.benchmarks.speed.selftest`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from genin.benchmarks.results.compare import MARGIN, verdict_of
from genin.benchmarks.results.statistics import Values, ratio_interval

TRIES: Final = 100
COMPARED: Final = 5  # processes of each in a comparison, as many as `genin bench` starts
FOUND: Final = 0.95  # of the tries
SEED: Final = 0


@dataclass(frozen=True)
class Resolution:
    """`resolves_percent`: the least slowdown that is found in 95 % of comparisons of models that took turns in one run;
    `resolves_percent_two_runs` of two results that were measured one after the other, as far as the machine stays as it is. False
    alarms are of `tries` comparisons in turn, `different` of them of different processes or another exchange; each is of
    `compared` processes."""

    resolves_percent: float
    resolves_percent_two_runs: float
    false_alarms: int
    tries: int
    different: int
    compared: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def resolution(first: Sequence[Values], second: Sequence[Values], tries: int = TRIES) -> Resolution:
    """From the runs of A and of A again, one array for each process; entry i of both is of the same round."""
    random = np.random.default_rng(SEED)
    compared = min(COMPARED, len(first))
    paired, apart, alarms, seen = [], [], 0, set()
    for _ in range(tries):
        chosen = np.sort(random.permutation(len(first))[:compared])
        swapped = random.random(compared) < 0.5
        seen.add((*chosen, *(swapped ^ swapped[0])))  # to exchange all is to compare the other way round
        pairs = [
            (second[i], first[i]) if swap else (first[i], second[i]) for i, swap in zip(chosen, swapped, strict=True)
        ]
        old, new = zip(*pairs, strict=True)
        found = ratio_interval(old, new, paired=True)
        alarms += verdict_of(found.low, found.high, MARGIN) in ("slower", "faster")
        paired.append(found.low)
        apart.append(ratio_interval(old, new, paired=False).low)
    return Resolution(_least(paired), _least(apart), alarms, tries, len(seen), compared)


def _least(lows: Sequence[float]) -> float:
    """Per cent of slowdown that lifts 95 % of the intervals above 1."""
    return round(100 * (1 / float(np.quantile(lows, 1 - FOUND)) - 1), 2)

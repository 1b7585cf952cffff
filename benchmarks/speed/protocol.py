"""How a benchmark measures: how many processes, runs and warm-up pictures, of which prompts and seeds, in what order.

Not here: doing it (`rounds`).
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from genin.benchmarks.prompts import DEFAULT_PROMPTS
from genin.runtimes.errors import InputError

MIN_RUNS: Final = 3
RUNS_OF_A_PROCESS: Final = 2  # with a duration: from one run an interval cannot tell how much runs of a process differ
KEPT_PICTURES: Final = (
    40  # of a configuration that is timed for a duration: thousands would fill the memory that is measured
)
ORDER: Final = "at random in every other round, backwards in the next"


@dataclass(frozen=True)
class Protocol:
    """How to measure. The `runs` are shared out over the `processes`, as far as there are enough. `max_s` ends a slow
    configuration's rounds early, but not before three runs. With `duration_s` there are as many runs as fit into so many seconds
    of timed pictures, at least two of each process, in place of `runs`. Warm-up is `warmup` pictures of each process, or
    `warmup_s` seconds of drawing."""

    runs: int = 40
    warmup: int = 2
    processes: int = 5
    prompts: Sequence[str] = DEFAULT_PROMPTS
    seed: int = 0
    max_s: float = 120.0
    suite: str | None = None
    duration_s: float | None = None
    warmup_s: float | None = None

    def __post_init__(self) -> None:
        if self.runs < 1 or self.processes < 1 or not self.prompts:
            raise InputError("a benchmark needs at least one run, one process and one prompt")

    def shares(self) -> list[int]:
        """Timed rounds of each process, the longest first; at most, where a duration ends them."""
        if self.duration_s is not None:
            return [sys.maxsize] * self.processes
        count = min(self.processes, self.runs)
        return [self.runs // count + (index < self.runs % count) for index in range(count)]

    def picture(self, number: int) -> tuple[str, int]:
        """Prompt and seed of a picture: the same in every process, so that all draw the same pictures."""
        return self.prompts[number % len(self.prompts)], self.seed + number

    def call(self, numbers: Sequence[int]) -> dict[str, Any]:
        """`prompt` and `seed` of pictures that are drawn at once: lists, if they are several."""
        prompts, seeds = zip(*map(self.picture, numbers), strict=True)
        return (
            {"prompt": list(prompts), "seed": list(seeds)}
            if len(numbers) > 1
            else {"prompt": prompts[0], "seed": seeds[0]}
        )

    def least_runs(self) -> int:
        """Runs that every process takes, however slow it is."""
        if self.duration_s is not None:
            return max(RUNS_OF_A_PROCESS, -(-MIN_RUNS // self.processes))
        return -(-min(MIN_RUNS, self.runs) // len(self.shares()))

    def limit_s(self) -> float:
        """Seconds of timed pictures after which a process ends, if it has taken its least runs."""
        return (self.duration_s or self.max_s) / len(self.shares())

    def kept_rounds(self) -> int:
        """Rounds of each process whose pictures are kept and compared: all, or the first of a duration."""
        return sys.maxsize if self.duration_s is None else -(-KEPT_PICTURES // self.processes)

    def parts(self) -> float:
        """What progress counts of a configuration: its starts and runs, or its seconds."""
        if self.duration_s is not None:
            return self.duration_s
        return sum(1 + self.warmup + share for share in self.shares())

    def turns(self, count: int, process: int) -> Iterator[list[int]]:
        """In what order `count` configurations take their turns, round after round: at random, then the same backwards (ABBA), so
        that what grows with time, or follows upon a neighbour, is shared out evenly."""
        chance = random.Random(f"{self.seed} {process}")
        while True:
            order = list(range(count))
            chance.shuffle(order)
            yield order
            yield order[::-1]

    def describe(self) -> dict[str, Any]:
        """As a result file has it."""
        prompts = list(self.prompts)
        return {
            "runs": self.runs if self.duration_s is None else self.least_runs() * self.processes,
            "duration_s": self.duration_s,
            "warmup": self.warmup if self.warmup_s is None else 0,
            "warmup_s": self.warmup_s,
            "processes": len(self.shares()),
            "order": ORDER,
            "prompts": prompts,
            "prompts_sha256": hashlib.sha256(json.dumps(prompts).encode()).hexdigest(),
            "seed": self.seed,
            "max_s": self.max_s,
            "suite": self.suite,
            "batch_size": 1,
            "fresh_process_per_configuration": True,
        }

"""How a distillation's budget in minutes is shared out over its pool and its phases."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from genin.distill.student.provenance import PHASES

# Shares of a budget in minutes; minutes that the pool leaves over, and those of phases that the recipe leaves out, go to the other
# phases.
SHARES = {"pool": 0.3, "prune": 0.3, "steps": 0.3, "adversarial": 0.1, "decoder": 0.1}


class Budget:
    """Minutes for each part, or None for no limit; `phases` are those that the recipe runs."""

    def __init__(self, minutes: float | None, phases: Sequence[str] = PHASES) -> None:
        self.minutes, self.phases = minutes, phases

    def of(self, part: str, spent: float = 0.0, done: Collection[str] = ()) -> float | None:
        """The pool's share; or a phase's share of what is left after `spent` minutes for the pool, other preparations and the
        phases that are `done`."""
        if self.minutes is None:
            return None
        if part == "pool":
            return self.minutes * SHARES["pool"]
        left = max(0.0, self.minutes - spent)
        return left * SHARES[part] / sum(SHARES[name] for name in self.phases if name not in done)

    def pictures(self, count: int) -> int:
        """How many of `count` pictures to prepare: preparing is not timed, so only a few under a budget."""
        return count if self.minutes is None else min(2_000, count)

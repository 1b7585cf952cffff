"""What `auto` stands for in a benchmark: decided once, before anything is measured.

Left to a configuration's processes, each would decide on its own, and the first perhaps measure all engines in its own memory and
its own start. Not here: deciding (`genin.runtimes.measured`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from genin.benchmarks.speed.configurations import Configuration
from genin.benchmarks.speed.journal import Journal
from genin.runtimes.engine import EngineSettings
from genin.runtimes.errors import GeninError
from genin.runtimes.loading import decide_for
from genin.runtimes.vocabulary import AUTO


def settled(configurations: Sequence[Configuration], journal: Journal) -> list[Configuration]:
    """The configurations with the runtimes and precisions that genin chooses here, or chose when an interrupted run began; what
    nothing can run stays as it is, and its process says why."""
    chosen = journal.keep("auto", lambda: [_chosen(one) for one in configurations])
    return [
        replace(one, runtime=runtime, precision=precision, asked=(one.runtime, one.precision))
        if runtime != one.runtime
        else one
        for one, (runtime, precision) in zip(configurations, chosen, strict=True)
    ]


def _chosen(one: Configuration) -> tuple[str, str]:
    if one.runtime == AUTO:
        try:
            choice = decide_for(one.path, AUTO, one.precision, EngineSettings(one.threads)).way.choice
        except GeninError:
            return one.runtime, one.precision
        return choice.runtime, choice.precision
    return one.runtime, one.precision

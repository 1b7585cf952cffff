"""`genin bench selftest`: a model measured against itself, to say which differences this machine can show.

Not here: the statistics (`genin.benchmarks.results.selftest`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from genin.benchmarks.contenders import Contender
from genin.benchmarks.model_facts import read_facts
from genin.benchmarks.results.selftest import Resolution, resolution
from genin.benchmarks.speed.auto import settled
from genin.benchmarks.speed.configurations import Choices, component_bytes, configure
from genin.benchmarks.speed.journal import Journal
from genin.benchmarks.speed.machine import OtherWork, busy_text, describe_machine
from genin.benchmarks.speed.protocol import Protocol
from genin.benchmarks.speed.rounds import measure, memory_groups
from genin.benchmarks.speed.samples import Measured
from genin.runtimes.errors import GeninError, InputError
from genin.runtimes.wording import counted


def measure_resolution(model: Contender, choices: Choices, protocol: Protocol) -> tuple[Resolution, dict[str, Any]]:
    """Measure the model's first configuration twice, side by side => what can be told apart, and what was measured where.

    Errors: GeninError if it does not run here; InputError for fewer runs than processes: each needs one of its own.
    """
    if protocol.runs < protocol.processes:
        raise InputError(
            f"{counted(protocol.runs, 'run')} cannot be shared out over {counted(protocol.processes, 'process', 'processes')}",
            remedy=f"ask for --runs {protocol.processes} or more",
        )
    facts = read_facts(model.path)
    [configuration] = settled(configure(model, facts, choices)[:1], Journal(None))
    machine = describe_machine([configuration.runtime])
    both = [replace(configuration, label=f"{configuration.label} ({copy})") for copy in ("A", "again")]
    weights = sum(component_bytes(facts, configuration.runtime, configuration.precision)[1])
    if len(memory_groups(both, dict.fromkeys(both, weights))) > 1:
        raise GeninError("there is not enough free memory for the model twice, side by side")
    other_work = OtherWork()
    measured, skipped = measure(both, protocol, {}, other_work=other_work)
    if skipped:
        raise GeninError(f"{configuration} does not run here: {skipped[0].reason}")
    machine["other_cores"] = other_work.cores()
    about = {
        "configuration": str(configuration),
        "processes": len(measured[0].processes),
        "runs": [len(one.total_ms()) for one in measured],
        "busy": busy_text(machine),
        "machine": machine,
    }
    return resolution(*_in_common(*measured)), about


def _in_common(first: Measured, second: Measured) -> Any:
    """Runs of rounds that both have, process by process: a slow configuration may have ended early."""
    lengths = [min(map(len, pair)) for pair in zip(first.groups(), second.groups(), strict=True)]
    return [[group[:length] for group, length in zip(one.groups(), lengths, strict=True)] for one in (first, second)]

"""Models measured side by side => a result file's content, and the pictures for its page.

Not here: which configurations (`configurations`), measuring (`rounds`), the figures of a row (`rows`), of its pictures
(`picture_quality`), the page (`genin.benchmarks.report`).
"""

from __future__ import annotations

import sys
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from genin.benchmarks.contenders import Contender
from genin.benchmarks.grids import Grid
from genin.benchmarks.model_facts import ModelFacts, read_facts
from genin.benchmarks.peers.table import packages_of
from genin.benchmarks.results.files import GENIN, seal
from genin.benchmarks.results.schema import VERSION
from genin.benchmarks.speed.apart import Apart, add_apart
from genin.benchmarks.speed.auto import settled
from genin.benchmarks.speed.configurations import (
    Choices,
    Configuration,
    check_precisions,
    component_bytes,
    configure,
    configure_peers,
    first_steps,
    steps_note,
)
from genin.benchmarks.speed.journal import Journal
from genin.benchmarks.speed.machine import OtherWork, busy_text, checkout_commit, describe_machine, load_average
from genin.benchmarks.speed.operations import add_shares
from genin.benchmarks.speed.peak import higher, measure_peaks
from genin.benchmarks.speed.picture_grids import picture_grids
from genin.benchmarks.speed.picture_quality import PictureQuality, Quality, add_quality
from genin.benchmarks.speed.protocol import Protocol
from genin.benchmarks.speed.rounds import measure
from genin.benchmarks.speed.rows import add_speedups, name_apart, speed_row
from genin.benchmarks.speed.samples import Measured, Skipped
from genin.runtimes.errors import GeninError, on_interrupt
from genin.runtimes.vocabulary import AUTO, RUNTIMES
from genin.runtimes.wording import counted, quoted


def measure_models(
    models: Sequence[Contender],
    *,
    choices: Choices | None = None,
    protocol: Protocol | None = None,
    quality: Quality | None = None,
    apart: Apart | None = None,
    partial: Path | None = None,
) -> tuple[dict[str, Any], list[Grid]]:
    """Measure all models side by side => the JSON-ready result of `genin bench`, and the pictures it drew, as grids for a report.
    `apart` is what to measure beside. `partial` is the folder of an interrupted run: what it has is not measured again. Remove it
    when the results are written.

    Errors: InputError for a path that is not a model; GeninError if no configuration runs here, with the first one's reason.
    """
    choices, protocol, quality = choices or Choices(), protocol or Protocol(), quality or Quality()
    facts = {model.path: read_facts(model.path) for model in models}
    check_precisions(choices.precisions, facts.values())
    configurations = list(
        dict.fromkeys(one for model in models for one in configure(model, facts[model.path], choices))
    )
    refused = _add_peers(configurations, models, facts, choices)
    prepared = PictureQuality.prepared(quality, protocol.seed)
    machine = describe_machine(runtimes_of(configurations), packages_of([one.program for one in configurations]))
    journal = Journal(partial, _request(configurations, protocol, facts, machine))
    machine["load_average"] = journal.keep("load", load_average)  # a run that goes on has raised it itself
    configurations = settled(configurations, journal)
    sizes = {one: sum(component_bytes(facts[one.path], one.runtime, one.precision)[1]) for one in configurations}
    if said := busy_text(machine):
        warnings.warn(said, UserWarning, stacklevel=2)
    machine["peaks"] = measure_peaks(one.threads for one in configurations)
    kept = f"what has been measured is kept in {partial}; the same command goes on from there" if partial else ""
    prepared.journal, firsts, other_work = journal, first_steps(configurations), OtherWork()
    with on_interrupt(kept or "nothing is kept without --out"):
        measured, skipped = measure(configurations, protocol, sizes, journal, other_work)
        machine["peaks"] = higher(machine["peaks"], measure_peaks(one.threads for one in configurations))
        if not measured:
            journal.remove()
            raise GeninError(_none_runs(skipped))
        rows = _rows(measured, facts, machine["peaks"])
        references = add_quality(rows, measured, facts, prepared, protocol, firsts)
        add_speedups(rows, firsts)
        with OtherWork.watched() as beside:
            add_apart(rows, measured, protocol, apart or Apart(), journal)
        other_work.add(beside)
        machine["other_cores"] = other_work.cores()
    notes = _notes(machine) | prepared.notes
    if journal.continued:
        notes["machine"] = "continued after an interruption"
    if choices.peers and (choices.batches or choices.sizes):
        notes["peers"] = "peers draw one picture at a time, of the model's own size"
    notes |= {model.label: note for model in models if (note := steps_note(facts[model.path], choices))}
    results = _heading() | {
        "machine": machine,
        "protocol": protocol.describe()
        | _swept(configurations)
        | {"interleaved": len({one.group for one in measured}) == 1, "clip": prepared.clip and prepared.clip.record()},
        "results": rows,
        "skipped": [_skipped(one) for one in (*skipped, *refused)],
        "notes": notes,
    }
    return seal(results), picture_grids(measured, rows, protocol, references)


def _rows(
    measured: Sequence[Measured], facts: Mapping[Path, ModelFacts], peaks: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Without what their pictures say."""
    rows = [speed_row(one, facts[one.configuration.path]) for one in measured]
    name_apart(rows)
    for row, one in zip(rows, measured, strict=True):
        add_shares(row, facts[one.configuration.path], peaks)
    return rows


def _none_runs(skipped: Sequence[Skipped]) -> str:
    first = skipped[0]
    return f"none of {counted(len(skipped), 'configuration')} runs here; {first.configuration}: {first.reason}"


def _add_peers(
    configurations: list[Configuration],
    models: Sequence[Contender],
    facts: Mapping[Path, ModelFacts],
    choices: Choices,
) -> list[Skipped]:
    """Add those of the peers, beside genin's => those that cannot be measured here."""
    refused: list[Skipped] = []
    for model in models if choices.peers else ():
        found, without = configure_peers(model, facts[model.path], choices)
        configurations += found
        refused += [Skipped(*one) for one in without]
    return refused


def runtimes_of(configurations: Sequence[Configuration]) -> list[str]:
    """The runtimes that take part; all of them where genin chooses."""
    names = dict.fromkeys(one.runtime for one in configurations if one.program == GENIN or one.runtime in RUNTIMES)
    return list(RUNTIMES) if AUTO in names else list(names)


def _heading() -> dict[str, Any]:
    """What tells this run from others, and how to repeat it."""
    command = (
        " ".join(map(quoted, ["genin", *sys.argv[1:]])) if Path(sys.argv[0]).stem in ("genin", "__main__") else None
    )
    return {
        "schema_version": VERSION,
        "run_id": uuid.uuid4().hex,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "genin_commit": checkout_commit(),
    }


def _notes(machine: Mapping[str, Any]) -> dict[str, str]:
    """Of a machine that was busy, first of all."""
    busy = busy_text(machine)
    return {"busy": busy} if busy else {}


def _request(
    configurations: Sequence[Configuration],
    protocol: Protocol,
    facts: Mapping[Path, ModelFacts],
    machine: Mapping[str, Any],
) -> dict[str, Any]:
    """What a run must have in common with the one that it continues."""
    asked = [asdict(one) | {"path": str(one.path)} for one in configurations]
    weights = {str(path): one.sha256 for path, one in facts.items()}
    packages = machine["packages"]
    return {"configurations": asked, "protocol": protocol.describe(), "weights": weights} | {
        "machine": machine["sha256"],
        "packages": packages,
        "python": machine["python"],
        "genin_commit": checkout_commit(),
    }


def _swept(configurations: Sequence[Configuration]) -> dict[str, Any]:
    """Threads, one number or those of a sweep, and the smallest batch."""
    counts = sorted({one.threads for one in configurations})
    threads = counts[0] if len(counts) == 1 else counts
    return {"threads": threads, "batch_size": min(one.batch for one in configurations)}


def _skipped(one: Skipped) -> dict[str, Any]:
    configuration = asdict(one.configuration) | {"path": str(one.configuration.path)}
    configuration.pop("asked")
    return {"bundle": configuration.pop("label"), **configuration, "reason": one.reason}

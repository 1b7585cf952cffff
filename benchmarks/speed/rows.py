"""One row of a result file from what was measured: every run, percentiles with intervals, start, memory, size.

Not here: measuring (`rounds`), the pictures (`picture_quality`), tables (`genin.benchmarks.results.table`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from genin.benchmarks.model_facts import ModelFacts
from genin.benchmarks.peers.table import PEERS
from genin.benchmarks.results.compare import ALIKE, runs_of_both
from genin.benchmarks.results.files import GENIN, title_of
from genin.benchmarks.results.statistics import (
    LEAST_RUNS,
    intervals,
    outliers,
    percentiles,
    ratio_interval,
    summary,
)
from genin.benchmarks.results.table import is_ranked
from genin.benchmarks.speed.configurations import component_bytes
from genin.benchmarks.speed.energy import NOT_AVAILABLE, NOT_THE_CPU
from genin.benchmarks.speed.machine import engine_version
from genin.benchmarks.speed.samples import STAGES, Measured
from genin.runtimes.vocabulary import TEXT_TO_IMAGE
from genin.runtimes.wording import counted
from genin.version import __version__

Row = Mapping[str, Any]

NO_TEACHER: Final = (
    "no teacher was measured that could be compared with it, at the first of its steps and with right pictures"
)
RATIO_KEYS: Final = ("fd_squeezenet", "fd_efficientnet", "fd_world")  # the first that both have
DIGITS: Final = 4  # of milliseconds: a tenth of a microsecond
FEW_RUNS: Final = "of {} p{} is close to the maximum: ask for --runs {} or more"


def speed_row(measured: Measured, facts: ModelFacts) -> dict[str, Any]:
    """What a configuration is, and how fast; without its pictures."""
    configuration, notes = measured.configuration, dict[str, str]()
    runtime, precision = str(measured.facts["runtime"]), str(measured.facts["precision"])
    sizes, known = component_bytes(facts, runtime, precision)
    peer = PEERS.get(configuration.program)
    in_one_graph = any(measured.stages_ms()[TEXT_TO_IMAGE])  # by a single graph
    if peer is not None:
        notes |= dict.fromkeys(
            ("encoded_prompt_ms", "stages_ms", "steps_ms"), f"{configuration.program} does not tell them"
        )
    if in_one_graph:
        notes["encoded_prompt_ms"] = "drawn by a single graph, which encodes the prompt as well"
        notes["component_bytes"] = notes["size_bytes"] = "of the three networks, which the single graph replaces"
    asked = configuration.asked or (configuration.runtime, configuration.precision)
    row = {
        "bundle": configuration.label,
        "program": configuration.program,
        "program_version": peer.version() if peer else __version__,
        "differs": peer.all_differences() if peer else [],
        "path": str(configuration.path),
        "weights_sha256": facts.sha256,
        "source_sha256": facts.source_sha256,
        "role": configuration.role,
        "asked": dict(zip(("runtime", "precision"), asked, strict=True)),
        "runtime": runtime,
        "engine_version": engine_version(runtime) or (peer and peer.version()),
        "provider": measured.facts["provider"],
        "device": configuration.device,
        "group": measured.group,
        "precision": precision,
        "steps": configuration.steps,
        "threads": configuration.threads,
        "batch_size": configuration.batch,
        "asked_size": configuration.size,
        "image_size": configuration.size or facts.image_size,
        **_latency(measured, in_one_graph or peer is not None, notes),
        "joules_per_picture": _joules_per_picture(measured, notes),
        **_start_and_memory(measured),
        "size_bytes": sum(known) if len(known) == len(sizes) else None,
        "component_bytes": sizes,
        "parameters": facts.parameters,
        "macs": facts.macs,
        "notes": notes,
    }
    row["pictures_per_s"] = round(1000 * configuration.batch / row["latency_ms"]["p50"], 4)
    return {"name": title_of(row) + configuration.suffix, **row}


def name_apart(rows: Sequence[dict[str, Any]]) -> None:
    """Give rows of one title names of their own: by threads where they differ, else by number."""
    several = len({row["threads"] for row in rows}) > 1
    seen: dict[str, int] = {}
    for row in rows:
        if several:
            row["name"] += f" · {counted(row['threads'], 'thread')}"
        seen[row["name"]] = count = seen.get(row["name"], 0) + 1
        if count > 1:
            row["name"] += f" ({count})"


def teacher_of(
    row: Row, rows: Sequence[Row], first_steps: Mapping[str, int], alike: Sequence[str] = ALIKE
) -> Row | None:
    """The teacher that a row is held against: of `rows` that have the keys of `alike` in common with it, and pictures that are not
    wrong, at the first number of steps (`configurations.first_steps`), so that all rows are held against the same; the one on the
    same runtime and precision if it was measured, else on the same runtime, else the first."""
    teachers = [
        one
        for one in rows
        if one["role"] == "teacher" and one["steps"] == first_steps[one["bundle"]] and is_ranked(one)
        if all(one.get(key) == row.get(key) for key in alike)
    ]
    teachers.sort(key=lambda one: one["program"] != GENIN)
    same_runtime = [one for one in teachers if one["runtime"] == row["runtime"]]
    same = [one for one in same_runtime if one["precision"] == row["precision"]]
    return next(iter(same or same_runtime or teachers), None)


def add_speedups(rows: Sequence[dict[str, Any]], first_steps: Mapping[str, int]) -> None:
    """How many times faster than the teacher (`teacher_of`), with the same threads, batch and device, at the same size. The
    interval is by pairs of the rounds that both drew in."""
    for row in rows:
        base = teacher_of(row, rows, first_steps)
        row["speedup"] = base["latency_ms"]["p50"] / row["latency_ms"]["p50"] if base else None
        row["speedup_interval"] = _speedup_interval(base, row) if base else None
        row["speedup_baseline"] = base and base["name"]
        row["fd_ratio"] = next((row[k] / base[k] for k in RATIO_KEYS if base and base.get(k) and row.get(k)), None)
        if base is None:
            row["notes"]["speedup"] = NO_TEACHER


def _speedup_interval(base: Mapping[str, Any], row: Mapping[str, Any]) -> list[float] | None:
    if base is row:
        return None
    (own, others), paired = runs_of_both(row, base)
    return ratio_interval(own, others, paired=paired).bounds()


def _latency(measured: Measured, without_stages: bool, notes: dict[str, str]) -> dict[str, Any]:
    runs, groups, stages = list(measured.runs()), measured.groups(), measured.stages_ms()
    total = [round(run.total_ms, DIGITS) for _, run in runs]
    encoded = np.subtract(total, stages["text_encoder"])
    strange = outliers(total)
    if scarce := [rank for rank, least in LEAST_RUNS.items() if len(total) < least]:
        notes["latency_ms"] = FEW_RUNS.format(counted(len(total), "run"), scarce[0], LEAST_RUNS[scarce[0]])
    if len(total) < 2:
        notes["intervals_ms"] = "a single run does not say how runs differ: ask for more --runs"
    if strange:
        notes["samples_ms"] = f"{strange} of {len(total)} runs took much longer than the others (Tukey's outer fence)"
    steps = [[round(step, DIGITS) for step in run.steps_ms] for _, run in runs]
    return {
        "runs": len(total),
        "processes": len(measured.processes),
        "latency_ms": summary(groups),
        "intervals_ms": intervals(groups),
        "outliers": strange,
        "samples_ms": total,
        "samples_process": [process for process, _ in runs],
        "samples_round": [run.round for _, run in runs],
        "samples_at_s": [round(run.at_s, 3) for _, run in runs],
        "stages_samples_ms": {stage: _rounded(values) for stage, values in stages.items() if any(values)},
        "steps_samples_ms": steps,
        "encoded_prompt_ms": None if without_stages else percentiles(encoded.tolist()),
        "stages_ms": {stage: percentiles(stages[stage])["p50"] for stage in STAGES},
        "stages_percentiles_ms": {stage: percentiles(stages[stage]) for stage in STAGES},
        "steps_ms": [round(float(value), DIGITS) for value in np.median(steps, axis=0)] if steps[0] else [],
    }


def _joules_per_picture(measured: Measured, notes: dict[str, str]) -> float | None:
    """The mean of all runs; of one the counter is too coarse."""
    joules = [run.joules for _, run in measured.runs()]
    known = [value for value in joules if value is not None]
    elsewhere = measured.configuration.device != "cpu"
    if elsewhere or len(known) < len(joules):
        notes["joules_per_picture"] = NOT_THE_CPU if elsewhere else NOT_AVAILABLE
        return None
    return round(sum(known) / len(known) / measured.configuration.batch, 6)


def _start_and_memory(measured: Measured) -> dict[str, Any]:
    processes = measured.processes
    starts = [process.cold_start_s for process in processes]
    loads = [float(process.facts["load_s"]) for process in processes]
    first = [float(process.facts["first_run_ms"]) for process in processes]
    names = dict.fromkeys(name for process in processes for name in process.memory_bytes)
    of = {name: [process.memory_bytes.get(name) for process in processes] for name in names}
    memory = {name: _largest(values) for name, values in of.items()}
    return {
        "cold_start_s": round(float(np.median(starts)), 3),
        "cold_starts_s": [round(value, 4) for value in starts],
        "load_s": round(float(np.median(loads)), 3),
        "loads_s": [round(value, 4) for value in loads],
        "first_run_ms": round(float(np.median(first)), DIGITS),
        "first_runs_ms": [round(value, DIGITS) for value in first],
        "memory_bytes": memory,
        "peak_rss_bytes": memory.get("peak"),
    }


def _largest(values: Sequence[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, DIGITS) for value in values]

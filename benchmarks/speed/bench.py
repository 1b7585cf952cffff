"""`genin bench`: which configurations to measure, their quality beside their speed, and the table.

A model folder runs on PyTorch; a bundle runs on every runtime and precision it has graphs for, unless some are named.
Teachers run at their own number of steps, others at the steps asked for. A teacher among the models is the baseline
of `speedup`: the one on the same runtime and precision if it was measured, else on the same runtime, else the first.

Quality is measured on the pictures that every configuration draws from the same prompts and seeds (`pairs` of them):
LPIPS and PSNR to the same model and steps at fp32, LPIPS to the teacher. FD needs thousands of pictures, so it is
measured only where `samples` says how many.

Not here: measuring time (`latency`), the page (`report`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from genin.benchmarks.contenders import Contender
from genin.benchmarks.grids import Grid, GridRow
from genin.benchmarks.model_facts import ModelFacts, read_facts
from genin.benchmarks.quality.evaluator import Evaluator
from genin.benchmarks.quality.measures import load_suite
from genin.benchmarks.quality.perceptual import Lpips, load_lpips, psnr_db
from genin.benchmarks.quality.subjects import Sampling
from genin.benchmarks.quality.weights import MetricUnavailableError
from genin.benchmarks.speed.latency import STAGES, Configuration, Measured, Protocol, Skipped, measure, percentiles
from genin.benchmarks.speed.machine import describe_machine
from genin.runtimes.errors import GeninError, InputError
from genin.runtimes.vocabulary import AUTO, TEXT_TO_IMAGE, nearest

FD_KEYS = ("fid", "fd_squeezenet", "fd_world")


@dataclass(frozen=True)
class Choices:
    """What to measure of each contender; an empty list means all that it has, or its default number of steps."""

    runtimes: Sequence[str] = ()
    precisions: Sequence[str] = ()
    steps: Sequence[int] = ()
    teacher_steps: int | None = None
    device: str = "cpu"  # where PyTorch runs model folders


@dataclass(frozen=True)
class Quality:
    """What is needed to measure quality; `samples` None leaves FD out."""

    samples: int | None = None
    reference: Path | None = None
    metric_weights: Path | None = None
    classifier: Path | None = None


@dataclass
class _Context:
    """The inputs of the result's rows."""

    facts: Mapping[Path, ModelFacts]
    measured: Sequence[Measured]
    lpips: Lpips | None
    lpips_reason: str
    evaluator: Evaluator | None
    notes: dict[str, str] = field(default_factory=dict)


def measure_models(
    models: Sequence[Contender],
    *,
    choices: Choices | None = None,
    protocol: Protocol | None = None,
    quality: Quality | None = None,
) -> tuple[dict[str, Any], list[Grid]]:
    """Measure all models side by side => the JSON-ready result of `genin bench`, and the pictures it drew, as grids for a report.

    Errors: InputError for a path that is not a model; GeninError if no configuration runs here, with the first one's reason.
    """
    choices, protocol, quality = choices or Choices(), protocol or Protocol(), quality or Quality()
    machine = describe_machine()
    facts = {model.path: read_facts(model.path) for model in models}
    _check_precisions(choices.precisions, facts.values())
    configurations = list(
        dict.fromkeys(one for model in models for one in configure(model, facts[model.path], choices))
    )
    context = _context(facts, quality, protocol.seed)
    sizes = {one: sum(_component_bytes(facts[one.path], one.runtime, one.precision)[1]) for one in configurations}
    measured, skipped = measure(configurations, protocol, sizes)
    if not measured:
        first = skipped[0]
        raise GeninError(f"none of {len(skipped)} configurations runs here; {first.configuration}: {first.reason}")
    context.measured = measured
    context.notes |= {model.label: note for model in models if (note := _steps_note(facts[model.path], choices))}
    rows = [_row(one, context) for one in measured]
    _add_speedups(rows)
    result = {
        "machine": machine,
        "protocol": _describe(protocol),
        "results": rows,
        "skipped": [_skipped(one) for one in skipped],
        "notes": context.notes,
    }
    return result, _grids(measured, protocol)


# --- what to measure -------------------------------------------------------------------------------------------------


def configure(model: Contender, facts: ModelFacts, choices: Choices) -> list[Configuration]:
    """The configurations of one contender: of the steps asked for, those that a student was trained for, if there are any."""
    teacher = is_teacher(facts)
    asked = [choices.teacher_steps or facts.default_steps] if teacher else choices.steps
    known = [count for count in asked if count in facts.trained_steps]
    steps = known or asked or [facts.default_steps]
    role = "teacher" if teacher else facts.role
    device = choices.device if facts.kind == "model" else "cpu"
    return [
        Configuration(model.label, model.path, *pair, steps=count, role=role, device=device)
        for pair in _pairs(facts, choices)
        for count in steps
    ]


def _steps_note(facts: ModelFacts, choices: Choices) -> str | None:
    """What `configure` left out of a student's step counts, or measured although it was not trained for it."""
    strange = [count for count in choices.steps if facts.trained_steps and count not in facts.trained_steps]
    if not strange or is_teacher(facts):
        return None
    trained, said = (", ".join(map(str, counts)) for counts in (facts.trained_steps, strange))
    only = len(strange) == len(choices.steps)
    return f"trained for {trained} steps, " + (f"measured at {said} anyway" if only else f"not measured at {said}")


def is_teacher(facts: ModelFacts) -> bool:
    """Whether the folder says so; a model folder without a role is a third-party teacher."""
    return facts.role == "teacher" or (facts.role is None and facts.kind == "model")


def _pairs(facts: ModelFacts, choices: Choices) -> list[tuple[str, str]]:
    offered = facts.choices()
    if facts.kind == "model":
        return offered
    pairs: list[tuple[str, str]] = []
    here = list(dict.fromkeys(name for name, _ in offered))
    if "onnxruntime" in here and "openvino" not in here and importlib.util.find_spec("openvino") is not None:
        here.insert(here.index("onnxruntime") + 1, "openvino")
    for runtime in choices.runtimes or here:
        own = [precision for name, precision in offered if name == runtime]
        if runtime == AUTO:
            own = [AUTO]
        elif not own:  # OpenVINO reads a bundle's ONNX graphs where it has no others
            own = [precision for name, precision in offered if name == "onnxruntime"]
        pairs += [(runtime, precision) for precision in choices.precisions or own]
    return list(dict.fromkeys(pairs))


def _check_precisions(precisions: Sequence[str], models: Iterable[ModelFacts]) -> None:
    """Errors: InputError for a precision that none of the bundles has."""
    known = list(dict.fromkeys(name for facts in models if facts.kind != "model" for _, name in facts.choices()))
    for name in precisions:
        if known and name not in (AUTO, *known):
            raise InputError(f"no bundle has the precision '{name}'", remedy=nearest(name, (AUTO, *known)))


def _component_bytes(facts: ModelFacts, runtime: str, precision: str) -> tuple[dict[str, int | None], list[int]]:
    """Bytes per component, and those that are known."""
    sizes = facts.component_bytes(runtime, precision)
    if not any(sizes.values()) and runtime == "openvino":
        sizes = facts.component_bytes("onnxruntime", precision)
    return sizes, [size for size in sizes.values() if size is not None]


# --- one row ---------------------------------------------------------------------------------------------------------


def _context(facts: Mapping[Path, ModelFacts], quality: Quality, seed: int) -> _Context:
    """Made before an hour of measuring, so that errors come first."""
    lpips, reason = None, ""
    try:
        lpips = load_lpips("squeeze", quality.metric_weights)
    except MetricUnavailableError as error:
        reason = str(error)
    evaluator = None
    if quality.samples is not None:
        if quality.reference is None:
            raise InputError("samples for FD need a reference", remedy="name one")
        suite = load_suite(quality.metric_weights, quality.classifier)
        evaluator = Evaluator(quality.reference, suite, samples=quality.samples, seed=seed)
        evaluator.reference.captions()
    context = _Context(facts, (), lpips, reason, evaluator)
    if lpips is None:
        context.notes["lpips_squeeze_to_fp32"] = context.notes["lpips_squeeze_to_teacher"] = reason
    if evaluator is None:
        context.notes |= dict.fromkeys((*FD_KEYS, "samples"), "FD is measured only where a number of samples is given")
    return context


def _row(measured: Measured, context: _Context) -> dict[str, Any]:
    configuration, facts = measured.configuration, context.facts[measured.configuration.path]
    runtime, precision = str(measured.facts["runtime"]), str(measured.facts["precision"])
    sizes, known = _component_bytes(facts, runtime, precision)
    encoded = np.subtract(measured.total_ms, measured.stages_ms["text_encoder"])
    in_one_graph = any(measured.stages_ms[TEXT_TO_IMAGE])  # by a single graph
    row: dict[str, Any] = {
        "bundle": configuration.label,
        "path": str(configuration.path),
        "role": configuration.role,
        "asked": {"runtime": configuration.runtime, "precision": configuration.precision},
        "runtime": runtime,
        "provider": measured.facts["provider"],
        "precision": precision,
        "steps": configuration.steps,
        "image_size": facts.image_size,
        "runs": len(measured.total_ms),
        "latency_ms": percentiles(measured.total_ms),
        "encoded_prompt_ms": None if in_one_graph else percentiles([float(value) for value in encoded]),
        "stages_ms": {stage: percentiles(measured.stages_ms[stage])["p50"] for stage in STAGES},
        "stages_percentiles_ms": {stage: percentiles(measured.stages_ms[stage]) for stage in STAGES},
        "cold_start_s": round(measured.cold_start_s, 3),
        "load_s": round(float(measured.facts["load_s"]), 3),
        "peak_rss_bytes": measured.peak_rss_bytes,
        "size_bytes": sum(known) if len(known) == len(sizes) else None,
        "component_bytes": sizes,
        "parameters": facts.parameters,
        "macs": facts.macs,
    }
    notes: dict[str, str] = {}
    if in_one_graph:
        notes["encoded_prompt_ms"] = "drawn by a single graph, which encodes the prompt as well"
        notes["component_bytes"] = notes["size_bytes"] = "of the three networks, which the single graph replaces"
    row |= _paired_quality(measured, context, notes)
    row |= _fd(configuration, context, notes)
    row["notes"] = notes
    return row


def _paired_quality(measured: Measured, context: _Context, notes: dict[str, str]) -> dict[str, Any]:
    """LPIPS and PSNR of the grid's pictures to fp32 and to the teacher."""
    keys = ("lpips_squeeze_to_fp32", "psnr_db_to_fp32", "lpips_squeeze_to_teacher")
    values: dict[str, Any] = {**dict.fromkeys(keys), "pairs": 0}
    own = measured.pictures
    if own is None:
        notes |= dict.fromkeys(keys, "no pictures were drawn")
        return values
    values["pairs"] = len(own)
    fp32 = _fp32_of(measured, context.measured)
    if fp32 is None:
        notes |= dict.fromkeys(keys[:2], "this model was not measured at fp32")
    elif fp32.pictures is not None:
        values["psnr_db_to_fp32"] = psnr_db(own, fp32.pictures)
        if values["psnr_db_to_fp32"] is None:
            notes["psnr_db_to_fp32"] = "identical pictures"
        values["lpips_squeeze_to_fp32"] = context.lpips and float(context.lpips(own, fp32.pictures).mean())
    teacher = next((one for one in context.measured if one.configuration.role == "teacher"), None)
    if teacher is None or teacher is measured:
        notes["lpips_squeeze_to_teacher"] = "it is the teacher" if teacher else "no teacher was measured"
    elif teacher.pictures is not None and teacher.pictures.shape == own.shape:
        values["lpips_squeeze_to_teacher"] = context.lpips and float(context.lpips(own, teacher.pictures).mean())
    else:
        notes["lpips_squeeze_to_teacher"] = "the teacher's pictures have another size"
    return values


def _fp32_of(measured: Measured, others: Sequence[Measured]) -> Measured | None:
    """The same model and steps at fp32, on the same runtime if it was measured there."""
    wanted = measured.configuration
    same = [
        one
        for one in others
        if (one.configuration.path, one.configuration.steps) == (wanted.path, wanted.steps)
        and one.facts["precision"] == "fp32"
    ]
    return next((one for one in same if one.facts["runtime"] == measured.facts["runtime"]), same[0] if same else None)


def _fd(configuration: Configuration, context: _Context, notes: dict[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = dict.fromkeys((*FD_KEYS, "samples"))
    if context.evaluator is None:
        return values
    sampling = Sampling(
        steps=configuration.steps,
        runtime=configuration.runtime,
        precision=configuration.precision,
        batch_size=16,
        device=configuration.device,
    )
    try:
        found = context.evaluator.evaluate(configuration.path, sampling)
    except (GeninError, MemoryError, RuntimeError) as error:  # torch raises RuntimeError when out of memory
        notes |= dict.fromkeys(FD_KEYS, str(error) or "out of memory")
        return values
    notes |= {key: reason for key, reason in found["notes"].items() if key in FD_KEYS}
    return {key: found[key] for key in values}


def _add_speedups(rows: Sequence[dict[str, Any]]) -> None:
    teachers = [row for row in rows if row["role"] == "teacher"]
    for row in rows:
        same_runtime = [one for one in teachers if one["runtime"] == row["runtime"]]
        same = [one for one in same_runtime if one["precision"] == row["precision"]]
        base = next(iter(same or same_runtime or teachers), None)
        row["speedup"] = base["latency_ms"]["p50"] / row["latency_ms"]["p50"] if base else None
        row["speedup_baseline"] = base and title_of(base)
        row["fd_ratio"] = next(
            (row[k] / base[k] for k in ("fd_squeezenet", "fd_world") if base and base[k] and row[k]), None
        )
        if base is None:
            row["notes"]["speedup"] = "no teacher was measured"


def title_of(row: Mapping[str, Any]) -> str:
    """A row's name in tables and pictures."""
    steps = f"{row['steps']} step{'s' if row['steps'] != 1 else ''}"
    return f"{row['bundle']} · {row['runtime']} {row['precision']} · {steps}"


def _describe(protocol: Protocol) -> dict[str, Any]:
    described = asdict(protocol) | {"prompts": list(protocol.prompts)}
    return described | {"batch_size": 1, "interleaved": True, "fresh_process_per_configuration": True}


def _skipped(one: Skipped) -> dict[str, Any]:
    configuration = asdict(one.configuration) | {"path": str(one.configuration.path)}
    return {"bundle": configuration.pop("label"), **configuration, "reason": one.reason}


def _grids(measured: Sequence[Measured], protocol: Protocol) -> list[Grid]:
    """Each model at each number of steps on its fastest engine; folded below, all engines and precisions: side by side they
    should look the same."""
    drawn = [one for one in measured if one.pictures is not None]
    fastest: dict[tuple[str, int], Measured] = {}
    for one in drawn:
        key = one.configuration.label, one.configuration.steps
        if key not in fastest or _p50(one) < _p50(fastest[key]):
            fastest[key] = one
    captions = tuple(protocol.grid()[0])
    grids = []
    if fastest:
        grids.append(Grid("Same prompts, same seeds", captions, tuple(_grid_row(one) for one in fastest.values())))
    if len(drawn) > len(fastest):
        grids.append(Grid("On every runtime and precision", captions, tuple(map(_grid_row, drawn)), folded=True))
    return grids


def _p50(measured: Measured) -> float:
    return percentiles(measured.total_ms)["p50"]


def _grid_row(measured: Measured) -> GridRow:
    assert measured.pictures is not None
    configuration = measured.configuration
    steps = f"{configuration.steps} step{'s' if configuration.steps != 1 else ''}"
    facts = f"{measured.facts['runtime']} {measured.facts['precision']}, {steps}, {_p50(measured):,.1f} ms"
    return GridRow(configuration.label, facts, measured.pictures)


# --- table -----------------------------------------------------------------------------------------------------------

COLUMNS = (
    ("model", lambda row: row["bundle"]),
    ("runtime", lambda row: row["runtime"]),
    ("precision", lambda row: row["precision"]),
    ("steps", lambda row: row["steps"]),
    ("p50 ms", lambda row: number(row["latency_ms"]["p50"])),
    ("p90 ms", lambda row: number(row["latency_ms"]["p90"])),
    ("p99 ms", lambda row: number(row["latency_ms"]["p99"])),
    ("speed-up", lambda row: "–" if row["speedup"] is None else f"{number(row['speedup'])}×"),
    ("cold start s", lambda row: number(row["cold_start_s"])),
    ("peak MB", lambda row: number(row["peak_rss_bytes"] / 1e6)),
    ("size MB", lambda row: "–" if row["size_bytes"] is None else number(row["size_bytes"] / 1e6)),
    ("LPIPS to fp32", lambda row: number(row["lpips_squeeze_to_fp32"], 3)),
    ("LPIPS to teacher", lambda row: number(row["lpips_squeeze_to_teacher"], 3)),
    ("FD ratio", lambda row: number(row["fd_ratio"], 3)),
)


def markdown_table(results: Mapping[str, Any]) -> str:
    """The rows as a Markdown table; a column that no row has a value for is left out."""
    cells = [[str(value(row)) for _, value in COLUMNS] for row in results["results"]]
    used = [index for index in range(len(COLUMNS)) if any(row[index] != "–" for row in cells)]
    lines = [[COLUMNS[index][0] for index in used], *([row[index] for index in used] for row in cells)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(used))]
    left = [COLUMNS[index][0] in ("model", "runtime", "precision") for index in used]
    padded = [
        [
            cell.ljust(width) if flush else cell.rjust(width)
            for cell, width, flush in zip(line, widths, left, strict=True)
        ]
        for line in lines
    ]
    rule = ["-" * width if flush else "-" * (width - 1) + ":" for width, flush in zip(widths, left, strict=True)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [padded[0], rule, *padded[1:]])


def number(value: float | None, digits: int | None = None) -> str:
    """Three significant digits, or fixed decimals; "–" for a missing value."""
    if value is None:
        return "–"
    if digits is not None:
        return f"{value:.{digits}f}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"

"""The schema of a result file, version 1, as JSON Schema; and checking a file by it.

    python -m genin.benchmarks.results.schema > docs/bench.schema.json

The schema is the one place where the keys are described. Keys that are not in it are allowed, so that a later genin may add some;
a change that readers must know about raises `VERSION`, and `files.upgrade` learns to read the version before.

Only the words of JSON Schema that are used here are checked (`errors_of`); a test holds them against the `jsonschema` package,
which an installation for measuring does without. Not here: hashes and older versions (`files`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import click

VERSION: Final = 1

Schema = dict[str, Any]


def _value(kind: str | list[str], description: str = "", **more: Any) -> Schema:
    described = {"description": description} if description else {}
    return {"type": kind, **described, **more}


def _or_null(schema: Schema) -> Schema:
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return schema | {"type": [*kinds, "null"]}


def _object(description: str, required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    properties = {**required, **(optional or {})}
    return _value("object", description, properties=properties, required=list(required))


def _map(description: str, values: Schema) -> Schema:
    return _value("object", description, additionalProperties=values)


def _list(description: str, items: Schema) -> Schema:
    return _value("array", description, items=items)


TEXT, COUNT, INDEX = _value("string"), _value("integer", minimum=1), _value("integer", minimum=0)
NUMBER, AMOUNT = _value("number"), _value("number", minimum=0)
SHA256 = _value("string", pattern="^[0-9a-f]{64}$")
NOTES = _map("Name of a figure => why it is null, or what to know about it.", TEXT)

PERCENTILES = dict.fromkeys(("p50", "p90"), AMOUNT) | {name: _or_null(AMOUNT) for name in ("p95", "p99")}
LATENCY = _object(
    "One whole picture (or batch), prompt to pixels, in milliseconds, after warm-up. p95 is null for fewer than 20 runs, p99 for "
    "fewer than 100.",
    PERCENTILES,
    {"mean": AMOUNT, "sd": _or_null(AMOUNT), "min": AMOUNT, "max": AMOUNT},
)

MACHINE = _object(
    "The machine, before measuring. Null is what the system does not tell.",
    {
        "processor": TEXT,
        "architecture": TEXT,
        "logical_cores": _or_null(COUNT),
        "usable_cores": COUNT,
        "memory_bytes": _or_null(COUNT),
        "system": TEXT,
        "python": TEXT,
        "packages": _map("Engines and what they need => version.", TEXT),
        "load_average": _or_null(_value("number", "Processes that wanted a core, over the minute before.")),
    },
    {
        "sha256": _value("string", "Of processor, cores, memory and system: equal on equal machines."),
        "instructions": _list("Vector instructions of the processor.", TEXT),
        "virtual_machine": _or_null(_value("boolean")),
        "frequency_mhz": _or_null(_map("Of the first core: current, min, max.", _or_null(AMOUNT))),
        "governor": _or_null(_value("string", "How the system chooses the frequency.")),
        "boost": _or_null(_value("boolean", "Whether the processor may exceed its base frequency.")),
        "temperature_c": _or_null(NUMBER),
        "on_battery": _or_null(_value("boolean")),
        "peaks": _list(
            "What it can do at most, by numpy, with each number of threads that was measured; the higher of before and after.",
            _object(
                "",
                {
                    "threads": COUNT,
                    "matmul_gflops": _value("number", "Of an fp32 matrix product; a multiply-add is two operations."),
                    "copy_gb_per_s": _value("number", "Read and written, of a copy of 128 MiB."),
                },
            ),
        ),
        "other_cores": _or_null(
            _value(
                "number",
                "Cores that other processes kept busy while measuring, of those that genin might use, on average.",
            )
        ),
    },
)
PROTOCOL = _object(
    "How it was measured.",
    {
        "runs": _value("integer", "Timed runs of each configuration; with duration_s the least of them.", minimum=1),
        "warmup": _value("integer", "Untimed pictures of each process; 0 where warmup_s is given.", minimum=0),
        "prompts": _list("", TEXT),
        "seed": INDEX,
        "batch_size": _value("integer", "The least; rows have their own.", minimum=1),
    },
    {
        "processes": _value("integer", "Fresh processes of each configuration; the runs are shared out.", minimum=1),
        "order": _value("string", "In what order the configurations took turns."),
        "prompts_sha256": SHA256,
        "duration_s": _or_null(
            _value("number", "Seconds of timed pictures that were asked for, in place of a number of runs.", minimum=0)
        ),
        "warmup_s": _or_null(_value("number", "Seconds of drawing that warm up each process.", minimum=0)),
        "max_s": _value("number", "Seconds of timed pictures after which a configuration ends early."),
        "suite": _or_null(TEXT),
        "clip": _or_null(_object("The CLIP that scored pictures.", {"name": TEXT, "sha256": SHA256})),
    },
)
SAMPLES = {
    "samples_ms": _list("Every timed run, in milliseconds.", AMOUNT),
    "samples_process": _list("The process of each, from 0.", INDEX),
    "samples_round": _list("Its round within the process; rows of one file took turns in it.", INDEX),
    "samples_at_s": _list("When it began, in seconds since measuring began.", AMOUNT),
    "stages_samples_ms": _map("The same runs by stage; they add up.", _list("", NUMBER)),
    "steps_samples_ms": _list("The UNet's calls in each of the same runs.", _list("", AMOUNT)),
    "first_runs_ms": _list("The first picture of each process, without loading.", AMOUNT),
    "cold_starts_s": _list("From starting each process to its first picture.", AMOUNT),
    "loads_s": _list("Loading the pipeline, within that.", AMOUNT),
}
COST = {"ms": AMOUNT, "share": _value("number", "Of all operators of the component.", minimum=0)}
OPERATORS = _object(
    "The ten longest kinds and layers of a component, in milliseconds a picture.",
    {
        "calls": _value("number", "Of the component, for a picture.", minimum=0),
        "ms": _value("number", "Of all its operators.", minimum=0),
        "kinds": _list("", _object("", {"kind": TEXT, "operators": COUNT, **COST})),
        "layers": _list("", _object("", {"layer": TEXT, "kind": TEXT, **COST})),
    },
)
SUSTAINED = _object(
    "Minutes of drawing without a pause, in windows of equal length.",
    {
        "seconds": AMOUNT,
        "runs": COUNT,
        "windows": _list(
            "",
            _object(
                "",
                {"at_s": AMOUNT, "seconds": AMOUNT, "runs": COUNT, "p50_ms": AMOUNT, "max_ms": AMOUNT},
                {"frequency_mhz": _or_null(AMOUNT), "temperature_c": _or_null(NUMBER), "rss_bytes": _or_null(INDEX)},
            ),
        ),
        "drift_percent_per_minute": _or_null(_value("number", "Slope of the windows' medians; null under a minute.")),
        "drift_interval": _or_null(_list("low, high", NUMBER)),
        "last_to_first": AMOUNT,
        "throttled": _or_null(_value("boolean", "Whether the frequency fell by a tenth; null where it is not told.")),
    },
)
FRAMES = _object(
    "From frame to frame, of a game of 60 a second that computes for 8 ms of each.",
    {"frames": COUNT, "p50_ms": AMOUNT, "p99_ms": AMOUNT, "worst_ms": AMOUNT, "late_percent": AMOUNT},
    {"pictures_per_s": AMOUNT, "submit_p999_us": AMOUNT, "poll_p999_us": AMOUNT, "take_p999_us": AMOUNT},
)
CLIENTS = _object(
    "Processes that draw at once, each its next picture as soon as it has one.",
    {
        "calls": COUNT,
        "pictures_per_s": AMOUNT,
        "p50_ms": AMOUNT,
        "p95_ms": _or_null(AMOUNT),
        "p99_ms": _or_null(AMOUNT),
    },
    {
        "slowest_to_fastest_turn": _value(
            "number", "Of the turns' pictures a second: 1 is a quiet machine.", minimum=0
        ),
        "pss_bytes": _or_null(_value("integer", "Memory of them all; shared pages count once.", minimum=0)),
    },
)
VALIDITY = _object(
    "The timed pictures themselves against the reference's, of the same prompts, seeds and steps.",
    {"pictures": INDEX, "reference": _or_null(TEXT)},
    {
        "psnr_db": _or_null(_value("number", "Of the median picture; null where all are identical.")),
        "worst_psnr_db": _or_null(NUMBER),
        "lpips_squeeze": _or_null(_value("number", "Mean.")),
        "worst_lpips_squeeze": _or_null(NUMBER),
        "worst_picture": _or_null(_object("", {"prompt": TEXT, "seed": INDEX})),
        "tolerance": _map("Least PSNR in dB, greatest LPIPS.", NUMBER),
        "reasons": _list("Why the row is not valid.", TEXT),
    },
)
ROW = _object(
    "One configuration: a model on a runtime, in a precision, at a number of steps.",
    {
        "bundle": _value("string", "The model, as it was named."),
        "role": _or_null(TEXT),
        "runtime": TEXT,
        "provider": _value("string", "The device that the runtime got, as it calls it."),
        "precision": TEXT,
        "steps": COUNT,
        "image_size": COUNT,
        "runs": COUNT,
        "name": _value("string", "Unique in the file; `genin bench compare` finds the same row of two files by it."),
        "latency_ms": LATENCY,
        **SAMPLES,
        "stages_ms": _map("p50 by stage: the networks, or a single graph, and everything outside them.", NUMBER),
        "cold_start_s": _value("number", "Median of the processes' starts.", minimum=0),
        "load_s": AMOUNT,
        "peak_rss_bytes": _or_null(INDEX),
        "size_bytes": _or_null(INDEX),
        "valid": _or_null(_value("boolean", "Whether its pictures are right; null where nothing says so.")),
        "notes": NOTES,
    },
    {
        "program": _value("string", "What drew: genin, or one of its peers. Rows without it are genin's."),
        "program_version": _or_null(TEXT),
        "differs": _list("What a peer does otherwise than genin's rows.", TEXT),
        "source_sha256": _or_null(_value("string", "Of the model folder: rows of one model have the same.")),
        "path": TEXT,
        "asked": _map("Runtime and precision that were asked for.", TEXT),
        "device": TEXT,
        "group": _value("integer", "Rows of one group took turns; groups were measured one after the other.", minimum=0),
        "threads": COUNT,
        "batch_size": _value("integer", "Pictures drawn at once; latencies are of all of them.", minimum=1),
        "asked_size": _or_null(_value("integer", "Width and height, where they are not the model's own.", minimum=1)),
        "pictures_per_s": _value("number", "By p50.", minimum=0),
        "engine_version": _or_null(TEXT),
        "processes": COUNT,
        "intervals_ms": _map("95 % intervals of the percentiles.", _list("low, high", AMOUNT)),
        "outliers": _value("integer", "Runs beyond Tukey's outer fence.", minimum=0),
        "encoded_prompt_ms": _or_null(_map("Without the text encoder.", _or_null(AMOUNT))),
        "stages_percentiles_ms": _map("", _map("", _or_null(NUMBER))),
        "steps_ms": _list("p50 of the UNet's call at each step.", AMOUNT),
        "first_run_ms": _value("number", "Median of the processes' first pictures.", minimum=0),
        "memory_bytes": _map("Of the process: before_load, loaded, steady, peak.", _or_null(INDEX)),
        "component_bytes": _map("Weights on disk.", _or_null(INDEX)),
        "parameters": _or_null(INDEX),
        "macs": _or_null(INDEX),
        "macs_per_picture": _or_null(_value("integer", "Multiply-adds of all networks of a picture.", minimum=0)),
        "weight_bytes_per_picture": _or_null(
            _value("integer", "Weights on disk, once for every call of their network.", minimum=0)
        ),
        "gflops": _or_null(_value("number", "Two operations for each multiply-add, by the median second.", minimum=0)),
        "joules_per_picture": _or_null(_value("number", "Of the processor's package, by its own counter.", minimum=0)),
        "matmul_share": _or_null(_value("number", "Of the fp32 matrix product with as many threads; may exceed 1.", minimum=0)),
        "copy_share": _or_null(_value("number", "Bytes of weights a second, of the copy's peak.", minimum=0)),
        "weights_sha256": SHA256,
        "pictures_sha256": _value("string", "Of the timed pictures' pixels, in the order of rounds.", pattern="^[0-9a-f]{64}$"),
        "validity": VALIDITY,
        "operators": _or_null(_map("Component => its longest operators, where --profile asked for them.", OPERATORS)),
        "sustained": _or_null(SUSTAINED),
        "clients": _or_null(_map("Number of processes that draw at once => speed and latency.", CLIENTS)),
        "frames": _or_null(_map("Drawing off, by a painter's thread or process, by a thread without one => frames.", FRAMES)),
        "pairs": INDEX,
        "lpips_squeeze_to_fp32": _or_null(AMOUNT),
        "psnr_db_to_fp32": _or_null(NUMBER),
        "lpips_squeeze_to_teacher": _or_null(AMOUNT),
        "clip_score": _or_null(_value("number", "100 max(cos, 0) of pictures and their prompts, the mean over prompts.")),
        "clip_score_interval": _or_null(_list("low, high; null for a single prompt", NUMBER)),
        "fid": _or_null(NUMBER),
        "fd_squeezenet": _or_null(NUMBER),
        "fd_efficientnet": _or_null(NUMBER),
        "fd_world": _or_null(NUMBER),
        "fd_ratio": _or_null(NUMBER),
        "samples": _or_null(COUNT),
        "speedup": _or_null(AMOUNT),
        "speedup_interval": _or_null(_list("low, high", AMOUNT)),
        "speedup_baseline": _or_null(TEXT),
    },
)  # fmt: skip
SKIPPED = _object(
    "A configuration that was not measured.",
    {"bundle": TEXT, "runtime": TEXT, "precision": TEXT, "reason": TEXT},
    {"program": TEXT},
)
RESULTS = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Results of genin bench",
    **_object(
        "",
        {
            "schema_version": _value("integer", const=VERSION),
            "machine": MACHINE,
            "protocol": PROTOCOL,
            "results": _list("", ROW),
            "skipped": _list("", SKIPPED),
            "notes": NOTES,
        },
        {
            "run_id": _value("string", "Random; rows of one run took turns, so that they can be compared as pairs."),
            "created": _value("string", "UTC, ISO 8601."),
            "command": _or_null(TEXT),
            "genin_commit": _or_null(_value("string", "Of the checkout that genin ran from.")),
            "sha256": _value(
                "string", "Of everything else, as JSON with sorted keys and no spaces.", pattern="^[0-9a-f]{64}$"
            ),
        },
    ),
}


def json_schema() -> Schema:
    """The published schema."""
    return RESULTS


def errors_of(value: object, schema: Schema = RESULTS, where: str = "") -> Iterator[str]:
    """Every place where a value is not what the schema says: "results[0].runs is not an integer"."""
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    shown = where or "it"
    if not any(_is(value, kind) for kind in kinds):
        yield f"{shown} is not {' or '.join(_article(kind) for kind in kinds)}"
        return
    if "const" in schema and value != schema["const"]:
        yield f"{shown} is {value!r}, not {schema['const']!r}"
    if isinstance(value, int | float) and value < schema.get("minimum", -math.inf):
        yield f"{shown} is {value}, less than {schema['minimum']}"
    if "pattern" in schema and isinstance(value, str) and not _is_sha256(value):
        yield f"{shown} is not 64 hexadecimal digits"
    if isinstance(value, Mapping):
        yield from _errors_of_keys(value, schema, where)
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from errors_of(item, schema["items"], f"{where}[{index}]")


def _errors_of_keys(value: Mapping[str, Any], schema: Schema, where: str) -> Iterator[str]:
    for key in schema.get("required", ()):
        if key not in value:
            yield f"{where or 'it'} has no {key}"
    properties, others = schema.get("properties", {}), schema.get("additionalProperties")
    for key, item in value.items():
        if (inner := properties.get(key, others)) is not None:
            yield from errors_of(item, inner, f"{where}.{key}" if where else key)


def _is(value: object, kind: str) -> bool:
    if kind == "null":
        return value is None
    if kind in ("integer", "number"):
        numbers = int if kind == "integer" else (int, float)
        return isinstance(value, numbers) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, {"string": str, "boolean": bool, "array": list, "object": Mapping}[kind])


def _article(kind: str) -> str:
    return kind if kind == "null" else f"an {kind}" if kind[0] in "aio" else f"a {kind}"


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


@click.command()
def print_schema() -> None:
    """Print the JSON schema of result files."""
    click.echo(json.dumps(json_schema(), indent=1, ensure_ascii=False))


if __name__ == "__main__":
    print_schema()

"""Result files: written whole, read with their schema and hash checked, older versions brought up to date.

A file is one JSON object with the SHA-256 of everything else in it (`seal`), so that a file that was edited, or cut off, is not
taken for a measurement. Version 0 is what genin wrote before there was a version: percentiles without runs, and no hash. Such files
can be shown and merged, not compared.

Not here: what a file says (`schema`), measuring (`genin.benchmarks.speed`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from genin.benchmarks.results.schema import VERSION, errors_of
from genin.runtimes.errors import InputError
from genin.runtimes.files import write_text
from genin.runtimes.text import read_text
from genin.runtimes.wording import counted

Results = dict[str, Any]

HASH = "sha256"
AGAIN = "measure again: genin bench MODEL --out RESULTS.json"
COLUMNS = ("samples_process", "samples_round", "samples_at_s", "steps_samples_ms")  # of a row, as long as samples_ms
GENIN = "genin"  # the program of a row that names none
SINCE_VERSION_1 = "written before genin kept every run"


def digest(results: Mapping[str, Any]) -> str:
    """SHA-256 of everything but the hash itself, as JSON with sorted keys and no spaces."""
    rest = {key: value for key, value in results.items() if key != HASH}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def seal(results: Mapping[str, Any]) -> Results:
    """The results with their hash."""
    return {**results, HASH: digest(results)}


def write_results(results: Mapping[str, Any], path: Path) -> None:
    """Write a file, by rename. Errors: ValueError for results that are not what the schema says: a mistake of genin's own."""
    sealed = seal(results)
    wrong = next(errors_of(sealed), None)
    if wrong is not None:
        raise ValueError(f"results that do not fit their schema: {wrong}")
    write_text(path, json.dumps(sealed, indent=1, allow_nan=False) + "\n")


def read_results(path: Path) -> Results:
    """A result file, checked, in the present version.

    Errors: InputError for a file that is missing, no result file, cut off, edited, or of a later version.
    """
    results = _read_json(path)
    version = results.get("schema_version", 0)
    if not isinstance(version, int) or isinstance(version, bool) or not 0 <= version <= VERSION:
        remedy = f"this genin reads versions up to {VERSION}; update it"
        raise InputError(f"results of schema version {version!r}", where=path, remedy=remedy)
    if version:
        _check_hash(results, path)
    else:
        results = _from_version_0(results, path)
    wrong = next(errors_of(results), None) or next(_uneven_columns(results), None)
    if wrong is not None:
        raise InputError(f"not results of genin bench: {wrong}", where=path, remedy=AGAIN)
    return results


def _read_json(path: Path) -> Results:
    try:
        text = read_text(path)
    except FileNotFoundError as error:
        raise InputError("no such result file", where=path, remedy="genin bench MODEL --out RESULTS.json") from error
    except OSError as error:
        raise InputError(f"the results cannot be read ({error.strerror})", where=path) from error

    def refuse(constant: str) -> NoReturn:
        raise InputError(f"results with the number {constant}", where=path, remedy=AGAIN)

    def finite(number: str) -> float:
        return float(number) if math.isfinite(float(number)) else refuse(number)

    try:
        results = json.loads(text, parse_constant=refuse, parse_float=finite)
    except (ValueError, RecursionError) as error:  # of ValueErrors also integers of thousands of digits
        what = "the results are cut off, or not JSON"
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise InputError(f"{what}{where}", where=path, remedy=AGAIN) from error
    if not isinstance(results, dict) or not {"machine", "results"} <= results.keys():
        raise InputError("not results of genin bench", where=path, remedy="name a file that `genin bench --out` wrote")
    return results


def _check_hash(results: Results, path: Path) -> None:
    if HASH not in results:
        raise InputError("the results have no sha256: they were edited", where=path, remedy=AGAIN)
    if results[HASH] != digest(results):
        raise InputError("the results were edited since they were written (sha256)", where=path, remedy=AGAIN)


def _uneven_columns(results: Results) -> Any:
    for index, row in enumerate(results["results"]):
        stages = [f"stages_samples_ms.{stage}" for stage in row["stages_samples_ms"]]
        lengths = {name: len(row[name]) for name in COLUMNS}
        lengths |= {name: len(values) for name, values in zip(stages, row["stages_samples_ms"].values(), strict=True)}
        for name, length in lengths.items():
            if length != len(row["samples_ms"]):
                yield f"results[{index}].{name} has {length} runs, samples_ms {len(row['samples_ms'])}"


# --- older versions --------------------------------------------------------------------------------------------------


def _from_version_0(results: Results, path: Path) -> Results:
    """Percentiles alone: the rows are named, and have no runs."""
    rows = results["results"]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError("not results of genin bench", where=path, remedy=AGAIN)
    protocol = results.get("protocol")
    threads = protocol.get("threads") if isinstance(protocol, dict) else None
    upgraded = [_row_from_version_0(row, threads) for row in rows]
    return seal({**results, "schema_version": 1, "results": upgraded})


def _row_from_version_0(row: Results, threads: object) -> Results:
    empty: Results = {name: [] for name in ("samples_ms", *COLUMNS, "first_runs_ms", "cold_starts_s", "loads_s")}
    latency, notes = row.get("latency_ms"), row.get("notes")
    notes = dict(notes) if isinstance(notes, dict) else {}
    if isinstance(latency, dict):
        latency = {"p95": None, **latency}
    more = {"threads": threads} if isinstance(threads, int) else {}
    known = {"name": title_of(row), "stages_samples_ms": {}, "valid": None, **empty, **more}
    return {**row, **known, "latency_ms": latency, "notes": notes | {"samples_ms": SINCE_VERSION_1}}


def title_of(row: Mapping[str, Any]) -> str:
    """A row's name in tables and pictures."""
    steps, engine = row.get("steps"), engine_text(row.get("program", GENIN), row.get("runtime"), row.get("precision"))
    return f"{row.get('bundle')} · {engine} · {counted(steps, 'step') if isinstance(steps, int) else f'steps {steps}'}"


def engine_text(program: str, runtime: object, precision: object) -> str:
    """What draws: "openvino fp16", "optimum-intel openvino fp16"."""
    names = [*([] if program in (GENIN, runtime) else [program]), str(runtime), str(precision)]
    return " ".join(names)

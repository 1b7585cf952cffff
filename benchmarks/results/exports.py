"""A result file in other formats: tables, other tools' JSON, and what is pasted into a model card, a README or a paper.

Every export says where it is from: the hash of the result file, which a reader can be given beside it. Rows whose pictures are not
right are in the raw formats (CSV, JSON) with `valid` false, and are left out where one figure speaks for itself.

pyperf's file format and the keys of optimum-benchmark's report are theirs; tests load the former with pyperf itself. Not here: the
page (`genin.benchmarks.report`), several devices (`merge`).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, Final

import numpy as np

from genin.benchmarks.results.files import AGAIN, GENIN, digest, engine_text
from genin.benchmarks.results.operators import operators_text
from genin.benchmarks.results.table import (
    clients_text,
    fastest,
    frames_text,
    is_elsewhere,
    is_ranked,
    number,
    picture_ms,
    program_of,
    reasons_of,
    results_table,
    sustained_text,
)
from genin.runtimes.errors import GeninError, InputError
from genin.runtimes.vocabulary import nearest
from genin.runtimes.wording import counted

Results = Mapping[str, Any]
Row = Mapping[str, Any]

CSV_COLUMNS: Final = (
    *("name", "bundle", "program", "program_version", "runtime", "engine_version", "provider", "precision"),
    *("steps", "threads", "batch_size", "image_size", "runs", "processes", "outliers", "valid"),
)
CSV_FIGURES: Final = ("p50", "p90", "p95", "p99", "mean", "sd", "min", "max")
CSV_MORE: Final = (
    *("pictures_per_s", "joules_per_picture", "first_run_ms", "cold_start_s", "load_s", "peak_rss_bytes", "size_bytes"),
    *("speedup", "psnr_db_to_fp32", "lpips_squeeze_to_fp32", "lpips_squeeze_to_teacher", "weights_sha256"),
    *("clip_score", "source_sha256", "pictures_sha256", "macs_per_picture", "gflops", "matmul_share", "copy_share"),
)
# Figures that lie deeper: the path of keys, joined by underscores, is the column's name.
CSV_DEEPER: Final = (
    *(("validity", name) for name in ("psnr_db", "worst_psnr_db", "lpips_squeeze", "worst_lpips_squeeze")),
    *(("sustained", name) for name in ("seconds", "drift_percent_per_minute", "last_to_first", "throttled")),
    *(
        ("frames", beside, name)
        for beside in ("off", "thread", "process", "engine_defaults")
        for name in ("p99_ms", "worst_ms", "late_percent")
    ),
)
SOURCE_COLUMNS: Final = ("busy_machine", "results_sha256")
JOULES_PER_KWH: Final = 3.6e6
CHARACTER_PX: Final = 6.6  # of Verdana at 11 px, on average
PAD_PX: Final = 10


def export(results: Results, format: str) -> str:
    """The results in one of `FORMATS`. Errors: InputError for another format, GeninError if no row may be shown,
    or the format is of runs and there are none."""
    if format not in FORMATS:
        raise InputError(f"unknown format '{format}'", remedy=nearest(format, FORMATS))
    return FORMATS[format](results)


def to_csv(results: Results) -> str:
    """One line for each configuration."""
    names = [*CSV_COLUMNS, *(f"{name}_ms" for name in CSV_FIGURES), "p50_low_ms", "p50_high_ms", *CSV_MORE]
    names += ["_".join(path) for path in CSV_DEEPER] + ["reasons", "differs", *SOURCE_COLUMNS]
    lines, source = [], _source(results)
    for row in results["results"]:
        low, high = (row.get("intervals_ms") or {}).get("p50") or (None, None)
        figures = [row["latency_ms"].get(name) for name in CSV_FIGURES]
        own, more = ([row.get(name) for name in part] for part in (CSV_COLUMNS, CSV_MORE))
        said = ["; ".join(reasons_of(row)), "; ".join(row.get("differs", ()))]
        deeper = [_deep(row, path) for path in CSV_DEEPER]
        lines.append([*own, *figures, low, high, *more, *deeper, *said, *source])
    return _csv(names, lines)


def to_runs_csv(results: Results) -> str:
    """One line for each timed picture."""
    _check_runs(results)
    stages = list(dict.fromkeys(stage for row in results["results"] for stage in row["stages_samples_ms"]))
    columns = ("samples_process", "samples_round", "samples_at_s", "samples_ms")
    lines, source = [], _source(results)
    for row in results["results"]:
        of_stages = [row["stages_samples_ms"].get(stage, [None] * len(row["samples_ms"])) for stage in stages]
        lines += [
            [row["name"], *values, row["valid"], *source]
            for values in zip(*(row[name] for name in columns), *of_stages, strict=True)
        ]
    names = ["name", "process", "round", "at_s", "total_ms", *(f"{stage}_ms" for stage in stages), "valid"]
    return _csv([*names, *SOURCE_COLUMNS], lines)


def to_markdown(results: Results) -> str:
    """The table, what was measured apart, what it was measured on, and the hash."""
    busy = results["notes"].get("busy")
    warning = [f"**{busy}**", ""] if busy else []
    command = f", `{results['command']}`" if results.get("command") else ""
    source = f"{_devices(results['results'], results)}{command}, results sha256 {digest(results)[:16]}"
    texts = (operators_text, sustained_text, clients_text, frames_text)
    apart = [text for text in (write(results) for write in texts) if text]
    return "\n".join([*warning, "\n\n".join([results_table(results), *apart]), "", source]) + "\n"


def to_pyperf(results: Results) -> str:
    """A suite as `python -m pyperf compare_to` reads it: a benchmark for each configuration, a run for each of its processes, in
    seconds."""
    _check_runs(results)
    benchmarks = []
    for row in results["results"]:
        processes = np.array(row["samples_process"])
        values = np.array(row["samples_ms"]) / 1000
        runs = [
            {"values": values[processes == process].tolist(), "metadata": {"load_avg_1min": load} if load else {}}
            for process in np.unique(processes)
            for load in [results["machine"]["load_average"]]
        ]
        if runs:
            benchmarks.append({"metadata": _pyperf_metadata(row), "runs": runs})
    machine = results["machine"]
    common = {
        "cpu_model_name": machine["processor"],
        "platform": machine["system"],
        "cpu_count": machine["logical_cores"],
    }
    common |= {"python_version": machine["python"], "genin_results_sha256": digest(results)}
    common |= {"genin_busy_machine": results["notes"].get("busy")}
    metadata = {key: value for key, value in common.items() if value is not None}
    return json.dumps({"version": "1.0", "metadata": metadata, "benchmarks": benchmarks}) + "\n"


def to_optimum(results: Results) -> str:
    """optimum-benchmark's report of an image-diffusion task for each configuration: load_model, first_call, call, per_step, in
    seconds and MB; and `genin`, which is ours."""
    reports = {}
    source = dict(zip(SOURCE_COLUMNS, _source(results), strict=True))
    for row in results["results"]:
        steps = [step / 1000 for run in row["steps_samples_ms"] for step in run]
        calls, batch = [one / 1000 for one in row["samples_ms"]], row.get("batch_size", 1)
        memory = row.get("memory_bytes") or {}
        reports[row["name"]] = {
            "load_model": _optimum(row["loads_s"], memory.get("loaded")),
            "first_call": _optimum([one / 1000 for one in row["first_runs_ms"]], None),
            "call": _optimum(calls, row["peak_rss_bytes"])
            | {"throughput": {"unit": "images/s", "value": batch / float(np.mean(calls))} if calls else None}
            | _optimum_energy(row.get("joules_per_picture"), batch),
            "per_step": _optimum(steps, None),
            "genin": {"valid": row["valid"], **source},
        }
    return json.dumps(reports, indent=1) + "\n"


def to_card(results: Results) -> str:
    """The `model-index` of a Hugging Face model card, as YAML: one result for each configuration whose pictures are right."""
    lines = ["model-index:"]
    rows = _shown(results)
    for bundle in dict.fromkeys(row["bundle"] for row in rows):
        lines += [f"- name: {_text(bundle)}", "  results:"]
        for row in (one for one in rows if one["bundle"] == bundle):
            lines += _card_result(row, results)
    return "\n".join(lines) + "\n"


def to_badge(results: Results) -> str:
    """An SVG badge of genin's fastest row whose pictures are right, with the results' hash in its title."""
    rows = _shown(results)
    own = [row for row in rows if program_of(row) == GENIN]
    best = fastest(own or rows)
    assert best is not None
    busy = " (busy machine)" if results["notes"].get("busy") else ""
    label, value = "genin bench", f"{number(picture_ms(best))} ms{busy}"
    about = f"{best['name']} on {_devices([best], results)}: {value} a picture; results sha256 {digest(results)[:16]}"
    left, right = (round(CHARACTER_PX * len(text) + 2 * PAD_PX) for text in (label, value))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" '
        f'aria-label="{escape(label)}: {escape(value)}">'
        f"<title>{escape(about)}</title>"
        f'<rect width="{left + right}" height="20" rx="3" fill="#444"/>'
        f'<path d="M{left} 0h{right - 3}a3 3 0 0 1 3 3v14a3 3 0 0 1-3 3H{left}z" fill="#b4431f"/>'
        f'<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">'
        f'<text x="{left / 2:g}" y="14">{escape(label)}</text>'
        f'<text x="{left + right / 2:g}" y="14">{escape(value)}</text></g></svg>\n'
    )


def to_bibtex(results: Results) -> str:
    """An entry for the results, by their hash."""
    sha256, created = digest(results), str(results.get("created") or "")
    models = ", ".join(dict.fromkeys(row["bundle"] for row in results["results"]))
    year = f"  year = {{{created[:4]}}},\n" if created[:4].isdigit() else ""
    title = _bibtex(f"genin bench of {models} on {_devices(results['results'], results)}")
    version = results["machine"]["packages"].get("genin", "?")
    right = sum(row["valid"] is True for row in results["results"])
    peers = {program_of(row): row.get("program_version") for row in results["results"] if program_of(row) != GENIN}
    beside = "".join(f", {name} {release or '?'}" for name, release in peers.items())
    busy = ", busy machine" if results["notes"].get("busy") else ""
    return (
        f"@misc{{genin-bench-{sha256[:8]},\n  title = {{{title}}},\n{year}"
        f"  note = {{genin {version}{_bibtex(beside)}, schema {results['schema_version']}, "
        f"pictures right in {right} of {counted(len(results['results']), 'row')}{busy}, results SHA-256 {sha256}}}\n}}\n"
    )


FORMATS: Final[Mapping[str, Callable[[Results], str]]] = {
    "csv": to_csv,
    "runs-csv": to_runs_csv,
    "markdown": to_markdown,
    "pyperf": to_pyperf,
    "optimum": to_optimum,
    "card": to_card,
    "badge": to_badge,
    "bibtex": to_bibtex,
}


def _source(results: Results) -> tuple[str | None, str]:
    """The values of `SOURCE_COLUMNS`: what is said of a busy machine, if it was one, and the hash."""
    return results["notes"].get("busy"), digest(results)


def device_of(results: Results) -> str:
    """A machine in a few words."""
    machine = results["machine"]
    cores = machine["usable_cores"]
    return f"{machine['processor']}, {counted(cores, 'core')}"


def _check_runs(results: Results) -> None:
    """Errors: GeninError for a file of before genin kept every run."""
    if not any(row["samples_ms"] for row in results["results"]):
        raise GeninError("the results have no runs", remedy=AGAIN)


def _devices(rows: Sequence[Row], results: Results) -> str:
    """What rows ran on: the machine, or, in place of it, a graphics card as its runtime calls it."""
    found = dict.fromkeys(str(row["provider"]) if is_elsewhere(row) else device_of(results) for row in rows)
    return "; ".join(found) or device_of(results)


def _shown(results: Results) -> list[Row]:
    """The rows whose pictures are right; where none was compared, those that are not known to be wrong."""
    rows = [row for row in results["results"] if row["valid"] is True]
    rows = rows or [row for row in results["results"] if is_ranked(row)]
    if not rows:
        raise GeninError("no row has valid pictures, so no figure can be shown")
    return rows


def _card_result(row: Row, results: Results) -> list[str]:
    busy = ", busy machine" if results["notes"].get("busy") else ""
    engine = engine_text(program_of(row), row["runtime"], row["precision"])
    where = f"{engine}, {counted(row['steps'], 'step')}{_sweep_of(row)}, {_devices([row], results)}{busy}"
    protocol = results["protocol"]
    prompts = f"{counted(len(protocol['prompts']), 'prompt')}, sha256 {str(protocol.get('prompts_sha256'))[:16]}"
    metrics: list[tuple[str, str, Any]] = [
        ("latency_p50_ms", f"latency p50 in ms ({where})", row["latency_ms"]["p50"]),
        ("latency_p95_ms", f"latency p95 in ms ({where})", row["latency_ms"]["p95"]),
        ("cold_start_s", f"cold start in s ({where})", row["cold_start_s"]),
        ("peak_memory_mb", f"peak memory in MB ({where})", row["peak_rss_bytes"] and row["peak_rss_bytes"] / 1e6),
        ("lpips_squeeze_to_fp32", f"LPIPS to fp32 ({where})", row.get("lpips_squeeze_to_fp32")),
        (
            "psnr_db_of_worst_picture",
            f"PSNR of the worst picture in dB ({where})",
            _deep(row, ("validity", "worst_psnr_db")),
        ),
        ("clip_score", f"CLIP score ({where})", row.get("clip_score")),
        ("energy_j", f"energy of a picture in J ({where})", row.get("joules_per_picture")),
        ("matmul_share", f"share of the machine's matrix product ({where})", row.get("matmul_share")),
        (
            "drift_percent_per_minute",
            f"drift of minutes without a pause, in percent a minute ({where})",
            _deep(row, ("sustained", "drift_percent_per_minute")),
        ),
        (
            "frame_p99_ms",
            f"p99 of a game's frames beside it in ms ({where})",
            _deep(row, ("frames", "thread", "p99_ms")),
        ),
    ]
    lines = ["  - task:", "      type: text-to-image", "    dataset:", "      type: prompts"]
    lines += [f"      name: {_text(prompts)}", "    metrics:"]
    for kind, name, value in metrics:
        if value is not None:
            lines += [f"    - type: {kind}", f"      name: {_text(name)}", f"      value: {value:.6g}"]
            lines += ["      args:", f"        results_sha256: {digest(results)}"]
    return lines


def _sweep_of(row: Row) -> str:
    """What tells the rows of a sweep apart; a batch's latencies are of all its pictures."""
    threads, batch, size = row.get("threads"), row.get("batch_size", 1), row.get("asked_size")
    said = [threads and counted(threads, "thread"), batch > 1 and f"batch of {batch}", size and f"{size} px"]
    said += [row["valid"] is None and "pictures not compared"]
    return "".join(f", {text}" for text in said if text)


def _pyperf_metadata(row: Row) -> dict[str, Any]:
    """Texts and numbers, which is what pyperf keeps; `mem_max_rss` is its own name for the peak of memory."""
    known = {"name": row["name"], "unit": "second", "valid": str(row["valid"]), "program": program_of(row)}
    known |= {name: row.get(name) for name in ("runtime", "precision", "steps", "threads", "batch_size")}
    known |= {"mem_max_rss": row.get("peak_rss_bytes")}
    known |= {name: row.get(name) for name in ("joules_per_picture", "matmul_share")}
    known |= {"drift_percent_per_minute": _deep(row, ("sustained", "drift_percent_per_minute"))}
    return {name: value for name, value in known.items() if value is not None}


def _optimum_energy(joules: float | None, batch: int) -> dict[str, Any]:
    """Of one call, in kWh, and pictures for each kWh; only the processor is counted."""
    if joules is None:
        return {}
    kwh = joules * batch / JOULES_PER_KWH
    energy = {"unit": "kWh", "cpu": kwh, "ram": None, "gpu": None, "total": kwh}
    return {
        "energy": energy,
        "efficiency": {"unit": "images/kWh", "value": JOULES_PER_KWH / joules if joules else None},
    }


def _deep(row: Row, path: Sequence[str]) -> Any:
    """A figure by its keys; None where one of them is missing or null."""
    found: Any = row
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _optimum(values: Sequence[float], memory_bytes: int | None) -> dict[str, Any]:
    column = np.asarray(values, np.float64)
    latency = None
    if len(column):
        mean, deviation = float(column.mean()), float(column.std()) if len(column) > 1 else 0.0
        ranks = {f"p{rank}": float(np.percentile(column, rank)) for rank in (50, 90, 95, 99)}
        latency = {
            "unit": "s",
            "values": column.tolist(),
            "count": len(column),
            "total": float(column.sum()),
            "mean": mean,
        }
        latency |= {**ranks, "stdev": deviation, "stdev_": 100 * deviation / mean if mean else 0.0}
    memory = None
    if memory_bytes is not None:
        unknown = dict.fromkeys(("max_global_vram", "max_process_vram", "max_reserved", "max_allocated"))
        memory = {"unit": "MB", "max_ram": memory_bytes / 1e6, **unknown}
    return {"memory": memory, "latency": latency, "throughput": None, "energy": None, "efficiency": None}


def _csv(names: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(lines)
    return out.getvalue()


def _text(text: str) -> str:
    """A YAML string: JSON's double quotes are YAML's."""
    return json.dumps(text, ensure_ascii=False)


def _bibtex(text: str) -> str:
    for sign in "\\{}%&#$_^~":
        text = text.replace(sign, " " if sign in "\\{}^~" else f"\\{sign}")
    return text

"""The page of a benchmark: one HTML file that carries its pictures, plot and style, and loads nothing.

`write_report` takes what `bench` and `evaluate` return, and grids of pictures; every part is optional, so the same page serves
`genin bench --report` and a whole run's summary.

Not here: markup and style (`templates/report.html.jinja`, `style.css`), the plot (`plots`), measuring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genin.benchmarks.grids import Grid
from genin.benchmarks.report.filters import facets_of, filters_of, places_of
from genin.benchmarks.report.page import render_page
from genin.benchmarks.report.pictures import page_grids
from genin.benchmarks.report.plots import (
    Legend,
    quality_axis,
    quality_latency_svg,
    quality_legend,
    sustained_legend,
    sustained_svg,
)
from genin.benchmarks.results.files import engine_text
from genin.benchmarks.results.merge import Merged
from genin.benchmarks.results.operators import KINDS, LAYERS, operators_of
from genin.benchmarks.results.table import (
    CLIENT_COLUMNS,
    FRAME_COLUMNS,
    client_cells,
    columns_of,
    device_text,
    fastest,
    frame_cells,
    is_elsewhere,
    is_ranked,
    number,
    peak_exceeded,
    picture_ms,
    program_of,
    remarks,
    skipped_text,
)
from genin.benchmarks.speed.picture_quality import FD_NOT_ASKED
from genin.files import write_text
from genin.runtimes.wording import counted
from genin.version import __version__

STAGE_COLOURS = {
    "text_encoder": "--s5",
    "unet": "--s1",
    "vae_decoder": "--s2",
    "text_to_image": "--s3",
    "other": "--s6",
}
STAGE_NAMES = {
    "text_encoder": "text encoder",
    "unet": "UNet",
    "vae_decoder": "decoder",
    "text_to_image": "single graph",
    "other": "all else",
}
IDENTITY = ("device", "model", "program", "runtime", "precision", "steps", "threads", "batch", "px")
ONE_SCALE = 6.0  # times as long as the fastest
EVALUATION_COLUMNS = (
    ("model", "model", None),
    ("steps", "steps", 0),
    ("pictures", "samples", 0),
    ("FID", "fid", 2),
    ("FD SqueezeNet", "fd_squeezenet", 2),
    ("FD EfficientNet", "fd_efficientnet", 3),
    ("FD world", "fd_world", 2),
    ("KID SqueezeNet", "kid_squeezenet", 4),
    ("FD ratio", "fd_ratio", 3),
    ("LPIPS, paired", "lpips_squeeze_paired", 3),
    ("diversity", "diversity", 3),
    ("attributes right", "attribute_accuracy", 3),
)


@dataclass(frozen=True)
class Report:
    """What a page shows; all but one part may be left out.

    `results` is what `bench` returned, `devices` the results of several, `evaluations` what `evaluate` did; `plots` are
    (title, SVG element) pairs, for example from `plots.embed_svg`. Without `title` and `lead`, the first sentence, it is about the
    fastest model."""

    results: Mapping[str, Any] | None = None
    grids: Sequence[Grid] = ()
    evaluations: Sequence[Mapping[str, Any]] = ()
    plots: Sequence[tuple[str, str]] = ()
    title: str | None = None
    lead: str | None = None
    devices: Merged | None = None


def write_report(report: Report, path: Path) -> Path:
    """Write the page at `path` (by rename) and return it."""
    write_text(path, render(report))
    return path


def render(report: Report) -> str:
    """The page as text."""
    from markupsafe import Markup

    evaluations, measured = report.evaluations, _measured(report)
    rows = [row for results in measured.values() for row in results["results"]]
    if report.devices is not None:
        rows = report.devices.rows
    best = fastest(rows)
    told = [row for row in rows if "stages_ms" not in row["notes"]]  # peers do not tell their stages
    axis, svg = quality_axis(rows), quality_latency_svg(rows)
    facets, grids = facets_of(rows), page_grids(report.grids, {row["name"]: place for place, row in enumerate(rows)})
    values = {
        "title": report.title or (_headline(best) if best else "Pictures and figures"),
        "lead": report.lead or (_lead(best, measured) if best else None),
        "version": __version__,
        "busy": report.devices.busy if report.devices else report.results and report.results["notes"].get("busy"),
        "facts": _facts(best) if best else [],
        "grids": grids,
        "compared": any(row["against"] for grid in grids for row in grid["rows"]),
        "row_facets": facets,
        "filters": filters_of(facets),
        "plot": Markup(svg) if svg else None,
        "legend": quality_legend(rows),
        "plot_title": axis[1] if axis else None,
        "plots": [(name, Markup(one), legend) for name, one, legend in (*_over_time(rows), *_without_legend(report))],
        "table": _table(rows, best) if rows else None,
        "runs": _runs(rows),
        "batches": any(row.get("batch_size", 1) != 1 for row in rows),
        "stages": [(STAGE_NAMES[stage], colour) for stage, colour in STAGE_COLOURS.items() if _took(told, stage)],
        "frames": [
            (place, row["name"], _without_marks(frame_cells(row["frames"])))
            for place, row in enumerate(rows)
            if row.get("frames")
        ],
        "clients": [
            (place, row["name"], client_cells(row["clients"])) for place, row in enumerate(rows) if row.get("clients")
        ],
        "client_columns": CLIENT_COLUMNS,
        "frame_columns": FRAME_COLUMNS,
        "operators": list(operators_of(rows)),
        "operator_columns": (KINDS, LAYERS),
        "shares": _is_wide(told),
        "bars": _bars(sorted(told, key=lambda row: (not is_ranked(row), row["latency_ms"]["p50"])), rows),
        "evaluations": _evaluations(evaluations) if evaluations else None,
        "evaluations_note": _evaluations_note(evaluations),
        "machines": [(device, _machine(results)) for device, results in measured.items()],
        "notes": _notes(rows, report.devices or report.results, evaluations),
    }
    return render_page("genin.benchmarks.report", "report.html.jinja", values)


def _without_marks(lines: Sequence[Sequence[str]]) -> list[list[str]]:
    """Cells without Markdown's backticks."""
    return [[cell.replace("`", "") for cell in line] for line in lines]


def _over_time(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, Legend]]:
    svg = sustained_svg(rows)
    return [("Latency over time", svg, sustained_legend(rows))] if svg else []


def _without_legend(report: Report) -> list[tuple[str, str, Legend]]:
    return [(name, svg, []) for name, svg in report.plots]


def _measured(report: Report) -> Mapping[str, Mapping[str, Any]]:
    """Results by device; one device needs no name."""
    if report.devices is not None:
        return report.devices.devices
    return {"": report.results} if report.results else {}


# --- head ------------------------------------------------------------------------------------------------------------


def _headline(best: Mapping[str, Any]) -> str:
    headline = f"A picture in {number(picture_ms(best))} ms"
    if best["speedup"] is not None and best["role"] != "teacher":
        headline += f", {number(best['speedup'])} times faster than the teacher"
    return headline


def _lead(best: Mapping[str, Any], measured: Mapping[str, Mapping[str, Any]]) -> str:
    compared = best["speedup_baseline"] and best["role"] != "teacher"
    against = f" The teacher is {best['speedup_baseline']}." if compared else ""
    if "device_name" in best:  # it is part of the name
        which = f"The fastest of {len(measured)} devices: " if len(measured) > 1 else ""
        return f"{which}{best['name']}.{against}"
    if is_elsewhere(best):
        return f"{best['name']}, on {best['provider']}.{against}"
    [results] = measured.values()
    count = best.get("threads")
    threads = f" with {counted(count, 'thread')}" if count else ""
    return f"{best['name']}, on {results['machine']['processor']}{threads}.{against}"


def _facts(best: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The fastest configuration's figures: (value, name)."""
    facts = [
        (f"{number(picture_ms(best))} ms", "a picture, p50"),
        (f"{number(best['cold_start_s'])} s", "cold start"),
    ]
    if best["peak_rss_bytes"] is not None:
        facts.append((f"{number(best['peak_rss_bytes'] / 1e6)} MB", "peak memory"))
    if best["size_bytes"] is not None:
        facts.append((f"{number(best['size_bytes'] / 1e6)} MB", "on disk"))
    for key, name in (("lpips_squeeze_to_teacher", "LPIPS to the teacher"), ("fd_ratio", "FD relative to the teacher")):
        if best.get(key) is not None:
            facts.append((number(best[key], 3), name))
    return facts


# --- tables ----------------------------------------------------------------------------------------------------------


def _table(rows: Sequence[Mapping[str, Any]], best: Mapping[str, Any] | None) -> dict[str, Any]:
    """What is measured comes first, so that a phone shows latencies: what a row is stands in one column."""
    names, cells = columns_of(rows)
    figures = [place for place, name in enumerate(names) if name not in IDENTITY]
    shown = [name for name in names if name != "threads" or len({row.get("threads") for row in rows}) > 1]
    return {
        "names": [names[place] for place in figures],
        "rows": [
            (*_identity(row, shown), [line[place] for place in figures]) for row, line in zip(rows, cells, strict=True)
        ],
        "notes": peak_exceeded(rows),
        "best": next((index for index, row in enumerate(rows) if row is best), None) if len(rows) > 1 else None,
        "invalid": [index for index, row in enumerate(rows) if not is_ranked(row)],
    }


def _identity(row: Mapping[str, Any], columns: Sequence[str]) -> tuple[str, str]:
    """(model, what tells its row from the others): only what differs between rows has a column."""
    steps, threads, batch = row["steps"], row.get("threads"), row.get("batch_size", 1)
    parts = {
        "runtime": engine_text(program_of(row), row["runtime"], row["precision"]),
        "steps": f"{counted(steps, 'step')}",
        "threads": threads and counted(threads, "thread"),
        "batch": f"batch {batch}",
        "px": f"{row.get('image_size')} px",
        "device": device_text(row),
    }
    return row["bundle"], ", ".join(text for name, text in parts.items() if name in columns and text)


def _runs(rows: Sequence[Mapping[str, Any]]) -> str:
    counts = sorted({row["runs"] for row in rows})
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}" if counts else ""


def _took(rows: Sequence[Mapping[str, Any]], stage: str) -> bool:
    return any(row["stages_ms"].get(stage, 0.0) for row in rows)


def _is_wide(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether rows differ so much that on one scale the fast ones would be too small to see."""
    totals = [total for row in rows if (total := sum(row["stages_ms"].values())) > 0]
    return max(totals, default=1.0) > ONE_SCALE * min(totals, default=1.0)


def _bars(rows: Sequence[Mapping[str, Any]], all_rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """On one scale, on which the longest fills the width; or each by itself."""
    longest = max((sum(row["stages_ms"].values()) for row in rows), default=0.0) or 1.0
    own = _is_wide(rows)
    scales = [(sum(row["stages_ms"].values()) or 1.0) if own else longest for row in rows]
    return [_bar(row, scale) | {"places": places_of(all_rows, [row])} for row, scale in zip(rows, scales, strict=True)]


def _bar(row: Mapping[str, Any], longest: float) -> dict[str, Any]:
    stages = {stage: value for stage in STAGE_COLOURS if (value := row["stages_ms"].get(stage, 0.0)) > 0}
    parts = [
        (f"{100 * value / longest:.2f}", STAGE_COLOURS[stage], f"{STAGE_NAMES[stage]}: {number(value)} ms")
        for stage, value in stages.items()
    ]
    said = ", ".join(hint for _, _, hint in parts)
    time = f"{number(row['latency_ms']['p50'])} ms"
    return {"label": row["name"], "parts": parts, "said": said, "time": time, "ranked": is_ranked(row)}


def _evaluations(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def cell(result: Mapping[str, Any], key: str, digits: int | None) -> str:
        value = result.get(key)
        if isinstance(value, Mapping):
            value = value.get("mean")
        if value is None:
            return "–"
        return str(value) if digits is None else f"{value:,.{digits}f}"

    cells = [[cell(result, key, digits) for _, key, digits in EVALUATION_COLUMNS] for result in evaluations]
    used = [index for index in range(len(EVALUATION_COLUMNS)) if any(row[index] != "–" for row in cells)]
    return {
        "names": [EVALUATION_COLUMNS[index][0] for index in used],
        "rows": [[row[index] for index in used] for row in cells],
    }


def _evaluations_note(evaluations: Sequence[Mapping[str, Any]]) -> str:
    references = dict.fromkeys(f"{one['reference_count']:,} pictures of {one['reference']}" for one in evaluations)
    return f"Against {'; '.join(references)}. Lower is better, but for diversity and attributes."


# --- foot ------------------------------------------------------------------------------------------------------------


def _machine(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    machine, protocol = results["machine"], results["protocol"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    rows = [
        (
            "processor",
            f"{machine['processor']} ({counted(machine['usable_cores'], 'usable core')}, {machine['architecture']})",
        ),
        ("system", f"{machine['system']}, Python {machine['python']}"),
        ("packages", packages),
        ("threads", str(protocol.get("threads", "–"))),
        ("method", _method(protocol)),
    ]
    if machine["memory_bytes"] is not None:
        rows.insert(1, ("memory", f"{machine['memory_bytes'] / 1e9:.0f} GB"))
    if (clock := _clock(machine)) is not None:
        rows.insert(1, ("clock", clock))
    for peak in machine.get("peaks") or ():
        shown = f"{number(peak['matmul_gflops'])} GFLOP/s of a matrix product, {number(peak['copy_gb_per_s'])} GB/s of a copy"
        rows.append((f"peak, {counted(peak['threads'], 'thread')}", shown))
    if machine["load_average"] is not None:
        rows.append(("load average before", f"{machine['load_average']:.2f}"))
    if results.get("command"):
        rows.append(("command", results["command"]))
    return rows


def _method(protocol: Mapping[str, Any]) -> str:
    return (
        f"{counted(protocol.get('processes', 1), 'fresh process', 'fresh processes')} per configuration, asked in turn; "
        f"{_duration(protocol)}{_warm_up(protocol)} of warm-up in each; intervals of 95 %"
    )


def _duration(protocol: Mapping[str, Any]) -> str:
    seconds = protocol.get("duration_s")
    return f"{seconds:g} s of timed pictures of each, at least {counted(protocol['runs'], 'run')}; " if seconds else ""


def _warm_up(protocol: Mapping[str, Any]) -> str:
    if seconds := protocol.get("warmup_s"):
        return f"{seconds:g} s"
    return counted(protocol["warmup"], "picture")


def _clock(machine: Mapping[str, Any]) -> str | None:
    """Frequency and governor, as far as the system tells."""
    frequency, governor = machine.get("frequency_mhz"), machine.get("governor")
    if not frequency or frequency.get("current") is None:
        return None
    return f"{frequency['current']:,.0f} MHz" + (f", governor {governor}" if governor else "")


def _notes(
    rows: Sequence[Mapping[str, Any]],
    results: Merged | Mapping[str, Any] | None,
    evaluations: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Every reason once."""
    of_run = results.to_json() if isinstance(results, Merged) else results or {"skipped": [], "notes": {}}
    notes = dict.fromkeys([*map(skipped_text, of_run["skipped"]), *remarks(rows)])
    for found in [one["notes"] for one in (of_run, *evaluations)]:
        by_reason: dict[str, list[str]] = {}
        for name, reason in found.items():
            if name == "busy" or reason == FD_NOT_ASKED:  # said at the top; what nobody asked for is not missing
                continue
            by_reason.setdefault(reason, []).append(name)
        notes |= {f"{', '.join(names)}: {reason}": None for reason, names in by_reason.items()}
    return list(notes)

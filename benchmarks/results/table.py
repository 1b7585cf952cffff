"""A result file as a Markdown table: what genin bench prints, and what goes into a pull request or a README.

A row whose pictures are not right is struck through. Not here: other formats (`exports`), the page (`genin.benchmarks.report`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from genin.benchmarks.results.files import GENIN

Row = Mapping[str, Any]


def program_of(row: Row) -> str:
    """Which program drew a row, or would have."""
    return str(row.get("program", GENIN))


def device_text(row: Row) -> str:
    """What a row ran on, as results of several machines name it, or as it was asked for."""
    return str(row.get("device_name") or row.get("device", "cpu"))


def is_elsewhere(row: Row) -> bool:
    """Whether a row did not run on the CPU, which is what the results say of their machine; `provider` says on what."""
    return bool(row.get("device", "cpu") != "cpu")


COLUMNS: Final[tuple[tuple[str, Callable[[Row], object]], ...]] = (
    ("device", device_text),
    ("model", lambda row: row["bundle"]),
    ("program", program_of),
    ("runtime", lambda row: row["runtime"]),
    ("precision", lambda row: row["precision"]),
    ("steps", lambda row: row["steps"]),
    ("threads", lambda row: row.get("threads") or "–"),
    ("batch", lambda row: row.get("batch_size", 1)),
    ("px", lambda row: row.get("image_size") or "–"),
    ("p50 ms", lambda row: number(row["latency_ms"]["p50"])),
    ("95 % interval", lambda row: interval((row.get("intervals_ms") or {}).get("p50"))),
    ("p95 ms", lambda row: number(row["latency_ms"]["p95"])),
    ("p99 ms", lambda row: number(row["latency_ms"]["p99"])),
    ("runs", lambda row: row.get("runs") or "–"),
    ("pictures/s", lambda row: number(row.get("pictures_per_s"))),
    ("speed-up", lambda row: "–" if row.get("speedup") is None else f"{number(row['speedup'])}×"),
    ("of fp32 peak", lambda row: percent(row.get("matmul_share"))),
    ("J/picture", lambda row: number(row.get("joules_per_picture"))),
    ("cold start s", lambda row: number(row["cold_start_s"])),
    ("peak MB", lambda row: number(row["peak_rss_bytes"] and row["peak_rss_bytes"] / 1e6)),
    ("size MB", lambda row: number(row["size_bytes"] and row["size_bytes"] / 1e6)),
    ("LPIPS to fp32", lambda row: number(row.get("lpips_squeeze_to_fp32"), 3)),
    ("LPIPS to teacher", lambda row: number(row.get("lpips_squeeze_to_teacher"), 3)),
    ("CLIP score", lambda row: number(row.get("clip_score"), 2)),
    ("FD ratio", lambda row: number(row.get("fd_ratio"), 3)),
)
# Columns that are left out where all rows have the same, unless it is something that nobody would take for granted.
ONLY_IF_SEVERAL: Final[Mapping[str, Callable[[Row], bool]]] = {
    "device": lambda row: device_text(row) != "cpu",
    "program": lambda row: program_of(row) != GENIN,
    "batch": lambda row: row.get("batch_size", 1) != 1,
    "px": lambda row: row.get("asked_size") is not None,
    "runs": lambda row: False,
}
CLIENT_COLUMNS: Final = ("clients", "pictures/s", "of the first", "p50 ms", "p95 ms", "p99 ms", "MB")
# Where all rows have the same.
ABOVE_THE_TABLE: Final = ("device", "program", "runtime", "precision", "steps", "threads", "batch", "px")
FRAME_COLUMNS: Final = ("drawing", "p50 ms", "p99 ms", "worst ms", "later than 20 ms", "pictures/s")
FRAME_NAMES: Final = {
    "thread": "`Painter`, thread",
    "process": "`Painter`, process",
    "engine_defaults": "a thread, engine's defaults",
}
APART: Final = ("operators", "sustained", "clients", "frames")
LEFT: Final = ("device", "model", "program", "runtime", "precision")


def columns_of(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Names and cells of the columns that some row has a value for; device, program, batch and size only where rows differ, or
    are not genin's single pictures of the models' own sizes on the CPU; runs only where rows differ."""
    cells = [[str(value(row)) for _, value in COLUMNS] for row in rows]
    found = [{row[index] for row in cells} - {"–"} for index in range(len(COLUMNS))]
    taken = [name for name, is_unusual in ONLY_IF_SEVERAL.items() if not any(map(is_unusual, rows))]
    used = [index for index, (name, _) in enumerate(COLUMNS) if len(found[index]) > (name in taken)]
    return [COLUMNS[index][0] for index in used], [[row[index] for index in used] for row in cells]


def results_table(results: Mapping[str, Any]) -> str:
    """The rows as a Markdown table; above it what they have in common, below it why some do not count, and what was skipped."""
    names, cells = columns_of(results["results"])
    common, names, cells = _in_common(names, cells)
    for row, line in zip(results["results"], cells, strict=True):
        if row["valid"] is False:
            line[:] = [f"~~{cell}~~" for cell in line]
    said = remarks(results["results"])
    said += [f"skipped: {skipped_text(one)}" for one in results["skipped"]]
    said += peak_exceeded(results["results"])
    notes = results.get("notes") or {}  # of a model: steps that it was not trained for
    said += [
        f"{model}: {notes[model]}"
        for model in dict.fromkeys(row["bundle"] for row in results["results"])
        if model in notes
    ]
    said += [f"CLIP score: {notes['clip_score']}"] if "clip_score" in notes else []
    said = list(dict.fromkeys(said))  # a batch that is refused for its size is refused like any other
    below = (
        ["", *(f"- {one}" for one in said)] if said else []
    )  # a line that follows at once would be a row of the table
    return "\n".join([*common, markdown_table(names, cells, LEFT), *below])


def _in_common(names: Sequence[str], cells: Sequence[Sequence[str]]) -> tuple[list[str], list[str], list[list[str]]]:
    """(the line above the table, the other columns). Pictures a second are 1000 / p50 unless they are drawn in batches."""
    same = {} if len(cells) < 2 else {
        name: cells[0][place]
        for place, name in enumerate(names)
        if name in ABOVE_THE_TABLE and len({line[place] for line in cells}) == 1
    }  # fmt: skip
    kept = [
        place for place, name in enumerate(names) if name not in same and (name != "pictures/s" or "batch" in names)
    ]
    line = [f"All rows: {', '.join(f'{name} {value}' for name, value in same.items())}.", ""] if same else []
    return line, [names[place] for place in kept], [[line[place] for place in kept] for line in cells]


def remarks(rows: Sequence[Row]) -> list[str]:
    """Why rows are not valid, in what they differ from the others, and what became of what was to be measured apart."""
    said = [f"{row['name']}: not valid: {reason}" for row in rows for reason in reasons_of(row)]
    said += [f"{row['name']}: {difference}" for row in rows for difference in row.get("differs", ())]
    return said + [f"{row['name']}: {key}: {row['notes'][key]}" for row in rows for key in APART if key in row["notes"]]


def peak_exceeded(rows: Sequence[Row]) -> list[str]:
    """Why rows are above 100 % of the peak, if some are."""
    if all((row.get("matmul_share") or 0) <= 1 for row in rows):
        return []
    return [
        "Above 100 % of fp32 peak: faster than numpy's matrix product in fp32, as is possible with fewer bits, with fewer "
        "multiply-adds (Winograd's convolution), and where other work slowed that product down."
    ]


def skipped_text(one: Row) -> str:
    """What was not measured, and why."""
    program = "" if program_of(one) == GENIN else f"by {program_of(one)} "
    engine = f"{one['runtime']} {one['precision']}".removesuffix(" –")
    size = "" if one.get("size") is None else f" at {one['size']} px"
    return f"{one['bundle']} {program}on {engine}{size}: {one['reason']}"


def reasons_of(row: Row) -> list[str]:
    """Why a row is not valid."""
    reasons: list[str] = (row.get("validity") or {}).get("reasons", []) if row["valid"] is False else []
    return reasons


def is_ranked(row: Row) -> bool:
    """Whether a row may be called the fastest: its pictures are not wrong."""
    return row["valid"] is not False


def picture_ms(row: Row) -> float:
    """p50 of one picture: latencies are of a whole batch."""
    return float(row["latency_ms"]["p50"]) / int(row.get("batch_size", 1))


def fastest(rows: Sequence[Row]) -> Row | None:
    """Of the rows whose pictures are right; where none was compared, of those that are not known to be wrong; None without any."""
    known = [row for row in rows if row["valid"] is True] or [row for row in rows if is_ranked(row)]
    return min(known, key=picture_ms, default=None)


def markdown_table(names: Sequence[str], cells: Sequence[Sequence[str]], left: Sequence[str] = ()) -> str:
    """A Markdown table with columns of even width; those in `left` are flush left."""
    lines = [names, *([cell.replace("|", "\\|") for cell in line] for line in cells)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(names))]
    flush = [name in left for name in names]
    padded = [
        [cell.ljust(width) if is_left else cell.rjust(width) for cell, width, is_left in zip(line, widths, flush, strict=True)]
        for line in lines
    ]  # fmt: skip
    rule = ["-" * width if is_left else "-" * (width - 1) + ":" for width, is_left in zip(widths, flush, strict=True)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [padded[0], rule, *padded[1:]])


def number(value: float | None, digits: int | None = None) -> str:
    """Three significant digits, or fixed decimals; "–" for a missing value."""
    if value is None:
        return "–"
    if digits is not None:
        return f"{value:.{digits}f}"
    if 0 < abs(value) < 1:
        return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def percent(share: float | None) -> str:
    """ "61 %"; "–" for a missing value."""
    return "–" if share is None else f"{100 * share:.0f} %"


def interval(low_high: Sequence[float] | None) -> str:
    """ "8.42 to 8.91"; "over 10×" for bounds that say nothing (of two processes that differ); "–" for none."""
    if not low_high:
        return "–"
    low, high = low_high
    return "over 10×" if high > 10 * low else f"{number(low)} to {number(high)}"


def sustained_text(results: Mapping[str, Any]) -> str:
    """A line for every row that drew for minutes; empty if none did."""
    return "\n".join(_sustained(row["name"], row["sustained"]) for row in results["results"] if row.get("sustained"))


def _sustained(name: str, one: Mapping[str, Any]) -> str:
    first, last = one["windows"][0]["p50_ms"], one["windows"][-1]["p50_ms"]
    said = f"{name}: {one['seconds'] / 60:.3g} minutes without a pause, {number(first)} ms at first, {number(last)} ms at last"
    if one["drift_interval"]:
        low, high = one["drift_interval"]
        said += f"; drift {one['drift_percent_per_minute']:+.2f} % a minute ({low:+.2f} to {high:+.2f})"
    memory = [one["windows"][place].get("rss_bytes") for place in (0, -1)]
    if None not in memory:
        said += f"; {number(memory[0] / 1e6)} MB of memory at first, {number(memory[1] / 1e6)} MB at last"
    return said + {True: "; the processor was slowed down", False: "; no throttling", None: ""}[one["throttled"]]


def clients_text(results: Mapping[str, Any]) -> str:
    """A heading and a table for every row that drew for several clients; empty if none did."""
    return "\n\n".join(_clients(row["name"], row["clients"]) for row in results["results"] if row.get("clients"))


def _clients(name: str, clients: Mapping[str, Mapping[str, Any]]) -> str:
    return f"**{name}: clients at once**\n\n{markdown_table(CLIENT_COLUMNS, client_cells(clients), ())}"


def client_cells(clients: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """A line for each number of clients, the fewest first."""
    ordered = sorted(clients.items(), key=lambda item: int(item[0]))
    fewest = ordered[0][1]["pictures_per_s"]
    return [
        [count, number(one["pictures_per_s"]), f"{number(one['pictures_per_s'] / fewest)}×",
         *(number(one[key]) for key in ("p50_ms", "p95_ms", "p99_ms")), number(one.get("pss_bytes") and one["pss_bytes"] / 1e6)]
        for count, one in ordered
    ]  # fmt: skip


def frames_text(results: Mapping[str, Any]) -> str:
    """A heading and a table for every row that drew beside a game; empty if none did."""
    return "\n\n".join(_frames(row["name"], row["frames"]) for row in results["results"] if row.get("frames"))


def _frames(name: str, frames: Mapping[str, Mapping[str, float]]) -> str:
    table = markdown_table(FRAME_COLUMNS, frame_cells(frames), FRAME_COLUMNS[:1])
    return f"**{name}: frames of a game at 60 a second**\n\n{table}"


def frame_cells(frames: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """A line for drawing off, and for each way of drawing."""
    return [
        [FRAME_NAMES.get(kind, kind), *(f"{one[key]:.1f}" for key in ("p50_ms", "p99_ms", "worst_ms")),
         f"{one['late_percent']:.2f} %", number(one.get("pictures_per_s"))]
        for kind, one in frames.items()
    ]  # fmt: skip

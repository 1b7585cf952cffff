"""What `results.py` has measured, as tables of docs/results.md and of the README.

A page has a table between `<!-- NAME -->` and `<!-- /NAME -->`; nothing of a table is written by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from genin.benchmarks.quality.evaluator import DIVERSITY_CAPTIONS

ROOT = Path(__file__).resolve().parents[1]
FEW_STEPS = 16  # of the teacher, in a sixth of the time; at 64 px as good as many, at 128 px LONG measures it
MANY_STEPS = 100  # over which speed-ups are counted
TEACHER = f"teacher, {FEW_STEPS} guided steps"
FLOOR = "autoencoder alone"
OTHER_PICTURES = "other true pictures"
FAMILIES = ("squeezenet", "efficientnet", "world")
# Row => guided steps of the teacher.
TEACHERS = {TEACHER: FEW_STEPS, "teacher, 8 guided steps": 8}
# Row => student and steps.
STUDENTS = {
    "student, 4 steps": ("builtin:student", 4),
    "student, 2 steps": ("builtin:student", 2),
    "one-step student, 1 step": ("builtin:student-1step", 1),
}
GUIDANCE = "guidance"
EXACT = "guidance in fp32"
LONG = f"guidance at {MANY_STEPS} steps"
CHOSEN_BY = "fd_squeezenet"  # no training has seen these features
AS_GOOD = 1.02  # times the FD of the teacher's usual steps
Results = dict[str, Any]


def tables(results: Results) -> str:
    """Markdown, with figures as far as `results` has them."""
    return "\n\n".join(filter(None, (table(results) for table in PAGES[ROOT / "docs" / "results.md"].values())))


def write_pages(results: Results) -> None:
    for page, of_page in PAGES.items():
        text = page.read_text(encoding="utf-8")
        for name, table in of_page.items():
            text = with_table(text, name, table(results))
        page.write_text(text, encoding="utf-8")


def with_table(page: str, name: str, table: str) -> str:
    """Errors: ClickException where the page has no place for it."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = page.partition(start)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise click.ClickException(f"no place between {start} and {end}")
    return f"{before}{start}\n{table}\n{end}{after}"


def summary(results: Results) -> str:
    """The README's: what a newcomer compares."""
    fewest = fewest_as_good(results)
    of_teacher = {name: (None, count) for name, count in TEACHERS.items() if count in (FEW_STEPS, fewest)}
    rows = {name: model for name, model in {**of_teacher, **STUDENTS}.items() if name in results}
    slow = latency(results, None, MANY_STEPS)
    lines = []
    for name, (model, steps) in rows.items():
        row, own = results.get(name, {}), latency(results, model, steps)
        lines.append((
            name, accuracy(row), number(row.get("fd_world"), ".2f"), number(row.get("fd_squeezenet"), ".0f"),
            number(row.get("lpips_squeeze_paired"), ".3f"), f"{own:.1f} ms" if own else "–",
            f"{slow / own:.0f}×" if slow and own else "–",
        ))  # fmt: skip
    heads = ["held-out captions", "accuracy", "`fd_world`", "`fd_squeezenet`", "LPIPS to the teacher", "a picture"]
    return markdown([*heads, f"faster than {MANY_STEPS} guided steps"], lines)


def latency(results: Results, model: str | None, steps: int) -> float | None:
    """Milliseconds of a student, or of the teacher."""
    rows = results.get("bench", {}).get("results", [])
    of = [row for row in rows if (row["role"] == "teacher" if model is None else row["bundle"] == model)]
    return next((row["latency_ms"]["p50"] for row in of if row["steps"] == steps), None)


def distances(results: Results) -> str:
    """FD in three families: with 95 % intervals, as a ratio to the teacher's, and as one of what is above the autoencoder's."""
    lines = []
    for name, row in rows_of(results):
        cells = []
        for family in FAMILIES:
            teacher, floor = (results.get(other, {}).get(f"fd_{family}") for other in (TEACHER, FLOOR))
            own = row.get(f"fd_{family}")
            cells += [figure(row, f"fd_{family}", ".1f" if family == "squeezenet" else ".3f"), ratio(own, teacher)]
            above = None not in (own, teacher, floor) and name not in (FLOOR, OTHER_PICTURES)
            cells.append(ratio(own - floor, teacher - floor) if above else "–")
        lines.append((name, *cells))
    return markdown(["", *(head for one in FAMILIES for head in (f"`fd_{one}`", "ratio", "above the floor"))], lines)


def pictures(results: Results) -> str:
    """What single pictures and their variety are like."""
    lines = [
        (
            name,
            accuracy(row),
            *(figure(row, f"kid_{family}", ".3f") for family in FAMILIES),
            *(", ".join(number(row.get(f"{kind}_{family}"), ".2f") for kind in ("precision", "recall"))
              for family in FAMILIES[:2]),
            figure(row, "lpips_squeeze" if name == FLOOR else "lpips_squeeze_paired", ".4f"),
            number(row.get("diversity"), ".3f"),
            ratio(row.get("diversity"), results.get(TEACHER, {}).get("diversity")),
        )
        for name, row in rows_of(results)
    ]  # fmt: skip
    of_sets = [f"`precision, recall_{family}`" for family in FAMILIES[:2]]
    pairs = {row["pairs"] for _, row in rows_of(results) if row.get("pairs")}
    paired = f"LPIPS ({' and '.join(map(str, sorted(pairs)))} pairs)" if pairs else "LPIPS"
    varied = f"diversity ({DIVERSITY_CAPTIONS} captions)"
    heads = ["", "accuracy", *(f"`kid_{family}`" for family in FAMILIES), *of_sets, paired, varied, "ratio"]
    return markdown(heads, lines)


def short_captions(results: Results) -> str:
    rows = {name.removeprefix("short: "): row for name, row in results.items() if name.startswith("short: ")}
    teacher = rows.get(TEACHER, {})
    lines = [
        (name,
         *(figure(row, f"fd_{family}", ".3f") for family in FAMILIES),
         number(row.get("diversity"), ".3f"), ratio(row.get("diversity"), teacher.get("diversity")))
        for name, row in sorted(rows.items(), key=lambda item: item[0] != TEACHER)
    ]  # fmt: skip
    return markdown(["short captions", *(f"`fd_{family}`" for family in FAMILIES), "diversity", "ratio"], lines)


def guidance_scales(results: Results) -> str:
    rows = {f"{float(scale):g}": row for scale, row in results.get(GUIDANCE, {}).items() if scale != "of"}
    for name, how in ((EXACT, "fp32"), (LONG, f"{MANY_STEPS} steps")):
        if name in results:
            rows[f"{results[name]['guidance_scale']:g}, {how}"] = results[name]
    lines = [(scale, *(figure(row, f"fd_{family}", ".3f") for family in FAMILIES)) for scale, row in rows.items()]
    return markdown(["guidance scale (val)", *(f"`fd_{family}`" for family in FAMILIES)], lines) if lines else ""


def sizes(results: Results) -> str:
    """Parameters and multiply-adds of the UNets, and what share of the teacher's they are."""
    keys, teacher = ("parameters", "macs"), results.get(TEACHER, {})
    rows = [(name, row) for name, row in rows_of(results) if name == TEACHER or name in STUDENTS]
    lines = [
        (name, *(cell for key in keys for cell in (number(millions(row.get(key)), ".2f"), share(row, teacher, key))))
        for name, row in rows
    ]
    return markdown(["UNet", "parameters, M", "share", "multiply-adds a step, M", "share"], lines)


def speeds(results: Results) -> str:
    """Latencies, and how much faster than the teacher at many steps and at its fewest that are as good."""
    if "bench" not in results:
        return ""
    rows = results["bench"]["results"]
    of_teacher = {row["steps"]: row["latency_ms"]["p50"] for row in rows if row["role"] == "teacher"}
    fewest = fewest_as_good(results)
    lines = [
        (row["name"], number(own, ".1f"), f"{of_teacher[MANY_STEPS] / own:.0f}×", f"{of_teacher[fewest] / own:.1f}×")
        for row in rows
        for own in [row["latency_ms"]["p50"]]
    ]
    return markdown(
        ["on one engine, in turns", "p50 ms", f"over {MANY_STEPS} steps", f"over {fewest} steps of the teacher"], lines
    )


def fewest_as_good(results: Results) -> int:
    """The teacher's fewest steps of those measured whose FD is that of its usual ones, but for 2 %."""
    distance = {count: results[name][CHOSEN_BY] for name, count in TEACHERS.items() if name in results}
    best = distance.get(FEW_STEPS)
    return min((count for count, own in distance.items() if best and own and own <= AS_GOOD * best), default=FEW_STEPS)


def accuracy(row: Mapping[str, Any]) -> str:
    return f"{row['attribute_accuracy']['mean']:.2%}" if row.get("attribute_accuracy") else "–"


def millions(value: float | None) -> float | None:
    return None if value is None else value / 1e6


def share(row: Mapping[str, Any], whole: Mapping[str, Any], key: str) -> str:
    return f"{row[key] / whole[key]:.1%}" if row.get(key) and whole.get(key) else "–"


def rows_of(results: Results) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, results[name]) for name in (*TEACHERS, *STUDENTS, FLOOR, OTHER_PICTURES) if name in results]


def figure(row: Mapping[str, Any], key: str, form: str) -> str:
    interval = (row.get("intervals") or {}).get(key)
    return number(row.get(key), form) + (f" ({interval[0]:{form}}–{interval[1]:{form}})" if interval else "")


def number(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"


def ratio(value: float | None, other: float | None) -> str:
    return f"{value / other:.2f}" if value is not None and other else "–"


def markdown(heads: list[str], lines: list[tuple[str, ...]]) -> str:
    rule = ["---", *("---:" for _ in heads[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *lines))


PAGES = {
    ROOT / "docs" / "results.md": {
        "distances": distances,
        "pictures": pictures,
        "short captions": short_captions,
        "guidance": guidance_scales,
        "sizes": sizes,
        "speed": speeds,
    },
    ROOT / "README.md": {"results": summary},
}

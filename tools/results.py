"""The tables of docs/results.md, from the shipped weights by one command:

    GENIN_METRIC_WEIGHTS=../shared/data/lpips_squeezenet python tools/results.py --work runs/results

Teacher at 100 guided steps and at few, students, and the autoencoder alone are evaluated on held-out captions in three families
of features, teacher and students on short captions too, and all are timed on one engine. Every finished part is kept in OUT at once
and is not measured again, pictures of the teacher's 100 steps in WORK: run the command again after an interruption. It takes hours
at 128 px, nearly all of them the teacher's 100 steps. `--keep` prints what OUT holds already.

A model cannot be closer to the reference than its autoencoder: beside the ratio of FDs is the ratio of what is above that floor.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

TEACHER = "teacher, 100 guided steps"
FLOOR = "autoencoder alone"
FAMILIES = ("squeezenet", "efficientnet", "world")
# Row => guided steps of the teacher.
TEACHERS = {TEACHER: 100, "teacher, 16 guided steps": 16, "teacher, 8 guided steps": 8}
# Row => student and steps.
STUDENTS = {
    "student, 4 steps": ("builtin:student", 4),
    "student, 2 steps": ("builtin:student", 2),
    "one-step student, 1 step": ("builtin:student-1step", 1),
}
SHORT_TEACHER_STEPS = 16  # as good as 100, and six times as fast
SHORT_SAMPLES = 1024
Results = dict[str, Any]


def genin(*arguments: object) -> Any:
    """One command's JSON."""
    command = [sys.executable, "-m", "genin", *map(str, arguments), "--json"]
    click.echo(" ".join(["genin", *map(str, arguments)]), err=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def parts_of(work: Path, samples: int, runtime: str) -> dict[str, Callable[[], Any]]:
    """Name of a part => what measures it. Later ones use what earlier ones have left in `work`."""
    bundle, statistics, short = work / "teacher-bundle", work / "teacher-statistics", work / "short"

    def teacher(steps: int, *more: object) -> Any:
        if not bundle.exists():
            genin("export", "builtin:teacher", "--out", bundle, "--format", "onnx", "--precision", "fp16")
        same = ("--steps", steps, "--runtime", runtime, "--reference", "builtin:world", "--samples", samples)
        return genin("evaluate", bundle, *same, *more)

    def hundred_steps() -> Any:
        return teacher(100, "--save-images", work / "teacher-100", "--save-statistics", statistics)

    def on_short_captions(model: object, steps: int) -> Any:
        if not short.exists():
            genin("world", "render", "--split", "val", "--count", SHORT_SAMPLES, "--captions", "short", "--out", short)
        return genin("evaluate", model, "--reference", short, "--samples", SHORT_SAMPLES, "--steps", steps)

    def speed() -> Any:
        names = dict.fromkeys(name for name, _ in STUDENTS.values())
        steps = ",".join(str(count) for _, count in STUDENTS.values())
        asked = ("--teacher-steps", 100, "--steps", steps, "--runtime", runtime, "--precision", "fp16", "--runs", 30)
        return genin("bench", bundle, *names, *asked)  # one call, so that all take turns

    parts: dict[str, Callable[[], Any]] = {TEACHER: hundred_steps}
    for row, count in TEACHERS.items():
        if row != TEACHER:
            parts[row] = lambda count=count: teacher(count, "--against", statistics)  # type: ignore[misc]
    parts[FLOOR] = lambda: genin("evaluate", "builtin:teacher", "--floor", "--samples", samples)
    for row, (name, count) in STUDENTS.items():
        parts[row] = lambda name=name, count=count: genin(  # type: ignore[misc]
            "evaluate", name, "--steps", count, "--samples", samples, "--against", statistics
        )
        parts[f"short: {row}"] = lambda name=name, count=count: on_short_captions(name, count)  # type: ignore[misc]
    parts[f"short: {TEACHER}"] = lambda: on_short_captions(bundle, SHORT_TEACHER_STEPS)
    return parts | {"bench": speed}


def without_paths(value: Any) -> Any:
    """A result without the machine's paths; hashes identify the weights."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items() if key not in ("path", "against", "statistics")}
    return [without_paths(item) for item in value] if isinstance(value, list) else value


def measure(out: Path, work: Path, samples: int, runtime: str) -> None:
    asked = {"samples": samples, "runtime": runtime}
    results: Results = json.loads(out.read_text()) if out.is_file() else asked
    if {key: results.get(key) for key in asked} != asked:
        raise click.ClickException(f"{out} has other settings; name another --out")
    work.mkdir(parents=True, exist_ok=True)
    for name, part in parts_of(work, samples, runtime).items():
        if name not in results:
            results[name] = without_paths(part())
            partial = out.with_name(f"{out.name}.partial")
            partial.write_text(json.dumps(results, indent=1) + "\n")
            partial.replace(out)


def tables(results: Results) -> str:
    """Markdown, with figures as far as `results` has them."""
    return "\n\n".join([distances(results), pictures(results), short_captions(results), speeds(results)])


def distances(results: Results) -> str:
    """FD in three families: with 95 % intervals, as a ratio to the teacher's, and as one of what is above the autoencoder's."""
    lines = []
    for name, row in rows_of(results):
        cells = []
        for family in FAMILIES:
            teacher, floor = (results.get(other, {}).get(f"fd_{family}") for other in (TEACHER, FLOOR))
            own = row.get(f"fd_{family}")
            cells += [figure(row, f"fd_{family}", ".1f" if family == "squeezenet" else ".3f"), ratio(own, teacher)]
            above = None not in (own, teacher, floor) and name != FLOOR
            cells.append(ratio(own - floor, teacher - floor) if above else "–")
        lines.append((name, *cells))
    return markdown(["", *(head for one in FAMILIES for head in (f"`fd_{one}`", "ratio", "above the floor"))], lines)


def pictures(results: Results) -> str:
    """What single pictures and their variety are like."""
    lines = [
        (
            name,
            f"{row['attribute_accuracy']['mean']:.2%}" if row.get("attribute_accuracy") else "–",
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
    heads = ["", "accuracy", *(f"`kid_{family}`" for family in FAMILIES), *of_sets, "LPIPS", "diversity", "ratio"]
    return markdown(heads, lines)


def short_captions(results: Results) -> str:
    rows = {name.removeprefix("short: "): row for name, row in results.items() if name.startswith("short: ")}
    teacher = rows.get(TEACHER, {})
    lines = [
        (f"teacher, {SHORT_TEACHER_STEPS} guided steps" if name == TEACHER else name,
         *(figure(row, f"fd_{family}", ".3f") for family in FAMILIES),
         number(row.get("diversity"), ".3f"), ratio(row.get("diversity"), teacher.get("diversity")))
        for name, row in sorted(rows.items(), key=lambda item: item[0] != TEACHER)
    ]  # fmt: skip
    return markdown(["short captions", *(f"`fd_{family}`" for family in FAMILIES), "diversity", "ratio"], lines)


def speeds(results: Results) -> str:
    if "bench" not in results:
        return ""
    rows = results["bench"]["results"]
    [slow] = [row for row in rows if row["role"] == "teacher"]
    lines = [
        (
            row["name"],
            number(row["latency_ms"]["p50"], ".1f"),
            f"{slow['latency_ms']['p50'] / row['latency_ms']['p50']:.0f}×",
        )
        for row in rows
    ]
    return markdown(["on one engine, in turns", "p50 ms", "speed-up"], lines)


def rows_of(results: Results) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, results[name]) for name in (*TEACHERS, *STUDENTS, FLOOR) if name in results]


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


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/runs/results.json"), show_default=True)
@click.option(
    "--work", type=click.Path(path_type=Path), default=Path("runs/results"), show_default=True, help="Bundle, pictures."
)
@click.option("--samples", default=5000, show_default=True)
@click.option(
    "--runtime", default="onnxruntime", show_default=True, help="Of the teacher's pictures, and of all latencies."
)
@click.option("--keep", is_flag=True, help="Print the tables of OUT without measuring.")
def main(out: Path, work: Path, samples: int, runtime: str, keep: bool) -> None:
    if not keep:
        measure(out, work, samples, runtime)
    click.echo(tables(json.loads(out.read_text())))


if __name__ == "__main__":
    main()

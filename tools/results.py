"""The table of docs/results.md, from the shipped weights by one command:

    GENIN_METRIC_WEIGHTS=../shared/data/lpips_squeezenet python tools/results.py --out docs/runs/results.json

It runs `genin evaluate` for the rows of `STUDENTS`, for the teacher at few steps (`TEACHERS`: what a student should really be
compared with) and for the autoencoder alone, takes the teacher's figures at 100 guided steps from the statistics that the package
carries (sampling them again is an hour), runs `genin bench` for teacher and students on one engine, and prints Markdown. A quarter
of an hour on two cores. `--keep` prints what OUT holds already.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

STATISTICS = Path("weights/genin_training_weights/teacher_statistics")
# Row => guided steps of the teacher, beside its 100.
TEACHERS = {"teacher, 16 guided steps": 16, "teacher, 8 guided steps": 8}
# Row => student and steps.
STUDENTS = {
    "student, 4 steps": ("builtin:student", 4),
    "student, 2 steps": ("builtin:student", 2),
    "one-step student, 1 step": ("builtin:student-1step", 1),
}


def genin(*arguments: object) -> Any:
    """One command's JSON."""
    command = [sys.executable, "-m", "genin", *map(str, arguments), "--json"]
    click.echo(" ".join(["genin", *map(str, arguments)]), err=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(samples: int, runtime: str, bundle: Path | None) -> dict[str, Any]:
    results: dict[str, Any] = {"samples": samples, "runtime": runtime}
    for row, (name, steps) in STUDENTS.items():
        results[row] = genin("evaluate", name, "--steps", steps, "--samples", samples, "--against", STATISTICS)
    results["autoencoder alone"] = genin("evaluate", "builtin:teacher", "--floor", "--samples", samples)
    with tempfile.TemporaryDirectory() as folder:
        if bundle is None:
            bundle = Path(folder) / "teacher-bundle"
            genin("export", "builtin:teacher", "--out", bundle, "--format", "onnx", "--precision", "fp16")
        # One call, so that teacher and students take turns; the few-step teachers follow one by one.
        names = dict.fromkeys(name for name, _ in STUDENTS.values())
        steps_asked = ",".join(str(steps) for _, steps in STUDENTS.values())
        asked = ("--teacher-steps", 100, "--steps", steps_asked)
        same = ("--runtime", runtime, "--precision", "fp16", "--runs", 30)
        results["bench"] = genin("bench", bundle, *names, *asked, *same)
        for row, steps in TEACHERS.items():
            sampling = ("--reference", "builtin:world", "--steps", steps, "--runtime", runtime, "--batch-size", 64)
            found = genin("evaluate", bundle, *sampling, "--samples", samples, "--against", STATISTICS)
            [speed] = genin("bench", bundle, "--teacher-steps", steps, *same)["results"]
            results[row] = {**found, "latency_ms": speed["latency_ms"]}
    return without_paths(results)


def without_paths(value: Any) -> Any:
    """A result without the machine's paths; hashes identify the weights."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items() if key != "path"}
    return [without_paths(item) for item in value] if isinstance(value, list) else value


def table(results: Mapping[str, Any]) -> str:
    """Markdown: one row per model, figures with their 95 % intervals."""
    teacher = results["student, 4 steps"]["against"]
    rows = {"teacher, 100 guided steps": teacher, **{row: results[row] for row in (*TEACHERS, *STUDENTS)}}
    rows["autoencoder alone"] = results["autoencoder alone"]
    speed = {(r["bundle"], r["steps"]): r for r in results["bench"]["results"]}
    [slow_row] = [r for r in results["bench"]["results"] if r["role"] == "teacher"]
    benched = {"teacher, 100 guided steps": slow_row, **{name: results[name] for name in TEACHERS}}
    benched |= {name: speed[key] for name, key in STUDENTS.items()}
    lines = [
        "| | accuracy | `fd_world` | ratio | `fd_squeezenet` | ratio | `kid_world` | precision, recall | LPIPS to the teacher "
        "| diversity | UNet: parameters, multiply-adds a step | ms a picture | speed-up |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    slow = slow_row["latency_ms"]["p50"]
    for name, row in rows.items():
        fast = benched.get(name)
        took = fast["latency_ms"]["p50"] if fast else None
        cells = [
            f"{row['attribute_accuracy']['mean']:.1%}",
            figure(row, "fd_world", ".2f"),
            f"{row['fd_world'] / teacher['fd_world']:.2f}",
            figure(row, "fd_squeezenet", ".0f"),
            f"{row['fd_squeezenet'] / teacher['fd_squeezenet']:.2f}",
            figure(row, "kid_world", ".3f"),
            f"{row['precision_squeezenet']:.2f}, {row['recall_squeezenet']:.2f}"
            if "precision_squeezenet" in row
            else "–",
            figure(row, "lpips_squeeze_paired", ".3f"),
            f"{row['diversity']:.3f}" if row.get("diversity") else "–",
            f"{row['parameters'] / 1e6:.2f} M, {row['macs'] / 1e9:.3f} G" if fast else "–",
            f"{took:.1f}" if took else "–",
            f"{slow / took:.0f}×" if took else "–",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def figure(row: Mapping[str, Any], key: str, form: str) -> str:
    if row.get(key) is None:
        return "–"
    interval = (row.get("intervals") or {}).get(key)
    return f"{row[key]:{form}}" + (f" ({interval[0]:{form}}–{interval[1]:{form}})" if interval else "")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/runs/results.json"), show_default=True)
@click.option("--samples", default=2048, show_default=True)
@click.option("--runtime", default="onnxruntime", show_default=True, help="Of the latencies.")
@click.option("--teacher-bundle", type=click.Path(path_type=Path, exists=True), help="[default: exported on the spot]")
@click.option("--keep", is_flag=True, help="Print the table of OUT without measuring.")
def main(out: Path, samples: int, runtime: str, teacher_bundle: Path | None, keep: bool) -> None:
    if not keep:
        results = measure(samples, runtime, teacher_bundle)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=1) + "\n")
    click.echo(table(json.loads(out.read_text())))


if __name__ == "__main__":
    main()

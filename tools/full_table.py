"""The full table of docs/benchmarks.md: four models on every runtime, in every precision, beside every other program.

    python tools/full_table.py --work runs/full-table --out docs/runs/full-table

The built-in student, and Stable Diffusion 1.5, BK-SDM Tiny and `swift` at 512 px with random weights (`random_models`), each in one
step. A model is made and exported once, into WORK; its results are OUT/MODEL.json, and `OUT/table.html` shows all. Hours on two
cores, and 20 GB of disk for the largest; an interrupted run goes on where it was. Programs that are not installed are listed with
the line that installs them.

Last comes what a student of that class gains: `swift` in one step against Stable Diffusion's 100 guided steps on the same engine,
whole pictures, the long one extrapolated from the UNet's passes that were measured, and said so.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from genin.runtimes.names import installed_names

TOOLS = Path(__file__).parent
FORMATS, PRECISIONS = "onnx,openvino", "fp32,fp16,int8"
TEACHER, FAST = "sd15", "swift"
TEACHER_STEPS = 100


@dataclass(frozen=True)
class Measured:
    """A model by its built-in name, or a shape of `random_models`; and how often it is timed."""

    name: str
    runs: int
    processes: int
    warmup: int
    builtin: bool = False


MODELS = (
    Measured("student", 40, 5, 2, builtin=True),
    Measured("swift", 9, 3, 1),
    Measured("bk-tiny", 6, 3, 0),
    Measured("sd15", 6, 3, 0),
)


def run(*command: object) -> None:
    """Errors: ClickException where it fails; what is finished is kept."""
    click.echo(" ".join(map(str, command)), err=True)
    done = subprocess.run([sys.executable, *map(str, command)])
    if done.returncode:
        raise click.ClickException(f"{command[-1]}: ended with exit code {done.returncode}; what is finished is kept")


def made(model: Measured, work: Path) -> tuple[Path, Path]:
    """The model's folder and its bundle."""
    folder, bundle = work / model.name, work / f"{model.name}-bundle"
    if not model.builtin and not (folder / "model_index.json").exists():
        run(TOOLS / "random_models.py", model.name, "--out", work)
    if model.builtin:
        folder = installed_names().folder(f"builtin:{model.name}")
    if not bundle.exists():
        options = ("--format", FORMATS, "--precision", PRECISIONS, "--no-vae-encoder")
        run("-m", "genin", "export", folder, "--out", bundle, *options)
    return folder, bundle


def measure(model: Measured, work: Path, out: Path, threads: int | None) -> Path:
    """Its results, measured unless they are there."""
    results = out / f"{model.name}.json"
    if not results.exists():
        options = ("--steps", 1, "--runs", model.runs, "--processes", model.processes, "--warmup", model.warmup)
        asked = () if threads is None else ("--threads", threads)
        run("-m", "genin", "bench", *made(model, work), "--peers", "all", *options, *asked, "--out", results)
    return results


def gains(results: Mapping[str, Path]) -> list[str]:
    """`swift` in one step against 100 guided steps, by engine and precision; lines to print."""
    if not {TEACHER, FAST} <= set(results):
        return []
    rows = {name: json.loads(path.read_text())["results"] for name, path in results.items()}
    lines = []
    for row in rows[FAST]:
        alike = [
            one
            for one in rows[TEACHER]
            if all(one[key] == row[key] for key in ("program", "runtime", "precision", "threads"))
        ]
        if alike and row["program"] == "genin" and alike[0]["steps_samples_ms"]:
            long_ms, passes = hundred_steps_ms(alike[0])
            gain = long_ms / row["latency_ms"]["p50"]
            what = f"{row['runtime']} {row['precision']}: {row['latency_ms']['p50'] / 1e3:.2f} s"
            lines.append(f"{what} against {long_ms / 1e3:.0f} s, extrapolated from {passes} passes: {gain:.0f} times")
    return lines


def hundred_steps_ms(row: Mapping[str, Any]) -> tuple[float, int]:
    """A guided picture of 100 steps: two passes a step, two texts, one decoding; and how many passes that is extrapolated from."""
    passes = [step for picture in row["steps_samples_ms"] for step in picture]
    stages = row["stages_ms"]
    once = 2 * stages["text_encoder"] + stages["vae_decoder"] + stages["other"]
    return 2 * TEACHER_STEPS * statistics.median(passes) + once, len(passes)


@click.command()
@click.option(
    "--work", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/full-table"), show_default=True
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("docs/runs/full-table"), show_default=True
)
@click.option("--only", multiple=True, type=click.Choice([one.name for one in MODELS]), help="These models.")
@click.option("--threads", type=int, help="[default: all usable cores]")
@click.option("--remove", is_flag=True, help="Remove each model and bundle when it is measured.")
def main(work: Path, out: Path, only: tuple[str, ...], threads: int | None, remove: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Path] = {}
    for model in MODELS:
        if not only or model.name in only:
            results[model.name] = measure(model, work, out, threads)
            for folder in (work / model.name, work / f"{model.name}-bundle") if remove else ():
                shutil.rmtree(folder, ignore_errors=True)
    if len(results) > 1:
        run("-m", "genin", "bench", "merge", *results.values(), "--report", out / "table.html")
    for line in gains(results):
        click.echo(line)


if __name__ == "__main__":
    main()

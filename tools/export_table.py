"""The table of docs/export.md: models × formats × precisions, with size, export time, peak memory, parity, latency and, of a model
that draws the built-in world, its figures. One command:

    python tools/export_table.py --model student=runs/student --judge student --model sd15=SD15_FOLDER --out docs/runs/export.json

Each format of a model is one `genin export` in a process of its own, whose peak memory is its own. Latency is that of
one step and a prompt; Core ML has none where there is no Mac. `--judge` draws 1,024 pictures with every graph set. Rows are written
as they come, and those in OUT are not made again unless the model has changed. `--keep` prints what it has.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import click

from genin.runtimes.loading import load_pipeline
from genin.runtimes.origin import fingerprint

FORMATS = {"onnx": "onnxruntime", "openvino": "openvino", "coreml": None}
PRECISIONS = ("fp32", "fp16", "int8")
COMPONENTS = ("text_encoder", "unet", "vae_decoder")
SAMPLES = 1024


def genin(*arguments: object) -> tuple[Any, float, float]:
    """One command's JSON, its seconds and its peak memory in bytes."""
    command = [sys.executable, "-m", "genin", *map(str, arguments), "--json"]
    click.echo(" ".join(["genin", *map(str, arguments)]), err=True)
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, text=True)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise click.ClickException(f"genin {arguments[0]} failed")
        said.seek(0)
        return json.loads(said.read().splitlines()[-1]), time.perf_counter() - started, usage.ru_maxrss * 1024


def latency_ms(bundle: Path, runtime: str, precision: str, runs: int) -> float:
    """The median picture in one step without guidance, after an uncounted one."""
    with warnings.catch_warnings(), load_pipeline(bundle, runtime, precision) as pipeline:
        warnings.simplefilter("ignore")  # a student that was not trained for one step is as fast
        taken = []
        for run in range(runs + 1):
            started = time.perf_counter()
            pipeline.generate("a ninja meditating on a mountain", run, steps=1, guidance_scale=1.0)
            taken.append(1e3 * (time.perf_counter() - started))
        return statistics.median(taken[1:])


def rows_of(name: str, path: Path, format: str, judge: bool, runs: int, extra: tuple[str, ...]) -> list[dict[str, Any]]:
    """One format of a model: one row per precision."""
    folder, weights = Path(tempfile.mkdtemp(prefix="genin-")), fingerprint(path)
    try:
        bundle = folder / "bundle"
        precisions = ",".join((*PRECISIONS, *extra))
        made, seconds, memory = genin("export", path, "--out", bundle, "--format", format, "--precision", precisions)
        pictures = {entry["precision"]: entry for entry in made["pictures"]}
        runtime, rows = FORMATS[format], []
        for precision in (*PRECISIONS, *extra):
            graphs = {g["component"]: g for g in made["graphs"] if g["precision"] == precision}
            row = {
                "model": name,
                "format": format,
                "precision": precision,
                "weights": weights,
                "export_s": seconds,
                "peak_rss_bytes": memory,
            }
            row |= {"size_bytes": sum(g["size_bytes"] for g in graphs.values())}
            row |= {
                "parity_db": {part: graphs[part]["psnr_db"] for part in COMPONENTS},
                "pictures": pictures.get(precision),
            }
            if runtime is not None:
                same = ("--runtime", runtime, "--precision", precision)
                row["latency_ms"] = latency_ms(bundle, runtime, precision, runs)
                if judge:
                    asked = ("--reference", "builtin:world", "--samples", SAMPLES, "--batch-size", 64)
                    found = genin("evaluate", bundle, *same, *asked)[0]
                    row |= {key: found[key] for key in ("steps", "samples", "fd_world", "fd_squeezenet", "kid_world")}
            rows.append(row)
        return rows
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    head = [
        "model",
        "format",
        "precision",
        "MB",
        "export, s",
        "peak, GB",
        "parity: text / UNet / decoder, dB",
        "pictures, dB",
        "LPIPS",
    ]
    head += ["one step, ms", "`fd_world`", "`fd_squeezenet`", "`kid_world`"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        drawn = row["pictures"] or {}
        lpips = drawn.get("lpips_squeeze")
        parity = " / ".join(
            "–" if row["parity_db"][part] is None else f"{row['parity_db'][part]:.0f}" for part in COMPONENTS
        )
        cells = [
            row["model"],
            row["format"],
            row["precision"],
            f"{row['size_bytes'] / 1e6:.3g}",
            f"{row['export_s']:.0f}",
        ]
        cells += [f"{row['peak_rss_bytes'] / 1e9:.1f}", parity, f"{drawn['psnr_db']:.1f}" if drawn else "–"]
        cells += ["–" if lpips is None else f"{lpips:.4f}"]
        cells += [f"{row['latency_ms']:.3g}" if "latency_ms" in row else "–"]
        cells += [
            f"{row[key]:{form}}" if key in row else "–" for key, form in (("fd_world", ".2f"), ("fd_squeezenet", ".0f"))
        ]
        lines.append("| " + " | ".join([*cells, f"{row['kid_world']:.3f}" if "kid_world" in row else "–"]) + " |")
    return "\n".join(lines)


@click.command()
@click.option("--model", "models", multiple=True, metavar="NAME=FOLDER", help="May be repeated.")
@click.option("--judge", multiple=True, metavar="NAME", help="Models that draw the built-in world.")
@click.option("--extra", multiple=True, default=(), help="Further precisions, of --judge's models: w8a8.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/runs/export.json"), show_default=True)
@click.option("--runs", default=5, show_default=True, help="Of the latency.")
@click.option("--keep", is_flag=True, help="Print what OUT holds.")
def main(
    models: tuple[str, ...], judge: tuple[str, ...], extra: tuple[str, ...], out: Path, runs: int, keep: bool
) -> None:
    """Export, measure, print."""
    rows: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else []
    for pair in () if keep else models:
        name, _, folder = pair.partition("=")
        for format in FORMATS:
            more = tuple(value for value in extra if name in judge and (value == "w8a8") == (format != "coreml"))
            same = [row for row in rows if (row["model"], row["format"]) == (name, format)]
            made = {row["precision"] for row in same if row.get("weights") == fingerprint(Path(folder))}
            if {*PRECISIONS, *more} <= made:
                continue
            rows = [row for row in rows if row not in same]
            rows += rows_of(name, Path(folder), format, name in judge, runs, more)
            out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    click.echo(table(rows))


if __name__ == "__main__":
    main()

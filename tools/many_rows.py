"""A dataset of ten million rows: what opening it costs, and what a process holds of it.

    python tools/many_rows.py --rows 10000000 --work many --out figures.json

Writes a `metadata.jsonl` of synthetic rows, then opens it in processes of their own as training does (`FolderSource`, by which
`distill`, `teacher` and `evaluate` read): once to build the mapped table, then to read it. Memory is what a process has for itself
(anonymous pages) above its imports; mapped pages are the file's. --in-memory measures the reader that holds every row, too.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

WORDS = (
    "ninja",
    "red",
    "blue",
    "calm",
    "runs",
    "under",
    "the",
    "mountain",
    "at",
    "night",
    "with",
    "a",
    "lantern",
    "and",
    "crows",
)
BATCH, BATCHES = 256, 200


def write_rows(folder: Path, rows: int) -> None:
    path = folder / "metadata.jsonl"
    if path.is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(1)
    with (folder / "partial").open("w", encoding="utf-8") as file:
        for number in range(rows):
            at = rng.randrange(1 << 30)
            text = " ".join([WORDS[(at >> shift) % len(WORDS)] for shift in range(0, 24, 2)] + [str(number)])
            row = {"file_name": f"{number // 10_000:04d}/{number:08d}.jpg", "text": text, "licence": "CC0-1.0"}
            file.write(json.dumps(row) + "\n")
    (folder / "partial").rename(path)


def own_mb() -> float:
    """Anonymous memory of this process."""
    lines = Path("/proc/self/status").read_text("ascii", "replace").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def measure(folder: Path, in_memory: bool) -> dict[str, Any]:
    from genin.dataset import sets
    from genin.distill.inputs.sources import FolderSource

    if in_memory:
        sets.LARGE_BYTES = 1 << 62
    import pyarrow
    from pyarrow import parquet

    del pyarrow, parquet  # imported before memory is looked at
    before, started, cpu = own_mb(), time.perf_counter(), time.process_time()
    source = FolderSource(folder)
    opened, opened_cpu = time.perf_counter() - started, time.process_time() - cpu
    rng, started = random.Random(2), time.perf_counter()
    for _ in range(BATCHES):
        source.captions([rng.randrange(len(source)) for _ in range(BATCH)])
    return {
        "rows": len(source),
        "open_s": round(opened, 2),
        "open_cpu_s": round(opened_cpu, 2),
        "batch_ms": round((time.perf_counter() - started) / BATCHES * 1000, 2),
        "own_mb": round(own_mb() - before, 1),
    }


@click.command(help=__doc__)
@click.option("--rows", type=click.IntRange(1), default=10_000_000, show_default=True)
@click.option(
    "--work", type=click.Path(path_type=Path), required=True, help="Folder of the rows and of the mapped table."
)
@click.option("--in-memory", is_flag=True, help="Also the reader that holds every row.")
@click.option("--out", type=click.Path(path_type=Path), help="The figures as JSON.")
@click.option("--one", type=click.Choice(["mapped", "memory"]), hidden=True)
def main(rows: int, work: Path, in_memory: bool, out: Path | None, one: str | None) -> None:
    folder = work / f"rows-{rows}"
    if one:
        click.echo(json.dumps(measure(folder, one == "memory")))
        return
    write_rows(folder, rows)
    figures: dict[str, Any] = {"metadata_mb": round((folder / "metadata.jsonl").stat().st_size / 1e6)}
    cache = work / f"cache-{rows}"
    shutil.rmtree(cache, ignore_errors=True)  # or nothing would be built
    env = {**os.environ, "GENIN_CACHE": str(cache)}
    for name, kind in (("build", "mapped"), ("read", "mapped"), *([("in memory", "memory")] if in_memory else [])):
        command = [sys.executable, __file__, "--rows", str(rows), "--work", str(work), "--one", kind]
        figures[name] = json.loads(subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE).stdout)
        click.echo(f"{name:10} {figures[name]}")
    figures["table_mb"] = round(sum(file.stat().st_size for file in cache.rglob("*") if file.is_file()) / 1e6)
    if out:
        out.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()

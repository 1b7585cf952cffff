"""Figures of the native library: its size, the first picture of a process, what its calls cost, how soon a cancelled drawing ends.

    python tools/native_figures.py --out docs/runs/native.json
    python tools/native_figures.py --large SD15.genin      # and how soon a drawing of a large model ends

Builds the library in a temporary folder. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import statistics
import subprocess
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parents[1]
NATIVE, ONE_STEP = ROOT / "runtimes" / "native", ROOT / "runtimes" / "weights" / "student-1step"
STARTS = 15  # processes that draw one picture each
MANY_STEPS = 50  # of a drawing that is cancelled
TARGETS = ("genin", "genin_draw", "genin_latency")


def run(*command: object) -> str:
    return subprocess.run([*map(str, command)], stdout=subprocess.PIPE, text=True, check=True).stdout


def engine_library() -> Path:
    """ONNX Runtime's, as its wheel has it."""
    found = importlib.util.find_spec("onnxruntime")
    if found is None or found.origin is None:
        raise click.ClickException("needs onnxruntime: pip install 'genin[onnxruntime]'")
    return next((Path(found.origin).parent / "capi").glob("libonnxruntime.so.*"))


def build(folder: Path) -> None:
    run("cmake", "-S", NATIVE, "-B", folder, "-DCMAKE_BUILD_TYPE=Release")
    for target in TARGETS:
        run("cmake", "--build", folder, "-j2", "--target", target)


def sizes(folder: Path, engine: Path) -> dict[str, int]:
    """Bytes of the stripped library, and of a zip file with it, the engine and the one-step student."""
    stripped, zipped = folder / "stripped.so", folder / "shipped.zip"
    run("strip", "--strip-unneeded", "-o", stripped, folder / "libgenin.so")
    graphs = [path for path in ONE_STEP.rglob("*") if path.is_file()]
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in (stripped, engine, *graphs):
            archive.write(path, path.relative_to(ONE_STEP.parent) if path in graphs else path.name)
    return {"library_bytes": stripped.stat().st_size, "shipped_zip_bytes": zipped.stat().st_size}


def first_pictures(folder: Path, engine: Path) -> dict[str, float]:
    """Seconds from the start of a process to its end, with a picture written; the first, which fills caches, is left out."""
    times = []
    for _ in range(STARTS + 1):
        begun = time.perf_counter()
        run(folder / "genin_draw", ONE_STEP, "a ninja", "--engine-path", engine, "--out", folder / "out.ppm")
        times.append(time.perf_counter() - begun)
    return {"first_picture_s": round(statistics.median(times[1:]), 4), "fastest_s": round(min(times[1:]), 4)}


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--pictures", default=3000, show_default=True, help="Pictures while calls are timed.")
@click.option("--large", type=click.Path(exists=True, path_type=Path), help="A bundle of a large model.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file.")
def main(pictures: int, large: Path | None, out: Path | None) -> None:
    engine = engine_library()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder)
        found: dict[str, Any] = {"machine": platform.processor() or platform.machine(), **sizes(folder, engine)}
        found |= first_pictures(folder, engine)
        latency = folder / "genin_latency"
        found["microseconds"] = json.loads(run(latency, ONE_STEP, engine, pictures, MANY_STEPS))
        if large is not None:
            found["large_microseconds"] = json.loads(run(latency, large, engine, 3, MANY_STEPS))
    text = json.dumps(found, indent=1)
    click.echo(text)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

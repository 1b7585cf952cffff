"""The frame test of `genin bench --frames` with the native library beside the others.

    python tools/frame_times.py --library build/libgenin.so --out docs/runs/frame-times.json

Run it on an otherwise idle machine. The test itself is `genin.benchmarks.speed.frames`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from genin.benchmarks.speed.frames import (
    ROUNDS,
    SECONDS,
    WORK_S,
    Beside,
    Game,
    PainterBeside,
    beside_bundle,
    measure_frames,
)

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests" / "helpers"))


def native(library: Path, bundle: str) -> Any:
    """The native library's painter."""
    from native_painter import NativePainter

    found = importlib.util.find_spec("onnxruntime")
    assert found is not None and found.origin is not None
    [engine] = (Path(found.origin).parent / "capi").glob("libonnxruntime.so.*")
    return NativePainter(library, engine, bundle)


@click.command()
@click.option("--bundle", default=str(ROOT / "runtimes" / "weights" / "student-1step"))
@click.option("--rounds", default=ROUNDS)
@click.option("--seconds", default=SECONDS, help="Of each kind in each round.")
@click.option("--library", type=click.Path(path_type=Path), help="libgenin.so, to measure it, too.")
@click.option(
    "--switch-interval", type=float, help="Seconds after which Python's threads give way; Python's own are 0.005."
)
@click.option("--out", type=click.Path(path_type=Path))
def main(
    bundle: str, rounds: int, seconds: float, library: Path | None, switch_interval: float | None, out: Path | None
) -> None:
    """Measure the frames of a game."""
    if switch_interval is not None:
        sys.setswitchinterval(switch_interval)
    beside: dict[str, Beside] = beside_bundle(bundle, "onnxruntime", "auto", 1)
    if library is not None:
        beside["native"] = PainterBeside(lambda: native(library, bundle))
    found = measure_frames(beside, Game.calibrated(), rounds, seconds)
    report = {"cores": os.cpu_count(), "rounds": rounds, "seconds": seconds, "work_ms": 1e3 * WORK_S, "kinds": found}
    if out is not None:
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for kind, values in found.items():
        click.echo(f"{kind:16}" + "  ".join(f"{name} {value}" for name, value in values.items()))


if __name__ == "__main__":
    main()

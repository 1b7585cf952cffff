"""What `max_memory` holds and costs: peaks and times of one bundle without a limit, and at shares of that peak.

    python tools/memory_limit.py BUNDLE --runtime onnxruntime --out docs/runs/memory-limit.json

Every row is a process of its own, which imports the engine, then loads the bundle and draws a few pictures, while its resident
memory is read 500 times a second. The peak is what came on top of the imports.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import psutil

SHARES = (1.0, 0.75, 0.5)
PICTURES = 4
INTERVAL_S = 0.002


def draw(bundle: Path, runtime: str, limit: int | None) -> dict[str, Any]:
    """Seconds of each picture, after a line on standard input."""
    import genin
    from genin.runtimes.engine import ENGINES, engine_class

    engine_class(runtime)
    __import__(ENGINES[runtime].package)
    click.echo("imported")
    sys.stdin.readline()
    seconds = []
    try:
        with genin.load(bundle, runtime=runtime, threads=2, max_memory=limit) as pipeline:
            for seed in range(PICTURES):
                start = time.perf_counter()
                pipeline("a ninja", seed=seed)
                seconds.append(time.perf_counter() - start)
    except genin.GeninError as error:
        return {"error": str(error)}
    return {"first_s": round(seconds[0], 4), "picture_s": round(statistics.median(seconds[2:]), 4)}


def row(bundle: Path, runtime: str, limit: int) -> dict[str, Any]:
    """`draw` in a process of its own, with its peak in bytes. A limit of 0 is none."""
    command = [sys.executable, __file__, str(bundle), "--runtime", runtime, "--limit", str(limit)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdout.readline()
        process = psutil.Process(child.pid)
        before = peak = process.memory_info().rss
        child.stdin.write("\n")
        child.stdin.flush()
        while child.poll() is None:
            try:
                peak = max(peak, process.memory_info().rss)
            except psutil.Error:
                break
            time.sleep(INTERVAL_S)
        said = child.stdout.read().splitlines()
    return {"limit_bytes": limit or None, "peak_bytes": peak - before, **json.loads(said[-1])}


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option("--runtime", default="onnxruntime", show_default=True)
@click.option("--limit", type=int, help="Draw in this process with this limit in bytes (0: none).")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file to write.")
def main(bundle: Path, runtime: str, limit: int | None, out: Path | None) -> None:
    """Measure BUNDLE without a limit, and at shares of its peak."""
    if limit is not None:
        click.echo(json.dumps(draw(bundle, runtime, limit or None)))
        return
    rows = [row(bundle, runtime, 0)]
    rows += [row(bundle, runtime, int(share * rows[0]["peak_bytes"])) for share in SHARES]
    for one in rows:
        allowed = "none" if one["limit_bytes"] is None else f"{one['limit_bytes'] / 1e6:,.0f} MB"
        times = one.get("error") or f"first picture {one['first_s']:.2f} s, later ones {one['picture_s']:.3f} s"
        click.echo(f"limit {allowed:>10}   peak {one['peak_bytes'] / 1e6:8,.0f} MB   {times}")
    if out is not None:
        out.write_text(
            json.dumps({"bundle": bundle.name, "runtime": runtime, "rows": rows}, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()

"""Training and export inside a container's memory limit: what fits runs, and what does not says so before it is killed.

    python tools/cgroup_limits.py --work limits --out docs/runs/cgroup-limits.json      (as root, on Linux)

Each command runs in a memory control group of its own, first without a limit, then at shares of the memory that the group held at
its peak: resident memory, and pages of files just read or written, which the kernel gives back before it kills. A row has the exit
code (137: killed by the kernel), the seconds, and the last words on standard error before progress.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

ROOT = Path("/sys/fs/cgroup")
VERSION_1 = (ROOT / "memory" / "cgroup.procs").exists()
FILES = ("memory.limit_in_bytes", "memory.max_usage_in_bytes") if VERSION_1 else ("memory.max", "memory.peak")
SHARES = (1.1, 0.7, 0.4)
COMMANDS = {
    "export, ONNX": "export builtin:teacher --format onnx --precision fp16,int8 --out {out}",
    "export, OpenVINO": "export builtin:teacher --format openvino --precision fp16 --out {out}",
    "finetune": "teacher finetune --base builtin:teacher --data builtin:world --set finetune.images=64 "
    "--set finetune.cache_images=64 --out {out}",
    "distill": "distill --teacher builtin:teacher --data builtin:world --set pool.size=64 --set prune.images=64 "
    "--set steps.images=64 --set adversarial.images=64 --out {out}",
}


@contextlib.contextmanager
def group(limit: int | None) -> Iterator[Path]:
    """A memory control group, empty and gone after the block."""
    place = ROOT / ("memory" if VERSION_1 else "") / f"genin-{os.getpid()}"
    place.mkdir()
    try:
        if limit is not None:
            (place / FILES[0]).write_text(str(limit))
        yield place
    finally:
        place.rmdir()


def file_name(name: str) -> str:
    return name.replace(", ", "-")


def run(words: str, limit: int | None) -> dict[str, Any]:
    """One command: exit code, seconds, peak of the group in bytes, what it said about memory, its last line."""
    with group(limit) as place:
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "genin", *words.split()],
            preexec_fn=lambda: (place / "cgroup.procs").write_text(str(os.getpid())),  # has no threads
            capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        seconds, said = time.monotonic() - start, done.stderr.strip().splitlines()
        peak = int((place / FILES[1]).read_text())
    return {
        "limit": limit,
        "exit_code": 128 - done.returncode if done.returncode < 0 else done.returncode,
        "seconds": round(seconds, 1),
        "peak": peak,
        "advice": next((line for line in said if re.search(r"needs? about .* GB", line)), ""),
        "last": said[-1] if said else "",
    }


@click.command()
@click.option("--work", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for outputs.")
@click.option("--only", type=click.Choice([*COMMANDS]), multiple=True, help="Only these commands.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The rows as JSON.")
def main(work: Path, only: tuple[str, ...], out: Path | None) -> None:
    """Run every command without a limit and at shares of what it took."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for name in only or COMMANDS:
        rows[name] = []
        for share in (None, *SHARES):
            limit = None if share is None else int(rows[name][0]["peak"] * share)
            made = work / f"{file_name(name)}-{share}"
            shutil.rmtree(made, ignore_errors=True)  # an output that exists is refused
            found = run(COMMANDS[name].format(out=made), limit)
            if share is None and found["exit_code"]:
                raise click.ClickException(f"{name} fails without a limit: {found['last']}")
            rows[name].append(found)
            words = f"exit {found['exit_code']}, {found['seconds']} s, peak {found['peak'] / 1e9:.2f} GB"
            given = "none" if limit is None else f"{limit / 1e9:.2f} GB"
            click.echo(f"{name}: limit {given}, {words} | {found['advice'] or found['last']}")
        if out:  # after each command: the next may fail
            out.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

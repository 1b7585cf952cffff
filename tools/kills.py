"""Kill a run at random moments, resume it each time, and compare its result with that of an undisturbed run.

    python tools/kills.py --kills 20 --out kills -- distill --teacher MODEL --data builtin:world --recipe RECIPE

The command, any that has --out and --resume (`teacher train`, `teacher finetune`, `distill`), runs once into OUT/whole, and
once into OUT/killed with SIGKILL at N moments: one in five while it starts, the others at any time after it has first written
something, in the middle of writing a checkpoint too. Then every tensor of every checkpoint (weights, optimisers, averages, the
best one), every weight of the model and the log's rows must be the same to the last bit; clocks may differ. Exit code 1 if
anything is not.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

CLOCKS = {"elapsed_s", "images_per_s"}


def started(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "genin", *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def newest(folder: Path) -> float:
    """When something in the folder was last written."""
    times = [0.0]
    for path in folder.rglob("*"):
        try:
            times.append(path.stat().st_mtime)
        except OSError:  # renamed since it was listed
            continue
    return max(times)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate()
    if process.returncode:
        raise click.ClickException(errors.decode(errors="replace").strip()[-600:])


def until_written(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait for the run's first write, or for its end."""
    before = newest(folder)
    while process.poll() is None and newest(folder) <= before:
        time.sleep(0.02)


def killed(command: list[str], folder: Path, kills: int, seconds: tuple[float, float], chance: random.Random) -> int:
    """Kill the run `kills` times, then let it end; returns how often it was killed. `seconds`: to its first write, and from there
    to its end, when it is left alone."""
    done, resume = 0, False
    starting, working = seconds
    while done < kills:
        process = started([*command, "--out", str(folder), *(["--resume"] if resume else [])])
        if chance.random() < 0.2:
            time.sleep(chance.uniform(0, starting))
        else:
            until_written(process, folder)
            time.sleep(chance.uniform(0, working / kills))
        if process.poll() is not None:
            finish(process)
            return done
        process.kill()
        process.communicate()
        done += 1
        resume = resume or (folder / "training").is_dir()
    finish(started([*command, "--out", str(folder), *(["--resume"] if resume else [])]))
    return done


# --- comparing -------------------------------------------------------------------------------------------------------


def differences(whole: Path, other: Path) -> Iterator[str]:
    """What is not the same, file by file."""
    names = sorted(
        {path.relative_to(root).as_posix() for root in (whole, other) for path in root.rglob("*") if path.is_file()}
    )
    for name in names:
        a, b = whole / name, other / name
        if not a.is_file() or not b.is_file():
            yield f"{name}: only in {'killed' if b.is_file() else 'whole'}"
        elif name.endswith(".pt"):
            yield from (f"{name}: {what}" for what in _unlike(_checkpoint(a), _checkpoint(b)))
        elif name.endswith(".safetensors"):
            yield from (f"{name}: {what}" for what in _unlike(_tensors(a), _tensors(b)))
        elif name.endswith(".log.jsonl"):
            rows = [[json.loads(line) for line in path.read_text().splitlines()] for path in (a, b)]
            yield from (f"{name}: {what}" for what in _unlike(*rows))


def _checkpoint(path: Path) -> Any:
    import torch

    return torch.load(path, weights_only=True)


def _tensors(path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(path)


def _unlike(a: Any, b: Any, where: str = "") -> Iterator[str]:
    import torch

    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.shape != b.shape or a.dtype != b.dtype or not torch.equal(a, b):
            yield f"{where} differs"
    elif isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in {**a, **b}:
            if key in CLOCKS:
                continue
            if key not in a or key not in b:
                yield f"{where}.{key} is missing on one side"
            else:
                yield from _unlike(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for index, (one, two) in enumerate(zip(a, b, strict=True)):
            yield from _unlike(one, two, f"{where}[{index}]")
    elif a != b:
        yield f"{where}: {a!r} and {b!r}"


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--kills", default=20, show_default=True, help="How often.")
@click.option("--seed", default=0, show_default=True, help="Of the moments.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for both runs; it must not exist.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def main(kills: int, seed: int, out: Path, command: tuple[str, ...]) -> None:
    """Run, kill, compare."""
    out.mkdir(parents=True)
    begun = time.monotonic()
    process = started([*command, "--out", str(out / "whole")])
    until_written(process, out / "whole")
    starting = time.monotonic() - begun
    finish(process)
    working = time.monotonic() - begun - starting
    done = killed([*command], out / "killed", kills, (starting, working), random.Random(seed))
    found = list(differences(out / "whole", out / "killed"))
    for line in found[:40]:
        click.echo(line)
    click.echo(f"killed {done} times: {len(found)} differences (left alone it takes {starting:.0f} + {working:.0f} s)")
    if found or done < kills:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

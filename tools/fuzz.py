"""Hostile input as a program: damage the files that genin reads, run the command that reads them, and see that it ends well.

    python tools/fuzz.py --mutations 10000 --seed 1 --work fuzz --out figures.json
    python tools/fuzz.py --work fuzz --only recipe --replay 1:4711      one mutation again, its files are kept

`WORK/seeds` gets valid files of every kind once (about a minute). A mutation copies the files of one target, damages one or two
of them (JSON and YAML: keys and values; the header of safetensors; names inside archives; bytes, of any file), and runs the
target's command in a forked process, whose imports are made already: about 50 ms each. It ends well if

    the exit code is 0, 1 or 2; an error is the last line of stderr, begins with "genin: ", is not "unexpected …", no traceback
    it takes at most 20 s of processor time and 2 GiB more than the imports
    nothing is written, made, renamed or removed but below its --out, its temporary folder (empty at the end) and its home
    no pickle is loaded, no host is looked up
    the last line of a command that succeeds with --json is strict JSON

Writing, pickles and look-ups are seen by an audit hook of Python's, so what native libraries do by themselves is seen only where
it leaves a file. Same seed, same mutations; a run that was stopped goes on where it was, if no code has changed. Exit code 1 if one
mutation did not end well, whose files are in WORK/wrong, or was not made.

Not here: the native library, which has a fuzz program of its own (runtimes/native/tests/fuzz.cpp).
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import hashlib
import importlib
import io
import json
import os
import pkgutil
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click
from fuzzing.mutation import Ending, one
from fuzzing.seeds import write_seeds
from fuzzing.targets import TARGETS

WARM = ("folder", "folder-draw", "lora", "recipe", "pictures", "film", "shard")


def imports(work: Path) -> None:
    """Whatever commands import, so that a mutation's process has it already, and writes no byte code."""
    import genin

    for name in (
        "av",
        "diffusers",
        "matplotlib.pyplot",
        "onnxruntime",
        "pyarrow.parquet",
        "scenedetect",
        "transformers",
        "webdataset",
    ):
        importlib.import_module(name)
    sys.dont_write_bytecode = True
    apart = ("__main__", "hook-genin", ".native", ".golden", "_docs", "openvino", "coreml", "to_")
    for module in pkgutil.walk_packages(genin.__path__, "genin."):
        if not any(part in module.name for part in apart):
            importlib.import_module(module.name)
    import torch

    from genin.cli import run

    torch.set_num_threads(1)
    for name in WARM:  # for what commands import while they run
        target = TARGETS[name]
        words = target.words.format(**{"in": work / "seeds" / target.seed, "out": work / "warm" / name})
        shutil.rmtree(work / "warm", ignore_errors=True)
        (work / "warm").mkdir()
        with contextlib.redirect_stdout(io.StringIO()):
            assert run(words.split()) == 0, words
    gc.freeze()  # a forked process copies every page that its collector touches


def code_digest() -> str:
    """Changes with the code that is fuzzed, which is imported by now, and with what damages its files."""
    names = [name for name in sys.modules if name.partition(".")[0] in ("genin", "fuzzing")]
    files = {sys.modules[name].__file__ for name in names} - {None}
    digest = hashlib.sha256()
    for file in sorted(map(str, files)):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()[:12]


def run_all(work: Path, seed: int, numbers: range, only: Sequence[str], jobs: int) -> list[Ending]:
    """Every process takes each Nth mutation, and adds how it ended to a file: a run that was stopped goes on from there."""
    path = work / f"endings-{code_digest()}-{seed}{'-' + '-'.join(only) if only else ''}.jsonl"
    done = {ending.number for ending in _read(path)}
    children = []
    for job in range(jobs):
        if (process := os.fork()) == 0:
            _some(work, seed, [number for number in numbers[job::jobs] if number not in done], only, path)
            os._exit(0)
        children.append(process)
    try:
        failed = [process for process in children if os.waitpid(process, 0)[1]]
        if failed:
            raise click.ClickException(f"{len(failed)} of {jobs} processes ended early; run it again to go on")
    except KeyboardInterrupt:
        for process in children:
            os.kill(process, signal.SIGTERM)
    return [ending for ending in _read(path) if ending.number in numbers]


def _some(work: Path, seed: int, numbers: Sequence[int], only: Sequence[str], path: Path) -> None:
    began = time.monotonic()
    for count, number in enumerate(numbers, 1):
        ending = one(work, seed, number, only)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(ending)) + "\n")
        if ending.wrong:
            click.echo(f"{ending.target} {seed}:{number} {'; '.join(ending.wrong)} | {ending.last}")
        if count % 250 == 0:
            click.echo(f"{count} of {len(numbers)} mutations, {time.monotonic() - began:.0f} s", err=True)


def _read(path: Path) -> list[Ending]:
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    return [Ending(**{**row, "wrong": tuple(row["wrong"])}) for row in map(json.loads, lines)]


@click.command(help=__doc__)
@click.option("--mutations", type=click.IntRange(1), default=10_000, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option(
    "--work", type=click.Path(path_type=Path), required=True, help="Folder of the valid files and of what was wrong."
)
@click.option("--only", default="", help="Names of targets, with commas.")
@click.option("--replay", default="", help="SEED:NUMBER of one mutation (with the same --only).")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option("--out", type=click.Path(path_type=Path), help="The figures as JSON.")
def main(mutations: int, seed: int, work: Path, only: str, replay: str, jobs: int, out: Path | None) -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "GENIN_AUTO": "order"}
    work = work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    write_seeds(work / "seeds")
    imports(work)
    chosen = [name for name in only.split(",") if name]
    if replay:
        seed, number = map(int, replay.split(":"))
        click.echo(one(work, seed, number, chosen, keep=True))
        return
    began = time.monotonic()
    endings = run_all(work, seed, range(mutations), chosen, jobs)
    counts: dict[str, Counter[str]] = {}
    cpu: Counter[str] = Counter()
    for ending in endings:
        counts.setdefault(ending.target, Counter())["wrong" if ending.wrong else ending.outcome] += 1
        cpu[ending.target] += ending.cpu
    slowest, bad = max(endings, key=lambda one: one.seconds), sum(bool(ending.wrong) for ending in endings)
    figures = {
        "mutations": len(endings), "seed": seed, "wrong": bad, "seconds": round(time.monotonic() - began, 1),
        "slowest": [slowest.target, slowest.number, round(slowest.seconds, 1)],
        "cpu_seconds": {name: round(cpu[name], 1) for name in sorted(cpu)},
        "outcomes": {name: dict(sorted(counts[name].items())) for name in sorted(counts)},
    }  # fmt: skip
    click.echo(json.dumps(figures, indent=1))
    if out:
        out.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()

"""What other processes on the same machine cost genin, before and after `genin.runtimes.threads.set_wait_policy`.

    python tools/busy_machine.py --work runs/busy --rounds 3 --out docs/runs/busy-machine.json

Every case is a command. It is run on the idle machine and beside one computing process per core, with OpenMP's own way of waiting
("before": 300,000 spins, what GNU OpenMP does by itself) and with genin's choice ("after"), in turns. Printed are medians and two
ratios: idle after / idle before (1.03 at most), and busy after / (2 × idle before), since a process that shares every core with
another gets half of it (1.5 at most). What a case writes (pictures, losses) must be byte-identical in all runs. Run it on an
otherwise idle machine. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OPENMP_SPINS = "300000"
TIMEOUT_S = 120  # of a run "before" on a busy machine, which can take very long
RECIPE = """
pool: {size: 32, teacher_steps: 4, batch_size: 16}
prune: {images: 32, batch_size: 8}
steps: {images: 32, batch_size: 8, held_out_images: 0}
adversarial: {images: 32, batch_size: 8, cache_images: 32, held_out_images: 0}
finetune: {images: 64, batch_size: 8, cache_images: 32, held_out_images: 0}
"""
TESTS = (
    "tests/runtimes/test_tokenizer.py",
    "tests/runtimes/test_samplers.py",
    "tests/distill/models/test_diffusion.py",
)


@dataclass(frozen=True)
class Case:
    """A command; `{out}` in it is a new folder. `results` are glob patterns of files that must not change, `volatile` keys of JSON
    lines that may."""

    name: str
    command: Sequence[str]
    results: Sequence[str] = ()
    volatile: Sequence[str] = ("images_per_s", "elapsed_s", "memory_gb")


def cases(recipe: Path) -> list[Case]:
    genin = (sys.executable, "-m", "genin")
    data = ("--data", "builtin:world", "--recipe", str(recipe))
    log = ("model/training/*.log.jsonl",)
    return [
        Case("generate", (*genin, "generate", "a ninja", "-m", "builtin:teacher", "--out", "{out}/a.png"), ("*.png",)),
        Case("finetune", (*genin, "teacher", "finetune", *data, "--out", "{out}/model"), log),
        Case("distill", (*genin, "distill", *data, "--student", "bk-small-narrow", "--out", "{out}/model"), log),
        Case("compare", (*genin, "compare", "builtin:teacher", "--steps", "10", "--out", "{out}/a.png"), ("*.png",)),
        Case(
            "export",
            (
                *genin,
                "export",
                "builtin:teacher",
                "--format",
                "onnx",
                "--precision",
                "fp32,int8",
                "--out",
                "{out}/bundle",
            ),
            ("bundle/onnx/*/*/*.onnx",),
        ),
        Case("tests", (sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", *TESTS)),
    ]


@contextlib.contextmanager
def computing_processes(count: int) -> Iterator[None]:
    """`count` processes that do nothing but compute."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def run(case: Case, work: Path, *, before: bool) -> tuple[float | None, str]:
    """(seconds, or None where it took longer than `TIMEOUT_S`; a hash of its results)."""
    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    if before:
        environment["GOMP_SPINCOUNT"] = OPENMP_SPINS
    command = [part.replace("{out}", str(out)) for part in case.command]
    start = time.perf_counter()
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return None, ""
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{case.name} failed: {done.stderr.decode()[-2000:]}")
    return seconds, hash_of_results(out, case)


def hash_of_results(out: Path, case: Case) -> str:
    digest = hashlib.sha256()
    files = sorted(file for pattern in case.results for file in out.glob(pattern))
    if case.results and not files:
        raise SystemExit(f"{case.name} wrote none of {', '.join(case.results)}")
    for file in files:
        data = file.read_bytes()
        if file.suffix == ".jsonl":
            rows = [json.loads(line) for line in data.splitlines()]
            rows = [{key: value for key, value in row.items() if key not in case.volatile} for row in rows]
            data = json.dumps(rows).encode()
        digest.update(data)
    return digest.hexdigest()[:12]


def measure(case: Case, work: Path, rounds: int, loads: Sequence[str]) -> dict[str, Any]:
    seconds: dict[str, list[float | None]] = {f"{load}_{when}": [] for load in loads for when in ("before", "after")}
    hashes = set()
    for index in range(rounds):
        for load in loads:
            with computing_processes(os.cpu_count() or 1) if load == "busy" else contextlib.nullcontext():
                for when in (
                    ("before", "after") if index % 2 == 0 else ("after", "before")
                ):  # so that a drift favours neither
                    if load == "busy" and when == "before" and None in seconds["busy_before"]:
                        continue  # once is enough
                    took, found = run(case, work, before=when == "before")
                    seconds[f"{load}_{when}"].append(took)
                    hashes |= {found} - {""}
    medians = {
        key: None if None in values else statistics.median(filter(None, values)) for key, values in seconds.items()
    }
    return {
        "case": case.name,
        "seconds": seconds,
        "median": medians,
        "idle_ratio": ratio(medians["idle_after"], medians["idle_before"]),
        "busy_ratio": ratio(medians["busy_after"], medians["idle_before"], 2) if "busy" in loads else None,
        "same_results": len(hashes) == 1,
    }


def ratio(seconds: float | None, base: float | None, times: int = 1) -> float | None:
    return None if seconds is None or base is None else seconds / (times * base)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for what the cases write")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="comma-separated names of cases")
    parser.add_argument("--idle", action="store_true", help="leave the busy machine out")
    parser.add_argument("--out", type=Path, help="JSON file of the figures")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    recipe = options.work / "recipe.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    chosen = [case for case in cases(recipe.absolute()) if not options.only or case.name in options.only.split(",")]
    rows = []
    measured = (
        ("idle before", "idle after") if options.idle else ("idle before", "idle after", "busy before", "busy after")
    )
    heading = ("", *measured, "idle after/before", "busy after/fair", "same")
    sys.stdout.write(f"| {' | '.join(heading)} |\n|{'---|' * len(heading)}\n")
    for case in chosen:
        row = measure(case, options.work.absolute(), options.rounds, ("idle",) if options.idle else ("idle", "busy"))
        rows.append(row)
        times = [f"{value:.1f} s" if value is not None else f"> {TIMEOUT_S} s" for value in row["median"].values()]
        same = "yes" if row["same_results"] else "NO"
        ratios = [f"{row[key]:.2f}" if row[key] is not None else "–" for key in ("idle_ratio", "busy_ratio")]
        cells = [case.name, *times, *ratios, same]
        sys.stdout.write(f"| {' | '.join(cells)} |" + "\n")
        sys.stdout.flush()
        if options.out:  # after each case: the next may fail
            options.out.parent.mkdir(parents=True, exist_ok=True)
            facts = {"cores": os.cpu_count(), "rounds": options.rounds, "timeout_s": TIMEOUT_S, "rows": rows}
            options.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

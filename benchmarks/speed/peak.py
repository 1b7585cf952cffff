"""What the machine can do at most: fp32 multiply-adds of a matrix product, and bytes of a copy, both by numpy.

    python -m genin.benchmarks.speed.peak 2

A process of its own for each number of threads. Threads multiply matrices of their own, all at once, each within milliseconds: a
product that numpy's library shares out itself waits for its slowest thread, and on a busy machine is measured at a third. Each is
the best of what half a second allows, before and after the pictures: other work can only lower it. An engine may exceed the
product's peak, with fewer multiply-adds (Winograd's convolution) or fewer bits (int8).

Not here: what a picture takes (`operations`).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from genin.benchmarks.speed.worker import environment
from genin.runtimes.limits import usable_cores

SIDE: Final = 384  # of the matrices: a product takes a millisecond, less than a scheduler's slice
COPIED_BYTES: Final = 128 << 20  # beyond the caches of most processors
MEASURED_S: Final = 0.4
LIMIT_S: Final = 60.0
MODULE: Final = "genin.benchmarks.speed.peak"


def measure_peaks(threads: Iterable[int]) -> list[dict[str, Any]]:
    """One entry for each number of threads, as a result file has them; none for a process that fails, for lack of memory say."""
    found = []
    for count in sorted(set(threads)):
        command = [sys.executable, "-m", MODULE, str(count)]
        try:
            done = subprocess.run(
                command, env=environment(1), capture_output=True, text=True, check=True, timeout=LIMIT_S
            )
            found.append(json.loads(done.stdout))
        except (OSError, ValueError, subprocess.SubprocessError):
            continue
    return found


def higher(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of two measurements the higher values, for each number of threads that either has."""
    found: dict[int, dict[str, Any]] = {}
    for one in (*first, *second):
        known = found.setdefault(one["threads"], dict(one))
        known |= {key: max(known[key], one[key]) for key in ("matmul_gflops", "copy_gb_per_s")}
    return list(found.values())


def measure_here(threads: int) -> dict[str, Any]:
    """The peaks of this process: `matmul_gflops`, where a multiply-add is two operations, and `copy_gb_per_s`, read and written."""
    a = np.random.default_rng(0).random((SIDE, SIDE), np.float32)
    at_once = min(threads, usable_cores())  # more would wait for each other
    repeats = -(-at_once // 8)  # of a product, so that handing out the work is a small part of it
    products = [np.empty_like(a) for _ in range(at_once)]
    source = [np.ones(COPIED_BYTES // threads, np.uint8) for _ in range(threads)]
    target = [np.zeros_like(part) for part in source]
    with ThreadPoolExecutor(threads) as pool:  # numpy lets go of the interpreter's lock while it copies and multiplies

        def copy() -> None:
            list(pool.map(np.copyto, target, source))

        def multiply_into(product: NDArray[np.float32]) -> None:
            for _ in range(repeats):
                np.matmul(a, a, out=product)

        def multiply() -> None:
            list(pool.map(multiply_into, products))

        copied, multiplied = best_s(copy), best_s(multiply)
    return {
        "threads": threads,
        "matmul_gflops": round(2 * SIDE**3 * at_once * repeats / multiplied / 1e9, 2),
        "copy_gb_per_s": round(2 * sum(part.nbytes for part in source) / copied / 1e9, 2),
    }


def best_s(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """The shortest time of `work` in what `MEASURED_S` allows, after one call that does not count; at least one does."""
    work()
    began, best = clock(), float("inf")
    while True:
        start = clock()
        work()
        end = clock()
        best = min(best, end - start)
        if end - began >= MEASURED_S:
            return best


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure_here(int(sys.argv[1]))))

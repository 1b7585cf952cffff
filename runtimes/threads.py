"""How many threads genin's libraries use in this process, and how PyTorch's threads wait for each other.

PyTorch's operators end in a barrier. OpenMP's threads spin there, which is fastest on an idle machine; but where another process
needs the core of one of them, all others spin until it is scheduled again, thousands of times a picture. So `set_wait_policy` lets
threads sleep at barriers (`OMP_WAIT_POLICY=passive`) if other processes are running when genin starts, and otherwise bounds the
spinning (GNU OpenMP only) in case some start later. ONNX Runtime's threads spin, too: `may_spin` tells its adapter. None of this
changes a bit of any result. Measured by tools/busy_machine.py; figures in docs/log.md.

OpenMP reads its variables when its library is loaded, so `import genin` calls it: in a program that imports torch first,
it has no effect. A value that the user has set is kept.

Not here: threads of a single pipeline (`load_pipeline(threads=…)`), processes (`accelerate`).
"""

from __future__ import annotations

import functools
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from genin.runtimes.arguments import whole
from genin.runtimes.errors import InputError
from genin.runtimes.limits import available_cores, usable_cores

MAX_THREADS = 1024
WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
POOL_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# About 0.1 ms. On an idle machine as fast as GNU OpenMP's own 300,000 (docs/log.md).
SPIN_COUNT = 10_000
SAMPLES, SAMPLE_INTERVAL_S = 5, 0.0005

_limit: int | None = None


@functools.cache
def set_wait_policy() -> None:
    """Choose how OpenMP's threads wait, once per process and unless the user has set one of `WAIT_VARIABLES`."""
    if any(name in os.environ for name in WAIT_VARIABLES):
        return
    if is_machine_busy():
        os.environ["OMP_WAIT_POLICY"] = "passive"
    else:
        os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)


def may_spin() -> bool:
    """Whether the threads of an engine that is opened now may spin while they wait: as `OMP_WAIT_POLICY` says if it is set, else
    unless the machine is busy."""
    policy = os.environ.get("OMP_WAIT_POLICY", "").strip().lower()
    return policy == "active" or (policy != "passive" and not is_machine_busy())


def is_machine_busy(running: Callable[[], int | None] | None = None) -> bool:
    """Whether other processes are running at this moment, on Linux; on other systems, whether they used at least half of the
    cores in the last minute. False where neither is known. `running` counts the runnable threads of others, and this one."""
    count = _usually_running(running or others_and_this)
    return _recent_load() >= 0.5 if count is None else count > 1


def are_cores_idle(wanted: int, running: Callable[[], int | None] | None = None) -> bool:
    """Whether `wanted` threads would each find a core at this moment beside what others run. A container with a small quota sees
    all that runs on a large machine, most of which leaves cores free. Where it is not known what runs: as `is_machine_busy`."""
    count = _usually_running(running or others_and_this)
    return _recent_load() < 0.5 if count is None else count - 1 + wanted <= available_cores()


def _usually_running(running: Callable[[], int | None]) -> int | None:
    """The median of a few counts, so that a short-lived process does not matter; None where they are not known."""
    counts = []
    for _ in range(SAMPLES):
        if (count := running()) is None:
            return None
        counts.append(count)
        time.sleep(SAMPLE_INTERVAL_S)
    return sorted(counts)[SAMPLES // 2]


def running_threads() -> int | None:
    """Threads of all processes that run or wait for a core, the caller's included; None if the system does not report it."""
    try:
        found = re.search(r"^procs_running (\d+)$", Path("/proc/stat").read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


def others_and_this() -> int | None:
    """The same without this process's other threads: OpenBLAS's spin for a while after numpy is imported."""
    count = running_threads()
    return None if count is None else max(1, count - _own_others())


def _own_others() -> int:
    """How many other threads of this process run."""
    running = 0
    for task in Path("/proc/self/task").glob("*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            running += task.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0] == "R"
    return max(0, running - 1)


def _recent_load() -> float:
    """Share of the cores in use over the last minute; 0 if the system does not report it."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except (AttributeError, OSError):  # Windows
        return 0.0


def limit_threads(count: int) -> None:
    """Let PyTorch, and every engine that is opened without a number of its own, use `count` threads from now on, in this process
    and those it starts. Errors: InputError unless 1 … `MAX_THREADS`."""
    global _limit
    _limit = check_threads(count)
    os.environ.update(dict.fromkeys(POOL_VARIABLES, str(count)))
    if (torch := sys.modules.get("torch")) is not None:  # it has read the environment already
        torch.set_num_threads(count)


def thread_limit() -> int | None:
    """What `limit_threads` has set; else the cores of a CPU quota, which engines do not read; else None."""
    return usable_cores() if _limit is None and has_quota() else _limit


def has_quota() -> bool:
    """Whether control groups grant fewer cores than this process may run on: more threads would only wait for each other."""
    return usable_cores() < available_cores()


@functools.cache
def respect_quota() -> None:
    """Let libraries that size their pools when they are loaded use no more threads than a CPU quota has cores, unless the user has
    set one of `POOL_VARIABLES`."""
    if has_quota() and not any(name in os.environ for name in POOL_VARIABLES):
        os.environ.update(dict.fromkeys(POOL_VARIABLES, str(usable_cores())))


def check_threads(count: int | None) -> int | None:
    """`count` as an int. Errors: InputError unless None or 1 … `MAX_THREADS`."""
    return whole(count, "threads", 1, MAX_THREADS)


def check_environment() -> None:
    """Refuse OpenMP settings that its libraries would warn about and ignore. Errors: InputError naming the variable."""
    policy = os.environ.get("OMP_WAIT_POLICY")
    if policy is not None and policy.strip().lower() not in ("active", "passive"):
        raise _wrong("OMP_WAIT_POLICY", policy, "active or passive")
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads is not None and not all(_is_in_range(part, 1, MAX_THREADS) for part in threads.split(",")):
        raise _wrong("OMP_NUM_THREADS", threads, f"a number from 1 to {MAX_THREADS}")
    spins = os.environ.get("GOMP_SPINCOUNT")
    if spins is not None and not re.fullmatch(
        r"\s*(\d+\s*[kmgt]?|infinity|infinite)\s*", spins, re.ASCII | re.IGNORECASE
    ):
        raise _wrong("GOMP_SPINCOUNT", spins, "a number from 0, or infinite")
    block = os.environ.get("KMP_BLOCKTIME")
    if block is not None and not re.fullmatch(r"\s*(\d+\s*(ms|us)?|infinite)\s*", block, re.ASCII | re.IGNORECASE):
        raise _wrong("KMP_BLOCKTIME", block, "milliseconds from 0, or infinite")


def _is_in_range(text: str, low: int, high: int) -> bool:
    return re.fullmatch(r"\s*\d{1,9}\s*", text, re.ASCII) is not None and low <= int(text) <= high


def _wrong(name: str, value: str, allowed: str) -> InputError:
    return InputError(f"the environment variable {name} is '{value}'", remedy=f"set it to {allowed}, or leave it unset")

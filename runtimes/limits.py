"""Cores and memory that this process may use, which in a container or a batch job are fewer than the machine has.

Cores are bounded by affinity (`taskset`, Slurm) and by the CPU quota of control groups (`docker --cpus`, systemd, Kubernetes),
memory by the groups' limits. On Linux only; elsewhere the machine's own counts.

Not here: how many threads genin uses (`threads`), what a training needs (`genin.distill.loop.memory`).
"""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
PYTORCH_BYTES = 1_000_000_000  # of PyTorch, diffusers and transformers once they are imported
UNLIMITED = 1 << 60  # version 1 says 2^63 less a page


def usable_cores() -> int:
    """Cores that this process may keep busy, at least 1: a quota of 1.5 cores is 2."""
    quota = core_quota()
    return available_cores() if quota is None else max(1, min(available_cores(), math.ceil(quota)))


def available_cores() -> int:
    """Cores that this process may run on, by its affinity alone."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def processor_name() -> str:
    """The processor's marketing name where the system reports it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "Hardware")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def core_quota() -> float | None:
    """Cores' worth of time that control groups grant; None where they do not limit it."""
    quotas = []
    for folder in _group_folders("cpu"):
        if (maximum := _read(folder / "cpu.max")) is not None:
            quota, _, period = maximum.partition(" ")
        else:
            quota, period = _read(folder / "cpu.cfs_quota_us") or "", _read(folder / "cpu.cfs_period_us") or ""
        if quota.isdigit() and period.isdigit() and int(period) > 0:  # else "max", or -1
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def memory_limit_bytes() -> int | None:
    """Bytes that control groups let this process and its group hold; None where they do not limit it."""
    limits = []
    for folder in _group_folders("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _read(folder / name) or ""
            if limit.isdigit() and int(limit) < UNLIMITED:
                limits.append(int(limit))
    return min(limits, default=None)


def _group_folders(controller: str) -> Iterator[Path]:
    """This process's group and those around it, for version 2 and for version 1. A container sees its own group at the root."""
    for line in (_read(MEMBERSHIP) or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        root = GROUPS / controllers if controllers else GROUPS
        place = Path(path.lstrip("/"))
        for part in (place, *place.parents):
            if ".." not in part.parts:
                yield root / part


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None

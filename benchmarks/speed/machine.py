"""The machine a figure was measured on: processor, cores, memory, system, packages, and how busy it was.

Not here: graphics cards (no runtime of genin's benchmarks uses one), and anything that identifies a person or host.
"""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from genin.runtimes.limits import memory_limit_bytes, processor_name, usable_cores

PACKAGES = ("genin", "numpy", "torch", "diffusers", "onnxruntime", "openvino", "coremltools", "genin-native")


def describe_machine() -> dict[str, Any]:
    """JSON-ready facts; `load_average` is the one-minute value before measuring, None where the system has none."""
    return {
        "processor": processor_name(),
        "architecture": platform.machine(),
        "logical_cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "memory_bytes": usable_memory_bytes(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def usable_memory_bytes() -> int:
    """The machine's memory, or less where control groups limit it (a container, a batch job)."""
    import psutil

    total, limit = int(psutil.virtual_memory().total), memory_limit_bytes()
    return total if limit is None else min(total, limit)


def peak_rss_bytes() -> int:
    """The most memory this process has held so far.

    Linux keeps it per address space in /proc; `getrusage` there would count the process that started this one.
    """
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # bytes on macOS


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

"""Memory of the machine and of this process: from Linux's /proc and the standard library, with psutil where only that can tell.

Imported by the processes that are measured, before anything else: it takes a millisecond. Not here: what a training needs
(`genin.distill.loop.memory`).
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from pathlib import Path

from genin.runtimes.limits import memory_limit_bytes


def usable_memory_bytes() -> int:
    """The machine's memory, or less where control groups limit it (a container, a batch job)."""
    total, limit = _total_memory_bytes(), memory_limit_bytes()
    return total if limit is None else min(total, limit)


def available_memory_bytes() -> int | None:
    """Memory that can be had without swapping; None where only psutil could tell and it is not installed."""
    if (kilobytes := _kilobytes(Path("/proc/meminfo"), "MemAvailable")) is not None:
        return min(kilobytes * 1024, usable_memory_bytes())
    with suppress(ModuleNotFoundError):
        import psutil

        return min(int(psutil.virtual_memory().available), usable_memory_bytes())
    return None


def _total_memory_bytes() -> int:
    with suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    import psutil

    return int(psutil.virtual_memory().total)


def rss_bytes(process: int | None = None) -> int | None:
    """Memory that this process, or another one, holds now; None for one that has ended, and where only psutil could tell and it is
    not installed."""
    if (kilobytes := _kilobytes(Path(f"/proc/{process or 'self'}/status"), "VmRSS")) is not None:
        return kilobytes * 1024
    with suppress(ModuleNotFoundError):
        import psutil

        with suppress(psutil.Error):
            return int(psutil.Process(process).memory_info().rss)
    return None


def pss_bytes(process: int) -> int | None:
    """Memory that a process holds, pages that several share counted in shares (Linux); None where the system does not tell."""
    kilobytes = _kilobytes(Path(f"/proc/{process}/smaps_rollup"), "Pss")
    return None if kilobytes is None else kilobytes * 1024


def peak_rss_bytes() -> int | None:
    """The most memory that this process has held so far.

    Linux keeps it per address space in /proc; `getrusage` there would count the process that started this one.
    """
    if (kilobytes := _kilobytes(Path("/proc/self/status"), "VmHWM")) is not None:
        return kilobytes * 1024
    if sys.platform == "win32":
        with suppress(ModuleNotFoundError):
            import psutil

            return int(psutil.Process().memory_info().peak_wset)
        return None
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # bytes on macOS


def _kilobytes(file: Path, key: str) -> int | None:
    try:
        text = file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(rf"^{key}:\s*(\d+) kB", text, re.MULTILINE)
    return int(found[1]) if found else None

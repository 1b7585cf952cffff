"""The machine a figure was measured on: processor, clock, memory, system, engines, and how busy it was.

All of it comes from the standard library and Linux's /proc and /sys, with psutil where it is installed; what a system does not
tell is None. `sha256` is equal on equal machines, so that results of two are not compared unawares.

A busy machine spoils every figure, so that is said before all others (`busy_text`): by the load average, which is of the whole
machine, and by the time that other processes took while measuring, of the cores that this process may run on (`OtherWork`).
Not here: graphics cards (a row's provider names the one that PyTorch used), and anything that identifies a person or host.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from genin.benchmarks.speed.memory import usable_memory_bytes
from genin.runtimes.limits import available_cores, processor_name, usable_cores
from genin.runtimes.vocabulary import RUNTIMES
from genin.runtimes.wording import counted
from genin.version import __version__

ENGINE_PACKAGES: Final = {
    "pytorch": ("torch", "diffusers"),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "coreml": ("coremltools",),
    "native": ("genin-native",),
}
INSTRUCTIONS: Final = re.compile(r"^(avx2|avx512f|avx512_vnni|avx512_bf16|avx_vnni|amx_\w+|asimd\w*|sve2?|i8mm|bf16)$")
BUSY_SHARE: Final = 0.5  # of the cores, before measuring
OTHER_SHARE: Final = 0.25  # of the cores, while measuring
CPU, POWER = Path("/sys/devices/system/cpu"), Path("/sys/class/power_supply")
STAT = Path("/proc/stat")


def describe_machine(
    runtimes: Iterable[str] = RUNTIMES, others: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """JSON-ready facts, with the versions of these runtimes' packages, and of `others`; `load_average` is the one-minute value."""
    packages = ["numpy", *(package for runtime in runtimes for package in ENGINE_PACKAGES[runtime])]
    lasting = {
        "processor": processor_name(),
        "architecture": platform.machine(),
        "logical_cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "memory_bytes": _memory_bytes(),
        "system": f"{platform.system()} {platform.release()}",
    }
    return {
        **lasting,
        "sha256": hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest(),
        "python": platform.python_version(),
        "packages": {"genin": __version__}
        | {name: found for name in packages if (found := version_of(name))}
        | dict(others),
        "load_average": load_average(),
        **_clock(),
        "on_battery": _on_battery(),
    }


def engine_version(runtime: str) -> str | None:
    """The release of a runtime's package; None for an engine that genin does not run itself."""
    return version_of(ENGINE_PACKAGES[runtime][0]) if runtime in ENGINE_PACKAGES else None


def version_of(package: str) -> str | None:
    """The installed release of a package; None without it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def checkout_commit() -> str | None:
    """The commit of the checkout that genin runs from, with "-dirty" where its files differ from it; None for an installed
    wheel."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    with suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip() or None
    return None


# --- how busy --------------------------------------------------------------------------------------------------------


def load_average() -> float | None:
    """Processes that wanted a core, over the last minute; None where the system does not count them."""
    with suppress(AttributeError, OSError):
        return round(os.getloadavg()[0], 2)
    return None


def busy_text(machine: Mapping[str, Any]) -> str | None:
    """What to say of a machine as described, with the `other_cores` that were counted, if they were; None if it was idle enough. A
    quota leaves the cores as many as they are, and `taskset` the load average."""
    said = [
        busy_before(machine["load_average"], machine["logical_cores"] or machine["usable_cores"]),
        busy_during(machine.get("other_cores"), available_cores()),
    ]
    return "; ".join(sentence for sentence in said if sentence) or None


def busy_before(load: float | None, cores: int) -> str | None:
    """What to say of a load average before measuring; None if the machine was idle enough."""
    if load is None or load <= BUSY_SHARE * cores:
        return None
    return f"Load average before the run: {load:.2f} on {_cores(cores)} (timings unreliable)"


def busy_during(other_cores: float | None, cores: int) -> str | None:
    """What to say of other processes' work while measuring; None if they did little."""
    if other_cores is None or other_cores <= OTHER_SHARE * cores:
        return None
    return f"Other processes kept {other_cores:.1f} of {_cores(cores)} busy during the run (timings unreliable)"


@dataclass
class OtherWork:
    """Time that went to others while `seconds` passed, of the cores that this process may run on: neither to this process nor to
    those that it started and that have ended. `busy_s` is None where the system does not say."""

    seconds: float = 0.0
    busy_s: float | None = 0.0

    @classmethod
    @contextmanager
    def watched(cls) -> Iterator[OtherWork]:
        """That of a block, filled in at its end."""
        found = cls()
        began, busy, own = time.perf_counter(), _busy_seconds(), _own_seconds()
        yield found
        now, found.seconds = _busy_seconds(), time.perf_counter() - began
        found.busy_s = None if now is None or busy is None else max(0.0, now - busy - (_own_seconds() - own))

    def add(self, other: OtherWork) -> None:
        """Count another block, too."""
        self.seconds += other.seconds
        self.busy_s = None if self.busy_s is None or other.busy_s is None else self.busy_s + other.busy_s

    def cores(self) -> float | None:
        """Cores that others kept busy, on average; None where that is not known."""
        return round(self.busy_s / self.seconds, 2) if self.busy_s is not None and self.seconds > 0 else None


def _own_seconds() -> float:
    return sum(os.times()[:4])


def _busy_seconds() -> float | None:
    """Of the cores that this process may run on, since the start of the system, with what a hypervisor took: on Linux."""
    with suppress(OSError, ValueError, AttributeError):
        lines = dict(line.partition(" ")[::2] for line in STAT.read_text(encoding="ascii").splitlines())
        ticks = 0
        for core in os.sched_getaffinity(0):
            if (line := lines.get(f"cpu{core}")) is None:
                return None
            user, nice, system, _idle, _waiting, irq, softirq, stolen = map(int, line.split()[:8])
            ticks += user + nice + system + irq + softirq + stolen
        return ticks / os.sysconf("SC_CLK_TCK")
    return None


def _cores(count: int) -> str:
    return counted(count, "core")


# --- clock and power -------------------------------------------------------------------------------------------------


def _clock() -> dict[str, Any]:
    flags = _cpuinfo("flags", "Features").split()
    scaling = CPU / "cpu0" / "cpufreq"
    frequency = {name: _megahertz(scaling / f"scaling_{key}_freq") for name, key in _FREQUENCIES.items()}
    if frequency["current"] is None and (shown := _cpuinfo("cpu MHz")):
        frequency["current"] = round(float(shown), 1)
    boost, no_turbo = _read(CPU / "cpufreq" / "boost"), _read(CPU / "intel_pstate" / "no_turbo")
    return {
        "instructions": sorted({flag for flag in flags if INSTRUCTIONS.match(flag)}),
        "virtual_machine": "hypervisor" in flags if flags else None,
        "frequency_mhz": frequency if any(value is not None for value in frequency.values()) else None,
        "governor": _read(scaling / "scaling_governor"),
        "boost": boost == "1" if boost is not None else no_turbo == "0" if no_turbo is not None else None,
        "temperature_c": temperature_c(),
    }


_FREQUENCIES: Final = {"current": "cur", "min": "min", "max": "max"}


def _cpuinfo(*keys: str) -> str:
    """The value of the first line of /proc/cpuinfo with one of these keys, or nothing."""
    for line in (_read(Path("/proc/cpuinfo")) or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in keys:
            return value.strip()
    return ""


def _megahertz(file: Path) -> float | None:
    text = _read(file)
    return int(text) / 1000 if text and text.isdigit() else None


def frequency_mhz() -> float | None:
    """Of the fastest core, as it is now: those that are idle say nothing of one that draws. /proc/cpuinfo is not asked: in virtual
    machines it tells a constant."""
    found = [_megahertz(file) for file in CPU.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")]
    known = [value for value in found if value is not None]
    return round(max(known), 1) if known else None


def temperature_c() -> float | None:
    """Of the hottest zone."""
    zones = [_read(zone) or "" for zone in Path("/sys/class/thermal").glob("thermal_zone*/temp")]
    found = [int(text) / 1000 for text in zones if text.lstrip("-").isdigit()]
    return max(found, default=None)


def _on_battery() -> bool | None:
    """Whether no mains supply is connected; None for a machine without a battery, or one that does not tell."""
    kinds = {supply: _read(supply / "type") for supply in POWER.glob("*")} if POWER.is_dir() else {}
    if "Battery" not in kinds.values():
        return None
    return not any(_read(supply / "online") == "1" for supply, kind in kinds.items() if kind != "Battery")


def _memory_bytes() -> int | None:
    with suppress(ModuleNotFoundError):
        return usable_memory_bytes()
    return None


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None

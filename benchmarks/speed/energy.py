"""Energy of the processor, by the counters that Linux shows of Intel's and AMD's processors (RAPL).

A counter is of a whole package: every core, busy or not, and whatever else runs. It moves about once a millisecond, so that one
picture of a few milliseconds says little; the mean of all runs of a row is what counts. Most virtual machines have none, and many
systems let only root read it.

Not here: batteries, graphics cards and external meters.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

POWERCAP: Final = Path("/sys/class/powercap")
NOT_AVAILABLE: Final = "not available"
NOT_THE_CPU: Final = "the counters are of the processor, and this computes elsewhere"


class EnergyMeter:
    """The counters of all packages; `available` if there are any that can be read."""

    def __init__(self, folder: Path | None = None) -> None:
        zones = sorted((folder or POWERCAP).glob("intel-rapl:*"))
        self._zones = [zone for zone in zones if (_text(zone / "name") or "").startswith("package")]
        self._ranges = [_number(zone / "max_energy_range_uj") for zone in self._zones]
        self.available = bool(self._zones) and self.read() is not None

    def read(self) -> list[int] | None:
        """Microjoules of each package, since some time ago; None where one cannot be read."""
        values = [_number(zone / "energy_uj") for zone in self._zones]
        known = [value for value in values if value is not None]
        return known if len(known) == len(values) else None

    def joules_since(self, before: Sequence[int] | None) -> float | None:
        """Of all packages since a reading. A counter that has passed its range begins again at zero."""
        after = self.read() if self.available else None
        if before is None or after is None:
            return None
        used = 0
        for start, end, full in zip(before, after, self._ranges, strict=True):
            if end < start and full is None:
                return None
            used += end - start if end >= start else end + int(full or 0) - start
        return used / 1e6


def _number(file: Path) -> int | None:
    text = _text(file)
    return int(text) if text and text.isdigit() else None


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None

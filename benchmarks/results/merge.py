"""Results of several devices in one: a table and a page with a row for every device.

    genin bench merge laptop.json phone.json --report devices.html

Files keep what they say; nothing is averaged. Speed-ups are those measured on each device. Not here: whether one is faster
(`compare`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genin.benchmarks.results.exports import device_of
from genin.benchmarks.results.files import Results
from genin.benchmarks.results.table import is_elsewhere
from genin.runtimes.errors import InputError


@dataclass(frozen=True)
class Merged:
    """Results by device; `rows` are all of them, each with its `device_name`: on a graphics card, that of the card, too."""

    devices: Mapping[str, Results]

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [
            {**row, "device_name": named, "name": f"{row['name']} · {named}"}
            for device, results in self.devices.items()
            for row in results["results"]
            for named in [f"{row['provider']}, {device}" if is_elsewhere(row) else device]
        ]

    @property
    def skipped(self) -> list[dict[str, Any]]:
        return [
            {**one, "bundle": f"{one['bundle']} ({device})"}
            for device, results in self.devices.items()
            for one in results["skipped"]
        ]

    @property
    def notes(self) -> dict[str, str]:
        """Name => what every device says of it, or which device says what; without `busy`."""
        found: dict[str, dict[str, list[str]]] = {}
        for device, results in self.devices.items():
            for name, said in (results.get("notes") or {}).items():
                found.setdefault(name, {}).setdefault(said, []).append(device)
        return {
            name: "; ".join(
                said if len(devices) == len(self.devices) else f"{said} ({', '.join(devices)})"
                for said, devices in reasons.items()
            )
            for name, reasons in found.items()
            if name != "busy"
        }

    @property
    def busy(self) -> str | None:
        """Which devices were busy."""
        said = [f"{device}: {busy}" for device, one in self.devices.items() if (busy := one["notes"].get("busy"))]
        return "; ".join(said) or None

    def to_json(self) -> dict[str, Any]:
        return {"devices": dict(self.devices), "results": self.rows, "skipped": self.skipped, "notes": self.notes}


def merge(files: Sequence[tuple[str, Results]]) -> Merged:
    """(name of the file, results) => all of them by device: its processor and cores, with the file's name where they are the same.

    Errors: InputError for one result given twice.
    """
    hashes = [results.get("sha256") for _, results in files]
    for (name, _), sha256 in zip(files, hashes, strict=True):
        if hashes.count(sha256) > 1:
            raise InputError("the same results are given twice", where=name, remedy="name each file once")
    labels = [device_of(results) for _, results in files]
    named = [
        label if labels.count(label) == 1 else f"{label} ({name})"
        for label, (name, _) in zip(labels, files, strict=True)
    ]
    if len(set(named)) < len(named):
        raise InputError("two files of one device have the same name", remedy="rename one")
    return Merged({label: results for label, (_, results) in zip(named, files, strict=True)})

"""An interrupted benchmark goes on where it was: every process that has ended is kept on disk until the results are written.

`RESULTS.json.partial/` holds one JSON file for the first processes of all configurations that are measured side by side, one for
the second, and so on, with the pictures beside it; what was decided when the run began (`keep`), such as what fits into memory side
by side; every distance, every untimed picture and every run apart that is done; and `request.json`, what was asked for:
configurations, protocol, weights and machine. A run that asks for anything else refuses the folder, so that nothing is mixed, and
nothing is counted twice.

Not here: what a process is asked for (`rounds`).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from genin.benchmarks.speed.configurations import Configuration
from genin.benchmarks.speed.machine import OtherWork
from genin.benchmarks.speed.samples import Pictures, ProcessRun, Run
from genin.runtimes.errors import InputError
from genin.runtimes.files import atomic_path, write_text
from genin.runtimes.text import json_object, read_text

Processes = tuple[dict[Configuration, ProcessRun], dict[Configuration, str], OtherWork]

REQUEST: Final = "request.json"


class Journal:
    """What is measured so far, in `folder`; None keeps nothing. `continued`: something of it was used."""

    def __init__(self, folder: Path | None, request: Mapping[str, Any] | None = None) -> None:
        self.folder, self.continued = folder, False
        self._kept: dict[str, Any] = {}
        if folder is None:
            return
        asked = json.dumps(request, sort_keys=True)
        file = folder / REQUEST
        if not file.exists():
            write_text(file, asked)
        elif json_object(read_text(file)) != json.loads(asked):
            remedy = "remove it to measure anew, or ask for the same again to continue"
            raise InputError("an interrupted benchmark of something else is in the way", where=folder, remedy=remedy)

    def keep(self, what: str, make: Callable[[], Any]) -> Any:
        """What `make` returned, which is JSON: called once for each `what`, in an interrupted run or one that continues it."""
        if what not in self._kept:
            self._kept[what] = self._on_disk(what, make)
        return self._kept[what]

    def _on_disk(self, what: str, make: Callable[[], Any]) -> Any:
        if self.folder is None:
            return make()
        place = self.folder / f"{what.partition(' ')[0]}-{_hash(what)}.json"
        if not place.exists():
            write_text(place, json.dumps({"kept": make()}))
        return _read(place)["kept"]

    def pictures(
        self, what: str, numbers: Sequence[int], draw: Callable[[], Mapping[int, Pictures]]
    ) -> Mapping[int, Pictures]:
        """Those of `numbers`, as `draw` returned them: called once for each `what`, as of `keep`."""
        if self.folder is None:
            return draw()
        place = self.folder / f"pictures-{_hash(f'{what} {list(numbers)}')}.npy"
        if not place.exists():
            drawn = draw()
            _write_pictures(place, np.stack([drawn[number] for number in numbers]))
        return dict(zip(numbers, np.load(place, allow_pickle=False), strict=True))

    def read(self, group: Sequence[Configuration], number: int) -> Processes | None:
        """Process `number` of every configuration of a group, if it has ended before; those that died, and what others did."""
        place = self._place(group, number)
        if place is None or not place.exists():
            return None
        kept = _read(place)
        self.continued = True
        done = {group[int(index)]: self._process(place, index, values) for index, values in kept["done"].items()}
        return (
            done,
            {group[int(index)]: reason for index, reason in kept["died"].items()},
            OtherWork(**kept["other_work"]),
        )

    def write(
        self,
        group: Sequence[Configuration],
        number: int,
        done: Mapping[Configuration, ProcessRun],
        died: Mapping[Configuration, str],
        other_work: OtherWork,
    ) -> None:
        """Keep it: pictures first, so that a record is never without them."""
        place = self._place(group, number)
        if place is None or place.exists():
            return
        lost = {group.index(one): reason for one, reason in died.items()}
        kept: dict[str, Any] = {"done": {}, "died": lost, "other_work": asdict(other_work)}
        for one, process in done.items():
            index = group.index(one)
            if process.pictures is not None:
                _write_pictures(_pictures(place, index), process.pictures)
            runs = [asdict(run) for run in process.runs]
            facts = {"facts": process.facts, "cold_start_s": process.cold_start_s, "memory_bytes": process.memory_bytes}
            kept["done"][index] = facts | {"runs": runs}
        write_text(place, json.dumps(kept))

    def remove(self) -> None:
        """Nothing is left to continue."""
        if self.folder is not None:
            remove(self.folder)

    def _place(self, group: Sequence[Configuration], number: int) -> Path | None:
        if self.folder is None:
            return None
        named = json.dumps([asdict(one) | {"path": str(one.path)} for one in group])
        return self.folder / f"{_hash(named)}-{number}.json"

    def _process(self, place: Path, index: str, values: Mapping[str, Any]) -> ProcessRun:
        file = _pictures(place, index)
        pictures = np.load(file, allow_pickle=False) if file.exists() else None
        runs = [Run(**run) for run in values["runs"]]
        return ProcessRun(values["facts"], values["cold_start_s"], runs, values["memory_bytes"], pictures)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _read(place: Path) -> dict[str, Any]:
    kept = json_object(read_text(place))
    if kept is None:
        raise InputError("a damaged record of an interrupted benchmark", where=place, remedy="remove it")
    return kept


def _write_pictures(place: Path, pictures: Pictures) -> None:
    with atomic_path(place) as partial, partial.open("wb") as file:
        np.save(file, pictures)


def _pictures(place: Path, index: str | int) -> Path:
    return place.with_name(f"{place.stem}-{index}.npy")


def remove(folder: Path) -> None:
    """The record of a run whose results are written."""
    shutil.rmtree(folder, ignore_errors=True)

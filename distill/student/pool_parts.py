"""The files of a pool: parts, as processes sample them, and the pool itself, into which they are merged in the order of its rows.

    pool.parts/000000128.safetensors    the batch that begins with row 128: its rows, states and predictions
    pool.safetensors                    all rows up to the first that is missing

A part appears by renaming, so whatever stops a run, the next one finds its finished batches, with any number of processes.
Merging copies one part at a time, so memory holds only one.

Not here: what a pool is, and sampling it (`pool`).
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from genin.distill.inputs.tensor_file import TensorFile, create
from genin.files import atomic_path
from genin.runtimes.errors import GeninError
from genin.runtimes.files import refused_write

COPIED = 64  # rows at once
TENSORS = ("states", "x0")


@dataclass(frozen=True)
class PoolParts:
    """The files of the pool in `path` that has this `key`; files of another pool, or damaged ones, are ignored."""

    path: Path
    key: str

    @property
    def folder(self) -> Path:
        return self.path.with_suffix(".parts")

    def whole(self) -> TensorFile | None:
        return self._open(self.path)

    def done_rows(self) -> set[int]:
        """The rows that need not be sampled."""
        whole = self.whole()
        rows = set(range(0 if whole is None else whole.shapes["states"][0]))
        return rows.union(*(part.tensor("rows").tolist() for part in self._parts()))

    def seconds(self) -> float:
        """Wall-clock seconds of sampling so far, over all runs: processes sample at the same time."""
        whole, each = self.whole(), Counter[str]()
        for part in self._parts():
            each[part.facts["rank"]] += float(part.facts["seconds"])  # type: ignore[assignment]
        return max(each.values(), default=0.0) + (0.0 if whole is None else float(whole.facts.get("seconds", 0)))

    def add(
        self, rows: Sequence[int], states: Tensor, x0: Tensor, timesteps: Sequence[int], *, rank: int, seconds: float
    ) -> None:
        """Write a batch of these rows: states (B, S + 1, C, H, W), x0 (B, S, C, H, W), and how long process `rank` took for them.

        Errors: GeninError where it cannot be written.
        """
        from safetensors.torch import save_file

        facts = {"key": self.key, "timesteps": json.dumps(list(timesteps))}
        facts |= {"rank": str(rank), "seconds": repr(seconds)}
        with self._saving():
            tensors = {"rows": torch.tensor(rows), "states": states.half(), "x0": x0.half()}
            path = self.folder / f"{rows[0]:09d}.safetensors"
            with atomic_path(path, partial=path.with_suffix(".partial")) as partial:
                save_file({name: one.cpu().contiguous() for name, one in tensors.items()}, partial, metadata=facts)

    def merge(self) -> None:
        """Parts into the pool, up to the first row that is missing.

        Errors: GeninError where it cannot be written; the parts are kept.
        """
        whole, parts, done_rows = self.whole(), self._parts(), self.done_rows()
        before = count = 0 if whole is None else whole.shapes["states"][0]
        while count in done_rows:
            count += 1
        if count > before:
            with self._saving(), atomic_path(self.path, partial=self.path.with_suffix(".partial")) as partial:
                facts = {"key": self.key, "timesteps": parts[0].facts["timesteps"], "seconds": repr(self.seconds())}
                shapes = {name: (torch.float16, (count, *parts[0].shapes[name][1:])) for name in TENSORS}
                create(partial, shapes, facts)
                merged = TensorFile(partial)
                for name in TENSORS:
                    for start in range(0, before, COPIED):
                        assert whole is not None
                        rows = range(start, min(start + COPIED, before))
                        merged.write(name, rows, whole.tensor(name)[rows.start : rows.stop])
                    for part in parts:
                        numbers = enumerate(part.tensor("rows").tolist())
                        new = [(at, row) for at, row in numbers if before <= row < count]
                        if new:
                            places = torch.tensor([at for at, _ in new])
                            merged.write(name, [row for _, row in new], part.tensor(name)[places])
        shutil.rmtree(self.folder, ignore_errors=True)

    def _parts(self) -> list[TensorFile]:
        files = (self._open(path) for path in sorted(self.folder.glob("*.safetensors")))
        return [file for file in files if file is not None]

    def _open(self, path: Path) -> TensorFile | None:
        try:
            file = TensorFile(path)
        except (OSError, ValueError):
            return None
        return file if file.facts.get("key") == self.key else None

    @contextmanager
    def _saving(self) -> Iterator[None]:
        from safetensors import SafetensorError

        try:
            yield
        except (OSError, SafetensorError) as error:
            then = ", then run it again with resume; what was saved before is intact"
            if refused := refused_write(error, self.path, then):
                raise refused from error
            what = f"could not save the pool ({' '.join(str(error).split())[:120]})"
            raise GeninError(what, where=self.path, remedy=f"free some space{then}") from error

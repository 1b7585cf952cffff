"""What a stage writes about itself while it runs, for people and for `health`.

    STAGE.log.jsonl               a row every 50 updates: mean losses, speed, learning rate, held-out figures
    STAGE.events.jsonl            alarms, and what was done about them
    index.html                    the page of the run
    STAGE.curves.png              everything in the log over pictures seen
    STAGE.samples-IMAGES.png      a grid of samples
    STAGE.average-IMAGES.safetensors   weights for a curve of quality over time, where the recipe keeps them

Only the main process writes; all processes hold the same rows.

Not here: what a row holds (`training`), how grids and curves are drawn (`previews`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from genin.distill.loop.checkpoints import read_rows, save_average, write_rows
from genin.files import writing


class Logbook:
    """The log, events and pictures of one `stage` in `folder`; `is_main` says whether this process writes."""

    def __init__(self, folder: Path, stage: str, *, is_main: bool) -> None:
        self.folder, self.stage, self.is_main = folder, stage, is_main
        self.rows: list[dict[str, float]] = []

    @property
    def path(self) -> Path:
        return self.folder / f"{self.stage}.log.jsonl"

    @property
    def events_path(self) -> Path:
        return self.folder / f"{self.stage}.events.jsonl"

    def add_row(self, row: dict[str, float]) -> None:
        self.rows.append(row)
        self._append(self.path, row)

    def add_event(self, event: Mapping[str, object]) -> None:
        self._append(self.events_path, event)

    def go_back_to(self, images_seen: int) -> None:
        """Read the log up to `images_seen`, and drop what was written later."""
        if not self.path.is_file():
            return
        self.rows = [row for row in read_rows(self.path) if row["images_seen"] <= images_seen]
        if self.is_main:
            write_rows(self.path, self.rows)

    def note(self) -> str:
        """The last row in a few words, for the progress line."""
        row = self.rows[-1] if self.rows else {}
        return f"loss {row['loss']:.4f} · {row['images_per_s']:.0f} images/s" if "loss" in row else ""

    def draw_curves(self) -> None:
        from genin.distill.loop import previews

        if self.is_main:
            previews.plot_curves(self.rows, self.folder / f"{self.stage}.curves.png", title=self.stage)

    def write_page(self, progress: float) -> None:
        """The page of the whole run (`page`), which goes on after this stage."""
        from genin.distill.loop.page import write_page

        if self.is_main:
            write_page(self.folder, running=self.stage, progress=progress)

    def draw_samples(self, images_seen: int, preview: Callable[[Path], None]) -> None:
        """Draw a grid of samples, in every process that calls this (`previews.save_grid` writes it once)."""
        preview(self.folder / f"{self.stage}.samples-{images_seen:08d}.png")

    def keep_average(self, images_seen: int, weights: Mapping[str, Tensor]) -> None:
        if self.is_main:
            save_average(self.folder / f"{self.stage}.average-{images_seen:08d}.safetensors", weights)

    def _append(self, path: Path, line: Mapping[str, object]) -> None:
        if self.is_main:
            with writing(path), path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

"""The state of a stage: how it is saved, and restored at a resume or after an alarm.

Not here: the states of networks (`networks`), the file (`checkpoints`), when one is written or returned to (`training`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genin.distill.loop.checkpoints import check_settings, checkpoint_path, copied, read_checkpoint, write_checkpoint
from genin.distill.loop.networks import Networks
from genin.distill.recipe import Optimisation


@dataclass
class StageState:
    """The progress of a stage: everything in a checkpoint but its networks.

    `row` collects what the next row of the log is the mean of. `best` is the average to keep so far: its `kid`, `update`, key
    (`average`) and weights (`state`), and the `lowest` kid yet with its `error`. `adjustments` are the factors that alarms have
    put on settings; rows up to update `watched_from` have been answered. `next_preview` is in images. `finished_of`: the images
    that the recipe asked for when the stage ended for good.
    """

    next_preview: int
    update_index: int = 0
    images_seen: int = 0
    elapsed_s: float = 0.0
    row: dict[str, list[float]] = field(default_factory=dict)
    best: dict[str, Any] | None = None
    adjustments: dict[str, float] = field(default_factory=dict)
    rollbacks: int = 0
    watched_from: int = 0
    finished_of: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """The keys of a checkpoint."""
        return {
            "update_index": self.update_index,
            "images_seen": self.images_seen,
            "elapsed_s": self.elapsed_s,
            "best": self.best,
            "row": self.row,
            "next_preview": self.next_preview,
            "finished_of": self.finished_of,
            "health": {"dials": self.adjustments, "rollbacks": self.rollbacks, "watched_from": self.watched_from},
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any], settings: Optimisation) -> StageState:
        """The inverse; checkpoints of earlier versions lack some keys."""
        images_seen, every = int(stored["images_seen"]), settings.preview_images
        as_before = stored.get("settings", {}).get("preview_images") == every and "next_preview" in stored
        health = stored.get("health", {"dials": {}, "rollbacks": 0, "watched_from": 0})
        return cls(
            next_preview=stored["next_preview"] if as_before else (images_seen // every + 1) * every,
            update_index=int(stored["update_index"]),
            images_seen=images_seen,
            elapsed_s=float(stored["elapsed_s"]),
            row=stored.get("row", {}),
            best=copied(stored.get("best")),
            adjustments=health["dials"],
            rollbacks=health["rollbacks"],
            watched_from=health["watched_from"],
            finished_of=stored.get("finished_of"),
        )


@dataclass(frozen=True)
class CheckpointKeeper:
    """Saves the state of a stage to one file, and restores it at a resume or after an alarm."""

    folder: Path
    stage: str
    settings: Optimisation

    @property
    def path(self) -> Path:
        return checkpoint_path(self.folder, self.stage)

    def save(self, state: StageState, networks: Networks) -> None:
        """Write everything but frozen weights, which a resumed run has anyway. All processes call it together.

        Errors: GeninError where it cannot be written; the previous checkpoint is kept.
        """
        accelerator = networks.accelerator
        accelerator.wait_for_everyone()  # processes that go back to the previous checkpoint have read it
        if not accelerator.is_main_process and not networks.unsharded:
            return
        content = {"stage": self.stage, **networks.state(), **state.as_dict()}
        if accelerator.is_main_process:
            write_checkpoint(self.path, content, self.settings)

    def load(self, networks: Networks, *, has_updated: bool) -> StageState | None:
        """Load the networks' states, and return the stage's; None where there is no checkpoint. A run that has not updated anything
        yet ignores one from before the first update: it may have begun under other settings.

        Errors: InputError for a checkpoint that is damaged, of other networks, or made with another recipe.
        """
        if not self.path.is_file():
            return None
        # Mapped, and read on the CPU: so a device needs no memory for a second copy of the live weights.
        content = read_checkpoint(self.path)
        if not content["update_index"] and not has_updated:
            return None
        check_settings(self.path, content, self.stage, self.settings)
        networks.load(content, self.path)
        return StageState.from_dict(content, self.settings)

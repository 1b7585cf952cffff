"""One distillation through every phase with every term on, which several files look at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from conftest import built_once
from tunable import empty_curves

# Every term that is on in some recipe, above all those that compare the rows of a batch with each other.
RECIPE = """
pool: {size: 8, teacher_steps: 2, batch_size: 2}
prune: {mixed_precision: "no", images: 16, batch_size: 8, feature_weight: 0.1, random_conditioning: 1.0}
steps: {mixed_precision: "no", images: 16, batch_size: 8, held_out_images: 16, consistency_weight: 0.5, perceptual_weight: 2,
  backward_distillation: true, keep_averages: true}
adversarial: {mixed_precision: "no", images: 24, batch_size: 8, cache_images: 8, distillation_weight: 0.5, real_share: 0.5,
  mismatched_captions: 0.1, held_out_images: 0, matching_weight: 0.1, fake_score_updates: 2, consistency_weight: 0.5,
  alignment_weight: 0.5}
alignment: {mixed_precision: "no", images: 48, batch_size: 16, channels: 8, embedding: 8}
decoder: {mixed_precision: "no", images: 16, batch_size: 8, channels: 8, blocks: [1, 1, 1]}
"""
STAGES = ("prune", "steps", "adversarial", "alignment", "decoder")


def command(teacher: Path, recipe: Path, out: Path) -> list[str]:
    start = ["distill", "--teacher", str(teacher), "--data", "builtin:world", "--student", "bk-small"]
    return [*start, "--recipe", str(recipe), "--out", str(out), "--json"]


def distilled_once(factory: pytest.TempPathFactory, teacher: Path) -> Path:
    """A folder with `recipe.yaml` and the `student` made by it, in one process, whichever test asks first. Read-only."""
    from genin.cli import run
    from genin.distill.loop import previews

    plot = previews.plot_curves

    def plot_one(rows: Sequence[Mapping[str, float]], path: Path, *, title: str) -> None:
        """matplotlib takes longer than these stages: one has true curves."""
        (plot if title == "prune" else empty_curves)(rows, path, title=title)

    def build(folder: Path) -> None:
        folder.mkdir()
        (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(previews, "plot_curves", plot_one)
            assert run(command(teacher, folder / "recipe.yaml", folder / "student")) == 0

    return built_once(factory, "distilled", build)


def last_row(student: Path, stage: str) -> dict[str, float]:
    """The last row of a stage's log."""
    log = student / "training" / f"{stage}.log.jsonl"
    row: dict[str, float] = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])
    return row

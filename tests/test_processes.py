"""Two processes that share a batch do what one does with the whole of it: noise, data and dropout are keyed by sample."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

RECIPE = """
pool: {size: 32, teacher_steps: 3, batch_size: 8}
prune: {mixed_precision: "no", images: 64, batch_size: 8, feature_weight: 0.1}
steps: {mixed_precision: "no", images: 64, batch_size: 8, held_out_images: 0}
adversarial: {mixed_precision: "no", images: 64, batch_size: 8, cache_images: 16, distillation_weight: 0.5, real_share: 0.5,
  mismatched_captions: 0.25, held_out_images: 0, matching_weight: 0.1, fake_score_updates: 2}
"""
# Sums of floats in another order, through three phases that each begin where the one before ended.
TOLERANCE = 2e-4
ROUNDING = 2e-3  # of the pool's float16 numbers, which the two sample in other batches
OWN = {"elapsed_s", "images_per_s", "shift", "spread"}  # clocks, and deviations of a process's own part


def distilled(out: Path, teacher: Path, recipe: Path, *launcher: str) -> list[dict[str, Any]]:
    command = ["-m", "genin", "distill", "--teacher", str(teacher), "--data", "builtin:world", "--student", "bk-small"]
    done = subprocess.run(
        [sys.executable, *launcher, *command, "--recipe", str(recipe), "--out", str(out), "--json"],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.strip().splitlines()) == 1, "one report, whatever the number of processes"
    logs = (out / "training" / f"{phase}.log.jsonl" for phase in ("prune", "steps", "adversarial"))
    return [json.loads(line) for log in logs for line in log.read_text().splitlines()]


def test_two_processes_do_what_one_does(tiny_model_folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    one = distilled(tmp_path / "one", tiny_model_folder, recipe)
    two = distilled(tmp_path / "two", tiny_model_folder, recipe, "-m", "torch.distributed.run", "--nproc_per_node", "2")
    assert len(one) == len(two) == 3
    for ours, theirs in zip(one, two, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - OWN:
            assert theirs[name] == pytest.approx(ours[name], rel=TOLERANCE, abs=1e-5), name
    pools, latents = (
        [load_file(tmp_path / out / "training" / f"{name}.safetensors") for out in ("one", "two")]
        for name in ("pool", "latents")
    )
    for name, ours_ in pools[0].items():
        assert torch.allclose(ours_.float(), pools[1][name].float(), atol=ROUNDING), name
    assert torch.equal(latents[0]["64x64"], latents[1]["64x64"])

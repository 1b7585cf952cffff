"""Two processes that share a batch do what one does with the whole of it: noise, data and dropout are keyed by sample."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from tunable import write_pictures  # noqa: E402

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


def distilled(
    out: Path,
    teacher: Path,
    recipe: Path,
    *launcher: str,
    program: Sequence[str] = ("-m", "genin"),
    resume: bool = False,
) -> list[dict[str, Any]]:
    command = [*program, "distill", "--teacher", str(teacher), "--data", "builtin:world", "--student", "bk-small"]
    done = subprocess.run(
        [
            sys.executable,
            *launcher,
            *command,
            "--recipe",
            str(recipe),
            "--out",
            str(out),
            "--json",
            *["--resume"][:resume],
        ],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PARTS": str(out.parent / "parts.txt")},
    )
    assert done.returncode == 0, done.stderr[-8000:]
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


TWO = ("-m", "torch.distributed.run", "--nproc_per_node", "2")


def test_two_processes_that_share_the_networks_out_do_what_one_does(tiny_model_folder: Path, tmp_path: Path) -> None:
    """FSDP: student, fake score and averages by halves, the discriminator whole with its second derivatives; held-out looks and
    pictures of the run are drawn from parts. One process goes on from their checkpoint."""
    recipe, sharded = tmp_path / "recipe.yaml", str(Path(__file__).with_name("sharded_on_cpu.py"))
    text = RECIPE.replace(", feature_weight: 0.1", "").replace("held_out_images: 0}\nadv", "held_out_images: 16}\nadv")
    recipe.write_text(text, encoding="utf-8")
    one = distilled(tmp_path / "one", tiny_model_folder, recipe)
    two = distilled(tmp_path / "two", tiny_model_folder, recipe, *TWO, program=[sharded])
    for ours, theirs in zip(one, two, strict=True):
        for name in ours.keys() - OWN:
            assert theirs[name] == pytest.approx(ours[name], rel=TOLERANCE, abs=1e-5), name
    parts = [tuple(map(int, line.split())) for line in (tmp_path / "parts.txt").read_text().splitlines()]
    assert len(parts) >= 2 * 7 and all(kept < 0.55 * whole for whole, kept in parts)
    assert (tmp_path / "two" / "training" / "steps.samples-00000064.png").is_file()
    longer = tmp_path / "longer.yaml"
    longer.write_text(text.replace("images: 64", "images: 96"), encoding="utf-8")
    states = [distilled(tmp_path / out, tiny_model_folder, longer, resume=True)[-1] for out in ("one", "two")]
    for name in states[0].keys() - OWN:
        assert states[1][name] == pytest.approx(states[0][name], rel=10 * TOLERANCE, abs=1e-4), name


def test_what_cannot_be_shared_out_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    recipe, sharded = tmp_path / "recipe.yaml", str(Path(__file__).with_name("sharded_on_cpu.py"))
    recipe.write_text(RECIPE, encoding="utf-8")
    with pytest.raises(AssertionError, match=r"set prune\.feature_weight to 0"):
        distilled(tmp_path / "two", tiny_model_folder, recipe, *TWO, program=[sharded])


TUNING = """
finetune: {mixed_precision: "no", images: 32, batch_size: 8, cache_images: 16, held_out_images: 16, lr: 0.001,
  gradient_checkpointing: true, noise_offset: 0.1}
"""


def test_a_teacher_that_two_processes_share_out_is_tuned_as_by_one(tiny_model_folder: Path, tmp_path: Path) -> None:
    """Launched as `accelerate launch --use_fsdp` does, whose processes but the first would load no text encoder."""
    recipe, data = tmp_path / "recipe.yaml", write_pictures(tmp_path / "pictures", 48, val=16)
    recipe.write_text(TUNING, encoding="utf-8")
    sharded = str(Path(__file__).with_name("sharded_on_cpu.py"))
    rows, weights = [], []
    for name, launcher, program in (("one", (), ("-m", "genin")), ("two", TWO, (sharded,))):
        arguments = [
            "teacher",
            "finetune",
            "--base",
            str(tiny_model_folder),
            "--data",
            str(data),
            "--recipe",
            str(recipe),
        ]
        done = subprocess.run(
            [sys.executable, *launcher, *program, *arguments, "--out", str(tmp_path / name), "--json"],
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PARTS": str(tmp_path / "parts.txt")},
        )
        assert done.returncode == 0, done.stderr[-8000:]
        rows.append(json.loads((tmp_path / name / "training" / "finetune.log.jsonl").read_text().splitlines()[-1]))
        weights.append(load_file(tmp_path / name / "unet" / "diffusion_pytorch_model.safetensors"))
    for name in rows[0].keys() - OWN:
        assert rows[1][name] == pytest.approx(rows[0][name], rel=10 * TOLERANCE, abs=1e-5), name
    assert all(torch.allclose(weights[1][name], value, atol=1e-4) for name, value in weights[0].items())
    assert (tmp_path / "parts.txt").is_file()

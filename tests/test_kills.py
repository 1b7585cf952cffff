"""A training that is killed at random moments leads to the same bits: weights, optimisers, averages, the chosen average, log."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")

TOOL = Path(__file__).resolve().parents[1] / "tools" / "kills.py"
OFTEN = "checkpoint_minutes: 0.001, ema_decays: [0.9, 0.99]"
RECIPE = f"""
pool: {{size: 16, teacher_steps: 2, batch_size: 8}}
prune: {{images: 0}}
steps: {{images: 120, batch_size: 2, step_counts: [2, 1], held_out_images: 8, preview_images: 70, {OFTEN}}}
adversarial: {{images: 80, batch_size: 2, step_counts: [2, 1], cache_images: 8, held_out_images: 8, preview_images: 50,
  matching_weight: 0.1, fake_score_updates: 1, {OFTEN}}}
"""


@pytest.fixture(scope="module")
def kills() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kills", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["kills"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("count", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_training_leads_to_the_same_bits(
    kills: ModuleType, tiny_model_folder: Path, tmp_path: Path, count: int
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    command = ["distill", "--teacher", str(tiny_model_folder), "--data", "builtin:world", "--student", "bk-small"]
    options = ["--kills", str(count), "--out", str(tmp_path / "runs"), "--"]
    done = CliRunner().invoke(kills.main, [*options, *command, "--recipe", str(recipe)])
    assert done.exit_code == 0, done.output
    assert f"killed {count} times: 0 differences" in done.output


def test_a_difference_is_found(kills: ModuleType, tmp_path: Path) -> None:
    """What the comparison would say of a lost look, another optimiser's state, a missing file."""
    state: dict[str, Any] = {"best": {"update": 3}, "optimizers": {"a": {"state": {0: {"exp_avg": torch.ones(3)}}}}}
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        torch.save({**state, "elapsed_s": hash(name)}, tmp_path / name / "x.checkpoint.pt")
    assert not list(kills.differences(tmp_path / "whole", tmp_path / "killed"))
    state["optimizers"]["a"]["state"][0]["exp_avg"][1] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    torch.save(state | {"elapsed_s": 0, "best": {"update": 4}}, tmp_path / "killed" / "x.checkpoint.pt")
    (tmp_path / "whole" / "more.safetensors").write_bytes(b"")
    found = list(kills.differences(tmp_path / "whole", tmp_path / "killed"))
    assert len(found) == 3 and any("exp_avg differs" in line for line in found)
    assert any("best.update: 3 and 4" in line for line in found) and any("only in whole" in line for line in found)

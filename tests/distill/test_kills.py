"""A training that is killed at random moments leads to the same bits: weights, optimisers, averages, the chosen average, log."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

from programs import load_program

torch = pytest.importorskip("torch")

PRELOADED = [
    "genin.distill.student.distillation",
    "genin.distill.models.lora",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
]
OFTEN = "checkpoint_minutes: 0.005, ema_decays: [0.9, 0.99]"
RECIPE = f"""
pool: {{size: 16, teacher_steps: 2, batch_size: 8}}
prune: {{images: 0}}
steps: {{images: STEPS, batch_size: 2, step_counts: [2, 1], held_out_images: 8, preview_images: 35, {OFTEN}}}
adversarial: {{images: JUDGED, batch_size: 2, step_counts: [2, 1], cache_images: 8, held_out_images: 8, preview_images: 15,
  matching_weight: 0.1, fake_score_updates: 1, {OFTEN}}}
"""


@pytest.fixture
def kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tool, whose runs are forked from a process that has imported what they need."""
    module = load_program("tools/kills.py")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    monkeypatch.setattr(module, "started", lambda command: Forked(context, command, tmp_path / "errors.txt"))
    return module


class Forked:
    """As much of `subprocess.Popen` as the tool uses, of a genin command in a forked process."""

    def __init__(self, context: Any, command: list[str], errors: Path) -> None:
        self.errors = errors
        self.process = context.Process(target=run_command, args=(command, str(errors)))
        self.process.start()

    def poll(self) -> int | None:
        self.process.join(0)
        return self.returncode

    @property
    def returncode(self) -> int | None:
        code: int | None = self.process.exitcode
        return code

    def kill(self) -> None:
        self.process.kill()

    def communicate(self) -> tuple[bytes, bytes]:
        self.process.join()
        return b"", self.errors.read_bytes() if self.errors.is_file() else b""


def run_command(command: list[str], errors: str) -> None:
    from genin.cli import run
    from genin.distill.loop import previews, training

    training.ROW_UPDATES = 10  # so that a phase of few updates has rows, and looks at held-out pictures, in between
    previews.plot_curves = lambda *_, **__: None  # takes longer than the training, and is not what is compared
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(run(command))


@pytest.mark.processes
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("count", "steps", "judged"), [(2, 60, 24), pytest.param(20, 120, 80, marks=pytest.mark.slow)])
def test_a_killed_training_leads_to_the_same_bits(
    kills: ModuleType, tiny_model_folder: Path, tmp_path: Path, count: int, steps: int, judged: int
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.replace("STEPS", str(steps)).replace("JUDGED", str(judged)), encoding="utf-8")
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

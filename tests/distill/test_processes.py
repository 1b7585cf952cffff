"""Two processes that share a batch do what one does with the whole of it: noise, data and dropout are keyed by sample.

All commands of two processes run in one launch (`two_processes`), those of one process in this one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from distilled import RECIPE, STAGES, command, distilled_once, last_row  # noqa: E402
from genin.cli import run  # noqa: E402
from genin.distill.loop import previews  # noqa: E402
from tunable import in_two_processes, write_pictures  # noqa: E402

pytestmark = pytest.mark.processes

SHARDED = """
pool: {size: 8, teacher_steps: 2, batch_size: 2}
prune: {images: 0}
steps: {mixed_precision: "no", images: 16, batch_size: 8, held_out_images: 16, consistency_weight: 0.5, accumulate: 2}
adversarial: {mixed_precision: "no", images: 16, batch_size: 8, cache_images: 8, real_share: 0.5, mismatched_captions: 0.25,
  held_out_images: 0, matching_weight: 0.1, alignment_weight: 0.5}
alignment: {mixed_precision: "no", images: 32, batch_size: 16, channels: 8, embedding: 8}
"""
TUNING = """
finetune: {mixed_precision: "no", images: 16, batch_size: 8, cache_images: 16, held_out_images: 16, lr: 0.001,
  gradient_checkpointing: true, noise_offset: 0.1, autoencoder_images: 16}
autoencoder: {mixed_precision: "no", batch_size: 8, cache_images: 16}
"""
# Sums of floats in another order, through phases that each begin where the one before ended.
TOLERANCE = 2e-4
ROUNDING = 2e-3  # of the pool's float16 numbers, which the two sample in other batches
OWN = {"elapsed_s", "images_per_s"}  # clocks
OF_A_PART = OWN | {"shift", "spread", "psnr_db"}  # statistics of a process's own rows, for alarms and curves


class Runs:
    """What one process and two have made of the same commands, in `folder`/one and `folder`/two."""

    def __init__(self, folder: Path, teacher: Path) -> None:
        self.folder, self.teacher = folder, teacher
        for name, text in (("phases", RECIPE), ("sharded", SHARDED), ("tuning", TUNING)):
            (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
        longer = SHARDED.replace("images: 16, batch_size: 8, cache", "images: 24, batch_size: 8, cache")
        (folder / "longer.yaml").write_text(longer, encoding="utf-8")
        self.pictures = str(write_pictures(folder / "pictures", 48, val=16, size=32))
        self.results: list[dict[str, Any]] = []

    def command(self, processes: str, name: str, *options: str, recipe: str = "") -> list[str]:
        path, out = self.folder / f"{recipe or name}.yaml", self.folder / processes / name
        if name == "tuning":
            start = ["teacher", "finetune", "--base", str(self.teacher), "--data", self.pictures]
            return [*start, "--recipe", str(path), "--out", str(out), "--json"]
        return [*command(self.teacher, path, out), *options]

    def launch(self) -> None:
        cases = [
            {"name": "phases", "sharded": False, "arguments": self.command("two", "phases")},
            {"name": "sharded", "sharded": True, "arguments": self.command("two", "sharded")},
            {"name": "tuning", "sharded": True, "arguments": self.command("two", "tuning")},
            {"name": "refused", "sharded": True, "arguments": self.command("two", "refused", recipe="phases")},
        ]
        (self.folder / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
        script = Path(__file__).parents[1] / "helpers" / "two_processes.py"
        in_two_processes(script, self.folder / "cases.json", self.folder / "results", timeout_s=500)
        self.results = [json.loads((self.folder / f"results.{rank}.json").read_text()) for rank in (0, 1)]

    def rows(self, processes: str, name: str, stages: tuple[str, ...]) -> dict[str, dict[str, float]]:
        """The last row of each stage's log."""
        return {stage: last_row(self.folder / processes / name, stage) for stage in stages}


@pytest.fixture(scope="module")
def runs(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    found = Runs(tmp_path_factory.mktemp("processes"), tiny_model_folder)
    distilled = distilled_once(tmp_path_factory, tiny_model_folder) / "student"
    found.launch()
    (found.folder / "one").mkdir()
    (found.folder / "one" / "phases").symlink_to(distilled)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(previews, "plot_curves", lambda *_, **__: None)
        for name in ("sharded", "tuning"):
            assert run(found.command("one", name)) == 0
        yield found


def assert_same_rows(
    one: dict[str, dict[str, float]], two: dict[str, dict[str, float]], *, rel: float = TOLERANCE, floor: float = 1e-5
) -> None:
    for stage, row in one.items():
        assert row.keys() == two[stage].keys()
        for name in row.keys() - OF_A_PART:
            assert two[stage][name] == pytest.approx(row[name], rel=rel, abs=floor), (stage, name)


@pytest.mark.parametrize("name", ["phases", "sharded", "tuning"])
def test_two_processes_end_as_one_with_one_report(runs: Runs, name: str) -> None:
    first, second = (results[name] for results in runs.results)
    assert (first["code"], second["code"]) == (0, 0), first["err"]
    assert len(first["out"].strip().splitlines()) == 1 and not second["out"].strip()


def test_two_processes_do_what_one_does(runs: Runs) -> None:
    one, two = (runs.rows(processes, "phases", STAGES) for processes in ("one", "two"))
    assert_same_rows(one, two)
    training = [runs.folder / processes / "phases" / "training" for processes in ("one", "two")]
    pools, latents = ([load_file(out / f"{name}.safetensors") for out in training] for name in ("pool", "latents"))
    for name, ours in pools[0].items():
        assert torch.allclose(ours.float(), pools[1][name].float(), atol=ROUNDING), name
    assert torch.equal(latents[0]["32x32"], latents[1]["32x32"])


def test_two_processes_that_share_the_networks_out_do_what_one_does(runs: Runs) -> None:
    """FSDP: student, fake score and averages by halves, the discriminator whole with its second derivatives; held-out looks and
    pictures of the run are drawn from parts."""
    stages = ("steps", "adversarial", "alignment")
    assert_same_rows(runs.rows("one", "sharded", stages), runs.rows("two", "sharded", stages), floor=2e-4)
    for results in runs.results:
        kept = results["sharded"]["kept"]
        assert len(kept) >= 6 and all(part < 0.55 * whole for whole, part in kept)
    assert (runs.folder / "two" / "sharded" / "training" / "steps.samples-00000016.png").is_file()


def test_one_process_goes_on_from_what_two_have_left(runs: Runs) -> None:
    for processes in ("one", "two"):
        assert run(runs.command(processes, "sharded", "--resume", recipe="longer")) == 0
    one, two = (runs.rows(processes, "sharded", ("adversarial",)) for processes in ("one", "two"))
    assert one["adversarial"]["images_seen"] == 24
    assert_same_rows(one, two, rel=10 * TOLERANCE, floor=1e-4)


def test_what_cannot_be_shared_out_is_refused(runs: Runs) -> None:
    refused = runs.results[0]["refused"]
    assert refused["code"] == 2 and "set prune.feature_weight to 0" in refused["err"]


def test_a_teacher_that_two_processes_share_out_is_tuned_as_by_one(runs: Runs) -> None:
    one, two = (runs.rows(processes, "tuning", ("finetune",)) for processes in ("one", "two"))
    assert_same_rows(one, two, rel=10 * TOLERANCE)
    # Adam makes an update of a gradient that is all rounding, too; the decoder's rate is 0.001.
    for part, difference in (("unet", 1e-4), ("vae", 5e-4)):
        ours, theirs = (
            load_file(runs.folder / out / "tuning" / part / "diffusion_pytorch_model.safetensors")
            for out in ("one", "two")
        )
        assert all(torch.allclose(theirs[name], value, atol=difference) for name, value in ours.items()), part
    assert all(results["tuning"]["kept"] for results in runs.results)

"""What a training is reckoned to take, against what is counted while it runs; and what is said when there is not enough."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from genin.cli import run  # noqa: E402
from genin.distill import host, training  # noqa: E402
from genin.distill.cost import Unet, distill_flop, distill_memory, finetune_memory, lora_parameters  # noqa: E402
from genin.distill.matching import is_adapter, low_rank_copy  # noqa: E402
from genin.distill.model_folder import load_model_folder  # noqa: E402
from genin.distill.recipe import FinetuneRecipe, Recipe, load_recipe  # noqa: E402
from genin.distill.student import pruning_of, student_config  # noqa: E402

RECIPE = """
student: {name: bk-base}
pool: {size: 8, teacher_steps: 2, batch_size: 8}
prune: {images: 8, batch_size: 8, feature_weight: 0.5, gradient_checkpointing: CHECKPOINTING}
steps: {images: 24, batch_size: 8, held_out_images: 0, backward_distillation: true, gradient_checkpointing: CHECKPOINTING}
adversarial: {images: 24, batch_size: 8, held_out_images: 0, cache_images: 8, matching_weight: 1, distillation_weight: 1,
  r1_weight: 0, discriminator_hidden: 4, fake_score_updates: 2, fake_score_rank: RANK, gradient_checkpointing: CHECKPOINTING}
"""


def units(folder: Path, recipe: Recipe) -> tuple[Unet, Unet]:
    config = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
    return Unet.of(config, 32), Unet.of(student_config(config, pruning_of(recipe.student)), 32)


@pytest.mark.parametrize(("checkpointing", "rank"), [("false", 0), ("true", 4)])
def test_operations_are_those_that_are_counted(
    tmp_path: Path, tiny_model_folder: Path, checkpointing: str, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over whole updates of every phase, ways back included; heads, adapters and the sampler's own are the difference."""
    counted: dict[str, list[int]] = {}
    plain = training.Training.run

    def counting(self: Any, step: Any, *arguments: Any) -> None:
        def counted_step(update: Any) -> Any:
            with FlopCounterMode(display=False) as counter:
                result = step(update)
            counted.setdefault(self.stage, []).append(counter.get_total_flops())
            return result

        plain(self, counted_step, *arguments)

    monkeypatch.setattr(training.Training, "run", counting)
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("CHECKPOINTING", checkpointing).replace("RANK", str(rank)), encoding="utf-8")
    arguments = ["--data", "builtin:world", "--recipe", str(path), "--out", str(tmp_path / "out")]
    assert run(["distill", "--teacher", str(tiny_model_folder), *arguments]) == 0
    recipe = load_recipe(path)
    teacher, student = units(tiny_model_folder, recipe)
    for phase, updates in counted.items():
        measured = sum(updates) / len(updates) / 8
        assert distill_flop(phase, recipe, teacher, student) == pytest.approx(measured, rel=0.15), phase


def test_less_is_kept_where_it_is_made_again_or_frozen(tiny_model_folder: Path) -> None:
    teacher, _ = units(tiny_model_folder, Recipe())
    kept = {
        (batch, checkpointing): teacher.activations(batch, checkpointing=checkpointing, mixed=False)
        for batch in (1, 4) for checkpointing in (True, False)
    }  # fmt: skip
    assert kept[4, False] == pytest.approx(4 * kept[1, False], rel=0.05)
    assert kept[4, True] < 0.5 * kept[4, False]
    assert teacher.activations(4, checkpointing=False, mixed=False, encoder=True) < 0.6 * kept[4, False]
    # What autograd really holds of a pass: the tensors that are alive after it and were not before.
    network: Any = load_model_folder(tiny_model_folder).unet.requires_grad_(True)
    network.set_attn_processor(default_processor())
    seen: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = network(torch.zeros(4, 4, 16, 16), torch.zeros(4), encoder_hidden_states=torch.zeros(4, 32, 32))
    assert sum(seen.values()) == pytest.approx(kept[4, False], rel=0.02)
    del result


def default_processor() -> Any:
    from diffusers.models.attention_processor import AttnProcessor2_0

    return AttnProcessor2_0()


def test_parts_are_counted_as_they_are(tiny_model_folder: Path) -> None:
    from dataclasses import replace

    recipe = Recipe()
    teacher, student = units(tiny_model_folder, recipe)
    unet = load_model_folder(tiny_model_folder).unet
    assert teacher.parameters == sum(p.numel() for p in unet.parameters())
    copied = low_rank_copy(unet, 4)
    assert lora_parameters(teacher, 4) == sum(p.numel() for name, p in copied.named_parameters() if is_adapter(name))
    parts = distill_memory("steps", recipe, teacher, student)
    assert parts["student's moments"] == 8 * student.parameters
    assert parts["student's averages"] == 4 * student.parameters * 3  # two, and the best
    halves = distill_memory("steps", recipe, teacher, student, processes=2, sharded=True)
    assert halves["student's moments"] == parts["student's moments"] // 2 and halves["teacher"] == parts["teacher"]
    with_looks, without = (
        finetune_memory(FinetuneRecipe(held_out_images=count), teacher, 0) for count in (64, 0)
    )  # fmt: skip
    assert with_looks["teacher's averages"] == 2 * without["teacher's averages"]
    encoder = sum(p.numel() for name, p in unet.named_parameters() if not name.startswith("up_blocks."))
    assert teacher.encoder_parameters == encoder
    lean = replace(recipe, pool=replace(recipe.pool, teacher_precision="bf16"))
    assert parts["teacher"] == 2 * distill_memory("steps", lean, teacher, student)["teacher"]
    whole, adapters = (sum(finetune_memory(FinetuneRecipe(), teacher, rank).values()) for rank in (0, 4))
    assert adapters < whole


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_out_of_memory_names_what_would_lower_it(
    tmp_path: Path, tiny_model_folder: Path, error: Exception, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fails(*_arguments: Any, **_keywords: Any) -> None:
        raise error

    monkeypatch.setattr("genin.distill.phases.encoder_features", fails)
    monkeypatch.setattr("genin.distill.cost.WORTH_SAYING", 0)
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("CHECKPOINTING", "false").replace("RANK", "0"), encoding="utf-8")
    arguments = ["--data", "builtin:world", "--recipe", str(path), "--out", str(tmp_path / "out")]
    assert run(["distill", "--teacher", str(tiny_model_folder), *arguments]) == 1
    said = capfd.readouterr().err
    assert "out of memory in phase 'prune'" in said
    for remedy in (
        "prune.gradient_checkpointing: true (−",
        "prune.batch_size: 4 (−",
        "pool.teacher_precision: bf16 (−",
    ):
        assert remedy in said
    assert (tmp_path / "out" / "training" / "pool.safetensors").is_file()


@pytest.mark.parametrize(
    ("batch", "accumulate", "processes", "offered"), [(8, 1, 1, True), (8, 1, 8, False), (6, 2, 1, False)]
)
def test_only_what_divides_is_advised(batch: int, accumulate: int, processes: int, offered: bool) -> None:
    from dataclasses import replace

    from genin.distill.cost import distill_options, finetune_options

    recipe = replace(Recipe(), prune=replace(Recipe().prune, batch_size=batch, accumulate=accumulate))
    assert any("accumulate" in says for says in distill_options("prune", recipe, processes)) == offered
    tuning = FinetuneRecipe(batch_size=batch, accumulate=accumulate)
    assert "finetune.lora_rank: 16" in finetune_options(tuning, 0, processes)


def test_what_is_advised_can_be_written_and_gone_on_with(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory at a phase's first update: with less of everything, --resume goes on and samples nothing again."""
    path, out = tmp_path / "recipe.yaml", tmp_path / "out"
    text = RECIPE.replace("CHECKPOINTING", "false").replace("RANK", "0")
    path.write_text(text, encoding="utf-8")
    command = [
        "distill",
        "--teacher",
        str(tiny_model_folder),
        "--data",
        "builtin:world",
        "--recipe",
        str(path),
        "--out",
        str(out),
    ]

    def fails(*_arguments: Any, **_keywords: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("genin.distill.matching.FakeScore.learn", fails)
        assert run(command) == 1
    pool = (out / "training" / "pool.safetensors").stat().st_mtime_ns
    less = text.replace(
        "adversarial: {images: 24, batch_size: 8", "adversarial: {images: 24, batch_size: 4, ema_decays: [0.9]"
    )
    path.write_text(less, encoding="utf-8")
    assert run([*command, "--resume"]) == 0
    assert (out / "training" / "pool.safetensors").stat().st_mtime_ns == pool


def test_a_phase_that_is_over_lets_go_of_its_networks(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gc
    import weakref

    held: list[Any] = []
    plain = training.Training.run

    def watched(self: Any, *arguments: Any) -> None:
        gc.collect()
        alive = [name for name, one in held if one() is not None]
        assert not alive, f"{self.stage} begins with {alive} still there"
        plain(self, *arguments)
        held.extend((f"{self.stage}'s {name} optimizer", weakref.ref(one)) for name, one in self.optimizers.items())

    monkeypatch.setattr(training.Training, "run", watched)
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("CHECKPOINTING", "false").replace("RANK", "2"), encoding="utf-8")
    arguments = ["--data", "builtin:world", "--recipe", str(path), "--out", str(tmp_path / "out")]
    assert run(["distill", "--teacher", str(tiny_model_folder), *arguments]) == 0
    assert len(held) == 5


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shape"), host.out_of_memory("x", tmp_path, list):
        raise RuntimeError("shape mismatch")


def test_a_training_that_will_not_fit_is_warned_of(recwarn: pytest.WarningsRecorder) -> None:
    host.check_memory("phase 'prune'", 10**6, torch.device("cpu"), list)
    assert not recwarn.list
    host.check_memory("phase 'prune'", 10**15, torch.device("cpu"), lambda: ["less (−1.0 GB)"])
    assert "needs about 1000000.0 GB" in str(recwarn.list[0].message) and "less (−1.0 GB)" in str(
        recwarn.list[0].message
    )


def test_a_dry_run_says_what_each_phase_takes(tmp_path: Path, tiny_model_folder: Path, genin: Any) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("CHECKPOINTING", "false").replace("RANK", "0"), encoding="utf-8")
    facts = genin("distill", "--teacher", tiny_model_folder, "--recipe", path, "--dry-run")
    assert set(facts["memory_gb"]) == {"prune", "steps", "adversarial"}
    assert set(facts["gflop_an_image"]) == {"pool", *facts["memory_gb"]}
    images = {"pool": 8, "prune": 8, "steps": 24, "adversarial": 24}
    total = sum(facts["gflop_an_image"][name] * count for name, count in images.items())
    assert facts["petaflop"] == pytest.approx(total / 1e6, abs=1e-3)

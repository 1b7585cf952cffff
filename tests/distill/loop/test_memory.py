"""What a training is reckoned to take, against what is counted while it runs; and what is said when there is not enough."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from genin.cli import run  # noqa: E402
from genin.distill.loop import host, training  # noqa: E402
from genin.distill.loop.memory import (  # noqa: E402
    Decoder,
    Others,
    PhaseSizes,
    Unet,
    finetune_memory,
    finetune_options,
    lora_parameters,
)
from genin.distill.models.folder import load_model_folder  # noqa: E402
from genin.distill.models.lora import is_adapter, low_rank_copy  # noqa: E402
from genin.distill.models.student_config import pruning_of, student_config  # noqa: E402
from genin.distill.recipe import FinetuneRecipe, Recipe, load_recipe  # noqa: E402
from genin.distill.student.cost import BESIDE_BYTES, distill_flop, distill_memory, distill_options  # noqa: E402
from genin.runtimes.errors import GeninError  # noqa: E402
from tunable import edited, write_pictures  # noqa: E402
from tunable import no_curves as no_curves  # noqa: E402

RECIPE = """
student: {name: bk-base}
pool: {size: 8, teacher_steps: 2, batch_size: 8}
prune: {images: 8, batch_size: 8, feature_weight: 0.5, gradient_checkpointing: CHECKPOINTING}
steps: {images: 24, batch_size: 8, held_out_images: 0, backward_distillation: true, gradient_checkpointing: CHECKPOINTING}
adversarial: {images: 24, batch_size: 8, held_out_images: 0, cache_images: 8, matching_weight: 1, distillation_weight: 1,
  r1_weight: 0, discriminator_hidden: 4, fake_score_updates: 2, fake_score_rank: RANK, gradient_checkpointing: CHECKPOINTING}
"""
NONE = Others(0, 0)


def write_recipe(folder: Path, *, checkpointing: str = "false", rank: int = 0, more: str = "") -> Path:
    path = folder / "recipe.yaml"
    text = RECIPE.replace("CHECKPOINTING", checkpointing).replace("RANK", str(rank)) + more
    path.write_text(text, encoding="utf-8")
    return path


def distil(teacher: Path, recipe: Path, out: Path, *more: str) -> int:
    arguments = ["--data", "builtin:world", "--recipe", str(recipe), "--out", str(out)]
    return run(["distill", "--teacher", str(teacher), *arguments, *more])


def units(folder: Path, recipe: Recipe) -> tuple[Unet, Unet]:
    config = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
    return Unet.of(config, 32), Unet.of(student_config(config, pruning_of(recipe.student)), 32)


@pytest.mark.train
@pytest.mark.parametrize(("checkpointing", "rank"), [("false", 0), ("true", 4)])
def test_operations_are_those_that_are_counted_and_a_phase_that_is_over_lets_go_of_its_networks(
    tmp_path: Path, tiny_model_folder: Path, checkpointing: str, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over whole updates of every phase, ways back included; heads, adapters and the sampler's own are the difference."""
    counted: dict[str, list[int]] = {}
    held: list[tuple[str, Any]] = []  # optimizers of the phases before
    plain = training.Training.run

    def counting(self: Any, step: Any, *arguments: Any, **options: Any) -> None:
        gc.collect()
        alive = [name for name, one in held if one() is not None]
        assert not alive, f"{self.stage} begins with {alive} still there"

        def counted_step(update: Any) -> Any:
            with FlopCounterMode(display=False) as counter:
                result = step(update)
            counted.setdefault(self.stage, []).append(counter.get_total_flops())
            return result

        plain(self, counted_step, *arguments, **options)
        held.extend(
            (f"{self.stage}'s {name} optimizer", weakref.ref(one)) for name, one in self.networks.optimizers.items()
        )

    monkeypatch.setattr(training.Training, "run", counting)
    path = write_recipe(tmp_path, checkpointing=checkpointing, rank=rank)
    if rank:  # fewer updates of fewer steps: the other case has all
        fewer = path.read_text(encoding="utf-8").replace("{images: 24", "{step_counts: [2, 1], images: 16")
        path.write_text(fewer, encoding="utf-8")
    assert distil(tiny_model_folder, path, tmp_path / "out") == 0
    recipe = load_recipe(path)
    teacher, student = units(tiny_model_folder, recipe)
    assert counted.keys() == {"prune", "steps", "adversarial"} and len(held) == 5
    for phase, updates in counted.items():
        measured = sum(updates) / len(updates) / 8
        assert distill_flop(phase, recipe, PhaseSizes(teacher, student, NONE)) == pytest.approx(measured, rel=0.15), (
            phase
        )


@pytest.mark.train
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
        result = network(torch.zeros(4, 4, 8, 8), torch.zeros(4), encoder_hidden_states=torch.zeros(4, 32, 32))
    assert sum(seen.values()) == pytest.approx(kept[4, False], rel=0.02)
    del result


@pytest.mark.parametrize("kind", ["tiny", "variational"])
def test_what_decoding_takes(tiny_model_folder: Path, kind: str) -> None:
    from diffusers import AutoencoderKL

    vae: Any = load_model_folder(tiny_model_folder).vae
    if kind == "variational":
        widths = (8, 8)
        levels = ["DownEncoderBlock2D"] * 2
        vae = AutoencoderKL(
            down_block_types=levels,
            up_block_types=["UpDecoderBlock2D"] * 2,
            block_out_channels=widths,
            norm_num_groups=4,
        )
    vae.requires_grad_(False).eval()
    decoder = Decoder.of(vae, 8)
    seen: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in vae.parameters()}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = vae.decode(torch.zeros(2, 4, 8, 8, requires_grad=True)).sample
    assert decoder.activations(2, mixed=False) == pytest.approx(sum(seen.values()), rel=0.05)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        vae.decode(torch.zeros(2, 4, 8, 8))
    assert decoder.macs() == pytest.approx(counter.get_total_flops() / 4, rel=0.01)
    assert decoder.macs(0.5) == pytest.approx(decoder.macs() / 4, rel=0.1)
    del result


def test_the_discriminator_on_pictures_is_counted_and_a_crop_advised(tiny_model_folder: Path) -> None:
    recipe = Recipe()
    teacher, student = units(tiny_model_folder, recipe)
    sizes = PhaseSizes(teacher, student, NONE, decoder=Decoder.of_folder(tiny_model_folder, 8))
    recipe = replace(recipe, adversarial=replace(recipe.adversarial, mixed_precision="no"))
    judged = replace(recipe, adversarial=replace(recipe.adversarial, picture_adversarial_weight=0.1))
    cropped = replace(judged, adversarial=replace(judged.adversarial, picture_discriminator_crop=0.5))
    plain, whole, part = (distill_memory("adversarial", one, sizes)["activations"] for one in (recipe, judged, cropped))
    assert whole - plain == pytest.approx(4 * (part - plain), rel=0.1) and part > plain
    work = [distill_flop("adversarial", one, sizes) for one in (recipe, judged, cropped)]
    assert work[1] - work[0] == pytest.approx(4 * (work[2] - work[0]), rel=0.1)
    option = "adversarial.picture_discriminator_crop: 0.5"
    assert option in distill_options("adversarial", judged) and option not in distill_options("adversarial", cropped)


def default_processor() -> Any:
    from diffusers.models.attention_processor import AttnProcessor2_0

    return AttnProcessor2_0()


@pytest.mark.train
def test_parts_are_counted_as_they_are(tiny_model_folder: Path) -> None:
    recipe = Recipe()
    teacher, student = units(tiny_model_folder, recipe)
    unet = load_model_folder(tiny_model_folder).unet
    assert teacher.parameters == sum(p.numel() for p in unet.parameters())
    copied = low_rank_copy(unet, 4)
    assert lora_parameters(teacher, 4) == sum(p.numel() for name, p in copied.named_parameters() if is_adapter(name))
    parts = distill_memory("steps", recipe, PhaseSizes(teacher, student, NONE))
    assert parts["student's moments"] == 8 * student.parameters
    assert parts["student's averages"] == 4 * student.parameters * 3  # two, and the best
    matching = replace(recipe.adversarial, matching_weight=1.0, optimizer="muon")
    with_muon = distill_memory("adversarial", replace(recipe, adversarial=matching), PhaseSizes(teacher, student, NONE))
    assert with_muon["student's moments"] == 4 * student.parameters
    assert with_muon["fake score's moments"] == 8 * teacher.parameters  # AdamW's
    halves = distill_memory("steps", recipe, PhaseSizes(teacher, student, NONE, processes=2, sharded=True))
    assert halves["student's moments"] == parts["student's moments"] // 2 and halves["teacher"] == parts["teacher"]
    with_looks, without = (
        finetune_memory(FinetuneRecipe(held_out_images=count), teacher, 0, NONE) for count in (64, 0)
    )  # fmt: skip
    assert with_looks["teacher's averages"] == 2 * without["teacher's averages"]
    encoder = sum(p.numel() for name, p in unet.named_parameters() if not name.startswith("up_blocks."))
    assert teacher.encoder_parameters == encoder
    lean = replace(recipe, pool=replace(recipe.pool, teacher_precision="bf16"))
    assert parts["teacher"] == 2 * distill_memory("steps", lean, PhaseSizes(teacher, student, NONE))["teacher"]
    whole, adapters = (sum(finetune_memory(FinetuneRecipe(), teacher, rank, NONE).values()) for rank in (0, 4))
    assert adapters < whole


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDNN_STATUS_ALLOC_FAILED: out of memory"),
        MemoryError(),
    ],
)
def test_every_way_of_running_out_of_memory_is_one_error(tmp_path: Path, error: Exception) -> None:
    with (
        pytest.raises(GeninError, match=r"out of memory in phase 'prune'.*write into the recipe: less \(−1 GB\)"),
        host.out_of_memory("phase 'prune'", tmp_path, lambda: ["less (−1 GB)"]),
    ):
        raise error


@pytest.mark.train
def test_out_of_memory_names_what_would_lower_it(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(*_arguments: Any, **_keywords: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("genin.distill.student.phases.encoder_features", fails)
    monkeypatch.setattr("genin.distill.loop.memory.WORTH_SAYING", 0)
    assert distil(tiny_model_folder, write_recipe(tmp_path), tmp_path / "out") == 1
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
    recipe = replace(Recipe(), prune=replace(Recipe().prune, batch_size=batch, accumulate=accumulate))
    assert any("accumulate" in says for says in distill_options("prune", recipe, processes)) == offered
    tuning = FinetuneRecipe(batch_size=batch, accumulate=accumulate)
    assert "finetune.lora_rank: 16" in finetune_options(tuning, 0, processes)


@pytest.mark.train
def test_what_is_advised_can_be_written_and_gone_on_with(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory at a phase's first update: with less of everything, --resume goes on and samples nothing again."""
    path, out = write_recipe(tmp_path), tmp_path / "out"
    text = (
        path.read_text(encoding="utf-8")
        .replace("images: 24", "images: 8")
        .replace("prune: {images: 8", "prune: {images: 0")
    )
    path.write_text(text, encoding="utf-8")

    def fails(*_arguments: Any, **_keywords: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("genin.distill.student.terms.score_distillation.FakeScore.learn", fails)
        assert distil(tiny_model_folder, path, out) == 1
    kept = [out / "training" / name for name in ("pool.safetensors", "steps.checkpoint.pt")]
    written = [file.stat().st_mtime_ns for file in kept]
    less = text.replace(
        "adversarial: {images: 8, batch_size: 8", "adversarial: {images: 8, batch_size: 4, ema_decays: [0.9]"
    )
    assert less != text
    path.write_text(less, encoding="utf-8")
    assert distil(tiny_model_folder, path, out, "--resume") == 0
    assert kept[0].stat().st_mtime_ns == written[0]
    assert (out / "training" / "adversarial.checkpoint.pt").is_file()


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shape"), host.out_of_memory("x", tmp_path, list):
        raise RuntimeError("shape mismatch")


def test_a_training_that_will_not_fit_is_warned_of(recwarn: pytest.WarningsRecorder) -> None:
    host.check_memory("phase 'prune'", 10**6, torch.device("cpu"), list)
    assert not recwarn.list
    host.check_memory("phase 'prune'", 10**15, torch.device("cpu"), lambda: ["less (−1.0 GB)"])
    assert "needs about 1000001.0 GB" in str(recwarn.list[0].message) and "less (−1.0 GB)" in str(
        recwarn.list[0].message
    )


def test_the_libraries_own_memory_counts(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    monkeypatch.setattr(host, "usable_memory_bytes", lambda: 900_000_000)
    host.check_memory("exporting", 10**6, torch.device("cpu"), list)
    assert "exporting needs about 1.0 GB, and this machine has 0.9" in str(recwarn.list[0].message)


def test_a_dry_run_says_what_each_phase_takes(tmp_path: Path, tiny_model_folder: Path, genin: Any) -> None:
    path = write_recipe(tmp_path)
    facts = genin("distill", "--teacher", tiny_model_folder, "--recipe", path, "--dry-run")
    assert set(facts["memory_gb"]) == {"prune", "steps", "adversarial"}
    assert set(facts["gflop_an_image"]) == {"pool", *facts["memory_gb"]}
    images = {"pool": 8, "prune": 8, "steps": 24, "adversarial": 24}
    total = sum(facts["gflop_an_image"][name] * count for name, count in images.items())
    assert facts["petaflop"] == pytest.approx(total / 1e6, abs=1e-3)


def test_text_encoder_and_autoencoder_are_counted_where_they_stand(tiny_model_folder: Path) -> None:
    model, recipe = load_model_folder(tiny_model_folder), Recipe()
    text, autoencoder = (sum(p.numel() for p in part.parameters()) for part in (model.text_encoder, model.vae))
    others = Others.of(model)
    assert others == Others.of_folder(tiny_model_folder) == (text, autoencoder)
    teacher, student = units(tiny_model_folder, recipe)
    for phase in ("prune", "steps", "adversarial"):
        parts = distill_memory(phase, recipe, PhaseSizes(teacher, student, others))
        assert parts["text encoder and autoencoder"] == 4 * (text + autoencoder)
    for rank in (0, 4):
        parts = finetune_memory(FinetuneRecipe(), teacher, rank, others)
        assert parts["text encoder and autoencoder"] == 4 * (text + autoencoder)
    learns = finetune_memory(FinetuneRecipe(train_text_encoder=True), teacher, 0, others)
    assert learns["text encoder and autoencoder"] == 4 * autoencoder
    assert learns["teacher's moments"] == 8 * (teacher.parameters + text)


@pytest.mark.train
def test_what_a_run_is_warned_of_has_all_networks(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number that is held against the machine's memory before the first update, of tuning and of every phase."""

    class StopError(GeninError):
        pass

    def check(what: str, needed: int, *_arguments: Any) -> None:
        found[what] = needed
        raise StopError(what)

    found: dict[str, int] = {}
    for module in ("teacher.finetune", "student.distillation"):
        monkeypatch.setattr(f"genin.distill.{module}.check_memory", check)
    path = write_recipe(tmp_path, more="finetune: {images: 8, batch_size: 8, held_out_images: 0, lora_rank: 2}")
    shared = ["--data", str(write_pictures(tmp_path / "pictures", 8)), "--recipe", str(path), "--out"]
    assert run(["teacher", "finetune", "--base", str(tiny_model_folder), *shared, str(tmp_path / "tuned")]) == 1
    assert run(["distill", "--teacher", str(tiny_model_folder), *shared, str(tmp_path / "student")]) == 1
    recipe, others = load_recipe(path), Others.of_folder(tiny_model_folder)
    teacher, student = units(tiny_model_folder, recipe)
    assert found == {
        "tuning": sum(finetune_memory(recipe.finetune, teacher, 2, others).values()),
        "phase 'prune'": BESIDE_BYTES
        + sum(distill_memory("prune", recipe, PhaseSizes(teacher, student, others)).values()),
    }


def test_a_dry_run_counts_a_large_text_encoder(tmp_path: Path, tiny_model_folder: Path, genin: Any) -> None:
    base = edited(tiny_model_folder, tmp_path / "base", "text_encoder/config.json", vocab_size=10_000_000)
    path, facts = write_recipe(tmp_path), list[dict[str, float]]()
    for teacher in (tiny_model_folder, base):
        facts.append(genin("distill", "--teacher", teacher, "--recipe", path, "--dry-run")["memory_gb"])
    assert {phase: facts[1][phase] - facts[0][phase] for phase in facts[0]} == pytest.approx(
        dict.fromkeys(("prune", "steps", "adversarial"), 4 * 32 * 10_000_000 / 1e9), abs=0.02
    )


def test_a_dry_run_of_a_damaged_folder_is_refused(
    tmp_path: Path, tiny_model_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    base = edited(tiny_model_folder, tmp_path / "base", "text_encoder/config.json", hidden_size="wide")
    for message in ("cannot build the networks", "the model folder lacks a file"):
        assert run(["distill", "--teacher", str(base), "--dry-run"]) == 2
        error = capfd.readouterr().err
        assert message in error and len(error.strip().splitlines()) == 1
        (base / "text_encoder" / "config.json").unlink(missing_ok=True)

"""Teachers of others: Stable Diffusion's schedules and predictions, and what makes a large one fit, at tiny sizes.

One distillation with every phase (`plain`) is what runs are compared with that make the same of less memory.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tunable import no_curves as no_curves
from tunable import with_random_unet, write_pictures

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from genin.cli import run  # noqa: E402
from genin.distill.loop.checkpoints import read_rows  # noqa: E402
from genin.distill.models.diffusion import plain_attention, predict  # noqa: E402
from genin.distill.models.folder import load_model_folder  # noqa: E402
from genin.distill.models.lora import is_adapter, low_rank_copy  # noqa: E402

FIXTURE = Path(__file__).parents[4] / "shared" / "data" / "tiny_sd_diffusers_fixture"
PHASES = ("prune", "steps", "adversarial")


def test_a_low_rank_copy_shares_the_teachers_weights_and_leaves_it_alone(tiny_model_folder: Path) -> None:
    teacher = load_model_folder(tiny_model_folder).unet.to(torch.bfloat16)
    x, t, text = torch.randn(2, 4, 8, 8), torch.tensor([3, 900]), torch.randn(2, 32, 32)
    before = predict(teacher, x, t, text)
    copied: Any = low_rank_copy(teacher, 4)
    own = {name: p for name, p in copied.named_parameters() if is_adapter(name)}
    assert own and all(p.dtype == torch.float32 for p in own.values())
    pointers = {p.data_ptr() for p in teacher.parameters()}
    assert all(p.data_ptr() in pointers for name, p in copied.named_parameters() if not is_adapter(name))
    assert torch.equal(predict(copied, x, t, text), before)  # nothing at first
    for parameter in own.values():
        torch.nn.init.normal_(parameter, std=0.2)
    assert not torch.equal(predict(copied, x, t, text), before)
    assert torch.equal(predict(teacher, x, t, text), before)


def test_long_attention_is_fused_and_short_is_not_and_both_say_the_same(tiny_model_folder: Path) -> None:
    unet = load_model_folder(tiny_model_folder).unet
    x, t, text = torch.randn(1, 4, 64, 64), torch.tensor([500]), torch.randn(1, 32, 32)
    expected = predict(unet, x, t, text)
    plain_attention(unet, torch.device("cpu"))
    seen: list[str] = []
    for processor in unet.attn_processors.values():
        for kind in ("short", "long"):
            inner = getattr(processor, kind)
            setattr(processor, kind, lambda *a, kind=kind, inner=inner, **k: (seen.append(kind), inner(*a, **k))[1])
    assert torch.allclose(predict(unet, x, t, text), expected, atol=1e-5) and set(seen) == {"long"}
    seen.clear()
    predict(unet, x[..., :16, :16], t, text)
    assert set(seen) == {"short"}


# --- the same of less memory -------------------------------------------------------------------------------------------


def distil(teacher: Path, out: Path, **changes: Any) -> int:
    """All phases, two updates each; `changes` of a phase's settings apply to all three, others by their section's name."""
    shared = {"batch_size": 8, "images": 16, "mixed_precision": "no", "accumulate": 1, "gradient_checkpointing": False}
    shared |= {key: changes.pop(key) for key in [*changes] if key in shared}
    sections: dict[str, dict[str, Any]] = {
        "student": {"name": "bk-base"},
        "pool": {"size": 16, "teacher_steps": 2, "batch_size": 8},
        "prune": shared,
        "steps": {**shared, "held_out_images": 0, "perceptual_weight": 1},
        "adversarial": {**shared, "held_out_images": 0, "matching_weight": 0.1},
    }
    data = changes.pop("data", "builtin:world")
    for name, settings in changes.items():
        sections[name] = sections.get(name, {}) | settings
    recipe = out.with_name(f"{out.name}.json")
    recipe.write_text(json.dumps(sections), encoding="utf-8")
    return run(["distill", "--teacher", str(teacher), "--data", str(data), "--recipe", str(recipe), "--out", str(out)])


def last_rows(out: Path) -> dict[str, dict[str, Any]]:
    return {phase: read_rows(out / "training" / f"{phase}.log.jsonl")[-1] for phase in PHASES}


@pytest.fixture(scope="module")
def plain(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("distilled") / "plain"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("genin.distill.loop.previews.plot_curves", lambda *_given, **_named: None)
        assert distil(tiny_model_folder, out) == 0
    return out


@pytest.mark.train
def test_checkpointed_activations_change_no_loss(tmp_path: Path, tiny_model_folder: Path, plain: Path) -> None:
    assert distil(tiny_model_folder, tmp_path / "lean", gradient_checkpointing=True) == 0
    ours, theirs = last_rows(plain), last_rows(tmp_path / "lean")
    for phase in PHASES:
        assert ours[phase]["loss"] == pytest.approx(theirs[phase]["loss"], rel=1e-5), phase
    kept, again = (
        load_file(out / "unet" / "diffusion_pytorch_model.safetensors") for out in (plain, tmp_path / "lean")
    )
    assert all(torch.allclose(kept[name], again[name], atol=1e-6) for name in kept)


@pytest.mark.train
def test_a_batch_in_parts_is_the_batch(tmp_path: Path, tiny_model_folder: Path, plain: Path) -> None:
    """Gradients of the parts add up to the whole's; of the adversarial phase to what a discriminator one update older says."""
    assert distil(tiny_model_folder, tmp_path / "parts", accumulate=4) == 0
    whole, in_parts = last_rows(plain), last_rows(tmp_path / "parts")
    for phase in ("prune", "steps"):
        for name in ("loss", "grad_norm", "images_seen"):
            assert in_parts[phase][name] == pytest.approx(whole[phase][name], rel=1e-4), (phase, name)
    for name in ("loss", "grad_norm", "discriminator", "fake_score"):
        assert in_parts["adversarial"][name] == pytest.approx(whole["adversarial"][name], rel=0.05), name


@pytest.mark.train
def test_a_teacher_of_half_the_memory_and_a_fake_score_of_low_rank_teach(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    out, half = tmp_path / "lean", {"teacher_precision": "bf16"}
    pool = {"size": 4, "teacher_steps": 2, "batch_size": 2, **half}
    low_rank = {"fake_score_rank": 4, "matching_weight": 1}
    memory = {"gradient_checkpointing": True, "mixed_precision": "bf16", "batch_size": 2, "images": 4}
    assert distil(tiny_model_folder, out, pool=pool, adversarial=low_rank, **memory) == 0
    row = last_rows(out)["adversarial"]
    assert 0 < row["fake_score"] < 4 and row["matching"] > 0
    state = torch.load(out / "training" / "adversarial.checkpoint.pt", weights_only=True)["modules"]["fake_score"]
    moved = [name for name, value in state.items() if "lora_B" in name and float(value.abs().sum()) > 0]
    assert moved
    weights = load_file(out / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(value.dtype == torch.float32 for value in weights.values())


def test_half_of_the_precision_is_refused_where_the_other_half_is_whole(
    tmp_path: Path, tiny_model_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert distil(tiny_model_folder, tmp_path / "lean", pool={"teacher_precision": "bf16"}) == 2
    assert "prune.mixed_precision is no" in capfd.readouterr().err and not (tmp_path / "lean").exists()


def test_a_batch_that_does_not_divide_is_refused(
    tmp_path: Path, tiny_model_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert distil(tiny_model_folder, tmp_path / "out", accumulate=3) == 2
    said = capfd.readouterr().err
    assert "prune.batch_size 8 does not divide among 1 process in 3 parts" in said and "multiple of 3" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.train
def test_a_narrow_student_learns_from_the_features_of_its_own_channels(tmp_path: Path, tiny_model_folder: Path) -> None:
    prune = {"images": 320, "feature_weight": 1, "output_weight": 0, "lr": 0.004, "lr_warmup_images": 8}
    none = {"images": 0}
    student = {"width": 0.5, "top_width": 0.75}
    out = tmp_path / "out"
    assert distil(tiny_model_folder, out, student=student, prune=prune, steps=none, adversarial=none) == 0
    [*_, last] = read_rows(out / "training" / "prune.log.jsonl")
    assert last["features"] < 0.5, last


# --- whose teachers ----------------------------------------------------------------------------------------------------


def begins_in_pure_noise(student: Path) -> None:
    """Whatever its teacher's schedule, a student's ends in pure noise and it predicts v: it can draw in one step."""
    said = json.loads((student / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    assert said["prediction_type"] == "v_prediction" and said["rescale_betas_zero_snr"]
    assert said["timestep_spacing"] == "trailing" and said["beta_schedule"] == "scaled_linear"
    info = json.loads((student / "genin.json").read_text(encoding="utf-8"))
    assert info["few_step_timesteps"]["1"] == [999]


SMALL = {"batch_size": 2, "images": 2}
SMALL_POOL = {"size": 4, "teacher_steps": 2, "batch_size": 2, "guidance_scale": 2}


@pytest.mark.train
def test_a_teacher_that_predicts_v_in_stable_diffusions_schedule_gives_a_student_that_begins_in_pure_noise(
    tmp_path: Path, tiny_model_folder: Path, genin: Any
) -> None:
    """Stable Diffusion 2.x's, which ends before pure noise. 1.x's is below."""
    teacher, out = tmp_path / "teacher", tmp_path / "student"
    shutil.copytree(tiny_model_folder, teacher)
    config = {
        "_class_name": "PNDMScheduler",
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
    }
    config |= {"prediction_type": "v_prediction", "skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}
    (teacher / "scheduler" / "scheduler_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert distil(teacher, out, pool=SMALL_POOL, adversarial={"fake_score_rank": 2}, **SMALL) == 0
    begins_in_pure_noise(out)
    for steps in (1, 4):
        picture = tmp_path / f"{steps}.png"
        genin("generate", "a ninja", "--model", out, "--steps", str(steps), "--out", picture)
        assert picture.is_file()


needs_fixture = pytest.mark.skipif(not FIXTURE.is_dir(), reason="../shared/data/tiny_sd_diffusers_fixture is not here")


@pytest.fixture(scope="module")
def old_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that diffusers 0.8 wrote: predicts the noise, PNDM, weights in `.bin`."""
    return with_random_unet(FIXTURE, tmp_path_factory.mktemp("old") / "base")


@pytest.fixture(scope="module")
def old_tuned(old_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`old_base` tuned whole, and by adapters on both networks, in one folder."""
    folder = tmp_path_factory.mktemp("old-tuned")
    pictures, shared = write_pictures(folder / "pictures"), {"images": 8, "batch_size": 4, "cache_images": 8}
    shared |= {"held_out_images": 0, "min_snr_gamma": 5.0, "validation_prompts": ["a ninja"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("genin.distill.loop.previews.plot_curves", lambda *_given, **_named: None)
        for rank in (0, 2):
            recipe = folder / f"{rank}.json"
            recipe.write_text(json.dumps({"finetune": {**shared, "lora_rank": rank, "train_text_encoder": rank > 0}}))
            command = ["teacher", "finetune", "--base", old_base, "--data", pictures, "--recipe", recipe, "--out"]
            assert run([*map(str, command), str(folder / f"rank {rank}")]) == 0
    return folder


@needs_fixture
@pytest.mark.train
@pytest.mark.parametrize("rank", [0, 2])
def test_a_folder_of_an_old_diffusers_is_tuned(old_base: Path, old_tuned: Path, rank: int) -> None:
    from diffusers import DiffusionPipeline

    out = old_tuned / f"rank {rank}"
    rows = read_rows(out / "training" / "finetune.log.jsonl")
    assert rows[-1]["images_seen"] == 8 and all(row["loss"] < 10 for row in rows)
    before, after = (load_model_folder(folder).unet.state_dict() for folder in (old_base, out))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and (not rank or all(".to_" in name for name in changed))
    assert (out / "pytorch_lora_weights.safetensors").is_file() == (rank > 0)
    scheduler = DiffusionPipeline.from_pretrained(out).scheduler
    assert scheduler.config.prediction_type == "epsilon" and not scheduler.config.clip_sample


@pytest.fixture(scope="module")
def old_student(old_tuned: Path) -> Path:
    """A student of the tuned model, distilled with all that saves memory."""
    out, memory = old_tuned / "student", {"gradient_checkpointing": True, "mixed_precision": "bf16"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("genin.distill.loop.previews.plot_curves", lambda *_given, **_named: None)
        options = {"data": old_tuned / "pictures", "pool": SMALL_POOL, "adversarial": {"fake_score_rank": 2}}
        assert distil(old_tuned / "rank 2", out, **options, **memory, **SMALL) == 0
    return out


@needs_fixture
@pytest.mark.train
def test_a_folder_of_an_old_diffusers_is_distilled(old_student: Path) -> None:
    """Stable Diffusion 1.x's schedule; its own pipeline opens the student."""
    from diffusers import StableDiffusionPipeline

    begins_in_pure_noise(old_student)
    pipeline = StableDiffusionPipeline.from_pretrained(old_student)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    picture = pipeline("a ninja", num_inference_steps=1, guidance_scale=1.0, output_type="np").images[0]
    assert picture.shape == (32, 32, 3)


@needs_fixture
@pytest.mark.export
@pytest.mark.parametrize(
    ("formats", "precisions"),
    [("openvino", "fp32"), pytest.param("onnx,openvino", "fp32,fp16", marks=pytest.mark.slow)],
)
def test_a_student_of_an_old_diffusers_is_exported(
    old_student: Path, tmp_path: Path, genin: Any, formats: str, precisions: str
) -> None:
    """Every graph is as exact as it has to be, and the bundle draws."""
    bundle = tmp_path / "bundle"
    genin("export", old_student, "--out", bundle, "--format", formats, "--precision", precisions)
    checked = genin("verify", bundle, "--against", old_student)
    assert checked["ok"] and all(graph["ok"] for graph in checked["graphs"])
    genin("generate", "a ninja", "--model", bundle, "--steps", 1, "--out", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").is_file()

"""Teachers of others: Stable Diffusion's schedules and predictions, and what makes a large one fit, at tiny sizes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from tunable import with_random_unet, write_pictures  # noqa: E402

from genin.cli import run  # noqa: E402
from genin.distill.checkpoints import read_rows  # noqa: E402
from genin.distill.diffusion import plain_attention, predict  # noqa: E402
from genin.distill.matching import is_adapter, low_rank_copy  # noqa: E402
from genin.distill.model_folder import load_model_folder  # noqa: E402

FIXTURE = Path(__file__).parents[2] / "shared" / "data" / "tiny_sd_diffusers_fixture"


def test_a_low_rank_copy_shares_the_teachers_weights_and_leaves_it_alone(tiny_model_folder: Path) -> None:
    teacher = load_model_folder(tiny_model_folder).unet.to(torch.bfloat16)
    x, t, text = torch.randn(2, 4, 16, 16), torch.tensor([3, 900]), torch.randn(2, 32, 32)
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


LEAN = """
student: {name: bk-base}
pool: {size: 4, teacher_steps: 2, batch_size: 2, PRECISION}
prune: {images: 2, batch_size: 2, CHECKPOINTING, mixed_precision: MIXED}
steps: {images: 2, batch_size: 2, held_out_images: 0, perceptual_weight: 1, CHECKPOINTING, mixed_precision: MIXED}
adversarial: {images: 4, batch_size: 2, held_out_images: 0, cache_images: 4, matching_weight: 1, RANK, CHECKPOINTING,
              mixed_precision: MIXED}
"""


def lean_run(tmp_path: Path, teacher: Path, name: str, **settings: str) -> Path:
    said = {
        "PRECISION": "teacher_precision: no",
        "CHECKPOINTING": "gradient_checkpointing: false",
        "RANK": "fake_score_rank: 0",
    }
    text = LEAN
    for key, value in {**said, "MIXED": '"no"', **settings}.items():
        text = text.replace(key, value.replace(": no", ': "no"'))
    (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    out = tmp_path / name
    arguments = ["--data", "builtin:world", "--recipe", str(tmp_path / f"{name}.yaml"), "--out", str(out)]
    assert run(["distill", "--teacher", str(teacher), *arguments]) == 0
    return out


def test_checkpointed_activations_change_no_loss(tmp_path: Path, tiny_model_folder: Path) -> None:
    plain = lean_run(tmp_path, tiny_model_folder, "plain")
    lean = lean_run(tmp_path, tiny_model_folder, "lean", CHECKPOINTING="gradient_checkpointing: true")
    for stage in ("prune", "steps", "adversarial"):
        rows = [read_rows(out / "training" / f"{stage}.log.jsonl")[-1] for out in (plain, lean)]
        assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=1e-5), stage
    ours, theirs = (load_file(out / "unet" / "diffusion_pytorch_model.safetensors") for out in (plain, lean))
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)


def test_a_teacher_of_half_the_memory_and_a_fake_score_of_low_rank_teach(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    settings = {"PRECISION": "teacher_precision: bf16", "RANK": "fake_score_rank: 4", "MIXED": "bf16"}
    out = lean_run(tmp_path, tiny_model_folder, "lean", CHECKPOINTING="gradient_checkpointing: true", **settings)
    row = read_rows(out / "training" / "adversarial.log.jsonl")[-1]
    assert 0 < row["fake_score"] < 4 and row["matching"] > 0
    state = torch.load(out / "training" / "adversarial.checkpoint.pt", weights_only=True)["modules"]["fake_score"]
    moved = [name for name, value in state.items() if "lora_B" in name and float(value.abs().sum()) > 0]
    assert moved
    weights = load_file(out / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(value.dtype == torch.float32 for value in weights.values())


def test_half_of_the_precision_is_refused_where_the_other_half_is_whole(
    tmp_path: Path, tiny_model_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(AssertionError):
        lean_run(tmp_path, tiny_model_folder, "lean", PRECISION="teacher_precision: bf16")
    assert "prune.mixed_precision is no" in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_teacher_of_others_gives_a_student_that_begins_in_pure_noise(
    tmp_path: Path, tiny_model_folder: Path, kind: str, genin: Any
) -> None:
    """Stable Diffusion 1.x's schedule and 2.x's, which end before pure noise: the student draws in one step all the same."""
    teacher = tmp_path / "teacher"
    shutil.copytree(tiny_model_folder, teacher)
    config = {
        "_class_name": "PNDMScheduler",
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
    }
    config |= {"prediction_type": kind, "skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}
    (teacher / "scheduler" / "scheduler_config.json").write_text(json.dumps(config), encoding="utf-8")
    out = lean_run(tmp_path, teacher, "student", RANK="fake_score_rank: 2")
    said = json.loads((out / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    assert said["prediction_type"] == "v_prediction" and said["rescale_betas_zero_snr"]
    assert said["timestep_spacing"] == "trailing" and said["beta_schedule"] == "scaled_linear"
    info = json.loads((out / "genin.json").read_text(encoding="utf-8"))
    assert info["few_step_timesteps"]["1"] == [999]
    for steps in (1, 4):
        picture = tmp_path / f"{steps}.png"
        genin("generate", "a ninja", "--model", out, "--steps", str(steps), "--out", picture)
        assert picture.is_file()


def test_a_narrow_student_learns_from_the_features_of_its_own_channels(tmp_path: Path, tiny_model_folder: Path) -> None:
    path = tmp_path / "narrow.yaml"
    path.write_text(
        "student: {name: bk-base, width: 0.5, top_width: 0.75}\npool: {size: 8, teacher_steps: 2}\n"
        "prune: {images: 400, batch_size: 8, feature_weight: 1, output_weight: 0, lr: 0.002, lr_warmup_images: 8}\n"
        "steps: {images: 0}\nadversarial: {images: 0}\n",
        encoding="utf-8",
    )
    out = tmp_path / "out"
    arguments = ["--data", "builtin:world", "--recipe", str(path), "--out", str(out)]
    assert run(["distill", "--teacher", str(tiny_model_folder), *arguments]) == 0
    first, *_ = rows = read_rows(out / "training" / "prune.log.jsonl")
    assert rows[-1]["features"] < 0.5, first


@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_is_the_batch(tmp_path: Path, tiny_model_folder: Path, parts: int) -> None:
    """Gradients of the parts add up to the whole's; of the adversarial phase to what a discriminator one update older says."""
    logs = []
    for name, accumulate in (("whole", 1), ("parts", parts)):
        path = tmp_path / f"{name}.yaml"
        keys = f'batch_size: 8, images: 32, mixed_precision: "no", accumulate: {accumulate}'
        path.write_text(
            f"student: {{name: bk-base}}\npool: {{size: 16, teacher_steps: 2, batch_size: 8}}\nprune: {{{keys}}}\n"
            f"steps: {{{keys}, held_out_images: 0}}\n"
            f"adversarial: {{{keys}, held_out_images: 0, matching_weight: 0.1, cache_images: 8}}\n",
            encoding="utf-8",
        )
        out = tmp_path / name
        arguments = ["--data", "builtin:world", "--recipe", str(path), "--out", str(out)]
        assert run(["distill", "--teacher", str(tiny_model_folder), *arguments]) == 0
        logs.append(
            {
                stage: read_rows(out / "training" / f"{stage}.log.jsonl")[-1]
                for stage in ("prune", "steps", "adversarial")
            }
        )
    whole, in_parts = logs
    for stage in ("prune", "steps"):
        for name in ("loss", "grad_norm", "images_seen"):
            assert in_parts[stage][name] == pytest.approx(whole[stage][name], rel=1e-4), (stage, name)
    for name in ("loss", "grad_norm", "discriminator", "fake_score"):
        assert in_parts["adversarial"][name] == pytest.approx(whole["adversarial"][name], rel=0.05), name


def test_a_batch_that_does_not_divide_is_refused(
    tmp_path: Path, tiny_model_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "pool: {size: 4, teacher_steps: 2}\nprune: {images: 8, batch_size: 8, accumulate: 3}\n", encoding="utf-8"
    )
    arguments = ["--data", "builtin:world", "--recipe", str(path), "--out", str(tmp_path / "out")]
    assert run(["distill", "--teacher", str(tiny_model_folder), *arguments]) == 2
    said = capfd.readouterr().err
    assert "prune.batch_size 8 does not divide among 1 process in 3 parts" in said and "multiple of 3" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not FIXTURE.is_dir(), reason="../shared/data/tiny_sd_diffusers_fixture is not here")
def test_a_folder_of_an_old_diffusers_is_tuned_distilled_and_exported(tmp_path: Path, genin: Any) -> None:
    """Version 0.8, PNDM, weights in `.bin`: its own pipeline opens the student, and every graph is as exact as it has to be."""
    from diffusers import StableDiffusionPipeline

    base = with_random_unet(FIXTURE, tmp_path / "base")
    pictures = write_pictures(tmp_path / "pictures")
    recipe = tmp_path / "recipe.yaml"
    text, said = LEAN, {"PRECISION": "guidance_scale: 2", "CHECKPOINTING": "gradient_checkpointing: true"}
    for key, value in {**said, "RANK": "fake_score_rank: 2", "MIXED": "bf16"}.items():
        text = text.replace(key, value)
    tuning = "finetune: {images: 4, batch_size: 2, cache_images: 4, held_out_images: 0}\n"
    recipe.write_text(tuning + text, encoding="utf-8")
    data = ["--data", pictures, "--recipe", recipe]
    genin("teacher", "finetune", "--base", base, *data, "--lora", 2, "--out", tmp_path / "tuned")
    genin("distill", "--teacher", tmp_path / "tuned", *data, "--out", tmp_path / "student")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "student")
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    picture = pipeline("a ninja", num_inference_steps=1, guidance_scale=1.0, output_type="np").images[0]
    assert picture.shape == (64, 64, 3)
    genin(
        "export",
        tmp_path / "student",
        "--out",
        tmp_path / "bundle",
        "--format",
        "onnx,openvino",
        "--precision",
        "fp32,fp16",
    )
    checked = genin("verify", tmp_path / "bundle", "--against", tmp_path / "student")
    assert checked["ok"] and all(graph["ok"] for graph in checked["graphs"])
    genin("generate", "a ninja", "--model", tmp_path / "bundle", "--steps", 1, "--out", tmp_path / "picture.png")

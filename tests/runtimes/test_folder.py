"""What model folders of other tools say in their own way: sizes, added tokens, files of weights, schedulers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from genin.runtimes.errors import InputError
from genin.runtimes.folder import (
    VARIANTS,
    check_token_rows,
    latent_size,
    refuse_pointer,
    square_latent_size,
    weight_files,
)
from genin.runtimes.loading import load_pipeline
from genin.runtimes.samplers import Schedule


@pytest.mark.parametrize(
    ("size", "expected"), [(64, (64, 64)), ([64, 64], (64, 64)), ((48, 64), (48, 64)), ([96, 64], (96, 64))]
)
def test_sample_size_is_a_number_or_two(size: Any, expected: tuple[int, int]) -> None:
    assert latent_size({"sample_size": size}) == expected


@pytest.mark.parametrize(
    "config",
    [{}, *({"sample_size": size} for size in (None, 0, True, "64", [64], [64, 64, 64], [64, None], 64.0, 5000))],
)
def test_what_is_no_size_is_named_with_its_file(config: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"sample_size.*unet/config\.json"):
        latent_size(config)


def test_training_and_export_need_a_square() -> None:
    assert square_latent_size({"sample_size": [16, 16]}) == 16
    with pytest.raises(InputError, match=r"\[12, 16\] is not square"):
        square_latent_size({"sample_size": [12, 16]})


def test_an_added_token_without_a_row_is_named(tmp_path: Path) -> None:
    for name, content in (
        ("text_encoder/config.json", {"vocab_size": 10}),
        ("tokenizer/added_tokens.json", {"<a>": 9}),
    ):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(json.dumps(content))
    check_token_rows(tmp_path)
    (tmp_path / "tokenizer/added_tokens.json").write_text(json.dumps({"<a>": 9, "<b>": 10}))
    with pytest.raises(InputError, match=r"has 10 rows, none for the added token '<b>' \(10\)"):
        check_token_rows(tmp_path)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_weights_in_any_precision_whole_or_in_shards(tmp_path: Path, variant: str, suffix: str) -> None:
    whole = tmp_path / f"diffusion_pytorch_model{variant}{suffix}"
    whole.write_bytes(b"")
    assert weight_files(tmp_path) == [whole]
    whole.unlink()
    shards = [f"diffusion_pytorch_model{variant}-0000{n}-of-00002{suffix}" for n in (1, 2)]
    index = {"weight_map": {"a": shards[1], "b": shards[0], "c": shards[0]}}
    (tmp_path / f"diffusion_pytorch_model{suffix}.index{variant}.json").write_text(json.dumps(index))
    assert weight_files(tmp_path) == [tmp_path / name for name in shards]


def test_a_pointer_of_git_lfs_is_no_damage(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4265380512\n")
    with pytest.raises(InputError, match=r"Git LFS.*model\.safetensors; run `git lfs pull`"):
        refuse_pointer(file)


def test_a_schedule_that_cannot_be_is_named_by_its_file(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"beta_schedule": "sigmoid"}))
    with pytest.raises(InputError, match=r"beta_schedule 'sigmoid'.*scheduler_config\.json; choose from"):
        load_pipeline(folder)


LATENT_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


@pytest.mark.parametrize(
    "config",
    [
        # Stable Diffusion 1.1 to 1.5, 2 base; 2 and 2.1; tunings and merges on the hub.
        {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "steps_offset": 1, "set_alpha_to_one": False},
        {"_class_name": "PNDMScheduler", "trained_betas": None, "clip_sample": False, "steps_offset": 1},
        {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction", "clip_sample": False, "steps_offset": 1},
        {"_class_name": "EulerDiscreteScheduler", "interpolation_type": "linear", "use_karras_sigmas": False},
        {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "leading", "sigma_min": None},
        {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver++", "thresholding": False},
        {"_class_name": "DEISMultistepScheduler", "solver_order": 2, "lambda_min_clipped": float("-inf")},
        {"_class_name": "UniPCMultistepScheduler", "disable_corrector": [], "timestep_spacing": "linspace"},
        {"_class_name": "LMSDiscreteScheduler"},
        {"_class_name": "HeunDiscreteScheduler"},
        {"_class_name": "DDPMScheduler", "variance_type": "fixed_small", "clip_sample": False},
    ],
)
def test_schedulers_of_published_models(config: dict[str, Any]) -> None:
    schedule = Schedule.from_config(LATENT_BETAS | config)
    assert schedule.training_steps == 1000 and schedule.clip is None
    assert len(schedule.steps(50)) == 50 and schedule.alphas_cumprod[-1] == pytest.approx(0.0047, abs=1e-4)

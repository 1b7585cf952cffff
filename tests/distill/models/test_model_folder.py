"""Model folders: what is read of other people's, and what stands in those that are written."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from huggingface_hub import DatasetCard, ModelCard  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from genin.cli import run  # noqa: E402
from genin.distill.data.card import dataset_card  # noqa: E402
from genin.distill.data.hub import card_licence  # noqa: E402
from genin.distill.inputs.sources import joined_licences  # noqa: E402
from genin.distill.loop.memory import Unet  # noqa: E402
from genin.distill.models.diffusion import TEACHER_SCHEDULER, ddim_scheduler  # noqa: E402
from genin.distill.models.folder import load_model_folder, save_model_folder  # noqa: E402
from genin.distill.models.lora import Lora, merge_lora  # noqa: E402
from genin.distill.models.text import tokenize  # noqa: E402
from genin.distill.teacher.finetune import as_guided  # noqa: E402
from genin.export.manifest_of import bundle_card  # noqa: E402
from genin.runtimes.errors import InputError  # noqa: E402
from genin.runtimes.folder import read_constants  # noqa: E402
from genin.runtimes.samplers import Schedule  # noqa: E402
from tunable import edited  # noqa: E402

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULERS = {
    "EulerDiscreteScheduler": {**SD, "steps_offset": 1, "timestep_spacing": "leading"},
    "PNDMScheduler": {**SD, "skip_prk_steps": True, "set_alpha_to_one": False},
    "DPMSolverMultistepScheduler": {**SD, "solver_order": 2},
    "DDIMScheduler": SD,
}


def test_a_saved_model_does_not_depend_on_where_it_was_read(tiny_model_folder: Path, tmp_path: Path) -> None:
    for place in ("first", "second"):
        shutil.copytree(tiny_model_folder, tmp_path / place)
        save_model_folder(load_model_folder(tmp_path / place), tmp_path / f"from-{place}")
    made = [tmp_path / f"from-{place}" for place in ("first", "second")]
    files = [sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file()) for folder in made]
    assert files[0] == files[1] and Path("unet/config.json") in files[0]
    for file in files[0]:
        assert (made[0] / file).read_bytes() == (made[1] / file).read_bytes(), file
        assert str(tmp_path).encode() not in (made[0] / file).read_bytes(), file


# --- schedulers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_what_is_saved_from_a_scheduler_that_does_not_mention_clipping_does_not_clip(
    tiny_model_folder: Path, tmp_path: Path, kind: str
) -> None:
    """DDIMScheduler's default clips predicted pictures to ±1, which latents exceed; diffusers turns it off with a warning."""
    model = load_model_folder(tiny_model_folder)
    model.scheduler_config = {"_class_name": kind, "_diffusers_version": "0.20.0", **SCHEDULERS[kind]}
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        save_model_folder(model, tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "scheduler" / "scheduler_config.json").read_text())
    assert saved["_class_name"] == "DDIMScheduler" and saved["clip_sample"] is False
    assert Schedule.from_config(saved).clip is None
    assert {key: saved[key] for key in SD} == SD


def test_schedulers_never_clip() -> None:
    for config in ({}, {"clip_sample": True}, *SCHEDULERS.values(), TEACHER_SCHEDULER):
        assert ddim_scheduler(config).config.clip_sample is False
    assert ddim_scheduler(TEACHER_SCHEDULER).config.rescale_betas_zero_snr


def test_a_lora_is_merged_whatever_the_scheduler(tiny_model_folder: Path, tmp_path: Path) -> None:
    model = load_model_folder(tiny_model_folder)
    model.scheduler_config = {"_class_name": "EulerDiscreteScheduler", **SD}
    layer = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    before = model.unet.get_submodule(layer).weight.clone()
    pair = {"lora_A": torch.ones(2, 32), "lora_B": torch.ones(32, 2)}
    save_file({f"unet.{layer}.{side}.weight": value for side, value in pair.items()}, tmp_path / "a.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        merge_lora(model, Lora(tmp_path / "a.safetensors"))
    assert torch.allclose(model.unet.get_submodule(layer).weight, before + 2, atol=1e-5)


# --- tokenizers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("says", [None, 1000, 16])
def test_captions_are_as_long_as_the_text_encoder_reads(
    tiny_model_folder: Path, tmp_path: Path, says: int | None
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model_folder, base)
    file = base / "tokenizer" / "tokenizer_config.json"
    config = {key: value for key, value in json.loads(file.read_text()).items() if key != "model_max_length"}
    file.write_text(json.dumps(config if says is None else {**config, "model_max_length": says}))
    model = load_model_folder(base)
    length = 16 if says == 16 else 32
    assert tokenize(model.tokenizer, ["a ninja " * 100, ""]).shape == (2, length)
    assert as_guided(model, torch.device("cpu")).embed(["a ninja"]).shape == (1, length, 32)
    assert Unet.of(model.unet.config, model.tokenizer.model_max_length).tokens == length
    save_model_folder(model, tmp_path / "out")
    assert load_model_folder(tmp_path / "out").tokenizer.model_max_length == length
    assert read_constants(base).text.max_length == length


# --- cards -------------------------------------------------------------------------------------------------------------


LICENCES = [
    ("Apache-2.0", {"license": "apache-2.0"}),
    ("creativeml-openrail-m", {"license": "creativeml-openrail-m"}),
    ("MIT, CC0-1.0, MIT", {"license": ["cc0-1.0", "mit"]}),
    ("", {"license": "unknown"}),
    ("Studio: fans only", {"license": "other", "license_name": "Studio: fans only"}),
    ("CC BY 4.0, but ask first", {"license": "other", "license_name": "CC BY 4.0, but ask first"}),
    ('MIT, Studio: "x" # [y]\nz', {"license": "other", "license_name": 'MIT, Studio: "x" # [y] z'}),
    ("忍者 & 'co' - {all}", {"license": "other", "license_name": "忍者 & 'co' - {all}"}),
]


@pytest.mark.parametrize(("licence", "expected"), LICENCES)
def test_every_card_says_the_licence_in_valid_yaml(
    tiny_model_folder: Path, tmp_path: Path, licence: str, expected: dict[str, Any]
) -> None:
    model = load_model_folder(tiny_model_folder)
    model.info["licence"] = licence
    manifest: Any = SimpleNamespace(
        model=SimpleNamespace(licence=licence, title="A: model", kind="student", parent=None, provenance=None),
        sampler=SimpleNamespace(few_step_timesteps=None, default_steps=4, guidance="baked", name="ddim"),
        image=SimpleNamespace(width=64, height=64), graphs=(), genin_version="0",
    )  # fmt: skip
    report = {"out": "ninjas", "kept": 1, "dropped": [], "splits": {"train": 1}}
    dataset = dataset_card(report, [{"licence": licence, "pictures": 1}], page=False)
    for card in (model.card(), bundle_card(manifest, "model.genin"), dataset):
        kind = DatasetCard if card is dataset else ModelCard
        found = kind(card).data.to_dict()
        assert {key: found[key] for key in found if key.startswith("license")} == expected
        assert found.get("task_categories", found.get("pipeline_tag")) in ("text-to-image", ["text-to-image"])
        assert found["tags"][:2] == ["genin", "text-to-image"]
        assert kind(card).text.lstrip().startswith("# ")
        (tmp_path / "README.md").write_text(card, encoding="utf-8")
        said = expected.get("license_name", expected["license"])
        said = ", ".join(said) if isinstance(said, list) else said
        assert card_licence(tmp_path) == (None if said == "unknown" else said)


@given(st.lists(st.text(max_size=20), max_size=3))
def test_any_text_is_a_licence(licences: list[str]) -> None:
    report = {"out": "ninjas", "kept": 1, "dropped": [], "splits": {"train": 1}}
    card = dataset_card(report, [{"licence": joined_licences(*licences)}], page=False)
    found = DatasetCard(card).data.to_dict()
    assert found["license"] and set(found) <= {"license", "license_name", "task_categories", "tags"}
    assert isinstance(found.get("license_name", ""), str)
    assert DatasetCard(card).text.lstrip().startswith("# ninjas\n")


# --- what is damaged ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("text_encoder/config.json", {"hidden_size": 1.5}, "hidden_size: '1.5' is not of type int"),
        ("vae/config.json", {"scaling_factor": "big"}, "scaling_factor: 'big' is not of type float"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "prediction_type"),
        ("genin.json", {"default_steps": "many"}, "default_steps: 'many' is not of type int"),
        ("genin.json", {"few_step_timesteps": {"1": [2000]}}, "timestep 2000 is outside"),
    ],
)
def test_a_damaged_model_folder_is_no_damaged_bundle(
    tiny_model_folder: Path, tmp_path: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    base = edited(tiny_model_folder, tmp_path / "base", file, **changes)
    with pytest.raises(InputError) as caught:
        read_constants(base)
    assert type(caught.value) is InputError
    assert message in caught.value.what and str(caught.value.where).startswith(str(base)) and caught.value.remedy


def test_the_command_line_names_what_is_damaged(
    tiny_model_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    base = edited(tiny_model_folder, tmp_path / "base", "genin.json", default_steps="many")
    assert run(["generate", "a ninja", "--model", str(base), "--out", str(tmp_path / "a.png")]) == 2
    error = capfd.readouterr().err
    assert "default_steps: 'many' is not of type int" in error and str(base) in error
    assert "re-create or re-download it" in error and len(error.strip().splitlines()) == 1

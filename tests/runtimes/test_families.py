"""Families of models that genin does not run are refused by name, in the same words by every command. The files are as their
repositories have them, cut to what diffusers reads first."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from genin.cli import run
from genin.runtimes.errors import InputError
from genin.runtimes.families import SUPPORTED
from genin.runtimes.folder import read_model_index

CLIP = {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
SD = {
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    **CLIP,
}
XL = {
    **SD,
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
}
T5 = {"text_encoder": ["transformers", "T5EncoderModel"], "tokenizer": ["transformers", "T5Tokenizer"]}
FLOW = {"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"], "vae": ["diffusers", "AutoencoderKL"]}
# Class => (parts, what is said).
PIPELINES: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "StableDiffusionXLPipeline": (XL, "Stable Diffusion XL"),
    "StableDiffusionXLImg2ImgPipeline": (XL, "Stable Diffusion XL"),
    "StableDiffusion3Pipeline": (
        {
            **FLOW,
            "transformer": ["diffusers", "SD3Transformer2DModel"],
            "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
            "text_encoder_3": ["transformers", "T5EncoderModel"],
        },
        "Stable Diffusion 3",
    ),
    "FluxPipeline": ({**FLOW, **CLIP, "transformer": ["diffusers", "FluxTransformer2DModel"]}, "Flux"),
    "PixArtAlphaPipeline": ({**FLOW, **T5, "transformer": ["diffusers", "Transformer2DModel"]}, "PixArt"),
    "PixArtSigmaPipeline": ({**FLOW, **T5, "transformer": ["diffusers", "PixArtTransformer2DModel"]}, "PixArt"),
    "KandinskyV22Pipeline": (
        {
            "movq": ["diffusers", "VQModel"],
            "scheduler": ["diffusers", "DDPMScheduler"],
            "unet": ["diffusers", "UNet2DConditionModel"],
        },
        "Kandinsky",
    ),
    "IFPipeline": (
        {**T5, "scheduler": ["diffusers", "DDPMScheduler"], "unet": ["diffusers", "UNet2DConditionModel"]},
        "DeepFloyd IF",
    ),
    "LatentConsistencyModelPipeline": (SD | {"scheduler": ["diffusers", "LCMScheduler"]}, "a latent consistency model"),
    "StableDiffusionInpaintPipeline": (SD, "an inpainting model"),
    "StableDiffusionImg2ImgPipeline": (SD, "an image-to-image pipeline"),
    "StableDiffusionInstructPix2PixPipeline": (SD, "InstructPix2Pix"),
    "StableDiffusionDepth2ImgPipeline": (
        SD | {"depth_estimator": ["transformers", "DPTForDepthEstimation"]},
        "a depth-to-image model",
    ),
    "StableDiffusionUpscalePipeline": (SD, "an upscaler"),
    "StableUnCLIPImg2ImgPipeline": (SD, "a model conditioned on images"),
    "StableDiffusionControlNetPipeline": (SD | {"controlnet": ["diffusers", "ControlNetModel"]}, "ControlNet"),
    "StableDiffusionXLControlNetPipeline": (XL | {"controlnet": ["diffusers", "ControlNetModel"]}, "ControlNet"),
    "StableVideoDiffusionPipeline": (
        {
            "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
            "unet": ["diffusers", "UNetSpatioTemporalConditionModel"],
            "vae": ["diffusers", "AutoencoderKLTemporalDecoder"],
        },
        "a video model",
    ),
    "TextToVideoSDPipeline": (SD | {"unet": ["diffusers", "UNet3DConditionModel"]}, "a video model"),
    "AnimateDiffPipeline": (SD | {"motion_adapter": ["diffusers", "MotionAdapter"]}, "a video model"),
    "CogVideoXPipeline": ({**T5, "transformer": ["diffusers", "CogVideoXTransformer3DModel"]}, "a video model"),
    "HunyuanVideoPipeline": ({"transformer": ["diffusers", "HunyuanVideoTransformer3DModel"]}, "a video model"),
    "WanPipeline": ({"transformer": ["diffusers", "WanTransformer3DModel"]}, "a video model"),
    "StableCascadeDecoderPipeline": ({"decoder": ["diffusers", "StableCascadeUNet"]}, "Stable Cascade"),
    "SanaPipeline": ({"transformer": ["diffusers", "SanaTransformer2DModel"]}, "a diffusion transformer"),
    "QwenImagePipeline": ({"transformer": ["diffusers", "QwenImageTransformer2DModel"]}, "a diffusion transformer"),
}
# What is refused by the networks: (file, what it says beside the tiny model's, what is said).
CONFIGS: Mapping[str, tuple[str, Mapping[str, Any], str]] = {
    "inpainting": ("unet", {"in_channels": 9}, r"an inpainting model \(the UNet has 9 input channels"),
    "edits": ("unet", {"in_channels": 8}, "InstructPix2Pix"),
    "upscales": ("unet", {"in_channels": 7}, "an upscaler"),
    "depth": ("unet", {"in_channels": 5}, "a depth-to-image model"),
    "classes": ("unet", {"num_class_embeds": 1000}, r"inputs other than text \(class embeddings\)"),
    "class kinds": ("unet", {"class_embed_type": "projection"}, r"inputs other than text \(class embeddings\)"),
    "sizes": ("unet", {"addition_embed_type": "text_time"}, "inputs other than text"),
    "pictures": ("unet", {"encoder_hid_dim_type": "image_proj"}, "inputs other than text"),
    "lcm": ("unet", {"time_cond_proj_dim": 256}, "latent consistency model"),
    "lcm's scheduler": ("scheduler", {"_class_name": "LCMScheduler"}, "latent consistency model"),
    "flow": ("scheduler", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "a flow-matching model"),
    "turbo by origin": ("unet", {"_name_or_path": "stabilityai/sd-turbo"}, "a Turbo model"),
}


@pytest.fixture
def somebodys(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A model folder as others write them, without genin.json."""
    folder = tmp_path / "somebodys"
    shutil.copytree(tiny_model_folder, folder)
    (folder / "genin.json").unlink()
    return folder


def change(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | dict(values)))


@pytest.mark.parametrize("kind", PIPELINES)
def test_a_pipeline_of_another_family(tmp_path: Path, kind: str) -> None:
    parts, says = PIPELINES[kind]
    index = {"_class_name": kind, "_diffusers_version": "0.30.0", **parts}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    for part in parts:
        (tmp_path / part).mkdir()
    with pytest.raises(InputError) as caught:
        read_model_index(tmp_path)
    assert caught.value.what.startswith(f"this is {says}") and kind in caught.value.what
    assert caught.value.remedy == SUPPORTED


@pytest.mark.parametrize("name", CONFIGS)
def test_networks_of_another_family(somebodys: Path, name: str) -> None:
    part, values, says = CONFIGS[name]
    file = "scheduler_config.json" if part == "scheduler" else "config.json"
    change(somebodys / part / file, values)
    with pytest.raises(InputError, match=says) as caught:
        read_model_index(somebodys)
    assert caught.value.remedy == SUPPORTED


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("scheduler", {"_class_name": "PNDMScheduler", "prediction_type": "epsilon", "timestep_spacing": "leading"}),
        ("scheduler", {"_class_name": "EulerDiscreteScheduler", "prediction_type": "epsilon"}),
        ("scheduler", {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}),
        (
            "scheduler",
            {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing", "prediction_type": "epsilon"},
        ),
        ("unet", {"_name_or_path": "runwayml/stable-diffusion-v1-5"}),
        ("unet", {"_name_or_path": "turbine-hall/lcmx"}),
        ("unet", {"class_embed_type": None, "num_class_embeds": None, "time_cond_proj_dim": None}),
    ],
)
def test_what_is_like_them_is_not_refused(somebodys: Path, part: str, values: Mapping[str, Any]) -> None:
    file = "scheduler_config.json" if part == "scheduler" else "config.json"
    change(somebodys / part / file, values)
    assert read_model_index(somebodys)["unet"]


def test_custom_pipelines_of_known_parts_and_other_channels(somebodys: Path) -> None:
    change(somebodys / "model_index.json", {"_class_name": "MyOwnPipeline", "image_encoder": [None, None]})
    change(somebodys / "unet" / "config.json", {"in_channels": 16, "out_channels": 16})
    change(somebodys / "vae" / "config.json", {"latent_channels": 16})
    assert read_model_index(somebodys)["_class_name"] == "MyOwnPipeline"


@pytest.mark.parametrize("count", [[0], {}, "4", None, 4.0, True])
@pytest.mark.parametrize(("part", "key"), [("unet", "in_channels"), ("vae", "latent_channels")])
def test_channels_of_another_type_are_named(somebodys: Path, part: str, key: str, count: object) -> None:
    change(somebodys / part / "config.json", {key: count})
    with pytest.raises(InputError, match=f"'{key}' is not a whole number") as caught:
        read_model_index(somebodys)
    assert caught.value.where == somebodys / part / "config.json"


@pytest.mark.parametrize(
    ("part", "kind"),
    [("text_encoder", "CLIPTextModelWithProjection"), ("vae", "VQModel"), ("unet", "UNet3DConditionModel")],
)
def test_a_part_of_another_kind_is_named(somebodys: Path, part: str, kind: str) -> None:
    change(somebodys / "model_index.json", {part: ["diffusers", kind]})
    with pytest.raises(InputError, match=f"{part} is a '{kind}'") as caught:
        read_model_index(somebodys)
    assert caught.value.remedy == SUPPORTED


@pytest.mark.parametrize(
    "command",
    [
        ["generate", "a ninja", "-m", "MODEL", "--out", "OUT.png", "--runtime", "pytorch"],
        ["teacher", "finetune", "--data", "builtin:world", "--base", "MODEL", "--out", "OUT"],
        ["distill", "--teacher", "MODEL", "--data", "builtin:world", "--student", "bk-small", "--out", "OUT"],
        ["distill", "--teacher", "MODEL", "--student", "bk-small", "--dry-run"],
        ["export", "MODEL", "--out", "OUT"],
        ["inspect", "MODEL"],
        ["bench", "MODEL", "--runs", "1"],
        ["evaluate", "MODEL", "--reference", "builtin:world", "--samples", "2"],
        ["compare", "MODEL", "builtin:student", "--out", "OUT.png"],
    ],
    ids=lambda command: " ".join(word for word in command[:2] if word.islower()),
)
@pytest.mark.parametrize("by", ["class", "channels"])
def test_every_command_says_the_same(
    somebodys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], by: str
) -> None:
    if by == "class":
        change(somebodys / "model_index.json", {"_class_name": "StableDiffusionInpaintPipeline"})
    else:
        change(somebodys / "unet" / "config.json", {"in_channels": 9})
    words = {"MODEL": str(somebodys), "OUT": str(tmp_path / "out"), "OUT.png": str(tmp_path / "out.png")}
    assert run([words.get(word, word) for word in command]) == 2
    said = capsys.readouterr().err
    assert "this is an inpainting model" in said and SUPPORTED in said

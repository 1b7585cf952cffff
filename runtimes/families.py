"""Which published model family a folder belongs to, judged by its small files, and which families genin runs.

Every command reads model folders through `folder.read_model_index`, so a family that genin does not run is refused by its name
before any of its weights is read, everywhere in the same words. A custom pipeline made of parts that genin runs is accepted,
whatever its name.

Not here: damaged folders (`folder`), networks that read but cannot be exported (`genin.export.components`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genin.runtimes.errors import InputError

SUPPORTED = (
    "supported: Stable Diffusion 1.x and 2.x text-to-image, that is a UNet2DConditionModel with as many input channels as the "
    "autoencoder's latents have (4, or N), one CLIPTextModel, and an AutoencoderKL or AutoencoderTiny"
)
# What the pipeline's class (`_class_name` of model_index.json) begins with, or contains => the family. The first match counts.
FAMILIES: tuple[tuple[str, str], ...] = (
    (r"ControlNet|T2IAdapter|StableDiffusion(XL)?Adapter", "ControlNet or a similar adapter"),
    (r"^StableDiffusionXL", "Stable Diffusion XL"),
    (r"^StableDiffusion3", "Stable Diffusion 3"),
    (r"^StableVideoDiffusion|Video|^AnimateDiff|^CogVideo|^Mochi|^LTX|^Wan|^Hunyuan.*Video|^I2VGen", "a video model"),
    (r"^Flux", "Flux"),
    (r"^PixArt", "PixArt"),
    (r"^Kandinsky", "Kandinsky"),
    (r"^IF[A-Z]", "DeepFloyd IF"),
    (r"^Wuerstchen|^StableCascade", "Stable Cascade"),
    (r"^LatentConsistency", "a latent consistency model (LCM), distilled to a few steps already"),
    (r"Inpaint", "an inpainting model"),
    (r"InstructPix2Pix", "InstructPix2Pix, which edits pictures"),
    (r"Depth2Img", "a depth-to-image model"),
    (r"Upscale", "an upscaler"),
    (r"UnCLIP|ImageVariation", "a model conditioned on images (unCLIP)"),
    (r"Img2Img", "an image-to-image pipeline"),
)
# Parts of model_index.json that only other families have.
FOREIGN_PARTS: Mapping[str, str] = {
    "transformer": "a diffusion transformer",
    "controlnet": "ControlNet",
    "motion_adapter": "a video model",
    "text_encoder_2": "a model with two text encoders",
    "prior": "a model with a prior",
}
# Input channels of a UNet whose latents have four.
OTHER_INPUTS: Mapping[int, str] = {
    5: "a depth-to-image model",
    7: "an upscaler",
    8: "InstructPix2Pix, which edits pictures",
    9: "an inpainting model",
}
FEW_STEP_NAMES = re.compile(r"turbo|lightning|hyper-?sd|\blcm\b", re.IGNORECASE)


def refuse_other_families(path: Path, index: Mapping[str, Any]) -> None:
    """By `model_index.json` alone. Errors: InputError that names the family."""
    kind = str(index.get("_class_name") or "")
    family = next((name for pattern, name in FAMILIES if re.search(pattern, kind)), None)
    if family is None:
        family = next((name for part, name in FOREIGN_PARTS.items() if any(_entry(index, part))), None)
    if family is not None:
        _refuse(path, family, kind)


def refuse_other_networks(
    path: Path,
    index: Mapping[str, Any],
    unet: Mapping[str, Any],
    vae: Mapping[str, Any],
    scheduler: Mapping[str, Any],
    *,
    own: bool,
) -> None:
    """By the networks' and the scheduler's configurations; `own` are models that genin made, few-step students among them.

    Errors: InputError that names the family, or what the UNet needs besides the text.
    """
    channels, latents = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    for part, name, count in (("unet", "in_channels", channels), ("vae", "latent_channels", latents)):
        if type(count) is not int:
            raise InputError(
                f"'{name}' is not a whole number",
                where=path / part / "config.json",
                remedy="re-create or re-download it",
            )
    if channels != latents:
        family = OTHER_INPUTS.get(channels) if latents == 4 else None
        _refuse(
            path,
            family or "a model that sees more than its latents",
            f"the UNet has {channels} input channels, the autoencoder's latents {latents}",
        )
    if unet.get("class_embed_type") is not None or unet.get("num_class_embeds") is not None:
        _refuse(path, "a UNet that needs inputs other than text", "class embeddings")
    for name in ("addition_embed_type", "encoder_hid_dim_type"):
        if unet.get(name) not in (None, "text"):
            _refuse(path, "a UNet that needs inputs other than text", f"{name} '{unet[name]}'")
    kind = str(scheduler.get("_class_name") or "")
    if unet.get("time_cond_proj_dim") is not None or kind in ("LCMScheduler", "TCDScheduler"):
        _refuse(path, "a latent consistency model (LCM), distilled to a few steps already", "")
    if "FlowMatch" in kind:
        _refuse(path, "a flow-matching model", kind)
    # Only the name it was saved under tells: other models take many steps with the same schedule.
    for config in () if own else (index, unet):
        origin = str(config.get("_name_or_path") or "")
        if FEW_STEP_NAMES.search(origin.rstrip("/").rpartition("/")[2]):
            _refuse(path, "a Turbo model or similar, already distilled to a few steps", f"_name_or_path '{origin}'")


def _entry(index: Mapping[str, Any], part: str) -> list[Any]:
    """[library, class] of a part; [null, null] where a pipeline leaves it out."""
    entry = index.get(part)
    return entry if isinstance(entry, list) else []


def _refuse(path: Path, family: str, why: str) -> None:
    raise InputError(f"this is {family}" + (f" ({why})" if why else ""), where=path, remedy=SUPPORTED)

"""The small files that let other clients open our folders unchanged: onnx/PRECISION in optimum's ORTStableDiffusionPipeline,
openvino/PRECISION in OpenVINO GenAI's Text2ImagePipeline and optimum-intel's OVStableDiffusionPipeline, coreml/PRECISION in
Apple's Swift package once it is compiled.

The autoencoder is always declared as an AutoencoderKL: OpenVINO GenAI opens nothing else, and a graph has no class.

Not here: the graphs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genin.distill.models.folder import ModelFolder
from genin.runtimes.vocabulary import VAE_ENCODER


def write_client_files(
    folder: Path, format: str, model: ModelFolder, tokenizer: Path, components: Sequence[str]
) -> None:
    """Write the files that `format`'s clients need into FORMAT/PRECISION, where the graphs of `components` are; `tokenizer` is the
    bundle's own tokenizer folder."""
    if format == "coreml":
        for name in ("vocab.json", "merges.txt"):
            shutil.copyfile(tokenizer / name, folder / name)
        return
    _write(folder / "model_index.json", model_index())
    _write(folder / "scheduler" / "scheduler_config.json", scheduler_config(model))
    shutil.copytree(tokenizer, folder / "tokenizer")
    networks = {"text_encoder": model.text_encoder, "unet": model.unet}
    for name in components:
        _write(folder / name / "config.json", component_config(name, networks.get(name, model.vae)))
    if format == "openvino":
        from genin.export.converters.to_openvino import convert_tokenizer

        convert_tokenizer(folder / "tokenizer")


def model_index() -> dict[str, Any]:
    from diffusers import __version__

    return {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": __version__,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def scheduler_config(model: ModelFolder) -> dict[str, Any]:
    """The model's schedule as a DDIMScheduler config, which is the sampler that ships."""
    from diffusers import DDIMScheduler, __version__

    own = model.scheduler_config
    foreign = own.get("_class_name", "DDIMScheduler") != "DDIMScheduler"
    if foreign:  # other schedulers of latent models neither clip nor say so
        own = {"clip_sample": False, **own}
    config = dict(DDIMScheduler.from_config(own).config)
    plain = {key: value for key, value in config.items() if not key.startswith("_")}
    return {"_class_name": "DDIMScheduler", "_diffusers_version": __version__, **plain}


def component_config(name: str, module: Any) -> dict[str, Any]:
    """A network's config as clients read it, without the paths of the machine that exported it."""
    own = module if hasattr(module, "to_json_string") else module.config  # diffusers' models, transformers' configs
    plain: dict[str, Any] = json.loads(own.to_json_string())
    plain.pop("_name_or_path", None)
    if name in ("vae_decoder", VAE_ENCODER):
        plain["_class_name"] = "AutoencoderKL"
        plain.setdefault("block_out_channels", list(module.config.block_out_channels))
    return plain


def _write(path: Path, data: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")

"""Model folders: exactly what diffusers writes, plus `genin.json` and a model card.

Teachers and students are both such folders; `DiffusionPipeline.from_pretrained` opens either. `genin.json` holds what
diffusers has no place for: parent, recipe, metrics, few-step timesteps, guidance, licence. Folders that others wrote are
read as well, old ones with `.bin` weights included, never through pickle (`weights_only=True`).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from genin.runtimes.errors import InputError

GENIN_MODEL = 1


@dataclass
class ModelFolder:
    """The parts of one text-to-image model, in memory. `scheduler_config` and `info` are plain dictionaries."""

    path: Path
    tokenizer: Any
    text_encoder: Any
    unet: Any
    vae: Any
    scheduler_config: dict[str, Any]
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def latent_size(self) -> int:
        return int(self.unet.config.sample_size)

    @property
    def image_size(self) -> int:
        return self.latent_size * 2 ** (len(self.vae.config.block_out_channels) - 1)


def load_model_folder(path: Path, *, dtype: torch.dtype = torch.float32) -> ModelFolder:
    """Read a model folder in `dtype`, frozen, in evaluation mode. Errors: InputError naming the file that is wrong."""
    import diffusers
    import transformers

    index = _read_json(path / "model_index.json", "not a model folder (no model_index.json)")
    for part in ("unet", "text_encoder", "vae", "tokenizer", "scheduler"):
        if part not in index or not (path / part).is_dir():
            raise InputError(f"the model folder has no '{part}'", where=path, remedy="re-create or re-download it")
    vae_class = str(index["vae"][1])
    if vae_class not in ("AutoencoderKL", "AutoencoderTiny"):
        raise InputError(
            f"unsupported autoencoder '{vae_class}'", where=path, remedy="supported: AutoencoderKL, AutoencoderTiny"
        )
    quiet = diffusers.utils.logging
    level = quiet.get_verbosity()
    quiet.set_verbosity_error()
    try:
        unet = diffusers.UNet2DConditionModel.from_pretrained(path, subfolder="unet", torch_dtype=dtype)
        vae = getattr(diffusers, vae_class).from_pretrained(path, subfolder="vae", torch_dtype=dtype)
        text_encoder = transformers.CLIPTextModel.from_pretrained(path, subfolder="text_encoder", torch_dtype=dtype)
        tokenizer = transformers.CLIPTokenizer.from_pretrained(path, subfolder="tokenizer")
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"cannot read the model folder ({reason})", where=path, remedy="re-create or re-download it") from error
    finally:
        quiet.set_verbosity(level)
    scheduler = _read_json(path / "scheduler" / "scheduler_config.json", "the model folder has no scheduler")
    info_path = path / "genin.json"
    info = _read_json(info_path, "unreadable genin.json") if info_path.is_file() else {}
    if info and info.get("genin_model") != GENIN_MODEL:
        raise InputError(
            f"this folder's genin.json has version {info.get('genin_model')}, this genin reads {GENIN_MODEL}",
            where=info_path,
            remedy="update genin",
        )
    for module in (unet, vae, text_encoder):
        module.requires_grad_(False).eval()
    return ModelFolder(path, tokenizer, text_encoder, unet, vae, scheduler, info)


def save_model_folder(model: ModelFolder, out: Path, *, dtype: torch.dtype | None = None) -> None:
    """Write a model folder; parts appear by rename. `dtype` stores a copy in another precision (fp16 to ship).

    Files of an earlier save are replaced; anything else in `out` (a `training` folder) stays.
    """
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    from genin.distill.model_card import model_card

    out.mkdir(parents=True, exist_ok=True)
    parts = {"unet": model.unet, "vae": model.vae, "text_encoder": model.text_encoder}
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as name:
        partial = Path(name)
        pipeline = StableDiffusionPipeline(
            **{key: _copy(module, dtype) for key, module in parts.items()},
            tokenizer=model.tokenizer,
            scheduler=DDIMScheduler.from_config(model.scheduler_config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.save_pretrained(partial, safe_serialization=True)
        info = {"genin_model": GENIN_MODEL, **{k: v for k, v in model.info.items() if k != "genin_model"}}
        (partial / "genin.json").write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
        (partial / "README.md").write_text(model_card(model), encoding="utf-8")
        for item in partial.iterdir():
            target = out / item.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(item, target)


def _copy(module: Any, dtype: torch.dtype | None) -> Any:
    import copy

    return module if dtype is None else copy.deepcopy(module).to(dtype)


def _read_json(path: Path, what: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(what, where=path, remedy="give a diffusers model folder") from error
    except ValueError as error:
        raise InputError("not valid JSON", where=path, remedy="re-create or re-download it") from error
    if not isinstance(data, dict):
        raise InputError("not a JSON object", where=path, remedy="re-create or re-download it")
    return data

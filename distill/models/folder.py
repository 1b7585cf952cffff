"""Model folders: exactly what diffusers writes, plus `genin.json` and a model card.

Teachers and students are both such folders; `DiffusionPipeline.from_pretrained` opens either. `genin.json` holds what diffusers has
no place for: parent, recipe, metrics, few-step timesteps, guidance, licence. Third-party folders are read as well
(`genin.runtimes.pytorch_engine` reads the networks, `genin.runtimes.folder` the small files).
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

from genin.distill.models.card import model_card
from genin.distill.models.diffusion import ddim_scheduler
from genin.files import hidden_prefix, writing
from genin.processes import is_main_process, wait_for_all
from genin.runtimes.errors import InputError
from genin.runtimes.folder import (
    AGAIN,
    DEFAULT_GUIDANCE_SCALE,
    GENIN_MODEL,
    check_token_rows,
    plain_json,
    read_info,
    read_scheduler,
    square_latent_size,
)
from genin.runtimes.pytorch_engine import read_networks
from genin.runtimes.tokenizer_files import is_combined, tokenizer_files


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

    def parameters(self) -> dict[str, int]:
        """The number of weights of each network."""
        networks = {"text_encoder": self.text_encoder, "unet": self.unet, "vae": self.vae}
        return {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}

    def card(self) -> str:
        """The model card, in Markdown."""
        prediction_type = str(self.scheduler_config.get("prediction_type"))
        return model_card(self.info, self.parameters(), self.image_size, prediction_type)

    @property
    def latent_size(self) -> int:
        """Side. Errors: InputError if they are not square."""
        return square_latent_size(self.unet.config, self.path / "unet" / "config.json")

    @property
    def image_size(self) -> int:
        return int(self.latent_size * 2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def guidance_scale(self) -> float:
        """The scale it is meant to be sampled at."""
        return float(self.info.get("guidance_scale", DEFAULT_GUIDANCE_SCALE))


def load_model_folder(path: Path, *, dtype: torch.dtype = torch.float32) -> ModelFolder:
    """Read a model folder in `dtype`, frozen, in evaluation mode. Errors: InputError naming the file that is wrong."""
    import transformers

    check_token_rows(path)
    networks = read_networks(path, dtype=dtype)
    try:
        made = tokenizer_files(path / "tokenizer") if is_combined(path / "tokenizer") else {}
        with plain_json(path / "tokenizer", made) as plain:
            tokenizer = transformers.CLIPTokenizer.from_pretrained(plain, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"cannot read the tokenizer ({reason})", where=path / "tokenizer", remedy=AGAIN) from error
    positions = int(networks.text_encoder.config.max_position_embeddings)
    # Where a folder does not state the length of captions, this is 10³⁰.
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    parts = (networks.text_encoder, networks.unet, networks.vae)
    return ModelFolder(path, tokenizer, *parts, read_scheduler(path), info=read_info(path))


def save_model_folder(model: ModelFolder, out: Path, *, dtype: torch.dtype | None = None) -> None:
    """Write a model folder, which appears whole, by renaming. `dtype` stores a copy in another precision (fp16 to ship).

    Where there is a folder already, files of an earlier save are replaced one after another, `model_index.json` the last;
    anything else in it (a `training` folder) is kept.
    """
    if is_main_process():
        _write_folder(model, out, dtype)
    wait_for_all()


def _write_folder(model: ModelFolder, out: Path, dtype: torch.dtype | None) -> None:
    from diffusers import StableDiffusionPipeline

    out.parent.mkdir(parents=True, exist_ok=True)
    parts = {"unet": model.unet, "vae": model.vae, "text_encoder": model.text_encoder}
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=hidden_prefix(out)) as name:
        partial = Path(name) / out.name
        pipeline = StableDiffusionPipeline(
            **{key: _copy(module, dtype) for key, module in parts.items()},
            tokenizer=model.tokenizer,
            scheduler=ddim_scheduler(model.scheduler_config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        info = {"genin_model": GENIN_MODEL, **{k: v for k, v in model.info.items() if k != "genin_model"}}
        with writing(out, partial):
            pipeline.save_pretrained(partial, safe_serialization=True)
            (partial / "genin.json").write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
            (partial / "README.md").write_text(model.card(), encoding="utf-8")
        for file in partial.rglob("*.safetensors"):
            apply_umask(file)
        for file in partial.glob("*/config.json"):
            _forget_origin(file)
        if not out.exists():
            partial.rename(out)
            return
        for item in sorted(partial.iterdir(), key=lambda item: item.name == "model_index.json"):
            target = out / item.name
            if target.is_dir():
                shutil.rmtree(target)
            item.replace(target)


def _forget_origin(config: Path) -> None:
    """Leave out the folder that diffusers has read a part from: it is this machine's own, and equal models would differ in it."""
    values = json.loads(config.read_text(encoding="utf-8"))
    if values.pop("_name_or_path", None) is not None:
        config.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def apply_umask(path: Path) -> None:
    """Give a file or folder the permissions that the umask grants new ones: what safetensors, coremltools and tempfile make is
    accessible to the owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def _copy(module: Any, dtype: torch.dtype | None) -> Any:
    import copy

    # Not diffusers' own `to`, which warns of modules to be kept in fp32 even where there are none.
    return module if dtype is None else torch.nn.Module.to(copy.deepcopy(module), dtype)

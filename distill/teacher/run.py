"""What all stages of a teacher's training share, and how one goes on from an earlier teacher.

Not here: the stages (`train`, `autoencoder`, `text_encoder`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from genin.distill.data.dataset import joined_origins
from genin.distill.inputs.sources import Source, joined_licences
from genin.distill.loop.run_folder import RunOptions, claim_run
from genin.distill.models.autoencoder import check_autoencoder
from genin.distill.models.folder import ModelFolder, load_model_folder
from genin.distill.recipe import AutoencoderRecipe, Recipe
from genin.runtimes.errors import InputError
from genin.runtimes.folder import DEFAULT_STEPS
from genin.runtimes.origin import fingerprint
from genin.runtimes.text import read_text


@dataclass(frozen=True)
class Run:
    """What all stages of a teacher's training share. `start` is an earlier teacher to start from."""

    source: Source
    out: Path
    recipe: Recipe
    options: RunOptions
    start: ModelFolder | None

    @classmethod
    def open(cls, source: Source, out: Path, recipe: Recipe, options: RunOptions, init: Path | None) -> Run:
        """Refuse what can be refused, then make `out` this run's."""
        start = load_model_folder(init) if init is not None else None
        if start is None and not source.columns:
            raise InputError(
                "the data has no attribute columns to train a text encoder on",
                where=source.name,
                remedy="tune a teacher (genin teacher finetune), start from one (init), or name columns in data prepare",
            )
        if recipe.autoencoder.images or recipe.autoencoder.decoder_images:
            check_autoencoder(recipe.autoencoder)
        run = cls(source, out, recipe, options, start)
        begun_with = {"data": source.digest, "init": fingerprint(init) if init is not None else "nothing"}
        stages = {
            "autoencoder": autoencoder_settings(recipe.autoencoder),
            "decoder": decoder_settings(recipe.autoencoder),
            "text_encoder": recipe.text_encoder,
            "teacher": recipe.teacher,
        }
        claim_run(run.folder, recipe, begun_with, stages, resume=options.resume)
        return run

    @property
    def folder(self) -> Path:
        return self.out / "training"

    def info(self, images_seen: int) -> dict[str, Any]:
        """The teacher folder's `genin.json`."""
        start, recipe = self.start, self.recipe.as_dict()
        earlier: Mapping[str, Any] = {} if start is None else start.info
        licences = [self.source.licence, None if start is None else earlier.get("licence", "unknown")]
        origins = [self.source.origins, earlier.get("origins", ())]
        if weights := self.recipe.autoencoder.initial_weights:
            licences.append(self.recipe.autoencoder.initial_weights_licence)
            origins.append([origin_of_weights(Path(weights).expanduser(), licences[-1])])
        return {
            "kind": "teacher",
            "parent": None if start is None else str(earlier.get("name") or start.path.name),
            "data": self.source.name,
            "licence": joined_licences(*licences),
            "origins": joined_origins(*origins),
            "guidance": "free",
            "guidance_scale": self.recipe.teacher.guidance_scale,
            "default_steps": DEFAULT_STEPS,
            "few_step_timesteps": None,
            "image_size": self.recipe.autoencoder.image_size,
            "images_seen": images_seen,
            "recipe": recipe if start is None else {**recipe, "init": earlier.get("recipe")},
            "metrics": {},
        }


def origin_of_weights(folder: Path, licence: str | None) -> dict[str, Any]:
    """Initial weights as one of a model's origins; whose they are says the line "Copyright …" of a LICENSE beside them."""
    texts = [read_text(file) for file in sorted(folder.glob("LICENSE*")) if file.is_file()]
    claims = [
        line.strip() for text in texts for line in text.splitlines() if line.strip().lower().startswith("copyright")
    ]
    source = f"initial weights of the autoencoder: {folder.name}"
    return {"source": source, "rights": next(iter(claims), ""), "licence": licence, "pictures": 0}


def autoencoder_settings(recipe: AutoencoderRecipe) -> AutoencoderRecipe:
    """The first stage's, whose checkpoint does not depend on the second."""
    return replace(recipe, decoder_images=0)


def decoder_settings(recipe: AutoencoderRecipe) -> AutoencoderRecipe:
    """The second stage's: plain reconstruction."""
    plain = replace(recipe, latent_noise=0.0, latent_noise_max=0.0, channel_dropout=0.0, scale_weight=0.0)
    return replace(plain, prior_weight=0.0, images=recipe.decoder_images)


@torch.no_grad()
def start_from(network: nn.Module, earlier: nn.Module, fresh: Sequence[str] = ()) -> float:
    """Copy an earlier network's weights wherever names agree, and of each tensor the part that both have.

    UNets of different depth are aligned at the finest level. Rows and columns that only the new network has keep their fresh
    values, and so do the modules named in `fresh`. Returns the share of the weights copied.
    """
    coarser = _levels(network) - _levels(earlier)
    source, copied, total = earlier.state_dict(), 0, 0
    for name, value in network.state_dict().items():
        total += value.numel()
        old = None if name.partition(".")[0] in fresh else source.get(_aligned(name, coarser))
        if old is not None and old.ndim == value.ndim:
            shared = tuple(slice(0, min(a, b)) for a, b in zip(old.shape, value.shape, strict=True))
            value[shared] = old[shared].to(value)
            copied += value[shared].numel()
    return copied / max(1, total)


def _levels(network: nn.Module) -> int:
    """The number of a UNet's levels; 0 for other networks."""
    return len(getattr(network, "up_blocks", ()))


def _aligned(name: str, coarser: int) -> str:
    """The earlier network's name of a weight: its up path, which counts from the coarsest level, starts `coarser` levels later."""
    part, dot, rest = name.partition(".")
    level, _, weight = rest.partition(".")
    return f"{part}{dot}{int(level) - coarser}.{weight}" if part == "up_blocks" else name

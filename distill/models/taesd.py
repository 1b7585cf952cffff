"""Weights that an autoencoder may start from: a folder of diffusers, or a pair of files of the TAESD family.

TAESD (Bohan, github.com/madebyollin/taesd, MIT) publishes each tiny autoencoder as two state dicts, `NAME_encoder.pth` and
`NAME_decoder.pth`, numbered like the layers of diffusers' `AutoencoderTiny`. Some have a branch with group normalisation in the
blocks of the coarsest level, which that class cannot hold. It is dropped: a few hundred updates make up for it (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genin.runtimes.errors import InputError

BRANCH = ".pool."  # of a block of the coarsest level, in TAEF2 and its kin


def load_initial_weights(vae: nn.Module, folder: Path) -> None:
    """Fill an `AutoencoderTiny` with the weights in `folder`.

    Errors: InputError for a folder without weights, unreadable files, or weights of another shape, with the first that differs.
    """
    state = _read(folder)
    own = vae.state_dict()
    differing = [
        f"{name} is {_shape(state.get(name))} there and {_shape(own.get(name))} by the recipe"
        for name in sorted(own.keys() | state.keys())
        if _shape(state.get(name)) != _shape(own.get(name))
    ]
    if differing:
        remedy = "set autoencoder.channels, latent_channels, encoder_blocks and decoder_blocks to those of the weights"
        raise InputError(f"these weights do not fit the autoencoder: {differing[0]}", where=folder, remedy=remedy)
    vae.load_state_dict({name: value.float() for name, value in state.items()})


def _shape(value: Tensor | None) -> str:
    return "missing" if value is None else "×".join(map(str, value.shape))


def _read(folder: Path) -> dict[str, Tensor]:
    """All weights in the folder, by `AutoencoderTiny`'s names."""
    encoders = sorted(folder.glob("*encoder.pth"))
    if encoders:
        decoder = encoders[0].with_name(encoders[0].name.replace("encoder", "decoder"))
        if len(encoders) > 1 or not decoder.is_file():
            remedy = "keep one pair there: NAME_encoder.pth and NAME_decoder.pth"
            raise InputError("the two files of one autoencoder are expected", where=folder, remedy=remedy)
        # diffusers numbers a decoder's layers without the clamp that TAESD counts as the first.
        parts = (("encoder", encoders[0], 0), ("decoder", decoder, 1))
        return {key: value for part, path, first in parts for key, value in _layers(part, path, first).items()}
    weights = folder / "diffusion_pytorch_model.safetensors"
    if not weights.is_file():
        remedy = "give a folder with diffusion_pytorch_model.safetensors, or with NAME_encoder.pth and NAME_decoder.pth"
        raise InputError("no weights of an autoencoder here", where=folder, remedy=remedy)
    from safetensors.torch import load_file

    loaded: dict[str, Tensor] = load_file(weights)
    return loaded


def _layers(part: str, path: Path, first: int) -> dict[str, Tensor]:
    try:
        state: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises what the file's format makes of it
        raise InputError("cannot read this file of weights", where=path, remedy="download it again") from error
    named = {}
    for key, value in state.items():
        number, _, rest = key.partition(".")
        if BRANCH not in f".{rest}" and number.isdigit():
            named[f"{part}.layers.{int(number) - first}.{rest}"] = value
    return named

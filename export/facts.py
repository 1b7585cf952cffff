"""Parameters and multiply-adds of a model's networks, from their configs alone: built on PyTorch's `meta` device.

Multiply-adds are those of one picture, without guidance: text encoder once, UNet one step, decoder once; encoder once. They count
convolutions, linear layers and attention products.

Not here: facts of bundles (their manifest states them, as measured here at export).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from genin.benchmarks.model_facts import cost_of
from genin.export.components import VaeDecoder, VaeEncoder
from genin.runtimes.errors import InputError
from genin.runtimes.folder import AGAIN, latent_size, read_config, read_json

Facts = dict[str, dict[str, int]]


def network_facts(path: Path) -> Facts:
    """Each network of a model folder (by component) => parameters, macs. Errors: InputError for a bad config."""
    try:
        return _facts(path)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"cannot build the networks ({reason})", where=path, remedy=AGAIN) from error


def _facts(path: Path) -> Facts:
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel

    index = read_json(path / "model_index.json", "not a model folder (no model_index.json)")
    with torch.device("meta"):
        text_encoder = CLIPTextModel(CLIPTextConfig.from_dict(read_config(path, "text_encoder"))).eval()
        unet = _from_config(diffusers.UNet2DConditionModel, read_config(path, "unet"))
        vae = _from_config(getattr(diffusers, index["vae"][1]), read_config(path, "vae"))
        decoder, encoder = VaeDecoder(vae), VaeEncoder(vae)
        length, size = text_encoder.config.max_position_embeddings, latent_size(unet.config)
        ids = torch.zeros(1, length, dtype=torch.int64)
        latents = torch.zeros(1, unet.config.in_channels, *size)
        states = torch.zeros(1, length, unet.config.cross_attention_dim)
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        picture = torch.zeros(1, 3, *(side * factor for side in size))
        return {
            "text_encoder": _count(text_encoder, lambda: text_encoder(ids)),
            "unet": _count(unet, lambda: unet(latents, torch.zeros(1), encoder_hidden_states=states)),
            "vae_decoder": _count(decoder, lambda: decoder(latents)),
            "vae_encoder": _count(encoder, lambda: encoder(picture)),
        }


def _from_config(kind: Any, config: dict[str, Any]) -> Any:
    from genin.export.converters.quiet import quiet

    with quiet():
        return kind.from_config(config).eval()


def _count(module: nn.Module, call: Callable[[], object]) -> dict[str, int]:
    parameters, macs = cost_of(module, call)
    return {"parameters": parameters, "macs": macs}

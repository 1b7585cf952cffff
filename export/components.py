"""The networks of a model as they are exported: plain tensors in, plain tensors out, with golden cases.

Names are those of diffusers and optimum, so that their clients find them: `input_ids` => `last_hidden_state`,
`pooler_output`; `sample`, `timestep`, `encoder_hidden_states` => `out_sample`; `latent_sample` => `sample` (decoder); `sample` =>
`latent_sample` (encoder). The batch is dynamic, everything else fixed. The decoder is given latents / scaling_factor, as diffusers
does, and the encoder gives such latents.

A golden case is a set of realistic inputs (tokens of prompts, unit-variance latents at the model's own timesteps) with
PyTorch's fp32 outputs. Cases differ in batch size, so that parity also proves that the batch is dynamic.

Not here: conversion (`to_onnx`, `to_openvino`, `to_coreml`), and models whose UNet needs more than text (SDXL's sizes, image
prompts): those are refused.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genin.distill.models.folder import ModelFolder
from genin.distill.models.text import spelled
from genin.export.shapes import ANY_BATCH, Shapes
from genin.runtimes.errors import InputError
from genin.runtimes.folder import square_latent_size
from genin.runtimes.noise import normal
from genin.runtimes.pytorch_engine import mean_latents
from genin.runtimes.tensors import OUTPUTS
from genin.runtimes.vocabulary import ALL_COMPONENTS, VAE_ENCODER

PROMPTS = (
    "a ninja in an orange outfit meditating on a mountain at sunset",
    "",
    "a happy samurai in a red cloak running through a snowy forest at night",
)
SIZED = ("sample", "latent_sample", "out_sample")  # the axes of a picture's height and width, or its latents'
FOUR = (4, 3, 2, 1)  # quarters of the schedule, for models without timesteps of their own

Case = Mapping[str, NDArray[Any]]


class TextEncoder(nn.Module):
    """input_ids (batch, length) int => last_hidden_state (batch, length, hidden), pooler_output (batch, hidden)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        out = self.encoder(input_ids=input_ids, return_dict=True)
        return out.last_hidden_state, out.pooler_output


class Unet(nn.Module):
    """sample (batch, C, H, W), timestep (1,), encoder_hidden_states (batch, length, hidden) => out_sample, like sample."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        out: Tensor = self.unet(sample, timestep, encoder_hidden_states=encoder_hidden_states, return_dict=False)[0]
        return out


class VaeDecoder(nn.Module):
    """latent_sample (batch, C, h, w) => sample (batch, 3, H, W) in about [−1, 1]."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = decoding_half(vae)

    def forward(self, latent_sample: Tensor) -> Tensor:
        out: Tensor = self.vae.decode(latent_sample, return_dict=False)[0]  # type: ignore[operator]
        return out


class VaeEncoder(nn.Module):
    """sample (batch, 3, H, W) in [−1, 1] => latent_sample (batch, C, h, w), of a variational encoder the mean."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = encoding_half(vae)

    def forward(self, sample: Tensor) -> Tensor:
        return mean_latents(self.vae, sample)


def decoding_half(vae: nn.Module) -> nn.Module:
    """The same autoencoder, sharing its weights, without what encodes: each half is measured, stored and released alone."""
    return _without(vae, "encoder", "quant_conv")


def encoding_half(vae: nn.Module) -> nn.Module:
    """The same autoencoder, sharing its weights, without what decodes."""
    return _without(vae, "decoder", "post_quant_conv")


def _without(vae: nn.Module, *parts: str) -> nn.Module:
    half = copy.copy(vae)
    half._modules = {name: None if name in parts else part for name, part in vae._modules.items()}
    return half


@dataclass(frozen=True)
class Component:
    """One network to export. `inputs` and `outputs` are names in order; `cases` the golden inputs and outputs."""

    name: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    cases: tuple[Case, ...]
    guidance_batch: int = 1  # 2 for classifier-free guidance: what graphs with a fixed batch take
    # Inputs on the model's own trajectories, from which ranges of activations are taken.
    calibration: tuple[Case, ...] = ()
    shapes: Shapes = ANY_BATCH
    size_step: int = 1  # what a free height and width are multiples of

    def example(self) -> dict[str, Tensor]:
        """The inputs to trace with, in the fixed batch, or in one of 2: a tracer would treat a batch of 1 as a constant."""
        size = self.shapes.batch or 2
        case = {name: self.cases[0][name] for name in self.inputs}
        rows = {
            name: np.resize(np.arange(len(value)), 1 if name == "timestep" else size) for name, value in case.items()
        }
        return {name: torch.from_numpy(value[rows[name]]) for name, value in case.items()}

    def free_axes(self, name: str) -> dict[int, str]:
        """The axes of an input or output that ONNX and OpenVINO graphs leave free, and their names."""
        axes = {} if self.shapes.batch or name == "timestep" else {0: "batch"}
        if self.shapes.any_size and name in SIZED:
            axes |= {2: "height", 3: "width"}
        return axes


def components(
    model: ModelFolder, shapes: Shapes = ANY_BATCH, names: Sequence[str] = ALL_COMPONENTS
) -> list[Component]:
    """The networks of a model in fp32, with or without the encoder. Errors: InputError for unusable weights or networks."""
    check_supported(model)
    networks = {name: network for name, network in modules(model).items() if name in names}
    for name, module in networks.items():
        check_finite(name, module)
    text_cases = _text_cases(model)
    encoder = _component("text_encoder", networks["text_encoder"], text_cases)
    states = [case["last_hidden_state"] for case in encoder.cases]
    unet = _component("unet", networks["unet"], _unet_cases(model, states, shapes.any_size))
    guided = model.info.get("guidance") != "baked"
    unet = replace(unet, guidance_batch=2 if guided else 1, size_step=size_step(model))
    decoder = _component("vae_decoder", networks["vae_decoder"], _decoder_cases(model, shapes.any_size))
    found = [encoder, unet, decoder]
    if VAE_ENCODER in networks:
        cases = [{"sample": np.clip(case["sample"], -1, 1)} for case in decoder.cases]
        found.append(_component(VAE_ENCODER, networks[VAE_ENCODER], cases))
    return [replace(component, shapes=shapes) for component in found]


def modules(model: ModelFolder) -> dict[str, nn.Module]:
    """Component => the module that computes it."""
    return {
        "text_encoder": TextEncoder(model.text_encoder),
        "unet": Unet(model.unet),
        "vae_decoder": VaeDecoder(model.vae),
        VAE_ENCODER: VaeEncoder(model.vae),
    }


def _component(name: str, module: nn.Module, inputs: Sequence[Case]) -> Component:
    module.eval().requires_grad_(False)
    outputs = OUTPUTS[name]
    cases = tuple({**case, **run_module(module, case, outputs)} for case in inputs)
    for case in cases:
        for output in outputs:
            if not np.isfinite(case[output]).all():
                raise InputError(f"the {name} returns NaN or infinity for ordinary input", remedy="train it again")
    return Component(name, module, tuple(inputs[0]), outputs, cases)


def run_module(module: nn.Module, case: Case, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
    """PyTorch's outputs by name for one case's inputs; `case` may hold outputs already, which are ignored."""
    with torch.inference_mode():
        results = module(*(torch.from_numpy(value) for name, value in case.items() if name not in outputs))
    results = results if isinstance(results, tuple) else (results,)
    return {name: np.ascontiguousarray(result.numpy()) for name, result in zip(outputs, results, strict=True)}


# --- golden inputs ---------------------------------------------------------------------------------------------------


def own_timesteps(model: ModelFolder) -> list[int]:
    """The timesteps the model ships with, largest first; quarters of the schedule if it names none."""
    few = model.info.get("few_step_timesteps")
    if few:
        return sorted({int(t) for steps in few.values() for t in steps}, reverse=True)
    train = int(model.scheduler_config.get("num_train_timesteps", 1000))
    return [train * quarter // 4 - 1 for quarter in FOUR]


def _text_cases(model: ModelFolder) -> list[Case]:
    tokens = token_ids(model, PROMPTS)
    return [{"input_ids": tokens[:2]}, {"input_ids": tokens[2:]}]


def token_ids(model: ModelFolder, prompts: Sequence[str]) -> NDArray[np.int64]:
    """(prompts, length), padded."""
    options = {"padding": "max_length", "max_length": max_length(model), "truncation": True, "return_tensors": "np"}
    return np.asarray(model.tokenizer(spelled(model.tokenizer, prompts), **options).input_ids, np.int64)


def _unet_cases(model: ModelFolder, states: Sequence[NDArray[Any]], any_size: bool) -> list[Case]:
    """One case per timestep, at least two; the first has batch 2, the others 1. Where the size is free, the last is wider than the
    model's own."""
    cases: list[Case] = []
    timesteps, side = own_timesteps(model), model.latent_size
    if len(timesteps) == 1:
        timesteps *= 2
    channels, wider = int(model.unet.config.in_channels), side + size_step(model)
    for index, timestep in enumerate(timesteps):
        text = states[min(index, 1)]
        width = wider if any_size and index == len(timesteps) - 1 else side
        sample = normal(index, (len(text), channels, side, width))
        cases.append({"sample": sample, "timestep": np.array([timestep], np.int64), "encoder_hidden_states": text})
    return cases


def _decoder_cases(model: ModelFolder, any_size: bool) -> list[Case]:
    channels, side = int(model.vae.config.latent_channels), model.latent_size
    scale = np.float32(model.vae.config.scaling_factor)
    widths = (side, side + size_step(model) if any_size else side)
    return [
        {"latent_sample": normal(100 + n, (n, channels, side, width)) / scale}
        for n, width in zip((2, 1), widths, strict=True)
    ]


def size_step(model: ModelFolder) -> int:
    """The number that the height and width of latents must be multiples of: the UNet halves them once per level except the last."""
    return int(2 ** (len(model.unet.config.block_out_channels) - 1))


def max_length(model: ModelFolder) -> int:
    """Tokens of a prompt, padded: the tokenizer's length, at most the encoder's number of positions."""
    positions = int(model.text_encoder.config.max_position_embeddings)
    return min(int(model.tokenizer.model_max_length), positions)


# --- refusals --------------------------------------------------------------------------------------------------------


def check_finite(name: str, module: nn.Module) -> None:
    """Errors: InputError naming the first tensor that holds NaN or infinity."""
    for key, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"weights with NaN or infinity in '{name}'", where=key, remedy="use an earlier checkpoint")


def check_supported(model: ModelFolder) -> None:
    """Errors: InputError for a UNet that needs conditions other than text, or has other channels than the decoder."""
    config = model.unet.config
    if config.get("addition_embed_type") not in (None, "text") or config.get("class_embed_type") is not None:
        raise InputError(
            "the UNet needs inputs other than text", where=model.path, remedy="only text-to-image UNets export"
        )
    if config.in_channels != model.vae.config.latent_channels:
        raise InputError(
            f"the UNet has {config.in_channels} channels and the decoder {model.vae.config.latent_channels}",
            where=model.path,
            remedy="inpainting and depth UNets do not export",
        )
    square_latent_size(config, model.path / "unet" / "config.json")
    width, hidden = config.cross_attention_dim, model.text_encoder.config.hidden_size
    if width != hidden:
        raise InputError(f"the UNet reads text of width {width}, the encoder gives {hidden}", where=model.path)

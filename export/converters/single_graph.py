"""A model's whole pipeline, from token ids and noise to pictures, as one network, for hosts that want a single session.

The steps are unrolled, and everything that is constant or common to all steps is computed once:

- time: each timestep's embedding is a constant. Its projections into all residual blocks are one matrix product for all
  steps together, and constants where no text is added to the embedding;
- text: keys and values of cross-attention, and the text's part of the embedding, are computed once per prompt;
- norms: the scale and shift of a norm that the embedding modulates are folded into that product;
- guidance: the scale and the empty prompt's text are constants; both branches go through as one batch, and neither where a student
  has it in its weights;
- sampling: one DDIM step is a·x + b·prediction, with a and b computed in advance.

All of this is exact except for rounding. Layers keep their paths in the three networks, so a precision plan of the model applies
here, too, except to the projections of time, which are one layer and stored by the plan's default.

Not here: conversion (`to_onnx`, `to_openvino`); tokens and noise, which stay outside: a seed gives the same picture as elsewhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from numpy.typing import NDArray
from torch import Tensor, nn

from genin.distill.models.folder import ModelFolder
from genin.export.components import Case, Component, decoding_half, token_ids
from genin.export.prompt_set import Amount, batches, prompts_and_seeds
from genin.export.shapes import ANY_BATCH, Shapes
from genin.runtimes.engine import Array
from genin.runtimes.errors import InputError
from genin.runtimes.folder import read_constants
from genin.runtimes.manifest import MAX_UNROLLED
from genin.runtimes.noise import batch_normal
from genin.runtimes.pytorch_engine import Networks, PyTorchEngine
from genin.runtimes.results import to_pictures
from genin.runtimes.samplers import Schedule, guide
from genin.runtimes.tensors import INPUTS, OUTPUTS
from genin.runtimes.vocabulary import TEXT_TO_IMAGE
from genin.runtimes.wording import counted, counted_each

Ids = NDArray[np.int64]
# One step's input to each residual block: a summand, or a scale and a shift, each (batch or 1, channels, 1, 1).
Modulation = Sequence[Sequence[Tensor]]


class SingleGraph(nn.Module):
    """input_ids (batch, length) int64, noise (batch, C, h, w) float32 => images (batch, H, W, 3) uint8.

    `networks` are a model's own; the UNet is changed in place. `pairs` are the timesteps of the steps, each with the next. With
    `guidance_scale` other than 1, `empty_ids` (1, length) are the empty prompt's.
    """

    encoder: Any
    unet: Any
    vae: Any
    empty: Tensor | None

    def __init__(
        self,
        networks: Networks,
        schedule: Schedule,
        pairs: Sequence[tuple[int, int]],
        guidance_scale: float = 1.0,
        empty_ids: Tensor | None = None,
    ) -> None:
        super().__init__()
        encoder, unet = networks.text_encoder, networks.unet
        self.encoder, self.unet, self.vae = encoder, unet, networks.vae
        self._timesteps = [t for t, _ in pairs]
        self._mix = [mix(schedule, *pair) for pair in pairs]
        self._guidance_scale = guidance_scale
        self._step = _Step()
        with torch.no_grad():
            empty = None if empty_ids is None else encoder(input_ids=empty_ids, return_dict=True).last_hidden_state
            self.register_buffer("empty", empty)
            unet.conditions = Conditions(unet, self._timesteps)
        _modulate(unet, self._step)
        self._once = list(_keep_text(unet))

    def forward(self, input_ids: Tensor, noise: Tensor) -> Tensor:
        text: Tensor = self.encoder(input_ids=input_ids, return_dict=True).last_hidden_state
        if self.empty is not None:
            text = torch.cat([self.empty.expand(noise.shape[0], -1, -1), text])
        x = noise
        for timestep, modulation, (a, b) in zip(self._timesteps, self.unet.conditions(text), self._mix, strict=True):
            self._step.modulation = modulation
            prediction = self._predict(x, timestep, text)
            x = b * prediction if a == 0 else a * x + b * prediction
        for layer in self._once:
            layer.forget()
        picture: Tensor = self.vae.decode(x / self.vae.config.scaling_factor, return_dict=False)[0]
        return (picture * 127.5 + 127.5).round().clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8)

    def _predict(self, x: Tensor, timestep: int, text: Tensor) -> Tensor:
        given = x if self.empty is None else torch.cat([x, x])
        predicted: Tensor = self.unet(given, timestep, encoder_hidden_states=text, return_dict=False)[0]
        if self.empty is None:
            return predicted
        free, led = predicted[: x.shape[0]], predicted[x.shape[0] :]  # chunk() would fix the batch
        return free + self._guidance_scale * (led - free)


def mix(schedule: Schedule, timestep: int, next_timestep: int) -> tuple[float, float]:
    """One step of `Schedule.step` as a·x + b·prediction => (a, b)."""
    x, prediction = np.array([1, 0], np.float32), np.array([0, 1], np.float32)
    a, b = schedule.step(prediction, x, timestep, next_timestep)[0].tolist()
    return a, b


def timesteps_of(model: ModelFolder, steps: int) -> tuple[tuple[int, int], ...]:
    """The timesteps of `steps` steps, each with the next."""
    schedule, few = Schedule.from_config(model.scheduler_config), model.info.get("few_step_timesteps") or {}
    return schedule.explicit_steps(few[str(steps)]) if str(steps) in few else schedule.steps(steps)


def check_unrollable(model: ModelFolder, steps: int) -> None:
    """Errors: InputError for a model or steps that a single graph cannot express."""
    schedule, remedy = Schedule.from_config(model.scheduler_config), "export it without a single graph"
    few = model.info.get("few_step_timesteps") or {}
    if few and str(steps) not in few:
        raise InputError(
            f"this student was trained for {counted_each(map(int, few), 'step')}, not for {steps}",
            remedy="name one of these",
        )
    if not 1 <= steps <= MAX_UNROLLED:
        raise InputError(
            f"{counted(steps, 'step')} cannot be unrolled into one graph", remedy=f"name 1 to {MAX_UNROLLED}"
        )
    if schedule.clip is not None:
        raise InputError("its scheduler clips, which a single graph does not support", where="scheduler", remedy=remedy)
    for name, block in model.unet.named_modules():
        if isinstance(block, ResnetBlock2D) and (block.upsample is not None or block.downsample is not None):
            raise InputError("a residual block that changes the size is not supported", where=name, remedy=remedy)


def single_graph(model: ModelFolder, steps: int, amount: Amount, shapes: Shapes = ANY_BATCH) -> tuple[Component, float]:
    """A loaded model as one component, its UNet changed in place, and its guidance scale. Its size is always the model's."""
    sampler = read_constants(model.path).sampler
    scale = 1.0 if sampler.guidance == "baked" else sampler.guidance_scale
    cases = _cases(model, steps, scale, amount)
    module = SingleGraph(
        Networks(model.text_encoder, model.unet, decoding_half(model.vae)),
        Schedule.from_config(model.scheduler_config),
        timesteps_of(model, steps),
        scale,
        None if scale == 1 else torch.from_numpy(token_ids(model, [""])),
    ).eval()
    inputs, outputs = INPUTS[TEXT_TO_IMAGE], OUTPUTS[TEXT_TO_IMAGE]
    given = tuple({name: case[name] for name in inputs} for case in cases)
    return Component(TEXT_TO_IMAGE, module, inputs, outputs, cases, calibration=given, shapes=shapes), scale


def _cases(model: ModelFolder, steps: int, guidance_scale: float, amount: Amount) -> tuple[Case, ...]:
    draw = step_by_step(model, steps, guidance_scale)
    cases: list[Case] = []
    for rows in batches(amount.pictures):
        prompts, seeds = prompts_and_seeds(rows)
        ids = token_ids(model, prompts)
        noise = batch_normal(seeds, (int(model.unet.config.in_channels), model.latent_size, model.latent_size))
        cases.append({"input_ids": ids, "noise": noise, "images": draw(ids, noise)})
    return tuple(cases)


def step_by_step(model: ModelFolder, steps: int, guidance_scale: float) -> Callable[[Ids, Array], NDArray[np.uint8]]:
    """The reference for a single graph of the model, drawn by its separate networks: token ids and noise => pictures."""
    networks = PyTorchEngine(Networks(model.text_encoder, model.unet, model.vae))
    schedule = Schedule.from_config(model.scheduler_config)
    pairs = timesteps_of(model, steps)
    empty = None if guidance_scale == 1 else networks.encode(token_ids(model, [""]))

    def draw(ids: Ids, noise: Array) -> NDArray[np.uint8]:
        text, x = networks.encode(ids), noise
        for t, t_next in pairs:
            prediction = networks.predict(x, t, text)
            if empty is not None:
                free = np.repeat(empty, len(ids), axis=0)
                prediction = guide(networks.predict(x, t, free), prediction, guidance_scale)
            x = schedule.step(prediction, x, t, t_next)[0]
        return to_pictures(networks.decode(x / np.float32(model.vae.config.scaling_factor)))

    return draw


# --- time ------------------------------------------------------------------------------------------------------------


class Conditions(nn.Module):
    """text (batch, length, hidden) => the modulation of every step: all projections of the embedding at once.

    Where a block scales and shifts its norm by the embedding, (γn + β)(1 + s) + t for a normalised n and projections s, t of the
    embedding is n·γ(1 + s) + (β(1 + s) + t), whose factors are affine in the embedding: γ and β go into the weights.
    """

    times: Tensor

    def __init__(self, unet: Any, timesteps: Sequence[int]) -> None:
        super().__init__()
        blocks = [block for block in unet.modules() if isinstance(block, ResnetBlock2D)]
        self._act = nn.Identity() if blocks[0].skip_time_act else blocks[0].nonlinearity
        self._last_act = unet.time_embed_act or nn.Identity()
        # Not registered here: its layers keep their names in the UNet.
        self._text = [unet.add_embedding] if unet.config.addition_embed_type == "text" else []
        projections = [_projection(block) for block in blocks]
        self._parts = [2 if block.time_embedding_norm == "scale_shift" else 1 for block in blocks]
        sizes = [len(bias) for _, bias in projections]
        self._sizes = [size // n for size, n in zip(sizes, self._parts, strict=True) for _ in range(n)]
        sample = torch.zeros(1)
        times = torch.stack([unet.time_embedding(unet.get_time_embed(sample, timestep)) for timestep in timesteps])
        self.time_emb_proj = nn.Linear(times.shape[-1], sum(self._sizes))
        self.time_emb_proj.weight.data = torch.cat([weight for weight, _ in projections])
        self.time_emb_proj.bias.data = torch.cat([bias for _, bias in projections])
        if not self._text:
            times = self._project(times)
            del self.time_emb_proj
        self.register_buffer("times", times)  # (steps, 1, width), or one step's input to every block

    def forward(self, text: Tensor) -> Iterator[Modulation]:
        every = self.times
        for add_embedding in self._text:
            every = self._project(every + add_embedding(text))
        for step in every.unbind(0):
            parts = iter(torch.split(step, self._sizes, dim=1))
            yield [list(itertools.islice(parts, count)) for count in self._parts]

    def _project(self, embedding: Tensor) -> Tensor:
        """(steps, batch or 1, width) => (steps, batch or 1, channels of all blocks, 1, 1)."""
        projected: Tensor = self.time_emb_proj(self._act(self._last_act(embedding)))
        return projected[..., None, None]


def _projection(block: ResnetBlock2D) -> tuple[Tensor, Tensor]:
    """Weight and bias of a block's projection of the embedding, with its norm's own scale and shift folded in."""
    weight, bias = block.time_emb_proj.weight.data, block.time_emb_proj.bias.data
    if block.time_embedding_norm == "default":
        return weight, bias
    (scale, shift), (scale_bias, shift_bias) = weight.chunk(2), bias.chunk(2)
    gamma, beta = block.norm2.weight.data, block.norm2.bias.data
    weight = torch.cat([gamma[:, None] * scale, beta[:, None] * scale + shift])
    return weight, torch.cat([gamma * (1 + scale_bias), beta * (1 + scale_bias) + shift_bias])


class _Step:
    """The modulation of the step that is being unrolled, shared by all blocks."""

    modulation: Modulation = ()


class ModulatedBlock(nn.Module):
    """A ResnetBlock2D that is given its modulation; the layers and their names are unchanged."""

    def __init__(self, block: ResnetBlock2D, index: int, step: _Step) -> None:
        super().__init__()
        self.norm1, self.conv1, self.norm2, self.conv2 = block.norm1, block.conv1, block.norm2, block.conv2
        self.conv_shortcut, self.nonlinearity = block.conv_shortcut, block.nonlinearity
        self._divisor = block.output_scale_factor
        self._index, self._step = index, step

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """`embedding` is ignored: the modulation contains it."""
        given = self._step.modulation[self._index]
        hidden = self.conv1(self.nonlinearity(self.norm1(x)))
        hidden = (
            self.norm2(hidden + given[0]) if len(given) == 1 else normalise(hidden, self.norm2) * given[0] + given[1]
        )
        hidden = self.conv2(self.nonlinearity(hidden))
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(x)
        out: Tensor = shortcut + hidden
        return out if self._divisor == 1 else out / self._divisor


def normalise(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """A GroupNorm without its scale and shift. As a LayerNorm of rows, whose shape is known: converters map this to a kernel,
    without operations that read shapes at run time."""
    channels, height, width = (int(n) for n in x.shape[1:])
    row = channels // norm.num_groups * height * width
    return F.layer_norm(x.reshape(-1, norm.num_groups, row), (row,), eps=norm.eps).reshape(-1, channels, height, width)


def _modulate(unet: nn.Module, step: _Step) -> None:
    """Replace every residual block by its modulated form, in the order of `Conditions`."""
    found = [name for name, module in unet.named_modules() if isinstance(module, ResnetBlock2D)]
    for index, name in enumerate(found):
        parent, _, own = name.rpartition(".")
        setattr(unet.get_submodule(parent), own, ModulatedBlock(unet.get_submodule(name), index, step))


# --- text ------------------------------------------------------------------------------------------------------------


class OncePerPrompt(nn.Linear):
    """A linear map of the text, which is the same in every step."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self._kept: list[Tensor] = []

    def forward(self, text: Tensor) -> Tensor:
        if not self._kept:
            self._kept.append(super().forward(text))
        return self._kept[0]

    def forget(self) -> None:
        self._kept.clear()


def _keep_text(unet: nn.Module) -> Iterator[OncePerPrompt]:
    for block in list(unet.modules()):
        if isinstance(block, BasicTransformerBlock) and block.attn2 is not None:
            for name in ("to_k", "to_v"):
                layer = OncePerPrompt(getattr(block.attn2, name))
                setattr(block.attn2, name, layer)
                yield layer

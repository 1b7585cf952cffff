"""What networks take in memory and operations when they are trained, estimated from configs before a training begins.

Weights, gradients, moments and averages are counted. Activations are what autograd keeps of a pass, found on tensors without data
(`FakeTensorMode`): the same choice of kernels, but no arithmetic. `--dry-run`, the warning before a phase that will not fit, and
the advice in an out-of-memory error (`advice`) are based on them. docs/scaling.md compares them with measurements.

The text encoder and the autoencoder are in memory in every phase (`Others`).

Not counted: the framework itself (1 GB, which the warning adds; 2 on a graphics card), what the allocator leaves unused, the text
encoder's and the autoencoder's passes, which are over before a phase begins. Not here: what the phases of a distillation take
(`student.cost`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from genin.distill.models.unet_features import encoder_features
from genin.distill.recipe import FinetuneRecipe, Optimisation, PruneRecipe, StepsRecipe
from genin.runtimes.errors import InputError
from genin.runtimes.folder import AGAIN, read_json, read_model_index, square_latent_size

if TYPE_CHECKING:
    from genin.distill.models.folder import ModelFolder

FP32, BF16 = 4, 2
# Bytes per weight: AdamW has two moments (in 8 bits: Dettmers et al. 2021, arXiv:2110.02861), Muon one for nearly all weights.
MOMENTS = {"adamw": 8, "adamw8bit": 2, "muon": 4}
WORTH_SAYING = 50_000_000  # bytes
PASSES = {False: 3, True: 4}  # cost of an update in forward passes: backward is two; checkpointing adds one


@dataclass(frozen=True)
class Unet:
    """The costs of a diffusers UNet, by its config; `tokens` are those of a caption."""

    config: tuple[tuple[str, Any], ...]
    tokens: int

    @classmethod
    def of(cls, config: Mapping[str, Any], tokens: int) -> Unet:
        frozen = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items() if not k.startswith("_")}
        return cls(tuple(sorted(frozen.items())), tokens)

    @property
    def parameters(self) -> int:
        return _counts(self)[0]

    @property
    def encoder_parameters(self) -> int:
        """Parameters of all but its up path."""
        return _counts(self)[3]

    @property
    def macs(self) -> int:
        """Multiply-adds of a pass for one picture."""
        return _counts(self)[1]

    @property
    def encoder_macs(self) -> int:
        """Multiply-adds of its down path and middle."""
        return _counts(self)[2]

    def activations(self, batch: int, *, checkpointing: bool, mixed: bool, encoder: bool = False) -> int:
        """Bytes that autograd keeps of a pass, including bf16 copies of weights and what a checkpointed block recomputes. With
        `encoder`, only the encoder's, frozen: gradients reach its input alone."""
        return _activations(self, batch, checkpointing, mixed, encoder)


@dataclass(frozen=True)
class Decoder:
    """The costs of an autoencoder's decoder, by its class in diffusers and its config; `side` is that of the model's latents."""

    kind: str
    config: tuple[tuple[str, Any], ...]
    side: int

    @classmethod
    def of(cls, vae: Any, side: int) -> Decoder:
        return cls.of_config(type(vae).__name__, vae.config, side)

    @classmethod
    def of_folder(cls, path: Path, side: int) -> Decoder:
        """That of a model folder. Errors: InputError for a folder that is not one."""
        config = read_json(path / "vae" / "config.json", "the model folder lacks a file")
        return cls.of_config(read_model_index(path)["vae"][1], config, side)

    @classmethod
    def of_config(cls, kind: str, config: Mapping[str, Any], side: int) -> Decoder:
        return cls(kind, Unet.of(config, 0).config, side)

    def macs(self, share: float = 1.0) -> int:
        """Multiply-adds of decoding a square of that share of the side."""
        return _decoding(self, 1, max(1, round(share * self.side)), False)[0]

    def activations(self, batch: int, *, share: float = 1.0, mixed: bool) -> int:
        """Bytes that autograd keeps of decoding such a square, frozen: gradients reach the latents alone."""
        return _decoding(self, batch, max(1, round(share * self.side)), mixed)[1]


@cache
def _decoding(decoder: Decoder, batch: int, side: int, mixed: bool) -> tuple[int, int]:
    """(multiply-adds, bytes kept) of a batch; with bf16's copies of weights."""
    import diffusers
    from torch._subclasses import FakeTensorMode

    from genin.benchmarks.model_facts import cost_of

    kind = getattr(diffusers, decoder.kind)
    known = inspect.signature(kind).parameters
    with FakeTensorMode():
        vae = kind(**{name: value for name, value in decoder.config if name in known}).requires_grad_(False).eval()
        latents = torch.zeros(batch, vae.config.latent_channels, side, side)
        _, macs = cost_of(vae, lambda: vae.decode(latents))
        weights = {id_of(weight) for weight in vae.parameters()}
        alive: list[torch.Tensor] = []
        saved: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            if id_of(tensor) not in weights:
                alive.append(tensor)
                saved[id_of(tensor)] = tensor.untyped_storage().nbytes()
            return tensor

        precision = torch.autocast("cpu", torch.bfloat16, enabled=mixed)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), precision:
            vae.decode(latents.requires_grad_())
    return macs, sum(saved.values())


class Others(NamedTuple):
    """Weights of a model's other networks, which are in memory beside the UNet."""

    text_encoder: int
    autoencoder: int

    @classmethod
    def of(cls, model: ModelFolder) -> Others:
        """Those of a model in memory."""
        counts = (sum(p.numel() for p in part.parameters()) for part in (model.text_encoder, model.vae))
        return cls(*counts)

    @classmethod
    def of_folder(cls, path: Path) -> Others:
        """The same for a model folder, by its configs. Errors: InputError for a folder that is not one."""
        import diffusers
        from transformers import CLIPTextConfig, CLIPTextModel

        kind = getattr(diffusers, read_model_index(path)["vae"][1])
        what = "the model folder lacks a file"
        text, vae = (read_json(path / part / "config.json", what) for part in ("text_encoder", "vae"))
        parameters = inspect.signature(kind).parameters
        try:
            with torch.device("meta"):
                parts = (
                    CLIPTextModel(CLIPTextConfig.from_dict(text)),
                    kind(**{name: value for name, value in vae.items() if name in parameters}),
                )
        except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"cannot build the networks ({reason})", where=path, remedy=AGAIN) from error
        return cls(*(sum(p.numel() for p in part.parameters()) for part in parts))


@cache
def _counts(unet: Unet) -> tuple[int, int, int, int]:
    from genin.benchmarks.model_facts import cost_of, unet_cost

    with torch.device("meta"):
        network, x, t, text = _inputs(unet, 1)
        _, encoder = cost_of(network, lambda: encoder_features(network, x, t, text))
        way_up = sum(p.numel() for name, p in network.named_parameters() if name.startswith("up_blocks."))
    parameters, macs = unet_cost(dict(unet.config), tokens=unet.tokens)
    return parameters, macs, encoder, parameters - way_up


def _inputs(unet: Unet, batch: int) -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
    from diffusers import UNet2DConditionModel

    network: Any = UNet2DConditionModel.from_config(dict(unet.config))
    side, width = square_latent_size(network.config), network.config.cross_attention_dim
    x = torch.zeros(batch, network.config.in_channels, side, side)
    return network, x, torch.zeros(batch), torch.zeros(batch, unet.tokens, width)


@cache
def _activations(unet: Unet, batch: int, checkpointing: bool, mixed: bool, encoder: bool) -> int:
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        network, x, t, text = _inputs(unet, batch)
        network.requires_grad_(not encoder)
        x.requires_grad_(encoder)
        weights = {id_of(weight) for weight in network.parameters()}
        alive: list[torch.Tensor] = []  # a storage's id is unique only while it lives
        saved: dict[int, int] = {}  # storage => bytes
        scopes: list[dict[int, int]] = [saved]
        recomputed = 0

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            if id_of(tensor) not in weights:
                alive.append(tensor)
                scopes[-1][id_of(tensor)] = tensor.untyped_storage().nbytes()
            return tensor

        def block(module: Any, *arguments: Any) -> Any:
            """Stands in for a checkpointed block: its inputs are kept, what is inside it only for a while."""
            nonlocal recomputed
            for argument in arguments:
                if isinstance(argument, torch.Tensor):
                    keep(argument)
            scopes.append({})
            result = module(*arguments)
            recomputed = max(recomputed, sum(scopes.pop().values()))
            return result

        if checkpointing:
            network.enable_gradient_checkpointing(block)
        precision = torch.autocast("cpu", torch.bfloat16, enabled=mixed)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), precision:
            if encoder:
                encoder_features(network, x, t, text)
            else:
                network(x, t, encoder_hidden_states=text)
    copies = (
        BF16 * unet.parameters if checkpointing and mixed and not encoder else 0
    )  # autocast's, until the pass is over
    return sum(saved.values()) + recomputed + copies


def id_of(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


# --- memory ------------------------------------------------------------------------------------------------------------

Parts = dict[str, int]  # what => bytes


def network_parts(settings: Optimisation, trained: int, *, kept: int, name: str, shares: int = 1) -> Parts:
    """For `trained` weights: the weights, gradients, moments, and `kept` copies (averages, the best of them); for a sharded
    network, one of `shares`."""
    moments = MOMENTS[settings.optimizer]
    parts = {name: FP32 * trained, f"{name}'s gradients": FP32 * trained, f"{name}'s moments": moments * trained}
    parts |= {f"{name}'s averages": FP32 * trained * kept} if kept else {}
    return {what: size // shares for what, size in parts.items()}


@dataclass(frozen=True)
class PhaseSizes:
    """What the costs of a distillation's phases depend on: its networks, and the number of processes; `sharded` where the networks
    are sharded over them."""

    teacher: Unet
    student: Unet
    others: Others
    processes: int = 1
    sharded: bool = False
    decoder: Decoder | None = None

    @property
    def shares(self) -> int:
        """A process holds one of these shares of a sharded network."""
        return self.processes if self.sharded else 1

    def decoded(self, phase: StepsRecipe, share: float = 1.0) -> int:
        """Bytes that decoding the student's pictures keeps, a square of that share of their side."""
        mixed = phase.mixed_precision == "bf16"
        return 0 if self.decoder is None else self.decoder.activations(self.batch(phase), share=share, mixed=mixed)

    def decoding_macs(self, share: float = 1.0) -> int:
        return 0 if self.decoder is None else self.decoder.macs(share)

    def batch(self, phase: PruneRecipe | StepsRecipe) -> int:
        """One process's part."""
        return max(1, phase.batch_size // self.processes // phase.accumulate)

    def activations(self, phase: PruneRecipe | StepsRecipe, unet: Unet, *, encoder: bool = False) -> int:
        """Bytes that a pass of one of the networks keeps in an update of `phase`, for one process's part of the batch."""
        batch = self.batch(phase)
        mixed, checkpointing = phase.mixed_precision == "bf16", phase.gradient_checkpointing
        return unet.activations(batch, checkpointing=checkpointing, mixed=mixed, encoder=encoder)


def finetune_memory(
    settings: FinetuneRecipe,
    teacher: Unet,
    rank: int,
    others: Others,
    *,
    processes: int = 1,
    sharded: bool = False,
) -> Parts:
    """Peak bytes of an update, in each of `processes`, when a teacher is tuned whole (`rank` 0) or by adapters. The text
    encoder's own adapters are not counted."""
    batch = max(1, settings.batch_size // processes // settings.accumulate)
    mixed, validated = settings.mixed_precision == "bf16", settings.held_out_images > 0
    trained = lora_parameters(teacher, rank) if rank else teacher.parameters
    if settings.train_text_encoder and not rank:
        trained, others = trained + others.text_encoder, others._replace(text_encoder=0)
    kept, name = len(settings.ema_decays) + validated, "adapters" if rank else "teacher"
    frozen = BF16 if settings.frozen_precision == settings.mixed_precision == "bf16" else FP32
    parts = {"frozen teacher": frozen * teacher.parameters} if rank else {}
    if validated and not rank:
        parts["the base's encoder, for held-out figures"] = (BF16 if mixed else FP32) * teacher.encoder_parameters
    return {
        **parts,
        "text encoder and autoencoder": FP32 * sum(others),
        **network_parts(settings, trained, kept=kept, name=name, shares=processes if sharded and not rank else 1),
        "activations": teacher.activations(batch, checkpointing=settings.gradient_checkpointing, mixed=mixed),
    }


def lora_parameters(unet: Unet, rank: int) -> int:
    """Weights of adapters of `rank` on all attention projections."""
    from genin.distill.models.lora import is_adapter, low_rank_copy

    with torch.device("meta"):
        network, *_ = _inputs(unet, 1)
        return sum(p.numel() for name, p in low_rank_copy(network, rank).named_parameters() if is_adapter(name))


# --- operations --------------------------------------------------------------------------------------------------------


def finetune_flop(settings: FinetuneRecipe, teacher: Unet, rank: int) -> float:
    """Floating-point operations of an update for one picture."""
    update = PASSES[settings.gradient_checkpointing]
    return 2.0 * teacher.macs * (update - 1 if rank else update)


# --- what to do about it -----------------------------------------------------------------------------------------------


def options_of(section: str, settings: Optimisation, processes: int) -> dict[str, dict[str, Any]]:
    """What can be written in any section to save memory => the settings that it changes."""
    half, parts = settings.batch_size // 2, 2 * settings.accumulate
    changes: dict[str, dict[str, Any]] = {
        f"{section}.gradient_checkpointing: true": {"gradient_checkpointing": True},
        f"{section}.optimizer: adamw8bit": {"optimizer": "adamw8bit"},
        f"{section}.ema_decays: [{settings.ema_decays[0]:g}]": {"ema_decays": settings.ema_decays[:1]},
    }
    if settings.batch_size % (processes * parts) == 0:
        changes[f"{section}.accumulate: {parts}"] = {"accumulate": parts}
    if half and half % (processes * settings.accumulate) == 0:
        changes[f"{section}.batch_size: {half}"] = {"batch_size": half}
    return changes


def finetune_options(settings: FinetuneRecipe, rank: int, processes: int = 1) -> dict[str, dict[str, Any]]:
    """What can be written in a recipe to save memory in tuning => the settings that it changes; `lora_rank` is the rank in use."""
    options = options_of("finetune", settings, processes)
    return options if rank else {**options, "finetune.lora_rank: 16": {"lora_rank": 16}}


def advice(settings: Any, options: Mapping[str, Mapping[str, Any]], memory: Callable[[Any], Parts]) -> Sequence[str]:
    """Those of the options (what to write => changed settings) that save memory, and how much; most first."""
    now = sum(memory(settings).values())
    saved = {option: now - sum(memory(replace(settings, **changed)).values()) for option, changed in options.items()}
    return [
        f"{option} (−{size / 1e9:.1f} GB)"
        for option, size in sorted(saved.items(), key=lambda item: -item[1])
        if size > WORTH_SAYING
    ]

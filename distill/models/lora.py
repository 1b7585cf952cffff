"""Low-rank adapters (LoRA: Hu et al. 2021, arXiv:2106.09685): beside a model's weights in training, as a file, and merged.

A model is tuned by adapters on the attention of its UNet, and where asked of its text encoder. They are written in diffusers'
layout, which `StableDiffusionPipeline.load_lora_weights` opens, and merged into fp32 weights by the same reader that merges
third-party files (diffusers' and kohya's formats): the merged weights are those of the file, to the bit.

Of third-party files, diffusers' layouts (from the first, whose names do not say which network they belong to), kohya's and peft's
are read. Other kinds of adapters (`OTHER_KINDS`) are refused by name: they are no sum of a low-rank product.

A file of another architecture is refused before anything is touched: the libraries would skip weights that they cannot place.

Not here: training them (`finetune`).
"""

from __future__ import annotations

import copy
import math
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from genin.distill.models.diffusion import ddim_scheduler
from genin.distill.models.folder import ModelFolder, apply_umask
from genin.files import writing
from genin.runtimes.errors import InputError
from genin.runtimes.folder import read_json, refuse_pointer
from genin.runtimes.origin import fingerprint
from genin.runtimes.text import json_object

FILE = "pytorch_lora_weights.safetensors"
# Component => its modules that get adapters.
TARGETS: Mapping[str, tuple[str, ...]] = {
    "unet": ("to_q", "to_k", "to_v", "to_out.0"),
    "text_encoder": ("q_proj", "k_proj", "v_proj", "out_proj"),
}
# Pattern of a weight's name => the kind of adapter.
OTHER_KINDS: Mapping[str, str] = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "oft_": "OFT",
    "lora_mid": "LoCon with Tucker decomposition",
    "lora_ia3": "(IA)³",
    "on_input": "(IA)³",
    "_custom_diffusion": "Custom Diffusion",
    "emb_params": "textual inversion",
    "string_to_param": "textual inversion",
    r"\.diff(_b)?$": "LyCORIS with whole differences of weights",
    r"\.[wb]_norm$": "LyCORIS with trained norms",
    r"\.[ab][12]\.weight$": "GLoRA",
    r"\.lora[._](B|up)(\.default)?\.bias$": "LoRA with a bias",
}
# What peft itself puts before the names of a network's weights.
PEFT, PARTS = "base_model.model.", ("unet.", "text_encoder.")
# What a UNet's names begin with, where a file does not say which network they belong to: diffusers 0.12 to 0.15 wrote
# `….attn1.processor.to_q_lora.down.weight`.
BLOCKS = re.compile(r"(down_blocks|mid_block|up_blocks|conv_in|conv_out|time_embedding)\.")
# Ends of a pair's names (down, up) in diffusers' and peft's layouts.
PAIRS = ((".lora_A.weight", ".lora_B.weight"), (".lora.down.weight", ".lora.up.weight"))
# Settings of peft by which pairs have other scales than alpha / rank.
UNEVEN = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern")
# Attention of a text encoder, as kohya's files come out of diffusers' reader.
TEXT_ATTENTION = re.compile(r"\.to_(q|k|v|out)_lora\.(down|up)\.weight$")


@dataclass(frozen=True)
class Lora:
    """A file of adapters and the scale at which it is merged: W + scale · (alpha/rank) · B·A."""

    file: Path
    scale: float = 1.0

    def __str__(self) -> str:
        return f"{self.file.name}:{self.scale:g}"


def lora_of(argument: str) -> Lora:
    """`FILE`, `FOLDER`, or either with `:SCALE`. Errors: InputError for a path that holds no adapters, or two files of them."""
    path, scale = Path(argument).expanduser(), 1.0
    before, colon, after = argument.rpartition(":")
    if colon and not path.exists():
        try:
            path, scale = Path(before).expanduser(), float(after)
        except ValueError:
            path = Path(argument).expanduser()
    if not torch.isfinite(torch.tensor(scale)):
        raise InputError(f"the scale of a LoRA must be a number, not {scale}", where=argument)
    return Lora(_file(path), scale)


def _file(path: Path) -> Path:
    if path.is_dir():
        files = [path / FILE] if (path / FILE).is_file() else sorted(path.glob("*.safetensors"))
        if len(files) != 1:
            remedy = f"name one of: {', '.join(file.name for file in files)}" if files else "name its .safetensors file"
            raise InputError(f"the folder has {len(files)} files of LoRA weights", where=path, remedy=remedy)
        return files[0]
    if not path.is_file():
        raise InputError("no such LoRA", where=path, remedy="give a .safetensors file or its folder, FILE:SCALE")
    if path.suffix != ".safetensors":
        remedy = "convert it to .safetensors: other formats can run code when they are read"
        raise InputError("a LoRA is read from .safetensors only", where=path, remedy=remedy)
    return path


def digest(loras: Sequence[Lora]) -> str:
    """A digest of what is merged, which depends on the files and the scales."""
    return ", ".join(f"{fingerprint(lora.file)}:{lora.scale:g}" for lora in loras)


# --- in training -----------------------------------------------------------------------------------------------------


def add_adapters(network: Any, part: str, rank: int) -> None:
    """Put adapters of `rank`, scaled by 1 (alpha = rank), on the attention of a model's `part`; they start at B = 0."""
    from peft import LoraConfig

    targets = list(TARGETS[part])
    network.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=targets))


def lower_frozen(network: nn.Module) -> None:
    """Keep the frozen weights of linear and convolutional layers in bf16. Under bf16 autocast these are the numbers that it
    computes with anyway, so only the memory changes; norms and adapters stay in fp32."""
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            for parameter in module.parameters(recurse=False):
                if not parameter.requires_grad:
                    parameter.data = parameter.data.bfloat16()


def save_adapters(parts: Mapping[str, Any], out: Path) -> Lora:
    """Write the adapters of a model's parts (name => network) to `out`, in diffusers' layout; the file appears whole."""
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import get_peft_model_state_dict

    content: dict[str, Any] = {}
    for part, network in parts.items():
        state = {name: value.float().cpu() for name, value in get_peft_model_state_dict(network).items()}
        config = network.peft_config["default"]
        content[f"{part}_lora_layers"] = convert_state_dict_to_diffusers(state)
        # Only what readers need: an older peft would not know a newer one's keys.
        content[f"{part}_lora_adapter_metadata"] = {
            "r": config.r,
            "lora_alpha": config.lora_alpha,
            "rank_pattern": {},
            "alpha_pattern": {},
            "target_modules": sorted(config.target_modules),
        }
    with tempfile.TemporaryDirectory(dir=out, prefix=".lora.") as partial:
        with writing(out / FILE, Path(partial)):
            StableDiffusionPipeline.save_lora_weights(partial, **content)
        apply_umask(Path(partial) / FILE)
        (Path(partial) / FILE).replace(out / FILE)
    return Lora(out / FILE)


# --- merging ---------------------------------------------------------------------------------------------------------


def merge_lora(model: ModelFolder, lora: Lora) -> None:
    """Add a LoRA to the weights of a model in memory. Errors: InputError for a file that is damaged, of another kind of adapters,
    or of another architecture, naming the first weight that does not fit."""
    from diffusers import StableDiffusionPipeline

    weights, renamed = _read(lora.file)
    check_fits(model, lora.file, weights)
    pipeline = StableDiffusionPipeline(
        vae=model.vae,
        unet=model.unet,
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        scheduler=ddim_scheduler(model.scheduler_config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    try:
        if renamed:
            pipeline.load_lora_weights(weights)
        else:
            pipeline.load_lora_weights(lora.file.parent, weight_name=lora.file.name, local_files_only=True)
    except (ValueError, TypeError, KeyError, RuntimeError) as error:  # the file's metadata
        raise _unreadable(lora.file, error) from error
    pipeline.fuse_lora(lora_scale=lora.scale)
    pipeline.unload_lora_weights()
    for network in (model.unet, model.text_encoder):
        network.requires_grad_(False).eval()


def _read(file: Path) -> tuple[dict[str, Tensor], bool]:
    """A file's weights under diffusers' names, and whether these are other than diffusers' own reader makes of the file."""
    from diffusers import StableDiffusionPipeline

    refuse_pointer(file)
    try:
        with safe_open(file, framework="pt") as opened:
            names = list(opened.keys())
        _refuse_other_kinds(file, names)
        if names and all(name.startswith(PEFT) for name in names):
            return _of_peft(file), True
        if (plain := _almost_diffusers(file, names)) is not None:
            return plain, True
        weights: dict[str, Tensor]
        weights, alphas = StableDiffusionPipeline.lora_state_dict(
            file.parent, weight_name=file.name, use_safetensors=True, local_files_only=True
        )
    except (SafetensorError, OSError, ValueError, KeyError, IndexError, RuntimeError) as error:
        raise _unreadable(file, error) from error
    for name, alpha in (alphas or {}).items():
        _check_alpha(file, name, float(alpha))
    if _is_unread_attention(weights):
        return _text_attention(weights, alphas or {}), True
    return weights, False


def _almost_diffusers(file: Path, names: Sequence[str]) -> dict[str, Tensor] | None:
    """Weights that differ from diffusers' layout by their prefix, by peft's `.default.` or by an alpha beside each pair; None for
    any other file. Their scale is multiplied in: that alpha, or else what diffusers has written into the file's header.

    Errors: InputError for an alpha that is no number, or a scale that is not one for all."""
    unprefixed = bool(names) and all(BLOCKS.match(name) for name in names)
    if not unprefixed and not all(name.startswith(PARTS) for name in names):
        return None
    plain = {name: ("unet." if unprefixed else "") + name.replace(".default.", ".") for name in names}
    alphas = {new.removesuffix(".alpha"): old for old, new in plain.items() if new.endswith(".alpha")}
    if all(old == new for old, new in plain.items()) and not alphas:
        return None
    said = _settings_in(file)
    scales = {part: _scale_of(file, said, "" if unprefixed else part) for part in PARTS}
    weights = {plain[name]: value for name, value in load_file(file).items()}
    for name in [name for name in weights if name.endswith(tuple(up for _, up in PAIRS))]:
        down, up = next(ends for ends in PAIRS if name.endswith(ends[1]))
        module = name.removesuffix(up)
        scale = next(scale for part, scale in scales.items() if name.startswith(part))
        if module in alphas and module + down in weights:
            alpha = _check_alpha(file, alphas[module], float(weights.pop(f"{module}.alpha")))
            scale = alpha / max(1, weights[module + down].shape[0])
        weights[name] = _scaled(weights[name], scale)
    return weights


def _settings_in(file: Path) -> Mapping[str, Any]:
    """How adapters were made, as diffusers writes it into a file's header; empty where it is not there."""
    with safe_open(file, framework="pt") as opened:
        said = (opened.metadata() or {}).get("lora_adapter_metadata")
    return json_object(said) or {} if said else {}


def _scale_of(where: Path, settings: Mapping[str, Any], prefix: str = "") -> float:
    """alpha / rank of peft's settings, 1 where they have neither. Errors: InputError for a scale that is not one for all pairs."""
    rank, alpha = settings.get(f"{prefix}r"), settings.get(f"{prefix}lora_alpha")
    unlike = [name for name in UNEVEN if settings.get(prefix + name)]
    if rank is None and alpha is None and not unlike:
        return 1.0
    if unlike or type(rank) is not int or not isinstance(alpha, int | float) or rank <= 0:
        what = f"adapters with {unlike[0]}" if unlike else "adapters without a rank and lora_alpha"
        remedy = "merge them with peft (merge_and_unload), and give the model"
        raise InputError(f"{what} are not merged", where=where, remedy=remedy)
    return _check_alpha(where, f"{prefix}lora_alpha", alpha) / rank


def _scaled(value: Tensor, scale: float) -> Tensor:
    """In fp32: small weights times a small scale have no place in half precision."""
    return value if scale == 1.0 else value.float() * scale


def _check_alpha(file: Path, name: str, alpha: float) -> float:
    if not math.isfinite(alpha) or alpha == 0:  # 0 would change nothing
        remedy = "train it again, or give an earlier file"
        raise InputError(f"the LoRA's '{name}' is {alpha}", where=file, remedy=remedy)
    return alpha


def _is_unread_attention(weights: Mapping[str, Tensor]) -> bool:
    """Whether a text encoder's attention has names that diffusers' loader knows only where its output has adapters, too."""
    attention = [name for name in weights if name.startswith("text_encoder.") and TEXT_ATTENTION.search(name)]
    return bool(attention) and not any(".to_out_lora." in name for name in attention)


def _text_attention(weights: Mapping[str, Tensor], alphas: Mapping[str, float]) -> dict[str, Tensor]:
    """The same adapters under names that are always known, their alphas multiplied in."""
    found = {}
    for name, value in weights.items():
        down = name.replace(".up.weight", ".down.weight")
        alpha = alphas.get(f"{down.split('.lora.')[0]}.alpha")
        scale = 1.0 if name == down or alpha is None else float(alpha) / max(1, weights[down].shape[0])
        text = name.startswith("text_encoder.")
        new = TEXT_ATTENTION.sub(r".\1_proj.lora_linear_layer.\2.weight", name) if text else name
        found[new] = _scaled(value, scale)
    return found


def _of_peft(file: Path) -> dict[str, Tensor]:
    """Adapters as peft itself saves them, under diffusers' names, scaled as the config beside them says. Errors: InputError."""
    what, remedy = "peft's adapters have no scale without their adapter_config.json", "put it beside them"
    settings = read_json(file.with_name("adapter_config.json"), what, remedy)
    place = file.with_name("adapter_config.json")
    if not {"r", "lora_alpha"} <= settings.keys():
        remedy = "merge them with peft (merge_and_unload), and give the model"
        raise InputError("adapters without a rank and lora_alpha are not merged", where=place, remedy=remedy)
    scale = _scale_of(place, settings)
    weights = {}
    for name, value in load_file(file).items():
        plain = name.removeprefix(PEFT).replace(".default.", ".")
        part = "" if plain.startswith(PARTS) else "text_encoder." if plain.startswith("text_model.") else "unet."
        weights[part + plain] = _scaled(value, scale) if ".lora_B." in plain else value
    return weights


def _refuse_other_kinds(file: Path, names: Sequence[str]) -> None:
    """Errors: InputError naming the kind of adapter, if it is another than LoRA."""
    for name in names:
        for part, kind in OTHER_KINDS.items():
            if re.search(part, name):
                remedy = "merge it with the tool that trained it and give the model, or give a LoRA"
                if kind == "textual inversion":
                    remedy = "load it into diffusers (load_textual_inversion), save the pipeline and give that folder"
                what = f"this is {kind} ('{name[:200]}'), which is not merged as a LoRA is"
                raise InputError(what, where=file, remedy=remedy)


def _unreadable(file: Path, error: Exception) -> InputError:
    remedy = "give a LoRA of a Stable Diffusion 1.x or 2.x model, in diffusers' or kohya's format"
    return InputError(f"cannot read the LoRA ({' '.join(str(error).split())[:200]})", where=file, remedy=remedy)


def check_fits(model: ModelFolder, file: Path, weights: Mapping[str, Tensor]) -> None:
    """Errors: InputError naming the first weight that has no place in the model, another shape there, or is not finite."""
    remedy = "give a LoRA that was trained on a model of this architecture"
    if not weights:
        raise InputError("the file has no LoRA weights", where=file, remedy=remedy)
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, module, side, value in _placed(weights):
        target = _module(model, module)
        if target is None or side is None:
            raise InputError(f"the LoRA's '{name}' has no place in this model", where=file, remedy=remedy)
        shape = tuple(target.weight.shape)
        # Down into the rank with the layer's own kernel, up from it with a kernel of 1.
        ours = (value.shape[0], *shape[1:]) if side == "lora_A" else (shape[0], value.shape[1], *([1] * len(shape[2:])))
        if tuple(value.shape) != ours:
            what = f"the LoRA's '{name}' is {tuple(value.shape)}, this model's would be {ours}"
            raise InputError(what, where=file, remedy=remedy)
        if not value.is_floating_point():
            raise InputError(f"the LoRA's '{name}' has whole numbers ({value.dtype})", where=file, remedy=remedy)
        if not bool(torch.isfinite(value).all()):
            raise InputError(f"the LoRA's '{name}' has NaN or infinite values", where=file, remedy=remedy)
        pairs.setdefault(module, {})[side] = value
    for module, pair in pairs.items():
        if len(pair) != 2 or pair["lora_A"].shape[0] != pair["lora_B"].shape[1]:
            raise InputError(f"the LoRA's weights for '{module}' are an incomplete pair", where=file, remedy=remedy)


def _placed(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, str, str | None, Tensor]]:
    """Each weight with its module ("unet.…") and side (`lora_A` down, `lora_B` up, None: neither)."""
    parts: dict[str, list[str]] = {}
    for name in weights:
        parts.setdefault(name.partition(".")[0], []).append(name)
    for part, names in parts.items():
        renamed = _as_peft(part, {name.partition(".")[2]: weights[name] for name in names})
        for name, (path, value) in zip(names, renamed.items(), strict=True):
            module, dot, side = path.removesuffix(".weight").rpartition(".")
            matrix = side if dot and side in ("lora_A", "lora_B") and value.ndim >= 2 else None
            yield name, f"{part}.{module}", matrix, value


def _as_peft(part: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of one part in their order, under the names that diffusers' loaders will give them."""
    from diffusers.utils.state_dict_utils import (
        convert_state_dict_to_diffusers,
        convert_state_dict_to_peft,
        convert_unet_state_dict_to_peft,
    )

    renamed: dict[str, Tensor] = state
    try:
        if part == "unet" and "lora_A" not in next(iter(state)):
            renamed = convert_unet_state_dict_to_peft(state)
        elif part == "text_encoder":
            renamed = convert_state_dict_to_peft(convert_state_dict_to_diffusers(state))
    except ValueError:  # not one of its formats
        return state
    return renamed


def _module(model: ModelFolder, name: str) -> Any:
    part, _, path = name.partition(".")
    network = {"unet": model.unet, "text_encoder": model.text_encoder}.get(part)
    try:
        layer = None if network is None else network.get_submodule(path)
    except AttributeError:
        return None
    return layer if isinstance(layer, (nn.Linear, nn.Conv2d)) else None


def shared_copy(network: nn.Module, shared: Iterable[nn.Parameter]) -> nn.Module:
    """A deep copy of a network in which the parameters `shared` are the same tensors."""
    return copy.deepcopy(network, {id(parameter): parameter for parameter in shared})


def low_rank_copy(unet: Any, rank: int) -> nn.Module:
    """A UNet of the same weights, not of copies of them, with low-rank adapters of its own (LoRA: Hu et al. 2021, arXiv:2106.09685)
    in fp32, which start at zero. The original network is unaffected.

    DMD2's fake score of an SD-1.5 is another 860 M weights with their optimiser, 14 GB; of rank 32 it is 6 M.
    """
    copied = shared_copy(unet, unet.parameters())
    add_adapters(copied, "unet", rank)
    for name, parameter in copied.named_parameters():
        if is_adapter(name):
            parameter.data = parameter.data.float()
    return copied


def is_adapter(name: str) -> bool:
    return "lora_" in name

"""The precision plan: how each layer's weights are stored, and whether it computes on 8-bit activations, for every format at once.

A layer is a module with a weight (a convolution, a linear map, an embedding) under its path in the component:
"unet.down_blocks.0.resnets.0.conv1". A plan has one rule for all layers, and exceptions for named ones. As JSON:

    {"genin_plan": 1, "name": "mixed", "weights": "int8", "activations": "float",
     "layers": {"unet": {"unet.conv_in": {"weights": "fp16"}}}}

The uniform plans are those that `--precision` names; `sensitivity` finds others. A format that cannot store a layer as planned
takes the next wider storage (`storable`): 6- and 4-bit palettes exist in Core ML only.

Not here: how a format stores weights (its converter), the measuring (`sensitivity`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from genin.export.converters.quantise import eight_bits
from genin.runtimes.errors import InputError
from genin.runtimes.text import decode_text
from genin.runtimes.vocabulary import (
    ALL_COMPONENTS,
    COMPONENTS,
    MORE_PRECISIONS,
    PRECISIONS,
    TEXT_TO_IMAGE,
    VAE_ENCODER,
    check_choice,
    nearest,
)

PLAN = 1  # the version of the file
WEIGHTS = ("fp32", "fp16", "int8", "palette6", "palette4")  # the widest first
ACTIVATIONS = ("float", "int8")
# A decoder's layers that int8 would round by more: their few large numbers set the scale of all others, nothing after them makes up
# for it, and one or two such layers take a graph below its floor (39.4 dB of 40 with the shipped teacher's, 44.8 with six in fp16).
COARSE_DB = 35.0
BITS: Mapping[str, int] = {"fp32": 32, "fp16": 16, "int8": 8, "palette6": 6, "palette4": 4}
PALETTES = ("palette6", "palette4")
NAME = re.compile(r"(?!auto$|con$|prn$|aux$|nul$|com\d$|lpt\d$)[a-z][a-z0-9]{1,15}")

# Layers that never compute on 8-bit activations: what they read has a range of its own (latents, time, the sums of skip
# connections), or an outlier in it (the begin-of-text token, whose keys and values are a hundred times the others').
FLOAT_ACTIVATIONS = re.compile(
    r"conv_in$|conv_out$|time_embedding|time_emb_proj|add_embedding|conv_shortcut|attn2\.to_[kv]$|quant_conv|embeddings|^encoder\."
)
# The first part of the paths of a component's layers.
PREFIXES: Mapping[str, str] = {"text_encoder": "encoder.", "unet": "unet.", "vae_decoder": "vae."}


@dataclass(frozen=True)
class Storage:
    """One layer: its weights as stored, and the activations that it computes on."""

    weights: str
    activations: str = "float"

    def __post_init__(self) -> None:
        check_choice(self.weights, WEIGHTS, "way to store weights")
        check_choice(self.activations, ACTIVATIONS, "kind of activations")
        if self.activations == "int8" and BITS[self.weights] != 8:
            what = f"8-bit activations need 8-bit weights, not {self.weights}"
            raise InputError(what, remedy="set the layer's weights to int8, or its activations to float")


@dataclass(frozen=True)
class Plan:
    """`name` is the precision's name in the bundle; `default` applies to every layer that `layers` does not name under its
    component. `notes` is free: how the plan was found."""

    name: str
    default: Storage
    layers: Mapping[str, Mapping[str, Storage]] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    def storage_per_layer(self, component: str, network: Any) -> dict[str, Storage]:
        """How each layer of a network is stored, in its own order: by the plan's rule for its name, else by the default, whose
        8-bit activations leave out the first and last layer and every other whose input has a range of its own. Of a decoder whose
        default is int8, layers that this would round too coarsely have fp16. The encoder of pictures has neither 8-bit activations
        nor palettes by default. The layers of a single graph are stored as those of the networks in it."""
        layers = list(layers_of(network))
        if component == TEXT_TO_IMAGE:
            parts = {name: [layer for layer in layers if layer.startswith(PREFIXES[name])] for name in COMPONENTS}
            return {
                layer: storage
                for name, part in parts.items()
                for layer, storage in self._storage_per_layer(name, part, network).items()
            }
        return self._storage_per_layer(component, layers, network)

    def _storage_per_layer(self, component: str, layers: Sequence[str], network: Any) -> dict[str, Storage]:
        named, kept = self.layers.get(component, {}), Storage(self.default.weights)
        if component == "vae_decoder" and self.default == Storage("int8"):
            coarse = {layer for layer in layers if rounding_db(network.get_submodule(layer).weight) < COARSE_DB}
            return {layer: named.get(layer, Storage("fp16") if layer in coarse else kept) for layer in layers}
        if component == VAE_ENCODER:  # no picture judges it, so unless a layer is named, parity has to
            kept = Storage("int8") if self.default.weights in PALETTES else kept
            return {layer: named.get(layer, kept) for layer in layers}
        return {layer: named.get(layer, self.default if may_have_eight(layer, layers) else kept) for layer in layers}

    @property
    def judged_by_pictures(self) -> bool:
        """Whether it has 8-bit activations or palettes, which are judged by pictures."""
        every = [self.default, *(storage for layers in self.layers.values() for storage in layers.values())]
        return any(storage.activations == "int8" or storage.weights in PALETTES for storage in every)

    def to_json(self) -> str:
        found: dict[str, Any] = {"genin_plan": PLAN, "name": self.name, **_entry(self.default)}
        found["layers"] = {
            component: {layer: _entry(storage) for layer, storage in layers.items()}
            for component, layers in self.layers.items()
        }
        return json.dumps(found | ({"notes": dict(self.notes)} if self.notes else {}), indent=1) + "\n"


def uniform(precision: str) -> Plan:
    """The plan that `--precision` names: one storage for all layers."""
    if precision == "w8a8":
        return Plan(precision, Storage("int8", "int8"))
    return Plan(precision, Storage(precision))


def rounding_db(weight: Any) -> float:
    """Power of a weight over that of what int8 with one scale per output channel, its first axis, loses of it, in dB."""
    exact = weight.detach().float().cpu().numpy()
    lost = exact - eight_bits(exact, axis=0)
    return float(10 * np.log10(max(float((exact**2).sum()), 1e-30) / max(float((lost**2).sum()), 1e-30)))


def may_have_eight(layer: str, layers: Sequence[str]) -> bool:
    """Whether a layer, one of a network's in order, may compute on 8-bit activations without being named."""
    return layer not in (layers[0], layers[-1]) and not FLOAT_ACTIVATIONS.search(layer)


def layers_of(network: Any) -> dict[str, int]:
    """The layers of a network (an `nn.Module`) in its own order => how many numbers their weights are."""
    found = {name: getattr(module, "weight", None) for name, module in network.named_modules()}
    return {name: weight.numel() for name, weight in found.items() if weight is not None and weight.dim() > 1}


def storable(kind: str, kinds: tuple[str, ...]) -> str:
    """`kind`, or the next wider storage among those that a format has."""
    return next(wider for wider in reversed(WEIGHTS[: WEIGHTS.index(kind) + 1]) if wider in kinds)


def read_plan(path: Path) -> Plan:
    """A plan from its file. Errors: InputError that names the key."""
    try:
        data = json.loads(decode_text(path.read_bytes()))
    except FileNotFoundError as error:
        raise InputError("no such plan", where=path, remedy="make one with `genin plan`") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"the plan is not valid JSON ({error})", where=path) from error
    if not isinstance(data, dict) or data.get("genin_plan") != PLAN:
        raise InputError(f"this is not a precision plan (no 'genin_plan': {PLAN})", where=path)
    _check_keys(data, ("genin_plan", *_KINDS, *_ENTRY), "the plan", path)
    name, layers, notes = (_of_type(data, key, kind, path) for key, kind in _KINDS.items())
    try:
        check_name(name)
    except InputError as error:
        raise InputError(error.what, where=path, remedy=error.remedy) from error
    default = _storage(data, Storage("int8"), "the plan", path)
    named: dict[str, dict[str, Storage]] = {}
    for component, entries in layers.items():
        check_choice(component, ALL_COMPONENTS, f"component in {path.name}")
        if not isinstance(entries, dict):
            raise InputError(f"'layers.{component}' is not an object", where=path)
        named[component] = {layer: _storage(entry, default, layer, path) for layer, entry in entries.items()}
        for layer, entry in entries.items():
            _check_keys(entry, _ENTRY, layer, path)
    return Plan(name, default, named, notes)


def check_name(name: str) -> str:
    """Errors: InputError for an invalid name: it must suit a folder, and not be one of genin's own precisions."""
    if not NAME.fullmatch(name) or name in (*PRECISIONS, *MORE_PRECISIONS):
        remedy = "use 2 to 16 small letters and digits, and not one of genin's own precisions"
        raise InputError(f"'{name}' cannot be the name of a plan", remedy=remedy)
    return name


def check_layers(plan: Plan, component: str, network: Any) -> None:
    """Errors: InputError for a plan that names a layer which the network lacks, or 8-bit activations for an embedding."""
    named, layers = plan.layers.get(component, {}), layers_of(network)
    for layer in sorted(set(named) & set(layers)):
        if named[layer].activations == "int8" and hasattr(network.get_submodule(layer), "num_embeddings"):
            what = f"the plan '{plan.name}' has 8-bit activations for {layer}, an embedding, which computes nothing"
            raise InputError(what, remedy="set its activations to float")
    unknown = sorted(set(named) - set(layers))
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        what = f"the plan '{plan.name}' names a layer that the {component} lacks: {unknown[0]}{more}"
        raise InputError(what, remedy="make the plan from this model, with `genin plan`")


_KINDS: Mapping[str, type] = {"name": str, "layers": dict, "notes": dict}
_ENTRY = ("weights", "activations")


def _check_keys(entry: Mapping[str, Any], known: Sequence[str], of: str, path: Path) -> None:
    """Errors: InputError for a key that means nothing."""
    for key in entry:
        if key not in known:
            raise InputError(f"{of} has an unknown key '{key}'", where=path, remedy=nearest(key, known))


def _of_type(data: Mapping[str, Any], key: str, kind: type, path: Path) -> Any:
    value = data.get(key, kind())
    if not isinstance(value, kind):
        raise InputError(f"'{key}' is not {'a text' if kind is str else 'an object'}", where=path)
    return value


def _storage(entry: Any, default: Storage, of: str, path: Path) -> Storage:
    if not isinstance(entry, dict):
        raise InputError(f"the plan's rule for {of} is not an object", where=path)
    weights, activations = entry.get("weights", default.weights), entry.get("activations")
    if not isinstance(weights, str) or not isinstance(activations, str | None):
        raise InputError(f"weights and activations of {of} must be strings ({weights!r}, {activations!r})", where=path)
    if activations is None:  # fewer bits for the activations only where the weights allow
        activations = default.activations if BITS.get(weights) == 8 else "float"
    try:
        return Storage(weights, activations)
    except InputError as error:
        raise InputError(f"{of}: {error.what}", where=path, remedy=error.remedy) from error


def _entry(storage: Storage) -> dict[str, str]:
    return {"weights": storage.weights, "activations": storage.activations}

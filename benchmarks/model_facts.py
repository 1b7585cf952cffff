"""Facts about a model folder or bundle: size of its pictures, default steps, parameters, multiply-adds, bytes.

Read from the small JSON files, the headers of safetensors and a forward pass on PyTorch's `meta` device, so that no
weights are loaded. `parameters` and `macs` are the UNet's, and `macs` those of one step for one picture without
guidance. Not covered: multiply-adds of graphs without their model folder, unless the manifest states them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from genin.runtimes.bundle import Bundle
from genin.runtimes.engine import ENGINES
from genin.runtimes.errors import InputError
from genin.runtimes.folder import (
    AGAIN,
    COMPONENT_FOLDERS,
    latent_size,
    read_config,
    read_constants,
    read_info,
    read_json,
    weight_files,
    weights_bytes,
)
from genin.runtimes.manifest import Manifest
from genin.runtimes.origin import fingerprint
from genin.runtimes.vocabulary import ALL_COMPONENTS

UNREADABLE = "cannot be read as JSON"
RUNTIME_OF_FORMAT = {"onnx": "onnxruntime", "openvino": "openvino", "coreml": "coreml"}


@dataclass(frozen=True)
class ModelFacts:
    """`kind` is "model" (a diffusers folder) or "bundle"; `role` "teacher", "student" or None where unknown. `trained_steps` are a
    few-step student's, empty for models that draw in any number. `component_macs` are the multiply-adds of one call of each network
    for one picture, as far as a bundle states them. `exported_from` is what a bundle states as its model folder's
    fingerprint."""

    path: Path
    kind: str
    name: str
    role: str | None
    image_size: int
    default_steps: int
    guidance_scale: float
    trained_steps: tuple[int, ...] = ()
    parameters: int | None = None
    macs: int | None = None
    component_macs: Mapping[str, int] = field(default_factory=dict)
    exported_from: str | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    graphs: tuple[Mapping[str, Any], ...] = ()

    @cached_property
    def sha256(self) -> str:
        """The fingerprint of this model or bundle. All weights of a model folder are read, once."""
        return fingerprint(self.path)

    @property
    def source_sha256(self) -> str | None:
        """Fingerprint of the model folder: this one, or the one that a bundle was exported from, if it says so."""
        return self.sha256 if self.kind == "model" else self.exported_from

    def choices(self) -> list[tuple[str, str]]:
        """(runtime, precision) pairs that this artefact can be run with, in the manifest's order."""
        if self.kind == "model":
            return [("pytorch", "fp32")]
        pairs = [(RUNTIME_OF_FORMAT.get(g["format"], g["format"]), str(g["precision"])) for g in self.graphs]
        return list(dict.fromkeys(pairs))

    def component_bytes(self, runtime: str, precision: str) -> dict[str, int | None]:
        """Bytes on disk per component, as this runtime and precision load them."""
        if self.kind == "model":
            return {name: weights_bytes(self.path / folder) for name, folder in COMPONENT_FOLDERS.items()}
        sizes: dict[str, int | None] = dict.fromkeys(COMPONENT_FOLDERS)
        graphs = [graph for graph in self.graphs if graph["precision"] == precision]
        there = {graph["format"] for graph in graphs}
        formats = (
            ENGINES[runtime].formats if runtime in ENGINES else ("onnx",)
        )  # onnxruntime-web is no engine of genin's
        format = next((format for format in formats if format in there), None)
        for graph in graphs:
            if graph["format"] == format and graph["component"] in sizes:
                sizes[graph["component"]] = sum(int(file["size_bytes"]) for file in graph["files"])
        return sizes


def read_facts(path: Path) -> ModelFacts:
    """The facts of a model folder, a bundle folder or a packed `.genin` file. InputError if it is none of these."""
    if path.is_file() or ((path / "manifest.json").is_file() and not (path / "model_index.json").is_file()):
        with Bundle.open(path) as bundle:
            return _bundle_facts(path, bundle.manifest)
    if (path / "model_index.json").is_file():
        return _folder_facts(path)
    remedy = "give a model folder (model_index.json), a bundle (manifest.json or .genin) or a built-in name"
    raise InputError("neither a model folder nor a bundle", where=path, remedy=remedy)


def _folder_facts(path: Path) -> ModelFacts:
    info, constants = read_info(path), read_constants(path)
    if type(info.get("image_size", 0)) is not int:
        what = f"image_size {info['image_size']!r} is not a number"
        raise InputError(what, where=path / "genin.json", remedy=AGAIN)
    notes: dict[str, str] = {}
    parameters = _count_parameters(path / "unet")
    if parameters is None:
        notes["parameters"] = "the UNet's weights are not in safetensors"
    macs = _unet_macs(path)
    if macs is None:
        notes["macs"] = "diffusers, which builds the UNet to count them, is not installed"
    return ModelFacts(
        path=path,
        kind="model",
        name=str(info.get("name") or path.name),
        role=info.get("kind"),
        image_size=info.get("image_size") or constants.image.height,
        default_steps=constants.sampler.default_steps,
        guidance_scale=constants.sampler.default_guidance_scale,
        trained_steps=_trained_steps(constants.sampler.few_step_timesteps),
        parameters=parameters,
        macs=macs,
        notes=notes,
    )


def _bundle_facts(path: Path, manifest: Manifest) -> ModelFacts:
    model, reason = manifest.model, "the manifest does not state it; evaluate the model folder it came from"
    return ModelFacts(
        path=path,
        kind="bundle",
        name=manifest.name,
        role=model.kind,
        image_size=manifest.image.height,
        default_steps=manifest.sampler.default_steps,
        guidance_scale=manifest.sampler.default_guidance_scale,
        trained_steps=_trained_steps(manifest.sampler.few_step_timesteps),
        parameters=model.parameters,
        macs=model.macs,
        component_macs={name: counts["macs"] for name in ALL_COMPONENTS if "macs" in (counts := model.counts_of(name))},
        exported_from=(model.provenance or {}).get("source_sha256"),
        notes={key: reason for key in ("parameters", "macs") if getattr(model, key) is None},
        graphs=tuple(asdict(graph) for graph in manifest.graphs),
    )


def _trained_steps(few_step_timesteps: Mapping[str, Any] | None) -> tuple[int, ...]:
    return tuple(sorted(map(int, few_step_timesteps or ()), reverse=True))


def _count_parameters(component: Path) -> int | None:
    """Elements of all tensors, from the headers of a component's safetensors files."""
    files = weight_files(component)
    if not files or files[0].suffix != ".safetensors":
        return None
    return sum(math.prod(shape) for file in files for _, shape in stored_tensors(file).values())


def stored_tensors(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name => element type ("F32", "I64") and shape of what a safetensors file holds; only its header is read.

    Errors: InputError for a file that is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as weights:
            parts = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118  (it has no iterator)
            return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}
    except (OSError, SafetensorError) as error:
        raise InputError("cannot read the weights", where=file, remedy=AGAIN) from error


def _unet_macs(path: Path) -> int | None:
    if find_spec("diffusers") is None:
        return None
    return unet_cost(read_config(path, "unet"), tokens=max_tokens(path))[1]


def unet_cost(config: Mapping[str, Any], *, tokens: int) -> tuple[int, int]:
    """(parameters, multiply-adds of one pass for one picture) of a diffusers UNet's config; no weights needed."""
    import torch
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(dict(config))
        latents = torch.zeros(1, unet.config.in_channels, *latent_size(unet.config))
        states = torch.zeros(1, tokens, unet.config.cross_attention_dim)
        return cost_of(unet, lambda: unet(latents, torch.zeros(1), encoder_hidden_states=states))


def cost_of(module: Any, call: Callable[[], object]) -> tuple[int, int]:
    """(parameters of a PyTorch module, multiply-adds of `call`): convolutions, linear layers and attention products."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return sum(p.numel() for p in module.parameters()), int(counter.get_total_flops()) // 2


def max_tokens(path: Path) -> int:
    """The length of a model folder's prompts, in tokens; CLIP's 77 where it does not state one."""
    config = path / "text_encoder" / "config.json"
    return int(read_json(config, UNREADABLE).get("max_position_embeddings", 77)) if config.is_file() else 77

"""A bundle's ONNX graphs back into the model folder that they were made from: what a bundle is exported to other formats,
quantised and trained from.

The exporter names every node and weight by its place in the network ("unet.conv_in/Conv", "unet.conv_in.weight"), keeps fp32 or
fp16, and puts diffusers' configs beside the graphs. So only the format has to be undone: `Linear` weights are transposed, norms
have the axes of maps, equal tensors are one, and a convolution's bias of zeros is left out. A folder is made once, in the
user's cache, under the hash of the bundle's manifest.

Not here: graphs of OpenVINO and Core ML, whose weights have no such names, and int8, which would not be exact.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genin.files import hidden_prefix, writing
from genin.runtimes.bundle import Bundle
from genin.runtimes.errors import InputError, MissingExtraError
from genin.runtimes.folder import GENIN_MODEL
from genin.runtimes.manifest import GraphEntry, Manifest
from genin.runtimes.vocabulary import ALL_COMPONENTS, VAE_ENCODER

Weights = dict[str, NDArray[Any]]
EXACT = ("fp32", "fp16")
VERSION = 1  # of what is made of a bundle
# Operation of a layer => what its second and third input are; Mul and Add end a GroupNorm.
PARTS = {
    **dict.fromkeys(("Conv", "Gemm", "LayerNormalization"), ("weight", "bias")),
    **dict.fromkeys(("MatMul", "Mul"), ("weight",)),
    "Add": ("bias",),
}
# CLIP adds the embeddings of a token's place outside of any layer.
PLACES = ("encoder.text_model.embeddings.bias", "encoder.text_model.embeddings.position_embedding.weight")
FROM_THE_MODEL = "give the model folder that it was exported from"


def restored(bundle: Path, cache: Path) -> Path:
    """The model folder of a bundle's networks, made in CACHE if it is not there.

    Errors: InputError for a bundle without exact ONNX graphs of all networks.
    """
    with Bundle.open(bundle) as opened:
        graphs = exact_graphs(opened)
        key = hashlib.sha256(f"{VERSION}{opened.manifest.to_json()}".encode()).hexdigest()[:16]
        # The name is the bundle's word, and no path.
        name = re.sub(r"[^\w-]+", "-", opened.manifest.name)[:60].strip("-") or "model"
        folder = cache / "restored" / key / name
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=hidden_prefix(folder)) as partial:
                with writing(folder, Path(partial)):
                    write_folder(opened, graphs, Path(partial) / name)
                try:
                    (Path(partial) / name).rename(folder)
                except OSError:
                    if not folder.exists():  # else another process was faster
                        raise
    return folder


def exact_precision(bundle: Path) -> str:
    """The precision whose graphs a model folder is made from. Errors: as `restored`."""
    with Bundle.open(bundle) as opened:
        return next(iter(exact_graphs(opened).values())).precision


def exact_graphs(bundle: Bundle) -> Mapping[str, GraphEntry]:
    """Component => its ONNX graph, in the widest precision that has all."""
    found = [bundle.manifest.components("onnx", precision) for precision in EXACT]
    for graphs in found:
        if set(graphs) >= set(ALL_COMPONENTS):
            return graphs
    lacks = "no encoder's" if any(found) else "none"
    what = f"a model folder is made from ONNX graphs in {' or '.join(EXACT)}, of which this bundle has {lacks}"
    raise InputError(what, where=bundle.path, remedy=FROM_THE_MODEL)


def write_folder(bundle: Bundle, graphs: Mapping[str, GraphEntry], out: Path) -> None:
    """diffusers' layout and genin.json. Errors: InputError for graphs that lack a weight."""
    root = graphs["unet"].path.rpartition("/unet/")[0]

    def read(path: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(bundle.read_bytes(f"{root}/{path}"))
        return content

    vae = read("vae_decoder/config.json")
    if "num_decoder_blocks" in vae:
        vae["_class_name"] = "AutoencoderTiny"  # other clients are told AutoencoderKL
    networks = {
        "text_encoder": (read("text_encoder/config.json"), ["text_encoder"], "encoder."),
        "unet": (read("unet/config.json"), ["unet"], "unet."),
        "vae": (vae, ["vae_decoder", VAE_ENCODER], "vae."),
    }
    for name, (config, components, prefix) in networks.items():  # one at a time: weights of gigabytes
        weights: Weights = {}
        for component in components:
            weights |= weights_of(bundle.local_graph(graphs[component]))
        save_network(out / name, config, weights, prefix, bundle.path)
    for path in bundle.manifest.all_files():
        inside = path.removeprefix(f"{root}/")
        if path != inside and inside.startswith(("tokenizer/", "scheduler/")):
            (out / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.local(path), out / inside)
    write_json(out / "genin.json", info_of(bundle.manifest))
    write_json(out / "model_index.json", read("model_index.json") | {"vae": ["diffusers", vae["_class_name"]]})


def save_network(folder: Path, config: dict[str, Any], found: Weights, prefix: str, bundle: Path) -> None:
    """The config of a network, and its weights: those `found` whose names are its own behind `prefix`."""
    import diffusers
    import transformers
    from safetensors.numpy import save_file

    kind = config.get("_class_name")
    with torch.device("meta"):  # names and shapes only
        if kind is None:
            network: Any = transformers.CLIPTextModel(transformers.CLIPTextConfig.from_dict(config))
        else:
            # What AutoencoderTiny writes for others to read it does not take.
            others = ("block_out_channels",) if kind == "AutoencoderTiny" else ()
            network = getattr(diffusers, kind).from_config({k: v for k, v in config.items() if k not in others})
    weights: Weights = {}
    for name, tensor in network.state_dict().items():
        array = found.get(prefix + name)
        if array is None or array.size != tensor.numel():
            what = f"its ONNX graphs have no '{prefix}{name}' of shape {tuple(tensor.shape)}"
            raise InputError(what, where=bundle, remedy=FROM_THE_MODEL)
        weights[name] = np.ascontiguousarray(array.reshape(tensor.shape))
    write_json(folder / "config.json", config)
    file = "model.safetensors" if kind is None else "diffusion_pytorch_model.safetensors"
    save_file(weights, folder / file, {"format": "pt"})


def weights_of(graph: Path) -> Weights:
    """An ONNX file's weights by their names in PyTorch, `Linear` ones the way PyTorch has them."""
    try:
        import onnx
        from onnx import numpy_helper
    except ModuleNotFoundError as error:
        raise MissingExtraError("onnx", "export") from error
    model = onnx.load(graph).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.initializer}
    for node in model.node:
        if node.op_type == "Cast" and node.input[0] in arrays:  # stored in fp16
            arrays[node.output[0]] = arrays[node.input[0]]
    found = {name.removesuffix(".cast"): array for name, array in arrays.items()}
    # Names of nodes come after those of tensors: an equal tensor has the name of the first layer that has it.
    for node in model.node:
        layer, _, operation = node.name.partition("/")
        flags = {attribute.name: attribute.i for attribute in node.attribute}
        is_transposed = node.op_type == "MatMul" or (node.op_type == "Gemm" and not flags.get("transB"))
        for part, value in zip(PARTS.get(operation.partition(".")[0], ()), node.input[1:], strict=False):
            if value in arrays:
                found[f"{layer}.{part}"] = arrays[value].T if is_transposed and part == "weight" else arrays[value]
        if node.op_type in ("Conv", "Gemm") and len(node.input) == 2 and f"{layer}.weight" in found:
            weight = found[f"{layer}.weight"]
            found[f"{layer}.bias"] = np.zeros(len(weight), weight.dtype)
    if PLACES[0] in found:
        found[PLACES[1]] = found[PLACES[0]]
    return found


def info_of(manifest: Manifest) -> dict[str, Any]:
    """What genin.json said; the manifest has a part of it in fields of its own."""
    model, sampler = manifest.model, manifest.sampler
    provenance = {k: v for k, v in (model.provenance or {}).items() if k not in ("components", "source_sha256")}
    return {
        "genin_model": GENIN_MODEL,
        "kind": model.kind,
        "parent": model.parent,
        "licence": model.licence,
        "title": model.title,
        **provenance,
        "guidance": sampler.guidance,
        "guidance_scale": sampler.guidance_scale,
        "default_steps": sampler.default_steps,
        "few_step_timesteps": sampler.few_step_timesteps,
        "image_size": manifest.image.height,
        "recipe": model.recipe or {},
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

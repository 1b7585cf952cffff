"""What a model folder or bundle consists of, and how a picture was drawn, read from small files: nothing is loaded or run.

Not here: measurements (`genin bench`, `genin evaluate`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from genin.benchmarks.model_facts import stored_tensors
from genin.dataset.text import listed
from genin.runtimes.bundle import Bundle, is_bundle
from genin.runtimes.errors import InputError
from genin.runtimes.folder import (
    COMPONENT_FOLDERS,
    is_model_folder,
    missing_files,
    read_constants,
    read_info,
    weight_files,
)
from genin.runtimes.manifest import SamplerConstants
from genin.runtimes.pictures import FORMATS as PICTURES
from genin.runtimes.pictures import Picture
from genin.runtimes.starts import strengths
from genin.runtimes.vocabulary import ALL_COMPONENTS, COMPONENTS, VAE_ENCODER

PRECISION_OF = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}
MACS = "multiply-adds are for one picture, one step, without guidance"
Facts = dict[str, Any]


def inspect_path(path: Path) -> Facts:
    """Facts of a bundle (folder or `.genin`), a model folder or a picture. Errors: InputError if it is none of them."""
    if is_model_folder(path):
        return _inspect_model(path)
    if is_bundle(path):
        return _inspect_bundle(path)
    if path.is_file() and path.suffix.lower() in PICTURES:
        return _inspect_picture(path)
    remedy = "give a model folder (model_index.json), a bundle (manifest.json or .genin) or a picture (.png)"
    raise InputError("neither a model folder nor a bundle nor a picture", where=path, remedy=remedy)


def _inspect_picture(path: Path) -> Facts:
    picture = Picture.open(path)
    height, width = picture.shape[:2]
    notes = {} if picture.settings else {"settings": "it holds no settings: not a PNG that genin has drawn"}
    return {
        "kind": "picture",
        "name": path.name,
        "width": width,
        "height": height,
        "settings": {**picture.settings},
        "origin": {**picture.origin},
        "size_bytes": path.stat().st_size,
        "notes": notes,
    }


def _inspect_bundle(path: Path) -> Facts:
    with Bundle.open(path) as bundle:
        manifest = bundle.manifest
    components: Facts = {}
    for name in ALL_COMPONENTS if any(graph.component == VAE_ENCODER for graph in manifest.graphs) else COMPONENTS:
        own = [graph for graph in manifest.graphs if graph.component == name]
        stated = manifest.model.counts_of(name)
        components[name] = {
            "parameters": stated.get("parameters"),
            "macs": stated.get("macs"),
            "size_bytes": sum(graph.size_bytes for graph in own),
            "precision": ", ".join(dict.fromkeys(graph.precision for graph in own)),
        }
    graphs = [
        {
            "component": graph.component,
            "name": graph.name,
            "format": graph.format,
            "precision": graph.precision,
            "size_bytes": graph.size_bytes,
            "psnr_db": graph.parity.psnr_db if graph.parity else None,
            "stored": graph.stored,
            "compute": graph.compute,
            "operations": graph.operations,
            "converter": graph.converter,
        }
        for graph in (*manifest.graphs, *manifest.single_graphs)
    ]
    return {
        "kind": manifest.model.kind,
        "name": manifest.name,
        "components": components,
        "graphs": graphs,
        "size_bytes": sum(entry.size_bytes for entry in manifest.all_files().values()),
        "licence": manifest.model.licence,
        "parent": manifest.model.parent,
        "image_size": manifest.image.height,
        "steps": manifest.sampler.default_steps,
        "guidance": manifest.sampler.guidance,
        "takes_images": VAE_ENCODER in components,
        "strengths": _strengths(manifest.sampler),
        "provenance": manifest.model.provenance,
        "recipe": manifest.model.recipe,
        "notes": {"macs": MACS},
    }


def _inspect_model(path: Path) -> Facts:
    from genin.export.facts import network_facts

    info, constants = read_info(path), read_constants(path)
    networks = network_facts(path)
    folders = {**COMPONENT_FOLDERS, VAE_ENCODER: COMPONENT_FOLDERS["vae_decoder"]}
    components = {name: {**networks[name], **_stored(path / folder)} for name, folder in folders.items()}
    return {
        "kind": info.get("kind", "teacher"),
        "name": path.name,
        "components": components,
        "graphs": [],
        "size_bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        "licence": info.get("licence", "unknown"),
        "parent": info.get("parent"),
        "image_size": constants.image.height,
        "steps": constants.sampler.default_steps,
        "guidance": constants.sampler.guidance,
        "takes_images": True,
        "strengths": _strengths(constants.sampler),
        "provenance": {key: value for key, value in info.items() if key != "recipe"},
        "recipe": info.get("recipe"),
        "notes": {
            "macs": MACS,
            **({"missing": f"the folder lacks files: {listed(missing)}"} if (missing := missing_files(path)) else {}),
            "vae_decoder": "parameters are the decoder's, size_bytes the whole autoencoder's",
            VAE_ENCODER: "parameters are the encoder's, size_bytes the whole autoencoder's",
        },
    }


def _strengths(sampler: SamplerConstants) -> dict[str, tuple[float, ...]] | None:
    """Number of steps => the strengths that exist for drawing from an image; None where any does."""
    few = sampler.few_step_timesteps
    return {steps: strengths(int(steps)) for steps in few} if few else None


def _stored(folder: Path) -> Facts:
    """Bytes of a component's weights, and the precision in which they are stored."""
    files = [file for file in weight_files(folder) if file.is_file()]
    kinds = {kind for file in files if file.suffix == ".safetensors" for kind in _kinds(file)}
    names = sorted(PRECISION_OF.get(kind, kind.lower()) for kind in kinds)
    return {"size_bytes": sum(file.stat().st_size for file in files), "precision": ", ".join(names) or "unknown"}


def _kinds(file: Path) -> set[str]:
    """The element types of a safetensors file, except integers (position ids)."""
    return {kind for kind, _ in stored_tensors(file).values() if "F" in kind}

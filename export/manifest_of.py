"""A bundle's description of itself: the manifest, from a model folder and its graphs, and the model card.

Sizes, tokens and the sampler's constants are read as the PyTorch runtime reads them from the model folder, so that the
bundle draws what the folder draws.

Not here: the manifest's schema (`genin.runtimes.manifest`).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from genin.distill.data.dataset import origins_table
from genin.distill.data.licences import licence_fields
from genin.export.facts import network_facts
from genin.runtimes.errors import InputError
from genin.runtimes.folder import read_constants, read_info
from genin.runtimes.manifest import GoldenEntry, GraphEntry, Manifest, ModelInfo, PictureParity
from genin.runtimes.origin import fingerprint
from genin.runtimes.wording import counted_each
from genin.version import __version__

# Keys of genin.json that have fields of their own in the manifest; the rest is provenance.
PLACED = (
    *("genin_model", "kind", "parent", "licence", "title", "recipe"),
    *("few_step_timesteps", "default_steps", "guidance", "guidance_scale", "image_size"),
)


def manifest_of(
    path: Path,
    name: str,
    graphs: tuple[GraphEntry, ...],
    golden: tuple[GoldenEntry, ...],
    pictures: tuple[PictureParity, ...] = (),
) -> Manifest:
    """The manifest of a bundle made from the model folder `path`, still without its other files.

    Errors: InputError naming the file that is not usable.
    """
    constants = read_constants(path)
    sampler = constants.sampler
    if sampler.guidance == "baked":
        sampler = replace(sampler, guidance_scale=1.0)
    return Manifest(
        name=name,
        genin_version=__version__,
        model=_model_info(path),
        image=constants.image,
        latents=constants.latents,
        text=constants.text,
        sampler=sampler,
        graphs=graphs,
        golden=golden,
        pictures=pictures,
    )


def check_describable(path: Path) -> None:
    """Errors: as `manifest_of`, before anything is converted."""
    read_constants(path)
    _recipe_of(read_info(path), path)


def _recipe_of(info: Mapping[str, Any], path: Path) -> dict[str, Any]:
    recipe = info.get("recipe") or {}
    if not isinstance(recipe, dict):
        raise InputError("'recipe' is not an object", where=path / "genin.json", remedy="train or download it again")
    return recipe


def _model_info(path: Path) -> ModelInfo:
    info, facts = read_info(path), network_facts(path)
    recipe = _recipe_of(info, path)
    known = {key: value for key, value in info.items() if key not in PLACED}
    return ModelInfo(
        kind=str(info.get("kind", "teacher")),
        licence=str(info.get("licence", "unknown")),
        title=str(info.get("title", path.name)),
        parent=None if info.get("parent") is None else str(info["parent"]),
        parameters=facts["unet"]["parameters"],
        macs=facts["unet"]["macs"],
        provenance=known | {"components": facts, "source_sha256": fingerprint(path)},
        recipe=recipe,
    )


# --- the card --------------------------------------------------------------------------------------------------------


def bundle_card(manifest: Manifest, file_name: str) -> str:
    """README.md of the bundle: front matter, how to run it, each graph's size and measured parity."""
    model, sampler = manifest.model, manifest.sampler
    steps = counted_each(map(int, sampler.few_step_timesteps or [sampler.default_steps]), "step")
    guidance = (
        "guidance is baked in" if sampler.guidance == "baked" else f"classifier-free guidance {sampler.guidance_scale}"
    )
    metadata = ModelCardData(
        **licence_fields([model.licence]),
        pipeline_tag="text-to-image",
        tags=["genin", "text-to-image", *(graph.format for graph in manifest.graphs)],  # each is named once
    )
    name = shlex.quote(file_name)
    lines = [
        f"---\n{metadata.to_yaml()}\n---",
        "",
        f"# {model.title}",
        "",
        f"A genin bundle of a {model.kind}"
        + (f" of `{model.parent}`" if model.parent else "")
        + f": {manifest.image.width}×{manifest.image.height} pictures in {steps} ({sampler.name}, {guidance}).",
        f"Licence: {model.licence}. Made by genin {manifest.genin_version}.",
        "",
        "```",
        f'genin generate "a prompt" -m {name} --out picture.png',
        f"genin verify {name}",
        "```",
        "",
        *_origins((model.provenance or {}).get("origins")),
        "## Graphs",
        "",
        "Parity is PSNR against PyTorch fp32 on the golden inputs (peak: the reference's own max − min); what measured it is",
        "in `manifest.json`.",
        "",
        "| format | precision | component | MB | parity, dB |",
        "|---|---|---|---|---|",
        *(_row(graph) for graph in manifest.graphs),
        "",
    ]
    return "\n".join(lines)


def _origins(origins: Any) -> list[str]:
    """Whose pictures the model learnt from, where that is known."""
    if not isinstance(origins, list) or not all(isinstance(origin, dict) for origin in origins) or not origins:
        return []
    return ["## Whose pictures it learnt from", "", *origins_table(origins), ""]


def _row(graph: GraphEntry) -> str:
    parity = "–" if graph.parity is None else f"{graph.parity.psnr_db:.1f}"
    return f"| {graph.format} | {graph.precision} | {graph.component} | {graph.size_bytes / 1e6:.2f} | {parity} |"

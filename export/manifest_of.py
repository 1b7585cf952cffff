"""What a bundle says of itself: the manifest from a model folder and its graphs, and the model card of the bundle.

Folders without `genin.json` are someone else's teachers: classifier-free guidance at 7.5, 50 steps.

Not here: the manifest's schema (`genin.runtimes.manifest`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genin import __version__
from genin.distill.model_folder import ModelFolder
from genin.export.client_files import scheduler_config
from genin.export.components import max_length
from genin.export.facts import network_facts
from genin.runtimes.errors import InputError
from genin.runtimes.manifest import (
    GoldenEntry,
    GraphEntry,
    ImageSize,
    Latents,
    Manifest,
    ModelInfo,
    SamplerConstants,
    TextConstants,
)

FOREIGN_STEPS, FOREIGN_GUIDANCE_SCALE = 50, 7.5
# Keys of genin.json that the manifest has places for; what is left is provenance.
PLACED = (
    "genin_model",
    "kind",
    "parent",
    "licence",
    "title",
    "recipe",
    "few_step_timesteps",
    "default_steps",
    "guidance",
)


def manifest_of(
    model: ModelFolder, path: Path, name: str, graphs: tuple[GraphEntry, ...], golden: tuple[GoldenEntry, ...]
) -> Manifest:
    """The manifest of a bundle of `graphs`, still without its other files. Errors: InputError for a bad genin.json."""
    size, config = model.latent_size, model.vae.config
    try:
        return Manifest(
            name=name,
            genin_version=__version__,
            model=_model_info(model, path),
            image=ImageSize(model.image_size, model.image_size),
            latents=Latents(int(config.latent_channels), size, size, float(config.scaling_factor)),
            text=_text(model),
            sampler=_sampler(model),
            graphs=graphs,
            golden=golden,
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"genin.json is not usable ({error})", where=path, remedy="train or download it again"
        ) from error


def _model_info(model: ModelFolder, path: Path) -> ModelInfo:
    info, facts = model.info, network_facts(path)
    rest = {key: value for key, value in info.items() if key not in (*PLACED, "guidance_scale", "image_size")}
    return ModelInfo(
        kind=str(info.get("kind", "teacher")),
        licence=str(info.get("licence", "unknown")),
        title=str(info.get("title", path.name)),
        parent=None if info.get("parent") is None else str(info["parent"]),
        parameters=facts["unet"]["parameters"],
        macs=facts["unet"]["macs"],
        provenance={**rest, "components": facts},
        recipe=dict(info.get("recipe") or {}),
    )


def _text(model: ModelFolder) -> TextConstants:
    tokenizer = model.tokenizer
    return TextConstants(
        max_length(model),
        int(model.text_encoder.config.hidden_size),
        int(tokenizer.pad_token_id),
        int(tokenizer.bos_token_id),
        int(tokenizer.eos_token_id),
    )


def _sampler(model: ModelFolder) -> SamplerConstants:
    info, scheduler = model.info, scheduler_config(model)
    few: Mapping[str, Any] | None = info.get("few_step_timesteps")
    baked = info.get("guidance") == "baked"
    return SamplerConstants(
        name="ddim",
        prediction_type=scheduler["prediction_type"],
        scheduler=scheduler,
        default_steps=int(info.get("default_steps") or FOREIGN_STEPS),
        guidance="baked" if baked else "free",
        guidance_scale=1.0 if baked else float(info.get("guidance_scale") or FOREIGN_GUIDANCE_SCALE),
        few_step_timesteps={key: tuple(int(t) for t in steps) for key, steps in few.items()} if few else None,
    )


# --- the card --------------------------------------------------------------------------------------------------------


def bundle_card(manifest: Manifest) -> str:
    """README.md of the bundle: front matter, how to run it, each graph's size and measured parity."""
    model, sampler = manifest.model, manifest.sampler
    steps = ", ".join(sampler.few_step_timesteps) if sampler.few_step_timesteps else str(sampler.default_steps)
    guidance = (
        "guidance is baked in" if sampler.guidance == "baked" else f"classifier-free guidance {sampler.guidance_scale}"
    )
    lines = [
        "---",
        f"license: {model.licence.lower()}",
        "pipeline_tag: text-to-image",
        "tags: [genin, text-to-image, " + ", ".join(dict.fromkeys(graph.format for graph in manifest.graphs)) + "]",
        "---",
        "",
        f"# {model.title}",
        "",
        f"A genin bundle of a {model.kind}"
        + (f" of `{model.parent}`" if model.parent else "")
        + f": {manifest.image.width}×{manifest.image.height} pictures in {steps} steps ({sampler.name}, {guidance}).",
        f"Licence: {model.licence}. Made by genin {manifest.genin_version}.",
        "",
        "```",
        f'genin generate "a prompt" -m {manifest.name} --out picture.png',
        f"genin verify {manifest.name}",
        "```",
        "",
        "## Graphs",
        "",
        "Parity is PSNR against PyTorch fp32 on the golden inputs (peak: the reference's own max − min). Core ML graphs",
        "cannot run on Linux, so those have none.",
        "",
        "| format | precision | component | MB | parity, dB |",
        "|---|---|---|---|---|",
        *(_row(graph) for graph in manifest.graphs),
        "",
    ]
    return "\n".join(lines)


def _row(graph: GraphEntry) -> str:
    parity = "–" if graph.parity is None else f"{graph.parity.psnr_db:.1f}"
    return f"| {graph.format} | {graph.precision} | {graph.component} | {graph.size_bytes / 1e6:.2f} | {parity} |"

"""The Hugging Face model card of a model folder: front matter, then what it is, was made from, measures and cannot do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData

from genin.distill.data.dataset import origins_table
from genin.distill.data.licences import licence_fields
from genin.runtimes.folder import DEFAULT_GUIDANCE_SCALE
from genin.runtimes.wording import counted_each


def model_card(info: dict[str, Any], parameters: Mapping[str, int], image_size: int, prediction_type: str) -> str:
    """Markdown with YAML front matter. `info` is what genin.json holds, `parameters` the number of weights of each network."""
    kind = info.get("kind", "model")
    metadata = ModelCardData(
        **licence_fields([str(info.get("licence", "unknown"))]),
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["genin", "text-to-image", "diffusion", "distillation" if kind == "student" else "teacher"],
    )
    lines = [
        f"---\n{metadata.to_yaml()}\n---",
        "",
        f"# {info.get('title', f'genin {kind}')}",
        "",
        _summary(info, image_size, prediction_type),
        "",
        "| | parameters |",
        "|---|---|",
        *(f"| {name} | {count / 1e6:.2f} M |" for name, count in parameters.items()),
        "",
        "## Data",
        "",
        *_made_from(info),
        f"Trained on `{info.get('data', 'unknown')}`. Licence of the weights: {info.get('licence', 'unknown')}.",
        "",
        *(origins_table(info["origins"]) if info.get("origins") else ()),
        "",
        "## Recipe",
        "",
        f"Images seen: {info.get('images_seen', 'see the training log')}. The full recipe is in `genin.json`.",
        "",
        "## Metrics",
        "",
        *_metrics(info.get("metrics") or {}),
        "",
        "## Limits",
        "",
        f"Draws {image_size}×{image_size} pictures of the world it was trained on, and nothing else: words outside its",
        "captions have little or no effect. Not for photographs, faces of real people, or text in pictures.",
        "",
    ]
    return "\n".join(lines)


def _made_from(info: dict[str, Any]) -> list[str]:
    """What a tuned teacher was tuned from, and how."""
    if info.get("kind") != "teacher" or not info.get("parent"):
        return []
    rank = ((info.get("recipe") or {}).get("finetune") or {}).get("lora_rank")
    loras = ", ".join(f"`{name}`" for name in info.get("merged_loras", ()))
    how = f" by low-rank adapters of rank {rank}" if rank else ""
    return [f"Made from `{info['parent']}`{how}{f', with {loras} merged into it' if loras else ''}.", ""]


def _summary(info: dict[str, Any], image_size: int, prediction_type: str) -> str:
    steps = info.get("few_step_timesteps")
    if info.get("kind") == "student" and steps:
        counts = counted_each(map(int, steps), "step")
        return (
            f"A student of {counts}, distilled from `{info.get('parent')}`; guidance is baked in, so it needs one pass "
            "of the UNet a step. Sampler: DDIM (η = 0), trailing timesteps, no clipping."
        )
    return (
        f"A text-to-image diffusion model for {image_size}×{image_size} pictures "
        f"({prediction_type}); use it with classifier-free guidance "
        f"around {info.get('guidance_scale', DEFAULT_GUIDANCE_SCALE)}."
    )


def _metrics(metrics: dict[str, Any]) -> list[str]:
    if not metrics:
        return ["Not measured yet: `genin evaluate` prints them."]
    return ["| metric | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in metrics.items())]

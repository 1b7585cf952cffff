"""Extrapolate a recipe's costs to other machines and larger sets: Markdown for docs/scaling.md.

    python tools/scale_out.py --teacher SD15 [--recipe recipes/naruto-sd15.yaml] [--peak 989] [--share 0.35] [--gpus 8] [--price 3]

Memory and operations are those of `distill.loop.memory` and `distill.student.cost`. `--peak` is a card's dense bf16 TFLOP/s (an
H100's or H200's by NVIDIA's data sheet), `--share` what a training reaches of it, `--price` a card's hour in dollars: assumptions,
to be replaced by what you measure (`images_per_s` of a log times `gflop_an_image` of a dry run, over the peak, is your share).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from genin.benchmarks.model_facts import cost_of, max_tokens
from genin.distill.loop.memory import Others, PhaseSizes, Unet, finetune_flop, finetune_memory
from genin.distill.models.student_config import pruning_of, student_config
from genin.distill.recipe import Recipe, load_recipe
from genin.distill.student.cost import distill_flop, distill_memory

LINK_GB_S = 300.0  # that a card sends and receives at once, NVLink's effective rate
PICTURE_KB, SHARD_GB = 100, 1.0  # a JPEG of 512 px at quality 95, a WebDataset shard


def encoder_flop(teacher: Path) -> float:
    """Operations of the autoencoder's encoder for a picture of the teacher's size."""
    import torch
    from diffusers import AutoencoderKL

    config = AutoencoderKL.load_config(teacher / "vae")
    side = json.loads((teacher / "unet" / "config.json").read_text())["sample_size"]
    with torch.device("meta"):
        vae: Any = AutoencoderKL.from_config(config)
        picture = torch.zeros(1, 3, *(side * 2 ** (len(config["block_out_channels"]) - 1),) * 2)
        return 2.0 * cost_of(vae, lambda: vae.encode(picture))[1]


def one_card(recipe: Recipe, teacher: Unet, student: Unet, others: Others, rate: float) -> list[str]:
    """One row per phase: memory, work, images per second, hours."""
    phases = [name for name in ("prune", "steps", "adversarial") if getattr(recipe, name).images > 0]
    memory = {"finetune": finetune_memory(recipe.finetune, teacher, recipe.finetune.lora_rank, others)}
    sizes = PhaseSizes(teacher, student, others)
    memory |= {name: distill_memory(name, recipe, sizes) for name in phases}
    work = {"finetune": finetune_flop(recipe.finetune, teacher, recipe.finetune.lora_rank)}
    work |= {name: distill_flop(name, recipe, sizes) for name in ("pool", *phases)}
    images = {name: getattr(recipe, name).images for name in ("finetune", *phases)} | {"pool": recipe.pool.size}
    lines = ["| | batch | memory, GB | TFLOP per image | images/s | images | hours |", "|---|---|---|---|---|---|---|"]
    total = 0.0
    for name in ("finetune", "pool", *phases):
        a_second = rate / work[name]
        hours = images[name] / a_second / 3600
        total += hours
        size = f"{sum(memory[name].values()) / 1e9:.0f}" if name in memory else "–"
        batch = getattr(recipe, name).batch_size
        lines.append(
            f"| {name} | {batch} | {size} | {work[name] / 1e12:.1f} | {a_second:.0f} | {images[name]:,} | {hours:.1f} |"
        )
    return [*lines, f"| together | | | | | | {total:.1f} |"]


def many_cards(recipe: Recipe, teacher: Unet, others: Others, rate: float, gpus: int, batch: int) -> list[str]:
    """DDP and FSDP of tuning the whole teacher: memory per card, seconds per update of computing and of communication."""
    from dataclasses import replace

    settings = replace(recipe.finetune, batch_size=batch * gpus)
    whole, sharded = (
        sum(finetune_memory(settings, teacher, 0, others, processes=gpus, sharded=shared_out).values())
        for shared_out in (False, True)
    )
    seconds = batch * finetune_flop(settings, teacher, 0) / rate
    size = 4 * teacher.parameters
    once = size * (gpus - 1) / gpus / (LINK_GB_S * 1e9)  # a gather or a scatter of everything, in a ring
    lines = [
        "| | memory a card, GB | seconds of work | seconds on the wire | images/s, no overlap |",
        "|---|---|---|---|---|",
    ]
    for name, memory, wire in (("DDP", whole, 2 * once), ("FSDP", sharded, 3 * once)):
        a_second = batch * gpus / (seconds + wire)
        lines.append(f"| {name} | {memory / 1e9:.1f} | {seconds:.2f} | {wire:.3f} | {a_second:.0f} |")
    return lines


def many_pictures(
    teacher: Unet, encoder: float, recipe: Recipe, rate: float, gpus: int, price: float, count: float
) -> list[str]:
    config = dict(teacher.config)
    latent = 2 * config["in_channels"] * config["sample_size"] ** 2
    stored = count * PICTURE_KB * 1e3
    encoding = count * encoder / (rate * gpus) / 3600
    epoch = count * finetune_flop(recipe.finetune, teacher, 0) / (rate * gpus) / 3600
    a_second = rate * gpus / finetune_flop(recipe.finetune, teacher, 0)
    return [
        "| | |",
        "|---|---|",
        f"| pictures, {PICTURE_KB} kB each | {stored / 1e12:.0f} TB in {stored / 1e9 / SHARD_GB:,.0f} shards of {SHARD_GB:g} GB |",
        f"| latents, {latent / 1e3:.0f} kB each (float16, a memory-mapped file) | {count * latent / 1e12:.1f} TB |",
        f"| captions' states, {teacher.tokens}×{config['cross_attention_dim']} in float16, if each were kept | "
        f"{count * 2 * teacher.tokens * config['cross_attention_dim'] / 1e12:.0f} TB: embedded on the fly instead |",
        f"| encoding once, {encoder / 1e12:.2f} TFLOP a picture | {encoding:.1f} h, ${encoding * gpus * price:,.0f} |",
        f"| one epoch of tuning | {epoch:.0f} h at {a_second:.0f} images/s, ${epoch * gpus * price:,.0f} |",
        f"| read while training, from latents | {a_second * latent / 1e6:.0f} MB/s |",
        f"| read while encoding, from shards | {rate * gpus / encoder * PICTURE_KB / 1e3:.0f} MB/s |",
    ]


@click.command(help=__doc__)
@click.option("--teacher", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--recipe", "recipe_file", type=click.Path(path_type=Path), default=Path("recipes/naruto-sd15.yaml"))
@click.option("--peak", default=989.0, show_default=True, help="TFLOP/s")
@click.option("--share", default=0.35, show_default=True)
@click.option("--gpus", default=8, show_default=True)
@click.option("--batch", default=16, show_default=True, help="A card's, of several.")
@click.option("--price", default=3.0, show_default=True, help="Dollars a card's hour.")
@click.option("--images", default=1e8, show_default=True)
def main(
    teacher: Path, recipe_file: Path, peak: float, share: float, gpus: int, batch: int, price: float, images: float
) -> None:
    recipe, rate = load_recipe(recipe_file), peak * share * 1e12
    config, tokens = json.loads((teacher / "unet" / "config.json").read_text()), max_tokens(teacher)
    whole, others = Unet.of(config, tokens), Others.of_folder(teacher)
    student = Unet.of(student_config(config, pruning_of(recipe.student)), tokens)
    parts = {
        f"One card at {share:.0%} of {peak:g} TFLOP/s": one_card(recipe, whole, student, others, rate),
        f"{gpus} cards, batch {batch} each, tuning the whole UNet": many_cards(
            recipe, whole, others, rate, gpus, batch
        ),
        f"{images:,.0f} pictures": many_pictures(whole, encoder_flop(teacher), recipe, rate, gpus, price, images),
    }
    for title, lines in parts.items():
        click.echo("\n".join([f"**{title}**", "", *lines, ""]))


if __name__ == "__main__":
    main()

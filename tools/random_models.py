"""Model folders of Stable Diffusion's shapes with random weights: time and memory depend on shapes alone, and pretrained weights
are a download.

    python tools/random_models.py sd15 bk-tiny swift --out models

`sd15` is the whole of Stable Diffusion 1.5 (UNet, CLIP ViT-L/14's text encoder, AutoencoderKL); `bk-tiny` and `swift` are its
students of those names, `swift` with the tiny decoder of recipes/naruto-sd15.yaml. All draw 512 px in one step without guidance, as
a student does, or in any number of DDIM's. The tokenizer is the built-in teacher's. Their pictures are noise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import torch

from genin.distill.models.diffusion import student_scheduler
from genin.distill.models.folder import ModelFolder, load_model_folder, save_model_folder
from genin.distill.models.pruning import build_student
from genin.distill.models.student_config import pruning_of
from genin.distill.recipe import StudentRecipe, load_recipe
from genin.distill.student.decoder import build_tiny
from genin.runtimes.names import installed_names

RECIPE = Path(__file__).parents[1] / "recipes" / "naruto-sd15.yaml"
SIDE, FACTOR = 512, 8
UNET = {
    "sample_size": SIDE // FACTOR,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}  # the rest are diffusers' defaults
TEXT = {
    "vocab_size": 49_408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "projection_dim": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
}
AUTOENCODER = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": SIDE,
    "scaling_factor": 0.18215,
}
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}
SHAPES = ("sd15", "bk-tiny", "swift")


def random_model(shape: str, path: Path) -> ModelFolder:
    """The networks of one of `SHAPES`, in memory: 4 GB."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    tokenizer = load_model_folder(installed_names().model("builtin:teacher")).tokenizer
    tokenizer.model_max_length = TEXT["max_position_embeddings"]
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text_encoder: Any = CLIPTextModel(CLIPTextConfig(**TEXT, **ids))
    unet: Any = UNet2DConditionModel(**UNET)
    vae: Any = AutoencoderKL(**AUTOENCODER)
    if shape != "sd15":
        unet, _ = build_student(unet, pruning_of(StudentRecipe(shape)))
    if shape == "swift":
        vae = build_tiny(vae, load_recipe(RECIPE).decoder, FACTOR)
    info = {
        "kind": "student",
        "name": shape,
        "licence": "Apache-2.0",
        "guidance": "baked",
        "guidance_scale": 1.0,
        "default_steps": 1,
        "image_size": SIDE,
    }
    return ModelFolder(path, tokenizer, text_encoder, unet, vae, student_scheduler(SCHEDULER), info)


@click.command()
@click.argument("shapes", nargs=-1, required=True, type=click.Choice(SHAPES))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True)
def main(shapes: tuple[str, ...], out: Path) -> None:
    for shape in shapes:
        model = random_model(shape, out / shape)
        save_model_folder(model, model.path)
        millions = {name: round(count / 1e6, 1) for name, count in model.parameters().items()}
        click.echo(f"{model.path}: {millions} million weights")


if __name__ == "__main__":
    main()

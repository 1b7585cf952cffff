"""Bundles that the export tests share: made once a session through the real command line, kept beside the model.

`write_compact_model` writes a student unlike the tiny one: the UNet pools the text into its time embedding
(`addition_embed_type="text"`), norms are modulated by scale and shift, attention is in one block of two, there is no mid
block, and the autoencoder is a full AutoencoderKL.
"""

from __future__ import annotations

import json
from pathlib import Path

from conftest import IMAGE_SIZE, LATENT_SIZE, STUDENT_INFO, write_tiny_model

from genin.cli import run


def write_compact_model(folder: Path) -> None:
    import torch
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

    write_tiny_model(folder)
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    torch.manual_seed(1)
    pipeline.unet = UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        mid_block_type=None,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        resnet_time_scale_shift="scale_shift",
    )
    pipeline.vae = AutoencoderKL(
        block_out_channels=(16, 16, 32),
        layers_per_block=1,
        latent_channels=4,
        sample_size=IMAGE_SIZE,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
    )
    pipeline.save_pretrained(folder)
    (folder / "genin.json").write_text(json.dumps(STUDENT_INFO), encoding="utf-8")


def exported(model: Path, name: str, *options: str) -> Path:
    """The bundle `name` beside `model`, exported if it is not there yet."""
    out = model.parent / name
    if not out.exists():
        assert run(["export", str(model), "--out", str(out), *options]) == 0
    return out

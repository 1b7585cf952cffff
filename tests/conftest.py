"""Tiny random models that every area's tests share: real formats, fixed seeds, no downloads.

`tiny_model_folder` is a teacher (classifier-free guidance, no few-step timesteps), `tiny_student_folder` the same
networks declared as a student (guidance baked in, four-, two- and one-step timesteps). Both are read-only: copy them
before changing anything.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORDS = (
    "ninja",
    "orange",
    "outfit",
    "mountain",
    "sunset",
    "meditating",
    "running",
    "the",
    "under",
    "with",
    "and",
    "on",
)
MAX_LENGTH = 32
LATENT_SIZE, IMAGE_SIZE = 16, 64
TINY_SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "set_alpha_to_one": True,
    "clip_sample": False,
    "steps_offset": 0,
}
TEACHER_INFO: dict[str, Any] = {
    "genin_model": 1,
    "kind": "teacher",
    "parent": None,
    "few_step_timesteps": None,
    "default_steps": 6,
    "guidance": "free",
    "guidance_scale": 3.0,
    "image_size": IMAGE_SIZE,
    "licence": "Apache-2.0",
    "recipe": {},
    "metrics": {},
}
STUDENT_INFO = TEACHER_INFO | {
    "kind": "student",
    "parent": "tiny",
    "few_step_timesteps": {"4": [999, 749, 499, 249], "2": [999, 499], "1": [999]},
    "default_steps": 4,
    "guidance": "baked",
}


@pytest.fixture
def genin(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Run a command with --json; it has to succeed. Returns the object on the last line of stdout."""

    from genin.cli import run

    def call(*arguments: str | Path) -> dict[str, Any]:
        capsys.readouterr()
        code = run([*map(str, arguments), "--json"])
        output = capsys.readouterr()
        assert code == 0, output.err
        result: dict[str, Any] = json.loads(output.out.splitlines()[-1])
        return result

    return call


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers model folder with random weights: 64-px pictures, 4×16×16 latents, captions of up to 32 tokens."""
    folder = tmp_path_factory.mktemp("tiny") / "teacher"
    write_tiny_model(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_student_folder(tiny_model_folder: Path) -> Path:
    """`tiny_model_folder`, declared as a few-step student with guidance baked in."""
    folder = tiny_model_folder.parent / "student"
    shutil.copytree(tiny_model_folder, folder)
    (folder / "genin.json").write_text(json.dumps(STUDENT_INFO), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def compact_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student whose UNet adds the text to the time embedding and scales its norms by it (`exported.write_compact_model`)."""
    from exported import write_compact_model

    folder = tmp_path_factory.mktemp("compact") / "model"
    write_compact_model(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tiny_student_folder: Path) -> Path:
    """A bundle folder of the tiny student: ONNX and OpenVINO, fp32 and fp16. Read-only, like the others."""
    from tiny_bundle import write_tiny_bundle

    folder = tiny_student_folder.parent / "bundle"
    write_tiny_bundle(tiny_student_folder, folder)
    return folder


def write_tiny_model(folder: Path) -> None:
    import torch
    from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    tokenizer = write_tiny_tokenizer(folder / "tokenizer")
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            projection_dim=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    text_encoder.text_model.embeddings.token_embedding.weight.data.mul_(50)  # prompts must differ in random weights
    unet = UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    vae = AutoencoderTiny(
        encoder_block_out_channels=(16, 16, 16),
        decoder_block_out_channels=(16, 16, 16),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
        latent_channels=4,
        scaling_factor=0.8,
    )
    with torch.no_grad():  # random decoders draw grey: stretch the last layer to the picture's range
        last = vae.decoder.layers[-1]
        spread = vae.decode(torch.randn(4, 4, LATENT_SIZE, LATENT_SIZE)).sample
        last.weight.mul_(0.5 / spread.std())
        last.bias.fill_(0.5)
        first = vae.encoder.layers[
            -1
        ]  # and random encoders give hardly anything: latents of a model have unit variance
        seen = vae.encode(torch.rand(4, 3, IMAGE_SIZE, IMAGE_SIZE) * 2 - 1).latents
        first.bias.sub_(seen.mean(dim=(0, 2, 3)))
        seen = vae.encode(torch.rand(4, 3, IMAGE_SIZE, IMAGE_SIZE) * 2 - 1).latents
        first.weight.div_(0.8 * seen.std())
        first.bias.div_(0.8 * seen.std())
    pipeline = StableDiffusionPipeline(
        text_encoder=text_encoder.eval(),
        unet=unet.eval(),
        vae=vae.eval(),
        tokenizer=tokenizer,
        scheduler=DDIMScheduler.from_config(TINY_SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    (folder / "genin.json").write_text(json.dumps(TEACHER_INFO), encoding="utf-8")


def write_tiny_tokenizer(folder: Path) -> Any:
    """A CLIP byte-pair tokenizer whose merges spell `WORDS`; any other text is spelt in bytes."""
    from transformers import CLIPTokenizer

    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    byte = [*map(chr, printable)] + [chr(256 + n) for n in range(256 - len(printable))]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        letters = [*word[:-1], word[-1] + "</w>"]
        for end in range(1, len(letters)):
            pair = ("".join(letters[:end]), letters[end])
            if pair not in merges:
                merges.append(pair)
    pieces = dict.fromkeys([*byte, *(b + "</w>" for b in byte), *map("".join, merges)])
    vocabulary = [*pieces, "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(vocabulary)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n", encoding="utf-8")
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=MAX_LENGTH, pad_token="<|endoftext|>"
    )

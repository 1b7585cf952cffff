"""Bundles that several test files share, exported once a session through the real command line, and parts of them.

`write_compact_model` writes a student unlike the tiny one: the UNet pools the text into its time embedding
(`addition_embed_type="text"`), norms are modulated by scale and shift, there is no mid block, and the autoencoder is a full
AutoencoderKL. What an export costs is the number of layers that are traced, so there is one block down and one up.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest import mock

import pytest

from conftest import IMAGE_SIZE, LATENT_SIZE, STUDENT_INFO, TEACHER_INFO, built_once, write_tiny_model
from genin.cli import run
from genin.export.precision_plan import Plan, Storage
from genin.runtimes.vocabulary import FORMATS
from tiny_bundle import quick_export

# Every way of storing weights in one component or another, and a layer of 8-bit activations.
MIXED = Plan(
    "mixed",
    Storage("int8"),
    {
        "text_encoder": {"encoder.text_model.embeddings.token_embedding": Storage("palette6")},
        "unet": {"unet.conv_in": Storage("fp32")},
        "vae_decoder": {"vae.decoder.conv_in": Storage("fp16")},
        "vae_encoder": {"vae.encoder.conv_in": Storage("fp16")},
    },
    {"by": "hand"},
)
EIGHT = Plan(
    "eight",
    Storage("fp16"),
    {
        "unet": {"unet.up_blocks.0.resnets.0.conv1": Storage("int8", "int8")},
        "vae_encoder": {"vae.encoder.down_blocks.1.resnets.0.conv1": Storage("int8", "int8")},
    },
)
STEPS = 2  # of the single graphs


def write_compact_model(folder: Path) -> None:
    import torch
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

    write_tiny_model(folder)
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    torch.manual_seed(1)
    pipeline.unet = UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        block_out_channels=(64,),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("UpBlock2D",),
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


def exported(
    factory: pytest.TempPathFactory, model: Path, name: str, *options: str, formats: Sequence[str] = FORMATS
) -> Path:
    """The bundle `name` of `model`, exported by the first test of any worker that needs it. Read-only."""

    def build(out: Path) -> None:
        with quick_export(), passes_unchecked() if "coreml" in formats else nullcontext():
            assert run(["export", str(model), "--out", str(out), "--format", ",".join(formats), *options]) == 0

    return built_once(factory, f"exports/{name}", build)


@contextmanager
def passes_unchecked() -> Iterator[None]:
    """coremltools examines its whole program after each of 60 passes, which is a third of a conversion. What the program computes
    is measured at the end."""
    from coremltools.converters.mil import Program

    with mock.patch.object(Program, "validate"):
        yield


def export_matrix(factory: pytest.TempPathFactory, compact_model: Path) -> Path:
    """The compact model in every format and precision, by two plans, and as a single graph of two steps."""
    folder = factory.mktemp("plans")
    options = ["--precision", "fp32,fp16,int8", "--single-graph", str(STEPS)]
    for plan in (EIGHT, MIXED):  # in this order Core ML's programs in fp16 are shared
        path = folder / f"{plan.name}.json"
        path.write_text(plan.to_json(), encoding="utf-8")
        options += ["--plan", str(path)]
    return exported(factory, compact_model, "matrix", *options)


def compact_teacher(factory: pytest.TempPathFactory, compact_model: Path) -> Path:
    """The compact model declared as a teacher, with classifier-free guidance."""

    def build(folder: Path) -> None:
        shutil.copytree(compact_model, folder)
        (folder / "genin.json").write_text(json.dumps(TEACHER_INFO), encoding="utf-8")

    return built_once(factory, "compact_teacher", build)


def export_fixed_batch(factory: pytest.TempPathFactory, compact_model: Path) -> Path:
    """The compact teacher in ONNX with a batch of 3, packed as one `.genin` file."""
    options = ("--precision", "fp32,w8a8", "--batch", "3", "--single-graph", str(STEPS))
    return exported(factory, compact_teacher(factory, compact_model), "threes.genin", *options, formats=["onnx"])


def part_of(bundle: Path, out: Path, *, single: bool = False, **wanted: str) -> Path:
    """A copy of a bundle folder that lists only the graphs with these facts: part_of(bundle, out, format="onnx").

    With `single`, only single graphs; without it, only those of components.
    """
    shutil.copytree(bundle, out)
    path = out / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))

    def is_wanted(graph: dict[str, str]) -> bool:
        return all(graph[key] == value for key, value in wanted.items())

    kept, dropped = ("single_graphs", "graphs") if single else ("graphs", "single_graphs")
    manifest |= {kept: [graph for graph in manifest[kept] if is_wanted(graph)], dropped: []}
    assert manifest[kept]
    path.write_text(json.dumps(manifest), encoding="utf-8")
    return out

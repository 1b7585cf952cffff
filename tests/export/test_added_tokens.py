"""Tokens of textual inversions in an exported bundle: every engine, and OpenVINO's compiled tokenizer, reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import psnr_db, write_tiny_tokenizer
from genin.runtimes.loading import load_pipeline

ADDED = ("<ninja>", "<cat>", "<cat>_1", "sks", "<忍>")
PROMPTS = [
    "the <ninja> under the mountain",
    "<cat> <cat>_1 in a forest",
    "a sks ninja",
    "asks <NINJA>",
    "sks",
    "a<ninja>b, <ninja><cat>!",
    "a <忍> ninja",
    "a <|endoftext|> b",
    "ninja</w>, <ninja></w>",
    "a ninja",
    "",
]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """transformers' tokenizer, and OpenVINO's compiled from its files."""
    pytest.importorskip("openvino_tokenizers")
    from openvino import Core

    from genin.export.converters.to_openvino import convert_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = write_tiny_tokenizer(folder)
    tokenizer.add_tokens(list(ADDED))
    tokenizer.save_pretrained(folder)
    convert_tokenizer(folder)
    core = Core()  # of its own: one that was made before openvino_tokenizers was imported lacks its operators
    return tokenizer, core.compile_model(core.read_model(folder / "openvino_tokenizer.xml"), "CPU")


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_compiled_tokenizer_takes_added_tokens_whole(compiled: tuple[Any, Any], prompt: str) -> None:
    theirs, graph = compiled
    ids = next(iter(graph([prompt]).values()))[0].tolist()
    assert ids == theirs(prompt)["input_ids"][: len(ids)] and ids[-1] == theirs.eos_token_id


@pytest.mark.export
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_every_engine_draws_an_inversion_as_pytorch_does(
    tiny_bundle: Path, inverted_student: Path, runtime: str
) -> None:
    pytest.importorskip(runtime)
    pictures = {}
    for name, path, engine in (("bundle", tiny_bundle, runtime), ("folder", inverted_student, "pytorch")):
        with load_pipeline(path, engine, "fp32") as pipeline:
            pictures[name] = [pipeline.generate(prompt, seed=3).images[0] for prompt in (PROMPTS[0], "a ninja")]
    assert psnr_db(pictures["bundle"][0], pictures["folder"][0]) >= 60
    assert not np.array_equal(pictures["bundle"][0], pictures["bundle"][1])


@pytest.mark.export
@pytest.mark.clients
def test_openvino_genai_draws_an_inversion_as_we_do(tiny_bundle: Path) -> None:
    """GenAI does not write out a token of several vectors: the prompt does."""
    genai = pytest.importorskip("openvino_genai", reason="openvino-genai is not installed")
    settings: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 1.0, "height": 32, "width": 32}
    theirs = genai.Text2ImagePipeline(str(tiny_bundle / "openvino" / "fp32"), "CPU", INFERENCE_PRECISION_HINT="f32")
    drawn = theirs.generate("a <ninja> <ninja>_1", generator=genai.TorchGenerator(7), **settings).data[0]
    with load_pipeline(tiny_bundle, "openvino", "fp32") as pipeline:
        ours = pipeline.generate("a <ninja>", seed=7, steps=4, noise="torch").images[0]
    assert psnr_db(ours, drawn) >= 40

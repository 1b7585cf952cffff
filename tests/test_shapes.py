"""Graphs of a fixed batch, and of pictures of any size: through the command line, on the tiny student."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from exported import exported
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from genin.cli import run
from genin.runtimes.bundle import Bundle
from genin.runtimes.engine import in_batches
from genin.runtimes.errors import InputError
from genin.runtimes.pipeline import load_pipeline

SIZE = (64, 96)  # height, width


@pytest.fixture(scope="session")
def any_size(tiny_model_folder: Path) -> Path:
    """With cross-attention and free guidance."""
    return exported(tiny_model_folder, "any", "--precision", "fp16", "--any-size")


@pytest.fixture(scope="session")
def threes(compact_model: Path) -> Path:
    options = ("--format", "onnx", "--precision", "fp32,w8a8", "--batch", "3", "--single-graph", "2")
    return exported(compact_model, "threes", *options)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_pictures_of_another_size(any_size: Path, tiny_model_folder: Path, runtime: str) -> None:
    with load_pipeline(tiny_model_folder) as pipeline:
        expected = pipeline.generate("a ninja", 7, steps=4, size=SIZE).images
        own = pipeline.generate("a ninja", 7, steps=4).images
    with load_pipeline(any_size, runtime) as pipeline:
        assert pipeline.image.multiple == 8
        got = pipeline.generate("a ninja", 7, steps=4, size=SIZE).images
        assert np.abs(pipeline.generate("a ninja", 7, steps=4).images.astype(int) - own).max() <= 6
        *_, last = pipeline.stream("a ninja", 7, steps=2, size=SIZE)
        assert last.preview().shape == (1, *SIZE, 3)
    assert got.shape == expected.shape == (1, *SIZE, 3)
    assert np.abs(got.astype(int) - expected).max() <= 6  # fp16


def test_golden_inputs_have_another_size_too(any_size: Path) -> None:
    with np.load(any_size / "golden" / "unet.npz") as arrays:
        widths = {arrays[key].shape[-1] for key in arrays.files if key.endswith(".sample")}
    assert len(widths) == 2


def test_generate_takes_a_size(any_size: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "wide.png"
    asked = ["generate", "a ninja", "-m", str(any_size), "--steps", "2", "--out", str(out), "--json"]
    assert run([*asked, "--size", "96x64"]) == 0
    said = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert (said["width"], said["height"]) == (96, 64) and Image.open(out).size == (96, 64)
    assert run([*asked, "--size", "wide"]) == 2
    assert "write 512x768" in capsys.readouterr().err


@pytest.mark.parametrize("size", [(64, 65), (4, 64), (64, 4096), (64, 0)])
def test_sizes_that_cannot_be_drawn(any_size: Path, size: tuple[int, int]) -> None:
    with load_pipeline(any_size) as pipeline, pytest.raises(InputError, match="multiples of 8 up to 2048"):
        pipeline.generate("a ninja", size=size)


def test_a_bundle_of_one_size_says_so(threes: Path) -> None:
    with load_pipeline(threes) as pipeline, pytest.raises(InputError, match=r"draws 64x64 only.*--any-size"):
        pipeline.generate("a ninja", size=SIZE)


def test_a_fixed_batch_draws_any_number(threes: Path, compact_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Bundle.open(threes) as bundle:
        shapes = {spec.shape for graph in bundle.manifest.graphs for spec in graph.inputs}
    assert shapes == {(3, 32), (3, 4, 16, 16), (1,), (3, 32, 32)}
    prompts, seeds = ["a ninja", "a samurai", "a ninja", "a monk"], [1, 2, 3, 4]
    for steps in (2, 4):  # as one graph, and as three
        for count in (1, 3, 4):
            with load_pipeline(compact_model) as pipeline:
                expected = pipeline.generate(prompts[:count], seeds[:count], steps=steps).images
            with load_pipeline(threes) as pipeline:
                got = pipeline.generate(prompts[:count], seeds[:count], steps=steps).images
            assert got.shape == expected.shape and np.abs(got.astype(int) - expected).max() <= 1
    assert run(["verify", str(threes)]) == 0
    assert "NOT ok" not in capsys.readouterr().out


@given(st.integers(1, 9), st.sampled_from([None, 1, 2, 3, 8]))
def test_batches_are_cut_and_joined(count: int, size: int | None) -> None:
    arrays = {"x": np.arange(count * 2.0).reshape(count, 2), "timestep": np.array([999])}
    sizes = []

    def double(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert batch["timestep"].shape == (1,)
        sizes.append(len(batch["x"]))
        return {"y": batch["x"] * 2}

    assert np.array_equal(in_batches(double, arrays, size)["y"], arrays["x"] * 2)
    assert set(sizes) == {size or count}

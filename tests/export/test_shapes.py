"""Graphs of a fixed batch, and of pictures of any size: through the command line, on the tiny student."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from conftest import IMAGE_SIZE, LATENT_SIZE, MAX_LENGTH
from exported import compact_teacher, exported
from genin.cli import run
from genin.runtimes.bundle import Bundle
from genin.runtimes.engine import in_batches
from genin.runtimes.errors import InputError
from genin.runtimes.loading import load_pipeline

pytestmark = pytest.mark.export
SIZE = (32, 48)  # height, width


@pytest.fixture(scope="session")
def teacher(compact_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compact_teacher(tmp_path_factory, compact_model)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_pictures_of_another_size(tiny_bundle: Path, tiny_student_folder: Path, runtime: str) -> None:
    with load_pipeline(tiny_student_folder) as pipeline:
        expected = pipeline.generate("a ninja", 7, steps=4, size=SIZE).images
        own = pipeline.generate("a ninja", 7, steps=4).images
    with load_pipeline(tiny_bundle, runtime) as pipeline:
        assert pipeline.image.multiple == 8
        got = pipeline.generate("a ninja", 7, steps=4, size=SIZE).images
        assert np.abs(pipeline.generate("a ninja", 7, steps=4).images.astype(int) - own).max() <= 1
        *_, last = pipeline.stream("a ninja", 7, steps=2, size=SIZE)
        assert last.preview().shape == (1, *SIZE, 3)
    assert got.shape == expected.shape == (1, *SIZE, 3)
    assert np.abs(got.astype(int) - expected).max() <= 1


def test_golden_inputs_have_another_size_too(tiny_bundle: Path) -> None:
    with np.load(tiny_bundle / "golden" / "unet.npz") as arrays:
        widths = {arrays[key].shape[-1] for key in arrays.files if key.endswith(".sample")}
    assert len(widths) == 2


def test_generate_takes_a_size(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "wide.png"
    asked = ["generate", "a ninja", "-m", str(tiny_bundle), "--steps", "2", "--out", str(out), "--json"]
    assert run([*asked, "--size", "48x32"]) == 0
    said = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert (said["width"], said["height"]) == (48, 32) and Image.open(out).size == (48, 32)
    assert run([*asked, "--size", "wide"]) == 2
    assert "write 512x768" in capsys.readouterr().err


@pytest.mark.parametrize("size", [(32, 33), (4, 32), (32, 4096), (32, 0)])
def test_sizes_that_cannot_be_drawn(tiny_bundle: Path, size: tuple[int, int]) -> None:
    with load_pipeline(tiny_bundle) as pipeline, pytest.raises(InputError, match="multiples of 8 up to 2048"):
        pipeline.generate("a ninja", size=size)


def test_a_bundle_of_one_size_says_so(threes: Path) -> None:
    with load_pipeline(threes) as pipeline, pytest.raises(InputError, match=r"draws 32x32 only.*for any size"):
        pipeline.generate("a ninja", size=SIZE)


def test_a_fixed_batch_draws_any_number(threes: Path, teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Bundle.open(threes) as bundle:
        shapes = {spec.shape for graph in bundle.manifest.graphs for spec in graph.inputs}
    pictures = (3, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert shapes == {(3, MAX_LENGTH), (3, 4, LATENT_SIZE, LATENT_SIZE), (1,), (3, MAX_LENGTH, 32), pictures}
    prompts, seeds = ["a ninja", "a samurai", "a ninja", "a monk"], [1, 2, 3, 4]
    with load_pipeline(teacher) as whole, load_pipeline(threes) as fixed:
        for steps, count in itertools.product((2, 4), (1, 3, 4)):  # as one graph, and as three
            expected = whole.generate(prompts[:count], seeds[:count], steps=steps).images
            found = fixed.generate(prompts[:count], seeds[:count], steps=steps)
            got = found.images
            assert found.guidance_scale != 1 and (found.timings.get("text_to_image", 0) > 0) == (steps == 2)
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


@pytest.mark.slow
def test_any_size_leaves_core_ml_at_the_models_own(
    tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A whole export; that a graph of one size is compared on golden inputs of that size is in `test_verify`."""
    options = ("--precision", "fp16", "--any-size")
    bundle = exported(tmp_path_factory, tiny_model_folder, "any_coreml", *options, formats=["onnx", "coreml"])
    with Bundle.open(bundle) as opened:
        shapes = [g.inputs[0].shape for g in opened.manifest.graphs if (g.format, g.component) == ("coreml", "unet")]
    assert shapes == [(2, 4, LATENT_SIZE, LATENT_SIZE)]
    assert run(["verify", str(bundle)]) == 0

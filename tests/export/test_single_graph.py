"""A model's whole way to a picture as one graph: the same pictures as its networks give one by one, whatever is folded away."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exported import EIGHT, MIXED, compact_teacher, export_matrix
from genin.cli import run
from genin.distill.models.folder import ModelFolder, load_model_folder
from genin.export.checks import parity
from genin.export.converters.formats import TABLE, Target, converter
from genin.export.converters.quiet import quiet
from genin.export.converters.single_graph import check_unrollable, mix, single_graph
from genin.export.precision_plan import uniform
from genin.export.prompt_set import Amount, batches
from genin.runtimes import engine
from genin.runtimes.bundle import Bundle
from genin.runtimes.errors import GeninError, InputError
from genin.runtimes.loading import load_pipeline
from genin.runtimes.noise import batch_normal
from genin.runtimes.samplers import Schedule
from genin.runtimes.vocabulary import PRECISIONS
from tiny_bundle import edit_manifest

PROMPTS, SEEDS = ["a ninja at night", "a samurai"], [7, 8]


@pytest.fixture(scope="session")
def bundle(compact_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_matrix(tmp_path_factory, compact_model)


def differs(a: Any, b: Any) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


# --- the network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("model", ["compact_model", "tiny_student_folder", "tiny_model_folder"])
def test_one_network_draws_what_three_draw(model: str, steps: int, request: pytest.FixtureRequest) -> None:
    """With text in the embedding, with cross-attention, and with free guidance."""
    folder = request.getfixturevalue(model)
    with load_pipeline(folder) as pipeline:
        expected = pipeline.generate(PROMPTS, SEEDS, steps=steps).images
        noise = batch_normal(SEEDS, pipeline.latents.shape)
        ids = pipeline._tokenizer(PROMPTS)
    with quiet(), torch.inference_mode():
        component, _ = single_graph(load_model_folder(folder), steps, Amount(1, steps))
        given = torch.from_numpy(ids), torch.from_numpy(noise)
        component.module(*(part.flip(0) for part in given))  # whose text must not stay for the next call
        got = component.module(*given).numpy()
    assert got.dtype == np.uint8 and got.shape == expected.shape
    assert differs(got, expected) <= 1
    assert expected.std() > 5  # pictures, not grey


def test_twelve_pictures_of_small_models_and_one_of_large_ones_are_drawn() -> None:
    small, large = (cast(ModelFolder, SimpleNamespace(latent_size=size)) for size in (32, 33))
    assert Amount.of(small) == Amount.of(small, single_step=True) == Amount(12, 4)
    assert (Amount.of(large), Amount.of(large, single_step=True)) == (Amount(1, 4), Amount(1, 1))
    assert [len(rows) for rows in batches(12)] == [8, 4]


@settings(max_examples=50)
@given(
    st.sampled_from(["v_prediction", "epsilon", "sample"]),
    st.integers(1, 998),
    st.integers(-1, 997),
    st.floats(-3, 3, width=32),
    st.floats(-3, 3, width=32),
)
def test_a_step_is_a_mix(kind: str, t: int, t_next: int, x: float, prediction: float) -> None:
    schedule = Schedule.from_config({"prediction_type": kind, "clip_sample": False, "beta_schedule": "scaled_linear"})
    a, b = mix(schedule, t, t_next)
    expected = schedule.step(np.array([prediction], np.float32), np.array([x], np.float32), t, t_next)[0][0]
    assert a * x + b * prediction == pytest.approx(expected, rel=1e-3, abs=1e-3 * (1 + abs(a) + abs(b)))


# --- bundles ---------------------------------------------------------------------------------------------------------


@pytest.mark.export
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_bundle_draws_with_its_single_graph(bundle: Path, compact_model: Path, runtime: str) -> None:
    with load_pipeline(compact_model) as pipeline:
        expected = pipeline.generate(PROMPTS, SEEDS, steps=2).images
    with load_pipeline(bundle, runtime) as pipeline:
        found = pipeline.generate(PROMPTS, SEEDS, steps=2)
        assert found.timings["text_to_image"] > 0 and found.timings["unet"] == 0
        assert found.steps == 2 and differs(found.images, expected) <= 1
        for step in pipeline.stream(PROMPTS, SEEDS, steps=2):  # previews want the networks
            assert step.preview().shape == expected.shape
        assert step.generation is not None and step.generation.timings["unet"] > 0
        assert differs(step.generation.images, expected) <= 1
        assert pipeline.generate(PROMPTS[0], 7, steps=4).timings["unet"] > 0  # no graph of four steps
        assert pipeline.generate(PROMPTS[0], 7, steps=2, cancel=lambda: False).timings["unet"] > 0


@pytest.mark.export
def test_a_host_needs_one_session_and_nothing_else(bundle: Path, compact_model: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(bundle / "onnx" / "fp32" / "text_to_image_2" / "model.onnx")
    with load_pipeline(compact_model) as pipeline:
        expected = pipeline.generate(PROMPTS[0], 7, steps=2).images
        ids, noise = pipeline._tokenizer([PROMPTS[0]]), batch_normal([7], pipeline.latents.shape)
    [picture] = session.run(None, {"input_ids": ids, "noise": noise})
    assert picture.dtype == np.uint8 and differs(picture, expected) <= 1


@pytest.mark.export
def test_only_what_is_used_is_loaded(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    edit_manifest(copy, "sampler", "default_steps", value=2)
    loaded: list[str] = []
    original = engine.BundleEngine._graph

    def note(self: engine.BundleEngine, key: str | int) -> engine.Loaded:
        if key not in self._loaded:
            loaded.append(self._graphs[key].path)
        return original(self, key)

    monkeypatch.setattr(engine.BundleEngine, "_graph", note)
    with load_pipeline(copy, "onnxruntime", "int8") as pipeline:
        assert loaded == ["onnx/int8/text_to_image_2/model.onnx"]
        pipeline.generate(PROMPTS[0], 7, steps=2)
        assert loaded == ["onnx/int8/text_to_image_2/model.onnx"]
        pipeline.generate(PROMPTS[0], 7, steps=4)
        assert len(loaded) == 4


@pytest.mark.export
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_free_guidance_in_one_graph_draws_any_number(
    compact_model: Path, format: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Both branches go through the UNet as one batch, of which neither half may become a constant."""
    teacher = compact_teacher(tmp_path_factory, compact_model)
    with quiet():
        component, scale = single_graph(load_model_folder(teacher), 1, Amount(1, 1))
    assert scale != 1
    target = Target(uniform("fp32"), tmp_path / "graph" / str(TABLE[format].single))
    written = converter(format)(component, [target])["fp32"]
    draw, _ = parity.open_graph(format, component.name, written.path, written.inputs, written.outputs)
    with load_pipeline(teacher) as pipeline:
        for seeds in ([7], [0, 1, 2]):
            expected = pipeline.generate(PROMPTS[0], seeds, steps=1).images
            ids = pipeline._tokenizer([PROMPTS[0]] * len(seeds))
            got = draw({"input_ids": ids, "noise": batch_normal(seeds, pipeline.latents.shape)})["images"]
            assert differs(got, expected) <= 1


@pytest.mark.export
def test_the_manifest_and_the_other_commands_know_them(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Bundle.open(bundle) as opened:
        entries = opened.manifest.single_graphs
    assert {(e.format, e.precision, e.steps) for e in entries} == {
        (format, precision, 2) for format in ("onnx", "openvino") for precision in (*PRECISIONS, MIXED.name, EIGHT.name)
    }  # Core ML has no pictures of bytes
    sizes = {(e.format, e.precision): e.size_bytes for e in entries}
    assert sizes["onnx", "int8"] < 0.5 * sizes["onnx", "fp32"]
    assert all(e.parity is not None and e.parity.psnr_db >= e.parity.floor_db for e in entries)
    assert run(["inspect", str(bundle)]) == 0
    assert "text_to_image_2" in capsys.readouterr().out
    assert (
        run(
            [
                "bench",
                str(bundle),
                "--runtime",
                "onnxruntime",
                "--precision",
                "fp32",
                "--steps",
                "2",
                "--runs",
                "2",
                "--processes",
                "1",
                "--json",
            ]
        )
        == 0
    )
    [row] = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["results"]
    assert row["stages_ms"]["text_to_image"] > 0 and row["stages_ms"]["unet"] == 0
    assert row["encoded_prompt_ms"] is None


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.export
def test_a_closed_engine_stays_closed(bundle: Path) -> None:
    with load_pipeline(bundle, "onnxruntime") as pipeline:
        steps = pipeline.stream(PROMPTS[0], 7, steps=2)
        next(steps)
    with pytest.raises(GeninError, match="closed"):
        next(steps)


def test_options_that_no_format_can_have(
    compact_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refusals = {
        "--single-graph=2": "a single graph is not available in coreml",
        "--any-size": "a free size is not available in coreml",
        "--batch=2": "a fixed batch has no effect on coreml",
    }
    for option, says in refusals.items():
        assert run(["export", str(compact_model), "--out", str(tmp_path / "b"), "--format", "coreml", option]) == 2
        assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("steps", "says"), [("3", "was trained for 1, 2, 4 steps, not for 3"), ("0", "0 is not in the range")]
)
def test_steps_that_cannot_be_unrolled(
    compact_model: Path, tmp_path: Path, steps: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", str(compact_model), "--out", str(tmp_path / "b"), "--single-graph", steps]) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_a_single_graph_cannot_have(tiny_model_folder: Path) -> None:
    with quiet():
        model = load_model_folder(tiny_model_folder)
    with pytest.raises(InputError, match="9 steps cannot be unrolled"):
        check_unrollable(model, 9)
    model.unet.down_blocks[0].resnets[0].downsample = torch.nn.Identity()
    with pytest.raises(InputError, match=r"changes the size.*down_blocks\.0\.resnets\.0"):
        check_unrollable(model, 2)
    model.scheduler_config["clip_sample"] = True  # type: ignore[index]
    with pytest.raises(InputError, match="clips"):
        check_unrollable(model, 2)

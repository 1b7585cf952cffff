"""Precision plans: their file, the sensitivity pass that finds one, and every exporter that applies it."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exported import MIXED
from genin.cli import run
from genin.export.checks import parity
from genin.export.converters.quantise import activations, eight_bits, palette
from genin.export.precision_plan import FLOAT_ACTIVATIONS, Plan, Storage, read_plan, storable, uniform
from genin.runtimes.errors import InputError

KINDS = [Storage("fp16"), Storage("int8")]


def last_json(text: str) -> dict[str, Any]:
    return json.loads(text.strip().splitlines()[-1])  # type: ignore[no-any-return]


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(MIXED.to_json(), encoding="utf-8")
    assert read_plan(path) == MIXED


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"genin_plan": 2}, "not a precision plan"),
        ({"name": "Mixed!"}, "'Mixed!' cannot be the name"),
        ({"name": "fp32"}, "'fp32' cannot be the name"),
        ({"name": "auto"}, "'auto' cannot be the name"),
        ({"name": "com1"}, "'com1' cannot be the name"),
        ({"weights": 8}, "must be strings"),
        ({"layers": {"unet": {"a": {"weights": ["int8"]}}}}, "of a must be strings"),
        ({"name": 3}, "'name' is not a text"),
        ({"weights": "int7"}, "unknown way to store weights 'int7'"),
        ({"activations": "fp8"}, "unknown kind of activations 'fp8'"),
        ({"layers": []}, "'layers' is not an object"),
        ({"layers": {"vae": {}}}, "unknown component in plan.json 'vae'"),
        ({"layers": {"unet": []}}, "'layers.unet' is not an object"),
        ({"layers": {"unet": {"unet.conv_in": 8}}}, "unet.conv_in is not an object"),
        ({"layers": {"unet": {"a": {"weights": "fp16", "activations": "int8"}}}}, "a: 8-bit activations need"),
        ({"notes": "none"}, "'notes' is not an object"),
        ({"weight": "fp16"}, "the plan has an unknown key 'weight'.*weights"),
        ({"layers": {"unet": {"a": {"weight": "fp32"}}}}, "a has an unknown key 'weight'.*weights"),
    ],
)
def test_what_is_wrong_with_a_plan_is_named(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(json.loads(MIXED.to_json()) | change), encoding="utf-8")
    with pytest.raises(InputError, match=said) as caught:
        read_plan(path)
    assert "plan.json" in str(caught.value)


def test_damaged_plans_are_refused_or_read_but_never_crash(tmp_path: Path) -> None:
    text, path = MIXED.to_json().encode(), tmp_path / "plan.json"
    random = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(text)
        for place in random.integers(0, len(text), 3):
            damaged[place] = random.integers(32, 127)
        path.write_bytes(bytes(damaged[: random.integers(1, len(text) + 1)]))
        with contextlib.suppress(InputError):
            assert isinstance(read_plan(path), Plan)


def test_8_bit_activations_leave_out_what_has_a_range_of_its_own() -> None:
    torch = pytest.importorskip("torch")
    names = (
        "conv_in",
        "time_embedding",
        "attn2.to_k",
        "attn2.to_v",
        "attn1.to_q",
        "conv1",
        "conv_shortcut",
        "conv_out",
    )
    network = torch.nn.ModuleDict({name.replace(".", "_"): torch.nn.Linear(2, 2) for name in names})
    network["attn2"] = torch.nn.ModuleDict({"to_k": torch.nn.Linear(2, 2), "to_q": torch.nn.Linear(2, 2)})
    network["last"] = torch.nn.Linear(2, 2)
    ways = uniform("w8a8").storage_per_layer("unet", network)
    eight = {name for name, way in ways.items() if way.activations == "int8"}
    assert eight == {"attn1_to_q", "conv1", "attn2.to_q", "attn2_to_k", "attn2_to_v"}
    assert FLOAT_ACTIVATIONS.search("encoder.text_model.encoder.layers.0.mlp.fc1")
    named = Plan("naive", Storage("int8", "int8"), {"unet": {"conv_in": Storage("int8", "int8")}})
    assert named.storage_per_layer("unet", network)["conv_in"].activations == "int8"  # what is named is done


def test_a_format_without_palettes_takes_the_next_wider_storage() -> None:
    assert storable("palette4", ("fp32", "fp16", "int8")) == "int8"
    assert storable("int8", ("fp32", "fp16", "int8")) == "int8"
    assert storable("fp16", ("fp32", "int8")) == "fp32"


def test_palettes_have_so_many_values_and_beat_an_even_grid() -> None:
    weights = np.random.default_rng(1).standard_normal((64, 33)).astype(np.float32)
    for bits in (4, 6):
        found = palette(weights, bits)
        assert len(np.unique(found)) <= 2**bits
        grid = np.linspace(weights.min(), weights.max(), 2**bits)
        even = grid[np.abs(weights[..., None] - grid).argmin(-1)]
        assert np.square(found - weights).mean() < 0.7 * np.square(even - weights).mean()
    few = np.array([0.0, 1.0, -3.0, 1.0], np.float32)
    assert np.allclose(palette(few, 4), few, atol=1e-3)


def test_8_bits_of_weights_and_activations_hold_zero_and_the_ends() -> None:
    weights = np.array([[0.0, 0.5, -1.0], [0.0, 0.0, 0.0]], np.float32)
    assert np.abs(eight_bits(weights, 0) - weights).max() <= 1 / 254 + 1e-6
    for low, high in ((-1.0, 3.0), (0.5, 2.0), (-2.0, -1.0), (0.0, 0.0)):
        scale, zero = activations(low, high)
        assert 0 <= zero <= 255 and scale > 0
        assert (0 - zero) * scale <= min(low, 0) + scale and (255 - zero) * scale >= max(high, 0) - scale


# --- through the command line ----------------------------------------------------------------------------------------


def test_8_bit_activations_of_an_embedding_are_refused(
    tiny_student_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.json"
    named = {"text_encoder": {"encoder.text_model.embeddings.token_embedding": Storage("int8", "int8")}}
    plan.write_text(Plan("mixed", Storage("int8"), named).to_json(), encoding="utf-8")
    assert run(["export", str(tiny_student_folder), "--out", str(tmp_path / "bundle"), "--plan", str(plan)]) == 2
    assert "an embedding" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("format", "precision", "stored", "compute", "floor"),
    [
        ("onnx", "fp32", "palette4", "int8 in 9 layers, fp32", 90),  # a name of genin's own says what it must hold
        ("onnx", "mixed", "fp16, int8", "fp32", 40),
        ("onnx", "mixed", "palette4", "fp32", 40),  # no ONNX graph has palettes
        ("onnx", "mixed", "anything", "fp32", 40),
        ("coreml", "mixed", "int8", "int8 in 9 layers", 40),  # no Core ML graph has 8-bit activations
        ("coreml", "palette4", "palette4", "fp16", 20),
        ("openvino", "w8a8", "int8", "int8 in 9 layers, fp32", 20),
    ],
)
def test_a_manifest_cannot_talk_its_floor_down(
    format: str, precision: str, stored: str, compute: str, floor: float
) -> None:
    assert parity.floor_db("unet", format, precision, stored, compute) == floor


def test_a_plan_of_another_model_leaves_no_bundle(
    tiny_student_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, out = tmp_path / "plan.json", tmp_path / "bundle"
    other = {"unet": {"unet.mid_block.attentions.7.proj_in": Storage("fp16")}}
    plan.write_text(Plan("mixed", Storage("int8"), other).to_json(), encoding="utf-8")
    assert run(["export", str(tiny_student_folder), "--out", str(out), "--plan", str(plan)]) == 2
    assert "unet.mid_block.attentions.7.proj_in" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


@pytest.fixture(scope="module")
def found(compact_model: Path) -> Any:
    """The compact student's sensitivity, in fp16 and int8."""
    pytest.importorskip("torch")
    from genin.distill.models.folder import load_model_folder
    from genin.export.plan.sensitivity import measure

    return measure(load_model_folder(compact_model), KINDS)


def test_a_plan_for_a_size_is_the_best_within_it(found: Any) -> None:
    from genin.export.plan.sensitivity import plan_for_size

    wide, smallest = (plan_for_size(found, KINDS, size, "mixed") for size in (1e9, found.bytes(uniform("int8"))))
    assert wide.default == Storage("fp16") and not wide.layers
    assert smallest.default == Storage("int8") and found.bytes(smallest) == found.bytes(uniform("int8"))
    between = (found.bytes(wide) + found.bytes(smallest)) / 2
    mixed = plan_for_size(found, KINDS, between, "mixed")
    assert 0.9 * between < found.bytes(mixed) <= between
    assert found.error(wide) < found.error(mixed) < 0.5 * found.error(smallest)
    with pytest.raises(InputError, match="at least"):
        plan_for_size(found, KINDS, found.bytes(smallest) - 1, "mixed")


def test_the_command_writes_a_plan_and_says_what_it_is(
    compact_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plot = tmp_path / "plan.json", tmp_path / "plan.png"
    options = ["--weights", "int8,palette4", "--target-size", "0.9MB", "--plot", str(plot), "--json"]
    assert run(["plan", str(compact_model), "--out", str(out), *options]) == 0
    said, plan = last_json(capsys.readouterr().out), read_plan(out)
    assert said["size_bytes"] <= 900_000 and said["size_bytes"] == plan.notes["size_bytes"]
    assert {way for _component, way, _count, _size in said["summary"]} == {"int8", "palette4"}
    assert plot.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--target-size", "much"], "is not a size"),
        (["--name", "fp16", "--target-size", "1MB"], "'fp16' cannot be the name"),
        (["--weights", "fp16", "--activations"], "8-bit activations need 8-bit weights"),
        (["--weights", "int7", "--target-size", "1MB"], "int7"),
    ],
)
def test_wishes_that_cannot_be_had_are_refused_before_the_measuring(
    options: list[str], said: str, tiny_student_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", str(tiny_student_folder), "--out", str(tmp_path / "plan.json"), *options]) == 2
    assert said in capsys.readouterr().err


def test_a_layer_that_minds_it_is_found(found: Any, compact_model: Path) -> None:
    """Of an outlier in its weights, 8 bits lose the rest of the channel; and measuring leaves the weights as they are."""
    torch = pytest.importorskip("torch")
    from genin.distill.models.folder import load_model_folder
    from genin.export.components import modules
    from genin.export.plan.sensitivity import measure

    model = load_model_folder(compact_model)
    weight = modules(model)["unet"].get_submodule("unet.conv_in").weight
    with torch.no_grad():
        weight[:, 0, 0, 0] = 60 * weight.abs().max()
    spoilt = weight.detach().clone()
    before, after = (
        {layer.name: layer.error[Storage("int8")] for layer in every.layers}
        for every in (found, measure(model, KINDS[1:]))
    )
    assert after["unet.conv_in"] > 5 * before["unet.conv_in"]
    assert torch.equal(weight, spoilt)


def test_a_network_whose_output_is_constant_has_no_plan(
    compact_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A UNet before its training gives zeros, and errors are shares of the output's variance."""
    from safetensors.numpy import load_file, save_file

    model = tmp_path / "model"
    shutil.copytree(compact_model, model)
    path = model / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    for name in ("weight", "bias"):
        tensors[f"conv_out.{name}"][:] = 0
    save_file(tensors, path, metadata={"format": "pt"})
    command = ["plan", str(model), "--out", str(tmp_path / "plan.json"), "--target-size", "0.5MB"]
    assert run(command) == 2
    assert "the unet's output is constant" in capsys.readouterr().err
    assert [item.name for item in tmp_path.iterdir()] == ["model"]

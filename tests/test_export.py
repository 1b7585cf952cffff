"""Export, verify and inspect through the command line, on a tiny student; faults planted in the result must be found."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import exported

from genin.cli import run
from genin.export import parity
from genin.runtimes.bundle import Bundle, file_entry
from genin.runtimes.errors import BundleError, GeninError, InputError
from genin.runtimes.manifest import EXACT_PSNR_DB, Manifest
from genin.runtimes.options import COMPONENTS, FORMATS, PRECISIONS

Json = dict[str, Any]


def last_json(text: str) -> Json:
    return json.loads(text.strip().splitlines()[-1])  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def exported_bundle(compact_model: Path) -> Path:
    """Every format and precision. Read-only: `copy_of` gives a copy."""
    return exported(compact_model, "bundle")


@pytest.fixture(scope="session")
def packed_bundle(tiny_student_folder: Path) -> Path:
    """The tiny student as one `.genin` file: ONNX, fp16."""
    return exported(tiny_student_folder, "student.genin", "--format", "onnx", "--precision", "fp16")


def export_of(model: Path, out: Path, format: str, precision: str) -> list[str]:
    return ["export", str(model), "--out", str(out), "--format", format, "--precision", precision]


def copy_of(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


# --- the bundle ------------------------------------------------------------------------------------------------------


def test_every_format_and_precision_is_there_and_above_its_floor(exported_bundle: Path) -> None:
    with Bundle.open(exported_bundle) as bundle:
        bundle.check_hashes()
        manifest = bundle.manifest
    found = {(g.format, g.precision, g.component) for g in manifest.graphs}
    assert found == {(f, p, c) for f in FORMATS for p in PRECISIONS for c in COMPONENTS}
    for graph in manifest.graphs:
        assert graph.parity is not None, graph.path
        assert graph.parity.psnr_db >= graph.parity.floor_db == parity.FLOORS_DB[graph.precision]
    assert {entry.component for entry in manifest.golden} == set(COMPONENTS)


def test_the_manifest_says_what_the_model_folder_says(exported_bundle: Path) -> None:
    with Bundle.open(exported_bundle) as bundle:
        manifest = bundle.manifest
    assert (manifest.model.kind, manifest.model.licence, manifest.model.parent) == ("student", "Apache-2.0", "tiny")
    assert (manifest.sampler.guidance, manifest.sampler.guidance_scale, manifest.sampler.default_steps) == (
        "baked",
        1.0,
        4,
    )
    assert manifest.sampler.few_step_timesteps == {"4": (999, 749, 499, 249), "2": (999, 499), "1": (999,)}
    assert manifest.sampler.prediction_type == "v_prediction"
    assert manifest.latents.shape == (4, 16, 16) and manifest.latents.scaling_factor == 0.18215
    assert manifest.text.max_length == 32
    card = (exported_bundle / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: apache-2.0\n") and "| onnx | int8 | unet |" in card


def test_fewer_bits_make_smaller_files(exported_bundle: Path) -> None:
    with Bundle.open(exported_bundle) as bundle:
        for format in FORMATS:
            sizes = [bundle.manifest.components(format, precision)["unet"].size_bytes for precision in PRECISIONS]
            assert sizes[0] > 1.4 * sizes[1] > 1.4 * sizes[2], format


def test_graphs_hold_no_paths_of_this_machine(exported_bundle: Path) -> None:
    for graph in exported_bundle.rglob("model.onnx"):
        content = graph.read_bytes()
        assert b"site-packages" not in content and b"Traceback" not in content


def test_coreml_has_the_interface_of_apples_package(exported_bundle: Path) -> None:
    with Bundle.open(exported_bundle) as bundle:
        graphs = bundle.manifest.components("coreml", "fp16")
        names = {c: ([t.name for t in g.inputs], [t.name for t in g.outputs]) for c, g in graphs.items()}
        shapes = [tensor.shape for tensor in graphs["unet"].inputs]
    assert names["text_encoder"] == (["input_ids"], ["last_hidden_state", "pooled_outputs"])
    assert names["unet"] == (["sample", "timestep", "encoder_hidden_states"], ["noise_pred"])
    assert names["vae_decoder"] == (["z"], ["image"])
    assert shapes == [(1, 4, 16, 16), (1,), (1, 32, 1, 32)]
    folder = exported_bundle / "coreml" / "fp16"
    assert (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()


# --- verify ----------------------------------------------------------------------------------------------------------


def test_verify_finds_a_good_bundle_good(exported_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(exported_bundle), "--json"]) == 0
    report = last_json(capsys.readouterr().out)
    assert report["ok"] and all(file["sha256_ok"] for file in report["files"])
    assert len(report["graphs"]) == len(FORMATS) * len(PRECISIONS) * len(COMPONENTS)
    for graph in report["graphs"]:
        assert graph["ok"] and graph["psnr_db"] >= graph["floor_db"]


def test_verify_against_the_model_measures_anew(
    packed_bundle: Path, tiny_student_folder: Path, compact_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["verify", str(packed_bundle), "--against", str(tiny_student_folder), "--json"]) == 0
    assert last_json(capsys.readouterr().out)["ok"]
    assert run(["verify", str(packed_bundle), "--against", str(compact_model), "--json"]) == 1
    bad = {graph["component"] for graph in last_json(capsys.readouterr().out)["graphs"] if not graph["ok"]}
    assert "unet" in bad and "text_encoder" not in bad  # the two models share their text encoder


def test_verify_works_without_pytorch(packed_bundle: Path) -> None:
    block = "import sys\nfor n in ('torch','diffusers','transformers','coremltools','openvino','onnx'): sys.modules[n] = None\n"
    code = f"{block}from genin.cli import run\nsys.exit(run(['verify', {str(packed_bundle)!r}, '--json']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert all(graph["ok"] for graph in last_json(done.stdout)["graphs"])


def test_a_damaged_file_is_named(exported_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy_of(exported_bundle, tmp_path)
    weights = folder / "openvino" / "int8" / "unet" / "openvino_model.bin"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 0xFF
    weights.write_bytes(content)
    assert run(["verify", str(folder), "--json"]) == 1
    report = last_json(capsys.readouterr().out)
    assert [file["path"] for file in report["files"] if not file["sha256_ok"]] == [
        "openvino/int8/unet/openvino_model.bin"
    ]
    bad = [(g["format"], g["precision"], g["component"]) for g in report["graphs"] if g["ok"] is False]
    assert bad == [("openvino", "int8", "unet")]


@pytest.mark.parametrize(
    ("format", "place"),
    [
        ("openvino", "openvino/fp32/vae_decoder/openvino_model.bin"),
        ("coreml", "coreml/fp32/VAEDecoder.mlpackage/Data/com.apple.CoreML/weights/weight.bin"),
    ],
)
def test_a_wrong_weight_is_refused_even_with_its_hash_mended(
    exported_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], format: str, place: str
) -> None:
    """The attack that hashes cannot see: the graph still loads and the manifest agrees with it."""
    folder = copy_of(exported_bundle, tmp_path)
    weights = folder / place
    content = weights.read_bytes()
    values = np.frombuffer(content, np.float32, count=len(content) // 4).copy()
    likely = np.flatnonzero((np.abs(values) > 1e-3) & (np.abs(values) < 1))  # weights, not shapes
    values[likely[:100]] *= -1
    weights.write_bytes(values.tobytes() + content[values.nbytes :])
    text = (folder / "manifest.json").read_text(encoding="utf-8")
    before, after = Manifest.from_json(text).all_files()[place].sha256, file_entry(folder, place).sha256
    (folder / "manifest.json").write_text(text.replace(before, after), encoding="utf-8")
    assert run(["verify", str(folder), "--json"]) == 1
    report = last_json(capsys.readouterr().out)
    assert all(file["sha256_ok"] for file in report["files"])
    bad = [(g["format"], g["precision"], g["component"]) for g in report["graphs"] if g["ok"] is False]
    assert bad == [(format, "fp32", "vae_decoder")]


# --- Core ML programs without a Mac ----------------------------------------------------------------------------------


def saved_program(path: Path, body: Any, *, wide: bool = False) -> Path:
    """A `.mlpackage` of one input x (2, 3) and one output, with `body` of coremltools' builder between."""
    import coremltools as ct
    from coremltools.converters.mil import Builder

    program = Builder.program(input_specs=[Builder.TensorSpec(shape=(2, 3))], opset_version=ct.target.iOS17)(body)
    precision = ct.precision.FLOAT32 if wide else ct.precision.FLOAT16
    model = ct.convert(
        program, compute_precision=precision, minimum_deployment_target=ct.target.iOS17, skip_model_load=True
    )
    model.save(str(path))
    return path


def test_a_program_in_fp16_overflows_as_it_will(tmp_path: Path) -> None:
    from coremltools.converters.mil import Builder

    from genin.export.coreml_interpreter import Program

    def body(x: Any) -> Any:
        return Builder.sqrt(x=Builder.square(x=x))

    given = {"x": np.array([[-1.5, 2, 100], [255, 256, 3000]], np.float32)}
    exact = Program(saved_program(tmp_path / "wide.mlpackage", body, wide=True)).predict(given)
    half = Program(saved_program(tmp_path / "half.mlpackage", body)).predict(given)
    assert np.allclose(next(iter(exact.values())), np.abs(given["x"]))
    [result] = half.values()
    assert np.isinf(result[1, 1:]).all() and np.allclose(result[0], np.abs(given["x"][0]), rtol=1e-3)


VALUES = np.random.default_rng(5).normal(size=(2, 3, 4)).astype(np.float32)


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("reduce_argmax", {"x": VALUES, "axis": 1, "keep_dims": False}),
        ("reduce_mean", {"x": VALUES, "axes": [-1, 0], "keep_dims": True}),
        ("reduce_mean", {"x": VALUES, "keep_dims": False}),
        ("gather", {"x": VALUES, "indices": np.array([1, 0, 2], np.int32), "axis": -1}),
        ("gather", {"x": VALUES, "indices": np.array([[1, 0]], np.int32), "axis": 0}),
        ("layer_norm", {"x": VALUES, "axes": [1], "gamma": VALUES[0, :, 0], "beta": VALUES[1, :, 0], "epsilon": 1e-3}),
        ("layer_norm", {"x": VALUES, "axes": [-2, -1], "gamma": VALUES[0], "beta": VALUES[1], "epsilon": 1e-3}),
        ("softmax", {"x": VALUES, "axis": 1}),
        ("transpose", {"x": VALUES, "perm": [2, 0, 1]}),
        ("expand_dims", {"x": VALUES, "axes": [0, -1]}),
        ("squeeze", {"x": VALUES[:1], "axes": [0]}),
        ("reshape", {"x": VALUES, "shape": [4, -1]}),
        ("concat", {"values": (VALUES, VALUES * 2), "axis": -1}),
        ("stack", {"values": (VALUES, VALUES * 2), "axis": 1}),
        ("matmul", {"x": VALUES, "y": VALUES, "transpose_x": False, "transpose_y": True}),
        ("linear", {"x": VALUES, "weight": VALUES[0], "bias": VALUES[1, :, 0]}),
        ("gelu", {"x": VALUES, "mode": "EXACT"}),
        ("gelu", {"x": VALUES, "mode": "TANH_APPROXIMATION"}),
        ("rsqrt", {"x": np.abs(VALUES), "epsilon": 1e-2}),
        ("real_div", {"x": VALUES, "y": VALUES[:1] + 5}),
        ("split", {"x": VALUES, "axis": -1, "num_splits": 2}),
        ("split", {"x": VALUES, "axis": -1, "split_sizes": [1, 3]}),
        ("slice_by_index", {"x": VALUES, "begin": [1, 0, 1], "end": [2, 2, 4], "stride": [1, 1, 2]}),
        (
            "slice_by_index",
            {
                "x": VALUES,
                "begin": [1, 1, 0],
                "end": [0, 2, 0],
                "stride": [1, 1, 1],
                "begin_mask": [True, False, True],
                "end_mask": [False, False, True],
                "squeeze_mask": [True, False, False],
            },
        ),
        ("select", {"cond": VALUES > 0, "a": VALUES, "b": VALUES * 3}),
    ],
)
def test_operations_give_what_coremltools_says_they_give(operation: str, arguments: dict[str, Any]) -> None:
    """Against its own inference of values, which folds constants; what it does not infer is tested by the graphs' parity."""
    import torch
    from coremltools.converters.mil import Builder

    from genin.export.coreml_interpreter import OPERATIONS

    expected: list[Any] = []

    @Builder.program(input_specs=[Builder.TensorSpec(shape=(1,))])  # type: ignore[untyped-decorator]
    def program(x: Any) -> Any:
        found = getattr(Builder, operation)(**arguments)
        expected.extend(var.val for var in (found if isinstance(found, (list, tuple)) else [found]))
        return Builder.identity(x=x)

    def tensors(value: Any) -> Any:
        if isinstance(value, tuple):
            return [torch.from_numpy(item) for item in value]
        return torch.from_numpy(value) if isinstance(value, np.ndarray) else value

    got = OPERATIONS[operation](**{name: tensors(value) for name, value in arguments.items()})
    for ours, theirs in zip(got if isinstance(got, tuple) else (got,), expected, strict=True):
        assert theirs is not None, "coremltools infers no value: no test"
        assert tuple(ours.shape) == np.shape(theirs)
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-6)


def test_a_program_with_an_unknown_operation_is_named(tmp_path: Path) -> None:
    from coremltools.converters.mil import Builder

    from genin.export.coreml_interpreter import Program

    path = saved_program(tmp_path / "odd.mlpackage", lambda x: Builder.erf(x=x))
    with pytest.raises(parity.UnknownOperationError, match="erf"):
        Program(path)


# --- refusals --------------------------------------------------------------------------------------------------------


def test_weights_with_nan_are_refused_by_name(
    tiny_student_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.numpy import load_file, save_file

    model = tmp_path / "model"
    shutil.copytree(tiny_student_folder, model)
    path = model / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["mid_block.resnets.0.conv1.weight"][0, 0, 0, 0] = np.nan
    save_file(tensors, path, metadata={"format": "pt"})
    assert run(["export", str(model), "--out", str(tmp_path / "out"), "--format", "onnx"]) == 2
    assert "mid_block.resnets.0.conv1.weight" in capsys.readouterr().err
    assert sorted(item.name for item in tmp_path.iterdir()) == ["model"]


def test_a_graph_below_its_floor_leaves_nothing(
    tiny_student_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(parity.FLOORS_DB, "fp32", 190.0)  # type: ignore[arg-type]
    command = export_of(tiny_student_folder, tmp_path / "out", "onnx", "fp32")
    assert run(command) == 1
    assert "text_encoder as onnx fp32" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", FORMATS)
def test_the_layer_that_eight_bits_ruin_is_named(
    tiny_student_folder: Path, tmp_path: Path, format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights that meet nothing but zeros, and are a thousand times the others: PyTorch does not mind, eight bits do."""
    from safetensors.numpy import load_file, save_file

    model = tmp_path / "model"
    shutil.copytree(tiny_student_folder, model)
    path = model / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    block = "up_blocks.0.resnets.1"
    for name in ("weight", "bias"):
        tensors[f"{block}.norm1.{name}"][0] = 0
    tensors[f"{block}.conv1.weight"][:, 0] = 1000
    save_file(tensors, path, metadata={"format": "pt"})
    command = export_of(model, tmp_path / "out", format, "int8")
    assert run(command) == 1
    said = capsys.readouterr().err
    assert f"unet as {format} int8" in said and f"most is lost at unet.{block}.conv1" in said
    assert sorted(item.name for item in tmp_path.iterdir()) == ["model"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_layer_that_a_format_cannot_express_is_named(
    tiny_student_folder: Path,
    tmp_path: Path,
    format: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A network that others have changed: one layer of it has an operation that no format knows."""
    import torch

    from genin.distill import model_folder

    class Odd(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> Any:
            return self.inner(x) + 0 * torch.special.bessel_j0(x)

    as_it_is = model_folder.load_model_folder

    def changed(path: Path) -> Any:
        model = as_it_is(path)
        block = model.unet.down_blocks[0].resnets[0]
        block.conv1 = Odd(block.conv1)
        return model

    monkeypatch.setattr(model_folder, "load_model_folder", changed)
    command = export_of(tiny_student_folder, tmp_path / "out", format, "fp16")
    assert run(command) == 2
    said = capsys.readouterr().err
    assert "bessel_j0" in said and "unet.down_blocks.0.resnets.0.conv1" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("free", "error", "message"),
    [
        (2_000_000, RuntimeError("never reached"), "are free"),
        (40_000_000, RuntimeError("basic_ios::clear: iostream error"), "the disk is full"),
        (40_000_000, OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
    ],
)
def test_a_full_disk_leaves_nothing(
    tiny_student_folder: Path,
    tmp_path: Path,
    free: int,
    error: Exception,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before the work where that can be told, and in the middle of it, in OpenVINO's words for it."""
    from types import SimpleNamespace

    import openvino

    def full(*_: Any, **__: Any) -> None:
        if isinstance(error, RuntimeError):  # an OSError says it by itself
            monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
        raise error

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    monkeypatch.setattr(openvino, "save_model", full)
    command = ["export", str(tiny_student_folder), "--out", str(tmp_path / "out"), "--format", "openvino"]
    assert run(command) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_wrong_options_list_the_choices(
    tiny_student_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option, value, choice in (("--format", "onyx", "openvino"), ("--precision", "int4", "int8")):
        assert run(["export", str(tiny_student_folder), "--out", str(tmp_path / "out"), option, value]) == 2
        said = capsys.readouterr().err
        assert value in said and choice in said
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_left_alone(
    tiny_student_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    assert run(["export", str(tiny_student_folder), "--out", str(tmp_path / "out")]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_missing_engine_is_reported_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from genin.export import exporter

    monkeypatch.setattr(exporter, "missing_package", lambda name: "nncf" if name == "openvino" else None)
    usable, skipped = exporter.usable_formats(FORMATS)
    assert usable == ["onnx", "coreml"]
    assert "nncf" in skipped["openvino"] and "pip install 'genin[export]'" in skipped["openvino"]
    monkeypatch.setattr(exporter, "missing_package", lambda name: "nncf")
    with pytest.raises(InputError, match="pip install"):
        exporter.usable_formats(["openvino"])


# --- other networks --------------------------------------------------------------------------------------------------


def test_a_genin_file_holds_what_the_folder_would(packed_bundle: Path) -> None:
    assert packed_bundle.is_file()
    with Bundle.open(packed_bundle) as bundle:
        bundle.check_hashes()
        assert bundle.manifest.precisions("onnx") == ("fp16",) and bundle.manifest.precisions("openvino") == ()
        assert bundle.manifest.latents.scaling_factor == 0.8


def test_unets_that_want_more_than_text_are_refused(
    tiny_student_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from diffusers import UNet2DConditionModel

    shutil.copytree(tiny_student_folder, tmp_path / "model")
    config = UNet2DConditionModel.load_config(tiny_student_folder / "unet")
    other = UNet2DConditionModel.from_config({**config, "class_embed_type": "timestep"})
    other.save_pretrained(tmp_path / "model" / "unet")
    assert run(["export", str(tmp_path / "model"), "--out", str(tmp_path / "out")]) == 2
    assert "conditions beside the text" in capsys.readouterr().err


def test_inspect_counts_what_the_model_has(
    exported_bundle: Path, compact_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(compact_model, subfolder="unet")
    assert run(["inspect", str(compact_model), "--json"]) == 0
    model = last_json(capsys.readouterr().out)
    assert run(["inspect", str(exported_bundle), "--json"]) == 0
    bundle = last_json(capsys.readouterr().out)
    assert model["components"]["unet"]["parameters"] == sum(p.numel() for p in unet.parameters())
    for component in COMPONENTS:
        for key in ("parameters", "macs"):
            assert model["components"][component][key] == bundle["components"][component][key] > 0
    assert model["components"]["unet"]["precision"] == "fp32"
    assert bundle["components"]["unet"]["precision"] == "fp32, fp16, int8"
    assert run(["inspect", str(exported_bundle)]) == 0
    assert "licence: Apache-2.0" in capsys.readouterr().out


def test_shipped_students_take_the_steps_they_learnt(capsys: pytest.CaptureFixture[str]) -> None:
    steps = {}
    for name in ("builtin:student", "builtin:student-1step"):
        assert run(["inspect", name, "--json"]) == 0
        steps[name] = last_json(capsys.readouterr().out)["steps"]
    assert steps == {"builtin:student": 4, "builtin:student-1step": 1}


# --- measures --------------------------------------------------------------------------------------------------------


def test_psnr_and_cosine_by_hand() -> None:
    reference = np.array([0.0, 1.0, 2.0, 4.0], np.float32)
    assert parity.psnr_db(reference, reference) == EXACT_PSNR_DB
    assert parity.psnr_db(reference, reference + 0.4) == pytest.approx(20.0, abs=1e-4)  # peak 4, error 0.4
    assert parity.psnr_db(reference, reference * np.nan) == -EXACT_PSNR_DB
    assert parity.cosine(reference, 3 * reference) == pytest.approx(1)
    assert parity.cosine(reference, -reference) == pytest.approx(-1)


def test_int8_rounds_within_half_a_step_a_channel() -> None:
    from genin.export.to_onnx import quantise

    weights = np.random.default_rng(0).normal(size=(8, 5, 3, 3)).astype(np.float32) * np.arange(8).reshape(8, 1, 1, 1)
    stored, scale = quantise(weights.astype(np.float32), axis=0)
    assert stored.dtype == np.int8 and scale.shape == (8, 1, 1, 1)
    assert np.all(np.abs(stored * scale - weights) <= scale / 2 + 1e-6)
    assert not stored[0].any()  # a channel of zeros stays zero


def test_golden_files_are_refused_unless_plain(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    parity.write_golden(path, [{"a": np.arange(3.0)}, {"a": np.arange(4.0)}])
    cases = parity.read_golden(path.read_bytes(), ["a"])
    assert [len(case["a"]) for case in cases] == [3, 4]
    with pytest.raises(BundleError, match="lacks"):
        parity.read_golden(path.read_bytes(), ["b"])
    with pytest.raises(BundleError, match="cannot be read"):
        parity.read_golden(path.read_bytes()[:40], ["a"])
    with path.open("wb") as stream:
        np.savez_compressed(stream, **{"0.a": np.zeros(1 << 20)})
    with pytest.raises(BundleError, match="compressed"):
        parity.read_golden(path.read_bytes(), ["a"])
    with path.open("wb") as stream:
        np.savez(stream, **{"0.a": np.array([{}], dtype=object)})
    with pytest.raises(BundleError, match="cannot be read"):
        parity.read_golden(path.read_bytes(), ["a"])


def test_a_wrong_shape_is_an_error() -> None:
    case = {"x": np.zeros((2, 3), np.float32)}
    with pytest.raises(GeninError, match="shape"):
        parity.measure(lambda _: {"x": np.zeros((1, 3), np.float32)}, [case], ["x"], "fp32", "nothing")

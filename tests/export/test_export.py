"""`genin export` and `genin inspect`: what a bundle says of itself, what is refused, and that nothing half-written stays.

What every format must do is in `test_formats`, `genin verify` in `test_verify`.
"""

from __future__ import annotations

import errno
import importlib.util
import itertools
import json
import os
import shutil
import stat
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from conftest import LATENT_SIZE
from exported import MIXED
from genin.cli import run
from genin.distill.models.folder import load_model_folder
from genin.export import ExportOptions, assembly, conversion, exporter
from genin.export.assembly import Job
from genin.export.checks import acceptance, parity
from genin.export.client_files import scheduler_config
from genin.export.commands import _echo_export, _table, smaller
from genin.export.components import components
from genin.export.converters import to_openvino
from genin.export.facts import network_facts
from genin.export.manifest_of import bundle_card
from genin.export.precision_plan import read_plan
from genin.export.prompt_set import Amount
from genin.export.shapes import Shapes
from genin.names import InstalledNames
from genin.quickstart import stages
from genin.runtimes import engine
from genin.runtimes.bundle import Bundle
from genin.runtimes.errors import GeninError, InputError
from genin.runtimes.folder import read_constants
from genin.runtimes.manifest import ModelInfo
from genin.runtimes.vocabulary import ALL_COMPONENTS, COMPONENTS, FORMATS, PRECISIONS
from tiny_bundle import quick_export

Json = dict[str, Any]


def last_json(text: str) -> Json:
    return json.loads(text.strip().splitlines()[-1])  # type: ignore[no-any-return]


def export_of(model: Path, out: Path, format: str, precision: str) -> list[str]:
    return ["export", str(model), "--out", str(out), "--format", format, "--precision", precision]


# --- the bundle ------------------------------------------------------------------------------------------------------


@pytest.mark.export
def test_the_manifest_says_what_the_model_folder_says(matrix: Path) -> None:
    with Bundle.open(matrix) as bundle:
        manifest = bundle.manifest
    assert (manifest.model.kind, manifest.model.licence, manifest.model.parent) == ("student", "Apache-2.0", "tiny")
    assert (manifest.sampler.guidance, manifest.sampler.guidance_scale, manifest.sampler.default_steps) == (
        "baked",
        1.0,
        4,
    )
    assert manifest.sampler.few_step_timesteps == {"4": (999, 749, 499, 249), "2": (999, 499), "1": (999,)}
    assert manifest.sampler.prediction_type == "v_prediction"
    assert manifest.latents.shape == (4, LATENT_SIZE, LATENT_SIZE) and manifest.latents.scaling_factor == 0.18215
    assert manifest.text.max_length == 32
    card = (matrix / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: apache-2.0\n") and "| onnx | int8 | unet |" in card


@pytest.mark.export
def test_a_plan_travels_with_the_bundle(matrix: Path) -> None:
    assert read_plan(matrix / "mixed.plan.json") == MIXED
    with Bundle.open(matrix) as bundle:
        drawn = {(entry.format, entry.precision) for entry in bundle.manifest.pictures}
    assert drawn == {(format, name) for format in FORMATS for name in (*PRECISIONS, "mixed", "eight")}


@pytest.mark.export
def test_a_genin_file_holds_what_the_folder_would(threes: Path) -> None:
    assert threes.is_file()
    with Bundle.open(threes) as bundle:
        bundle.check_hashes()
        assert bundle.manifest.precisions("onnx") == ("fp32", "w8a8") and bundle.manifest.precisions("openvino") == ()
        assert bundle.manifest.latents.scaling_factor == 0.18215


@pytest.mark.export
def test_the_encoder_may_be_left_out(compact_model: Path, matrix: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with quick_export():
        assert run([*export_of(compact_model, out, "openvino", "fp16"), "--no-vae-encoder"]) == 0
    with Bundle.open(out) as bundle:
        assert {graph.component for graph in bundle.manifest.graphs} == set(COMPONENTS)
        assert {entry.component for entry in bundle.manifest.golden} == set(COMPONENTS)
        assert bundle.manifest.precisions("openvino") == ("fp16",)
    assert not list(out.rglob("*vae_encoder*"))
    for format in ("onnx", "openvino"):  # other clients read its config beside the graph
        config = json.loads((matrix / format / "fp16" / "vae_encoder" / "config.json").read_text(encoding="utf-8"))
        assert config["_class_name"] == "AutoencoderKL"


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


@pytest.mark.export
def test_a_graph_below_its_floor_leaves_nothing(
    tiny_student_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(parity.FLOORS_DB, "fp32", 190.0)  # type: ignore[arg-type]
    command = export_of(tiny_student_folder, tmp_path / "out", "openvino", "fp32")
    assert run(command) == 1
    assert "text_encoder as openvino fp32" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("free", "error", "code", "message"),
    [
        (2_000_000, RuntimeError("never reached"), 2, "are free"),
        (40_000_000, RuntimeError("basic_ios::clear: iostream error"), 1, "cannot write (No space left on device)"),
        (40_000_000, OSError(errno.ENOSPC, "No space left on device"), 1, "cannot write (No space left on device)"),
        (40_000_000, OSError(errno.EFBIG, "File too large"), 1, "cannot write (File too large)"),
        (40_000_000, OSError(errno.EROFS, "Read-only file system"), 1, "cannot write (Read-only file system)"),
    ],
)
def test_a_full_disk_leaves_nothing(
    tiny_student_folder: Path,
    tmp_path: Path,
    free: int,
    error: Exception,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before the work where that can be told, and in the middle of it, in OpenVINO's words for it."""

    def full(*_: Any, **__: Any) -> None:
        if isinstance(error, RuntimeError):  # an OSError says it by itself
            monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
        raise error

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    monkeypatch.setattr(to_openvino, "convert", full)
    command = ["export", str(tiny_student_folder), "--out", str(tmp_path / "out"), "--format", "openvino"]
    assert run(command) == code
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_operation_that_a_converter_names_is_not_taken_for_a_full_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A small disk for temporary files has room for no large network."""
    component: Any = SimpleNamespace(name="unet", module=torch.nn.Linear(2, 2))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    monkeypatch.setattr(conversion, "converter", lambda _: interrupted(RuntimeError("no operation")))
    for failing, said in ((("bessel_j0", ["unet.mlp"]), "no operation 'bessel_j0'"), (None, "No space left on device")):
        monkeypatch.setattr(conversion, "failing_operation", lambda *_, found=failing: found)
        with pytest.raises(GeninError, match=said):
            conversion.convert(tmp_path, component, "onnx", [])


def interrupted(error: Exception) -> Any:
    """A function that raises it."""

    def raises(*_: Any, **__: Any) -> Any:
        raise error

    return raises


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"few_step_timesteps": [999]}, "few_step_timesteps"),
        ({"default_steps": "four"}, "default_steps"),
        ({"recipe": "text"}, "'recipe' is not an object"),
    ],
)
def test_what_a_model_says_of_itself_is_read_before_any_work(
    entry: Json, said: str, tiny_student_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Path(shutil.copytree(tiny_student_folder, tmp_path / "model"))
    info = json.loads((model / "genin.json").read_text(encoding="utf-8"))
    (model / "genin.json").write_text(json.dumps(info | entry), encoding="utf-8")
    monkeypatch.setattr(assembly, "components", interrupted(AssertionError("too late")))
    with pytest.raises(InputError, match=said):
        exporter.export(model, tmp_path / "out", ExportOptions("onnx", "fp32"))
    assert sorted(item.name for item in tmp_path.iterdir()) == ["model"]


def test_little_memory_is_said(tiny_student_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "check_memory", lambda *_: warnings.warn("little memory", UserWarning, stacklevel=2))
    monkeypatch.setattr(assembly, "components", interrupted(GeninError("enough")))
    with pytest.warns(UserWarning, match="little memory"), pytest.raises(GeninError, match="enough"):
        exporter.export(tiny_student_folder, tmp_path / "out", ExportOptions("onnx", "fp32"))


@pytest.mark.parametrize("name", ["out", "out.genin", "OUT.GENIN"])
def test_an_output_that_another_export_has_written_meanwhile_stays(
    name: str, tmp_path: Path, tiny_student_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / name

    def made(job: Job) -> None:
        if name == "out":
            out.mkdir()
        (out / "theirs" if name == "out" else out).write_text("theirs")

    monkeypatch.setattr(assembly, "assemble", made)
    with pytest.raises(InputError, match="the output already exists"):
        exporter.export(tiny_student_folder, out, ExportOptions("onnx", "fp32"))
    assert [item.name for item in tmp_path.iterdir()] == [name]
    assert (out / "theirs" if name == "out" else out).read_text() == "theirs"


def test_a_format_that_is_named_twice_is_made_once() -> None:
    assert ExportOptions(("onnx", "openvino", "onnx")).formats == ("onnx", "openvino")


def test_pictures_of_a_graph_that_break_are_not_the_models_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = GeninError("the model returned NaN or infinity", where="model", remedy="its weights are damaged")
    monkeypatch.setattr(acceptance, "draw_with_graphs", interrupted(error))
    graph: Any = SimpleNamespace(component="unet", format="coreml", precision="fp16")
    with pytest.raises(GeninError, match="NaN or infinity: coreml fp16; no bundle was written"):
        acceptance.require_pictures(tmp_path, [graph], tmp_path, np.zeros((1, 8, 8, 3), np.uint8), Amount(1, 1))


def test_a_scheduler_with_infinity_becomes_json(tiny_student_folder: Path, tmp_path: Path) -> None:
    """As DPM-Solver's and UniPC's configurations have on purpose."""
    model = Path(shutil.copytree(tiny_student_folder, tmp_path / "model"))
    file = model / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | {"lambda_min_clipped": float("-inf")}
    file.write_text(json.dumps(config), encoding="utf-8")
    assert "-Infinity" in file.read_text(encoding="utf-8")
    for written in (read_constants(model).sampler.scheduler, scheduler_config(load_model_folder(model))):
        assert "Infinity" not in json.dumps(written, allow_nan=False)


def test_a_single_timestep_has_two_golden_inputs(tiny_student_folder: Path) -> None:
    """The first is what Core ML's graph of one size is made of."""
    model = load_model_folder(tiny_student_folder)
    model.info["few_step_timesteps"] = {"1": [999]}
    for any_size, width in ((False, LATENT_SIZE), (True, LATENT_SIZE + 2)):
        [unet] = components(model, Shapes(any_size=any_size), ["text_encoder", "unet", "vae_decoder"])[1:2]
        shapes = [case["sample"].shape for case in unet.cases]
        assert shapes == [(2, 4, LATENT_SIZE, LATENT_SIZE), (1, 4, LATENT_SIZE, width)]


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
    assert "already exists" in capsys.readouterr().err


def test_a_missing_engine_is_reported_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nncf" else find(name))
    usable, skipped = exporter.usable_formats(FORMATS)
    assert usable == ["onnx", "coreml"]
    assert skipped == {"openvino": "'nncf' is not installed; pip install 'genin[export]'"}
    with pytest.raises(InputError, match="pip install"):
        exporter.usable_formats(["openvino"])


def test_a_release_of_onnxruntime_that_is_not_used_leaves_onnx_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.importlib.metadata, "version", lambda name: "1.24.0")
    usable, skipped = exporter.usable_formats(FORMATS)
    assert usable == ["openvino", "coreml"]
    assert skipped["onnx"].startswith("onnxruntime 1.24.0 ") and "pip install 'genin[export]'" in skipped["onnx"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_bundle_has_the_permissions_that_the_umask_grants(
    tmp_path: Path, mask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its folders and files, whatever a converter gave them: coremltools writes for the owner alone."""

    def assemble(job: Job) -> None:
        (job.root / "Unet.mlpackage").mkdir(mode=0o700)
        (job.root / "Unet.mlpackage" / "model.mlmodel").touch(mode=0o600)

    monkeypatch.setattr("genin.export.assembly.assemble", assemble)
    before = os.umask(mask)
    try:
        exporter.export(tmp_path, tmp_path / "out")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out", *tmp_path.rglob("out/**/*"))}
    assert modes == {"out": 0o777 & ~mask, "Unet.mlpackage": 0o777 & ~mask, "model.mlmodel": 0o666 & ~mask}


# --- other networks --------------------------------------------------------------------------------------------------


def test_unets_that_want_more_than_text_are_refused(
    tiny_student_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from diffusers import UNet2DConditionModel

    shutil.copytree(tiny_student_folder, tmp_path / "model")
    config = UNet2DConditionModel.load_config(tiny_student_folder / "unet")
    other = UNet2DConditionModel.from_config({**config, "class_embed_type": "timestep"})
    other.save_pretrained(tmp_path / "model" / "unet")
    assert run(["export", str(tmp_path / "model"), "--out", str(tmp_path / "out")]) == 2
    assert "inputs other than text" in capsys.readouterr().err


@pytest.mark.export
def test_inspect_counts_what_the_model_has(
    matrix: Path, compact_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(compact_model, subfolder="unet")
    assert run(["inspect", str(compact_model), "--json"]) == 0
    model = last_json(capsys.readouterr().out)
    assert run(["inspect", str(matrix), "--json"]) == 0
    bundle = last_json(capsys.readouterr().out)
    assert model["components"]["unet"]["parameters"] == sum(p.numel() for p in unet.parameters())
    for component in ALL_COMPONENTS:
        for key in ("parameters", "macs"):
            assert model["components"][component][key] == bundle["components"][component][key] > 0
    assert model["components"]["unet"]["precision"] == "fp32"
    assert bundle["components"]["unet"]["precision"] == "fp32, fp16, int8, eight, mixed"
    assert run(["inspect", str(matrix)]) == 0
    assert "licence: Apache-2.0" in capsys.readouterr().out


@pytest.mark.parametrize("stated", [5, {"unet": 5}, {"unet": {"parameters": "many", "macs": -1}}, None])
def test_networks_whose_facts_have_another_form_are_without(stated: object) -> None:
    info = ModelInfo(kind="student", licence="MIT", title="t", provenance={"components": stated})
    assert info.counts_of("unet") == {}


def test_networks_that_cannot_run_are_not_counted(compact_model: Path, tmp_path: Path) -> None:
    shutil.copytree(compact_model, tmp_path / "m")
    file = tmp_path / "m" / "unet" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"class_embeddings_concat": True}))
    with pytest.raises(InputError, match=r"cannot build the networks \(.*\): .*/m; "):
        network_facts(tmp_path / "m")


def test_shipped_students_take_the_steps_they_learnt(capsys: pytest.CaptureFixture[str]) -> None:
    steps = {}
    for name in ("builtin:student", "builtin:student-1step"):
        assert run(["inspect", name, "--json"]) == 0
        steps[name] = last_json(capsys.readouterr().out)["steps"]
    assert steps == {"builtin:student": 4, "builtin:student-1step": 1}


# --- measures --------------------------------------------------------------------------------------------------------


def test_a_model_that_does_not_say_is_exported_for_free_guidance(tiny_model_folder: Path) -> None:
    from genin.distill.models.folder import load_model_folder
    from genin.export.components import components

    model = load_model_folder(tiny_model_folder)
    batches = {}
    for guidance in ("baked", "free", None):
        model.info["guidance"] = guidance
        batches[guidance] = [component.guidance_batch for component in components(model)]
    assert batches == {"baked": [1, 1, 1, 1], "free": [1, 2, 1, 1], None: [1, 2, 1, 1]}


def test_int8_has_one_scale_an_output_channel() -> None:
    import onnx_ir as ir

    from genin.export.converters.to_onnx import _axis_in

    inputs = [ir.val("x"), ir.val("weight")]
    for kind, position, attributes, axis in (
        ("Conv", 1, {}, 0),
        ("MatMul", 1, {}, 1),
        ("Gemm", 1, {}, 1),
        ("Gemm", 1, {"transB": 1}, 0),
        ("Gather", 0, {}, 0),
        ("MatMul", 0, {}, None),
    ):
        assert _axis_in(ir.node(kind, inputs, attributes), position, 2) == axis, kind


def test_int8_rounds_within_half_a_step_a_channel() -> None:
    from genin.export.converters.to_onnx import quantise

    weights = np.random.default_rng(0).normal(size=(8, 5, 3, 3)).astype(np.float32) * np.arange(8).reshape(8, 1, 1, 1)
    stored, scale = quantise(weights.astype(np.float32), axis=0)
    assert stored.dtype == np.int8 and scale.shape == (8, 1, 1, 1)
    assert np.all(np.abs(stored * scale - weights) <= scale / 2 + 1e-6)
    assert not stored[0].any()  # a channel of zeros stays zero


def test_a_bundle_of_several_precisions_says_how_to_write_less() -> None:
    student = Path(__file__).parents[2] / "runtimes" / "weights" / "student"
    shipped = Bundle.open(student).manifest
    graph = shipped.graphs[0]
    one, other = (replace(graph, format=f, precision=p) for f, p in (("onnx", "fp16"), ("openvino", "int8")))
    manifest = replace(shipped, graphs=(one, other, replace(other, precision="fp32")))
    assert smaller(manifest) == "genin export with --format onnx --precision fp16 writes 3.09 MB of graphs"
    assert smaller(replace(manifest, graphs=(one,))) is None


def test_a_bundle_s_commands_can_be_pasted_and_its_tables_show_names_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A path with blanks is one word of a shell, and square brackets are no markup."""
    monkeypatch.setenv("COLUMNS", "100")
    shipped = Bundle.open(Path(__file__).parents[2] / "runtimes" / "weights" / "student").manifest
    _echo_export(SimpleNamespace(manifest=shipped, path=Path("my runs/b.genin")))  # type: ignore[arg-type]
    assert "try: genin generate PROMPT -m 'my runs/b.genin'\n" in capsys.readouterr().out
    assert "genin verify 'my b.genin'\n" in bundle_card(shipped, "my b.genin")
    _table(["precision", ""], [("mixed[old]", "runs[/old]/b :x:")])
    assert capsys.readouterr().out.splitlines()[1].split("  ")[:2] == [" mixed[old]", "runs[/old]/b :x: "]


def test_inspect_names_weights_that_are_missing_and_counts_those_that_are_read(
    tiny_student_folder: Path, tmp_path: Path
) -> None:
    from genin.export.inspection import inspect_path

    folder, weights = tmp_path / "m", "diffusion_pytorch_model"
    shutil.copytree(tiny_student_folder, folder)
    whole = inspect_path(folder)
    assert "missing" not in whole["notes"]
    shutil.copyfile(folder / "unet" / f"{weights}.safetensors", folder / "unet" / f"{weights}.fp16.safetensors")
    assert inspect_path(folder)["components"]["unet"] == whole["components"]["unet"]
    for file in (folder / "unet").glob("*.safetensors"):
        file.unlink()
    shards = {"conv_in.weight": f"{weights}-00001-of-00001.safetensors"}
    (folder / "unet" / f"{weights}.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert (
        inspect_path(folder)["notes"]["missing"] == f"the folder lacks files: unet/{weights}-00001-of-00001.safetensors"
    )


@pytest.mark.slow
def test_the_shipped_teacher_is_exported_as_the_quickstart_does(tmp_path: Path) -> None:
    """Its decoder has layers that int8 would take below a graph's floor; the tiny models' has none."""
    teacher, formats, precisions = InstalledNames().model("builtin:teacher"), ("onnx", "openvino"), stages.PRECISIONS
    manifest = exporter.export(teacher, tmp_path / "bundle", ExportOptions(formats, precisions)).manifest
    decoders = [graph for graph in manifest.graphs if graph.component == "vae_decoder"]
    assert {(graph.format, graph.precision) for graph in decoders} == set(itertools.product(formats, precisions))
    assert all(graph.parity and graph.parity.psnr_db >= parity.FLOORS_DB[graph.precision] for graph in decoders)

"""Model folders made of bundles: the same weights, configs and words; what cannot be made into one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exported import part_of
from genin.names import InstalledNames
from genin.runtimes.errors import InputError
from tiny_bundle import edit_manifest, update_hash, without_encoder

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from genin.distill.models.folder import load_model_folder  # noqa: E402
from genin.distill.models.restored import restored, weights_of  # noqa: E402

Cli = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(("bundle", "model"), [("matrix", "compact_model"), ("tiny_bundle", "inverted_student")])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_bundle_holds_its_model(
    bundle: str, model: str, precision: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Of the tiny model all norms are equal tensors."""
    source = request.getfixturevalue(model)
    part = part_of(request.getfixturevalue(bundle), tmp_path / "part", format="onnx", precision=precision)
    made, original = load_model_folder(restored(part, tmp_path)), load_model_folder(source)
    for name in ("text_encoder", "unet", "vae"):
        weights, wanted = (getattr(one, name).state_dict() for one in (made, original))
        assert weights.keys() == wanted.keys()
        for key, value in wanted.items():
            stored = value.half().float() if precision == "fp16" else value
            assert torch.equal(weights[key], value) or torch.equal(weights[key], stored), key
    told = original.info | {"genin_model": 1}
    if told["guidance"] == "baked":
        told["guidance_scale"] = 1.0
    assert {key: made.info.get(key) for key in told} == told
    assert made.tokenizer("a ninja").input_ids == original.tokenizer("a ninja").input_ids
    assert made.scheduler_config["prediction_type"] == original.scheduler_config["prediction_type"]


def test_a_folder_is_made_once(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = restored(tiny_bundle, tmp_path)
    assert folder.name == json.loads((tiny_bundle / "manifest.json").read_text())["name"]
    monkeypatch.setattr("genin.distill.models.restored.write_folder", None)
    assert restored(tiny_bundle, tmp_path) == folder
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("name", ["/tmp/elsewhere", "../../elsewhere", "a\0b", "..", ""])
def test_a_bundles_name_is_no_path(
    name: str, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, cache = tmp_path / "bundle", tmp_path / "cache"
    shutil.copytree(tiny_bundle, bundle)
    edit_manifest(bundle, "name", value=name)
    monkeypatch.setattr("genin.distill.models.restored.write_folder", lambda _bundle, _graphs, out: out.mkdir())
    folder = restored(bundle, cache)
    assert folder.parent.parent == cache / "restored" and folder.resolve() == folder


def test_two_processes_may_restore_one_bundle(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slower(_bundle: Any, _graphs: Any, out: Path) -> None:
        """The other one has just finished."""
        out.mkdir()
        (out.parents[1] / out.name / "unet").mkdir(parents=True)

    monkeypatch.setattr("genin.distill.models.restored.write_folder", slower)
    assert (restored(tiny_bundle, tmp_path) / "unet").is_dir()


def test_a_bundle_is_exported_to_another_format(
    tiny_bundle: Path, tmp_path: Path, genin: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genin.names.cache_folder", lambda: tmp_path / "cache")
    part = part_of(tiny_bundle, tmp_path / "part", format="onnx", precision="fp32")
    genin("export", part, "--format", "openvino", "--precision", "fp32", "--out", tmp_path / "other")
    own, other = (json.loads((path / "manifest.json").read_text()) for path in (tiny_bundle, tmp_path / "other"))
    assert {graph["format"] for graph in other["graphs"]} == {"openvino"}
    for key in ("latents", "text", "sampler"):
        assert other[key] == own[key]


def test_only_exact_weights_are_taken(matrix: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    part = part_of(matrix, tmp_path / "int8", format="onnx", precision="int8")
    with pytest.raises(InputError, match="ONNX graphs in fp32 or fp16, of which this bundle has none"):
        restored(part, tmp_path)
    with pytest.raises(InputError, match=r"of which this bundle has no encoder's: .*; give the model folder"):
        restored(without_encoder(tiny_bundle, tmp_path / "half"), tmp_path)
    assert not (tmp_path / "restored").exists()


def test_graphs_without_names_are_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    """Those of other exporters, or changed by other tools."""
    part = tmp_path / "part"
    shutil.copytree(tiny_bundle, part)
    for precision in ("fp32", "fp16"):
        path = f"onnx/{precision}/unet/model.onnx"
        graph = onnx.load(part / path)
        for node in graph.graph.node:
            node.name = ""
        onnx.save(graph, part / path)
        update_hash(part, path)
    with pytest.raises(InputError, match=r"its ONNX graphs have no 'unet\.\S+' of shape \(\d+,\)"):
        restored(part, tmp_path)
    assert not [path for path in (tmp_path / "restored").rglob("*") if path.is_file()]


def test_a_bias_of_zeros_is_not_in_the_graph(tmp_path: Path) -> None:
    """PyTorch's exporter leaves it out; a new block of a decoder that starts as the teacher's has one."""
    layers = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.Conv2d(3, 2, 3)).eval()
    torch.nn.init.zeros_(layers[1].bias)
    program = torch.onnx.export(layers, (torch.zeros(1, 2, 8, 8),), dynamo=True, verbose=False)
    assert program is not None
    for number, node in enumerate(program.model.graph):
        node.name = f"{number}/Conv"
    program.save(tmp_path / "model.onnx")
    assert [len(node.input) for node in onnx.load(tmp_path / "model.onnx").graph.node] == [3, 2]
    found = weights_of(tmp_path / "model.onnx")
    assert found["1.bias"].tolist() == [0, 0] and found["0.bias"].tolist() == layers[0].bias.tolist()


def test_the_shipped_students_are_model_folders_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genin.names.cache_folder", lambda: tmp_path)
    for name in ("builtin:student", "builtin:student-1step"):
        model = load_model_folder(InstalledNames().folder(name))
        assert model.info["kind"] == "student" and model.info["parent"] == "builtin:teacher"

"""`genin verify`: what is damaged, exchanged or wrong is found, and what could not be checked is not called good."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exported import STEPS, part_of
from genin.cli import run
from genin.export.checks import parity
from genin.export.checks.coreml_interpreter import Program
from genin.runtimes import engine
from genin.runtimes.bundle import Bundle, file_entry
from genin.runtimes.errors import BundleError, GeninError
from genin.runtimes.manifest import EXACT_PSNR_DB, TensorSpec
from tiny_bundle import edit_manifest, update_hash

Json = dict[str, Any]
SHIPPED = Path(__file__).parents[2] / "runtimes" / "weights" / "student-1step"
SINGLE = f"text_to_image_{STEPS}"
needs_bundle = pytest.mark.export


def verify(capsys: pytest.CaptureFixture[str], path: Path, *options: str, code: int) -> Json:
    """The JSON object that `genin verify` prints, which has to end with `code`."""
    capsys.readouterr()
    assert run(["verify", str(path), *options, "--json"]) == code
    report: Json = json.loads(capsys.readouterr().out.splitlines()[-1])
    return report


def bad_graphs(report: Json) -> list[tuple[str, str, str]]:
    return [(g["format"], g["precision"], g["name"]) for g in report["graphs"] if g["ok"] is False]


# --- good bundles, and bundles of another model ----------------------------------------------------------------------


@needs_bundle
def test_every_graph_of_a_good_bundle_is_good(matrix: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = verify(capsys, matrix, code=0)
    assert report["ok"] and all(file["sha256_ok"] for file in report["files"])
    with Bundle.open(matrix) as bundle:
        expected = {(g.format, g.precision, g.name) for g in (*bundle.manifest.graphs, *bundle.manifest.single_graphs)}
    assert {(g["format"], g["precision"], g["name"]) for g in report["graphs"]} == expected
    for graph in report["graphs"]:
        assert graph["ok"] and graph["psnr_db"] >= graph["floor_db"]
    assert report["not_run"] == {}


@needs_bundle
@pytest.mark.parametrize("single", [False, True])
def test_verify_against_another_model_fails(
    matrix: Path,
    compact_model: Path,
    tiny_student_folder: Path,
    tmp_path: Path,
    single: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """References are computed anew, those of a single graph step by step; the two models share their text encoder."""
    part = part_of(matrix, tmp_path / "part", format="onnx", precision="fp16", single=single)
    assert verify(capsys, part, "--against", str(compact_model), code=0)["ok"]
    assert run(["verify", str(part), "--against", f"{part}/"]) == 2
    assert "a bundle cannot be the reference of itself" in capsys.readouterr().err
    bad = {name for _, _, name in bad_graphs(verify(capsys, part, "--against", str(tiny_student_folder), code=1))}
    assert bad == ({SINGLE} if single else {"unet", "vae_decoder", "vae_encoder"})


def test_a_model_of_other_widths_is_a_finding(tiny_student_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """PyTorch refuses the golden inputs of the shipped bundle, whose texts are wider than this model's."""
    report = verify(capsys, SHIPPED, "--against", str(tiny_student_folder), code=1)
    [note] = {note for name, note in report["notes"].items() if name.endswith("/unet")}
    assert note.startswith("the model does not take the bundle's golden inputs (") and note.endswith(")")


@needs_bundle
def test_verify_works_without_pytorch(threes: Path) -> None:
    block = "import sys\nfor n in ('torch','diffusers','transformers','coremltools','openvino','onnx'): sys.modules[n] = None\n"
    code = f"{block}from genin.cli import run\nsys.exit(run(['verify', {str(threes)!r}, '--json']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert all(graph["ok"] for graph in json.loads(done.stdout.splitlines()[-1])["graphs"])


# --- damage ----------------------------------------------------------------------------------------------------------


@needs_bundle
def test_a_damaged_file_is_named(matrix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = part_of(matrix, tmp_path / "copy", format="openvino", precision="int8")
    weights = folder / "openvino" / "int8" / "unet" / "openvino_model.bin"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 0xFF
    weights.write_bytes(content)
    report = verify(capsys, folder, code=1)
    assert [file["path"] for file in report["files"] if not file["sha256_ok"]] == [
        "openvino/int8/unet/openvino_model.bin"
    ]
    assert bad_graphs(report) == [("openvino", "int8", "unet")]


@needs_bundle
@pytest.mark.parametrize(
    ("format", "name", "place"),
    [
        ("onnx", SINGLE, f"onnx/fp32/{SINGLE}/model.onnx"),
        ("openvino", "vae_decoder", "openvino/fp32/vae_decoder/openvino_model.bin"),
        ("coreml", "vae_decoder", "coreml/fp32/VAEDecoder.mlpackage/Data/com.apple.CoreML/weights/weight.bin"),
    ],
)
def test_exchanged_weights_are_found_even_with_their_hash_updated(
    matrix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], format: str, name: str, place: str
) -> None:
    """The attack that hashes cannot see: the graph still loads and the manifest agrees with it."""
    folder = part_of(matrix, tmp_path / "copy", format=format, precision="fp32", single=name == SINGLE)
    weights = folder / place
    content = weights.read_bytes()
    values = np.frombuffer(content, np.float32, count=len(content) // 4).copy()
    likely = np.flatnonzero((np.abs(values) > 1e-3) & (np.abs(values) < 1))  # weights, not shapes
    chosen = likely[len(likely) // 2 :] if name == SINGLE else likely[:100]
    values[chosen] *= -1
    weights.write_bytes(values.tobytes() + content[values.nbytes :])
    update_hash(folder, place)
    report = verify(capsys, folder, code=1)
    assert all(file["sha256_ok"] for file in report["files"])
    assert bad_graphs(report) == [(format, "fp32", name)]


# --- what could not be run -------------------------------------------------------------------------------------------


@needs_bundle
def test_a_bundle_of_which_no_graph_was_run_is_not_verified(
    matrix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = part_of(matrix, tmp_path / "part", precision="fp16", component="text_encoder")
    for name in ("onnxruntime", "openvino", "coremltools"):
        monkeypatch.setitem(sys.modules, name, None)
    report = verify(capsys, folder, code=2)
    assert not report["ok"] and [graph["ok"] for graph in report["graphs"]] == [None] * 3
    assert sorted(report["not_run"]) == [
        "'coremltools' is not installed; pip install 'genin[export]'",
        "'onnxruntime' is not installed; pip install 'genin[onnxruntime]'",
        "'openvino' is not installed; pip install 'genin[openvino]'",
    ]
    assert run(["verify", str(folder)]) == 2
    captured = capsys.readouterr()
    assert "NOT verified" in captured.out
    [line] = captured.err.strip().splitlines()
    assert "no graph could be run" in line and "pip install 'genin[onnxruntime]'" in line
    content = (folder / "README.md").read_bytes()
    (folder / "README.md").write_bytes(content[::-1])  # what is damaged is wrong, whatever can be run
    assert run(["verify", str(folder)]) == 1
    assert "NOT ok" in capsys.readouterr().out


@needs_bundle
def test_graphs_that_were_not_run_are_counted(
    matrix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = part_of(matrix, tmp_path / "part", precision="fp16", component="text_encoder")
    for name in ("openvino", "coremltools"):
        monkeypatch.setitem(sys.modules, name, None)
    report = verify(capsys, folder, code=0)
    assert report["ok"] and [graph["ok"] for graph in report["graphs"]] == [True, None, None]
    assert run(["verify", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "not run: 1 of 3 graphs: 'openvino' is not installed; pip install 'genin[openvino]'" in said
    assert f"{folder}: ok" in said


@needs_bundle
def test_a_release_of_onnxruntime_that_is_not_used_is_named(
    matrix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = part_of(matrix, tmp_path / "part", precision="fp16", component="text_encoder", format="onnx")
    monkeypatch.setattr(engine.importlib.metadata, "version", lambda name: "1.24.1")
    [reason] = verify(capsys, folder, code=2)["not_run"]
    assert reason.startswith("onnxruntime 1.24.1 ") and reason.endswith("pip install 'genin[onnxruntime]'")


@needs_bundle
@pytest.mark.parametrize("fault", [IndexError("no such row"), RuntimeError("out of\nmemory"), KeyError("x")])
def test_a_core_ml_program_that_fails_is_a_bad_graph(
    matrix: Path,
    tmp_path: Path,
    fault: Exception,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever the interpreter raises while it runs, in `verify` and for callers of `open_graph`."""
    folder = part_of(matrix, tmp_path / "part", precision="fp16", component="text_encoder", format="coreml")

    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr(Program, "predict", fail)
    [note] = verify(capsys, folder, code=1)["notes"].values()
    assert note.startswith("the graph does not run (")
    with Bundle.open(folder) as bundle:
        [graph] = bundle.manifest.graphs
        path = bundle.local_graph(graph)
        run_graph, _ = parity.open_graph("coreml", graph.component, path, graph.inputs, graph.outputs)
    with pytest.raises(GeninError, match="the graph does not run"):
        run_graph({"input_ids": np.zeros((1, 32), np.int64)})


@needs_bundle
def test_an_operation_that_fails_to_be_known_only_at_run_time_says_nothing_against_a_graph(
    matrix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = part_of(matrix, tmp_path / "part", precision="fp16", component="text_encoder", format="coreml")

    def fail(*_: object) -> None:
        raise parity.UnknownOperationError("gather_nd of negative indices")

    monkeypatch.setattr(Program, "predict", fail)
    assert verify(capsys, folder, code=2)["not_run"] == {"not run: gather_nd of negative indices": 1}


@needs_bundle
def test_golden_inputs_that_fit_no_graph_are_named(
    matrix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A Core ML graph takes one size: with golden inputs of another one there is nothing to compare."""
    folder = part_of(matrix, tmp_path / "part", precision="fp16", component="vae_decoder", format="coreml")
    with Bundle.open(folder) as bundle:
        names = ("latent_sample", "sample")
        cases = parity.read_golden(bundle.read_bytes("golden/vae_decoder.npz"), names)
    wide = [{name: np.repeat(case[name], 2, axis=-1) for name in names} for case in cases]
    parity.write_golden(folder / "golden" / "vae_decoder.npz", wide)
    data = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    index = [entry["path"] for entry in data["golden"]].index("golden/vae_decoder.npz")
    entry = file_entry(folder, "golden/vae_decoder.npz")
    edit_manifest(folder, "golden", index, "sha256", value=entry.sha256)
    edit_manifest(folder, "golden", index, "size_bytes", value=entry.size_bytes)
    [note] = verify(capsys, folder, code=1)["notes"].values()
    assert note == "no golden input has a size that the graph takes; export the bundle again"


def test_no_case_is_an_error_and_not_a_parity() -> None:
    with pytest.raises(GeninError, match="no golden input"):
        parity.measure(lambda _: {}, [], ["x"], 90.0, "nothing")
    with pytest.raises(GeninError, match="no golden input"):
        parity.measure_pictures(lambda _: {}, [], 90.0, "nothing")


def test_a_graph_of_one_size_takes_the_golden_inputs_of_that_size() -> None:
    def cases(*names: str) -> list[dict[str, Any]]:
        return [{name: np.zeros((1, 4, 8, width)) for name in names} for width in (8, 16)]

    def widths(component: str, name: str, found: list[Any]) -> list[int]:
        return [case[name].shape[-1] for case in parity.fitting(component, found, [fixed])]

    fixed, free = (TensorSpec("z", (1, 4, 8, width), "float32") for width in (8, "width"))
    assert widths("unet", "sample", cases("sample")) == [8]
    assert widths("vae_decoder", "latent_sample", cases("latent_sample", "sample")) == [8]
    assert widths("vae_encoder", "sample", cases("sample", "latent_sample")) == [8]
    assert len(parity.fitting("unet", cases("sample"), [free])) == 2
    ids = TensorSpec("input_ids", ("batch", 8), "int64")
    assert len(parity.fitting("text_encoder", [{"input_ids": np.zeros((2, 16))}], [ids])) == 1


# --- measures --------------------------------------------------------------------------------------------------------


def test_psnr_and_cosine_by_hand() -> None:
    reference = np.array([0.0, 1.0, 2.0, 4.0], np.float32)
    assert parity.psnr_db(reference, reference) == EXACT_PSNR_DB
    assert parity.psnr_db(reference, reference + 0.4) == pytest.approx(20.0, abs=1e-4)  # peak 4, error 0.4
    assert parity.psnr_db(reference, reference * np.nan) == -EXACT_PSNR_DB
    assert parity.cosine(reference, 3 * reference) == pytest.approx(1)
    assert parity.cosine(reference, -reference) == pytest.approx(-1)


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


def test_golden_files_that_numpy_stumbles_over_are_refused(tmp_path: Path) -> None:
    def refused(data: bytes) -> str:
        with pytest.raises(BundleError, match="a golden file cannot be read") as error:
            parity.read_golden(data, ["a"])
        return str(error.value)

    def packed(name: str, content: bytes) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr(name, content)
        return stream.getvalue()

    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    array = stream.getvalue()
    assert "a single array" in refused(array)
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (3,"
    refused(packed("0.a.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header))
    assert "no array" in refused(packed("0.a.npy", b"text"))
    encrypted = bytearray(packed("0.a.npy", array))
    encrypted[6] |= 1  # the flag, of the member and in the directory
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    assert "encrypted" in refused(bytes(encrypted))


def test_a_wrong_shape_is_an_error() -> None:
    case = {"x": np.zeros((2, 3), np.float32)}
    with pytest.raises(GeninError, match="shape"):
        parity.measure(lambda _: {"x": np.zeros((1, 3), np.float32)}, [case], ["x"], "fp32", "nothing")


def test_the_worst_case_is_what_counts() -> None:
    generator = np.random.default_rng(0)
    reference = generator.normal(size=(1, 64)).astype(np.float32)
    cases: list[dict[str, Any]] = [{"y": reference, "error": np.float32(error)} for error in (1e-6, 1e-1)]
    found = parity.measure(lambda case: {"y": case["y"] + case["error"]}, cases, ["y"], 60.0, "a function")
    assert found.psnr_db < 40 and found.max_abs == pytest.approx(0.1, rel=1e-3) and found.psnr_db < found.floor_db


@pytest.mark.parametrize("order", [(0.5, np.nan), (np.nan, 0.5)])
def test_an_output_that_is_no_number_has_the_largest_difference(order: tuple[float, float]) -> None:
    cases: list[dict[str, Any]] = [{"y": np.arange(4.0), "error": error} for error in order]
    found = parity.measure(lambda case: {"y": case["y"] + case["error"]}, cases, ["y"], 60.0, "a function")
    assert found.max_abs == np.finfo(np.float32).max and found.psnr_db == -EXACT_PSNR_DB

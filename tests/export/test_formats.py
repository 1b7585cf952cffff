"""One contract for every format: parity, precisions, any batch, plans, damage, and errors that name the layer.

A new format is a row of `formats.TABLE` and a subclass here; `test_every_format_has_a_contract` fails until it has one.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from exported import EIGHT, MIXED
from genin.cli import run
from genin.distill.models import folder as model_folder
from genin.export import assembly
from genin.export import components as networks
from genin.export.checks import parity
from genin.export.converters import to_coreml, to_onnx
from genin.export.converters.formats import TABLE, Target, is_large
from genin.export.converters.quiet import quiet
from genin.export.converters.to_coreml import _must_be_wide
from genin.export.precision_plan import Plan, Storage, uniform
from genin.runtimes.bundle import Bundle
from genin.runtimes.errors import BundleError
from genin.runtimes.manifest import GraphEntry
from genin.runtimes.openvino_engine import core
from genin.runtimes.tensors import OUTPUTS
from genin.runtimes.vocabulary import ALL_COMPONENTS, COMPONENTS, FORMATS, PRECISIONS
from tiny_bundle import quick_export

pytestmark = pytest.mark.export
Graphs = Mapping[tuple[str, str], GraphEntry]  # by precision and component


@pytest.fixture(scope="module")
def compact_networks(compact_model: Path) -> Mapping[str, torch.nn.Module]:
    with quiet():
        return networks.modules(model_folder.load_model_folder(compact_model))


@pytest.fixture
def unet_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from exported_alone(monkeypatch, "unet")


@pytest.fixture
def text_encoder_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from exported_alone(monkeypatch, "text_encoder")


def exported_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[None]:
    """The exporter converts no other network, which would only delay the report of an error in this one."""
    every = networks.components

    def one(*arguments: Any) -> list[networks.Component]:
        return [component for component in every(*arguments) if component.name == name]

    monkeypatch.setattr(assembly, "components", one)
    with quick_export():
        yield


class FormatContract:
    """What every format must do. A subclass names it, and says how its files show what a plan asks for."""

    format: ClassVar[str]

    def check_mixed_storage(self, matrix: Path, graphs: Graphs) -> None:
        """Each layer is stored as the plan MIXED has it, or in the next wider way that the format has."""
        raise NotImplementedError

    def check_eight_bit_activations(self, matrix: Path, graphs: Graphs) -> None:
        """The one layer of the plan EIGHT computes on 8-bit activations, or in floats where the format has none."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    def graphs(self, matrix: Path) -> Graphs:
        with Bundle.open(matrix) as bundle:
            return {(g.precision, g.component): g for g in bundle.manifest.graphs if g.format == self.format}

    def open_graph(self, matrix: Path, graph: GraphEntry) -> parity.Run:
        return parity.open_graph(self.format, graph.component, matrix / graph.path, graph.inputs, graph.outputs)[0]

    def test_parity(self, graphs: Graphs) -> None:
        assert set(graphs) == {(p, c) for p in (*PRECISIONS, MIXED.name, EIGHT.name) for c in ALL_COMPONENTS}
        for (precision, _), graph in graphs.items():
            assert graph.parity is not None, graph.path
            assert graph.parity.psnr_db >= graph.parity.floor_db
            if precision in PRECISIONS:
                assert graph.parity.floor_db == parity.FLOORS_DB[precision]

    def test_precisions_take_fewer_bytes_each(self, graphs: Graphs) -> None:
        sizes = [graphs[precision, "unet"].size_bytes for precision in PRECISIONS]
        assert sizes[0] > 1.4 * sizes[1] > 1.4 * sizes[2]

    @pytest.mark.parametrize("rows", [1, 2, 5])
    def test_any_batch(
        self, matrix: Path, graphs: Graphs, compact_networks: Mapping[str, torch.nn.Module], rows: int
    ) -> None:
        for component in ALL_COMPONENTS:
            graph, outputs = graphs["fp32", component], OUTPUTS[component]
            golden = np.load(matrix / "golden" / f"{component}.npz")
            inputs = [key.partition(".")[2] for key in golden.files if key.startswith("0.")]
            random = np.random.default_rng(rows)
            case = {}
            for name in inputs:
                value = golden[f"0.{name}"]
                if name not in outputs or (component == "vae_decoder" and name == "latent_sample"):
                    chosen = value if value.shape == (1,) else np.resize(value, (rows, *value.shape[1:]))
                    noise = random.standard_normal(chosen.shape) * 0.1 if chosen.dtype == np.float32 else 0
                    case[name] = (chosen + noise).astype(value.dtype)
            expected = networks.run_module(compact_networks[component].eval(), case, outputs)
            got = self.open_graph(matrix, graph)(case)
            for name in outputs:
                assert got[name].shape == expected[name].shape
                assert parity.psnr_db(expected[name], got[name]) > 90

    def test_plan(self, matrix: Path, graphs: Graphs) -> None:
        text = "int8, palette6" if "palette6" in TABLE[self.format].stores else "int8"
        stored = {component: graphs[MIXED.name, component].stored for component in ALL_COMPONENTS}
        vae = dict.fromkeys(("vae_decoder", "vae_encoder"), "fp16, int8")
        assert stored == {"text_encoder": text, "unet": "fp32, int8", **vae}
        self.check_mixed_storage(matrix, graphs)

    def test_eight_bit_activations(self, matrix: Path, graphs: Graphs) -> None:
        assert graphs[EIGHT.name, "unet"].stored == "fp16, int8"
        assert "int8" not in graphs[EIGHT.name, "vae_decoder"].compute
        encoder = graphs[
            EIGHT.name, "vae_encoder"
        ]  # calibrated on pictures; held to int8's floor, for no picture judges it
        assert encoder.stored == "fp16, int8" and encoder.compute == graphs[EIGHT.name, "unet"].compute
        assert encoder.parity is not None and encoder.parity.floor_db == parity.FLOORS_DB["int8"]
        self.check_eight_bit_activations(matrix, graphs)

    @pytest.mark.parametrize("content", [b"", b"not a graph"])
    def test_damaged_graphs_are_refused(self, matrix: Path, graphs: Graphs, tmp_path: Path, content: bytes) -> None:
        graph = graphs["int8", "text_encoder"]
        place = matrix / graph.path
        copy = tmp_path / place.parent.name
        shutil.copytree(place.parent, copy)
        (copy / Path(graph.files[0].path).relative_to(Path(graph.path).parent)).write_bytes(content)
        with pytest.raises(BundleError, match=r"cannot|are not the manifest's"):
            parity.open_graph(self.format, graph.component, copy / place.name, graph.inputs, graph.outputs)

    def test_graphs_that_are_not_as_declared_are_refused(self, matrix: Path, graphs: Graphs) -> None:
        one, other = graphs["int8", "text_encoder"], graphs["int8", "vae_decoder"]
        with pytest.raises(BundleError, match="manifest"):
            parity.open_graph(self.format, one.component, matrix / one.path, other.inputs, other.outputs)

    def test_the_layer_that_eight_bits_ruin_is_named(
        self, compact_model: Path, tmp_path: Path, unet_alone: None, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Weights that meet nothing but zeros, and are a thousand times the others: PyTorch does not mind, eight bits do."""
        model = tmp_path / "model"
        shutil.copytree(compact_model, model)
        path = model / "unet" / "diffusion_pytorch_model.safetensors"
        tensors = load_file(path)
        block = "up_blocks.0.resnets.1"
        for name in ("weight", "bias"):
            tensors[f"{block}.norm1.{name}"][0] = 0
        tensors[f"{block}.conv1.weight"][:, 0] = 1000
        save_file(tensors, path, metadata={"format": "pt"})
        assert run(self.export_of(model, tmp_path / "out", "int8")) == 1
        said = capsys.readouterr().err
        assert f"unet as {self.format} int8" in said and f"most is lost at unet.{block}.conv1" in said
        assert sorted(item.name for item in tmp_path.iterdir()) == ["model"]

    def test_a_layer_that_the_format_cannot_express_is_named(
        self,
        compact_model: Path,
        tmp_path: Path,
        text_encoder_alone: None,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """A network that others have changed: one layer of it has an operation that no format knows."""

        class Odd(torch.nn.Module):
            def __init__(self, inner: torch.nn.Module) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, x: torch.Tensor) -> Any:
                given = self.inner(x)
                return given + 0 * torch.special.bessel_j0(given)

        as_it_is: Callable[[Path], Any] = model_folder.load_model_folder

        def changed(path: Path) -> Any:
            model = as_it_is(path)
            mlp = model.text_encoder.text_model.encoder.layers[0].mlp
            mlp.fc1 = Odd(mlp.fc1)
            return model

        monkeypatch.setattr(assembly, "load_model_folder", changed)
        assert run(self.export_of(compact_model, tmp_path / "out", "fp16")) == 2
        said = capsys.readouterr().err
        assert "bessel_j0" in said and "text_encoder" in said and "text_model.encoder.layers.0.mlp.fc1" in said
        assert list(tmp_path.iterdir()) == []

    def export_of(self, model: Path, out: Path, precision: str) -> list[str]:
        return ["export", str(model), "--out", str(out), "--format", self.format, "--precision", precision]


class TestOnnx(FormatContract):
    format = "onnx"

    def check_mixed_storage(self, matrix: Path, graphs: Graphs) -> None:
        import onnx

        stored = {
            component: {v.name: v.data_type for v in onnx.load(matrix / graph.path).graph.initializer}
            for component in COMPONENTS
            for graph in [graphs[MIXED.name, component]]
        }
        kind = onnx.TensorProto
        assert stored["unet"]["unet.conv_in.weight"] == kind.FLOAT
        assert stored["unet"]["unet.conv_out.weight.stored"] == kind.INT8
        assert stored["vae_decoder"]["vae.decoder.conv_in.weight.stored"] == kind.FLOAT16
        assert kind.INT8 in stored["text_encoder"].values()

    def check_eight_bit_activations(self, matrix: Path, graphs: Graphs) -> None:
        import onnx

        assert graphs[EIGHT.name, "unet"].compute == "int8 in 1 layers, fp32"
        nodes = onnx.load(matrix / graphs[EIGHT.name, "unet"].path).graph.node
        assert sum(node.op_type == "QuantizeLinear" for node in nodes) in (1, 2)  # what it reads, perhaps what it gives

    def test_graphs_hold_no_paths_of_this_machine(self, matrix: Path) -> None:
        for graph in matrix.rglob("model.onnx"):
            content = graph.read_bytes()
            assert b"site-packages" not in content and b"Traceback" not in content

    def test_eight_bit_activations_of_a_layer_that_became_a_constant_change_nothing(self, tmp_path: Path) -> None:
        """Given no nodes, ONNX Runtime would quantise all."""

        class Constant(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.time, self.conv = torch.nn.Linear(2, 1), torch.nn.Conv2d(1, 1, 3, padding=1)

            def forward(self, sample: torch.Tensor) -> torch.Tensor:
                return self.conv(sample)

        case = dict.fromkeys(("sample", "out_sample"), np.ones((2, 1, 4, 4), np.float32))
        component = networks.Component("unet", Constant().eval(), ("sample",), ("out_sample",), (case,))
        plan = Plan("one", Storage("fp32"), {"unet": {"time": Storage("int8", "int8")}})
        written = to_onnx.convert(component, [Target(plan, tmp_path / "model.onnx")])["one"]
        assert written.compute == "fp32" and "QuantizeLinear" not in written.operations


class TestOpenVino(FormatContract):
    format = "openvino"

    def check_mixed_storage(self, matrix: Path, graphs: Graphs) -> None:
        model = core().read_model(matrix / graphs[MIXED.name, "unet"].path)
        kinds = {
            node.get_friendly_name(): node.input(1).get_source_output().get_node().get_type_name()
            for node in model.get_ordered_ops()
            if node.get_type_name() == "Convolution"
        }
        [conv_in] = [kind for name, kind in kinds.items() if "conv_in/" in name]
        assert conv_in == "Constant" and set(kinds.values()) > {"Constant"}

    def test_only_large_tensors_lose_bits(self, matrix: Path, graphs: Graphs) -> None:
        """Not the frequencies of the timestep embedding, which 11 bits are too few for."""
        model = core().read_model(matrix / graphs["fp16", "unet"].path)
        constants = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
        shapes = [tuple(node.shape) for node in constants if node.get_element_type().to_string() == "f16"]
        assert shapes and all(map(is_large, shapes))

    def check_eight_bit_activations(self, matrix: Path, graphs: Graphs) -> None:
        assert graphs[EIGHT.name, "unet"].compute == "int8 in 1 layers, fp32"
        model = core().read_model(matrix / graphs[EIGHT.name, "unet"].path)
        assert any(node.get_type_name() == "FakeQuantize" for node in model.get_ordered_ops())


class TestCoreML(FormatContract):
    format = "coreml"

    def check_mixed_storage(self, matrix: Path, graphs: Graphs) -> None:
        import coremltools

        tables = {
            component: {
                operation.type
                for operation in coremltools.utils.load_spec(str(matrix / graphs[MIXED.name, component].path))
                .mlProgram.functions["main"].block_specializations["CoreML7"].operations
                if operation.type.startswith("constexpr")
            }
            for component in COMPONENTS
        }  # fmt: skip
        assert tables["text_encoder"] == {"constexpr_lut_to_dense"}  # its other layers are too small to compress
        assert tables["unet"] == {"constexpr_affine_dequantize"}

    def check_eight_bit_activations(self, matrix: Path, graphs: Graphs) -> None:
        assert graphs[EIGHT.name, "unet"].compute == "fp16, norms fp32"

    def test_has_the_interface_of_apples_package(self, matrix: Path, graphs: Graphs) -> None:
        names = {c: [[t.name for t in ports] for ports in (g.inputs, g.outputs)]
                 for c in ALL_COMPONENTS for g in [graphs["fp16", c]]}  # fmt: skip
        assert names["text_encoder"] == [["input_ids"], ["last_hidden_state", "pooled_outputs"]]
        assert names["unet"] == [["sample", "timestep", "encoder_hidden_states"], ["noise_pred"]]
        assert names["vae_decoder"] == [["z"], ["image"]] and names["vae_encoder"] == [["z"], ["latent"]]
        assert graphs["fp16", "vae_encoder"].outputs[0].shape == (1, 2 * 4, 8, 8)
        assert [tensor.shape for tensor in graphs["fp16", "unet"].inputs] == [(1, 4, 8, 8), (1,), (1, 32, 1, 32)]
        folder = matrix / "coreml" / "fp16"
        assert (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()

    def test_temporary_packages_are_removed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Not before the last precision is made of them; coreml's own clean-up waits for the end of the process."""

        class Package:
            is_temp_package = True

            def __init__(self) -> None:
                self.package_path = tempfile.mkdtemp(dir=tmp_path / "temporary", suffix=".mlpackage")

            def save(self, path: str) -> None:
                assert Path(self.package_path).is_dir()
                Path(path).mkdir()

        def compressed(model: Package, kept: Mapping[str, str]) -> Package:
            assert Path(model.package_path).is_dir()
            return model if "int8" not in kept.values() else Package()

        for name, stand_in in (
            ("apple_example", lambda *_: (None, {})), ("_trace", lambda *_: None), ("_program", lambda *_: Package()),
            ("_compressed", compressed), ("read_specs", lambda _: ((), ())), ("_operations", lambda _: []),
        ):  # fmt: skip
            monkeypatch.setattr(to_coreml, name, stand_in)
        (tmp_path / "temporary").mkdir()
        component: Any = SimpleNamespace(name="unet", module=torch.nn.Linear(2, 2), guidance_batch=1)
        targets = [Target(uniform(name), tmp_path / f"{name}.mlpackage") for name in ("fp32", "fp16", "int8")]
        assert list(to_coreml.convert(component, targets)) == ["fp32", "fp16", "int8"]
        assert not list((tmp_path / "temporary").iterdir())

    def test_angles_are_computed_in_fp32(self) -> None:
        """An angle of up to 999 rad has steps of half a radian in fp16, which the parity of a random network does not show."""
        from coremltools.converters.mil import Builder

        @Builder.program(input_specs=[Builder.TensorSpec(shape=(2,))])
        def embedding(timestep: Any) -> Any:
            angle = Builder.mul(x=timestep, y=0.5)
            return Builder.add(x=Builder.sin(x=angle), y=Builder.cos(x=angle))

        every = [op for op in embedding.functions["main"].operations if op.op_type != "const"]
        assert {op.op_type for op in every if _must_be_wide(op, frozenset())} == {"mul", "sin", "cos"}
        assert "add" in {op.op_type for op in every}


def test_every_format_has_a_contract() -> None:
    assert {contract.format for contract in FormatContract.__subclasses__()} == set(TABLE) == set(FORMATS)

"""PyTorch => ONNX through torch.onnx's dynamo exporter, at opset 20: ONNX Runtime's CPU kernels know all of it.

The networks are traced once; the plans differ in how each layer's weights are stored, and compute is fp32 unless they say so:

- `fp16`: weights in fp16, each behind a Cast to fp32;
- `int8`: weights of layers in int8 with one scale per output channel, behind Cast and Mul; other large tensors in fp16;
- 8-bit activations: `onnxruntime.quantization` puts QuantizeLinear and DequantizeLinear around those layers, ranges from the
  model's own trajectories. Activations are unsigned: ONNX Runtime's kernels on x86 are made for that.

ONNX Runtime folds Cast and Mul of constants when it loads a graph, so the small files run at full speed. (DequantizeLinear
it does not fold, and fp16 arithmetic has no fast kernels on a CPU.) OpenVINO reads the same pattern as compressed weights.

Not here: palettes, which ONNX lacks; int8 takes their place.
"""

from __future__ import annotations

import ast
import gc
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genin.export.converters.formats import (
    FP16_MAX,
    TABLE,
    Target,
    Written,
    component_specs,
    count_operations,
    is_large,
    stored,
)
from genin.export.converters.quantise import quantise
from genin.export.converters.quiet import quiet
from genin.export.precision_plan import Storage, storable
from genin.runtimes.engine import cut

if TYPE_CHECKING:
    from genin.export.components import Component

OPSET = 20
# protobuf cannot hold 2 GB; beyond this the weights are beside the graph, in model.onnx_data.
SINGLE_FILE_BYTES = 1 << 30
EXTERNAL = "model.onnx_data"
LAYERS = ("Conv", "MatMul", "Gemm")
STORES = TABLE["onnx"].stores


def convert(component: Component, targets: Sequence[Target]) -> dict[str, Written]:
    """Write one ONNX file (and its external weights, if large) per target."""
    import torch

    with quiet():
        model = _trace(component)
    inputs, outputs = component_specs(component)
    written = {}
    for target in targets:
        plan, variant = target.plan, model.clone()
        storages = plan.storage_per_layer(component.name, component.module)
        eight = {layer for layer, storage in storages.items() if storage.activations == "int8"}
        nodes = {node.name: layer for node in variant.graph if (layer := _layer_of(node)) in eight}
        if nodes:  # a layer that computes on constants alone has none
            variant = _with_eight_bit_activations(variant, component, list(nodes), target.path.parent)
        _store(variant.graph, storages, plan.default)
        _save(variant, target.path)
        made_by, compute = f"torch.onnx {torch.__version__}", "fp32"
        if nodes:
            import onnxruntime

            computing = len(set(nodes.values()))
            made_by, compute = f"{made_by}, onnxruntime {onnxruntime.__version__}", f"int8 in {computing} layers, fp32"
        written[plan.name] = Written(
            target.path,
            inputs,
            outputs,
            made_by,
            stored=stored(storages, STORES),
            compute=compute,
            operations=count_operations(node.op_type for node in variant.graph),
            opset=OPSET,
        )
        _forget_weights(variant)
        gc.collect()
    _forget_weights(model)
    return written


def _trace(component: Component) -> Any:
    """The component as an onnx_ir model."""
    import torch

    batch, height, width = (torch.export.Dim(name) for name in ("batch", "height", "width"))
    step = component.size_step
    free = {
        "batch": batch,
        "height": step * height if step > 1 else height,
        "width": step * width if step > 1 else width,
    }
    shapes = tuple(
        {axis: free[called] for axis, called in component.free_axes(name).items()} for name in component.inputs
    )
    program = torch.onnx.export(
        component.module,
        tuple(component.example().values()),
        dynamo=True,
        opset_version=OPSET,
        input_names=list(component.inputs),
        output_names=list(component.outputs),
        dynamic_shapes=shapes,
        verbose=False,
    )
    assert program is not None
    _name_by_layer(program.model.graph)
    _strip(program.model)
    return program.model


def _name_by_layer(graph: Any) -> None:
    """Nodes and their weights get the path of the module they come from: "unet.conv_in/Conv", "unet.conv_in.weight"."""
    seen: Counter[str] = Counter()
    for node in graph:
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        layer = scopes[-2] if len(scopes) > 1 else ""
        if not layer:
            continue
        name = f"{layer}/{node.op_type}"
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}.{seen[name]}"
        if node.op_type in LAYERS and len(node.inputs) > 1:
            weight = node.inputs[1]
            if weight.is_initializer() and f"{layer}.weight" not in graph.initializers:
                weight.name = f"{layer}.weight"  # transposed weights have lost their names


def _strip(model: Any) -> None:
    """Remove the exporter's notes: a stack trace per node, with this machine's paths, a quarter of a small model's file."""
    for part in (model, model.graph, *model.graph, *model.graph.inputs, *model.graph.initializers.values()):
        part.metadata_props.clear()
        part.doc_string = None
    for node in model.graph:
        for value in node.outputs:
            value.metadata_props.clear()


def _forget_weights(model: Any) -> None:
    """PyTorch holds on to a part of the last graph that it exported, and through it to all the weights."""
    for value in model.graph.initializers.values():
        value.const_value = None


def _save(model: Any, path: Path) -> int:
    """=> bytes of its weights."""
    import onnx_ir as ir

    path.parent.mkdir(parents=True, exist_ok=True)
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    ir.save(model, path, external_data=EXTERNAL if size > SINGLE_FILE_BYTES else None)
    return int(size)


# --- how weights are stored ------------------------------------------------------------------------------------------


def _store(graph: Any, storages: Mapping[str, Storage], default: Storage) -> None:
    for value in _large(graph):
        storage = storages.get(value.name.removesuffix(".weight"), default)
        kind, axis = storable(storage.weights, STORES), _channel_axis(value)
        if kind == "int8" and axis is not None:
            _eight_bits(graph, value, axis)
        elif kind != "fp32":
            _half(graph, value)


def _large(graph: Any) -> list[Any]:
    """The fp32 tensors worth storing in fewer bits."""
    import onnx_ir as ir

    values = [v for v in graph.initializers.values() if v.dtype == ir.DataType.FLOAT]
    return [v for v in values if is_large(v.const_value.shape)]


def _channel_axis(value: Any) -> int | None:
    """The axis of the output channels if every user is a layer and they agree; None for anything but a weight."""
    axes = {_axis_in(use.node, use.idx, len(value.shape)) for use in value.uses()}
    return axes.pop() if len(axes) == 1 else None


def _axis_in(node: Any, position: int, rank: int) -> int | None:
    if node.op_type == "Gather" and position == 0 and rank == 2:
        return 0
    if position != 1 or rank < 2:
        return None
    if node.op_type == "Conv":
        return 0
    if node.op_type == "MatMul":
        return rank - 1
    if node.op_type == "Gemm":
        return 0 if "transB" in node.attributes and node.attributes["transB"].as_int() else 1
    return None


def _half(graph: Any, value: Any) -> None:
    weights = value.const_value.numpy()
    if float(np.abs(weights).max()) <= FP16_MAX:
        _replace(graph, value, weights.astype(np.float16))


def _eight_bits(graph: Any, value: Any, axis: int) -> None:
    quantised, scale = quantise(value.const_value.numpy(), axis)
    _replace(graph, value, quantised, scale)


def _replace(graph: Any, value: Any, stored: NDArray[Any], scale: NDArray[np.float32] | None = None) -> None:
    """Put `stored` in place of an initialiser, behind Cast to fp32 and, if there is a scale, Mul by it."""
    import onnx_ir as ir

    constant = partial(_constant, graph)
    nodes = [ir.node("Cast", [constant(f"{value.name}.stored", stored)], {"to": ir.DataType.FLOAT})]
    if scale is not None:
        nodes.append(ir.node("Mul", [nodes[0].outputs[0], constant(f"{value.name}.scale", scale)]))
    for node, suffix in zip(nodes, ("cast", "scaled"), strict=False):
        node.outputs[0].name = f"{value.name}.{suffix}"
        node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
    graph.insert_before(graph[0], nodes)
    value.replace_all_uses_with(nodes[-1].outputs[0])
    del graph.initializers[value.name]


def _constant(graph: Any, name: str, array: NDArray[Any]) -> Any:
    import onnx_ir as ir

    value = ir.val(name, const_value=ir.tensor(array, name=name))
    graph.register_initializer(value)
    return value


# --- 8-bit activations -----------------------------------------------------------------------------------------------


def _layer_of(node: Any) -> str | None:
    """The layer that a node computes, if it is of a kind that can have 8-bit activations."""
    layer: str = node.name.partition("/")[0]
    return layer if node.op_type in LAYERS else None


def _with_eight_bit_activations(model: Any, component: Component, nodes: Sequence[str], place: Path) -> Any:
    """The model with QuantizeLinear and DequantizeLinear around `nodes`, at least one: ONNX Runtime takes none for all. Weights are
    signed, with one scale per output channel. Temporary copies are in `place`.
    """
    import onnx_ir as ir
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".genin-", dir=place) as folder, quiet():
        plain, quantised = Path(folder) / "plain.onnx", Path(folder) / "quantised.onnx"
        size = _save(model, plain)
        quantize_static(
            plain,
            quantised,
            _Reader(component),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=list(LAYERS),
            nodes_to_quantize=list(nodes),
            use_external_data_format=size > SINGLE_FILE_BYTES,
        )
        found = ir.load(quantised)
        for value in found.graph.initializers.values():  # their files are removed with the folder
            assert value.const_value is not None
            value.const_value = ir.tensor(value.const_value.numpy().copy(), name=value.name)
    return found


class _Reader:
    """The component's calibration inputs in its batch, as onnxruntime's calibrators ask for them."""

    def __init__(self, component: Component) -> None:
        self._cases = (batch for case in component.calibration for batch in cut(case, component.shapes.batch))

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._cases, None)

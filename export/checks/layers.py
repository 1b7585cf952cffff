"""The layers at fault. For a graph below its floor, those at which it departs from PyTorch: the outputs of all layers are compared
in the order in which they run, and those where the agreement falls most are named. For a network that a format cannot express, the
modules that use the operation.

A layer is a convolution or a linear map, under its path in the component ("unet.down_blocks.0.resnets.0.conv1"). Converters keep
that path: as the name of an ONNX node, of an OpenVINO operation, of a Core ML weight. All outputs of one case are held
in memory at once, so this runs for a graph that has failed, not for every graph.

Not here: parity itself (`parity`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from genin.export.checks.parity import Case, psnr_db
from genin.export.components import Component
from genin.export.converters.quiet import quiet
from genin.runtimes.engine import in_batches
from genin.runtimes.threads import thread_limit

MARGIN_DB = 15.0
# "... function found for <OpOverload(op='prims.x'", "... for operations: aten::x", "Unsupported fx node x", "... for op 'x' ..."
COMPLAINT = re.compile(r"(?:op='|operations: |fx node |op ')([\w.:]+)")
Outputs = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class ParityDrop:
    """At `layer` the agreement falls to `psnr_db`, by `by_db` below the lowest before it."""

    layer: str
    psnr_db: float
    by_db: float

    def __str__(self) -> str:
        return f"{self.layer} ({self.psnr_db:.0f} dB)"


def worst_layers(
    format: str, component: Component, path: Path, case: Case, floor_db: float, *, count: int = 3
) -> list[ParityDrop]:
    """The layers at which a graph on disk loses most against PyTorch on one case, the worst first. Errors: those of its engine.

    A loss that stays above floor_db + MARGIN_DB is the cost of the precision, not a fault.
    """
    reference = torch_outputs(component, case)
    got = READERS[format](path, component, case, reference.keys())
    falls, lowest = [], floor_db + MARGIN_DB
    for layer, expected in reference.items():
        if layer not in got or got[layer].size != expected.size:
            continue  # converters may merge or split layers
        agreement = psnr_db(expected, got[layer].reshape(expected.shape))
        if agreement < lowest:
            falls.append(ParityDrop(layer, agreement, lowest - agreement))
            lowest = agreement
    return sorted(falls, key=lambda fall: -fall.by_db)[:count]


def modules_with(component: Component, message: str) -> tuple[str, list[str]] | None:
    """The operation named in a converter's message, and the modules that use it; None if it names none."""
    named = COMPLAINT.search(message)
    if named is None:
        return None
    operation = re.split(r"[.:]+", named[1])[-1]
    with quiet(), torch.no_grad():
        program = torch.export.export(component.module, tuple(component.example().values()))
    found: dict[str, None] = {}
    for node in program.graph.nodes:
        name = str(getattr(node.target, "_opname", ""))  # "special_bessel_j0", of which a decomposition is "bessel_j0"
        if node.op == "call_function" and (name == operation or name.endswith(f"_{operation}")):
            stack = node.meta.get("nn_module_stack") or {"": ("", None)}
            found[list(stack.values())[-1][0]] = None
    return operation, list(found)


def torch_outputs(component: Component, case: Case) -> Outputs:
    """Layer => its output, in the order in which layers run; of a layer that runs several times, the last."""
    found: Outputs = {}

    def keep(layer: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            found.pop(layer, None)
            found[layer] = output.numpy().copy()  # later operations may work in place

        return hook

    layers = [(name, m) for name, m in component.module.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    handles = [module.register_forward_hook(keep(name)) for name, module in layers]
    try:
        with torch.inference_mode():
            component.module(*(torch.from_numpy(case[name]) for name in component.inputs))
    finally:
        for handle in handles:
            handle.remove()
    return found


def _onnx_outputs(path: Path, component: Component, case: Case, layers: Iterable[str]) -> Outputs:
    import onnx
    import onnxruntime

    wanted = set(layers)
    model = onnx.load(path, load_external_data=False)
    last = {layer: node.output[0] for node in model.graph.node if (layer := node.name.rpartition("/")[0]) in wanted}
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in last.values())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = thread_limit() or 0  # 0: ONNX Runtime's own choice
    copy = path.with_name(".layers.onnx")  # external weights are beside the graph
    try:
        copy.write_bytes(model.SerializeToString())
        session = onnxruntime.InferenceSession(str(copy), options, providers=["CPUExecutionProvider"])
    finally:
        copy.unlink(missing_ok=True)

    def run(batch: Outputs) -> Outputs:
        return dict(zip(last, session.run(list(last.values()), batch), strict=True))

    return in_batches(run, {name: case[name] for name in component.inputs}, component.shapes.batch)


def _openvino_outputs(path: Path, component: Component, case: Case, layers: Iterable[str]) -> Outputs:
    from genin.runtimes.openvino_engine import core, exact_settings

    wanted = set(layers)
    model = core().read_model(str(path))
    last = {}
    for node in model.get_ordered_ops():
        layer = node.get_friendly_name().removeprefix("__module.").partition("/")[0]
        if layer in wanted:
            last[layer] = node.output(0)
    names = {}
    for layer, output in last.items():
        if not output.get_tensor().get_names():
            output.get_tensor().set_names({f"{layer}/output"})
        names[layer] = min(output.get_tensor().get_names())
    model.add_outputs(list(last.values()))
    compiled = core().compile_model(model, "CPU", exact_settings())
    results = compiled({name: case[name] for name in component.inputs})
    return {layer: np.array(results[name]) for layer, name in names.items()}


def _coreml_outputs(path: Path, component: Component, case: Case, layers: Iterable[str]) -> Outputs:
    from genin.export.checks.coreml_interpreter import Program
    from genin.runtimes.coreml_engine import Package

    names = {f"p_module_{layer.replace('.', '_')}_weight": layer for layer in layers}
    program = Program(path)
    kept = {
        layer: output
        for weight, output in program.layers.items()
        for name, layer in names.items()
        if weight == name or weight.startswith(f"{name}_")  # ..._to_fp16, ..._quantized
    }
    package = Package(program.keeping(list(kept.values())), program.shapes, program.dtypes)
    results = package.run(component.name, case, list(kept.values()))
    return {layer: results[output] for layer, output in kept.items()}


READERS: Mapping[str, Callable[[Path, Component, Case, Iterable[str]], Outputs]] = {
    "onnx": _onnx_outputs,
    "openvino": _openvino_outputs,
    "coreml": _coreml_outputs,
}

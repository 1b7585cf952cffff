"""PyTorch => OpenVINO IR, straight from the module, and CLIP's tokenizer as OpenVINO graphs.

The networks are traced once; the precisions differ in how weights are stored:

- `fp16`: large tensors in fp16 behind a Convert. Not `save_model(compress_to_fp16=True)`, which also rounds the
  frequencies of the timestep embedding to 11 bits: measured on one model, 61 dB with, 80 dB without, at timestep 999;
- `int8`: `nncf.compress_weights`, asymmetric, one scale an output channel; other large tensors in fp16.

In which precision the graph computes is the device's choice at load (`INFERENCE_PRECISION_HINT`); parity is measured in f32.

Not here: 8-bit activations.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genin.export.formats import FP16_MAX, STORED_SMALL_FROM, Written, component_specs
from genin.export.quiet import quiet

if TYPE_CHECKING:
    from genin.export.components import Component


def convert(component: Component, targets: Mapping[str, Path]) -> dict[str, Written]:
    """Write one IR (`.xml` and `.bin`) a precision; `targets` maps precision => path of the `.xml`."""
    import openvino as ov

    inputs, outputs = component_specs(component)
    written = {}
    with quiet():
        model = _trace(component)
        for precision, path in targets.items():
            variant = _store(model.clone(), precision)
            path.parent.mkdir(parents=True, exist_ok=True)
            ov.save_model(variant, path, compress_to_fp16=False)
            del variant
            gc.collect()
            name = _converter(precision)
            written[precision] = Written(path, inputs, outputs, name, stored=precision, compute="fp32")
    return written


def _converter(precision: str) -> str:
    import openvino as ov

    version = ov.__version__.partition("-")[0]
    if precision != "int8":
        return f"openvino {version}"
    import nncf

    return f"openvino {version}, nncf {nncf.__version__}"


def _trace(component: Component) -> Any:
    import openvino as ov
    import torch

    case = component.cases[0]
    shapes = [
        list(case[name].shape) if name == "timestep" else [-1, *case[name].shape[1:]] for name in component.inputs
    ]
    types = [ov.Type(case[name].dtype) for name in component.inputs]
    with torch.no_grad():
        model = ov.convert_model(
            component.module,
            example_input=tuple(component.example().values()),
            input=[(ov.PartialShape(shape), kind) for shape, kind in zip(shapes, types, strict=True)],
        )
    for ports, names in ((model.inputs, component.inputs), (model.outputs, component.outputs)):
        for port, name in zip(ports, names, strict=True):
            port.get_tensor().set_names({name})
    return model


def _store(model: Any, precision: str) -> Any:
    if precision == "int8":
        import nncf

        model = nncf.compress_weights(model)
    if precision != "fp32":
        _store_fp16(model)
    return model


def _store_fp16(model: Any) -> None:
    """Large fp32 constants become fp16 behind a Convert, which every device folds at load or decompresses as it runs."""
    import openvino.opset13 as ops
    from openvino import Type

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() != Type.f32:
            continue
        weights = node.data
        if weights.size >= STORED_SMALL_FROM and float(np.abs(weights).max()) <= FP16_MAX:
            users = list(node.output(0).get_target_inputs())
            wide = ops.convert(ops.constant(weights.astype(np.float16)), "f32")
            for user in users:
                user.replace_source_output(wide.output(0))


def convert_tokenizer(tokenizer_folder: Path) -> None:
    """Write `openvino_tokenizer` and `openvino_detokenizer` (.xml, .bin) beside a CLIP vocabulary."""
    import openvino as ov

    with quiet():
        from openvino_tokenizers import convert_tokenizer as to_graphs
        from transformers import CLIPTokenizerFast

        tokenizer = CLIPTokenizerFast.from_pretrained(tokenizer_folder)
        encode, decode = to_graphs(tokenizer, with_detokenizer=True, skip_special_tokens=True)
        for name, graph in (("openvino_tokenizer", encode), ("openvino_detokenizer", decode)):
            ov.save_model(graph, tokenizer_folder / f"{name}.xml")

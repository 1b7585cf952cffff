"""PyTorch => OpenVINO IR, straight from the module, and CLIP's tokenizer as OpenVINO graphs.

The networks are traced once; the plans differ in how each layer's weights are stored:

- `fp16`: large tensors in fp16 behind a Convert. Not `save_model(compress_to_fp16=True)`, which also rounds the
  frequencies of the timestep embedding to 11 bits: measured on one model, 61 dB with, 80 dB without, at timestep 999;
- `int8`: `nncf.compress_weights`, asymmetric, one scale per output channel; other large tensors in fp16;
- 8-bit activations: `nncf.quantize` for those layers, ranges from the model's own trajectories.

The batch is always free: a host may fix it when it loads a graph (`Model.reshape`), and compiling a fixed one crashes OpenVINO
2026.4 where a UNet pools its text.

In which precision the graph computes is the device's choice at load (`INFERENCE_PRECISION_HINT`); parity is measured in f32.

Not here: palettes, which OpenVINO lacks; int8 takes their place.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

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
from genin.export.converters.quiet import quiet
from genin.export.precision_plan import Storage, storable

if TYPE_CHECKING:
    from genin.export.components import Component


STORES = TABLE["openvino"].stores
NO_OPERATIONS = ("Parameter", "Constant", "Result")
WEIGHTED = ("Convolution", "MatMul", "Gather")


def convert(component: Component, targets: Sequence[Target]) -> dict[str, Written]:
    """Write one IR (`.xml` and `.bin`) per target, whose path is that of the `.xml`."""
    import openvino as ov

    component = replace(component, shapes=replace(component.shapes, batch=None))
    inputs, outputs = component_specs(component)
    written = {}
    with quiet():
        model = _trace(component)
        for target in targets:
            plan, made_by = target.plan, f"openvino {ov.__version__.partition('-')[0]}"
            storages = plan.storage_per_layer(component.name, component.module)
            enlarged = _enlarged(model)
            eight = {
                layer for layer, storage in storages.items() if storage.activations == "int8" and layer not in enlarged
            }
            kept = stored(storages, STORES)
            variant = _with_eight_bit_activations(model, component, eight) if eight else model.clone()
            if "int8" in kept:
                import nncf

                variant, made_by = _compressed(variant, storages, eight), f"{made_by}, nncf {nncf.__version__}"
            _store_fp16(variant, storages, plan.default)
            target.path.parent.mkdir(parents=True, exist_ok=True)
            ov.save_model(variant, target.path, compress_to_fp16=False)
            kinds = count_operations((node.get_type_name() for node in variant.get_ops()), NO_OPERATIONS)
            del variant
            gc.collect()
            compute = f"int8 in {len(eight)} layers, fp32" if eight else "fp32"
            written[plan.name] = Written(
                target.path, inputs, outputs, made_by, stored=kept, compute=compute, operations=kinds
            )
    return written


def _trace(component: Component) -> Any:
    import openvino as ov
    import torch

    specs, _ = component_specs(component)
    shapes = [[size if isinstance(size, int) else -1 for size in spec.shape] for spec in specs]
    types = [ov.Type(np.dtype(spec.dtype)) for spec in specs]
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


def _layer(node: Any) -> str:
    """The module that an operation comes from: "__module.unet.conv_in/aten::_convolution/Convolution" => "unet.conv_in"."""
    return str(node.get_friendly_name()).removeprefix("__module.").partition("/")[0]


def _compressed(model: Any, storages: Mapping[str, Storage], done: set[str]) -> Any:
    """Weights in int8 where the plan says so, except layers that are `done`."""
    import nncf

    wanted = {layer for layer, storage in storages.items() if storable(storage.weights, STORES) == "int8"} - done
    others = [
        node.get_friendly_name()
        for node in model.get_ordered_ops()
        if node.get_type_name() in WEIGHTED and _layer(node) not in wanted
    ]
    return nncf.compress_weights(model, ignored_scope=nncf.IgnoredScope(names=others, validate=False))


def _enlarged(model: Any) -> set[str]:
    """Layers that read an upsampled map. OpenVINO 2026.4 computes them wrongly in 8 bits: 18 dB at such a layer, 40 at those before
    it (docs/log.md)."""
    return {
        _layer(user.get_node())
        for node in model.get_ordered_ops()
        if node.get_type_name() == "Interpolate"
        for user in node.output(0).get_target_inputs()
    }


def _with_eight_bit_activations(model: Any, component: Component, layers: set[str]) -> Any:
    import nncf

    others = [
        node.get_friendly_name()
        for node in model.get_ordered_ops()
        if node.get_type_name() not in NO_OPERATIONS and _layer(node) not in layers
    ]
    return nncf.quantize(
        model.clone(),
        nncf.Dataset(component.calibration),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(component.calibration),
        fast_bias_correction=True,
        ignored_scope=nncf.IgnoredScope(names=others, validate=False),
    )


def _store_fp16(model: Any, storages: Mapping[str, Storage], default: Storage) -> None:
    """Large fp32 constants become fp16 behind a Convert, which every device folds at load or decompresses at run time, except those
    that the plan keeps in fp32."""
    import openvino.opset13 as ops
    from openvino import Type

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() != Type.f32:
            continue
        users = list(node.output(0).get_target_inputs())
        if all(storages.get(_layer(user.get_node()), default).weights == "fp32" for user in users):
            continue
        weights = node.data
        if is_large(weights.shape) and float(np.abs(weights).max()) <= FP16_MAX:
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
        end_added_tokens(encode)
        for name, graph in (("openvino_tokenizer", encode), ("openvino_detokenizer", decode)):
            ov.save_model(graph, tokenizer_folder / f"{name}.xml")


def end_added_tokens(tokenizer: Any) -> None:
    """Let a compiled tokenizer take an added token with the end of a word behind it. openvino_tokenizers 2026.4 puts `</w>` behind
    every piece of text, an added token too, and then spells it: `<`, `/`, `w`, `>` follow each token of a textual inversion."""
    import openvino.opset13 as ops

    for node in tokenizer.get_ordered_ops():
        if node.get_type_name() != "BPETokenizer" or not (suffix := node.get_attributes().get("end_suffix")):
            continue
        # The text in 5 inputs, vocabulary and merges in 6 or 9; then names of added tokens (begins, ends, bytes), and their ids.
        count = node.get_input_size()
        names = [node.input_value(place).get_node() for place in range(count - 4, count - 1)]
        if count not in (15, 18) or any(name.get_type_name() != "Constant" for name in names):
            continue
        begins, ends, content = (name.data for name in names)
        longer = [bytes(content[begin:end]) + suffix.encode() for begin, end in zip(begins, ends, strict=True)]
        stops = np.cumsum([len(name) for name in longer], dtype=np.int32)
        starts = np.concatenate([[0], stops[:-1]]).astype(np.int32)
        for place, value in enumerate((starts, stops, np.frombuffer(b"".join(longer), np.uint8))):
            node.input(count - 4 + place).replace_source_output(ops.constant(value).output(0))

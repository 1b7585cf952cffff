"""PyTorch => Core ML programs with the interface of Apple's Swift package for Stable Diffusion.

That package's names, shapes and types, all float32, with a fixed batch:

- TextEncoder: `input_ids` (1, length) => `last_hidden_state` (1, length, hidden), `pooled_outputs`;
- Unet: `sample` (b, C, H, W), `timestep` (b), `encoder_hidden_states` (b, hidden, 1, length) => `noise_pred`;
- VAEDecoder: `z` (1, C, h, w), latents / scaling_factor => `image` (1, 3, H, W) in [−1, 1];
- VAEEncoder: `z` (1, 3, H, W) in [−1, 1] => `latent` (1, 2·C, h, w): mean and log variance. The package draws from that
  distribution; the log variance is always −30, so that it gets the mean.

b is 2 for classifier-free guidance, as that package expects, and 1 for a student whose guidance is baked in. Target: iOS 17 and
macOS 14. `fp16` and `int8` compute in fp16 except norms, whose squares overflow, and the timestep embedding, whose angles reach 999
radians; `int8` stores weights with one scale per output channel, `palette6` and `palette4` as indices into a table of 64 or 16
values per tensor (k-means).

Not here: compiling to `.mlmodelc` and running, which need a Mac (see docs/export.md), and 8-bit activations, whose calibration
does, too: layers for which a plan has them store their weights in int8 and compute in fp16.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from genin.export.converters.formats import Target, Written, count_operations, stored
from genin.export.converters.quiet import quiet
from genin.export.precision_plan import BITS, PALETTES, WEIGHTS, layers_of
from genin.runtimes.manifest import TensorSpec
from genin.runtimes.tensors import APPLE_OUTPUTS
from genin.runtimes.vocabulary import VAE_ENCODER

if TYPE_CHECKING:
    from genin.export.components import Component

LOWEST_LOG_VARIANCE = -30.0  # below it, that package cuts off
COMPRESSED_FROM = 2048  # elements; coremltools' own default
# In fp16 a square overflows from 256 on.
WIDE_OPS = ("layer_norm", "instance_norm", "reduce_mean", "square", "sub", "sqrt", "rsqrt", "sin", "cos")


class AppleTextEncoder(nn.Module):
    """`TextEncoder` on float tokens: Core ML's arrays in Apple's package are all float32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, input_ids: Tensor) -> Any:
        return self.module(input_ids.to(torch.int32))


class AppleUnet(nn.Module):
    """`Unet` with text as (batch, hidden, 1, length)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Any:
        return self.module(sample, timestep, encoder_hidden_states.squeeze(2).transpose(1, 2))


class AppleDecoder(nn.Module):
    """`VaeDecoder` with Apple's name for its input."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, z: Tensor) -> Any:
        return self.module(z)


class AppleEncoder(nn.Module):
    """`VaeEncoder` as a distribution of hardly any variance."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, z: Tensor) -> Any:
        mean = self.module(z)
        return torch.cat([mean, torch.full_like(mean, LOWEST_LOG_VARIANCE)], dim=1)


def apple_example(component: Component, batch: int) -> tuple[nn.Module, dict[str, Tensor]]:
    """The component behind Apple's interface, and inputs of the shapes it will have."""
    case = {name: torch.from_numpy(component.cases[0][name]) for name in component.inputs}
    if component.name == "text_encoder":
        return AppleTextEncoder(component.module), {"input_ids": case["input_ids"][:1].float()}
    if component.name == "vae_decoder":
        return AppleDecoder(component.module), {"z": case["latent_sample"][:1]}
    if component.name == VAE_ENCODER:
        return AppleEncoder(component.module), {"z": case["sample"][:1]}
    text = case["encoder_hidden_states"][:batch].transpose(1, 2).unsqueeze(2).contiguous()
    timestep = case["timestep"].float().expand(batch).contiguous()
    inputs = {"sample": case["sample"][:batch], "timestep": timestep, "encoder_hidden_states": text}
    return AppleUnet(component.module), inputs


def convert(component: Component, targets: Sequence[Target]) -> dict[str, Written]:
    """Write one `.mlpackage` per target. Plans that differ only in how weights are compressed share a program in fp16."""
    with quiet():
        import coremltools

        module, inputs = apple_example(component, component.guidance_batch)
        program = _trace(module, inputs)
        layers = {_weight_name(layer): layer for layer in layers_of(component.module)}
        written = {}
        made, wide = None, frozenset[str]()
        for target in targets:
            plan = target.plan
            storages = plan.storage_per_layer(component.name, component.module)
            kept = {name: storages[layer].weights for name, layer in layers.items()}
            asked = frozenset(name for name, storage in kept.items() if storage == "fp32")
            everything = len(asked) == len(kept)
            if made is None or asked != wide:
                _forget(made)  # the old one is freed first
                made, wide = None, asked
                gc.collect()
                made = _program(program, component.name, inputs, None if everything else wide)
            model = _compressed(made, kept)
            target.path.parent.mkdir(parents=True, exist_ok=True)
            model.save(str(target.path))
            (target.path / "executorch_debug_handle_mapping.json").unlink(missing_ok=True)
            specs, made_by = read_specs(target.path), f"coremltools {coremltools.__version__}"
            kinds = count_operations(_operations(target.path), ("const",))
            compute = "fp32" if everything else "fp16, norms fp32"
            written[plan.name] = Written(
                target.path, *specs, made_by, stored=stored(storages, WEIGHTS), compute=compute, operations=kinds
            )
            if model is not made:
                _forget(model)
            del model
            gc.collect()
        _forget(made)
    return written


def _forget(model: Any) -> None:
    """Remove a model's temporary package, which coremltools keeps until the process ends."""
    if model is not None and model.is_temp_package:
        shutil.rmtree(model.package_path, ignore_errors=True)


def _trace(module: nn.Module, inputs: Mapping[str, Tensor]) -> Any:
    with torch.no_grad():
        program = torch.export.export(module.eval(), tuple(inputs.values())).run_decompositions({})
    graph = program.graph_module.graph
    for node in list(graph.nodes):  # coremltools 9 does not know this no-op of torch 2.13 and later
        if node.op == "call_function" and node.target is torch.ops.aten.alias.default:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    program.graph_module.recompile()
    return program


def _program(program: Any, component: str, inputs: Mapping[str, Tensor], wide: frozenset[str] | None) -> Any:
    """In fp16 except norms, the timestep embedding and the layers whose weights are named in `wide`; all in fp32 if `wide` is
    None."""
    import coremltools as ct
    import numpy as np

    half = ct.transform.FP16ComputePrecision(op_selector=lambda op: not _must_be_wide(op, wide or frozenset()))
    return ct.convert(
        program,
        inputs=[ct.TensorType(name=name, shape=tuple(x.shape), dtype=np.float32) for name, x in inputs.items()],
        outputs=[ct.TensorType(name=name, dtype=np.float32) for name in APPLE_OUTPUTS[component]],
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS17,
        compute_precision=ct.precision.FLOAT32 if wide is None else half,
        skip_model_load=True,
    )


def _must_be_wide(op: Any, wide: frozenset[str]) -> bool:
    """Norms, the timestep embedding (an op that feeds an angle to sin or cos) and the layers that the plan keeps in fp32."""
    if op.op_type in WIDE_OPS:
        return True
    weight = getattr(op, {"conv": "weight", "linear": "weight", "gather": "x"}.get(op.op_type, ""), None)
    if weight is not None and weight.name in wide:
        return True
    return any(child.op_type in ("sin", "cos") for output in op.outputs for child in output.child_ops)


def _weight_name(layer: str) -> str:
    """What torch.export calls a layer's weight behind `module`, and Core ML after it."""
    return f"p_module_{layer.replace('.', '_')}_weight"


def _compressed(model: Any, storages: Mapping[str, str]) -> Any:
    """Weights by name (without what coremltools adds: "_to_fp16") in int8 and palettes, scales and tables in the widest type
    allowed.

    An int8 weight has one scale per output channel, a palette is one per tensor.
    """
    import coremltools.optimize.coreml as cto

    eight, palettes = {}, {}
    for name, storage in storages.items():
        for known in (name, f"{name}_to_fp16"):
            if storage == "int8":
                eight[known] = cto.OpLinearQuantizerConfig(
                    mode="linear_symmetric", dtype="int8", granularity="per_channel", weight_threshold=COMPRESSED_FROM
                )
            elif storage in PALETTES:
                palettes[known] = cto.OpPalettizerConfig(
                    mode="kmeans", nbits=BITS[storage], granularity="per_tensor", weight_threshold=COMPRESSED_FROM
                )
    if eight:
        model = cto.linear_quantize_weights(model, cto.OptimizationConfig(op_name_configs=eight))
    if palettes:
        eight_bits, model = model, cto.palettize_weights(model, cto.OptimizationConfig(op_name_configs=palettes))
        if eight:
            _forget(eight_bits)
    return model


def _operations(path: Path) -> list[str]:
    """The kinds of operations of a saved program, one after another."""
    import coremltools as ct

    program = ct.utils.load_spec(str(path)).mlProgram
    blocks = [block for function in program.functions.values() for block in function.block_specializations.values()]
    return [operation.type for block in blocks for operation in block.operations]


def read_specs(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs that a saved `.mlpackage` declares."""
    import coremltools as ct

    description = ct.utils.load_spec(str(path)).description
    inputs, outputs = (
        tuple(TensorSpec(item.name, tuple(item.type.multiArrayType.shape), "float32") for item in items)
        for items in (description.input, description.output)
    )
    return inputs, outputs

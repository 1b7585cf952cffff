"""Runs a saved Core ML program with PyTorch, on any system: parity for a format that only a Mac executes.

The `.mlpackage` is read back through coremltools' own reader into its operations, and each of them is computed here by its
definition (coremltools' MIL ops, iOS 17). An operation that the program holds in fp16 is computed in fp32 and its result rounded to
fp16, so that what an fp16 program cannot hold (a square above 65,504) shows as the infinity it will be. This checks the graph and
its weights as stored on disk, not Apple's kernels, whose sums may run in another order or precision.

Not here: control flow, states, and every operation that genin's own exports have not needed: `UnknownOperationError`.
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from genin.export.converters.quiet import quiet
from genin.export.errors import UnknownOperationError
from genin.runtimes.errors import BundleError

TYPES = {
    "fp16": torch.float16,
    "fp32": torch.float32,
    **{name: getattr(torch, name) for name in ("bool", "int8", "uint8", "int16", "uint16", "int32")},
}


class Program:
    """One `.mlpackage`, read whole. Errors: BundleError if it cannot be read, UnknownOperationError."""

    def __init__(self, path: Path) -> None:
        function = _read(path)
        self.shapes = {name: tuple(int(size) for size in var.shape) for name, var in function.inputs.items()}
        self.dtypes = dict.fromkeys(self.shapes, np.dtype(np.float32))  # Apple's arrays are all float32
        self.outputs = tuple(var.name for var in function.outputs)
        self._steps = [op for op in function.operations if op.op_type != "const"]
        unknown = sorted({op.op_type for op in self._steps if op.op_type not in OPERATIONS and not _is_weight(op)})
        if unknown:
            raise UnknownOperationError(f"operations {', '.join(unknown)} are not known to genin's Core ML interpreter")
        self._weights: dict[str, Tensor] = {}
        for op in self._steps:
            for var in _vars(op):
                if var.op is not None and (var.op.op_type == "const" or _is_weight(var.op)):
                    self._weights.setdefault(var.name, _constant(var))
        self._steps = [op for op in self._steps if not _is_weight(op)]
        # A layer's weight => its output.
        self.layers = {op.weight.name: op.outputs[0].name for op in self._steps if op.op_type in ("conv", "linear")}
        last = {var.name: i for i, op in enumerate(self._steps) for var in _vars(op)}
        self._done_with: dict[int, list[str]] = {}
        for name, i in last.items():
            if name not in self._weights:
                self._done_with.setdefault(i, []).append(name)

    @torch.inference_mode()
    def predict(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Arrays by input name, of the declared shapes => every output, float32; as `coremltools.models.MLModel.predict`."""
        values: dict[str, Any] = {name: torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in self.shapes}
        for i, op in enumerate(self._steps):
            given = {key: self._given(value, values) for key, value in op.inputs.items() if value is not None}
            results = OPERATIONS[op.op_type](**given)
            for var, result in zip(op.outputs, results if isinstance(results, tuple) else (results,), strict=True):
                values[var.name] = _as_declared(var, result)
            for name in self._done_with.get(i, ()):
                if name not in self.outputs:
                    values.pop(name, None)
        return {name: values[name].float().numpy() for name in self.outputs}

    def keeping(self, outputs: Sequence[str]) -> Program:
        """The same program with other values as its outputs: any results of operations."""
        other = copy.copy(self)
        other.outputs = tuple(outputs)
        return other

    def _given(self, value: Any, values: Mapping[str, Any]) -> Any:
        """An operation's inputs: activations and weights as tensors (fp16 widened), settings as Python values."""
        if isinstance(value, (list, tuple)):
            return [self._given(item, values) for item in value]
        if value.name in values:
            return _wide(values[value.name])
        if value.val is not None and (isinstance(value.val, (str, bool)) or np.ndim(value.val) < 1):
            return value.val.item() if isinstance(value.val, np.generic) else value.val
        return _wide(self._weights[value.name])


def _read(path: Path) -> Any:
    import coremltools
    from coremltools.converters.mil.frontend.milproto.load import load

    try:
        # coremltools reports on stderr that its macOS library is absent, at every import of a model.
        with quiet(), contextlib.redirect_stderr(io.StringIO()):
            model = coremltools.models.MLModel(str(path), skip_model_load=True)
            spec = model.get_spec()
            program = load(spec, specification_version=spec.specificationVersion, file_weights_dir=model.weights_dir)
    except (OSError, RuntimeError, ValueError, KeyError, AttributeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:160]
        raise BundleError(f"Core ML cannot read the graph ({reason})", where=path, remedy="export it again") from error
    return program.functions["main"]


def _vars(op: Any) -> list[Any]:
    """The variables that an operation reads."""
    flat: list[Any] = []
    for value in op.inputs.values():
        flat += value if isinstance(value, (list, tuple)) else [value] if value is not None else []
    return flat


def _is_weight(op: Any) -> bool:
    """Compressed weights are separate operations, on constants alone."""
    return bool(op.op_type.startswith("constexpr_"))


def _constant(var: Any) -> Any:
    value = var.op.materialized_val_inference() if _is_weight(var.op) else var.val
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.float16 else value


def _as_declared(var: Any, result: Tensor) -> Tensor:
    from coremltools.converters.mil.mil import types

    kind = TYPES.get(types.builtin_to_string(var.dtype))
    return result if kind is None else result.to(kind)


# --- the operations, by their names and arguments in MIL -------------------------------------------------------------


def _ints(value: Any) -> list[int]:
    return [int(item) for item in (value.tolist() if isinstance(value, Tensor) else value)]


def _cast(x: Tensor, dtype: str) -> Tensor:
    return x.to(TYPES[dtype])


def _reshape(x: Tensor, shape: Any) -> Tensor:
    return x.reshape(_ints(shape))


def _expand_dims(x: Tensor, axes: Any) -> Tensor:
    for axis in sorted(a if a >= 0 else a + x.ndim + len(_ints(axes)) for a in _ints(axes)):
        x = x.unsqueeze(axis)
    return x


def _squeeze(x: Tensor, axes: Any = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(_ints(axes)))


def _transpose(x: Tensor, perm: Any) -> Tensor:
    return x.permute(_ints(perm))


def _concat(values: list[Tensor], axis: int, interleave: bool = False) -> Tensor:
    if interleave:
        raise UnknownOperationError("concat with interleave")
    return torch.cat(values, dim=axis)


def _split(x: Tensor, axis: int, num_splits: int | None = None, split_sizes: Any = None) -> tuple[Tensor, ...]:
    if split_sizes is not None:
        return torch.split(x, _ints(split_sizes), dim=axis)
    assert num_splits is not None
    return tuple(x.chunk(num_splits, dim=axis))


def _slice_by_index(x: Tensor, begin: Any, end: Any, stride: Any = None, **masks: Any) -> Tensor:
    """`masks`: begin_mask, end_mask, squeeze_mask, one flag per axis."""
    rank = x.ndim
    begins, ends = _ints(begin), _ints(end)
    strides = [1] * rank if stride is None else _ints(stride)
    flags = {name: [bool(flag) for flag in mask] for name, mask in masks.items() if mask is not None}
    from_start, to_end, squeezed = (
        flags.pop(name, [False] * rank) for name in ("begin_mask", "end_mask", "squeeze_mask")
    )
    if flags:
        raise UnknownOperationError(f"slice_by_index with {', '.join(flags)}")
    if min(strides) < 1:
        raise UnknownOperationError("slice_by_index with a negative stride")
    where: list[Any] = []
    for axis in range(rank):
        if squeezed[axis]:
            where.append(0 if from_start[axis] else begins[axis])
        else:
            where.append(
                slice(None if from_start[axis] else begins[axis], None if to_end[axis] else ends[axis], strides[axis])
            )
    return x[tuple(where)]


def _gather(x: Tensor, indices: Any, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    if batch_dims:
        raise UnknownOperationError("gather with batch_dims")
    index, axis = torch.as_tensor(indices).long(), axis % x.ndim
    flat = x.index_select(axis, index.reshape(-1))
    return flat.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _gather_nd(x: Tensor, indices: Tensor, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    if batch_dims:
        raise UnknownOperationError("gather_nd with batch_dims")
    if int(indices.long().min()) < 0:
        raise UnknownOperationError("gather_nd of negative indices, which is not defined")
    return x[tuple(indices.long().unbind(-1))]


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight, bias)


def _matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    return (x.mT if transpose_x else x) @ (y.mT if transpose_y else y)


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, **shape: Any) -> Tensor:
    """`shape`: strides, pad_type, pad, dilations, groups."""
    pad_type, pad = shape.pop("pad_type", "valid"), shape.pop("pad", (0, 0, 0, 0))
    strides, dilations, groups = shape.pop("strides", (1, 1)), shape.pop("dilations", (1, 1)), shape.pop("groups", 1)
    if shape:
        raise UnknownOperationError(f"conv with {', '.join(shape)}")
    if pad_type not in ("valid", "custom") or x.ndim != 4:
        raise UnknownOperationError(f"conv of rank {x.ndim - 2} with pad_type {pad_type}")
    if pad_type == "custom":
        top, bottom, left, right = _ints(pad)
        x = F.pad(x, (left, right, top, bottom))
    return F.conv2d(x, weight, bias, _ints(strides), 0, _ints(dilations), groups)


def _pad(x: Tensor, pad: Any, mode: str = "constant", constant_val: float = 0.0) -> Tensor:
    """`pad`: (before, after) of the last axes in their order; PyTorch wants the last axis first."""
    if mode != "constant":
        raise UnknownOperationError(f"pad with mode {mode}")
    pairs = [_ints(pad)[i : i + 2] for i in range(0, len(_ints(pad)), 2)]
    return F.pad(x, [size for pair in reversed(pairs) for size in pair], value=constant_val)


def _batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    return F.batch_norm(x, mean, variance, gamma, beta, training=False, eps=epsilon)


def _layer_norm(
    x: Tensor, axes: Any = None, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5
) -> Tensor:
    over = [axis % x.ndim for axis in (range(x.ndim) if axes is None else _ints(axes))]
    variance, mean = torch.var_mean(x, dim=over, correction=0, keepdim=True)
    x = (x - mean) / (variance + epsilon).sqrt()
    shape = [size if axis in over else 1 for axis, size in enumerate(x.shape)]
    x = x if gamma is None else x * gamma.reshape(shape)
    return x if beta is None else x + beta.reshape(shape)


def _gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate="none" if mode == "EXACT" else "tanh")


def _upsample(x: Tensor, scale_factor_height: float = 1, scale_factor_width: float = 1) -> Tensor:
    return F.interpolate(x, scale_factor=(float(scale_factor_height), float(scale_factor_width)), mode="nearest")


def _reduce_mean(x: Tensor, axes: Any = None, keep_dims: bool = False) -> Tensor:
    return x.mean(dim=None if axes is None else _ints(axes), keepdim=bool(keep_dims))


def _reduce_argmax(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    # The first of several equal maxima; MIL leaves open which. (CLIP needs the first end of text.)
    return (x if x.is_floating_point() else x.to(torch.int64)).argmax(dim=axis, keepdim=bool(keep_dims))


def _binary(function: Callable[[Any, Any], Tensor]) -> Callable[..., Tensor]:
    def operation(x: Any, y: Any) -> Tensor:
        return function(torch.as_tensor(x), y)

    return operation


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def operation(x: Tensor) -> Tensor:
        return function(x)

    return operation


OPERATIONS: Mapping[str, Callable[..., Any]] = {
    "add": _binary(torch.add),
    "batch_norm": _batch_norm,
    "cast": _cast,
    "concat": _concat,
    "conv": _conv,
    "cos": _unary(torch.cos),
    "equal": _binary(torch.eq),
    "expand_dims": _expand_dims,
    "fill_like": lambda ref_tensor, value=0.0: torch.full_like(ref_tensor, value),
    "gather": _gather,
    "gather_nd": _gather_nd,
    "gelu": _gelu,
    "greater_equal": _binary(torch.ge),
    "identity": lambda x: x,
    "layer_norm": _layer_norm,
    "linear": _linear,
    "matmul": _matmul,
    "mul": _binary(torch.mul),
    "pad": _pad,
    "real_div": _binary(torch.div),
    "reduce_argmax": _reduce_argmax,
    "reduce_mean": _reduce_mean,
    "relu": _unary(torch.relu),
    "reshape": _reshape,
    "rsqrt": lambda x, epsilon=1e-12: torch.rsqrt(x + epsilon),
    "select": lambda cond, a, b: torch.where(cond, a, b),
    "sigmoid": _unary(torch.sigmoid),
    "silu": _unary(F.silu),
    "sin": _unary(torch.sin),
    "slice_by_index": _slice_by_index,
    "softmax": lambda x, axis=-1: torch.softmax(x, dim=axis),
    "split": _split,
    "sqrt": _unary(torch.sqrt),
    "square": _unary(torch.square),
    "squeeze": _squeeze,
    "stack": lambda values, axis: torch.stack(values, dim=axis),
    "sub": _binary(torch.sub),
    "tanh": _unary(torch.tanh),
    "transpose": _transpose,
    "upsample_nearest_neighbor": _upsample,
}

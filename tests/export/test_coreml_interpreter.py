"""Core ML programs without a Mac: genin's interpreter gives what coremltools says that each operation gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genin.export.checks import parity


def saved_program(path: Path, body: Any, *, wide: bool = False) -> Path:
    """A `.mlpackage` of one input x (2, 3) and one output, with `body` of coremltools' builder between."""
    import coremltools as ct
    from coremltools.converters.mil import Builder

    program = Builder.program(input_specs=[Builder.TensorSpec(shape=(2, 3))], opset_version=ct.target.iOS17)(body)
    precision = ct.precision.FLOAT32 if wide else ct.precision.FLOAT16
    model = ct.convert(
        program, compute_precision=precision, minimum_deployment_target=ct.target.iOS17, skip_model_load=True
    )
    model.save(str(path))
    return path


def test_a_program_in_fp16_overflows_as_it_will(tmp_path: Path) -> None:
    from coremltools.converters.mil import Builder

    from genin.export.checks.coreml_interpreter import Program

    def body(x: Any) -> Any:
        return Builder.sqrt(x=Builder.square(x=x))

    given = {"x": np.array([[-1.5, 2, 100], [255, 256, 3000]], np.float32)}
    exact = Program(saved_program(tmp_path / "wide.mlpackage", body, wide=True)).predict(given)
    half = Program(saved_program(tmp_path / "half.mlpackage", body)).predict(given)
    assert np.allclose(next(iter(exact.values())), np.abs(given["x"]))
    [result] = half.values()
    assert np.isinf(result[1, 1:]).all() and np.allclose(result[0], np.abs(given["x"][0]), rtol=1e-3)


VALUES = np.random.default_rng(5).normal(size=(2, 3, 4)).astype(np.float32)


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("reduce_argmax", {"x": VALUES, "axis": 1, "keep_dims": False}),
        ("reduce_mean", {"x": VALUES, "axes": [-1, 0], "keep_dims": True}),
        ("reduce_mean", {"x": VALUES, "keep_dims": False}),
        ("gather", {"x": VALUES, "indices": np.array([1, 0, 2], np.int32), "axis": -1}),
        ("gather", {"x": VALUES, "indices": np.array([[1, 0]], np.int32), "axis": 0}),
        ("layer_norm", {"x": VALUES, "axes": [1], "gamma": VALUES[0, :, 0], "beta": VALUES[1, :, 0], "epsilon": 1e-3}),
        ("layer_norm", {"x": VALUES, "axes": [-2, -1], "gamma": VALUES[0], "beta": VALUES[1], "epsilon": 1e-3}),
        ("softmax", {"x": VALUES, "axis": 1}),
        ("transpose", {"x": VALUES, "perm": [2, 0, 1]}),
        ("expand_dims", {"x": VALUES, "axes": [0, -1]}),
        ("squeeze", {"x": VALUES[:1], "axes": [0]}),
        ("reshape", {"x": VALUES, "shape": [4, -1]}),
        ("concat", {"values": (VALUES, VALUES * 2), "axis": -1}),
        ("stack", {"values": (VALUES, VALUES * 2), "axis": 1}),
        ("matmul", {"x": VALUES, "y": VALUES, "transpose_x": False, "transpose_y": True}),
        ("linear", {"x": VALUES, "weight": VALUES[0], "bias": VALUES[1, :, 0]}),
        ("gelu", {"x": VALUES, "mode": "EXACT"}),
        ("gelu", {"x": VALUES, "mode": "TANH_APPROXIMATION"}),
        ("rsqrt", {"x": np.abs(VALUES), "epsilon": 1e-2}),
        ("real_div", {"x": VALUES, "y": VALUES[:1] + 5}),
        ("split", {"x": VALUES, "axis": -1, "num_splits": 2}),
        ("split", {"x": VALUES, "axis": -1, "split_sizes": [1, 3]}),
        ("slice_by_index", {"x": VALUES, "begin": [1, 0, 1], "end": [2, 2, 4], "stride": [1, 1, 2]}),
        (
            "slice_by_index",
            {
                "x": VALUES,
                "begin": [1, 1, 0],
                "end": [0, 2, 0],
                "stride": [1, 1, 1],
                "begin_mask": [True, False, True],
                "end_mask": [False, False, True],
                "squeeze_mask": [True, False, False],
            },
        ),
        ("pad", {"x": VALUES, "pad": [1, 0, 0, 2], "mode": "constant", "constant_val": 0.5}),
        ("select", {"cond": VALUES > 0, "a": VALUES, "b": VALUES * 3}),
    ],
)
def test_operations_give_what_coremltools_says_they_give(operation: str, arguments: dict[str, Any]) -> None:
    """Against its own inference of values, which folds constants; what it does not infer is tested by the graphs' parity."""
    import torch
    from coremltools.converters.mil import Builder

    from genin.export.checks.coreml_interpreter import OPERATIONS

    expected: list[Any] = []

    @Builder.program(input_specs=[Builder.TensorSpec(shape=(1,))])  # type: ignore[untyped-decorator]
    def program(x: Any) -> Any:
        found = getattr(Builder, operation)(**arguments)
        expected.extend(var.val for var in (found if isinstance(found, (list, tuple)) else [found]))
        return Builder.identity(x=x)

    def tensors(value: Any) -> Any:
        if isinstance(value, tuple):
            return [torch.from_numpy(item) for item in value]
        return torch.from_numpy(value) if isinstance(value, np.ndarray) else value

    got = OPERATIONS[operation](**{name: tensors(value) for name, value in arguments.items()})
    for ours, theirs in zip(got if isinstance(got, tuple) else (got,), expected, strict=True):
        assert theirs is not None, "coremltools infers no value: no test"
        assert tuple(ours.shape) == np.shape(theirs)
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-6)


def test_a_program_with_an_unknown_operation_is_named(tmp_path: Path) -> None:
    from coremltools.converters.mil import Builder

    from genin.export.checks.coreml_interpreter import Program

    path = saved_program(tmp_path / "odd.mlpackage", lambda x: Builder.erf(x=x))
    with pytest.raises(parity.UnknownOperationError, match="erf"):
        Program(path)

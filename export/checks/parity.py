"""Does a graph compute what PyTorch computes? Measured on the golden cases, at export and again wherever a bundle is used.

PSNR's peak is the reference's own max − min, so a figure means the same for latents and pictures. A graph's figure is that of its
worst output in its worst case. The floors are what each way of storing weights can reach; below its floor a graph is refused and no
bundle appears. Graphs of 8-bit activations or palettes are judged end to end (`pictures`).

Works without PyTorch: the references come from `golden/COMPONENT.npz`, arrays named CASE.TENSOR. Only Core ML programs on other
systems than macOS need it: they run through `coreml_interpreter`.
"""

from __future__ import annotations

import io
import math
import platform
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genin.export.errors import UnknownOperationError
from genin.export.precision_plan import PALETTES
from genin.runtimes.engine import ENGINES, in_batches
from genin.runtimes.errors import BundleError, GeninError, MissingExtraError
from genin.runtimes.manifest import EXACT_PSNR_DB, Parity, TensorSpec
from genin.runtimes.tensors import INPUTS, OUTPUTS
from genin.runtimes.threads import thread_limit
from genin.runtimes.vocabulary import TEXT_TO_IMAGE, VAE_ENCODER

FLOORS_DB: Mapping[str, float] = {"fp32": 90.0, "fp16": 60.0, "int8": 40.0}
# 8-bit activations and palettes are judged by their pictures; below this a graph is broken.
LOW_PRECISION_FLOOR_DB = 20.0
# For 8-bit pictures, where rounding may be off by one: 1 in 100 values off is 68 dB.
PICTURE_FLOORS_DB: Mapping[str, float] = {"fp32": 60.0, "fp16": 40.0, "int8": 35.0}


Case = Mapping[str, NDArray[Any]]
Run = Callable[[Case], dict[str, NDArray[Any]]]


# --- measuring -------------------------------------------------------------------------------------------------------


def psnr_db(reference: NDArray[Any], got: NDArray[Any]) -> float:
    """10·log10(peak² / mean squared error), peak = max − min of the reference; at most EXACT_PSNR_DB."""
    wide = reference.astype(np.float64)
    error = float(np.mean(np.square(wide - got)))
    peak = float(np.ptp(wide))
    if error == 0:
        return EXACT_PSNR_DB
    if not (math.isfinite(error) and peak > 0):
        return -EXACT_PSNR_DB
    return max(-EXACT_PSNR_DB, min(EXACT_PSNR_DB, 10 * math.log10(peak**2 / error)))


def cosine(reference: NDArray[Any], got: NDArray[Any]) -> float:
    """Cosine of the angle between two tensors as vectors; 0 if either is zero or not finite."""
    a, b = reference.astype(np.float64).ravel(), got.astype(np.float64).ravel()
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    value = float(a @ b) / length if length > 0 and math.isfinite(length) else 0.0
    return value if math.isfinite(value) else 0.0


def floor_db(component: str, format: str, precision: str, stored: str, compute: str) -> float:
    """The parity that a graph must have: by its precision's name, else by the narrowest way in which it stores weights. Only
    formats with coarser storage have a lower floor, and not for the encoder, which no picture judges. Of a single graph it is the
    median picture's."""
    floors = PICTURE_FLOORS_DB if component == TEXT_TO_IMAGE else FLOORS_DB
    if precision in floors:
        return floors[precision]
    kinds = stored.split(", ")
    if component != VAE_ENCODER and (compute.startswith("int8") if format != "coreml" else set(kinds) & set(PALETTES)):
        return LOW_PRECISION_FLOOR_DB
    return min(floors.get(kind, floors["int8"]) for kind in kinds)


def measure(run: Run, cases: Iterable[Case], outputs: Sequence[str], floor: float, checked_with: str) -> Parity:
    """Run every case and compare: the worst case's worst output counts. Errors: GeninError if there is no case or an output has
    another shape than PyTorch's, and whatever `run` raises."""
    cases = _some(cases)
    pairs = [(case[name], results[name]) for case in cases for results in [run(case)] for name in outputs]
    for reference, got in pairs:
        if reference.shape != got.shape:
            raise GeninError(f"an output has shape {got.shape}, PyTorch's has {reference.shape}")
    # Python's max() would pass over a NaN, depending on the order.
    max_abs = float(np.max([np.abs(reference.astype(np.float64) - got).max() for reference, got in pairs]))
    return Parity(
        psnr_db=round(min(psnr_db(*pair) for pair in pairs), 2),
        max_abs=float(f"{max_abs:.4g}") if math.isfinite(max_abs) else float(np.finfo(np.float32).max),
        cosine=round(min(cosine(*pair) for pair in pairs), 9),
        floor_db=floor,
        checked_with=checked_with,
    )


def measure_pictures(
    run: Run, cases: Iterable[Case], floor: float, checked_with: str
) -> tuple[Parity, NDArray[np.uint8]]:
    """A single graph's pictures against the cases' `images`: the median picture's PSNR and cosine (a seed between two pictures may
    tip to the other), the largest difference of all. Also returns the pictures, in order. Errors: as `measure`."""
    cases = _some(cases)
    got = np.concatenate([run(case)["images"] for case in cases])
    reference = np.concatenate([case["images"] for case in cases])
    if got.shape != reference.shape or got.dtype != np.uint8:
        raise GeninError(f"the pictures have shape {got.shape} of {got.dtype}, PyTorch's {reference.shape} of uint8")
    pairs = list(zip(reference, got, strict=True))
    found = Parity(
        psnr_db=round(float(np.median([psnr_db(*pair) for pair in pairs])), 2),
        max_abs=float(np.abs(reference.astype(np.int16) - got).max()),
        cosine=round(float(np.median([cosine(*pair) for pair in pairs])), 9),
        floor_db=floor,
        checked_with=checked_with,
    )
    return found, got


def _some(cases: Iterable[Case]) -> list[Case]:
    found = list(cases)
    if not found:
        raise GeninError("no golden input has a size that the graph takes", remedy="export the bundle again")
    return found


def worst_case(run: Run, cases: Iterable[Case], outputs: Sequence[str]) -> Case:
    """The case whose worst output agrees least."""

    def agreement(case: Case) -> float:
        results = run(case)
        return min(psnr_db(case[name], results[name]) for name in outputs)

    return min(cases, key=agreement)


def require(parity: Parity, graph: str, lost_at: Callable[[], Sequence[object]] = tuple) -> None:
    """Errors: GeninError if a graph is below its floor; then `lost_at` is called for the layers at which it loses most."""
    if parity.psnr_db >= parity.floor_db:
        return
    try:
        layers = ", ".join(map(str, lost_at()))
    except Exception:  # too many outputs for the engine, or too little memory: the error comes without them
        layers = ""
    raise GeninError(
        f"parity with PyTorch is {parity.psnr_db:.1f} dB, the floor is {parity.floor_db:.0f} dB"
        + (f"; most is lost at {layers}" if layers else ""),
        where=graph,
        remedy="leave this precision or format out; no bundle was written",
    )


# --- running graphs --------------------------------------------------------------------------------------------------


def open_graph(
    format: str, component: str, path: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> tuple[Run, str]:
    """A graph as a function of one golden case, outputs under diffusers' names, and the engine it runs on.

    Errors: MissingExtraError if the engine is absent, BundleError if the graph cannot be loaded or is not as declared,
    UnknownOperationError if nothing here can run it. The function raises GeninError if the graph fails, or UnknownOperationError.
    """
    names = [spec.name for spec in inputs], [spec.name for spec in outputs]
    try:
        if format == "coreml":
            check_coreml(path, inputs, outputs)
            run, engine = _open_coreml(component, path, names[1])
            return _checked(run, path), engine
        run, engine = _OPENERS[format](path, *names)
        batch = inputs[0].shape[0]
        size = batch if isinstance(batch, int) else None
        return _checked(lambda case: in_batches(run, {name: case[name] for name in names[0]}, size), path), engine
    except ImportError as error:
        broken = (
            None if isinstance(error, ModuleNotFoundError) else f"the engine cannot be imported ({_one_line(error)})"
        )
        raise MissingExtraError((error.name or format).partition(".")[0], _EXTRAS[format], broken) from error
    except (MissingExtraError, UnknownOperationError, BundleError):
        raise
    except Exception as error:  # engines raise their own types, which cannot be named without importing them
        what = f"{format} cannot load the graph ({_one_line(error)})"
        raise BundleError(what, where=path, remedy="export it again") from error


def _checked(run: Run, path: Path) -> Run:
    """`run`, with the engine's own errors as GeninError."""

    def checked(case: Case) -> dict[str, NDArray[Any]]:
        try:
            return run(case)
        except UnknownOperationError:
            raise
        except Exception as error:  # engines raise types of their own
            what = f"the graph does not run ({_one_line(error)})"
            raise GeninError(what, where=path, remedy="export it again") from error

    return checked


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def fitting(component: str, cases: Iterable[Case], inputs: Sequence[TensorSpec]) -> list[Case]:
    """The golden cases of a size that a graph takes: Core ML graphs have one size, where others may take any."""
    name, shape = INPUTS[component][0], inputs[0].shape
    fixed = len(shape) == 4 and all(isinstance(size, int) for size in shape[-2:])
    return [case for case in cases if not fixed or case[name].shape[-2:] == shape[-2:]]


def _open_onnx(path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> tuple[Run, str]:
    ENGINES["onnxruntime"].require()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = thread_limit() or 0  # 0: ONNX Runtime's own choice
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    assert session.get_providers() == ["CPUExecutionProvider"]
    _same_names(path, "inputs", [{port.name} for port in session.get_inputs()], inputs)
    _same_names(path, "outputs", [{port.name} for port in session.get_outputs()], outputs)

    def run(case: Case) -> dict[str, NDArray[Any]]:
        return dict(zip(outputs, session.run(list(outputs), {name: case[name] for name in inputs}), strict=True))

    return run, f"onnxruntime {onnxruntime.__version__} CPUExecutionProvider"


def _open_openvino(path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> tuple[Run, str]:
    import openvino

    from genin.runtimes.openvino_engine import core, exact_settings

    compiled = core().compile_model(str(path), "CPU", exact_settings())
    _same_names(path, "inputs", [port.get_names() for port in compiled.inputs], inputs)
    _same_names(path, "outputs", [port.get_names() for port in compiled.outputs], outputs)

    def run(case: Case) -> dict[str, NDArray[Any]]:
        results = compiled({name: case[name] for name in inputs})
        return {name: np.array(results[name]) for name in outputs}

    return run, f"openvino {openvino.__version__.partition('-')[0]} CPU f32"


def _open_coreml(component: str, path: Path, outputs: Sequence[str]) -> tuple[Run, str]:
    """Core ML itself on a Mac; elsewhere genin's interpreter of its programs."""
    from genin.runtimes.coreml_engine import Package, open_package

    if platform.system() == "Darwin":
        # The other compute units run even fp32 programs in fp16.
        package, engine = open_package(path, units="CPU_ONLY"), f"Core ML, macOS {platform.mac_ver()[0]}, CPU"
    else:
        import torch

        from genin.export.checks.coreml_interpreter import Program

        program = Program(path)
        package = Package(program, program.shapes, program.dtypes)
        engine = f"genin's Core ML interpreter, torch {torch.__version__.partition('+')[0]}"

    def run(case: Case) -> dict[str, NDArray[Any]]:
        return dict(zip(OUTPUTS[component], package.run(component, case, outputs).values(), strict=True))

    return run, engine


_EXTRAS = {"onnx": "onnxruntime", "openvino": "openvino", "coreml": "export"}  # what installs the engine of a format
_OPENERS: Mapping[str, Callable[[Path, Sequence[str], Sequence[str]], tuple[Run, str]]] = {
    "onnx": _open_onnx,
    "openvino": _open_openvino,
}


def check_coreml(path: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """A saved `.mlpackage` reads back and declares what the manifest says. Errors: BundleError, ImportError."""
    from genin.export.converters.to_coreml import read_specs

    try:
        found = read_specs(path)
    except (OSError, RuntimeError, ValueError) as error:
        raise BundleError("Core ML cannot read the graph", where=path, remedy="export it again") from error
    if found != (tuple(inputs), tuple(outputs)):
        raise BundleError("the graph's inputs and outputs are not the manifest's", where=path, remedy="export it again")


def _same_names(path: Path, what: str, found: Sequence[set[str]], declared: Sequence[str]) -> None:
    """A compiled OpenVINO tensor has aliases beside the name it was given, hence sets."""
    if len(found) != len(declared) or any(name not in names for name, names in zip(declared, found, strict=True)):
        said = ", ".join(min(names) for names in found)
        raise BundleError(f"the graph's {what} are {said}, the manifest says {', '.join(declared)}", where=path)


# --- golden files ----------------------------------------------------------------------------------------------------


def write_golden(path: Path, cases: Sequence[Case]) -> None:
    """Write cases as a plain, uncompressed npz: arrays named CASE.TENSOR."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {f"{number}.{name}": array for number, case in enumerate(cases) for name, array in case.items()}
    with path.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]  # numpy types **arrays as its own flag


def read_golden(data: bytes, names: Iterable[str]) -> list[dict[str, NDArray[Any]]]:
    """The cases of a golden file, each with all of `names`. Errors: BundleError, also for pickles and zip bombs."""
    try:
        cases = _read_cases(data)
    except Exception as error:  # of damaged files numpy and zipfile raise many types, tokenize.TokenError among them
        what = f"a golden file cannot be read ({_one_line(error)})"
        raise BundleError(what, remedy="export the bundle again") from error
    wanted = set(names)
    if not cases or any(not wanted <= set(case) for case in cases.values()):
        raise BundleError(f"a golden file lacks some of {', '.join(sorted(wanted))}", remedy="export the bundle again")
    return [cases[number] for number in sorted(cases)]


def _read_cases(data: bytes) -> dict[int, dict[str, NDArray[Any]]]:
    cases: dict[int, dict[str, NDArray[Any]]] = {}
    found: Any = np.load(io.BytesIO(data), allow_pickle=False)
    if isinstance(found, np.ndarray):
        raise ValueError("it is a single array, not an npz")
    with found as arrays:
        if any(member.compress_type != zipfile.ZIP_STORED for member in arrays.zip.infolist()):
            raise ValueError("it is compressed")  # stored members cannot hold more than the file does
        for key in arrays.files:
            number, _, name = key.partition(".")
            array = arrays[key]
            if not isinstance(array, np.ndarray):  # numpy hands out the bytes of what is no .npy
                raise ValueError(f"'{key}' is no array")
            cases.setdefault(int(number), {})[name] = array
    return cases

"""The native library when memory is short: `max_memory` holds, and allocations that fail refuse a picture and nothing else."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from native_painter import NativePainter

ROOT = Path(__file__).parents[2]
ONE_STEP = ROOT / "runtimes" / "weights" / "student-1step"
PATIENCE_S = 60.0
MIB = 1 << 20

pytestmark = [
    pytest.mark.export,
    pytest.mark.skipif(shutil.which("cmake") is None or shutil.which("g++") is None, reason="needs cmake and g++"),
]


def limited(native_build: Path, ort: Path, bundle: Path, limit: int) -> tuple[str, np.ndarray | None, Any, str]:
    """The picture of a worker that may take `limit` bytes: result, pixels, statistics, message."""
    painter = NativePainter(native_build / "libgenin.so", ort, str(bundle), max_memory=limit)
    try:
        result, pixels = painter.wait(painter.loading, PATIENCE_S), None
        if result == "ok":
            ticket = painter.submit("a ninja", 7)
            result = painter.wait(ticket, PATIENCE_S)
            picture = painter.take(ticket) if result == "ok" else None
            pixels = None if picture is None else picture.array
        return result, pixels, painter.stats(), painter.poll()[-1].message
    finally:
        painter.close()


def test_the_same_picture_in_less_memory_or_a_refusal(native_build: Path, ort: Path) -> None:
    """With enough all networks stay loaded, with less one at a time; with too little nothing is allocated."""
    results = {limit: limited(native_build, ort, ONE_STEP, limit) for limit in (0, 64 * MIB, 20 * MIB, 2 * MIB)}
    unlimited = results[0][1]
    for limit in (64 * MIB, 20 * MIB):
        result, pixels, stats, message = results[limit]
        assert result == "ok" and np.array_equal(pixels, unlimited), message
        assert 0 < stats.memory_now <= stats.memory_peak <= limit
    assert results[20 * MIB][2].memory_now < results[64 * MIB][2].memory_now
    result, _, stats, message = results[2 * MIB]
    assert result == "memory" and stats.memory_peak == 0
    assert message == "to load onnx/fp16/text_encoder/model.onnx takes more memory than max_memory, 2 MiB"


def test_allocations_that_fail(native_build: Path, ort: Path, tmp_path: Path) -> None:
    """Every 97th, one after the other."""
    fail_each(native_build, ort, 97)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_allocation_that_fails(native_build: Path, ort: Path) -> None:
    fail_each(native_build, ort, 1)


def fail_each(native_build: Path, ort: Path, every: int) -> None:
    built = ["cmake", "--build", native_build, "--target", "genin_memory"]
    subprocess.run([*map(str, built)], check=True, capture_output=True, timeout=120)
    command = [native_build / "genin_memory", ONE_STEP, ort, every]
    ran = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=800)
    assert ran.returncode == 0, ran.stdout + ran.stderr


# --- measured --------------------------------------------------------------------------------------------------------

MEASURE = """
import ctypes, json, sys
sys.path[:0] = json.loads(sys.argv[1])
from pathlib import Path
from native_painter import NativePainter

def high() -> int:
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmHWM"))

library, ort, small, large = map(Path, sys.argv[2:6])
def draw(bundle, limit):
    painter = NativePainter(library, ort, str(bundle), max_memory=limit)
    result = painter.wait(painter.loading, 60)
    if result == "ok":
        result = painter.wait(painter.submit("a ninja", 7), 60)
    peak = painter.stats().memory_peak
    painter.close()
    return result, peak

draw(small, 1 << 30)  # the engine itself
ctypes.CDLL(None).malloc_trim(0)
Path("/proc/self/clear_refs").write_text("5")
before = high()
result, counted = draw(large, int(sys.argv[6]))
print(json.dumps([result, counted, high() - before]))
"""


def write_large_bundle(out: Path, *, half: bool, external: bool) -> None:
    """The one-step student with a UNet of sixteen matrices of 2048 x 2048: 256 MiB in single precision."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    shutil.copytree(ONE_STEP, out)
    rng, nodes, weights = np.random.default_rng(0), [], []
    for shape in ("flat", "full"):
        weights.append(numpy_helper.from_array(np.array([-1, 2048] if shape == "flat" else [-1, 32, 16, 16]), shape))
    nodes.append(helper.make_node("Reshape", ["sample", "flat"], ["x0"]))
    for i in range(16):
        matrix = rng.standard_normal((2048, 2048), np.float32) / 45
        weights.append(numpy_helper.from_array(matrix.astype(np.float16) if half else matrix, f"w{i}"))
        if half:
            nodes.append(helper.make_node("Cast", [f"w{i}"], [f"s{i}"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("MatMul", [f"x{i}", f"s{i}" if half else f"w{i}"], [f"x{i + 1}"]))
    nodes.append(helper.make_node("Reshape", ["x16", "full"], ["out_sample"]))

    def value(name: str, kind: int, *shape: int | str) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    inputs = [
        value("sample", 1, "n", 32, 16, 16),
        value("timestep", 7, 1),
        value("encoder_hidden_states", 1, "n", 48, 192),
    ]
    graph = helper.make_graph(nodes, "unet", inputs, [value("out_sample", 1, "n", 32, 16, 16)], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = out / "onnx" / "fp16" / "unet" / "model.onnx"
    onnx.save(model, path, save_as_external_data=external, location="model.onnx_data")
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    for entry in manifest["graphs"]:
        entry["precision"] = "fp16" if half else "fp32"
        if entry["component"] == "unet":
            files = sorted(path.parent.glob("model.onnx*"))
            hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
            entry["files"] = [
                {"path": file.relative_to(out).as_posix(), "sha256": sha, "size_bytes": file.stat().st_size}
                for file, sha in zip(files, hashes, strict=True)
            ]
    (out / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("half", "external"), [(False, False), (True, False), (False, True)])
def test_max_memory_holds_to_five_percent(
    native_build: Path, ort: Path, tmp_path: Path, half: bool, external: bool
) -> None:
    """Resident memory beyond the engine's own, at limits from the whole to too little."""
    bundle = tmp_path / "large"
    write_large_bundle(bundle, half=half, external=external)
    paths = json.dumps([*map(str, (ROOT / "tools" / "typepath", Path(__file__).parents[1] / "helpers"))])
    ended = set()
    for limit in (1024 * MIB, 560 * MIB, 430 * MIB, 300 * MIB, 200 * MIB):
        command = [sys.executable, "-c", MEASURE, paths, native_build / "libgenin.so", ort, ONE_STEP, bundle, limit]
        ran = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True, timeout=200)
        result, counted, grown = json.loads(ran.stdout)
        assert result in ("ok", "memory") and counted <= limit and grown <= 1.05 * limit, (
            limit,
            result,
            counted,
            grown,
        )
        ended.add(result)
    assert ended == {"ok", "memory"}

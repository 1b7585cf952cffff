"""ONNX graphs of a bundle on ONNX Runtime, on the CPU.

Weights stored as fp16 are turned into fp32 by ONNX Runtime when it folds constants at load; inputs and outputs stay
fp32. Not here: other execution providers (none has been measured yet).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genin.runtimes.bundle import Bundle, GraphEntry
from genin.runtimes.cancellation import Interruption
from genin.runtimes.engine import BundleEngine, EngineSettings, GraphInput, Loaded, Loader, OperatorTime, graph_error
from genin.runtimes.errors import BundleError
from genin.runtimes.lazy import engine_module
from genin.runtimes.tensors import OUTPUTS
from genin.runtimes.threads import may_spin, thread_limit

PROVIDER = "CPUExecutionProvider"
KERNEL = "_kernel_time"  # ends the name of an operator in a profile
DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


class OnnxRuntimeEngine(BundleEngine):
    """One inference session per graph."""

    provider = PROVIDER

    @classmethod
    def loader(cls, bundle: Bundle, settings: EngineSettings) -> Loader:
        terminate = _Terminate()

        def load(graph: GraphEntry) -> Loaded:
            session = _session(bundle, graph, settings)
            run, inputs = _runner(graph.component, session, terminate.options), _inputs(session)
            if (profile := settings.profile) is None:
                return Loaded(run, inputs)
            return Loaded(run, inputs, lambda: profile(graph.component, _operators(session)))

        return Loader(load, terminate)


class _Terminate(Interruption):
    """ONNX Runtime looks at the flag of a run's options between nodes. All runs of an engine share one object."""

    def __init__(self) -> None:
        onnxruntime = engine_module("onnxruntime")
        super().__init__()
        self.options = onnxruntime.RunOptions()
        self.options.log_severity_level = 4  # being interrupted is no news

    def interrupt(self) -> None:
        super().interrupt()
        self.options.terminate = True

    def proceed(self) -> None:
        self.options.terminate = False
        super().proceed()


def _session(bundle: Bundle, graph: GraphEntry, settings: EngineSettings) -> Any:
    onnxruntime = engine_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors come back as exceptions
    # Three sessions have three thread pools. One that spins after its work takes a core from the next: 48 ms per picture instead of
    # 18 on two cores (docs/log.md).
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if (count := settings.own_threads or thread_limit()) is not None:
        options.intra_op_num_threads = count
    if settings.background or not may_spin():
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if settings.max_memory is not None:
        options.enable_cpu_mem_arena = False  # an arena keeps the peak of its session for as long as that lives
    if settings.profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(tempfile.mkdtemp(prefix="genin-")) / graph.component)
    path = bundle.local_graph(graph)
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[PROVIDER])
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise graph_error(bundle, graph, error) from error
    assert session.get_providers() == [PROVIDER], f"asked for {PROVIDER}, got {session.get_providers()}"
    return session


def _inputs(session: Any) -> dict[str, GraphInput]:
    inputs = {}
    for item in session.get_inputs():
        if item.type not in DTYPES:
            raise BundleError(f"graph input '{item.name}' has the unsupported type {item.type}")
        batch = item.shape[0] if item.shape and isinstance(item.shape[0], int) else None
        inputs[item.name] = GraphInput(np.dtype(DTYPES[item.type]), len(item.shape), batch)
    return inputs


def _runner(component: str, session: Any, options: Any) -> Callable[[dict[str, NDArray[Any]]], NDArray[Any]]:
    names = [item.name for item in session.get_outputs()]
    output = OUTPUTS[component][0] if OUTPUTS[component][0] in names else names[0]

    def run(arrays: dict[str, NDArray[Any]]) -> NDArray[Any]:
        [result] = session.run([output], arrays, options)
        return np.asarray(result)

    return run


def _operators(session: Any) -> list[list[OperatorTime]]:
    """The operators of every call so far, by the session's own profile. It counts no further."""
    file = Path(session.end_profiling())
    events = json.loads(file.read_text(encoding="utf-8"))
    shutil.rmtree(file.parent, ignore_errors=True)
    nodes = [event for event in events if event["cat"] == "Node" and event["name"].endswith(KERNEL)]
    runs = [event for event in events if event["name"] == "model_run"]
    return [
        [
            OperatorTime(node["name"].removesuffix(KERNEL), node["args"]["op_name"], node["dur"] / 1000)
            for node in nodes
            if run["ts"] <= node["ts"] < run["ts"] + run["dur"]
        ]
        for run in runs
    ]

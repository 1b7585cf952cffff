"""OpenVINO IR of a bundle on the CPU; where a bundle has no IR, its ONNX graphs, which OpenVINO reads as well.

Arithmetic is held at fp32 whatever the weights are stored in: left alone, OpenVINO would compute in bf16 on processors
that have it, and the same seed would draw another picture there. Not here: GPU and NPU devices (none measured yet).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genin.runtimes.bundle import Bundle, GraphEntry
from genin.runtimes.cancellation import Interruption
from genin.runtimes.engine import BundleEngine, EngineSettings, GraphInput, Loaded, Loader, OperatorTime, graph_error
from genin.runtimes.errors import InputError
from genin.runtimes.forked import keep_in_forks
from genin.runtimes.lazy import engine_module
from genin.runtimes.tensors import OUTPUTS
from genin.runtimes.threads import thread_limit

DEVICE = "CPU"

Run = Callable[[dict[str, NDArray[Any]]], NDArray[Any]]


def core() -> Any:
    """OpenVINO's `Core`, one per process and never freed: all code that uses OpenVINO takes it from here.

    Errors: InputError in a process that was forked after OpenVINO had started: its threads are not there, and compiling a graph
    would wait for them for ever.
    """
    with _making:  # a cache does not keep two threads from making one each
        process, found = _core()
    if process != os.getpid():
        remedy = "start this process by spawn, or load models in it alone"
        raise InputError("OpenVINO was started before this process was forked", remedy=remedy)
    return found


_making = threading.Lock()


@cache
def _core() -> tuple[int, Any]:
    """The process that made it, and the core.

    On Linux a Core moves the main thread's alternate signal stack to memory of its own, and restores the previous one when it is
    freed (openvino 2026.4). Of two that are freed in the order in which they were made, the second restores the first one's, which
    is gone by then: the next signal, a Ctrl-C or the end of a child process, ends the process with a segmentation fault.
    """
    made = engine_module("openvino").Core()
    keep_in_forks(made)
    return os.getpid(), made


def exact_settings(threads: int | None = None) -> dict[str, str]:
    """Settings of a graph that computes in fp32, however its weights are stored, on `threads` or as many as the process may use."""
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    if (count := threads or thread_limit()) is not None:
        settings["INFERENCE_NUM_THREADS"] = str(count)
    return settings


class OpenVinoEngine(BundleEngine):
    """One compiled model per graph."""

    provider = DEVICE

    @classmethod
    def loader(cls, bundle: Bundle, settings: EngineSettings) -> Loader:
        properties = {"PERFORMANCE_HINT": "LATENCY"} | exact_settings(settings.own_threads)
        if settings.background:
            properties["ENABLE_CPU_PINNING"] = "NO"
        if settings.profile is not None:
            properties["PERF_COUNT"] = "YES"
        requests = _Requests()

        def load(graph: GraphEntry) -> Loaded:
            model = _compile(bundle, graph, properties)
            request = model.create_infer_request()
            requests.all.append(request)
            run = _runner(graph.component, model, request)
            if (profile := settings.profile) is not None:
                run = _counted(run, lambda: profile(graph.component, [_operators(request)]))
            return Loaded(run, _inputs(model), lambda: requests.all.remove(request))

        return Loader(load, requests)


class _Requests(Interruption):
    """OpenVINO looks between nodes whether a request was cancelled; cancelling one that does not run has no effect."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Any] = []

    def interrupt(self) -> None:
        super().interrupt()
        for request in list(self.all):
            request.cancel()


def _compile(bundle: Bundle, graph: GraphEntry, settings: Mapping[str, str]) -> Any:
    path = bundle.local_graph(graph)
    try:
        model = core().compile_model(core().read_model(path), DEVICE, dict(settings))
    except RuntimeError as error:
        raise graph_error(bundle, graph, error) from error
    devices = model.get_property("EXECUTION_DEVICES")
    assert [*devices] == [DEVICE], f"asked for {DEVICE}, got {devices}"
    return model


def _inputs(model: Any) -> dict[str, GraphInput]:
    inputs = {}
    for port in model.inputs:
        shape = port.get_partial_shape()
        rank = shape.rank.get_length()
        batch = shape[0].get_length() if rank and shape[0].is_static else None
        for name in port.get_names():
            inputs[name] = GraphInput(np.dtype(port.get_element_type().to_dtype()), rank, batch)
    return inputs


def _runner(component: str, model: Any, request: Any) -> Run:
    named = [port for port in model.outputs if OUTPUTS[component][0] in port.get_names()]
    output = (named or model.outputs)[0]

    def run(arrays: dict[str, NDArray[Any]]) -> NDArray[Any]:
        return np.asarray(request.infer(arrays, share_inputs=True)[output])

    return run


def _counted(run: Run, count: Callable[[], None]) -> Run:
    def run_and_count(arrays: dict[str, NDArray[Any]]) -> NDArray[Any]:
        result = run(arrays)
        count()
        return result

    return run_and_count


def _operators(request: Any) -> list[OperatorTime]:
    """The operators of a request's last call that ran."""
    return [
        OperatorTime(one.node_name, one.node_type, one.real_time.total_seconds() * 1000)
        for one in request.get_profiling_info()
        if one.status == one.Status.EXECUTED
    ]

"""Where a network's time goes, operator by operator, by the counters of ONNX Runtime and OpenVINO themselves.

Counting slows an engine down, so it is done in a process apart, after what is timed. The first call of every network is left out.
Operators that an engine has fused are one, by the name that it gives them. What lies between operators is not counted: the sum is
less than the network's time.

Not here: reading the counters (`genin.runtimes`), tables (`genin.benchmarks.results.operators`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from genin.benchmarks.speed.configurations import Configuration
from genin.benchmarks.speed.protocol import Protocol
from genin.benchmarks.speed.worker import Worker
from genin.runtimes.engine import OperatorTime

COUNTING: Final = ("onnxruntime", "openvino")
NOT_COUNTED: Final = "only ONNX Runtime and OpenVINO count the time of their operators"
LONGEST: Final = 10

Calls = list[list[OperatorTime]]


class Counters:
    """The operators of every call, by component: what `EngineSettings.profile` is told."""

    def __init__(self) -> None:
        self.calls: defaultdict[str, Calls] = defaultdict(list)

    def __call__(self, component: str, calls: Sequence[Sequence[OperatorTime]]) -> None:
        self.calls[component] += [list(call) for call in calls]

    def summary(self, pictures: int) -> dict[str, Any]:
        """By component, for one of so many pictures: calls, milliseconds, and the longest kinds and layers."""
        return {component: _summary(calls, pictures) for component, calls in self.calls.items()}


def profile(configuration: Configuration, protocol: Protocol) -> dict[str, Any]:
    """A configuration's operators, by a process of its own. Errors: WorkerError."""
    worker = Worker(configuration, protocol, profile=True)
    try:
        asked = protocol.call(configuration.numbers(0))
        operators: dict[str, Any] = worker.ask(do="profile", **asked)["operators"]
    finally:
        worker.close()
    return operators


def _summary(calls: Calls, pictures: int) -> dict[str, Any]:
    counted = calls[1:] or calls
    per_picture = len(calls) / pictures
    layers: defaultdict[tuple[str, str], float] = defaultdict(float)
    for call in counted:
        for one in call:
            layers[one.layer, one.kind] += one.ms * per_picture / len(counted)
    kinds: defaultdict[str, list[float]] = defaultdict(list)
    for (_, kind), ms in layers.items():
        kinds[kind].append(ms)
    total = sum(layers.values())

    def cost(ms: float) -> dict[str, float]:
        return {"ms": round(ms, 4), "share": round(ms / total, 4) if total else 0.0}

    by_kind = sorted(kinds.items(), key=lambda item: -sum(item[1]))[:LONGEST]
    by_layer = sorted(layers.items(), key=lambda item: -item[1])[:LONGEST]
    return {
        "calls": round(per_picture, 2),
        "ms": round(total, 4),
        "kinds": [{"kind": kind, "operators": len(each), **cost(sum(each))} for kind, each in by_kind],
        "layers": [{"layer": layer, "kind": kind, **cost(ms)} for (layer, kind), ms in by_layer],
    }

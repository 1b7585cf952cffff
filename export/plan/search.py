"""`genin plan`: from a model folder and a wish to a plan that says how it was found."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genin.benchmarks.model_facts import fingerprint
from genin.benchmarks.quality.perceptual import load_lpips
from genin.benchmarks.quality.weights import MetricUnavailableError
from genin.distill.models.folder import load_model_folder
from genin.export.components import check_finite, check_supported, modules
from genin.export.converters.quiet import quiet
from genin.export.plan.plot import plot as draw_plot
from genin.export.plan.sensitivity import (
    Sensitivity,
    count_layers,
    measure,
    plan_for_lpips,
    plan_for_size,
    with_eight_bit_activations,
)
from genin.export.precision_plan import Plan, Storage, check_name
from genin.runtimes.errors import InputError
from genin.runtimes.progress import Progress
from genin.runtimes.vocabulary import COMPONENTS

LPIPS = 0.02  # what may be lost where nothing else is asked for


def make_plan(
    path: Path,
    name: str,
    weights: Sequence[str],
    *,
    activations: bool = False,
    target_size: float | None = None,
    target_lpips: float | None = None,
    plot: Path | None = None,
    progress: Progress,
) -> Plan:
    """Measure a model folder and choose. Errors: InputError for wishes that cannot be had, MetricUnavailableError."""
    check_name(name)
    if not weights:
        raise InputError("there is no way of storing weights to choose from", remedy="--weights fp16,int8")
    if activations and "int8" not in weights:
        raise InputError("8-bit activations want 8-bit weights", remedy="add int8 to --weights")
    if target_size is None or activations or target_lpips is not None:
        load_lpips("squeeze")  # before the measuring: without its weights there is nothing to choose by
    kinds = [Storage(kind) for kind in weights]
    with quiet():
        model = load_model_folder(path)
    check_supported(model)
    for component, network in modules(model).items():
        check_finite(component, network)
    steps = itertools.count()

    def begin(layer: str) -> None:
        progress.reach(next(steps) / count_layers(model), layer)

    found = measure(model, [*kinds, *([Storage("int8", "int8")] if activations else [])], begin)
    progress.reach(progress.total, "choosing")
    if target_size is not None:
        plan = plan_for_size(found, kinds, target_size, name)
        if target_lpips is not None and (lpips := found.lpips(plan)) > target_lpips:
            what = f"the best plan of {target_size / 1e6:.2f} MB is at LPIPS {lpips:.4f}, not within {target_lpips:g}"
            raise InputError(what, remedy="allow a larger size, or a larger distance")
    else:
        plan = plan_for_lpips(found, kinds, target_lpips or LPIPS, name)
    if activations:
        plan = with_eight_bit_activations(found, plan, target_lpips or LPIPS)
    if plot is not None:
        draw_plot(found, plan, plot)
    return Plan(plan.name, plan.default, plan.layers, _notes(path, found, plan))


def _notes(path: Path, found: Sensitivity, plan: Plan) -> dict[str, Any]:
    try:
        lpips = round(found.lpips(plan), 5)
    except MetricUnavailableError:
        lpips = None
    counts, sizes = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for layer, way in found.ways(plan):
        counts[layer.component, _said(way)] += 1
        sizes[layer.component, _said(way)] += round(layer.bytes(way))
    return {
        "model_sha256": fingerprint(path),
        "pictures": len(found.reference.pictures),
        "size_bytes": round(found.bytes(plan)),
        "lpips_squeeze": lpips,
        "summary": [
            [component, way, count, sizes[component, way]]
            for name in COMPONENTS
            for (component, way), count in sorted(counts.items())
            if component == name
        ],
        "layers": {
            component: {
                layer.name: {_said(way): float(f"{error:.3g}") for way, error in layer.error.items()}
                for layer in found.layers
                if layer.component == component
            }
            for component in COMPONENTS
        },
    }


def _said(way: Storage) -> str:
    return way.weights if way.activations == "float" else "w8a8"

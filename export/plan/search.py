"""`genin plan`: from a model folder and a target, of size or of LPIPS, to a precision plan that says how it was found."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from genin.export.precision_plan import WEIGHTS, Plan, Storage, check_name
from genin.files import claim_output
from genin.runtimes.arguments import local_path, number, settle, several
from genin.runtimes.errors import InputError
from genin.runtimes.names import installed_names
from genin.runtimes.origin import fingerprint
from genin.runtimes.progress import progress
from genin.runtimes.vocabulary import COMPONENTS, check_choice

DEFAULT_LPIPS = 0.02  # the default limit


@dataclass(frozen=True)
class PlanOptions:
    """What `make_plan` looks for; the defaults are those of `genin plan`.

    Attributes:
        name: the precision's name in bundles.
        weights: ways of storing weights to choose from, one or several: `fp32`, `fp16`, `int8`, `palette6`, `palette4`.
        activations: 8-bit activations in as many layers as the pictures allow.
        target_size: bytes of weights at most: the best plan within them.
        target_lpips: how far the plan's pictures may be from the model's own; None is 0.02.
        plot: FILE.png for every layer's sensitivity.
    """

    name: str = "mixed"
    weights: str | Sequence[str] = ("fp16", "int8")
    activations: bool = False
    target_size: float | None = None
    target_lpips: float | None = None
    plot: str | Path | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        settle(
            self,
            weights=tuple(check_choice(kind, WEIGHTS, "way of storing weights") for kind in several(self.weights)),
            target_size=number(self.target_size, "target_size", above=0),
            target_lpips=number(self.target_lpips, "target_lpips", above=0),
            plot=local_path(self.plot, "plot"),
        )
        if not self.weights:
            raise InputError("there is no precision to choose from", remedy="name weights: fp16, int8")
        if self.activations and "int8" not in self.weights:
            raise InputError("8-bit activations need 8-bit weights", remedy="add int8 to the weights")

    def kinds(self) -> list[Storage]:
        return [Storage(kind) for kind in several(self.weights)]


def make_plan(model: str | Path, options: PlanOptions | None = None) -> Plan:
    """Measure how sensitive each layer of a model is to quantisation, and choose how to store it.

        plan = make_plan("runs/student", PlanOptions(target_lpips=0.01))
        export("runs/student", "student.genin", ExportOptions(plans=[plan]))

    Args:
        model: a model folder, a built-in name of one, or a hub name.
        options: what to choose from, and by what.

    Returns: the plan, with how it was found in `notes`.
    Errors: InputError for a model or targets that cannot be met; MetricUnavailableError where LPIPS, which the choice needs, has no
        weights.
    """
    options = options or PlanOptions()
    plot = local_path(options.plot, "plot")
    if plot is not None:
        claim_output(plot, ".png")
    path = installed_names().folder(str(model))
    if options.target_size is None or options.activations or options.target_lpips is not None:
        load_lpips("squeeze")  # before measuring: without its weights no plan can be chosen
    found = _measure(path, options)
    plan = _choose(found, options)
    if plot is not None:
        draw_plot(found, plan, plot)
    return Plan(plan.name, plan.default, plan.layers, _notes(path, found, plan))


def _measure(path: Path, options: PlanOptions) -> Sensitivity:
    with quiet():
        model = load_model_folder(path)
    check_supported(model)
    for component, network in modules(model).items():
        check_finite(component, network)
    kinds = [*options.kinds(), *([Storage("int8", "int8")] if options.activations else [])]
    steps = itertools.count()
    with progress("measuring") as shown:

        def begin(layer: str) -> None:
            shown.reach(next(steps) / count_layers(model), layer)

        return measure(model, kinds, begin)


def _choose(found: Sensitivity, options: PlanOptions) -> Plan:
    """Errors: InputError where no plan meets both targets."""
    size, lpips = options.target_size, options.target_lpips
    if size is not None:
        plan = plan_for_size(found, options.kinds(), size, options.name)
        if lpips is not None and (reached := found.lpips(plan)) > lpips:
            what = f"the best plan of {size / 1e6:.2f} MB is at LPIPS {reached:.4f}, not within {lpips:g}"
            raise InputError(what, remedy="allow a larger size, or a larger distance")
    else:
        plan = plan_for_lpips(found, options.kinds(), lpips or DEFAULT_LPIPS, options.name)
    return with_eight_bit_activations(found, plan, lpips or DEFAULT_LPIPS) if options.activations else plan


def _notes(path: Path, found: Sensitivity, plan: Plan) -> dict[str, Any]:
    try:
        lpips = round(found.lpips(plan), 5)
    except MetricUnavailableError:
        lpips = None
    counts, sizes = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for layer, storage in found.storage_per_layer(plan):
        counts[layer.component, _kind(storage)] += 1
        sizes[layer.component, _kind(storage)] += round(layer.bytes(storage))
    return {
        "model_sha256": fingerprint(path),
        "pictures": len(found.reference.pictures),
        "size_bytes": round(found.bytes(plan)),
        "lpips_squeeze": lpips,
        "summary": [
            [component, kind, count, sizes[component, kind]]
            for name in COMPONENTS
            for (component, kind), count in sorted(counts.items())
            if component == name
        ],
        "layers": {
            component: {
                layer.name: {_kind(storage): float(f"{error:.3g}") for storage, error in layer.error.items()}
                for layer in found.layers
                if layer.component == component
            }
            for component in COMPONENTS
        },
    }


def _kind(storage: Storage) -> str:
    return storage.weights if storage.activations == "float" else "w8a8"

"""A plot of a sensitivity pass: the quality of pictures with a single layer stored in fewer bits."""

from __future__ import annotations

import math
from pathlib import Path

from genin.export.plan.sensitivity import Sensitivity
from genin.export.precision_plan import Plan, Storage
from genin.files import atomic_path
from genin.runtimes.vocabulary import COMPONENTS

COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#9c6b4e", "#a463f2")
NAME_WIDTH = 15  # layers
BEST_DB = 90.0  # the top of the plot: above it no loss is visible


def label(storage: Storage) -> str:
    """ "int8", or "int8, activations too"."""
    return storage.weights if storage.activations == "float" else f"{storage.weights}, activations too"


def plot(found: Sensitivity, plan: Plan, path: Path) -> None:
    """Write a PNG: PSNR of pictures with one layer in each storage; the plan's own choices are filled."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = list(dict.fromkeys(storage for layer in found.layers for storage in layer.error))
    chosen = {(layer.component, layer.name): storage for layer, storage in found.storage_per_layer(plan)}
    figure, axes = pyplot.subplots(figsize=(11, 5.2), layout="constrained")
    for kind, colour in zip(kinds, COLOURS, strict=False):
        points = [(x, _db(layer.error[kind])) for x, layer in enumerate(found.layers) if kind in layer.error]
        taken = [
            (x, _db(layer.error[kind]))
            for x, layer in enumerate(found.layers)
            if kind in layer.error and chosen[layer.component, layer.name] == kind
        ]
        axes.plot(*zip(*points, strict=True), "o", markersize=4, color=colour, fillstyle="none", alpha=0.8)
        if taken:
            axes.plot(*zip(*taken, strict=True), "o", markersize=5, color=colour)
        axes.plot([], [], "o", color=colour, label=label(kind))
    start = 0
    for component in COMPONENTS:
        count = sum(layer.component == component for layer in found.layers)
        axes.axvline(start - 0.5, color="#cccccc", linewidth=0.8)
        axes.text(
            start, 1.01, component.replace("_", " "), transform=axes.get_xaxis_transform(), fontsize=9, color="#555555"
        )
        start += count
    worst = sorted(range(len(found.layers)), key=lambda x: -max(found.layers[x].error.values(), default=0))[:6]
    for x in worst:
        layer = found.layers[x]
        short = layer.name.partition(".")[2]
        low = _db(max(layer.error.values()))
        crowded = any(0 < other - x < NAME_WIDTH for other in worst)  # then its name goes on the other side
        side, where = ("right", (-5, -3)) if crowded else ("left", (5, -3))
        axes.annotate(short, (x, low), xytext=where, ha=side, textcoords="offset points", fontsize=7, color="#333333")
    axes.set_ylabel("PSNR of pictures with only this layer quantised, dB")
    axes.set_xlabel("layers, in the order of the networks")
    axes.set_title(f"Sensitivity of each layer; filled: the plan '{plan.name}'", loc="left", fontsize=11, pad=18)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#eeeeee")
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=150, format="png")
    pyplot.close(figure)


def _db(error: float) -> float:
    """PSNR of pictures in [−1, 1]."""
    return min(BEST_DB, 10 * math.log10(4 / error)) if error > 0 else BEST_DB

"""One network to the graphs of one format, and a bundle's description of each; errors that name the layer, the operation or the
disk.

Not here: the converters (`converters`), whether a graph is good enough (`checks.acceptance`), the whole bundle (`assembly`).
"""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genin.export.converters.formats import TABLE, Target, Written, converter
from genin.export.precision_plan import BITS, Plan, layers_of, storable
from genin.runtimes.bundle import file_entry
from genin.runtimes.errors import GeninError, InputError
from genin.runtimes.files import refusal_of_size, refused_write

if TYPE_CHECKING:
    from torch import nn

    from genin.export.components import Component

FULL_BYTES = 1 << 20
LARGE_WEIGHTS_BYTES = 1 << 28  # smaller networks may stay in memory where PyTorch holds on to them


def convert(root: Path, component: Component, format: str, targets: Sequence[Target]) -> dict[str, Written]:
    """Write the component's graph for every target => precision => what was written.

    Errors: InputError naming an operation that the format lacks and the layer; GeninError where the system refuses to write."""
    try:
        return converter(format)(component, targets)
    except (GeninError, OSError, MemoryError):
        raise
    except Exception as error:  # converters raise their own types; OpenVINO says "iostream error" for a full disk
        failing = failing_operation(component, str(error))
        if failing is None and (refused := refused_by_disk(root, component)) is not None:
            raise not_written(root.parent, refused) from error
        raise not_convertible(component, format, str(error), failing) from error


def refused_by_disk(root: Path, component: Component) -> GeninError | None:
    """What the disk of the bundle, or that of temporary files, says to a graph of the component's size; None if there is room."""
    size_bytes = sum(weights.nbytes for weights in component.module.parameters())
    for place in (root, Path(tempfile.gettempdir())):
        if (refusal := refusal_of_size(place, max(size_bytes, FULL_BYTES))) and (refused := refused_write(refusal)):
            return refused
    return None


def not_written(where: Path, refused: GeninError) -> GeninError:
    """`refused` with the place of the bundle."""
    return GeninError(refused.what, where=where, remedy=f"{refused.remedy}; no bundle was written")


def failing_operation(component: Component, message: str) -> tuple[str, list[str]] | None:
    """The operation that a converter's message names, and the modules that use it."""
    from genin.export.checks.layers import modules_with

    try:
        return modules_with(component, message)
    except Exception:  # PyTorch cannot trace the network either, so the converter's own message must do
        return None


def not_convertible(
    component: Component, format: str, message: str, failing: tuple[str, list[str]] | None
) -> InputError:
    name, remedy = f"{component.name} as {format}", "leave this format out, or replace that layer"
    if failing is None:
        reason = " ".join(message.split())[:300]
        return InputError(f"the network cannot be converted ({reason})", where=name, remedy="leave this format out")
    operation, modules = failing
    where = ", ".join(modules[:3]) or "no module of its own"
    return InputError(f"{format} has no operation '{operation}', which is used in {where}", where=name, remedy=remedy)


def check_space(
    networks: Mapping[str, nn.Module], formats: Sequence[str], plans: Sequence[Plan], copies: int, where: Path
) -> None:
    """Errors: InputError if the graphs will not fit on the disk of `where`."""
    bits = 0
    for name, network in networks.items():
        sizes = layers_of(network)
        for plan in plans:
            for layer, storage in plan.storage_per_layer(name, network).items():
                bits += sizes[layer] * sum(BITS[storable(storage.weights, TABLE[format].stores)] for format in formats)
    needed, free = copies * bits / 8, shutil.disk_usage(where).free
    if needed > free:
        what = f"the graphs take about {needed / 1e9:.2g} GB, but only {free / 1e9:.2g} GB are free"
        raise InputError(what, where=where.parent, remedy="free some space, or name fewer formats and precisions")


def release_weights(network: nn.Module) -> None:
    """Free a network's weights; its config stays, for client files. They are emptied in place, because PyTorch's exporter holds on
    to the last network that it saw, and a mapped file stays in memory as long as one of its tensors does."""
    tensors = (*network.parameters(), *network.buffers())
    if sum(tensor.nbytes for tensor in tensors) > LARGE_WEIGHTS_BYTES:
        for tensor in tensors:
            tensor.data = tensor.data.new_empty(0)
    network.to("meta")
    gc.collect()


def graph_facts(root: Path, component: Component, format: str, precision: str, written: Written) -> dict[str, Any]:
    """The fields of a manifest entry that all graphs share, except parity."""
    return {
        "component": component.name,
        "format": format,
        "precision": precision,
        "path": written.path.relative_to(root).as_posix(),
        "files": tuple(file_entry(root, file.relative_to(root).as_posix()) for file in files_of(written.path)),
        "inputs": written.inputs,
        "outputs": written.outputs,
        "converter": written.converter,
        "stored": written.stored,
        "compute": written.compute,
        "opset": written.opset,
        "operations": dict(written.operations),
    }


def files_of(graph: Path) -> list[Path]:
    """A graph's own files: all of a package folder; else the file and the weights beside it. Client files come later."""
    if graph.is_dir():
        return sorted(path for path in graph.rglob("*") if path.is_file())
    return [graph, *sorted(path for path in graph.parent.iterdir() if path.is_file() and path != graph)]

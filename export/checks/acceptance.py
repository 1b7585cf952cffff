"""Whether a graph may be shipped: its parity must be above the floor, or its pictures like PyTorch's; otherwise there is no bundle.

Not here: measuring parity (`parity`), drawing (`pictures`), finding the layer at fault (`layers`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from genin.distill.models.folder import load_model_folder
from genin.export.checks import parity
from genin.export.checks.layers import ParityDrop, worst_layers
from genin.export.checks.pictures import Pictures, compare, draw_with_graphs
from genin.export.components import Component, modules
from genin.export.converters.formats import Written
from genin.export.converters.quiet import quiet
from genin.export.errors import UnknownOperationError
from genin.export.prompt_set import Amount
from genin.runtimes.errors import GeninError
from genin.runtimes.manifest import GraphEntry, Parity, PictureParity

LPIPS_LIMIT, PSNR_LIMIT_DB = (
    0.02,
    30.0,
)  # limits for 8-bit activations and palettes; PSNR counts where LPIPS has no weights


def require_parity(
    component: Component, format: str, precision: str, written: Written, model_path: Path
) -> Parity | None:
    """The graph's parity; None if nothing on this machine can run it.

    Errors: GeninError for one below its floor, with the layers where it is lost."""
    try:
        run, engine = parity.open_graph(format, component.name, written.path, written.inputs, written.outputs)
        floor = parity.floor_db(component.name, format, precision, written.stored, written.compute)
        cases = parity.fitting(component.name, component.cases, written.inputs)
        measured = parity.measure(run, cases, component.outputs, floor, engine)
    except UnknownOperationError:
        return None

    def lost_at() -> list[ParityDrop]:
        case = parity.worst_case(run, cases, component.outputs)
        return worst_layers(format, _with_weights(component, model_path), written.path, case, measured.floor_db)

    parity.require(measured, f"{component.name} as {format} {precision}", lost_at)
    return measured


def require_pictures(
    root: Path, graphs: Sequence[GraphEntry], model_path: Path, reference: Pictures, amount: Amount
) -> PictureParity:
    """How the pictures drawn with the three `graphs` of a format and precision compare with PyTorch's.

    Errors: GeninError for pictures that differ by more than the limit, from graphs that are not judged by parity."""
    of = {graph.component: graph for graph in graphs}

    def open_graph(name: str) -> parity.Run:
        return parity.open_graph(of[name].format, name, root / of[name].path, of[name].inputs, of[name].outputs)[0]

    with quiet():
        try:
            drawn = draw_with_graphs(model_path, open_graph, amount)
        except GeninError as error:  # of the model folder, says the pipeline; but PyTorch has drawn with that
            where = f"{graphs[0].format} {graphs[0].precision}"
            raise GeninError(error.what, where=where, remedy="no bundle was written") from error
        found = compare(drawn, reference, graphs[0].format, graphs[0].precision)
    if any(graph.parity is not None and graph.parity.floor_db == parity.LOW_PRECISION_FLOOR_DB for graph in graphs):
        require_alike(found.psnr_db, found.lpips_squeeze, f"{found.format} {found.precision}")
    return found


def require_alike(psnr_db: float, lpips: float | None, where: str) -> None:
    """Errors: GeninError for pictures that differ by more than the limit."""
    if psnr_db >= PSNR_LIMIT_DB if lpips is None else lpips <= LPIPS_LIMIT:
        return
    said = f"PSNR is {psnr_db:.1f} dB, at least {PSNR_LIMIT_DB:g} is required"
    if lpips is not None:
        said = f"LPIPS is {lpips:.3f}, at most {LPIPS_LIMIT:g} is allowed"
    raise GeninError(
        f"its pictures differ too much from PyTorch's: {said}",
        where=where,
        remedy="keep the sensitive layers wider by a plan (`genin plan`); no bundle was written",
    )


def _with_weights(component: Component, model_path: Path) -> Component:
    """The component, loaded again: its weights were released."""
    with quiet():
        return replace(component, module=modules(load_model_folder(model_path))[component.name].eval())

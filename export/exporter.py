"""A model folder => a bundle: every format and precision converted, measured against PyTorch, described, renamed into place.

The bundle is assembled in a hidden folder beside `out` and appears by one rename when all of it is good: no graph below its
parity floor, no half-written bundle. One network is converted to everything and its weights given back before its graphs are run,
one after another, and before the next: the peak of memory is one converter's, or one engine's, with the largest network. At the
end pictures are drawn through each format and precision and compared with PyTorch's.

Not here: the converters (`to_onnx`, `to_openvino`, `to_coreml`), parity (`parity`), the drawing (`pictures`), what the manifest
says (`manifest_of`).
"""

from __future__ import annotations

import errno
import gc
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genin.export.converters.formats import TABLE, Target, Written, converter, missing_package
from genin.export.converters.quiet import quiet
from genin.export.precision_plan import BITS, Plan, check_layers, check_name, layers_of, storable, uniform
from genin.export.shapes import ANY_BATCH, Shapes
from genin.runtimes.bundle import SUFFIX, file_entry, pack, write_manifest
from genin.runtimes.errors import GeninError, InputError
from genin.runtimes.manifest import (
    FileEntry,
    GoldenEntry,
    GraphEntry,
    Manifest,
    Parity,
    PictureParity,
    SingleGraphEntry,
)
from genin.runtimes.vocabulary import COMPONENTS, FORMATS, MORE_PRECISIONS, PRECISIONS, TEXT_TO_IMAGE, check_choice

if TYPE_CHECKING:
    from torch import nn

    from genin.export.checks.pictures import Pictures
    from genin.export.components import Component
    from genin.export.prompt_set import Amount

NO_BUNDLES = (".onnx", ".xml", ".mlpackage", ".zip", ".tar", ".gz")  # names that promise something else
LPIPS_LIMIT, PSNR_LIMIT_DB = 0.02, 30.0  # of pictures by 8-bit activations or palettes; PSNR where LPIPS has no weights
FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_BYTES = 1 << 20
WORTH_GIVING_BACK = 1 << 28  # bytes; of smaller networks what PyTorch keeps hold of may stay
Progress = Callable[[str], None]


@dataclass(frozen=True)
class ExportResult:
    """The bundle at `path`, its manifest, and the formats left out: format => the line that installs what it lacks."""

    path: Path
    manifest: Manifest
    skipped: Mapping[str, str]


def export_bundle(
    model_path: Path,
    out: Path,
    formats: Sequence[str] = FORMATS,
    precisions: Sequence[str] = PRECISIONS,
    *,
    plans: Sequence[Plan] = (),
    single_graphs: Sequence[int] = (),
    shapes: Shapes = ANY_BATCH,
    progress: Progress | None = None,
) -> ExportResult:
    """Export a model folder to a bundle folder, or to one file if `out` ends in `.genin`.

    `precisions` are uniform plans, `plans` others beside them. For each number of steps in `single_graphs` all of it is
    written as one graph, too, in the formats that can have one. `progress` is told
    each piece of work as it begins; see `count_work`.

    Errors: InputError for an unusable model or an `out` that exists, MissingExtraError if no format can be made here, GeninError if
    a graph is below its parity floor, or pictures differ by more than 8-bit activations and palettes may.
    """
    known = (*PRECISIONS, *MORE_PRECISIONS)
    for name, choices, what in ((formats, FORMATS, "format"), (precisions, known, "precision")):
        for value in name:
            check_choice(value, choices, what)
    for plan in plans:
        check_name(plan.name)
    ordered = [*(uniform(name) for name in known if name in precisions), *plans]
    names = [plan.name for plan in ordered]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"two precisions are called '{min(twice)}'", remedy="give the plan another 'name'")
    usable, skipped = usable_formats(formats)
    steps = tuple(dict.fromkeys(single_graphs))
    able = _for_single(usable)  # those whose shapes are free, too
    for asked, option in ((steps, "--single-graph"), (shapes.any_size, "--any-size")):
        if asked and not able:
            raise InputError(f"{option} is of no use to {', '.join(usable)}", remedy="export onnx or openvino, too")
    if shapes.batch and "onnx" not in usable:
        raise InputError(f"--batch is of no use to {', '.join(usable)}", remedy="leave it out, or export onnx, too")
    if out.exists():
        raise InputError("the output exists already", where=out, remedy="name a new one, or remove it")
    if out.suffix.lower() in NO_BUNDLES:
        raise InputError("a bundle is a folder or one .genin file", where=out, remedy=f"name it {out.stem}{SUFFIX}")
    if not (formats and ordered):
        raise InputError("nothing to export", remedy="name a format and a precision")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        tell = progress or (lambda _: None)
        manifest = _assemble(model_path, partial, usable, ordered, steps, shapes, out.name, tell)
        from genin.distill.models.folder import apply_umask

        for path in (partial, *partial.rglob("*")):
            apply_umask(path)
        if out.suffix == SUFFIX:
            pack(partial, out)
        else:
            partial.replace(out)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise _full(out.parent) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return ExportResult(out, manifest, skipped)


def usable_formats(formats: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Those of `formats` that can be made here, and for the others how to install what they lack.

    Errors: MissingExtraError if none is left.
    """
    missing = {name: error for name in formats if (error := missing_package(name))}
    usable = [name for name in formats if name not in missing]
    if formats and not usable:
        raise next(iter(missing.values()))
    return usable, {name: str(error) for name, error in missing.items()}


def count_work(formats: Sequence[str], precisions: Sequence[object], single_graphs: Sequence[int] = ()) -> int:
    """How often `progress` will be called."""
    single = len(single_graphs) * (1 + len(_for_single(formats)) * (1 + len(precisions)))
    return len(COMPONENTS) * len(formats) * (1 + len(precisions)) + len(formats) * len(precisions) + single + 2


def _for_single(formats: Sequence[str]) -> list[str]:
    return [name for name in formats if TABLE[name].single]


def _assemble(
    model_path: Path,
    root: Path,
    formats: Sequence[str],
    plans: Sequence[Plan],
    single_graphs: Sequence[int],
    shapes: Shapes,
    file_name: str,
    progress: Progress,
) -> Manifest:
    from genin.distill.models.folder import load_model_folder
    from genin.export.checks.pictures import draw_with_pytorch
    from genin.export.client_files import write_client_files
    from genin.export.components import components, modules
    from genin.export.converters.single_graph import check_unrollable
    from genin.export.manifest_of import bundle_card, manifest_of
    from genin.export.prompt_set import Amount

    progress("reading the model, running the golden inputs")
    with quiet():
        model = load_model_folder(model_path)
        copies = 2 if file_name.endswith(SUFFIX) else 1  # packed, it lies there twice for a while
        for name, network in modules(model).items():
            for plan in plans:
                check_layers(plan, name, network)
        for steps in single_graphs:
            check_unrollable(model, steps)
        check_space(modules(model), [*formats, *_for_single(formats) * len(single_graphs)], plans, copies, root)
        waiting = components(model, shapes)
        amount = Amount.of(model, few=not any(plan.judged_by_pictures for plan in plans))
        reference = draw_with_pytorch(model, amount)
    tokenizer = root / "tokenizer"
    model.tokenizer.save_pretrained(tokenizer)
    graphs: list[GraphEntry] = []
    single: list[SingleGraphEntry] = []
    golden: list[GoldenEntry] = []
    while waiting:
        component = waiting.pop(0)
        component = replace(component, calibration=reference.inputs[component.name])
        golden.append(_write_golden(root, component))
        written: dict[tuple[str, str], Written] = {}
        for format in formats:
            progress(f"{component.name} to {format}")
            found = _convert(root, component, format, plans)
            written |= {(format, precision): graph for precision, graph in found.items()}
        _give_back(component.module)
        for (format, precision), graph in written.items():
            progress(f"running {component.name} as {format} {precision}")
            parity = _check(component, format, precision, graph, model_path)
            graphs.append(GraphEntry(**_graph_facts(root, component, format, precision, graph, parity)))
            gc.collect()
    pictures = []
    for format in formats:
        for plan in plans:
            progress(f"drawing with {format} {plan.name}")
            kind = [graph for graph in graphs if (graph.format, graph.precision) == (format, plan.name)]
            if all(graph.parity for graph in kind):  # where nothing runs a graph, nothing draws with it
                pictures.append(_draw(root, kind, model_path, reference.pictures, amount))
    for steps in single_graphs:
        single += _write_single(model_path, root, steps, formats, plans, shapes, amount, progress)
    progress("describing the bundle")
    names = [plan.name for plan in plans]
    for format in formats:
        for name in names:
            write_client_files(root / format / name, format, model, tokenizer)
    graphs.sort(key=lambda graph: (formats.index(graph.format), names.index(graph.precision)))
    for plan in plans:
        if plan.name not in (*PRECISIONS, *MORE_PRECISIONS):
            (root / f"{plan.name}.plan.json").write_text(plan.to_json(), encoding="utf-8")
    manifest = manifest_of(model_path, file_name.removesuffix(SUFFIX), tuple(graphs), tuple(golden), tuple(pictures))
    manifest = replace(manifest, single_graphs=tuple(single))
    if not shapes.any_size:
        manifest = replace(manifest, image=replace(manifest.image, multiple=None))
    (root / "README.md").write_text(bundle_card(manifest, file_name), encoding="utf-8")
    manifest = _with_files(root, manifest)
    write_manifest(manifest, root)
    return manifest


def _write_single(
    model_path: Path,
    root: Path,
    steps: int,
    formats: Sequence[str],
    plans: Sequence[Plan],
    shapes: Shapes,
    amount: Amount,
    progress: Progress,
) -> list[SingleGraphEntry]:
    """One number of steps as a single graph in every format and precision, its pictures compared with PyTorch's."""
    from genin.distill.models.folder import load_model_folder
    from genin.export.checks import parity
    from genin.export.checks.pictures import mean_lpips
    from genin.export.converters.single_graph import single_graph

    name = f"{TEXT_TO_IMAGE}_{steps}"
    progress(f"drawing and unrolling {steps} steps")
    with quiet():
        component, guidance_scale = single_graph(load_model_folder(model_path), steps, amount, shapes)
    parity.write_golden(root / f"golden/{name}.npz", component.cases)
    golden = file_entry(root, f"golden/{name}.npz")
    written: dict[tuple[str, str], Written] = {}
    for format in _for_single(formats):
        progress(f"{steps} steps to {format}")
        targets = [Target(plan, root / format / plan.name / name / str(TABLE[format].single)) for plan in plans]
        found = _converted(root, component, format, targets)
        written |= {(format, precision): graph for precision, graph in found.items()}
    _give_back(component.module)
    entries = []
    for (format, precision), graph in written.items():
        progress(f"drawing with {format} {precision} in one graph")
        run, engine = parity.open_graph(format, component.name, graph.path, graph.inputs, graph.outputs)
        floor = parity.floor_db(format, precision, graph.stored, graph.compute, parity.PICTURE_FLOORS_DB)
        measured, drawn = parity.measure_pictures(run, component.cases, floor, engine)
        del run
        gc.collect()
        where = f"{steps} steps as a single graph, {format} {precision}"
        parity.require(measured, where)
        lpips = mean_lpips(drawn, np.concatenate([case["images"] for case in component.cases]))
        if floor == parity.LOW_PRECISION_FLOOR_DB:
            _require_alike(measured.psnr_db, lpips, where)
        facts = _graph_facts(root, component, format, precision, graph, measured)
        entry = SingleGraphEntry(
            **facts, steps=steps, guidance_scale=guidance_scale, golden=golden, lpips_squeeze=lpips
        )
        entries.append(entry)
    return entries


def check_space(
    networks: Mapping[str, nn.Module], formats: Sequence[str], plans: Sequence[Plan], copies: int, where: Path
) -> None:
    """Errors: InputError if the graphs will not fit on the disk of `where`."""
    bits = 0
    for name, network in networks.items():
        sizes = layers_of(network)
        for plan in plans:
            for layer, way in plan.storage_per_layer(name, network).items():
                bits += sizes[layer] * sum(BITS[storable(way.weights, TABLE[format].stores)] for format in formats)
    needed, free = copies * bits / 8, shutil.disk_usage(where).free
    if needed > free:
        what = f"the graphs take about {needed / 1e9:.2g} GB, {free / 1e9:.2g} GB are free"
        raise InputError(what, where=where.parent, remedy="free some space, or name fewer formats and precisions")


def _give_back(network: nn.Module) -> None:
    """Free a network's weights; its config stays, for client files. They are emptied in place, because PyTorch's exporter keeps
    hold of the last network that it saw, and a mapped file stays in memory as long as one of its tensors does."""
    tensors = (*network.parameters(), *network.buffers())
    if sum(tensor.nbytes for tensor in tensors) > WORTH_GIVING_BACK:
        for tensor in tensors:
            tensor.data = tensor.data.new_empty(0)
    network.to("meta")
    gc.collect()


def _write_golden(root: Path, component: Component) -> GoldenEntry:
    from genin.export.checks.parity import write_golden

    path = f"golden/{component.name}.npz"
    write_golden(root / path, component.cases)
    entry = file_entry(root, path)
    return GoldenEntry(entry.path, entry.sha256, entry.size_bytes, component.name)


def _convert(root: Path, component: Component, format: str, plans: Sequence[Plan]) -> dict[str, Written]:
    place = TABLE[format].places[component.name]
    return _converted(root, component, format, [Target(plan, root / format / plan.name / place) for plan in plans])


def _converted(root: Path, component: Component, format: str, targets: Sequence[Target]) -> dict[str, Written]:
    try:
        return converter(format)(component, targets)
    except (GeninError, OSError, MemoryError):
        raise
    except Exception as error:  # converters raise types of their own, OpenVINO "iostream error" for a full disk
        if shutil.disk_usage(root).free < FULL_BYTES:
            raise _full(root.parent) from error
        raise _not_convertible(component, format, str(error)) from error


def _full(where: Path) -> InputError:
    return InputError("the disk is full", where=where, remedy="free some space; no bundle was written")


def _not_convertible(component: Component, format: str, message: str) -> InputError:
    from genin.export.checks.layers import modules_with

    name, remedy = f"{component.name} as {format}", "leave this format out, or replace that layer"
    try:
        found = modules_with(component, message)
    except Exception:  # a network that PyTorch cannot trace either: the converter's own words must do
        found = None
    if found is None:
        reason = " ".join(message.split())[:300]
        return InputError(f"the network cannot be converted ({reason})", where=name, remedy="leave this format out")
    operation, modules = found
    where = ", ".join(modules[:3]) or "no module of its own"
    return InputError(f"{format} has no operation '{operation}', which is used in {where}", where=name, remedy=remedy)


def _graph_facts(
    root: Path, component: Component, format: str, precision: str, written: Written, parity: Parity | None
) -> dict[str, Any]:
    """What an entry of the manifest says of any graph."""
    return {
        "component": component.name,
        "format": format,
        "precision": precision,
        "path": written.path.relative_to(root).as_posix(),
        "files": tuple(file_entry(root, file.relative_to(root).as_posix()) for file in _files_of(written.path)),
        "inputs": written.inputs,
        "outputs": written.outputs,
        "converter": written.converter,
        "stored": written.stored,
        "compute": written.compute,
        "opset": written.opset,
        "operations": dict(written.operations),
        "parity": parity,
    }


def _check(component: Component, format: str, precision: str, written: Written, model_path: Path) -> Parity | None:
    """The graph's parity, at or above its floor; None if nothing on this machine can run it."""
    from genin.export.checks import parity
    from genin.export.checks.layers import ParityDrop, worst_layers

    try:
        run, engine = parity.open_graph(format, component.name, written.path, written.inputs, written.outputs)
        floor = parity.floor_db(format, precision, written.stored, written.compute)
        cases = parity.fitting(component.cases, written.inputs)
        measured = parity.measure(run, cases, component.outputs, floor, engine)
    except parity.UnknownOperationError:
        return None

    def lost_at() -> list[ParityDrop]:
        case = parity.worst_case(run, cases, component.outputs)
        return worst_layers(format, _with_weights(component, model_path), written.path, case, measured.floor_db)

    parity.require(measured, f"{component.name} as {format} {precision}", lost_at)
    return measured


def _draw(
    root: Path, graphs: Sequence[GraphEntry], model_path: Path, reference: Pictures, amount: Amount
) -> PictureParity:
    """Errors: GeninError for pictures that differ by more than they may, of graphs whose own parity does not say it."""
    from genin.export.checks import parity
    from genin.export.checks.pictures import compare, draw_with_graphs

    of = {graph.component: graph for graph in graphs}

    def open_graph(name: str) -> parity.Run:
        return parity.open_graph(of[name].format, name, root / of[name].path, of[name].inputs, of[name].outputs)[0]

    with quiet():
        drawn = draw_with_graphs(model_path, open_graph, amount)
        found = compare(drawn, reference, graphs[0].format, graphs[0].precision)
    rough = any(graph.parity is not None and graph.parity.floor_db == parity.LOW_PRECISION_FLOOR_DB for graph in graphs)
    if rough:
        _require_alike(found.psnr_db, found.lpips_squeeze, f"{found.format} {found.precision}")
    return found


def _require_alike(psnr_db: float, lpips: float | None, where: str) -> None:
    """Errors: GeninError for pictures that differ by more than they may."""
    if psnr_db >= PSNR_LIMIT_DB if lpips is None else lpips <= LPIPS_LIMIT:
        return
    said = f"PSNR is {psnr_db:.1f} dB, {PSNR_LIMIT_DB:g} at least are wanted"
    if lpips is not None:
        said = f"LPIPS is {lpips:.3f}, {LPIPS_LIMIT:g} at most is allowed"
    raise GeninError(
        f"its pictures differ too much from PyTorch's: {said}",
        where=where,
        remedy="keep the layers that mind it wider: genin plan MODEL --out PLAN.json; no bundle was written",
    )


def _with_weights(component: Component, model_path: Path) -> Component:
    """The component, read again: its weights were given back."""
    from genin.distill.models.folder import load_model_folder
    from genin.export.components import modules

    with quiet():
        return replace(component, module=modules(load_model_folder(model_path))[component.name].eval())


def _files_of(graph: Path) -> list[Path]:
    """A graph's own files: all of a package folder; else the file and the weights beside it. Client files come later."""
    if graph.is_dir():
        return sorted(path for path in graph.rglob("*") if path.is_file())
    return [graph, *sorted(path for path in graph.parent.iterdir() if path.is_file() and path != graph)]


def _with_files(root: Path, manifest: Manifest) -> Manifest:
    """The manifest with every file that no graph and no golden entry lists."""
    listed = manifest.all_files()
    found = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    entries: tuple[FileEntry, ...] = tuple(file_entry(root, path) for path in found if path not in listed)
    return replace(manifest, files=entries)

"""All graphs of a bundle, measured, and its manifest, in a folder that is not visible yet.

One network is converted to everything and its weights released before its graphs are run, one after another, and before the next:
the peak of memory is one converter's, or one engine's, with the largest network. At the end pictures are drawn through each format
and precision and compared with PyTorch's.

Not here: options and the place where the bundle appears (`exporter`), one conversion (`conversion`), what is good enough
(`checks.acceptance`), what the manifest says about the model (`manifest_of`).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from genin.distill.loop.host import check_memory
from genin.distill.loop.memory import FP32
from genin.distill.models.folder import ModelFolder, load_model_folder
from genin.export.checks import acceptance, parity
from genin.export.checks.pictures import Drawn, draw_with_pytorch, mean_lpips
from genin.export.client_files import write_client_files
from genin.export.components import Component, components, modules
from genin.export.conversion import check_space, convert, graph_facts, release_weights
from genin.export.converters.formats import TABLE, Target, Written, formats_of_single
from genin.export.converters.quiet import quiet
from genin.export.converters.single_graph import check_unrollable, single_graph
from genin.export.manifest_of import bundle_card, check_describable, manifest_of
from genin.export.precision_plan import Plan, check_layers
from genin.export.prompt_set import Amount
from genin.export.shapes import Shapes
from genin.runtimes.bundle import file_entry, is_packed_name, write_manifest
from genin.runtimes.manifest import (
    FileEntry,
    GoldenEntry,
    GraphEntry,
    Manifest,
    Parity,
    PictureParity,
    SingleGraphEntry,
)
from genin.runtimes.vocabulary import ALL_COMPONENTS, COMPONENTS, MORE_PRECISIONS, PRECISIONS, TEXT_TO_IMAGE
from genin.runtimes.wording import counted

Progress = Callable[[str], None]
COPIES = 2.5  # how often the weights are in memory at the peak


@dataclass(frozen=True)
class Job:
    """One export: the model folder `model` in `formats` and by `plans`, assembled in the folder `root` for a bundle called `name`.
    `single_graphs` are numbers of steps that are also written as one graph; `components` are COMPONENTS, or ALL_COMPONENTS."""

    model: Path
    root: Path
    name: str
    formats: Sequence[str]
    plans: Sequence[Plan]
    single_graphs: Sequence[int]
    shapes: Shapes
    components: Sequence[str] = ALL_COMPONENTS
    progress: Progress = lambda _: None

    @property
    def parts(self) -> int:
        """How often `progress` is called."""
        count, kinds = len(self.plans), len(self.formats)
        single = len(self.single_graphs) * (1 + len(formats_of_single(self.formats)) * (1 + count))
        return len(self.components) * kinds * (1 + count) + kinds * count + single + 2


@dataclass
class Made:
    """What a job has made so far."""

    graphs: list[GraphEntry] = field(default_factory=list)
    golden: list[GoldenEntry] = field(default_factory=list)
    pictures: list[PictureParity] = field(default_factory=list)
    single: list[SingleGraphEntry] = field(default_factory=list)


def assemble(job: Job) -> Manifest:
    """Write everything into `job.root`, the manifest last.

    Errors: InputError for a model that cannot be exported, GeninError for a graph that is not good enough.
    """
    job.progress("reading the model, running the golden inputs")
    with quiet():
        model = load_model_folder(job.model)
        check_describable(job.model)
        _check_model(job, model)
    warn_of_little_memory(model)
    with quiet():
        waiting = components(model, job.shapes, job.components)
        amount = Amount.of(model, single_step=not any(plan.judged_by_pictures for plan in job.plans))
        reference = draw_with_pytorch(model, amount)
    model.tokenizer.save_pretrained(job.root / "tokenizer")
    made = Made()
    while waiting:
        component = waiting.pop(0)
        made.golden.append(_write_golden(job.root, component))
        made.graphs += _graphs_of(job, replace(component, calibration=reference.inputs[component.name]))
    made.pictures += _draw_with_each(job, made.graphs, reference, amount)
    for steps in job.single_graphs:
        made.single += _single_graphs(job, steps, amount)
    return _describe(job, model, made)


def warn_of_little_memory(model: ModelFolder) -> None:
    """Warn where the estimated peak is above what this process may use: while a network is converted it is there about 2.5 times
    (docs/export.md has measured peaks)."""
    networks = (model.text_encoder, model.unet, model.vae)
    weights = sum(parameter.numel() for network in networks for parameter in network.parameters())
    check_memory("exporting", int(COPIES * FP32 * weights), torch.device("cpu"), list)


def _check_model(job: Job, model: ModelFolder) -> None:
    """Errors: InputError for a plan or a number of steps that does not fit the model, or too little space on the disk."""
    networks = modules(model)
    for name, network in networks.items():
        for plan in job.plans:
            check_layers(plan, name, network)
    for steps in job.single_graphs:
        check_unrollable(model, steps)
    copies = 2 if is_packed_name(job.name) else 1  # packing needs the space twice for a while
    formats = [*job.formats, *formats_of_single(job.formats) * len(job.single_graphs)]
    check_space({name: networks[name] for name in job.components}, formats, job.plans, copies, job.root)


def _write_golden(root: Path, component: Component) -> GoldenEntry:
    path = f"golden/{component.name}.npz"
    parity.write_golden(root / path, component.cases)
    entry = file_entry(root, path)
    return GoldenEntry(entry.path, entry.sha256, entry.size_bytes, component.name)


def _graphs_of(job: Job, component: Component) -> list[GraphEntry]:
    """One network in every format and precision, each above its parity floor."""
    written: dict[tuple[str, str], Written] = {}
    for format in job.formats:
        job.progress(f"{component.name} to {format}")
        place = TABLE[format].places[component.name]
        targets = [Target(plan, job.root / format / plan.name / place) for plan in job.plans]
        graphs = convert(job.root, component, format, targets)
        written |= {(format, precision): graph for precision, graph in graphs.items()}
    release_weights(component.module)
    entries = []
    for (format, precision), graph in written.items():
        job.progress(f"running {component.name} as {format} {precision}")
        measured = acceptance.require_parity(component, format, precision, graph, job.model)
        facts = graph_facts(job.root, component, format, precision, graph)
        entries.append(GraphEntry(**facts, parity=measured))
        gc.collect()
    return entries


def _draw_with_each(job: Job, graphs: Sequence[GraphEntry], reference: Drawn, amount: Amount) -> list[PictureParity]:
    """How the pictures of every format and precision compare with PyTorch's."""
    pictures = []
    for format in job.formats:
        for plan in job.plans:
            job.progress(f"drawing with {format} {plan.name}")
            kind = [
                graph
                for graph in graphs
                if (graph.format, graph.precision) == (format, plan.name) and graph.component in COMPONENTS
            ]
            if all(graph.parity for graph in kind):  # a graph that nothing here runs cannot draw
                pictures.append(acceptance.require_pictures(job.root, kind, job.model, reference.pictures, amount))
    return pictures


def _single_graphs(job: Job, steps: int, amount: Amount) -> list[SingleGraphEntry]:
    """One number of steps as a single graph in every format and precision, its pictures compared with PyTorch's."""
    name = f"{TEXT_TO_IMAGE}_{steps}"
    job.progress(f"drawing and unrolling {counted(steps, 'step')}")
    with quiet():
        component, guidance_scale = single_graph(load_model_folder(job.model), steps, amount, job.shapes)
    parity.write_golden(job.root / f"golden/{name}.npz", component.cases)
    golden = file_entry(job.root, f"golden/{name}.npz")
    written: dict[tuple[str, str], Written] = {}
    for format in formats_of_single(job.formats):
        job.progress(f"{counted(steps, 'step')} to {format}")
        places = {plan.name: job.root / format / plan.name / name / str(TABLE[format].single) for plan in job.plans}
        graphs = convert(job.root, component, format, [Target(plan, places[plan.name]) for plan in job.plans])
        written |= {(format, precision): graph for precision, graph in graphs.items()}
    release_weights(component.module)
    entries = []
    for (format, precision), graph in written.items():
        job.progress(f"drawing with {format} {precision} in one graph")
        measured, lpips = _measure_single(
            component, format, precision, graph, f"{counted(steps, 'step')} as a single graph"
        )
        facts = graph_facts(job.root, component, format, precision, graph)
        entries.append(
            SingleGraphEntry(
                **facts,
                parity=measured,
                steps=steps,
                guidance_scale=guidance_scale,
                golden=golden,
                lpips_squeeze=lpips,
            )
        )
    return entries


def _measure_single(
    component: Component, format: str, precision: str, graph: Written, what: str
) -> tuple[Parity, float | None]:
    """Parity and LPIPS of a single graph's pictures. Errors: GeninError for one that is not good enough."""
    run, engine = parity.open_graph(format, component.name, graph.path, graph.inputs, graph.outputs)
    floor = parity.floor_db(component.name, format, precision, graph.stored, graph.compute)
    measured, drawn = parity.measure_pictures(run, component.cases, floor, engine)
    del run
    gc.collect()
    where = f"{what}, {format} {precision}"
    parity.require(measured, where)
    lpips = mean_lpips(drawn, np.concatenate([case["images"] for case in component.cases]))
    if floor == parity.LOW_PRECISION_FLOOR_DB:
        acceptance.require_alike(measured.psnr_db, lpips, where)
    return measured, lpips


def _describe(job: Job, model: ModelFolder, made: Made) -> Manifest:
    """Client files, plans, the card and the manifest."""
    job.progress("describing the bundle")
    names = [plan.name for plan in job.plans]
    for format in job.formats:
        for name in names:
            write_client_files(job.root / format / name, format, model, job.root / "tokenizer", job.components)
    for plan in job.plans:
        if plan.name not in (*PRECISIONS, *MORE_PRECISIONS):
            (job.root / f"{plan.name}.plan.json").write_text(plan.to_json(), encoding="utf-8")
    graphs = sorted(made.graphs, key=lambda graph: (job.formats.index(graph.format), names.index(graph.precision)))
    title = Path(job.name).stem if is_packed_name(job.name) else job.name
    manifest = manifest_of(job.model, title, tuple(graphs), tuple(made.golden), tuple(made.pictures))
    manifest = replace(manifest, single_graphs=tuple(made.single))
    if not job.shapes.any_size:
        manifest = replace(manifest, image=replace(manifest.image, multiple=None))
    (job.root / "README.md").write_text(bundle_card(manifest, job.name), encoding="utf-8")
    manifest = _with_files(job.root, manifest)
    write_manifest(manifest, job.root)
    return manifest


def _with_files(root: Path, manifest: Manifest) -> Manifest:
    """The manifest with every file that no graph and no golden entry lists."""
    listed = manifest.all_files()
    found = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    entries: tuple[FileEntry, ...] = tuple(file_entry(root, path) for path in found if path not in listed)
    return replace(manifest, files=entries)

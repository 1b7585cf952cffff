"""Is a bundle what it says? Hashes of all files, then every graph that can run here against the golden files.

Works with numpy and the engines alone. With `against`, references are computed by PyTorch from a model folder, so that the bundle's
own golden files need not be trusted: only their inputs are used.

A graph whose engine is absent is neither good nor bad: its `ok` is None and `notes` says why. If no graph could be run, the
bundle is not verified, whatever its hashes. Core ML programs run on a Mac, and elsewhere through an interpreter that needs
PyTorch and coremltools. A graph that cannot be loaded is bad.

Not here: schema and paths, which `Bundle.open` refuses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from genin.export.checks import parity
from genin.export.errors import UnknownOperationError
from genin.runtimes.bundle import Bundle
from genin.runtimes.errors import GeninError, InputError, MissingExtraError
from genin.runtimes.manifest import GraphEntry, SingleGraphEntry
from genin.runtimes.names import Names
from genin.runtimes.tensors import INPUTS, OUTPUTS
from genin.runtimes.vocabulary import FORMATS

Cases = list[dict[str, Any]] | str  # golden cases, or what is wrong with them


@dataclass(frozen=True)
class GraphReport:
    """One graph's parity, of a single graph's median picture; `ok` is None if it was not run."""

    name: str
    component: str
    format: str
    precision: str
    psnr_db: float | None
    max_abs: float | None
    floor_db: float
    ok: bool | None
    note: str | None = None

    def verdict(self) -> str:
        """For people: "ok", or what is wrong or unknown."""
        return "ok" if self.ok else self.note or "below the floor"


@dataclass(frozen=True)
class Report:
    """What `genin.verify` found.

    Attributes:
        files: path => whether it has the manifest's hash.
        graphs: what each graph gave.
        notes: what else there is to say.
    """

    files: Mapping[str, bool]
    graphs: tuple[GraphReport, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Is a file damaged or a graph bad?"""
        return not all(self.files.values()) or any(graph.ok is False for graph in self.graphs)

    @property
    def ok(self) -> bool:
        """Nothing failed, and at least one graph was run: right hashes alone say nothing of what the graphs compute."""
        return not self.failed and any(graph.ok for graph in self.graphs)

    @property
    def not_run(self) -> Mapping[str, int]:
        """Why graphs were not run => how many of them."""
        return Counter(str(graph.note) for graph in self.graphs if graph.ok is None)

    def as_json(self) -> dict[str, Any]:
        """The object `genin verify --json` prints."""
        notes = {f"{g.format}/{g.precision}/{g.name}": g.note for g in self.graphs if g.note}
        return {
            "ok": self.ok,
            "not_run": dict(self.not_run),
            "graphs": [{k: v for k, v in asdict(graph).items() if k != "note"} for graph in self.graphs],
            "files": [{"path": path, "sha256_ok": good} for path, good in self.files.items()],
            "notes": {**self.notes, **notes},
        }


def verify_named(names: Names, bundle: str, against: str | None) -> Report:
    """`verify_bundle` of names. Errors: InputError for a bundle that is to be compared with itself: it would always be right."""
    path = names.model(bundle, None, None)
    if against is None:
        return verify_bundle(path)
    if names.model(against, "onnxruntime").resolve() == path.resolve():
        what, remedy = "a bundle cannot be the reference of itself", "give the model that it was exported from"
        raise InputError(what, where=against, remedy=remedy)
    return verify_bundle(path, against=names.folder(against))


def verify_bundle(path: Path, *, against: Path | None = None) -> Report:
    """Check a bundle folder or `.genin`. Errors: BundleError if it cannot be opened at all, InputError for `against`."""
    with Bundle.open(path) as bundle:
        files, manifest = bundle.hash_report(), bundle.manifest
        references = _References(bundle, files, against)
        every = (*manifest.graphs, *manifest.single_graphs)
        graphs = tuple(_check(bundle, graph, files, references.of(graph)) for graph in every)
    return Report(files, graphs)


class _References:
    """The golden cases of each graph, read once; with `against`, their outputs are PyTorch's of that model folder."""

    def __init__(self, bundle: Bundle, files: Mapping[str, bool], against: Path | None) -> None:
        self._bundle, self._files = bundle, files
        self._places = {entry.component: entry.path for entry in bundle.manifest.golden}
        self._model = None if against is None else _usable_model(against)
        self._cases: dict[str, Cases] = {}

    def of(self, graph: GraphEntry) -> Cases:
        """The cases, or what is wrong with them."""
        path = graph.golden.path if isinstance(graph, SingleGraphEntry) else self._places.get(graph.component)
        if path is None:
            return "the bundle has no golden file of this component"
        if path not in self._cases:
            self._cases[path] = self._read(path, graph)
        return self._cases[path]

    def _read(self, path: str, graph: GraphEntry) -> Cases:
        if not self._files[path]:
            return f"'{path}' is damaged or was changed"
        try:
            names = (*INPUTS[graph.component], *OUTPUTS[graph.component])
            golden = parity.read_golden(self._bundle.read_bytes(path), names)
            return golden if self._model is None else _anew(self._model, graph, golden)
        except GeninError as error:
            return str(error)
        except (RuntimeError, ValueError, TypeError, LookupError) as error:  # PyTorch, given tensors of other sizes
            return f"the model does not take the bundle's golden inputs ({' '.join(str(error).split())[:160]})"


def _usable_model(path: Path) -> Any:
    from genin.distill.models.folder import load_model_folder
    from genin.export.components import check_finite, modules
    from genin.export.converters.quiet import quiet

    with quiet():
        model = load_model_folder(path)
    for name, network in modules(model).items():
        check_finite(name, network)
    return model


def _anew(model: Any, graph: GraphEntry, golden: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cases with PyTorch's outputs in place of the bundle's; a single graph's are drawn step by step, network by network."""
    from genin.export.components import modules, run_module
    from genin.export.converters.quiet import quiet
    from genin.export.converters.single_graph import step_by_step

    with quiet():
        if isinstance(graph, SingleGraphEntry):
            draw = step_by_step(model, graph.steps, graph.guidance_scale)
            return [{**case, "images": draw(case["input_ids"], case["noise"])} for case in golden]
        network, outputs = modules(model)[graph.component], OUTPUTS[graph.component]
        return [{**case, **run_module(network, case, outputs)} for case in golden]


def _check(bundle: Bundle, graph: GraphEntry, files: Mapping[str, bool], cases: Cases) -> GraphReport:
    single = isinstance(graph, SingleGraphEntry)
    floor = parity.floor_db(graph.component, graph.format, graph.precision, graph.stored, graph.compute)
    report = GraphReport(graph.name, graph.component, graph.format, graph.precision, None, None, floor, None)
    damaged = [file.path for file in graph.files if not files[file.path]]
    if damaged:
        return replace(report, ok=False, note=f"'{damaged[0]}' is damaged or was changed")
    try:
        if graph.format not in FORMATS:
            return replace(report, note=f"this genin runs no {graph.format}")
        if not isinstance(cases, list):
            return replace(report, ok=False, note=cases)
        place = bundle.local_graph(graph)
        run, engine = parity.open_graph(graph.format, graph.component, place, graph.inputs, graph.outputs)
        if single:
            measured, _ = parity.measure_pictures(run, cases, floor, engine)
        else:
            fitting = parity.fitting(graph.component, cases, graph.inputs)
            measured = parity.measure(run, fitting, OUTPUTS[graph.component], floor, engine)
    except MissingExtraError as error:
        return replace(report, note=str(error))
    except UnknownOperationError as error:
        return replace(report, note=f"not run: {error}")
    except GeninError as error:
        return replace(report, ok=False, note=str(error))
    except (RuntimeError, ValueError, TypeError, LookupError) as error:  # what engines raise when a graph does not run
        return replace(report, ok=False, note="the graph does not run: " + " ".join(str(error).split())[:160])
    ok = measured.psnr_db >= floor
    return replace(report, psnr_db=measured.psnr_db, max_abs=measured.max_abs, ok=ok)

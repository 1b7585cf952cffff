"""Is a bundle what it says? Hashes of all files, then every graph that can run here against the golden files.

Works with numpy and the engines alone. With `against`, references are computed anew by PyTorch from a model folder, so
that the bundle's own golden files need not be trusted: its inputs are used, its outputs are not.

A graph whose engine is absent is neither good nor bad: its `ok` is None and `notes` says why. Core ML programs run on a Mac, and
elsewhere through an interpreter that needs PyTorch and coremltools. A graph that cannot be loaded is bad.

Not here: schema and paths, which `Bundle.open` refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from genin.export import parity
from genin.export.formats import OUTPUTS
from genin.runtimes.bundle import Bundle
from genin.runtimes.engine import INPUTS
from genin.runtimes.errors import BundleError, GeninError
from genin.runtimes.manifest import GraphEntry, SingleGraphEntry
from genin.runtimes.options import FORMATS

Cases = list[dict[str, Any]] | str  # golden cases, or what is wrong with them


@dataclass(frozen=True)
class GraphReport:
    """One graph's parity, of a single graph's median picture; `ok` is None if it was not run."""

    component: str
    format: str
    precision: str
    psnr_db: float | None
    max_abs: float | None
    floor_db: float
    ok: bool | None
    note: str | None = None
    steps: int | None = None

    @property
    def name(self) -> str:
        """Its component, of a single graph with the number of its steps."""
        return self.component if self.steps is None else f"{self.component}_{self.steps}"

    def verdict(self) -> str:
        """For people: "ok", or what is wrong or unknown."""
        return "ok" if self.ok else self.note or "below the floor"


@dataclass(frozen=True)
class Report:
    """`files`: path => has it the manifest's hash?"""

    files: Mapping[str, bool]
    graphs: tuple[GraphReport, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Every hash right and no graph bad."""
        return all(self.files.values()) and all(graph.ok is not False for graph in self.graphs)

    def as_json(self) -> dict[str, Any]:
        """The object `genin verify --json` prints."""
        notes = {f"{g.format}/{g.precision}/{g.name}": g.note for g in self.graphs if g.note}
        return {
            "ok": self.ok,
            "graphs": [{k: v for k, v in asdict(graph).items() if k != "note"} for graph in self.graphs],
            "files": [{"path": path, "sha256_ok": good} for path, good in self.files.items()],
            "notes": {**self.notes, **notes},
        }


def verify_bundle(path: Path, *, against: Path | None = None) -> Report:
    """Check a bundle folder or `.genin`. Errors: BundleError if it cannot be opened at all, InputError for `against`."""
    with Bundle.open(path) as bundle:
        files = bundle.hash_report()
        cases = _references(bundle, files, against)
        graphs = [_check(bundle, graph, files, cases.get(graph.component)) for graph in bundle.manifest.graphs]
        for graph in bundle.manifest.single_graphs:
            report = _check(bundle, graph, files, _pictures(bundle, graph, files, against))
            graphs.append(replace(report, steps=graph.steps))
    return Report(files, tuple(graphs))


def _references(bundle: Bundle, files: Mapping[str, bool], against: Path | None) -> dict[str, Cases]:
    """Component => its golden cases, or what is wrong with them."""
    model = None if against is None else _networks(against)
    cases: dict[str, Cases] = {}
    for entry in bundle.manifest.golden:
        if not files[entry.path]:
            cases[entry.component] = f"'{entry.path}' is damaged or was changed"
            continue
        golden = _golden(bundle, entry.path, entry.component)
        if model is not None and isinstance(golden, list):
            golden = [model(entry.component, case) for case in golden]
        cases[entry.component] = golden
    return cases


def _golden(bundle: Bundle, path: str, component: str) -> Cases:
    try:
        return parity.read_golden(bundle.read_bytes(path), (*INPUTS[component], *OUTPUTS[component]))
    except BundleError as error:
        return str(error)


def _pictures(bundle: Bundle, graph: SingleGraphEntry, files: Mapping[str, bool], against: Path | None) -> Cases:
    """A single graph's golden cases; of a model folder the pictures are drawn anew, step by step."""
    path = graph.golden.path
    if not files[path]:
        return f"'{path}' is damaged or was changed"
    golden = _golden(bundle, path, graph.component)
    if against is None or isinstance(golden, str):
        return golden
    from genin.distill.model_folder import load_model_folder
    from genin.export.quiet import quiet
    from genin.export.single_graph import step_by_step

    with quiet():
        draw = step_by_step(load_model_folder(against), graph.steps, graph.guidance_scale)
        return [{**case, "images": draw(case["input_ids"], case["noise"])} for case in golden]


def _networks(path: Path) -> Any:
    """(component, case) => the case with PyTorch's outputs in the place of the bundle's."""
    from genin.distill.model_folder import load_model_folder
    from genin.export.components import check_finite, modules, run_module
    from genin.export.quiet import quiet

    with quiet():
        model = load_model_folder(path)
    networks = modules(model)
    for name, network in networks.items():
        check_finite(name, network)

    def run(component: str, case: dict[str, Any]) -> dict[str, Any]:
        return {**case, **run_module(networks[component], case, OUTPUTS[component])}

    return run


def _check(bundle: Bundle, graph: GraphEntry, files: Mapping[str, bool], cases: Cases | None) -> GraphReport:
    single = isinstance(graph, SingleGraphEntry)
    floors = parity.PICTURE_FLOORS_DB if single else parity.FLOORS_DB
    floor = parity.floor_db(graph.format, graph.precision, graph.stored, graph.compute, floors)
    report = GraphReport(graph.component, graph.format, graph.precision, None, None, floor, None)
    damaged = [file.path for file in graph.files if not files[file.path]]
    if damaged:
        return replace(report, ok=False, note=f"'{damaged[0]}' is damaged or was changed")
    try:
        if graph.format not in FORMATS:
            return replace(report, note=f"this genin runs no {graph.format}")
        if not isinstance(cases, list):
            return replace(report, ok=False, note=cases or "the bundle has no golden file of this component")
        place = bundle.local_graph(graph)
        run, engine = parity.open_graph(graph.format, graph.component, place, graph.inputs, graph.outputs)
        if single:
            measured, _ = parity.measure_pictures(run, cases, floor, engine)
        else:
            measured = parity.measure(run, cases, OUTPUTS[graph.component], floor, engine)
    except ModuleNotFoundError as error:
        return replace(report, note=f"'{error.name}' is not installed")
    except parity.UnknownOperationError as error:
        return replace(report, note=f"not run: {error}")
    except GeninError as error:
        return replace(report, ok=False, note=str(error))
    except (RuntimeError, ValueError, TypeError, KeyError) as error:  # what engines raise when a graph does not run
        return replace(report, ok=False, note="the graph does not run: " + " ".join(str(error).split())[:160])
    ok = measured.psnr_db >= floor
    return replace(report, psnr_db=measured.psnr_db, max_abs=measured.max_abs, ok=ok)

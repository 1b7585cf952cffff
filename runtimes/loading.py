"""Open a model folder or a bundle as a `Pipeline`: which runtime, which format, which precision.

`load_pipeline` takes local paths; `genin.load` also takes built-in names and hub names.

Not here: drawing (`pipeline`), what an engine is (`engine`), reading a bundle (`bundle`) or a model folder (`folder`)."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from genin.runtimes.added_tokens import read_added_tokens
from genin.runtimes.arguments import local_path
from genin.runtimes.bundle import GIVE_A_MODEL, TOKENIZER, Bundle, Manifest, is_bundle, why_no_bundle
from genin.runtimes.engine import ENGINES, BundleEngine, Engine, EngineSettings, engine_class
from genin.runtimes.errors import InputError
from genin.runtimes.folder import added_tokens, is_model_folder, read_constants
from genin.runtimes.measured import Decision, Way, decide, forget
from genin.runtimes.memory import check_max_memory
from genin.runtimes.pipeline import Choice, Pipeline
from genin.runtimes.samplers import Schedule
from genin.runtimes.threads import check_threads
from genin.runtimes.tokenizer import ClipTokenizer
from genin.runtimes.tokenizer_files import tokenizer_files
from genin.runtimes.vocabulary import AUTO, COMPONENTS, FOLDER_PRECISIONS, PRECISIONS, check_choice, check_device

# The first of these that can run. Core ML is last because its first load compiles for minutes.
AUTO_ORDER = ("openvino", "onnxruntime", "coreml")


def load_pipeline(
    path: str | Path,
    runtime: str = AUTO,
    precision: str = AUTO,
    *,
    threads: int | None = None,
    device: str = "cpu",
    max_memory: int | None = None,
) -> Pipeline:
    """Open a model folder, a bundle folder or a `.genin` file.

    `auto` takes the runtime and the number of threads that draw a bundle fastest here (`measured`), in its most exact
    precision; a model folder runs on `pytorch`, on `device` (cpu, cuda, cuda:1, mps), in fp32 or with its UNet in bf16 or fp16.
    `threads` pins the engine's threads within an operator. `max_memory` is the bytes that a bundle's networks may take: as many
    stay loaded as fit, the others are loaded for every picture.
    Errors: InputError (BundleError for a bundle that is refused, MissingExtraError with the line that installs).
    """
    settings = EngineSettings(threads, max_memory=max_memory)
    return open_pipeline(path, runtime, precision, settings, device)


def open_pipeline(path: str | Path, runtime: str, precision: str, settings: EngineSettings, device: str) -> Pipeline:
    """`load_pipeline` for those who know more of what is drawn, or of what else the process does: `settings`."""
    start, path = time.perf_counter(), local_path(path, "the model")
    check_choice(runtime, (AUTO, *ENGINES), "runtime")
    if not isinstance(precision, str):
        raise InputError(
            f"precision {precision!r} is not a text", remedy=f"choose from {', '.join((AUTO, *PRECISIONS))}"
        )
    device = check_device(device)
    threads, max_memory = check_threads(settings.threads), check_max_memory(settings.max_memory)
    settings = replace(settings, threads=threads, max_memory=max_memory)
    if path.is_dir() and is_model_folder(path):
        if settings.max_memory is not None:
            raise InputError("max_memory is for bundles", where=path, remedy="export the model folder (genin export)")
        pipeline = _load_folder(path, runtime, precision, settings, device)
    elif is_bundle(path):
        if device != "cpu":
            remedy = "leave the device out, or give the model folder that the bundle was exported from"
            raise InputError(f"a bundle runs on the cpu, not on {device}", where=path, remedy=remedy)
        pipeline = _load_bundle(path, runtime, precision, settings)
    else:
        what, remedy = why_no_bundle(path) if path.is_file() else ("neither model nor bundle", GIVE_A_MODEL)
        if str(path).startswith("builtin:"):
            remedy = f'use genin.load("{path}")'
        raise InputError(what if path.exists() else "no such model or bundle", where=path, remedy=remedy)
    pipeline.load_s = time.perf_counter() - start
    return pipeline


def _load_folder(path: Path, runtime: str, precision: str, settings: EngineSettings, device: str) -> Pipeline:
    if runtime not in (AUTO, "pytorch"):
        remedy = "export it to a bundle (`genin export`), or choose runtime pytorch"
        raise InputError(f"runtime {runtime} runs bundles, but this is a model folder", where=path, remedy=remedy)
    if precision not in (AUTO, *FOLDER_PRECISIONS):
        known = f"{', '.join(FOLDER_PRECISIONS[:-1])} or {FOLDER_PRECISIONS[-1]}"
        raise InputError(
            f"a model folder runs in {known}, not {precision}", where=path, remedy="leave the precision out"
        )
    if precision == "fp16" and device == "cpu":
        raise InputError("fp16 is for cuda and mps", where=path, remedy="on the cpu, use precision bf16")
    kind, chosen = engine_class("pytorch"), FOLDER_PRECISIONS[0] if precision == AUTO else precision
    return folder_pipeline(
        path,
        lambda: kind.open(path, settings=settings, device=device, precision=chosen),
        runtime="pytorch",
        precision=chosen,
    )


def folder_pipeline(path: Path, open_engine: Callable[[], Engine], *, runtime: str, precision: str) -> Pipeline:
    """A model folder's tokenizer, sampler and sizes around any engine, which is opened last. Errors: InputError."""
    constants = read_constants(path)
    files = tokenizer_files(path / TOKENIZER)
    tokenizer = ClipTokenizer(files["vocab.json"], files["merges.txt"], constants.text, added_tokens(path))
    try:
        Schedule.from_config(constants.sampler.scheduler)  # refuse before the weights are read
    except InputError as error:
        raise InputError(
            error.what,
            where=path / "scheduler" / "scheduler_config.json",
            remedy=error.remedy or "give another scheduler",
        ) from error
    return Pipeline(path, open_engine(), tokenizer, constants, Choice(runtime, precision))


def _load_bundle(path: Path, runtime: str, precision: str, settings: EngineSettings) -> Pipeline:
    with _closed_on_failure(Bundle.open(path)) as bundle:
        way = _decide(bundle, runtime, precision, settings, again=False).way
        return _pipeline_of(bundle, way.choice, replace(settings, threads=way.threads))


def decide_for(path: Path, runtime: str, precision: str, settings: EngineSettings, *, again: bool = False) -> Decision:
    """What runs a bundle, and why; with `again`, measured anew. Errors: InputError saying what the bundle has."""
    with Bundle.open(path) as bundle:
        return _decide(bundle, runtime, precision, settings, again=again)


def _decide(bundle: Bundle, runtime: str, precision: str, settings: EngineSettings, *, again: bool) -> Decision:
    path, manifest = bundle.path, bundle.manifest
    choices = runnable(manifest, runtime, precision, path)
    # Of a bundle on the hub only one is downloaded.
    choices = [choice for choice in choices if bundle.has_graphs(choice.format, choice.precision)] or choices
    if runtime != AUTO:
        return Decision(Way(choices[0], settings.threads), "as asked for")
    if settings.max_memory is not None:
        choices = [choice for choice in choices if choice.runtime != "coreml"] or choices
        return Decision(
            Way(choices[0], settings.threads), "memory is limited, not measured: the first that is installed"
        )
    files = sorted((name, entry.sha256) for name, entry in manifest.all_files().items())
    identity = hashlib.sha256(repr(files).encode()).hexdigest()
    if again:
        forget(identity, choices, settings)
    graphs = manifest.components(choices[0].format, choices[0].precision).values()
    graph_bytes = sum(file.size_bytes for graph in graphs for file in graph.files)
    return decide(identity, choices, settings, graph_bytes, lambda choice, own: _open_bundle(path, choice, own))


def _open_bundle(path: Path, choice: Choice, settings: EngineSettings) -> Pipeline:
    with _closed_on_failure(Bundle.open(path)) as bundle:
        return _pipeline_of(bundle, choice, settings)


@contextmanager
def _closed_on_failure(bundle: Bundle) -> Iterator[Bundle]:
    """The bundle, which a pipeline keeps open, unless the body fails."""
    try:
        yield bundle
    except BaseException:
        bundle.close()
        raise


def _pipeline_of(bundle: Bundle, choice: Choice, settings: EngineSettings) -> Pipeline:
    manifest = bundle.manifest
    constants = manifest.constants
    if choice.format == "coreml":
        constants = replace(constants, image=replace(constants.image, multiple=None))
    tokenizer = bundle_tokenizer(bundle)
    graphs = manifest.components(choice.format, choice.precision)
    single = manifest.steps_of_single_graphs(choice.format, choice.precision)
    engine = engine_class(choice.runtime).open(bundle, graphs, single=single, settings=settings)
    if isinstance(engine, BundleEngine):
        steps = manifest.sampler.default_steps
        engine.load([steps] if steps in single else COMPONENTS)
    return Pipeline(bundle.path, engine, tokenizer, constants, choice, bundle)


def bundle_tokenizer(bundle: Bundle) -> ClipTokenizer:
    """Errors: BundleError, InputError for a tokenizer that is damaged."""
    vocabulary, merges = (bundle.read_bytes(f"{TOKENIZER}/{name}") for name in ("vocab.json", "merges.txt"))
    added = read_added_tokens(lambda name: _listed(bundle, f"{TOKENIZER}/{name}"))
    return ClipTokenizer(vocabulary, merges, bundle.manifest.text, added)


def _listed(bundle: Bundle, path: str) -> bytes | None:
    return bundle.read_bytes(path) if path in bundle.manifest.all_files() else None


def choose(manifest: Manifest, runtime: str, precision: str, path: Path) -> Choice:
    """What runs a bundle, where nothing is measured. Errors: InputError saying what the bundle has."""
    return runnable(manifest, runtime, precision, path)[0]


def runnable(manifest: Manifest, runtime: str, precision: str, path: Path) -> Sequence[Choice]:
    """What could run a bundle here, at least one. Errors: InputError saying what the bundle has."""
    if runtime == "pytorch":
        raise InputError("runtime pytorch runs model folders, but this is a bundle", where=path, remedy="leave it out")
    candidates = [
        Choice(name, found, format)
        for name in (AUTO_ORDER if runtime == AUTO else (runtime,))
        for format in ENGINES[name].formats
        if (found := _choose_precision(manifest.precisions(format), precision))
    ]
    if not candidates:
        have = [f"{format} {name}" for format in _formats(manifest) for name in manifest.precisions(format)]
        wanted = " ".join(name for name in (runtime, precision) if name != AUTO) or "any runtime"
        remedy = f"choose from what it has: {', '.join(have)}" if have else "export it again"
        raise InputError(f"the bundle has no graphs for {wanted}", where=path, remedy=remedy)
    # If none is installed, the error (from `engine_class`) should name the smallest: ONNX Runtime.
    here = [candidate for candidate in candidates if ENGINES[candidate.runtime].reason() is None]
    smallest = [candidate for candidate in candidates if candidate.runtime == "onnxruntime"]
    # A bundle may lack its most exact precision in some format. Core ML stays last, whatever it has.
    return sorted(
        here or smallest or candidates, key=lambda one: (one.runtime == "coreml", _inexactness(one.precision))
    )


def _choose_precision(have: Sequence[str], wanted: str) -> str | None:
    if wanted != AUTO:
        return wanted if wanted in have else None
    return min(have, key=_inexactness, default=None)


def _inexactness(precision: str) -> int:
    return PRECISIONS.index(precision) if precision in PRECISIONS else len(PRECISIONS)


def _formats(manifest: Manifest) -> list[str]:
    return list(dict.fromkeys(graph.format for graph in manifest.graphs))

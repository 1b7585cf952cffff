"""A model of the Hugging Face hub as a local folder: which files are downloaded, and what to do where that is impossible.

The small files come first, so that a family which genin does not run is refused before its gigabytes are fetched. Where weights are
stored several times, one copy is taken: safetensors, else their fp16 copy, else `.bin`. Of a bundle only the graphs that the run
uses are taken; its manifest lists them. Without a network the client's cache is used if it holds all of that.

Not here: names and errors of the hub (`repository`), reading the folder (`genin.runtimes.folder`, `genin.runtimes.bundle`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from genin.hub.repository import HubName, OfflineError, cached, list_files, snapshot
from genin.runtimes.bundle import MANIFEST, Bundle
from genin.runtimes.errors import InputError
from genin.runtimes.families import refuse_other_families
from genin.runtimes.folder import (
    AGAIN,
    MODEL_FILES,
    PARTS,
    VARIANTS,
    WEIGHT_KINDS,
    missing_files,
    read_json,
    read_model_index,
)
from genin.runtimes.loading import choose, runnable
from genin.runtimes.manifest import Manifest
from genin.runtimes.pipeline import Choice
from genin.runtimes.progress import progress
from genin.runtimes.vocabulary import AUTO

TOP_FILES = ("model_index.json", "genin.json", "README.md", "LICENSE")
SMALL = (".json", ".txt", ".md")
SINGLE_FILES = (".ckpt", ".safetensors", ".pt", ".gguf")
INDEX = "model_index.json"


def download(text: str, runtime: str | None = AUTO, precision: str | None = AUTO) -> Path:
    """The local snapshot of the hub model `owner/name` or `owner/name@revision`: what a model folder or a bundle needs, kept by the
    hub's client. Of a bundle, only the graphs for `runtime` and `precision` are fetched; all of them if either is None.

    Errors: InputError for a model that is not there, gated, of another family, without such graphs, or not available offline.
    """
    name = HubName.parse(text, "model")
    with progress(f"'{text}' is no local path: asking the Hugging Face hub", even=False):
        available = list_files(name)
    if available is None:
        return _without_network(name, text, runtime, precision)
    is_bundle = _is_bundle(available)
    wanted = [MANIFEST] if is_bundle else wanted_files(available)
    if not wanted:
        raise _no_model(name, available)
    small = snapshot(name, [file for file in wanted if not _is_weights(file)])
    if small is None:
        return _without_network(name, text, runtime, precision)
    if is_bundle:
        wanted = [file for file in bundle_files(small, name, runtime, precision) if file in available]
    else:
        read_model_index(small)
    return snapshot(name, wanted) or _without_network(name, text, runtime, precision)


def wanted_files(available: Sequence[str]) -> list[str]:
    """Those of a hub repository's files that make a model folder, with one copy of the weights.

    Single-file checkpoints at the top, other variants and safety checkers are left out. Empty for a repository that is not a model
    folder.
    """
    if INDEX not in available:
        return []
    wanted = [name for name in available if name in TOP_FILES]
    for part in PARTS:
        inside = [name for name in available if name.startswith(f"{part}/") and name.count("/") == 1]
        weights = next(filter(None, (_of_kind(inside, *kind) for kind in WEIGHT_KINDS)), [])
        indices = [name for name in inside if ".index." in name]
        small = [name for name in inside if name.endswith(SMALL) and name not in indices]
        wanted += small + [name for name in indices if _belongs(name, weights)] + weights
    return wanted


def bundle_files(folder: Path, name: HubName, runtime: str | None, precision: str | None) -> list[str]:
    """The files that a run needs of the bundle whose manifest is in `folder`: no graphs of other formats and precisions, no golden
    files, which only `genin verify` reads. Everything if `runtime` or `precision` is None.

    Errors: InputError if the bundle has no graphs for them.
    """
    with Bundle.open(folder) as bundle:
        manifest = bundle.manifest
    if runtime is None or precision is None:
        return [MANIFEST, *manifest.all_files()]
    return _files_for(choose(manifest, runtime, precision, Path(f"hub:{name}")), manifest)


def _files_for(choice: Choice, manifest: Manifest) -> list[str]:
    graphs, wanted = (*manifest.graphs, *manifest.single_graphs), (choice.format, choice.precision)
    files = [file.path for graph in graphs if (graph.format, graph.precision) == wanted for file in graph.files]
    # Beside its graphs a folder may hold files for other clients: tokenizers for OpenVINO, for example.
    others = {(graph.format, graph.precision) for graph in graphs} - {wanted}
    shared = [file.path for file in manifest.files if tuple(file.path.split("/")[:2]) not in others]
    return list(dict.fromkeys([MANIFEST, *shared, *files]))


def _of_kind(inside: Sequence[str], variant: str, suffix: str) -> list[str]:
    """Weights of a variant ("", ".fp16"), whole or in shards: `model.fp16.safetensors`, `model.fp16-00001-of-00002.safetensors`."""
    found = []
    for name in inside:
        stem = Path(name).name.removesuffix(suffix).partition("-0")[0]
        if name.endswith(suffix) and stem in (f"{known}{variant}" for known in _stems(suffix)):
            found.append(name)
    return found


def _stems(suffix: str) -> tuple[str, str]:
    return "diffusion_pytorch_model", "model" if suffix == ".safetensors" else "pytorch_model"


def _belongs(index: str, weights: Sequence[str]) -> bool:
    """Whether a list of shards (`model.safetensors.index.json`, `….index.fp16.json`) belongs to these weights."""
    if not weights or "-of-" not in weights[0]:
        return False
    variant = next((kind for kind in VARIANTS if kind and f"{kind}-" in weights[0]), "")
    return f"{Path(weights[0]).suffix}.index{variant}.json" in index


def _is_bundle(files: Sequence[str]) -> bool:
    """A model folder may hold another program's manifest."""
    return MANIFEST in files and INDEX not in files


def _is_weights(name: str) -> bool:
    return not name.endswith(SMALL) and name not in TOP_FILES


# --- what cannot be had ----------------------------------------------------------------------------------------------


def _no_model(name: HubName, available: Sequence[str]) -> InputError:
    single = [file for file in available if "/" not in file and file.endswith(SINGLE_FILES)]
    if not single:
        remedy = "name a repository with a model_index.json (a diffusers model) or a manifest.json (a bundle)"
        return InputError("neither a diffusers model nor a genin bundle", where=f"hub:{name}", remedy=remedy)
    more = f" and {len(single) - 2} more" if len(single) > 2 else ""
    return InputError(
        f"the repository holds its model in single files only ({', '.join(single[:2])}{more})",
        where=f"hub:{name}",
        remedy="download one and make a model folder of it: "
        f"StableDiffusionPipeline.from_single_file('{single[0]}').save_pretrained('{name.short}') in diffusers",
    )


def _missing_of_bundle(where: Path, name: HubName, runtime: str | None, precision: str | None) -> list[str]:
    """The files that a cached bundle lacks: none where any runtime that may be taken has all of its own."""
    if runtime is None or precision is None:
        ways = [bundle_files(where, name, None, None)]
    else:
        with Bundle.open(where) as bundle:
            manifest = bundle.manifest
        ways = [_files_for(one, manifest) for one in runnable(manifest, runtime, precision, Path(f"hub:{name}"))]
    lacking = [[file for file in files if not (where / file).is_file()] for files in ways]
    return next((files for files in lacking if not files), lacking[0])


def _without_network(name: HubName, text: str, runtime: str | None, precision: str | None) -> Path:
    """What the cache holds, if that is all of it. Errors: InputError saying which files to put where."""
    where = cached(name)
    needed: Sequence[str] = MODEL_FILES
    what = f"'{text}' is not a local path, and the hub cannot be reached"
    branch = f" at {name.revision}" if name.revision else ""
    if where is not None:
        is_bundle = _is_bundle([name for name in (MANIFEST, INDEX) if (where / name).is_file()])
        if is_bundle:
            needed = _missing_of_bundle(where, name, runtime, precision)
        else:
            if (where / INDEX).is_file():
                refuse_other_families(where, read_json(where / INDEX, "unreadable", AGAIN))
            needed = missing_files(where)
        if not needed:
            return where
        what = f"'{text}' is only partly in the hub's cache ({where}), and the hub cannot be reached"
        if is_bundle:
            remedy = f"put these files of {name.address}{branch} into {where} and run it again: {', '.join(needed)}"
            raise InputError(what, remedy=remedy)
    folder = f"./{name.short}"
    begin = f"put these files of {name.address}{branch} into a folder, say {folder}"
    if where is not None:
        begin = f"copy the cached folder to {folder}, say, and add the files it lacks from {name.address}{branch}"
    listed = ", ".join(needed)
    files = f"{begin}: {listed} (weights may be .fp16.safetensors or .bin)"
    raise OfflineError(what, files, name=text, folder=folder)

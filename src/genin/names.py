"""What the names on the command line mean: `builtin:student`, a local path, or a model on the Hugging Face hub.

The shipped students are package data of `genin.runtimes`. The teacher and what measures against it are a package of their own,
which a game does not install. The built-in world's reference pictures are rendered once into the user's cache. Library code
asks through `genin.runtimes.names`, and need not know where the weights are kept.

Not here: the hub (`hub.model`), reading what a name points to (each command does, and refuses what it cannot use).
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Literal

from genin.hub.repository import NoRepositoryError, may_be_on_the_hub
from genin.runtimes.arguments import local_path
from genin.runtimes.bundle import is_bundle
from genin.runtimes.errors import InputError, MissingExtraError
from genin.runtimes.names import BUILTIN_WORLD
from genin.runtimes.vocabulary import AUTO

TRAINING_WEIGHTS = "genin_training_weights"
# Name => package and folder inside it.
BUILTIN_MODELS: Mapping[str, tuple[str, str]] = {
    "builtin:student": ("genin.runtimes", "weights/student"),
    "builtin:student-1step": ("genin.runtimes", "weights/student-1step"),
    "builtin:teacher": (TRAINING_WEIGHTS, "teacher"),
}
DEFAULT_REFERENCE_SIZE = 128


class InstalledNames:
    """The names this installation knows; the `Names` protocol of `genin.runtimes.names`."""

    def model(self, name: str, runtime: str | None = AUTO, precision: str | None = AUTO) -> Path:
        """The local folder or `.genin` file of a model or bundle. Of a bundle on the hub, only the graphs for `runtime` and
        `precision` are fetched; all of them if either is None. Errors: InputError with the nearest names."""
        if name.startswith("builtin:"):
            return _builtin_model(name)
        path = local_path(name, "a model")
        try:
            if path.exists():
                return path
        except OSError as error:  # a name that is too long, a folder that may not be looked into
            raise InputError(f"cannot be read ({error.strerror})", where=name, remedy="give another path") from error
        if may_be_on_the_hub(name) and path.suffix != ".genin":
            from genin.hub.model import download

            try:
                return download(name, runtime, precision)
            except NoRepositoryError as error:
                raise _no_such(name, f"model: {error.what}") from error
            except MissingExtraError as error:
                what = f"no such model or bundle, and to look for it on the Hugging Face hub {error.what}"
                raise InputError(what, where=name, remedy=error.remedy) from error
        raise _no_such(name, "model or bundle")

    def folder(self, name: str) -> Path:
        """Like `model`, for work on weights: a bundle's ONNX graphs are made into a model folder. Errors: InputError for a bundle
        that has none."""
        path = self.model(name, "onnxruntime")
        if not is_bundle(path):
            return path
        from genin.distill.models.restored import exact_precision, restored

        # Of a bundle on the hub, only the graphs that would be run are here so far.
        return restored(self.model(name, "onnxruntime", exact_precision(path)), cache_folder())

    def reference(self, name: str, *, count: int, size: int | None, seed: int, split: str | None = None) -> Path:
        """A dataset folder; `builtin:world` is the world's test split, or another of its splits: `count` pictures of `size` px,
        cached."""
        if name == BUILTIN_WORLD:
            part: Literal["train", "val", "test"] = "train" if split == "train" else "val" if split == "val" else "test"
            return _world(part, count, size or DEFAULT_REFERENCE_SIZE, seed)
        path = local_path(name, "a reference")
        if path.is_dir():
            return path
        raise _no_such(name, "dataset folder", [BUILTIN_WORLD])

    def cache(self) -> Path:
        return cache_folder()

    def classifier(self) -> Path | None:
        """The shipped attribute classifier of the built-in world, if this installation has it."""
        path = _package_file(TRAINING_WEIGHTS, "world_classifier.safetensors")
        return path if path is not None and path.is_file() else None

    def teacher_statistics(self) -> Path | None:
        """Feature statistics of `builtin:teacher`'s pictures (and pairs), if this installation has them."""
        path = _package_file(TRAINING_WEIGHTS, "teacher_statistics")
        return path if path is not None and path.is_dir() else None


# --- built in --------------------------------------------------------------------------------------------------------


def _builtin_model(name: str) -> Path:
    if name == BUILTIN_WORLD:
        remedy = f"name it as data or as a reference; models are {', '.join(BUILTIN_MODELS)}"
        raise InputError("this is a dataset, not a model", where=name, remedy=remedy)
    if name not in BUILTIN_MODELS:
        raise _no_such(name, "built-in model")
    return _packaged(name, *BUILTIN_MODELS[name])


def _packaged(name: str, package: str, folder: str) -> Path:
    path, distribution = _package_file(package, folder), package.partition(".")[0].replace("_", "-")
    if path is None:
        raise InputError(
            f"'{name}' is in the package {distribution}, which is not installed",
            remedy=f"pip install {distribution}, or in a checkout of genin: pip install ./weights",
        )
    if not path.is_dir():
        raise InputError(
            f"'{name}' is not part of this installation", where=path, remedy=f"reinstall {distribution} from its wheel"
        )
    return path


def _package_file(package: str, name: str) -> Path | None:
    """A file of an installed package; None if there is no such package."""
    try:
        return Path(str(files(package) / name))
    except ModuleNotFoundError:
        return None


def _world(split: Literal["train", "val", "test"], count: int, size: int, seed: int) -> Path:
    """Rendered once: the folder's name encodes all that its pictures depend on, the renderer's source included."""
    from genin.distill.world.dataset import write_dataset

    out = cache_folder() / "world" / f"{split}-{count}x{size}px-seed{seed}-{_renderer_version()}"
    if not out.is_dir():
        try:
            write_dataset(out, split=split, count=count, size=size, seed=seed, captions="complete")
        except InputError:
            if not out.is_dir():  # else another command has rendered the same pictures meanwhile
                raise
    return out


def _renderer_version() -> str:
    sources = sorted(Path(str(files("genin.distill.world"))).glob("*.py"))
    if not sources:
        raise AssertionError("the renderer's source has moved: cached pictures would never be renewed")
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]


def cache_folder() -> Path:
    """`GENIN_CACHE`, or `genin` in the platform's cache folder. Errors: InputError for nobody's home."""
    from platformdirs import user_cache_path

    chosen = os.environ.get("GENIN_CACHE")
    return local_path(chosen, "GENIN_CACHE") if chosen else user_cache_path("genin", appauthor=False, opinion=False)


def _no_such(name: str, what: str, known: Iterable[str] = BUILTIN_MODELS) -> InputError:
    """The nearest names: built-in ones by the whole, neighbours on the disk by the last part alone."""
    path = Path(name).expanduser()
    siblings: dict[str, str] = {}
    with suppress(OSError):  # a folder that may not be looked into
        if path.parent.is_dir() and not name.startswith("builtin:"):
            siblings = {sibling.name: str(sibling) for sibling in path.parent.iterdir()}
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    close += [siblings[one] for one in difflib.get_close_matches(path.name, siblings, n=3, cutoff=0.5)]
    remedy = f"did you mean {' or '.join(close)}?" if close else f"give a path, or one of: {', '.join(known)}"
    return InputError(f"no such {what}", where=name, remedy=remedy)

"""What PyInstaller has to put into a program that draws with genin; it finds this by the entry point `pyinstaller40`.

genin imports its engines and its own modules when they are first used, by name, where PyInstaller does not see it. Included are the
engines for bundles that are installed where the program is built, or those that the environment variable GENIN_ENGINES names
("onnxruntime"), and the shipped students; not PyTorch, and not the shipped teacher, which needs it.

Not here: the libraries of an engine's package (PyInstaller and pyinstaller-hooks-contrib know them).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from genin.runtimes.engine import ENGINES
from genin.runtimes.names import INSTALLED
from genin.runtimes.native_engine import library_path
from genin.runtimes.vocabulary import check_choice

# By name: a static import of `genin` would be one of all that it offers.
HOMES: Mapping[str, str] = importlib.import_module("genin").HOMES
# What `genin` and `genin.load` import by name; a program that draws verifies no bundles.
LAZY_MODULES = (
    INSTALLED.partition(":")[0],
    *sorted({f"genin.{home}" for home in HOMES.values() if not home.startswith("export.")}),
)
# The hub's client brings PyTorch and matplotlib along where they are installed; a program that needs it names it.
NOT_FOR_DRAWING = (
    *("genin.benchmarks", "genin.distill", "genin.export"),
    *("torch", "diffusers", "transformers", "huggingface_hub"),
)
BUNDLE_ENGINES = tuple(name for name, row in ENGINES.items() if row.formats)


def hook_dirs() -> list[str]:
    """The folder of the hook, for the entry point."""
    return [str(Path(__file__).parent)]


def engines() -> list[str]:
    """Those to include. Errors: InputError for a name in GENIN_ENGINES that is not an engine, MissingExtraError if it is not
    installed."""
    if chosen := os.environ.get("GENIN_ENGINES"):
        names = [check_choice(name.strip(), BUNDLE_ENGINES, "engine") for name in chosen.split(",")]
        for name in names:
            ENGINES[name].require()
        return names
    return [name for name in BUNDLE_ENGINES if ENGINES[name].reason() is None]


def hidden_imports() -> list[str]:
    """Modules that are imported by name: genin's own, each engine's adapter and its package."""
    adapters = [(ENGINES[name].target.partition(":")[0], ENGINES[name].package) for name in engines()]
    return [*LAZY_MODULES, *(module for pair in adapters for module in pair)]


def excluded_imports() -> list[str]:
    """What genin's own modules import when they are asked for, and a program that draws never asks for."""
    others = [row.package for name, row in ENGINES.items() if name not in engines()]
    return [*NOT_FOR_DRAWING, *dict.fromkeys(others)]


def data_files() -> list[tuple[str, str]]:
    """(file, folder in the program) of everything in the shipped bundles, and of the native library where it is included."""
    root = Path(str(files("genin.runtimes"))) / "weights"
    bundles = sorted(manifest.parent for manifest in root.glob("*/manifest.json"))
    found = [file for bundle in bundles for file in sorted(bundle.rglob("*")) if file.is_file()]
    library = [(str(library_path()), "genin_native")] if "native" in engines() else []
    return library + [
        (str(file), f"genin/runtimes/weights/{file.parent.relative_to(root).as_posix()}") for file in found
    ]

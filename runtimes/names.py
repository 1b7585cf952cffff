"""Names that are accepted where a model, a bundle or a reference is expected, and the interface that resolves them.

`Names` is the interface. `genin.names.InstalledNames`, which knows where the shipped files are and how to ask the hub, is in a
layer above, so it is imported by name, as engines are.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol, cast

from genin.runtimes.vocabulary import AUTO

BUILTIN_WORLD = "builtin:world"
INSTALLED = "genin.names:InstalledNames"


class Names(Protocol):
    """Resolves names."""

    def model(self, name: str, runtime: str | None = AUTO, precision: str | None = AUTO) -> Path:
        """`builtin:…`, a path or a hub name => local folder or `.genin` file; InputError lists the nearest names.

        Of a bundle on the hub, only the graphs for `runtime` and `precision` are fetched; all of them if either is None.
        """

    def folder(self, name: str) -> Path:
        """The same for work on weights, such as export and training: a bundle's ONNX graphs as a model folder."""

    def reference(self, name: str, *, count: int, size: int | None, seed: int, split: str | None = None) -> Path:
        """`builtin:world` (rendered; its test split unless `split` is another) or a path => a dataset folder."""

    def cache(self) -> Path:
        """The folder for what can be made again."""

    def classifier(self) -> Path | None:
        """The shipped attribute classifier, if this installation has one."""

    def teacher_statistics(self) -> Path | None:
        """The shipped statistics of the pictures of `builtin:teacher`, if this installation has them."""


def installed_names() -> Names:
    """The names of this installation."""
    module, _, kind = INSTALLED.partition(":")
    return cast(Names, getattr(importlib.import_module(module), kind)())

"""Names that a package offers and imports when they are first used (PEP 562), so that importing the package costs nothing.

Where a package that they need is not installed, the error names the extra that installs it, on import and on use.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

from genin.runtimes.errors import MissingExtraError


def lazy_attribute(package: str, homes: Mapping[str, str], name: str, extra: str | None = None) -> Any:
    """`package.name`, imported from the module below `package` that `homes` gives, and cached. `extra` installs its dependencies.

    Errors: AttributeError for a name that is not in `homes`, MissingExtraError.
    """
    if name not in homes:
        raise AttributeError(f"module '{package}' has no attribute '{name}'")
    try:
        found = getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
    except ModuleNotFoundError as error:
        raise missing_extra(error, extra) or error from error
    if extra is not None and inspect.isfunction(found):
        found = _naming_extra(found, extra)
    setattr(sys.modules[package], name, found)
    return found


def engine_module(name: str) -> Any:
    """The package of an engine, whose extra has its name.

    Errors: MissingExtraError where it is not installed, or cannot be imported: a library that it needs is missing, say."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise missing_extra(error, name) or error from error
    except ImportError as error:
        said = " ".join(str(error).split())[:200]
        raise MissingExtraError(name, name, f"'{name}' is installed but cannot be imported ({said})") from error


def missing_extra(error: Exception, extra: str | None) -> MissingExtraError | None:
    """The error for a package that is not installed; None for any other error, and for a module of genin's own."""
    package = (getattr(error, "name", None) or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    return None if extra is None or package in ("", "genin") else MissingExtraError(package, extra)


def _naming_extra(function: Callable[..., Any], extra: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except ModuleNotFoundError as error:
            raise missing_extra(error, extra) or error from error

    return call

"""Names that a package offers and imports when they are first used (PEP 562), so that importing the package costs nothing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import Any


def lazy_attribute(package: str, homes: Mapping[str, str], name: str) -> Any:
    """`package.name`, from the module below `package` that `homes` gives; kept, so that it is asked for once.

    Errors: AttributeError for a name that is not in `homes`.
    """
    if name not in homes:
        raise AttributeError(f"module '{package}' has no attribute '{name}'")
    found = getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
    setattr(sys.modules[package], name, found)
    return found

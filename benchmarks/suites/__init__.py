"""Suites: what `genin bench --suite` measures, as YAML, so that two people measure the same.

A suite is a file of options of `genin bench` by their names in `BenchOptions`, with `models` and `prompts`; `quick`, `standard` and
`paper` lie beside this module. What is given on the command line replaces what the suite says, and the results then call the suite
changed. Results carry the hash of the prompts, whatever they are from; of a suite that is not shipped, the start of its file's,
too.

Not here: measuring (`genin.benchmarks.benchmarking`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from genin.benchmarks.benchmarking import BenchOptions
from genin.runtimes.errors import InputError
from genin.runtimes.text import read_text
from genin.runtimes.vocabulary import nearest

FOLDER: Final = Path(__file__).parent
SHIPPED: Final = ("quick", "standard", "paper")
NOT_IN_A_SUITE: Final = ("out", "report", "suite", "metric_weights", "clip")  # of one machine


def read_suite(name: str | Path) -> tuple[tuple[str, ...], dict[str, Any]]:
    """A suite's models and its other options, checked.

    Errors: InputError for a file that is missing, no YAML, without models or prompts, or with an unknown key or a wrong value.
    """
    path = FOLDER / f"{name}.yaml" if name in SHIPPED else Path(name)
    values = _read_yaml(path, str(name))
    known = ["models", *(field.name for field in fields(BenchOptions) if field.name not in NOT_IN_A_SUITE)]
    for key in values:
        if key not in known:
            raise InputError(f"a suite has no '{key}'", where=path, remedy=nearest(str(key), known))
    for key in ("models", "prompts"):
        texts = values.get(key)
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise InputError(f"a suite needs {key}: a list of texts", where=path)
    options = {key: value for key, value in values.items() if key != "models"}
    try:
        BenchOptions(**options)
    except InputError as error:
        raise InputError(error.what, where=path, remedy=error.remedy) from error
    return tuple(values["models"]), options | {"suite": str(name) if name in SHIPPED else _named(path)}


def _named(path: Path) -> str:
    """ "mine.yaml (sha256 0123abcd)": another file of a shipped suite's name is not that suite."""
    return f"{path.name} (sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:8]})"


def _read_yaml(path: Path, name: str) -> Mapping[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(read_text(path))
    except FileNotFoundError as error:
        remedy = f"{nearest(name, SHIPPED)}, or name a YAML file"
        raise InputError("no such suite", where=name, remedy=remedy) from error
    except OSError as error:
        raise InputError(f"the suite cannot be read ({error.strerror})", where=path) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        raise InputError(f"the suite is not YAML{line}", where=path) from error
    if not isinstance(values, dict):
        raise InputError("a suite is a list of options: key: value", where=path)
    return values

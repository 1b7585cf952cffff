"""A tool's folder of figures answers one question: other weights, budgets or recipes do not belong in one table."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click


def write(path: Path, content: Mapping[str, Any]) -> None:
    """JSON, by rename: another process may read it."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)


def check_question(path: Path, asked: Mapping[str, Any], figures: Path | None = None) -> None:
    """Keep what is asked in `path`, or compare it with what that says. Errors: ClickException where it asks something else, or
    where there are `figures` of a question that nobody knows."""
    if not path.is_file():
        if figures is not None and figures.exists():
            raise click.ClickException(f"{figures} does not say what its figures are of; name another --out")
        write(path, asked)
        return
    kept = json.loads(path.read_text())
    now = json.loads(json.dumps(asked))
    other = sorted(key for key in now if kept.get(key) != now[key])
    if other:
        raise click.ClickException(f"{path} has another {', another '.join(other)}; name another --out")

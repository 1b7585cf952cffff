"""HTML pages from the jinja2 templates beside the code, in folders called `templates`.

A page is one file that loads nothing: its style sheet and script are included. Values are escaped, and
`quoted` for a shell where they stand in a command.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any


def import_page_packages() -> None:
    """Errors: ModuleNotFoundError where pages cannot be made."""
    import jinja2
    import matplotlib

    del jinja2, matplotlib


def render_page(package: str, name: str, values: Mapping[str, Any]) -> str:
    """The template `name` of a package with these values; it may include those of this package (`style.css`), too.

    Errors: ModuleNotFoundError without jinja2, jinja2's UndefinedError for a value that is missing.
    """
    import jinja2

    loader = jinja2.ChoiceLoader([jinja2.PackageLoader(package), jinja2.PackageLoader("genin.benchmarks.report")])
    environment = jinja2.Environment(
        autoescape=True,
        loader=loader,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,  # for included files
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["quoted"] = shlex.quote
    return environment.get_template(name).render(values).removesuffix("\n")

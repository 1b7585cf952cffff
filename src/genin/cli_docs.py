"""docs/cli.md, made from what the commands themselves say: `python -m genin.cli_docs > docs/cli.md`.

A test compares the file with `markdown()`, so a changed option cannot leave its page behind.
"""

from __future__ import annotations

import click

from genin.cli import COMMANDS, command_line, load

WIDTH = 100
INTRODUCTION = """# The commands

Made from `--help` by `python -m genin.cli_docs > docs/cli.md`; do not edit by hand.

Exit codes: 0 ok, 1 the job failed, 2 bad usage or input, 130 interrupted by Ctrl-C, 143 by SIGTERM. `--json` puts one JSON object
on the last line of stdout; progress and errors go to stderr. `GENIN_DEBUG=1` shows tracebacks and libraries' warnings.
"""


def markdown() -> str:
    """The whole page."""
    parts = [INTRODUCTION, _section("genin", command_line(), "genin")]
    parts += [_section(f"genin {path}", load(path), path.rpartition(" ")[2]) for path in COMMANDS]
    return "\n".join(parts)


def _section(title: str, command: click.Command, name: str) -> str:
    parents = title.split()[:-1]
    context: click.Context | None = None
    for parent in parents:
        context = click.Context(click.Group(parent), info_name=parent, parent=context)
    own = click.Context(command, info_name=name, parent=context, max_content_width=WIDTH, terminal_width=WIDTH)
    return f"## {title}\n\n```\n{command.get_help(own)}\n```\n"


if __name__ == "__main__":
    click.echo(markdown(), nl=False)

"""docs/recipes.md and docs/recipe.schema.json, made from the recipes' own fields.

    python -m genin.distill.recipe_docs > docs/recipes.md
    python -m genin.distill.recipe_docs --schema > docs/recipe.schema.json

Tests compare both files with what this makes, so a changed default cannot leave its page behind.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterator
from typing import Any

import click

from genin.distill.models.student_config import PRESETS, Pruning
from genin.distill.recipe import Optimisation, Recipe, json_schema

INTRODUCTION = """# Recipes

Made by `python -m genin.distill.recipe_docs > docs/recipes.md`; do not edit by hand.

A recipe is one YAML file for every training command (`--recipe`). It holds one section per stage; what is left out takes the
default below, and an unknown key is refused before any work. The resolved recipe is saved beside every result.

```yaml
student:
  name: bk-small-narrow
pool:
  size: 8192
steps:
  step_counts: [4, 1]
  images: 60000
```

Ready ones are in [recipes/](../recipes).

[recipe.schema.json](recipe.schema.json) (made by `python -m genin.distill.recipe_docs --schema > docs/recipe.schema.json`) lets an
editor complete keys, show what they do and underline mistakes. In editors with yaml-language-server (VS Code's YAML extension,
Neovim, Helix), name it in the first line of a recipe, by its path from the recipe or as a URL:

```yaml
# yaml-language-server: $schema=../docs/recipe.schema.json
```

`genin distill --init STUDENT` starts from a student's weights in place of the pruned teacher's, with another teacher of the same
shape, other captions or other settings. Its `prune` phase is left out, unless `prune.repeat`: it would teach the student to
take many steps again. The result records licence, data and recipe of both. STUDENT is a model folder, or a bundle with ONNX
graphs in fp32 or fp16, of which one is made.
"""
STUDENTS = """## Students

Presets of `student.name`. `full` is the teacher's UNet. The others keep one pair of residual block and attention per level (going
up, the first and the last), and also lose:
"""


def markdown() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    shared = {f.name: f for f in dataclasses.fields(Optimisation)}
    parts.append(f"## Every training\n\n{_sentence(Optimisation)}\n\n{_table(Optimisation, list(shared))}")
    for section, kind in typing.get_type_hints(Recipe).items():
        names = [f.name for f in dataclasses.fields(kind) if f.name not in shared]
        others = [
            name for name in shared if issubclass(kind, Optimisation) and _default(kind, name) != shared[name].default
        ]
        text = f"## {section}\n\n{_sentence(kind)}\n"
        if names:
            text += f"\n{_table(kind, names)}"
        if others:
            text += f"\nOther defaults: {', '.join(f'`{name}: {_yaml(_default(kind, name))}`' for name in others)}.\n"
        parts.append(text)
    students = (
        f"- `{name}`: {', '.join(_lost(p)) or 'nothing'}\n" for name, p in PRESETS.items() if p.one_pair_per_level
    )
    parts.append(STUDENTS + "\n" + "".join(students))
    return "\n".join(parts)


def _table(kind: type[Any], names: list[str]) -> str:
    fields = {f.name: f for f in dataclasses.fields(kind)}
    rows = [
        f"| `{name}` | `{_yaml(fields[name].default)}` | {fields[name].metadata['description']} |\n" for name in names
    ]
    return "| key | default | |\n|---|---|---|\n" + "".join(rows)


def _sentence(kind: type[Any]) -> str:
    return " ".join((kind.__doc__ or "").split())


def _default(kind: type[Any], name: str) -> Any:
    return next(f.default for f in dataclasses.fields(kind) if f.name == name)


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str([*value]) if isinstance(value, tuple) else str(value)


def _lost(pruning: Pruning) -> Iterator[str]:
    if pruning.middle:
        yield "the middle block"
    if pruning.deepest_level:
        yield "the deepest level"
    if pruning.attention_levels:
        yield f"the attention of level {' and '.join(map(str, pruning.attention_levels))} (0 is the finest)"
    if pruning.top_width < 1:
        yield f"{1 - pruning.top_width:.0%} of the channels of the finest level".replace("%", " %")
    if pruning.width < 1:
        yield f"{1 - pruning.width:.0%} of the channels below the finest level".replace("%", " %")


@click.command()
@click.option("--schema", is_flag=True, help="The JSON schema in place of the page.")
def docs_command(schema: bool) -> None:
    """Print the page of all recipe keys, or their JSON schema."""
    click.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n" if schema else markdown(), nl=False)


if __name__ == "__main__":
    docs_command()

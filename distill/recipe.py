"""Recipes: every training setting of every stage, as frozen dataclasses read from one YAML file.

A recipe file holds one section per stage (`autoencoder`, `text_encoder`, `teacher`, `finetune`, `student`, `pool`, `prune`,
`steps`, `adversarial`, `alignment`, `decoder`); a section or key left out takes the default written here. An unknown key, or a
value of the wrong type or out of its limits, is refused before any work, with its line and the allowed values. The
resolved recipe is saved beside every result, so that a model folder says by itself how it was made.

Not here: the sections (`recipe_optimisation`, `recipe_teacher`, `recipe_student`), how settings are checked (`recipe_fields`), YAML
(`recipe_yaml`), the page and the schema (`recipe_docs`).
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from genin.distill.recipe_fields import WithoutTitles, refusal, section
from genin.distill.recipe_optimisation import Optimisation, Precision
from genin.distill.recipe_student import (
    AdversarialRecipe,
    AlignmentRecipe,
    DecoderRecipe,
    PoolRecipe,
    PruneRecipe,
    StepsRecipe,
    StudentRecipe,
)
from genin.distill.recipe_teacher import AutoencoderRecipe, FinetuneRecipe, TeacherRecipe, TextEncoderRecipe
from genin.distill.recipe_yaml import parse_yaml, read_yaml, write_yaml
from genin.runtimes.arguments import local_path
from genin.runtimes.errors import InputError

__all__ = [
    "AdversarialRecipe",
    "AlignmentRecipe",
    "AutoencoderRecipe",
    "DecoderRecipe",
    "FinetuneRecipe",
    "Optimisation",
    "PoolRecipe",
    "Precision",
    "PruneRecipe",
    "Recipe",
    "StepsRecipe",
    "StudentRecipe",
    "TeacherRecipe",
    "TextEncoderRecipe",
    "json_schema",
    "load_recipe",
    "plain",
    "save_recipe",
]


@section
class Recipe:
    """All settings of all stages; a field is a section of the YAML file (docs/recipes.md). Change it by `dataclasses.replace`."""

    autoencoder: AutoencoderRecipe = field(default_factory=AutoencoderRecipe)
    text_encoder: TextEncoderRecipe = field(default_factory=TextEncoderRecipe)
    teacher: TeacherRecipe = field(default_factory=TeacherRecipe)
    finetune: FinetuneRecipe = field(default_factory=FinetuneRecipe)
    student: StudentRecipe = field(default_factory=StudentRecipe)
    pool: PoolRecipe = field(default_factory=PoolRecipe)
    prune: PruneRecipe = field(default_factory=PruneRecipe)
    steps: StepsRecipe = field(default_factory=StepsRecipe)
    adversarial: AdversarialRecipe = field(default_factory=AdversarialRecipe)
    alignment: AlignmentRecipe = field(default_factory=AlignmentRecipe)
    decoder: DecoderRecipe = field(default_factory=DecoderRecipe)

    def as_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, ready for YAML and JSON."""
        return typing.cast("dict[str, Any]", plain(dataclasses.asdict(self)))


def load_recipe(path: str | Path | None, changes: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file, or the defaults; `changes`, each `section.key=value` with the value as in YAML, count before the
    file. Errors: InputError naming key, value, line and what is allowed there."""
    if path is None:
        data, place = {}, None
    else:
        file = read_yaml(local_path(path, "the recipe"))
        data, place = file.data, file.place
    changed = [change_setting(data, change) for change in changes] if isinstance(data, dict) else []

    def where(keys: Sequence[str | int]) -> str:
        by = next((change for change, path in zip(changes, changed, strict=True) if path == list(keys[:2])), None)
        return f"--set {by}" if by else place(keys) if place else "the recipe"

    try:
        return TypeAdapter(Recipe).validate_python(data)
    except ValidationError as error:
        raise refusal(Recipe, error, data, place=where) from error


def change_setting(data: dict[str, Any], change: str) -> list[str]:
    """Set what `section.key=value` says in a recipe's data; returns [section, key]. Errors: InputError."""
    name, equals, value = change.partition("=")
    section, _, key = name.strip().partition(".")
    if not equals or not section or not key:
        raise InputError(f"a change is section.key=value, not '{change}'", remedy="such as: --set finetune.images=2000")
    if not isinstance(data.setdefault(section, {}), dict | None):
        return [section, key]  # refused with the file's line
    data[section] = {**(data[section] or {}), key: parse_yaml(value, change)}
    return [section, key]


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe as YAML."""
    write_yaml(path, recipe.as_dict())


def json_schema() -> dict[str, Any]:
    """The JSON schema of a recipe file, for editors: every key with its description, default and limits."""
    schema = TypeAdapter(Recipe).json_schema(schema_generator=WithoutTitles)
    return {"$schema": WithoutTitles.schema_dialect, **schema, "title": "genin recipe"}


def plain(value: Any) -> Any:
    """With lists for tuples, as YAML and JSON have them."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

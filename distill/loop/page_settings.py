"""The settings that a page of a training shows: those of the sections that the run uses, first those that differ from the defaults.

Not here: what settings mean (`recipe`, docs/recipes.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genin.distill.recipe import Recipe
from genin.distill.recipe_yaml import read_yaml, yaml_text
from genin.runtimes.errors import InputError

PHASES = ("prune", "steps", "adversarial", "decoder")


class RunSettings:
    """What `folder` says about its run: the recipe, and what the run was started with."""

    def __init__(self, folder: Path) -> None:
        self.recipe = _recipe(folder / "recipe.yaml")
        try:
            begun_with = json.loads((folder / "run.json").read_text("utf-8"))
        except (OSError, ValueError):
            begun_with = {}
        self.begun_with: Mapping[str, Any] = begun_with if isinstance(begun_with, dict) else {}

    def get(self, section: str, key: str) -> Any:
        found = self.recipe.get(section)
        return found.get(key) if isinstance(found, Mapping) else None

    def images(self, stage: str) -> int:
        """How many images the recipe gives a stage; 0 where that is not known."""
        if stage == "autoencoder" and "base" in self.begun_with:
            found = self.get("finetune", "autoencoder_images")
        elif stage == "decoder" and "teacher" not in self.begun_with:
            found = self.get("autoencoder", "decoder_images")
        else:
            found = self.get(stage, "images")
        return found if isinstance(found, int) else 0

    def used(self, stages: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """The sections that the run uses, by what it was started with; `stages` have begun."""
        if "teacher" in self.begun_with:
            phases = [name for name in PHASES if self.images(name)]
            names = ["student", "pool", *phases]
            if "adversarial" in phases and self.get("adversarial", "alignment_weight"):
                names.append("alignment")
        elif "base" in self.begun_with:
            names = ["finetune", *(["autoencoder"] if self.images("autoencoder") else [])]
        elif "init" in self.begun_with:
            names = ["autoencoder", "teacher", *(["text_encoder"] if self.begun_with["init"] == "nothing" else [])]
        else:
            names = list(self.recipe)
        sections = {name: found for name, found in self.recipe.items() if name in {*names, *stages}}
        return {name: found for name, found in sections.items() if isinstance(found, Mapping)}

    def shown(self, stages: Sequence[str]) -> dict[str, Any]:
        """`changed` are (setting, value, default); `sections` are (name, YAML); `left_out` are the names of the others."""
        used, defaults = self.used(stages), Recipe().as_dict()
        changed = [
            (f"{name}.{key}", _said(value), _said(defaults[name][key]))
            for name, section in used.items()
            for key, value in section.items()
            if key in defaults.get(name, {}) and value != defaults[name][key]
        ]
        return {
            "changed": changed,
            "sections": [(name, _lines(section)) for name, section in used.items()],
            "left_out": [name.replace("_", " ") for name in self.recipe if name not in used],
        }


def _lines(section: Mapping[str, Any]) -> str:
    return "".join(f"{key}: {_said(value)}\n" for key, value in section.items())


def _said(value: Any) -> str:
    """As in the file, but a list in one line."""
    return yaml_text(value, flat_lists=True).removesuffix("\n").removesuffix("\n...")


def _recipe(path: Path) -> Mapping[str, Any]:
    try:
        data = read_yaml(path).data
    except InputError:
        return {}
    return data if isinstance(data, Mapping) else {}

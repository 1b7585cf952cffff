"""From pictures to a student: datasets, teachers, distillation. A package imports only packages below it.

    from genin.distill import distill
    distill("builtin:teacher", "builtin:world", "student", "recipes/pictures.yaml")

Imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genin.runtimes.lazy import lazy_attribute

if TYPE_CHECKING:
    from genin.distill.loop.run_folder import RunOptions
    from genin.distill.recipe import Recipe, load_recipe
    from genin.distill.student.distillation import Distilled, distill

__all__ = ["Distilled", "Recipe", "RunOptions", "distill", "load_recipe"]

_HOME = {
    "Distilled": "student.distillation",
    "Recipe": "recipe",
    "RunOptions": "loop.run_folder",
    "distill": "student.distillation",
    "load_recipe": "recipe",
}


def __getattr__(name: str) -> Any:
    return lazy_attribute(__name__, _HOME, name, extra="distill")


def __dir__() -> list[str]:
    return sorted(__all__)

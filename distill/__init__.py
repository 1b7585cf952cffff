"""From pictures to a student: datasets, teachers, distillation. What stands in a room imports only rooms below it.

    from genin.distill import distill

Imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genin.runtimes.lazy import lazy_attribute

if TYPE_CHECKING:
    from genin.distill.student.distillation import distill

__all__ = ["distill"]

_HOME = {"distill": "student.distillation"}


def __getattr__(name: str) -> Any:
    return lazy_attribute(__name__, _HOME, name)

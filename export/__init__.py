"""From a model folder to a bundle of graphs, checked against PyTorch.

    from genin.export import ExportOptions, export

`export` and `make_plan` take one options object and do what `genin export` and `genin plan` do. Imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genin.runtimes.lazy import lazy_attribute

if TYPE_CHECKING:
    from genin.export.exporter import ExportOptions, ExportResult, export
    from genin.export.plan.search import PlanOptions, make_plan
    from genin.export.precision_plan import Plan

__all__ = ["ExportOptions", "ExportResult", "Plan", "PlanOptions", "export", "make_plan"]

_HOME = {
    "ExportOptions": "exporter",
    "ExportResult": "exporter",
    "Plan": "precision_plan",
    "PlanOptions": "plan.search",
    "export": "exporter",
    "make_plan": "plan.search",
}


def __getattr__(name: str) -> Any:
    return lazy_attribute(__name__, _HOME, name, extra="export")


def __dir__() -> list[str]:
    return sorted(__all__)

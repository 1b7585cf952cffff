"""genin: distil a text-to-image teacher into a few-step student and ship it.

    import genin
    genin.load("builtin:student")("a ninja", seed=7).save("ninja.png")

Drawing needs no PyTorch. Names are imported when they are first used, so that `import genin` costs nothing. The parts that need
more than an engine are packages with a verb each: `genin.distill`, `genin.export`, `genin.benchmarks`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from genin.runtimes.lazy import lazy_attribute
from genin.runtimes.telemetry import switch_off_telemetry
from genin.runtimes.threads import respect_quota, set_wait_policy
from genin.version import __version__

if TYPE_CHECKING:
    from genin.api import load, verify
    from genin.export.checks.verify import Report
    from genin.runtimes.cancellation import Cancellation
    from genin.runtimes.errors import (
        BundleError,
        CancelledError,
        GeninError,
        InputError,
        MissingExtraError,
        QueueFullError,
    )
    from genin.runtimes.painting.painter import Painter
    from genin.runtimes.painting.tickets import Event, Ticket
    from genin.runtimes.pictures import Picture
    from genin.runtimes.pipeline import Pipeline
    from genin.runtimes.results import Generation, StreamStep

__all__ = [
    "BundleError",
    "Cancellation",
    "CancelledError",
    "Event",
    "Generation",
    "GeninError",
    "InputError",
    "MissingExtraError",
    "Painter",
    "Picture",
    "Pipeline",
    "QueueFullError",
    "Report",
    "StreamStep",
    "Ticket",
    "__version__",
    "load",
    "verify",
]

# Name => the module it is in. Also read by the PyInstaller hook.
HOMES = {
    "BundleError": "runtimes.errors",
    "Cancellation": "runtimes.cancellation",
    "CancelledError": "runtimes.errors",
    "Event": "runtimes.painting.tickets",
    "Generation": "runtimes.results",
    "GeninError": "runtimes.errors",
    "InputError": "runtimes.errors",
    "MissingExtraError": "runtimes.errors",
    "Painter": "runtimes.painting.painter",
    "Picture": "runtimes.pictures",
    "Pipeline": "runtimes.pipeline",
    "QueueFullError": "runtimes.errors",
    "Report": "export.checks.verify",
    "StreamStep": "runtimes.results",
    "Ticket": "runtimes.painting.tickets",
    "load": "api",
    "verify": "api",
}

switch_off_telemetry()  # here, since libraries report when they are imported
respect_quota()
set_wait_policy()  # here, since OpenMP reads it when torch is imported


def __getattr__(name: str) -> Any:
    if name in ("benchmarks", "distill", "export"):
        return importlib.import_module(f"genin.{name}")
    return lazy_attribute(__name__, HOMES, name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""The processes that share a run, under Hugging Face `accelerate`: who writes, and who waits for it.

    torchrun --nproc_per_node 2 -m genin distill …

Every process computes. Files are written by the first of them, and the others wait for it; of large ones (encoded pictures, the
pool) each process writes its share. A run of one process is not affected.

Not here: gradients and data (`genin.distill.loop.training`), the shares of an evaluation (`shares`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from genin.runtimes.errors import MissingExtraError

T = TypeVar("T")


def several() -> bool:
    return processes() > 1


def processes() -> int:
    """How many share the run."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def processes_here() -> int:
    """How many of them run on this machine, and share its cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or 1)


def number() -> int:
    """Which one this is, from 0."""
    return int(_state().process_index) if several() else 0


def is_main_process() -> bool:
    return not several() or bool(_state().is_main_process)


def rank_and_world() -> tuple[int, int]:
    """This process's number, and how many there are."""
    return number(), processes()


def broadcast_from_main(value: T) -> T:
    """The first process's value, in all: sums on two devices may differ in their last bits."""
    if not several():
        return value
    from accelerate.utils import broadcast_object_list

    _state()
    found: T = broadcast_object_list([value], from_process=0)[0]
    return found


def wait_for_all() -> None:
    if several():
        _state().wait_for_everyone()


@contextmanager
def main_process_first() -> Iterator[None]:
    """The first process enters alone; the others follow when it has left, and find what it has written."""
    if not several():
        yield
        return
    with _state().main_process_first():
        yield


def _state() -> Any:
    import torch

    try:
        from accelerate import PartialState
    except ModuleNotFoundError as error:
        raise MissingExtraError("accelerate", "distill") from error

    # Launchers of sharded trainings have all but the first process load nothing: transformers then leaves a text encoder
    # with whatever its memory held, and only sharded networks are broadcast later.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    # Made before any Accelerator, it says how long the others wait for the first: a teacher's pool takes hours.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=7))

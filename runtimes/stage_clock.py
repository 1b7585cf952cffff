"""How long each stage of a generation takes."""

from __future__ import annotations

import time
from collections.abc import Callable

from genin.runtimes.vocabulary import COMPONENTS

OTHER, UNET = "other", "unet"


class StageClock:
    """Milliseconds per stage: the time between two laps belongs to the stage that the second one names. `steps_ms` has each of the
    UNet's calls."""

    def __init__(self, cancel: Callable[[], bool]) -> None:
        self.stages_ms = dict.fromkeys((*COMPONENTS, OTHER), 0.0)
        self.steps_ms: list[float] = []
        self.cancel = cancel
        self.resume()

    def resume(self) -> None:
        self._mark = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        passed_ms = (now - self._mark) * 1e3
        self.stages_ms[stage] = self.stages_ms.get(stage, 0.0) + passed_ms
        if stage == UNET:
            self.steps_ms.append(passed_ms)
        self._mark = now

"""What drawing gives: pictures with what was asked for, and the steps on the way.

Not here: pictures as files (`pictures`), drawing (`pipeline`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from genin.runtimes.engine import Array
from genin.runtimes.requests import Request
from genin.runtimes.stage_clock import StageClock
from genin.runtimes.wording import counted

Pictures = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Generation:
    """Finished pictures. `images` is (N, H, W, 3) uint8; `timings` are milliseconds per stage: the networks, or `text_to_image` for
    a single graph, and `other` for everything between them (noise, tokens, sampling, conversion); time spent in the caller's code
    is not counted. `strength` is None where no image was given; with one, fewer than `steps` steps may have been taken.
    `step_timings` are the milliseconds of the UNet at each step, none for a single graph."""

    images: Pictures
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    guidance_scale: float
    noise: str
    timings: Mapping[str, float]
    strength: float | None = None
    step_timings: tuple[float, ...] = ()

    @property
    def total_ms(self) -> float:
        return sum(self.timings.values())

    def __repr__(self) -> str:
        count, height, width = self.images.shape[:3]
        pictures = f"{counted(count, 'picture')} of {width}x{height}"
        seeds = ", ".join(map(str, self.seeds[:4])) + (", …" if count > 4 else "")
        return f"<Generation: {pictures}, seed {seeds}, {counted(self.steps, 'step')}, {self.total_ms:.1f} ms>"


@dataclass(frozen=True, eq=False)
class StreamStep:
    """One step done. `latents` (N, C, H, W) float32 is the sampler's state; the last step carries the `generation`."""

    index: int
    steps: int
    latents: Array = field(repr=False)
    generation: Generation | None
    _preview: Callable[[], Pictures] = field(repr=False)

    def preview(self) -> Pictures:
        """The pictures as they are now, (N, H, W, 3) uint8: the step's estimate of the end, through the decoder."""
        return self._preview()


def generation_of(request: Request, pictures: Pictures, clock: StageClock) -> Generation:
    """The result of a call, as far as its clock has run."""
    kept = (request.prompts, request.seeds, request.steps, request.guidance_scale, request.noise)
    return Generation(pictures, *kept, dict(clock.stages_ms), request.strength, tuple(clock.steps_ms))


def to_pictures(images: Array) -> Pictures:
    """(N, 3, H, W) in [−1, 1] => (N, H, W, 3) uint8, values outside clipped."""
    scaled = np.clip(np.rint(images * np.float32(127.5) + np.float32(127.5)), 0, 255)
    return np.ascontiguousarray(scaled.transpose(0, 2, 3, 1), np.uint8)

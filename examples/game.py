"""A game loop that keeps running while pictures are drawn: no torch, `pip install 'genin[onnxruntime]'`.

One thread owns the pipeline; the game asks for pictures, checks every frame whether something has changed, and may change its mind.
This one has no window: it prints what a game would show, and writes the finished picture.

    python examples/game.py "a ninja in an orange outfit running through a forest at noon" --out ninja.png
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

import genin
from genin import CancelledError, GeninError, Pipeline

Pixels = NDArray[np.uint8]
FRAME_S = 1 / 60


@dataclass(frozen=True)
class News:
    """What a frame may show: the picture as it is now, (H, W, 3) uint8."""

    prompt: str
    pixels: Pixels
    finished: bool


class Painter:
    """Draws in its own thread, one prompt at a time; a newer prompt cancels the one being drawn."""

    def __init__(self, pipeline: Pipeline, steps: int | None = None) -> None:
        self._pipeline, self._steps = pipeline, steps
        self._asked: queue.SimpleQueue[tuple[str, int] | None] = queue.SimpleQueue()
        self._news: queue.SimpleQueue[News | Exception] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def ask(self, prompt: str, seed: int) -> None:
        """Returns at once."""
        self._asked.put((prompt, seed))

    def poll(self) -> News | None:
        """The latest picture since the last call, or None; never waits. Raises what went wrong while drawing."""
        latest: News | None = None
        while not self._news.empty():
            news = self._news.get()
            if isinstance(news, Exception):
                raise news
            latest = news
        return latest

    def close(self) -> None:
        self._asked.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (asked := self._asked.get()) is not None:
            try:
                self._draw(*asked)
            except CancelledError:
                continue  # a newer prompt waits
            except Exception as error:  # handed to the game, which decides
                self._news.put(error)

    def _draw(self, prompt: str, seed: int) -> None:
        superseded = lambda: not self._asked.empty()  # noqa: E731 (asked before every network runs)
        for step in self._pipeline.stream(prompt, seed, steps=self._steps, cancel=superseded):
            if step.generation is None:
                self._news.put(News(prompt, step.preview()[0], finished=False))
            else:
                self._news.put(News(prompt, step.generation.images[0], finished=True))


def play(painter: Painter, prompt: str, seed: int, *, max_s: float = 60.0) -> tuple[Pixels, int]:
    """Frames until the picture is finished => (the picture, frames shown meanwhile)."""
    painter.ask(prompt, seed)
    begun, frames = time.perf_counter(), 0
    while time.perf_counter() - begun < max_s:
        frame_begun = time.perf_counter()
        news = painter.poll()
        frames += 1
        if news is not None and news.finished:
            return news.pixels, frames
        # A game would move its world and draw here; `news` goes into a texture.
        time.sleep(max(0.0, FRAME_S - (time.perf_counter() - frame_begun)))
    raise TimeoutError(f"no picture within {max_s:.0f} s")


@click.command()
@click.argument("prompt")
@click.option("-m", "--model", default="builtin:student", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("game.png"), show_default=True)
def main(prompt: str, model: str, seed: int, out: Path) -> None:
    """Draw PROMPT while a loop of 60 frames per second goes on."""
    try:
        with genin.load(model, threads=1) as pipeline:  # the other cores are the game's
            painter = Painter(pipeline)
            try:
                pixels, frames = play(painter, prompt, seed)
            finally:  # its thread must end before the pipeline closes
                painter.close()
    except GeninError as error:  # its text says what, where and what to do
        raise click.ClickException(str(error)) from error
    Image.fromarray(pixels).save(out)
    click.echo(f"{out}: drawn on {pipeline.runtime} while {frames} frames went by")


if __name__ == "__main__":
    main()

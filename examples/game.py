"""A game loop that keeps running while pictures are drawn: no torch, `pip install 'genin[onnxruntime]'`.

A painter draws in a thread of low priority (or, with --process, in a process of its own); the game asks it for pictures, polls it
every frame, and may change its mind. This one has no window: it only writes the finished picture.

    python examples/game.py "a ninja in an orange outfit running through a forest at noon" --out ninja.png
"""

from __future__ import annotations

import time
from pathlib import Path

import click

import genin
from genin import GeninError, Painter, Picture

FRAME_S = 1 / 60


def play(painter: Painter, prompt: str, seed: int, *, max_s: float = 60.0) -> tuple[Picture, int]:
    """Frames until the picture is finished => (the picture, frames shown meanwhile).

    Errors: GeninError if it cannot be drawn, TimeoutError if that takes more than `max_s` seconds.
    """
    # A newer request of a slot takes the place of an older one: whoever is being shown has one slot.
    painter.submit(prompt, seed, slot="the hero", previews=1)
    begun, frames = time.perf_counter(), 0
    while time.perf_counter() - begun < max_s:
        frame_begun = time.perf_counter()
        frames += 1
        for event in painter.poll():
            if event.error is not None:
                raise event.error
            if event.kind == "done" and (picture := painter.take(event.ticket)) is not None:
                return picture, frames
            # A game would put painter.preview(event.ticket) into a texture when a preview comes.
        # … and move its world and draw here.
        time.sleep(max(0.0, FRAME_S - (time.perf_counter() - frame_begun)))
    raise TimeoutError(f"no picture within {max_s:.0f} s: try a smaller model, -m builtin:student-1step")


@click.command()
@click.argument("prompt")
@click.option("-m", "--model", default="builtin:student", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--process", is_flag=True, help="Draw in a process of its own.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("game.png"), show_default=True)
def main(prompt: str, model: str, seed: int, process: bool, out: Path) -> None:
    """Draw PROMPT while a loop of 60 frames per second goes on."""
    try:
        with genin.Painter(model, process) as painter:  # closing ends what is being drawn
            picture, frames = play(painter, prompt, seed)
            picture.save(out)
    except (GeninError, TimeoutError) as error:  # its text says what, where and what to do
        raise click.ClickException(str(error)) from error
    click.echo(f"{out}: drawn on {picture.origin['runtime']} while {frames} frames went by")


if __name__ == "__main__":
    main()

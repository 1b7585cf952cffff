"""Videos and comic pages that tests make themselves: what is in them is known to the frame and to the pixel."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

WIDTH, HEIGHT, BAR = 640, 360, 40
Box = tuple[int, int, int, int]


def scene(seed: int, shift: int = 0, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image.Image:
    """Flat shapes on a sky, as cartoons have them; `shift` moves the nearest ones."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", size, tuple(int(c) for c in rng.integers(90, 200, 3)))
    draw = ImageDraw.Draw(picture)
    for index in range(14):
        x, y = (int(value) for value in rng.integers(0, size))
        side = int(rng.integers(20, 140))
        colour = tuple(int(c) for c in rng.integers(30, 230, 3))
        moved = shift if index > 10 else 0
        shape = draw.ellipse if index % 2 else draw.rectangle
        shape((x + moved, y, x + moved + side, y + side), fill=colour, outline=(20, 20, 20), width=3)
    return picture


def subtitled(picture: Image.Image, text: str = "I WILL NEVER GIVE UP!") -> Image.Image:
    picture = picture.copy()
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(26)
    place = ((picture.width - draw.textlength(text, font)) / 2, picture.height * 0.77)
    draw.text(place, text, "white", font, stroke_width=3, stroke_fill="black")
    return picture


def barred(picture: Image.Image) -> Image.Image:
    """Letterboxed: black above and below."""
    picture = picture.copy()
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, picture.width, BAR - 1), fill="black")
    draw.rectangle((0, picture.height - BAR, picture.width, picture.height), fill="black")
    return picture


def write_film(path: Path, frames: Sequence[Image.Image], *, rate: int = 24, codec: str = "libx264") -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"crf": "16", "g": "24", "threads": "1"})
        stream.bit_rate = 4_000_000
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())


@lru_cache(maxsize=6)  # most films begin with the same shots
def shot(
    seed: int, count: int = 30, *, sharp_at: int = 20, subtitles: bool | range = False, bars: bool = False
) -> tuple[Image.Image, ...]:
    """`count` frames of one scene, a little out of focus but for one of them; subtitles on all or on some of them. Read-only."""
    frames = []
    for index in range(count):
        picture = scene(seed, index)
        if index != sharp_at:
            picture = picture.filter(ImageFilter.GaussianBlur(1.6))
        if subtitles is True or (subtitles and index in subtitles):
            picture = subtitled(picture)
        frames.append(barred(picture) if bars else picture)
    return tuple(frames)


# One row of one panel, one of two, one of three, between gutters of 16 px.
PAGE = (800, 1150)
PANELS: tuple[Box, ...] = (
    *((40, 40, 760, 360), (40, 376, 380, 720), (396, 376, 760, 720)),
    *((40, 736, 270, 1110), (286, 736, 520, 1110), (536, 736, 760, 1110)),
)


def comic_page(seed: int, *, black: bool = False, bubble: bool = False) -> Image.Image:
    """A page of six framed panels, one of them nearly empty; `bubble` lies across a gutter."""
    paper, line = ("black", "white") if black else ("white", "black")
    page = Image.new("RGB", PAGE, paper)
    draw = ImageDraw.Draw(page)
    for index, box in enumerate(PANELS):
        size = (box[2] - box[0], box[3] - box[1])
        art = Image.new("RGB", size, "white") if index == 4 else scene(10 * seed + index, size=size)
        if index == 4:
            ImageDraw.Draw(art).ellipse((40, 60, 180, 260), outline="black", width=4)
        page.paste(art, box[:2])
        draw.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline=line, width=4)
    if bubble:
        draw.ellipse((300, 640, 480, 780), fill="white", outline="black", width=4)
    draw.text((390, 1125), "12", fill=line)
    return page

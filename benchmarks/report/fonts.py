"""Fonts and line breaks of sheets of pictures.

Pillow's own font has ASCII only, so other texts, and small ones, are set in matplotlib's DejaVu Sans (Latin, Greek, Cyrillic,
Arabic; other scripts show as boxes).
"""

from __future__ import annotations

from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
SMALL = 12  # px, up to which Pillow's font is hard to read


def font_for(text: str, size: int) -> Font:
    """A font that can set `text`."""
    if text.isascii() and size > SMALL:
        return ImageFont.load_default(size)
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size * 0.92)


def wrap(text: str, font: Font, width: int, *, max_lines: int = 6) -> list[str]:
    """`text` in lines of at most `width` px; a word that is too long is cut, a text that is too long ends in "…"."""
    lines = [""]
    for word in text.split():
        while font.getlength(word) > width:
            fitting = _fitting(word, font, width)
            lines += [word[:fitting]]
            word = word[fitting:]
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    lines = [line for line in lines if line]
    if len(lines) <= max_lines:
        return lines
    last = lines[max_lines - 1]
    while last and font.getlength(f"{last}…") > width:
        last = last[:-1]
    return [*lines[: max_lines - 1], f"{last}…"]


def _fitting(word: str, font: Font, width: int) -> int:
    """How many letters of a long word fit: up to its last hyphen or similar if there is one, else as many as possible."""
    most = next(n for n in range(len(word) - 1, 0, -1) if font.getlength(word[:n]) <= width or n == 1)
    return next((n for n in range(most, 1, -1) if word[n - 1] in "-_/.:"), most)

"""Fonts and line breaks of sheets of pictures.

Pillow's own font has ASCII only, so other texts, and small ones, are set in matplotlib's DejaVu Sans (Latin, Greek, Cyrillic,
Arabic; other scripts show as boxes).
"""

from __future__ import annotations

import bisect
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
    lines: list[str] = []
    for word in text.split():
        if len(lines) > max_lines:
            break
        if lines and font.getlength(joined := f"{lines[-1]} {word[: 4 * width]}") <= width:
            lines[-1] = joined
        else:
            lines += _cut(word, font, width, max_lines + 1)
    if len(lines) <= max_lines:
        return lines
    last = lines[max_lines - 1]
    return [*lines[: max_lines - 1], f"{last[: _fitting(last, font, width, '…')]}…"]


def _cut(word: str, font: Font, width: int, pieces: int) -> list[str]:
    """A word in at most so many pieces of at most `width` px, cut at its hyphens or the like where it has them."""
    cut: list[str] = []
    while word and len(cut) < pieces:
        most = _fitting(word, font, width)
        if most < len(word):
            most = next((n for n in range(most, 1, -1) if word[n - 1] in "-_/.:"), most)
        cut.append(word[:most])
        word = word[most:]
    return cut


def _fitting(text: str, font: Font, width: int, end: str = "") -> int:
    """How many letters fit before `end`, at least one, by bisection: a text may be as long as a prompt is."""
    letters = range(1, min(len(text), 4 * width) + 1)
    return max(1, bisect.bisect_right(letters, float(width), key=lambda n: float(font.getlength(text[:n] + end))))

"""Attribute labels of a caption: which value of every column it states."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def labels_of(
    captions: Sequence[str], rows: Sequence[Mapping[str, str]], columns: Mapping[str, Sequence[str]]
) -> dict[str, NDArray[np.int64]]:
    """Class indices per column: the row's value where the caption says all its words, else 0 ("unsaid").

    A value such as "none" that captions express by silence never appears in a caption and is 0 as well.
    """
    every = [value for values in columns.values() for value in values]
    words = [set(value.split()) for value in every]
    # The "red" of a headband may also be an outfit's, and an outfit's "black" also occurs in "long black" hair.
    shared = {value for value in every if sum(set(value.split()) <= other for other in words) > 1}
    labels = {}
    for name, values in columns.items():
        index = {value: i + 1 for i, value in enumerate(values)}
        said = (
            index[row[name]] if says(caption, row[name], f"{row[name]} {name}" if row[name] in shared else "") else 0
            for caption, row in zip(captions, rows, strict=True)
        )
        labels[name] = np.fromiter(said, np.int64)
    return labels


def says(caption: str, value: str, phrase: str = "") -> bool:
    """Whether the caption contains every word of `value`; with `phrase`, whether it contains that word for word.

    The phrase is for values that share words with others: "red" alone does not say whether it is a headband or an outfit.
    """
    if phrase:
        return f" {_line(phrase)} " in f" {_line(caption)} "
    words = _words(value)
    return bool(words) and words <= _words(caption)


class _Breaks(dict[int, int | str]):
    """Character => itself, or with blanks around it for punctuation, for `str.translate`; filled as characters occur. What is left
    are words in any script, with their combining marks, and signs such as + and emoji."""

    def __missing__(self, code: int) -> int | str:
        self[code] = f" {chr(code)} " if _is_punctuation(chr(code)) else code
        return self[code]


def _is_punctuation(sign: str) -> bool:
    return unicodedata.category(sign).startswith("P")


BREAKS = _Breaks()


@lru_cache(maxsize=4096)
def _line(text: str) -> str:
    """Words and punctuation marks, with one blank between them."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().translate(BREAKS).split())


@lru_cache(maxsize=4096)
def _words(text: str) -> frozenset[str]:
    return frozenset(word for word in _line(text).split() if not _is_punctuation(word[0]))

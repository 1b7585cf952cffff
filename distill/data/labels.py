"""Attribute labels of a caption: which value of every column it states."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

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
        return phrase.lower() in caption.lower()
    words = _words(value)
    return bool(words) and words <= _words(caption)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))

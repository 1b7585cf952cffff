"""Captions as the text encoder's input and output: token ids and hidden states; and how many captions are longer than it reads."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from genin.processes import is_main_process
from genin.runtimes.added_tokens import spell_vectors
from genin.runtimes.wording import counted

COUNTED = 2_000  # captions; those of the built-in world take 70 µs each to write


class Captioned(Protocol):
    """Captions by number."""

    def __len__(self) -> int: ...
    def captions(self, indices: Sequence[int]) -> list[str]: ...


def tokenize(tokenizer: Any, captions: Sequence[str]) -> Tensor:
    """Captions => int64 (N, max_length), padded and cut as diffusers pipelines do."""
    return tokenizer(  # type: ignore[no-any-return]
        spelled(tokenizer, captions),
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids


def spelled(tokenizer: Any, captions: Sequence[str]) -> list[str]:
    """Captions with textual inversions of several vectors written out."""
    names = tokenizer.added_tokens_encoder
    return [spell_vectors(caption, names) for caption in captions]


def embed(
    text_encoder: nn.Module, tokenizer: Any, captions: Sequence[str], device: torch.device | str = "cpu"
) -> Tensor:
    """Captions => last hidden state (N, L, D), what the UNet attends to."""
    return text_encoder(tokenize(tokenizer, captions).to(device))[0]  # type: ignore[no-any-return]


def warn_of_long_captions(tokenizer: Any, source: Captioned) -> None:
    """Warn once, in the main process, if the text encoder does not read all of some captions: their end is not learnt.

    Of more than `COUNTED` captions so many are counted, evenly spaced.
    """
    if not is_main_process():
        return
    every = math.ceil(len(source) / COUNTED)
    captions = spelled(tokenizer, source.captions(range(0, len(source), every or 1)))
    limit = int(tokenizer.model_max_length) - 2  # begin and end take two
    # No token reaches over a space, so a word, which many captions share, is encoded once.
    words = [*{word for caption in captions for word in caption.split()}]
    ids = tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"] if words else []
    size = {word: len(of_word) for word, of_word in zip(words, ids, strict=True)}
    counts = [sum(size[word] for word in caption.split()) for caption in captions]
    if long := sum(count > limit for count in counts):
        which = f"{len(counts):,} captions" + (f", evenly spaced among {len(source):,}," if every > 1 else "")
        warnings.warn(
            f"{counted(long, f'of {which} has', f'of {which} have')} more than the {limit} tokens that the model reads: "
            "the end is cut off "
            f"(the longest has {max(counts)}); put what matters first, or shorten them (genin data edit)",
            stacklevel=2,
        )

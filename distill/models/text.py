"""Captions as the text encoder's input and output: token ids and hidden states; and how many captions are longer than it reads."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from genin.processes import is_main_process
from genin.runtimes.added_tokens import spell_vectors

COUNTED = 20_000  # captions: a second or two


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

    The first `COUNTED` are counted.
    """
    if not is_main_process():
        return
    captions = source.captions(range(min(len(source), COUNTED)))
    limit = int(tokenizer.model_max_length)
    # A token is at least a byte, so only these can be too long; begin and end take two.
    candidates = [text for text in spelled(tokenizer, captions) if len(text.encode("utf-8", "replace")) > limit - 2]
    if not candidates:
        return
    counts = [len(ids) for ids in tokenizer(candidates, truncation=False, verbose=False)["input_ids"]]
    if long := sum(count > limit for count in counts):
        which = (
            f"{len(captions):,} captions" if len(captions) == len(source) else f"the first {len(captions):,} captions"
        )
        warnings.warn(
            f"{long:,} of {which} have more than the {limit - 2} tokens that the model reads: their end is cut off "
            f"(the longest has {max(counts) - 2}); put what matters first, or shorten them (genin data edit)",
            stacklevel=2,
        )

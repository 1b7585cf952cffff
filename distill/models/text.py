"""Captions as the text encoder's input and output: token ids and hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def tokenize(tokenizer: Any, captions: Sequence[str]) -> Tensor:
    """Captions => int64 (N, max_length), padded and cut as diffusers pipelines do."""
    return tokenizer(  # type: ignore[no-any-return]
        list(captions),
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids


def embed(
    text_encoder: nn.Module, tokenizer: Any, captions: Sequence[str], device: torch.device | str = "cpu"
) -> Tensor:
    """Captions => last hidden state (N, L, D), what the UNet attends to."""
    return text_encoder(tokenize(tokenizer, captions).to(device))[0]  # type: ignore[no-any-return]

"""A denoiser that is tuned, and how captions reach it: through its own text encoder, or from a table of their states.

Not here: the tuning (`finetune`), the table (`inputs.texts`), adapters (`models.lora`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genin.distill.inputs.sources import Source
from genin.distill.inputs.texts import TextCache
from genin.distill.loop.training import Training
from genin.distill.models.diffusion import predict
from genin.distill.models.folder import ModelFolder
from genin.distill.models.guided import Guided
from genin.distill.models.lora import add_adapters, lower_frozen
from genin.distill.models.text import embed, tokenize
from genin.distill.recipe import FinetuneRecipe


class Captioned(nn.Module):
    """UNet and text encoder as one network: (x_t, t, token ids) => prediction. Without the text encoder, where texts are cached:
    (x_t, t, text states) => prediction."""

    def __init__(self, unet: nn.Module, text_encoder: nn.Module | None, *, train_text: bool) -> None:
        super().__init__()
        self.unet, self.train_text = unet, train_text
        self.text_encoder = text_encoder

    def forward(self, x_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        if self.text_encoder is not None:
            with torch.set_grad_enabled(self.train_text and torch.is_grad_enabled()):
                text = self.text_encoder(text)[0]
        return predict(self.unet, x_t, t, text)


@dataclass(frozen=True)
class Texts:
    """How captions reach a denoiser: from the `table`, or through its own text encoder where there is none."""

    tokenizer: Any
    table: TextCache | None
    device: torch.device

    def inputs(self, captions: list[str]) -> Tensor:
        """What a denoiser takes: states (N, L, D), or token ids (N, L)."""
        inputs = tokenize(self.tokenizer, captions) if self.table is None else self.table(captions)
        return inputs.to(self.device)

    @torch.no_grad()
    def states(self, denoiser: Captioned, captions: list[str]) -> Tensor:
        """What its UNet takes, (N, L, D)."""
        if self.table is not None:
            return self.inputs(captions)
        assert denoiser.text_encoder is not None
        return embed(denoiser.text_encoder, self.tokenizer, captions, self.device)


def prepare_texts(training: Training, guided: Guided, source: Source, pictures: int, others: Sequence[str]) -> Texts:
    """The table of the first `pictures` captions and of `others`, where the recipe asks for it and captions do not change; the text
    encoder then leaves the device."""
    settings: Any = training.settings
    table = None
    if settings.cache_texts and not settings.train_text_encoder and not source.rephrases:

        def embed_as_in_training(captions: list[str]) -> Tensor:
            with training.autocast():
                return guided.embed(captions)

        table = TextCache.of([*source.captions(range(pictures)), *others], embed_as_in_training)
        guided.text_encoder.to("cpu")
    return Texts(guided.tokenizer, table, training.device)


def prepare_denoiser(model: ModelFolder, settings: FinetuneRecipe, rank: int, texts: Texts) -> Captioned:
    """The denoiser that learns: with adapters of `rank`, if any, and as little memory as the recipe asks for."""
    text = settings.train_text_encoder
    if rank:
        torch.manual_seed(settings.seed)  # for the adapters' initial weights
        add_adapters(model.unet, "unet", rank)
        if text:
            add_adapters(model.text_encoder, "text_encoder", rank)
        if settings.frozen_precision == settings.mixed_precision == "bf16":
            lower_frozen(model.unet)
    if settings.gradient_checkpointing:
        model.unet.enable_gradient_checkpointing()
        if text:
            model.text_encoder.gradient_checkpointing_enable({"use_reentrant": False})
    return Captioned(model.unet, model.text_encoder if texts.table is None else None, train_text=text)


def trained_weights(rank: int, settings: FinetuneRecipe) -> Callable[[str], bool]:
    """Which of the denoiser's weights learn, by name."""

    def trains(name: str) -> bool:
        if name.startswith("text_encoder.") and not settings.train_text_encoder:
            return False
        return "lora_" in name if rank else True

    return trains

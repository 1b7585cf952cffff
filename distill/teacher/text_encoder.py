"""Tokenizer and text encoder of a teacher that is trained from nothing: CLIP's formats at a fraction of CLIP's size.

The tokenizer is a CLIP byte-pair encoding learnt from the data set's captions (any other word is spelt in bytes, so no prompt is
refused). The encoder is a small CLIPTextModel. Where the data set has attribute columns (character, action, environment …), the
encoder is first trained to read them out of the caption, one linear head per column on the end-of-text state. This takes minutes,
on captions alone; afterwards the encoder stays frozen, as Stable Diffusion's does, and its output is known to contain what the
caption says. A column that the caption leaves out has the label "unsaid".

Not here: third-party encoders (they come with their model folder), or training it with the UNet (`finetune`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genin.distill.inputs.update import Update
from genin.distill.loop.training import Training
from genin.distill.models.text import tokenize
from genin.distill.recipe import TextEncoderRecipe

START, END = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(captions: Sequence[str], folder: Path, recipe: TextEncoderRecipe) -> Any:
    """Learn a CLIP byte-pair vocabulary from captions; writes vocab.json and merges.txt, returns a CLIPTokenizer."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    tokenizer = Tokenizer(models.BPE(unk_token=END, end_of_word_suffix="</w>", continuing_subword_prefix=""))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    from tokenizers import Regex

    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocab_size - 2 - 256,
        end_of_word_suffix="</w>",
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    learnt = json.loads(tokenizer.to_str())["model"]
    # CLIP's order: bytes, bytes that end a word, merged pieces, then the two special tokens.
    ordered = sorted(learnt["vocab"], key=learnt["vocab"].__getitem__)
    pieces = sorted(alphabet) + [f"{b}</w>" for b in sorted(alphabet)]
    pieces += [piece for piece in ordered if piece not in set(pieces)]
    vocab = {piece: index for index, piece in enumerate([*pieces, START, END])}
    merges = [m if isinstance(m, str) else " ".join(m) for m in learnt["merges"]]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=recipe.max_length, pad_token=END
    )


def build_text_encoder(tokenizer: Any, recipe: TextEncoderRecipe) -> nn.Module:
    """An untrained CLIPTextModel for `tokenizer`."""
    from transformers import CLIPTextConfig, CLIPTextModel

    model: nn.Module = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden_size,
            intermediate_size=4 * recipe.hidden_size,
            projection_dim=recipe.hidden_size,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            max_position_embeddings=recipe.max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    return model


class AttributeHeads(nn.Module):
    """The text encoder with one linear head per column; index 0 of each is "unsaid"."""

    def __init__(self, text_encoder: nn.Module, columns: Mapping[str, Sequence[str]], hidden_size: int) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        # A list: the names of columns may be those of a module's own attributes, such as `type`.
        self.names = tuple(columns)
        self.heads = nn.ModuleList([nn.Linear(hidden_size, len(values) + 1) for values in columns.values()])

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        # EOS pads as well, so the state at the last position has seen the whole caption.
        pooled = self.text_encoder(input_ids)[0][:, -1]
        return {name: head(pooled) for name, head in zip(self.names, self.heads, strict=True)}


def train_text_encoder(
    training: Training, source: Any, tokenizer: Any, recipe: TextEncoderRecipe, *, resume: bool = False
) -> nn.Module:
    """Teach the encoder to read the attribute columns of `source`; returns its average, frozen."""
    model = AttributeHeads(build_text_encoder(tokenizer, recipe), source.columns, recipe.hidden_size)
    heads = training.add("text_encoder", model)
    if resume:
        training.resume()

    def step(update: Update) -> dict[str, Tensor]:
        indices = update.randint(len(source)).tolist()
        captions = source.captions(indices, epoch=update.index)
        rows = [source.row(i) for i in indices]
        labels = {name: torch.from_numpy(index) for name, index in source.labels(captions, rows).items()}
        with training.autocast():
            logits = heads(tokenize(tokenizer, captions).to(training.device))
        losses = {n: F.cross_entropy(logits[n].float(), labels[n].to(training.device)) for n in logits}
        hits = torch.stack([(logits[n].argmax(-1).cpu() == labels[n]).float().mean() for n in logits])
        loss = torch.stack(list(losses.values())).mean()
        training.optimise("text_encoder", loss)
        return {"loss": loss.detach(), "accuracy": hits.mean(), "worst_accuracy": hits.min()}

    training.run(step, once=True)
    average: Any = training.ema_weights("text_encoder")
    trained: nn.Module = average.text_encoder.requires_grad_(False).eval()
    return trained

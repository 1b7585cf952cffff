"""How many captions are longer than the model reads is said once, before training."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("torch")

from conftest import write_tiny_tokenizer
from genin.distill.models import text
from genin.distill.models.text import tokenize, warn_of_long_captions


class Captions(list[str]):
    def captions(self, indices: Sequence[int]) -> list[str]:
        return [self[index] for index in indices]


def said(tokenizer: object, captions: Captions) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_long_captions(tokenizer, captions)
    return [str(one.message) for one in caught]


def test_captions_that_are_cut_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = write_tiny_tokenizer(tmp_path)
    fits, long = "1 " * (tokenizer.model_max_length - 2), "1 " * (tokenizer.model_max_length - 1)
    assert said(tokenizer, Captions([fits, "", fits])) == []
    [line] = said(tokenizer, Captions([fits, long, long + long, fits]))
    limit = tokenizer.model_max_length - 2
    assert line.startswith(f"2 of 4 captions have more than the {limit} tokens") and f"has {2 * limit + 2})" in line
    monkeypatch.setattr(text, "COUNTED", 2)
    [line] = said(tokenizer, Captions([fits, fits, long]))
    assert line.startswith("1 of 2 captions, evenly spaced among 3, has")


def test_words_one_by_one_have_as_many_tokens_as_the_caption(tmp_path: Path) -> None:
    tokenizer = write_tiny_tokenizer(tmp_path)
    tokenizer.add_tokens(["<cat>", "<cat>_1"])
    for caption in (
        "The ninja's 2 mountains,  on-fire!! (and\tsunset)",
        "a <cat>, x<cat>y",
        "日本の忍者 über naïve Ωmega",
        "it's we'll 1234 <|endoftext|>",
    ):
        tokenizer.model_max_length = len(tokenizer([caption.replace("<cat>", "<cat> <cat>_1")])["input_ids"][0]) - 1
        [line] = said(tokenizer, Captions([caption]))
        assert f"(the longest has {tokenizer.model_max_length - 1})" in line


def test_training_reads_all_vectors_of_an_added_token(tmp_path: Path) -> None:
    tokenizer = write_tiny_tokenizer(tmp_path)
    tokenizer.add_tokens(["<cat>", "<cat>_1"])
    short, written_out = tokenize(tokenizer, ["a <cat>", "a <cat> <cat>_1"])
    assert short.tolist() == written_out.tolist()

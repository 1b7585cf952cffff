"""What model folders of other tools say in their own way: sizes, added tokens without a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from genin.runtimes.errors import InputError
from genin.runtimes.folder import check_token_rows, latent_size, square_latent_size


@pytest.mark.parametrize(
    ("size", "expected"), [(64, (64, 64)), ([64, 64], (64, 64)), ((48, 64), (48, 64)), ([96, 64], (96, 64))]
)
def test_sample_size_is_a_number_or_two(size: Any, expected: tuple[int, int]) -> None:
    assert latent_size({"sample_size": size}) == expected


@pytest.mark.parametrize(
    "config",
    [{}, *({"sample_size": size} for size in (None, 0, True, "64", [64], [64, 64, 64], [64, None], 64.0, 5000))],
)
def test_what_is_no_size_is_named_with_its_file(config: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"sample_size.*unet/config\.json"):
        latent_size(config)


def test_training_and_export_need_a_square() -> None:
    assert square_latent_size({"sample_size": [16, 16]}) == 16
    with pytest.raises(InputError, match=r"\[12, 16\] is not square"):
        square_latent_size({"sample_size": [12, 16]})


def test_an_added_token_without_a_row_is_named(tmp_path: Path) -> None:
    for name, content in (
        ("text_encoder/config.json", {"vocab_size": 10}),
        ("tokenizer/added_tokens.json", {"<a>": 9}),
    ):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(json.dumps(content))
    check_token_rows(tmp_path)
    (tmp_path / "tokenizer/added_tokens.json").write_text(json.dumps({"<a>": 9, "<b>": 10}))
    with pytest.raises(InputError, match=r"has 10 rows, none for the added token '<b>' \(10\)"):
        check_token_rows(tmp_path)

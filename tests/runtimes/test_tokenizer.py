"""The torch-free tokenizer gives transformers' ids, on chosen and on random text."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genin.runtimes.added_tokens import read_added_tokens
from genin.runtimes.errors import InputError
from genin.runtimes.manifest import TextConstants
from genin.runtimes.tokenizer import ClipTokenizer

CHOSEN = [
    "",
    " ",
    "a ninja in an orange outfit meditating on a mountain",
    "NINJA Running, under the SUNSET!",
    "the ninja's orange outfit; they'll run, I'D say it'S 42 km/h",
    "naïve café — “quotes” … £5 ½ ²",
    "忍者 on a 山mountain",
    "にんじゃ ниндзя ΝΊΝΤΖΑΣ İstanbul ẞ ﬀ",
    "🥷🏽 ninja 👨‍👩‍👧 e\u0301",
    "tab\tline\nreturn\r nul\x00 bell\x07 zero\u200bwidth \u2028 nbsp\u00a0 \ufffd \ufeff",
    "<|startoftext|>ninja<|endoftext|> <|ENDOFTEXT|> <|endoftext|",
    "'ſ ’s 'S",
    "aaaaaaaaaaaa ababababab",
]


@pytest.fixture(scope="module", params=["<|endoftext|>", "!"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ClipTokenizer]:
    """transformers' tokenizer and ours; random merges beside the tiny ones; padding as in SD 1 and as in SD 2."""
    transformers = pytest.importorskip("transformers")
    from conftest import write_tiny_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    write_tiny_tokenizer(folder)
    _add_random_merges(folder)
    theirs = transformers.CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=24, pad_token=request.param
    )
    text = TextConstants(24, 8, theirs.pad_token_id, theirs.bos_token_id, theirs.eos_token_id)
    ours = ClipTokenizer((folder / "vocab.json").read_bytes(), (folder / "merges.txt").read_bytes(), text)
    return theirs, ours


def _add_random_merges(folder: Path) -> None:
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    draw = random.Random(0)
    letters = [*"aeinrstou<|>!'0", "Ã", "©", "ð", "Ł"]
    pieces = [*letters]
    for _ in range(300):
        left, right = draw.choice(pieces), draw.choice(pieces + [letter + "</w>" for letter in letters])
        if f"{left} {right}" not in lines and not left.endswith("</w>"):
            lines.append(f"{left} {right}")
            vocabulary.setdefault(left + right, len(vocabulary))
            if not right.endswith("</w>"):
                pieces.append(left + right)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def their_ids(theirs: Any, prompt: str) -> list[int]:
    return list(theirs(prompt, padding="max_length", truncation=True, max_length=24)["input_ids"])


@pytest.mark.parametrize("prompt", CHOSEN)
def test_chosen_text(both: tuple[Any, ClipTokenizer], prompt: str) -> None:
    theirs, ours = both
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert ours([prompt])[0].tolist() == their_ids(theirs, prompt)
    assert ours.ids(prompt) == theirs(prompt, add_special_tokens=False)["input_ids"]


words = st.sampled_from(
    ["ninja", "Orange ", "the", "'s", "'LL", "<|endoftext|>", "!", " ", "aeio", "é", "Σ", "山", "🥷"]
)
texts = st.one_of(st.lists(words).map("".join), st.text(), st.text(alphabet="aeinrstou<|>!'0 "))


@settings(max_examples=300)
@given(prompt=texts)
def test_any_text(both: tuple[Any, ClipTokenizer], prompt: str) -> None:
    theirs, ours = both
    assert ours.ids(prompt) == theirs(prompt, add_special_tokens=False)["input_ids"]


def test_long_captions_are_cut_with_a_warning(both: tuple[Any, ClipTokenizer]) -> None:
    theirs, ours = both
    prompt = "ninja " * 22 + "under the mountain"
    with pytest.warns(UserWarning, match=r"31 tokens, the model reads 22; cut off: 'under the mountain'"):
        ids = ours([prompt])
    assert ids.shape == (1, 24)
    assert ids[0].tolist() == their_ids(theirs, prompt)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours(["ninja " * 22])


TEXT = TextConstants(8, 8, 1, 0, 1)


@pytest.mark.parametrize(
    ("vocabulary", "merges", "says"),
    [
        (b"{", b"#\n", "valid JSON"),
        (b"[1]", b"#\n", "map pieces"),
        (b'{"a": "b"}', b"#\n", "map pieces"),
        (b'{"a": 5}', b"#\n", "special token"),
        (b'{"a": 0, "b": 1}', b"#\na b\n", "do not fit"),
        (b'{"a": 0, "b": 1}', b"#\na b c\n", "pairs"),
        (b'{"a": 0, "b": 1}', b"#\n\xff\n", "UTF-8"),
    ],
)
def test_wrong_files_are_refused(vocabulary: bytes, merges: bytes, says: str) -> None:
    with pytest.raises(InputError, match=says):
        ClipTokenizer(vocabulary, merges, TEXT)


def test_half_a_surrogate_is_refused(both: tuple[Any, ClipTokenizer]) -> None:
    with pytest.raises(InputError, match="Unicode"):
        both[1].ids("ninja \ud83e")


# --- added tokens ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_added(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ClipTokenizer, Path]:
    """Both tokenizers with tokens of textual inversions; one is a single word, one has three vectors."""
    transformers = pytest.importorskip("transformers")
    from conftest import write_tiny_tokenizer

    folder = tmp_path_factory.mktemp("added")
    theirs = write_tiny_tokenizer(folder)
    theirs.add_tokens(["<ninja>", "sks", "<cat>", "<cat>_1", "<cat>_2", "<Ninja>s"])
    theirs.add_tokens([transformers.AddedToken("xyz", single_word=True)])
    theirs.save_pretrained(folder)
    return theirs, ours_of(folder, theirs), folder


def ours_of(folder: Path, theirs: Any) -> ClipTokenizer:
    text = TextConstants(24, 8, theirs.pad_token_id, theirs.bos_token_id, theirs.eos_token_id)
    added = read_added_tokens(lambda name: (folder / name).read_bytes() if (folder / name).is_file() else None)
    return ClipTokenizer((folder / "vocab.json").read_bytes(), (folder / "merges.txt").read_bytes(), text, added)


def test_a_special_token_without_a_name_is_refused() -> None:
    """It would be found everywhere in a text, without end."""
    text = TextConstants(24, 8, 0, 1, 2)
    with pytest.raises(InputError, match="lacks a special token"):
        ClipTokenizer(b'{"": 0, "a": 1, "b": 2}', b"#version: 0.2\n", text)


@pytest.mark.parametrize(
    "prompt",
    [
        "the <ninja> under the mountain",
        "<ninja><ninja>, <NINJA> and a<ninja>b",
        "<Ninja>s sks tasks",
        "xyz wxyz xyz! xyz xyz<ninja>xyz",
        "<|endoftext|> <ninja",
        "sksxyz xyzsks",
    ],
)
def test_added_tokens_are_those_of_transformers(with_added: tuple[Any, ClipTokenizer, Path], prompt: str) -> None:
    theirs, ours, _ = with_added
    assert ours.ids(prompt) == theirs(prompt, add_special_tokens=False)["input_ids"]


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(["<ninja>", "sks", "xyz", "<Ninja>s", " ", "a", "é", "!", "<|endoftext|>"]), max_size=8)
)
def test_added_tokens_in_any_company(with_added: tuple[Any, ClipTokenizer, Path], parts: list[str]) -> None:
    theirs, ours, _ = with_added
    assert ours.ids("".join(parts)) == theirs("".join(parts), add_special_tokens=False)["input_ids"]


def test_all_vectors_of_a_token_are_read(with_added: tuple[Any, ClipTokenizer, Path]) -> None:
    theirs, ours, _ = with_added
    written_out = theirs("a <cat> <cat>_1 <cat>_2!", add_special_tokens=False)["input_ids"]
    assert ours.ids("a <cat>!") == ours.ids("a <cat> <cat>_1 <cat>_2!") == written_out


def test_older_folders_state_added_tokens_elsewhere(
    with_added: tuple[Any, ClipTokenizer, Path], tmp_path: Path
) -> None:
    theirs, ours, folder = with_added
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<ninja>": theirs.convert_tokens_to_ids("<ninja>")}))
    assert ours_of(tmp_path, theirs).ids("a <ninja>") == ours.ids("a <ninja>")
    entry = {"id": theirs.convert_tokens_to_ids("xyz"), "content": "xyz", "single_word": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": [entry]}))
    assert ours_of(tmp_path, theirs).ids("a <ninja> xyz wxyz") == ours.ids("a <ninja> xyz wxyz")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("added_tokens.json", "[1]"),
        ("added_tokens.json", '{"<a>": -1}'),
        ("added_tokens.json", "{"),
        ("tokenizer.json", '{"added_tokens": 3}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {"content": "<a>"}}}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"7": {"content": ""}}}'),
    ],
)
def test_damaged_lists_of_added_tokens_are_named(name: str, content: str) -> None:
    with pytest.raises(InputError, match=name):
        read_added_tokens(lambda asked: content.encode() if asked == name else None)

"""Tokens that were added to CLIP's vocabulary, such as those of a textual inversion (Gal et al. 2022, arXiv:2208.01618).

transformers keeps them outside `vocab.json`: in `tokenizer_config.json` (`added_tokens_decoder`), in older folders in
`added_tokens.json` and `tokenizer.json`. A text is split at their names before anything else (`tokenizer`). An inversion of
several vectors is several tokens, NAME, NAME_1, …: a prompt says NAME, and all of them are read, as in diffusers' pipelines.

Not here: their embeddings, which are rows of the text encoder like any other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from genin.runtimes.errors import InputError
from genin.runtimes.text import decode_text

# In the order in which transformers looks for them; the files after the first count only where it does not state any.
CONFIG, LEGACY = "tokenizer_config.json", ("added_tokens.json", "tokenizer.json")
FILES = (CONFIG, *LEGACY)


@dataclass(frozen=True)
class AddedToken:
    """`number` is its id; one that is a `single_word` is not looked for inside of words."""

    name: str
    number: int
    single_word: bool = False


def read_added_tokens(read: Callable[[str], bytes | None]) -> list[AddedToken]:
    """The added tokens of a tokenizer; `read` gives the content of one of its files, None where there is none.

    Errors: InputError for a file that is not valid.
    """
    stated = _object(read, CONFIG).get("added_tokens_decoder")
    if stated is not None:
        if not isinstance(stated, dict):
            raise _invalid(CONFIG)
        return [_token(CONFIG, entry, number) for number, entry in stated.items()]
    plain, listed = (_object(read, name) for name in LEGACY)
    found = [_token(LEGACY[0], {"content": name}, number) for name, number in plain.items()]
    entries = listed.get("added_tokens") or []
    if not isinstance(entries, list):
        raise _invalid(LEGACY[1])
    found += [_token(LEGACY[1], entry, entry.get("id") if isinstance(entry, dict) else None) for entry in entries]
    return list({token.number: token for token in found}.values())


def spell_vectors(prompt: str, names: Collection[str]) -> str:
    """`prompt` with every NAME of several vectors written out: NAME NAME_1 NAME_2. One that is written out already is left."""
    vectors = {name: _vectors(name, names) for name in names if f"{name}_1" in names and f"{name}_1" not in prompt}
    if not vectors:
        return prompt
    return pattern(names).sub(lambda found: " ".join(vectors.get(found[0], [found[0]])), prompt)


def pattern(names: Iterable[str]) -> re.Pattern[str]:
    """Any of the names, the longest first; a group, so that splitting keeps them."""
    return re.compile(f"({'|'.join(map(re.escape, sorted(names, key=len, reverse=True)))})")


def split_at(text: str, tokens: dict[str, AddedToken], names: re.Pattern[str]) -> list[str]:
    """Pieces of a text, of which those in `tokens` are tokens. As transformers' slow tokenizers, a single word is no token where
    something other than a space touches it."""
    pieces: Sequence[str] = names.split(text)
    pieces = [piece for piece in pieces if piece]
    for i, piece in enumerate(pieces):
        token = tokens.get(piece)
        if token is None or not token.single_word:
            continue
        if i > 0 and pieces[i - 1] and pieces[i - 1][-1] != " ":
            pieces[i - 1], pieces[i] = pieces[i - 1] + piece, ""
        elif i + 1 < len(pieces) and pieces[i + 1] and pieces[i + 1][0] != " ":
            pieces[i], pieces[i + 1] = "", piece + pieces[i + 1]
    return [piece for piece in pieces if piece]


def _vectors(name: str, names: Collection[str]) -> list[str]:
    found = [name]
    while f"{name}_{len(found)}" in names:
        found.append(f"{name}_{len(found)}")
    return found


def _object(read: Callable[[str], bytes | None], name: str) -> dict[str, Any]:
    content = read(name)
    if content is None:
        return {}
    try:
        data = json.loads(decode_text(content))
    except (ValueError, RecursionError) as error:
        raise InputError(f"the tokenizer's {name} is not valid JSON") from error
    if not isinstance(data, dict):
        raise InputError(f"the tokenizer's {name} is not a JSON object")
    return data


def _token(file: str, entry: Any, number: Any) -> AddedToken:
    name = entry.get("content") if isinstance(entry, dict) else None
    if isinstance(number, str) and number.isascii() and number.isdigit() and len(number) < 10:
        number = int(number)
    if not isinstance(name, str) or not name or type(number) is not int or not 0 <= number < 1 << 31:
        raise _invalid(file)
    return AddedToken(name, number, entry.get("single_word") is True)


def _invalid(file: str) -> InputError:
    return InputError(f"the added tokens in the tokenizer's {file} are not names with numbers")

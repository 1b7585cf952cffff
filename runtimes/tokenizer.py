"""CLIP's byte-pair tokenizer from `vocab.json` and `merges.txt`, without transformers.

Ids equal those of transformers' (slow) `CLIPTokenizer` where `ftfy` is not installed: text is cleaned as its BasicTokenizer does
(control characters dropped, NFC, spaces around CJK characters, lower case), split by CLIP's pattern, and merged here: the
`tokenizers` package would do it too, but depends on a hub client, a sixth of a game's download (docs/architecture.md). A caption
is `<|startoftext|>` … `<|endoftext|>`, padded to `max_length`; one that is too long is cut before its end, with a warning that says
what was cut.

Not here: tokens that were added to the vocabulary (`added_tokens`), other tokenizers (T5, SDXL's second encoder), prompt weighting.
"""

from __future__ import annotations

import functools
import heapq
import json
import re
import textwrap
import unicodedata
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genin.runtimes.added_tokens import AddedToken, pattern, spell_vectors, split_at
from genin.runtimes.assigned import is_assigned
from genin.runtimes.errors import InputError
from genin.runtimes.manifest import TextConstants
from genin.runtimes.quiet import is_silent
from genin.runtimes.text import decode_text

# What transformers reads: the line after `#version`, up to CLIP's own number of merges.
MERGES = slice(1, 49152 - 256 - 2 + 1)
# Names that the original takes whole even where case hid them from the special tokens; the contractions ignore case
# as the original does: 'ſ (long s) stands for 's.
RESERVED = ("<|startoftext|>", "<|endoftext|>")
WHOLE = re.compile(r"<\|startoftext\|>|<\|endoftext\|>|(?i:'s|'t|'re|'ve|'m|'ll|'d)")
WORD_END = "</w>"
WORDS_KEPT = 4096
CJK_BLOCKS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


class ClipTokenizer:
    """Text => token ids of a fixed length."""

    def __init__(self, vocabulary: bytes, merges: bytes, text: TextConstants, added: Sequence[AddedToken] = ()) -> None:
        """`vocabulary` and `merges` are the files' content, `added` further tokens. Errors: InputError if they are not a CLIP
        vocabulary."""
        ids, pairs = _read_vocabulary(vocabulary), _read_merges(merges)
        names = {number: piece for piece, number in ids.items()} | {token.number: token.name for token in added}
        special = [text.bos_token_id, text.eos_token_id, text.pad_token_id]
        if not all(names.get(number) for number in special):
            raise InputError(f"the tokenizer's vocabulary lacks a special token (ids {special})")
        self.text = text
        self._added = {names[number]: AddedToken(names[number], number) for number in special}
        self._added |= {token.name: token for token in added}
        self._names = pattern(self._added)
        self._words = _BytePairs(ids, pairs, names, unknown=text.eos_token_id)

    def __call__(self, prompts: Sequence[str]) -> NDArray[np.int64]:
        """Captions => ids (N, max_length). Warns of captions that are cut."""
        return np.array([self._padded(prompt) for prompt in prompts], np.int64).reshape(-1, self.text.max_length)

    def ids(self, prompt: str) -> list[int]:
        """All tokens of one text, without begin, end and padding. Errors: InputError for half a surrogate pair."""
        try:
            prompt.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError("the prompt is not valid Unicode", remedy="remove the lone surrogate") from error
        found: list[int] = []
        for part in split_at(spell_vectors(prompt, self._added), self._added, self._names):
            if part in self._added:
                found.append(self._added[part].number)
            elif cleaned := clean(part):
                found += self._words.encode(cleaned)
        return found

    def _padded(self, prompt: str) -> list[int]:
        room = self.text.max_length - 2
        ids = self.ids(prompt)
        if len(ids) > room and not is_silent():
            cut = textwrap.shorten(self._words.decode(ids[room:]), 80, placeholder=" …")
            warnings.warn(
                f"the prompt has {len(ids)} tokens, the model reads {room}; cut off: '{cut}'", UserWarning, stacklevel=2
            )
        caption = [self.text.bos_token_id, *ids[:room], self.text.eos_token_id]
        return caption + [self.text.pad_token_id] * (self.text.max_length - len(caption))


def clean(text: str) -> str:
    """Lower-case words with single spaces between, as transformers' BasicTokenizer leaves them."""
    kept = [_clean_sign(sign) for sign in text]
    words = unicodedata.normalize("NFC", "".join(kept)).split()
    return " ".join(" ".join(word.lower() for word in words).split())


def _clean_sign(sign: str) -> str:
    code = ord(sign)
    if sign in " \t\n\r":
        return " "
    if code < 0x7F:
        return sign if code > 0x1F else ""
    category = unicodedata.category(sign)
    if code == 0xFFFD or category.startswith("C") or not is_assigned(sign):
        return ""
    if category == "Zs":
        return " "
    return f" {sign} " if any(low <= code <= high for low, high in CJK_BLOCKS) else sign


class _BytePairs:
    """Cleaned text <=> ids: byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909) over GPT-2's characters for bytes."""

    def __init__(
        self, ids: dict[str, int], pairs: list[tuple[str, str]], names: dict[int, str], *, unknown: int
    ) -> None:
        """`names` are the pieces and added tokens of all ids; `unknown` is the id of what no piece stands for."""
        for left, right in pairs:
            if not {left, right, left + right} <= ids.keys():
                raise InputError(f"the tokenizer's vocabulary and merges do not fit ('{left} {right}')")
        self._ids, self._pieces = ids, names
        self._ranks = {pair: rank for rank, pair in enumerate(pairs)}
        self._unknown = unknown
        # Captions share their words: merging them anew took a thirtieth of a one-step picture (docs/log.md).
        self._word = functools.lru_cache(WORDS_KEPT)(self._merged_word)

    def encode(self, cleaned: str) -> list[int]:
        return [number for word in split_words(cleaned) for number in self._word(word)]

    def _merged_word(self, word: str) -> tuple[int, ...]:
        if word in RESERVED:
            return (self._ids.get(word, self._unknown),)
        signs = [BYTE_SIGNS[byte] for byte in word.encode("utf-8")]
        return tuple(self._ids.get(piece, self._unknown) for piece in self._merged([*signs[:-1], signs[-1] + WORD_END]))

    def _merged(self, pieces: list[str]) -> list[str]:
        """Join neighbours, the pair learnt first before all others, the leftmost first, until no learnt pair is left."""
        count = len(pieces)
        # A list linked both ways; a piece joined to its left neighbour becomes empty. The queue may hold stale pairs.
        after, before = [*range(1, count), -1], [-1, *range(count - 1)]
        queue: list[tuple[int, int, str, str]] = []

        def consider(at: int) -> None:
            if at >= 0 and (right := after[at]) >= 0:
                pair = pieces[at], pieces[right]
                if (rank := self._ranks.get(pair)) is not None:
                    heapq.heappush(queue, (rank, at, *pair))

        for at in range(count):
            consider(at)
        while queue:
            _, at, left, right = heapq.heappop(queue)
            other = after[at]
            if other < 0 or (pieces[at], pieces[other]) != (left, right):
                continue
            pieces[at], pieces[other] = left + right, ""
            after[at] = after[other]
            if after[at] >= 0:
                before[after[at]] = at
            consider(before[at])
            consider(at)
        return [piece for piece in pieces if piece]

    def decode(self, ids: Sequence[int]) -> str:
        signs = "".join(self._pieces.get(number, "") for number in ids)
        return " ".join(_as_text(word) for word in signs.split(WORD_END)).strip()


def split_words(cleaned: str) -> list[str]:
    """CLIP's pattern: reserved names and contractions, runs of letters, single numbers, runs of other characters."""
    words, at = [], 0
    while at < len(cleaned):
        whole = WHOLE.match(cleaned, at)
        kind = _kind(cleaned[at])
        end = whole.end() if whole else at + 1
        if not whole and kind != "N":
            while end < len(cleaned) and _kind(cleaned[end]) == kind:
                end += 1
        if kind != " ":
            words.append(cleaned[at:end])
        at = end
    return words


def _kind(sign: str) -> str:
    """Letter, number, space or another character: what CLIP's pattern distinguishes (Unicode's classes L and N)."""
    if sign.isspace():
        return " "
    kind = unicodedata.category(sign)[0]
    return kind if kind in "LN" else "S"


def _byte_signs() -> list[str]:
    """GPT-2's printable character for every byte: itself where it is printable Latin-1, else one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


BYTE_SIGNS = _byte_signs()
SIGN_BYTES = {sign: byte for byte, sign in enumerate(BYTE_SIGNS)}


def _as_text(signs: str) -> str:
    return bytes(SIGN_BYTES[sign] for sign in signs if sign in SIGN_BYTES).decode("utf-8", "replace")


def _read_vocabulary(content: bytes) -> dict[str, int]:
    try:
        ids = json.loads(decode_text(content))
    except (ValueError, RecursionError) as error:
        raise InputError(f"the tokenizer's vocab.json is not valid JSON ({error})") from error
    if not isinstance(ids, dict) or not all(type(i) is int and 0 <= i < 1 << 31 for i in ids.values()):
        raise InputError("the tokenizer's vocab.json does not map pieces to ids")
    return ids


def _read_merges(content: bytes) -> list[tuple[str, str]]:
    try:
        lines = decode_text(content).strip().split("\n")[MERGES]
    except ValueError as error:
        raise InputError(f"the tokenizer's merges.txt is {error}") from error
    pairs = [tuple(line.split()) for line in lines]
    if not all(len(pair) == 2 for pair in pairs):
        raise InputError("the tokenizer's merges.txt does not list pairs")
    return [(pair[0], pair[1]) for pair in pairs]

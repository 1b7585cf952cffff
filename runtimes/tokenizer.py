"""CLIP's byte-pair tokenizer from `vocab.json` and `merges.txt`, without transformers.

Ids equal those of transformers' (slow) `CLIPTokenizer` where `ftfy` is not installed: text is cleaned as its
BasicTokenizer does (control signs dropped, NFC, CJK signs apart, lower case), split by CLIP's pattern, and merged by
the `tokenizers` package. A caption is `<|startoftext|>` … `<|endoftext|>`, padded to `max_length`; one that is too long
is cut before its end, with a warning that says what was cut.

Not here: other tokenizers (T5, SDXL's second encoder), prompt weighting.
"""

from __future__ import annotations

import json
import re
import unicodedata
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genin.runtimes.errors import InputError
from genin.runtimes.manifest import TextConstants

# What transformers reads: the line after `#version`, up to CLIP's own number of merges.
MERGES = slice(1, 49152 - 256 - 2 + 1)
# Names that the original takes whole even where case hid them from the special tokens; the contractions ignore case
# as the original does: 'ſ (long s) stands for 's.
RESERVED = ("<|startoftext|>", "<|endoftext|>")
PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
WORD_END = "</w>"
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

    def __init__(self, vocabulary: bytes, merges: bytes, text: TextConstants) -> None:
        """`vocabulary` and `merges` are the files' content. Errors: InputError if they are not a CLIP vocabulary."""
        ids, pairs = _read_vocabulary(vocabulary), _read_merges(merges)
        names = {number: piece for piece, number in ids.items()}
        special = [text.bos_token_id, text.eos_token_id, text.pad_token_id]
        if not set(special) <= set(names):
            raise InputError(f"the tokenizer's vocabulary lacks a special token (ids {special})")
        self.text = text
        self._special = {names[number]: number for number in special}
        self._words = _BytePairs(ids, pairs, unknown=names[text.eos_token_id])
        longest_first = sorted(self._special, key=len, reverse=True)
        self._split_special = re.compile(f"({'|'.join(map(re.escape, longest_first))})")

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
        for part in self._split_special.split(prompt):
            if part in self._special:
                found.append(self._special[part])
            elif cleaned := clean(part):
                found += self._words.encode(cleaned)
        return found

    def _padded(self, prompt: str) -> list[int]:
        room = self.text.max_length - 2
        ids = self.ids(prompt)
        if len(ids) > room:
            cut = self._words.decode(ids[room:])
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
    if code == 0xFFFD or category.startswith("C"):
        return ""
    if category == "Zs":
        return " "
    return f" {sign} " if any(low <= code <= high for low, high in CJK_BLOCKS) else sign


class _BytePairs:
    """Cleaned text <=> ids, by the `tokenizers` package."""

    def __init__(self, ids: dict[str, int], pairs: list[tuple[str, str]], *, unknown: str) -> None:
        from tokenizers import Regex, decoders, models, pre_tokenizers

        self._reserved = {name: ids.get(name, ids[unknown]) for name in RESERVED}
        self._split = pre_tokenizers.Split(Regex(PATTERN), behavior="removed", invert=True)
        self._bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self._text = decoders.ByteLevel()
        try:
            self._model = models.BPE(ids, pairs, end_of_word_suffix=WORD_END, unk_token=unknown)
        except Exception as error:  # the package raises bare Exceptions
            raise InputError(f"the tokenizer's vocabulary and merges do not fit ({error})") from error

    def encode(self, cleaned: str) -> list[int]:
        found: list[int] = []
        for word, _ in self._split.pre_tokenize_str(cleaned):
            if word in self._reserved:
                found.append(self._reserved[word])
            else:
                [(signs, _)] = self._bytes.pre_tokenize_str(word)
                found += [token.id for token in self._model.tokenize(signs)]
        return found

    def decode(self, ids: Sequence[int]) -> str:
        signs = "".join(self._model.id_to_token(number) or "" for number in ids)
        return " ".join(str(self._text.decode([part])) for part in signs.split(WORD_END)).strip()


def _read_vocabulary(content: bytes) -> dict[str, int]:
    try:
        ids = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the tokenizer's vocab.json is not valid JSON ({error})") from error
    # 32 bits: the package's own ids
    if not isinstance(ids, dict) or not all(type(i) is int and 0 <= i < 1 << 31 for i in ids.values()):
        raise InputError("the tokenizer's vocab.json does not map pieces to ids")
    return ids


def _read_merges(content: bytes) -> list[tuple[str, str]]:
    try:
        lines = content.decode("utf-8").strip().split("\n")[MERGES]
    except UnicodeDecodeError as error:
        raise InputError("the tokenizer's merges.txt is not UTF-8") from error
    pairs = [tuple(line.split()) for line in lines]
    if not all(len(pair) == 2 for pair in pairs):
        raise InputError("the tokenizer's merges.txt does not list pairs")
    return [(pair[0], pair[1]) for pair in pairs]

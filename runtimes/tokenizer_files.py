"""The two files of CLIP's tokenizer, `vocab.json` and `merges.txt`, or the `tokenizer.json` that newer tools write instead of them.

`tokenizer.json` is the format of the `tokenizers` package; it holds the same vocabulary and merges, from which the two files are
made again, for the tokenizer here, for transformers and for bundles. Its normaliser and its pattern are not read: they are CLIP's.

Not here: tokens that were added to the vocabulary (`added_tokens`), what is done with the files (`tokenizer`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genin.runtimes.errors import InputError
from genin.runtimes.text import decode_text

VOCABULARY, MERGES, COMBINED = "vocab.json", "merges.txt", "tokenizer.json"
FILES = (VOCABULARY, MERGES)
WORD_END = "</w>"
CLIP_ONLY = "give a model with CLIP's tokenizer, as Stable Diffusion 1 and 2 have"
AGAIN = "re-create or re-download it"


def is_combined(folder: Path) -> bool:
    """Whether the vocabulary has to be taken out of `tokenizer.json`."""
    return (folder / COMBINED).is_file() and not all((folder / name).is_file() for name in FILES)


def tokenizer_files(folder: Path) -> dict[str, bytes]:
    """The content of `vocab.json` and `merges.txt` => under these names. Errors: InputError naming the file that is missing or
    wrong."""
    if is_combined(folder):
        return from_combined(folder / COMBINED)
    try:
        return {name: (folder / name).read_bytes() for name in FILES}
    except OSError as error:
        what = f"the model folder's tokenizer lacks a file (CLIP's {Path(str(error.filename)).name})"
        raise InputError(what, where=str(error.filename), remedy=AGAIN) from error


def from_combined(path: Path) -> dict[str, bytes]:
    """Both files' content, out of a `tokenizer.json`. Errors: InputError for a file that is damaged, or another tokenizer's."""
    try:
        content = json.loads(decode_text(path.read_bytes()))
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=path) from error
    except (ValueError, RecursionError) as error:
        raise InputError("not valid JSON", where=path, remedy=AGAIN) from error
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict):
        raise InputError("not a tokenizer of the tokenizers package", where=path, remedy=AGAIN)
    kind = model.get("type", "BPE")
    if kind != "BPE" or model.get("end_of_word_suffix") != WORD_END:
        what = f"the tokenizer is not CLIP's ({kind if kind != 'BPE' else 'byte pairs without CLIP’s end of words'})"
        raise InputError(what, where=path, remedy=CLIP_ONLY)
    vocabulary, pairs = model.get("vocab"), model.get("merges")
    if not isinstance(vocabulary, dict) or not isinstance(pairs, list):
        raise InputError("the tokenizer has no vocabulary or no merges", where=path, remedy=AGAIN)
    lines = [_line(pair, path) for pair in pairs]
    named = {**_special(content), **vocabulary}
    return {
        VOCABULARY: json.dumps(named, ensure_ascii=False).encode("utf-8", "replace"),
        MERGES: ("#version: 0.2\n" + "\n".join(lines) + "\n").encode("utf-8", "replace"),
    }


def _line(pair: Any, path: Path) -> str:
    """A merge is "left right" in older files, ["left", "right"] in newer ones."""
    parts = pair.split(" ") if isinstance(pair, str) else pair
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) and part for part in parts):
        raise InputError("the tokenizer's merges are not pairs", where=path, remedy=AGAIN)
    if any(len(part.split()) != 1 for part in parts):
        raise InputError("the tokenizer's merges have spaces, as CLIP's have not", where=path, remedy=CLIP_ONLY)
    return " ".join(parts)


def _special(content: Mapping[str, Any]) -> dict[str, int]:
    """CLIP's two special tokens, which belong to its vocabulary, where they are only listed beside it."""
    entries = content.get("added_tokens")
    found = {}
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get("content") in ("<|startoftext|>", "<|endoftext|>"):
            found[entry["content"]] = entry.get("id")
    return {name: number for name, number in found.items() if type(number) is int}

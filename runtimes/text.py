"""Text files of others as text: one rule for captions, tables, prompts, recipes and the JSON of models.

A byte-order mark decides (UTF-8, UTF-16, UTF-32); without one the file is UTF-8, or UTF-16 where its NUL bytes say so. Only `\\n`,
`\\r\\n` and `\\r` end a line: U+2028, U+0085 and the like are part of the text.

Not here: code pages (`genin.dataset.text` tells them apart for captions).
"""

from __future__ import annotations

import codecs
import json
import math
import re
from pathlib import Path
from typing import Any

from genin.runtimes.errors import InputError

# UTF-32's mark begins with UTF-16's.
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
MARK = "\ufeff"  # inside a text (files put together) it is invisible and means nothing
SAVE_AS_UTF8 = "save it as UTF-8"
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def decode_text(content: bytes) -> str:
    """The text of a file in UTF-8, UTF-16 or UTF-32, without marks. Errors: ValueError that says why it is none of them."""
    encoding = _encoding_of(content)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"not {encoding.upper()} (byte {error.start + 1}: {error.reason})") from error
    if "\0" in text:
        raise ValueError("not UTF-8 text (it holds NUL bytes)")
    return text.replace(MARK, "")


def _encoding_of(content: bytes) -> str:
    for mark, encoding in MARKS:
        if content.startswith(mark):
            return encoding
    if b"\0" in content and len(content) % 2 == 0:  # UTF-16 without a mark: every other byte of Latin text is NUL
        even, odd = content[::2].count(0), content[1::2].count(0)
        if not even and 2 * odd > len(content) // 2:
            return "utf-16-le"
        if not odd and 2 * even > len(content) // 2:
            return "utf-16-be"
    return "utf-8"


def is_marked(content: bytes) -> bool:
    """Whether a file begins with a byte-order mark."""
    return any(content.startswith(mark) for mark, _ in MARKS)


def read_text(path: Path, *, remedy: str = SAVE_AS_UTF8) -> str:
    """The text of a file, as `decode_text` has it. Errors: InputError for other encodings; OSError."""
    try:
        return decode_text(path.read_bytes())
    except ValueError as error:
        raise InputError(f"the file is {error}", where=path, remedy=remedy) from error


def lines_of(text: str) -> list[str]:
    """The lines of a text, without their ends."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def parse_json(text: str, *, infinite: bool = False) -> Any:
    """What a JSON text holds. Python would also read what cannot be written again: halves of surrogate pairs, and numbers that JSON
    lacks. NaN never passes, infinite ones (`1e999` is one) if they may be there. Errors: ValueError."""

    def number(name: str) -> float:
        value = float(name)
        if not math.isfinite(value) and (math.isnan(value) or not infinite):
            raise ValueError(f"{name[:40]} is not a number")
        return value

    try:
        data = json.loads(text, parse_constant=number, parse_float=number)
        if SURROGATE.search(text):
            json.dumps(data, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except UnicodeEncodeError as error:
        raise ValueError("a text is not valid Unicode") from error
    return data


def json_object(text: str, *, strict: bool = False) -> dict[str, Any] | None:
    """The JSON object that a text holds; None for anything else. Errors: ValueError for what is not JSON, if `strict`."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        if strict:
            raise ValueError("not valid JSON") from error
        return None
    return data if isinstance(data, dict) else None

"""Captions and tables in code pages: told apart where that is certain, else named.

A text that is not Unicode (`genin.runtimes.text`) is decoded with every usual code page. Those that give implausible text are left
out: letters of two alphabets in one word, capitals after small letters, signs that belong to no text, rare characters. What is left
must agree on the text to the letter; otherwise nobody can tell, and the caller names the file. Statistical detectors answer always:
on single captions charset-normalizer is wrong more often than right (tests/dataset/test_text.py).

Not here: damaged UTF-8 (named, never guessed), code pages of DOS and of the old Mac (state them: `genin data prepare --encoding`).
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from genin.runtimes.errors import InputError
from genin.runtimes.text import MARK, decode_text, is_marked

SWITCHES = ((b"\x1b$B", "iso2022_jp"), (b"\x1b$@", "iso2022_jp"), (b"\x1b$)C", "iso2022_kr"))
# A word's letters, and marks that stand inside or around words in captions.
MARKS_AROUND = "“”„‘’‚«»‹›–—…•·°§©®™€£¥½¼¾×¿¡ªº²³±"
OPENING, CLOSING, LOW = "“‘«‹„‚¿¡", "”’»›…", "„‚"
COMMON_HAN = 0xD8  # GB 2312 orders its 3,755 common characters before this lead byte, Big5 its 5,401 before 0xC9
UTF8_SIGN = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")


@dataclass(frozen=True)
class Decoded:
    """`encoding` is the code page that was detected or stated; None for Unicode."""

    text: str
    encoding: str | None = None


def decode_any(content: bytes, stated: str | None = None) -> Decoded:
    """Text in Unicode, in the code page `stated`, or in one that can be told apart. Errors: ValueError with the reason."""
    if b"\x1b" in content and (switched := _switched(content)):
        return switched
    try:
        return Decoded(decode_text(content))
    except ValueError as error:
        if is_marked(content):
            raise
        reason = str(error)
    if stated is not None:
        try:
            return Decoded(content.decode(stated).replace(MARK, ""), stated)
        except UnicodeDecodeError as error:
            raise ValueError(f"neither UTF-8 nor {stated} (byte {error.start + 1})") from error
    if b"\0" in content or _is_damaged_utf8(content):
        raise ValueError(reason)
    readings = _readings(content)
    newer = {encoding: text for encoding, text in readings.items() if encoding not in OLD}
    if not any(sign.isalpha() for text in newer.values() for sign in text if ord(sign) > 127):
        readings = newer
    if len(set(readings.values())) != 1:
        raise ValueError("not UTF-8, and its encoding cannot be told for certain")
    encoding, text = next(iter(readings.items()))
    return Decoded(text, encoding)


def check_encoding(name: str | None) -> None:
    """Errors: InputError for a name that Python knows no text encoding by."""
    if name is None:
        return
    try:
        "".encode(codecs.lookup(name).name)
    except (LookupError, UnicodeError) as error:
        remedy = "for example cp1252, shift_jis, gb18030, cp1251, mac_roman"
        raise InputError(f"'{name}' is not a text encoding", remedy=remedy) from error


def _switched(content: bytes) -> Decoded | None:
    """Text whose bytes are all ASCII and that switches its alphabet by escape sequences, as old mails do; None for any other."""
    for begin, encoding in SWITCHES:
        if begin in content:
            try:
                return Decoded(content.decode(encoding), encoding)
            except UnicodeDecodeError:
                return None
    return None


def _is_damaged_utf8(content: bytes) -> bool:
    """Whether nearly all that is not ASCII is UTF-8: then a byte was lost, or a file was cut."""
    foreign = sum(byte > 127 for byte in content)
    return 5 * sum(map(len, UTF8_SIGN.findall(content))) > 4 * foreign


def _readings(content: bytes) -> dict[str, str]:
    """Code page => text, for those that give plausible text."""
    found = {}
    for encoding, plausible in CODE_PAGES.items():
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        odd = any(unicodedata.category(sign) in ("Cc", "Co", "Cn") and sign not in "\t\n\r" for sign in text)
        if not odd and plausible(text, content):
            found[encoding] = text
    return found


# --- plausible text --------------------------------------------------------------------------------------------------


def _alphabetic(script: str) -> Callable[[str, bytes], bool]:
    """Whether words are of one alphabet, cased as words are, and other signs stand where they belong."""

    def plausible(text: str, content: bytes) -> bool:
        foreign = [sign for sign in text if ord(sign) > 127]
        if not all((sign.isalpha() and _script(sign) == script) or sign in MARKS_AROUND for sign in foreign):
            return False
        words = re.findall(r"[^\W\d_]+", text)
        return all(map(_is_word, words)) and _marks_fit(text)

    return plausible


def _script(sign: str) -> str:
    return unicodedata.name(sign, "").split(" ")[0]


def _is_word(word: str) -> bool:
    if word.isascii():
        return True
    if len({_script(sign) for sign in word}) > 1 or (
        sum(not sign.isascii() for sign in word) > 4 and "LATIN" in (_script(word[0]))
    ):
        return False
    return word.islower() or word.istitle() or (word.isupper() and _script(word[0]) == "LATIN") or not word.upper()


def _marks_fit(text: str) -> bool:
    """Opening quotes before words, closing ones after them; no other sign inside a word."""
    padded = f" {text} "
    for before, sign, after in zip(padded, padded[1:], padded[2:], strict=False):
        if ord(sign) < 128 or sign.isalpha():
            continue
        if before.isalpha() and after.isalpha() and sign not in "’‘—·…×“”":
            return False
        if sign in OPENING and sign not in "‘“„‚" and not before.isspace() and before not in "(\"'":
            return False
        if sign in LOW and (before.isalnum() or after.isspace()):
            return False
        if sign in "ªº²³±" and not before.isalnum():
            return False
    return True


def _japanese(text: str, content: bytes) -> bool:
    """Kana among characters, no half-width ones, and all of it in common use."""
    signs = [sign for sign in text if ord(sign) > 127]
    kana = sum("\u3041" <= sign <= "\u30ff" for sign in signs)
    others = all(
        "\u3000" <= sign <= "\u30ff" or "\u4e00" <= sign <= "\u9fff" or "\uff01" <= sign <= "\uff5e" for sign in signs
    )
    return others and 5 * kana >= len(signs)


def _korean(text: str, content: bytes) -> bool:
    signs = [sign for sign in text if ord(sign) > 127]
    words = re.findall(r"[^\W\d_]+", text)
    mixed = any(not word.isascii() and any(sign.isascii() for sign in word) for word in words)
    known = all("\uac00" <= sign <= "\ud7a3" or "\u3000" <= sign <= "\u301f" for sign in signs)
    return known and not mixed and all(byte >= 0xA1 or byte < 0x80 for byte in content)  # of KS X 1001's own syllables


def _chinese(last_common: int) -> Callable[[str, bytes], bool]:
    """Nearly all characters among the common ones of the code page, in runs of at least two."""

    def plausible(text: str, content: bytes) -> bool:
        han = [sign for sign in text if ord(sign) > 127 and "\u4e00" <= sign <= "\u9fff"]
        others = [sign for sign in text if ord(sign) > 127 and not "\u4e00" <= sign <= "\u9fff"]
        if not han or not all("\u3000" <= sign <= "\u301f" or "\uff01" <= sign <= "\uff5e" for sign in others):
            return False
        encoding = "gb2312" if last_common == COMMON_HAN else "big5"
        common = sum(sign.encode(encoding)[0] < last_common for sign in han)
        runs = re.findall(r"[\u4e00-\u9fff]+", text)
        return 10 * common >= 9 * len(han) and 2 * len(runs) <= len(han)

    return plausible


LATIN, CYRILLIC, GREEK = _alphabetic("LATIN"), _alphabetic("CYRILLIC"), _alphabetic("GREEK")
CODE_PAGES: dict[str, Callable[[str, bytes], bool]] = {
    "cp1252": LATIN,
    "cp1250": LATIN,
    "cp1254": LATIN,
    "cp1257": LATIN,
    "iso8859_2": LATIN,
    "iso8859_15": LATIN,
    "cp1251": CYRILLIC,
    "koi8_r": CYRILLIC,
    "cp1253": GREEK,
    "cp932": _japanese,
    "euc_jp": _japanese,
    "gb2312": _chinese(COMMON_HAN),
    "big5": _chinese(0xC9),
    "cp949": _korean,
    "cp850": LATIN,
    "mac_roman": LATIN,
}
OLD = ("cp850", "mac_roman")  # only against letters: their signs are letters elsewhere, and few still write them


# Names of "no value". "None" is one, but "none" is a value of attribute columns.
NULLS = frozenset(("nan", "NaN", "-nan", "-NaN", "null", "NULL", "None", "<NA>", "#N/A", "N/A", "n/a", "NA"))


def says_nothing(text: str) -> bool:
    """Whether a text is blank, or only a name of "no value"."""
    return not text.strip() or text.strip() in NULLS


CONTROLS = dict.fromkeys((*range(32), *range(127, 160)), " ")

# --- one line --------------------------------------------------------------------------------------------------------


def clean(text: object) -> str:
    """The text as one line of normalised Unicode without line breaks, control signs (a terminal may obey them) or stray surrogates,
    which any file can hold."""
    safe = str(text).encode("utf-8", "replace").decode("utf-8")
    return " ".join(unicodedata.normalize("NFC", safe).translate(CONTROLS).split())


def listed(names: Sequence[str], most: int = 5) -> str:
    """Some names for a message: "a, b, c and 7 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(clean, names[:most])) + more

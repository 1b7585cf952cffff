"""Write what the tokenizers have to know of Unicode, from this Python's own tables.

    python tools/unicode_tables.py > runtimes/native/src/unicode_tables.inc
    python tools/unicode_tables.py --assigned > runtimes/assigned.py

Python's tokenizer is the reference, so the tables are read out of what Python does: classes of characters, canonical decompositions
and compositions (NFC), lower case with its two special cases. The version of Unicode is Python's and is part of the output.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterator

CODES = [code for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
HANGUL = range(0xAC00, 0xD7A4)  # composed by arithmetic


def ranges(value: Callable[[str], int]) -> Iterator[tuple[int, int]]:
    """(first code, value) wherever the value changes."""
    last = None
    for code in CODES:
        now = value(chr(code))
        if now != last:
            yield code, now
            last = now


def kind(sign: str) -> int:
    """0 other, 1 letter, 2 number, 3 dropped (class C), 4 a space separator (Zs), 5 other white space."""
    category = unicodedata.category(sign)
    if category == "Zs":
        return 4
    if category[0] == "C":
        return 3
    if sign.isspace():
        return 5
    return {"L": 1, "N": 2}.get(category[0], 0)


def casing(sign: str) -> int:
    """1 cased, 2 ignored when a capital sigma looks for its neighbours: read off what str.lower does."""
    if (sign + "Σ").lower().endswith("ς"):
        return 1
    return 2 if ("A" + sign + "Σ").lower().endswith("ς") else 0


def decomposed(sign: str) -> tuple[int, ...]:
    """Canonical decomposition in full, or nothing."""
    whole = unicodedata.normalize("NFD", sign)
    return tuple(map(ord, whole)) if whole != sign and ord(sign) not in HANGUL else ()


def write_assigned() -> None:
    """What Python's own tokenizer needs: tables of later versions know more characters."""
    at = [code for code, _ in ranges(lambda sign: int(unicodedata.category(sign) == "Cn"))]
    assert at[0] == 0 and unicodedata.category("\0") != "Cn"
    lines, line = [], ""
    for word in (f"{code:x}" for code in at):
        if len(line) + len(word) > 110:
            lines.append(line)
            line = ""
        line += f"{word} "
    write(ASSIGNED_HEAD.format(version=unicodedata.unidata_version))
    write('TABLE = """')
    for part in [*lines, line]:
        write(part.rstrip())
    write('"""\nCHANGES = [int(code, 16) for code in TABLE.split()]\n\n')
    write(ASSIGNED_TAIL)


ASSIGNED_HEAD = '''"""The characters of Unicode {version}. Made by `python tools/unicode_tables.py --assigned`; do not edit.

The same prompt must give the same tokens under every version of Python. Later versions of Unicode (up to 18.0 looked at) give no
character of this one another class, composition or lower case; they only add some, which the tokenizer drops as not assigned.
"""

from __future__ import annotations

from bisect import bisect_right

VERSION = "{version}"
# Codes at which characters begin and end in turn.'''
ASSIGNED_TAIL = '''
def is_assigned(sign: str) -> bool:
    """Whether this is a character of Unicode `VERSION`."""
    return bisect_right(CHANGES, ord(sign)) % 2 == 1'''


def write(line: str) -> None:
    sys.stdout.write(line + "\n")


def write_table(name: str, kind_of: str, rows: list[str]) -> None:
    write(f"static const {kind_of} {name}[] = {{")
    for start in range(0, len(rows), 12):
        write("    " + ", ".join(rows[start : start + 12]) + ",")
    write("};\n")


def main() -> None:
    if "--assigned" in sys.argv:
        write_assigned()
        return
    write(f"// Made by tools/unicode_tables.py from Unicode {unicodedata.unidata_version}. Do not edit.\n")
    write(f'#define GENIN_UNICODE_VERSION "{unicodedata.unidata_version}"\n')
    for name, value in (("kKinds", kind), ("kCasing", casing), ("kCombining", unicodedata.combining)):
        write_table(name, "Range", [f"{{{code:#x}, {now}}}" for code, now in ranges(value)])

    lower = [(code, chr(code).lower()) for code in CODES if chr(code).lower() != chr(code)]
    single = [f"{{{code:#x}, {ord(text):#x}}}" for code, text in lower if len(text) == 1]
    write_table("kLower", "Pair", single)
    assert [(code, [*map(ord, text)]) for code, text in lower if len(text) > 1] == [(0x130, [0x69, 0x307])]

    parts: list[int] = []
    index: list[str] = []
    for code in CODES:
        if decomposition := decomposed(chr(code)):
            index.append(f"{{{code:#x}, {len(parts)}, {len(decomposition)}}}")
            parts += decomposition
    write_table("kDecompositions", "Slice", index)
    write_table("kDecomposed", "uint32_t", [f"{code:#x}" for code in parts])

    composed = []
    for code in CODES:
        fields = unicodedata.decomposition(chr(code)).split()
        if len(fields) == 2 and not fields[0].startswith("<") and unicodedata.normalize("NFC", chr(code)) == chr(code):
            composed.append((int(fields[0], 16), int(fields[1], 16), code))
    write_table("kCompositions", "Triple", [f"{{{a:#x}, {b:#x}, {c:#x}}}" for a, b, c in sorted(composed)])


if __name__ == "__main__":
    main()

"""Damage to a file: knowing what it holds (JSON, YAML, safetensors, archives), or to its bytes; by random numbers with a seed."""

from __future__ import annotations

import copy
import io
import json
import random
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# fmt: off
VALUES: tuple[Any, ...] = (
    None, True, False, "", " ", "nan", "../../../outside", "/etc/passwd", "C:\\NUL", "a\x00b", "\ud800", "é" * 300, "x" * 70_000,
    0, -1, 1, 3, 2**31, 2**63, 2**64, 10**400, -(10**30), 0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), [], {}, [[]], [0],
    [None], [1, 2], ["a"], {"a": {}}, [1e300] * 3, {"": ""}, "1" * 5000,
)
BYTES = (
    b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\xe2\x80\xa8", b"\x1b[31m", b"'", b'"', b"{", b"[" * 3000, b"\r\n", b"../",
    b"\xed\xa0\x80",
)
# fmt: on


def damage_tree(data: Any, rng: random.Random) -> Any:
    """Change one or two places in what JSON or YAML holds."""
    data = copy.deepcopy(data)
    for _ in range(rng.choice((1, 1, 2))):
        places = list(_places(data))
        if not places or rng.random() < 0.03:
            return rng.choice(VALUES)
        node, key = rng.choice(places)
        what = rng.random()
        if what < 0.2:
            del node[key]
        elif what < 0.3 and isinstance(node, dict):
            node[rng.choice(("", "x", str(key) + "s", "__class__", "file_name"))] = node.pop(key)
        elif what < 0.4:
            node[key] = copy.deepcopy(rng.choice(places)[0])
        elif what < 0.5 and isinstance(node[key], int | float) and not isinstance(node[key], bool):
            node[key] = node[key] * rng.choice((-1, 2, 1000, 0.5))
        else:
            node[key] = copy.deepcopy(rng.choice(VALUES))
    return data


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value in it."""
    for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        yield node, key
        yield from _places(node[key])


def damage_bytes(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 3, 20))):
        # headers say most: half of the places are among the first 200
        place = rng.randrange(max(1, min(len(data), 200) if rng.random() < 0.5 else len(data)))
        what = rng.randrange(7)
        if what == 0 and data:
            data[place % len(data)] ^= 1 << rng.randrange(8)
        elif what == 1 and data:
            data[place % len(data)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif what == 2:
            del data[place:]
        elif what == 3:
            del data[place : place + rng.randrange(1, 40)]
        elif what == 4:
            data[place:place] = rng.choice(BYTES)
        elif what == 5:
            other = rng.randrange(max(1, len(data)))
            data[place:place] = data[other : other + rng.randrange(1, 400)]
        else:
            data[place : place + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\x80"))
    return bytes(data)


def damage(path: Path, rng: random.Random) -> None:
    """Damage a file in place of what it holds, or without knowing."""
    content = path.read_bytes()
    if rng.random() < 0.04:
        path.unlink()
        if rng.random() < 0.3:
            path.mkdir()
        return
    knowing = {
        ".json": _json, ".jsonl": _json_lines, ".yaml": _yaml, ".safetensors": _safetensors,
        ".genin": _zip, ".cbz": _zip, ".tar": _tar,
    }.get(path.suffix)  # fmt: skip
    changed = None
    if knowing and rng.random() < 0.7:
        try:
            changed = knowing(content, rng)
        except (ArithmeticError, ValueError, OSError, UnicodeError, zipfile.BadZipFile, tarfile.TarError):
            changed = None
    path.unlink()  # it may be a link to the seed
    path.write_bytes(damage_bytes(content, rng) if changed is None else changed)


def _text(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _json(content: bytes, rng: random.Random) -> bytes:
    return _text(damage_tree(json.loads(content), rng))


def _json_lines(content: bytes, rng: random.Random) -> bytes:
    rows = damage_tree([json.loads(line) for line in content.splitlines() if line.strip()], rng)
    return b"".join(_text(row) + b"\n" for row in (rows if isinstance(rows, list) else [rows]))


def _yaml(content: bytes, rng: random.Random) -> bytes:
    import yaml

    data = damage_tree(yaml.safe_load(content), rng)
    if rng.random() < 0.3:
        return b"a: &a [x, x]\n" + b"".join(b"b%d: &b%d [*a, *a]\n" % (n, n) for n in range(9)) + content
    return _text(data)


def _safetensors(content: bytes, rng: random.Random) -> bytes:
    length = int.from_bytes(content[:8], "little")
    header = _text(damage_tree(json.loads(content[8 : 8 + length]), rng))
    said = len(header) if rng.random() < 0.9 else rng.choice((0, 1, 2**40, 2**63, 2**64 - 1))
    return said.to_bytes(8, "little") + header + content[8 + length :]


# fmt: off
NAMES = (
    "../outside", "/tmp/outside", "a" * 300, "a\x00", "..", "", "CON", "a/../../b", "\ufffe", "5²3.png", ".hidden.png", "x/y/z.png",
)
# fmt: on


def _zip(content: bytes, rng: random.Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    out = io.BytesIO()
    chosen = rng.randrange(len(members))
    with zipfile.ZipFile(out, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for number, (name, data) in enumerate(members):
            if number == chosen:
                what = rng.random()
                if what < 0.25:
                    continue
                if what < 0.5:
                    name = rng.choice(NAMES) or "-"
                else:
                    data = _member(name, data, rng)
            archive.writestr(name, data)
    return out.getvalue()


def _member(name: str, data: bytes, rng: random.Random) -> bytes:
    return _json(data, rng) if name.endswith(".json") and rng.random() < 0.7 else damage_bytes(data, rng)


def _tar(content: bytes, rng: random.Random) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(content)) as archive, tarfile.open(fileobj=out, mode="w") as new:
        members = archive.getmembers()
        chosen = rng.randrange(len(members))
        for number, member in enumerate(members):
            stream = archive.extractfile(member)
            data = stream.read() if stream else b""
            if number == chosen:
                what = rng.random()
                if what < 0.2:
                    continue
                if what < 0.4:
                    member.name = rng.choice(NAMES) + rng.choice(("", ".png", ".json", ".txt"))
                elif what < 0.5:
                    member.type, member.linkname, data = tarfile.SYMTYPE, rng.choice(NAMES), b""
                else:
                    data = _member(member.name, data, rng)
            member.size = len(data)
            new.addfile(member, io.BytesIO(data))
    return out.getvalue()

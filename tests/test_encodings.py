"""Every text file that people hand over: Unicode in any encoding with its mark is read, anything else is named, never guessed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genin.benchmarks.prompts import read_prompts
from genin.benchmarks.suites import read_suite
from genin.distill.data.dataset import read_facts
from genin.distill.data.rows import read_rows
from genin.distill.recipe_yaml import read_yaml
from genin.export.precision_plan import read_plan
from genin.runtimes.added_tokens import read_added_tokens
from genin.runtimes.errors import InputError
from genin.runtimes.folder import read_json
from genin.runtimes.manifest import MANIFEST, Manifest
from genin.runtimes.tokenizer_files import from_combined
from tunable import write_pictures

WORD = "ninja’s café"
PLAN = {"genin_plan": 1, "name": "plan1", "weights": "fp16", "layers": {}, "notes": {"of": WORD}}
SUITE = "models: [builtin:student]\nprompts:\n- ninja’s café\n"
COMBINED = {"model": {"end_of_word_suffix": "</w>", "vocab": {WORD: 0}, "merges": []}}


def captions(path: Path) -> Any:
    return [row.get("text") for row in read_rows(path.parent) if row["file_name"] == "0.png"]


def tokens(path: Path) -> Any:
    read = {"added_tokens.json": path.read_bytes()}
    return [token.name for token in read_added_tokens(read.get)]


def manifest(path: Path) -> Any:
    """Which key is wrong is said only once the file could be read."""
    with pytest.raises(InputError) as raised:
        Manifest.from_json(path.read_bytes())
    if "not valid JSON" in str(raised.value):
        raise raised.value
    return WORD if "has format 1000" in str(raised.value) else None


# What is in the file, and what is read of it.
READERS: dict[str, tuple[str, Callable[[Path], Any], Any]] = {
    "prompts.txt": (f"{WORD}\na ninja\n", read_prompts, [WORD, "a ninja"]),
    "prompts.jsonl": (json.dumps({"text": WORD}, ensure_ascii=False) + "\n", read_prompts, [WORD]),
    "metadata.jsonl": (json.dumps({"file_name": "0.png", "text": WORD}, ensure_ascii=False) + "\n", captions, [WORD]),
    "metadata.csv": (f"file_name,text\n0.png,{WORD}\n", captions, [WORD]),
    "0.txt": (WORD, captions, [WORD]),
    "dataset.json": (json.dumps({"licence": WORD}, ensure_ascii=False), lambda path: read_facts(path.parent), None),
    "recipe.yaml": (f"# {WORD}\nsteps: {{images: 8}}\n", lambda path: read_yaml(path).data, {"steps": {"images": 8}}),
    "suite.yaml": (SUITE, lambda path: read_suite(path)[1]["prompts"], [WORD]),
    "p.plan.json": (json.dumps(PLAN, ensure_ascii=False), lambda path: read_plan(path).name, "plan1"),
    "config.json": (f'{{"of": "{WORD}"}}', lambda path: read_json(path, "missing"), {"of": WORD}),
    MANIFEST: (f'{{"genin_bundle": 1000, "of": "{WORD}"}}', manifest, WORD),
    "added_tokens.json": (f'{{"{WORD}": 3}}', tokens, [WORD]),
    "tokenizer.json": (
        json.dumps(COMBINED, ensure_ascii=False),
        lambda path: [*json.loads(from_combined(path)["vocab.json"])],
        [WORD],
    ),
}


def write(name: str, content: bytes, tmp_path: Path) -> Path:
    folder = write_pictures(tmp_path / "pictures", 1, size=16)
    (folder / "metadata.jsonl").unlink()
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", READERS)
def test_unicode_is_read_in_any_encoding(name: str, encoding: str, tmp_path: Path) -> None:
    text, read, expected = READERS[name]
    found = read(write(name, text.encode(encoding), tmp_path))
    assert found == ({"licence": WORD} if expected is None else expected)


@pytest.mark.parametrize("name", READERS)
def test_damaged_utf8_is_named(name: str, tmp_path: Path) -> None:
    text, read, _ = READERS[name]
    content = text.encode().replace("é".encode(), b"\xc3(\xa9\xe2\x82")
    path = write(name, content, tmp_path)
    if name == "0.txt":  # the picture stays, without a caption, and the file is noted
        assert read(path) != [WORD] and "�" not in str(read(path))
        return
    with pytest.raises(InputError) as raised:
        read(path)
    assert len(str(raised.value).splitlines()) == 1

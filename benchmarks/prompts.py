"""Prompts: one per line of a text file, or the `text` (`caption`, `prompt`) of each line of a `.jsonl` file.

`DEFAULT_PROMPTS`, captions of the built-in world, are used where none are given.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from genin.dataset.tables import CAPTION_COLUMNS
from genin.runtimes.arguments import local_path
from genin.runtimes.errors import InputError
from genin.runtimes.text import json_object, lines_of, read_text

DEFAULT_PROMPTS = (
    "a happy ninja with spiky blond hair, a blue headband and an orange outfit, running through a forest at noon",
    "a calm ninja with long black hair, a red headband and a purple outfit, meditating on a mountain under the sunset",
    "a determined ninja with a silver ponytail, a green headband and a black outfit, jumping into the air on a rooftop at night",
    "an angry ninja with a red bun, a white headband and a white outfit, casting a glowing spell in a desert at dawn, "
    "surrounded by fire",
    "a sad ninja with a teal bob, a yellow headband and a red outfit, guarding with a sword at a shrine in the mist",
    "a surprised ninja with pink twintails, a purple headband and a green outfit, waving by a waterfall at noon",
)
OTHER_TABLES = (".csv", ".tsv", ".json", ".parquet", ".xlsx", ".yaml", ".yml")
NO_FILE = "name a text file with one prompt per line (in Python, prompts themselves are given as a list)"


def prompts_of(given: str | Path | Sequence[str] | None) -> tuple[str, ...]:
    """The prompts of a file, those of a sequence, or the built-in ones for None. Errors: InputError if there is none."""
    if given is None:
        return DEFAULT_PROMPTS
    if isinstance(given, str | Path):
        return tuple(read_prompts(local_path(given, "prompts")))
    texts = tuple(given) if isinstance(given, Iterable) else (given,)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise InputError(f"prompts must be a file or a list of texts, at least one; got {given!r}")
    return texts


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file, blank lines left out. InputError if it cannot be read or has none, or is another kind of table: its
    lines are no prompts."""
    if path.suffix.lower() in OTHER_TABLES:
        remedy = 'one prompt per line of a .txt, or {"text": "a prompt"} per line of a .jsonl'
        raise InputError(f"prompts are not read from {path.suffix.lower()} files", where=path, remedy=remedy)
    try:
        text = read_text(path, remedy="save it as UTF-8, one prompt per line")
    except FileNotFoundError as error:
        raise InputError("no such file of prompts", where=path, remedy=NO_FILE) from error
    except OSError as error:
        raise InputError(f"the prompts cannot be read ({error.strerror})", where=path, remedy=NO_FILE) from error
    lines = [(number, line.strip()) for number, line in enumerate(lines_of(text), 1) if line.strip()]
    rows = path.suffix.lower() == ".jsonl"
    prompts = [_text(line, path, number) if rows else line for number, line in lines]
    if not prompts:
        raise InputError("the file has no prompts", where=path, remedy="one prompt per line")
    return prompts


def _text(line: str, path: Path, number: int) -> str:
    row = json_object(line) or {}
    text = next((row[name] for name in CAPTION_COLUMNS if row.get(name) is not None), None)
    if not isinstance(text, str) or not text.strip():
        remedy = 'every line is an object: {"text": "a prompt"}'
        raise InputError(f'row {number} is not a JSON object with "text"', where=path, remedy=remedy)
    return text

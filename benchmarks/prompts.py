"""Prompts: one per line of a text file, or the `text` of each line of a `.jsonl` file.

`DEFAULT_PROMPTS` stand in where none are given: captions of the built-in world, in its own words.
"""

from __future__ import annotations

import json
from pathlib import Path

from genin.runtimes.errors import InputError

DEFAULT_PROMPTS = (
    "a ninja with spiky blond hair and a blue headband in an orange outfit running through a forest at noon, happy",
    "a ninja with long black hair and a red headband in a purple outfit meditating on a mountain at sunset, calm",
    "a ninja with a silver ponytail and a green headband in a black outfit jumping over a rooftop at night, determined",
    "a ninja with a red bun and a white headband in a white outfit casting fire in a desert at dawn, angry",
    "a ninja with a teal bob and a yellow headband in a red outfit guarding a shrine in the mist, sad",
    "a ninja with pink twintails and a purple headband in a green outfit waving by a waterfall at noon, surprised",
)


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file, blank lines left out. InputError if it cannot be read or has none."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("the prompts cannot be read as text", where=path, remedy="one prompt per line") from error
    prompts = [_text(line, path, number) for number, line in enumerate(lines, 1)] if path.suffix == ".jsonl" else lines
    if not prompts:
        raise InputError("the file has no prompts", where=path, remedy="one prompt per line")
    return prompts


def _text(line: str, path: Path, number: int) -> str:
    try:
        return str(json.loads(line)["text"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f'row {number} is not a JSON object with "text"', where=path) from error

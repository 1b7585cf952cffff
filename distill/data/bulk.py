"""One change to all captions of a dataset folder: words replaced or removed, patterns, tags.

Changes are made in the order: replacements, patterns, tags removed, tags added; then commas and spaces that they left over are
tidied. Tags are what commas separate. A caption of which nothing is left is removed, and counted.

Not here: corrections of single captions (`edit`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from genin.distill.data.report import rewrite_captions
from genin.distill.data.rows import read_rows, remove_caption, write_rows
from genin.runtimes.arguments import local_path
from genin.runtimes.errors import InputError

EXAMPLES = 8
SEPARATOR = re.compile(r"(?<!\d),|,(?!\d{3}(?!\d))")  # of tags: not the comma of 1,000


@dataclass(frozen=True)
class BulkEdit:
    """`replace`: (words, others), as whole words and in any case; `patterns`: (regular expression, replacement), as Python's `re`
    has them; `remove_tags` and `add_tags`: what commas separate."""

    replace: Sequence[tuple[str, str]] = ()
    patterns: Sequence[tuple[str, str]] = ()
    remove_tags: Sequence[str] = ()
    add_tags: Sequence[str] = ()

    def changes(self) -> list[Callable[[str], str]]:
        """Errors: InputError for a pattern or replacement that is none."""
        found = [_replacing(old, new) for old, new in self.replace] + [_matching(*pair) for pair in self.patterns]
        removed = {tag.strip().casefold() for tag in self.remove_tags}
        if removed:
            found.append(partial(_without_tags, removed))
        return found + [partial(_with_tag, tag.strip()) for tag in self.add_tags]


@dataclass(frozen=True)
class Changed:
    """`examples`: (before, after) of the first captions that differ; `emptied`: captions of which nothing was left."""

    changed: int
    unchanged: int
    emptied: int
    examples: tuple[tuple[str, str], ...]


def edit_captions(folder: str | Path, edit: BulkEdit, *, dry_run: bool = False) -> Changed:
    """Apply the changes to every caption of a dataset folder, and replace its `metadata.jsonl`; a dry run only says what would
    change.

    Errors: InputError for a folder without captions, or a pattern that is none.
    """
    folder = local_path(folder, "the dataset")
    changes, rows = edit.changes(), read_rows(folder)
    examples: list[tuple[str, str]] = []
    changed = emptied = 0
    for row in rows:
        before = row.get("text")
        if not isinstance(before, str) or not before.strip():
            continue
        after = before
        for change in changes:
            after = change(after)
        after = before if after == before else _tidy(after)
        if after == before:
            continue
        changed, emptied = changed + 1, emptied + (not after)
        examples += [(before, after)] * (len(examples) < EXAMPLES)
        _set_text(row, after)
    if changed and not dry_run:
        write_rows(folder, rows)
        rewrite_captions(folder)
    return Changed(changed, len(rows) - changed, emptied, tuple(examples))


def _set_text(row: dict[str, Any], text: str) -> None:
    if text:
        row["text"] = text
    else:
        remove_caption(row)


def _replacing(old: str, new: str) -> Callable[[str], str]:
    if not old.strip():
        raise InputError("the words to replace are empty", remedy="such as: --replace 'old words' 'new words'")
    # \b stands between letters and others: words that end with a sign have no such place.
    begin, end = (r"\b" if sign.isalnum() else "" for sign in (old[0], old[-1]))
    pattern = re.compile(begin + re.escape(old) + end, re.IGNORECASE)
    return lambda text: pattern.sub(lambda _: new, text)


def _matching(pattern: str, new: str) -> Callable[[str], str]:
    try:
        compiled = re.compile(pattern)
        re.compile(f"{pattern}|").sub(new, "")  # the replacement is looked at where something matches only
    except (re.error, IndexError) as error:
        raise InputError(f"not a regular expression ({error})", where=f"'{pattern}' '{new}'") from error
    return lambda text: compiled.sub(new, text)


def _tags(text: str) -> list[str]:
    return [tag.strip() for tag in SEPARATOR.split(text) if tag.strip()]


def _without_tags(removed: Collection[str], text: str) -> str:
    kept = [tag for tag in _tags(text) if tag.casefold() not in removed]
    return text if len(kept) == len(_tags(text)) else ", ".join(kept)


def _with_tag(tag: str, text: str) -> str:
    return text if tag.casefold() in (known.casefold() for known in _tags(text)) else f"{text.rstrip(' ,')}, {tag}"


def _tidy(text: str) -> str:
    """Without blanks and commas that have nothing between them."""
    return re.sub(r"\s*,(\s*,)+", ",", re.sub(r"\s+,", ",", " ".join(text.split()))).strip(" ,")

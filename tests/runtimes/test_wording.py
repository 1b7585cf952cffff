"""Words that depend on a number."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from genin.runtimes.wording import counted, counted_each, quoted

ROOT = Path(__file__).parents[2]
PARTS = ("benchmarks", "distill", "export", "runtimes", "src")


def test_one_is_not_plural() -> None:
    assert [counted(n, "caption") for n in (0, 1, 2)] == ["0 captions", "1 caption", "2 captions"]
    assert [counted(n, "caption is", "captions are") for n in (1, 2)] == ["1 caption is", "2 captions are"]
    assert [counted(n, "row") for n in (9999, 10_000)] == ["9999 rows", "10,000 rows"]


def test_no_message_puts_words_for_many_after_a_number_that_may_be_one() -> None:
    """A length in a message, and a noun and verb that fit only several of it ("1 captions are …"), or a number of steps."""
    wrong = re.compile(r"^ (\w+ )?[a-z]+s (are|were|have|hold|name|stand)\b")
    found = []
    for file in (file for part in PARTS for file in sorted((ROOT / part).rglob("*.py"))):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            for before, text in (
                zip(node.values, node.values[1:], strict=False) if isinstance(node, ast.JoinedStr) else ()
            ):
                counts = isinstance(before, ast.FormattedValue) and ast.unparse(before.value).startswith("len(")
                steps = isinstance(before, ast.FormattedValue) and re.search(r"steps$", ast.unparse(before.value))
                if not isinstance(text, ast.Constant):
                    continue
                if (counts and wrong.match(str(text.value))) or (steps and str(text.value).startswith(" steps")):
                    found.append(f"{file.name}:{before.lineno}: {text.value}")
    assert not found


@pytest.mark.parametrize(("system", "shown"), [("posix", "'my out'"), ("nt", '"my out"')])
def test_arguments_are_quoted_for_the_system(system: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genin.runtimes.wording.os.name", system)
    found = quoted("my out"), quoted("out")
    monkeypatch.undo()
    assert found == (shown, "out")


def test_several_counts_of_one_noun_depend_on_the_largest() -> None:
    assert counted_each([1], "step") == "1 step"
    assert counted_each(map(int, ("4", "1", "2")), "step") == "1, 2, 4 steps"

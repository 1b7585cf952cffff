"""Pages do not rot: links, anchors and paths lead somewhere, command lines parse, lines can be diffed, test vectors hold.

Not here: whether figures are right, and whether generated pages are current (the tests of what they are made from).
"""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest

from genin import cli
from genin.names import InstalledNames
from genin.runtimes.manifest import Manifest
from genin.runtimes.tokenizer import ClipTokenizer

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.relative_to(ROOT).as_posix() for folder in (ROOT, ROOT / "docs") for path in folder.glob("*.md"))
GENERATED = ("docs/api.md", "docs/cli.md", "docs/recipes.md")
OLD_NAMES = ("docs/log.md", "CHANGELOG.md")  # written in the names of their day
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
MAX_LINE = 160
PATH = re.compile(
    r"\b(?:benchmarks|distill|docs|examples|export|recipes|runtimes|src|tests|tools)/[\w/.-]+\.(?:md|py|yaml|png|json)\b"
)
COMMAND = re.compile(r"(?:^|[\s`])genin ((?:[a-z]|--help|--version)[^`\n]*)")
SCRIPT = re.compile(r"python -m (genin[\w.]*)")


@cache
def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE))


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """Language and content of every fenced block; a line that ends in a backslash is joined with the next."""
    for language, content in re.findall(r"^ *```(\w*)\n(.*?)^ *```", text_of(page), flags=re.DOTALL | re.MULTILINE):
        yield language, content.replace("\\\n", " ")


@cache
def anchors(page: str) -> frozenset[str]:
    """As GitHub makes them of headings."""
    found: list[str] = []
    headings = re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    for heading in re.findall(r"^#+ (.+)$", headings, flags=re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        found.append(slug if slug not in found else f"{slug}-{found.count(slug)}")
    return frozenset(found)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(text_of(page))):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        there = target.exists() and target.is_relative_to(ROOT)
        if there and anchor:
            there = anchor in anchors(target.relative_to(ROOT).as_posix())
        if not there:
            broken.append(link)
    assert not broken


def test_every_page_is_listed_in_the_readme() -> None:
    listed = set(re.findall(r"\]\(([\w/.-]+\.md)\)", text_of("README.md")))
    assert set(PAGES) - {"README.md"} == listed & set(PAGES)


@pytest.mark.parametrize("page", [page for page in PAGES if page not in OLD_NAMES])
def test_files_that_are_named_exist(page: str) -> None:
    code = re.findall(r"`([^`\n]+)`", text_of(page)) + [content for _, content in blocks(page)]
    named = {path for part in code for path in PATH.findall(part)}
    assert not [path for path in sorted(named) if "NAME" not in path and not (ROOT / path).exists()]
    modules = {module for part in code for module in SCRIPT.findall(part)}
    assert not [module for module in modules if importlib.util.find_spec(module) is None]


@pytest.mark.parametrize("page", [page for page in PAGES if page not in GENERATED])
def test_lines_are_short_enough_to_diff(page: str) -> None:
    long = [line for line in text_of(page).splitlines() if len(line) > MAX_LINE and not line.lstrip().startswith("|")]
    assert not long


def command_lines(text: str) -> Iterator[list[str]]:
    """The words after `genin` of every command line in a text, up to a comment or the next command of the shell."""
    for found in COMMAND.findall(text):
        line = re.split(r"\s+#|\s+&&|\s*[;|]\s|, then:|  \(", found)[0]
        yield shlex.split(line.rstrip(" ,.)"))


def parse(words: list[str]) -> None:
    """Errors: click.UsageError for a command, option or choice that does not exist, or too many arguments. Nothing is opened."""
    command: click.Command = cli.command_line()
    context = click.Context(command, info_name="genin")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        _, found, words = command.resolve_command(context, words)
        assert found is not None
        command, context = found, click.Context(found, parent=context, info_name=found.name)
    values, rest, _ = command.make_parser(context).parse_args(words)
    if rest:
        raise click.UsageError(f"unexpected {rest[0]}", context)
    for parameter in command.params:
        if isinstance(parameter.type, click.Choice) and (value := values.get(str(parameter.name))) is not None:
            for one in value if parameter.multiple else [value]:
                parameter.type.convert(one, parameter, context)


@pytest.mark.parametrize("page", [page for page in PAGES if page not in (*OLD_NAMES, "docs/cli.md")])
def test_commands_parse(page: str) -> None:
    pytest.importorskip("torch")
    text = text_of(page)
    code = [content for language, content in blocks(page) if language in ("", "bash", "sh")]
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for part in code for line in part.splitlines()] + re.findall(r"`[^`\n]+`", prose)
    wrong = {}
    for words in (words for line in lines for words in command_lines(line)):
        try:
            parse(list(words))
        except click.UsageError as error:
            wrong[" ".join(words)] = error.format_message()
    assert not wrong


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_recipes_open_with_what_they_need_and_how_they_are_run(path: Path) -> None:
    pytest.importorskip("torch")
    head = "\n".join(
        line.removeprefix("#") for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")
    )
    assert "Before:" in head
    lines = [words for line in head.splitlines() if line.startswith("   genin ") for words in command_lines(line)]
    assert any(f"recipes/{path.name}" in words for words in lines)
    for words in lines:
        parse(words)


def student() -> tuple[Path, Manifest]:
    folder = InstalledNames().model("builtin:student")
    return folder, Manifest.from_json((folder / "manifest.json").read_bytes())


def test_the_tokenizers_test_vectors_hold() -> None:
    folder, manifest = student()
    files = ((folder / "tokenizer" / name).read_bytes() for name in ("vocab.json", "merges.txt"))
    tokenizer = ClipTokenizer(*files, manifest.text)
    rows = re.findall(
        r"^\| (?:`(.+)`|the empty prompt) \| (\d[\d ]*) \|$", text_of("docs/bundle.md"), flags=re.MULTILINE
    )
    assert len(rows) == 4
    for prompt, ids in rows:
        [found] = tokenizer([prompt.replace(r"\|", "|")])
        padding = manifest.text.max_length - len(ids.split())
        assert found.tolist() == [int(number) for number in ids.split()] + [manifest.text.pad_token_id] * padding


def test_the_sample_manifest_is_the_shipped_students() -> None:
    folder, _ = student()
    [sample] = [json.loads(content) for language, content in blocks("docs/bundle.md") if language == "json"]
    shipped = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    shipped["graphs"] = [graph for graph in shipped["graphs"] if graph["component"] == "unet"]
    shipped["golden"] = [golden for golden in shipped["golden"] if golden["component"] == "unet"]
    assert not list(differences(sample, shipped, "manifest"))


def differences(sample: Any, real: Any, where: str) -> Iterator[str]:
    """Where a sample is not a part of the real thing; a text may be shortened by an ellipsis."""
    if isinstance(sample, dict):
        for key, value in sample.items():
            yield from (
                differences(value, real[key], f"{where}.{key}") if key in real else [f"{where}.{key} is not there"]
            )
    elif isinstance(sample, list) and isinstance(real, list):
        for index, value in enumerate(sample):
            yield from differences(value, real[index], f"{where}[{index}]")
    elif isinstance(sample, str) and sample.endswith("…"):
        if not str(real).startswith(sample[:-1]):
            yield f"{where}: {sample} is {real}"
    elif sample != real:
        yield f"{where}: {sample} is {real}"

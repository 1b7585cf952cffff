"""YAML as recipes use it: numbers as people write them, no duplicate keys, and the line of each value.

Not here: what a recipe may hold (`recipe`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from genin.files import write_text
from genin.runtimes.errors import InputError
from genin.runtimes.text import read_text


class RecipeLoader(yaml.SafeLoader):
    """PyYAML's safe loader with two rules of YAML 1.2: `1e-4` is a number, and no key occurs twice in a mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:  # before keys merged by `<<` are added, which may be overridden
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != "tag:yaml.org,2002:merge":
                if key_node.value in seen:
                    problem = f"the key '{key_node.value}' is repeated"
                    raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key_node.start_mark)
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


class RecipeDumper(yaml.SafeDumper):
    """Quotes the text that `RecipeLoader` would take for a number."""


EXPONENT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")
for resolver in (RecipeLoader, RecipeDumper):
    resolver.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+.0123456789"))


@dataclass(frozen=True)
class YamlFile:
    """The data of a YAML file (an empty mapping for an empty file) and where in the file each part of it is."""

    path: Path
    data: Any
    root: yaml.Node | None

    def place(self, keys: Sequence[str | int]) -> str:
        """File and line of the value that these keys and indices lead to, or of the innermost part that the file has."""
        node, line = self.root, None
        for key in keys:
            if isinstance(node, yaml.MappingNode):
                # The last of equal keys: those merged by `<<` come first.
                pairs = [pair for pair in node.value if getattr(pair[0], "value", None) == str(key)]
                if not pairs:
                    break
                line, node = pairs[-1][0].start_mark.line, pairs[-1][1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(key, int):
                node = node.value[key]
                line = node.start_mark.line
        return str(self.path) if line is None else f"{self.path}, line {line + 1}"


def read_yaml(path: Path) -> YamlFile:
    """Errors: InputError for a file that cannot be read or is not YAML, with the line where that is known."""
    try:
        loader = RecipeLoader(read_text(path))
        root = loader.get_single_node()
        data = {} if root is None else loader.construct_document(root)
    except OSError as error:
        raise InputError("cannot read the recipe", where=path, remedy=str(error.strerror)) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = path if mark is None else f"{path}, line {mark.line + 1}"
        remedy = " ".join(f"{error.problem or error.context}".split())
        raise InputError("the recipe is not valid YAML", where=where, remedy=remedy) from error
    except yaml.YAMLError as error:
        raise InputError("the recipe is not valid YAML", where=path, remedy=" ".join(str(error).split())) from error
    return YamlFile(path, {} if data is None else data, root)


def parse_yaml(text: str, where: str) -> Any:
    """The value that a text is in YAML, by the same two rules. Errors: InputError."""
    try:
        return RecipeLoader(text).get_single_data()
    except (yaml.YAMLError, ValueError) as error:
        raise InputError("the value is not valid YAML", where=where, remedy="put it in quotes") from error


def write_yaml(path: Path, data: Any) -> None:
    """Write plain data in the order of its keys, so that `read_yaml` reads the same back."""
    write_text(path, yaml_text(data))


def yaml_text(data: Any, *, flat_lists: bool = False) -> str:
    """Plain data as YAML, in the order of its keys; `flat_lists` puts a list of plain values in one line."""
    return yaml.dump(data, Dumper=RecipeDumper, sort_keys=False, default_flow_style=None if flat_lists else False)

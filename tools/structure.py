"""How the code is laid out: packages with their files and lines, imports between them, import cycles, the longest of each.

    python tools/structure.py                   as tables
    python tools/structure.py --json            as one JSON object
    python tools/structure.py --root CHECKOUT   of another commit

Counted is one file's import of another: at the top, inside a function, or for type checking only. A cycle is a set of files
each of which reaches all others along imports.
"""

from __future__ import annotations

import ast
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"genin": "src/genin", **{f"genin.{part}": part for part in ("runtimes", "benchmarks", "distill", "export")}}
MAX_PARAMETERS, MAX_FUNCTION_LINES, MAX_MODULE_LINES = 6, 60, 450


@dataclass(frozen=True)
class Function:
    module: str
    name: str
    lines: int
    parameters: int


def modules(root: Path) -> dict[str, Path]:
    """Dotted name => file of every module of the package. A package's own name is that of its `__init__.py`."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            found[".".join((package, *(part for part in parts if part != "__init__")))] = path
    return found


def imports_of(tree: ast.AST, known: Mapping[str, Path]) -> set[str]:
    """The modules of `known` that a file imports. A package counts only if the file names something of its `__init__.py`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else node.module)
    return found & known.keys()


def functions_of(module: str, tree: ast.AST) -> Iterator[Function]:
    """`self` and `cls` are no parameters here."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = len([argument for argument in every if argument.arg not in ("self", "cls")])
            yield Function(module, node.name, (node.end_lineno or node.lineno) - node.lineno + 1, count)


def cycles(imports: Mapping[str, set[str]]) -> list[list[str]]:
    """The strongly connected sets of more than one file (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in imports.get(node, ()):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            members = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(members) > 1:
                found.append(sorted(members))

    sys.setrecursionlimit(10_000)
    for node in sorted(imports):
        if node not in index:
            visit(node)
    return found


def package_of(module: str, known: Mapping[str, Path]) -> str:
    return module if known[module].name == "__init__.py" else module.rpartition(".")[0]


@dataclass(frozen=True)
class Structure:
    packages: dict[str, dict[str, int]]
    imports: int
    imports_between_packages: dict[str, int]
    cycles: list[list[str]]
    long_modules: dict[str, int]
    long_functions: int
    longest_functions: list[Function]
    many_parameters: list[Function]


def structure(root: Path = ROOT) -> Structure:
    known = modules(root)
    texts = {module: path.read_text(encoding="utf-8") for module, path in known.items()}
    trees = {module: ast.parse(text) for module, text in texts.items()}
    imports = {module: imports_of(tree, known) - {module} for module, tree in trees.items()}
    lines = {module: text.count("\n") for module, text in texts.items()}
    packages: dict[str, dict[str, int]] = defaultdict(lambda: {"files": 0, "lines": 0})
    for module in known:
        packages[package_of(module, known)]["files"] += known[module].name != "__init__.py"
        packages[package_of(module, known)]["lines"] += lines[module]
    between = Counter(
        (package_of(source, known), package_of(target, known))
        for source, targets in imports.items()
        for target in targets
    )
    functions = [function for module, tree in trees.items() for function in functions_of(module, tree)]
    return Structure(
        packages=dict(sorted(packages.items())),
        imports=sum(map(len, imports.values())),
        imports_between_packages={f"{a} -> {b}": count for (a, b), count in sorted(between.items()) if a != b},
        cycles=cycles(imports),
        long_modules={module: count for module, count in lines.items() if count > MAX_MODULE_LINES},
        long_functions=sum(each.lines > MAX_FUNCTION_LINES for each in functions),
        longest_functions=sorted(functions, key=lambda each: -each.lines)[:10],
        many_parameters=[each for each in functions if each.parameters > MAX_PARAMETERS],
    )


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--root", type=click.Path(path_type=Path), default=ROOT, help="A checkout to read.  [default: this one]")
def main(as_json: bool, root: Path) -> None:
    """Print how the code is laid out."""
    found = structure(root)
    if as_json:
        click.echo(json.dumps(asdict(found)))
        return
    for package, size in found.packages.items():
        click.echo(f"{package:28} {size['files']:4} files {size['lines']:6} lines")
    click.echo(f"\n{found.imports} imports between files, {len(found.imports_between_packages)} between packages")
    click.echo(f"cycles: {found.cycles or 'none'}")
    click.echo(f"modules over {MAX_MODULE_LINES} lines: {found.long_modules or 'none'}")
    click.echo(f"functions over {MAX_FUNCTION_LINES} lines: {found.long_functions}; the longest:")
    for function in found.longest_functions:
        click.echo(f"  {function.lines:4} lines  {function.module}.{function.name}")
    click.echo(f"functions of more than {MAX_PARAMETERS} parameters: {len(found.many_parameters)}")
    for function in found.many_parameters:
        click.echo(f"  {function.parameters:4} parameters  {function.module}.{function.name}")


if __name__ == "__main__":
    main()

"""docs/api.md, made from signatures and docstrings: `python -m genin.api_docs > docs/api.md`.

A test compares the file with `markdown()`, so a changed signature cannot leave its page behind.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

import click

import genin
from genin.distill.recipe import Recipe
from genin.runtimes.painting.drawing import LoadOptions
from genin.runtimes.requests import Options

INTRODUCTION = """# The Python API

Made by `python -m genin.api_docs > docs/api.md`; do not edit by hand.

```python
import genin

with genin.load("builtin:student") as pipe:
    pipe("a ninja", seed=7).save("ninja.png")  # one picture
    pictures = pipe(["a ninja"] * 4, seed=[1, 2, 3, 4])  # a list of four
    for step in pipe.stream("a ninja", seed=7):  # what a step sees
        step.preview()  # (1, H, W, 3) uint8
```

`import genin` takes a few milliseconds and imports neither PyTorch nor an engine; both come when they are used. Everything is typed
(`py.typed`). Several threads may use one pipeline; its networks run one at a time. On import, genin switches off the
usage statistics of ONNX Runtime, OpenVINO, NNCF and the hub's client (import it before them), and chooses how OpenMP's threads
wait (`OMP_WAIT_POLICY` or `GOMP_SPINCOUNT`), unless the environment says it ([threads](scaling.md#threads-on-a-busy-machine)).

Every error that genin raises is a `GeninError`, whose text is one line: what, where, what to do.

```python
try:
    pipe = genin.load("student.genin", runtime="openvino")
except genin.MissingExtraError as error:  # error.extra: what to install
    print(error)
except genin.GeninError as error:
    print(error.what, error.where, error.remedy)
```
"""
PARTS = ("genin.distill", "genin.export", "genin.benchmarks")
PARTS_INTRODUCTION = """# The parts

Each part exports its verbs, which do what the command of their name does. They need the part's extra; without it their import or
their call ends in a `MissingExtraError`, which names the extra.

```python
from genin.benchmarks import BenchOptions, bench
from genin.export import ExportOptions, export

result = export("student", "student.genin", ExportOptions(formats="onnx", precisions=["fp16", "int8"]))
figures = bench(result.path, BenchOptions(runs=20, report="bench.html"))
```
"""
OTHER_TYPES_INTRODUCTION = """# Other types

What signatures and fields above name beside these, where it is imported from, and what it is.

| type | from | |
|---|---|---|
"""
OTHER_TYPES = {
    "genin.export.checks.verify": ("GraphReport",),
    "genin.runtimes.painting.tickets": ("Counts",),
    "genin.runtimes.manifest": ("Manifest", "ImageSize", "Latents", "TextConstants", "SamplerConstants"),
    "genin.export.precision_plan": ("Storage",),
    "genin.benchmarks.grids": ("GridRow",),
    "genin.benchmarks.quality.weights": ("MetricUnavailableError",),
    "genin.distill.models.folder": ("ModelFolder",),
    "genin.distill.inputs.sources": ("Source",),
    "genin.distill.recipe": tuple(str(field.type) for field in fields(Recipe)),
}
ALIASES = {
    "Array": "NDArray[np.float32]",
    "Pictures": "NDArray[np.uint8]",
    "Priority": '"normal" | "low" | "idle"',
    "Kind": '"ready" | "preview" | "done" | "failed"',
    "Result": '"ok" | "argument" | "bundle" | "engine" | "memory" | "cancelled" | "superseded" | "gone" | "timeout"',
    "ImageLike": "str | Path | Picture | Image.Image | NDArray[np.uint8]",
}
ERRORS = ("GeninError", "InputError", "BundleError", "MissingExtraError", "CancelledError", "QueueFullError")


def markdown() -> str:
    """The whole page."""
    functions = [name for name in genin.__all__ if inspect.isfunction(getattr(genin, name))]
    classes = [name for name in genin.__all__ if inspect.isclass(getattr(genin, name)) and name not in ERRORS]
    parts = [INTRODUCTION, *(_function(f"genin.{name}", getattr(genin, name), "##") for name in functions)]
    parts += [_class(getattr(genin, name)) for name in sorted(classes, key=["Pipeline", "Picture", *classes].index)]
    parts.append("## Errors\n\n| error | is a | |\n|---|---|---|\n" + "".join(map(_error, ERRORS)))
    parts.append(PARTS_INTRODUCTION)
    for package in PARTS:
        module = importlib.import_module(package)
        parts += [_part(f"{package}.{name}", getattr(module, name)) for name in module.__all__]
    rows = (_other(module, name) for module, names in OTHER_TYPES.items() for name in names)
    parts.append(OTHER_TYPES_INTRODUCTION + "".join(rows))
    return "\n".join(parts)


def _function(title: str, function: Any, level: str, name: str | None = None) -> str:
    return f"{level} {title}\n\n```python\n{_signature(function, name)}\n```\n\n{_text(function)}\n"


def _part(title: str, member: Any) -> str:
    return _function(title, member, "##") if inspect.isfunction(member) else f"## {title}\n\n{_text(member)}\n"


def _class(kind: type[Any]) -> str:
    parts = [f"## genin.{kind.__name__}\n\n{_text(kind)}\n"]
    for name, member in _members(kind):
        if isinstance(member, property):
            parts.append(f"### {kind.__name__}.{name}\n\n{_text(member) or 'A property.'}\n")
        else:
            title = f"{kind.__name__}.{name}".replace(".__call__", "(…)").replace(".__init__", "(…)")
            parts.append(_function(title, member, "###", kind.__name__ if name == "__init__" else None))
    return "\n".join(parts)


def _members(kind: type[Any]) -> Iterator[tuple[str, Any]]:
    """Public methods and properties with a docstring, in the order of the code."""
    for name, member in vars(kind).items():
        member = member.__func__ if isinstance(member, classmethod) else member
        public = name in ("__init__", "__call__") or not name.startswith("_")
        if public and (inspect.isfunction(member) or isinstance(member, property)) and member.__doc__:
            yield name, member


def _error(name: str) -> str:
    kind = getattr(genin, name)
    return f"| `{name}` | `{kind.__mro__[1].__name__}` | {' '.join((kind.__doc__ or '').split())} |\n"


def _other(module: str, name: str) -> str:
    """A row of a type's name, module and first sentence."""
    said = " ".join((getattr(importlib.import_module(module), name).__doc__ or "").split())
    first = re.split(r"(?<=\.) (?=[A-Z`])", said)[0]
    return f"| `{name}` | `{module}` | {first} |\n"


def _signature(function: Any, name: str | None) -> str:
    """One parameter a line where a line would not hold them all. `name` of a class stands for its `__init__`."""
    signature = inspect.signature(function)
    parameters = [
        one
        for parameter in signature.parameters.values()
        if parameter.name not in ("self", "cls")
        for one in (_options(parameter) if parameter.kind is parameter.VAR_KEYWORD else [parameter])
    ]
    if name is not None:
        signature = signature.replace(return_annotation=signature.empty)
    elif inspect.iscoroutinefunction(function):
        name = f"async {function.__name__}"
    else:
        name = "pipe" if function.__name__ == "__call__" else function.__name__
    plain = _unquoted(f"{name}{signature.replace(parameters=parameters)}")
    if len(plain) <= 100:
        return plain
    lines, star = [], False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            lines.append("    *,")
            star = True
        lines.append(_unquoted(f"    {parameter},"))
    returns = "" if signature.return_annotation is signature.empty else _unquoted(f" -> {signature.return_annotation}")
    return "\n".join([f"{name}(", *lines, f"){returns}"])


def _options(unpacked: inspect.Parameter) -> list[inspect.Parameter]:
    """What `**options: Unpack[…]` stands for, one by one."""
    hints = next(
        table.__annotations__ for table in (Options, LoadOptions) if f"[{table.__name__}]" in unpacked.annotation
    )
    kind = inspect.Parameter.KEYWORD_ONLY
    return [inspect.Parameter(n, kind, default=..., annotation=hint.__forward_arg__) for n, hint in hints.items()]


def _unquoted(text: str) -> str:
    """Annotations are strings here; defaults keep their quotes."""
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", text).replace("= Ellipsis", "= ...")
    return re.sub(rf"\b({'|'.join(ALIASES)})\b", lambda found: ALIASES[found[0]], text)


def _field(field: Field[Any]) -> str:
    """A row of a dataclass's table; what has no default is required."""
    if field.default_factory is not MISSING:
        made = field.default_factory()
        default = repr(made) if isinstance(made, dict | list | tuple) else f"{field.type}()"
    else:
        default = "" if field.default is MISSING else repr(field.default)
    kind = _unquoted(str(field.type)).replace("|", "\\|")
    return f"| `{field.name}` | `{kind}` | {f'`{default}`' if default else 'required'} |"


def _text(documented: Any) -> str:
    """A docstring in Markdown: arguments become a list, indented code a block. Fields of a dataclass get a table."""
    lines: list[str] = []
    listed = False
    for line in (inspect.getdoc(documented) or "").split("\n"):
        entry = re.match(r" {4}(\w+(?:, \w+)*): (.*)", line)
        if re.fullmatch(r"(Args|Attributes):", line):
            listed = True
        elif begun := re.match(r"(Returns|Errors): (.*)", line):
            listed = True
            lines += ["", f"**{begun[1]}**: {begun[2]}"]
        elif listed and entry:
            names = ", ".join(f"`{name}`" for name in entry[1].split(", "))
            lines.append(f"- {names}: {entry[2]}")
        elif listed and line.startswith("    "):
            lines[-1] += f" {line.strip()}"
        elif line.startswith("    "):
            lines += ["```python", line.strip(), "```"]
        else:
            listed = False
            lines.append(line)
    text = "\n".join(lines).replace("```\n```python\n", "")
    if inspect.isclass(documented) and is_dataclass(documented):
        rows = (_field(field) for field in fields(documented) if field.name[0] != "_")
        text += "\n\n| field | type | default |\n|---|---|---|\n" + "\n".join(rows)
    return re.sub(r"\n{3,}", "\n\n", text)


if __name__ == "__main__":
    click.echo(markdown(), nl=False)

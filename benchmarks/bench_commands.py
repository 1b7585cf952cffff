"""`genin bench` and what it does with result files: options in, one library call, JSON or a table out.

Not here: what the calls do (`benchmarking`, `results`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from genin.runtimes.names import BUILTIN_WORLD
from genin.runtimes.options import CommaChoice, CommaNames, device_option, flatten, json_option
from genin.runtimes.vocabulary import AUTO, RUNTIMES

FILE = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)
DEFAULT_MODELS = ("builtin:student", "builtin:student-1step")


class CommaNumbers(click.ParamType):  # type: ignore[type-arg]  # generic only since click 8.3
    """One or several positive integers, separated by commas, or ranges: "1,4" => (1, 4), "2-4" => (2, 3, 4)."""

    name = "numbers"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "N,…"

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        numbers: list[int] = []
        try:
            for part in filter(None, (part.strip() for part in value.split(","))):
                low, _, high = part.partition("-")
                numbers += range(int(low), int(high or low) + 1)
        except ValueError:
            numbers = []
        if not numbers or min(numbers) < 1:
            self.fail(f"'{value}' is not a list of positive integers like 1,4 or 1-4", param, ctx)
        return tuple(dict.fromkeys(numbers))


# --- bench -----------------------------------------------------------------------------------------------------------


@click.command(
    "bench",
    epilog="Example: genin bench builtin:teacher student.genin --steps 1,4 --runtime openvino --report bench.html",
)
@click.argument("models", metavar="[BUNDLE|MODEL]...", nargs=-1)
@click.option("--runtime", "runtimes", type=CommaChoice([AUTO, *RUNTIMES]), multiple=True, help="[default: all it has]")
@click.option("--precision", "precisions", type=CommaNames(), multiple=True, help="[default: all it has]")
@device_option
@click.option(
    "--steps",
    type=CommaNumbers(),
    multiple=True,
    help="Steps of students; each is measured at those it was trained for, if any.  [default: the model's]",
)
@click.option("--teacher-steps", type=COUNT, help="Steps of teachers.  [default: the model's]")
@click.option(
    "--threads",
    type=CommaNumbers(),
    multiple=True,
    help="Processor threads of every engine; 1,2,4 measures each.  [default: all usable cores]",
)
@click.option(
    "--runs",
    type=COUNT,
    default=40,
    show_default=True,
    help="Timed pictures per configuration, shared out over its processes.",
)
@click.option("--processes", type=COUNT, default=5, show_default=True, help="Fresh processes per configuration.")
@click.option(
    "--warmup", type=click.IntRange(min=0), default=2, show_default=True, help="Untimed warm-up pictures per process."
)
@click.option("--prompts", type=FILE, help="Text file with one prompt per line.")
@click.option("--seed", type=click.IntRange(0, 2**43), default=0, show_default=True, help="First of the seeds.")
@click.option("--samples", type=COUNT, help="Also measure FD on this many pictures per configuration.")
@click.option("--reference", default=BUILTIN_WORLD, show_default=True, help="Dataset folder for FD.")
@click.option("--metric-weights", type=FILE, help="Folder searched first for the metrics' weights.")
@click.option(
    "--out", type=FILE, help="Write every run as JSON, for `genin bench compare`; an interrupted run resumes."
)
@click.option("--report", type=FILE, help="Write one self-contained HTML page.")
@json_option
def bench_command(models: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Measure latency, start, memory, size and quality of models and bundles, side by side.

    Model folders run on PyTorch, bundles on every runtime and precision they have. Name the teacher too, to see how
    many times faster the others are. Without a model the built-in students are measured. Latency needs no PyTorch;
    quality figures do.
    """
    from genin.benchmarks.benchmarking import BenchOptions, bench
    from genin.benchmarks.results.table import results_table

    for name in ("runtimes", "precisions", "steps", "threads"):
        options[name] = flatten(options[name])
    results = bench(models or DEFAULT_MODELS, BenchOptions(**options))
    if as_json:
        click.echo(json.dumps(results))
        return
    if busy := results["notes"].get("busy"):
        click.secho(f"**{busy}**\n", fg="red", bold=True)
    click.echo(results_table(results))
    for path in (options["out"], options["report"]):
        if path is not None:
            click.echo(f"\n{path}")


def warn(sentence: str) -> None:
    """On stderr, in red where it shows colours."""
    click.secho(f"genin: {sentence}", err=True, fg="red", bold=True)


class Share(click.ParamType):  # type: ignore[type-arg]
    """A share between 0 and 1: "2%" and "0.02" => 0.02."""

    name = "share"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "PERCENT"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = -1.0
        if not 0 < share < 1:
            self.fail(f"'{value}' is not a share; write 2%", param, ctx)
        return share


# --- compare ---------------------------------------------------------------------------------------------------------


@click.command("compare", epilog="Example: genin bench compare old.json new.json --margin 2%")
@click.argument("old", type=FILE)
@click.argument("new", type=FILE, required=False)
@click.option("--baseline", help="Compare the models of OLD alone with this one of them, round by round.")
@click.option("--margin", type=Share(), default="2%", show_default=True, help="Differences within this are the same.")
@click.option("--strict", is_flag=True, help="Refuse results of two machines.")
@json_option
@click.pass_context
def compare_command(
    context: click.Context,
    old: Path,
    new: Path | None,
    baseline: str | None,
    margin: float,
    strict: bool,
    as_json: bool,
) -> None:
    """Compare two results of `genin bench --out`: faster, slower, same within the margin, or unclear.

    Prints Markdown for a pull request. The exit code is 1 if a configuration is slower, or draws wrong pictures.
    """
    from genin.benchmarks.results.compare import compare_results, compare_with, markdown
    from genin.benchmarks.results.files import read_results

    if (new is None) == (baseline is None):
        raise click.UsageError("name a second file, or --baseline MODEL of the first")
    if new is None:
        assert baseline is not None
        comparison = compare_with(read_results(old), baseline, margin)
    else:
        comparison = compare_results(read_results(old), read_results(new), margin, strict=strict)
    click.echo(json.dumps(comparison.to_json()) if as_json else markdown(comparison))
    if as_json:
        for said in comparison.warnings:
            warn(said)
    context.exit(1 if comparison.failed else 0)

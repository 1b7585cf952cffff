"""`genin bench` and what it does with result files: options in, one library call, JSON or a table out.

Not here: what the calls do (`benchmarking`, `results`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from genin.benchmarks.durations import seconds_of, warm_up_of
from genin.runtimes.errors import InputError
from genin.runtimes.names import BUILTIN_WORLD
from genin.runtimes.options import SQUARE, CommaChoice, CommaNames, device_option, flatten, json_option, square_side
from genin.runtimes.vocabulary import AUTO, RUNTIMES
from genin.runtimes.wording import counted

FILE = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)
EXPORT_FORMATS = ("csv", "runs-csv", "markdown", "pyperf", "optimum", "card", "badge", "bibtex")
PEER_NAMES = (
    "all",
    "diffusers",
    "diffusers-compile",
    "optimum-onnx",
    "optimum-intel",
    "openvino-genai",
    "stable-diffusion.cpp",
    "onnxruntime-web",
)
MOST_NUMBERS = 1024  # of a range
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
                first, _, last = part.partition("-")
                low, high = int(first), int(last or first)
                if high - low >= MOST_NUMBERS:
                    self.fail(f"'{part}' is more than {MOST_NUMBERS} numbers", param, ctx)
                numbers += range(low, high + 1)
        except ValueError:
            numbers = []
        if not numbers or min(numbers) < 1:
            self.fail(f"'{value}' is not a list of positive integers like 1,4 or 1-4", param, ctx)
        return tuple(dict.fromkeys(numbers))


class CommaSides(CommaNumbers):
    """Sides of squares: "64,96", also as "64x64,96x96"."""

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in value.split(",")]
        if wrong := [part for part in parts if "x" in part.lower() and square_side(part) is None]:
            self.fail(f"'{wrong[0]}' is not a side in pixels; write 64 or 64,96: {SQUARE}", param, ctx)
        return super().convert(",".join(square_side(part) or part for part in parts), param, ctx)


class Seconds(click.ParamType):  # type: ignore[type-arg]
    """ "10" or "10s" => 10.0."""

    name = "seconds"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return seconds_of(value, self.name)
        except InputError:
            self.fail(f"'{value}' is not a time up to a day; write 10 or 10s", param, ctx)


class WarmUp(click.ParamType):  # type: ignore[type-arg]
    """ "2" => 2 pictures; "2s", seconds, stays a text."""

    name = "warm-up"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "N|Ns"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> str | int:
        try:
            pictures, seconds = warm_up_of(value)
        except InputError:
            self.fail(f"'{value}' is neither pictures nor seconds; write 2 or 2s", param, ctx)
        return pictures if seconds is None else value


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
@click.option(
    "--teacher-steps",
    type=CommaNumbers(),
    multiple=True,
    help="Steps of teachers; speed-ups are over the first.  [default: the model's]",
)
@click.option(
    "--threads",
    type=CommaNumbers(),
    multiple=True,
    help="Processor threads of every engine; 1,2,4 measures each.  [default: all usable cores]",
)
@click.option(
    "--batch", type=CommaNumbers(), multiple=True, help="Pictures drawn at once; 1,2,4 measures each.  [default: 1]"
)
@click.option(
    "--size",
    type=CommaSides(),
    multiple=True,
    help="Width and height in pixels, where a model allows it; 64,96 measures each.  [default: the model's]",
)
@click.option(
    "--runs", type=COUNT, help="Timed pictures per configuration, shared out over its processes.  [default: 40]"
)
@click.option(
    "--duration",
    type=Seconds(),
    help="Time each configuration for so long in place of --runs: as many pictures as fit in, at least two a process.",
)
@click.option(
    "--processes",
    "--cold-starts",
    "processes",
    type=COUNT,
    default=5,
    show_default=True,
    help="Fresh processes per configuration. (--cold-starts is the earlier name.)",
)
@click.option(
    "--warmup",
    type=WarmUp(),
    default=2,
    show_default=True,
    help="Untimed warm-up of each process: a number of pictures, or seconds, such as 2s.",
)
@click.option("--suite", metavar="quick|standard|paper|FILE.yaml", help="Models, prompts and options from a file.")
@click.option("--prompts", type=FILE, help="Text file with one prompt per line.")
@click.option("--seed", type=click.IntRange(0, 2**43), default=0, show_default=True, help="First of the seeds.")
@click.option("--profile", is_flag=True, help="Also show the longest operators, counted by the engines in runs apart.")
@click.option(
    "--sustained",
    type=click.FloatRange(0, 24 * 60, min_open=True),
    metavar="MINUTES",
    help="Also draw for so long without a pause: does it stay as fast?",
)
@click.option(
    "--clients",
    type=CommaNumbers(),
    multiple=True,
    help="Also draw in so many processes at once: pictures a second, and how long each waits; 1,2,4 measures each.",
)
@click.option("--frames", is_flag=True, help="Also measure the frames of a game, with and without drawing beside it.")
@click.option(
    "--peers",
    type=CommaChoice(PEER_NAMES),
    multiple=True,
    metavar="all|NAME,…",
    help=f"Also measure other programs on the same weights: {', '.join(PEER_NAMES[1:])}.",
)
@click.option("--samples", type=COUNT, help="Also measure FD on this many pictures per configuration.")
@click.option("--reference", default=BUILTIN_WORLD, show_default=True, help="Dataset folder for FD.")
@click.option("--metric-weights", type=FILE, help="Folder searched first for the metrics' weights.")
@click.option("--clip", metavar="FOLDER|NAME", help="Also score pictures against their prompts with this CLIP.")
@click.option(
    "--out", type=FILE, help="Write every run as JSON, for `genin bench compare`; an interrupted run resumes."
)
@click.option("--report", type=FILE, help="Write one self-contained HTML page.")
@json_option
@click.pass_context
def bench_command(context: click.Context, /, models: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Measure latency, start, memory, size and quality of models and bundles, side by side.

    Model folders run on PyTorch, bundles on every runtime and precision they have. Name the teacher too, to see how
    many times faster the others are. Without a model the built-in students are measured. Latency needs no PyTorch;
    quality figures do. `genin bench compare`, `merge` and `export` work on the results that --out writes, `genin bench
    selftest` says which differences this machine shows; a model folder of such a name is ./compare.
    """
    from genin.benchmarks.benchmarking import BenchOptions, bench
    from genin.benchmarks.results.operators import operators_text
    from genin.benchmarks.results.table import clients_text, frames_text, results_table, sustained_text

    for name in ("runtimes", "precisions", "steps", "teacher_steps", "threads", "batch", "size", "clients", "peers"):
        options[name] = flatten(options[name])
    if None not in (options["runs"], options["duration"]):
        raise click.UsageError("give --runs or --duration, not both")
    if options["suite"] is not None:
        models, options = _with_suite(context, models, options)
    results = bench(models or DEFAULT_MODELS, BenchOptions(**options))
    if as_json:
        click.echo(json.dumps(results))
        return
    if busy := results["notes"].get("busy"):
        click.secho(f"**{busy}**\n", fg="red", bold=True)
    click.echo(results_table(results))
    for text in (operators_text(results), sustained_text(results), clients_text(results), frames_text(results)):
        if text:
            click.echo(f"\n{text}")
    for path in (options["out"], options["report"]):
        if path is not None:
            click.echo(f"\n{path}")


def _with_suite(
    context: click.Context, models: tuple[str, ...], options: dict[str, Any]
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The suite's models and options, where the command line gives no others."""
    from genin.benchmarks.suites import NOT_IN_A_SUITE, read_suite

    of_suite, suite = read_suite(options["suite"])
    given = [name for name in options if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if {"runs", "duration"} & set(given):  # either takes the place of both
        suite = {name: value for name, value in suite.items() if name not in ("runs", "duration")}
    changed = bool(models) or bool(set(given) - set(NOT_IN_A_SUITE))
    chosen = {**options, **suite, **{name: options[name] for name in given}}
    return models or of_suite, chosen | {"suite": f"{suite['suite']}, changed" if changed else suite["suite"]}


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
@click.option(
    "--baseline", help="Compare the models of OLD alone with this one of them, round by round; or its programs."
)
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
    context.exit(1 if comparison.failed else 0)


# --- merge -----------------------------------------------------------------------------------------------------------


@click.command("merge", epilog="Example: genin bench merge laptop.json phone.json --report devices.html")
@click.argument("files", metavar="RESULTS.json...", type=FILE, nargs=-1, required=True)
@click.option("--report", type=FILE, help="Write one self-contained HTML page.")
@json_option
def merge_command(files: tuple[Path, ...], report: Path | None, as_json: bool) -> None:
    """Show results of several devices in one table, and on one page."""
    from genin.benchmarks.results.files import read_results
    from genin.benchmarks.results.merge import merge
    from genin.benchmarks.results.table import results_table

    merged = merge([(file.name, read_results(file)) for file in files])
    if report is not None:
        from genin.benchmarks.report.report import Report, write_report
        from genin.files import claim_output

        claim_output(report, ".htm" if report.suffix.lower() == ".htm" else ".html")
        write_report(Report(devices=merged), report)
    if as_json:
        click.echo(json.dumps(merged.to_json()))
        return
    if merged.busy:
        click.secho(f"**{merged.busy}**\n", fg="red", bold=True)
    click.echo(results_table(merged.to_json()))
    if report is not None:
        click.echo(f"\n{report}")


# --- export ----------------------------------------------------------------------------------------------------------


@click.command("export", epilog="Example: genin bench export results.json --format card")
@click.argument("results", metavar="RESULTS.json", type=FILE)
@click.option("--format", type=CommaChoice(EXPORT_FORMATS), required=True, help="What to write.")
@click.option("--out", type=FILE, help="File to write.  [default: print it]")
def export_command(results: Path, format: tuple[str, ...], out: Path | None) -> None:
    """Write a result in another format: csv and runs-csv (every picture), markdown, pyperf (JSON), optimum (the keys of
    optimum-benchmark), card (Hugging Face model card), badge (SVG), bibtex.
    """
    from genin.benchmarks.results.exports import export
    from genin.benchmarks.results.files import read_results
    from genin.files import claim_output, write_text

    if len(format) > 1:
        raise click.UsageError("one format at a time")
    text = export(read_results(results), format[0])
    if out is None:
        click.echo(text, nl=False)
        return
    claim_output(out)
    write_text(out, text)
    click.echo(str(out))


# --- selftest --------------------------------------------------------------------------------------------------------


@click.command("selftest", epilog="Example: genin bench selftest builtin:student")
@click.argument("model", metavar="[BUNDLE|MODEL]", default=DEFAULT_MODELS[0])
@click.option("--runtime", type=click.Choice([AUTO, *RUNTIMES]), help="[default: the first it has]")
@click.option("--threads", type=COUNT, help="Processor threads.  [default: all usable cores]")
@click.option("--runs", type=COUNT, default=160, show_default=True, help="Timed pictures of each of the two.")
@click.option(
    "--processes",
    type=click.IntRange(min=2),
    default=20,
    show_default=True,
    help="Fresh processes of each; five of them are in a comparison.",
)
@json_option
def selftest_command(
    model: str, runtime: str | None, threads: int | None, runs: int, processes: int, as_json: bool
) -> None:
    """Measure a model against itself, and say which differences can be seen on this machine."""
    from genin.benchmarks.contenders import contenders
    from genin.benchmarks.speed.configurations import Choices
    from genin.benchmarks.speed.protocol import Protocol
    from genin.benchmarks.speed.selftest import measure_resolution
    from genin.runtimes.names import installed_names

    [contender] = contenders(installed_names(), model, runtime)
    choices = Choices([runtime] if runtime else (), threads=[threads] if threads else ())
    found, about = measure_resolution(contender, choices, Protocol(runs=runs, processes=processes))
    if as_json:
        click.echo(json.dumps(found.to_json() | about))
        return
    if about["busy"]:
        click.secho(f"**{about['busy']}**\n", fg="red", bold=True)
    click.echo(f"Differences of {found.resolves_percent:.1f} % can be seen here, between models of one run;")
    click.echo(f"of {found.resolves_percent_two_runs:.1f} % between two runs.")
    click.echo(
        f"{about['configuration']}: {counted(about['processes'], 'process', 'processes')} of each of two, "
        f"{counted(about['runs'][0], 'picture')}; "
        f"{counted(found.false_alarms, 'false alarm')} in {found.tries} comparisons of {found.compared} processes with as many "
        f"({found.different} different ones; up to 5 are to be expected)."
    )

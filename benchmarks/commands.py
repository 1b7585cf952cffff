"""`genin bench`, `genin evaluate`, `genin compare`: options in, library calls, JSON or a table out.

Only these functions resolve names like `builtin:student`. Not here: any measuring.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genin.dataset.splits import CHOICES
from genin.runtimes.errors import InputError
from genin.runtimes.options import CommaChoice, Names, claim_output, flatten, model_path, threads_option
from genin.runtimes.vocabulary import AUTO, RUNTIMES

if TYPE_CHECKING:
    from genin.benchmarks.speed.bench import Contender

FOLDER = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)
BUILTIN_WORLD = "builtin:world"
BUILTIN_SAMPLES = 5000


class CommaNumbers(click.ParamType):  # type: ignore[type-arg]  # generic only since click 8.3
    """One or several positive whole numbers, separated by commas: "1,4" => (1, 4)."""

    name = "numbers"

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(part) for part in value.split(",") if part.strip())
        except ValueError:
            numbers = ()
        if not numbers or min(numbers) < 1:
            self.fail(f"'{value}' is not a list of positive whole numbers like 1,4", param, ctx)
        return numbers


SPLIT_OPTION = click.option(
    "--split",
    type=click.Choice(list(CHOICES)),
    help="Only this split of the reference; held-out: val and test.  [default: all; of builtin:world, test]",
)

# --- evaluate --------------------------------------------------------------------------------------------------------


@click.command(
    "evaluate",
    epilog="Example: genin evaluate builtin:student --reference builtin:world --against builtin:teacher --samples 5000",
)
@click.argument("subject", metavar="MODEL|BUNDLE|IMAGES")
@click.option(
    "--reference",
    help="Dataset folder to compare with, or builtin:world.  [default: builtin:world for built-in models]",
)
@SPLIT_OPTION
@click.option("--samples", type=COUNT, help="Pictures to compare.  [default: the reference's, at most 5,000]")
@click.option("--seed", type=click.IntRange(0, 2**43), default=0, show_default=True, help="First of the seeds.")
@click.option("--steps", type=COUNT, help="Sampling steps.  [default: the model's]")
@click.option("--guidance-scale", type=click.FloatRange(min=0), help="Guidance scale.  [default: the model's]")
@click.option("--runtime", type=click.Choice([AUTO, *RUNTIMES]), default=AUTO, show_default=True, help="What runs it.")
@click.option(
    "--precision", default=AUTO, show_default=True, help="Of weights: fp32, fp16, int8, … as the bundle has, or auto."
)
@click.option("--threads", type=COUNT, help="Processor threads.  [default: the runtime's]")
@click.option("--batch-size", type=COUNT, default=16, show_default=True, help="Pictures drawn at once.")
@click.option("--against", help="Teacher to compare with: a model, saved pictures or saved statistics.")
@click.option("--against-steps", type=COUNT, help="Steps of the teacher.  [default: its own]")
@click.option("--save-images", type=FOLDER, help="Keep the pictures here; an interrupted run goes on from them.")
@click.option("--save-statistics", type=FOLDER, help="Keep features as FILE.safetensors, or a folder with pairs.")
@click.option(
    "--floor", is_flag=True, help="Measure the model folder's autoencoder alone: the reference, encoded and decoded."
)
@click.option("--metric-weights", type=FOLDER, help="Folder searched first for the metrics' weights.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
@click.pass_context
def evaluate_command(
    ctx: click.Context,
    subject: str,
    reference: str | None,
    split: str | None,
    samples: int | None,
    seed: int,
    steps: int | None,
    guidance_scale: float | None,
    runtime: str,
    precision: str,
    threads: int | None,
    batch_size: int,
    against: str | None,
    against_steps: int | None,
    save_images: Path | None,
    save_statistics: Path | None,
    floor: bool,
    metric_weights: Path | None,
    as_json: bool,
) -> None:
    """Measure the picture quality of a model, a bundle or a folder of pictures against a reference.

    Prints FD, KID, attribute accuracy, precision, recall and diversity; with --against also paired LPIPS and the ratio
    of FDs. A figure that cannot be had here is null, and says why. Under torchrun every process draws its share.
    """
    from genin.benchmarks.quality.evaluate import Evaluator
    from genin.benchmarks.quality.shares import evaluate_in_shares
    from genin.benchmarks.quality.subjects import Sampling
    from genin.benchmarks.speed.machine import usable_cores
    from genin.processes import main_process_first, processes_here, several

    if reference is None:
        if not subject.startswith("builtin:"):
            raise InputError("--reference is missing", remedy=f"give the pictures to compare with, or {BUILTIN_WORLD}")
        reference = BUILTIN_WORLD
    if floor and save_images is not None:
        raise InputError("--floor draws no samples to save", remedy="leave out --save-images")
    if save_statistics is not None:
        from genin.benchmarks.quality.statistics_file import FILE_NAME

        claim_output(save_statistics if save_statistics.suffix == ".safetensors" else save_statistics / FILE_NAME)
    if several() and threads is None:
        threads = max(1, usable_cores() // processes_here())
    names = ctx.obj
    with main_process_first():  # what is downloaded or rendered is so once
        path = model_path(names, subject, runtime, precision)
        other = None if against is None else model_path(names, against)
        evaluator = Evaluator(
            reference_folder(names, reference, samples, path, split),
            samples=samples,
            seed=seed,
            metric_weights=metric_weights,
            classifier=names.classifier() if isinstance(names, Names) else None,
            reference_name=reference,
            split=split,
        )
    evaluate = partial(evaluate_in_shares, evaluator) if several() else evaluator.evaluate
    result = evaluate(
        path,
        Sampling(steps, guidance_scale, runtime, precision, batch_size, threads),
        against=other,
        against_sampling=Sampling(against_steps, batch_size=batch_size, threads=threads if several() else None),
        save_images=save_images,
        save_statistics_to=save_statistics,
        floor=floor,
    )
    if result is None:  # another process measures
        return
    click.echo(json.dumps(result) if as_json else evaluation_text(result))


def reference_folder(names: object, name: str, samples: int | None, subject: Path, split: str | None = None) -> Path:
    """The reference's folder; `builtin:world` is rendered at the subject's size, in the split asked for."""
    if not isinstance(names, Names):
        return Path(name)
    size = None
    if name == BUILTIN_WORLD:
        from genin.benchmarks.quality.subjects import is_model

        if is_model(subject):
            from genin.benchmarks.model_facts import read_facts

            size = read_facts(subject).image_size
    return names.reference(name, count=samples or BUILTIN_SAMPLES, size=size, seed=0, split=split)


def evaluation_text(result: dict[str, Any]) -> str:
    """A result for people: one figure a line, with its interval, and the reasons of what is missing."""
    lines = [
        f"{result['model']}: {result['samples']} pictures against {result['reference_count']} of {result['reference']}"
    ]
    for key in ("steps", "guidance_scale", "runtime", "precision", "parameters", "macs"):
        if result.get(key) is not None:
            lines.append(
                f"  {key:<22} {result[key]:,}" if isinstance(result[key], int) else f"  {key:<22} {result[key]}"
            )
    for key, value in result.items():
        if isinstance(value, float) and key != "guidance_scale":
            low_high = result["intervals"].get(key)
            interval = f"  [{low_high[0]:.4f}, {low_high[1]:.4f}]" if low_high else ""
            lines.append(f"  {key:<22} {value:.4f}{interval}")
    for name, value in (result.get("attribute_accuracy") or {}).items():
        if isinstance(value, float):
            lines.append(f"  {'attribute ' + name:<22} {value:.4f}")
    said: dict[str, list[str]] = {}  # one line a reason: missing weights are often several figures'
    for name, reason in result["notes"].items():
        missing = name in result and result[name] is None
        said.setdefault(f"not available, {reason}" if missing else reason, []).append(name)
    lines += [f"  {', '.join(names)}: {what}" for what, names in said.items()]
    return "\n".join(lines)


# --- bench -----------------------------------------------------------------------------------------------------------


@click.command(
    "bench",
    epilog="Example: genin bench builtin:teacher student.genin --steps 1,4 --runtime openvino --report bench.html",
)
@click.argument("models", metavar="BUNDLE|MODEL...", nargs=-1, required=True)
@click.option("--runtime", "runtimes", type=CommaChoice([AUTO, *RUNTIMES]), multiple=True, help="[default: all it has]")
@click.option("--precision", "precisions", multiple=True, metavar="NAME,…", help="[default: all it has]")
@click.option(
    "--steps",
    type=CommaNumbers(),
    multiple=True,
    help="Of students; of each those it was trained for, if any.  [default: the model's]",
)
@click.option("--teacher-steps", type=COUNT, help="Of teachers.  [default: the model's]")
@click.option("--runs", type=COUNT, default=20, show_default=True, help="Timed pictures per configuration.")
@click.option("--warmup", type=click.IntRange(min=0), default=2, show_default=True, help="Untimed pictures before.")
@click.option("--cold-starts", type=COUNT, default=2, show_default=True, help="Processes started; the last one counts.")
@click.option("--threads", type=COUNT, help="Processor threads of every engine.  [default: all usable cores]")
@click.option("--prompts", type=FOLDER, help="Text file with one prompt per line.")
@click.option("--seed", type=click.IntRange(0, 2**43), default=0, show_default=True, help="First of the seeds.")
@click.option("--samples", type=COUNT, help="Also measure FD on so many pictures per configuration.")
@click.option("--reference", default=BUILTIN_WORLD, show_default=True, help="Dataset folder for FD.")
@click.option("--metric-weights", type=FOLDER, help="Folder searched first for the metrics' weights.")
@click.option("--report", type=FOLDER, help="Write one self-contained HTML page.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
@click.pass_context
def bench_command(
    ctx: click.Context,
    models: tuple[str, ...],
    runtimes: tuple[tuple[str, ...], ...],
    precisions: tuple[str, ...],
    steps: tuple[tuple[int, ...], ...],
    teacher_steps: int | None,
    runs: int,
    warmup: int,
    cold_starts: int,
    threads: int | None,
    prompts: Path | None,
    seed: int,
    samples: int | None,
    reference: str,
    metric_weights: Path | None,
    report: Path | None,
    as_json: bool,
) -> None:
    """Measure latency, start, memory, size and quality of models and bundles, side by side.

    Model folders run on PyTorch, bundles on every runtime and precision they have. Name the teacher too, to see how
    many times faster the others are.
    """
    from genin.benchmarks.prompts import DEFAULT_PROMPTS, read_prompts
    from genin.benchmarks.speed.bench import Choices, Quality, bench_with_pictures, markdown_table
    from genin.benchmarks.speed.latency import Protocol
    from genin.benchmarks.speed.machine import usable_cores

    names, engines = ctx.obj, flatten(runtimes)
    stored = tuple(dict.fromkeys(name.strip() for text in precisions for name in text.split(",") if name.strip()))
    chosen = contenders(names, models, _only(engines), _only(stored))
    if report is not None:
        claim_output(report, ".html")
    folder = None if samples is None else reference_folder(names, reference, samples, chosen[0].path)
    classifier = names.classifier() if isinstance(names, Names) else None
    results, grids = bench_with_pictures(
        chosen,
        choices=Choices(engines, stored, tuple(dict.fromkeys(sum(steps, ()))), teacher_steps),
        protocol=Protocol(
            runs=runs,
            warmup=warmup,
            cold_starts=cold_starts,
            threads=threads or usable_cores(),
            prompts=DEFAULT_PROMPTS if prompts is None else read_prompts(prompts),
            seed=seed,
        ),
        quality=Quality(samples, folder, metric_weights, classifier),
    )
    if report is not None:
        from genin.benchmarks.report.report import write_report

        write_report(results, report, grids=grids)
    if as_json:
        click.echo(json.dumps(results))
        return
    click.echo(markdown_table(results))
    for one in results["skipped"]:
        click.echo(f"skipped: {one['bundle']} on {one['runtime']} {one['precision']}: {one['reason']}")
    if report is not None:
        click.echo(f"\n{report}")


def _only(values: Sequence[str]) -> str | None:
    """The one value, or None if there are several or none."""
    return values[0] if len(values) == 1 else None


def contenders(names: object, models: Sequence[str], runtime: str | None, precision: str | None) -> list[Contender]:
    """The named models with their local paths; labels are what the user wrote, shortened to the last part of a path.
    `runtime` and `precision` say what is fetched of a bundle on the hub (`Names.model`)."""
    from genin.benchmarks.speed.bench import Contender

    short = [name if name.startswith("builtin:") else Path(name).name or name for name in models]
    labels = [label if short.count(label) == 1 else name for label, name in zip(short, models, strict=True)]
    paths = [model_path(names, name, runtime, precision) for name in models]
    return [Contender(label, path) for label, path in zip(labels, paths, strict=True)]


# --- compare ---------------------------------------------------------------------------------------------------------


@click.command(
    "compare",
    epilog="Example: genin compare builtin:teacher builtin:student --prompts prompts.txt --seed 7 --out sheet.png",
)
@click.argument("models", metavar="MODEL|BUNDLE...", nargs=-1, required=True)
@click.option("--prompts", type=FOLDER, help="Text file with one prompt per line.  [default: a few built in]")
@click.option("--reference", help="Draw the captions of a dataset folder or builtin:world, below its true pictures.")
@SPLIT_OPTION
@click.option("--count", type=COUNT, default=8, show_default=True, help="Captions of the reference.")
@click.option(
    "--layout",
    type=click.Choice(["rows", "blocks"]),
    default="rows",
    show_default=True,
    help="A row with captions or a square for each model.",
)
@click.option("--seed", type=click.IntRange(0, 2**43), default=0, show_default=True, help="Seed of the first column.")
@click.option("--steps", type=COUNT, help="Sampling steps of every model.  [default: the model's]")
@click.option(
    "--runtime", type=click.Choice([AUTO, *RUNTIMES]), default=AUTO, show_default=True, help="What runs them."
)
@click.option(
    "--precision", default=AUTO, show_default=True, help="Of weights: fp32, fp16, int8, … as the bundle has, or auto."
)
@threads_option
@click.option("--out", type=FOLDER, required=True, help="PNG file to write.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
@click.pass_context
def compare_command(
    ctx: click.Context,
    models: tuple[str, ...],
    prompts: Path | None,
    reference: str | None,
    split: str | None,
    count: int,
    layout: str,
    seed: int,
    steps: int | None,
    runtime: str,
    precision: str,
    out: Path,
    as_json: bool,
) -> None:
    """Lay models side by side: one row per model, one column per prompt, the same seeds."""
    from genin.benchmarks.prompts import DEFAULT_PROMPTS, read_prompts
    from genin.benchmarks.quality.subjects import Sampling
    from genin.benchmarks.report.compare import draw_grid, save_sheet, true_row

    claim_output(out, ".png")
    if reference is None and split is not None:
        raise InputError("--split is of a reference", remedy="name one (--reference), or leave it out")
    if prompts is not None and reference is not None:
        raise InputError("--prompts and --reference both say what to draw", remedy="leave one of them out")
    texts = list(DEFAULT_PROMPTS) if prompts is None else read_prompts(prompts)
    chosen, true = contenders(ctx.obj, models, runtime, precision), None
    if reference is not None:
        folder = reference_folder(ctx.obj, reference, count, chosen[0].path, split)
        texts, true = true_row(folder, reference, count, split)
    grid = draw_grid(chosen, texts, seed, Sampling(steps=steps, runtime=runtime, precision=precision), true)
    save_sheet(grid, out, layout)
    if as_json:
        labels = [model.label for model in chosen]
        click.echo(json.dumps({"out": str(out), "models": labels, "prompts": texts, "seed": seed}))
    else:
        click.echo(f"{len(chosen)} models × {len(texts)} prompts in {out}")

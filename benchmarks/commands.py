"""`genin evaluate`, `genin compare`: options in, one library call, JSON or a table out.

Not here: what the calls do (`evaluation`, `comparison`), `genin bench` (`bench_commands`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from genin.dataset.splits import CHOICES
from genin.runtimes.options import device_option, json_option, needs_pytorch, threads_option
from genin.runtimes.vocabulary import AUTO, RUNTIMES
from genin.runtimes.wording import counted

FOLDER = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)


SPLIT_OPTION = click.option(
    "--split",
    type=click.Choice(list(CHOICES)),
    help="Only this split of the reference; held-out: val and test.  [default: all; of builtin:world, test]",
)

# --- evaluate --------------------------------------------------------------------------------------------------------


@click.command(
    "evaluate",
    epilog="Example: genin evaluate builtin:student --reference builtin:world --against builtin:teacher --samples 2048",
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
@click.option(
    "--runtime", type=click.Choice([AUTO, *RUNTIMES]), default=AUTO, show_default=True, help="Runtime to use."
)
@click.option(
    "--precision",
    default=AUTO,
    show_default=True,
    help="fp32, fp16, int8 …, whichever the bundle has, or auto; of a model folder fp32, bf16, fp16.",
)
@device_option
@click.option("--threads", type=COUNT, help="Processor threads.  [default: the runtime's]")
@click.option("--batch-size", type=COUNT, default=16, show_default=True, help="Pictures drawn at once.")
@click.option("--against", help="Teacher to compare with: a model, saved pictures or saved statistics.")
@click.option("--against-steps", type=COUNT, help="Steps of the teacher.  [default: its own]")
@click.option("--save-images", type=FOLDER, help="Keep the pictures here; an interrupted run resumes from them.")
@click.option("--save-statistics", type=FOLDER, help="Keep features as FILE.safetensors, or a folder with pairs.")
@click.option(
    "--floor", is_flag=True, help="Measure the model folder's autoencoder alone: the reference, encoded and decoded."
)
@click.option("--metric-weights", type=FOLDER, help="Folder searched first for the metrics' weights.")
@json_option
@needs_pytorch
def evaluate_command(subject: str, as_json: bool, **options: Any) -> None:
    """Measure the picture quality of a model, a bundle or a folder of pictures against a reference.

    Prints FD, KID, attribute accuracy, precision, recall and diversity; with --against also paired LPIPS and the ratio
    of FDs. Unavailable metrics are null, with the reason in `notes`. Under torchrun every process draws its share.
    """
    from genin.benchmarks.evaluation import EvaluateOptions, evaluate

    result = evaluate(subject, EvaluateOptions(**options))
    if result is not None:  # None in the other processes of a torchrun
        click.echo(json.dumps(result) if as_json else evaluation_text(result))


def evaluation_text(result: dict[str, Any]) -> str:
    """A result for people: one figure per line, with its interval, and the reasons for missing ones."""
    lines = [
        f"{result['model']}: {counted(result['samples'], 'picture')} against {result['reference_count']} of {result['reference']}"
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
    said: dict[str, list[str]] = {}  # one line per reason: several figures may lack the same weights
    for name, reason in result["notes"].items():
        missing = name in result and result[name] is None
        said.setdefault(f"not available, {reason}" if missing else reason, []).append(name)
    lines += [f"  {', '.join(names)}: {what}" for what, names in said.items()]
    return "\n".join(lines)


# --- compare ---------------------------------------------------------------------------------------------------------


@click.command(
    "compare",
    epilog="Example: genin compare builtin:teacher builtin:student --prompts prompts.txt --seed 7 --out sheet.png",
)
@click.argument("models", metavar="MODEL|BUNDLE...", nargs=-1, required=True)
@click.option("--prompts", type=FOLDER, help="Text file with one prompt per line.  [default: a few built in]")
@click.option("--reference", help="Draw the captions of a dataset folder or builtin:world, below its true pictures.")
@SPLIT_OPTION
@click.option("--count", type=COUNT, default=8, show_default=True, help="Number of captions of the reference.")
@click.option(
    "--layout",
    type=click.Choice(["rows", "blocks"]),
    default="rows",
    show_default=True,
    help="One row with captions, or one square, per model.",
)
@click.option("--seed", type=click.IntRange(0, 2**43), default=0, show_default=True, help="Seed of the first column.")
@click.option("--steps", type=COUNT, help="Sampling steps of every model.  [default: the model's]")
@click.option(
    "--runtime", type=click.Choice([AUTO, *RUNTIMES]), default=AUTO, show_default=True, help="Runtime to use."
)
@click.option(
    "--precision",
    default=AUTO,
    show_default=True,
    help="fp32, fp16, int8 …, whichever the bundle has, or auto; of a model folder fp32, bf16, fp16.",
)
@device_option
@threads_option
@click.option("--out", type=FOLDER, required=True, help="PNG file to write.")
@json_option
def compare_command(models: tuple[str, ...], out: Path, as_json: bool, **options: Any) -> None:
    """Show models side by side: one row per model, one column per prompt, the same seeds."""
    from genin.benchmarks.comparison import CompareOptions, compare

    grid = compare(models, out, CompareOptions(**options))
    for note in grid.notes:
        click.echo(f"note: {note}", err=True)
    if as_json:
        labels, prompts = [row.label for row in grid.rows[-len(models) :]], list(grid.captions)
        said = {"out": str(out), "models": labels, "prompts": prompts, "seed": options["seed"]}
        click.echo(json.dumps(said | {"notes": list(grid.notes)}))
    else:
        click.echo(f"{counted(len(models), 'model')} × {counted(len(grid.captions), 'prompt')} in {out}")

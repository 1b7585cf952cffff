"""`genin generate` and `genin runtimes`: options in, one library call, lines or one JSON object out.

Not here: what the calls do (`generation`, `engine`), what the names of models mean (`names`), measuring (`genin bench`).
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from genin.runtimes.engine import ENGINES, EngineSettings
from genin.runtimes.errors import InputError
from genin.runtimes.folder import is_model_folder
from genin.runtimes.generation import DEFAULT_MODEL, MAX_COUNT, GenerateOptions, generate
from genin.runtimes.names import installed_names
from genin.runtimes.noise import MODES, SEED_LIMIT
from genin.runtimes.options import Bytes, PixelSize, device_option, json_option
from genin.runtimes.vocabulary import AUTO


@click.command(
    "generate", epilog='Example: genin generate "a ninja in an orange outfit meditating on a mountain" --seed 7'
)
@click.argument("prompt")
@click.option("-m", "--model", default=DEFAULT_MODEL, show_default=True, help="Bundle, model folder or built-in name.")
@click.option("--runtime", default=AUTO, show_default=True, help=f"One of {', '.join(ENGINES)}, or {AUTO}.")
@click.option(
    "--precision",
    default=AUTO,
    show_default=True,
    help="fp32, fp16, int8 …, whichever the bundle has, or auto; of a model folder fp32, bf16, fp16.",
)
@device_option
@click.option("--steps", type=click.IntRange(min=1), help="Denoising steps. [default: the model's own]")
@click.option("--seed", type=click.IntRange(0, SEED_LIMIT - 1), default=0, show_default=True, help="The first seed.")
@click.option(
    "--count",
    type=click.IntRange(1, MAX_COUNT),
    default=1,
    show_default=True,
    help="Number of pictures; seeds count up from --seed.",
)
@click.option(
    "--guidance-scale",
    type=float,
    help="Classifier-free guidance scale; students have it baked in. [default: the model's own]",
)
@click.option("--size", type=PixelSize(), metavar="WIDTHxHEIGHT", help="Pixels. [default: the model's own]")
@click.option(
    "--threads", type=click.IntRange(1, 1024), help="Threads of the engine. [default: the engine's own choice]"
)
@click.option(
    "--max-memory",
    type=Bytes(),
    callback=lambda _context, _option, size: None if size is None else int(size),
    metavar="SIZE",
    help="Memory that a bundle's networks may take, as 500MB; those that do not fit together are loaded one by one.",
)
@click.option(
    "--noise", type=click.Choice(MODES), default="philox", show_default=True, help="torch: as diffusers draws it."
)
@click.option("--image", type=click.Path(path_type=Path), help="Picture to start from.")
@click.option(
    "--strength",
    type=float,
    help="How much of --image is drawn anew, up to 1: that share of the steps is taken.  [default: 0.8, or 1 with a mask]",
)
@click.option(
    "--mask",
    type=click.Path(path_type=Path),
    help="Picture in grey, of --image's size: white is drawn anew, black kept.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="PNG file, or an existing folder. [default: named after the prompt]"
)
@json_option
def generate_command(prompt: str, as_json: bool, **options: Any) -> None:
    """Draw a picture of PROMPT.

    The same prompt, seed and steps give the same picture on every runtime. With --image it starts from a picture instead of noise
    alone, with --mask only a part of it is drawn. Prints the path of each picture.
    """
    written = (lambda _: None) if as_json else click.echo
    report = generate(prompt, GenerateOptions(**options), written=written)
    for note in report["notes"]:
        click.echo(f"genin: {note}", err=True)
    if as_json:
        click.echo(json.dumps(report))
    else:
        runtime = f"{report['runtime']} ({report['precision']})"
        click.echo(f"{report['seconds']:.2f} s on {runtime}, loaded in {report['load_s']:.2f} s", err=True)


@click.command("runtimes", epilog="Example: genin runtimes --explain builtin:student")
@click.option("--explain", metavar="BUNDLE", help="Show what --runtime auto takes for this bundle, and why.")
@click.option("--again", is_flag=True, help="With --explain: measure anew.")
@json_option
def runtimes_command(explain: str | None, again: bool, as_json: bool) -> None:
    """Show which runtimes work here, their versions, and how to install the
    others."""
    if again and explain is None:
        raise click.UsageError("--again needs --explain BUNDLE")
    if explain is not None:
        _explain(explain, again, as_json)
        return
    rows = [runtime_facts(name) for name in ENGINES]
    if as_json:
        click.echo(json.dumps({"runtimes": rows}))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in ("runtime", "version", "runs", "here"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        here = "yes" if row["available"] else " · ".join(filter(None, (row["reason"], row["install"])))
        cells = (row["runtime"], row["version"] or "–", ", ".join(row["runs"]), here)
        table.add_row(*map(Text, cells))  # rich reads [brackets] of text alone as markup, and install lines have them
    Console().print(table)


def _explain(name: str, again: bool, as_json: bool) -> None:
    from genin.runtimes.loading import decide_for

    path = installed_names().model(name, AUTO, AUTO)
    if is_model_folder(path):
        raise InputError("a model folder runs on PyTorch alone", where=path, remedy="name a bundle")
    decision = decide_for(path, AUTO, AUTO, EngineSettings(), again=again)
    choice, threads = decision.way.choice, decision.way.threads
    if as_json:
        chosen = {"runtime": choice.runtime, "precision": choice.precision, "threads": threads, "why": decision.why}
        click.echo(json.dumps({**chosen, "measured": [asdict(timing) for timing in decision.timings]}))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    click.echo(f"{choice.runtime} {choice.precision}, threads: {threads or 'its own'} ({decision.why})")
    if decision.timings:
        table = Table(box=None, pad_edge=False)
        for heading in ("runtime", "precision", "threads", "a picture", "loading"):
            table.add_column(heading, justify="right" if heading in ("a picture", "loading") else "left")
        for timing in sorted(decision.timings, key=lambda timing: timing.picture_ms):
            cells = (timing.runtime, timing.precision, str(timing.threads or "its own"))
            table.add_row(*map(Text, cells), f"{timing.picture_ms:.1f} ms", f"{timing.load_s:.2f} s")
        Console().print(table)


def runtime_facts(name: str) -> dict[str, Any]:
    """One runtime as JSON; `install` is null where nothing needs to be, or can be, installed."""
    row = ENGINES[name]
    reason = row.reason()
    return {
        "runtime": name,
        "title": row.title,
        "available": reason is None,
        "version": row.version(),
        "runs": [f"{format} bundles" for format in row.formats] or ["model folders"],
        "reason": reason,
        "missing": row.missing(),
        "install": row.install if reason and row.installable else None,
    }

"""`genin generate` and `genin runtimes`.

A picture is a PNG, written by rename, with prompt, seed and model in its text fields, so that it says how to draw it
again. With `--count` several seeds follow each other, in small batches; a seed's picture does not depend on its batch.

Not here: what the names of models mean (`genin.names` hands them in), measuring (`genin bench`).
"""

from __future__ import annotations

import json
import re
import time
import warnings
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genin.runtimes.engine import ENGINES
from genin.runtimes.files import claim_output
from genin.runtimes.noise import MODES, SEED_LIMIT
from genin.runtimes.options import model_path
from genin.runtimes.vocabulary import AUTO

if TYPE_CHECKING:
    from genin.runtimes.pipeline import Generation, Pipeline

DEFAULT_MODEL = "builtin:student"
BATCH_SIZE = 8


class Size(click.ParamType):  # type: ignore[type-arg]
    """ "512x768", width first as pictures are named, => (height, width)."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        found = re.fullmatch(r"(\d{1,5})[x×](\d{1,5})", str(value).strip().lower())
        if found is None:
            self.fail(f"'{value}' is no size; write 512x768, the width first", param, ctx)
        return int(found[2]), int(found[1])


@click.command(
    "generate", epilog='Example: genin generate "a ninja in an orange outfit meditating on a mountain" --seed 7'
)
@click.argument("prompt")
@click.option("-m", "--model", default=DEFAULT_MODEL, show_default=True, help="Bundle, model folder or built-in name.")
@click.option("--runtime", default=AUTO, show_default=True, help=f"One of {', '.join(ENGINES)}, or {AUTO}.")
@click.option("--precision", default=AUTO, show_default=True, help="fp32, fp16, int8, … as the bundle has, or auto.")
@click.option("--steps", type=click.IntRange(min=1), help="Denoising steps. [default: the model's own]")
@click.option("--seed", type=click.IntRange(0, SEED_LIMIT - 1), default=0, show_default=True, help="The first seed.")
@click.option(
    "--count", type=click.IntRange(1, 10_000), default=1, show_default=True, help="Pictures, on seeds in a row."
)
@click.option("--guidance-scale", type=float, help="For models with free guidance. [default: the model's own]")
@click.option("--size", type=Size(), metavar="WIDTHxHEIGHT", help="Pixels. [default: the model's own]")
@click.option(
    "--threads", type=click.IntRange(1, 1024), help="Threads of the engine. [default: the engine's own choice]"
)
@click.option(
    "--noise", type=click.Choice(MODES), default="philox", show_default=True, help="torch: as diffusers draws it."
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="PNG file, or an existing folder. [default: named after the prompt]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
@click.pass_context
def generate_command(
    context: click.Context,
    prompt: str,
    model: str,
    runtime: str,
    precision: str,
    steps: int | None,
    seed: int,
    count: int,
    guidance_scale: float | None,
    size: tuple[int, int] | None,
    threads: int | None,
    noise: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Draw a picture of PROMPT.

    The same prompt, seed and steps give the same picture on every runtime. Prints the path of each picture.
    """
    from genin.runtimes.loading import load_pipeline

    path = model_path(context.obj, model, runtime, precision)
    seeds = range(seed, seed + count)
    places = output_paths(out, prompt, seeds)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module=r"genin\.")
        with load_pipeline(path, runtime, precision, threads=threads) as pipeline:
            pipeline.name = model
            start = time.perf_counter()
            timings_ms: dict[str, float] = defaultdict(float)
            for at in range(0, count, BATCH_SIZE):
                batch = seeds[at : at + BATCH_SIZE]
                generation = pipeline.generate(
                    prompt, batch, steps=steps, guidance_scale=guidance_scale, noise=noise, size=size
                )
                for picture in pipeline.pictures(generation):
                    written = picture.save(places[picture.seed])
                    if not as_json:
                        click.echo(written)
                for stage, spent_ms in generation.timings.items():
                    timings_ms[stage] += spent_ms
            seconds = time.perf_counter() - start
    notes = list(dict.fromkeys(str(item.message) for item in caught))
    for note in notes:
        click.echo(f"genin: {note}", err=True)
    if as_json:
        report = {
            "images": [str(places[picture_seed]) for picture_seed in seeds],
            "model": model,
            "seeds": list(seeds),
            "noise": noise,
            **describe(pipeline, generation),
            "timings_ms": {stage: round(total, 3) for stage, total in timings_ms.items()},
            "seconds": round(seconds, 4),
            "notes": notes,
        }
        click.echo(json.dumps(report))
    else:
        click.echo(
            f"{seconds:.2f} s on {pipeline.runtime} ({pipeline.precision}), loaded in {pipeline.load_s:.2f} s", err=True
        )


def describe(pipeline: Pipeline, generation: Generation) -> dict[str, Any]:
    """What the JSON object says of the pipeline and of any of its generations."""
    height, width = generation.images.shape[1:3]
    return {
        "prompt": generation.prompts[0],
        "steps": generation.steps,
        "guidance_scale": generation.guidance_scale,
        "runtime": pipeline.runtime,
        "provider": pipeline.provider,
        "precision": pipeline.precision,
        "height": height,
        "width": width,
        "load_s": round(pipeline.load_s, 4),
    }


def output_paths(out: Path | None, prompt: str, seeds: range) -> dict[int, Path]:
    """Seed => the file for its picture; several get their seed in the name. A name of our own choosing never stands for another
    picture already. Errors: InputError before any work."""
    slug = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")[:60].rstrip("-") or "picture"
    if out is None or out.is_dir() or not out.suffix:
        if out is not None:
            claim_output(out / slug)
        return {seed: _free((out or Path()) / f"{slug}-{seed}.png") for seed in seeds}
    claim_output(out, ".png")
    return {seed: out if len(seeds) == 1 else out.with_stem(f"{out.stem}-{seed}") for seed in seeds}


def _free(path: Path) -> Path:
    """`path`, or the first of path (2), (3), … that is not there yet."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_stem(f"{path.stem} ({number})")
    return free


@click.command("runtimes", epilog="Example: genin runtimes --json")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def runtimes_command(as_json: bool) -> None:
    """Show which runtimes work here, their versions, and how to install the others."""
    rows = [runtime_facts(name) for name in ENGINES]
    if as_json:
        click.echo(json.dumps({"runtimes": rows}))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("runtime", "version", "runs", "here"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        here = "yes" if row["available"] else " · ".join(filter(None, (row["reason"], row["install"])))
        # rich reads [brackets] as markup, and install lines have them
        table.add_row(row["runtime"], row["version"] or "–", ", ".join(row["runs"]), here.replace("[", "\\["))
    Console().print(table)


def runtime_facts(name: str) -> dict[str, Any]:
    """One runtime as JSON; `install` is null where nothing need or can be installed."""
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

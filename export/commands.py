"""`genin export`, `genin plan`, `genin verify` and `genin inspect`: options, tables and JSON around the library's functions.

Imports are inside the functions, so that `verify` runs where there is no PyTorch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genin.export.precision_plan import WEIGHTS
from genin.files import write_text
from genin.runtimes.errors import InputError
from genin.runtimes.options import CommaChoice, claim_output, flatten, model_path, threads_option
from genin.runtimes.progress import progress
from genin.runtimes.vocabulary import FORMATS, MORE_PRECISIONS, PRECISIONS

if TYPE_CHECKING:
    from genin.runtimes.manifest import SingleGraphEntry


@click.command("export", epilog="Example: genin export builtin:teacher --out teacher.genin --format onnx,openvino")
@click.argument("model")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Bundle folder, or FILE.genin to pack it.")
@click.option(
    "--format",
    "formats",
    type=CommaChoice(FORMATS),
    multiple=True,
    default=(FORMATS,),
    help="Formats to write; all by default.",
)
@click.option(
    "--precision",
    "precisions",
    type=CommaChoice((*PRECISIONS, *MORE_PRECISIONS)),
    multiple=True,
    help=f"How weights are stored.  [default: {', '.join(PRECISIONS)}; none beside a plan]",
)
@click.option(
    "--plan",
    "plans",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    help="A precision plan, from genin plan or by hand; may be repeated.",
)
@click.option(
    "--single-graph",
    "single_graphs",
    type=click.IntRange(min=1),
    multiple=True,
    metavar="STEPS",
    help="Also all of it, from token ids and noise to the picture, as one graph of so many steps; may be repeated.",
)
@click.option("--batch", type=click.IntRange(1, 64), help="Fix the batch of ONNX graphs.  [default: any]")
@click.option("--any-size", is_flag=True, help="Leave the size of pictures free in ONNX and OpenVINO.")
@threads_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
@click.pass_context
def export_command(
    ctx: click.Context,
    model: str,
    out: Path,
    formats: tuple[tuple[str, ...], ...],
    precisions: tuple[tuple[str, ...], ...],
    plans: tuple[Path, ...],
    single_graphs: tuple[int, ...],
    batch: int | None,
    any_size: bool,
    as_json: bool,
) -> None:
    """Export MODEL, a diffusers model folder, to a bundle of ONNX, OpenVINO and Core ML graphs.

    Every graph is measured against PyTorch before the bundle appears: at least 90 dB for fp32, 60 for fp16, 40 for int8,
    or there is no bundle. 8-bit activations (w8a8) and palettes (in Core ML) are judged by the pictures they draw. A format whose
    packages are not installed is left out and named.
    """
    from genin.export.exporter import count_work, export_bundle
    from genin.export.precision_plan import read_plan
    from genin.export.shapes import Shapes

    read = [read_plan(path) for path in plans]
    source, wanted, stored = model_path(ctx.obj, model), flatten(formats), flatten(precisions)
    stored, steps = stored or (() if plans else PRECISIONS), tuple(dict.fromkeys(single_graphs))
    with progress("exporting", count_work(wanted, [*stored, *read], steps), unit="parts") as shown:
        result = export_bundle(
            source,
            out,
            wanted,
            stored,
            plans=read,
            single_graphs=steps,
            shapes=Shapes(batch, any_size),
            progress=shown.begin,
        )
    for format, reason in result.skipped.items():
        click.echo(f"genin: {format} is left out: {reason}", err=True)
    graphs = result.manifest.graphs
    for graph in graphs:
        if graph.parity is None:
            name = f"{graph.component} as {graph.format} {graph.precision}"
            click.echo(
                f"genin: {name} was not run, it has operations that nothing here knows: run it on a Mac", err=True
            )
    size = sum(entry.size_bytes for entry in result.manifest.all_files().values())
    if as_json:
        facts = [
            {
                "component": graph.component,
                "format": graph.format,
                "precision": graph.precision,
                "size_bytes": graph.size_bytes,
                "psnr_db": graph.parity.psnr_db if graph.parity else None,
            }
            for graph in graphs
        ]
        pictures = [asdict(entry) for entry in result.manifest.pictures]
        whole = [_single_facts(graph) for graph in result.manifest.single_graphs]
        line = {
            "bundle": str(out),
            "size_bytes": size,
            "graphs": facts,
            "pictures": pictures,
            "single_graphs": whole,
            "skipped": dict(result.skipped),
        }
        click.echo(json.dumps(line))
        return
    rows = [
        (g.format, g.precision, g.component, _megabytes(g.size_bytes), _db(g.parity.psnr_db if g.parity else None))
        for g in graphs
    ]
    _table(["format", "precision", "component", "size", "parity"], rows)
    drawn = [
        (p.format, p.precision, _db(p.psnr_db), "–" if p.lpips_squeeze is None else f"{p.lpips_squeeze:.4f}")
        for p in result.manifest.pictures
    ]
    _table(["format", "precision", "pictures", "LPIPS"], drawn)
    _single_table(result.manifest.single_graphs)
    click.echo(f"{out}: {len(graphs)} graphs, {_megabytes(size)}; try: genin generate PROMPT -m {out}")


class Size(click.ParamType):  # type: ignore[type-arg]
    """Bytes: a number, or one with kB, MB or GB after it."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"([0-9.]+)\s*(k|m|g)?b?", str(value).strip().lower())
        try:
            number = float(found[1]) * {None: 1, "k": 1e3, "m": 1e6, "g": 1e9}[found[2]] if found else 0.0
        except ValueError:
            number = 0.0
        if number <= 0:
            self.fail(f"'{value}' is no size; write 2.5MB", param, ctx)
        return number


@click.command("plan", epilog="Example: genin plan runs/student --out plan.json --target-lpips 0.01 --plot plan.png")
@click.argument("model")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The plan, FILE.json.")
@click.option("--name", default="mixed", show_default=True, help="What bundles call this precision.")
@click.option(
    "--weights",
    type=CommaChoice(WEIGHTS),
    multiple=True,
    default=(("fp16", "int8"),),
    help="Ways of storing weights to choose from.  [default: fp16, int8]",
)
@click.option("--activations", is_flag=True, help="8-bit activations in as many layers as the pictures allow.")
@click.option(
    "--target-size", type=Size(), metavar="SIZE", help="Most bytes of weights: 2.5MB. The best plan within them."
)
@click.option(
    "--target-lpips",
    type=click.FloatRange(min=0, min_open=True),
    help="Farthest from the model's pictures.  [default: 0.02]",
)
@click.option("--plot", type=click.Path(path_type=Path), help="Every layer's sensitivity as FILE.png.")
@threads_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
@click.pass_context
def plan_command(
    ctx: click.Context,
    model: str,
    out: Path,
    name: str,
    weights: tuple[tuple[str, ...], ...],
    activations: bool,
    target_size: float | None,
    target_lpips: float | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Measure how much each layer of MODEL minds fewer bits, and write the precision plan that export --plan applies.

    Layers are measured one at a time while the student draws. The plan is the smallest whose pictures are within --target-lpips of
    the model's own (drawn, not estimated; LPIPS's weights are needed), or the best of at most --target-size.
    """
    from genin.export.plan.search import make_plan

    claim_output(out, ".json")
    if plot is not None:
        claim_output(plot, ".png")
    source = model_path(ctx.obj, model)
    with progress("measuring") as shown:
        plan = make_plan(
            source, name, flatten(weights), activations=activations, target_size=target_size, target_lpips=target_lpips,
            plot=plot, progress=shown,
        )  # fmt: skip
    write_text(out, plan.to_json())
    notes = plan.notes
    if as_json:
        click.echo(json.dumps({"plan": str(out), **{key: value for key, value in notes.items() if key != "layers"}}))
        return
    _table(["component", "stored", "layers", "size"], [
        (component, way, count, _megabytes(size)) for component, way, count, size in notes["summary"]
    ])  # fmt: skip
    lpips = notes["lpips_squeeze"]
    said = f"LPIPS {lpips:.4f} to its own pictures" if lpips is not None else "LPIPS has no weights here"
    click.echo(
        f"{out}: {_megabytes(notes['size_bytes'])} of weights, {said}; try: genin export {model} --plan {out} --out BUNDLE"
    )


@click.command("verify", epilog="Example: genin verify student.genin")
@click.argument("bundle")
@click.option("--against", metavar="MODEL", help="Take the reference from this model's PyTorch networks instead.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
@click.pass_context
def verify_command(ctx: click.Context, bundle: str, against: str | None, as_json: bool) -> int:
    """Check BUNDLE: its schema, the hash of every file, and the parity of every graph that can run here.

    The reference is the bundle's golden files, PyTorch's own outputs, so PyTorch is not needed. Exit code 1 if anything
    is wrong, 2 if no graph could be run: then only the hashes were checked.
    """
    from genin.export.checks.verify import verify_bundle

    model = None if against is None else model_path(ctx.obj, against)
    report = verify_bundle(model_path(ctx.obj, bundle, runtime=None), against=model)
    if as_json:
        click.echo(json.dumps(report.as_json()))
    else:
        rows = [(g.format, g.precision, g.name, _db(g.psnr_db), _db(g.floor_db), g.verdict()) for g in report.graphs]
        _table(["format", "precision", "component", "parity", "floor", ""], rows)
        for path, good in report.files.items():
            if not good:
                click.echo(f"damaged or changed: {path}")
        for reason, count in report.not_run.items():
            click.echo(f"not run: {count} of {len(report.graphs)} graphs: {reason}")
        state = "NOT ok" if report.failed else "ok" if report.ok else "NOT verified"
        click.echo(f"{bundle}: {state}, {len(report.files)} files")
    if report.ok or report.failed:
        return 1 if report.failed else 0
    remedy = next(iter(report.not_run), "the bundle has none")
    raise InputError("not verified: the files are undamaged, but no graph could be run", where=bundle, remedy=remedy)


@click.command("inspect", epilog="Example: genin inspect builtin:student --json")
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
@click.pass_context
def inspect_command(ctx: click.Context, model: str, as_json: bool) -> None:
    """Show what MODEL, a bundle or a model folder, consists of: parameters, multiply-adds, sizes, licence, provenance."""
    from genin.export.inspection import inspect_path

    facts = inspect_path(model_path(ctx.obj, model))
    if as_json:
        click.echo(json.dumps(facts))
        return
    rows = [
        (name, f"{_count(part['parameters'])}", _count(part["macs"]), _megabytes(part["size_bytes"]), part["precision"])
        for name, part in facts["components"].items()
    ]
    _table(["component", "parameters", "multiply-adds", "size", "precision"], rows)
    graphs = [
        (
            *(g["format"], g["precision"], g["name"], _megabytes(g["size_bytes"])),
            *(_operations(g["operations"]), _db(g["psnr_db"])),
        )
        for g in facts["graphs"]
    ]
    if graphs:
        _table(["format", "precision", "component", "size", "operations", "parity"], graphs)
    said = [f"{key}: {facts[key]}" for key in ("kind", "licence", "parent", "image_size", "steps", "guidance")]
    click.echo("\n".join([*said, *(f"note: {note}" for note in facts["notes"].values())]))


# --- how it looks ----------------------------------------------------------------------------------------------------


def _single_facts(graph: SingleGraphEntry) -> dict[str, Any]:
    return {
        "format": graph.format,
        "precision": graph.precision,
        "steps": graph.steps,
        "size_bytes": graph.size_bytes,
        "psnr_db": graph.parity.psnr_db if graph.parity else None,
        "lpips_squeeze": graph.lpips_squeeze,
    }


def _single_table(graphs: Sequence[SingleGraphEntry]) -> None:
    rows = [
        (
            *(g.format, g.precision, g.steps, _megabytes(g.size_bytes), _db(g.parity.psnr_db if g.parity else None)),
            "–" if g.lpips_squeeze is None else f"{g.lpips_squeeze:.4f}",
        )
        for g in graphs
    ]
    if rows:
        _table(["format", "precision", "steps in one graph", "size", "pictures", "LPIPS"], rows)


def _table(head: list[str], rows: list[tuple[Any, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for title in head:
        table.add_column(title, justify="right" if title in ("size", "parity", "floor", "parameters") else "left")
    for row in rows:
        table.add_row(*map(str, row))
    Console().print(table)


def _megabytes(size: int | None) -> str:
    return "–" if size is None else f"{size / 1e6:.2f} MB"


def _db(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} dB"


def _operations(counts: dict[str, int] | None) -> str:
    """How many of how many kinds: "889 of 31 kinds"."""
    return "–" if counts is None else f"{sum(counts.values()):,} of {len(counts)} kinds"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"

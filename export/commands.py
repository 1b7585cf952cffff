"""`genin export`, `genin plan`, `genin verify` and `genin inspect`: options, tables and JSON around the library's functions.

Imports are inside the functions, so that `verify` runs where there is no PyTorch.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genin.export.precision_plan import WEIGHTS
from genin.files import claim_output, write_text
from genin.runtimes.errors import InputError
from genin.runtimes.names import installed_names
from genin.runtimes.options import Bytes, CommaChoice, flatten, json_option, needs_pytorch, threads_option
from genin.runtimes.vocabulary import FORMATS, MORE_PRECISIONS, PRECISIONS
from genin.runtimes.wording import counted, quoted

if TYPE_CHECKING:
    from genin.export.exporter import ExportResult
    from genin.runtimes.manifest import Manifest, SingleGraphEntry


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
    help="Also write the whole pipeline, from token ids and noise to the picture, as one graph with this many steps; repeatable.",
)
@click.option("--batch", type=click.IntRange(1, 64), help="Fix the batch of ONNX graphs.  [default: any]")
@click.option("--any-size", is_flag=True, help="Leave height and width free in ONNX and OpenVINO.")
@click.option(
    "--vae-encoder/--no-vae-encoder",
    default=True,
    help="The graph that drawing from an image needs.  [default: with it]",
)
@threads_option
@json_option
@needs_pytorch
def export_command(model: str, out: Path, as_json: bool, **options: Any) -> None:
    """Export MODEL, a diffusers model folder, to a bundle of ONNX, OpenVINO and Core ML graphs.

    A bundle with exact ONNX graphs stands for the model folder that it was made from.

    Every graph is measured against PyTorch before the bundle appears: at least 90 dB for fp32, 60 for fp16, 40 for int8, or there
    is no bundle. 8-bit activations (w8a8) and palettes (in Core ML) are judged by the pictures they draw. A format whose packages
    are not installed is left out, with a note.
    """
    from genin.export.exporter import ExportOptions, export

    options["formats"] = flatten(options["formats"])
    options["precisions"] = flatten(options["precisions"]) or None
    result = export(model, out, ExportOptions(**options))
    for format, reason in result.skipped.items():
        click.echo(f"genin: {format} is left out: {reason}", err=True)
    for graph in result.manifest.graphs:
        if graph.parity is None:
            name = f"{graph.component} as {graph.format} {graph.precision}"
            click.echo(
                f"genin: {name} was not run: it has operations that cannot be run here; run it on a Mac", err=True
            )
    if as_json:
        click.echo(json.dumps(_export_facts(result)))
    else:
        _echo_export(result)


@click.command("plan", epilog="Example: genin plan runs/student --out plan.json --target-lpips 0.01 --plot plan.png")
@click.argument("model")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The plan, FILE.json.")
@click.option("--name", default="mixed", show_default=True, help="Name of this precision in bundles.")
@click.option(
    "--weights",
    type=CommaChoice(WEIGHTS),
    multiple=True,
    default=(("fp16", "int8"),),
    help="Storage of weights to choose from.  [default: fp16, int8]",
)
@click.option("--activations", is_flag=True, help="8-bit activations in as many layers as the pictures allow.")
@click.option(
    "--target-size",
    type=Bytes(),
    metavar="SIZE",
    help="Largest size of the weights, such as 2.5MB: the best plan within it.",
)
@click.option(
    "--target-lpips",
    type=click.FloatRange(min=0, min_open=True),
    help="Largest distance from the model's pictures.  [default: 0.02]",
)
@click.option("--plot", type=click.Path(path_type=Path), help="Plot every layer's sensitivity to FILE.png.")
@threads_option
@json_option
@needs_pytorch
def plan_command(model: str, out: Path, as_json: bool, **options: Any) -> None:
    """Measure each layer's sensitivity to quantisation, and write the precision plan that export --plan applies.

    Layers are measured one at a time, on what the student's networks are given as it draws. The plan is the smallest whose pictures
    are within --target-lpips of the model's own (drawn, not estimated; LPIPS's weights are needed), or the best of at most
    --target-size.
    """
    claim_output(out, ".json")
    installed_names().model(model)  # refused before PyTorch is imported, which takes seconds
    from genin.export.plan.search import PlanOptions, make_plan

    options["weights"] = flatten(options["weights"])
    plan = make_plan(model, PlanOptions(**options))
    write_text(out, plan.to_json())
    notes = plan.notes
    if as_json:
        click.echo(json.dumps({"plan": str(out), **{key: value for key, value in notes.items() if key != "layers"}}))
        return
    _table(["component", "stored", "layers", "size"], [
        (component, kind, count, _megabytes(size)) for component, kind, count, size in notes["summary"]
    ])  # fmt: skip
    lpips = notes["lpips_squeeze"]
    quality = f"LPIPS {lpips:.4f} to its own pictures" if lpips is not None else "LPIPS has no weights here"
    size = _megabytes(notes["size_bytes"])
    command = f"genin export {quoted(model)} --plan {quoted(out)} --out BUNDLE"
    click.echo(f"{out}: {size} of weights, {quality}; try: {command}")


@click.command("verify", epilog="Example: genin verify student.genin")
@click.argument("bundle")
@click.option("--against", metavar="MODEL", help="Take the reference from this model's PyTorch networks instead.")
@json_option
def verify_command(bundle: str, against: str | None, as_json: bool) -> int:
    """Check BUNDLE: its schema, the hash of every file, and the parity of every graph that can run here.

    The reference is the bundle's golden files, PyTorch's own outputs, so PyTorch is not needed. Exit code 1 if anything
    is wrong, 2 if no graph could be run: then only the hashes were checked.
    """
    from genin.export.checks.verify import verify_named

    report = verify_named(installed_names(), bundle, against)
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
        click.echo(f"{bundle}: {state}, {counted(len(report.files), 'file')}")
    if report.ok or report.failed:
        return 1 if report.failed else 0
    remedy = next(iter(report.not_run), "the bundle has none")
    raise InputError("not verified: the files are undamaged, but no graph could be run", where=bundle, remedy=remedy)


@click.command("inspect", epilog="Example: genin inspect builtin:student --json")
@click.argument("model")
@json_option
def inspect_command(model: str, as_json: bool) -> None:
    """Show what MODEL, a bundle or a model folder, consists of: parameters, multiply-adds, sizes, licence, provenance.

    Of a picture that genin has drawn, show the settings and the model that drew it.
    """
    from genin.export.inspection import inspect_path

    facts = inspect_path(installed_names().model(model))
    if as_json:
        click.echo(json.dumps(facts, ensure_ascii=False))
        return
    if facts["kind"] == "picture":
        _echo_picture(facts)
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
    lines = [f"{key}: {_or_dash(facts[key])}" for key in ("licence", "parent", "image_size", "steps", "guidance")]
    lines.append(f"from an image: {_image_to_image(facts)}")
    kind = f"{facts['kind']}{'' if facts['provenance'] else ' (not by genin: it has no genin.json)'}"
    click.echo("\n".join([f"kind: {kind}", *lines, *(f"note: {note}" for note in facts["notes"].values())]))


def _echo_picture(facts: dict[str, Any]) -> None:
    click.echo(f"picture: {facts['width']}x{facts['height']}")
    for key, value in {**facts["settings"], **facts["origin"]}.items():
        if key != "size":
            click.echo(f"{key}: {value}")
    for note in facts["notes"].values():
        click.echo(f"note: {note}")


def _image_to_image(facts: dict[str, Any]) -> str:
    if not facts["takes_images"]:
        return "no (it has no vae_encoder graph)"
    if facts["strengths"] is None:
        return "yes, at any strength"
    each = (
        f"{', '.join(f'{value:.3g}' for value in known)} in {steps} step{'s' if steps != '1' else ''}"
        for steps, known in facts["strengths"].items()
    )
    return f"yes, at strength {'; '.join(each)}"


# --- how it looks ----------------------------------------------------------------------------------------------------


def _export_facts(result: ExportResult) -> dict[str, Any]:
    """The JSON object of an export."""
    manifest = result.manifest
    graphs = [
        {
            "component": graph.component,
            "format": graph.format,
            "precision": graph.precision,
            "size_bytes": graph.size_bytes,
            "psnr_db": graph.parity.psnr_db if graph.parity else None,
        }
        for graph in manifest.graphs
    ]
    return {
        "bundle": str(result.path),
        "size_bytes": _size_bytes(result),
        "graphs": graphs,
        "pictures": [asdict(entry) for entry in manifest.pictures],
        "single_graphs": [_single_facts(graph) for graph in manifest.single_graphs],
        "skipped": dict(result.skipped),
    }


def _echo_export(result: ExportResult) -> None:
    manifest, out = result.manifest, result.path
    rows = [
        (g.format, g.precision, g.component, _megabytes(g.size_bytes), _db(g.parity.psnr_db if g.parity else None))
        for g in manifest.graphs
    ]
    _table(["format", "precision", "component", "size", "parity"], rows)
    pictures = [(p.format, p.precision, _db(p.psnr_db), _lpips(p.lpips_squeeze)) for p in manifest.pictures]
    _table(["format", "precision", "pictures", "LPIPS"], pictures)
    _single_table(manifest.single_graphs)
    found = [p.lpips_squeeze for p in manifest.pictures] + [g.lpips_squeeze for g in manifest.single_graphs]
    if None in found:
        from genin.benchmarks.quality.perceptual import why_no_lpips

        click.echo(f"LPIPS –: {why_no_lpips()}")
    size = _megabytes(_size_bytes(result))
    command = f"genin generate PROMPT -m {quoted(out)}"
    click.echo(f"{out}: {counted(len(manifest.graphs), 'graph')}, {size}; try: {command}")
    if one := smaller(manifest):
        click.echo(f"a program needs one format and precision: {one}")


def smaller(manifest: Manifest) -> str | None:
    """How to export less, and how large that is; None for a bundle of one format and precision."""
    sizes = Counter[tuple[str, str]]()
    for graph in manifest.graphs:
        sizes[graph.format, graph.precision] += graph.size_bytes
    if len(sizes) < 2:
        return None
    kind = ("onnx", "fp16") if ("onnx", "fp16") in sizes else min(sizes, key=sizes.__getitem__)
    return f"genin export with --format {kind[0]} --precision {kind[1]} writes {_megabytes(sizes[kind])} of graphs"


def _size_bytes(result: ExportResult) -> int:
    return sum(entry.size_bytes for entry in result.manifest.all_files().values())


def _lpips(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _or_dash(value: object) -> object:
    return "–" if value is None else value


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
            _lpips(g.lpips_squeeze),
        )
        for g in graphs
    ]
    if rows:
        _table(["format", "precision", "steps in one graph", "size", "pictures", "LPIPS"], rows)


def _table(head: list[str], rows: list[tuple[Any, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    used = [index for index in range(len(head)) if not rows or any(row[index] != "–" for row in rows)]
    head, rows = [head[index] for index in used], [tuple(row[index] for index in used) for row in rows]
    table = Table(box=None, header_style="bold")
    for title in head:
        table.add_column(title, justify="right" if title in ("size", "parity", "floor", "parameters") else "left")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))  # text alone would be read as markup
    Console().print(table)


def _megabytes(size: int | None) -> str:
    return "–" if size is None else f"{size / 1e6:.2f} MB"


def _db(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} dB"


def _operations(counts: dict[str, int] | None) -> str:
    """The numbers of operations and of kinds: "889 of 31 kinds"."""
    return "–" if counts is None else f"{sum(counts.values()):,} of {len(counts)} kinds"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"

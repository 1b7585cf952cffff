"""`genin data prepare | inspect | caption`: options in, one call, a table or one JSON line out.

Not here: what the commands do (`prepare`, `inspection`, `caption`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genin.distill.data.find import CAPTION_SOURCES, Dropped
from genin.files import atomic_path, claim_output
from genin.runtimes.names import installed_names
from genin.runtimes.options import CommaChoice, CommaNames, Side, flatten, json_option, threads_option
from genin.runtimes.wording import counted

if TYPE_CHECKING:
    from genin.distill.data.bulk import BulkEdit
    from genin.distill.data.prepare import PrepareOptions, Report

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


class Colour(click.ParamType):  # type: ignore[type-arg]
    """A colour by name or number: "white" => "#ffffff"."""

    name = "colour"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from PIL import ImageColor

        try:
            red, green, blue = ImageColor.getrgb(value)[:3]
        except ValueError:
            self.fail(f"'{value}' is not a colour; write white, or #20c0ff", param, ctx)
        return f"#{red:02x}{green:02x}{blue:02x}"


@click.command(
    "prepare",
    epilog="Example: genin data prepare emoji/ --file-column file --caption-column cldr --size 128 --out data/emoji",
)
@click.argument("sources", metavar="SRC...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write; it must not exist.")
@click.option("--size", type=Side(8, 4096), help="Side of the pictures written, in pixels.  [default: kept]")
@click.option("--buckets", is_flag=True, help="Five shapes of that size's area instead of squares: less is cropped.")
@click.option(
    "--pages",
    type=CommaNames(),
    metavar="GLOB[,…]",
    multiple=True,
    help="Files to treat as comic pages: cut into panels.",
)
@click.option(
    "--min-size",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help="Drop pictures with a side shorter than this.",
)
@click.option("--file-column", metavar="NAME", help="Metadata column with the file.  [default: file_name, file, …]")
@click.option(
    "--caption-column",
    type=CommaNames(),
    metavar="NAME[,…]",
    multiple=True,
    help="Metadata column with the caption; several are joined.  [default: text, caption or prompt]",
)
@click.option(
    "--captions",
    type=CommaChoice(CAPTION_SOURCES),
    multiple=True,
    help="Where captions come from, first to last.  [default: metadata,sidecar,name]",
)
@click.option(
    "--trigger", metavar="TEXT", default="", help="Words to put before every caption, such as the style's name."
)
@click.option("--columns", type=CommaNames(), metavar="NAME[,…]", multiple=True, help="Metadata columns to keep.")
@click.option("--exclude", type=CommaNames(), metavar="GLOB[,…]", multiple=True, help="Folders or files to leave out.")
@click.option(
    "--encoding",
    metavar="NAME",
    help="Encoding of captions and tables that are not Unicode, such as cp1252.  [default: told apart]",
)
@click.option(
    "--background",
    type=Colour(),
    metavar="COLOUR",
    default="white",
    show_default=True,
    help="Background behind transparent parts.",
)
@click.option(
    "--duplicates",
    type=click.Choice(("near", "exact", "keep")),
    default="near",
    show_default=True,
    help="Drop exact and near duplicates, only exact ones, or none.",
)
@click.option("--licence", metavar="TEXT", help="The pictures' licence, which the cards will state.")
@click.option("--source", metavar="TEXT", help="Where the pictures come from, for the cards.")
@click.option("--rights", metavar="TEXT", help="Who holds the rights, for the cards.")
@json_option
def prepare_command(sources: tuple[Path, ...], out: Path, as_json: bool, **options: Any) -> None:
    """Turn pictures, comics, videos and public sets into one clean, captioned dataset folder.

    SRC is a folder or a file, or the hub name of a public set (owner/name, owner/name@revision), whose licence and name are kept. A
    parquet file gives every row's picture, a video one frame of every shot, without bars and subtitles, and comic pages (--pages,
    and .cbz archives) their panels. Broken, blank, too small and duplicate pictures are dropped, each one listed with its reason.
    What is kept becomes upright sRGB PNG without transparency, with metadata.jsonl, a card and report.html beside it. Run the same
    command again to resume.
    """
    from genin.distill.data.prepare import prepare

    with _bar("Preparing") as bar:
        report = prepare(sources, out, _prepare_options(options), bar=bar)
    if as_json:
        click.echo(json.dumps(report.to_json(), ensure_ascii=False))
    else:
        _echo_report(report)


def _prepare_options(options: Mapping[str, Any]) -> PrepareOptions:
    """The command line's options, which are flat, as those of `prepare`."""
    from genin.distill.data.extract import FitOptions
    from genin.distill.data.find import SourceOptions
    from genin.distill.data.prepare import PrepareOptions

    return PrepareOptions(
        sources=SourceOptions(
            file_column=options["file_column"],
            caption_columns=flatten(options["caption_column"]),
            captions=flatten(options["captions"]) or CAPTION_SOURCES,
            exclude=flatten(options["exclude"]),
            pages=flatten(options["pages"]),
            encoding=options["encoding"],
        ),
        fit=FitOptions(**{name: options[name] for name in ("size", "buckets", "min_size", "background")}),
        columns=flatten(options["columns"]),
        **{name: options[name] for name in ("trigger", "duplicates", "licence", "source", "rights")},
    )


def _echo_report(report: Report) -> None:
    _echo_files("dropped", report.dropped)
    for note in report.notes:
        click.echo(f"note: {note}")
    click.echo(
        f"{counted(report.kept, 'picture')} in {report.out}, {len(report.dropped)} dropped, splits {_counts(report.splits)}"
    )
    click.echo(f"captions from {_counts(report.captions_from) or 'nowhere'}; {report.captions_missing} missing")
    if report.resumed:
        click.echo(f"{counted(report.resumed, 'file was', 'files were')} already read by an interrupted run")
    if (Path(report.out) / "report.html").is_file():
        click.echo(f"look at {Path(report.out) / 'report.html'}")
    if report.captions_missing:
        from genin.distill.data.dataset import write_captions

        click.echo(f"next: {write_captions(Path(report.out))}")


@click.command("inspect", epilog="Example: genin data inspect data/emoji --sheet emoji.png")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--sheet", type=click.Path(dir_okay=False, path_type=Path), help="Write a contact sheet of 100 pictures.")
@click.option("--tokenizer", metavar="MODEL", help="Count tokens with this model's tokenizer.  [default: an estimate]")
@click.option("--max-tokens", type=click.IntRange(3), help="Tokens a model reads.  [default: the tokenizer's, or 77]")
@json_option
def inspect_command(
    folder: Path, sheet: Path | None, tokenizer: str | None, max_tokens: int | None, as_json: bool
) -> None:
    """Count, check and show a dataset folder: every picture is opened, every caption measured."""
    from genin.dataset.sets import open_picture_set
    from genin.distill.data.inspection import contact_sheet, inspect_dataset, load_tokenizer

    if sheet:
        claim_output(sheet, ".png")
    loaded = load_tokenizer(installed_names().model(tokenizer)) if tokenizer else None
    with _bar("Inspecting") as bar:
        advance = bar(len(open_picture_set(folder).rows))
        facts = inspect_dataset(folder, tokenizer=loaded, limit=max_tokens, advance=advance)
    if sheet:
        with atomic_path(sheet) as partial:
            contact_sheet(folder).save(partial, "PNG")
        facts["sheet"] = str(sheet)
    if as_json:
        click.echo(json.dumps(facts, ensure_ascii=False))
    else:
        _echo_facts(facts)


@click.command("caption", epilog="Example: genin data caption data/mine --model ~/models/blip-image-captioning-base")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--model", metavar="MODEL", help="Folder or hub name of an image-to-text model.  [default: BLIP base]")
@click.option(
    "--template",
    metavar="TEXT",
    help="Ask one question at a time: '{character}, {action}, {environment}, {emotion}'.  [default: '{caption}']",
)
@click.option(
    "--ask", "asked", metavar="NAME=QUESTION", multiple=True, help="A question of your own for a name in --template."
)
@click.option("--max-tokens", type=click.IntRange(1, 200), default=40, show_default=True, help="Longest answer.")
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True, help="Pictures per batch.")
@threads_option
@json_option
def caption_command(folder: Path, as_json: bool, **options: Any) -> None:
    """Caption the pictures of a dataset folder that have no caption; existing captions are kept.

    With --template the model is asked one question for every name in it, and the answers are kept in columns of these names, which
    training and evaluation use as attributes.
    """
    from dataclasses import asdict

    from genin.distill.data.caption import DEFAULT_MODEL, CaptionOptions, caption

    options["model"] = options["model"] or DEFAULT_MODEL
    options["questions"] = _questions(options.pop("asked"))
    chosen = CaptionOptions(**options)
    with _bar("Captioning") as bar:
        report = caption(folder, chosen, bar=bar)
    if as_json:
        click.echo(json.dumps({**asdict(report), "model": chosen.model}, ensure_ascii=False))
        return
    _echo_files("no caption", report.failed)
    click.echo(
        f"{counted(report.captioned, 'picture')} captioned by {chosen.model}; {report.existing} had a caption and keep it"
    )


def _questions(pairs: Sequence[str]) -> dict[str, str]:
    """NAME=QUESTION => name: question."""
    questions = {}
    for pair in pairs:
        name, equals, words = pair.partition("=")
        if not equals or not name.strip() or not words.strip():
            raise click.BadParameter(f"'{pair}' is not NAME=QUESTION", param_hint="--ask")
        questions[name.strip()] = words.strip()
    return questions


@click.command(
    "edit",
    epilog="Example: genin data edit data/mine --to captions.html, then: genin data edit data/mine --from captions.jsonl",
)
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option(
    "--to", "target", type=click.Path(dir_okay=False, path_type=Path), help="Write .csv, .jsonl, or a page, .html."
)
@click.option("--from", "source", type=click.Path(path_type=Path), help="Read corrections from a .csv or .jsonl.")
@click.option(
    "--replace",
    nargs=2,
    multiple=True,
    metavar="WORDS OTHERS",
    help="In all captions, whole words in any case. Repeatable.",
)
@click.option("--regex", "patterns", nargs=2, multiple=True, metavar="PATTERN NEW", help="In all captions. Repeatable.")
@click.option("--remove-tag", "remove_tags", multiple=True, metavar="TAG", help="A part between commas. Repeatable.")
@click.option("--add-tag", "add_tags", multiple=True, metavar="TAG", help="To all captions that lack it. Repeatable.")
@click.option("--dry-run", is_flag=True, help="With these four: only show what would change.")
@json_option
def edit_command(
    folder: Path, target: Path | None, source: Path | None, dry_run: bool, as_json: bool, **bulk: Any
) -> None:
    """Correct captions: all at once, or by hand: write them out as a table or a page, and read them back.

    The page shows every picture above its caption and saves a .jsonl. Only the rows named in the file that is read back are
    changed.
    """
    from dataclasses import asdict

    from genin.distill.data.bulk import BulkEdit
    from genin.distill.data.edit import read_edited, write_for_editing

    in_bulk = any(bulk.values())
    if (target is not None) + (source is not None) + in_bulk != 1:
        raise click.UsageError(
            "give one of --to FILE, --from FILE, or changes to all captions (--replace, --regex, --…-tag)"
        )
    if dry_run and not in_bulk:
        raise click.UsageError("--dry-run is for --replace, --regex, --remove-tag and --add-tag")
    if in_bulk:
        _edit_all(folder, BulkEdit(**bulk), dry_run, as_json)
        return
    if target is not None:
        count = write_for_editing(folder, target)
        click.echo(
            json.dumps({"written": str(target), "rows": count})
            if as_json
            else f"{counted(count, 'caption')} in {target}"
        )
        return
    assert source is not None
    edited = read_edited(folder, source)
    facts = asdict(edited)
    for note in facts.pop("notes"):
        click.echo(f"note: {note}", err=True)
    if as_json:
        click.echo(json.dumps(facts))
    else:
        click.echo(
            f"{counted(edited.changed, 'row')} changed, {edited.unchanged} as before; "
            f"{counted(edited.missing, 'has', 'have')} no caption"
        )


def _edit_all(folder: Path, edit: BulkEdit, dry_run: bool, as_json: bool) -> None:
    from dataclasses import asdict

    from genin.distill.data.bulk import edit_captions

    done = edit_captions(folder, edit, dry_run=dry_run)
    if as_json:
        click.echo(json.dumps({**asdict(done), "dry_run": dry_run}, ensure_ascii=False))
        return
    for before, after in done.examples:
        click.echo(f"  {before}\n→ {after or '(no caption)'}")
    would = "would change" if dry_run else "changed"
    click.echo(
        f"{counted(done.changed, 'caption')} {would}, {done.unchanged} as before; {done.emptied} lost all their words"
    )


@click.command("shard", epilog="Example: genin data shard data/mine --out data/mine-shards --per-shard 2000")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write; it must not exist.")
@click.option("--per-shard", type=click.IntRange(1), default=1000, show_default=True, help="Pictures per archive.")
@json_option
def shard_command(folder: Path, out: Path, per_shard: int, as_json: bool) -> None:
    """Write a dataset folder as WebDataset shards, for sets too large to be a million files."""
    from genin.distill.data.shard import write_shards

    with _bar("Sharding") as bar:
        counts = write_shards(folder, out, per_shard, bar=bar)
    if as_json:
        click.echo(json.dumps({"out": str(out), "shards": counts}))
    else:
        click.echo(f"{counted(sum(counts.values()), 'shard')} in {out}: {_counts(counts)}")


# --- shared ----------------------------------------------------------------------------------------------------------


@contextmanager
def _bar(title: str) -> Iterator[Callable[[int], Callable[[int], None]]]:
    """A progress bar whose length is known only once the job has looked at its input."""
    from genin.runtimes.progress import progress

    with ExitStack() as stack:
        yield lambda total: stack.enter_context(progress(title, total, unit="pictures")).advance


def _counts(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _echo_files(what: str, files: Sequence[Dropped]) -> None:
    for entry in files:
        click.echo(f"{what}: {entry.path}: {entry.reason}")


def _echo_facts(facts: Mapping[str, Any]) -> None:
    for entry in facts["broken"]:
        click.echo(f"broken: {entry['path']}: {entry['reason']}")
    for note in facts["notes"]:
        click.echo(f"note: {note}")
    sizes = dict(list(facts["sizes"].items())[:8])
    click.echo(f"pictures  {facts['pictures']}, broken {len(facts['broken'])}; splits {_counts(facts['splits'])}")
    click.echo(f"sizes     {_counts(sizes)}{', …' if len(sizes) < len(facts['sizes']) else ''}")
    click.echo(f"captions  {_counts(facts['captions'])}")
    if tokens := facts["tokens"]:
        kind = "" if tokens["exact"] else " at least (give --tokenizer for exact counts)"
        click.echo(
            f"tokens    mean {tokens['mean']}, p99 {tokens['p99']}, max {tokens['max']}{kind}; "
            f"{counted(tokens['over_limit'], 'caption')} over the limit of {tokens['limit']}"
        )
        click.echo(f"longest   {tokens['longest']}")
    click.echo(f"words     {', '.join(f'{word} {count}' for word, count in facts['words'])}")
    for name, values in facts["columns"].items():
        click.echo(f"column    {name}: {_counts(values)}")
    click.echo(f"licence   {facts['licence']}")
    if sheet := facts.get("sheet"):
        click.echo(f"sheet     {sheet}")

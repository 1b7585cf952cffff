"""Other people's pictures, comics and videos in, one clean dataset folder out.

    sources ─ find ─▶ files ─ pieces_of (threads) ─▶ .OUT.partial/ (PNG files, journal) ─ duplicates, splits ─▶ OUT/

Pictures are numbered PNG files, so that their names are harmless, and the `source_file` column leads back to the original.
`dataset.json` keeps the options and the whole report. The folder appears by rename, whole or not at all; what an interrupted run
had read is in the journal, and the same command continues from there.

Not here: captions by a model (`caption`), the report's page (`report`), the dataset's card (`card`).
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from genin.dataset.rows import PictureRow
from genin.dataset.sets import write_metadata
from genin.dataset.splits import ALIASES, SPLITS, Split, splits_by_chance
from genin.dataset.tables import FILE_COLUMNS
from genin.dataset.text import clean, listed
from genin.distill.data.card import dataset_card
from genin.distill.data.dataset import DATASET_FILE, KNOWN_COLUMNS, attribute_columns, licence_of, origins_of
from genin.distill.data.duplicates import SeenPictures
from genin.distill.data.extract import FitOptions, Piece, pieces_of
from genin.distill.data.find import Candidate, Dropped, Found, SourceOptions, find_pictures, of_row
from genin.distill.data.hub import card_licence, fetch
from genin.distill.data.journal import Journal
from genin.distill.data.report import PAGE, Entry, write_page
from genin.files import move_into_place, refuse_existing, writing
from genin.hub.repository import may_be_on_the_hub
from genin.runtimes.errors import InputError, on_interrupt
from genin.runtimes.wording import counted

Duplicates = Literal["near", "exact", "keep"]
GENIN_DATASET = 1
AHEAD = 64  # files that are read before the first of them is needed
# Columns that are always kept; others are named with --columns.
LICENCE_COLUMNS = ("licence", "license", "source", "rights")
OWN_COLUMNS = ("file_name", "text", "seed", "split", "source_file")


@dataclass(frozen=True)
class PrepareOptions:
    """What `prepare` makes of its sources; the defaults are those of `genin data prepare`.

    Attributes:
        sources: which files and captions are taken (`SourceOptions`).
        fit: size and shape of the pictures written (`FitOptions`).
        trigger: words to put before every caption, such as the style's name.
        columns: metadata columns to keep.
        duplicates: `near` drops exact and near duplicates, `exact` only exact ones, `keep` none.
        licence, source, rights: of pictures whose row does not say.
    """

    sources: SourceOptions = field(default_factory=SourceOptions)
    fit: FitOptions = field(default_factory=FitOptions)
    trigger: str = ""
    columns: tuple[str, ...] = ()
    duplicates: Duplicates = "near"
    licence: str | None = None
    source: str | None = None
    rights: str | None = None

    def __post_init__(self) -> None:
        if self.fit.buckets and self.fit.size is None:
            raise InputError("--buckets needs --size: the side of the square whose area they have")


@dataclass(frozen=True)
class Report:
    """What happened to every file. `captions_from` counts captions by origin; `columns` lists attributes and values; `taken_from`
    counts kept pictures by the kind of file, `resumed` the files that an earlier, stopped run had read."""

    out: str
    kept: int
    dropped: tuple[Dropped, ...]
    captions_missing: int
    captions_from: Mapping[str, int]
    taken_from: Mapping[str, int]
    splits: Mapping[str, int]
    sizes: Mapping[str, int]
    columns: Mapping[str, tuple[str, ...]]
    licence: str
    notes: tuple[str, ...]
    resumed: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Kept:
    """A picture of the dataset: its file there, the file it comes from, and what it is."""

    name: str
    candidate: Candidate
    piece: Piece

    @property
    def source_file(self) -> str:
        return f"{self.candidate.name}, {self.piece.where}" if self.piece.where else self.candidate.name


def prepare(
    sources: Sequence[Path],
    out: Path,
    options: PrepareOptions | None = None,
    *,
    bar: Callable[[int], Callable[[int], None]] = lambda total: lambda count: None,
) -> Report:
    """Turn pictures, comics, videos and tables into one clean, captioned dataset folder.

        report = prepare([Path("emoji")], Path("data/emoji"), PrepareOptions(fit=FitOptions(size=128)))
        print(report.kept, report.dropped)

    Args:
        sources: folders, files, or hub names of datasets.
        out: the folder to write; it must not exist. An interrupted run is continued.
        options: which pictures are used, and how they are fitted.
        bar: `bar(total)` gives a function that counts files done.

    Returns: what happened to every file.
    Errors: InputError if nothing usable is there, MissingExtraError for videos and pages without their packages; a broken
        file is not an error but listed in the report's `dropped`.
    """
    options = options or PrepareOptions()
    folders = [_local(source, options.sources.exclude) for source in sources]
    names = {path: str(source) for path, source in zip(folders, sources, strict=True) if path != source}
    refuse_existing(out)
    sources = folders
    found = find_pictures(sources, options.sources, {source: _said_of(source, names.get(source)) for source in sources})
    if missing := [name for name in options.columns if name not in found.columns]:
        known = ", ".join(sorted(found.columns)) or "none"
        raise InputError(f"no metadata has a column '{missing[0]}'", remedy=f"columns found: {known}")
    out.parent.mkdir(parents=True, exist_ok=True)
    work = out.parent / f".{out.name}.partial"
    read = {"fit": asdict(options.fit), "pages": options.sources.pages}
    kept_so_far = f"what has been read is kept in {work}; the same command goes on from there"
    with on_interrupt(kept_so_far), writing(out, work), Journal.open(work, read) as journal:
        read_files = _read(found.candidates, journal, options.fit, bar(len(found.candidates)))
        kept, entries = _choose(read_files, options, journal.pieces)
        if kept:
            rows = _rows_of(kept, options)
            report = replace(_report(out, kept, rows, found, entries, options), resumed=journal.resumed)
            folder = work / "dataset"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for picture in kept:
                assert picture.piece.png is not None
                _link(journal.pieces / picture.piece.png, folder / picture.name)
            write_metadata(folder, rows)
            _write_facts(folder, report, rows, [clean(names.get(source, source)) for source in sources], options)
            page = write_page(folder / PAGE, report.to_json(), rows, entries, found.dropped, journal.pieces)
            text = dataset_card(report.to_json(), origins_of(rows, {}), page=page)
            (folder / "README.md").write_text(text, encoding="utf-8")
            move_into_place(folder, out)
    shutil.rmtree(work)  # once the journal is closed: Windows removes no open files
    if not kept:
        reasons = _reasons([*found.dropped, *(Dropped(entry.path, entry.reason) for entry in entries)], found.ignored)
        raise InputError("none of the files can be used", where=sources[0], remedy=reasons)
    return report


def _local(source: Path, exclude: Sequence[str]) -> Path:
    """A path as it is; what may be a set's name on the hub => its snapshot."""
    name = source.as_posix()
    return source if source.exists() or not may_be_on_the_hub(name) else fetch(name, exclude)


def _said_of(source: Path, hub_name: str | None) -> dict[str, str]:
    """Columns for all pictures of a source whose rows lack them: its card's licence, and where on the hub it comes from."""
    said = {"source": hub_name, "licence": card_licence(source) if source.is_dir() else None}
    return {key: value for key, value in said.items() if value}


def _write_facts(
    folder: Path, report: Report, rows: Sequence[PictureRow], sources: Sequence[str], options: PrepareOptions
) -> None:
    said = asdict(options)
    said |= said.pop("fit") | said.pop("sources")
    facts = {
        "genin_dataset": GENIN_DATASET,
        "columns": list(report.columns),
        "licence": report.licence,
        "origins": origins_of(rows, {}),
        "options": said | {"sources": list(sources)},
        "report": report.to_json(),
    }
    (folder / DATASET_FILE).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


# --- pictures --------------------------------------------------------------------------------------------------------


def _read(
    candidates: Sequence[Candidate], journal: Journal, options: FitOptions, advance: Callable[[int], None]
) -> Iterator[tuple[Candidate, list[Piece]]]:
    """Every file's pieces, in order, read on all cores (decoders release Python's lock); files of which the journal has pictures
    are not read again."""

    def read(candidate: Candidate) -> tuple[list[Piece], bool]:
        known = journal.known(candidate)
        if known is not None:
            return known, True
        stat = journal.stat(candidate.path)
        pieces = pieces_of(candidate, options, journal.pieces, journal.stem(candidate), ended.is_set)
        if any(piece.png for piece in pieces):  # else whatever was wrong may be mended when the run goes on
            journal.write(candidate, pieces, stat)
        return pieces, False

    def finished(candidate: Candidate, future: Future[tuple[list[Piece], bool]]) -> tuple[Candidate, list[Piece]]:
        pieces, known = future.result()
        journal.resumed += known
        advance(1)
        return candidate, pieces

    pending: deque[tuple[Candidate, Future[tuple[list[Piece], bool]]]] = deque()
    pool, ended = ThreadPoolExecutor(), threading.Event()
    try:
        for candidate in candidates:
            pending.append((candidate, pool.submit(read, candidate)))
            if len(pending) >= AHEAD:
                yield finished(*pending.popleft())
        while pending:
            yield finished(*pending.popleft())
    finally:
        ended.set()
        pool.shutdown(cancel_futures=True)  # Ctrl-C waits neither for what has not begun nor for whole films


def _choose(
    files: Iterator[tuple[Candidate, list[Piece]]], options: PrepareOptions, pieces_folder: Path
) -> tuple[list[Kept], list[Entry]]:
    """The usable and new pictures, numbered, and those dropped; of near duplicates the one with most pixels is kept."""
    kept: list[Kept] = []
    dropped: list[Entry] = []
    # By the name of the PNG file: two paths may read alike, where they are no Unicode or in an archive.
    path_of: dict[str, str] = {}
    place_of: dict[str, int] = {}  # of those kept

    def look(png: str) -> Image.Image:
        with Image.open(pieces_folder / png) as picture:
            return picture.convert("RGB")

    seen = SeenPictures(near=options.duplicates == "near", look=look)
    for candidate, pieces in files:
        for piece in pieces:
            path = clean(candidate.path) + (f", {piece.where}" if piece.where else "")
            reason, like, png = piece.reason, None, piece.png or ""
            of = of_row(candidate, piece.row, piece.name, options.sources) if candidate.kind == "table" else candidate
            if reason is None and options.duplicates != "keep":
                duplicate = seen.add(png, bytes.fromhex(piece.digest), piece.thumbnail())
                if duplicate is not None:
                    kind, first = duplicate
                    place = place_of[first]
                    # A preview that was found before its picture makes room for it.
                    if kind == "near" and piece.pixels > kept[place].piece.pixels:
                        earlier, kept[place] = kept[place], Kept(kept[place].name, of, _slim(piece))
                        of, piece, path, path_of[first] = earlier.candidate, earlier.piece, path_of[first], path
                    like = kept[place].piece.png
                    reason = f"{kind if like == first else 'near'} duplicate of {path_of[first]}"
                    reason += ", which takes its caption" if _inherits(kept, place, of) else ""
            if reason is not None:
                dropped.append(Entry(path, reason, piece.png, like))
                continue
            path_of[png], place_of[png] = path, len(kept)
            kept.append(Kept(f"{len(kept):06d}.png", of, _slim(piece)))
    return kept, dropped


def _slim(piece: Piece) -> Piece:
    """Without what only choosing needs: there may be millions."""
    return replace(piece, fingerprint="", row={})


def _inherits(kept: list[Kept], place: int, duplicate: Candidate) -> bool:
    """Give a picture the caption of its duplicate, if that is written somewhere and its own is none or its file's name: which of
    them was found first says nothing."""
    own = kept[place].candidate
    if not duplicate.caption or duplicate.caption_from == "name" or own.caption_from not in (None, "name"):
        return False
    said = replace(own, caption=duplicate.caption, caption_from=duplicate.caption_from)
    kept[place] = replace(kept[place], candidate=said)
    return True


# --- rows and report -------------------------------------------------------------------------------------------------


def _rows_of(kept: Sequence[Kept], options: PrepareOptions) -> list[PictureRow]:
    wanted = {*KNOWN_COLUMNS, *LICENCE_COLUMNS, *options.columns} - {*OWN_COLUMNS}
    captions = [picture.candidate.caption for picture in kept]
    chance: list[Split] = splits_by_chance(
        captions, [picture.source_file for picture in kept], [picture.piece.group for picture in kept]
    )
    declared = any(picture.candidate.split for picture in kept)
    said = {"licence": options.licence, "source": options.source, "rights": options.rights}
    rows = []
    for picture, by_chance in zip(kept, chance, strict=True):
        candidate = picture.candidate
        columns = {key: value for key, value in candidate.columns.items() if key in wanted}
        for key, value in said.items():
            if value:
                columns.setdefault(key, clean(value))
        columns |= picture.piece.columns
        columns |= {
            "split": (candidate.split or "train") if declared else by_chance,
            "source_file": picture.source_file,
        }
        rows.append(PictureRow(picture.name, with_trigger(options.trigger, candidate.caption) or None, columns=columns))
    return rows


def with_trigger(trigger: str, caption: str) -> str:
    """The caption with the trigger before it, unless it begins with it; an absent caption stays absent. Only a space is between
    them: `a photo of` and `moss style,` are both triggers."""
    trigger = clean(trigger)
    if not caption or not trigger:
        return caption
    after = caption.removeprefix(trigger)
    begins = after != caption and not (trigger[-1].isalnum() and after[:1].isalnum())  # "ink" does not begin "inkwell"
    return caption if begins else f"{trigger} {caption}"


def _report(
    out: Path,
    kept: Sequence[Kept],
    rows: Sequence[PictureRow],
    found: Found,
    entries: Sequence[Entry],
    options: PrepareOptions,
) -> Report:
    candidates = [picture.candidate for picture in kept]
    named = list(dict.fromkeys((*(name for name in KNOWN_COLUMNS if name in found.columns), *options.columns)))
    return Report(
        out=clean(out),
        kept=len(kept),
        dropped=(*found.dropped, *(Dropped(entry.path, entry.reason) for entry in entries)),
        captions_missing=sum(not candidate.caption for candidate in candidates),
        captions_from=dict(Counter(c.caption_from for c in candidates if c.caption_from)),
        taken_from=dict(Counter(candidate.kind for candidate in candidates)),
        splits=dict(Counter(row.columns["split"] for row in rows)),
        sizes=_sizes(kept, options.fit),
        columns=attribute_columns(rows, named),
        licence=licence_of(rows, {}),
        notes=tuple(map(clean, _notes(kept, found, options))),
    )


def _sizes(kept: Sequence[Kept], options: FitOptions) -> dict[str, int]:
    """Sizes of the pictures written, most frequent first."""
    counts = Counter(picture.piece.fitted(options) for picture in kept)
    return {f"{width}x{height}": count for (width, height), count in counts.most_common()}


def _notes(kept: Sequence[Kept], found: Found, options: PrepareOptions) -> Iterator[str]:
    size, sides = options.fit.size, [(picture.piece.width, picture.piece.height) for picture in kept]
    named = sum(picture.candidate.caption_from == "name" for picture in kept)
    if named:
        yield f"{counted(named, 'caption was', 'captions were')} made from folder and file names: check them"
    trigger = clean(options.trigger)
    if trigger[-1:].isalnum() and (example := next((p.candidate.caption for p in kept if p.candidate.caption), None)):
        yield f"the trigger is joined by a space, as in '{with_trigger(trigger, example)}'; end it with a comma to set it apart"
    if size and (small := sum(min(pair) < size for pair in sides)):
        yield f"{counted(small, 'picture was', 'pictures were')} smaller than {size} px and enlarged (--min-size {size} drops such)"
    if size and options.fit.buckets and (cut := sum(_lost(picture.piece, options.fit) > 0.5 for picture in kept)):
        yield (
            f"{counted(cut, 'picture is so long that it', 'pictures are so long that they')} lost more than half of "
            "the longer side even to the nearest of the shapes"
        )
    if size and not options.fit.buckets and (cut := sum(max(pair) > 2 * min(pair) for pair in sides)):
        yield f"{counted(cut, 'picture')} lost more than half of the longer side to the centre cut (--buckets keeps most of it)"
    yield from found.notes
    several = [picture.source_file for picture in kept if picture.piece.frames > 1]
    if several:
        yield (
            f"{counted(len(several), 'file holds', 'files hold')} several pictures, of which the first is kept "
            f"(animations, pages): {listed(several)}"
        )
    if damaged := [picture.source_file for picture in kept if "\ufffd" in picture.candidate.caption]:
        yield (
            f"{counted(len(damaged), 'caption holds', 'captions hold')} replacement characters (an earlier program "
            f"could not read them): {listed(damaged)}"
        )
    odd = Counter(picture.candidate.columns.get("split", "") for picture in kept)
    if others := [f"'{name}' ×{count}" for name, count in odd.most_common() if name and name.lower() not in ALIASES]:
        instead = "counted as train" if any(picture.candidate.split for picture in kept) else "split by chance"
        yield f"pictures of unknown splits are {instead} (known are {', '.join(SPLITS)}): {listed(others)}"
    if found.hidden:
        yield f"{counted(found.hidden, 'hidden picture')} left out (names that begin with a dot)"
    if found.excluded:
        yield f"{counted(found.excluded, 'picture')} left out by --exclude"
    if found.ignored:
        counts = ", ".join(f"{suffix} ×{count}" for suffix, count in found.ignored.most_common())
        yield f"files that are not pictures were ignored: {counts}"
    known = {*KNOWN_COLUMNS, *LICENCE_COLUMNS, *FILE_COLUMNS, *options.columns, *options.sources.caption_columns}
    if left := sorted(found.columns - known - {*OWN_COLUMNS, options.sources.file_column}):
        yield f"metadata columns not kept (--columns keeps them): {', '.join(left)}"


def _lost(piece: Piece, options: FitOptions) -> float:
    """The share of a picture that the centre cut takes away."""
    width, height = piece.fitted(options)
    ratio = (piece.width * height) / (piece.height * width)
    return 1 - min(ratio, 1 / ratio)


def _reasons(dropped: Sequence[Dropped], ignored: Counter[str]) -> str:
    counts = Counter(entry.reason for entry in dropped).most_common(3)
    listed = "; ".join(f"{reason} ×{count}" for reason, count in counts)
    others = ", ".join(f"{suffix} ×{count}" for suffix, count in ignored.most_common(3))
    return listed or "give a folder that holds pictures" + (f" (here are {others})" if others else "")

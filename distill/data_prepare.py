"""Other people's pictures in, one clean dataset folder out.

    sources ─ find ─▶ candidates ─ read, check, fit (threads) ─▶ pictures ─ duplicates ─▶ OUT/*.png + metadata.jsonl

Pictures are numbered PNG files: names on disk then hold no surprises, and the `source_file` column leads back to the
original. `dataset.json` keeps the options and the whole report. The folder appears by rename, whole or not at all.

Not here: captions by a model (`data_caption`); crops by content.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from genin.benchmarks.picture_files import PictureError, fit_square, read_picture
from genin.benchmarks.picture_sets import PictureRow, write_metadata
from genin.benchmarks.splits import Split, splits_by_chance
from genin.distill.data_pictures import SeenPictures, pixel_digest, thumbnail
from genin.distill.data_sources import FILE_COLUMNS, Candidate, Dropped, Found, SourceOptions, clean, find_pictures
from genin.distill.datasets import DATASET_FILE, KNOWN_COLUMNS, attribute_columns, licence_of
from genin.runtimes.errors import InputError

Duplicates = Literal["near", "exact", "keep"]
GENIN_DATASET = 1
BATCH = 64
# Columns that come along unasked; any other is named with --columns.
LICENCE_COLUMNS = ("licence", "license", "source")
OWN_COLUMNS = ("file_name", "text", "seed", "split", "source_file")


@dataclass(frozen=True)
class PrepareOptions:
    """`size`: side of the square pictures written, None keeps sizes. `duplicates`: "near" drops exact ones as well."""

    sources: SourceOptions = field(default_factory=SourceOptions)
    size: int | None = None
    min_size: int = 16
    background: str = "white"
    trigger: str = ""
    columns: tuple[str, ...] = ()
    duplicates: Duplicates = "near"
    licence: str | None = None


@dataclass(frozen=True)
class Report:
    """What became of everything. `captions_from` counts captions by origin; `columns` lists attributes and values."""

    out: str
    kept: int
    dropped: tuple[Dropped, ...]
    captions_missing: int
    captions_from: Mapping[str, int]
    splits: Mapping[str, int]
    columns: Mapping[str, tuple[str, ...]]
    licence: str
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Picture:
    """One usable picture: its PNG file's bytes and how to recognise it."""

    candidate: Candidate
    png: bytes
    original_size: tuple[int, int]
    digest: bytes
    fingerprint: NDArray[np.uint8]


def prepare(
    sources: Sequence[Path],
    out: Path,
    options: PrepareOptions,
    *,
    bar: Callable[[int], Callable[[int], None]] = lambda total: lambda count: None,
) -> Report:
    """Write the dataset folder `out`, which must not exist; `bar(total)` gives a function that counts pictures done.

    Errors: InputError if nothing usable is there; a broken picture is no error, it is in the report's `dropped`.
    """
    if out.exists():
        raise InputError("the output already exists", where=out, remedy="choose another --out or remove it")
    found = find_pictures(sources, options.sources)
    if missing := [name for name in options.columns if name not in found.columns]:
        known = ", ".join(sorted(found.columns)) or "none"
        raise InputError(f"no metadata has a column '{missing[0]}'", remedy=f"columns found: {known}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as partial:
        folder = Path(partial) / "dataset"
        folder.mkdir()
        kept = _write_pictures(found, folder, options, bar(len(found.candidates)))
        if not kept:
            raise InputError("none of the files can be used", where=sources[0], remedy=_reasons(found.dropped))
        rows = _rows_of(kept, options)
        write_metadata(folder, rows)
        report = _report(out, kept, rows, found, options)
        facts = {
            "genin_dataset": GENIN_DATASET,
            "columns": list(report.columns),
            "licence": report.licence,
            "options": asdict(options) | {"sources": [clean(source) for source in sources], **asdict(options.sources)},
            "report": report.to_json(),
        }
        (folder / DATASET_FILE).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        folder.replace(out)
    return report


# --- pictures --------------------------------------------------------------------------------------------------------


def read_candidate(candidate: Candidate, options: PrepareOptions) -> Picture | Dropped:
    """Decode, check and fit one picture."""
    try:
        picture = read_picture(candidate.path, options.background)
    except PictureError as error:
        return Dropped(clean(candidate.path), error.what)
    if min(picture.size) < options.min_size:
        width, height = picture.size
        return Dropped(clean(candidate.path), f"too small ({width}×{height}, --min-size {options.min_size})")
    fitted = fit_square(picture, options.size) if options.size else picture
    file = io.BytesIO()
    fitted.save(file, "PNG")
    return Picture(candidate, file.getvalue(), picture.size, pixel_digest(picture), thumbnail(picture))


def _write_pictures(
    found: Found, folder: Path, options: PrepareOptions, advance: Callable[[int], None]
) -> list[tuple[str, Picture]]:
    """Write what is usable and new as (file name, picture without its bytes); the rest goes to `found.dropped`."""
    seen = SeenPictures(near=options.duplicates == "near")
    kept: list[tuple[str, Picture]] = []
    for result in _in_threads(found.candidates, options):
        advance(1)
        if isinstance(result, Dropped):
            found.dropped.append(result)
            continue
        path = clean(result.candidate.path)
        duplicate = seen.add(path, result.digest, result.fingerprint) if options.duplicates != "keep" else None
        if duplicate:
            found.dropped.append(Dropped(path, duplicate))
            continue
        name = f"{len(kept):06d}.png"
        (folder / name).write_bytes(result.png)
        kept.append((name, Picture(result.candidate, b"", result.original_size, b"", result.fingerprint)))
    return kept


def _in_threads(candidates: Sequence[Candidate], options: PrepareOptions) -> Iterator[Picture | Dropped]:
    """In order, a batch at a time, so that a large folder never stands in memory; Pillow releases Python's lock."""
    rest = iter(candidates)
    with ThreadPoolExecutor() as pool:
        while batch := list(islice(rest, BATCH)):
            yield from pool.map(read_candidate, batch, [options] * len(batch))


# --- rows and report -------------------------------------------------------------------------------------------------


def _rows_of(kept: Sequence[tuple[str, Picture]], options: PrepareOptions) -> list[PictureRow]:
    wanted = {*KNOWN_COLUMNS, *LICENCE_COLUMNS, *options.columns} - {*OWN_COLUMNS}
    candidates = [picture.candidate for _, picture in kept]
    chance: list[Split] = splits_by_chance([c.caption for c in candidates], [c.name for c in candidates])
    declared = any(candidate.split for candidate in candidates)
    rows = []
    for (name, _), candidate, by_chance in zip(kept, candidates, chance, strict=True):
        columns = {key: value for key, value in candidate.columns.items() if key in wanted}
        if "license" in columns:
            columns.setdefault("licence", columns.pop("license"))
        columns |= {"split": (candidate.split or "train") if declared else by_chance, "source_file": candidate.name}
        rows.append(PictureRow(name, with_trigger(options.trigger, candidate.caption) or None, columns=columns))
    return rows


def with_trigger(trigger: str, caption: str) -> str:
    """The trigger before a caption that does not begin with it; no caption stays none."""
    trigger = clean(trigger)
    return caption if not caption or not trigger or caption.startswith(trigger) else f"{trigger} {caption}"


def _report(
    out: Path, kept: Sequence[tuple[str, Picture]], rows: Sequence[PictureRow], found: Found, options: PrepareOptions
) -> Report:
    candidates = [picture.candidate for _, picture in kept]
    named = list(dict.fromkeys((*(name for name in KNOWN_COLUMNS if name in found.columns), *options.columns)))
    return Report(
        out=clean(out),
        kept=len(kept),
        dropped=tuple(found.dropped),
        captions_missing=sum(not candidate.caption for candidate in candidates),
        captions_from=dict(Counter(c.caption_from for c in candidates if c.caption_from)),
        splits=dict(Counter(row.columns["split"] for row in rows)),
        columns=attribute_columns(rows, named),
        licence=options.licence or licence_of(rows, {}),
        notes=tuple(_notes(kept, found, options)),
    )


def _notes(kept: Sequence[tuple[str, Picture]], found: Found, options: PrepareOptions) -> Iterator[str]:
    size = options.size
    named = sum(picture.candidate.caption_from == "name" for _, picture in kept)
    if named:
        yield f"{named} captions were made from folder and file names: check them"
    if size and (small := sum(min(picture.original_size) < size for _, picture in kept)):
        yield f"{small} pictures were smaller than {size} px and enlarged (--min-size {size} drops them)"
    if size and (cut := sum(max(p.original_size) > 2 * min(p.original_size) for _, p in kept)):
        yield f"{cut} pictures lost more than half of their longer side to the centre cut"
    if found.excluded:
        yield f"{found.excluded} pictures were left out by --exclude"
    if found.ignored:
        counts = ", ".join(f"{suffix} ×{count}" for suffix, count in found.ignored.most_common())
        yield f"files that are no pictures were left alone: {counts}"
    known = {*KNOWN_COLUMNS, *LICENCE_COLUMNS, *FILE_COLUMNS, *options.columns, *options.sources.caption_columns}
    if left := sorted(found.columns - known - {*OWN_COLUMNS, options.sources.file_column}):
        yield f"metadata columns not taken along (--columns takes them): {', '.join(left)}"


def _reasons(dropped: Sequence[Dropped]) -> str:
    counts = Counter(entry.reason for entry in dropped).most_common(3)
    listed = "; ".join(f"{reason} ×{count}" for reason, count in counts)
    return listed or "give a folder that holds pictures"

"""Draw many pictures from one model, in batches, with progress, resumable after any interruption.

Picture i is drawn from caption i (cycled) and the seed `seed · 1,000,000 + i`, so pictures of different models with the
same settings are pairs; another batch size, or an interruption within a batch, changes them only by rounding.
With a folder, every finished
picture is a PNG there (written by rename) that carries its caption and seed; `samples.json` holds the settings they depend
on. A later run with the same settings, captions and seeds reuses them, also with more samples; others it refuses.

Processes that share the work draw every n-th batch into one folder (`draw_share`); a run in one process then finds them there.

Not here: who the processes are (`processes`, `shares`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genin.dataset.files import is_intact, read_picture
from genin.dataset.rows import PictureRow
from genin.dataset.sets import METADATA, open_picture_set, write_metadata
from genin.files import atomic_path, write_text
from genin.runtimes.errors import InputError
from genin.runtimes.progress import progress

if TYPE_CHECKING:
    from genin.runtimes.pipeline import Pipeline

Pictures = NDArray[np.uint8]
SETTINGS_FILE = "samples.json"
NOTE = "genin"  # the text chunk's keyword
SEED_STRIDE = 1_000_000
MAX_SEED = 2**43  # of an evaluation; its pictures' seeds are below 2⁶⁴
DEFAULT_BATCH_SIZE = 16


@dataclass(frozen=True)
class SamplingSettings:
    """Everything that the pictures of one model depend on; `model` is the fingerprint of its weights."""

    model: str
    steps: int
    guidance_scale: float
    runtime: str
    precision: str
    noise: str = "philox"
    device: str = "cpu"

    def as_json(self) -> dict[str, Any]:
        """The settings as the folder of pictures keeps them; the device only if it is not cpu."""
        facts = asdict(self)
        return facts if self.device != "cpu" else {key: value for key, value in facts.items() if key != "device"}


def plan(captions: Sequence[str], count: int, seed: int, columns: Sequence[Mapping[str, str]]) -> list[PictureRow]:
    """The rows to draw: caption and attribute columns of i mod captions, and picture i's own seed."""
    of = [index % len(captions) for index in range(count)]
    return [
        PictureRow(f"{index:06d}.png", captions[source], seed * SEED_STRIDE + index, columns[source])
        for index, source in enumerate(of)
    ]


def with_other_seeds(rows: Sequence[PictureRow], offset: int) -> list[PictureRow]:
    """The same captions with other noise, for diversity."""
    return [replace(row, seed=(row.seed or 0) + offset) for row in rows]


def sample(
    pipeline: Pipeline,
    rows: Sequence[PictureRow],
    settings: SamplingSettings,
    *,
    folder: Path | None = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    title: str = "sampling",
) -> Iterator[Pictures]:
    """Yield the rows' pictures in order, in batches N×H×W×3; those already in `folder` are read instead of drawn."""
    if folder is not None:
        claim_folder(folder, settings)
    present = 0 if folder is None else sum(_is_present(folder, row) for row in rows)
    try:
        with progress(title, len(rows), unit="pictures", done=present) as shown:
            for start in range(0, len(rows), batch_size):
                batch = rows[start : start + batch_size]
                drawn = _read_present(folder, batch)
                missing = [row for row in batch if row.file_name not in drawn]
                drawn |= _draw(pipeline, missing, settings, folder)
                yield np.stack([drawn[row.file_name] for row in batch])
                shown.advance(len(missing))
    finally:
        if folder is not None:
            named = {row.file_name for row in rows}
            earlier = [row for row in _listed(folder) if row.file_name not in named]
            write_metadata(folder, [row for row in (*rows, *earlier) if (folder / row.file_name).is_file()])


@dataclass(frozen=True)
class Share:
    """The batches whose number is `number` modulo `of`. Batches are never divided, so each is drawn as one process would draw
    it."""

    number: int
    of: int
    batch_size: int = DEFAULT_BATCH_SIZE


def draw_share(
    pipeline: Pipeline,
    rows: Sequence[PictureRow],
    settings: SamplingSettings,
    folder: Path,
    share: Share,
    *,
    title: str = "sampling",
) -> None:
    """Draw a share of the rows into `folder`, which has been claimed; existing pictures are kept. `sample` over all rows then
    writes the metadata."""
    starts = range(0, len(rows), share.batch_size)[share.number :: share.of]
    with progress(title, len(starts), unit=f"batches of 1/{share.of}", silent=share.number > 0) as shown:
        for start in starts:
            batch = rows[start : start + share.batch_size]
            _draw(pipeline, [row for row in batch if not _is_present(folder, row)], settings, folder)
            shown.advance()


def _listed(folder: Path) -> Sequence[PictureRow]:
    """The pictures that an earlier, perhaps longer, run left in the folder."""
    return open_picture_set(folder).rows if (folder / METADATA).is_file() else ()


def claim_folder(folder: Path, settings: SamplingSettings) -> None:
    """Make `folder` hold pictures of these settings. InputError if it holds others, or files that are not genin's."""
    record = folder / SETTINGS_FILE
    wanted: dict[str, Any] = {"genin_samples": 1, **settings.as_json()}
    if record.is_file():
        try:
            found = json.loads(record.read_text(encoding="utf-8"))
        except ValueError:
            found = {}
        if found != wanted:
            other = [key for key in wanted if not isinstance(found, dict) or found.get(key) != wanted[key]]
            what = f"the folder holds pictures of other settings ({', '.join(other)})"
            raise InputError(what, where=folder, remedy="name another folder, or remove this one")
        return
    if folder.exists() and any(folder.iterdir()):
        raise InputError("the folder is not empty", where=folder, remedy="name a new folder")
    write_text(record, json.dumps(wanted, indent=2) + "\n")


def _draw(
    pipeline: Pipeline, rows: Sequence[PictureRow], settings: SamplingSettings, folder: Path | None
) -> dict[str, Pictures]:
    if not rows:
        return {}
    generation = pipeline.generate(
        [row.text or "" for row in rows],
        seed=[row.seed or 0 for row in rows],
        steps=settings.steps,
        guidance_scale=settings.guidance_scale,
        noise=settings.noise,
    )
    if folder is not None:
        for row, picture in zip(rows, generation.images, strict=True):
            save_picture(folder / row.file_name, picture, row)
    return {row.file_name: picture for row, picture in zip(rows, generation.images, strict=True)}


def save_picture(path: Path, picture: Pictures, row: PictureRow) -> None:
    """Write one PNG by rename, with its caption and seed as a text chunk."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    note = PngInfo()
    note.add_text(NOTE, _drawn_from(row))
    with atomic_path(path, sync=False) as partial:  # `is_intact` detects files that a power cut truncated
        Image.fromarray(picture).save(partial, format="PNG", optimize=False, pnginfo=note)


def _drawn_from(row: PictureRow) -> str:
    return json.dumps({"seed": row.seed or 0, "text": row.text or ""})


def _read_own(path: Path, row: PictureRow) -> Pictures:
    """A saved picture. Errors: InputError if it was not drawn from `row`."""
    from PIL import Image

    with Image.open(path) as image:
        found = image.info.get(NOTE)
    if found != _drawn_from(row):
        what = "the folder holds pictures of other captions or seeds"
        raise InputError(what, where=path, remedy="name another folder, or remove this one")
    return np.asarray(read_picture(path))


def _read_present(folder: Path | None, rows: Sequence[PictureRow]) -> dict[str, Pictures]:
    if folder is None:
        return {}
    return {row.file_name: _read_own(folder / row.file_name, row) for row in rows if _is_present(folder, row)}


def _is_present(folder: Path, row: PictureRow) -> bool:
    """Whether the row's picture is there and intact. One that is empty or truncated (after a power cut, say) is not."""
    return is_intact(folder / row.file_name)

"""Where training pictures come from: the built-in world or a dataset folder, behind one small interface.

`builtin:world` is rendered, not stored; a dataset folder is anything `genin.distill.data.dataset` reads. A source knows its
captions (the world's are phrased anew each epoch), its attribute columns if it has any, and renders or reads pictures on all cores
once, into an array that training indexes. Worker processes import this module, so it does not import torch.
"""

from __future__ import annotations

import multiprocessing
import signal
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from genin.dataset.sets import EmptySplitError, metadata_of
from genin.distill.data.aspect import bucket_of
from genin.distill.data.labels import labels_of
from genin.distill.data.parquet import SUFFIXES as TABLE_SUFFIXES
from genin.hub.repository import may_be_on_the_hub
from genin.processes import processes_here
from genin.runtimes.arguments import local_path
from genin.runtimes.errors import GeninError, InputError
from genin.runtimes.files import reserve, writing
from genin.runtimes.limits import usable_cores
from genin.runtimes.names import BUILTIN_WORLD
from genin.runtimes.wording import counted, quoted

WORLD_SCENES = 200_000  # of the built-in world, which has no end
CHUNK = 256  # pictures per task
SHOWN_FROM = 2000  # captions among which those of grids are chosen
FEW = 4  # so few tasks are faster in this process
AHEAD = 2
Shape = tuple[int, int]  # (width, height) in pixels
T = TypeVar("T")
Split = Literal["train", "val", "test"]


class Source(Protocol):
    """Captioned pictures, indexed from 0."""

    name: str
    columns: Mapping[str, Sequence[str]]
    licence: str
    origins: Sequence[Mapping[str, Any]]  # whose pictures they are: `datasets.origins_of`
    digest: str  # of its content: other pictures or captions give another digest
    rephrases: bool  # whether later epochs rephrase the captions

    def __len__(self) -> int: ...

    def pictures(self, start: int, count: int, size: int) -> NDArray[np.uint8]:
        """Pictures start…start+count as (count, size, size, 3) uint8."""

    def captions(self, indices: Sequence[int], epoch: int = 0) -> list[str]: ...

    def row(self, index: int) -> Mapping[str, str]: ...

    def labels(self, captions: Sequence[str], rows: Sequence[Mapping[str, str]]) -> dict[str, NDArray[np.int64]]: ...

    def held_out(self) -> Source | None:
        """The val split of the same, or None where it has none."""
        ...

    def caption_groups(self, captions: int, pictures: int, size: int) -> tuple[list[str], NDArray[np.uint8]]:
        """Captions that several pictures share, at most so many, and `pictures` of each: (captions, pictures, size, size, 3)."""
        ...

    def check_groups(self, pictures: int) -> None:
        """Errors: InputError where no caption has as many pictures."""
        ...


class WorldSource:
    """`count` scenes of one split of the built-in world."""

    name = BUILTIN_WORLD
    licence = "Apache-2.0"
    rephrases = True
    origins: Sequence[Mapping[str, Any]] = (
        {
            "source": "drawn by genin's built-in world",
            "rights": "genin's authors",
            "licence": "Apache-2.0",
            "pictures": 0,
        },
    )

    def __init__(self, split: Split, count: int, seed: int = 0) -> None:
        from genin.distill.world import captions, render
        from genin.distill.world.scene import ATTRIBUTES

        self.split, self.count, self.seed = split, count, seed
        self.digest = f"{self.name}-{split}-{count}-{seed}-captions{captions.VERSION}-drawing{render.VERSION}"
        self.columns: Mapping[str, Sequence[str]] = ATTRIBUTES

    def __len__(self) -> int:
        return self.count

    def pictures(self, start: int, count: int, size: int) -> NDArray[np.uint8]:
        from genin.distill.world.dataset import render_batch

        return render_batch(self.split, self.seed, start, count, size)[0]

    def captions(self, indices: Sequence[int], epoch: int = 0) -> list[str]:
        from genin.distill.world.captions import caption
        from genin.distill.world.scene import scene_at

        return [caption(scene_at(self.split, self.seed, i), seed=epoch * 1_000_003 + i) for i in indices]

    def row(self, index: int) -> Mapping[str, str]:
        from genin.distill.world.scene import scene_at

        scene = scene_at(self.split, self.seed, index)
        return {name: getattr(scene, name) for name in self.columns}

    def labels(self, captions: Sequence[str], rows: Sequence[Mapping[str, str]]) -> dict[str, NDArray[np.int64]]:
        return labels_of(captions, rows, self.columns)

    def held_out(self) -> Source | None:
        return WorldSource("val", self.count, self.seed)

    def caption_groups(self, captions: int, pictures: int, size: int) -> tuple[list[str], NDArray[np.uint8]]:
        tasks = [(number, pictures, size) for number in range(captions)]
        groups = list(map_source(WorldSource.caption_group, self, tasks))
        return [caption for caption, _ in groups], np.stack([drawn for _, drawn in groups])

    def check_groups(self, pictures: int) -> None:
        pass  # it draws as many as are asked for

    def caption_group(self, number: int, pictures: int, size: int) -> tuple[str, NDArray[np.uint8]]:
        """A caption, and pictures of scenes that it describes: what it does not say is drawn anew for each."""
        from genin.distill.world.captions import caption
        from genin.distill.world.render import render
        from genin.distill.world.scene import scene_at, scenes_like

        place = self.count + number  # beyond the scenes that are trained on with pictures of their own
        scene, row = scene_at(self.split, self.seed, place), self.row(place)
        text = caption(scene, seed=number)
        said = [name for name, label in self.labels([text], [row]).items() if label[0] or row[name] == "none"]
        alike = scenes_like(scene, said, self.split, self.seed, pictures)
        return text, np.stack([render(one, size) for one in alike])


class FolderSource:
    """A dataset folder: imagefolder with metadata, or what `genin data prepare` wrote."""

    rephrases = False

    def __init__(self, folder: Path, split: Split = "train") -> None:
        from genin.distill.data.dataset import ImageDataset, write_captions

        self.folder, self.dataset = folder, ImageDataset.open(folder, split=split)
        self.name, self.licence = folder.name, self.dataset.licence
        self.columns: Mapping[str, Sequence[str]] = self.dataset.columns
        self.origins: Sequence[Mapping[str, Any]] = self.dataset.origins
        self.notes: Sequence[str] = self.dataset.notes
        if lacking := self.dataset.without_caption():
            among = counted(len(self.dataset), "picture") + ("" if split == "train" else f" of its {split} split")
            raise InputError(
                f"{counted(lacking[0], f'of {among} has', f'of {among} have')} no caption, first {lacking[1]}",
                where=folder,
                remedy="; ".join((*self.notes, write_captions(folder))),
            )
        self.digest = self.dataset.digest()
        # Opened now: a picture without a caption is refused before any work, not hours later.
        self._held_out = _of_split(folder, "val") if split == "train" else None

    def __len__(self) -> int:
        return len(self.dataset)

    def pictures(self, start: int, count: int, size: int) -> NDArray[np.uint8]:
        return np.stack(
            [self.dataset.picture(i % len(self.dataset), size) for i in going_on(range(start, start + count))]
        )

    def pictures_of(self, rows: Sequence[int], shape: Shape) -> NDArray[np.uint8]:
        """These pictures, cut to one (width, height), as (N, height, width, 3)."""
        return np.stack([self.dataset.picture(row, shape) for row in going_on(rows)])

    def shapes(self, rows: Sequence[int], size: int, multiple: int) -> list[Shape]:
        """The aspect buckets that these pictures fall into (`data.aspect`)."""
        return [bucket_of(self.dataset.size(row), size, multiple) for row in going_on(rows)]

    def captions(self, indices: Sequence[int], epoch: int = 0) -> list[str]:
        return [self.dataset.caption(i) for i in indices]

    def row(self, index: int) -> Mapping[str, str]:
        return self.dataset.row(index)

    def labels(self, captions: Sequence[str], rows: Sequence[Mapping[str, str]]) -> dict[str, NDArray[np.int64]]:
        return labels_of(captions, rows, self.columns)

    def held_out(self) -> Source | None:
        return self._held_out

    def caption_groups(self, captions: int, pictures: int, size: int) -> tuple[list[str], NDArray[np.uint8]]:
        shared = self._groups(pictures)
        texts = list(shared)[:captions]
        groups = [self.pictures_of(shared[text][:pictures], (size, size)) for text in texts]
        return texts, np.stack(groups)

    def check_groups(self, pictures: int) -> None:
        self._groups(pictures)

    def _groups(self, pictures: int) -> dict[str, list[int]]:
        """Caption => rows, where it has as many. Errors: InputError where none has."""
        rows: dict[str, list[int]] = {}
        for index, row in enumerate(self.dataset.rows):
            rows.setdefault(row.text or "", []).append(index)
        shared = {text: places for text, places in rows.items() if len(places) >= pictures}
        if not shared:
            most = max(map(len, rows.values()), default=0)
            what = f"no caption has {pictures} pictures (at most {most}), which kernel_weight compares with"
            raise InputError(what, where=self.name, remedy=f"set kernel_true to {most} or less, or kernel_weight to 0")
        return shared


def _of_split(folder: Path, split: Split) -> FolderSource | None:
    try:
        return FolderSource(folder, split)
    except EmptySplitError:  # too few pictures to split
        return None


def source_of(data: str | Path | Source) -> Source:
    """An open source as it is, else what `open_source` makes of the name. Errors: InputError for what is neither."""
    if isinstance(data, str | Path):
        return open_source(str(data))
    if not hasattr(data, "pictures"):
        raise InputError(f"data must be a dataset folder, '{BUILTIN_WORLD}' or an open source; got {data!r}")
    return data


def open_source(name: str, split: Split = "train", *, count: int = WORLD_SCENES, seed: int = 0) -> Source:
    """`builtin:world` (of which `count` scenes are used), or a dataset folder (used whole)."""
    if name == BUILTIN_WORLD:
        return WorldSource(split, count, seed)
    folder = local_path(name, "data")
    if not folder.exists() and may_be_on_the_hub(name):
        raise InputError(
            "no such dataset folder", where=name, remedy=f"if it is a set of the hub, first: {_prepare(name)}"
        )
    try:
        if not folder.is_dir():
            raise InputError("no such dataset folder", where=name, remedy=f"give a folder or '{BUILTIN_WORLD}'")
        return FolderSource(folder, split)
    except InputError as error:
        if not (folder.is_dir() and metadata_of(folder)) and any(
            file.suffix.lower() in TABLE_SUFFIXES for file in _files(folder)
        ):
            remedy = f"first: {_prepare(name)}"
            raise InputError("parquet files are prepared before training", where=name, remedy=remedy) from error
        raise


def captions_to_show(source: Source, count: int) -> list[str]:
    """At most so many captions for grids of samples: all different, and spread over the source."""
    every = list(dict.fromkeys(source.captions(range(min(len(source), SHOWN_FROM)))))
    shown = min(count, len(every))
    return [every[number * len(every) // shown] for number in range(shown)]


def _files(path: Path) -> Iterable[Path]:
    return [path] if path.is_file() else path.rglob("*")


def _prepare(name: str) -> str:
    """The command that makes a dataset folder from it, and what to give then."""
    short = name.partition("@")[0].rpartition("/")[2]
    path = Path(name)
    out = path.with_name(f"{path.stem if path.is_file() else path.name}-prepared") if path.exists() else f"data/{short}"
    return f"genin data prepare {quoted(name)} --out {quoted(out)}; then give {quoted(out)}"


def pictures_at(source: Source, rows: Sequence[int], shape: Shape) -> NDArray[np.uint8]:
    """Pictures of a source as (N, height, width, 3) uint8; of other shapes than squares where it has files."""
    if isinstance(rows, range) and rows.step == 1 and shape[0] == shape[1]:
        return source.pictures(rows.start, len(rows), shape[0])
    if isinstance(source, FolderSource):
        return source.pictures_of(rows, shape)
    return np.concatenate([source.pictures(row, 1, shape[0]) for row in rows])


def load_pictures(source: Source, count: int, size: int, folder: Path) -> NDArray[np.uint8]:
    """The first `count` pictures of a source as one uint8 array NHWC, made on all cores.

    The array is mapped from an anonymous temporary file in `folder`: memory holds as much of it as fits, the disk 3·size² bytes per
    picture (20 GB for 24,000 of 512 px), for every process of a run.
    """
    count = min(count, len(source))
    with writing(folder), tempfile.TemporaryFile(dir=folder) as file:
        reserve(file, 3 * count * size**2)
        pictures = np.memmap(file, np.uint8, "w+", shape=(count, size, size, 3))
    tasks = [(range(start, min(start + CHUNK, count)), (size, size)) for start in range(0, count, CHUNK)]
    for (rows, _), part in zip(tasks, map_source(pictures_at, source, tasks), strict=True):
        pictures[rows.start : rows.stop] = part
    return pictures


def map_source(function: Callable[..., T], source: Source, tasks: Sequence[tuple[Any, ...]]) -> Iterator[T]:
    """function(source, *task) for each task, in order, on this process's share of the cores. Only a few are computed ahead of the
    one in use: results may be large. A few tasks are not worth other processes.

    The processes are spawned, not forked: PyTorch's threads and locks do not survive a fork. As everywhere with spawned processes,
    a script that trains needs `if __name__ == "__main__"`.

    Errors: those of `function`; GeninError where a process was killed."""
    workers = min(len(tasks), max(1, usable_cores() // processes_here()))
    if workers <= 1 or len(tasks) < FEW:
        yield from (function(source, *task) for task in tasks)
        return
    # The source goes to a worker once: its rows may be millions.
    context = multiprocessing.get_context("spawn")
    ended = context.Event()
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_take_source, initargs=(source, ended))
    try:
        pending: deque[Future[T]] = deque()
        for task in tasks:
            pending.append(pool.submit(_with_source, function, task))
            if len(pending) > workers + AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        what = "a process that reads pictures was killed, as systems do where memory runs out"
        remedy = "free some memory, then run it again; taskset leaves it fewer cores, and so fewer processes"
        raise GeninError(what, where=source.name, remedy=remedy) from error
    finally:
        ended.set()
        pool.shutdown(cancel_futures=True)


_source: Source | None = None  # of a worker process
_ended: Event | None = None


def _take_source(source: Source, ended: Event) -> None:
    global _source, _ended
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C, and then ends the pool
    _source, _ended = source, ended


def going_on(rows: Iterable[int]) -> Iterator[int]:
    """The rows, until this worker's pool has ended: Ctrl-C would wait for hundreds of pictures. Errors: CancelledError then."""
    for row in rows:
        if _ended is not None and _ended.is_set():
            raise CancelledError
        yield row


def _with_source(function: Callable[..., T], task: tuple[Any, ...]) -> T:
    return function(_source, *task)


def joined_licences(*licences: str | None) -> str:
    """The licences of everything that something was made from, each once. "unknown" counts as one: it must not disappear beside
    known ones."""
    parts = [part.strip() for licence in licences if licence is not None for part in (licence or "unknown").split(",")]
    return ", ".join(dict.fromkeys(part for part in parts if part)) or "unknown"

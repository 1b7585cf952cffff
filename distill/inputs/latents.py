"""A source's pictures, encoded once: final latents in one mapped file, which all processes fill and train from.

    latents.partial            the file at its full length while it is filled
    latents.0.journal          the chunks that process 0 has finished: a line each, written once their bytes are on disk
    latents.safetensors        the same file when nothing is missing

A chunk is a few hundred neighbouring pictures of one shape. The chunks, and what is encoded together, depend on the pictures alone,
so any number of processes, stopped and started again, gives the same bits. Each takes every Nth of the chunks that are missing, and
decodes pictures on its share of the cores while its encoder works. Memory holds a few chunks.

With aspect buckets a file has one tensor per bucket, and every update draws from one of them. A tensor in the file is (N, h, w, C):
channels last, as encoders return latents. The network's last bits depend on that order.

Not here: what is trained on latents (`teacher.train`, `finetune`, `phases`), the file's format (`tensor_file`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genin.distill.data.aspect import buckets_within
from genin.distill.inputs.sources import FolderSource, Shape, Source, map_source, pictures_at
from genin.distill.inputs.tensor_file import TensorFile, create
from genin.distill.inputs.update import Update
from genin.distill.models import autoencoder as ae
from genin.files import atomic_path
from genin.processes import broadcast_from_main, is_main_process, main_process_first, rank_and_world, wait_for_all
from genin.runtimes.errors import GeninError, InputError
from genin.runtimes.files import refused_write
from genin.runtimes.progress import progress

SCALE_WITHIN = 4.0  # the latents' deviation must be within this factor of 1
CHUNK = 256  # pictures; fewer of large ones, of which this many encoder batches are a chunk:
CHUNK_BATCHES = 16
SCALE_PICTURES = 64  # whose latents' scale is checked before all are encoded
ROWS = ".rows"


@dataclass(frozen=True)
class Bucket:
    """Pictures of one shape: final latents (N, C, h, w), float16, mapped and channels last in memory, and their places in the
    source, (N,), or None for its first N in order."""

    latents: Tensor
    rows: Tensor | None = None


@dataclass(frozen=True)
class LatentCache:
    """Final latents of a source's first pictures, by shape, and the factor they were scaled by."""

    buckets: tuple[Bucket, ...]
    scaling_factor: float

    def __len__(self) -> int:
        return sum(len(bucket.latents) for bucket in self.buckets)

    @property
    def latents(self) -> Tensor:
        """(N, C, H, W) float16, in the source's order: of a cache without buckets."""
        [bucket] = self.buckets
        return bucket.latents

    def first(self, count: int) -> tuple[list[int], Tensor]:
        """Places in the source and latents of a few pictures of one shape, the commonest."""
        bucket = max(self.buckets, key=lambda bucket: len(bucket.latents))
        latents = bucket.latents[:count]
        rows = range(len(latents)) if bucket.rows is None else bucket.rows[:count].tolist()
        return list(rows), latents

    def draw(self, update: Update) -> tuple[Tensor, Tensor]:
        """This process's part of the global batch: places in the source (B,) and latents (B, C, h, w), float, both on the update's
        device. All of a global batch are of one shape, chosen by its share of the pictures."""
        bucket = self.buckets[0] if len(self.buckets) == 1 else self._holding(update.shared_randint(len(self)))
        at = update.randint(len(bucket.latents))
        rows = at if bucket.rows is None else bucket.rows[at.cpu()].to(at.device)
        return rows, bucket.latents[at.cpu()].to(at.device).float()

    def _holding(self, place: int) -> Bucket:
        for bucket in self.buckets:
            if place < len(bucket.latents):
                return bucket
            place -= len(bucket.latents)
        raise IndexError(place)


def cache_latents(
    source: Source, vae: Any, count: int, image_size: int, path: Path, *, multiple: int = 0
) -> LatentCache:
    """Encode a source's first `count` pictures, or read them from `path` if they are there; all processes call it together. The
    encoder works on the device that it is on.

    With `multiple`, pictures fall into aspect buckets (`data.aspect`) whose latents have sides of multiples of it; else all are
    cut to squares. A file of another source, size or encoder, or one that is not whole, is made anew.

    Errors: InputError for latents far from unit deviation, for a picture that cannot be read, for buckets that are impossible;
    GeninError where the disk is full.
    """
    count = min(count, len(source))
    weights = float(sum(p.double().abs().sum() for p in vae.parameters()))
    key = f"{source.digest}-{count}-{image_size}-{weights:.6f}-{vae.config.scaling_factor:g}-{multiple}"
    key = broadcast_from_main(key)
    filling = Filling(path)
    with main_process_first():
        cache = _read(path, key)
        if cache is None and is_main_process() and filling.key() != key:
            filling.begin(_layout(source, vae, count, image_size, path, multiple), key, vae)
    if cache is not None:
        return cache
    _encode(filling, source, vae, count)
    with main_process_first():
        if is_main_process():
            filling.finish()
        cache = _read(path, key)
    if cache is None:
        raise GeninError("the encoded pictures could not be read again", where=path, remedy="run it again with resume")
    return cache


def latent_shape(vae: Any, image_size: int, device: torch.device) -> tuple[int, int, int]:
    """(C, h, w) of the latents of a square picture."""
    with torch.no_grad():
        shape = ae.encode(vae, torch.zeros(1, 3, image_size, image_size, device=device)).shape
    return shape[1], shape[2], shape[3]


def check_scale(latents: Tensor, scaling_factor: float, where: Path) -> None:
    """Errors: InputError for latents far from unit deviation, which a schedule would drown in noise or never cover."""
    deviation = float(latents.float().std())
    if not 1 / SCALE_WITHIN < deviation < SCALE_WITHIN:
        what = f"the latents of true pictures deviate by {deviation:.2g}, not by about 1"
        remedy = f"the autoencoder's scaling_factor is {scaling_factor:g}; set it to {scaling_factor / deviation:.3g}"
        raise InputError(what, where=where, remedy=remedy)


# --- which pictures ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """What is in a cache: for every bucket (width, height) in pixels, the shape of its latents, and the places of its pictures in
    the source, None for the first in order."""

    shapes: dict[Shape, tuple[int, int, int, int]]
    rows: dict[Shape, list[int] | None]


def _layout(source: Source, vae: Any, count: int, size: int, path: Path, multiple: int) -> Layout:
    """Encode a few pictures from all over the source to learn the latents' shape and scale; for buckets, read the shapes of all."""
    few = list(islice(range(0, count, max(1, count // SCALE_PICTURES)), SCALE_PICTURES))
    latents = ae.encode_pictures(vae, pictures_at(source, few, (size, size)), vae.device)
    check_scale(latents, float(vae.config.scaling_factor), path.parent)
    channels, factor = latents.shape[1], size // latents.shape[-1]
    if not multiple:
        return Layout({(size, size): (count, *latents.shape[1:])}, {(size, size): None})
    rows: dict[Shape, list[int] | None] = {}
    for shape, places in sorted(_by_bucket(source, count, size, multiple * factor).items()):
        rows[shape] = places
    return Layout(
        {(w, h): (len(places or ()), channels, h // factor, w // factor) for (w, h), places in rows.items()}, rows
    )


def _by_bucket(source: Source, count: int, size: int, multiple: int) -> dict[Shape, list[int]]:
    """Bucket => places of its pictures. `multiple` in pixels. Errors: InputError for buckets that are impossible."""
    remedy = "leave aspect_buckets false"
    if not isinstance(source, FolderSource):
        raise InputError("aspect buckets need a dataset folder; these pictures are all square", remedy=remedy)
    allowed = buckets_within(size, multiple)
    if len(allowed) < 2:
        what = f"at {size} px this network takes no shape but the square (sides must be multiples of {multiple} px)"
        raise InputError(what, where=source.name, remedy=f"{remedy}, or train at a larger size")
    tasks = [(range(start, min(start + 1024, count)), size, multiple) for start in range(0, count, 1024)]
    places: dict[Shape, list[int]] = {}
    with progress("reading shapes", count, unit="pictures") as shown:
        for (rows, *_), shapes in zip(tasks, map_source(FolderSource.shapes, source, tasks), strict=True):
            for row, shape in zip(rows, shapes, strict=True):
                places.setdefault(shape, []).append(row)
            shown.advance(len(rows))
    return places


# --- encoding them -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chunk:
    """The unit of work: places [start, stop) of a bucket."""

    number: int
    shape: Shape
    start: int
    stop: int


class Filling:
    """The file that is being filled for `path`, and the journals of what is finished in it."""

    def __init__(self, path: Path) -> None:
        self.path, self.partial = path, path.with_suffix(".partial")

    def journals(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{self.path.stem}.*.journal"))

    def key(self) -> str | None:
        """The key of the file that was begun; None where there is none, or it is incomplete."""
        try:
            return TensorFile(self.partial).facts.get("key")
        except (OSError, ValueError):
            return None

    def begin(self, layout: Layout, key: str, vae: Any) -> None:
        """Make the file; it is renamed last, when it is whole."""
        self.partial.unlink(missing_ok=True)
        for journal in self.journals():
            journal.unlink()
        tensors: dict[str, tuple[torch.dtype, Sequence[int]]] = {}
        for shape, (count, channels, *sides) in layout.shapes.items():
            tensors[_name(shape)] = torch.float16, (count, *sides, channels)
            if layout.rows[shape] is not None:
                tensors[_name(shape) + ROWS] = torch.int64, (count,)
        with atomic_path(self.partial, partial=self.path.with_suffix(".new")) as fresh:
            create(fresh, tensors, {"key": key, "scaling_factor": repr(float(vae.config.scaling_factor))})
            file = TensorFile(fresh)
            for shape, rows in layout.rows.items():
                if rows is not None:
                    file.write(_name(shape) + ROWS, range(len(rows)), torch.tensor(rows))

    def missing(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """The chunks that no journal lists. An incomplete line does not count."""
        done: set[int] = set()
        for journal in self.journals():
            for line in journal.read_text(encoding="utf-8", errors="replace").split("\n"):
                if line.startswith("[") and line.endswith("]"):
                    done.update(json.loads(line))
        return [chunk for chunk in chunks if chunk.number not in done]

    def finish(self) -> None:
        self.partial.replace(self.path)
        for journal in self.journals():
            journal.unlink()


def _encode(filling: Filling, source: Source, vae: Any, count: int) -> None:
    """This process's share of what is missing; returns when all have done theirs."""
    file, (rank, world) = TensorFile(filling.partial), rank_and_world()
    chunks = list(_chunks(file))
    missing = filling.missing(chunks)
    wait_for_all()  # no process writes until all have read the same journals
    own = missing[rank::world]
    rows = {shape: _rows(file, shape) for shape in dict.fromkeys(chunk.shape for chunk in own)}
    tasks = [(_places(rows[chunk.shape], chunk), chunk.shape) for chunk in own]
    left = sum(chunk.stop - chunk.start for chunk in missing)
    journal = filling.path.with_suffix(f".{rank}.journal")
    with (
        progress("encoding pictures", count, unit="pictures", done=count - left, silent=not is_main_process()) as shown,
        journal.open("a", encoding="utf-8") as lines,
    ):
        lines.write("\n")  # ends an incomplete line
        for chunk, pictures in zip(own, map_source(pictures_at, source, tasks), strict=True):
            try:
                latents = ae.encode_pictures(vae, pictures, vae.device).permute(0, 2, 3, 1)
                file.write(_name(chunk.shape), range(chunk.start, chunk.stop), latents)
                lines.write(f"[{chunk.number}]\n")
                lines.flush()
            except OSError as error:
                then = ", then run it again with resume, which continues from there"
                if refused := refused_write(error, filling.path.parent, then):
                    raise refused from error
                what = f"could not save the encoded pictures ({error.strerror})"
                raise GeninError(what, where=filling.path.parent, remedy=f"free some space{then}") from error
            shown.advance(len(pictures) * world)
    wait_for_all()


def _chunks(file: TensorFile) -> Iterator[Chunk]:
    """All of a file, bucket by bucket. Whole encoder batches, so that what is encoded together does not depend on the process."""
    number = 0
    for name, shape in file.shapes.items():
        if not name.endswith(ROWS):
            width, height = map(int, name.split("x"))
            length = min(CHUNK, CHUNK_BATCHES * ae.encoder_batch(width, height))
            for start in range(0, shape[0], length):
                yield Chunk(number, (width, height), start, min(start + length, shape[0]))
                number += 1


def _rows(file: TensorFile, shape: Shape) -> Tensor | None:
    name = _name(shape) + ROWS
    return file.tensor(name) if name in file.shapes else None


def _places(rows: Tensor | None, chunk: Chunk) -> Sequence[int]:
    return range(chunk.start, chunk.stop) if rows is None else rows[chunk.start : chunk.stop].tolist()


def _name(shape: Shape) -> str:
    return f"{shape[0]}x{shape[1]}"


def _read(path: Path, key: str) -> LatentCache | None:
    """The cache in a file, if it is this one."""
    try:
        file = TensorFile(path)
    except (OSError, ValueError):
        return None  # missing or truncated: it is only a cache
    if file.facts.get("key") != key:
        return None
    names = [name for name in file.shapes if not name.endswith(ROWS)]
    buckets = (
        Bucket(file.tensor(name).permute(0, 3, 1, 2), file.tensor(name + ROWS) if name + ROWS in file.shapes else None)
        for name in names
    )
    return LatentCache(tuple(buckets), float(file.facts["scaling_factor"]))

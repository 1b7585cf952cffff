"""Feature statistics of a set of pictures in one hashed file, so that an expensive sampling is done once.

Thousands of a teacher's pictures cost hours on a CPU. `genin evaluate TEACHER --save-statistics FILE.safetensors` keeps what later
comparisons need: per feature set the mean (float64) and covariance (float32, upper triangle: the Fréchet distance to the exact one
is 1e-11), the first features themselves (float16, at most 2,048; for KID and precision/recall) with a number for each one's
caption, and how the pictures were made and how they scored. Given a folder instead of a file, `statistics.safetensors` is written
there together with `pairs/`, the first pictures with captions and seeds, for paired LPIPS.

The sha256 of the tensors is in the metadata and is checked on reading; feature sets are only compared when weights
and resize are the same. Not covered: signatures.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genin.benchmarks.quality.frechet import Features, Moments, moments
from genin.dataset.rows import PictureRow
from genin.dataset.sets import Pictures, PictureSet, open_picture_set, write_metadata
from genin.files import atomic_path, hidden_prefix, writing
from genin.runtimes.errors import InputError
from genin.runtimes.origin import fingerprint

FORMAT = 1
FILE_NAME = "statistics.safetensors"
PAIRS_FOLDER = "pairs"
MAX_KEPT_FEATURES = 2048
NO_CAPTION = 0


@dataclass(frozen=True)
class SetStatistics:
    """One feature set's statistics; `fingerprint` names weights and resize, `features` are the first few, or None."""

    fingerprint: str
    moments: Moments
    features: Features | None


@dataclass(frozen=True)
class Statistics:
    """Statistics per feature set, how the pictures were made (`source`), and the paired pictures, if any."""

    sets: Mapping[str, SetStatistics]
    source: Mapping[str, Any]
    pairs: PictureSet | None = None
    sha256: str | None = None
    path: Path | None = None
    captions: Sequence[int | None] | None = (
        None  # `caption_numbers` of the features that are kept; older files lack them
    )

    def is_of(self, model: Path) -> bool:
        """Whether a model folder drew the pictures; all of its weights are hashed for that."""
        return bool(self.source.get("source_sha256") == fingerprint(model))


@dataclass
class FeatureCollector:
    """Collects one feature set's batches as pictures are drawn."""

    fingerprint: str
    parts: list[Features] = field(default_factory=list)

    def features(self) -> Features:
        """All features so far, N×F."""
        return np.concatenate(self.parts)

    def statistics(self) -> SetStatistics:
        """Exact moments of all, and the first features at the precision the file keeps."""
        features = self.features()
        return SetStatistics(self.fingerprint, moments(features), features[:MAX_KEPT_FEATURES])


def save_statistics(
    target: Path,
    sets: Mapping[str, SetStatistics],
    source: Mapping[str, Any],
    pairs: tuple[Sequence[PictureRow], Pictures] | None = None,
    captions: Sequence[int | None] | None = None,
) -> Path:
    """Write a statistics file, or a folder with one and its pairs where `target` has no suffix. Earlier ones there stay until all
    is written. `captions` are the pictures' `caption_numbers`. Returns the file."""
    from safetensors.numpy import save_file

    file = target if target.suffix == ".safetensors" else target / FILE_NAME
    tensors: dict[str, NDArray[Any]] = {}
    header: dict[str, Any] = {"genin_statistics": FORMAT, "source": dict(source), "sets": {}}
    for name, statistics in sets.items():
        upper = np.triu_indices(len(statistics.moments.mean))
        tensors[f"{name}/mean"] = statistics.moments.mean
        tensors[f"{name}/covariance"] = statistics.moments.covariance[upper].astype(np.float32)
        if statistics.features is not None:
            tensors[f"{name}/features"] = statistics.features.astype(np.float16)
        header["sets"][name] = {"fingerprint": statistics.fingerprint, "count": statistics.moments.count}
    if captions:
        kept = captions[:MAX_KEPT_FEATURES]
        tensors["captions"] = np.array([number or NO_CAPTION for number in kept], np.uint64)
    header["tensors_sha256"] = _digest(tensors)
    with atomic_path(file) as partial:
        save_file(tensors, partial, metadata={"genin": json.dumps(header, sort_keys=True)})
        if file != target and pairs is not None:
            _save_pairs(target / PAIRS_FOLDER, *pairs)
    return file


def _save_pairs(folder: Path, rows: Sequence[PictureRow], pictures: Pictures) -> None:
    """Write a folder of pictures and captions, which takes the place of an earlier one once it is whole."""
    from genin.benchmarks.quality.sampling import save_picture

    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=hidden_prefix(folder)) as name:
        new = Path(name) / "pairs"
        new.mkdir()
        with writing(folder, new):
            for row, picture in zip(rows, pictures, strict=True):
                save_picture(new / row.file_name, picture, row)
            write_metadata(new, rows)
        if folder.exists():
            shutil.rmtree(folder)
        new.rename(folder)


def is_statistics(path: Path) -> bool:
    """Whether `path` is a statistics file, or a folder with one."""
    return (path.is_file() and path.suffix == ".safetensors") or (path / FILE_NAME).is_file()


def load_statistics(path: Path) -> Statistics:
    """Read a statistics file or folder. InputError if it is broken, of another version, or its hash is wrong."""
    from safetensors import SafetensorError, safe_open

    file = path / FILE_NAME if path.is_dir() else path
    try:
        with safe_open(file, framework="np") as stream:
            header = json.loads((stream.metadata() or {}).get("genin", "{}"))
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError, ValueError) as error:
        remedy = "write it again with genin evaluate"
        raise InputError("not a readable statistics file", where=file, remedy=remedy) from error
    if header.get("genin_statistics") != FORMAT:
        raise InputError(f"not a statistics file of format {FORMAT}", where=file, remedy="write it with this version")
    if header.get("tensors_sha256") != _digest(tensors):
        raise InputError("the statistics do not match their sha256", where=file, remedy="restore or rewrite the file")
    try:
        sets = {name: _read_set(name, entry, tensors) for name, entry in header["sets"].items()}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("the statistics are incomplete", where=file, remedy="write them again") from error
    pairs = file.parent / PAIRS_FOLDER
    kept = open_picture_set(pairs) if path.is_dir() and pairs.is_dir() else None
    numbers = tensors.get("captions")
    captions = None if numbers is None else [None if one == NO_CAPTION else int(one) for one in numbers]
    return Statistics(sets, header["source"], kept, header["tensors_sha256"], file, captions)


def caption_numbers(captions: Sequence[str | None]) -> list[int | None]:
    """A number for each caption, by which files know the same one again: 8 bytes of its sha256."""
    return [
        None if one is None else int.from_bytes(hashlib.sha256(one.encode()).digest()[:8], "big") or 1
        for one in captions
    ]


def _read_set(name: str, entry: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> SetStatistics:
    mean = tensors[f"{name}/mean"]
    covariance = np.zeros((len(mean), len(mean)))
    rows, columns = np.triu_indices(len(mean))
    covariance[rows, columns] = covariance[columns, rows] = tensors[f"{name}/covariance"]
    features = tensors.get(f"{name}/features")
    kept = None if features is None else features.astype(np.float32)
    return SetStatistics(entry["fingerprint"], Moments(mean, covariance, int(entry["count"])), kept)


def _digest(tensors: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name}{tensors[name].shape}{tensors[name].dtype}".encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()

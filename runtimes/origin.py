"""What identifies a model in the pictures that it drew: its licence, and the sha256 of its weights.

A bundle says from which model folder it was made, so that pictures of the folder and of each of its bundles name the same weights;
runtime and precision, which stand beside it, say the rest.

Not here: writing it into files (`pictures`).
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from genin.runtimes.bundle import Bundle
from genin.runtimes.folder import is_model_folder, read_info, read_json

Files = tuple[tuple[Path, int, int], ...]  # with size and time


def origin_of(path: Path, bundle: Bundle | None, loaded: Files) -> dict[str, str]:
    """`licence` and `model_sha256` of a model folder or bundle. All weights of a folder are read, once; where they are no longer
    those that were `loaded`, both are left out."""
    if bundle is not None:
        model = bundle.manifest.model
        source = (model.provenance or {}).get("source_sha256")
        sha256 = source if isinstance(source, str) else hashlib.sha256(bundle.manifest.to_json().encode()).hexdigest()
        return {"licence": model.licence, "model_sha256": sha256}
    try:
        if not is_model_folder(path) or weight_files(path) != loaded:
            return {}
        return {"licence": str(read_info(path).get("licence", "unknown")), "model_sha256": _hash(loaded)}
    except OSError:
        return {}


def fingerprint(path: Path) -> str:
    """sha256 that changes with the weights: over a model's weight files, or a bundle's manifest, which has theirs."""
    return _hash(weight_files(path))


def weight_files(path: Path) -> Files:
    """What `fingerprint` reads. Errors: OSError for a folder that changes meanwhile."""
    if path.is_file():
        files = [path]
    elif (path / "manifest.json").is_file():
        files = [path / "manifest.json"]
    else:
        names = ("*.safetensors", "*.bin", "scheduler_config.json", "genin.json")
        index = path / "model_index.json"
        parts = read_json(index, "cannot be read as JSON") if index.is_file() else {}
        folders = [
            path,
            *(path / part for part in parts if (path / part).is_dir()),
        ]  # not `training` or anything else
        files = sorted(file for folder in folders for name in names for file in folder.glob(name))
    return tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files)


@lru_cache(maxsize=64)
def _hash(files: Files) -> str:
    """Over names and contents. A command asks for the same model's several times, and weights are gigabytes: files of the same size
    and time are not read again."""
    digest = hashlib.sha256()
    for file, _, _ in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()

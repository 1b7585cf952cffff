"""A bundle of the tiny student for tests of everything that reads bundles, and changes to the manifests of bundles."""

from __future__ import annotations

import contextlib
import gc
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

from genin.runtimes.bundle import file_entry


def write_tiny_bundle(model_folder: Path, out: Path, formats: Sequence[str] = ("onnx", "openvino")) -> None:
    """Of pictures of any size, where the format can have that."""
    from genin.export import ExportOptions, export
    from genin.export.converters.formats import TABLE

    with quick_export():
        any_size = any(TABLE[name].single for name in formats)
        export(model_folder, out, ExportOptions(formats, any_size=any_size))


@contextlib.contextmanager
def quick_export() -> Iterator[None]:
    """Two things that take most of a tiny model's export are cut down. The exporter collects garbage after every graph, for the
    sake of models of gigabytes, which looks at a million objects of the imported libraries; and it draws twelve pictures in four
    steps with every precision. Five in two steps still are two batches of different size, one of them beyond a fixed batch of 3."""
    from genin.export import prompt_set

    few = classmethod(lambda cls, _model, *, single_step=False: cls(5, 2))
    with (
        mock.patch.object(gc, "collect"),
        mock.patch.object(prompt_set.Amount, "of", few),
        mock.patch.object(prompt_set, "BATCH", 4),
    ):
        yield


def edit_manifest(bundle: Path, *path: str | int, value: object) -> None:
    """Set one key of a bundle's manifest."""
    file = bundle / "manifest.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file.write_text(json.dumps(data), encoding="utf-8")


def without_encoder(bundle: Path, out: Path) -> Path:
    """A copy of a bundle folder whose manifest lists no encoder graphs, as those that were made before there were any."""
    shutil.copytree(bundle, out)
    data = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    for key in ("graphs", "golden"):
        kept = [entry for entry in data[key] if entry["component"] != "vae_encoder"]
        edit_manifest(out, key, value=kept)
    return out


def update_hash(bundle: Path, path: str) -> None:
    """Let the manifest agree with a file that was changed."""
    manifest = bundle / "manifest.json"
    data = json.loads(manifest.read_text(encoding="utf-8"))
    entry = file_entry(bundle, path)
    graphs = (*data["graphs"], *data.get("single_graphs", ()))
    files = [*(file for graph in graphs for file in graph["files"]), *data["files"]]
    [file] = [file for file in files if file["path"] == path]
    file |= {"sha256": entry.sha256, "size_bytes": entry.size_bytes}
    manifest.write_text(json.dumps(data), encoding="utf-8")

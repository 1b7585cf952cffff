"""Every writer of a file that users keep, on a disk that takes no more: one line that names the file, and the old file is whole.

A limit on the size of files stands for the full disk: it also stops what libraries write without Python.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genin.cli import run
from genin.dataset.rows import PictureRow
from genin.dataset.sets import Pictures
from genin.runtimes.bundle import pack
from genin.runtimes.errors import GeninError, InputError
from genin.runtimes.files import atomic_path, refused_write, write_text, writing
from genin.runtimes.pictures import Picture
from tunable import write_pictures

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")

LIMIT_BYTES = 8192
SAYS = "cannot write (File too large)"
TEXT = "a ninja, " * LIMIT_BYTES


@contextmanager
def no_space() -> Iterator[None]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    compiled, sys.dont_write_bytecode = (
        sys.dont_write_bytecode,
        True,
    )  # Python would cut compiled modules off, and keep them
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sys.dont_write_bytecode = compiled


def pictures(count: int = 4, size: int = 128) -> Pictures:
    return np.random.default_rng(0).integers(0, 255, (count, size, size, 3), dtype=np.uint8)


def picture(path: Path) -> None:
    Picture(pictures()[0]).save(path)


def samples(path: Path) -> None:
    from genin.distill.loop.previews import save_grid

    save_grid([pictures()], path, labels=["student"], captions=[["a", "b", "c", "d"]])


def curves(path: Path) -> None:
    from genin.distill.loop.previews import plot_curves

    plot_curves([{"images_seen": i, "loss": i} for i in range(9)], path, title="steps")


def log(path: Path) -> None:
    from genin.distill.loop.logbook import Logbook

    book = Logbook(path.parent, path.name.partition(".")[0], is_main=True)
    book.add_event({"alarm": TEXT})


def checkpoint(path: Path) -> None:
    from genin.distill.loop.checkpoints import write_checkpoint
    from genin.distill.recipe import Recipe

    write_checkpoint(path, {"weights": torch.zeros(LIMIT_BYTES)}, Recipe().steps)


def average(path: Path) -> None:
    from genin.distill.loop.checkpoints import save_average

    save_average(path, {"weights": torch.zeros(LIMIT_BYTES)})


def pool(path: Path) -> None:
    from genin.distill.student.pool_parts import PoolParts

    PoolParts(path, "key").add([0], torch.zeros(1, 2, 64, 64), torch.zeros(1, 1, 64, 64), [5], rank=0, seconds=1.0)


def latents(path: Path) -> None:
    from genin.distill.inputs.tensor_file import create

    with atomic_path(path) as partial:
        create(partial, {"a": (torch.float16, (LIMIT_BYTES, 4))}, {})


def statistics(path: Path) -> None:
    from genin.benchmarks.quality.frechet import Moments
    from genin.benchmarks.quality.statistics_file import SetStatistics, save_statistics

    save_statistics(path, {"world": SetStatistics("f", Moments(np.zeros(128), np.eye(128), 3), None)}, {})


def classifier(path: Path) -> None:
    from genin.benchmarks.quality.classifier import AttributeClassifier, save_classifier

    save_classifier(AttributeClassifier({"colour": ("red", "blue")}), path, {})


def sheet(path: Path) -> None:
    from genin.benchmarks.grids import Grid, GridRow
    from genin.benchmarks.report.compare import save_sheet

    save_sheet(Grid("x", ("a", "b"), (GridRow("student", "4 steps", pictures(2)),)), path)


def page(path: Path) -> None:
    from genin.benchmarks.report.report import Report, write_report

    write_report(Report(lead=TEXT), path)


def kept_grids(path: Path) -> None:
    from genin.benchmarks.grids import Grid, GridRow
    from genin.quickstart.stages import save_grids

    save_grids(path, [Grid("x", ("a", "b"), (GridRow("student", "4 steps", pictures(2)),))])


def captions(path: Path) -> None:
    from genin.distill.data.rows import write_rows

    write_rows(path.parent, [{"file_name": "0.png", "text": TEXT}])


def table(path: Path) -> None:
    from genin.dataset.row_table import build

    build((PictureRow(f"{i}.png", f"{TEXT[:2000]}{i}", None, {}) for i in range(8)), [], path, path)


def world(path: Path) -> None:
    from genin.distill.world.dataset import write_dataset

    write_dataset(path, split="train", count=1, size=256, seed=0)


def reserved_pictures(path: Path) -> None:
    from genin.distill.inputs.sources import WorldSource, load_pictures

    path.mkdir()
    try:
        load_pictures(WorldSource("train", 4), 4, 64, path)
    finally:
        path.rmdir()


FILES = {
    "text.txt": lambda path: write_text(path, TEXT),
    "picture.png": picture,
    "picture.webp": picture,
    "picture.jpg": picture,
    "steps.samples-1.png": samples,
    "steps.curves.png": curves,
    "steps.events.jsonl": log,
    "steps.checkpoint.pt": checkpoint,
    "steps.average-1.safetensors": average,
    "latents.safetensors": latents,
    "statistics.safetensors": statistics,
    "classifier.safetensors": classifier,
    "sheet.png": sheet,
    "page.html": page,
    "pictures.npz": kept_grids,
    "metadata.jsonl": captions,
}
FOLDERS = {"rows": table, "world": world, "reserved": reserved_pictures}
Write = Callable[[Path], Any]


def refused(write: Write, path: Path) -> str:
    """What the command line would say."""
    with no_space(), pytest.raises((GeninError, OSError)) as raised:
        write(path)
    error = raised.value
    said = error if isinstance(error, GeninError) else refused_write(error)
    assert said is not None and said.exit_code == 1, error
    return str(said)


@pytest.mark.parametrize("name", FILES)
def test_a_full_disk_names_the_file_and_leaves_the_old_one(name: str, tmp_path: Path) -> None:
    path, first = tmp_path / name, tmp_path / "first"
    first.mkdir()
    FILES[name](first / name)  # with space, and everything that it imports
    assert (first / name).stat().st_size > LIMIT_BYTES
    shutil.rmtree(first)
    path.write_text("old\n")
    said = refused(FILES[name], path)
    assert said.startswith(f"{SAYS}: {path}; write to another disk"), said
    kept = path.read_text()
    assert kept.startswith("old\n") if FILES[name] is log else kept == "old\n"
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_full_disk_names_the_folder_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    assert refused(FOLDERS[name], path).startswith(f"{SAYS}: {path}; ")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_names_the_pool(tmp_path: Path) -> None:
    path = tmp_path / "pool.safetensors"
    assert refused(pool, path).startswith(f"{SAYS}: {path}; ")
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_statistics_and_their_pairs_are_replaced_together(tmp_path: Path) -> None:
    from genin.benchmarks.quality.statistics_file import save_statistics

    def save(path: Path, count: int, size: int) -> None:
        rows = [PictureRow(f"{i}.png", "a ninja", i, {}) for i in range(count)]
        save_statistics(path, {}, {"samples": count}, (rows, pictures(count, size)))

    out = tmp_path / "statistics"
    save(out, 2, 8)
    before = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    assert len(before) == 4
    assert refused(lambda path: save(path, 3, 128), out).startswith(f"{SAYS}: {out / 'pairs'}")
    assert {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()} == before
    assert {entry.name for entry in out.iterdir()} == {"pairs", "statistics.safetensors"}
    save(out, 1, 8)
    assert sum(path.suffix == ".png" for path in out.rglob("*")) == 1


def test_a_model_folder_is_replaced_as_a_whole(tiny_model_folder: Path, tmp_path: Path) -> None:
    from genin.distill.models.folder import load_model_folder, save_model_folder

    model, out = load_model_folder(tiny_model_folder), tmp_path / "model"
    save_model_folder(model, out)
    before = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    assert refused(lambda path: save_model_folder(model, path), out).startswith(f"{SAYS}: {out}; ")
    assert {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()} == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_commands_on_a_full_disk_say_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_pictures(tmp_path / "data", 8, size=256)
    rows = [json.loads(line) for line in (data / "metadata.jsonl").read_text().splitlines()]
    rows[0]["text"] = TEXT
    (data / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for command, out in (
        (["data", "prepare", data, "--size", "256", "--out"], "prepared"),
        (["data", "shard", data, "--out"], "shards"),
        (["data", "edit", data, "--to"], "captions.csv"),
        (["data", "inspect", data, "--sheet"], "sheet.png"),
        (["world", "render", "--count", "2", "--size", "256", "--out"], "world"),
    ):
        with no_space():
            assert run([*map(str, command), str(tmp_path / out)]) == 1, command
        said = capsys.readouterr().err.splitlines()
        assert said[-1].startswith(f"genin: {SAYS}: {tmp_path / out}; "), said
        assert not (tmp_path / out).exists()
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {"data", ".prepared.partial"}  # what is read already, for the next run
    assert run(["data", "prepare", str(data), "--size", "256", "--out", str(tmp_path / "prepared")]) == 0


def test_a_bundle_is_unpacked_where_there_is_space_or_the_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genin.runtimes.bundle import Bundle
    from genin.runtimes.names import installed_names

    packed, bundle_folder = tmp_path / "model.genin", installed_names().model("builtin:student")
    pack(bundle_folder, packed)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    with Bundle.open(packed) as bundle:
        largest = max(bundle.manifest.all_files().values(), key=lambda entry: entry.size_bytes)
        said = refused(lambda _: bundle.local(largest.path), scratch)
        assert said.startswith(f"{SAYS}: {scratch}; ") and said.endswith("or name another folder with TMPDIR")
        assert bundle.local(largest.path).is_file()
    assert refused(lambda path: pack(bundle_folder, path), tmp_path / "b.genin").startswith(f"{SAYS}: {tmp_path}")
    assert {path.name for path in tmp_path.iterdir()} == {"model.genin", "scratch"}


def test_other_errors_are_left_as_they_are(tmp_path: Path) -> None:
    for error in (ValueError("x"), InputError("x"), FileNotFoundError(2, "No such file", "x"), RuntimeError("x")):
        with pytest.raises(type(error)) as raised, writing(tmp_path / "a"):
            raise error
        assert raised.value is error and getattr(error, "filename", "x") == "x"


def test_the_refusal_behind_an_error_of_closing_is_found(tmp_path: Path) -> None:
    with pytest.raises(OSError) as raised, writing(tmp_path / "a"):
        try:
            raise OSError(28, "No space left on device")
        finally:
            raise ValueError("can't close the ZIP file while there is an open writing handle on it")
    said = refused_write(raised.value)
    assert str(said) == f"cannot write (No space left on device): {tmp_path / 'a'}; free some space"

"""What a folder holds beside the pictures that are read, and names, captions and pictures of other tools' folders."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genin.cli import run
from genin.dataset.files import read_picture
from genin.dataset.sets import open_picture_set
from genin.runtimes.errors import InputError

Json = Callable[..., dict[str, Any]]


@pytest.fixture
def genin(capsys: pytest.CaptureFixture[str]) -> Json:
    def call(*words: Any) -> dict[str, Any]:
        capsys.readouterr()
        assert run([*map(str, words), "--json"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return found

    return call


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC)


def encoded(seed: int) -> bytes:
    file = io.BytesIO()
    picture(seed).save(file, "PNG")
    return file.getvalue()


def folder_of(path: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(path / name)
    return path


def write_shard(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            shard.addfile(entry, io.BytesIO(content))


def texts(folder: Path) -> dict[str, str | None]:
    return {row.file_name: row.text for row in open_picture_set(folder).rows}


# --- other layouts ----------------------------------------------------------------------------------------------------


def test_shards_beside_a_loose_picture_are_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "preview.png", "train/0.png")
    write_shard(folder / "0.tar", [("1.png", encoded(1))])
    (folder / "1.tar.gz").write_bytes(b"")
    pictures = open_picture_set(folder)
    assert len(pictures.rows) == 1
    notes = " ".join(pictures.notes)
    assert "shards are not read" in notes and ": 0.tar" in notes and ": 1.tar.gz" in notes and "own: train" in notes


def test_compressed_archives_beside_shards_are_named(tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", [("1.png", encoded(1))])
    (tmp_path / "1.tar.gz").write_bytes(b"")
    assert open_picture_set(tmp_path).notes == ("compressed archives are not read (unpack them to .tar): 1.tar.gz",)


def test_shards_one_folder_further_down_are_pointed_to(tmp_path: Path) -> None:
    write_shard(tmp_path / "part1" / "0.tar", [("1.png", encoded(1))])
    with pytest.raises(InputError, match="there are shards in part1"):
        open_picture_set(tmp_path)


def test_prepare_says_what_to_do_with_archives(tmp_path: Path, genin: Json, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path / "src", "0.png")
    for name in ("0.tar", "1.zip"):
        (folder / name).write_bytes(b"x")
    dropped = genin("data", "prepare", folder, "--out", tmp_path / "out")["dropped"]
    assert [Path(entry["path"]).name for entry in dropped] == ["0.tar", "1.zip"]
    assert "read a folder of shards as it is" in dropped[0]["reason"] and "unpack it" in dropped[1]["reason"]
    (folder / "0.png").unlink()
    assert run(["data", "prepare", str(folder), "--out", str(tmp_path / "none")]) == 2
    assert "unpack it" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["captions.csv", "metadata.tsv", "train.jsonl", "metadata.json"])
def test_tables_of_other_names_are_named(tmp_path: Path, genin: Json, name: str) -> None:
    folder = folder_of(tmp_path / "src", "0.png")
    (folder / name).write_text("file_name,text\n0.png,cat\n")
    for words in (("inspect", folder), ("prepare", folder, "--out", tmp_path / "out")):
        assert any(f"these are not: {name}" in note for note in genin("data", *words)["notes"])


def test_a_folder_called_like_a_picture_is_no_picture_without_a_row(tmp_path: Path, genin: Json) -> None:
    folder = folder_of(tmp_path, "0.png", "more.png/1.png")
    assert genin("data", "inspect", folder)["notes"] == [
        "pictures in more.png are not read (genin data prepare reads folders inside folders)"
    ]


def test_what_cannot_be_entered_ends_no_command(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "0.png")
    (folder / "loop").symlink_to("loop")
    (folder / "gone").symlink_to("nowhere")
    assert open_picture_set(folder).notes == ()


def test_folders_of_splits_and_shards_name_what_they_leave_out(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "splits", "train/0.png", "test/1.png", "train/cats/2.png", "extra/3.png")
    write_shard(folder / "0.tar", [("1.png", encoded(1))])
    (folder / "captions.csv").write_text("file_name,text\n")
    notes = " | ".join(open_picture_set(folder).notes)
    assert "train: pictures in cats are not read" in notes and "pictures in extra are not read" in notes
    assert "shards are not read" in notes and "captions.csv" in notes
    folder = folder_of(tmp_path / "shards", "extra/3.png")
    write_shard(folder / "0.tar", [("1.png", encoded(1))])
    (folder / "1.tar.gz").write_bytes(b"")
    notes = " | ".join(open_picture_set(folder).notes)
    assert "pictures in extra are not read" in notes and "0.tar" not in notes and "1.tar.gz" in notes


def test_an_empty_list_of_captions_leaves_the_next_column(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "0.png", "1.png")
    rows = [
        {"file_name": "0.png", "text": [], "caption": "a"},
        {"file_name": "1.png", "text": ["null"], "caption": "b"},
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert open_picture_set(folder).captions() == ["a", "b"]


def test_a_name_that_comes_twice_in_an_archive_is_counted(tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", [("1.png", encoded(1)), ("1.png", encoded(2)), ("2.png", encoded(3))])
    assert open_picture_set(tmp_path).notes == ("1 name comes twice in an archive, the last is read: 0.tar/1.png",)


# --- captions and names -----------------------------------------------------------------------------------------------


def test_a_caption_file_that_says_nan_is_none_for_every_command(tmp_path: Path, genin: Json) -> None:
    folder = folder_of(tmp_path / "src", "0.png", "1.png")
    (folder / "0.txt").write_text("nan\n")
    (folder / "1.txt").write_text("None")
    (folder / "1.caption").write_text("a frog")
    assert texts(folder) == {"0.png": None, "1.png": "a frog"}
    found = genin("data", "prepare", folder, "--captions", "sidecar", "--out", tmp_path / "out")
    assert found["captions_missing"] == 1


def test_lists_of_captions_are_joined_for_every_command(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "0.png", "1.png")
    (folder / "metadata.jsonl").write_text(
        '{"file_name": "0.png", "text": ["a frog", "green"]}\n{"file_name": "1.png", "text": []}\n'
    )
    assert texts(folder) == {"0.png": "a frog green", "1.png": None}


def test_absolute_paths_and_blanks_around_names_are_found(tmp_path: Path, genin: Json) -> None:
    folder = folder_of(tmp_path / "src", "0.png", "1.png", "sub/2.png")
    lines = [f"{folder}/0.png,a", " 1.png ,b", f"{folder}/sub/2.png,c"]
    (folder / "metadata.csv").write_text("\n".join(["file_name, text", *lines]) + "\n")
    assert texts(folder) == {"0.png": "a", "1.png": "b", "sub/2.png": "c"}
    found = genin("data", "prepare", folder, "--out", tmp_path / "out")
    assert found["dropped"] == [] and found["captions_from"] == {"metadata": 3}
    (folder / "metadata.csv").write_text(f"file_name,text\n{folder}/../other/0.png,a\n")
    with pytest.raises(InputError, match="outside the folder"):
        open_picture_set(folder)


def test_a_second_row_for_a_file_is_counted(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "0.png")
    (folder / "metadata.csv").write_text("file_name,text\n0.png,a\n0.png,b\n")
    assert any("1 row of" in note and "earlier row" in note for note in open_picture_set(folder).notes)


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [("a.apng", "PNG"), ("a.jpe", "JPEG"), ("a.pgm", "PPM"), ("a.mpo", "JPEG")])
def test_further_suffixes_of_pictures_are_read(tmp_path: Path, name: str, kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture(1).save(tmp_path / name, kind)
    assert texts(tmp_path) == {name: None}


def test_the_transparent_value_of_16_bit_grey_is_laid_on_the_background(tmp_path: Path) -> None:
    values = np.full((32, 32), 30_000, np.uint16)
    values[:16] = 7
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    content, chunk = file.getvalue(), b"tRNS" + struct.pack(">H", 7)
    place = content.index(b"IDAT") - 4
    added = struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "0.png").write_bytes(content[:place] + added + content[place:])
    pixels = np.asarray(read_picture(tmp_path / "0.png"))
    assert (pixels[:16] == 255).all() and (pixels[16:] == 117).all()


def test_pages_of_one_name_in_a_comic_are_two_pages(tmp_path: Path, genin: Json) -> None:
    (tmp_path / "src").mkdir()
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "src" / "a.cbz", "w") as comic:
        warnings.simplefilter("ignore")  # zipfile's own of the name
        for seed in (1, 2):
            comic.writestr("1.png", encoded(seed))
    found = genin("data", "prepare", tmp_path / "src", "--out", tmp_path / "out")
    assert found["kept"] == 2 and not found["dropped"]


def test_films_of_phones_and_camcorders_are_films(tmp_path: Path) -> None:
    from genin.distill.data.find import SourceOptions, find_pictures

    names = ("a.3gp", "b.MTS", "c.m2ts", "d.vob")
    for name in names:
        (tmp_path / name).write_bytes(b"")
    found = find_pictures([tmp_path], SourceOptions())
    assert [(entry.name, entry.kind) for entry in found.candidates] == [(name, "video") for name in names]

"""Dataset folders as WebDataset shards: the same pictures, captions and splits, wherever a folder is read."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from films import scene
from genin.cli import run
from genin.dataset.files import PictureError, read_picture
from genin.dataset.sets import open_picture_set
from genin.distill.data.dataset import ImageDataset
from genin.distill.inputs.sources import FolderSource
from genin.runtimes.errors import InputError

webdataset = pytest.importorskip("webdataset", reason="genin[data] is not installed")

Json = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, out = tmp_path_factory.mktemp("in") / "pictures", tmp_path_factory.mktemp("out") / "set"
    source.mkdir()
    for index in range(60):
        scene(index, size=(48, 40)).save(source / f"a picture of {chr(97 + index % 26)}{chr(97 + index // 26)}.png")
    assert run(["data", "prepare", str(source), "--licence", "CC0-1.0", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def shards(folder: Path) -> Path:
    out = folder.parent / "shards"
    assert run(["data", "shard", str(folder), "--out", str(out), "--per-shard", "20"]) == 0
    return out


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_shards_are_read_like_the_folder(folder: Path, shards: Path, split: Any) -> None:
    ours, theirs = ImageDataset.open(folder, split), ImageDataset.open(shards, split)
    assert len(ours) == len(theirs) > 0 and ours.licence == theirs.licence == "CC0-1.0"
    assert [row.text for row in ours.rows] == [row.text for row in theirs.rows]
    assert [row.columns for row in ours.rows] == [row.columns for row in theirs.rows]
    for index in (0, len(ours) - 1):
        assert np.array_equal(ours.picture(index, 32), theirs.picture(index, 32))
    assert len({ours.digest(), theirs.digest()}) == 2  # other names


def test_training_takes_them_as_a_source(shards: Path) -> None:
    source = FolderSource(shards)
    assert source.pictures(0, 4, 32).shape == (4, 32, 32, 3) and source.captions([0])[0].startswith("a of")
    assert source.held_out() is not None


def test_a_held_out_picture_without_a_caption_is_refused_at_once(folder: Path, tmp_path: Path) -> None:
    """Not taken for a set without held-out pictures."""
    copy = shutil.copytree(folder, tmp_path / "set")
    rows = [json.loads(line) for line in (copy / "metadata.jsonl").read_text("utf-8").splitlines()]
    del next(row for row in rows if row["split"] == "val")["text"]
    (copy / "metadata.jsonl").write_text("".join(json.dumps(row) + chr(10) for row in rows))
    with pytest.raises(InputError, match="has no caption"):
        FolderSource(copy)


def test_the_library_reads_them(folder: Path, shards: Path) -> None:
    names = [str(path) for path in sorted(shards.glob("train-*.tar"))]
    found = list(webdataset.WebDataset(names, shardshuffle=False, empty_check=False))
    rows = [row for row in open_picture_set(folder).rows if row.columns["split"] == "train"]
    assert [sample["txt"].decode() for sample in found] == [row.text for row in rows]
    assert found[0]["png"] == (folder / rows[0].file_name).read_bytes()
    assert json.loads(found[0]["json"])["source_file"] == rows[0].columns["source_file"]


def test_the_same_folder_gives_the_same_bytes(folder: Path, shards: Path, tmp_path: Path, genin: Json) -> None:
    report = genin("data", "shard", folder, "--out", tmp_path / "again", "--per-shard", "20")
    assert report["shards"]["train"] == 3
    assert {path.name: path.read_bytes() for path in shards.iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()
    }


def test_other_commands_know_them(shards: Path, tmp_path: Path, genin: Json) -> None:
    facts = genin("data", "inspect", shards, "--sheet", tmp_path / "sheet.png")
    assert facts["pictures"] == 60 and not facts["broken"] and facts["captions"]["present"] == 60
    assert genin("data", "edit", shards, "--to", tmp_path / "captions.csv")["rows"] == 60
    once_more = genin("data", "shard", shards, "--out", tmp_path / "larger", "--per-shard", "500")
    assert once_more["shards"] == {"train": 1, "val": 1, "test": 1}


def test_strange_archives(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with tarfile.open(tmp_path / "a" / "x.tar", "w") as tar:
        link = tarfile.TarInfo("0.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for name, content in (("1.png", b"no picture"), ("../../2.png", b"x"), ("1.json", b"[1")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(InputError, match=r"'1\.json' is not valid JSON"):
        open_picture_set(tmp_path / "a")
    with pytest.raises(PictureError, match="missing"):
        read_picture(tmp_path / "a" / "x.tar" / "0.png")
    with pytest.raises(PictureError, match="not a picture"):
        read_picture(tmp_path / "a" / "x.tar" / "1.png")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.tar").write_bytes(b"no archive at all" * 100)
    with pytest.raises(InputError, match="not a readable tar archive"):
        open_picture_set(tmp_path / "b")


def test_a_key_ends_at_the_first_dot(tmp_path: Path) -> None:
    """As in webdataset: `0.cover.png` and `0.txt` are one sample."""
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("0.cover.png", "0.txt"):
            member = tarfile.TarInfo(name)
            member.size = 5
            tar.addfile(member, io.BytesIO(b"a cat"))
    assert [row.text for row in open_picture_set(tmp_path).rows] == ["a cat"]


def test_bad_use_leaves_nothing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "shard", str(folder), "--out", str(folder)]) == 2
    assert "the output already exists" in capsys.readouterr().err
    broken = tmp_path / "set"
    broken.mkdir()
    (broken / "metadata.jsonl").write_text('{"file_name": "gone.png", "text": "x"}\n', encoding="utf-8")
    assert run(["data", "shard", str(broken), "--out", str(tmp_path / "out")]) == 2
    assert "the picture is missing" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def tar_of(path: Path, **files: bytes) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def picture(index: int = 0) -> bytes:
    stream = io.BytesIO()
    scene(index, size=(48, 40)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("fault", ["a byte of a header", "cut in a header", "cut in a picture"])
def test_a_damaged_archive_is_not_a_shorter_one(tmp_path: Path, fault: str) -> None:
    (tmp_path / "set").mkdir()
    archive = tar_of(tmp_path / "set" / "t.tar", **{f"{n}.png": picture(n) for n in range(5)})
    with tarfile.open(archive) as tar:
        header = tar.getmembers()[2].offset
    data = bytearray(archive.read_bytes())
    if fault == "a byte of a header":
        data[header + 150] ^= 0x55
    archive.write_bytes(data if fault == "a byte of a header" else data[: header + (100 if "header" in fault else 600)])
    with pytest.raises(InputError, match="not a readable tar archive"):
        open_picture_set(tmp_path / "set")


@pytest.mark.parametrize("end", [0, 512, 1024])
def test_an_archive_may_end_without_its_trailer(tmp_path: Path, end: int) -> None:
    (tmp_path / "set").mkdir()
    archive = tar_of(tmp_path / "set" / "t.tar", **{f"{n}.png": picture(n) for n in range(3)})
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
    last = members[-1].offset_data + -(-members[-1].size // 512) * 512
    archive.write_bytes(archive.read_bytes()[: last + end])
    assert len(open_picture_set(tmp_path / "set").rows) == 3


def test_names_with_dots_keep_their_captions(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    alone = {
        "img_1.5.png": picture(),
        "img_1.5.txt": b"one and a half",
        "b_2.0.png": picture(),
        "b_2.0.json": b'{"text": "two"}',
    }
    tar_of(tmp_path / "set" / "t.tar", **alone)
    assert [row.text for row in open_picture_set(tmp_path / "set").rows] == ["one and a half", "two"]
    (tmp_path / "rows").mkdir()
    rows = {f"b_2.{n}.json": json.dumps({"text": f"two {n}"}).encode() for n in (0, 1)}
    tar_of(tmp_path / "rows" / "t.tar", **{f"b_2.{n}.png": picture(n) for n in (0, 1)}, **rows)
    assert [row.text for row in open_picture_set(tmp_path / "rows").rows] == ["two 0", "two 1"]

"""Large sets: rows in mapped files are the rows that small sets have in memory."""

from __future__ import annotations

import json
import os
import pickle
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")

from genin.dataset import sets
from genin.dataset.row_table import RowTable
from genin.dataset.sets import open_picture_set
from genin.distill.data.dataset import ImageDataset
from genin.runtimes.errors import InputError

SPLITS = ("train", "val", "test", "held-out")


@pytest.fixture(autouse=True)
def every_set_is_large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sets, "LARGE_BYTES", 1)
    monkeypatch.setenv("GENIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("genin.dataset.row_table.BATCH", 7)


def dataset(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    folder.mkdir()
    (folder / "metadata.jsonl").write_text("\ufeff" + "".join(json.dumps(row) + "\r\n" for row in rows), "utf-8")
    for row in rows[:3]:
        (folder / str(row["file_name"])).touch()
    return folder


def rows_of(kind: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"file_name": f"{n}.png", "text": f"é 忍 {n}\u2028", "licence": "CC0", "seed": 2**63 + n, "emotion": ("calm", "sad")[n % 2]}
        for n in range(200)
    ]  # fmt: skip
    for number, row in enumerate(rows):
        if kind == "said":
            row["split"] = ("train", "Validation", "test")[number % 3]
        if kind == "few captions":
            row["text"] = f"caption {number % 5}"
        if kind == "gaps":
            row |= {"text": None} if number % 3 else {"source": f"https://example.org/{number}"}
    return rows[:30] if kind == "small" else rows


@pytest.mark.parametrize("kind", ["by caption", "said", "few captions", "gaps", "small"])
def test_a_large_set_has_the_rows_of_a_small_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    folder = dataset(tmp_path / "data", rows_of(kind))
    large = open_picture_set(folder)
    parts = {split: open_picture_set(folder, split) for split in SPLITS} if kind != "small" else {}
    mapped = ImageDataset.open(folder)
    assert isinstance(large.rows, RowTable) and isinstance(mapped.rows, RowTable)
    monkeypatch.setattr(sets, "LARGE_BYTES", 1 << 60)
    small = open_picture_set(folder)
    assert tuple(large.rows) == small.rows and large.notes == small.notes
    assert list(large.rows[5:20]) == list(small.rows[5:20]) and large.rows[-1] == small.rows[-1]
    for split, part in parts.items():
        assert tuple(part.rows) == open_picture_set(folder, split).rows
    plain = ImageDataset.open(folder)
    assert (mapped.columns, mapped.licence, len(mapped)) == (plain.columns, plain.licence, len(plain))
    assert {tuple(origin.items()) for origin in mapped.origins} == {tuple(origin.items()) for origin in plain.origins}
    assert mapped.without_caption() == plain.without_caption()


def test_rows_go_to_another_process_as_a_path(tmp_path: Path) -> None:
    large = open_picture_set(dataset(tmp_path / "data", rows_of("by caption")), "train")
    sent = pickle.dumps(large)
    assert len(sent) < 1000 and tuple(pickle.loads(sent).rows) == tuple(large.rows)
    assert list(pickle.loads(pickle.dumps(large.rows[3:9]))) == list(large.rows)[3:9]


def test_a_table_is_built_once_and_anew_when_the_file_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = dataset(tmp_path / "data", rows_of("by caption"))
    before = ImageDataset.open(folder).digest()
    monkeypatch.setattr("genin.dataset.row_table.build", lambda *_: pytest.fail("built again"))
    assert ImageDataset.open(folder).digest() == before
    monkeypatch.undo()
    monkeypatch.setattr(sets, "LARGE_BYTES", 1)
    monkeypatch.setenv("GENIN_CACHE", str(tmp_path / "cache"))
    with (folder / "metadata.jsonl").open("a") as file:
        file.write('{"file_name": "new.png", "text": "a ninja"}\n')
    assert len(open_picture_set(folder).rows) == 201 and ImageDataset.open(folder).digest() != before


@pytest.mark.parametrize(
    ("line", "said"),
    [('{"file_name": 3}', "line 201"), ("[]", "line 201 is not a picture's row"), ('{"file_name": "../a.png"}', "outside")],
)  # fmt: skip
def test_a_bad_row_is_named_and_nothing_is_kept(tmp_path: Path, line: str, said: str) -> None:
    folder = dataset(tmp_path / "data", rows_of("by caption"))
    with (folder / "metadata.jsonl").open("a") as file:
        file.write(line + "\n")
    for _ in range(2):
        with pytest.raises(InputError, match=said):
            open_picture_set(folder)
    assert not [path for path in (tmp_path / "cache" / "rows").iterdir() if path.is_dir()]


def test_other_encodings_are_read_in_memory(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "忍"}\n', "utf-16")
    rows = open_picture_set(folder).rows
    assert isinstance(rows, tuple) and rows[0].text == "忍"


def archives(folder: Path, count: int, *, pictures: bool = True) -> Path:
    folder.mkdir()
    for number in range(count):
        with tarfile.open(folder / f"t{number}.tar", "w") as tar:
            info = tarfile.TarInfo("x.png" if pictures else "x.txt")
            tar.addfile(info)
    return folder


@pytest.mark.parametrize("many", [1, 300])
def test_many_archives_follow_the_rules_of_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: int) -> None:
    monkeypatch.setattr(sets, "MANY_ARCHIVES", many)
    folder = archives(tmp_path / "set", 3)
    (folder / "packed.tar.gz").touch()
    found = open_picture_set(folder)
    assert isinstance(found.rows, RowTable) == (many == 1) and len(found.rows) == 3
    assert any("packed.tar.gz" in note for note in found.notes)
    (folder / "loose.png").touch()
    assert [row.file_name for row in open_picture_set(folder).rows] == ["loose.png"]
    with pytest.raises(InputError, match="the folder has no pictures"):
        open_picture_set(archives(tmp_path / "none", 2, pictures=False))


def test_a_blank_split_is_none_at_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"file_name": f"{n}.png", "text": f"caption {n}", "split": ("", "test")[n % 2]} for n in range(20)]
    folder = dataset(tmp_path / "set", rows)
    large = [row.file_name for row in open_picture_set(folder, "test").rows]
    monkeypatch.setattr(sets, "LARGE_BYTES", 1 << 40)
    assert large == [row.file_name for row in open_picture_set(folder, "test").rows] and len(large) == 10


def test_earlier_tables_of_a_set_go_when_nobody_opens_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = dataset(tmp_path / "set", rows_of("small"))
    other = open_picture_set(dataset(tmp_path / "other", rows_of("small"))).rows
    assert isinstance(other, RowTable)

    def changed(caption: str) -> Path:
        line = json.dumps({"file_name": "0.png", "text": caption}) + "\n"
        (folder / "metadata.jsonl").write_text(line)
        rows = open_picture_set(folder).rows
        assert isinstance(rows, RowTable)
        return rows.folder

    first, second = changed("a"), changed("bb")
    assert first.is_dir() and second.is_dir()  # a training may still open it
    for table in (first, second, other.folder):
        os.utime(table / "facts.json", (0, 0))
    RowTable(second)  # as a worker process does
    third = changed("ccc")
    assert not first.exists() and second.is_dir() and third.is_dir() and other.folder.is_dir()

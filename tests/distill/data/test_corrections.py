"""Corrections change what they name, and nothing else: captions by table or page, tags and words of all, rows stored anew."""

from __future__ import annotations

import datetime
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from genin.cli import run
from genin.dataset.sets import open_picture_set
from genin.distill.data.bulk import BulkEdit, edit_captions
from genin.distill.data.labels import labels_of, says
from genin.distill.data.prepare import with_trigger
from genin.distill.data.rows import read_rows

pytestmark = pytest.mark.unit
Json = Callable[..., dict[str, Any]]


def dataset(folder: Path, *rows: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    for row in rows:
        Image.new("RGB", (40, 40), "teal").save(folder / row["file_name"])
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def texts(folder: Path) -> list[str | None]:
    return [row.text for row in open_picture_set(folder).rows]


def corrected(tmp_path: Path, folder: Path, content: str, name: str = "t.jsonl") -> int:
    table = tmp_path / name
    table.write_text(content, encoding="utf-8")
    return run(["data", "edit", str(folder), "--from", str(table)])


def test_several_rows_of_a_picture_are_corrected_in_their_order_or_not_at_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = [{"file_name": "a.png", "text": "first"}, {"file_name": "a.png", "text": "second"}]
    folder = dataset(tmp_path / "set", *twice)
    assert corrected(tmp_path, folder, '{"file_name": "a.png", "text": "second, corrected"}\n') == 2
    assert "'a.png' has 1 row, and 2 in the dataset" in capsys.readouterr().err and texts(folder) == ["first", "second"]
    # What the page saves where only the second changed: it has all rows of that picture.
    assert corrected(tmp_path, folder, '{"file_name": "a.png"}\n{"file_name": "a.png", "text": "2nd"}\n') == 0
    assert texts(folder) == ["first", "2nd"]


@pytest.mark.parametrize("column", ["caption", "prompt", "Text"])
def test_a_removed_caption_does_not_come_back_from_another_column(tmp_path: Path, column: str) -> None:
    row = {"file_name": "a.png", column: "bad words"}
    folder = dataset(tmp_path / "set", row)
    assert corrected(tmp_path, folder, "file_name,text\na.png,\n", "t.csv") == 0 and texts(folder) == [None]
    both = dataset(tmp_path / "both", row | {"text": "bad words", "score": 1})
    assert edit_captions(both, BulkEdit(replace=[("bad words", "")])).emptied == 1 and texts(both) == [None]
    assert read_rows(both) == [{"file_name": "a.png", "score": 1}]


def test_other_columns_of_captions_stay_while_there_is_one(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "set", {"file_name": "a.png", "text": "a cat", "prompt": "cat, 4k"})
    edit_captions(folder, BulkEdit(replace=[("cat", "dog")]))
    assert read_rows(folder) == [{"file_name": "a.png", "text": "a dog", "prompt": "cat, 4k"}]


@pytest.mark.parametrize("blank", [None, "", "null"])
def test_a_caption_in_the_second_column_is_kept(tmp_path: Path, blank: str | None) -> None:
    """Where the first says nothing."""
    rows = [{"file_name": "a.png", "text": blank, "caption": "a cat"}, {"file_name": "b.png", "text": "a dog"}]
    folder = dataset(tmp_path / "set", *rows)
    assert edit_captions(folder, BulkEdit(replace=[("dog", "wolf")])).changed == 1
    assert texts(folder) == ["a cat", "a wolf"] and read_rows(folder)[0] == {"file_name": "a.png", "text": "a cat"}


def test_other_peoples_shards_keep_their_columns(tmp_path: Path) -> None:
    """Beside a caption in a text file the row may say a prompt, and where the picture came from."""
    (tmp_path / "set").mkdir()
    picture = io.BytesIO()
    Image.new("RGB", (40, 40)).save(picture, "PNG")
    own = {"prompt": "4k cat", "path": "cats/1.png", "n": 3}
    said = {"x.png": picture.getvalue(), "x.txt": b"a cat", "x.json": json.dumps(own).encode()}
    said |= {"y.png": picture.getvalue(), "y.json": b'{"caption": "a dog", "path": "dogs/1.png"}'}
    with tarfile.open(tmp_path / "set" / "t.tar", "w") as tar:
        for name, content in said.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    one, other = read_rows(tmp_path / "set")
    assert one == {"file_name": "t.tar/x.png", "text": "a cat", **own}
    assert other == {"file_name": "t.tar/y.png", "text": "a dog", "path": "dogs/1.png"}


def test_a_column_of_captions_by_another_name_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = dataset(tmp_path / "set", {"file_name": "a.png", "text": "old"})
    assert corrected(tmp_path, folder, "file_name,Caption\na.png,new\n", "t.csv") == 2
    assert "the column of captions is called 'Caption'" in capsys.readouterr().err and texts(folder) == ["old"]


def test_the_datasets_own_table_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = dataset(tmp_path / "set", {"file_name": "a.png", "text": "x", "split": "test", "group": "g"})
    before = (folder / "metadata.jsonl").read_bytes()
    assert run(["data", "edit", str(folder), "--to", str(folder / "metadata.jsonl")]) == 2
    assert "the dataset's own table" in capsys.readouterr().err
    assert (folder / "metadata.jsonl").read_bytes() == before


def test_a_table_in_capitals_does_not_hide_what_is_written(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "set", {"file_name": "a.png", "text": "a cat"})
    (folder / "metadata.jsonl").rename(folder / "Metadata.jsonl")
    assert edit_captions(folder, BulkEdit(replace=[("cat", "dog")])).changed == 1 and texts(folder) == ["a dog"]


def test_the_page_keeps_a_column_called_address(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "set", {"file_name": "a.png", "text": "x", "address": "5 Elm Street"})
    (folder / "dataset.json").write_text('{"columns": ["address"]}')
    assert run(["data", "edit", str(folder), "--to", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text("utf-8")
    assert 'value="5 Elm Street"' in page and 'src="set/a.png"' in page


def test_facts_without_columns_are_read(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "set", {"file_name": "a.png", "text": "x"})
    (folder / "dataset.json").write_text('{"columns": null}')
    assert run(["data", "edit", str(folder), "--to", str(tmp_path / "t.csv")]) == 0


@pytest.mark.parametrize(
    ("edit", "before", "after"),
    [
        (BulkEdit(remove_tags=["dog"]), "1,000 red birds, 1girl,solo", None),
        (BulkEdit(replace=[("red", "blue")]), "1,000 red birds, 1girl,solo", "1,000 blue birds, 1girl,solo"),
        (BulkEdit(remove_tags=["solo"]), "1,000 red birds, 1girl,solo", "1,000 red birds, 1girl"),
        (BulkEdit(remove_tags=["1girl"]), "2boys,1girl,3cats", "2boys, 3cats"),
        (BulkEdit(add_tags=["4k"]), "1,000 birds,solo", "1,000 birds,solo, 4k"),
        (BulkEdit(replace=[("bird", "")]), "a red bird, solo", "a red, solo"),
        (BulkEdit(replace=[("bird", "")]), "bird, , solo,", "solo"),
    ],
)
def test_tags_are_told_from_numbers(tmp_path: Path, edit: BulkEdit, before: str, after: str | None) -> None:
    folder = dataset(tmp_path / "set", {"file_name": "a.png", "text": before})
    assert edit_captions(folder, edit).changed == (after is not None)
    assert texts(folder) == [before if after is None else after]


def test_numbers_and_lists_survive_shards_and_folders_of_splits(tmp_path: Path, genin: Json) -> None:
    pytest.importorskip("webdataset")
    own = {"score": 0.93, "tags": ["x", "y"]}
    folder = dataset(tmp_path / "set", {"file_name": "a.png", "text": "a cat", **own})
    genin("data", "shard", folder, "--out", tmp_path / "once")
    genin("data", "shard", tmp_path / "once", "--out", tmp_path / "again")
    [row] = read_rows(tmp_path / "again")
    assert {key: row[key] for key in own} == own and row["text"] == "a cat"
    parts = tmp_path / "parts"
    dataset(parts / "train", {"file_name": "a.png", "text": "a cat", **own})
    dataset(parts / "test", {"file_name": "b.png", "text": "a cat", "split": "train", **own})
    edit_captions(parts, BulkEdit(replace=[("cat", "dog")]))
    rows = {row["file_name"]: row for row in read_rows(parts)}
    assert rows["test/b.png"] == {"file_name": "test/b.png", "text": "a dog", "split": "test", **own}
    assert rows["train/a.png"]["split"] == "train"


def test_what_json_cannot_hold_is_stored_as_near_as_can_be(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "set"
    folder.mkdir()
    Image.new("RGB", (40, 40)).save(folder / "a.png")
    day, number = datetime.date(2026, 11, 30), float("nan")
    table = {
        "file_name": ["a.png"],
        "text": ["a cat"],
        "day": [day],
        "blob": [b"\xff"],
        "score": [number],
        "n": [{"d": day}],
    }
    parquet.write_table(pyarrow.table(table), folder / "metadata.parquet")
    edit_captions(folder, BulkEdit(replace=[("cat", "dog")]))
    [row] = map(json.loads, (folder / "metadata.jsonl").read_text("utf-8").splitlines())
    assert row["text"] == "a dog" and row["day"] == "2026-11-30" and row["n"] == {"d": "2026-11-30"}
    assert row["blob"] is None and row["score"] is None
    half = dataset(tmp_path / "half", {"file_name": "a.png", "text": "cat \ud83d", "tag": "\udcff"})
    assert edit_captions(half, BulkEdit(replace=[("cat", "dog")])).changed == 1 and texts(half) == ["dog �"]
    assert run(["data", "edit", str(half), "--to", str(tmp_path / "t.csv")]) == 0


def test_labels_are_what_captions_say_word_for_word() -> None:
    assert says("a dark-blue robe", "dark-blue") and says("a dark blue robe", "dark-blue")
    assert says("an angry ninja!", "Ninja") and says("“ninja”; at dawn", "ninja") and says("in St. Louis", "st. louis")
    assert says("एक कला", "कला") and not says("एक कला", "कली") and says("a cat 😀", "😀") and not says("grade A", "A+")
    assert not says("an angry ninja", "sad") and not says("a cat", "-") and not says("inkwell", "ink")
    said, columns = {"hair": "red", "dress": "red"}, {"hair": ("black", "red"), "dress": ("blue", "red")}
    captions = ["colored hair, red dress", "Red  hair, blue dresses", "red, hair", "red-hair", "कला hair"]
    labels = labels_of(
        captions,
        [said] * 4 + [{"hair": "कला", "dress": "कला"}],
        {name: (*values, "कला") for name, values in columns.items()},
    )
    assert labels["hair"].tolist() == [0, 2, 0, 0, 3] and labels["dress"].tolist() == [2, 0, 0, 0, 0]
    assert labels_of(["a cat"], [{"emotion": "-"}], {"emotion": ("-", "happy")})["emotion"].tolist() == [0]


@pytest.mark.parametrize(
    ("trigger", "caption", "expected"),
    [
        ("ink", "inkwell on a desk", "ink inkwell on a desk"),
        ("ink", "ink on a desk", "ink on a desk"),
        ("ink", "ink, on a desk", "ink, on a desk"),
        ("ink", "ink", "ink"),
        ("moss style,", "moss style, a cat", "moss style, a cat"),
        ("ink", "", ""),
    ],
)
def test_a_trigger_is_a_word_of_its_own(trigger: str, caption: str, expected: str) -> None:
    assert with_trigger(trigger, caption) == expected

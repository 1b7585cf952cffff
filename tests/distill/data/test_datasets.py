"""Dataset folders as training reads them: splits, columns, captions, pixels."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from genin.dataset.files import read_picture
from genin.dataset.rows import PictureRow
from genin.dataset.splits import SPLITS, splits_by_chance
from genin.distill.data.dataset import ImageDataset, joined_origins, origins_of, origins_table, write_captions
from genin.distill.world.dataset import write_dataset
from genin.distill.world.scene import ATTRIBUTES
from genin.runtimes.errors import InputError


def write_folder(folder: Path, rows: Sequence[Mapping[str, Any]], size: tuple[int, int] = (24, 24)) -> Path:
    """One plain picture a row (made where its file is missing), and metadata.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, row in enumerate(rows):
        path = folder / row["file_name"]
        if not path.exists():
            Image.new("RGB", size, (index * 7 % 256, 90, 160)).save(path)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def rows(count: int, **columns: Sequence[str]) -> list[dict[str, str]]:
    named = {name: list(values) for name, values in columns.items()}
    return [
        {"file_name": f"{i:04d}.png", "text": f"thing number {i}"} | {n: v[i % len(v)] for n, v in named.items()}
        for i in range(count)
    ]


def test_metadata_that_is_not_text_is_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", rows(3))
    (folder / "metadata.jsonl").write_text('{"file_name": "0000.png", "text": 5}\n')
    with pytest.raises(InputError, match=r"line 1: 'text' is not text.*metadata\.jsonl"):
        ImageDataset.open(folder)
    (folder / "metadata.jsonl").write_bytes(b'{"file_name": "0000.png", "text": "\xff"}\n')
    with pytest.raises(InputError, match=r"not UTF-8.*metadata\.jsonl"):
        ImageDataset.open(folder)
    (folder / "metadata.jsonl").write_text(
        json.dumps({"file_name": "0000.png", "text": "a\u2028b"}, ensure_ascii=False)
    )
    assert ImageDataset.open(folder).caption(0) == "a\u2028b"


# --- splits -----------------------------------------------------------------------------------------------------------


def test_splits_by_chance_are_disjoint_complete_and_about_90_5_5(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", rows(400))
    parts = {split: ImageDataset.open(folder, split) for split in SPLITS}
    names = [row.file_name for part in parts.values() for row in part.rows]
    assert sorted(names) == [f"{i:04d}.png" for i in range(400)]
    assert len(parts["train"]) == pytest.approx(360, abs=20)
    assert min(len(parts["val"]), len(parts["test"])) > 8


def test_the_split_follows_the_caption_so_two_styles_of_one_thing_stay_together() -> None:
    captions = [f"Thing {i}" for i in range(200)]
    one = splits_by_chance(captions, [f"a{i}" for i in range(200)])
    other = splits_by_chance([f" thing  {i} ".upper() for i in range(200)], [f"b{i}" for i in range(200)])
    assert one == other and len(set(one)) == 3


def test_the_splits_are_pinned() -> None:
    """A change here would move pictures between the splits of everybody's data."""
    splits = splits_by_chance([f"thing {i}" for i in range(100)], [""] * 100)
    assert [i for i, split in enumerate(splits) if split == "val"] == VAL
    assert [i for i, split in enumerate(splits) if split == "test"] == TEST


VAL = [27, 46, 49, 61, 76, 77, 99]
TEST = [14, 25, 26, 47, 52, 56, 65, 96]


def test_captions_that_repeat_are_no_concepts_and_the_file_name_splits() -> None:
    names = [f"{i}.png" for i in range(300)]
    splits = Counter(splits_by_chance(["a photo of my dog"] * 300, names))
    assert splits["train"] == pytest.approx(270, abs=20) and len(splits) == 3


def test_a_small_set_is_all_training(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", rows(12))
    assert len(ImageDataset.open(folder)) == 12
    with pytest.raises(InputError, match=r"no pictures in its val split.*'split' column"):
        ImageDataset.open(folder, "val")


def test_a_split_column_decides(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", rows(9, split=("train", "validation", "test")))
    for split, first in (("train", "0000.png"), ("val", "0001.png"), ("test", "0002.png")):
        part = ImageDataset.open(folder, split)  # type: ignore[arg-type]
        assert len(part) == 3 and part.rows[0].file_name == first
    write_folder(folder, rows(9, split=("train", "holdout")))
    with pytest.raises(InputError, match="unknown split 'holdout'"):
        ImageDataset.open(folder)


def test_one_folder_a_split_is_read_too(tmp_path: Path) -> None:
    write_folder(tmp_path / "set" / "train", rows(50))
    write_folder(tmp_path / "set" / "validation", rows(5))
    assert len(ImageDataset.open(tmp_path / "set")) == 50
    assert len(ImageDataset.open(tmp_path / "set", "val")) == 5


def test_wrong_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown split 'dev'"):
        ImageDataset.open(tmp_path, "dev")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no pictures"):
        ImageDataset.open(tmp_path)
    for outside in ("../secret.png", "/secret.png"):
        (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": outside}), encoding="utf-8")
        with pytest.raises(InputError, match="line 1 names a file outside the folder"):
            ImageDataset.open(tmp_path)
    folder = write_folder(tmp_path / "set", rows(3))
    (folder / "dataset.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"not valid JSON.*dataset\.json"):
        ImageDataset.open(folder)


# --- columns and licence ----------------------------------------------------------------------------------------------


def test_attribute_columns_are_the_known_ones_with_few_values(tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path / "set",
        rows(
            80,
            outfit=("red", "blue"),
            hair=("black",),  # says nothing
            character=[f"hero {i}" for i in range(80)],  # names, not classes
            source=("a", "b"),
            licence=("MIT", "CC0-1.0"),
        ),
    )
    data = ImageDataset.open(folder)
    assert data.columns == {"outfit": ("blue", "red")}
    assert data.row(0) == {"outfit": "red"}
    assert data.licence == "CC0-1.0, MIT"


def test_dataset_json_names_columns_and_licence(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", rows(6, outfit=("red", "blue"), group=("a", "b", "")))
    (folder / "dataset.json").write_text(json.dumps({"columns": ["group"], "licence": "MIT"}), encoding="utf-8")
    data = ImageDataset.open(folder)
    assert data.columns == {"group": ("a", "b", "none")}
    assert data.row(2) == {"group": "none"}
    assert data.licence == "MIT"


def test_the_columns_are_those_of_the_whole_folder_in_every_split(tmp_path: Path) -> None:
    listed = rows(60, split=("train", "train", "test"), outfit=("red", "red", "blue"))
    data = ImageDataset.open(write_folder(tmp_path / "set", listed))
    assert data.columns["outfit"] == ("blue", "red")


def test_a_rendered_world_has_its_attributes(tmp_path: Path) -> None:
    write_dataset(tmp_path / "world", split="train", count=30, size=32, seed=0)
    data = ImageDataset.open(tmp_path / "world")
    assert set(data.columns) == set(ATTRIBUTES) and data.licence == "Apache-2.0"
    assert data.row(3)["outfit"] in ATTRIBUTES["outfit"]


def test_training_takes_the_folder_as_a_source(tmp_path: Path) -> None:
    from genin.distill.inputs.sources import open_source

    folder = write_folder(tmp_path / "set", rows(8, outfit=("red", "blue")))
    source = open_source(str(folder), count=8)
    assert source.pictures(6, 4, 16).shape == (4, 16, 16, 3)  # wraps round
    labels = source.labels(["a red thing", "a thing"], [source.row(0), source.row(1)])
    assert labels["outfit"].tolist() == [2, 0]


# --- captions and pixels ----------------------------------------------------------------------------------------------


def test_captions_and_the_way_to_missing_ones(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", [{"file_name": "a.png", "text": "a"}, {"file_name": "b.png"}])
    data = ImageDataset.open(folder)
    assert data.caption(0) == "a"
    with pytest.raises(
        InputError, match=r"no caption: .*b\.png; write them on a page: genin data edit .* --to captions\.html"
    ):
        data.caption(1)
    assert write_captions(Path("my set")).endswith("genin data caption 'my set'")


def test_pictures_are_cut_square_and_laid_on_white(tmp_path: Path) -> None:
    wide = np.zeros((20, 60, 4), np.uint8)
    wide[:, :20], wide[:, 20:40], wide[:, 40:] = (255, 0, 0, 255), (0, 0, 0, 0), (0, 0, 255, 255)
    (tmp_path / "set").mkdir()
    Image.fromarray(wide).save(tmp_path / "set" / "a.png")
    picture = ImageDataset.open(write_folder(tmp_path / "set", [{"file_name": "a.png"}])).picture(0, 10)
    assert picture.shape == (10, 10, 3) and picture.dtype == np.uint8
    assert (picture[:, 2:8] > 250).all()  # red and blue lie outside the cut, nothing black was let through


def test_clean_pictures_read_as_references_do(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 4), np.uint8)
    (tmp_path / "set").mkdir()
    Image.fromarray(pixels).save(tmp_path / "set" / "a.png")
    picture = ImageDataset.open(write_folder(tmp_path / "set", [{"file_name": "a.png"}])).picture(0, 32)
    assert np.array_equal(picture, np.asarray(read_picture(tmp_path / "set" / "a.png")))


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", rows(2))
    (folder / "0001.png").write_bytes(b"\x89PNG no")
    with pytest.raises(InputError, match=r"not a picture.*0001\.png"):
        ImageDataset.open(folder).picture(1, 16)


@settings(max_examples=30)
@given(st.lists(st.text(min_size=1, max_size=30), min_size=40, max_size=80))
def test_any_captions_split_the_same_way_in_any_order(captions: list[str]) -> None:
    names = [str(i) for i in range(len(captions))]
    forward = splits_by_chance(captions, names)
    assert splits_by_chance(captions[::-1], names[::-1]) == forward[::-1]


def test_whose_pictures_they_are_is_counted_and_stays_short() -> None:
    few = [PictureRow(f"{i}.png", columns={"source": f"blog {i % 2}", "licence": "CC0"}) for i in range(9)]
    assert origins_of(few, {"licence": "MIT"}) == (
        {"source": "blog 0", "rights": "", "licence": "CC0", "pictures": 5},
        {"source": "blog 1", "rights": "", "licence": "CC0", "pictures": 4},
    )
    many = [PictureRow(f"{i}.png", columns={"source": f"address {i}", "rights": f"r {i % 3}"}) for i in range(900)]
    found = origins_of(many, {"licence": "MIT"})
    assert sorted(origin["rights"] for origin in found) == ["r 0", "r 1", "r 2"]
    assert {(origin["source"], origin["pictures"]) for origin in found} == {("900 different ones", 300)}
    assert joined_origins([{"source": "a", "pictures": "5²"}])[0]["pictures"] == 0
    joined = joined_origins(found, found, few and origins_of(few, {}))
    assert len(joined) == 5 and sum(origin["pictures"] for origin in joined) == 909
    assert (
        origins_table([{"source": "a|b", "licence": None, "pictures": 0}])[2]
        == "| a\\|b | not said | not said | not counted |"
    )

"""Parquet files and public sets of the hub through `genin data prepare`: files that pyarrow writes, a hub without a network."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fake_hub import FakeHub
from genin.cli import run
from genin.dataset.files import read_picture
from genin.dataset.sets import open_picture_set
from genin.dataset.text import clean
from genin.distill.data.hub import card_licence, fetch, wanted_files
from genin.distill.data.parquet import open_table, rows_of
from genin.runtimes.errors import InputError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
Json = Callable[..., dict[str, Any]]
NAME = "somebody/ninja-captions"


def picture(seed: int, size: int = 40) -> Image.Image:
    """A smooth random picture: no two seeds are near."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)


def png(seed: int, size: int = 40) -> bytes:
    file = io.BytesIO()
    picture(seed, size).save(file, "PNG")
    return file.getvalue()


def cell(seed: int, path: str | None = None) -> dict[str, Any]:
    return {"bytes": png(seed), "path": path}


def write(
    path: Path, columns: Mapping[str, Sequence[Any]], rows: int = 1000, features: Mapping[str, Any] | None = None
) -> Path:
    """A parquet file of these columns; `features` is what the datasets library notes about them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(dict(columns))
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=rows)
    return path


def captioned(path: Path, seeds: Sequence[int], rows: int = 1000) -> Path:
    texts = [f"a ninja number {seed}" for seed in seeds]
    return write(path, {"image": [cell(seed) for seed in seeds], "text": texts}, rows)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]


def reasons(report: dict[str, Any]) -> dict[str, str]:
    return {Path(entry["path"]).name: entry["reason"] for entry in report["dropped"]}


# --- tables ----------------------------------------------------------------------------------------------------------


def test_rows_become_pictures_with_their_captions(tmp_path: Path, genin: Json) -> None:
    source = captioned(tmp_path / "set" / "data" / "train-00000-of-00001.parquet", range(7), rows=3)
    report = genin("data", "prepare", source.parent.parent, "--out", tmp_path / "out")
    assert report["kept"] == 7 and report["taken_from"] == {"table": 7} and report["captions_from"] == {"metadata": 7}
    for seed, row in enumerate(lines(tmp_path / "out")):
        assert row["text"] == f"a ninja number {seed}"
        assert row["source_file"] == f"data/train-00000-of-00001.parquet, row {seed}"
        assert np.array_equal(read_picture(tmp_path / "out" / row["file_name"]), picture(seed))
    alone = genin("data", "prepare", source, "--out", tmp_path / "alone")
    assert alone["kept"] == 7, "the file itself is a source too"


def test_other_names_and_kinds_of_columns(tmp_path: Path, genin: Json) -> None:
    columns = {
        "thumbnail": [png(100 + seed) for seed in range(4)],
        "pixels": pa.array([png(seed) for seed in range(4)], pa.large_binary()),
        "blip": ["a fox", "a crane", None, "a toad"],
        "tags": [["red", "happy"], [], ["blue"], None],
        "village": [0, 1, 1, -1],
        "embedding": [[0.5] * 8] * 4,
        "license": ["MIT", "", "CC0-1.0", None],
    }
    features = {"village": {"names": ["leaf", "sand"], "_type": "ClassLabel"}}
    source = write(tmp_path / "set" / "a.parquet", columns, features=features)
    options = ("--file-column", "pixels", "--caption-column", "blip,tags,village", "--columns", "village")
    report = genin("data", "prepare", source.parent, *options, "--out", tmp_path / "out")
    rows = lines(tmp_path / "out")
    assert [row["text"] for row in rows] == ["a fox red happy leaf", "a crane sand", "blue sand", "a toad"]
    assert [row.get("village") for row in rows] == ["leaf", "sand", "sand", None]
    assert [row.get("licence") for row in rows] == ["MIT", None, "CC0-1.0", None]
    assert np.array_equal(read_picture(tmp_path / "out" / rows[1]["file_name"]), picture(1))
    assert not any("embedding" in note or "thumbnail" in note for note in report["notes"])


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (
            {"text": ["a"], "label": [1]},
            "no column holds pictures (--file-column names it; the columns are: text, label)",
        ),
        ({"a": [b"x"], "b": [b"y"]}, "several columns could hold the pictures: a, b (--file-column names it"),
    ],
)
def test_tables_without_one_column_of_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], columns: dict[str, Any], says: str
) -> None:
    source = write(tmp_path / "a.parquet", columns)
    assert run(["data", "prepare", str(source), "--out", str(tmp_path / "out")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unknown_column_lists_those_of_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = captioned(tmp_path / "a.parquet", range(2))
    assert run(["data", "prepare", str(source), "--caption-column", "tekst", "--out", str(tmp_path / "out")]) == 2
    assert "no metadata has a column 'tekst'; did you mean text?" in capsys.readouterr().err


def test_rows_that_cannot_be_used_are_named(tmp_path: Path, genin: Json) -> None:
    cells = [cell(0), None, {"bytes": None, "path": "cat.png"}, {"bytes": b"junk", "path": None}, cell(0), cell(1)]
    cells.append({"bytes": png(2)[:300], "path": "half.png"})
    source = write(tmp_path / "a.parquet", {"image": cells, "text": [f"no {n}" for n in range(7)]}, rows=2)
    report = genin("data", "prepare", source, "--out", tmp_path / "out")
    assert [row["text"] for row in lines(tmp_path / "out")] == ["no 0", "no 5"]
    said = reasons(report)
    assert said["a.parquet, row 1"] == "the row has no picture"
    assert said["a.parquet, row 2"] == "the row names a file but does not contain it"
    assert said["a.parquet, row 3"].startswith("not a picture")
    assert said["a.parquet, row 4"] == f"exact duplicate of {source}, row 0"
    assert said["a.parquet, row 6"].startswith("cannot be read")


def test_a_text_that_is_not_utf_8_costs_its_row_alone(tmp_path: Path, genin: Json) -> None:
    source = captioned(tmp_path / "a.parquet", range(4))
    pq.write_table(pq.read_table(source), source, compression="none", use_dictionary=False)
    source.write_bytes(source.read_bytes().replace(b"a ninja number 2", b"a ninja \xff\xfember 2"))
    report = genin("data", "prepare", source, "--out", tmp_path / "out")
    assert reasons(report) == {"a.parquet, row 2": "a text of the row is not UTF-8"}
    assert [row["text"] for row in lines(tmp_path / "out")] == [f"a ninja number {n}" for n in (0, 1, 3)]


def test_a_damaged_table_gives_what_can_be_read(tmp_path: Path, genin: Json) -> None:
    folder = tmp_path / "set"
    source = captioned(folder / "b.parquet", range(40), rows=10)
    start = pq.ParquetFile(source).metadata.row_group(2).column(0).data_page_offset
    content = bytearray(source.read_bytes())
    content[start : start + 2000] = b"\xff" * 2000
    source.write_bytes(content)
    (folder / "a.parquet").write_bytes(bytes(content[:-100]))
    report = genin("data", "prepare", folder, "--out", tmp_path / "out")
    said = reasons(report)
    assert said["a.parquet"].startswith("not a parquet file, or truncated")
    assert said["b.parquet"].startswith("row group 2 cannot be read")
    numbers = {int(row["text"].split()[-1]) for row in lines(tmp_path / "out")}
    assert numbers == {*range(20), *range(30, 40)}


def test_the_name_in_a_row_is_a_caption_where_there_is_no_other(tmp_path: Path, genin: Json) -> None:
    cells = [cell(0, "foxes/red_fox_02.png"), cell(1, "IMG_0001.png"), cell(2)]
    source = write(tmp_path / "train.parquet", {"image": cells})
    report = genin("data", "prepare", source, "--out", tmp_path / "out")
    assert [row.get("text") for row in lines(tmp_path / "out")] == ["foxes red fox", None, None]
    assert report["captions_missing"] == 2 and report["captions_from"] == {"name": 1}


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("data/train-00000-of-00001", "data/test-00000-of-00001"), {"train": 50, "test": 50}),
        (("default/train/0000", "default/validation/0000"), {"train": 50, "val": 50}),
        (("train_0", "Test2017"), {"train": 50, "test": 50}),
        (("data/train-00000-of-00002", "data/train-00001-of-00002"), None),
        (("a", "b"), None),
    ],
)
def test_names_of_tables_say_the_split_where_there_are_several(
    tmp_path: Path, genin: Json, names: tuple[str, str], splits: dict[str, int] | None
) -> None:
    for number, name in enumerate(names):
        captioned(tmp_path / "set" / f"{name}.parquet", range(50 * number, 50 * number + 50))
    found = genin("data", "prepare", tmp_path / "set", "--out", tmp_path / "out")["splits"]
    if splits is not None:
        assert found == splits
    else:  # a set that is all "train" is divided by chance
        assert found["train"] >= 75 and set(found) == {"train", "val", "test"}


def test_a_large_row_group_is_never_all_in_memory(tmp_path: Path) -> None:
    """100 MB of rows in one row group; what Arrow holds of them at a time is a fraction."""
    rows, size = 100, 1 << 20
    content = np.random.default_rng(0).bytes(size)
    table = pa.table({"image": pa.array([content] * rows, pa.binary()), "text": ["a"] * rows})
    path = tmp_path / "large.parquet"
    pq.write_table(table, path, write_batch_size=8, use_dictionary=False, compression="NONE", data_page_size=1)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "import pyarrow\n"
        "from genin.distill.data.parquet import open_table, rows_of\n"
        "group, = open_table(Path(sys.argv[1])).groups\n"
        "count = sum(len(row.content) for row in rows_of(Path(sys.argv[1]), group))\n"
        "print(count, pyarrow.default_memory_pool().max_memory())\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    read, held = map(int, done.stdout.split())
    assert read == rows * size
    assert held < 60 * size, f"{held / 1e6:.0f} MB at a time"


def test_a_stopped_run_goes_on_by_row_groups(
    tmp_path: Path, genin: Json, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import genin.distill.data.parquet as tables

    source = captioned(tmp_path / "a.parquet", range(20), rows=5)
    whole = genin("data", "prepare", source, "--out", tmp_path / "whole")

    def stopped(path: Path, group: tables.RowGroup) -> Any:
        if group.number == 3:
            raise failure
        return rows_of(path, group)

    failure: BaseException = OSError(28, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(tables, "rows_of", stopped)
        assert run(["data", "prepare", str(source), "--out", str(tmp_path / "out")]) == 1
        failure = KeyboardInterrupt()
        assert run(["data", "prepare", str(source), "--out", str(tmp_path / "out")]) == 130
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        said
        == f"genin: interrupted; what has been read is kept in {tmp_path / '.out.partial'}; the same command goes on from there"
    )
    again = genin("data", "prepare", source, "--out", tmp_path / "out")
    assert again["resumed"] == 3 and again["kept"] == whole["kept"] == 20
    assert lines(tmp_path / "out") == lines(tmp_path / "whole")


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.none() | st.text(max_size=30), min_size=1, max_size=12),
    rows=st.integers(1, 5),
)
def test_every_row_comes_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str | None], rows: int
) -> None:
    path = tmp_path_factory.mktemp("t") / "a.parquet"
    texts = [None if text is None else text.encode("utf-8", "replace").decode() for text in texts]
    table = {"image": [{"bytes": bytes([n]), "path": None} for n in range(len(texts))]}
    write(path, {**table, "text": pa.array(texts, pa.string())}, rows)
    found = [row for group in open_table(path).groups for row in rows_of(path, group)]
    assert [row.number for row in found] == list(range(len(texts)))
    assert [row.content for row in found] == [bytes([n]) for n in range(len(texts))]
    assert [row.values["text"] for row in found] == texts


# --- the hub ---------------------------------------------------------------------------------------------------------

CARD = "---\nlicense: cc-by-nc-4.0\ntask_categories:\n- text-to-image\n---\n# Ninja captions\n"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHub:
    pytest.importorskip("huggingface_hub")
    monkeypatch.chdir(tmp_path)
    return FakeHub(monkeypatch, tmp_path / "cache")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    for number in range(2):
        name = f"data/train-0000{number}-of-00002.parquet"
        captioned(folder / name, range(10 * number, 10 * number + 10))
    (folder / "README.md").write_text(CARD)
    (folder / "loader.py").write_text("raise SystemExit")
    (folder / ".gitattributes").write_text("")
    return folder


def test_a_public_set_by_its_name(hub: FakeHub, repository: Path, tmp_path: Path, genin: Json) -> None:
    hub.add(repository, NAME, "dataset")
    report = genin("data", "prepare", NAME, "--out", tmp_path / "out")
    assert report["kept"] == 20 and report["licence"] == "cc-by-nc-4.0" and not report["notes"]
    assert {(row["source"], row["licence"]) for row in lines(tmp_path / "out")} == {(NAME, "cc-by-nc-4.0")}
    assert f"| {NAME} | not said | cc-by-nc-4.0 | 20 |" in (tmp_path / "out" / "README.md").read_text()
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["options"]["sources"] == [NAME]
    (_, asked), *_ = hub.calls
    assert set(asked) == {"README.md", *(f"data/train-0000{n}-of-00002.parquet" for n in range(2))}


def test_a_set_of_pictures_with_metadata(hub: FakeHub, tmp_path: Path, genin: Json) -> None:
    folder = tmp_path / "repository"
    (folder / "train").mkdir(parents=True)
    rows = []
    for seed in range(3):
        picture(seed).save(folder / "train" / f"{seed}.png")
        rows.append({"file_name": f"{seed}.png", "text": f"ninja {seed}", "license": "MIT" if seed else ""})
    (folder / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: ninja-1.0\n---\n")
    hub.add(folder, NAME, "dataset", revision="v2")
    report = genin("data", "prepare", f"{NAME}@v2", "--out", tmp_path / "out")
    assert [row["text"] for row in lines(tmp_path / "out")] == ["ninja 0", "ninja 1", "ninja 2"]
    assert [row["licence"] for row in lines(tmp_path / "out")] == ["ninja-1.0", "MIT", "MIT"], "a row knows better"
    assert report["licence"] == "MIT, ninja-1.0"
    assert lines(tmp_path / "out")[0]["source"] == f"{NAME}@v2"


def test_what_is_excluded_is_not_downloaded(hub: FakeHub, repository: Path, tmp_path: Path, genin: Json) -> None:
    hub.add(repository, NAME, "dataset")
    report = genin("data", "prepare", NAME, "--exclude", "train-00001-*", "--out", tmp_path / "out")
    assert report["kept"] == 10
    assert not any("train-00001" in file for _, asked in hub.calls for file in asked)


def test_a_public_set_beside_your_own(hub: FakeHub, repository: Path, tmp_path: Path, genin: Json) -> None:
    """A set of the hub, parquet files, pictures and a comic in one call; each keeps its own licence."""
    hub.add(repository, NAME, "dataset")
    (tmp_path / "fanart").mkdir()
    for seed in range(100, 104):
        picture(seed).save(tmp_path / "fanart" / f"sly_fox_{seed}.png")
    tables = captioned(tmp_path / "tables" / "x.parquet", range(200, 203)).parent
    with zipfile.ZipFile(tmp_path / "comic.cbz", "w") as archive:
        archive.writestr("1.png", png(300, 64))
    report = genin(
        *("data", "prepare", NAME, tables, tmp_path / "fanart", tmp_path / "comic.cbz", "--out", tmp_path / "out"),
        *("--licence", "CC BY-NC 4.0", "--source", "fan art by many"),
    )
    assert report["taken_from"] == {"table": 23, "picture": 4, "comic": 1}
    assert report["licence"] == "CC BY-NC 4.0, cc-by-nc-4.0"
    found = {(row["source"], row["licence"]) for row in lines(tmp_path / "out")}
    assert found == {(NAME, "cc-by-nc-4.0"), ("fan art by many", "CC BY-NC 4.0")}


def test_without_a_network_it_says_what_to_put_where(
    hub: FakeHub, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.online = False
    assert run(["data", "prepare", NAME, "--size", "32", "--out", "out"]) == 2
    said = capsys.readouterr().err
    assert f"'{NAME}' is not a local path, and the hub cannot be reached" in said
    assert f"huggingface-cli download {NAME} --repo-type dataset --local-dir ./ninja-captions" in said
    repository.rename(tmp_path / "ninja-captions")
    command = shlex.split(said.split("; and run: ")[1])
    assert command == ["genin", "data", "prepare", "./ninja-captions", "--size", "32", "--out", "out"]
    assert run(command[1:]) == 0
    assert {row["licence"] for row in lines(tmp_path / "out")} == {"cc-by-nc-4.0"}, "the card came along"


def test_a_cached_set_serves_if_it_is_whole(hub: FakeHub, repository: Path) -> None:
    hub.add(repository, NAME, "dataset")
    where = fetch(NAME)
    hub.online = False
    assert fetch(NAME) == where
    (where / "data" / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(InputError, match=r"only partly in the hub's cache .*no data/train-00001-of-00002.parquet"):
        fetch(NAME)


@pytest.mark.parametrize(
    ("refused", "says"), [(True, "accept its terms at https://huggingface.co/datasets/"), (False, "nor on")]
)
def test_gated_and_unknown_sets(
    hub: FakeHub, repository: Path, capsys: pytest.CaptureFixture[str], refused: bool, says: str
) -> None:
    if refused:
        hub.add(repository, NAME, "dataset")
        hub.gated.add(NAME)
    assert run(["data", "prepare", NAME, "--out", "out"]) == 2
    assert says in capsys.readouterr().err


def test_sets_of_nothing_that_can_be_read_point_to_the_hubs_own_copy(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    for name in ("README.md", "images.zip", "loader.py"):
        (tmp_path / "r" / name).write_text("x")
    hub.add(tmp_path / "r", NAME, "dataset")
    with pytest.raises(InputError, match=rf"no parquet files and no pictures.*{NAME}@refs/convert/parquet"):
        fetch(NAME)
    assert not hub.calls


def test_which_files_are_wanted() -> None:
    wanted = ["README.md", "a.parquet", "b/c.PNG", "b/c.txt", "b/metadata.jsonl", "ep.mkv", "v.cbz"]
    others = [".gitattributes", ".git/a.png", "x.py", "a.tar", "dataset_infos.json", "b/README.md", "big.arrow"]
    assert wanted_files(sorted([*wanted, *others])) == sorted(wanted)


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        (CARD, "cc-by-nc-4.0"),
        ("---\nlicense:\n- mit\n- cc0-1.0\n---\n", "mit, cc0-1.0"),
        ("---\nlicense: other\nlicense_link: LICENSE\n---\n", "LICENSE"),
        ("---\nlicense: unknown\n---\n", None),
        ("---\nlanguage: en\n---\n", None),
        ("# no front matter\nlicense: mit\n", None),
        ("---\na rule, then text\n", None),
        (None, None),
    ],
)
def test_what_a_card_says(tmp_path: Path, card: str | None, licence: str | None) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert card_licence(tmp_path) == licence


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ["teacher", "train", "--out", "t"],
        ["teacher", "finetune", "--out", "t"],
        ["distill", "--student", "bk-small", "--out", "t"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
@pytest.mark.parametrize("kind", ["hub", "folder", "file"])
def test_training_says_what_to_prepare_first(
    hub: FakeHub, repository: Path, capsys: pytest.CaptureFixture[str], command: list[str], kind: str
) -> None:
    """And what it says can be run, and gives what it then names."""
    pytest.importorskip("torch")
    hub.add(repository, NAME, "dataset")
    data = {"hub": NAME, "folder": "repository", "file": "repository/data/train-00000-of-00002.parquet"}[kind]
    assert run([*command, "--data", data]) == 2
    said = capsys.readouterr().err
    first, then = said.split("first: ")[1].split("; then give ")
    assert not hub.calls, "nothing is downloaded silently"
    assert run(shlex.split(first)[1:]) == 0
    assert open_picture_set(Path(then.strip())).captions()


def test_texts_are_one_clean_line(tmp_path: Path, genin: Json) -> None:
    text = "a\tfox\r\nby  the\x00sea é"
    source = write(tmp_path / "a.parquet", {"image": [cell(0)], "text": [text]})
    genin("data", "prepare", source, "--out", tmp_path / "out")
    assert lines(tmp_path / "out")[0]["text"] == clean(text) == "a fox by the sea é"

"""Names, links, hidden files and tables of foreign folders: one rule, whichever command reads them."""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genin.cli import run
from genin.dataset.folders import FileNames, Tree, leads_outside, walk
from genin.dataset.sets import load_pictures, open_picture_set, picture_batches, usual_size
from genin.dataset.tables import is_null, read_table, text_of
from genin.distill.inputs.sources import FolderSource
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


def picture(seed: int, side: int = 32) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)


def folder_of(path: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(path / name)
    return path


def encoded(seed: int) -> bytes:
    file = io.BytesIO()
    picture(seed).save(file, "PNG")
    return file.getvalue()


def captions(folder: Path) -> dict[str, str | None]:
    return {row.file_name: row.text for row in open_picture_set(folder).rows}


def prepared(folder: Path) -> dict[str, str | None]:
    return {row.columns["source_file"]: row.text for row in open_picture_set(folder).rows}


# --- names ------------------------------------------------------------------------------------------------------------


def test_a_name_is_found_in_any_spelling_and_exactly_first() -> None:
    nfc, nfd = (unicodedata.normalize(form, "café.png") for form in ("NFC", "NFD"))
    assert FileNames([nfd]).find(nfc) == nfd and FileNames([nfc, nfd]).find(nfd) == nfd
    assert FileNames(["A.PNG"]).find("a.png") == "A.PNG" and FileNames(["A.PNG", "a.png"]).find("a.png") == "a.png"
    assert FileNames(["A.png", "a.PNG"]).find("a.png") is None


def test_paths_of_other_systems_are_found_and_stay_inside(tmp_path: Path) -> None:
    folder_of(tmp_path, "train/0.png", "a\\b.png")
    tree = Tree(tmp_path)
    assert tree.find("train\\0.png") == "train/0.png" == tree.find("./Train/0.PNG")
    assert tree.find("a\\b.png") == "a\\b.png" and tree.find("none/0.png") is None
    assert all(map(leads_outside, ("../a", "..\\a", "/a", "C:\\a", "\\\\server\\a"))) and not leads_outside("a/b")


def test_links_are_followed_once_and_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    top, far = folder_of(tmp_path / "top", "own.png", "real/0.png"), folder_of(tmp_path / "far", "1.png")
    for name, target in {"a": top / "real", "far": far, "loop": Path(), "nowhere": Path("none")}.items():
        (top / name).symlink_to(target)
    (far / "back").symlink_to(top)
    (top / ".hidden.png").write_bytes(b"x")
    os.mkfifo(top / "pipe.png")
    found = walk(top)
    names = [path.relative_to(top).as_posix() for path in found.files]
    assert names == ["far/1.png", "nowhere", "own.png", "real/0.png"] and found.hidden == 1
    assert {path.name for path, _ in found.unread} == {"a", "loop", "back", "pipe.png"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_links_to_pipes_are_named_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    folder = folder_of(tmp_path / "in", "0.png")
    for name in ("volume.cbz", "rows.parquet", "metadata.csv"):
        (folder / name).symlink_to(tmp_path / "pipe")
    (folder / "gone.png").symlink_to(tmp_path / "nowhere")
    found = walk(folder)
    assert [path.name for path in found.files] == ["0.png", "gone.png"]
    assert {path.name for path, reason in found.unread if "not a regular file" in reason} == {
        "volume.cbz",
        "rows.parquet",
        "metadata.csv",
    }


def test_a_folder_without_the_right_to_read_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = folder_of(tmp_path, "0.png", "locked/1.png")
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = walk(top)
    assert [path.name for path in found.files] == ["0.png"]
    assert found.unread == [(top / "locked", "the folder cannot be read (Permission denied)")]


def test_a_folder_that_may_be_listed_and_not_entered_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = folder_of(tmp_path, "0.png", "closed/1.png")
    is_dir = Path.is_dir

    def refuse(path: Path) -> bool:
        if path.parent.name == "closed":
            raise PermissionError(13, "Permission denied")
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", refuse)
    found = walk(top)
    assert [path.name for path in found.files] == ["0.png"]
    assert found.unread == [(top / "closed" / "1.png", "cannot be read (Permission denied)")]


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("mark", ["", "\ufeff", "sep=\n"])
def test_csv_of_any_spreadsheet(tmp_path: Path, delimiter: str, mark: str) -> None:
    text = (
        '{mark}file_name{d}text\r\n0.png{d}"a red; calm, {d} ninja"\r\n1.png{d}"two\r\nlines"\r\n2.png{d}'
        + "x" * 200_000
    )
    mark = mark.replace("sep=", f"sep={delimiter}")
    (tmp_path / "t.csv").write_text(text.format(mark=mark, d=delimiter), encoding="utf-8", newline="")
    table = read_table(tmp_path / "t.csv")
    rows = {row.values["file_name"]: row.values["text"] for row in table.rows}
    assert rows == {"0.png": f"a red; calm, {delimiter} ninja", "1.png": "two\r\nlines", "2.png": "x" * 200_000}
    first = 3 if mark.startswith("sep") else 2
    assert [row.number for row in table.rows] == [first, first + 1, first + 3] and not table.bad


def test_a_stray_quote_and_cells_too_many_are_named_with_their_line(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text('file_name,text\n0.png,fine\n1.png,"open\n2.png,swallowed\n', encoding="utf-8")
    with pytest.raises(InputError, match="opened in line 3 is never closed"):
        read_table(table)
    table.write_text("file_name,text\n0.png,a red, calm ninja\n1.png\n", encoding="utf-8")
    found = read_table(table)
    assert found.bad[0][0] == 2 and "more cells (3)" in found.bad[0][1] and len(found.rows) == 1
    table.write_text("file_name,text,text\n0.png,a,b\n", encoding="utf-8")
    with pytest.raises(InputError, match="two columns 'text'"):
        read_table(table)


def test_no_value_is_no_word() -> None:
    assert all(map(is_null, (None, float("nan"), "nan", "NaN", " ", "NULL", "<NA>"))) and not is_null("none")
    assert [text_of(value) for value in (None, float("nan"), True, ["a", None, 3], 7, "nan")] == [
        "",
        "",
        "",
        "a 3",
        "7",
        "",
    ]


CAPTION = {"0.png": "a red, calm ninja", "1.png": "a frog"}


def write_table(folder: Path, name: str) -> None:
    if name.lower().endswith(".csv"):
        lines = [f'{file},"{text}"' for file, text in CAPTION.items()]
        (folder / name).write_text("\n".join(["file_name,text", *lines]), encoding="utf-16")
    elif name.endswith(".parquet"):
        pyarrow = pytest.importorskip("pyarrow")
        columns = {"file_name": [*CAPTION, "2.png"], "text": [*CAPTION.values(), None]}
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(columns), folder / name)
    else:
        rows = [json.dumps({"file_name": file, "caption": text}) for file, text in CAPTION.items()]
        (folder / name).write_bytes(b"\xef\xbb\xbf" + "\r\n".join(rows).encode())


@pytest.mark.parametrize(
    ("column", "says"),
    [
        ("text", "a text in it is not UTF-8: .*metadata.parquet"),
        ("day", "cannot be read as Python's values .*metadata.parquet"),
    ],
)
def test_values_that_parquet_can_hold_and_python_cannot(tmp_path: Path, column: str, says: str) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = folder_of(tmp_path / "in", "0.png")
    values = {"text": pyarrow.array(["a cat"]), "day": pyarrow.array([5 * 10**17], pyarrow.timestamp("us"))}
    table, file = pyarrow.table({"file_name": ["0.png"], column: values[column]}), folder / "metadata.parquet"
    parquet.write_table(table, file, compression="none", use_dictionary=False)
    file.write_bytes(file.read_bytes().replace(b"a cat", b"a \xfeat"))
    with pytest.raises(InputError, match=says):
        captions(folder)


@pytest.mark.parametrize("name", ["metadata.csv", "Metadata.CSV", "metadata.jsonl", "metadata.parquet"])
def test_every_command_reads_every_table(tmp_path: Path, genin: Json, name: str) -> None:
    folder = folder_of(tmp_path / "in", "0.png", "1.png", "2.png")
    write_table(folder, name)
    read = captions(folder)
    assert {file: text for file, text in read.items() if text} == CAPTION
    facts = genin("data", "inspect", folder)
    assert facts["captions"]["present"] == 2
    if len(read) == 2:
        assert facts["notes"] == ["1 picture has no row in the metadata and is not used: 2.png"]
    report = genin("data", "prepare", folder, "--out", tmp_path / "out")
    assert report["captions_from"] == {"metadata": 2} and report["kept"] == 3
    edited = tmp_path / "edit.csv"
    assert genin("data", "edit", folder, "--to", edited)["rows"] == len(read)
    edited.write_text(edited.read_text("utf-8-sig").replace("frog", "toad"), encoding="utf-16")
    assert genin("data", "edit", folder, "--from", edited)["changed"] == 1
    assert captions(folder)["1.png"] == "a toad" and captions(folder)["0.png"] == CAPTION["0.png"]


def test_rows_in_another_spelling_are_found_counted_and_trained_on(tmp_path: Path, genin: Json) -> None:
    folder = folder_of(
        tmp_path / "in", "train/0.png", "train/B.PNG", unicodedata.normalize("NFD", "train/é.png"), "a\\b.png"
    )
    names = ("train\\0.png", "train/b.png", unicodedata.normalize("NFC", "train/é.png"), "a\\b.png")
    lines = [json.dumps({"file_name": name, "text": f"ninja {n}"}) for n, name in enumerate(names)]
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8-sig")
    facts = genin("data", "inspect", folder)
    assert facts["captions"]["present"] == 4 and not facts["broken"]
    assert len(facts["notes"]) == 1 and facts["notes"][0].startswith("3 rows of ")
    assert FolderSource(folder).pictures(0, 4, 16).shape == (4, 16, 16, 3)
    report = genin("data", "prepare", folder, "--out", tmp_path / "out")
    assert (
        sorted(filter(None, prepared(tmp_path / "out").values())) == [f"ninja {n}" for n in range(4)]
        and not report["dropped"]
    )


def test_a_name_for_none_is_no_caption(tmp_path: Path, genin: Json, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path / "in", "IMG_0.png", "IMG_1.png", "IMG_2.png")
    (folder / "metadata.csv").write_text(
        "file_name,text\nIMG_0.png,nan\nIMG_1.png,\nIMG_2.png,a cat\n", encoding="utf-8"
    )
    assert captions(folder) == {"IMG_0.png": None, "IMG_1.png": None, "IMG_2.png": "a cat"}
    with pytest.raises(InputError, match=r"2 of 3 pictures have no caption.*1 caption of .* only stands for none"):
        FolderSource(folder)
    assert genin("data", "prepare", folder, "--out", tmp_path / "out")["captions_missing"] == 2


# --- captions beside pictures -----------------------------------------------------------------------------------------


def test_captions_beside_pictures_in_any_encoding(tmp_path: Path, genin: Json) -> None:
    folder = folder_of(tmp_path / "in", "A.JPG", "b.png", "c.png", "utf16.png", "sjis.png", "unclear.png")
    (folder / "c.txt").write_text("exact", encoding="utf-8")
    said = {"A.TXT": "a ninja", "b.Caption": "sad", "c.TXT": "other", "utf16.txt": "scarf’s"}
    for name, text in said.items():
        (folder / name).write_text(text, encoding="utf-16" if "16" in name else "utf-8")
    (folder / "sjis.txt").write_bytes("忍者が走る".encode("shift_jis"))
    (folder / "unclear.txt").write_bytes("niño".encode("cp1252"))
    expected = {
        "A.JPG": "a ninja",
        "b.png": "sad",
        "c.png": "exact",
        "utf16.png": "scarf’s",
        "sjis.png": "忍者が走る",
        "unclear.png": None,
    }
    assert captions(folder) == expected
    assert any("unclear.txt" in note for note in open_picture_set(folder).notes)
    report = genin("data", "prepare", folder, "--out", tmp_path / "out")
    assert prepared(tmp_path / "out") == expected  # and no caption from the name where the file says something
    assert [Path(entry["path"]).name for entry in report["dropped"]] == ["unclear.txt"]
    assert any("sjis.txt as cp932" in note for note in report["notes"])
    assert "1 text file was not used as captions: c.TXT" in report["notes"]
    genin("data", "prepare", folder, "--encoding", "cp1252", "--out", tmp_path / "stated")
    assert prepared(tmp_path / "stated")["unclear.png"] == "niño"


def test_prepare_names_links_hidden_files_and_replacement_characters(tmp_path: Path, genin: Json) -> None:
    folder, far = folder_of(tmp_path / "in", "0.png", "._1.png", "@eaDir/2.png"), folder_of(tmp_path / "far", "x.png")
    (folder / "more").symlink_to(far)
    (folder / "loop").symlink_to(folder)
    (folder / "0.txt").write_text("a caf\ufffd", encoding="utf-8")
    report = genin("data", "prepare", folder, "--duplicates", "keep", "--out", tmp_path / "out")
    assert set(prepared(tmp_path / "out")) == {"0.png", "more/x.png"}
    assert [Path(entry["path"]).name for entry in report["dropped"]] == ["loop"]
    assert any("1 hidden picture left out" in note for note in report["notes"])
    assert any("replacement characters" in note for note in report["notes"])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_unicode_end_no_preparation(tmp_path: Path, genin: Json) -> None:
    place = Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/f\xfcr"))
    folder_of(place, "0.png", "1.png")
    Path(os.fsdecode(os.fsencode(place) + b"/Notes. Andr\xe9")).touch()
    (place / "metadata.csv").write_bytes("file_name,text\n0.png,ein schöner Gruß\n,\n,niemand\n".encode("cp1252"))
    (tmp_path / "in" / "metadata.jsonl").write_text('{"file_name": "f/1.png", "odd\\ud800": "x"}\n', encoding="utf-8")
    report = genin("data", "prepare", tmp_path / "in", "--out", tmp_path / "out")
    assert report["kept"] == 2 and "ein schöner Gruß" in prepared(tmp_path / "out").values()
    assert len(report["dropped"]) == 2 and all("?" in entry["path"] for entry in report["dropped"][:1])
    said = " ".join(report["notes"])
    assert "f?r/metadata.csv is not UTF-8" in said and ". andr? ×1" in said and "odd?" in said


# --- shards -----------------------------------------------------------------------------------------------------------


def write_shard(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            shard.addfile(entry, io.BytesIO(content))
    return path.parent


@pytest.mark.parametrize("ending", ["-000000.tar", "_0.tar", ".tar", "2017.TAR"])
def test_the_name_of_a_shard_begins_with_its_split(tmp_path: Path, ending: str) -> None:
    for split in ("train", "Val", "test", "trains"):
        write_shard(tmp_path / f"{split}{ending}", {"a.png": encoded(1)})
    splits = {row.file_name.partition(ending)[0]: row.columns.get("split") for row in open_picture_set(tmp_path).rows}
    assert splits == {"train": "train", "Val": "val", "test": "test", "trains": None}


def test_a_sample_has_one_picture_and_the_others_are_counted(tmp_path: Path, genin: Json) -> None:
    members: dict[str, bytes] = {}
    for n in range(3):
        members |= {
            f"v1.0/{n}.png": encoded(n),
            f"v1.0/{n}.mask.png": encoded(9),
            f"v1.0/{n}.txt": f"ninja {n}".encode(),
        }
        members |= {f"v1.0/._{n}.png": b"AppleDouble"}
    folder = write_shard(tmp_path / "set" / "0.TAR", members)
    assert captions(folder) == {f"0.TAR/v1.0/{n}.png": f"ninja {n}" for n in range(3)}
    assert genin("data", "inspect", folder)["notes"] == ["further pictures of samples are not read: .mask.png ×3"]
    assert FolderSource(folder).pictures(0, 3, 16).shape == (3, 16, 16, 3)


def test_what_is_the_picture_of_a_sample(tmp_path: Path) -> None:
    cases: tuple[tuple[dict[str, bytes], set[str]], ...] = (
        ({"a.image.png": b"", "a.depth.png": b""}, {"a.image.png"}),
        ({"a.0001.png": b"", "a.0001.txt": b"x", "a.0002.png": b"", "a.0002.txt": b"y"}, {"a.0001.png", "a.0002.png"}),
        ({"a.left.png": b"", "a.right.png": b"", "b.png": b""}, {"b.png"}),
        ({"A.PNG": b"", "a.TXT": b"x"}, {"A.PNG"}),
    )
    for number, (members, expected) in enumerate(cases):
        folder = write_shard(tmp_path / str(number) / "0.tar", members)
        assert {name.removeprefix("0.tar/") for name in captions(folder)} == expected
    assert "none plainly the main one: 0.tar/a.left.png" in open_picture_set(tmp_path / "2").notes[0]
    assert captions(tmp_path / "3") == {"0.tar/A.PNG": "x"}


def test_captions_of_shards_are_decoded_or_named(tmp_path: Path) -> None:
    members = {
        "0.png": encoded(0),
        "0.txt": "“calm” café".encode("cp1252"),
        "1.png": encoded(1),
        "1.txt": "niño".encode("cp1252"),
    }
    members |= {"2.png": encoded(2), "2.json": b'\xef\xbb\xbf{"text": "a frog", "n": NaN}'}
    folder = write_shard(tmp_path / "set" / "0.tar", members)
    assert list(captions(folder).values()) == ["“calm” café", None, "a frog"]
    notes = " ".join(open_picture_set(folder).notes)
    assert "0.tar/1.txt" in notes and "cp1252 ×1" in notes


def test_compressed_shards_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "0.tar.gz").write_bytes(b"x")
    with pytest.raises(InputError, match=r"unpack 0\.tar\.gz"):
        open_picture_set(tmp_path)


# --- sizes and broken files -------------------------------------------------------------------------------------------


def test_the_first_file_does_not_decide(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, *(f"{n}b.png" for n in range(5)))
    picture(9, 8).save(folder / "0a.png")
    (folder / "!.png").write_bytes(b"broken")
    (folder / "._0.png").write_bytes(b"hidden")
    pictures = open_picture_set(folder)
    assert [row.file_name for row in pictures.rows] == ["!.png", "0a.png", *(f"{n}b.png" for n in range(5))]
    size, note = usual_size(pictures)
    assert size == 32 and note == "mixed sizes (1 of 8 px, 5 of 32 px): all are measured at 32 px"
    loaded = load_pictures(pictures, limit=3)
    assert loaded.pictures.shape == (3, 32, 32, 3) and loaded.broken == ("!.png",)
    batches = list(picture_batches(pictures, size=32, limit=6, batch_size=4))
    assert sum(len(batch.rows) for batch in batches) == 6 and batches[0].broken == ("!.png",)


def test_pictures_that_are_not_read_are_named(tmp_path: Path, genin: Json) -> None:
    folder = folder_of(tmp_path, "0.png", "more/1.png", ".cache/2.png")
    assert genin("data", "inspect", folder)["notes"] == [
        "pictures in more are not read (genin data prepare reads folders inside folders)"
    ]

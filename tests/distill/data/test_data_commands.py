"""`genin data prepare | inspect | caption` through the command line, on planted and on real pictures."""

from __future__ import annotations

import io
import json
import shutil
import struct
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

from genin.cli import run
from genin.dataset.files import read_picture
from genin.dataset.folders import FileNames
from genin.dataset.sets import open_picture_set
from genin.dataset.text import NULLS
from genin.distill.data import prepare
from genin.distill.data.dataset import ImageDataset
from genin.distill.data.duplicates import SeenPictures, differ_in_detail, pixel_digest, thumbnail
from genin.distill.data.edit import read_edited
from genin.distill.data.extract import FitOptions
from genin.distill.data.find import Candidate, SourceOptions, caption_in_name, find_pictures

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
Json = Callable[..., dict[str, Any]]


def noise(seed: int, width: int = 40, height: int = 40) -> Image.Image:
    """A smooth random picture: no two seeds are near."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def folder_of(path: Path, *names: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        noise(seed).save(path / name)
    return path


def texts(folder: Path) -> list[str | None]:
    return [row.text for row in open_picture_set(folder).rows]


def reasons(report: dict[str, Any]) -> dict[str, str]:
    return {Path(entry["path"]).name: entry["reason"] for entry in report["dropped"]}


# --- broken and odd files ---------------------------------------------------------------------------------------------


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def png_of(header: bytes, data: bytes) -> bytes:
    """A PNG file of one IHDR and one IDAT chunk."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def plant_broken(folder: Path) -> dict[str, str]:
    """Broken files of many kinds, and a part of the reason each has to be dropped with."""
    good = png(noise(1))
    jpeg = io.BytesIO()
    noise(2, 200, 200).save(jpeg, "JPEG")
    corrupt = bytearray(good)
    corrupt[len(good) // 2] ^= 0xFF
    files = {
        "empty.png": (b"", "empty"),
        "text.jpg": (b"no picture at all", "not a picture"),
        "page.png": (b"<html><body>404</body></html>", "not a picture"),
        "half.png": (good[: len(good) // 2], "cannot be read"),
        "half.jpg": (jpeg.getvalue()[:900], "cannot be read"),
        "corrupt.png": (bytes(corrupt), "cannot be read"),
        "header_only.png": (good[:33], "not a picture"),
        "bomb.png": (png_of(struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0), b""), "cannot be read"),
        "short_data.png": (png_of(struct.pack(">IIBBBBB", 40, 40, 8, 2, 0, 0, 0), b"\0" * 100), "cannot be read"),
        "tiny.png": (png(noise(3, 40, 8)), "too small (40×8"),
        "clear.png": (png(Image.new("RGBA", (40, 40), (9, 9, 9, 0))), "fully transparent"),
        "phone.heic": (b"ftypheic", ".heic is not supported"),
        "logo.svg": (b"<svg/>", ".svg is not supported"),
    }
    for name, (content, _) in files.items():
        (folder / name).write_bytes(content)
    Image.fromarray(np.full((40, 40), 0.5, np.float32)).save(folder / "float.tif")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    return {name: reason for name, (_, reason) in files.items()} | {
        "float.tif": "floating-point",
        "gone.png": "missing",
    }


def test_every_broken_file_is_named_with_its_reason_and_the_rest_is_kept(tmp_path: Path, genin: Json) -> None:
    source = folder_of(tmp_path / "in", "a good one.png", "another/b.jpg")
    expected = plant_broken(source)
    report = genin("data", "prepare", source, "--out", tmp_path / "out")
    assert report["kept"] == 2 and len(open_picture_set(tmp_path / "out").rows) == 2
    found = reasons(report)
    assert set(found) == set(expected)
    for name, reason in expected.items():
        assert reason in found[name], name
    stored = json.loads((tmp_path / "out" / "dataset.json").read_text(encoding="utf-8"))["report"]
    assert stored["dropped"] == report["dropped"] and report["captions_missing"] == 0


def test_the_report_for_people_names_each_file_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = folder_of(tmp_path / "in", "a.png", "IMG_01.png")
    (source / "bad.png").write_bytes(b"")
    assert run(["data", "prepare", str(source), "--out", str(tmp_path / "out")]) == 0
    output = capsys.readouterr().out
    assert f"dropped: {source / 'bad.png'}: the file is empty" in output
    assert "2 pictures" in output and "1 missing" in output and "genin data caption" in output


def odd_pictures(folder: Path) -> dict[str, NDArray[np.uint8]]:
    """Files in unusual formats, black in a corner, and what the pixel in the middle of each must become."""
    folder.mkdir()
    corner = (0, 0, 10, 10)
    grey16 = np.full((40, 40), 0x8000, np.uint16)
    grey16[:10, :10] = 0
    Image.fromarray(grey16).save(folder / "grey16.png")
    Image.fromarray(grey16).save(folder / "grey16.tif")
    rgb16 = b"".join(b"\0" + b"\0" * 6 * 10 + b"\xff\xff\x80\x00\x00\x00" * 30 for _ in range(40))
    (folder / "rgb16.png").write_bytes(png_of(struct.pack(">IIBBBBB", 40, 40, 16, 2, 0, 0, 0), rgb16))
    kinds: tuple[tuple[str, Any, Any, str], ...] = (
        ("CMYK", (0, 255, 255, 0), (0, 0, 0, 255), "cmyk.tif"),
        ("1", 0, 1, "bits.png"),
        ("L", 77, 0, "grey.bmp"),
        ("LA", (0, 51), (0, 255), "la.png"),
        ("RGBA", (255, 0, 0, 51), (0, 0, 0, 255), "rgba.webp"),
    )
    for mode, colour, dark, name in kinds:
        picture = Image.new(mode, (40, 40), colour)
        picture.paste(dark, corner)
        picture.save(folder / name, **({"lossless": True} if name.endswith("webp") else {}))
    palette = Image.new("P", (40, 40), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    palette.paste(0, corner)
    palette.save(folder / "palette.gif")
    first, second = Image.new("RGB", (40, 40), (200, 10, 90)), Image.new("RGB", (40, 40), (0, 0, 255))
    first.paste((0, 0, 0), corner)
    first.save(folder / "moving.png", save_all=True, append_images=[second])
    expected = {
        "grey16.png": (128, 128, 128),
        "grey16.tif": (128, 128, 128),
        "rgb16.png": (255, 128, 0),
        "cmyk.tif": (255, 0, 0),
        "bits.png": (0, 0, 0),
        "grey.bmp": (77, 77, 77),
        "la.png": (204, 204, 204),
        "rgba.webp": (255, 204, 204),
        "palette.gif": (10, 200, 30),
        "moving.png": (200, 10, 90),
    }
    return {name: np.array(colour, np.uint8) for name, colour in expected.items()}


def test_unusual_formats_become_plain_rgb(tmp_path: Path, genin: Json) -> None:
    expected = odd_pictures(tmp_path / "in")
    report = genin("data", "prepare", tmp_path / "in", "--out", tmp_path / "out", "--duplicates", "keep")
    assert report["kept"] == len(expected) and not report["dropped"]
    for row in open_picture_set(tmp_path / "out").rows:
        with Image.open(tmp_path / "out" / row.file_name) as picture:
            assert picture.mode == "RGB" and picture.format == "PNG"
            pixel = np.array(picture.getpixel((20, 20)))
        assert np.abs(pixel - expected[row.columns["source_file"]]).max() <= 1, row.columns["source_file"]


def test_exif_orientation_is_applied_once(tmp_path: Path, genin: Json) -> None:
    (tmp_path / "in").mkdir()
    upright = Image.new("RGB", (60, 30), "white")
    upright.paste((200, 0, 0), (0, 0, 60, 10))  # red on top
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90° clockwise to view
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "in" / "a.jpg", exif=exif, quality=95)
    genin("data", "prepare", tmp_path / "in", "--out", tmp_path / "out")
    picture = read_picture(tmp_path / "out" / "000000.png")
    assert picture.size == (60, 30)
    assert np.asarray(picture)[2, 30, 0] > 150 > np.asarray(picture)[2, 30, 1]


def test_background_and_size(tmp_path: Path, genin: Json) -> None:
    (tmp_path / "in").mkdir()
    picture = Image.new("RGBA", (50, 30), (0, 0, 0, 1))
    picture.paste((255, 255, 255, 255), (20, 20, 30, 30))
    picture.save(tmp_path / "in" / "a.png")
    report = genin("data", "prepare", tmp_path / "in", "--out", tmp_path / "o", "--size", 32, "--background", "#204060")
    with Image.open(tmp_path / "o" / "000000.png") as picture:
        assert picture.size == (32, 32) and picture.getpixel((9, 9)) == pytest.approx((0x20, 0x40, 0x60), abs=1)
    assert any("smaller than 32 px and enlarged" in note for note in report["notes"])


# --- duplicates -------------------------------------------------------------------------------------------------------


def test_duplicates_are_dropped_and_named(tmp_path: Path, genin: Json) -> None:
    source = tmp_path / "in"
    source.mkdir()
    original = noise(5, 120, 120)
    original.save(source / "a.png")
    original.save(source / "b.bmp")
    original.save(source / "c.jpg", quality=40)
    original.resize((70, 70)).save(source / "d.png")
    noise(6, 120, 120).save(source / "e.png")
    report = genin("data", "prepare", source, "--out", tmp_path / "near")
    assert report["kept"] == 2
    assert reasons(report) == {
        "b.bmp": f"exact duplicate of {source / 'a.png'}",
        "c.jpg": f"near duplicate of {source / 'a.png'}",
        "d.png": f"near duplicate of {source / 'a.png'}",
    }
    assert genin("data", "prepare", source, "--out", tmp_path / "exact", "--duplicates", "exact")["kept"] == 4
    assert genin("data", "prepare", source, "--out", tmp_path / "all", "--duplicates", "keep")["kept"] == 5


def test_of_a_picture_and_its_previews_the_largest_is_kept(tmp_path: Path, genin: Json) -> None:
    source = tmp_path / "in"
    sides = {"a preview.png": 40, "b other.png": 0, "original.png": 120, "smaller.png": 80}
    source.mkdir()
    for name, side in sides.items():
        (noise(5, 120, 120).resize((side, side), Image.Resampling.BOX) if side else noise(6)).save(source / name)
    (source / "a preview.txt").write_text("a fox", encoding="utf-8")
    shutil.copyfile(source / "a preview.png", source / "z preview.png")
    report = genin("data", "prepare", source, "--out", tmp_path / "out")
    original = source / "original.png"
    assert reasons(report) == {
        "a preview.png": f"near duplicate of {original}, which takes its caption",
        "smaller.png": f"near duplicate of {original}",
        "z preview.png": f"near duplicate of {original}",
    }
    rows = list(open_picture_set(tmp_path / "out").rows)
    assert [(row.text, row.columns["source_file"]) for row in rows] == [
        ("a fox", "original.png"),
        ("b other", "b other.png"),
    ]
    assert read_picture(tmp_path / "out" / rows[0].file_name).size == (120, 120)


@pytest.mark.parametrize(("own", "inherits"), [(None, True), ("a dog", False)])
def test_a_duplicate_leaves_its_caption_to_a_picture_without(
    tmp_path: Path, genin: Json, own: str | None, inherits: bool
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name in ("fox (copy).png", "fox.png"):
        noise(5, 40, 40).save(source / name)
    (source / "fox.txt").write_text("a fox asleep", encoding="utf-8")
    if own:
        (source / "fox (copy).txt").write_text(own, encoding="utf-8")
    report = genin("data", "prepare", source, "--out", tmp_path / "out")
    assert reasons(report)["fox.png"].endswith("which takes its caption") is inherits
    assert json.loads((tmp_path / "out" / "metadata.jsonl").read_text("utf-8"))["text"] == (own or "a fox asleep")


def test_names_that_read_alike_are_of_two_pictures(tmp_path: Path, genin: Json) -> None:
    """As of files from another system whose names are no Unicode here: all of them read `??.png`."""
    source = tmp_path / "in"
    source.mkdir()
    alike = (source / "a b.png", source / "a  b.png")
    for seed, path in enumerate(sorted(alike)):
        drawing(seed).resize((256, 256)).save(path)
    shutil.copyfile(min(alike), source / "copy of the first.png")
    (source / "copy of the first.txt").write_text("the first", encoding="utf-8")
    report = genin("data", "prepare", source, "--captions", "sidecar", "--out", tmp_path / "out")
    assert report["kept"] == 2 and set(reasons(report)) == {"copy of the first.png"}
    assert texts(tmp_path / "out") == ["the first", None]


def test_colour_variants_and_small_changes_are_no_duplicates() -> None:
    base = noise(7, 64, 64)
    red, green, blue = base.split()
    recoloured = Image.merge("RGB", (blue, red, green))
    changed = base.copy()
    changed.paste((0, 0, 0), (30, 30, 36, 36))
    mirrored = base.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    seen = SeenPictures()
    for name, picture in {"base": base, "recoloured": recoloured, "changed": changed, "mirrored": mirrored}.items():
        assert seen.add(name, pixel_digest(picture), thumbnail(picture)) is None, name
    dimmer = ImageChops.subtract(base, Image.new("RGB", base.size, (1, 1, 1)))
    assert seen.add("dimmer", pixel_digest(dimmer), thumbnail(dimmer)) == ("near", "base")


def test_near_duplicates_are_found_among_many() -> None:
    """The search by brightness must find what comparing with every earlier picture finds."""
    rng = np.random.default_rng(0)
    colours = rng.integers(60, 190, (40, 1, 1, 3))
    prints = (
        colours[rng.integers(0, 40, 300)] + rng.integers(-3, 4, (300, 1, 1, 3)) + rng.integers(-1, 2, (300, 16, 16, 3))
    )
    prints = prints.astype(np.uint8)
    seen = SeenPictures()
    kept: list[int] = []
    for index, fingerprint in enumerate(prints):
        gaps = np.abs(prints[kept].astype(int) - fingerprint) if kept else np.empty((0, 16, 16, 3))
        expected = any(gap.mean() <= 2 and gap.max() <= 12 for gap in gaps)
        assert (seen.add(str(index), str(index).encode(), fingerprint) is not None) == expected
        if not expected:
            kept.append(index)
    assert 40 < len(kept) < 250


def test_pale_drawings_are_compared_by_cells_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """All have about one brightness: nearly all are told apart before whole thumbnails are compared."""
    pages = [drawing(seed) for seed in range(60)]
    prints, compared, plain = [thumbnail(page) for page in pages], [], np.abs
    monkeypatch.setattr(np, "abs", lambda values, *more: compared.append(np.shape(values)) or plain(values, *more))
    seen = SeenPictures()
    for index, fingerprint in enumerate(prints):
        seen.add(str(index), str(index).encode(), fingerprint)
    whole = sum(shape[0] for shape in compared if len(shape) == 4)
    cells = sum(shape[0] for shape in compared if len(shape) == 2)
    assert cells > 300 and whole < cells / 2


def drawing(seed: int, *, moved: bool = False, ink: str = "black") -> Image.Image:
    """Six thin lines on white paper."""
    points = np.random.default_rng(seed).integers(0, 1024, (6, 4)).tolist()
    if moved:
        points[0][2:] = [(points[0][2] + 400) % 1024, points[0][3]]
    page = Image.new("RGB", (1024, 1024), "white")
    for line in points:
        ImageDraw.Draw(page).line(line, ink, 2)
    return page


def test_thin_drawings_are_told_apart_and_their_copies_are_found(tmp_path: Path, genin: Json) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for seed in range(24):
        drawing(seed).save(source / f"{seed:02}.png")
    drawing(3, moved=True).save(source / "one line moved.png")
    drawing(4, ink="red").save(source / "red.png")
    drawing(0).save(source / "z.jpg", quality=80)
    drawing(0).resize((800, 800), Image.Resampling.LANCZOS).save(source / "z.png")
    report = genin("data", "prepare", source, "--out", tmp_path / "out")
    assert set(reasons(report)) == {"z.jpg", "z.png"} and report["kept"] == 26


def test_details_are_compared_at_the_size_that_both_have() -> None:
    page = drawing(1)
    assert differ_in_detail(page, drawing(2)) and not differ_in_detail(page, page.resize((300, 300)))
    assert not differ_in_detail(page, page.resize((40, 40)))  # too small to see lines: the thumbnail decides


# --- captions ---------------------------------------------------------------------------------------------------------


def test_captions_come_from_metadata_then_sidecars_then_names(tmp_path: Path, genin: Json) -> None:
    source = folder_of(tmp_path / "in", "a.png", "b.png", "red cats/c_03.png", "IMG_2041.png")
    (source / "metadata.jsonl").write_text('{"file_name": "a.png", "text": " from\\nmetadata "}\n', encoding="utf-8")
    for name in ("a.txt", "b.txt"):
        (source / name).write_text("from a sidecar\n", encoding="utf-8")
    report = genin("data", "prepare", source, "--out", tmp_path / "out")
    assert texts(tmp_path / "out") == [None, "from metadata", "from a sidecar", "red cats c"]
    assert report["captions_from"] == {"metadata": 1, "sidecar": 1, "name": 1} and report["captions_missing"] == 1
    assert "1 caption was made from folder and file names: check them" in report["notes"]
    report = genin("data", "prepare", source, "--out", tmp_path / "sidecars", "--captions", "sidecar")
    assert report["captions_missing"] == 2 and texts(tmp_path / "sidecars")[1:3] == ["from a sidecar"] * 2


@pytest.mark.parametrize("inner", ["ants", "zoo"])
def test_the_nearest_metadata_counts_whatever_its_folder_is_called(tmp_path: Path, genin: Json, inner: str) -> None:
    source = folder_of(tmp_path / "in", f"{inner}/x.png")
    for folder, name, text in ((source, f"{inner}/x.png", "from above"), (source / inner, "x.png", "from beside")):
        (folder / "metadata.jsonl").write_text(json.dumps({"file_name": name, "text": text}))
    genin("data", "prepare", source, "--out", tmp_path / "out")
    assert texts(tmp_path / "out") == ["from beside"]


def test_a_row_that_names_a_file_exactly_counts_before_one_that_leaves_out_folders(tmp_path: Path, genin: Json) -> None:
    source = folder_of(tmp_path / "in", "cats/1.png")
    rows = [{"file_name": "1.png", "text": "a picture that is gone"}, {"file_name": "cats/1.png", "text": "a cat"}]
    (source / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    report = genin("data", "prepare", source, "--out", tmp_path / "out")
    assert texts(tmp_path / "out") == ["a cat"]
    assert reasons(report) == {"metadata.jsonl:1: 1.png": "a second row for the same file"}


def test_folders_that_a_table_leaves_out_are_looked_up_not_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{folder}/{number}.png" for folder in range(30) for number in range(3)]
    for name in names:
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pictures" / name).touch()
    rows = [{"file_name": name, "text": name} for name in names]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    begin, made = FileNames.__init__, []
    monkeypatch.setattr(FileNames, "__init__", lambda self, names: (made.append(self), begin(self, names))[1])
    found = find_pictures([tmp_path], SourceOptions())
    assert [one.caption for one in found.candidates] == [one.name.removeprefix("pictures/") for one in found.candidates]
    assert not found.dropped and len(made) < len(names)


def eighty_files_begun() -> Any:
    """Reading of files that keeps no journal, after the first file."""
    ignored: Callable[..., None] = lambda *_: None  # noqa: E731
    journal: Any = SimpleNamespace(known=ignored, stat=ignored, stem=ignored, write=ignored, pieces=Path(), resumed=0)
    files = prepare._read([Candidate(Path(), str(number)) for number in range(80)], journal, FitOptions(), ignored)
    next(files)
    return files


def test_an_interrupted_run_waits_for_what_it_has_begun_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C, or a full disk: of the files that wait none begins."""
    release, begun = threading.Event(), []

    def pieces_of(candidate: Candidate, *_: object) -> list[Any]:
        begun.append(candidate)
        if candidate.name != "0":
            release.wait(30)
        return []

    monkeypatch.setattr(prepare, "pieces_of", pieces_of)
    files = eighty_files_begun()
    threading.Timer(0.2, release.set).start()
    files.close()
    assert len(begun) < 60


def test_an_interrupted_run_does_not_wait_for_whole_films(monkeypatch: pytest.MonkeyPatch) -> None:
    left = []

    def pieces_of(candidate: Candidate, *arguments: Any) -> list[Any]:
        if candidate.name != "0":
            deadline, ended = time.monotonic() + 10, arguments[-1]
            while not ended() and time.monotonic() < deadline:
                time.sleep(0.005)
            left.append(deadline - time.monotonic())
        return []

    monkeypatch.setattr(prepare, "pieces_of", pieces_of)
    files = eighty_files_begun()
    files.close()
    assert left and min(left) > 5


def test_metadata_by_other_names_in_csv_with_joined_captions_and_a_trigger(tmp_path: Path, genin: Json) -> None:
    source = folder_of(tmp_path / "in", "png/x/a.png", "png/b.png")
    (source / "metadata.csv").write_text(
        '\ufefffile,kind,name,group\nx/a.png,"big, red",fox,animals\nb.png,ink style small,owl,birds\n',
        encoding="utf-8",
    )
    report = genin(
        *("data", "prepare", source, "--out", tmp_path / "out", "--file-column", "file"),
        *("--caption-column", "kind,name", "--columns", "group", "--trigger", "ink style", "--licence", "CC0-1.0"),
    )
    assert texts(tmp_path / "out") == ["ink style small owl", "ink style big, red fox"]
    joined = "the trigger is joined by a space, as in 'ink style small owl'; end it with a comma to set it apart"
    assert joined in report["notes"]
    again = genin("data", "prepare", source, "--out", tmp_path / "comma", "--file-column", "file", "--trigger", "ink,")
    assert not [note for note in again["notes"] if "trigger" in note]
    data = ImageDataset.open(tmp_path / "out")
    assert data.columns == {"group": ("animals", "birds")} == {k: tuple(v) for k, v in report["columns"].items()}
    assert data.row(0) == {"group": "birds"} and data.licence == "CC0-1.0"


def test_the_page_counts_long_captions_only_where_there_are_any(tmp_path: Path, genin: Json) -> None:
    source = folder_of(tmp_path / "in", "a.png", "b.png")
    (source / "readme.txt").write_text("Drawn by hand.")
    report = genin("data", "prepare", source, "--out", tmp_path / "out", "--size", "32", "--min-size", "8")
    assert "1 text file was not used as captions: readme.txt" in report["notes"]
    page = " ".join((tmp_path / "out" / "report.html").read_text("utf-8").split())
    assert "All are 32×32 px." in page and "<dt>of" not in page and "<dt>from" not in page and "longer than" not in page
    assert "<code>genin data inspect out --tokenizer MODEL</code>" in page
    (source / "a.txt").write_text("a ninja, " * 60)
    genin("data", "prepare", source, "--out", tmp_path / "long", "--size", "32", "--min-size", "8")
    page = " ".join((tmp_path / "long" / "report.html").read_text("utf-8").split())
    assert "1 is longer than the 77 that Stable Diffusion reads, and will lose its end" in page


def test_the_page_counts_pictures_of_the_sizes_that_it_does_not_name(tmp_path: Path, genin: Json) -> None:
    source = folder_of(tmp_path / "in", *(f"{number}.png" for number in range(14)))
    for number, name in enumerate(sorted(source.glob("*.png"))):
        Image.open(name).resize((40 + 8 * (number // 2), 40)).save(name)
    genin("data", "prepare", source, "--out", tmp_path / "out", "--min-size", "8")
    page = " ".join((tmp_path / "out" / "report.html").read_text("utf-8").split())
    assert page.count(" px</dt>") == 6 and "<dt>of other sizes</dt><dd>2</dd>" in page


def test_bad_metadata_rows_are_named(tmp_path: Path, genin: Json) -> None:
    source = folder_of(tmp_path / "in", "a.png", "x/b.png", "y/b.png")
    lines = ["nonsense", '["a.png"]', '{"text": "no file"}', '{"file_name": "gone.png"}', '{"file_name": "../c.png"}']
    lines += [
        '{"file_name": "b.png"}',
        '{"file_name": "a.png", "text": "one"}',
        '{"file_name": "a.png", "text": "two"}',
    ]
    (source / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    report = genin("data", "prepare", source, "--out", tmp_path / "out")
    assert [entry["reason"] for entry in report["dropped"]] == [
        "the line is not a JSON object",
        "the line is not a JSON object",
        "the row names no file (--file-column says which column does)",
        "listed in the metadata, but there is no such file",
        "the row names a file outside its folder",
        "the row could mean 2 files of that name",
        "a second row for the same file",
    ]
    assert report["kept"] == 3 and texts(tmp_path / "out")[0] == "one"


def test_splits_exclusions_and_hidden_files(tmp_path: Path, genin: Json) -> None:
    source = folder_of(tmp_path / "in", "train/a.png", "validation/b.png", "old/c.png", "train/d_old.png", "._a.png")
    (source / "notes.pdf").write_bytes(b"%PDF")
    report = genin("data", "prepare", source, "--out", tmp_path / "out", "--exclude", "old,*_old.png")
    assert report["kept"] == 2 and report["splits"] == {"train": 1, "val": 1} and not report["dropped"]
    assert "2 pictures left out by --exclude" in report["notes"]
    assert "files that are not pictures were ignored: .pdf ×1" in report["notes"]
    assert ImageDataset.open(tmp_path / "out", "val").caption(0) == "b"


@pytest.mark.parametrize(
    ("known", "instead"), [("test", "counted as train"), ("holdout", "split by chance")], ids=["some", "none"]
)
def test_splits_of_unknown_names_are_named(tmp_path: Path, genin: Json, known: str, instead: str) -> None:
    source = folder_of(tmp_path / "in", "0.png", "1.png", "2.png")
    rows = [{"file_name": f"{n}.png", "split": split} for n, split in enumerate((known, "holdout", "holdout"))]
    (source / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    report = genin("data", "prepare", source, "--out", tmp_path / "out")
    [note] = [note for note in report["notes"] if "unknown splits" in note]
    assert instead in note and f"'holdout' ×{2 + (known == 'holdout')}" in note


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("dngn/floor/snake-d2.png", "dngn floor snake d2"),
        ("train/cats/0001.jpg", "cats"),
        ("DSC_0042.JPG", ""),
        ("1st_place_medal (2).png", "1st place medal"),
        ("忍者/山.png", "忍者 山"),
    ],
)
def test_captions_of_names(name: str, caption: str) -> None:
    from pathlib import PurePosixPath

    assert caption_in_name(PurePosixPath(name)) == caption


NAME = st.text(st.characters(exclude_characters="/\\\0", exclude_categories=["Cs"]), min_size=1, max_size=40)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(NAME, st.text(max_size=60), min_size=1, max_size=4))
@example({"0": "null", "1": " NaN\n", "2": "null and void"})
def test_any_names_and_captions_come_out_as_the_same_words(captions: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in"
        source.mkdir()
        lines = []
        expected: dict[str, str] = {}
        for number, (name, caption) in enumerate(captions.items()):
            file_name = f"{number}{name.strip('.')}.png"
            noise(number).save(source / file_name, "PNG")
            lines.append(json.dumps({"file_name": file_name, "text": caption}))
            expected[pixel_digest(noise(number)).hex()] = caption
        (source / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
        assert run(["data", "prepare", str(source), "--out", f"{folder}/out", "--captions", "metadata"]) == 0
        rows = open_picture_set(Path(folder) / "out").rows
        assert len(rows) == len(captions)
        for row in rows:
            said = expected[pixel_digest(read_picture(Path(folder) / "out" / row.file_name)).hex()]
            assert row.text is None or row.text == " ".join(row.text.split())
            assert len((row.text or "").split()) == len(_words(said))


def _words(text: str) -> list[str]:
    import unicodedata

    safe = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode("utf-8"))
    words = "".join(" " if unicodedata.category(sign) == "Cc" else sign for sign in safe).split()
    return [] if text.strip() in NULLS else words  # what tables say for a missing value is no caption


# --- the folder that comes out ----------------------------------------------------------------------------------------


def test_the_folder_is_an_imagefolder_and_appears_whole(tmp_path: Path, genin: Json) -> None:
    """What `datasets.load_dataset("imagefolder")` asks for: metadata on top, every row's file, every file a row."""
    source = folder_of(tmp_path / "in", *(f"thing {i}.png" for i in range(45)))
    genin("data", "prepare", source, "--out", tmp_path / "out")
    out = tmp_path / "out"
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sorted(row["file_name"] for row in rows) == sorted(path.name for path in out.glob("*.png"))
    assert {path.name for path in out.iterdir()} - {row["file_name"] for row in rows} == {
        "metadata.jsonl",
        "dataset.json",
        "README.md",
        "report.html",
    }
    assert all(set(row) == {"file_name", "text", "split", "source_file"} for row in rows)
    assert {row["split"] for row in rows} <= {"train", "val", "test"}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_bad_use_is_refused_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = folder_of(tmp_path / "in", "a.png")
    (source / "metadata.jsonl").write_text('{"file": "a.png", "cldr": "a"}\n', encoding="utf-8")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"")
    out = str(tmp_path / "out")
    for arguments, message in (
        ([str(source), "--out", str(source)], "the output already exists"),
        ([str(tmp_path / "nowhere"), "--out", out], "no such source of pictures"),
        (
            [str(source), "--out", out, "--caption-column", "clrd"],
            "no metadata has a column 'clrd'; did you mean cldr?",
        ),
        ([str(source), "--out", out, "--columns", "group"], "no metadata has a column 'group'"),
        ([str(source), "--out", out, "--background", "whitish"], "'whitish' is not a colour"),
        ([str(source), "--out", out, "--captions", "magic"], "unknown value 'magic'"),
        ([str(tmp_path / "broken"), "--out", out], "none of the files can be used"),
    ):
        assert run(["data", "prepare", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"in", "broken"}


# --- inspect ----------------------------------------------------------------------------------------------------------


def test_inspect_counts_checks_and_shows(tmp_path: Path, genin: Json, tiny_model_folder: Path) -> None:
    from transformers import CLIPTokenizer

    source = folder_of(tmp_path / "in", *(f"{i}.png" for i in range(6)))
    lines = [{"file_name": f"{i}.png", "text": f"the ninja {'running ' * i}", "outfit": "ab"[i % 2]} for i in range(5)]
    (source / "metadata.jsonl").write_text(
        "\n".join(map(json.dumps, [*lines, {"file_name": "5.png"}])), encoding="utf-8"
    )
    (source / "3.png").write_bytes(b"")
    facts = genin("data", "inspect", source, "--sheet", tmp_path / "sheet.png", "--max-tokens", 5)
    assert facts["pictures"] == 6 and facts["sizes"] == {"40x40": 5} and facts["splits"]["train"] == 6
    assert facts["broken"] == [{"path": "3.png", "reason": "the file is empty"}]
    assert facts["captions"] == {"present": 5, "missing": 1, "distinct": 5}
    assert facts["columns"] == {"outfit": {"a": 3, "b": 2, "none": 1}}
    assert facts["words"] == [["ninja", 5], ["running", 4]]
    assert (facts["tokens"]["max"], facts["tokens"]["over_limit"], facts["tokens"]["exact"]) == (8, 3, False)
    exact = genin("data", "inspect", source, "--tokenizer", tiny_model_folder)["tokens"]
    tokenizer = CLIPTokenizer.from_pretrained(tiny_model_folder / "tokenizer")
    longest = len(tokenizer("the ninja running running running running")["input_ids"])
    assert (exact["max"], exact["limit"], exact["over_limit"], exact["exact"]) == (longest, 32, 0, True)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (6 * 128, 156)
        assert sheet.getpixel((3 * 128 + 60, 60)) == (200, 40, 40)  # the broken one


def test_inspect_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = folder_of(tmp_path / "in", "a.png")
    assert run(["data", "inspect", str(source)]) == 0
    output = capsys.readouterr().out
    assert "pictures  1, broken 0" in output and "missing 1" in output and "licence   unknown" in output


# --- caption ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BLIP captioning model with random weights, in the format of the real one."""
    import torch
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    folder = tmp_path_factory.mktemp("blip")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "the", "character", "is", "background", "looks"]
    words += [f"word{i}" for i in range(64 - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), bos_token="[DEC]")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    text = {
        **small,
        **ids,
        "vocab_size": 64,
        "encoder_hidden_size": 16,
        "max_position_embeddings": 64,
        "initializer_range": 0.5,
    }
    vision = {**small, "image_size": 32, "patch_size": 16, "initializer_range": 0.5}
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(BlipConfig(text, vision))
    model.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    BlipProcessor(BlipImageProcessor(size=size), tokenizer).save_pretrained(folder)
    return folder


def test_caption_fills_the_gaps_and_keeps_the_rest(tmp_path: Path, genin: Json, tiny_blip: Path) -> None:
    source = folder_of(tmp_path / "in", "IMG_1.png", "IMG_2.png", "IMG_3.png", "known.png")
    genin("data", "prepare", source, "--out", tmp_path / "out", "--trigger", "ink style")
    lines = (tmp_path / "out" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) | {"boxes": [1, 2], "note": "line\u2028break"} for line in lines]
    text = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "out" / "metadata.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "out" / "000001.png").write_bytes(b"")
    report = genin("data", "caption", tmp_path / "out", "--model", tiny_blip, "--batch-size", 2, "--max-tokens", 5)
    assert report["captioned"] == 2 and report["existing"] == 1
    assert report["failed"] == [{"path": "000001.png", "reason": "the file is empty"}]
    content = (tmp_path / "out" / "metadata.jsonl").read_text(encoding="utf-8")
    after = [json.loads(line) for line in content.split("\n") if line]
    assert after[3]["text"] == "ink style known" and "text" not in after[1]
    assert all(len(after[i]["text"]) > len("ink style word") for i in (0, 2))
    assert all(after[i]["text"].startswith("ink style ") for i in (0, 2))
    assert after[0]["text"] != after[2]["text"], "the model does not look at the picture"
    assert [{k: v for k, v in row.items() if k != "text"} for row in after] == [
        {k: v for k, v in row.items() if k != "text"} for row in rows
    ]
    assert not list((tmp_path / "out").glob(".*"))


def test_captions_of_an_interrupted_run_are_kept(
    tmp_path: Path, genin: Json, tiny_blip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from genin.distill.data.caption import CaptionModel

    source = folder_of(tmp_path / "in", "IMG_1.png", "IMG_2.png")
    genin("data", "prepare", source, "--out", tmp_path / "out")
    answers = iter([["a ninja"]])

    def answer(*_: Any) -> list[str]:
        if (found := next(answers, None)) is None:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(CaptionModel, "answers", answer)
    command = ["data", "caption", str(tmp_path / "out"), "--model", str(tiny_blip), "--batch-size", "1"]
    assert run(command) == 130
    assert capsys.readouterr().err.strip().endswith("the captions so far are saved; the same command goes on")
    lines = (tmp_path / "out" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line).get("text") for line in lines] == ["a ninja", None]


def test_corrections_while_a_model_writes_captions_are_kept(
    tmp_path: Path, genin: Json, tiny_blip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genin.distill.data import caption

    folder_of(tmp_path / "in", "IMG_1.png", "IMG_2.png", "IMG_3.png", "known.png")
    out = tmp_path / "out"
    genin("data", "prepare", tmp_path / "in", "--out", out)
    said = [
        {"file_name": "000001.png", "text": "by hand", "mood": "calm"},
        {"file_name": "000003.png", "text": "corrected"},
    ]
    (tmp_path / "said.jsonl").write_text("\n".join(map(json.dumps, said)), encoding="utf-8")
    answers = iter(["one", "two", "three"])

    def answer(*_: Any) -> list[str]:
        found = next(answers)
        if found == "two":  # the first is saved, the second is under way
            read_edited(out, tmp_path / "said.jsonl")
        return [found]

    monkeypatch.setattr(caption.CaptionModel, "answers", answer)
    monkeypatch.setattr(caption, "SAVE_EVERY", 1)
    genin("data", "caption", out, "--model", tiny_blip, "--batch-size", "1")
    assert texts(out) == ["one", "by hand", "three", "corrected"]
    assert '"mood": "calm"' in (out / "metadata.jsonl").read_text(encoding="utf-8")


def test_a_template_asks_for_one_thing_at_a_time(tmp_path: Path, genin: Json, tiny_blip: Path) -> None:
    source = folder_of(tmp_path / "in", "IMG_1.png", "IMG_2.png")
    row = {"file_name": "IMG_1.png", "emotion": "calm"}
    (source / "metadata.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    genin("data", "prepare", source, "--out", tmp_path / "out")
    template = "{action}, {environment}, {emotion}, {weather}"
    options = ("--template", template, "--ask", "weather=the background looks", "--max-tokens", 6)
    report = genin("data", "caption", tmp_path / "out", "--model", tiny_blip, *options)
    assert report["captioned"] == 2
    lines = (tmp_path / "out" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    first, second = (json.loads(line) for line in lines)
    assert first["emotion"] == "calm" and f", {first['environment']}, calm" in first["text"]
    for row in (first, second):
        assert row["text"] == ", ".join(
            row[name] for name in ("action", "environment", "emotion", "weather") if name in row
        )
        assert not row["action"].startswith("the character"), "what was asked is no part of the answer"
    assert first["action"] != first["environment"] or first["action"] != first["weather"]


@pytest.fixture(scope="module")
def tiny_chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA model with random weights, which is asked in a chat."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    folder = tmp_path_factory.mktemp("llava")
    vocabulary = {word: index for index, word in enumerate(("<pad>", "<s>", "</s>", "<image>", "<unk>", "Who", "is"))}
    vocabulary |= {f"word{index}": index for index in range(len(vocabulary), 64)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **special,
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = CLIPVisionConfig(**small, image_size=32, patch_size=16)
    text = LlamaConfig(**small, vocab_size=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=0.5)
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(LlavaConfig(vision, text, image_token_index=3, image_seq_length=4))
    model.save_pretrained(folder)
    template = (
        "{% for c in messages[0]['content'] %}{{ '<image> ' if c['type'] == 'image' else c['text'] }}{% endfor %}"
    )
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = LlavaProcessor(
        images, fast, patch_size=16, vision_feature_select_strategy="default", chat_template=template
    )
    processor.num_additional_image_tokens = 1
    processor.save_pretrained(folder)
    return folder


def test_a_model_that_chats_is_asked_a_question(tmp_path: Path, genin: Json, tiny_chat: Path) -> None:
    source = folder_of(tmp_path / "in", "IMG_1.png", "IMG_2.png")
    genin("data", "prepare", source, "--out", tmp_path / "out")
    options = ("--template", "a ninja: {character}", "--max-tokens", 5)
    assert genin("data", "caption", tmp_path / "out", "--model", tiny_chat, *options)["captioned"] == 2
    for line in (tmp_path / "out" / "metadata.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        assert row["text"] == f"a ninja: {row['character']}" and row["character"]
        assert "Who" not in row["character"]


def test_templates_that_cannot_be_filled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = folder_of(tmp_path / "in", "1.png")
    for options, message in (
        (["--template", "{hair}"], "asks for 'hair', which has no question: {hair}; ask it with --ask 'hair=…'"),
        (["--template", "{character"], "the template cannot be read"),
        (["--template", "{character:>3}"], "has a format after a name"),
        (["--ask", "hair"], "'hair' is not NAME=QUESTION"),
        (["--ask", "hair=the hair is"], "--ask needs a --template"),
    ):
        assert run(["data", "caption", str(source), *options]) == 2
        assert message in capsys.readouterr().err


# --- edit -------------------------------------------------------------------------------------------------------------


def dataset(path: Path) -> Path:
    rows = [
        {"file_name": "a.png", "text": "a fox", "boxes": [1, 2], "emotion": "calm", "split": "val"},
        {"file_name": "b c.png", "text": 'says "no", twice'},
        {"file_name": "d.png"},
    ]
    folder_of(path, *(str(row["file_name"]) for row in rows))
    (path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_captions_go_out_and_come_back(tmp_path: Path, genin: Json, suffix: str) -> None:
    folder, table = dataset(tmp_path / "set"), tmp_path / f"captions{suffix}"
    before = (folder / "metadata.jsonl").read_bytes()
    assert genin("data", "edit", folder, "--to", table)["rows"] == 3
    assert genin("data", "edit", folder, "--from", table) == {"changed": 0, "unchanged": 3, "captions": 2, "missing": 1}
    assert (folder / "metadata.jsonl").read_bytes() == before
    text = table.read_text(encoding="utf-8-sig").replace("a fox", "a red fox, é").replace("calm", "")
    text = (
        text.replace('"a red fox, é"', "a red fox, é").replace("a red fox, é", '"a red fox, é"')
        if suffix == ".csv"
        else text
    )
    table.write_text(text, encoding="utf-8")
    assert genin("data", "edit", folder, "--from", table)["changed"] == 1
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows[0] == {"file_name": "a.png", "text": "a red fox, é", "boxes": [1, 2], "split": "val"}
    assert rows[1]["text"] == 'says "no", twice' and "text" not in rows[2]


def test_a_table_changes_neither_names_nor_splits(tmp_path: Path, genin: Json) -> None:
    folder, table = dataset(tmp_path / "set"), tmp_path / "edited.csv"
    table.write_text("file_name,text,split,seed,source_file\na.png,a wolf,train,7,x.mp4\n", encoding="utf-8")
    assert genin("data", "edit", folder, "--from", table)["changed"] == 1
    row = json.loads((folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert (row["text"], row["split"]) == ("a wolf", "val") and not {"seed", "source_file"} & set(row)


def test_a_table_may_hold_a_part_and_semicolons(tmp_path: Path, genin: Json) -> None:
    folder, table = dataset(tmp_path / "set"), tmp_path / "part.csv"
    table.write_text("file_name;text\nd.png;a frog; quiet\n".replace("frog; quiet", "frog"), encoding="utf-8")
    assert genin("data", "edit", folder, "--from", table)["changed"] == 1
    assert [row.text for row in open_picture_set(folder).rows] == ["a fox", 'says "no", twice', "a frog"]


def test_tables_that_are_none_change_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, table = dataset(tmp_path / "set"), tmp_path / "t.csv"
    before = (folder / "metadata.jsonl").read_bytes()
    for name, content, message in (
        ("t.csv", b"name,text\na.png,x\n", "no column file_name"),
        ("t.csv", b"file_name,text\nz.png,x\n", "1 row names no picture of set, first 'z.png'"),
        ("t.csv", b"file_name,text\na.png,x\na.png,y\n", "'a.png' has 2 rows, and 1 in the dataset"),
        ("t.csv", b"file_name,text\na.png,x,y\n", "line 2 is not a row of captions (the line has more cells"),
        ("t.csv", b"file_name,text\na.png,ni\xf1o\n", "not UTF-8"),
        ("t.csv", b"\xff\xfe", "the table is empty"),
        ("t.csv", b'file_name,text\na.png,"x\nb.png,y\n', "opened in line 2 is never closed"),
        ("t.jsonl", b'{"file_name": "a.png", "text": 3}\n', "line 1 is not a row of captions"),
        ("t.jsonl", b"[]\n", "line 1 is not a row of captions"),
    ):
        table = tmp_path / name
        table.write_bytes(content)
        assert run(["data", "edit", str(folder), "--from", str(table)]) == 2
        assert message in capsys.readouterr().err
        assert (folder / "metadata.jsonl").read_bytes() == before
    for options, message in (
        (["--from", str(tmp_path / "none.csv")], "no such table of captions"),
        (["--to", str(tmp_path / "t.txt")], "written as .csv, .jsonl or .html"),
        ([], "give one of --to FILE, --from FILE, or changes to all captions"),
    ):
        assert run(["data", "edit", str(folder), *options]) == 2
        assert message in capsys.readouterr().err


def test_the_page_shows_every_picture_and_escapes_what_it_says(tmp_path: Path, genin: Json) -> None:
    pytest.importorskip("jinja2", reason="genin[data] is not installed")
    folder = dataset(tmp_path / "a set")
    genin("data", "edit", folder, "--to", tmp_path / "pages" / "captions.html")
    page = (tmp_path / "pages" / "captions.html").read_text(encoding="utf-8")
    assert page.count("<textarea") == 3 and 'src="../a%20set/b%20c.png"' in page
    assert "genin data edit &#39;a set&#39; --from" in page
    assert '(<b id="count">1</b>)' in page and "Written 2" in page
    assert "says &#34;no&#34;, twice" in page and page.count('data-column="emotion"') == 3


def test_the_page_of_a_dataset_follows_corrections(tmp_path: Path, genin: Json) -> None:
    pytest.importorskip("jinja2", reason="genin[data] is not installed")
    source, table = folder_of(tmp_path / "in", "a.png", "b.png", "c.png"), tmp_path / "edited.jsonl"
    (source / "broken.png").write_bytes(b"no picture")
    genin("data", "prepare", source, "--out", tmp_path / "out", "--captions", "sidecar")
    path = tmp_path / "out" / "report.html"
    page = path.read_text("utf-8")
    assert "3 have no caption yet" in page and ">no picture</span>" in page and "<table>" not in page
    names = [row.file_name for row in open_picture_set(tmp_path / "out").rows]
    table.write_text(json.dumps({"file_name": names[0], "text": "a <red> fox"}) + "\n")
    genin("data", "edit", tmp_path / "out", "--from", table)
    page = path.read_text("utf-8")
    assert "2 have no caption yet" in page and "a &lt;red&gt; fox" in page and "Captions as of 2" in page
    assert ">no picture</span>" in page and page.count("<h1>") == page.count("</html>") == 1
    genin("data", "edit", tmp_path / "out", "--replace", "red", "blue")
    assert "a &lt;blue&gt; fox" in path.read_text("utf-8") and path.read_text("utf-8").count("<h1>") == 1
    path.write_text("<h1>a page of somebody else</h1>")
    genin("data", "edit", tmp_path / "out", "--replace", "blue", "red")
    assert path.read_text("utf-8") == "<h1>a page of somebody else</h1>"


def test_a_captioned_folder_needs_no_model(tmp_path: Path, genin: Json) -> None:
    source = folder_of(tmp_path / "in", "fox.png")
    genin("data", "prepare", source, "--out", tmp_path / "out")
    assert genin("data", "caption", tmp_path / "out", "--model", "no/such/model")["existing"] == 1


def test_a_model_that_cannot_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    source = folder_of(tmp_path / "in", "1.png")
    (tmp_path / "empty").mkdir()
    for model, message in (
        ("./nowhere", "no such caption model: ./nowhere"),
        ("genin-tests/not-cached", "the caption model cannot be downloaded"),
        (str(tmp_path / "empty"), "the caption model cannot be loaded"),
    ):
        assert run(["data", "caption", str(source), "--model", model]) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1
    assert not (source / "metadata.jsonl").exists()


# --- real pictures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "kept", "caption"),
    [
        ("fluent_emoji_3d", ("--caption-column", "cldr", "--columns", "group"), 1568, "1st place medal"),
        ("noto_emoji_128", ("--caption-column", "annotation", "--columns", "group"), 1675, "keycap: #"),
        pytest.param(
            "crawl_tiles_cc0",
            ("--caption-column", "category,name", "--exclude", "UNUSED,gui"),
            3634,  # seven are blank
            "dngn altars cheibriados",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_real_folders(
    name: str, options: tuple[str, ...], kept: int, caption: str, tmp_path: Path, genin: Json
) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip(f"../shared/data/{name} is not on this machine")
    command = ("data", "prepare", SHARED / name, "--file-column", "file", *options, "--size", 32)
    report = genin(*command, "--out", tmp_path / "out")
    assert report["kept"] == kept and report["captions_missing"] == 0
    assert all("duplicate of" in entry["reason"] or "blank" in entry["reason"] for entry in report["dropped"])
    data = ImageDataset.open(tmp_path / "out")
    assert texts(tmp_path / "out")[0] == caption and data.picture(0, 32).std() > 5
    assert ("group" in data.columns) == ("--columns" in options)
    assert report["splits"]["val"] == pytest.approx(kept / 20, rel=0.35)


# --- one change to all captions ----------------------------------------------------------------------------------------


def captioned(folder: Path, captions: Sequence[str]) -> Path:
    folder.mkdir()
    rows = [{"file_name": f"{number}.png", "text": text, "seed": number} for number, text in enumerate(captions)]
    for row in rows:
        Image.new("RGB", (8, 8), "red").save(folder / str(row["file_name"]))
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return folder


@pytest.mark.parametrize(
    ("words", "captions"),
    [
        (("--replace", "3d", ""), ["cat, default, a 3dx", "dog default", "sky"]),
        (("--replace", "default", "plain"), ["3D cat, plain, a 3dx", "dog plain 3d", "sky"]),
        (("--regex", r"^(\w+) (\w+)", r"\2 \1"), ["cat 3D, default, a 3dx", "default dog 3d", "sky"]),
        (("--remove-tag", "Default", "--add-tag", "fluent"), ["3D cat, a 3dx, fluent", "dog default 3d, fluent", "sky, fluent"]),
        (("--replace", "sky", "", "--add-tag", "sky"), ["3D cat, default, a 3dx, sky", "dog default 3d, sky", "sky"]),
    ],
)  # fmt: skip
def test_all_captions_are_changed_at_once(
    tmp_path: Path, genin: Json, words: tuple[str, ...], captions: list[str]
) -> None:
    folder = captioned(tmp_path / "data", ["3D cat, default, a 3dx", "dog default 3d", "sky"])
    before = (folder / "metadata.jsonl").read_bytes()
    assert genin("data", "edit", folder, *words, "--dry-run", "--json")["dry_run"]
    assert (folder / "metadata.jsonl").read_bytes() == before
    genin("data", "edit", folder, *words, "--json")
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text("utf-8").splitlines()]
    assert [row["text"] for row in rows] == captions and [row["seed"] for row in rows] == [0, 1, 2]


def test_changes_to_all_captions_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = captioned(tmp_path / "data", ["a", "a, b"])
    refused = [
        ["--regex", "(", "x"],
        ["--regex", "a", r"\7"],
        ["--replace", " ", "x"],
        ["--to", "x.csv", "--add-tag", "x"],
        ["--dry-run"],
    ]
    for words in refused:
        assert run(["data", "edit", str(folder), *words]) == 2, words
    assert run(["data", "edit", str(folder), "--replace", "a", ""]) == 0
    assert "2 captions changed, 0 as before; 1 lost all their words" in capsys.readouterr().out

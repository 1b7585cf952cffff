"""`genin data prepare` on videos and comics that the tests make, mixed with broken files, stopped and gone on with."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import time
import wave
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import DatasetCard
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from films import BAR, HEIGHT, PANELS, WIDTH, barred, comic_page, scene, shot, subtitled, write_film
from genin.cli import run
from genin.dataset.files import PictureError, read_picture
from genin.dataset.rows import PictureRow
from genin.dataset.sets import open_picture_set
from genin.dataset.splits import splits_by_chance
from genin.distill.data.aspect import bucket_of, buckets
from genin.distill.data.dataset import read_facts
from genin.distill.data.extract import FitOptions, Piece, pieces_of
from genin.distill.data.find import Candidate
from genin.distill.data.journal import Journal
from genin.distill.data.prepare import Kept, PrepareOptions, _rows_of
from genin.runtimes.errors import InputError

pytest.importorskip("av", reason="genin[data] is not installed")
pytest.importorskip("scenedetect", reason="genin[data] is not installed")

RATE = 24
Json = Callable[..., dict[str, Any]]


def likeness_db(a: Image.Image, b: Image.Image) -> float:
    error = np.mean((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def rows_of(folder: Path) -> list[PictureRow]:
    return list(open_picture_set(folder).rows)


# --- videos -----------------------------------------------------------------------------------------------------------


def test_a_film_gives_the_sharpest_frame_of_every_shot(tmp_path: Path, genin: Json) -> None:
    dark = [Image.new("RGB", (WIDTH, HEIGHT))] * 20  # no picture
    shots = [shot(1), shot(2, 36, sharp_at=11), dark, shot(3, 40, sharp_at=25)]
    write_film(tmp_path / "film.mp4", [frame for frames in shots for frame in frames])
    report = genin("data", "prepare", tmp_path / "film.mp4", "--out", tmp_path / "out")
    assert report["kept"] == 3 and report["taken_from"] == {"video": 3} and not report["dropped"]
    at = [20, 30 + 11, 30 + 36 + 20 + 25]
    rows = rows_of(tmp_path / "out")
    assert [float(row.columns["time_s"]) for row in rows] == pytest.approx([index / RATE for index in at], abs=1e-3)
    assert [row.columns["shot"] for row in rows] == ["0", "1", "3"]
    for row, (seed, index) in zip(rows, ((1, 20), (2, 11), (3, 25)), strict=True):
        assert likeness_db(read_picture(tmp_path / "out" / row.file_name), scene(seed, index)) > 30


def test_bars_are_cut_off(tmp_path: Path, genin: Json) -> None:
    write_film(tmp_path / "film.mkv", [*shot(1, bars=True), *shot(2, bars=True)])
    genin("data", "prepare", tmp_path / "film.mkv", "--out", tmp_path / "out")
    for row, seed in zip(rows_of(tmp_path / "out"), (1, 2), strict=True):
        picture = read_picture(tmp_path / "out" / row.file_name)
        height = HEIGHT - 2 * BAR
        assert picture.width == WIDTH and height - 6 <= picture.height <= height
        top = BAR + (height - picture.height + 1) // 2
        assert likeness_db(picture, scene(seed, 20).crop((0, top, WIDTH, top + picture.height))) > 25


def test_bars_of_a_film_that_is_shown_turned_are_cut_off(tmp_path: Path, genin: Json) -> None:
    film = tmp_path / "phone.mp4"
    write_film(film, [frame.rotate(90, expand=True) for frame in shot(1, bars=True)])
    content = bytearray(film.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 4 + 20 + 16  # of a track's header: version and flags, times, layers
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, HEIGHT << 16, 0, 1 << 30)
    film.write_bytes(content)
    genin("data", "prepare", film, "--out", tmp_path / "out")
    [row] = rows_of(tmp_path / "out")
    picture = read_picture(tmp_path / "out" / row.file_name)
    assert picture.width == WIDTH and HEIGHT - 2 * BAR - 6 <= picture.height <= HEIGHT - 2 * BAR


def test_a_film_ends_at_any_frame(tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    write_film(film, shot(1))
    asked = iter([False] * 9 + [True] * 99)
    with pytest.raises(CancelledError):
        pieces_of(Candidate(film, "film.mp4", kind="video"), FitOptions(), tmp_path, "film", lambda: next(asked))
    assert sum(asked) == 98


def test_a_night_scene_is_no_bar(tmp_path: Path, genin: Json) -> None:
    def night(picture: Image.Image) -> Image.Image:
        return barred(picture)  # black above and below in this shot alone

    write_film(tmp_path / "film.mp4", [*shot(1), *map(night, shot(2)), *shot(3)])
    genin("data", "prepare", tmp_path / "film.mp4", "--out", tmp_path / "out")
    sizes = {read_picture(tmp_path / "out" / row.file_name).size for row in rows_of(tmp_path / "out")}
    assert sizes == {(WIDTH, HEIGHT)}


def test_subtitles_are_avoided_or_cut_off(tmp_path: Path, genin: Json) -> None:
    some, all_of_it = shot(1, subtitles=range(8, 25)), shot(2, 36, subtitles=True)
    write_film(tmp_path / "film.mp4", [*some, *all_of_it])
    genin("data", "prepare", tmp_path / "film.mp4", "--out", tmp_path / "out")
    first, second = (read_picture(tmp_path / "out" / row.file_name) for row in rows_of(tmp_path / "out"))
    frame = round(float(rows_of(tmp_path / "out")[0].columns["time_s"]) * RATE)
    assert first.size == (WIDTH, HEIGHT) and frame not in range(8, 25)
    assert second.width == WIDTH and HEIGHT * 0.6 <= second.height < HEIGHT * 0.77
    assert likeness_db(second, scene(2, 20).crop((0, 0, WIDTH, second.height))) > 30


def test_how_well_subtitles_are_found() -> None:
    """docs/data.md says these figures."""
    import cv2

    from genin.distill.data.video import subtitles_at

    def grey(picture: Image.Image) -> Any:
        return cv2.cvtColor(
            cv2.resize(np.asarray(picture), (480, 270), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY
        )

    texts = ("I WILL NEVER GIVE UP!", "Run.", "They said that nobody ever came back", "Wait! Where are you going?")
    found = [subtitles_at(grey(subtitled(scene(seed), text))) for seed in range(40) for text in texts]
    assert sum(place is not None for place in found) >= 130
    assert not [seed for seed in range(40) if subtitles_at(grey(scene(seed))) is not None]


def test_films_that_are_none_and_one_that_breaks_off(tmp_path: Path, genin: Json) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_text("this is no film")
    (tmp_path / "in" / "b.mkv").write_bytes(b"")
    with wave.open(str(tmp_path / "in" / "c.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))
    (tmp_path / "in" / "c.wav").rename(tmp_path / "in" / "c.avi")
    write_film(tmp_path / "whole.mkv", [*shot(1), *shot(2), *shot(3), *shot(4)])
    content = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "in" / "d.mkv").write_bytes(content[: len(content) * 6 // 10])
    report = genin("data", "prepare", tmp_path / "in", "--out", tmp_path / "out")
    reasons = {Path(entry["path"]).name: entry["reason"] for entry in report["dropped"]}
    assert set(reasons) >= {"a.mp4", "b.mkv", "c.avi"}
    assert "not a readable video" in reasons["a.mp4"] and "not a readable video" in reasons["b.mkv"]
    assert reasons["c.avi"] == "the file has no video"
    assert 1 <= report["kept"] < 4 and "the video breaks off at" in reasons["d.mkv"]


@pytest.mark.parametrize("suffix", [".ts", ".mpg", ".avi", ".mkv", ".webm"])
def test_the_chosen_frame_is_the_one_that_comes_out(tmp_path: Path, genin: Json, suffix: str) -> None:
    """In every container, also where seeking leads elsewhere."""
    codec = {".webm": "libvpx", ".mpg": "mpeg2video", ".ts": "mpeg2video", ".avi": "mpeg4"}.get(suffix, "libx264")
    write_film(tmp_path / f"film{suffix}", [*shot(1), *shot(2, 36, sharp_at=11), *shot(3)], codec=codec)
    report = genin("data", "prepare", tmp_path / f"film{suffix}", "--out", tmp_path / "out")
    assert report["kept"] == 3 and not report["dropped"]
    for row, (seed, index) in zip(rows_of(tmp_path / "out"), ((1, 20), (2, 11), (3, 20)), strict=True):
        picture = read_picture(tmp_path / "out" / row.file_name)
        near = {at: likeness_db(picture, scene(seed, at)) for at in range(index - 4, index + 5)}
        assert max(near, key=near.__getitem__) == index, near


def test_names_that_are_no_unicode(tmp_path: Path, genin: Json) -> None:
    (tmp_path / "in").mkdir()
    scene(1).save(os.fsencode(tmp_path / "in") + b"/bad\xff.png")
    report = genin("data", "prepare", tmp_path / "in", "--out", tmp_path / "out")
    assert report["kept"] == 1


# --- comics -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [{}, {"black": True}, {"bubble": True}])
def test_a_page_is_cut_into_its_panels(tmp_path: Path, genin: Json, kind: dict[str, bool]) -> None:
    (tmp_path / "in").mkdir()
    page = comic_page(7, **kind).convert("L")
    page.save(tmp_path / "in" / "page.png")
    report = genin("data", "prepare", tmp_path / "in", "--pages", "*.png", "--out", tmp_path / "out")
    assert report["taken_from"] == {"page": 6}
    for row, box in zip(rows_of(tmp_path / "out"), PANELS, strict=True):
        assert np.array_equal(
            np.asarray(read_picture(tmp_path / "out" / row.file_name)), np.asarray(page.convert("RGB").crop(box))
        )
    assert [row.columns["panel"] for row in rows_of(tmp_path / "out")] == [*"012345"]


def test_a_picture_without_gutters_stays_whole(tmp_path: Path, genin: Json) -> None:
    (tmp_path / "in").mkdir()
    scene(5).save(tmp_path / "in" / "cover.png")
    genin("data", "prepare", tmp_path / "in", "--pages", "*", "--out", tmp_path / "out")
    [row] = rows_of(tmp_path / "out")
    assert read_picture(tmp_path / "out" / row.file_name).size == (WIDTH, HEIGHT)


ORDERED = ("c5²3.png", "c9.png", "c10.png", f"c{'1' * 5000}.png")


@pytest.mark.parametrize("fault", ["name", "version", "lzma"])
def test_a_broken_comic_ends_itself_alone(tmp_path: Path, genin: Json, fault: str) -> None:
    (tmp_path / "in").mkdir()
    scene(1, size=(48, 40)).save(tmp_path / "in" / "a.png")
    comic = tmp_path / "in" / "v.cbz"
    with zipfile.ZipFile(comic, "w", zipfile.ZIP_LZMA if fault == "lzma" else zipfile.ZIP_STORED) as archive:
        archive.writestr("é.png", bytes(range(256)) * 8)
    data = bytearray(comic.read_bytes())
    central = data.rindex(b"PK\x01\x02")
    if fault == "name":
        data[central + 46] = 0xFF
    elif fault == "version":
        data[central + 6] = 127
    else:
        data[60:120] = bytes(60)
    comic.write_bytes(data)
    report = genin("data", "prepare", tmp_path / "in", "--out", tmp_path / "out")
    reasons = {Path(entry["path"]).name: entry["reason"] for entry in report["dropped"]}
    assert report["kept"] == 1 and len(reasons) == 1
    assert "cannot be unpacked" in str(reasons) or "not a readable zip archive" in str(reasons)


def test_a_comic_archive(tmp_path: Path, genin: Json) -> None:
    (tmp_path / "in").mkdir()
    comic_page(3).save(tmp_path / "page.png")
    with zipfile.ZipFile(tmp_path / "in" / "volume 1.cbz", "w") as archive:
        archive.write(tmp_path / "page.png", "../../escaped.png")
        archive.writestr("b.png", (tmp_path / "page.png").read_bytes()[:2000])
        for name in ("c10.png", "c9.png", "c5²3.png", f"c{'1' * 5000}.png"):  # digits that `int` refuses
            archive.writestr(name, b"x")
        archive.writestr("ComicInfo.xml", "<x/>")
    (tmp_path / "in" / "broken.cbz").write_bytes(b"PK nothing")
    report = genin("data", "prepare", tmp_path / "in", "--out", tmp_path / "out")
    assert report["kept"] == 6 and report["taken_from"] == {"comic": 6}
    assert [(Path(entry["path"]).name, entry["reason"]) for entry in report["dropped"]] == [
        ("broken.cbz", "not a readable zip archive"),
        ("volume 1.cbz, b.png", "cannot be read (image file is truncated)"),
        *((f"volume 1.cbz, {name}", "not a picture, or damaged from its first bytes on") for name in ORDERED),
    ]
    assert not (tmp_path.parent / "escaped.png").exists() and not (tmp_path / "escaped.png").exists()


# --- everything in one call -------------------------------------------------------------------------------------------


def planted(folder: Path) -> None:
    """A video, pages, pictures and every fault of the list."""
    for part in ("episodes", "manga", "fan"):
        (folder / part).mkdir(parents=True)
    write_film(folder / "episodes" / "one.mp4", [*shot(1), *shot(2)])
    comic_page(4).save(folder / "manga" / "page.png")
    good = folder / "fan" / "good.png"
    scene(9, size=(300, 200)).save(good)
    (folder / "fan" / "truncated.png").write_bytes(good.read_bytes()[:1500])
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    )
    (folder / "fan" / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    text = b"Comment\0\0" + zlib.compress(bytes(200 << 20), 9)
    bomb = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)), (b"zTXt", text), (b"IEND", b""))
    )
    (folder / "fan" / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bomb)
    scene(10, size=(200, 300)).convert("CMYK").save(folder / "fan" / "cmyk.jpg", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6
    scene(11, size=(300, 200)).save(folder / "fan" / "rotated.jpg", exif=exif, quality=95)
    Image.new("RGB", (1, 1)).save(folder / "fan" / "dot.png")
    Image.new("RGB", (90, 90), "red").save(folder / "fan" / "blank.png")
    shutil.copy(good, folder / "fan" / "twin.png")
    (folder / "fan" / "words.jpg").write_text("not a picture at all")
    (folder / "fan" / "cmyk.txt").write_text("  \n")  # an empty caption
    rows = [
        {
            "file_name": "fan/good.png",
            "text": "a street",
            "source": "fan art",
            "rights": "A. Artist",
            "licence": "CC0-1.0",
        }
    ]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_one_call_takes_everything_and_reports_every_fault(tmp_path: Path, genin: Json) -> None:
    planted(tmp_path / "in")
    options = ("--pages", "manga/*", "--captions", "metadata,sidecar", "--licence", "MIT", "--size", "64", "--buckets")
    report = genin("data", "prepare", tmp_path / "in", *options, "--out", tmp_path / "out")
    reasons = {Path(entry["path"]).name: entry["reason"] for entry in report["dropped"]}
    assert reasons.keys() == {
        *("truncated.png", "huge.png", "bomb.png", "dot.png", "blank.png", "twin.png", "words.jpg"),
    }
    assert "exceeds limit" in reasons["huge.png"] and "exact duplicate of" in reasons["twin.png"]
    assert "too small (1×1" in reasons["dot.png"] and "not a picture" in reasons["words.jpg"]
    assert "one colour" in reasons["blank.png"] and "cannot be read" in reasons["truncated.png"]
    assert report["taken_from"] == {"video": 2, "page": 6, "picture": 3}
    assert report["captions_missing"] == 10
    rows = {row.columns["source_file"]: row for row in rows_of(tmp_path / "out")}
    sizes = {name: read_picture(tmp_path / "out" / row.file_name).size for name, row in rows.items()}
    assert set(sizes.values()) <= set(buckets(64))
    assert sizes["fan/rotated.jpg"][::-1] == sizes["fan/good.png"] == bucket_of((300, 200), 64)
    assert rows["fan/good.png"].columns["licence"] == "CC0-1.0" and rows["fan/rotated.jpg"].columns["licence"] == "MIT"
    facts = read_facts(tmp_path / "out")
    assert {"source": "fan art", "rights": "A. Artist", "licence": "CC0-1.0", "pictures": 1} in facts["origins"]
    card, page = ((tmp_path / "out" / name).read_text(encoding="utf-8") for name in ("README.md", "report.html"))
    assert "| fan art | A. Artist | CC0-1.0 | 1 |" in card and DatasetCard(card).data.license == ["cc0-1.0", "mit"]
    assert all(name in page for name in reasons) and page.count("data:image/jpeg") >= 11 + 4
    assert "http" not in page


def test_colour_profiles_are_applied(tmp_path: Path, genin: Json) -> None:
    """In a space whose red and green are exchanged, pixels with red and green exchanged are the same picture."""
    (tmp_path / "in").mkdir()
    picture = scene(3, size=(120, 90))
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exchanged = own.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")
    red, green, blue = picture.split()
    Image.merge("RGB", (green, red, blue)).save(tmp_path / "in" / "exchanged.png", icc_profile=exchanged)
    picture.save(tmp_path / "in" / "broken.png", icc_profile=b"no profile")
    genin("data", "prepare", tmp_path / "in", "--duplicates", "keep", "--out", tmp_path / "out")
    for name in ("000000.png", "000001.png"):
        found = np.asarray(read_picture(tmp_path / "out" / name)).astype(int)
        assert np.abs(found - np.asarray(picture)).max() <= 2


# --- going on ---------------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.name not in ("dataset.json", "report.html", "README.md")
    }


def test_a_killed_run_goes_on_and_ends_alike(tmp_path: Path, genin: Json) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for seed in range(150):
        scene(seed, size=(500, 400)).save(source / f"{seed:03d}.png")
    genin("data", "prepare", source, "--size", "64", "--out", tmp_path / "whole")
    command = [
        sys.executable,
        "-m",
        "genin",
        "data",
        "prepare",
        str(source),
        "--size",
        "64",
        "--out",
        str(tmp_path / "out"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = tmp_path / ".out.partial" / "journal.jsonl"
    deadline = time.monotonic() + 60
    while (not journal.is_file() or journal.read_text().count("\n") < 20) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (tmp_path / "out").exists()
    report = genin("data", "prepare", source, "--size", "64", "--out", tmp_path / "out")
    assert 15 <= report["resumed"] < 150
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not (tmp_path / ".out.partial").exists()


def test_a_picture_damaged_by_a_power_cut_is_made_again(
    tmp_path: Path, genin: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the journal says was written may be empty, cut off or full of zeros after one."""
    source = tmp_path / "in"
    source.mkdir()
    for seed in range(4):
        scene(seed, size=(90, 80)).save(source / f"{seed}.png")
    command = ["data", "prepare", source, "--size", "64", "--out", tmp_path / "out"]

    def fail(*_: object) -> None:
        raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr("genin.distill.data.prepare.write_metadata", fail)
        assert run([str(argument) for argument in command]) == 1
    assert not (tmp_path / "out").exists()
    pieces = {path: path.read_bytes() for path in (tmp_path / ".out.partial" / "pieces").iterdir()}
    empty, cut, zeros, _ = pieces
    empty.write_bytes(b"")
    cut.write_bytes(pieces[cut][:-20])
    half = len(pieces[zeros]) // 2
    zeros.write_bytes(pieces[zeros][:half] + bytes(len(pieces[zeros]) - half))
    assert genin(*command)["resumed"] == 1
    written = {path.read_bytes() for path in (tmp_path / "out").glob("*.png")}
    assert written == set(pieces.values())


def test_what_gave_nothing_is_read_again_when_the_run_goes_on(
    tmp_path: Path, genin: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    for seed in range(2):
        scene(seed, size=(90, 80)).save(tmp_path / "in" / f"{seed}.png")
    command = ["data", "prepare", tmp_path / "in", "--out", tmp_path / "out"]

    def away(path: Path, *_: object) -> None:
        raise PictureError("cannot be read ([Errno 5] Input/output error)", where=path)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("genin.distill.data.extract.open_picture", away)
        patch.setattr("genin.distill.data.prepare._choose", lambda files, *_: stop(list(files)))
        assert run([str(argument) for argument in command]) == 130
    report = genin(*command)
    assert report["kept"] == 2 and not report["dropped"] and report["resumed"] == 0


def test_a_dataset_stays_as_it_is_whatever_is_prepared_after_it(
    tmp_path: Path, genin: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is killed when it is all but done leaves its pieces, which are the same files as the dataset's."""
    (tmp_path / "in").mkdir()
    scene(1, size=(90, 80)).save(tmp_path / "in" / "a.png")
    command = ["data", "prepare", tmp_path / "in", "--out", tmp_path / "out"]

    remove = shutil.rmtree

    def killed_at_last(path: Path, **options: Any) -> None:
        if path.suffix == ".partial":
            raise KeyboardInterrupt
        remove(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed_at_last)
        assert run([str(argument) for argument in command]) == 130
    (tmp_path / "out").rename(tmp_path / "earlier")
    before = (tmp_path / "earlier" / "000000.png").read_bytes()
    scene(2, size=(90, 80)).save(tmp_path / "in" / "a.png")
    genin(*command)
    assert (tmp_path / "earlier" / "000000.png").read_bytes() == before
    assert (tmp_path / "out" / "000000.png").read_bytes() != before


def test_nothing_usable_leaves_nothing_also_where_open_files_cannot_be_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    remove = shutil.rmtree

    def remove_as_windows_does(folder: Path, **options: Any) -> None:
        inside = [file.path for file in psutil.Process().open_files() if Path(file.path).is_relative_to(folder)]
        if inside:
            raise PermissionError(13, "The process cannot access the file because it is being used", inside[0])
        remove(folder, **options)

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "broken.png").write_bytes(b"x")
    monkeypatch.setattr(shutil, "rmtree", remove_as_windows_does)
    assert run(["data", "prepare", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 2
    assert "none of the files can be used" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_what_has_changed_is_read_again(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    scene(1).save(picture)
    pieces = [Piece("", reason="broken")]
    file = Candidate(picture, "a.png")
    with Journal.open(tmp_path / "work", {"size": 1}) as journal:
        journal.write(file, pieces, journal.stat(picture))
    with Journal.open(tmp_path / "work", {"size": 1}) as journal:
        assert journal.known(file) == pieces
        assert journal.known(replace(file, kind="page")) is None  # the same file, read in another way
    os.utime(picture, ns=(1, 1))
    with Journal.open(tmp_path / "work", {"size": 1}) as journal:
        assert journal.known(file) is None
        journal.write(file, pieces, journal.stat(picture))
    with Journal.open(tmp_path / "work", {"size": 2}) as journal:  # other options begin anew
        assert journal.known(file) is None


def test_only_one_run_at_a_time(tmp_path: Path) -> None:
    with (
        Journal.open(tmp_path / "work", {}),
        pytest.raises(InputError, match="another run"),
        Journal.open(tmp_path / "work", {}),
    ):
        pass


@given(st.data())
def test_a_journal_cut_off_anywhere_is_read_up_to_there(data: st.DataObject) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        work, paths = Path(folder) / "work", [Path(folder) / f"{index}.png" for index in range(4)]
        for path in paths:
            path.write_bytes(b"x")
        files = [Candidate(path, path.name) for path in paths]
        with Journal.open(work, {"a": 1}) as journal:
            for file in files:
                journal.write(file, [Piece("", reason=f"wrong: {file.name} é")], journal.stat(file.path))
        content = (work / "journal.jsonl").read_bytes()
        cut = data.draw(st.integers(0, len(content)))
        (work / "journal.jsonl").write_bytes(content[:cut])
        whole = max(0, content[:cut].count(b"\n") - 1)
        with Journal.open(work, {"a": 1}) as journal:
            known = [journal.known(file) for file in files]
            assert [pieces is not None for pieces in known].count(True) in (whole, whole + 1)
            journal.write(files[3], [Piece("again")], journal.stat(paths[3]))
        with Journal.open(work, {"a": 1}) as journal:
            assert journal.known(files[3]) == [Piece("again")]


# --- rules ------------------------------------------------------------------------------------------------------------


@given(st.integers(16, 4000), st.integers(16, 4000), st.sampled_from([64, 128, 512, 768, 1024]))
def test_a_bucket_keeps_at_least_as_much_as_the_square(width: int, height: int, size: int) -> None:
    def kept(shape: tuple[int, int]) -> float:
        scale = max(shape[0] / width, shape[1] / height)
        return shape[0] * shape[1] / (scale**2 * width * height)

    bucket = bucket_of((width, height), size)
    assert bucket in buckets(size) and all(side % 8 == 0 for side in bucket)
    assert bucket[0] * bucket[1] <= size * size
    assert kept(bucket) >= kept((size, size))
    assert bucket_of((height, width), size) == bucket[::-1] or kept(bucket) == pytest.approx(kept((size, size)))


def test_a_prepared_film_has_no_minute_in_two_splits() -> None:
    candidate = Candidate(Path("film.mp4"), "film.mp4", kind="video")
    shots = [Piece(f"shot {shot}", group=f"film.mp4#{shot // 10}") for shot in range(60)]
    rows = _rows_of([Kept(f"{i:06d}.png", candidate, shot) for i, shot in enumerate(shots)], PrepareOptions())
    found = {(shot.group, row.columns["split"]) for shot, row in zip(shots, rows, strict=True)}
    assert len(found) == 6 and {split for _, split in found} == {"train", "val", "test"}


@given(st.lists(st.integers(0, 12), min_size=40, max_size=200))
def test_no_group_is_parted(groups: list[int]) -> None:
    names = [f"film.mp4, shot {index}" for index in range(len(groups))]
    splits = splits_by_chance(["a caption"] * len(groups), names, [f"film#{group}" for group in groups])
    for group in set(groups):
        assert len({split for split, other in zip(splits, groups, strict=True) if other == group}) == 1
    if len(set(groups)) > 4:
        assert set(splits) == {"train", "val", "test"}


def test_a_page_needs_its_packages(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    (tmp_path / "in").mkdir()
    write_film(tmp_path / "in" / "film.mp4", shot(1, 14))
    monkeypatch.setitem(sys.modules, "av", None)
    assert run(["data", "prepare", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 2
    assert "pip install 'genin[data]'" in capsys.readouterr().err


# --- what a film's file says of itself ---------------------------------------------------------------------------------


def write_music_with_cover(path: Path) -> None:
    import av
    from av.stream import Disposition

    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 96, 96, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        sound = container.add_stream("aac", rate=44100, layout="mono")
        container.mux(cover.encode(av.VideoFrame.from_image(Image.new("RGB", (96, 96), "red"))))
        container.mux(cover.encode())
        for index in range(10):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 44100, index * 1024
            container.mux(sound.encode(frame))
        container.mux(sound.encode())


def test_a_cover_is_no_film_and_a_film_that_shows_nothing_is_named(tmp_path: Path, genin: Json) -> None:
    source = tmp_path / "in"
    source.mkdir()
    scene(0).save(source / "a.png")
    write_music_with_cover(source / "song.mp4")
    for name, colour in {"flat.mp4": (40, 80, 160), "dark.mp4": (3, 3, 3)}.items():
        write_film(source / name, [Image.new("RGB", (96, 64), colour)] * 30)
    report = genin("data", "prepare", source, "--out", tmp_path / "out")
    assert report["kept"] == 1
    said = {Path(entry["path"]).name: entry["reason"] for entry in report["dropped"]}
    assert said["song.mp4"] == "the file has no video, only a cover picture"
    assert said["flat.mp4"] == said["dark.mp4"] == "no frame shows anything: dark, or of one colour, all the way"


def test_the_film_is_read_wherever_its_cover_stands() -> None:
    from types import SimpleNamespace

    from av.stream import Disposition

    from genin.distill.data.video import _video_stream

    cover = SimpleNamespace(disposition=Disposition.attached_pic | Disposition.default)
    other, film = SimpleNamespace(disposition=Disposition(0)), SimpleNamespace(disposition=Disposition.default)
    for streams in ([cover, film], [film, cover], [cover, other, film]):
        assert _video_stream(SimpleNamespace(streams=SimpleNamespace(video=streams)), Path("a.mp4")) is film


def test_pages_are_in_order_whatever_counts_as_a_digit(tmp_path: Path, genin: Json) -> None:
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "a.cbz", "w") as archive:
        for seed, name in enumerate(("1.png", "5²3.png", "①.png", "३.png", "10.png")):
            scene(seed).save(tmp_path / "page.png")
            archive.write(tmp_path / "page.png", name)
    report = genin("data", "prepare", tmp_path / "in", "--duplicates", "keep", "--out", tmp_path / "out")
    assert report["kept"] >= 5 and not report["dropped"]


def test_a_film_whose_first_picture_is_damaged_ends(tmp_path: Path) -> None:
    """Closing a decoder with threads of whole frames waited for ever, in two of three cases."""
    film = tmp_path / "a.mp4"
    write_film(film, [scene(0), *[scene(1)] * 11])
    content = bytearray(film.read_bytes())
    content[content.index(b"mdat") + 4] = 0x40  # the length of the first packet's first unit
    film.write_bytes(content)
    code = (
        "import sys\nfrom pathlib import Path\nfrom genin.dataset.files import PictureError\n"
        "from genin.distill.data.video import frames_of\n"
        "for _ in range(5):\n"
        "    try:\n        list(frames_of(Path(sys.argv[1])))\n"
        "    except PictureError as error:\n        print(error.what)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(film)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == ["no frame of the video can be decoded"] * 5

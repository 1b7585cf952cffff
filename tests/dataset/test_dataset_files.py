"""Pictures as cameras, phones and the web have them: metadata, animations, decoders that are not there, extreme shapes."""

from __future__ import annotations

import io
import os
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genin.dataset.files import PictureError, open_picture, picture_size, read_picture, stored_size
from genin.dataset.folders import is_picture
from genin.runtimes import picture_files


def picture(seed: int, width: int = 60, height: int = 40) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """A big-endian TIFF block of one directory; entries are (tag, type, count, value)."""
    body, far, place = b"", b"", 8 + 2 + 12 * len(entries) + 4
    for tag, kind, count, value in entries:
        body += struct.pack(">HHI", tag, kind, count)
        body += value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(">I", place + len(far))
        far += value if len(value) > 4 else b""
    return b"Exif\0\0MM\0*" + struct.pack(">IH", 8, len(entries)) + body + struct.pack(">I", 0) + far


TURN = (0x0112, 3, 1, struct.pack(">H", 6))
ODD_TAGS = {
    "resolution is text": ((0x011A, 2, 6, b"72dpi\0"), TURN),
    "unit is text": ((0x0128, 2, 6, b"inch \0"), TURN),
    "unit is large": ((0x0128, 4, 1, struct.pack(">I", 70000)), TURN),
    "zero denominator": ((0x011A, 5, 1, struct.pack(">II", 72, 0)), TURN),
    "unknown type": ((0x9999, 77, 1, b"x"), TURN),
}


@pytest.mark.parametrize("tags", ODD_TAGS.values(), ids=ODD_TAGS)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_an_odd_tag_costs_neither_the_picture_nor_its_orientation(
    tmp_path: Path, tags: tuple[tuple[int, int, int, bytes], ...], suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    picture(0).save(path, exif=exif(*sorted(tags)), quality=95)
    assert read_picture(path).size == picture_size(path) == (40, 60)
    assert stored_size(path) == (60, 40)


@pytest.mark.parametrize("value", [1, 3, 6])
def test_the_size_of_a_tiff_is_that_of_its_upright_picture(tmp_path: Path, value: int) -> None:
    picture(0).save(tmp_path / "a.tif", exif=exif((0x0112, 3, 1, struct.pack(">H", value))))
    assert read_picture(tmp_path / "a.tif").size == picture_size(tmp_path / "a.tif")


@pytest.mark.parametrize("value", [0, 9, 700])
def test_an_orientation_that_is_none_turns_nothing(tmp_path: Path, value: int) -> None:
    picture(0).save(tmp_path / "a.jpg", exif=exif((0x0112, 3, 1, struct.pack(">H", value))))
    assert read_picture(tmp_path / "a.jpg").size == picture_size(tmp_path / "a.jpg") == (60, 40)
    text = exif((0x0112, 2, 6, b"right\0"))
    picture(0).save(tmp_path / "b.jpg", exif=text)
    assert read_picture(tmp_path / "b.jpg").size == (60, 40)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif"])
def test_the_first_of_several_pictures_is_taken_and_said(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "green", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:], **({"lossless": True} if suffix == ".webp" else {}))
    opened = open_picture(path)
    assert opened.frames == 3 and opened.image.getpixel((5, 5)) == (255, 0, 0)
    with path.open("r+b") as file:  # later frames are cut off: the first is still there, if the format allows
        file.truncate(path.stat().st_size - 20)
    if suffix in (".gif", ".png"):
        assert read_picture(path).getpixel((5, 5)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.png", b"\n<!DOCTYPE html><html>", "a web page"),
        ("a.png", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("a.png", b"<svg xmlns=", "SVG"),
        ("a.png", b"", "the file is empty"),
        ("a.png", b"neither", "not a picture"),
    ],
)
def test_what_a_file_is_instead_is_said(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    for read in (read_picture, picture_size):
        with pytest.raises(PictureError, match=reason):
            read(tmp_path / name)
    with pytest.raises(PictureError, match=reason):
        read_picture(Path(name), file=io.BytesIO(content))


def test_a_plugin_is_used_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for pillow-heif, whose decoder is not in every environment."""

    class HeicFile(Image.Image):
        pass

    def decode(stream: io.BytesIO, name: str = "") -> Image.Image:
        return picture(1)

    plugin = types.ModuleType("pillow_heif")
    plugin.register_heif_opener = (
        lambda: Image.register_open(  # type: ignore[attr-defined]
            "HEIF", decode, lambda start: start[4:12] == b"ftypheic"
        )
    )
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    picture_files._can_decode.cache_clear()
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 40)
    assert read_picture(tmp_path / "a.heic").size == (60, 40)
    picture_files._can_decode.cache_clear()


@pytest.mark.skipif(not picture_files._can_decode(".avif"), reason="this Pillow has no AVIF")
def test_avif_is_read(tmp_path: Path) -> None:
    picture(2).save(tmp_path / "a.AVIF", "AVIF")
    assert is_picture("a.AVIF") and read_picture(tmp_path / "a.AVIF").size == (60, 40)


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 2)])
def test_extreme_shapes_are_read(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, (9, 8, 7)).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").size == picture_size(tmp_path / "a.png") == size


def test_a_pipe_or_folder_with_a_pictures_name_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").mkdir()
    for name in ("a.png", "b.png"):
        with pytest.raises(PictureError, match="not a regular file"):
            read_picture(tmp_path / name)

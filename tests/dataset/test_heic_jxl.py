"""HEIC and JPEG XL pictures: read like any other where their decoder is installed, else named with the line that installs it."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genin.cli import run
from genin.dataset.files import open_picture, picture_size, read_picture
from genin.runtimes import picture_files
from genin.runtimes.pictures import Picture

Json = Callable[..., dict[str, Any]]
SIZE = (60, 40)
KINDS = {
    "a.heic": ("pillow_heif", "pillow-heif"),
    "a.HEIF": ("pillow_heif", "pillow-heif"),
    "a.jxl": ("pillow_jxl", "pillow-jxl-plugin"),
    "phone.jpg": ("pillow_heif", "pillow-heif"),  # HEIC under another name
}
STARTS = {"pillow_heif": b"\0\0\0\x1cftypheic" + b"\0" * 40, "pillow_jxl": b"\xff\x0a" + b"\0" * 40}


@pytest.fixture
def no_decoders(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As where neither package is installed."""
    Image.init()
    for module in ("pillow_heif", "pillow_jxl"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name not in ("HEIF", "JXL")])
    picture_files._can_decode.cache_clear()
    yield
    picture_files._can_decode.cache_clear()


def corner() -> Image.Image:
    """Black, with a red corner."""
    picture = Image.new("RGB", SIZE)
    picture.paste((255, 0, 0), (0, 0, 20, 20))
    return picture


def write(path: Path, picture: Image.Image, module: str, **options: Any) -> None:
    plugin = pytest.importorskip(module, reason=f"{module} is not installed")
    if module == "pillow_heif":
        plugin.register_heif_opener()
        picture.save(path, "HEIF", quality=-1, **options)
    else:
        picture.save(path, "JXL", lossless=True, **options)


@pytest.mark.parametrize("name", KINDS)
def test_they_are_read_like_any_other(name: str, tmp_path: Path, genin: Json) -> None:
    path = tmp_path / "src" / name
    path.parent.mkdir()
    write(path, corner(), KINDS[name][0])
    read = np.asarray(read_picture(path))
    assert picture_size(path) == SIZE and np.abs(read - np.asarray(corner()).astype(int)).mean() < 1
    assert np.array_equal(np.asarray(read_picture(Path(name), file=io.BytesIO(path.read_bytes()))), read)
    assert np.array_equal(Picture.open(path).array, read)
    assert genin("data", "inspect", path.parent)["pictures"] == 1
    assert genin("data", "prepare", path.parent, "--out", tmp_path / "out", "--min-size", "8")["kept"] == 1


@pytest.mark.parametrize("name", ["a.heic", "a.jxl"])
@pytest.mark.parametrize("mode", ["RGBA", "L"])
def test_transparency_and_grey(name: str, mode: str, tmp_path: Path) -> None:
    picture = corner().convert(mode)
    if mode == "RGBA":
        picture.putalpha(Image.linear_gradient("L").resize(SIZE))
    write(tmp_path / name, picture, KINDS[name][0])
    picture.save(tmp_path / "a.png")
    ours, plain = (np.asarray(read_picture(tmp_path / file)).astype(int) for file in (name, "a.png"))
    assert np.abs(ours - plain).mean() < 1


def test_a_jxl_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    """The orientation of HEIC is in the file itself, and its decoder has applied it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    write(tmp_path / "a.jxl", corner(), "pillow_jxl", exif=exif.tobytes())
    turned = read_picture(tmp_path / "a.jxl")
    assert turned.size == picture_size(tmp_path / "a.jxl") == (40, 60) and turned.getpixel((35, 5)) == (255, 0, 0)


def test_the_first_of_several_is_taken_and_said(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif")
    write(tmp_path / "a.heic", corner(), "pillow_heif", save_all=True, append_images=[Image.new("RGB", SIZE, "blue")])
    assert open_picture(tmp_path / "a.heic").frames == 2


@pytest.mark.usefixtures("no_decoders")
@pytest.mark.parametrize("name", KINDS)
def test_without_a_decoder_the_line_that_installs_it_is_said(
    name: str, tmp_path: Path, genin: Json, capsys: pytest.CaptureFixture[str]
) -> None:
    module, package = KINDS[name]
    path, says = tmp_path / "src" / name, f"is not supported here: pip install '{package}'"
    path.parent.mkdir()
    path.write_bytes(STARTS[module])
    for read in (read_picture, picture_size):
        with pytest.raises(picture_files.PictureError, match=package):
            read(path)
    with pytest.raises(picture_files.PictureError, match=package):
        read_picture(Path(name), file=io.BytesIO(STARTS[module]))
    corner().save(path.parent / "b.png")
    broken = genin("data", "inspect", path.parent)["broken"]
    assert [entry["path"] for entry in broken] == [name] and says in broken[0]["reason"]
    dropped = genin("data", "prepare", path.parent, "--out", tmp_path / "out", "--min-size", "8")["dropped"]
    assert len(dropped) == 1 and name in dropped[0]["path"] and says in dropped[0]["reason"]
    command = ["generate", "a ninja", "-m", "builtin:student", "--out", str(tmp_path / "a.png")]
    assert run([*command, "--image", str(path)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and says in said[0] and str(path) in said[0]

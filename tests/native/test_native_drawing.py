"""The native library draws Python's pictures: precisions, single graphs, sizes, guidance, added tokens, images, masks, engines."""

from __future__ import annotations

import ctypes as c
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import genin
from conftest import psnr_db
from genin.runtimes.bundle import file_entry
from genin.runtimes.errors import InputError
from genin.runtimes.starts import settled_strength, strengths
from native_painter import NativePainter
from tiny_bundle import without_encoder

ROOT = Path(__file__).parents[2]
ONE_STEP = ROOT / "runtimes" / "weights" / "student-1step"
PATIENCE_S = 60.0
SAME_ENGINE_DB, OTHER_ENGINE_DB = 60.0, 40.0
PROMPT = "a ninja, 忍者"

pytestmark = [
    pytest.mark.export,
    pytest.mark.skipif(shutil.which("cmake") is None or shutil.which("g++") is None, reason="needs cmake and g++"),
]

Open = Callable[..., NativePainter]


@pytest.fixture
def open_native(native_build: Path, ort: Path) -> Iterator[Open]:
    opened: list[NativePainter] = []

    def open_one(bundle: Path, library: Path = ort, **options: Any) -> NativePainter:
        painter = NativePainter(native_build / "libgenin.so", library, str(bundle), **options)
        opened.append(painter)
        return painter

    yield open_one
    for painter in opened:
        painter.close()


@pytest.fixture(scope="session")
def openvino_c() -> Path:
    """OpenVINO's C library, as its wheel has it."""
    openvino = pytest.importorskip("openvino")
    [library] = (Path(openvino.__file__).parent / "libs").glob("libopenvino_c.so.*")
    return library


def drawn(painter: NativePainter, prompt: str, seed: int, size: tuple[int, int], **asked: Any) -> NDArray[np.uint8]:
    """`size` is (height, width)."""
    ticket = painter.submit(prompt, seed, **asked)
    result = painter.wait(ticket, PATIENCE_S)
    assert result == "ok", [event.message for event in painter.poll()]
    picture = painter.take(ticket, size[1], size[0])
    assert picture is not None
    return picture.array


def refusal(painter: NativePainter, **asked: Any) -> tuple[str, str]:
    """How a request ends, and the message."""
    try:
        ticket = painter.submit(PROMPT, 1, **asked)
    except InputError as error:
        return str(error).split(":")[0], str(error)
    result = painter.wait(ticket, PATIENCE_S)
    return result, [event.message for event in painter.poll() if event.ticket == ticket][-1]


def pixels(height: int, width: int, channels: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth ones, as of a photo, with some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [127 + 100 * np.sin(x / (5 + c) + y / (9 - c)) for c in range(channels)]
    return np.clip(np.stack(waves, -1) + rng.normal(0, 9, (height, width, channels)), 0, 255).astype(np.uint8)


# --- what a bundle may hold ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "mixed", "eight", None])
def test_precisions(matrix: Path, open_native: Open, precision: str | None) -> None:
    painter = open_native(matrix, precision=precision and precision.encode())
    with genin.load(matrix, runtime="onnxruntime", precision=precision or "auto", threads=1) as pipe:
        for steps in (4, 2):  # of two steps there is a single graph
            wanted = pipe(PROMPT, seed=7, steps=steps).array
            assert psnr_db(drawn(painter, PROMPT, 7, wanted.shape[:2], steps=steps), wanted) >= SAME_ENGINE_DB


@pytest.mark.parametrize("precision", ["fp32", "w8a8"])
def test_guidance_fixed_batches_and_archives(threes: Path, open_native: Open, precision: str) -> None:
    """A packed teacher, whose graphs take three rows at a time."""
    painter = open_native(threes, precision=precision.encode())
    with genin.load(threes, runtime="onnxruntime", precision=precision, threads=1) as pipe:
        for asked in ({"steps": 3}, {"steps": 2}, {"steps": 2, "guidance_scale": 5.0}, {"guidance_scale": 1.0}):
            for prompt in (PROMPT, ""):
                wanted = pipe(prompt, seed=3, **asked).array
                assert psnr_db(drawn(painter, prompt, 3, wanted.shape[:2], **asked), wanted) >= SAME_ENGINE_DB


def test_sizes(tiny_bundle: Path, open_native: Open) -> None:
    painter = open_native(tiny_bundle)
    with genin.load(tiny_bundle, runtime="onnxruntime", threads=1) as pipe:
        multiple, (own, _) = pipe.image.multiple, pipe.image_size
        assert multiple is not None
        for height, width in ((own + multiple, own), (multiple, 3 * multiple), (own, own)):
            wanted = pipe(PROMPT, seed=1, size=(height, width)).array
            found = drawn(painter, PROMPT, 1, (height, width), height=height, width=width)
            assert psnr_db(found, wanted) >= SAME_ENGINE_DB
    for asked in ({"width": multiple + 1}, {"height": 4096}):
        result, message = refusal(painter, **asked)
        assert result == "argument" and f"name multiples of {multiple} up to 2048" in message


def test_every_ticket_of_a_long_queue_has_an_event(open_native: Open) -> None:
    count = 9000
    painter = open_native(ONE_STEP, capacity=count)
    assert painter.wait(painter.loading, PATIENCE_S) == "ok"
    painter.pause()
    tickets = [painter.submit("a ninja") for _ in range(count)]
    assert painter.cancel(None)
    assert {painter.wait(ticket, 0) for ticket in tickets} == {"cancelled"}
    assert sum(event.kind == "failed" for event in painter.poll()) == count


def test_only_its_own_size(open_native: Open) -> None:
    assert refusal(open_native(ONE_STEP), width=96) == (
        "argument",
        "student-1step: it draws 128x128 only, not 96x128; export it with --any-size",
    )


def test_added_tokens(tmp_path: Path, open_native: Open) -> None:
    """A textual inversion of two vectors, and a single word; their ids are other words' here, so that no embeddings are needed."""
    bundle = tmp_path / "inverted"
    shutil.copytree(ONE_STEP, bundle)
    added = {"300": {"content": "<cat>"}, "301": {"content": "<cat>_1"}, "302": {"content": "dog", "single_word": True}}
    config = bundle / "tokenizer" / "tokenizer_config.json"
    config.write_text(json.dumps({"added_tokens_decoder": added}), encoding="utf-8")
    manifest = bundle / "manifest.json"
    data = json.loads(manifest.read_text(encoding="utf-8"))
    entry = file_entry(bundle, "tokenizer/tokenizer_config.json")
    about = {"path": entry.path, "sha256": entry.sha256, "size_bytes": entry.size_bytes}
    data["files"] = [file for file in data["files"] if file["path"] != entry.path] + [about]
    manifest.write_text(json.dumps(data), encoding="utf-8")
    painter = open_native(bundle)
    with genin.load(bundle, runtime="onnxruntime", threads=1) as pipe:
        plain = pipe("a  in the rain", seed=7).array
        for prompt in (
            "a <cat> in the rain",
            "a <cat><cat>_1",
            "a dog",
            "hotdog <cat>",
            "dogs",
            "dog",
            "a dog's <Cat>",
            "<cat>dog<|endoftext|>x",
        ):
            wanted = pipe(prompt, seed=7).array
            assert not np.array_equal(wanted, plain)
            assert np.array_equal(drawn(painter, prompt, 7, pipe.image_size), wanted), prompt


# --- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(32, 32), (70, 45), (21, 90), (9, 7)])
def test_images(tiny_bundle: Path, open_native: Open, height: int, width: int) -> None:
    """Of any size, transparent here and there, with a mask and without, at every strength of four steps."""
    painter = open_native(tiny_bundle)
    rgba, mask = pixels(height, width, 4), pixels(height, width, 1, 5)[..., 0]
    mask[: height // 2] = 0
    from PIL import Image

    with genin.load(tiny_bundle, runtime="onnxruntime", threads=1) as pipe:
        for asked in ({}, {"strength": 0.5}, {"mask": mask}, {"mask": mask, "strength": 0.75}):
            wanted = pipe(PROMPT, seed=5, image=Image.fromarray(rgba, "RGBA"), **asked).array
            found = drawn(painter, PROMPT, 5, wanted.shape[:2], image=rgba, **asked)
            assert psnr_db(found, wanted) >= SAME_ENGINE_DB, asked
            if "mask" in asked:  # what is kept is kept to the bit
                kept = slice(0, wanted.shape[0] // 2 - 8)
                assert np.array_equal(found[kept], wanted[kept])


def test_an_image_of_the_size_is_kept_to_the_bit(tiny_bundle: Path, open_native: Open) -> None:
    painter = open_native(tiny_bundle)
    rgba, mask = pixels(32, 32, 4), np.zeros((32, 32), np.uint8)
    rgba[..., 3] = 255
    mask[8:16, 8:24] = 255
    found = drawn(painter, PROMPT, 5, (32, 32), image=rgba, mask=mask)
    kept = mask == 0
    assert np.array_equal(found[kept], rgba[kept][:, :3]) and not np.array_equal(found[~kept], rgba[~kept][:, :3])
    flipped = drawn(
        painter,
        PROMPT,
        5,
        (32, 32),
        image=rgba[::-1].copy(),
        mask=mask[::-1].copy(),
        image_stride=-128,
        mask_stride=-32,
    )
    assert np.array_equal(flipped, found)


def test_strengths_that_do_not_exist(tiny_bundle: Path, tmp_path: Path, open_native: Open) -> None:
    rgba = pixels(32, 32, 4)
    painter = open_native(tiny_bundle)
    for asked, says in (
        ({"strength": 0.3}, "does not exist for a student in 4 steps; the nearest is 0.25"),
        ({"strength": 0.1, "steps": 6}, "leaves none of 6 steps; the nearest is 0.167"),
        ({"strength": 1.5}, "strength is not above 0 and at most 1"),
        ({"strength": float("nan")}, "strength is not above 0 and at most 1"),
    ):
        result, message = refusal(painter, image=rgba, **asked)
        assert result == "argument" and says in message
    assert "needs an image" in refusal(painter, strength=0.5)[1]
    assert "image_stride or mask_stride is shorter" in refusal(painter, image=rgba, image_stride=8)[1]
    rgba[..., 3] = 0
    assert "fully transparent" in refusal(painter, image=rgba)[1]
    old = without_encoder(tiny_bundle, tmp_path / "old")
    assert "no vae_encoder graph" in refusal(open_native(old), image=rgba)[1]


def test_strengths_are_those_of_python(native_build: Path) -> None:
    """All of 1 to 60 steps, through the library's own test program."""
    rows = []
    for steps in range(1, 61):
        for share in {*strengths(steps), 0.3, 0.8, 0.999, 1 / 3, 0.05}:
            try:
                taken = settled_strength(share, steps, few=False, masked=False)[1]
            except InputError:
                taken = 0
            rows.append((share, steps, taken))
    text = "\n".join(f"{share!r} {steps}" for share, steps, _ in rows)
    found = subprocess.run(
        [native_build / "genin_probe", "strengths"], input=text, capture_output=True, text=True, check=True
    )
    assert [int(line) for line in found.stdout.split()] == [taken for *_, taken in rows]


# --- engines ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [None, b"openvino"])
def test_openvino(tiny_bundle: Path, openvino_c: Path, open_native: Open, engine: bytes | None) -> None:
    """Found out from the library, or asked for; on the bundle's own IR."""
    painter, rgba = open_native(tiny_bundle, openvino_c, engine=engine), pixels(32, 32, 4)
    rgba[..., 3] = 255
    with genin.load(tiny_bundle, runtime="onnxruntime", threads=1) as pipe:
        wanted = pipe(PROMPT, seed=7, size=(40, 32)).array
        found = drawn(painter, PROMPT, 7, (40, 32), height=40)
        assert psnr_db(found, wanted) >= OTHER_ENGINE_DB
        wanted = pipe(PROMPT, seed=7, image=rgba[..., :3]).array
        assert psnr_db(drawn(painter, PROMPT, 7, (32, 32), image=rgba), wanted) >= OTHER_ENGINE_DB


def test_declarations_are_those_of_the_published_headers(openvino_c: Path, tmp_path: Path) -> None:
    native, headers = ROOT / "runtimes" / "native", openvino_c.parents[1] / "include"
    flags = ["g++", "-std=c++17", "-fsyntax-only", "-I", headers, "-I", native / "src"]
    source = native / "tests" / "check_openvino_abi.cpp"
    assert subprocess.run([*map(str, [*flags, source])], check=False).returncode == 0
    declared = (native / "src" / "openvino_abi.h").read_text(encoding="utf-8")
    (tmp_path / "openvino_abi.h").write_text(
        declared.replace("(Array *, Shape)", "(Array *, Shape *)"), encoding="utf-8"
    )
    wrong = subprocess.run(
        [*map(str, [*flags[:3], "-I", tmp_path, *flags[3:], source])], capture_output=True, check=False
    )
    assert b"ov_tensor_set_shape has another type" in wrong.stderr


def test_openvino_ends_inside_a_network(openvino_c: Path, open_native: Open) -> None:
    painter = open_native(ONE_STEP, openvino_c)
    assert painter.wait(painter.loading, PATIENCE_S) == "ok"
    for _ in range(20):
        ticket = painter.submit(PROMPT, steps=1000)
        assert painter.cancel(ticket) and painter.wait(ticket, PATIENCE_S) == "cancelled"
    assert drawn(painter, PROMPT, 7, (128, 128)).std() > 0


def test_openvino_from_archives(matrix: Path, tmp_path: Path, openvino_c: Path, open_native: Open) -> None:
    from exported import part_of
    from genin.runtimes.bundle import pack

    pictures = []
    for format in ("openvino", "onnx"):
        packed = tmp_path / f"{format}.genin"
        pack(part_of(matrix, tmp_path / format, format=format), packed)
        pictures.append(drawn(open_native(packed, openvino_c), PROMPT, 7, (32, 32)))
    assert psnr_db(*pictures) >= OTHER_ENGINE_DB


def test_the_most_exact_precision_is_that_of_any_format(
    matrix: Path, tmp_path: Path, openvino_c: Path, open_native: Open
) -> None:
    """OpenVINO reads both formats, its own first."""
    bundle = Path(shutil.copytree(matrix, tmp_path / "bundle"))
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    exact_only_in_onnx = [
        one for one in manifest["graphs"] if (one["format"], one["precision"]) != ("openvino", "fp32")
    ]
    manifest |= {"graphs": exact_only_in_onnx, "single_graphs": []}
    (bundle / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    pictures = [
        drawn(open_native(bundle, openvino_c, precision=asked), PROMPT, 7, (32, 32)) for asked in (None, b"fp32")
    ]
    assert np.array_equal(*pictures)
    assert not np.array_equal(
        pictures[0], drawn(open_native(bundle, openvino_c, precision=b"int8"), PROMPT, 7, (32, 32))
    )


class Io(c.Structure):
    """`genin_io`, of files in a dictionary; `piece` is the most that a call reads."""

    Length = c.CFUNCTYPE(c.c_int64, c.c_void_p, c.c_char_p)
    Read = c.CFUNCTYPE(c.c_int64, c.c_void_p, c.c_char_p, c.c_uint64, c.c_void_p, c.c_uint64)
    _fields_ = (
        ("size", c.c_uint32),
        ("reserved", c.c_uint32),
        ("user", c.c_void_p),
        ("length", Length),
        ("read", Read),
    )

    def __init__(self, files: dict[str, bytes], piece: int = 1 << 20) -> None:
        def read(_: int, path: bytes, offset: int, to: int, count: int) -> int:
            content = files[path.decode()][offset : offset + min(count, piece)]
            c.memmove(to, content, len(content))
            return len(content)

        length = self.Length(lambda _, path: len(files[path.decode()]) if path.decode() in files else -1)
        super().__init__(c.sizeof(Io), length=length, read=self.Read(read))


@pytest.mark.parametrize("place", ["art/student", "art/student.genin", "art/忍者.genin", "memory"])
def test_a_bundle_that_is_not_on_disk(place: str, tmp_path: Path, open_native: Open) -> None:
    from genin.runtimes.bundle import pack

    pack(ONE_STEP, tmp_path / "packed.genin")
    packed = (tmp_path / "packed.genin").read_bytes()
    files = {"art/忍者.genin": packed, "art/student.genin": b""}  # a host may say that of a folder
    for path in ONE_STEP.rglob("*"):
        for folder in ("art/student", "art/student.genin"):
            if path.is_file():
                files[f"{folder}/{path.relative_to(ONE_STEP).as_posix()}"] = path.read_bytes()
    if place == "memory":
        painter = open_native(Path(place), bundle_data=c.cast(packed, c.c_void_p), bundle_bytes=len(packed))
    else:
        io = Io(files)
        painter = open_native(Path(place), io=c.addressof(io))
    assert np.array_equal(drawn(painter, PROMPT, 7, (128, 128)), drawn(open_native(ONE_STEP), PROMPT, 7, (128, 128)))


def test_a_bundle_that_the_host_lacks_or_cuts(tmp_path: Path, open_native: Open) -> None:
    from genin.runtimes.bundle import pack

    pack(ONE_STEP, tmp_path / "packed.genin")
    packed = (tmp_path / "packed.genin").read_bytes()
    cut = packed[: len(packed) // 2]

    def ends(**place: Any) -> str:
        painter = open_native(Path("a.genin"), **place)
        assert painter.wait(painter.loading, PATIENCE_S) == "bundle"
        message: str = painter.poll()[0].message
        return message

    none, half, mute = Io({}), Io({"a.genin": cut}), Io({"a.genin": packed}, piece=0)
    assert "a.genin/manifest.json: the host has no such file" in ends(io=c.addressof(none))
    assert "a.genin: not a .genin file" in ends(io=c.addressof(half))
    assert "a.genin: the host's read function failed" in ends(io=c.addressof(mute))
    assert "a.genin: not a .genin file" in ends(bundle_data=c.cast(cut, c.c_void_p), bundle_bytes=len(cut))
    assert "a.genin: not a .genin file" in ends(bundle_data=c.cast(packed, c.c_void_p), bundle_bytes=0)
    with pytest.raises(InputError, match="bundle_data is NULL"):
        open_native(ONE_STEP, bundle_bytes=5)
    with pytest.raises(InputError, match="bundle_data and io are both set"):
        open_native(ONE_STEP, bundle_data=c.cast(packed, c.c_void_p), bundle_bytes=5, io=c.addressof(none))
    lacking = Io({})
    lacking.read = Io.Read()
    with pytest.raises(InputError, match="genin_io lacks a function"):
        open_native(ONE_STEP, io=c.addressof(lacking))


def test_engines_that_are_none(
    tiny_bundle: Path, native_build: Path, ort: Path, openvino_c: Path, open_native: Open
) -> None:
    for library, engine, says in (
        (native_build / "libgenin.so", None, "not ONNX Runtime, and not OpenVINO's C library"),
        (ort, b"openvino", "not OpenVINO's C library"),
        (openvino_c, b"onnxruntime", "not ONNX Runtime"),
    ):
        painter = open_native(tiny_bundle, library, engine=engine)
        assert painter.wait(painter.loading, PATIENCE_S) == "engine"
        assert says in painter.poll()[0].message
    with pytest.raises(InputError, match="engine is not onnxruntime or openvino"):
        open_native(tiny_bundle, ort, engine=b"tensorrt")

"""The native library: built from source, its own tests, and the same tokens, noise and pictures as Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import genin
from fake_hub import write_fake_bundle
from genin.runtimes.bundle import pack
from genin.runtimes.errors import OutOfMemoryError
from genin.runtimes.native_library import error_of
from tiny_bundle import edit_manifest, update_hash

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "runtimes" / "native"
STUDENT = ROOT / "runtimes" / "weights" / "student"
ONE_STEP = ROOT / "runtimes" / "weights" / "student-1step"
pytestmark = [
    pytest.mark.export,
    pytest.mark.skipif(shutil.which("cmake") is None or shutil.which("g++") is None, reason="needs cmake and g++"),
]


def done(*command: str | Path, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*map(str, command)], input=stdin, capture_output=True, check=False, timeout=300)


def test_its_own_tests(native_build: Path) -> None:
    result = done(native_build / "genin_tests", ONE_STEP)
    assert result.returncode == 0, result.stderr.decode()


@pytest.mark.parametrize("link", ["file", "folder", "of the hub", "outside of the hub"])
def test_links_in_a_bundle_are_refused_but_for_the_hubs(
    native_build: Path, ort: Path, tmp_path: Path, link: str
) -> None:
    """As Python does: what a bundle lists is in it."""
    repository = tmp_path / "models--a--b"
    folder = repository / "snapshots" / "0123abcd"
    shutil.copytree(ONE_STEP, folder)
    elsewhere = repository / "blobs" if link == "of the hub" else tmp_path / "elsewhere"
    elsewhere.mkdir()
    moved = folder / "onnx" if link == "folder" else folder / "tokenizer" / "vocab.json"
    target = elsewhere / "0a1b"
    moved.rename(target)
    moved.symlink_to(target)
    result = done(native_build / "genin_draw", folder, "a ninja", "--engine-path", ort, "--out", tmp_path / "p.ppm")
    if link == "of the hub":
        assert result.returncode == 0, result.stderr.decode()
        assert genin.load(folder)("a ninja", seed=0).array.size
    else:
        assert result.returncode != 0 and "it is a link, or behind one" in result.stderr.decode()
        with pytest.raises(genin.GeninError, match="is a link, or behind one"):
            genin.load(folder)("a ninja")


@pytest.mark.parametrize(("bundle", "packed"), [(ONE_STEP, False), (STUDENT, False), (ONE_STEP, True)])
def test_pictures_are_those_of_python(
    native_build: Path, ort: Path, tmp_path: Path, bundle: Path, packed: bool
) -> None:
    path = bundle
    if packed:
        path = tmp_path / "student.genin"
        pack(bundle, path)
    out = tmp_path / "picture.ppm"
    result = done(
        native_build / "genin_draw",
        path,
        "a ninja, 忍者",
        "--seed",
        "7",
        "--engine-path",
        ort,
        "--out",
        out,
    )
    assert result.returncode == 0, result.stderr.decode()
    with genin.load(bundle, runtime="onnxruntime", threads=1) as pipe:
        wanted = np.asarray(pipe("a ninja, 忍者", seed=7)).astype(float)
    error = np.square(np.asarray(Image.open(out)).astype(float) - wanted).mean()
    assert error == 0 or 10 * np.log10(255**2 / error) >= 60


def test_what_is_wrong_is_one_line(native_build: Path, ort: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(ONE_STEP, damaged)
    model = damaged / "onnx" / "fp16" / "unet" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    for arguments, says in (
        ([tmp_path / "nowhere"], "no such file"),
        ([damaged, "--engine-path", ort], "its content is not what the manifest says"),
        ([ONE_STEP, "--engine-path", tmp_path / "engine.so"], "engine.so"),
        ([ONE_STEP, "--precision", "int8", "--engine-path", ort], "no precision 'int8'; it has fp16"),
        ([ONE_STEP, "--steps", "5000", "--engine-path", ort], "5000 steps cannot be taken"),
    ):
        result = done(native_build / "genin_draw", arguments[0], "a ninja", *arguments[1:], "--out", tmp_path / "x.ppm")
        lines = [line for line in result.stderr.decode().splitlines() if not line.startswith("loaded in")]
        assert result.returncode == 2 and len(lines) == 1 and says in lines[0], (arguments, lines)
    assert not (tmp_path / "x.ppm").exists()


@pytest.mark.parametrize(
    ("keys", "value", "says"),
    [
        (("sampler", "few_step_timesteps"), {"4": [999]}, "few_step_timesteps of 4 steps are not as many"),
        (("sampler", "few_step_timesteps"), {"1": []}, "few_step_timesteps of 1 steps are not as many"),
        (("sampler", "few_step_timesteps"), {"2": [499, 999]}, "do not fall"),
        (("latents", "height"), 1024, "no whole multiple of its latents"),
        (("image", "width"), 70, "no whole multiple of its latents"),
        (("graphs", 1, "path"), "../../other/model.onnx", "is not among its own files"),
        (("graphs", 1, "path"), "onnx/fp16/other.onnx", "is not among its own files"),
        (("sampler", "scheduler", "steps_offset"), -(2**63), "scheduler.steps_offset is out of range"),
    ],
)
def test_manifests_that_lie_are_refused(
    native_build: Path, ort: Path, tmp_path: Path, keys: tuple[str | int, ...], value: object, says: str
) -> None:
    """As Python refuses them: what follows relies on it (indices into lists and masks, files that were hashed)."""
    bundle = tmp_path / "hostile"
    shutil.copytree(ONE_STEP, bundle)
    edit_manifest(bundle, *keys, value=value)
    result = done(native_build / "genin_draw", bundle, "a ninja", "--engine-path", ort, "--out", tmp_path / "x.ppm")
    assert result.returncode == 2 and says in result.stderr.decode()


def test_a_file_that_claims_more_than_it_holds_is_refused(native_build: Path, ort: Path, tmp_path: Path) -> None:
    """Before room is made for what it claims."""
    bundle = tmp_path / "small.genin"
    with zipfile.ZipFile(bundle, "w") as archive:
        archive.write(ONE_STEP / "manifest.json", "manifest.json")
        archive.writestr("tokenizer/vocab.json", "{}")
    data = bytearray(bundle.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 20 : entry + 28] = (2**31).to_bytes(4, "little") * 2  # both of its sizes
    bundle.write_bytes(data)
    result = done(native_build / "genin_draw", bundle, "a ninja", "--engine-path", ort, "--out", tmp_path / "x.ppm")
    assert result.returncode == 2 and "its members are larger than the file" in result.stderr.decode()


def test_a_bundle_is_that_of_the_folder_in_which_it_was_opened(native_build: Path, ort: Path, tmp_path: Path) -> None:
    """A host may change its folder while the model loads, and before the first picture."""
    (tmp_path / "student").symlink_to(ONE_STEP)
    code = (
        "import os, sys, genin.runtimes.native_library as library; from pathlib import Path\n"
        "worker = library.NativeWorker(Path(sys.argv[1]), Path('student'), Path(sys.argv[2]))\n"
        "os.chdir('/')\n"
        "assert worker.wait(worker.loading, 60) == 'ok'\n"
        "worker.close()\n"
    )
    command = [sys.executable, "-c", code, native_build / "libgenin.so", ort]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=100)


def test_too_little_memory_has_its_own_error() -> None:
    assert isinstance(error_of("memory", "no room"), OutOfMemoryError)


def test_a_special_token_without_a_name_is_refused(native_build: Path, ort: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "hostile"
    shutil.copytree(ONE_STEP, bundle)
    path = "tokenizer/vocab.json"
    words = json.loads((bundle / path).read_text(encoding="utf-8"))
    number = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["text"]["bos_token_id"]
    renamed = {"" if of == number else word: of for word, of in words.items()}
    (bundle / path).write_text(json.dumps(renamed), encoding="utf-8")
    (bundle / "tokenizer" / "tokenizer_config.json").write_text("{}", encoding="utf-8")  # it names special tokens, too
    for changed in (path, "tokenizer/tokenizer_config.json"):
        update_hash(bundle, changed)
    result = done(native_build / "genin_draw", bundle, "naïve ☃", "--engine-path", ort, "--out", tmp_path / "x.ppm")
    assert result.returncode == 2 and "lacks a special token" in result.stderr.decode()


def test_nothing_but_genin_is_exported(native_build: Path) -> None:
    names = [
        line.split()[-1]
        for line in done("nm", "-D", "--defined-only", native_build / "libgenin.so").stdout.decode().splitlines()
    ]
    assert names and all(name.startswith(("genin_", "GENIN_1")) for name in names)


@pytest.mark.parametrize("compiler", [("gcc", "-std=c99", "-xc"), ("g++", "-std=c++17", "-xc++")])
def test_the_header_is_clean(compiler: tuple[str, ...], tmp_path: Path) -> None:
    flags = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", "-I", NATIVE / "include"]
    result = done(*compiler, *flags, "-", stdin=b'#include "genin.h"\n#include "genin.h"\n')
    assert result.returncode == 0, result.stderr.decode()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_thousand_requests_do_not_grow(native_build: Path, ort: Path) -> None:
    """The heap, the engine's too, from a fifth of them to the end, over twenty workers. Pages of it are kept in part."""
    assert done("cmake", "--build", native_build, "--target", "genin_stress").returncode == 0
    ran = done("env", "MALLOC_ARENA_MAX=1", native_build / "genin_stress", ONE_STEP, ort, 10_000, 1)
    assert ran.returncode == 0, ran.stdout.decode()
    lines = ran.stdout.decode().splitlines()[-2:]
    resident, heap = ([int(word) for word in line.split() if word.isdigit()] for line in lines)
    assert heap[1] <= 1.01 * heap[0]
    assert resident[1] <= 1.05 * resident[0]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_under_sanitizers(sanitizers: str, ort: Path, tmp_path: Path) -> None:
    """10,000 requests from three threads, and a million inputs of bytes that others have written."""
    build = tmp_path / "build"
    made = (
        ["cmake", "-S", NATIVE, "-B", build, "-DCMAKE_BUILD_TYPE=RelWithDebInfo", f"-DGENIN_SANITIZE={sanitizers}"],
        ["cmake", "--build", build, "-j2", "--target", "genin_stress", "genin_fuzz"],
    )
    for command in made:
        result = done(*command)
        assert result.returncode == 0, result.stderr.decode()
    write_fake_bundle(tmp_path / "fake")
    pack(tmp_path / "fake", tmp_path / "fake.genin")
    inputs = 1_000_000 if "address" in sanitizers else 10_000
    programs: tuple[list[object], ...] = (
        [build / "genin_stress", ONE_STEP, ort, 10_000, 1],
        [build / "genin_fuzz", ONE_STEP, tmp_path / "fake.genin", tmp_path / "scratch.genin", inputs, 1],
    )
    environment = os.environ | {"TSAN_OPTIONS": f"suppressions={NATIVE / 'tests' / 'tsan.supp'}"}
    for program in programs:
        command = [*map(str, program)]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=3000)
        assert ran.returncode == 0, ran.stdout + ran.stderr[-5000:]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm, whose registry has the headers (150 MB)")
def test_function_numbers_are_those_of_the_published_header(tmp_path: Path) -> None:
    package = "com.github.asus4.onnxruntime@0.4.9"
    subprocess.run(["npm", "pack", package], cwd=tmp_path, check=True, capture_output=True, timeout=600)
    [archive] = tmp_path.glob("*.tgz")
    subprocess.run(["tar", "xzf", archive], cwd=tmp_path, check=True, timeout=300)
    headers = next(path for path in tmp_path.rglob("onnxruntime_c_api.h") if "ios-arm64" in str(path)).parent
    source = NATIVE / "tests" / "check_ort_abi.cpp"
    flags = ["-std=c++17", "-fsyntax-only", "-I", NATIVE / "src", "-I", headers]
    assert done("g++", *flags, source).returncode == 0
    wrong = (NATIVE / "src" / "ort_abi.h").read_text(encoding="utf-8").replace("kRun = 9,", "kRun = 10,")
    (tmp_path / "ort_abi.h").write_text(wrong, encoding="utf-8")
    (tmp_path / source.name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    assert b"Run has another number" in done("g++", "-I", tmp_path, *flags, tmp_path / source.name).stderr


def test_the_tables_are_those_of_the_script() -> None:
    """On a Python of another Unicode version they would differ: the committed ones are the contract."""
    import sys

    tables = (NATIVE / "src" / "unicode_tables.inc").read_text(encoding="utf-8")
    if f'"{unicodedata.unidata_version}"' not in tables:
        pytest.skip("made from another version of Unicode")
    assert done(sys.executable, ROOT / "tools" / "unicode_tables.py").stdout.decode() == tables

"""The native library's interface stays compatible: fields are only added at the ends of structs, and older programs run with it.

`runtimes/native/tests/abi` has the first header and what `abidw` says of it; both are never changed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "runtimes" / "native"
FIRST = NATIVE / "tests" / "abi"
ONE_STEP = ROOT / "runtimes" / "weights" / "student-1step"
BREAKING = re.compile(r"[1-9]\d* Removed|deletion|offset changed|type of '")

pytestmark = [
    pytest.mark.export,
    pytest.mark.skipif(shutil.which("cmake") is None or shutil.which("g++") is None, reason="needs cmake and g++"),
]


def done(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=120)


def test_a_program_built_with_the_first_header(native_build: Path, ort: Path, tmp_path: Path) -> None:
    """It sees smaller structs than the library, and draws the same picture as a program built with today's."""
    program, pictures = tmp_path / "older", [tmp_path / "older.ppm", tmp_path / "today.ppm"]
    flags = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I", FIRST]
    source = (NATIVE / "tools" / "genin_draw.c").read_text(encoding="utf-8")
    (tmp_path / "draw.c").write_text(source.replace("options.engine = value", "return fail(value)"), encoding="utf-8")
    built = done(
        "gcc", *flags, tmp_path / "draw.c", "-L", native_build, "-lgenin", f"-Wl,-rpath,{native_build}", "-o", program
    )
    assert built.returncode == 0, built.stderr
    for each, out in zip((program, native_build / "genin_draw"), pictures, strict=True):
        ran = done(each, ONE_STEP, "a ninja", "--seed", "7", "--engine-path", ort, "--out", out)
        assert ran.returncode == 0, ran.stderr
    assert pictures[0].read_bytes() == pictures[1].read_bytes()


def abi_report(header: Path, out: Path) -> str:
    """How the interface with this header differs from the first one."""
    flags = ["-g", "-std=c++17", "-shared", "-fPIC", "-fvisibility=hidden", "-fpermissive", "-w", "-DGENIN_BUILD"]
    script = f"-Wl,--version-script={NATIVE / 'genin.map'}"
    includes = ["-I", header.parent, "-I", NATIVE / "src"]
    built = done("g++", *flags, *includes, script, NATIVE / "src" / "genin.cpp", "-o", out)
    assert built.returncode == 0, built.stderr
    return done("abidiff", FIRST / "genin.abi", out).stdout


needs_abidiff = pytest.mark.skipif(shutil.which("abidiff") is None, reason="needs abidiff (abigail-tools)")
TODAY = NATIVE / "include" / "genin.h"


@needs_abidiff
def test_fields_are_only_added_at_the_end(tmp_path: Path) -> None:
    report = abi_report(TODAY, tmp_path / "today.so")
    assert "0 Removed" in report and not BREAKING.search(report), report


@needs_abidiff
@pytest.mark.slow
@pytest.mark.parametrize(
    ("good", "bad"),
    [("uint64_t tag;  ", "uint64_t oops, tag;  "), ("uint32_t previews; ", "float previews; ")],
)
def test_other_changes_would_be_found(good: str, bad: str, tmp_path: Path) -> None:
    text = TODAY.read_text(encoding="utf-8")
    assert good in text
    (tmp_path / "genin.h").write_text(text.replace(good, bad), encoding="utf-8")
    assert BREAKING.search(abi_report(tmp_path / "genin.h", tmp_path / "other.so"))

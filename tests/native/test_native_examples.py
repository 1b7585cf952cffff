"""The examples of other languages, each really run without a screen: C with SDL2, C# on Mono, Lua in LÖVE."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import genin
from genin.runtimes.bundle import pack

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "native"
ONE_STEP = ROOT / "runtimes" / "weights" / "student-1step"
TIMEOUT_S = 120


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


pytestmark = [pytest.mark.export, needs("cmake", "g++")]


@pytest.fixture
def environment(native_build: Path, ort: Path) -> dict[str, str]:
    """Where the examples find the library and the engine, and no screen."""
    paths = {"LD_LIBRARY_PATH": str(native_build), "GENIN_ENGINE_PATH": str(ort), "SDL_VIDEODRIVER": "dummy"}
    return {**os.environ, **paths}


def run(*command: object, environment: dict[str, str], cwd: Path) -> str:
    result = subprocess.run(
        [*map(str, command)], env=environment, cwd=cwd, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@needs("sdl2-config", "gcc")
def test_c(native_build: Path, environment: dict[str, str], tmp_path: Path) -> None:
    sdl = subprocess.run(
        ["sdl2-config", "--cflags", "--libs"], capture_output=True, text=True, check=True
    ).stdout.split()
    flags = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I", ROOT / "runtimes" / "native" / "include"]
    program = tmp_path / "cards"
    links = [*sdl, "-L", native_build, "-lgenin", "-lm", "-o", program]
    run("gcc", *flags, EXAMPLES / "cards.c", *links, environment=environment, cwd=tmp_path)
    said = run(program, ONE_STEP, "--frames", 120, "--screenshot", "shot.bmp", environment=environment, cwd=tmp_path)
    frames, _, pictures = (int(word) for word in said.split() if word.isdigit())
    assert frames == 120 and pictures >= 1
    with Image.open(tmp_path / "shot.bmp") as shot:
        assert (
            len(np.unique(np.asarray(shot.convert("RGB")).reshape(-1, 3), axis=0)) > 500
        )  # a picture, not only frames


@needs("mcs", "mono")
def test_csharp(environment: dict[str, str], tiny_bundle: Path, tmp_path: Path) -> None:
    sources = [EXAMPLES / "csharp" / name for name in ("Example.cs", "Genin.cs")]
    run("mcs", "-warnaserror", "-out:Example.exe", *sources, environment=environment, cwd=tmp_path)
    pack(tiny_bundle, tmp_path / "tiny.genin")
    outputs = [ONE_STEP, "out.ppm", "tiny.genin", "half.ppm"]
    said = run("mono", "Example.exe", *outputs, environment=environment, cwd=tmp_path)
    assert said == "32 4 fp32\ndrawn, cancelled, closed\n"
    with genin.load(tiny_bundle, runtime="onnxruntime", precision="fp32", threads=1) as pipe:
        first, mask = pipe("a ninja", seed=3), np.zeros((32, 32), np.uint8)
        mask[:16] = 255
        expected = pipe("a hat", seed=4, image=first, mask=mask).array
    with Image.open(tmp_path / "half.ppm") as half:
        assert np.array_equal(np.asarray(half), expected)
        assert np.array_equal(expected[16:], first.array[16:]) and not np.array_equal(expected[:16], first.array[:16])
    with genin.load(ONE_STEP, runtime="onnxruntime", threads=1) as pipe, Image.open(tmp_path / "out.ppm") as found:
        assert np.array_equal(np.asarray(found), pipe("a ninja, 忍者", seed=7).array)


@needs("love", "xvfb-run")
def test_lua(native_build: Path, environment: dict[str, str], tmp_path: Path) -> None:
    game = [EXAMPLES / "love", ONE_STEP, native_build / "libgenin.so", 90, tmp_path / "shot.png"]
    environment = {name: value for name, value in environment.items() if name != "SDL_VIDEODRIVER"}
    said = run("xvfb-run", "-a", "love", *game, environment=environment, cwd=tmp_path)
    assert "pictures" in said and (tmp_path / "shot.png").is_file()

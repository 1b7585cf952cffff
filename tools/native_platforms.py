"""The native library for other systems, compiled here, with the engine that their wheel of onnxruntime holds.

    python tools/native_platforms.py windows --out build/windows     # mingw-w64; runs under Wine
    python tools/native_platforms.py aarch64 --out build/aarch64     # Linux; runs under qemu-user
    python tools/native_platforms.py macos --out build/macos         # ziglang: compiled and linked, not run
    python -m pytest -n0 -m slow tests/golden/test_golden_platforms.py   # the golden vectors on those that run here

What they need: `apt install mingw-w64 wine64` · `apt install g++-aarch64-linux-gnu qemu-user` · `pip install ziglang`. The last
line of the output is a JSON object: where the library, its programs and the engine are, and the command that programs are run with.

Not here: iOS and Android, whose C libraries come with Apple's and Google's own kits alone (docs/embedding.md has the steps).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import click

ROOT = Path(__file__).parents[1]
NATIVE = ROOT / "runtimes" / "native"
PROGRAMS = ("genin_draw", "genin_probe", "genin_tests")
WINE = ("/usr/lib/wine/wine64", "wine64", "wine")
# ONNX Runtime reads the processor's kind from here, and qemu 7.2 shows the machine's own, with which it crashes.
CPUINFO = """processor\t: 0
BogoMIPS\t: 48.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1

"""


@dataclass(frozen=True)
class Platform:
    """A system, and what it takes to compile for it."""

    system: str  # as CMake calls it
    processor: str
    compilers: tuple[str, str]
    wheel: str  # platform tag of onnxruntime's wheel
    engine: str  # its file in that wheel
    library: str
    suffix: str = ""
    runner: Callable[[Path], list[str]] | None = None  # a command before a program; None where it cannot be run here
    environment: dict[str, str] = field(default_factory=dict)
    install: str = ""

    def missing(self) -> str | None:
        """What to install before it can be compiled."""
        words = self.compilers[0].split()
        if "ziglang" in words:
            return None if importlib.util.find_spec("ziglang") else self.install
        return None if shutil.which(words[0]) else self.install


def wine(_: Path) -> list[str]:
    return [next(filter(shutil.which, WINE), "")]


def qemu(out: Path) -> list[str]:
    """With a folder that stands in for the root folder, as far as it goes."""
    prefix = out / "root"
    (prefix / "proc").mkdir(parents=True, exist_ok=True)
    (prefix / "proc" / "cpuinfo").write_text(CPUINFO, encoding="ascii")
    if not (prefix / "lib").exists():
        (prefix / "lib").symlink_to("/usr/aarch64-linux-gnu/lib")
    return [shutil.which("qemu-aarch64") or "", "-L", str(prefix)]


def zig(target: str) -> tuple[str, str]:
    return f"{sys.executable} -m ziglang cc -target {target}", f"{sys.executable} -m ziglang c++ -target {target}"


PLATFORMS = {
    "windows": Platform(
        "Windows",
        "x86_64",
        ("x86_64-w64-mingw32-gcc-posix", "x86_64-w64-mingw32-g++-posix"),
        "win_amd64",
        "onnxruntime/capi/onnxruntime.dll",
        "genin.dll",
        ".exe",
        wine,
        {"WINEDEBUG": "-all"},
        "apt install mingw-w64 wine64",
    ),
    "aarch64": Platform(
        "Linux",
        "aarch64",
        ("aarch64-linux-gnu-gcc", "aarch64-linux-gnu-g++"),
        "manylinux_2_28_aarch64",
        "onnxruntime/capi/libonnxruntime.so.",
        "libgenin.so",
        runner=qemu,
        install="apt install g++-aarch64-linux-gnu qemu-user",
    ),
    "macos": Platform(
        "Darwin",
        "arm64",
        zig("aarch64-macos"),
        "macosx_14_0_arm64",
        "onnxruntime/capi/libonnxruntime.",
        "libgenin.dylib",
        install="pip install ziglang",
    ),
}


@click.command()
@click.argument("platform", type=click.Choice(list(PLATFORMS)))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True)
def main(platform: str, out: Path) -> None:
    """Compile the native library for PLATFORM."""
    asked = PLATFORMS[platform]
    if missing := asked.missing():
        raise click.ClickException(f"no compiler for {platform}; {missing}")
    out = out.resolve()
    compile_for(asked, out)
    engine = fetch_engine(asked, out)
    runner = asked.runner(out) if asked.runner else None
    report = {
        "library": str(out / asked.library),
        "programs": {name: str(out / f"{name}{asked.suffix}") for name in PROGRAMS},
        "engine": str(engine),
        "runner": runner if runner and runner[0] else None,
        "environment": asked.environment,
        "install": asked.install,
    }
    click.echo(json.dumps(report))


def compile_for(platform: Platform, out: Path) -> None:
    """Everything of runtimes/native for a system, warnings being errors."""
    settings = {
        "CMAKE_SYSTEM_NAME": platform.system,
        "CMAKE_SYSTEM_PROCESSOR": platform.processor,
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_CXX_FLAGS": "-Werror",
    }
    compilers = dict(zip(("CC", "CXX"), platform.compilers, strict=True))
    for command in (
        ["cmake", "-S", str(NATIVE), "-B", str(out), *(f"-D{name}={value}" for name, value in settings.items())],
        ["cmake", "--build", str(out), "-j2"],
    ):
        subprocess.run(command, check=True, env={**os.environ, **compilers})


def fetch_engine(platform: Platform, out: Path) -> Path:
    """ONNX Runtime's library for a system, of the release that is installed here, from its wheel."""
    release = importlib.metadata.version("onnxruntime")
    folder = out / f"engine-{release}"
    if not list(folder.glob("*.whl")):
        pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else ["pip"]
        options = ["--quiet", "--only-binary=:all:", "--no-deps", "--python-version", "3.11", "--platform"]
        subprocess.run(
            [*pip, "download", *options, platform.wheel, f"onnxruntime=={release}", "--dest", str(folder)], check=True
        )
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.startswith(platform.engine)]
        return Path(archive.extract(name, folder))


if __name__ == "__main__":
    main()

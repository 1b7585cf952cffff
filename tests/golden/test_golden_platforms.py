"""The golden vectors on other systems: a Windows DLL under Wine, aarch64 under qemu; for macOS that it compiles.

Minutes: `python -m pytest -n0 -m slow tests/golden/test_golden_platforms.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import test_golden_vectors as golden
from numpy.typing import NDArray
from PIL import Image

TOOL = golden.ROOT / "tools" / "native_platforms.py"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake"),
]


def compiled(platform: str, out: Path) -> dict[str, Any]:
    """What tools/native_platforms.py reports. Skips where a compiler is missing."""
    command = [sys.executable, str(TOOL), platform, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3000)
    if "no compiler for" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


class PlatformContract(golden.TestNative):
    """A system whose programs run here."""

    pytestmark: ClassVar[list[pytest.MarkDecorator]] = []
    platform: ClassVar[str]

    @pytest.fixture(scope="class")
    def report(self, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
        report = compiled(self.platform, tmp_path_factory.mktemp(self.platform))
        if report["runner"] is None:
            pytest.skip(f"nothing here runs programs of {self.platform}; {report['install']}")
        return report

    @pytest.fixture(autouse=True)
    def built(self, report: dict[str, Any], tmp_path: Path) -> None:
        self.report, self.out = report, tmp_path

    def run(self, program: str, *arguments: object, stdin: bytes = b"") -> bytes:
        command = [*self.report["runner"], self.report["programs"][program], *map(str, arguments)]
        environment = {**os.environ, "LC_ALL": "C.UTF-8", **self.report["environment"]}
        done = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=900, env=environment)
        assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
        return done.stdout

    def probe(self, *arguments: object, stdin: bytes = b"") -> bytes:
        return self.run("genin_probe", *arguments, stdin=stdin)

    def picture(self, asked: dict[str, Any]) -> NDArray[np.uint8]:
        out = self.out / "忍者.ppm"
        options = ["--seed", asked["seed"], "--engine-path", self.report["engine"], "--out", out]
        options += [] if asked["steps"] is None else ["--steps", asked["steps"]]
        self.run("genin_draw", golden.WEIGHTS / asked["bundle"], asked["prompt"], *options)
        return np.asarray(Image.open(out))

    def test_its_own_tests(self) -> None:
        self.run("genin_tests")


class TestWindows(PlatformContract):
    platform = "windows"


class TestAarch64(PlatformContract):
    platform = "aarch64"


def test_macos_compiles_and_links(tmp_path: Path) -> None:
    report = compiled("macos", tmp_path)
    for path in (report["library"], *report["programs"].values()):
        assert Path(path).read_bytes()[:8] == bytes.fromhex("cffaedfe0c000001")  # Mach-O, 64 bits, ARM64

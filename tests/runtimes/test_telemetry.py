"""Nobody is told that genin runs: no look-up of a host, no identifier in the home folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from genin.runtimes import telemetry
from genin.runtimes.telemetry import REPORTING_PACKAGE, VARIABLES, switch_off_telemetry

STRACE = shutil.which("strace")
CALLS = "connect,sendto,sendmsg,sendmmsg"
# An address of the internet, or a question to a name server, which has a dot-less name in it as length and letters.
ASKED = re.compile(r"AF_INET6?\b|google|microsoft|\\3com")
DRAW = """
import genin
for runtime in ("onnxruntime", "openvino"):
    with genin.load("builtin:student", runtime=runtime, threads=1) as pipe:
        pipe("a ninja", steps=1)
"""


def test_variables_of_the_user_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY")
    switch_off_telemetry()
    assert (os.environ["ORT_DISABLE_TELEMETRY"], os.environ["HF_HUB_DISABLE_TELEMETRY"]) == ("0", "1")


def test_a_reporting_package_that_the_program_has_imported_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, REPORTING_PACKAGE, telemetry)
    switch_off_telemetry()
    assert sys.modules[REPORTING_PACKAGE] is telemetry


@pytest.mark.skipif(STRACE is None, reason="needs strace")
def test_drawing_asks_no_host_and_leaves_nothing_in_the_home_folder(tmp_path: Path) -> None:
    trace, home = tmp_path / "trace", tmp_path / "home"
    home.mkdir()
    # What marks a machine of continuous integration silences OpenVINO, too.
    hidden = {*VARIABLES, "CI", "TF_BUILD", "JENKINS_URL", "NNCF_CI", "NNCF_DEV"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden} | {"HOME": str(home)}
    watched = [str(STRACE), "-f", "-e", f"trace={CALLS}", "-s", "200", "-o", str(trace)]
    done = subprocess.run(
        [*watched, sys.executable, "-c", DRAW],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if "ptrace" in done.stderr:
        pytest.skip("strace is not allowed here")
    assert done.returncode == 0, done.stderr
    assert not [line for line in trace.read_text("utf-8", "replace").splitlines() if ASKED.search(line)]
    assert not [path for path in home.rglob("*") if path.is_file() and "genin" not in path.parts]

"""Programs that are unlike a plain interpreter: a locale with a decimal comma, a forked process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import genin
from genin.runtimes import native_library
from genin.runtimes.bundle import pack
from genin.runtimes.errors import InputError
from genin.runtimes.names import installed_names

pytest.importorskip("onnxruntime")

STUDENT = "builtin:student"
PROGRAM = """
import json, locale, sys
import genin
found = {}
for runtime in sys.argv[1:]:
    plain = genin.load("builtin:student", runtime=runtime, threads=1)("a ninja", seed=1)
    locale.setlocale(locale.LC_ALL, "de_DE.UTF-8")
    assert locale.localeconv()["decimal_point"] == ","
    before = genin.load("builtin:student", runtime=runtime, threads=1)
    found[runtime] = before("a ninja", seed=1) == plain
    before.close()
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
print(json.dumps(found))
"""


@pytest.mark.skipif(shutil.which("localedef") is None, reason="no localedef")
def test_a_decimal_comma_changes_no_picture(tmp_path: Path) -> None:
    made = ["localedef", "-i", "de_DE", "-f", "UTF-8", str(tmp_path / "de_DE.UTF-8")]
    if subprocess.run(made, check=False, capture_output=True).returncode:
        pytest.skip("this system has no sources of locales")
    engines = ["onnxruntime", *(["openvino"] if _installed("openvino") else [])]
    command, env = [sys.executable, "-c", PROGRAM, *engines], {**os.environ, "LOCPATH": str(tmp_path)}
    done = subprocess.run(command, env=env, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == dict.fromkeys(engines, True)


def _installed(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_pipeline_is_refused_in_a_forked_process(tmp_path: Path) -> None:
    with genin.load(STUDENT, runtime="onnxruntime", threads=1) as pipeline:
        child = os.fork()
        if child == 0:
            said = "it drew"
            try:
                pipeline("a ninja")
            except InputError as error:
                said = str(error)
            (tmp_path / "said").write_text(said)
            os._exit(0)
        os.waitpid(child, 0)
        assert "before this process was forked" in (tmp_path / "said").read_text()
        assert pipeline("a ninja").seed == 0


END = """
import os, signal, sys
import genin
engine = sys.argv[2]
pipeline = genin.load(sys.argv[1], runtime=engine, threads=2)
pipeline("a ninja", steps=1)
child = os.fork()
if child == 0:
    signal.alarm(10)  # where it would wait for ever
    pipeline.close()
    sys.exit(7)
_, status = os.waitpid(child, 0)
assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 7, status
assert list(os.scandir(sys.argv[3]))  # what is unpacked is the parent's
pipeline("a ninja", steps=1)
pipeline.close()
assert not list(os.scandir(sys.argv[3]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("engine", ["onnxruntime", *(["openvino"] if _installed("openvino") else [])])
def test_a_process_that_was_forked_later_ends(engine: str, tmp_path: Path) -> None:
    """An engine's threads are not there; freeing it would wait for them."""
    unpacked, packed = tmp_path / "unpacked", tmp_path / "student.genin"
    unpacked.mkdir()
    pack(installed_names().model(STUDENT), packed)
    command = [sys.executable, "-c", END, str(packed), engine, str(unpacked)]
    env = {**os.environ, "TMPDIR": str(unpacked)}
    done = subprocess.run(command, env=env, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_native_library_is_not_closed_in_a_process_that_was_forked_later(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[object] = []
    library = SimpleNamespace(genin_cancel=lambda *_: None, genin_close=closed.append)
    monkeypatch.setattr(
        native_library, "_declared", lambda _: SimpleNamespace(**vars(library), genin_open=lambda *_: 0)
    )
    monkeypatch.setattr(native_library.c, "CDLL", lambda _: None)
    worker = native_library.NativeWorker(Path("library"), Path("bundle"))
    with monkeypatch.context() as patch:
        patch.setattr(native_library.os, "getpid", lambda: -1)
        worker.close()
    assert not closed
    worker.close()
    assert len(closed) == 1


def test_messages_of_the_native_library_may_end_within_a_letter() -> None:
    event = native_library.EventStruct(kind=4, result=-2, message="/忍\nbundle: 忍".encode()[:-1])
    assert native_library._event_of(event).message == "/忍 bundle: \ufffd"


def test_load_pipeline_is_found_where_it_was() -> None:
    from genin.runtimes import loading, pipeline

    assert pipeline.load_pipeline is loading.load_pipeline and not hasattr(pipeline, "load")


@pytest.mark.skipif(not hasattr(os, "fork") or not _installed("openvino"), reason="no fork or no OpenVINO here")
def test_openvino_is_refused_in_a_process_that_was_forked_later(tmp_path: Path) -> None:
    from genin.runtimes.openvino_engine import core

    core()
    child = os.fork()
    if child == 0:
        try:
            core()
        except InputError as error:
            (tmp_path / "said").write_text(str(error))
        os._exit(0)
    os.waitpid(child, 0)
    assert "OpenVINO was started before this process was forked" in (tmp_path / "said").read_text()

"""How many threads genin uses and how they wait: chosen before torch is imported, and never against the user's own setting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import genin
from genin.cli import run
from genin.runtimes import threads
from genin.runtimes.errors import InputError
from genin.runtimes.threads import (
    MAX_THREADS,
    POOL_VARIABLES,
    WAIT_VARIABLES,
    are_cores_idle,
    check_threads,
    is_machine_busy,
    set_wait_policy,
)

TRAINING_COMMANDS = (
    "teacher train",
    "teacher finetune",
    "distill",
    "compare",
    "export",
    "plan",
    "data caption",
    "quickstart",
)


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (*WAIT_VARIABLES, *POOL_VARIABLES):
        monkeypatch.setenv(name, "1")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    monkeypatch.setattr(threads, "_limit", None)
    set_wait_policy.cache_clear()
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    yield
    if torch:
        torch.set_num_threads(before)


def chosen() -> dict[str, str]:
    return {name: os.environ[name] for name in WAIT_VARIABLES if name in os.environ}


@pytest.mark.parametrize(
    ("busy", "wanted"), [(True, {"OMP_WAIT_POLICY": "passive"}), (False, {"GOMP_SPINCOUNT": str(threads.SPIN_COUNT)})]
)
def test_threads_sleep_on_a_busy_machine_and_spin_shortly_on_an_idle_one(
    monkeypatch: pytest.MonkeyPatch, busy: bool, wanted: dict[str, str]
) -> None:
    monkeypatch.setattr(threads, "is_machine_busy", lambda: busy)
    set_wait_policy()
    assert chosen() == wanted


@pytest.mark.parametrize("name", WAIT_VARIABLES)
def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(threads, "is_machine_busy", lambda: True)
    monkeypatch.setenv(name, "active" if name == "OMP_WAIT_POLICY" else "7")
    before = dict(os.environ)
    set_wait_policy()
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("counts", "busy"), [([1, 1, 1, 1, 1], False), ([1, 4, 1, 9, 1], False), ([2, 1, 2, 3, 1], True), ([3] * 5, True)]
)
def test_a_machine_is_busy_where_others_run_most_of_the_time(counts: list[int], busy: bool) -> None:
    """The counts include this thread; a process that only blinks is none."""
    assert is_machine_busy(iter(counts).__next__) is busy


@pytest.mark.parametrize(
    ("cores", "running", "wanted", "idle"), [(64, 21, 4, True), (64, 63, 4, False), (2, 1, 2, True), (2, 2, 2, False)]
)
def test_a_large_machine_has_idle_cores_while_others_run(
    monkeypatch: pytest.MonkeyPatch, cores: int, running: int, wanted: int, idle: bool
) -> None:
    monkeypatch.setattr(threads, "available_cores", lambda: cores)
    assert are_cores_idle(wanted, lambda: running) is idle


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_threads_of_this_process_are_no_other_work() -> None:
    """Three that spin, outside Python's lock, as OpenBLAS's do after numpy is imported."""
    program = (
        "import threading, zlib\n"
        "from genin.runtimes.threads import others_and_this, running_threads\n"
        "content = bytes(50_000_000)\n"
        "spinning = [threading.Thread(target=zlib.crc32, args=(content * 4,), daemon=True) for _ in range(3)]\n"
        "[thread.start() for thread in spinning]\n"
        "samples = [(running_threads(), others_and_this()) for _ in range(200)]\n"
        "print(max(a - b for a, b in samples), min(b for _, b in samples))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    hidden, least = map(int, done.stdout.split())
    assert hidden >= 2 and least >= 1


@pytest.mark.parametrize(("load", "busy"), [(0.9, True), (0.1, False)])
def test_where_running_threads_are_not_told_the_load_of_the_last_minute_decides(
    monkeypatch: pytest.MonkeyPatch, load: float, busy: bool
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load * os.cpu_count(), 0, 0))
    assert is_machine_busy(lambda: None) is busy
    assert are_cores_idle(2, lambda: None) is not busy


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc/stat is Linux's")
def test_a_process_that_computes_is_seen() -> None:
    busy = subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE)
    try:
        assert busy.stdout is not None and busy.stdout.readline()
        assert is_machine_busy()
    finally:
        busy.kill()
        busy.wait()
        busy.stdout.close()  # type: ignore[union-attr]


def test_the_policy_is_set_before_torch_can_be_imported() -> None:
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    program = f"import genin, os, sys; print([name for name in {names} if name in os.environ], 'torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.strip() in ("['OMP_WAIT_POLICY'] False", "['GOMP_SPINCOUNT'] False")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("OMP_WAIT_POLICY", "lazy", "set it to active or passive"),
        ("OMP_NUM_THREADS", "0", f"a number from 1 to {MAX_THREADS}"),
        ("OMP_NUM_THREADS", "two", f"a number from 1 to {MAX_THREADS}"),
        ("OMP_NUM_THREADS", "99999", f"a number from 1 to {MAX_THREADS}"),
        ("GOMP_SPINCOUNT", "-1", "a number from 0, or infinite"),
        ("KMP_BLOCKTIME", "long", "milliseconds from 0, or infinite"),
    ],
)
def test_impossible_settings_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(name, value)
    assert run(["runtimes"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"genin: the environment variable {name} is '{value}'; ") and says in error


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OMP_WAIT_POLICY", "ACTIVE"),
        ("OMP_NUM_THREADS", "4,2"),
        ("GOMP_SPINCOUNT", "10k"),
        ("GOMP_SPINCOUNT", "infinite"),
        ("KMP_BLOCKTIME", "200ms"),
    ],
)
def test_settings_that_openmp_takes_are_taken(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert run(["runtimes", "--json"]) == 0


@pytest.mark.parametrize("command", TRAINING_COMMANDS)
@pytest.mark.parametrize("count", ["0", str(MAX_THREADS + 1), "many"])
def test_impossible_thread_numbers_are_refused(capsys: pytest.CaptureFixture[str], command: str, count: str) -> None:
    assert run([*command.split(), "--threads", count]) == 2
    error = capsys.readouterr().err
    assert "'--threads'" in error and ("not a valid integer" in error or f"1<=x<={MAX_THREADS}" in error)


@pytest.mark.parametrize("count", [0, -1, True, 1.5, MAX_THREADS + 1])
def test_impossible_thread_numbers_of_the_library_are_refused(count: int) -> None:
    with pytest.raises(InputError, match=f"threads must be a whole number from 1 to {MAX_THREADS:,}; got"):
        check_threads(count)


def test_a_limit_reaches_torch_the_engines_and_child_processes(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    onnxruntime = pytest.importorskip("onnxruntime")
    pools: list[int] = []
    session = onnxruntime.InferenceSession

    def noted(path: str, options: object, **rest: object) -> object:
        pools.append(options.intra_op_num_threads)  # type: ignore[attr-defined]
        return session(path, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", noted)
    sheet = tmp_path / "sheet.png"
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a ninja\n", encoding="utf-8")
    arguments = [str(tiny_bundle), "--prompts", str(prompts), "--runtime", "onnxruntime", "--out", str(sheet)]
    assert run(["compare", *arguments, "--threads", "3"]) == 0
    assert torch.get_num_threads() == 3 and set(pools) == {3}
    program = f"import os, json; print(json.dumps([os.environ[name] for name in {POOL_VARIABLES}]))"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert json.loads(said) == ["3"] * 3


def test_the_threads_of_a_pipeline_reach_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a limit of the process, which would reach it as well."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pools: list[int] = []
    session = onnxruntime.InferenceSession

    def noted(path: str, options: Any, **rest: object) -> object:
        pools.append(options.intra_op_num_threads)
        return session(path, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", noted)
    for count in (1, 3):
        with genin.load("builtin:student", runtime="onnxruntime", threads=count) as pipe:
            pipe("a ninja", seed=1, steps=2)
        assert pools and set(pools) == {count}
        pools.clear()
    pytest.importorskip("openvino")
    from genin.runtimes.openvino_engine import exact_settings

    assert exact_settings(3)["INFERENCE_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    ("busy", "policy", "spins"),
    [(True, None, False), (False, None, True), (True, "active", True), (False, "passive", False)],
)
def test_onnx_runtime_spins_on_an_idle_machine_only(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, busy: bool, policy: str | None, spins: bool
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from genin.runtimes.loading import load_pipeline

    kept: list[Any] = []
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, options, **rest: kept.append(options) or session(path, options, **rest),
    )
    monkeypatch.setattr(threads, "is_machine_busy", lambda: busy)
    if policy:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    with load_pipeline(tiny_bundle, runtime="onnxruntime") as pipeline:
        pipeline.generate("a ninja", seed=1, steps=1)
    assert kept
    for options in kept:
        if spins:  # left to ONNX Runtime
            with pytest.raises(RuntimeError, match="allow_spinning"):
                options.get_session_config_entry("session.intra_op.allow_spinning")
        else:
            assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"

"""One configuration's process, as the process that measures sees it: started, asked, and ended; what it died of.

Not here: what happens inside (`bench_worker`), when it is asked (`rounds`).
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from genin.benchmarks.peers.table import start_of
from genin.benchmarks.results.files import GENIN
from genin.benchmarks.speed.configurations import Configuration
from genin.benchmarks.speed.protocol import Protocol
from genin.runtimes.errors import GeninError

EXIT_TIMEOUT_S: Final = 20.0
KILLED: Final = -9  # subprocess's return code after SIGKILL
ANSWER_TIMEOUT_S = 1800.0  # for one picture, or for loading the model (Core ML compiles for minutes)
WORKER_MODULE = "genin.benchmarks.speed.bench_worker"
READY: Final = ("runtime", "provider", "precision", "load_s", "first_run_ms")
ANSWERS: Final = {  # what must be in the answer to a request
    "time": ("total_ms", "stages_ms"),
    "draw": ("memory_bytes",),
    "finish": ("memory_bytes",),
    "profile": ("operators",),
}


class WorkerError(GeninError):
    """A configuration's process refused or died."""


class Worker:
    """One configuration's process, with its first picture drawn.

    Attributes:
        facts: what it says of itself: runtime, provider, precision, load_s, first_run_ms, memory_bytes.
        cold_start_s: from starting it to its first picture.
    """

    def __init__(self, configuration: Configuration, protocol: Protocol, *, profile: bool = False) -> None:
        request = {
            "path": str(configuration.path),
            "runtime": configuration.runtime,
            "precision": configuration.precision,
            "steps": configuration.steps,
            "threads": configuration.threads,
            "device": configuration.device,
            "profile": profile,
            "size": configuration.size,
            **protocol.call(configuration.numbers(0)),
        }
        command, first = [sys.executable, "-m", WORKER_MODULE, json.dumps(request)], None
        if configuration.program != GENIN:
            try:
                command, first = start_of(configuration.program, request | {"prompts": list(protocol.prompts)})
            except GeninError as error:
                raise WorkerError(str(error)) from error
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (closed in close)
        started = time.perf_counter()
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                text=True,
                encoding="utf-8",
                env=environment(configuration.threads),
            )
        except OSError as error:
            self.errors.close()
            raise WorkerError(f"its process cannot be started ({error.strerror})") from error
        try:
            if first is not None:
                self._write(first)
            self.facts = self._read(ANSWER_TIMEOUT_S, READY)
        except WorkerError:
            self.close()
            raise
        self.cold_start_s = time.perf_counter() - started

    def ask(self, *, pictures: int = 1, **request: Any) -> dict[str, Any]:
        """Send a request and read the answer; the time limit grows with the number of `pictures` asked for.

        Errors: WorkerError with the process's own reason, also if the process has ended or does not answer.
        """
        self._write(request)
        return self._read(pictures * ANSWER_TIMEOUT_S, ANSWERS.get(request["do"], ()))

    def close(self) -> None:
        """End the process by closing its input."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(OSError):  # a request to a killed process cannot be flushed
                    stream.close()
        self._wait()
        self.errors.close()

    def _write(self, request: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        with suppress(OSError):  # the process has ended; reading finds out why
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()

    def _read(self, limit_s: float, needed: Sequence[str]) -> dict[str, Any]:
        """The next line. Errors: WorkerError for none, one that is no answer, or one that lacks a key of `needed`."""
        assert self.process.stdout is not None
        timed_out = threading.Event()

        def time_out() -> None:
            timed_out.set()
            self.process.kill()

        timer = threading.Timer(limit_s, time_out)
        timer.start()
        try:
            line = self.process.stdout.readline()
        finally:
            timer.cancel()
        if line.endswith("\n"):
            answer = checked_answer(line, needed)
        else:  # the process ended, perhaps in the middle of an answer
            answer = {
                "error": f"its process gave no answer within {limit_s:g} s" if timed_out.is_set() else self._end()
            }
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _end(self) -> str:
        """How the process ended, with the last line that it wrote to stderr."""
        self._wait()
        code = self.process.returncode
        if code < 0 and code != KILLED:
            with suppress(ValueError):
                return f"its process ended by {signal.Signals(-code).name}{self._last_line()}"
        if code == KILLED:
            return "its process was killed (SIGKILL), perhaps for lack of memory"
        return f"its process ended with code {code}{self._last_line()}"

    def _last_line(self) -> str:
        """Of what it wrote to stderr, in brackets."""
        self.errors.seek(0)
        lines = [line.strip() for line in self.errors.read().splitlines() if line.strip()]
        return f" ({lines[-1][:200]})" if lines else ""

    def _wait(self) -> None:
        try:
            self.process.wait(timeout=EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def checked_answer(line: str, needed: Sequence[str]) -> dict[str, Any]:
    """A line as an answer; a program that prints, or answers something else, has an error in place of one."""
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        return {"error": f"its process printed {line.strip()[:80]!r} in place of an answer"}
    if "error" in answer:
        return {"error": " ".join(str(answer["error"]).split())[:500]}
    for key in needed:
        if key not in answer:
            return {"error": f"its process answered without {key}"}
    if "total_ms" in needed and not _is_time(answer["total_ms"]):
        return {"error": f"its process answered {answer['total_ms']!r} milliseconds"}
    return answer


def _is_time(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value > 0  # type: ignore[arg-type, operator]


def environment(threads: int) -> dict[str, str]:
    """The process's environment: thread pools of every library at `threads`, and no log output."""
    pools = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    return {**os.environ, **pools, "DIFFUSERS_VERBOSITY": "error", "TRANSFORMERS_VERBOSITY": "error"}

"""One configuration in a process of its own: `python -m genin.benchmarks.speed.bench_worker JSON`.

It loads a pipeline, draws a first picture, says so, and then answers one request per line of stdin, so that its cold
start, memory and timings are its own while several such processes are asked in turn. Answers are JSON lines on
the stdout it was started with; whatever engines print goes to stderr.

Between the two readings of the clock there is one call of `generate`. Only `genin.runtimes` is imported before the first picture,
so the cold start is the one an application sees. Not here: statistics (`genin.benchmarks.results`).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from genin.benchmarks.speed.memory import peak_rss_bytes, rss_bytes

PROFILED, PROFILED_S = 5, 10.0  # pictures whose operators are counted, or as many as begin within these seconds


def main(request: Mapping[str, Any]) -> int:
    """Serve until stdin ends. `request`: path, runtime, precision, steps, threads, device, profile, size, prompt, seed; prompt and
    seed are lists for a batch. With `opener` ("module:function") and `format` a peer draws, not genin."""
    answers = _take_stdout()
    before_load = rss_bytes()
    from genin.runtimes.errors import GeninError

    try:
        from genin.runtimes.engine import EngineSettings
        from genin.runtimes.loading import open_pipeline

        counters = _counters() if request["profile"] else None
        settings = EngineSettings(request["threads"], profile=counters)
        asked = (request["runtime"], request["precision"], settings, request["device"])
        opened: Any = open_pipeline(Path(request["path"]), *asked) if "opener" not in request else _peer(request)
        with opened as pipeline:
            loaded = rss_bytes()
            session = Session(pipeline, request["steps"], request["size"], counters)
            first = session.time(request["prompt"], request["seed"])
            facts = ("runtime", "provider", "precision", "load_s", "default_steps", "default_guidance_scale")
            memory = {"before_load": before_load, "loaded": loaded}
            ready = {name: getattr(pipeline, name) for name in facts}
            _send(answers, ready | {"first_run_ms": first["total_ms"], "memory_bytes": memory})
            for line in sys.stdin:
                _send(answers, session.answer(json.loads(line)))
    except GeninError as error:
        _send(answers, {"error": str(error)})
        return error.exit_code
    return 0


class Session:
    """A loaded pipeline, asked for pictures of `steps` steps and `size` pixels either way; it keeps those that count."""

    def __init__(self, pipeline: Any, steps: int, size: int | None = None, counters: Any = None) -> None:
        self.pipeline, self.counters = pipeline, counters
        self.options: dict[str, Any] = {"steps": steps} if size is None else {"steps": steps, "size": (size, size)}
        self.pictures: list[Any] = []

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """`time`: one picture or batch, timed, and kept if `keep`; `draw`: pictures into a .npy file, not timed; `finish`: the
        kept pictures into a file, and memory; `profile`: the operators of a few pictures, the last thing that can be asked for."""
        if request["do"] == "time":
            return self.time(request["prompt"], request["seed"], keep=request["keep"])
        if request["do"] == "profile":
            return {"operators": self._operators(request["prompt"], request["seed"])}
        if request["do"] == "draw":
            for prompt, seed in zip(request["prompts"], request["seeds"], strict=True):
                self.time(prompt, seed, keep=True)
        steady, peak = rss_bytes(), peak_rss_bytes()
        if self.pictures:
            import numpy as np

            np.save(request["out"], np.stack(self.pictures))
        return {"pictures": len(self.pictures), "memory_bytes": {"steady": steady, "peak": peak}}

    def _operators(self, prompt: str | list[str], seed: int | list[int]) -> dict[str, Any]:
        calls, began = 1, time.perf_counter()  # the first picture is there already
        while calls <= PROFILED and time.perf_counter() - began < PROFILED_S:
            self.time(prompt, seed)
            calls += 1
        self.pipeline.close()
        operators: dict[str, Any] = self.counters.summary(calls * (len(prompt) if isinstance(prompt, list) else 1))
        return operators

    def time(self, prompt: str | list[str], seed: int | list[int], keep: bool = False) -> dict[str, Any]:
        started = time.perf_counter()
        generation = self.pipeline.generate(prompt, seed=seed, **self.options)
        total_ms = (time.perf_counter() - started) * 1000
        if keep:
            self.pictures.extend(generation.images)
        return {
            "total_ms": total_ms,
            "stages_ms": dict(generation.timings),
            "steps_ms": list(generation.step_timings),
        }


def _peer(request: Mapping[str, Any]) -> Any:
    from genin.benchmarks.peers.opened import open_peer

    return open_peer(request)


def _counters() -> Any:
    from genin.benchmarks.speed.operators import Counters

    return Counters()


def _take_stdout() -> IO[str]:
    """Keep the real stdout for answers, and redirect all other output to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _send(answers: IO[str], answer: Mapping[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))

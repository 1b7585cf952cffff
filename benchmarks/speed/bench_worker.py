"""One configuration in a process of its own: `python -m genin.benchmarks.speed.bench_worker JSON`.

It loads a pipeline, draws a first picture, says so, and then answers one request per line of stdin, so that its cold
start, peak memory and timings are its own while several such processes are asked in turn. Answers are JSON lines on
the stdout it was started with; whatever engines print goes to stderr.

Only `genin.runtimes` is imported, so the cold start is the one an application sees. Not here: statistics (`latency`).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any


def main(request: Mapping[str, Any]) -> int:
    """Serve until stdin ends. `request`: path, runtime, precision, steps, threads, device, prompt, seed."""
    answers = _take_stdout()
    from genin.runtimes.errors import GeninError

    try:
        from genin.runtimes.loading import load_pipeline

        with load_pipeline(
            Path(request["path"]),
            runtime=request["runtime"],
            precision=request["precision"],
            threads=request["threads"],
            device=request["device"],
        ) as pipeline:
            pipeline.generate(request["prompt"], seed=request["seed"], steps=request["steps"])
            _send(answers, _ready(pipeline))
            for line in sys.stdin:
                _send(answers, _answer(pipeline, request["steps"], json.loads(line)))
    except GeninError as error:
        _send(answers, {"error": str(error)})
        return error.exit_code
    return 0


def _take_stdout() -> IO[str]:
    """Keep the real stdout for answers, and redirect all other output to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _send(answers: IO[str], answer: Mapping[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _ready(pipeline: Any) -> dict[str, Any]:
    facts = ("runtime", "provider", "precision", "load_s", "default_steps", "default_guidance_scale")
    return {name: getattr(pipeline, name) for name in facts}


def _answer(pipeline: Any, steps: int, request: Mapping[str, Any]) -> dict[str, Any]:
    """`time`: one picture, timed; `draw`: pictures one by one into a .npy file; `memory`: the peak so far."""
    if request["do"] == "time":
        started = time.perf_counter()
        generation = pipeline.generate(request["prompt"], seed=request["seed"], steps=steps)
        return {"total_ms": (time.perf_counter() - started) * 1000, "stages_ms": dict(generation.timings)}
    if request["do"] == "memory":
        from genin.benchmarks.speed.machine import peak_rss_bytes

        return {"peak_rss_bytes": peak_rss_bytes()}
    import numpy as np

    pairs = zip(request["prompts"], request["seeds"], strict=True)
    pictures = [pipeline.generate(prompt, seed=seed, steps=steps).images[0] for prompt, seed in pairs]
    np.save(request["out"], np.stack(pictures))
    return {"out": request["out"]}


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))

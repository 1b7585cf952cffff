"""Result files of genin bench that nobody measured, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from genin.benchmarks.results.statistics import by_process, intervals, percentiles, summary

PROCESSES, RUNS = 5, 8


def row(
    model: str, latency_ms: float, *, noise: float = 0.005, seed: int = 1, factors: Sequence[float] | None = None
) -> dict[str, Any]:
    """A configuration of 40 runs around `latency_ms`, times `factors`."""
    count = PROCESSES * RUNS
    times = (
        latency_ms * np.exp(np.random.default_rng(seed).normal(0, noise, count)) * (1 if factors is None else factors)
    )
    samples = [round(float(time), 4) for time in times]
    processes = np.repeat(np.arange(PROCESSES), RUNS).tolist()
    groups = by_process(samples, processes)
    stages = {"text_encoder": 0.1, "unet": 0.7, "vae_decoder": 0.15, "other": 0.05}
    shares = {stage: [round(share * one, 4) for one in samples] for stage, share in stages.items()}
    return {
        "name": f"{model} · onnxruntime fp16 · 4 steps",
        "bundle": model,
        "path": f"/somewhere/{model}",
        "weights_sha256": "1" * 64,
        "pictures_sha256": "2" * 64,
        "role": "student",
        "runtime": "onnxruntime",
        "engine_version": "1.20",
        "provider": "CPUExecutionProvider",
        "precision": "fp16",
        "steps": 4,
        "threads": 2,
        "image_size": 64,
        "batch_size": 1,
        "asked_size": None,
        "pictures_per_s": 1000 / latency_ms,
        "runs": count,
        "processes": PROCESSES,
        "latency_ms": summary(groups),
        "intervals_ms": intervals(groups),
        "samples_ms": samples,
        "samples_process": processes,
        "samples_round": np.tile(np.arange(RUNS), PROCESSES).tolist(),
        "samples_at_s": [0.1 * index for index in range(count)],
        "stages_samples_ms": shares,
        "steps_samples_ms": [[one / 8] * 4 for one in samples],
        "stages_ms": {stage: percentiles(values)["p50"] for stage, values in shares.items()},
        "first_runs_ms": [2 * latency_ms] * PROCESSES,
        "first_run_ms": 2 * latency_ms,
        "cold_starts_s": [0.5] * PROCESSES,
        "cold_start_s": 0.5,
        "loads_s": [0.1] * PROCESSES,
        "load_s": 0.1,
        "memory_bytes": {"before_load": 30_000_000, "loaded": 80_000_000, "steady": 90_000_000, "peak": 95_000_000},
        "peak_rss_bytes": 95_000_000,
        "size_bytes": 6_000_000,
        "valid": True,
        "validity": {"pictures": RUNS, "reference": "onnxruntime fp32", "psnr_db": 66.5, "reasons": []},
        "psnr_db_to_fp32": 66.5,
        "lpips_squeeze_to_fp32": 0.0001,
        "lpips_squeeze_to_teacher": None,
        "speedup": None,
        "speedup_baseline": None,
        "notes": {},
    }


def results(*rows: dict[str, Any], run_id: str = "a") -> dict[str, Any]:
    """A whole file's content, without its hash."""
    machine = {
        "processor": "Some Processor",
        "architecture": "x86_64",
        "logical_cores": 2,
        "usable_cores": 2,
        "memory_bytes": 8_000_000_000,
        "system": "Linux 6.1",
        "sha256": "3" * 64,
        "python": "3.11.7",
        "packages": {"onnxruntime": "1.20"},
        "load_average": 0.1,
        "frequency_mhz": {"current": 2600.0, "min": None, "max": None},
    }
    return {
        "schema_version": 1,
        "run_id": run_id,
        "created": "2026-11-29T05:00:00+00:00",
        "command": "genin bench a b",
        "genin_commit": None,
        "machine": machine,
        "protocol": {
            "runs": 40,
            "warmup": 2,
            "processes": PROCESSES,
            "prompts": ["a ninja"],
            "prompts_sha256": "4" * 64,
            "seed": 0,
            "batch_size": 1,
            "threads": 2,
        },
        "results": list(rows),
        "skipped": [],
        "notes": {},
    }

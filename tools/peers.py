"""genin beside other runtimes on the same weights: seconds a picture, peak memory, seconds from "stop" until it has stopped.

    genin export SD15 --out sd15-bundle --format onnx,openvino --precision fp16 --no-vae-encoder
    python tools/peers.py --model SD15 --bundle sd15-bundle --rounds 3 --out docs/runs/peers.json

SD15 is a diffusers folder; random weights will do. A round runs every peer in turn, each in a process of its own: load, a picture
to warm up, `--pictures` that are timed, one that is stopped in the middle. One step without guidance, so that every peer runs each
network once. Tables show the best picture and the median of the others over all rounds; peers that are not installed are named with
the line that installs them. Run it on an otherwise idle machine.

Not here: pictures compared (weights of the same values in other engines: `genin verify`), guidance, more steps.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from genin.benchmarks.speed.machine import peak_rss_bytes

PROMPT = "a ninja in the rain"
WORKER_TIMEOUT_S = 3600


@dataclass(frozen=True)
class Task:
    """What a peer opens and draws."""

    model: str
    bundle: str
    precision: str
    threads: int
    side: int
    pictures: int


@dataclass(frozen=True)
class Opened:
    """A loaded peer: `draw(seed)` returns when the picture is there, or after `stop()` from another thread as soon as it can."""

    draw: Callable[[int], object]
    stop: Callable[[], object]


# --- peers -----------------------------------------------------------------------------------------------------------


def open_genin(task: Task, runtime: str) -> Opened:
    import genin

    pipe = genin.load(task.bundle, runtime=runtime, precision=task.precision, threads=task.threads)
    stop = genin.Cancellation()

    def draw(seed: int) -> object:
        return pipe(PROMPT, seed=seed, steps=1, guidance_scale=1.0, cancel=stop)

    return Opened(draw, stop.cancel)


def open_genai(task: Task) -> Opened:
    import openvino_genai

    folder = Path(task.bundle) / "openvino" / task.precision
    # Left alone, OpenVINO would compute in bf16 where the processor has it: other pictures, other figures.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": task.threads}
    pipe = openvino_genai.Text2ImagePipeline(str(folder), "CPU", **settings)
    stopped = threading.Event()

    def draw(seed: int) -> object:
        options = {"width": task.side, "height": task.side, "num_inference_steps": 1, "guidance_scale": 1.0}
        return pipe.generate(PROMPT, **options, rng_seed=seed, callback=lambda *_: stopped.is_set())

    return Opened(draw, stopped.set)


def open_optimum(task: Task, engine: str) -> Opened:
    import torch

    torch.set_num_threads(task.threads)
    folder = Path(task.bundle) / engine / task.precision
    if engine == "onnx":
        import onnxruntime
        from optimum.onnxruntime import ORTStableDiffusionPipeline

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = task.threads
        pipe = ORTStableDiffusionPipeline.from_pretrained(folder, session_options=options)
    else:
        from optimum.intel import OVStableDiffusionPipeline

        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": str(task.threads)}
        pipe = OVStableDiffusionPipeline.from_pretrained(folder, ov_config=settings, device="CPU")
    pipe.set_progress_bar_config(disable=True)
    stopped = threading.Event()

    def after_step(pipe: Any, _step: int, _timestep: int, kept: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = stopped.is_set()
        return kept

    def draw(seed: int) -> object:
        options = {"width": task.side, "height": task.side, "num_inference_steps": 1, "guidance_scale": 1.0}
        generator = torch.Generator().manual_seed(seed)
        return pipe(PROMPT, **options, generator=generator, callback_on_step_end=after_step)

    return Opened(draw, stopped.set)


def open_sdcpp(task: Task) -> Opened:
    import stable_diffusion_cpp as package
    from stable_diffusion_cpp import stable_diffusion_cpp as library

    pipe = package.StableDiffusion(model_path=task.model, n_threads=task.threads, wtype="f16", verbose=False)

    def draw(seed: int) -> object:
        options = {"width": task.side, "height": task.side, "sample_steps": 1, "cfg_scale": 1.0, "seed": seed}
        return pipe.generate_image(prompt=PROMPT, **options)

    def stop() -> None:
        if cancel := getattr(library, "sd_cancel_generation", None):
            cancel(pipe.model.model, 0)

    return Opened(draw, stop)


@dataclass(frozen=True)
class Peer:
    package: str
    install: str
    open: Callable[[Task], Opened]


PEERS: Mapping[str, Peer] = {
    "genin native": Peer("genin_native", "pip install 'genin[native]'", lambda task: open_genin(task, "native")),
    "genin onnxruntime": Peer(
        "onnxruntime", "pip install 'genin[onnxruntime]'", lambda task: open_genin(task, "onnxruntime")
    ),
    "genin openvino": Peer("openvino", "pip install 'genin[openvino]'", lambda task: open_genin(task, "openvino")),
    "openvino-genai": Peer("openvino_genai", "pip install openvino-genai", open_genai),
    "optimum-onnx": Peer("optimum.onnxruntime", "pip install optimum-onnx", lambda task: open_optimum(task, "onnx")),
    "optimum-intel": Peer("optimum.intel", "pip install optimum-intel", lambda task: open_optimum(task, "openvino")),
    "stable-diffusion.cpp": Peer("stable_diffusion_cpp", "pip install stable-diffusion-cpp-python", open_sdcpp),
}


# --- in a peer's process ---------------------------------------------------------------------------------------------


def work(name: str, task: Task) -> dict[str, Any]:
    """One round of one peer."""
    begun = time.perf_counter()
    peer = PEERS[name].open(task)
    load_s = time.perf_counter() - begun
    peer.draw(0)
    seconds = [_timed(lambda seed=seed: peer.draw(seed)) for seed in range(1, task.pictures + 1)]
    peak_bytes = peak_rss_bytes()
    asked_at = [0.0]

    def stop() -> None:
        asked_at[0] = time.perf_counter()
        peer.stop()

    timer = threading.Timer(min(seconds) / 2, stop)
    timer.start()
    try:
        peer.draw(0)
    except Exception as error:  # how a peer says that it was stopped
        print(f"{name}: {type(error).__name__}", file=sys.stderr)  # noqa: T201
    ended_at = time.perf_counter()
    timer.join()
    return {
        "load_s": load_s,
        "seconds": seconds,
        "peak_bytes": peak_bytes,
        "stop_s": max(0.0, ended_at - asked_at[0]),
    }


def _timed(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


# --- the rounds ------------------------------------------------------------------------------------------------------


def run_peer(name: str, task: Task) -> dict[str, Any]:
    """Errors: ClickException with the last lines of a peer that failed."""
    command = [sys.executable, __file__, "--worker", name, "--task", json.dumps(vars(task))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(task.threads), "GENIN_AUTO": "order"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=WORKER_TIMEOUT_S, env=environment
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()[-1:]
        return {"failed": lines[0] if lines else f"ended with {done.returncode}"}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def row(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """All rounds of one peer."""
    good = [one for one in rounds if "seconds" in one]
    if not good:
        return rounds[0]
    seconds = [second for one in good for second in one["seconds"]]
    return {
        "best_s": round(min(seconds), 4),
        "median_s": round(statistics.median(seconds), 4),
        "load_s": round(min(one["load_s"] for one in good), 3),
        "peak_gb": round(max(one["peak_bytes"] for one in good) / 1e9, 3),
        "stop_s": round(statistics.median(one["stop_s"] for one in good), 4),
    }


def table(rows: Mapping[str, dict[str, Any]]) -> str:
    """Markdown, fastest first; then those that could not be measured."""
    measured = sorted((name for name in rows if "best_s" in rows[name]), key=lambda name: rows[name]["median_s"])
    lines = ["| peer | a picture, median | best | loading | peak memory | to stop |", "|---|---|---|---|---|---|"]
    for name in measured:
        found = rows[name]
        cells = (f"{found['median_s']:.3g} s", f"{found['best_s']:.3g} s", f"{found['load_s']:.3g} s")
        lines.append(f"| {name} | {' | '.join(cells)} | {found['peak_gb']:.3g} GB | {found['stop_s']:.3g} s |")
    lines += [f"{name}: {next(iter(rows[name].values()))}" for name in rows if name not in measured]
    return "\n".join(lines)


@click.command()
@click.option("--model", type=click.Path(path_type=Path), help="Diffusers folder.")
@click.option("--bundle", type=click.Path(path_type=Path), help="Bundle of it: onnx and openvino.")
@click.option("--precision", default="fp16", show_default=True)
@click.option("--side", default=512, show_default=True, help="Of the pictures, in pixels; the bundle's own.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--pictures", default=2, show_default=True, help="Timed in each round.")
@click.option("--threads", default=len(os.sched_getaffinity(0)), show_default=True)
@click.option("--peer", "chosen", multiple=True, type=click.Choice(list(PEERS)), help="Only these.")
@click.option("--out", type=click.Path(path_type=Path))
@click.option("--worker", hidden=True)
@click.option("--task", hidden=True)
def main(worker: str | None, task: str | None, chosen: tuple[str, ...], out: Path | None, **options: Any) -> None:
    if worker is not None and task is not None:
        click.echo(json.dumps(work(worker, Task(**json.loads(task)))))
        return
    if options["model"] is None or options["bundle"] is None:
        raise click.UsageError("--model and --bundle are missing")
    rounds = options.pop("rounds")
    asked = Task(**{**options, "model": str(options["model"]), "bundle": str(options["bundle"])})
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(rounds):
        for name in chosen or PEERS:
            if not is_installed(PEERS[name].package):
                found[name] = [{"not installed": PEERS[name].install}]
                continue
            found.setdefault(name, []).append(run_peer(name, asked))
            click.echo(f"{name}: {json.dumps(found[name][-1])}", err=True)
    rows = {name: row(results) for name, results in found.items()}
    click.echo(table(rows))
    if out is not None:
        out.write_text(
            json.dumps({"task": vars(asked), "rounds": found, "rows": rows}, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()

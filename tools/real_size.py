"""Tuning and distillation at Stable Diffusion's real size on this machine: seconds per update, and measured and estimated peak
memory.

    python tools/real_size.py --teacher SD15 --work WORK --out docs/runs/real-size.json [--student bk-tiny] [--updates 2]

SD15 is a model folder of that architecture; random weights will do (their autoencoder's `scaling_factor` has to give latents of
unit deviation: genin's error message states it). LoRA tuning, then every phase of distillation by itself, then all of them in one
command, each in a process of its own whose resident memory is sampled ten times a second: while it updates, and until its end
(grids of samples, the autoencoder at full size, the folder that is written). The adversarial phase has everything switched on:
teacher in bf16, discriminator, distribution matching with a fake score of low rank, checkpointed activations. `--keep` prints the
table of an earlier run.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import click
import psutil

FINETUNE = """
finetune: {{images: {updates}, batch_size: 1, lora_rank: 16, gradient_checkpointing: true, cache_images: 2, ema_decays: [0.999],
  held_out_images: 0, validation_prompts: [a ninja]}}
"""
DISTILL = """
student: {{name: {student}}}
pool: {{size: 2, teacher_steps: 2, batch_size: 1, teacher_precision: bf16, guidance_scale: 7.5}}
prune: {{images: {prune}, batch_size: 1, gradient_checkpointing: true, ema_decays: [0.999]}}
steps: {{images: {steps}, batch_size: 1, held_out_images: 0, gradient_checkpointing: true, ema_decays: [0.999],
  step_counts: [2, 1]}}
adversarial: {{images: {adversarial}, batch_size: 1, held_out_images: 0, cache_images: 2, matching_weight: 1, fake_score_rank: 32,
  gradient_checkpointing: true, ema_decays: [0.999], step_counts: [2, 1]}}
"""
PHASES = ("finetune", "prune", "steps", "adversarial")


def last_row(log: Path) -> dict[str, Any]:
    """The last whole row of a log, or nothing."""
    lines = log.read_text().split("\n")[:-1] if log.is_file() else []
    return dict(json.loads(lines[-1])) if lines else {}


def measured(command: list[str], training: Path, phase: str | None, updates: int) -> dict[str, Any]:
    """Run genin; seconds, GB at the peak; of the one `phase` that it trains, seconds an update and GB until the last one ended."""
    process = subprocess.Popen(
        [sys.executable, "-m", "genin", *command], env={**os.environ, "PYTHONWARNINGS": "ignore"}
    )
    peaks: dict[bool, float] = {}
    log = training / f"{phase}.log.jsonl"

    def look() -> None:
        me = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                size = me.memory_info().rss
            except psutil.Error:
                break
            ended = last_row(log).get("update", 0) >= updates
            peaks[ended] = max(peaks.get(ended, 0.0), size / 1e9)
            time.sleep(0.1)

    thread = threading.Thread(target=look)
    started = time.perf_counter()
    thread.start()
    code = process.wait()
    thread.join()
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}")
    found: dict[str, Any] = {
        "seconds": round(time.perf_counter() - started, 1),
        "peak_gb": round(max(peaks.values()), 2),
    }
    if phase is not None:
        row = last_row(log)
        found["seconds_an_update"] = round(row["elapsed_s"] / row["update"], 1)
        found |= {"updates": row["update"], "loss": row["loss"], "updates_gb": round(peaks[False], 2)}
    return found


def reckoned(teacher: Path, finetune: Path, distill: Path) -> dict[str, dict[str, float]]:
    """{phase: {reckoned_gb, tflop}} of a picture's update."""
    from genin.benchmarks.model_facts import max_tokens
    from genin.distill.loop.memory import Others, PhaseSizes, Unet, finetune_flop, finetune_memory
    from genin.distill.models.student_config import pruning_of, student_config
    from genin.distill.recipe import load_recipe
    from genin.distill.student.cost import distill_flop, distill_memory

    config = json.loads((teacher / "unet" / "config.json").read_text())
    tune, recipe, tokens = load_recipe(finetune), load_recipe(distill), max_tokens(teacher)
    whole, student = Unet.of(config, tokens), Unet.of(student_config(config, pruning_of(recipe.student)), tokens)
    others = Others.of_folder(teacher)
    rank = tune.finetune.lora_rank
    parts = {"finetune": finetune_memory(tune.finetune, whole, rank, others)}
    work = {"finetune": finetune_flop(tune.finetune, whole, rank)}
    sizes = PhaseSizes(whole, student, others)
    for phase in PHASES[1:]:
        parts[phase] = distill_memory(phase, recipe, sizes)
        work[phase] = distill_flop(phase, recipe, sizes)
    return {
        name: {
            "reckoned_gb": round(sum(part.values()) / 1e9, 2), "tflop": round(work[name] / 1e12, 2),
            "parts_gb": {key: round(value / 1e9, 3) for key, value in part.items()},
        }
        for name, part in parts.items()
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    lines = [
        "| | memory in updates, GB | reckoned, GB | until the end, GB | seconds an update | TFLOP an update | GFLOP/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in found["phases"].items():
        rate = row["tflop"] * 1e3 / row["seconds_an_update"]
        memory = f"{row['updates_gb']:.1f} | {row['reckoned_gb']:.1f} | {row['peak_gb']:.1f}"
        lines.append(f"| {name} | {memory} | {row['seconds_an_update']:.0f} | {row['tflop']:.1f} | {rate:.0f} |")
    whole = found["whole"]
    lines.append(f"| all phases, one command | | | {whole['peak_gb']:.1f} | {whole['seconds']:.0f} s in all | | |")
    return "\n".join(lines)


@click.command(help=__doc__)
@click.option("--teacher", type=click.Path(path_type=Path, exists=True))
@click.option("--work", type=click.Path(path_type=Path), help="Where model folders go (12 GB); emptied first.")
@click.option("--student", default="bk-tiny", show_default=True)
@click.option("--updates", default=2, show_default=True)
@click.option("--data", default="builtin:world", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--keep", is_flag=True)
def main(teacher: Path | None, work: Path | None, student: str, updates: int, data: str, out: Path, keep: bool) -> None:
    if not keep:
        if teacher is None or work is None:
            raise click.UsageError("--teacher and --work are needed to measure")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        runs: dict[str, tuple[list[str], str]] = {
            "finetune": (["teacher", "finetune", "--base", str(teacher)], FINETUNE.format(updates=updates))
        }
        for name in (*PHASES[1:], "whole"):
            images = {phase: updates if name in (phase, "whole") else 0 for phase in PHASES[1:]}
            runs[name] = (["distill", "--teacher", str(teacher)], DISTILL.format(student=student, **images))
        phases: dict[str, Any] = {}
        for name, (command, recipe) in runs.items():
            (work / f"{name}.yaml").write_text(recipe)
            arguments = ["--data", data, "--recipe", str(work / f"{name}.yaml"), "--out", str(work / name)]
            phase = None if name == "whole" else name
            phases[name] = measured([*command, *arguments], work / name / "training", phase, updates)
            if name != "whole":
                shutil.rmtree(work / name)  # gigabytes
        told = reckoned(teacher, work / "finetune.yaml", work / "whole.yaml")
        facts = {"machine": platform.machine(), "cores": os.cpu_count(), "student": student}
        found = {**facts, "phases": {name: {**phases[name], **told[name]} for name in told}, "whole": phases["whole"]}
        out.write_text(json.dumps(found, indent=1) + "\n")
    click.echo(table(json.loads(out.read_text())))


if __name__ == "__main__":
    main()

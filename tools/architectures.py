"""Which student? A dozen UNets and half a dozen decoders by measured latency, not by parameters, and by what each learns from the
same number of images.

    python tools/architectures.py --out runs/architectures                     # latency, two minutes
    python tools/architectures.py --out runs/architectures --images 12800      # and quality, three more minutes per UNet

Latency: each network alone, exported as genin exports it (ONNX on ONNX Runtime, OpenVINO; fp16 weights, batch 1), interleaved in
rounds, medians. Quality of a UNet: the phases `prune` and `steps` on one pool of the teacher's pictures, the same images
for all, then `fd_world` at four steps. Results are kept in OUT/results.json: run the command again to continue.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from question import check_question
from world_evaluator import SCENES, world_evaluator

from genin.benchmarks.model_facts import cost_of, unet_cost
from genin.benchmarks.quality.subjects import Sampling
from genin.distill.inputs.sources import open_source
from genin.distill.loop.run_folder import RunOptions
from genin.distill.models.folder import ModelFolder, load_model_folder
from genin.distill.models.pruning import build_student
from genin.distill.models.student_config import PRESETS, pruning_of
from genin.distill.recipe import DecoderRecipe, PoolRecipe, PruneRecipe, Recipe, StepsRecipe, StudentRecipe
from genin.distill.student.decoder import build_tiny
from genin.distill.student.distillation import distill
from genin.export.components import Component, components, max_length
from genin.export.converters.formats import converter
from genin.runtimes.limits import usable_cores
from genin.runtimes.names import BUILTIN_WORLD
from genin.runtimes.origin import fingerprint

UNETS: Mapping[str, StudentRecipe] = {
    **{name: StudentRecipe(name) for name in PRESETS if name != "bk-small-fast"},
    **{
        ", ".join(map(str, widths)): StudentRecipe(
            "bk-small-conv", level_widths=widths, levels_without_attention=(0, 1, 2)
        )
        for widths in (
            (1, 1, 1),
            (0.75, 0.75, 0.75),
            (0.75, 0.625, 0.75),
            (0.75, 0.5, 0.75),
            (1, 0.5, 1),
            (0.5, 0.5, 0.5),
        )
    },
}
DECODERS = (
    *((64, (3, 3, 3, 1)), (64, (4, 2, 1, 0)), (48, (6, 4, 1, 0)), (48, (4, 2, 1, 0))),
    *((32, (6, 4, 1, 0)), (32, (4, 2, 1, 0)), (16, (6, 4, 1, 0))),
)
FORMATS = ("onnx", "openvino")
ROUNDS, RUNS = 12, 10
Run = Callable[[], object]


def opened(format: str, path: Path, case: Mapping[str, Any], inputs: tuple[str, ...]) -> Run:
    """A graph on its engine, ready to be timed on one case: with fixed threads that do not spin during another's turn."""
    feeds = {name: case[name] for name in inputs}
    if format == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = usable_cores()
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, feeds)
    from genin.runtimes.openvino_engine import core

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": usable_cores(),
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core().compile_model(str(path), "CPU", settings).create_infer_request()
    return lambda: request.infer(feeds)


def exported(component: Component, folder: Path) -> dict[str, Run]:
    """One network in every format, fp16; the case is the component's own with batch 1."""
    case = next(case for case in component.cases if len(case[component.inputs[0]]) == 1)
    runs = {}
    for format in FORMATS:
        path = folder / format / ("model.onnx" if format == "onnx" else "openvino_model.xml")
        path.parent.mkdir(parents=True, exist_ok=True)
        written = converter(format)(component, {"fp16": path})["fp16"]
        runs[format] = opened(format, written.path, case, component.inputs)
    return runs


def latencies(candidates: Mapping[str, Mapping[str, Run]]) -> dict[str, dict[str, float]]:
    """Median milliseconds by candidate and format, each turn warmed up by two runs."""
    times: dict[str, dict[str, list[float]]] = {name: {format: [] for format in FORMATS} for name in candidates}
    for _ in range(ROUNDS):
        for name, runs in candidates.items():
            for format, run in runs.items():
                for n in range(RUNS + 2):
                    started = time.perf_counter()
                    run()
                    if n >= 2:
                        times[name][format].append(1e3 * (time.perf_counter() - started))
    return {name: {f: round(float(np.median(t)), 3) for f, t in found.items()} for name, found in times.items()}


def measure_unets(teacher: ModelFolder, folder: Path) -> dict[str, Any]:
    tokens = max_length(teacher)
    whole, macs = unet_cost(teacher.unet.config, tokens=tokens)
    facts: dict[str, Any] = {}
    runs: dict[str, dict[str, Run]] = {}
    for name, student in {"teacher": None, **UNETS}.items():
        torch.manual_seed(0)
        unet: Any = teacher.unet if student is None else build_student(teacher.unet, pruning_of(student))[0]
        parameters, operations = unet_cost(unet.config, tokens=tokens)
        facts[name] = {
            "widths": list(unet.config.block_out_channels),
            "parameters": parameters,
            "parameters_share": parameters / whole,
            "macs": operations,
            "macs_share": operations / macs,
        }
        model = replace(teacher, unet=unet)
        [component] = [part for part in components(model) if part.name == "unet"]
        runs[name] = exported(component, folder / "graphs" / file_name(name))
        click.echo(f"exported {name}")
    for name, found in latencies(runs).items():
        facts[name]["ms"] = found
    return facts


def file_name(name: str) -> str:
    return re.sub(r"\W+", "-", name)


def measure_decoders(teacher: ModelFolder, folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    runs: dict[str, dict[str, Run]] = {}
    for channels, blocks in DECODERS:
        name = f"{channels} channels, blocks {', '.join(map(str, blocks))}"
        torch.manual_seed(0)
        recipe = DecoderRecipe(channels=channels, blocks=blocks)
        tiny = build_tiny(teacher.vae, recipe, teacher.image_size // teacher.latent_size)
        latents = torch.zeros(1, tiny.config.latent_channels, teacher.latent_size, teacher.latent_size)
        parameters, macs = cost_of(tiny.decoder, lambda tiny=tiny, latents=latents: tiny.decoder(latents))  # type: ignore[misc]
        facts[name] = {"parameters": parameters, "macs": macs}
        model = replace(teacher, vae=tiny)
        [component] = [part for part in components(model) if part.name == "vae_decoder"]
        runs[name] = exported(component, folder / "graphs" / file_name(name))
        click.echo(f"exported {name}")
    for name, found in latencies(runs).items():
        facts[name]["ms"] = found
    return facts


def train(teacher: Path, name: str, folder: Path, images: int, samples: int) -> dict[str, float]:
    """fd_world of one candidate after equal images of both phases."""
    out = folder / "trained" / f"{file_name(name)}-{images}"  # a finished one has no more to learn at another length
    pool = folder / "pool.safetensors"
    (out / "training").mkdir(parents=True, exist_ok=True)
    own = out / "training" / "pool.safetensors"
    if pool.exists() and not own.exists():
        os.link(pool, own)
    recipe = Recipe(
        student=UNETS[name],
        pool=PoolRecipe(size=8_192),
        prune=PruneRecipe(images=2 * images),
        steps=StepsRecipe(images=images, held_out_images=0, perceptual_weight=4.0),
        adversarial=replace(Recipe().adversarial, images=0),
    )
    distill(teacher, open_source(BUILTIN_WORLD, count=SCENES), out, recipe, RunOptions(resume=True))
    if not pool.exists():
        os.link(own, pool)
    evaluator = world_evaluator(samples, ("world",))
    result = evaluator.evaluate(out, Sampling(steps=4, batch_size=64))
    return {"images": images, "samples": samples, "fd_world": result["fd_world"]}


def tables(results: Mapping[str, Any]) -> str:
    """Both tables as Markdown, by latency on ONNX Runtime."""
    quality = results.get("quality", {})
    lines = [
        "| UNet | widths | parameters | multiply-adds | ONNX Runtime, ms | OpenVINO, ms | `fd_world` after equal images |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in sorted(results["unets"].items(), key=lambda item: -float(item[1]["ms"]["onnx"])):
        learnt = f"{quality[name]['fd_world']:.2f}" if name in quality else "–"
        widths, ms = ", ".join(map(str, row["widths"])), row["ms"]
        lines.append(
            f"| {name} | {widths} | {row['parameters'] / 1e6:.2f} M ({row['parameters_share']:.0%}) | "
            f"{row['macs'] / 1e6:.0f} M ({row['macs_share']:.0%}) | {ms['onnx']:.2f} | {ms['openvino']:.2f} | {learnt} |"
        )
    lines += ["", "| decoder | parameters | multiply-adds | ONNX Runtime, ms | OpenVINO, ms |", "|---|---|---|---|---|"]
    for name, row in results["decoders"].items():
        cost = f"{row['parameters'] / 1e6:.2f} M | {row['macs'] / 1e6:.0f} M"
        lines.append(f"| {name} | {cost} | {row['ms']['onnx']:.2f} | {row['ms']['openvino']:.2f} |")
    return "\n".join(lines)


@click.command()
@click.option(
    "--teacher", type=click.Path(path_type=Path, exists=True), default=Path("weights/genin_training_weights/teacher")
)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--images", default=0, help="Of the steps phase, and twice as many of pruning; 0 measures latency alone.")
@click.option("--samples", default=1024, show_default=True)
def main(teacher: Path, out: Path, images: int, samples: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    record = out / "results.json"
    check_question(out / "question.json", {"teacher": fingerprint(teacher), "samples": samples}, record)
    results: dict[str, Any] = json.loads(record.read_text()) if record.is_file() else {}

    def keep() -> None:
        record.write_text(json.dumps(results, indent=1) + "\n")

    model = load_model_folder(teacher)
    for name, measure in {"unets": measure_unets, "decoders": measure_decoders}.items():
        if name not in results:
            results[name] = measure(model, out)
            keep()
    for name in UNETS:
        if images and results.setdefault("quality", {}).get(name, {}).get("images") != images:
            results["quality"][name] = train(teacher, name, out, images, samples)
            keep()
    click.echo(tables(results))


if __name__ == "__main__":
    main()

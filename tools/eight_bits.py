"""Several ways to 8 bits, side by side on one student: genin's int8 and w8a8, the libraries' own quantisation of every layer, and
optimum-intel's hybrid quantisation. One command:

    python tools/eight_bits.py --model runs/student --out docs/runs/eight-bits.json

Each is a bundle; pictures of the same prompts and seeds are compared with PyTorch's, and `genin bench` times all of them in turn.
optimum-intel is calibrated as genin is, on the student's own few steps (its own default, 50 guided steps, does not suit a student).
Needs LPIPS's weights and the packages of the `clients` group.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from genin.benchmarks.prompts import DEFAULT_PROMPTS
from genin.benchmarks.quality.perceptual import load_lpips
from genin.benchmarks.quality.validity import psnr_db
from genin.distill.models.folder import load_model_folder
from genin.export import ExportOptions, export
from genin.export.checks.pictures import draw_with_pytorch
from genin.export.converters.quiet import quiet
from genin.export.converters.to_onnx import LAYERS
from genin.export.prompt_set import Amount
from genin.runtimes.bundle import file_entry
from genin.runtimes.loading import load_pipeline
from genin.runtimes.vocabulary import COMPONENTS

ENGINES = {"onnxruntime": "onnx", "openvino": "openvino"}
FIRST_SEED = 60_000  # not those of calibration
Inputs = Mapping[str, Sequence[Mapping[str, Any]]]


def naive_onnx(folder: Path, inputs: Inputs) -> None:
    """onnxruntime's static quantisation of all layers of all networks."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    for component in COMPONENTS:
        cases = iter(inputs[component])

        class Reader:
            def get_next(self, cases: Any = cases) -> Any:
                return next(({**case} for case in cases), None)

        path = folder / component / "model.onnx"
        quantize_static(
            path,
            path.with_suffix(".new"),
            Reader(),  # type: ignore[arg-type]
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=list(LAYERS),
        )
        path.with_suffix(".new").replace(path)


def naive_openvino(folder: Path, inputs: Inputs) -> None:
    """nncf's quantisation of all that it quantises, in all networks."""
    import nncf

    from genin.runtimes.openvino_engine import core

    for component in COMPONENTS:
        path = folder / component / "openvino_model.xml"
        model = core().read_model(path)
        found = nncf.quantize(model, nncf.Dataset(inputs[component]), subset_size=len(inputs[component]))
        save(found, path)


def hybrid(folder: Path, inputs: Inputs) -> None:
    """optimum-intel's: 8-bit activations in the UNet's convolutions, 8-bit weights everywhere else."""
    from optimum.intel import OVConfig, OVQuantizer, OVStableDiffusionPipeline, OVWeightQuantizationConfig

    class FewSteps(OVStableDiffusionPipeline):  # type: ignore[misc]
        def __call__(self, prompt: str, **more: Any) -> Any:
            return super().__call__(prompt, num_inference_steps=4, guidance_scale=1.0, **more)

    pipeline = FewSteps.from_pretrained(folder, ov_config={"INFERENCE_PRECISION_HINT": "f32"})
    config = OVWeightQuantizationConfig(bits=8, quant_method="hybrid", num_samples=48)
    prompts = [DEFAULT_PROMPTS[row % len(DEFAULT_PROMPTS)] for row in range(12)]
    OVQuantizer(pipeline).quantize(ov_config=OVConfig(quantization_config=config), calibration_dataset=prompts)
    for component in COMPONENTS:
        save(getattr(pipeline, component).model, folder / component / "openvino_model.xml")


def save(model: Any, path: Path) -> None:
    import openvino as ov

    made = path.with_name("made.xml")
    ov.save_model(model, made, compress_to_fp16=False)
    for suffix in (".xml", ".bin"):
        made.with_suffix(suffix).replace(path.with_suffix(suffix))


def variant(bundle: Path, name: str, format: str, change: Callable[[Path, Inputs], None], inputs: Inputs) -> Path:
    """A copy of a bundle whose fp32 graphs of a format are changed."""
    copy = Path(shutil.copytree(bundle, bundle.with_name(name)))
    with quiet():
        change(copy / format / "fp32", inputs)
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for graph in manifest["graphs"]:
        for entry in graph["files"]:
            found = file_entry(copy, entry["path"])
            entry |= {"sha256": found.sha256, "size_bytes": found.size_bytes}
    path.write_text(json.dumps(manifest), encoding="utf-8")
    return copy


def pictures(path: Path, count: int, *choice: str) -> Any:
    import numpy as np

    prompts = [DEFAULT_PROMPTS[row % len(DEFAULT_PROMPTS)] for row in range(count)]
    with load_pipeline(path, *choice) as pipeline:
        seeds = range(FIRST_SEED, FIRST_SEED + count)
        drawn = [pipeline.generate(prompts[at : at + 8], seeds[at : at + 8]).images for at in range(0, count, 8)]
    return np.concatenate(drawn)


def latency_ms(bundle: Path, others: Sequence[Path], engine: str, precisions: Sequence[str], runs: int) -> list[float]:
    """For the bundle's precisions, then the others' fp32, all in turn."""
    asked = ["--runtime", engine, "--precision", ",".join(precisions), "--runs", str(runs), "--json"]
    command = [sys.executable, "-m", "genin", "bench", str(bundle), *map(str, others), *asked]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    rows = json.loads(done.stdout.splitlines()[-1])["results"]
    found = {(Path(row["path"]), row["precision"]): row["latency_ms"]["p50"] for row in rows}
    return [found[bundle, name] for name in precisions] + [found[other, "fp32"] for other in others]


@click.command()
@click.option("--model", type=click.Path(path_type=Path, exists=True), required=True, help="A student's model folder.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/runs/eight-bits.json"), show_default=True)
@click.option("--count", default=48, show_default=True, help="Pictures that are compared.")
@click.option("--runs", default=40, show_default=True, help="Pictures that are timed.")
def main(model: Path, out: Path, count: int, runs: int) -> None:
    """Make, draw, time, print."""
    precisions = ["fp32", "int8", "w8a8"]
    rows = []
    with tempfile.TemporaryDirectory(prefix="genin-") as folder:
        bundle = Path(folder) / "bundle"
        export(model, bundle, ExportOptions(list(ENGINES.values()), precisions))
        with quiet():
            loaded = load_model_folder(model)
            inputs = draw_with_pytorch(loaded, Amount.of(loaded)).inputs
        reference, lpips = pictures(model, count), load_lpips("squeeze")
        for engine, format in ENGINES.items():
            made = {"every layer in 8 bits": naive_onnx if format == "onnx" else naive_openvino}
            if format == "openvino":
                made["optimum-intel, hybrid"] = hybrid
            others = [variant(bundle, f"{format}-{n}", format, make, inputs) for n, make in enumerate(made.values())]
            subjects = [(bundle, name, f"genin {name}") for name in precisions]
            subjects += [(other, "fp32", name) for other, name in zip(others, made, strict=True)]
            times = latency_ms(bundle, others, engine, precisions, runs)
            for (path, precision, name), milliseconds in zip(subjects, times, strict=True):
                drawn = pictures(path, count, engine, precision)
                each = [psnr_db(drawn[i : i + 1], reference[i : i + 1]) or 200.0 for i in range(count)]
                graphs = (path / format / precision).glob("*/*model.*")
                rows.append(
                    {
                        "engine": engine,
                        "by": name,
                        "size_bytes": sum(graph.stat().st_size for graph in graphs),
                        "psnr_db": statistics.median(each),
                        "lpips_squeeze": float(lpips(drawn, reference).mean()),
                        "latency_ms": milliseconds,
                        "to_fp32": milliseconds / times[0],
                    }
                )
    out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    click.echo("| engine | 8 bits by | MB | pictures, dB | LPIPS | 4 steps, ms | of fp32's time |\n|" + "---|" * 7)
    for row in rows:
        size, time = f"{row['size_bytes'] / 1e6:.1f}", f"{row['latency_ms']:.1f} | {row['to_fp32']:.2f}"
        quality = f"{row['psnr_db']:.1f} | {row['lpips_squeeze']:.4f}"
        click.echo(f"| {row['engine']} | {row['by']} | {size} | {quality} | {time} |")


if __name__ == "__main__":
    main()

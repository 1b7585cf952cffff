"""Every HTML page that genin writes, small, for tests of what all of them must have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from genin import cli
from genin.benchmarks.grids import Grid, GridRow
from genin.benchmarks.report.report import Report, render
from genin.benchmarks.results.files import seal
from genin.benchmarks.results.merge import Merged
from result_files import results, row

FRAMES = {"frames": 1200, "p50_ms": 16.7, "p99_ms": 19.4, "worst_ms": 33.2, "late_percent": 1.9}
OPERATORS = {
    "calls": 4.0,
    "ms": 10.2,
    "kinds": [{"kind": "Conv", "operators": 40, "ms": 7.1, "share": 0.7}],
    "layers": [{"layer": "down.0/conv", "kind": "Conv", "ms": 1.2, "share": 0.12}],
}
WINDOWS = [{"at_s": 60.0 * at, "seconds": 60.0, "runs": 9, "p50_ms": 20.0 + at, "max_ms": 30.0} for at in range(3)]
PROMPTS = ("a ninja", "a calm ninja with a sword")


def bench_rows() -> list[dict[str, Any]]:
    """A student on two engines and in int8, whose pictures are wrong; a peer; a teacher."""
    more: dict[str, Any] = {"speedup": 61.4, "fd_ratio": 1.02, "lpips_squeeze_to_teacher": 0.12, "matmul_share": 0.61}
    first = (
        row("student", 14.7) | more | {"frames": {"off": FRAMES, "thread": FRAMES}, "operators": {"unet": OPERATORS}}
    )
    first |= {"sustained": {"seconds": 180.0, "runs": 27, "windows": WINDOWS}}
    other = row("student", 16.1) | more | {"runtime": "openvino", "name": "student · openvino fp16 · 4 steps"}
    wrong = other | {"precision": "int8", "name": "student · openvino int8 · 4 steps", "valid": False}
    wrong["validity"] = {"pictures": 8, "reference": "onnxruntime fp32", "reasons": ["LPIPS 0.14 is above 0.1"]}
    peer = row("student", 31.0) | more | {"program": "optimum-onnx", "name": "student · optimum-onnx"}
    peer["notes"] = {"stages_ms": "optimum-onnx does not tell them"}
    slow = row("teacher", 918.0) | {"runtime": "pytorch", "precision": "fp32", "steps": 100, "fd_ratio": 1.0}
    return [first, other, wrong, peer, slow | {"name": "teacher · pytorch fp32 · 100 steps"}]


def pictures(shift: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Two of 8 × 8 pixels; `shift` is added to every fourth value."""
    plain = np.arange(2 * 8 * 8 * 3).reshape(2, 8, 8, 3) % 200
    return (plain + shift * (plain % 4 == 0)).astype(np.uint8)


def bench_page() -> str:
    """With pictures, differences, both plots, every table."""
    rows = bench_rows()
    first, other, wrong, peer, slow = (
        GridRow(one["bundle"], f"{one['runtime']} {one['precision']}", pictures(shift), one["name"], against)
        for one, shift, against in zip(rows, (1, 0, 40, 2, 9), ("fp32", "fp32", "fp32", "fp32", ""), strict=True)
    )
    reference = GridRow("student", "onnxruntime fp32, not timed", pictures(), "fp32")
    grids = [
        Grid("Same prompts, same seeds", PROMPTS, (first, slow)),
        Grid("On every runtime and precision", PROMPTS, (reference, first, other, wrong, peer, slow), folded=True),
    ]
    evaluation = {"model": "m", "steps": 1, "samples": 5000, "fd_world": 1.5, "notes": {"fid": "no weights"}}
    evaluation |= {"reference": "builtin:world", "reference_count": 5000}
    measured = results(*rows) | {"notes": {"busy": "Load average before the run: 4.13 on 2 cores"}}
    return render(Report(seal(measured), grids, [evaluation]))


def merged_page() -> str:
    """Two devices."""
    laptop, phone = seal(results(*bench_rows())), seal(results(row("student", 44.0), run_id="b"))
    return render(Report(devices=Merged({"Some Processor, 2 cores": laptop, "A phone, 8 cores": phone})))


def other_pages(folder: Path) -> dict[str, str]:
    """Of a training that runs, of a prepared dataset, and for correcting its captions."""
    from genin.distill.loop.page import write_page
    from genin.distill.loop.previews import save_grid

    training = folder / "student" / "training"
    training.mkdir(parents=True)
    (training / "recipe.yaml").write_text("finetune:\n  images: 100\n")
    rows = [{"images_seen": 800 * at, "loss": 1 / at, "kid": 0.5, "kid_error": 0.1} for at in range(1, 4)]
    (training / "finetune.log.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    event = {"update": 7, "says": "the loss jumped", "did": "back to update 0"}
    (training / "finetune.events.jsonl").write_text(json.dumps(event) + "\n")
    for number, captions in ((100, [list(PROMPTS)] * 2), (200, [])):
        path = training / f"finetune.samples-{number:08d}.png"
        save_grid([pictures(), pictures(5)], path, labels=["teacher", "student"], captions=captions)
    write_page(training, running="finetune", progress=0.5)
    given, data = folder / "given", folder / "data"
    given.mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 255, (40, 40, 3), np.uint8)
        Image.fromarray(noise).save(given / f"{number}.png")
        (given / f"{number}.txt").write_text(f"a ninja with {number} swords")
    (given / "again.png").write_bytes((given / "0.png").read_bytes())
    (given / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nxx")
    assert cli.run(["data", "prepare", str(given), "--out", str(data)]) == 0
    assert cli.run(["data", "edit", str(data), "--to", str(folder / "edit.html")]) == 0
    found = {"training": training / "index.html", "data": data / "report.html", "edit": folder / "edit.html"}
    return {name: path.read_text(encoding="utf-8") for name, path in found.items()}

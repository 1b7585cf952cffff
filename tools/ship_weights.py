"""Put trained weights into the packages: the teacher as a half-precision model folder, the students as bundles of ONNX graphs whose
weights are stored in half precision.

    python tools/ship_weights.py --teacher runs/teacher --student runs/student --student-1step runs/student-1step

The recipe is in each folder's `genin.json` (bundle: `manifest.json`); the logs of the runs go to docs/runs/. What tests and
pages hold of the weights is made anew: golden vectors, stored pictures and their hashes, the sample of a manifest in
docs/bundle.md.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

from genin.distill.models.folder import load_model_folder, save_model_folder
from genin.export import ExportOptions, export

ROOT = Path(__file__).resolve().parents[1]
STUDENTS = ROOT / "runtimes" / "weights"
TRAINING = ROOT / "weights" / "genin_training_weights"  # model folders, and what measures against the teacher
STAGED = ROOT / "runtimes" / ".weights.partial"
BUNDLES, FOLDERS = STAGED / "bundles", STAGED / "folders"
LOGS = ROOT / "docs" / "runs"
STORED = ROOT / "tests" / "runtimes" / "shipped"
SAMPLE = ROOT / "docs" / "bundle.md"
LIMIT_BYTES = 60_000_000
SUFFIXES = (".onnx", ".safetensors")
NO_WEIGHTS = "teacher_statistics"


def stage_teacher(path: Path, guidance_scale: float | None) -> None:
    """The model folder under its built-in name, in half precision."""
    model = load_model_folder(path)
    model.info |= {"name": "builtin-teacher"} | ({"guidance_scale": guidance_scale} if guidance_scale else {})
    model.info.pop("parent", None)  # a folder of this machine; `recipe` has what it was made with
    save_model_folder(model, FOLDERS / "teacher", dtype=torch.float16)


def stage_student(path: Path, name: str, title: str) -> None:
    """The bundle, which holds all that a model folder does (`distill.models.restored`)."""
    with tempfile.TemporaryDirectory() as temporary:
        named = Path(temporary) / f"builtin-{name}"
        model = load_model_folder(path)
        model.info |= {"name": named.name, "title": title, "parent": "builtin:teacher"}
        save_model_folder(model, named)
        export(named, BUNDLES / name, ExportOptions(["onnx"], ["fp16"]))


def copy_logs(path: Path, name: str) -> None:
    LOGS.mkdir(parents=True, exist_ok=True)
    for log in sorted((path / "training").glob("*.log.jsonl")):
        shutil.copyfile(log, LOGS / f"{name}-{log.name}")


def remake_tests() -> None:
    """Golden vectors, and the stored pictures with their hashes."""
    run = partial(subprocess.run, check=True, stdout=subprocess.PIPE)
    run([sys.executable, ROOT / "tools" / "golden_vectors.py"])
    with tempfile.TemporaryDirectory() as drawn:
        hashes = run([sys.executable, ROOT / "tools" / "picture_hashes.py", "--save", drawn]).stdout
        (LOGS / "picture-hashes.json").write_bytes(hashes)
        for picture in STORED.iterdir():  # those of one engine stand for all
            shutil.copyfile(Path(drawn) / picture.name, picture)


def remake_sample() -> None:
    """The figures of the sample of the student's manifest, in its own layout."""
    text = SAMPLE.read_text(encoding="utf-8")
    before, _, rest = text.partition("```json\n")
    sample, _, after = rest.partition("```")
    real = json.loads((STUDENTS / "student" / "manifest.json").read_text(encoding="utf-8"))
    for key in ("graphs", "golden"):
        real[key] = [entry for entry in real[key] if entry["component"] == "unet"]
    by_hand = []
    for old, new in differences(json.loads(sample), real):
        token = re.compile(rf"(?<![\w.]){re.escape(old)}(?![\w.])")
        if len(token.findall(sample)) == 1:
            sample = token.sub(new.replace("\\", r"\\"), sample)
        else:
            by_hand.append(f"{old} to {new}")
    SAMPLE.write_text(f"{before}```json\n{sample}```{after}", encoding="utf-8")
    if by_hand:
        raise click.ClickException(f"{SAMPLE}: to be changed by hand: {', '.join(by_hand)}")


def differences(sample: Any, real: Any) -> Iterator[tuple[str, str]]:
    """Values of a sample that are no longer those of the real thing, and these, as JSON; a text may be shortened by an ellipsis."""
    if isinstance(sample, dict):
        for key, value in sample.items():
            yield from differences(value, real[key])
    elif isinstance(sample, list):
        for ours, theirs in zip(sample, real, strict=False):
            yield from differences(ours, theirs)
    elif isinstance(sample, str) and sample.endswith("…"):
        if not str(real).startswith(sample[:-1]):
            yield json.dumps(sample, ensure_ascii=False), json.dumps(f"{real[: len(sample) - 1]}…", ensure_ascii=False)
    elif sample != real:
        yield json.dumps(sample), json.dumps(real)


@click.command()
@click.option("--teacher", type=click.Path(path_type=Path, exists=True))
@click.option("--student", type=click.Path(path_type=Path, exists=True))
@click.option("--student-1step", "one_step", type=click.Path(path_type=Path, exists=True))
@click.option("--guidance-scale", type=float, help="Of the teacher, as tools/results.py has found.  [default: its own]")
def ship(teacher: Path | None, student: Path | None, one_step: Path | None, guidance_scale: float | None) -> None:
    """Replace the shipped weights, when all are made and if they are not beyond 60 MB together."""
    shutil.rmtree(STAGED, ignore_errors=True)
    for folder in (BUNDLES, FOLDERS):
        folder.mkdir(parents=True)
    if teacher:
        stage_teacher(teacher, guidance_scale)
    if student:
        stage_student(student, "student", "genin's ninja student")
    if one_step:
        stage_student(one_step, "student-1step", "genin's one-step ninja student")
    places = {
        made: place / made.name
        for staged, place in ((BUNDLES, STUDENTS), (FOLDERS, TRAINING))
        for made in staged.iterdir()
    }
    kept = [path for folder in (STUDENTS, TRAINING) for path in folder.iterdir() if path not in places.values()]
    files = [file for path in (STAGED, *kept) for file in (path, *path.rglob("*"))]
    total = sum(file.stat().st_size for file in files if file.suffix in SUFFIXES and NO_WEIGHTS not in file.parts)
    click.echo(f"{total / 1e6:.1f} MB of weights")
    if total > LIMIT_BYTES:
        shutil.rmtree(STAGED)
        raise click.ClickException(f"more than {LIMIT_BYTES / 1e6:.0f} MB; what is shipped stays as it was")
    for made, place in places.items():
        old = STAGED / f"{place.name}.old"
        if place.exists():
            place.rename(old)
        made.rename(place)
    shutil.rmtree(STAGED)
    for path, name in ((teacher, "teacher"), (student, "student"), (one_step, "student-1step")):
        if path:
            copy_logs(path, name)
    remake_tests()
    remake_sample()


if __name__ == "__main__":
    ship()

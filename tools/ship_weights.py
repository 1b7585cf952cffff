"""Put trained weights into the packages: the teacher as a half-precision model folder, the students as
bundles of ONNX graphs whose weights are stored in half precision.

    python tools/ship_weights.py --teacher runs/teacher --student runs/student --student-1step runs/student-1step

The recipe is in each folder's `genin.json` (bundle: `manifest.json`); the logs of the runs go to docs/runs/.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import click
import torch

from genin.distill.models.folder import load_model_folder, save_model_folder
from genin.export import ExportOptions, export

ROOT = Path(__file__).resolve().parents[1]
STUDENTS = ROOT / "runtimes" / "weights"
TRAINING = ROOT / "weights" / "genin_training_weights"  # the teacher and what measures against it
STAGED = ROOT / "runtimes" / ".weights.partial"
LOGS = ROOT / "docs" / "runs"
LIMIT_BYTES = 40_000_000


def ship_teacher(path: Path) -> None:
    model = load_model_folder(path)
    model.info["name"] = "builtin-teacher"
    save_model_folder(model, STAGED / "teacher", dtype=torch.float16)


def ship_student(path: Path, name: str, title: str) -> None:
    model = load_model_folder(path)
    model.info |= {"name": f"builtin-{name}", "title": title, "parent": "builtin:teacher"}
    with tempfile.TemporaryDirectory() as folder:
        named = Path(folder) / f"builtin-{name}"
        save_model_folder(model, named)
        export(named, STAGED / name, ExportOptions(["onnx"], ["fp16"]))


def copy_logs(path: Path, name: str) -> None:
    LOGS.mkdir(parents=True, exist_ok=True)
    for log in sorted((path / "training").glob("*.log.jsonl")):
        shutil.copyfile(log, LOGS / f"{name}-{log.name}")


@click.command()
@click.option("--teacher", type=click.Path(path_type=Path, exists=True))
@click.option("--student", type=click.Path(path_type=Path, exists=True))
@click.option("--student-1step", "one_step", type=click.Path(path_type=Path, exists=True))
def ship(teacher: Path | None, student: Path | None, one_step: Path | None) -> None:
    """Replace the shipped weights, when all are made and if they are not beyond 40 MB together."""
    shutil.rmtree(STAGED, ignore_errors=True)
    STAGED.mkdir()
    if teacher:
        ship_teacher(teacher)
        copy_logs(teacher, "teacher")
    if student:
        ship_student(student, "student", "genin's ninja student")
        copy_logs(student, "student")
    if one_step:
        ship_student(one_step, "student-1step", "genin's one-step ninja student")
        copy_logs(one_step, "student-1step")
    made = [path.name for path in STAGED.iterdir()]
    kept = [path for folder in (STUDENTS, TRAINING) for path in folder.iterdir() if path.name not in made]
    files = [file for path in (STAGED, *kept) for file in (path, *path.rglob("*"))]
    total = sum(file.stat().st_size for file in files if file.is_file())
    click.echo(f"{total / 1e6:.1f} MB of weights")
    if total > LIMIT_BYTES:
        raise click.ClickException(f"more than {LIMIT_BYTES / 1e6:.0f} MB; what is shipped stays as it was")
    for name in made:
        place = (TRAINING if name == "teacher" else STUDENTS) / name
        shutil.rmtree(place, ignore_errors=True)
        (STAGED / name).rename(place)
    STAGED.rmdir()


if __name__ == "__main__":
    ship()

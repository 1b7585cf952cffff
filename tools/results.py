"""The tables of docs/results.md, from the shipped weights by one command:

    GENIN_METRIC_WEIGHTS=../shared/data/lpips_squeezenet python tools/results.py --work runs/results

The teacher's guidance scale is chosen first, by `fd_squeezenet` on the validation split. The teacher at 16 guided steps and
fewer, students, the autoencoder alone and other true pictures are evaluated on held-out captions in three families of
features, teacher and students on short captions too, and all are timed on one engine. Whether 16 steps of the teacher are as
good as 100 is measured last, on the validation split. Every finished part is kept in OUT at once with the hashes of its
models, and is not measured again while they are the same: run the command again after an interruption, or when a student has
changed. It takes hours at 128 px, most of them the teacher's pictures, which are kept as they come; their statistics are
what all others are compared with, and those of the first 2,048 become the package's if OUT and the number of pictures are
the usual ones. `--keep` measures nothing and prints what OUT holds; `--pages` writes it into docs/results.md and README.md.

A model cannot be closer to the reference than its autoencoder: beside the ratio of FDs is the ratio of what is above that floor.
The floor's pictures are the reference's own, so it has none of the bias of a finite number of pictures; "other true pictures" shows
how large that is.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
from result_tables import (
    CHOSEN_BY,
    EXACT,
    FAMILIES,
    FEW_STEPS,
    FLOOR,
    GUIDANCE,
    LONG,
    MANY_STEPS,
    OTHER_PICTURES,
    STUDENTS,
    TEACHER,
    TEACHERS,
    Results,
    tables,
    write_pages,
)

from genin.benchmarks.quality.measures import LPIPS_NAME, load_suite
from genin.benchmarks.quality.statistics_file import FILE_NAME, PAIRS_FOLDER, load_statistics, save_statistics
from genin.distill.world import captions, render
from genin.runtimes.names import installed_names
from genin.runtimes.origin import fingerprint

SIZE = 128
PRECISION = "bf16"  # of the teacher's UNet: a third of the time; the same guidance in fp32 is a row of its own
OTHER_SEED = 1  # the reference's scenes have seed 0
GUIDANCE_SCALES = (1.0, 1.5, 2.0, 3.0)
GUIDANCE_SAMPLES = SHORT_SAMPLES = 1024
MODELS = ("builtin:teacher", *dict.fromkeys(name for name, _ in STUDENTS.values()))
STATISTICS = Path(__file__).resolve().parents[1] / "weights" / "genin_training_weights" / "teacher_statistics"
SHIPPED_SAMPLES = 2048  # a student's are drawn in two minutes
SHIPPED_FAMILIES = ("squeezenet", "world")  # EfficientNet's would be 8 MB of the package's 60
OUT = Path("docs/runs/results.json")
SAMPLES = 5000


def genin(*arguments: object) -> Any:
    """One command's JSON."""
    command = [sys.executable, "-m", "genin", *map(str, arguments), "--json"]
    click.echo(" ".join(["genin", *map(str, arguments)]), err=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise click.ClickException(
            f"genin {arguments[0]} ended with exit code {done.returncode}; what is finished is kept"
        )
    return json.loads(done.stdout.splitlines()[-1])


class Part(NamedTuple):
    """What measures a part of the results, and the models that it depends on."""

    measure: Callable[[], Any]
    models: tuple[str, ...] = ("builtin:teacher",)


def parts_of(results: Results, work: Path, samples: int, runtime: str, *, ships: bool) -> dict[str, Part]:
    """The parts by name. The guidance scale comes first, then the teacher's usual steps: all others are compared with their
    statistics, which the package of training weights gets if it `ships` them."""
    statistics = work / "teacher-statistics"
    against = ("--against", statistics)

    def made(name: str, *command: object) -> Path:
        """What a command writes to a folder of `work`, once."""
        if not (work / name).exists():
            genin(*command, "--out", work / name)
        return work / name

    def rendered(name: str, *options: object) -> Path:
        return made(name, "world", "render", "--size", SIZE, *options)

    def bundle() -> Path:
        return made("teacher-bundle", "export", "builtin:teacher", "--format", "onnx", "--precision", "fp16")

    def on_val(scale: float, precision: str = PRECISION, steps: int = FEW_STEPS) -> Any:
        asked = ("--steps", steps, "--split", "val", "--samples", GUIDANCE_SAMPLES, "--guidance-scale", scale)
        kept = ("--save-images", work / f"teacher-val-{steps}-{scale}-{precision}", "--precision", precision)
        return genin("evaluate", "builtin:teacher", "--reference", "builtin:world", *asked, *kept)

    def guidance() -> Any:
        return {str(scale): on_val(scale) for scale in GUIDANCE_SCALES}

    def teacher(steps: int, *options: object, count: int = samples) -> Any:
        same = ("--reference", "builtin:world", "--samples", count, "--guidance-scale", best_guidance(results))
        kept = ("--save-images", work / f"teacher-{steps}")  # an interrupted run goes on from them
        return genin("evaluate", "builtin:teacher", "--steps", steps, *same, *kept, "--precision", PRECISION, *options)

    def usual_steps() -> Any:
        shutil.rmtree(statistics, ignore_errors=True)
        found = teacher(FEW_STEPS, "--save-statistics", statistics)
        if ships:
            fewer = work / "shipped-statistics"
            teacher(FEW_STEPS, "--save-statistics", fewer, count=SHIPPED_SAMPLES)
            ship(fewer)
            shutil.rmtree(fewer)
        return found

    def student(name: str, steps: int) -> Any:
        return genin("evaluate", name, "--steps", steps, "--samples", samples, *against)

    def on_short_captions(model: object, steps: int, *options: object) -> Any:
        short = rendered("short", "--split", "val", "--count", SHORT_SAMPLES, "--captions", "short")
        asked = ("--samples", SHORT_SAMPLES, "--steps", steps)
        return genin("evaluate", model, "--reference", short, *asked, *options)

    def teacher_on_short_captions() -> Any:
        scale = best_guidance(results)
        return on_short_captions("builtin:teacher", FEW_STEPS, "--guidance-scale", scale, "--precision", PRECISION)

    def other_pictures() -> Any:
        other = rendered("other", "--split", "test", "--count", samples, "--captions", "complete", "--seed", OTHER_SEED)
        return genin("evaluate", other, "--reference", "builtin:world", "--samples", samples)

    def speed() -> Any:
        steps = ",".join(str(count) for _, count in STUDENTS.values())
        of_teacher = ",".join(map(str, (MANY_STEPS, *TEACHERS.values())))
        asked = ("--teacher-steps", of_teacher, "--steps", steps, "--runtime", runtime, "--precision", "fp16")
        return genin("bench", bundle(), *MODELS[1:], *asked, "--runs", 30)  # one call, so that all take turns

    parts = {GUIDANCE: Part(guidance), EXACT: Part(lambda: on_val(best_guidance(results), "fp32"))}
    parts[TEACHER] = Part(usual_steps)
    for row, count in TEACHERS.items():
        parts.setdefault(row, Part(partial(teacher, count, *against)))
    for row, (name, count) in STUDENTS.items():
        parts[row] = Part(partial(student, name, count), ("builtin:teacher", name))
        parts[f"short: {row}"] = Part(partial(on_short_captions, name, count), (name,))
    parts[f"short: {TEACHER}"] = Part(teacher_on_short_captions)
    parts[FLOOR] = Part(lambda: genin("evaluate", "builtin:teacher", "--floor", "--samples", samples))
    parts[OTHER_PICTURES] = Part(other_pictures, ())
    parts["bench"] = Part(speed, MODELS)
    return parts | {LONG: Part(lambda: on_val(best_guidance(results), steps=MANY_STEPS))}


def ship(statistics: Path) -> None:
    """Into the package of training weights, in place of those that are there."""
    saved = load_statistics(statistics)
    shutil.rmtree(STATISTICS, ignore_errors=True)
    shutil.copytree(statistics / PAIRS_FOLDER, STATISTICS / PAIRS_FOLDER)
    sets = {family: saved.sets[family] for family in SHIPPED_FAMILIES}
    save_statistics(STATISTICS / FILE_NAME, sets, saved.source, captions=saved.captions)


def without_paths(value: Any) -> Any:
    """A result without the machine's paths; hashes identify the weights."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items() if key not in ("path", "against", "statistics")}
    return [without_paths(item) for item in value] if isinstance(value, list) else value


def metric_weights(classifier: Path | None) -> dict[str, Any]:
    """Provenance of the metrics' networks. Errors: ClickException where one is missing: its figures would be missing for good."""
    suite = load_suite(None, classifier, features=FAMILIES)
    missing = {name: why for name, why in suite.unavailable.items() if name in (*FAMILIES, LPIPS_NAME)}
    if missing or suite.classifier is None:
        why = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        raise click.ClickException(why or "there is no attribute classifier: pip install ./weights")
    return suite.weights()


def measure(out: Path, work: Path, samples: int, runtime: str) -> None:
    names = installed_names()
    hashes = {name: fingerprint(names.model(name)) for name in MODELS}
    classifier = names.classifier()
    world = {
        "drawing": render.VERSION,
        "captions": captions.VERSION,
        "classifier": classifier and fingerprint(classifier),
    }
    teacher = {
        "precision": PRECISION,
        "steps": FEW_STEPS,
        "guidance_scales": GUIDANCE_SCALES,
        "short": SHORT_SAMPLES,
    }
    asked = {
        "samples": samples,
        "runtime": runtime,
        "world": world,
        "metrics": metric_weights(classifier),
        "teacher": teacher,
    }
    asked = json.loads(json.dumps(asked))
    results: Results = json.loads(out.read_text()) if out.is_file() else asked
    for key, value in asked.items():
        if results.get(key) != value:
            raise click.ClickException(f"{out} has figures of another '{key}'; name another --out, or remove it")
    # What was made of another teacher, drawing or number is not taken up.
    work /= hashlib.sha256(json.dumps([asked, hashes["builtin:teacher"]]).encode()).hexdigest()[:12]
    work.mkdir(parents=True, exist_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    ships = (out.resolve(), samples) == (OUT.resolve(), SAMPLES)
    if not (work / "teacher-statistics").exists():  # as in another checkout
        results.pop(TEACHER, None)
    for name, part in parts_of(results, work, samples, runtime, ships=ships).items():
        of = {model: hashes[model] for model in part.models}
        if results.get(name, {}).get("of") != of:
            results[name] = without_paths(part.measure()) | {"of": of}
            partial_file = out.with_name(f"{out.name}.partial")
            partial_file.write_text(json.dumps(results, indent=1) + "\n")
            partial_file.replace(out)


def best_guidance(results: Results) -> float:
    """The scale of the lowest FD on the validation split."""
    scales = {float(scale): row[CHOSEN_BY] for scale, row in results[GUIDANCE].items() if scale != "of"}
    return min(scales, key=scales.__getitem__)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=OUT, show_default=True)
@click.option(
    "--work", type=click.Path(path_type=Path), default=Path("runs/results"), show_default=True, help="Bundle, pictures."
)
@click.option("--samples", default=SAMPLES, show_default=True)
@click.option("--runtime", default="onnxruntime", show_default=True, help="Of all latencies.")
@click.option("--keep", is_flag=True, help="Print the tables of OUT without measuring.")
@click.option("--pages", is_flag=True, help="Write them into docs/results.md and README.md, too.")
def main(out: Path, work: Path, samples: int, runtime: str, keep: bool, pages: bool) -> None:
    if not keep:
        measure(out, work, samples, runtime)
    results = json.loads(out.read_text())
    click.echo(tables(results))
    if pages:
        write_pages(results)


if __name__ == "__main__":
    main()

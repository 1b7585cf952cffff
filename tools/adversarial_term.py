"""Does the adversarial term earn its place? The third phase with and without it, from one student, at an equal budget.

    python tools/adversarial_term.py --teacher runs/teacher --student runs/student --out runs/adversarial --images 12000

`--student` is a distilled student with its `training/` folder: both arms start from the average its second phase ended
with, see the same number of pictures, and differ in `adversarial_weight` alone. Arms are interleaved over the seeds, each
is measured on the same held-out captions, and finished ones are kept in OUT/results.json, so the command can be
interrupted and given again. The answer: mean difference over seeds, its standard error, and their ratio.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import click
import numpy as np

from genin.benchmarks.evaluate import Evaluator
from genin.benchmarks.subjects import Sampling
from genin.distill.distillation import distill
from genin.distill.recipe import Recipe, load_recipe
from genin.distill.sources import open_source
from genin.names import BUILTIN_WORLD, InstalledNames

SCENES = 200_000
FIGURES = ("kid_world", "fd_world", "accuracy")


def run_arm(teacher: Path, student: Path, out: Path, recipe: Recipe) -> None:
    """Phase three from the end of `student`'s second."""
    training = out / "training"
    if not training.is_dir():
        ready = shutil.ignore_patterns("adversarial.*", "*.png", "*.partial")
        shutil.copytree(student / "training", training, ignore=ready, copy_function=_copy)
    distill(teacher, open_source(BUILTIN_WORLD, count=SCENES), out, recipe, resume=True)


def _copy(source: str, target: str) -> None:
    """The pool may have gigabytes, and is never written in place: one file serves all arms."""
    if source.endswith("pool.safetensors"):
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def measure(path: Path, evaluator: Evaluator, steps: int) -> dict[str, Any]:
    result = evaluator.evaluate(path, Sampling(steps=steps, batch_size=64))
    return {**{key: result[key] for key in FIGURES[:2]}, "accuracy": result["attribute_accuracy"]["mean"]}


def verdict(results: dict[str, Any], steps: int, figure: str) -> str:
    """Without minus with, over seeds: positive where the term lowers a distance."""
    seeds = sorted({key.split("/")[1] for key in results if key.startswith("with/")})
    pairs = [(results[f"without/{s}"][str(steps)][figure], results[f"with/{s}"][str(steps)][figure]) for s in seeds]
    without, with_term = np.array(pairs).T
    difference = without - with_term
    error = difference.std(ddof=1) / len(seeds) ** 0.5 if len(seeds) > 1 else float("nan")
    return (
        f"{steps} steps {figure:10} without {without.mean():.4f}, with {with_term.mean():.4f}; "
        f"difference {difference.mean():+.4f} ± {error:.4f} ({difference.mean() / error:+.1f} standard errors)"
    )


@click.command()
@click.option("--teacher", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--student", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--recipe", "recipe_file", type=click.Path(path_type=Path), default=Path("recipes/builtin.yaml"))
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--images", default=12_000, show_default=True, help="Budget of each arm.")
@click.option("--seeds", default=3, show_default=True)
@click.option("--samples", default=2048, show_default=True)
@click.option("--weight", type=float, help="adversarial_weight of the one arm.  [default: the recipe's]")
def main(
    teacher: Path,
    student: Path,
    recipe_file: Path,
    out: Path,
    images: int,
    seeds: int,
    samples: int,
    weight: float | None,
) -> None:
    recipe, names = load_recipe(recipe_file), InstalledNames()
    out.mkdir(parents=True, exist_ok=True)
    record = out / "results.json"
    asked = {
        "images": images,
        "samples": samples,
        "weight": weight,
        "recipe": recipe.as_dict(),
        "student": str(student),
    }
    kept = json.loads(record.read_text()) if record.is_file() else {"asked": asked, "results": {}}
    if kept["asked"] != asked:
        raise click.ClickException(f"{record} holds the answer to another question; name another --out")
    results = kept["results"]
    evaluator = Evaluator(
        names.reference(BUILTIN_WORLD, count=samples, size=64, seed=0),
        samples=samples,
        classifier=names.classifier(),
        features=("world",),
        reference_name=BUILTIN_WORLD,
    )
    weights = {"with": recipe.adversarial.adversarial_weight if weight is None else weight, "without": 0.0}
    for seed in range(seeds):
        for arm, chosen in weights.items():
            key = f"{arm}/{seed}"
            if key in results:
                continue
            settings = dataclasses.replace(recipe.adversarial, images=images, seed=seed, adversarial_weight=chosen)
            folder = out / f"{arm}-{seed}"
            run_arm(teacher, student, folder, dataclasses.replace(recipe, adversarial=settings))
            results[key] = {str(steps): measure(folder, evaluator, steps) for steps in (4, 1)}
            record.write_text(json.dumps(kept, indent=1) + "\n")
            click.echo(f"{key} {json.dumps(results[key])}")
    for steps in (4, 1):
        for figure in FIGURES:
            click.echo(verdict(results, steps, figure))


if __name__ == "__main__":
    main()

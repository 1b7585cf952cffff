"""Which part of the recipe earns its place? The third phase with one thing changed at a time, from one student, at an equal budget.

    python tools/ablation.py --teacher runs/teacher --student runs/student --out runs/ablation --images 9600

`--student` is a distilled student with its `training/` folder: every arm starts from its weights, sees the same pool and the same
number of pictures, and differs from `all` as its line in `ARMS` says. Arms are interleaved over the seeds, each is measured on the
same held-out captions, and its figures are kept in its folder, so the command can be interrupted and run again, or run twice at
once with arms or seeds that do not overlap. It prints a table of all results: mean over seeds ± standard error, and in standard
errors how far an arm is from `all`; OUT/results.json holds its numbers.

Random conditioning belongs to the first phase: its two arms (`--phase prune`) start from the teacher's weights, are pruned and
taught the steps with the same images each.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from question import check_question, write
from world_evaluator import SCENES, world_evaluator

from genin.benchmarks.quality.evaluator import Evaluator
from genin.benchmarks.quality.subjects import Sampling
from genin.distill.inputs.sources import open_source
from genin.distill.loop.run_folder import RunOptions
from genin.distill.recipe import Recipe, load_recipe
from genin.distill.student.distillation import distill
from genin.runtimes.names import BUILTIN_WORLD
from genin.runtimes.origin import fingerprint

FIGURES_FILE = "figures.json"
FIGURES = ("kid_world", "fd_world", "fd_squeezenet", "fd_efficientnet", "accuracy", "diversity")
# The method as it began: pairs, and a discriminator in the teacher's features.
BARE: Mapping[str, Any] = {"perceptual_weight": 0.0, "picture_adversarial_weight": 0.0}
# Arm => what it changes in the recipe's adversarial section; "pool." before a key: in its pool.
ARMS: Mapping[str, Mapping[str, Any]] = {
    "all": {},
    "distillation only": {"adversarial_weight": 0.0, **BARE},
    "distillation + adversarial": BARE,
    "no adversarial": {"adversarial_weight": 0.0, "picture_adversarial_weight": 0.0},
    "no backward distillation": {"backward_distillation": False, "fresh_noise": 0.0},
    "no rollout": {"rollout": False, "backward_distillation": False, "fresh_noise": 0.0},
    "one scale": {"multi_scale": False},
    "LPIPS": {"perceptual_features": "lpips", "perceptual_weight": 1.0},
    "no fresh noise": {"fresh_noise": 0.0},
    "+ alignment": {"alignment_weight": 0.05},
    "+ matching": {"matching_weight": 1.0},
    "+ matching of weight 0.25": {"matching_weight": 0.25},
    "+ decoupled matching": {"matching_weight": 1.0, "matching_decoupled": True},
    "adversarial of weight 0.3": {"adversarial_weight": 0.3},
    "+ consistency": {"consistency_weight": 0.25},
    "+ ADD's distillation": {"distillation_weight": 0.25},
    "half the true side the teacher's": {"real_share": 0.5},
    "true side the teacher's": {"real_share": 0.0},
    "mismatched captions": {"mismatched_captions": 0.25},
    "+ kernel distance": {"kernel_weight": 0.5},
    "pairs to the end": {"regression_final_share": 1.0},
    "+ inverted pairs": {"pool.inverted": 6144},
    "no EfficientNet's discriminator": {"picture_adversarial_weight": 0.0},
    "EfficientNet's discriminator alone": {"adversarial_weight": 0.0},
}
PRUNE_ARMS: Mapping[str, Mapping[str, Any]] = {
    "plain pruning": {},
    "random conditioning": {"random_conditioning": 1.0},
}


SHARED = [
    f"{name}.safetensors" for name in ("pool", "inverted", "latents", "held_out", "held_out_pool", "caption_bank")
]


def run_arm(teacher: Path, student: Path, out: Path, recipe: Recipe, *, from_student: bool) -> None:
    """One arm, with the student's pools and encoded pictures; those are never written in place: one file serves all."""
    training = out / "training"
    training.mkdir(parents=True, exist_ok=True)
    for name in SHARED:
        shared = student / "training" / name
        if shared.is_file() and not (training / name).exists():
            os.link(shared, training / name)
    source = open_source(BUILTIN_WORLD, count=SCENES)
    distill(teacher, source, out, recipe, RunOptions(resume=True), init=student if from_student else None)


def measure(path: Path, evaluator: Evaluator, steps: int) -> dict[str, float]:
    result = evaluator.evaluate(path, Sampling(steps=steps, batch_size=64))
    result["accuracy"] = result["attribute_accuracy"]["mean"]
    return {key: result[key] for key in FIGURES}


def table(results: Mapping[str, Any], arms: list[str], steps: int) -> str:
    """Markdown: means over seeds ± standard errors, and the difference to the first arm, seed by seed, in standard errors."""
    lines = [
        f"| {steps} step{'s' if steps > 1 else ''} | seeds | `kid_world` | from `{arms[0]}` | `fd_world` | `fd_squeezenet` "
        "| `fd_efficientnet` | accuracy | diversity |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for arm in arms:
        found = _of(results, arm, steps)
        if not found:
            continue
        cells = [_with_error([row[figure] for row in found.values()]) for figure in FIGURES]
        away = "–" if arm == arms[0] else _difference(found, _of(results, arms[0], steps))
        lines.append(f"| {arm} | {len(found)} | {cells[0]} | {away} | {' | '.join(cells[1:])} |")
    return "\n".join(lines)


def _of(results: Mapping[str, Any], arm: str, steps: int) -> dict[int, Any]:
    """Seed => figures, of one arm."""
    return {found["seed"]: found["steps"][str(steps)] for found in results.values() if found["arm"] == arm}


def _difference(found: Mapping[int, Any], base: Mapping[int, Any]) -> str:
    values = np.array([found[seed]["kid_world"] - base[seed]["kid_world"] for seed in found if seed in base])
    if len(values) < 2:
        return "".join(f"{value:+.4f}" for value in values) or "–"
    return f"{values.mean():+.4f} ({values.mean() / max(_error(values), 1e-9):+.1f})"


def _with_error(values: list[float]) -> str:
    mean = f"{np.mean(values):.4g}"
    return mean if len(values) < 2 else f"{mean} ± {_error(np.array(values)):.2g}"


def _error(values: Any) -> float:
    return float(values.std(ddof=1) / len(values) ** 0.5)


@click.command()
@click.option("--teacher", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--student", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--recipe", "recipe_file", type=click.Path(path_type=Path), default=Path("recipes/builtin.yaml"))
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--phase", type=click.Choice(["adversarial", "prune"]), default="adversarial", show_default=True)
@click.option("--arm", "chosen", multiple=True, help="Only these.  [default: every arm]")
@click.option("--images", default=9_600, show_default=True, help="Budget of each arm.")
@click.option("--seed", "seeds", type=int, multiple=True, default=(0, 1, 2), show_default=True)
@click.option("--samples", default=2048, show_default=True)
def main(
    teacher: Path,
    student: Path,
    recipe_file: Path,
    out: Path,
    phase: str,
    chosen: tuple[str, ...],
    images: int,
    seeds: tuple[int, ...],
    samples: int,
) -> None:
    recipe = load_recipe(recipe_file)
    every = ARMS if phase == "adversarial" else PRUNE_ARMS
    if unknown := [arm for arm in chosen if arm not in every]:
        raise click.ClickException(f"no such arm: {', '.join(unknown)}; there are: {', '.join(every)}")
    arms = [arm for arm in every if not chosen or arm in chosen]
    out.mkdir(parents=True, exist_ok=True)
    asked = {"phase": phase, "images": images, "samples": samples, "recipe": recipe.as_dict()}
    asked |= {"teacher": fingerprint(teacher), "student": fingerprint(student)}
    check_question(out / "question.json", asked)
    evaluator = world_evaluator(samples, ("world", "squeezenet", "efficientnet"))
    for seed in seeds:
        for arm in arms:
            folder = out / f"{arm.replace(' ', '-')}-{seed}"
            if (folder / FIGURES_FILE).is_file():
                check_question(folder / FIGURES_FILE, {"changes": every[arm]})
                continue
            asked_of_arm = of_arm(recipe, phase, every[arm], images, seed)
            run_arm(teacher, student, folder, asked_of_arm, from_student=phase == "adversarial")
            figures = {str(n): measure(folder, evaluator, n) for n in (4, 1)}
            found = {"arm": arm, "changes": every[arm], "seed": seed, "steps": figures}
            write(folder / FIGURES_FILE, found)
            click.echo(json.dumps(found))
    results = {path.parent.name: json.loads(path.read_text()) for path in sorted(out.glob(f"*/{FIGURES_FILE}"))}
    write(out / "results.json", {"asked": asked, "results": results})
    for steps in (4, 1):
        click.echo(table(results, list(every), steps) + "\n")


def of_arm(recipe: Recipe, phase: str, changes: Mapping[str, Any], images: int, seed: int) -> Recipe:
    """The recipe of one arm: one phase (pruning and steps, for pruning) of `images`, the others left out."""
    none = {"images": 0}
    decoder = replace(recipe.decoder, **none)
    if phase == "prune":
        prune = replace(recipe.prune, images=images, seed=seed, **changes)
        steps = replace(recipe.steps, images=images, seed=seed, held_out_images=0)
        return replace(
            recipe, prune=prune, steps=steps, adversarial=replace(recipe.adversarial, **none), decoder=decoder
        )
    of_pool = {key.removeprefix("pool."): value for key, value in changes.items() if key.startswith("pool.")}
    own = {key: value for key, value in changes.items() if not key.startswith("pool.")}
    recipe = replace(recipe, pool=replace(recipe.pool, **of_pool))
    adversarial = replace(recipe.adversarial, images=images, seed=seed, held_out_images=0, **own)
    steps = replace(recipe.steps, **none)
    return replace(recipe, prune=replace(recipe.prune, **none), steps=steps, adversarial=adversarial, decoder=decoder)


if __name__ == "__main__":
    main()

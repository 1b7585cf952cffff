"""FD over training time: every average that a run has kept (`keep_averages`), measured alike.

    python tools/training_curve.py --student runs/student --out docs/runs/student-curve.json --plot docs/images/student-curve.png

One row per average: images seen, minutes of training at the median rate, `fd_world` and `fd_squeezenet` on held-out captions at
the most steps and the fewest that it was trained for, beside the teacher's. Finished rows are kept, so the command can be repeated
while the run continues. All are decoded by the teacher's decoder: the curve is the UNet's.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import click
from question import check_question
from result_tables import TEACHER
from world_evaluator import world_evaluator

from genin.benchmarks.quality.evaluator import Evaluator
from genin.benchmarks.quality.subjects import Sampling
from genin.distill.inputs.sources import open_source
from genin.distill.loop.checkpoints import read_rows
from genin.distill.models.folder import load_model_folder, save_model_folder
from genin.distill.models.pruning import build_student
from genin.distill.models.student_config import pruning_of
from genin.distill.recipe import load_recipe
from genin.distill.student.provenance import Provenance, trained_step_counts
from genin.runtimes.names import BUILTIN_WORLD
from genin.runtimes.origin import fingerprint

FEATURES = ("world", "squeezenet")


def measure(
    average: Path, teacher: Path, student: Path, work: Path, evaluator: Evaluator, steps: int
) -> dict[str, float]:
    """One average as a model folder, evaluated."""
    from safetensors.torch import load_file

    model, recipe = load_model_folder(teacher), load_recipe(student / "training" / "recipe.yaml")
    unet, _ = build_student(model.unet, pruning_of(recipe.student))
    unet.load_state_dict({name: value.float() for name, value in load_file(average).items()})
    source = open_source(BUILTIN_WORLD, count=1)
    provenance = Provenance(model, source, recipe)
    save_model_folder(provenance.model_folder(unet, model.vae, work, 0), work)
    result = evaluator.evaluate(work, Sampling(steps=steps, batch_size=64))
    return {f"fd_{name}": result[f"fd_{name}"] for name in FEATURES}


def plot(rows: list[dict[str, Any]], teacher: dict[str, float], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    counts = sorted({key for row in rows for key in row if key.isdigit()}, key=int, reverse=True)
    for pane, name in zip(panes, FEATURES, strict=True):
        for steps, colour in zip(counts, ("#d1495b", "#00798c", "#edae49"), strict=False):
            shown = [row for row in rows if steps in row]
            minutes = [row["minutes"] for row in shown]
            label = f"student, {steps} step{'s' if steps != '1' else ''}"
            pane.plot(
                minutes, [row[steps][f"fd_{name}"] for row in shown], "o-", color=colour, label=label, markersize=3.5
            )
        pane.axhline(teacher[f"fd_{name}"], color="#444", linestyle="--", linewidth=1, label=TEACHER)
        pane.set(title=f"fd_{name}", xlabel="minutes of training", ylim=(0.9 * teacher[f"fd_{name}"], None))
        pane.spines[["top", "right"]].set_visible(False)
        pane.grid(alpha=0.25)
        images = pane.secondary_xaxis("top", functions=_scale(rows))
        images.set_xlabel("thousand images")
    figure.legend(*panes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _scale(rows: list[dict[str, Any]]) -> tuple[Any, Any]:
    rate = max(rows[-1]["images_seen"], 1) / 1000 / max(rows[-1]["minutes"], 1e-3)
    return (lambda minutes: minutes * rate), (lambda images: images / rate)


def figures_of_teacher(samples: int) -> dict[str, Any]:
    """The teacher's row of docs/results.md. FDs compare at equal numbers of pictures only."""
    file = Path("docs/runs/results.json")
    found: dict[str, Any] = json.loads(file.read_text()).get(TEACHER, {}) if file.is_file() else {}
    if found.get("samples") != samples:
        what = f"{file} has no teacher of {samples} pictures, which the curve is compared with"
        raise click.ClickException(f"{what}; run tools/results.py --samples {samples}, or leave out --plot")
    return found


@click.command()
@click.option("--student", type=click.Path(path_type=Path, exists=True), required=True)
@click.option(
    "--teacher", type=click.Path(path_type=Path, exists=True), default=Path("weights/genin_training_weights/teacher")
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON of the curve.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="PNG of it.")
@click.option("--samples", default=5000, show_default=True)
@click.option("--every", default=1, show_default=True, help="Measure every n-th average.")
def main(student: Path, teacher: Path, out: Path, picture: Path | None, samples: int, every: int) -> None:
    teacher_figures = figures_of_teacher(samples) if picture is not None else {}
    # Minutes at the median rate: a run on a shared machine stalls now and then.
    rate = statistics.median(r["images_per_s"] for r in read_rows(student / "training" / "adversarial.log.jsonl"))
    evaluator = world_evaluator(samples, FEATURES)
    recipe = load_recipe(student / "training" / "recipe.yaml")
    asked = {"samples": samples, "teacher": fingerprint(teacher), "recipe": recipe.as_dict()}
    check_question(out, asked if out.is_file() else asked | {"rows": []})
    kept: dict[str, Any] = json.loads(out.read_text())
    known = {row["images_seen"] for row in kept["rows"]}
    averages = sorted((student / "training").glob("adversarial.average-*.safetensors"))
    counts = trained_step_counts(recipe)
    for average in [*averages[::-every]][::-1]:
        images = int(average.stem.rpartition("-")[2])
        if images in known:
            continue
        minutes = images / rate / 60
        row: dict[str, Any] = {"images_seen": images, "minutes": round(minutes, 2)}
        for steps in dict.fromkeys((counts[0], counts[-1])):
            with tempfile.TemporaryDirectory() as work:
                row[str(steps)] = measure(average, teacher, student, Path(work) / "student", evaluator, steps)
        kept["rows"] = sorted([*kept["rows"], row], key=lambda found: found["images_seen"])
        out.write_text(json.dumps(kept, indent=1) + "\n")
        click.echo(json.dumps(row))
    if picture is not None:
        plot(kept["rows"], teacher_figures, picture)


if __name__ == "__main__":
    main()

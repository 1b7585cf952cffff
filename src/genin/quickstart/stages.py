"""The stages of `genin quickstart`: each calls one part of genin and returns what is worth keeping, ready for JSON.

A stage gets the run (where, with which teacher, for how long) and the results of the stages before it. Everything large is in the
run's folder: the student (a model folder), its bundle, the pictures.

Not here: the order, the record on disk, the display and the command (`commands`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from genin.files import atomic_path
from genin.names import InstalledNames
from genin.runtimes.errors import InputError
from genin.runtimes.names import BUILTIN_WORLD
from genin.runtimes.vocabulary import FORMATS
from genin.runtimes.wording import counted, quoted

if TYPE_CHECKING:
    from genin.benchmarks.grids import Grid
    from genin.benchmarks.quality.evaluator import Evaluator
    from genin.distill.inputs.sources import Source
    from genin.distill.recipe import Recipe
    from genin.distill.recipe_optimisation import Precision

Result = dict[str, Any]
Done = Mapping[str, Result]

TEACHER, STUDENT, SHIPPED = "teacher", "your student", "shipped student"
SHIPPED_NAME: Final = "builtin:student"
STEPS: Final = (4, 1)
TEACHER_STEPS: Final = 100  # of the speed-ups
QUALITY_STEPS: Final = 16  # for hundreds of pictures; at 64 px they were as good as 100 (docs/log.md)
PRECISIONS = ("fp16", "int8")  # fp32 would take half as long again, for graphs that nobody ships
TEACHER_FORMATS, TEACHER_PRECISIONS = ("onnx", "openvino"), ("fp16",)
BETTER_BY: Final = 0.3  # share of the untrained network's fd_world that a student must lose
FD_SAMPLES: Final = 256  # enough for 192 features; too few for a figure to quote
BENCH_RUNS, BENCH_PROCESSES, BENCH_WARMUP, BENCH_MAX_S = 6, 1, 1, 8.0
GRID_SEED: Final = 1000  # of the pictures before and after training


@dataclass(frozen=True)
class Run:
    """One quickstart: its folder, and what was asked for."""

    out: Path
    teacher: str
    student: str
    minutes: float
    mixed_precision: Precision
    names: InstalledNames

    @property
    def teacher_path(self) -> Path:
        return self.names.model(self.teacher)

    @property
    def student_path(self) -> Path:
        return self.out / "student"

    @property
    def untrained_path(self) -> Path:
        """The teacher's blocks that are kept, before any training: what the student must leave behind."""
        return self.out / "student-untrained"

    @property
    def bundle_path(self) -> Path:
        return self.out / "student-bundle"

    @property
    def teacher_bundle_path(self) -> Path:
        """The teacher for the student's engines: a speed-up is only fair where both run on the same one."""
        return self.out / "teacher-bundle"

    @property
    def page_path(self) -> Path:
        return self.out / "index.html"

    def reference(self, count: int, size: int) -> Path:
        """Held-out captions and pictures of the built-in world."""
        return self.names.reference(BUILTIN_WORLD, count=count, size=size, seed=0)


@dataclass(frozen=True)
class Stage:
    """`summary` puts the result in a few words, for the line that says it is done."""

    name: str
    title: str
    run: Callable[[Run, Done], Result]
    summary: Callable[[Result], str]


# --- teacher ---------------------------------------------------------------------------------------------------------


def load_teacher(run: Run, done: Done) -> Result:
    """Facts about the teacher, and one picture, which shows that it runs here."""
    from genin.benchmarks.model_facts import read_facts
    from genin.runtimes.loading import load_pipeline

    facts = read_facts(run.teacher_path)
    with load_pipeline(run.teacher_path) as pipeline:
        pipeline.generate("a ninja", steps=1)
    size_bytes = sum(size for size in facts.component_bytes("pytorch", "fp32").values() if size)
    return {"parameters": facts.parameters, "macs": facts.macs, "image_size": facts.image_size, "bytes": size_bytes}


# --- student ---------------------------------------------------------------------------------------------------------


def distil_student(run: Run, done: Done) -> Result:
    """The student's model folder, and the untrained network it starts from."""
    from genin.benchmarks.model_facts import read_facts
    from genin.distill.inputs.sources import open_source
    from genin.distill.loop.run_folder import RunOptions
    from genin.distill.student.distillation import distill

    recipe = quick_recipe(run.student, run.mixed_precision)
    source = open_source(BUILTIN_WORLD)
    if not (run.untrained_path / "model_index.json").is_file():
        save_untrained(run, recipe, source)
    resume = (run.student_path / "training").is_dir()
    options = RunOptions(resume, run.minutes)
    distilled = distill(run.teacher_path, source, run.student_path, recipe, options)
    facts = read_facts(run.student_path)
    size_bytes = sum(size for size in facts.component_bytes("pytorch", "fp32").values() if size)
    return {
        "images_seen": distilled.images_seen,
        "parameters": facts.parameters,
        "macs": facts.macs,
        "bytes": size_bytes,
    }


def quick_recipe(student: str, mixed_precision: Precision) -> Recipe:
    """For a few hundred updates: small batches, warmed up within ten of them, averages that forget the beginning, and no validation
    on held-out pictures. A student that keeps all blocks knows its teacher's pictures from the start, and needs no first phase."""
    from genin.distill.recipe import AdversarialRecipe, PoolRecipe, PruneRecipe, Recipe, StepsRecipe, StudentRecipe

    short: dict[str, Any] = {
        "mixed_precision": mixed_precision,
        "optimizer": "muon",
        "batch_size": 16,
        "lr_warmup_images": 160,
        "ema_decays": (0.98,),
    }
    return Recipe(
        student=StudentRecipe(name=student),
        pool=PoolRecipe(teacher_steps=8, batch_size=32),
        prune=PruneRecipe(images=0) if student == "full" else PruneRecipe(**short, lr=0.0008),
        steps=StepsRecipe(**short, lr=0.0003, held_out_images=0),
        adversarial=AdversarialRecipe(**short, lr=0.0001, held_out_images=0, cache_images=1_000),
    )


def save_untrained(run: Run, recipe: Recipe, source: Source) -> None:
    """Write the network that training starts from as a model folder."""
    import torch

    from genin.distill.models.folder import load_model_folder, save_model_folder
    from genin.distill.models.pruning import build_student
    from genin.distill.models.student_config import pruning_of
    from genin.distill.student.provenance import Provenance

    teacher = load_model_folder(run.teacher_path)
    torch.manual_seed(recipe.pool.seed)
    unet, _ = build_student(teacher.unet, pruning_of(recipe.student))
    provenance = Provenance(teacher, source, recipe)
    save_model_folder(provenance.model_folder(unet, teacher.vae, run.untrained_path, 0), run.untrained_path)


def measure_improvement(run: Run, done: Done) -> Result:
    """fd_world of the student and of its untrained self on held-out captions, and pictures of both: at the fewest steps, where a
    teacher is at a loss. With four, one whose captions say all that is seen may draw as well before any training."""
    from genin.benchmarks.prompts import DEFAULT_PROMPTS
    from genin.benchmarks.quality.evaluator import Evaluator
    from genin.benchmarks.quality.measures import load_suite
    from genin.benchmarks.quality.subjects import Sampling
    from genin.benchmarks.report.compare import SheetModel, draw_grid

    suite = load_suite(None, run.names.classifier(), features=("world",))
    reference = run.reference(FD_SAMPLES, done["teacher"]["image_size"])
    evaluator = Evaluator(reference, suite, reference_name=BUILTIN_WORLD)
    sampling = Sampling(steps=STEPS[-1])
    before, after = (evaluator.evaluate(path, sampling) for path in (run.untrained_path, run.student_path))
    stages = {"before training": run.untrained_path, "after training": run.student_path}
    models = [SheetModel(label, path, sampling) for label, path in stages.items()]
    save_grids(run.out / "training.npz", [draw_grid(models, DEFAULT_PROMPTS, GRID_SEED)])
    first, last = before["fd_world"], after["fd_world"]
    share = None if first is None or last is None else 1 - last / first
    return {
        "fd_world_before": first,
        "fd_world": last,
        "fd_world_interval": after["intervals"].get("fd_world"),
        "samples": after["samples"],
        "steps": sampling.steps,
        "better_by": share,
        "better_enough": share is not None and share >= BETTER_BY,
        "notes": {key: reason for key, reason in after["notes"].items() if key == "fd_world"},
    }


# --- bundle ----------------------------------------------------------------------------------------------------------


def export_student(run: Run, done: Done) -> Result:
    """The bundle, in every format that can be made here; the others with the reason. And the teacher's, as far as the speed-up
    needs it."""
    import shutil

    from genin.export.exporter import ExportOptions, export, usable_formats

    for path in (run.bundle_path, run.teacher_bundle_path):
        if path.exists():  # exported, but interrupted before it was recorded
            shutil.rmtree(path)
    exported = export(run.student_path, run.bundle_path, ExportOptions(FORMATS, PRECISIONS))
    engines, _ = usable_formats(TEACHER_FORMATS)
    if engines:
        options = ExportOptions(engines, TEACHER_PRECISIONS)
        export(run.teacher_path, run.teacher_bundle_path, options)
    graphs = exported.manifest.graphs
    sizes: dict[str, int] = {}
    for graph in graphs:
        kind = f"{graph.format}/{graph.precision}"
        sizes[kind] = sizes.get(kind, 0) + sum(file.size_bytes for file in graph.files)
    measured = [graph.parity.psnr_db for graph in graphs if graph.parity]
    return {
        "graphs": len(graphs),
        "sizes": sizes,
        "lowest_psnr_db": min(measured, default=None),
        "skipped": dict(exported.skipped),
    }


# --- figures ---------------------------------------------------------------------------------------------------------


def measure_quality(run: Run, done: Done) -> Result:
    """FD, and LPIPS to the teacher, of the student at four steps and one, and of the shipped student."""
    from genin.benchmarks.quality.evaluator import Against
    from genin.benchmarks.quality.subjects import Sampling

    statistics = teacher_statistics(run)
    evaluator = quality_evaluator(run, statistics, done["teacher"]["image_size"])
    against = None if statistics is None else Against(statistics)
    contenders = [(STUDENT, run.bundle_path, steps) for steps in STEPS]
    if shipped := shipped_student(run):
        contenders += [(SHIPPED, shipped, STEPS[0])]
    found = []
    for label, path, steps in contenders:
        result = evaluator.evaluate(path, Sampling(steps=steps), against=against)
        if statistics is None:
            result["fd_ratio"] = None
            bundle, teacher = (quoted(model) for model in (run.bundle_path, run.teacher))
            command = f"genin evaluate {bundle} --steps {steps} --reference {BUILTIN_WORLD}"
            result["notes"]["fd_ratio"] = (
                f"{QUALITY_STEPS} steps of this teacher for hundreds of pictures take too long here; "
                f"{command} --against {teacher} --against-steps {QUALITY_STEPS}"
            )
        found.append({**result, "model": label})
    return {"evaluations": found, "samples": evaluator.samples}


def teacher_statistics(run: Run) -> Path | None:
    """The shipped statistics of the teacher's pictures, if they are this teacher's."""
    from genin.benchmarks.quality.statistics_file import load_statistics

    path = run.names.teacher_statistics()
    return path if path is not None and load_statistics(path).is_of(run.teacher_path) else None


def quality_evaluator(run: Run, statistics: Path | None, size: int) -> Evaluator:
    """As many pictures as the teacher's statistics have: FD compares at equal numbers only. The world's own features:
    SqueezeNet's, at 224 px, would take longer for thousands of pictures than the distillation."""
    from genin.benchmarks.quality.evaluator import Evaluator
    from genin.benchmarks.quality.measures import load_suite
    from genin.benchmarks.quality.statistics_file import load_statistics

    source = {} if statistics is None else load_statistics(statistics).source
    samples = int(source.get("samples", FD_SAMPLES))
    suite = load_suite(None, run.names.classifier(), features=("world",))
    seed = int(source.get("seed", 0))
    return Evaluator(run.reference(samples, size), suite, samples=samples, seed=seed, reference_name=BUILTIN_WORLD)


def shipped_student(run: Run) -> Path | None:
    """The shipped student's bundle, where this installation has one that draws pictures of the teacher's size."""
    from genin.benchmarks.model_facts import read_facts

    try:
        path = run.names.model(SHIPPED_NAME)
    except InputError:
        return None
    return path if read_facts(path).image_size == read_facts(run.teacher_path).image_size else None


def bench_all(run: Run, done: Done) -> Result:
    """Latency, memory and size of teacher, student (PyTorch and every exported form) and shipped student."""
    from genin.benchmarks.contenders import Contender
    from genin.benchmarks.speed.bench import measure_models
    from genin.benchmarks.speed.configurations import Choices
    from genin.benchmarks.speed.protocol import Protocol

    models = [
        Contender(TEACHER, run.teacher_path),
        Contender(STUDENT, run.student_path),
        Contender(STUDENT, run.bundle_path),
    ]
    if run.teacher_bundle_path.is_dir():
        models.insert(1, Contender(TEACHER, run.teacher_bundle_path))
    if shipped := shipped_student(run):
        models.append(Contender(SHIPPED, shipped))
    results, grids = measure_models(
        models,
        choices=Choices(steps=STEPS, teacher_steps=(TEACHER_STEPS,)),
        protocol=Protocol(runs=BENCH_RUNS, processes=BENCH_PROCESSES, warmup=BENCH_WARMUP, max_s=BENCH_MAX_S),
    )
    save_grids(run.out / "pictures.npz", grids)
    return results


# --- page ------------------------------------------------------------------------------------------------------------


def write_page(run: Run, done: Done) -> Result:
    """The page, from what is there so far."""
    from genin.benchmarks.report.report import Report, write_report

    grids = [grid for name in ("pictures", "training") for grid in load_grids(run.out / f"{name}.npz")]
    evaluations = done.get("quality", {}).get("evaluations", [])
    write_report(Report(done.get("bench"), grids, evaluations, lead=lead(done)), run.page_path)
    return {"page": str(run.page_path)}


def lead(done: Done) -> str | None:
    """What the training did, in a sentence."""
    found = done.get("improvement")
    if not found or found["better_by"] is None:
        return None
    change = f"{abs(found['better_by']):.0%} {'below' if found['better_by'] >= 0 else 'above'}"
    return (
        f"This student was distilled here from {done['distil']['images_seen']:,} training samples. Its distance to real "
        f"pictures (fd_world, {found['samples']} pictures of {counted(found['steps'], 'step')}) is now {change} that of the "
        "network it started from."
    )


def save_grids(path: Path, grids: Sequence[Grid]) -> None:
    """Keep grids in one npz file, so that the page can be written again."""
    import numpy as np

    texts = [
        {
            "title": grid.title,
            "captions": grid.captions,
            "rows": [(row.label, row.detail, row.name, row.against) for row in grid.rows],
            "folded": grid.folded,
        }
        for grid in grids
    ]
    pictures = {f"{i}/{j}": row.pictures for i, grid in enumerate(grids) for j, row in enumerate(grid.rows)}
    with atomic_path(path) as partial, partial.open("wb") as file:
        np.savez(file, texts=np.array(json.dumps(texts)), **pictures)  # type: ignore[arg-type]


def load_grids(path: Path) -> list[Grid]:
    """The grids of a file, or an empty result where there is no file yet."""
    import numpy as np

    from genin.benchmarks.grids import Grid, GridRow

    if not path.is_file():
        return []
    with np.load(path, allow_pickle=False) as file:
        texts = json.loads(str(file["texts"]))
        return [
            Grid(
                text["title"],
                tuple(text["captions"]),
                tuple(
                    GridRow(label, detail, file[f"{i}/{j}"], *names)  # files of earlier versions have no names
                    for j, (label, detail, *names) in enumerate(text["rows"])
                ),
                text["folded"],
            )
            for i, text in enumerate(texts)
        ]

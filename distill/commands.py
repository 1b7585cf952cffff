"""`genin teacher train`, `genin teacher finetune`, `genin teacher merge` and `genin distill`.

Each writes a model folder; its training state (checkpoints, logs, curves, pictures) is in `OUT/training/`.

Not here: the training itself (`teacher.train`, `distillation`), and datasets (`data.commands`).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genin.processes import is_main_process, wait_for_all
from genin.runtimes.errors import InputError
from genin.runtimes.folder import read_config, read_model_index, square_latent_size
from genin.runtimes.names import BUILTIN_WORLD, installed_names
from genin.runtimes.options import needs_pytorch, threads_option
from genin.runtimes.wording import quoted

if TYPE_CHECKING:
    from genin.distill.loop.run_folder import RunOptions
    from genin.distill.models.student_config import Pruning
    from genin.distill.recipe import Recipe

FILE = click.Path(path_type=Path)
# Scenes of the (endless) built-in world that a training uses.


class Minutes(click.FloatRange):
    """More than 0, and finite: click's own range lets `nan` and `inf` through."""

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        minutes = float(super().convert(value, param, ctx))
        if not math.isfinite(minutes):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return minutes


@dataclass(frozen=True)
class TrainingOptions:
    """The command-line options that all trainings have."""

    out: Path | None
    recipe_file: Path | None
    changes: tuple[str, ...]
    resume: bool
    minutes: float | None
    as_json: bool
    began: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def run(self) -> RunOptions:
        from genin.distill.loop.run_folder import RunOptions

        return RunOptions(self.resume, self.minutes, self.began)

    def recipe(self) -> Recipe:
        from genin.distill.recipe import load_recipe

        return load_recipe(self.recipe_file, self.changes)


def training_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that all three commands share; they arrive as one argument, `options`."""

    @functools.wraps(command)
    def with_options(*arguments: Any, **values: Any) -> Any:
        shared = {one.name: values.pop(one.name) for one in dataclasses.fields(TrainingOptions) if one.name in values}
        return command(*arguments, options=TrainingOptions(**shared), **values)

    decorated: Callable[..., Any] = with_options
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line."),
        threads_option,
        click.option("--minutes", type=Minutes(), help="Time budget of the whole command."),
        click.option("--resume", is_flag=True, help="Resume the last run in OUT."),
        click.option(
            "--set", "changes", metavar="SECTION.KEY=VALUE", multiple=True, help="A setting of the recipe. Repeatable."
        ),
        click.option("--recipe", "recipe_file", type=FILE, help="YAML recipe; missing keys take the defaults."),
        click.option("--out", type=FILE, help="Model folder to write."),
    ):
        decorated = option(decorated)
    return decorated


@click.command("train", epilog="Example: genin teacher train --data builtin:world --out teacher --minutes 60")
@click.option("--data", required=True, help="Dataset folder, or builtin:world.")
@click.option("--init", help="Start from this teacher's weights, and keep its text encoder (folder or built-in name).")
@training_options
@needs_pytorch
def teacher_train_command(
    data: str,
    init: str | None,
    options: TrainingOptions,
) -> None:
    """Train a teacher from nothing: autoencoder, text encoder, UNet.

    --init starts from an earlier teacher instead, which may have another shape: fewer latent channels, fewer blocks, narrower
    levels.
    """
    recipe, started = options.recipe(), time.perf_counter()
    with _output(options.out, options.resume) as target:
        start = None if init is None else installed_names().folder(init)
        source = _source(data)
        from genin.distill.teacher.train import train_teacher  # imports PyTorch: what can be refused is, by now

        trained = train_teacher(source, target, recipe, options.run, init=start)
    seen = trained.info["images_seen"]
    _report(
        {"out": str(target), "images_seen": seen, "seconds": round(time.perf_counter() - started, 1)}, options.as_json
    )
    if not options.as_json:
        sheet = f"genin compare {quoted(target)}{_captions_of(data)} --out sheet.png"
        _say_next(seen, recipe.teacher.images, None, sheet)


@click.command(
    "finetune", epilog="Example: genin teacher finetune --data my-dataset --base builtin:teacher --out tuned"
)
@click.option("--data", required=True, help="Dataset folder, or builtin:world.")
@click.option("--base", default="builtin:teacher", show_default=True, help="Model folder, hub name or built-in name.")
@click.option(
    "--lora", "lora_rank", type=click.IntRange(1, 256), help="Tune low-rank adapters of this rank, then merge."
)
@click.option(
    "--load-lora", "loras", multiple=True, help="LoRA to merge into the base first: FILE or FOLDER, :SCALE. Repeatable."
)
@click.option("--prompts", type=FILE, help="Text file of the prompts that the grids of samples show, one per line.")
@training_options
@needs_pytorch
def teacher_finetune_command(
    data: str,
    base: str,
    lora_rank: int | None,
    loras: tuple[str, ...],
    prompts: Path | None,
    options: TrainingOptions,
) -> None:
    """Tune an existing teacher on your pictures: the whole UNet, or low-rank adapters that are merged into it.

    The base is the built-in teacher or any model of the Stable Diffusion 1.x or 2.x family. Adapters are also written to
    OUT/pytorch_lora_weights.safetensors, for other programs that read LoRAs.
    """
    from genin.benchmarks.prompts import read_prompts

    recipe, started = options.recipe(), time.perf_counter()
    if prompts is not None:
        shown = dataclasses.replace(recipe.finetune, validation_prompts=tuple(read_prompts(prompts)))
        recipe = dataclasses.replace(recipe, finetune=shown)
    with _output(options.out, options.resume) as target:
        path, source = installed_names().folder(base), _source(data)
        from genin.distill.models.lora import lora_of
        from genin.distill.teacher.finetune import Base, finetune_teacher

        tuned = Base(path, [lora_of(lora) for lora in loras])
        result = finetune_teacher(tuned, source, target, recipe, options.run, lora_rank=lora_rank)
    seen, seconds = result.info["images_seen"], time.perf_counter() - started
    facts = {"out": str(target), "base": base, "images_seen": seen}
    _report({**facts, "seconds": round(seconds, 1)}, options.as_json)
    if not options.as_json:
        sheet = f"genin compare {quoted(base)} {quoted(target)}{_captions_of(data)} --out sheet.png"
        student = f"genin distill --teacher {quoted(target)} --data {quoted(data)} --out STUDENT"
        took = None if options.resume else seconds
        _say_next(seen, recipe.finetune.images, _pictures(source), sheet, student, seconds=took)


@click.command("merge", epilog="Example: genin teacher merge my-model --lora style.safetensors:0.8 --out styled")
@click.argument("base")
@click.option("--lora", "loras", multiple=True, required=True, help="FILE or FOLDER, :SCALE. Repeatable.")
@click.option("--out", type=FILE, help="Model folder to write.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
@needs_pytorch
def teacher_merge_command(base: str, loras: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """Merge LoRAs into the teacher BASE (folder, hub name or built-in name): diffusers' and kohya's .safetensors."""
    from genin.distill.models.lora import lora_of
    from genin.distill.teacher.finetune import Base, merge_teacher

    chosen = [lora_of(lora) for lora in loras]
    with _output(out, resume=False) as target:
        merge_teacher(Base(installed_names().folder(base), chosen), target)
    _report({"out": str(target), "base": base, "merged": ", ".join(map(str, chosen))}, as_json)


@click.command("distill", epilog="Example: genin distill --data builtin:world --student bk-small-narrow --out student")
@click.option(
    "--teacher", default="builtin:teacher", show_default=True, help="Model folder, hub name or built-in name."
)
@click.option("--data", help="Dataset folder, or builtin:world.")
@click.option(
    "--student", "student_name", help="Which blocks are kept: a preset (bk-base, bk-small, bk-small-narrow, …)."
)
@click.option("--init", help="Start from this student (a model folder of the same preset); it is not pruned again.")
@click.option(
    "--dry-run", is_flag=True, help="Only estimate parameters, multiply-adds, memory and operations of each phase."
)
@training_options
@needs_pytorch
def distill_command(
    teacher: str,
    data: str | None,
    student_name: str | None,
    init: str | None,
    dry_run: bool,
    options: TrainingOptions,
) -> None:
    """Distil a teacher into a compact student of one to four steps.

    Prunes the teacher's UNet, then trains it in three phases (pruning, few steps, adversarial) and, where the recipe says so, a
    tiny decoder in a fourth. Loss curves and sample grids are written to OUT/training while it runs.
    """
    from genin.distill.models.student_config import pruning_of
    from genin.distill.recipe import StudentRecipe

    recipe = options.recipe()
    if student_name is not None:
        recipe = dataclasses.replace(recipe, student=StudentRecipe(name=student_name))
    pruning = pruning_of(recipe.student)
    path = installed_names().folder(teacher)
    if dry_run:
        if init is not None:
            raise InputError("--dry-run estimates a preset; --init has no effect on it", remedy="leave one of them out")
        facts: dict[str, Any] = {"student": str(recipe.student), "recipe": str(options.recipe_file or "the defaults")}
        _report_cost({**facts, **_student_cost(path, pruning, recipe)}, recipe, options.as_json)
        return
    if data is None:
        raise InputError("--data is missing", remedy="give a dataset folder or builtin:world (or --dry-run)")
    started = time.perf_counter()
    with _output(options.out, options.resume) as target:
        start = None if init is None else installed_names().folder(init)
        source = _source(data)
        from genin.distill.student.distillation import distill

        done = distill(path, source, target, recipe, options.run, init=start)
    facts = {"out": str(target), "teacher": teacher, "images_seen": done.images_seen}
    _report({**facts, "seconds": round(time.perf_counter() - started, 1)}, options.as_json)
    if not options.as_json:
        phases = (recipe.prune, recipe.steps, recipe.adversarial)
        planned = sum(phase.images for phase in phases)
        sheet = f"genin compare {quoted(teacher)} {quoted(target)}{_captions_of(data)} --out sheet.png"
        seen = done.images_seen if init is None else planned  # with an earlier student, its images are among them
        _say_next(seen, planned, _pictures(source), sheet, f"genin export {quoted(target)} --out BUNDLE")


# That a training sees each picture: with fewer they are blobs of the right colour (docs/real-pictures.md).
FEW_TIMES = 40


def _captions_of(data: str) -> str:
    """Options for the captions that a model was trained on: those of the built-in world are built into the commands."""
    return "" if data == "builtin:world" else f" --reference {quoted(data)}"


def _pictures(source: Any) -> int | None:
    """How many there are; None for the built-in world, which has no end."""
    return None if source.name == BUILTIN_WORLD else len(source)


def _say_next(seen: int, planned: int, pictures: int | None, *commands: str, seconds: float | None = None) -> None:
    """What ended a training early, whether it was short, and what to do with its result. `seconds` that it took say how long a
    resumed one would take."""
    if not is_main_process():
        return
    if seen < planned:
        click.echo(f"note: the minutes ended the training at {seen:,} of the recipe's {planned:,} images", err=True)
    if pictures and seen < FEW_TIMES * pictures:
        times = f"each of the {pictures:,} pictures was seen {seen / pictures:.1f} times"
        shapes = f"shapes take {FEW_TIMES} times or more"
        if seconds and 0 < seen < planned:
            # Minutes count from the run's beginning, the part that is done included.
            minutes = math.ceil(seconds / 60 * min(planned, FEW_TIMES * pictures) / seen)
            shapes += f" (the same with --resume and about --minutes {minutes})"
        click.echo(f"note: {times}; {shapes}, so expect blobs of the right colour", err=True)
    click.echo(f"try: {'; '.join(commands)}")


def _student_cost(teacher: Path, pruning: Pruning, recipe: Recipe) -> dict[str, Any]:
    """Parameters and multiply-adds of teacher and student, and what the recipe's phases take, from the teacher's config alone."""
    from genin.benchmarks.model_facts import max_tokens, unet_cost
    from genin.distill.loop.memory import Decoder, Others, PhaseSizes, Unet
    from genin.distill.models.student_config import student_config
    from genin.distill.student.cost import distill_flop, distill_memory

    read_model_index(teacher)
    config = read_config(teacher, "unet")
    tokens = max_tokens(teacher)
    smaller = student_config(config, pruning)
    before, after = unet_cost(config, tokens=tokens), unet_cost(smaller, tokens=tokens)
    decoder = Decoder.of_folder(teacher, square_latent_size(config))
    sizes = PhaseSizes(Unet.of(config, tokens), Unet.of(smaller, tokens), Others.of_folder(teacher), decoder=decoder)
    phases = [name for name in ("prune", "steps", "adversarial") if getattr(recipe, name).images > 0]
    memory = {name: sum(distill_memory(name, recipe, sizes).values()) for name in phases}
    images = {"pool": recipe.pool.size, **{name: getattr(recipe, name).images for name in phases}}
    work = {name: distill_flop(name, recipe, sizes) for name in images}
    return {
        "teacher_parameters": before[0],
        "teacher_macs": before[1],
        "student_parameters": after[0],
        "student_macs": after[1],
        "parameters_share": round(after[0] / before[0], 4),
        "macs_share": round(after[1] / before[1], 4),
        "memory_gb": {name: round(size / 1e9, 2) for name, size in memory.items()},
        "gflop_an_image": {name: round(value / 1e9, 1) for name, value in work.items()},
        "petaflop": round(sum(work[name] * count for name, count in images.items()) / 1e15, 3),
    }


def _report_cost(facts: dict[str, Any], recipe: Recipe, as_json: bool) -> None:
    """A dry run: the networks' sizes, then a row per phase."""
    if as_json:
        _report(facts, as_json)
        return
    memory, work = facts.pop("memory_gb"), facts.pop("gflop_an_image")
    total = facts.pop("petaflop")
    _report(facts, as_json)
    click.echo(f"\n{'phase':12} {'images':>10} {'batch':>6} {'GB':>7} {'TFLOP per image':>15} {'PFLOP':>9}")
    for name, each in work.items():
        settings = getattr(recipe, name)
        count = settings.size if name == "pool" else settings.images
        size = f"{memory[name]:.1f}" if name in memory else "-"
        row = f"{name:12} {count:>10,} {settings.batch_size:>6} {size:>7} {each / 1e3:>15,.4g} {each * count / 1e6:>9,.4g}"
        click.echo(row)
    click.echo(f"{'together':12} {'':>10} {'':>6} {'':>7} {'':>15} {total:>9,.4g}")
    more = "the decoder phase, " if recipe.decoder.images > 0 else ""
    click.echo(
        f"GB: peak live memory of an update; the process takes 1 to 4 GB more. Not counted: {more}grids of samples, tuning."
    )


def _source(data: str) -> Any:
    from genin.distill.inputs.sources import open_source

    source = open_source(data)
    for note in getattr(source, "notes", ()):
        click.echo(f"note: {note}", err=True)
    return source


@contextmanager
def _output(out: Path | None, resume: bool) -> Iterator[Path]:
    """Where to write. A folder that is not empty can only be resumed, never overwritten; one that this process has made for a
    training which is refused before it has begun is removed."""
    target = _target(out, resume)
    fresh = not target.exists()
    try:
        yield target
    except InputError:
        if not (fresh and target.exists()):
            raise
        from genin.distill.loop.run_folder import is_claimed

        training = target / "training"
        begun = any(any(training.glob(name)) for name in ("*.checkpoint.pt", "pool.*", "latents.*"))
        if not begun and is_claimed(training):  # another command may have made the folder meanwhile
            shutil.rmtree(target, ignore_errors=True)
        raise


def _target(out: Path | None, resume: bool) -> Path:
    if out is None:
        raise InputError("--out is missing", remedy="name the model folder to write")
    if out.is_file():
        raise InputError("the output is a file", where=out, remedy="name a folder")
    if out.is_symlink() and not out.exists():
        raise InputError(
            "the output is a link that leads nowhere", where=out, remedy="remove it, or name another --out"
        )
    if out.is_dir() and any(out.iterdir()) and not resume:
        raise InputError("the output is not empty", where=out, remedy="resume it with --resume, or name another --out")
    if resume and not (out / "training").is_dir():
        raise InputError("there is nothing to resume", where=out, remedy="leave out --resume")
    wait_for_all()  # what one process writes there must not make another refuse it
    return out


def _report(facts: dict[str, Any], as_json: bool) -> None:
    if not is_main_process():
        return
    if as_json:
        click.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        shown = ", ".join(f"{key} {item:,}" for key, item in value.items()) if isinstance(value, dict) else value
        click.echo(f"{name:20} {shown:,}" if isinstance(shown, int) else f"{name:20} {shown}")

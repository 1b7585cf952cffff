"""`genin quickstart`: the whole chain once, from the shipped teacher to a page of figures, within ten minutes.

The record of a run is `OUT/quickstart.json`: what was asked for, and each finished stage's result. A stage that is recorded there
is not run again, so `--resume` continues where an error or Ctrl-C ended the run; distillation resumes inside its own stage. After
an interruption the page is written from what is there.

Not here: what a stage does (`stages`).
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from genin.benchmarks.results.table import Row, fastest, is_ranked
from genin.files import write_text
from genin.names import InstalledNames
from genin.quickstart.stages import (
    STEPS,
    STUDENT,
    Done,
    Result,
    Run,
    Stage,
    bench_all,
    distil_student,
    export_student,
    load_teacher,
    measure_improvement,
    measure_quality,
    write_page,
)
from genin.runtimes.arguments import number
from genin.runtimes.errors import GeninError, InputError, MissingExtraError
from genin.runtimes.options import json_option, threads_option
from genin.runtimes.wording import counted, quoted

FORMAT: Final = 1
RECORD: Final = "quickstart.json"
DEFAULT_OUT, DEFAULT_MINUTES = Path("genin-out"), 3.0
DEFAULT_TEACHER, DEFAULT_STUDENT = "builtin:teacher", "full"
SETTINGS: Final = {"teacher", "student", "minutes", "mixed_precision"}  # of a record; the last one is the machine's
OTHER_MINUTES: Final = 7  # of all stages but training, on two cores
INTERRUPTED: Final = 130
PACKAGES: Final = (
    *("torch", "diffusers", "transformers", "accelerate", "onnx", "openvino"),
    *("jinja2", "matplotlib", "psutil"),
)

STAGES: Final = (
    Stage("teacher", "Load the teacher", load_teacher, lambda r: f"{r['parameters'] / 1e6:.1f} M parameters"),
    Stage("distil", "Distil a student", distil_student, lambda r: f"{r['parameters'] / 1e6:.1f} M parameters"),
    Stage("improvement", "Compare with its untrained self", measure_improvement, lambda r: _improvement(r)),
    Stage("export", "Export to ONNX, OpenVINO and Core ML", export_student, lambda r: _exported(r)),
    Stage("quality", "Measure its pictures", measure_quality, lambda r: f"{r['samples']} pictures each"),
    Stage("bench", "Measure its speed", bench_all, lambda r: counted(len(r["results"]), "configuration")),
    Stage("page", "Write the page", write_page, lambda r: str(r["page"])),
)


@click.command("quickstart", epilog="Example: genin quickstart --out first-try --minutes 4")
@click.option(
    "--out", type=click.Path(path_type=Path), default=DEFAULT_OUT, show_default=True, help="Folder for everything."
)
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Time to distil for.  [default: 3]")
@click.option("--teacher", help="Model folder, hub name or built-in name.  [default: builtin:teacher]")
@click.option(
    "--student", help="Which of the teacher's blocks are kept: a preset like bk-small.  [default: full, all of them]"
)
@click.option("--resume", is_flag=True, help="Resume the last run in OUT.")
@threads_option
@json_option
@click.pass_context
def quickstart_command(ctx: click.Context, /, out: Path, resume: bool, as_json: bool, **settings: Any) -> None:
    """The whole chain in ten minutes: distil a student from the shipped teacher, export it, run it, measure it.

    Within minutes a student learns to draw in few steps, but not with fewer blocks: by default it keeps all of its teacher's. The
    shipped student, a quarter as large, was trained for hours. Ends with a page of pictures and figures. Ctrl-C keeps what is
    finished; --resume continues from there.
    """
    require_packages()
    names = InstalledNames()
    chosen = {name: value for name, value in settings.items() if value is not None}
    if not str(chosen.get("teacher", DEFAULT_TEACHER)).startswith("builtin:"):
        # Resumed from another folder, or when the hub has another commit, it is the same one.
        chosen["teacher"] = str(names.model(chosen["teacher"]).absolute())
    record = open_record(out, chosen, names, resume=resume)
    run = Run(out, names=names, **record["settings"])
    display = Display(len(STAGES))
    try:
        run_stages(run, record, display)
    except KeyboardInterrupt:
        leave_partial(run, record, display)
        ctx.exit(INTERRUPTED)
    except GeninError:
        display.say(f"finished stages are kept; when fixed: {resume_command(out)}")
        raise
    summary = summarise(run, record)
    click.echo(json.dumps(summary) if as_json else headline(summary))


def require_packages() -> None:
    """Errors: MissingExtraError before anything is written, rather than in the middle."""
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "all")


# --- the record ------------------------------------------------------------------------------------------------------


def open_record(out: Path, asked: Mapping[str, Any], names: InstalledNames, *, resume: bool) -> dict[str, Any]:
    """The run's record: a new one, or the last run's. Errors: InputError for an `out` or a teacher that cannot be
    used, before anything is written."""
    from genin.distill.models.student_config import PRESETS
    from genin.runtimes.folder import read_model_index
    from genin.runtimes.vocabulary import check_choice

    path = out / RECORD
    if not resume:
        if out.is_file() or (out.is_dir() and any(out.iterdir())):
            remedy = "resume it with --resume, or name another --out" if path.is_file() else "name another --out"
            raise InputError("the output is not empty", where=out, remedy=remedy)
        defaults = {"teacher": DEFAULT_TEACHER, "student": DEFAULT_STUDENT, "minutes": DEFAULT_MINUTES}
        settings = {**defaults, **asked}
        check_choice(settings["student"], tuple(PRESETS), "student")
        number(settings["minutes"], "minutes", above=0)
        read_model_index(names.model(settings["teacher"]))  # refuses bundles, and what is no teacher
        settings["mixed_precision"] = _faster_precision()
        record = {"genin_quickstart": FORMAT, "settings": settings, "stages": {}}
        out.mkdir(parents=True, exist_ok=True)
        write_record(out, record)
        return record
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        known = record["genin_quickstart"] == FORMAT and {*record["settings"]} == SETTINGS
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError("there is nothing to resume", where=path, remedy="leave out --resume") from error
    if not known:
        raise InputError("the record is of another version", where=path, remedy="name another --out")
    if changed := [key for key, value in asked.items() if value != record["settings"][key]]:
        had = ", ".join(f"--{key} {record['settings'][key]}" for key in changed)
        raise InputError(f"this run was started with {had}", where=out, remedy="leave that out, or name another --out")
    return dict(record)


def _faster_precision() -> str:
    from genin.distill.loop.host import faster_precision  # with torch, which a refused command does not wait for

    return faster_precision()


def write_record(out: Path, record: Mapping[str, Any]) -> None:
    write_text(out / RECORD, json.dumps(record, indent=1) + "\n")


def results_of(record: Mapping[str, Any]) -> dict[str, Result]:
    """The finished stages' results by name."""
    return {name: stage["result"] for name, stage in record["stages"].items()}


# --- running ---------------------------------------------------------------------------------------------------------


def run_stages(run: Run, record: dict[str, Any], display: Display) -> None:
    """Run what the record does not hold yet; each result is kept at once."""
    display.say(
        f"genin quickstart in {run.out}: about {run.minutes + OTHER_MINUTES:.0f} minutes; Ctrl-C keeps what is finished"
    )
    for stage in STAGES:
        if (kept := record["stages"].get(stage.name)) is not None:
            display.done(stage, kept["seconds"], kept["result"], "kept")
            continue
        display.begin(stage)
        started = time.perf_counter()
        result = stage.run(run, results_of(record))
        seconds = round(time.perf_counter() - started, 1)
        record["stages"][stage.name] = {"seconds": seconds, "result": result}
        write_record(run.out, record)
        display.done(stage, seconds, result)


def leave_partial(run: Run, record: dict[str, Any], display: Display) -> None:
    """After Ctrl-C: a page from what is there, and how to go on."""
    done = results_of(record)
    finished = ", ".join(done) or "nothing"
    display.say(f"interrupted; finished: {finished}")
    if "improvement" in done:
        write_page(run, done)
        display.say(f"the page so far: {run.page_path}")
    if (run.student_path / "model_index.json").is_file():
        model = quoted(run.student_path)
        display.say(f'the student so far: genin generate "a ninja in an orange outfit" -m {model}')
    display.say(f"resume with: {resume_command(run.out)}")


def resume_command(out: Path) -> str:
    return f"genin quickstart --out {quoted(out)} --resume"


class Display:
    """A check mark and a line per stage on stderr. The stages' own progress bars appear between the lines, one at a
    time, on a terminal only; elsewhere the lines are plain."""

    def __init__(self, total: int) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
        self.total, self.number = total, 0

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def begin(self, stage: Stage) -> None:
        if self.console.is_terminal:
            self.console.print(f"  [cyan]▸[/] {stage.title} …")

    def done(self, stage: Stage, seconds: float, result: Result, how: str = "") -> None:
        self.number += 1
        spent, said = how or clock(seconds), stage.summary(result)
        if self.console.is_terminal:
            from rich.markup import escape

            self.console.print(f"  [green]✓[/] {stage.title:<38} [dim]{spent:>9}[/]  {escape(said)}")
        else:
            self.say(f"[{self.number}/{self.total}] {stage.title}: {spent}, {said}")


def clock(seconds: float) -> str:
    """4.2 s, or 3 min 05 s."""
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60):02d} s"


# --- the end ---------------------------------------------------------------------------------------------------------


def summarise(run: Run, record: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON object: figures that could not be measured are null, with the reason in `notes`."""
    done = results_of(record)
    notes: dict[str, str] = {}
    summary: dict[str, Any] = {"page": str(run.page_path)}
    rows = [row for row in done["bench"]["results"] if row["bundle"] == STUDENT]
    evaluations = {one["steps"]: one for one in done["quality"]["evaluations"] if one["model"] == STUDENT}
    for steps in STEPS:
        key = f"{steps}_step{'s' if steps > 1 else ''}"
        own = [row for row in rows if row["steps"] == steps]
        summary |= {f"fastest_{key}": (best := _fastest(own)), f"speedup_{key}": best and best["speedup"]}
        if best is None:
            why = "the pictures of no configuration are right" if own else "not measured"
            notes |= dict.fromkeys((f"fastest_{key}", f"speedup_{key}"), why)
        in_pytorch = fastest([row for row in own if row["runtime"] == "pytorch"])
        summary[f"speedup_pytorch_{key}"] = in_pytorch and in_pytorch["speedup"]
        summary[f"fd_ratio_{key}"] = evaluations[steps]["fd_ratio"]
        if summary[f"fd_ratio_{key}"] is None:
            notes[f"fd_ratio_{key}"] = evaluations[steps]["notes"].get("fd_ratio", "not measured")
    summary["fd_ratio_features"] = evaluations[STEPS[0]].get("fd_ratio_features")
    summary |= _lpips(evaluations[STEPS[0]], rows, notes)
    summary["improvement"] = {key: value for key, value in done["improvement"].items() if key != "notes"}
    untouched = {"teacher": done["teacher"]["bytes"], "student": done["distil"]["bytes"]}
    summary["sizes"] = {**untouched, **done["export"]["sizes"]}
    summary["parameters"] = {
        name: done[stage]["parameters"] for name, stage in (("teacher", "teacher"), ("student", "distil"))
    }
    summary["skipped"] = _skipped(done)
    summary["seconds"] = {name: stage["seconds"] for name, stage in record["stages"].items()}
    return {**summary, "notes": notes}


def _skipped(done: Done) -> list[str]:
    """What did not run here, each reason once: "coreml fp16, int8: why"."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for one in done["bench"]["skipped"]:
        kinds.setdefault((one["runtime"], one["reason"]), []).append(one["precision"])
    found = [f"{runtime} {', '.join(dict.fromkeys(of))}: {reason}" for (runtime, reason), of in kinds.items()]
    return [f"{name}: {reason}" for name, reason in done["export"]["skipped"].items()] + found


def _fastest(rows: list[Row]) -> dict[str, Any] | None:
    if (best := fastest(rows)) is None:
        return None
    return {
        **{key: best[key] for key in ("runtime", "precision", "speedup", "speedup_baseline")},
        "p50_ms": best["latency_ms"]["p50"],
        "encoded_prompt_p50_ms": best["encoded_prompt_ms"]["p50"],
    }


def _lpips(evaluation: Result, rows: list[Row], notes: dict[str, str]) -> dict[str, Any]:
    """Paired LPIPS to the teacher: over the shipped pairs, else over the few pictures that the speed test drew."""
    key = f"lpips_squeeze_paired_{STEPS[0]}_steps"
    value, pairs = evaluation["lpips_squeeze_paired"], evaluation.get("pairs") or 0
    row = next((row for row in rows if row["steps"] == STEPS[0] and is_ranked(row)), None)
    if value is None and row is not None and row["lpips_squeeze_to_teacher"] is not None:
        value, pairs = row["lpips_squeeze_to_teacher"], row["pairs"]
        notes[key] = f"over {pairs} pictures only: a hint, not a figure to quote"
    elif value is None:
        notes[key] = str(evaluation["notes"].get("lpips_squeeze", evaluation["notes"].get("lpips_squeeze_paired")))
    return {key: value, "pairs": pairs}


def headline(summary: Mapping[str, Any]) -> str:
    """The end of the run, for people."""
    lines = []
    for steps, key in ((4, "4_steps"), (1, "1_step")):
        name, best = counted(steps, "step"), summary[f"fastest_{key}"]
        if best is None:
            lines.append(f"{name:8} {summary['notes'][f'fastest_{key}']}")
            continue
        times, slow = (_or_dash(summary[f"{kind}_{key}"], ",.0f") for kind in ("speedup", "speedup_pytorch"))
        lines.append(
            f"{name:8} {best['p50_ms']:.1f} ms on {best['runtime']} {best['precision']}: {times}× faster than "
            f"{best['speedup_baseline']}; in PyTorch {slow}×; FD ratio {_or_dash(summary[f'fd_ratio_{key}'], '.2f')}"
        )
    key = "lpips_squeeze_paired_4_steps"
    lines.append(f"LPIPS    {_or_dash(summary[key], '.3f')} to the teacher at 4 steps ({summary['pairs']} pairs)")
    lines.append(f"Training {_improvement(summary['improvement'])}")
    counts = [f"{summary['parameters'][name] / 1e6:.1f}" for name in ("teacher", "student")]
    sizes = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in summary["sizes"].items() if "/" in name)
    lines.append(f"Size     {' → '.join(dict.fromkeys(counts))} M parameters; MB: {sizes}")
    lines += [f"Skipped  {one}" for one in summary["skipped"]]
    lines += [f"Note     {name}: {reason}" for name, reason in summary["notes"].items()]
    return "\n".join([*lines, "", f"The page: {summary['page']}"])


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _improvement(result: Result) -> str:
    share = result["better_by"]
    if share is None:
        return "fd_world could not be measured"
    verdict = "" if result["better_enough"] else "; 30 % was the aim, give it more --minutes"
    change = f"fd_world {result['fd_world_before']:.1f} → {result['fd_world']:.1f} ({-share:+.0%})"
    return f"{change} at {counted(result['steps'], 'step')}{verdict}"


def _exported(result: Result) -> str:
    lowest = result["lowest_psnr_db"]
    parity = "" if lowest is None else f", at least {lowest:.0f} dB alike to PyTorch"
    return f"{counted(result['graphs'], 'graph')}{parity}"

"""Measure models side by side by name, as `genin bench` does: options checked, names resolved, the page written.

    from genin.benchmarks import BenchOptions, bench

    results = bench(["builtin:teacher", "student.genin"], BenchOptions(steps=(1, 4), report=Path("bench.html")))
    print(results["results"][0]["latency_ms"]["p50"])

Not here: choosing configurations and their rows (`speed.bench`), measuring (`speed.latency`), the command (`commands`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genin.benchmarks.contenders import Contender, contenders, reference_folder, refuse_device_without_folders
from genin.benchmarks.prompts import DEFAULT_PROMPTS, read_prompts
from genin.benchmarks.quality.sampling import MAX_SEED
from genin.benchmarks.report.report import Report, write_report
from genin.benchmarks.speed.bench import Choices, Quality, measure_models
from genin.benchmarks.speed.latency import Protocol
from genin.benchmarks.speed.machine import usable_cores
from genin.files import claim_output
from genin.runtimes.names import BUILTIN_WORLD, Names, names_or_installed
from genin.runtimes.vocabulary import AUTO, RUNTIMES, check_choice, check_device, check_whole


@dataclass(frozen=True)
class BenchOptions:
    """What `bench` measures, and how; the defaults are those of `genin bench`.

    Attributes:
        runtimes, precisions: to measure bundles with; empty is all that each has.
        device: where PyTorch runs model folders: `cpu`, `cuda`, `cuda:1`, `mps`.
        steps: of students; each is measured at those it was trained for, if any. Empty is the model's own number.
        teacher_steps: of teachers; None is the model's own number.
        runs, warmup: timed and untimed pictures of each configuration.
        cold_starts: processes started for each configuration; the last one counts.
        threads: of every engine; None is all usable cores.
        prompts: a text file with one prompt per line, or the prompts.
        seed: the first of the seeds.
        samples: also measure FD on this many pictures of each configuration.
        reference: dataset folder for FD, or `builtin:world`.
        metric_weights: folder that is searched first for the metrics' weights.
        report: FILE.html for one self-contained page.
    """

    runtimes: Sequence[str] = ()
    precisions: Sequence[str] = ()
    device: str = "cpu"
    steps: Sequence[int] = ()
    teacher_steps: int | None = None
    runs: int = 20
    warmup: int = 2
    cold_starts: int = 2
    threads: int | None = None
    prompts: str | Path | Sequence[str] | None = None
    seed: int = 0
    samples: int | None = None
    reference: str | Path = BUILTIN_WORLD
    metric_weights: Path | None = None
    report: Path | None = None

    def __post_init__(self) -> None:
        for runtime in self.runtimes:
            check_choice(runtime, (AUTO, *RUNTIMES), "runtime")
        for count in self.steps:
            check_whole(count, "steps")
        for name in ("teacher_steps", "runs", "cold_starts", "threads", "samples"):
            check_whole(getattr(self, name), name)
        check_whole(self.warmup, "warmup", 0)
        check_whole(self.seed, "seed", 0, MAX_SEED)
        check_device(self.device)


def bench(
    models: Sequence[str | Path], options: BenchOptions | None = None, *, names: Names | None = None
) -> dict[str, Any]:
    """Measure latency, start, memory, size and quality of models and bundles, side by side.

    Args:
        models: built-in names, model folders, bundles or hub names. A teacher among them is the baseline of speed-ups.
        options: what to measure, and how.
        names: what names mean; None is those of this installation.

    Returns: the object that `genin bench --json` prints (docs/benchmarks.md has the keys).
    Errors: InputError for names and options that are wrong; GeninError if no configuration runs here.
    """
    options, names = options or BenchOptions(), names_or_installed(names)
    chosen = contenders(names, models, _only(options.runtimes), _only(options.precisions))
    refuse_device_without_folders(options.device, chosen)
    if options.report is not None:
        claim_output(options.report, ".html")
    results, grids = measure_models(
        chosen,
        choices=Choices(
            options.runtimes, options.precisions, options.steps, options.teacher_steps, device=options.device
        ),
        protocol=_protocol(options),
        quality=_quality(options, names, chosen),
    )
    if options.report is not None:
        write_report(Report(results, grids), options.report)
    return results


def _protocol(options: BenchOptions) -> Protocol:
    prompts = DEFAULT_PROMPTS if options.prompts is None else options.prompts
    return Protocol(
        runs=options.runs,
        warmup=options.warmup,
        cold_starts=options.cold_starts,
        threads=options.threads or usable_cores(),
        prompts=read_prompts(Path(prompts)) if isinstance(prompts, str | Path) else tuple(prompts),
        seed=options.seed,
    )


def _quality(options: BenchOptions, names: Names, chosen: Sequence[Contender]) -> Quality:
    if options.samples is None:
        return Quality(metric_weights=options.metric_weights, classifier=names.classifier())
    folder = reference_folder(names, str(options.reference), options.samples, chosen[0].path)
    return Quality(options.samples, folder, options.metric_weights, names.classifier())


def _only(values: Sequence[str]) -> str | None:
    """The one value, or None if there are several or none."""
    return values[0] if len(values) == 1 else None

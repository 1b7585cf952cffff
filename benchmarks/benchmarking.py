"""Measure models side by side by name, as `genin bench` does: options checked, names resolved, the page written.

    from genin.benchmarks import BenchOptions, bench

    results = bench(["builtin:teacher", "student.genin"], BenchOptions(steps=(1, 4), report="bench.html"))
    print(results["results"][0]["latency_ms"]["p50"])

Not here: measuring (`speed.bench`), comparing and exporting results (`results`), the command (`bench_commands`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genin.benchmarks.contenders import Contender, contenders, reference_folder, refuse_device_without_folders
from genin.benchmarks.durations import seconds_of, warm_up_of
from genin.benchmarks.peers.table import named_peers
from genin.benchmarks.prompts import prompts_of
from genin.benchmarks.quality.sampling import MAX_SEED
from genin.benchmarks.results.files import write_results
from genin.benchmarks.speed.apart import Apart
from genin.benchmarks.speed.bench import measure_models
from genin.benchmarks.speed.configurations import Choices
from genin.benchmarks.speed.journal import remove
from genin.benchmarks.speed.picture_quality import Quality
from genin.benchmarks.speed.protocol import Protocol
from genin.files import claim_output
from genin.runtimes.arguments import local_path, number, refuse_none, settle, several, whole, wholes
from genin.runtimes.errors import InputError
from genin.runtimes.names import BUILTIN_WORLD, Names, installed_names
from genin.runtimes.threads import MAX_THREADS
from genin.runtimes.vocabulary import AUTO, RUNTIMES, check_choice, check_device, check_text

MOST_MINUTES = 24 * 60
MOST_CLIENTS = 256
DEFAULT_RUNS = 40


@dataclass(frozen=True)
class BenchOptions:
    """What `bench` measures, and how; the defaults are those of `genin bench`.

    Attributes:
        runtimes, precisions: to measure bundles with, one or several; empty is all that each has.
        device: where PyTorch runs model folders: `cpu`, `cuda`, `cuda:1`, `mps`.
        steps: of students, one number or several; each is measured at those it was trained for, if any. Empty is the model's own.
        teacher_steps: of teachers, likewise; speed-ups are over the first.
        threads: of every engine, one number or several, each measured; empty is all usable cores.
        batch: pictures drawn at once, one number or several, each measured; empty is one.
        size: width and height in pixels, one or several, each measured where a model allows it; empty is its own.
        runs: timed pictures of each configuration, shared out over its processes; None is 40, unless `duration` is given.
        duration: in place of `runs`, seconds of timed pictures of each configuration, a number or a text such as `10s`; every
            process takes at least two.
        processes: fresh processes of each configuration.
        warmup: untimed pictures of each process, or seconds of drawing as a text such as `2s`.
        prompts: a text file with one prompt per line, or the prompts.
        seed: the first of the seeds.
        samples: also measure FD on this many pictures of each configuration.
        reference: dataset folder for FD, or `builtin:world`.
        metric_weights: folder that is searched first for the metrics' weights.
        clip: CLIP to score the timed pictures with: a folder, or a name on the hub.
        out: FILE.json for the results; an interrupted run continues there.
        report: FILE.html for one self-contained page.
        profile: also count the time of every operator, in runs apart.
        sustained: minutes of drawing without a pause, of each configuration alone; None is none.
        clients: processes that draw at once, in runs apart, one number or several; empty is none.
        frames: also measure the frames of a game, with and without each bundle drawing beside it.
        peers: other programs to measure on the same weights, names or `all`.
        suite: the name of the suite that these options are from, for the record.
    """

    runtimes: str | Sequence[str] = ()
    precisions: str | Sequence[str] = ()
    device: str = "cpu"
    steps: int | Sequence[int] = ()
    teacher_steps: int | Sequence[int] = ()
    threads: int | Sequence[int] = ()
    batch: int | Sequence[int] = ()
    size: int | Sequence[int] = ()
    runs: int | None = None
    duration: float | str | None = None
    processes: int = 5
    warmup: int | str = 2
    prompts: str | Path | Sequence[str] | None = None
    seed: int = 0
    samples: int | None = None
    reference: str | Path = BUILTIN_WORLD
    metric_weights: str | Path | None = None
    clip: str | Path | None = None
    out: str | Path | None = None
    report: str | Path | None = None
    profile: bool = False
    sustained: float | None = None
    clients: int | Sequence[int] = ()
    frames: bool = False
    peers: str | Sequence[str] = ()
    suite: str | None = None

    def __post_init__(self) -> None:
        refuse_none(self)
        settle(
            self,
            runtimes=tuple(check_choice(one, (AUTO, *RUNTIMES), "runtime") for one in several(self.runtimes)),
            peers=named_peers(several(self.peers)),
            precisions=tuple(check_text(one, "precision") for one in several(self.precisions)),
            duration=seconds_of(self.duration, "duration"),
            seed=whole(self.seed, "seed", 0, MAX_SEED),
            threads=wholes(self.threads, "threads", most=MAX_THREADS),
            clients=wholes(self.clients, "clients", most=MOST_CLIENTS),
            **{name: wholes(getattr(self, name), name) for name in ("steps", "teacher_steps", "batch", "size")},
            **{name: whole(getattr(self, name), name) for name in ("runs", "processes", "samples")},
            **{name: local_path(getattr(self, name), name) for name in ("metric_weights", "out", "report")},
        )
        warm_up_of(self.warmup)
        if self.runs is not None and self.duration is not None:
            raise InputError("runs and duration are both given", remedy="give one of them")
        if self.sustained is not None:
            settle(self, sustained=number(self.sustained, "sustained"))
            if not 0 < self.sustained <= MOST_MINUTES:
                raise InputError(f"sustained is {self.sustained:g} minutes", remedy=f"name up to {MOST_MINUTES}")
        settle(self, device=check_device(self.device))


def bench(models: str | Path | Sequence[str | Path], options: BenchOptions | None = None) -> dict[str, Any]:
    """Measure latency, start, memory, size and quality of models and bundles, side by side.

    Args:
        models: built-in names, model folders, bundles, hub names, one or several. A teacher among them is the baseline of
            speed-ups.
        options: what to measure, and how.

    Returns: the object that `genin bench --json` prints (docs/benchmarks.md has the keys).
    Errors: InputError for names and options that are wrong; GeninError if no configuration runs here.
    """
    options, names = options or BenchOptions(), installed_names()
    out, report = local_path(options.out, "out"), local_path(options.report, "report")
    runtimes, precisions = several(options.runtimes), several(options.precisions)
    chosen = contenders(names, models, _only(runtimes), _only(precisions))
    refuse_device_without_folders(options.device, chosen)
    if report is not None:
        from genin.benchmarks.report.page import import_page_packages
        from genin.benchmarks.report.report import Report, write_report

        import_page_packages()  # now, not after an hour of measuring
        claim_output(report, ".htm" if report.suffix.lower() == ".htm" else ".html")
    if out is not None:
        claim_output(out, ".json")
    partial = None if out is None else out.with_name(f"{out.name}.partial")
    results, grids = measure_models(
        chosen,
        choices=_choices(options),
        protocol=_protocol(options),
        quality=_quality(options, names, chosen),
        apart=Apart(options.profile, options.sustained, several(options.clients), options.frames),
        partial=partial,
    )
    if out is not None and partial is not None:
        write_results(results, out)
        remove(partial)
    if report is not None:
        write_report(Report(results, grids), report)
    return results


def _choices(options: BenchOptions) -> Choices:
    return Choices(
        runtimes=several(options.runtimes),
        precisions=several(options.precisions),
        steps=several(options.steps),
        teacher_steps=several(options.teacher_steps),
        device=options.device,
        threads=several(options.threads),
        batches=several(options.batch),
        sizes=several(options.size),
        peers=several(options.peers),
    )


def _protocol(options: BenchOptions) -> Protocol:
    warmup, warmup_s = warm_up_of(options.warmup)
    return Protocol(
        runs=DEFAULT_RUNS if options.runs is None else options.runs,
        duration_s=seconds_of(options.duration, "duration"),
        processes=options.processes,
        warmup=warmup,
        warmup_s=warmup_s,
        prompts=prompts_of(options.prompts),
        seed=options.seed,
        suite=options.suite,
    )


def _quality(options: BenchOptions, names: Names, chosen: Sequence[Contender]) -> Quality:
    weights = local_path(options.metric_weights, "metric_weights")
    if options.samples is None:
        return Quality(metric_weights=weights, classifier=names.classifier(), clip=options.clip)
    reference, samples = str(options.reference), options.samples
    folders = {model.path: reference_folder(names, reference, samples, model.path) for model in chosen}
    return Quality(samples, folders, weights, names.classifier(), options.clip)


def _only(values: Sequence[str]) -> str | None:
    """The one value, or None if there are several or none."""
    return values[0] if len(values) == 1 else None

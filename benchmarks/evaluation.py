"""Evaluate a model by name, as `genin evaluate` does: options checked, names resolved, the work divided among processes.

    from genin.benchmarks import EvaluateOptions, evaluate

    result = evaluate("student.genin", EvaluateOptions(reference="builtin:world", samples=1000))
    print(result["fd_world"], result["notes"])

Not here: measuring (`evaluator`), dividing the work (`shares`), the command (`commands`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genin.benchmarks.contenders import device_of, reference_folder
from genin.benchmarks.quality.evaluator import Against, Evaluator, SaveTo
from genin.benchmarks.quality.measures import load_suite
from genin.benchmarks.quality.sampling import DEFAULT_BATCH_SIZE, MAX_SEED
from genin.benchmarks.quality.shares import evaluate_in_shares
from genin.benchmarks.quality.statistics_file import FILE_NAME, load_statistics
from genin.benchmarks.quality.subjects import Sampling
from genin.dataset.splits import check_split
from genin.files import claim_output
from genin.processes import main_process_first, processes_here, several
from genin.runtimes.arguments import local_path, number, refuse_none, settle, whole
from genin.runtimes.errors import InputError
from genin.runtimes.folder import is_model_folder, read_constants
from genin.runtimes.limits import usable_cores
from genin.runtimes.names import BUILTIN_WORLD, Names, installed_names
from genin.runtimes.threads import check_threads
from genin.runtimes.vocabulary import AUTO, RUNTIMES, check_choice, check_device, check_text

PATHS = ("save_images", "save_statistics", "metric_weights")


@dataclass(frozen=True)
class EvaluateOptions:
    """How `evaluate` measures; the defaults are those of `genin evaluate`.

    Attributes:
        reference: dataset folder to compare with, or `builtin:world`; None is `builtin:world` for built-in models.
        split: only this split of the reference (train, val, test, held-out); None is all, of `builtin:world` its test split.
        samples: pictures to compare; None is as many as the reference has, at most 5,000.
        seed: picture i is drawn from seed `1,000,000 · seed + i`.
        steps, guidance_scale: of the sampler; None is the model's own.
        runtime, precision: as of `genin.load`.
        device: where PyTorch runs model folders: `cpu`, `cuda`, `cuda:1`, `mps`.
        threads: of the engine; None is its own choice.
        batch_size: pictures drawn at once.
        against: a teacher to compare with: a model, saved pictures or saved statistics. Of `builtin:teacher` the package has the
            statistics, which are used where captions, seeds, reference and steps are the same.
        against_steps: of that teacher; None is its own.
        save_images: folder to keep the pictures in; an interrupted run continues from them.
        save_statistics: FILE.safetensors for the features, or a folder for them and pairs of pictures.
        floor: measure the model folder's autoencoder alone: the reference, encoded and decoded.
        metric_weights: folder that is searched first for the metrics' weights.
    """

    reference: str | Path | None = None
    split: str | None = None
    samples: int | None = None
    seed: int = 0
    steps: int | None = None
    guidance_scale: float | None = None
    runtime: str = AUTO
    precision: str = AUTO
    device: str = "cpu"
    threads: int | None = None
    batch_size: int = DEFAULT_BATCH_SIZE
    against: str | Path | None = None
    against_steps: int | None = None
    save_images: str | Path | None = None
    save_statistics: str | Path | None = None
    floor: bool = False
    metric_weights: str | Path | None = None

    def __post_init__(self) -> None:
        refuse_none(self)
        settle(
            self,
            seed=whole(self.seed, "seed", 0, MAX_SEED),
            guidance_scale=number(self.guidance_scale, "guidance_scale"),
            threads=check_threads(self.threads),
            **{name: whole(getattr(self, name), name) for name in ("samples", "steps", "batch_size", "against_steps")},
            **{name: local_path(getattr(self, name), name) for name in PATHS},
        )
        check_choice(self.runtime, (AUTO, *RUNTIMES), "runtime")
        check_text(self.precision, "precision")
        check_split(self.split)
        settle(self, device=check_device(self.device))
        if self.floor and self.save_images is not None:
            raise InputError(
                "the floor needs no drawing, which leaves no pictures to save",
                remedy="leave one of the two out",
            )


def evaluate(model: str | Path, options: EvaluateOptions | None = None) -> dict[str, Any] | None:
    """Measure the picture quality of a model, a bundle or a folder of pictures against a reference.

    Args:
        model: a built-in name, a model folder, a bundle, a hub name, or a folder of pictures.
        options: what to compare with, and how.

    Returns: the object that `genin evaluate --json` prints (docs/benchmarks.md has the keys); a figure that is unavailable is None
        and has its reason in `notes`. Under `torchrun`, None in all processes but the first.
    Errors: InputError for names, paths and options that are wrong; MissingExtraError for a runtime that is not installed.
    """
    options, names, model = options or EvaluateOptions(), installed_names(), str(model)
    images, statistics = (local_path(getattr(options, name), name) for name in ("save_images", "save_statistics"))
    if options.reference is None and not model.startswith("builtin:"):
        raise InputError(
            "the reference is missing", remedy=f"name a dataset folder to compare with, or {BUILTIN_WORLD}"
        )
    if statistics is not None:
        _claim_statistics(statistics)
    with main_process_first():  # so that downloads and renders happen once
        path = names.model(model, options.runtime, options.precision)
        evaluator = _evaluator(path, options, names)
        against = None if options.against is None else _against(str(options.against), options, names, evaluator)
    save = SaveTo(images, statistics)
    if several():
        return evaluate_in_shares(evaluator, path, _sampling(options), against=against, save=save, floor=options.floor)
    return evaluator.evaluate(path, _sampling(options), against=against, save=save, floor=options.floor)


def _evaluator(path: Path, options: EvaluateOptions, names: Names) -> Evaluator:
    reference = str(options.reference or BUILTIN_WORLD)
    return Evaluator(
        reference_folder(names, reference, options.samples, path, options.split),
        load_suite(local_path(options.metric_weights, "metric_weights"), names.classifier()),
        samples=options.samples,
        seed=options.seed,
        reference_name=reference,
        split=options.split,
    )


def _sampling(options: EvaluateOptions) -> Sampling:
    return Sampling(
        options.steps,
        options.guidance_scale,
        options.runtime,
        options.precision,
        options.batch_size,
        _threads(options),
        options.device,
    )


def _against(name: str, options: EvaluateOptions, names: Names, evaluator: Evaluator) -> Against:
    path = names.model(name)
    if (shipped := _shipped_statistics(path, options, names, evaluator)) is not None:
        return Against(shipped)
    threads, device = _threads(options) if several() else None, device_of(path, options.device)
    return Against(path, Sampling(options.against_steps, batch_size=options.batch_size, threads=threads, device=device))


def _shipped_statistics(path: Path, options: EvaluateOptions, names: Names, evaluator: Evaluator) -> Path | None:
    """The statistics in the package, if they are of this model's pictures, of the captions, seeds, steps, guidance and reference
    asked for: drawing them again would take a CPU an hour."""
    shipped = names.teacher_statistics()
    if shipped is None or not is_model_folder(path):
        return None
    statistics = load_statistics(shipped)
    source = statistics.source
    wanted = {
        "samples": evaluator.samples,
        "seed": evaluator.seed,
        "steps": options.against_steps or source.get("steps"),
        "reference": evaluator.reference_name,
        "guidance_scale": read_constants(path).sampler.guidance_scale,
    }
    if any(source.get(key) != value for key, value in wanted.items()) or not statistics.is_of(path):
        return None
    _, facts = evaluator.reference_at(int(source["picture_size"]))
    return shipped if facts["reference_sha256"] == source.get("reference_sha256") else None


def _threads(options: EvaluateOptions) -> int | None:
    """Threads of the engine; of several processes on one machine each takes its share of the cores."""
    if options.threads is None and several():
        return max(1, usable_cores() // processes_here())
    return options.threads


def _claim_statistics(target: Path) -> None:
    claim_output(target if target.suffix == ".safetensors" else target / FILE_NAME)

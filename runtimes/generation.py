"""Pictures of one prompt as files, as `genin generate` writes them: options checked, the model loaded, seeds in small batches.

    from genin.runtimes.generation import GenerateOptions, generate

    report = generate("a ninja", GenerateOptions(seed=7, count=4, out="ninjas"))
    print(report["images"])

For pictures in memory, `genin.load(…)(prompt)` is shorter. Not here: drawing (`pipeline`), the command (`commands`).
"""

from __future__ import annotations

import os
import re
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genin.runtimes.arguments import local_path, required, settle, whole
from genin.runtimes.errors import InputError
from genin.runtimes.files import NAME_BYTES, claim_output, cut_to_bytes
from genin.runtimes.memory import check_max_memory
from genin.runtimes.names import installed_names
from genin.runtimes.noise import MODES, check_seed
from genin.runtimes.starts import check_start_options, check_strength, open_image, open_mask
from genin.runtimes.threads import check_threads
from genin.runtimes.vocabulary import AUTO, check_choice, check_device

if TYPE_CHECKING:
    from genin.runtimes.pictures import Picture
    from genin.runtimes.pipeline import Pipeline
    from genin.runtimes.requests import Options
    from genin.runtimes.results import Generation

DEFAULT_MODEL = "builtin:student"
BATCH_SIZE = 8
MAX_COUNT = 10_000


@dataclass(frozen=True)
class GenerateOptions:
    """What `generate` draws; the defaults are those of `genin generate`.

    Attributes:
        model: built-in name, bundle, model folder or hub name.
        runtime, precision, device, threads, max_memory: as of `genin.load`.
        steps, guidance_scale: of the sampler; None is the model's own.
        seed: the first seed; picture i is drawn from `seed + i`.
        count: number of pictures, at most 10,000.
        size: (height, width) in pixels; None is the model's own.
        noise: `philox`, or `torch` for noise as diffusers draws it.
        image: picture file to start from; None starts from noise alone.
        strength: how much of the image is drawn anew, above 0 and at most 1; None is the model's default.
        mask: picture file of the image's size in grey: white is drawn anew, black is kept.
        out: PNG file, or a folder; None is a file named after the prompt.
    """

    model: str | Path = DEFAULT_MODEL
    runtime: str = AUTO
    precision: str = AUTO
    device: str = "cpu"
    threads: int | None = None
    max_memory: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    seed: int = 0
    count: int = 1
    size: tuple[int, int] | None = None
    noise: str = "philox"
    image: str | Path | None = None
    strength: float | None = None
    mask: str | Path | None = None
    out: str | Path | None = None

    def __post_init__(self) -> None:
        settle(
            self,
            count=whole(required(self.count, "count"), "count", 1, MAX_COUNT),
            steps=whole(self.steps, "steps"),
            seed=check_seed(self.seed),
            threads=check_threads(self.threads),
            max_memory=check_max_memory(self.max_memory),
            image=local_path(self.image, "image"),
            mask=local_path(self.mask, "mask"),
            strength=check_strength(self.strength),
            out=local_path(self.out, "out"),
        )
        check_start_options({"image": self.image, "mask": self.mask, "strength": self.strength})
        check_seed(self.seed + self.count - 1)
        settle(self, device=check_device(self.device))
        check_choice(self.noise, MODES, "noise mode")

    @property
    def seeds(self) -> range:
        return range(self.seed, self.seed + self.count)


def generate(
    prompt: str,
    options: GenerateOptions | None = None,
    *,
    written: Callable[[Path], object] = lambda _: None,
) -> dict[str, Any]:
    """Draw pictures of a prompt and write each as a PNG whose text fields say how to draw it again.

    Args:
        prompt: what to draw.
        options: which model, how many, where to.
        written: called with the path of every picture.

    Returns: the object that `genin generate --json` prints; warnings are its `notes`.
    Errors: InputError for names and options that are wrong, before any work; GeninError if the networks fail.
    """
    from genin.runtimes.engine import EngineSettings
    from genin.runtimes.loading import open_pipeline

    if not isinstance(prompt, str):
        raise InputError(f"the prompt must be a text; got {prompt!r}")
    options = options or GenerateOptions()
    model, runtime, precision = str(options.model), options.runtime, options.precision
    drawing = _drawing_options(options)
    path = installed_names().model(model, runtime, precision)
    out = local_path(options.out, "out")
    new_folder = _new_folder(out)
    places = output_paths(out, prompt, options.seeds)

    def save(picture: Picture) -> Path:
        if not is_chosen(out):
            return picture.save(places[picture.seed])
        place = places[picture.seed] = claimed(places[picture.seed])
        try:
            return picture.save(place)
        except BaseException:
            place.unlink(missing_ok=True)  # it is still empty
            raise

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module=r"genin\.")
        settings = EngineSettings(options.threads, max_memory=options.max_memory, pictures=options.count)
        with open_pipeline(path, runtime, precision, settings, options.device) as pipeline:
            pipeline.name = model
            start = time.perf_counter()
            generation, timings_ms = _draw(
                pipeline, prompt, options.seeds, drawing, lambda picture: written(save(picture))
            )
            seconds = time.perf_counter() - start
    notes = [] if new_folder is None else [f"made the folder {new_folder}"]
    return {
        "images": [str(places[seed]) for seed in options.seeds],
        "model": model,
        "seeds": list(options.seeds),
        "noise": options.noise,
        "image": None if options.image is None else str(options.image),
        "mask": None if options.mask is None else str(options.mask),
        **describe(pipeline, generation),
        "timings_ms": {stage: round(total, 3) for stage, total in timings_ms.items()},
        "seconds": round(seconds, 4),
        "notes": notes + list(dict.fromkeys(str(item.message) for item in caught)),
    }


def _drawing_options(options: GenerateOptions) -> Options:
    """What the pipeline is asked for, besides prompt and seeds; files are read once. Errors: InputError for an unusable one."""
    drawing: Options = {
        "steps": options.steps,
        "guidance_scale": options.guidance_scale,
        "noise": options.noise,
        "size": options.size,
        "strength": options.strength,
    }
    if options.image is not None:
        drawing["image"] = np.asarray(open_image(options.image, "image"))
    if options.mask is not None:
        drawing["mask"] = np.asarray(open_mask(options.mask))
    return drawing


def _draw(
    pipeline: Pipeline, prompt: str, seeds: range, drawing: Options, drawn: Callable[[Picture], object]
) -> tuple[Generation, dict[str, float]]:
    """The last batch, and milliseconds per stage over all: nothing else is kept, so that ten thousand pictures fit in memory."""
    timings_ms: dict[str, float] = defaultdict(float)
    for first in range(0, len(seeds), BATCH_SIZE):
        generation = pipeline.generate(prompt, seeds[first : first + BATCH_SIZE], **drawing)
        for picture in pipeline.pictures(generation):
            drawn(picture)
        for stage, spent_ms in generation.timings.items():
            timings_ms[stage] += spent_ms
    return generation, timings_ms


def describe(pipeline: Pipeline, generation: Generation) -> dict[str, Any]:
    """The report's fields about the pipeline and any of its generations."""
    height, width = generation.images.shape[1:3]
    return {
        "prompt": generation.prompts[0],
        "steps": generation.steps,
        "guidance_scale": generation.guidance_scale,
        "strength": generation.strength,
        "runtime": pipeline.runtime,
        "provider": pipeline.provider,
        "precision": pipeline.precision,
        "height": height,
        "width": width,
        "load_s": round(pipeline.load_s, 4),
    }


def output_paths(out: Path | None, prompt: str, seeds: range) -> dict[int, Path]:
    """Seed => the file for its picture; several get their seed in the name. A name that genin chooses never overwrites an existing
    picture. Errors: InputError before any work."""
    slug = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")[:60]
    slug = cut_to_bytes(slug, NAME_BYTES).rstrip("-") or "picture"
    if out is None or is_chosen(out):
        if out is not None:
            claim_output(out / slug)
        return {seed: _free((out or Path()) / f"{slug}-{seed}.png") for seed in seeds}
    claim_output(out, ".png")
    return {seed: out if len(seeds) == 1 else out.with_stem(f"{out.stem}-{seed}") for seed in seeds}


def is_chosen(out: Path | None) -> bool:
    """Whether genin chooses the names of pictures: `out` is no file's."""
    return out is None or out.is_dir() or not out.suffix


def claimed(path: Path) -> Path:
    """`path`, or the first free name after it, made as an empty file: of two commands at once each gets its own."""
    while True:
        path = _free(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(exist_ok=False)
        except FileExistsError:
            if path.parent.is_dir():
                continue
        except OSError:
            pass  # saving says why
        return path


def _new_folder(out: Path | None) -> Path | None:
    """The folder that will be made for `out`, to be reported: its name may be a typo."""
    if out is None or out.is_dir():
        return None
    folder = out.parent if out.suffix else out
    return None if folder.is_dir() else folder


def _free(path: Path) -> Path:
    """`path`, or the first of path (2), (3), … that is not there yet."""
    number, free = 1, path
    while os.path.lexists(free):  # also a link to what is not there
        number += 1
        free = path.with_stem(f"{path.stem} ({number})")
    return free

"""From prompts to pictures with one interface over engines: text, noise, sampling, guidance, previews, timings.

`generate` draws a batch, and `stream` does the same step by step. Everything outside the networks is numpy and the same
for every engine, so the same prompt, seed and steps give the same picture to rounding. Several threads may use one pipeline: its
networks run one at a time.

Not here: opening models and bundles (`loading`), what an engine does (`engine`), checks of arguments (`requests`), images and masks
to start from (`starts`), LoRA at run time.
"""

from __future__ import annotations

import importlib
import operator
import os
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar, Unpack, overload

import numpy as np

from genin.runtimes.arguments import is_whole, number, several, whole
from genin.runtimes.bundle import Bundle
from genin.runtimes.cancellation import Cancellation, check, interruptible, never
from genin.runtimes.engine import Array, BundleEngine, Engine
from genin.runtimes.errors import GeninError, InputError
from genin.runtimes.folder import is_model_folder
from genin.runtimes.forked import keep_in_forks
from genin.runtimes.manifest import ModelConstants, SingleGraphEntry
from genin.runtimes.noise import batch_normal
from genin.runtimes.origin import origin_of, weight_files
from genin.runtimes.picture_engine import PictureEngine
from genin.runtimes.pictures import Picture
from genin.runtimes.quiet import is_silent
from genin.runtimes.requests import Options, Request, check_options, prompts_and_seeds
from genin.runtimes.results import Generation, Pictures, StreamStep, generation_of, to_pictures
from genin.runtimes.samplers import END, Schedule, guide
from genin.runtimes.stage_clock import OTHER, StageClock
from genin.runtimes.starts import KnownLatents, Start, encoder_input, read_start, settled_strength, strengths
from genin.runtimes.tokenizer import ClipTokenizer
from genin.runtimes.vocabulary import TEXT_TO_IMAGE, VAE_ENCODER
from genin.runtimes.wording import counted, counted_each

MAX_SIDE = 2048

Result = TypeVar("Result")


@dataclass(frozen=True)
class Choice:
    """What runs a model: the runtime, how its weights are stored, and the format of a bundle's graphs."""

    runtime: str
    precision: str
    format: str = ""


class Pipeline:
    """A loaded model, made by `genin.load`; a context manager that frees the networks. `pipe("a ninja", seed=7)` is a `Picture`.

    Attributes:
        name: what the model was called when it was loaded.
        path: where it lies.
        runtime, precision: what draws, and how the weights are stored.
        provider: the device that the runtime got, as it calls it.
        load_s: seconds that loading took.
        image, latents, text, sampler: sizes and settings of the model, as in a bundle's manifest.
    """

    def __init__(
        self,
        path: Path,
        engine: Engine,
        tokenizer: ClipTokenizer,
        constants: ModelConstants,
        choice: Choice,
        bundle: Bundle | None = None,
    ) -> None:
        self.name = str(path)
        self.path, self.runtime, self.precision, self.provider = path, choice.runtime, choice.precision, engine.provider
        self.load_s = 0.0
        self.image, self.latents, self.text = constants.image, constants.latents, constants.text
        self.sampler = constants.sampler
        self._engine, self._tokenizer, self._bundle = engine, tokenizer, bundle
        self._single: Mapping[int, SingleGraphEntry] = {}
        self._takes_images = True
        if bundle is not None:
            self._takes_images = VAE_ENCODER in bundle.manifest.components(choice.format, choice.precision)
            self._single = bundle.manifest.steps_of_single_graphs(choice.format, choice.precision)
        self._place = path.absolute()  # the program may change its working folder
        self._weight_files = weight_files(self._place) if bundle is None and is_model_folder(path) else ()
        self._schedule = Schedule.from_config(self.sampler.scheduler)
        self._closed, self._process = False, os.getpid()
        # Engines keep their tensors between calls: two threads at once would draw each other's pictures.
        self._one_at_a_time = threading.Lock()
        keep_in_forks(self)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.height, self.image.width

    @property
    def default_steps(self) -> int:
        """The number of steps that is taken where none is given."""
        return self.sampler.default_steps

    @property
    def default_guidance_scale(self) -> float:
        """1.0 where guidance is baked into the weights."""
        return self.sampler.default_guidance_scale

    @property
    def takes_images(self) -> bool:
        """Whether drawing may start from an image: bundles may lack the encoder."""
        return self._takes_images

    def strengths(self, steps: int | None = None) -> tuple[float, ...]:
        """The strengths at which 1, 2, … `steps` steps are taken from an image. For a few-step student no others exist; for other
        models, those between take as many steps as the next lower.

        Errors: InputError for a number of steps that cannot be taken."""
        steps = self.default_steps if steps is None else whole(steps, "steps", 1, self._schedule.training_steps)
        return strengths(steps)

    # A str is also a Sequence[str]: the first overload that fits applies.
    @overload
    def __call__(self, prompt: str, *, seed: int = 0, **options: Unpack[Options]) -> Picture: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, prompt: str, *, seed: Sequence[int], **options: Unpack[Options]) -> list[Picture]: ...
    @overload
    def __call__(
        self, prompt: Sequence[str], *, seed: int | Sequence[int] = 0, **options: Unpack[Options]
    ) -> list[Picture]: ...
    def __call__(
        self, prompt: str | Sequence[str], *, seed: int | Sequence[int] = 0, **options: Unpack[Options]
    ) -> Picture | list[Picture]:
        """Draw one picture, or a list where `prompt` or `seed` is a sequence. Options and errors are those of `generate`."""
        pictures = self.pictures(self.generate(prompt, seed, **options))
        return pictures[0] if isinstance(prompt, str) and is_whole(seed) else pictures

    def pictures(self, generation: Generation) -> list[Picture]:
        """A generation's pictures, each with the settings that draw it again; the image and the mask are not among them."""
        height, width = generation.images.shape[1:3]
        common: dict[str, object] = {"steps": generation.steps, "guidance_scale": generation.guidance_scale}
        common |= {"size": (height, width), "noise": generation.noise}
        if generation.strength is not None:
            common["strength"] = generation.strength
        origin = {"model": self._shown_name(), "runtime": self.runtime, "precision": self.precision}
        origin |= origin_of(self._place, self._bundle, self._weight_files)
        each = zip(generation.images, generation.prompts, generation.seeds, strict=True)
        return [
            Picture(image.copy(), {"prompt": prompt, "seed": seed, **common}, origin) for image, prompt, seed in each
        ]

    def _shown_name(self) -> str:
        """What pictures say of the model: of a local path only the last part, as they may go to other people."""
        return self._place.resolve().name if Path(self.name).expanduser() == self.path else self.name

    def generate(
        self, prompt: str | Sequence[str], seed: int | Sequence[int] = 0, **options: Unpack[Options]
    ) -> Generation:
        """Draw one picture per prompt and seed, in one batch.

        Args:
            prompt: one text, which is drawn once per seed, or several.
            seed: one per prompt; a single seed s stands for s, s + 1, … over the prompts.
            steps: of the sampler; the model's own by default.
            guidance_scale: of classifier-free guidance; the model's own by default.
            size: (height, width) in pixels; the model's own by default.
            noise: `philox`, the default, or `torch` for noise as diffusers draws it.
            image: what to start from, in place of noise alone: a path, a `Picture`, a Pillow image or an array (H, W, 3) uint8. It
                is converted to RGB as `genin data prepare` does, scaled until it covers the size, and cut around its centre.
            strength: how much of the image is drawn anew, above 0 and at most 1: min(⌊steps · strength⌋, steps) steps are taken. By
                default 0.8, or 1 with a mask. A few-step student knows only those of `strengths`; its default is the nearest below.
            mask: of the image's size, in grey: white is drawn anew, black keeps the image's own pixels to the bit.
            cancel: asked before every network runs; the drawing ends where it returns True. A `Cancellation` ends a network inside,
                too. Unless it is another function, a bundle that has a single graph for so many steps, this guidance and this size
                draws with that one, if it does not start from an image.

        Errors: InputError for arguments out of range, or an image for a bundle without an encoder (`takes_images`), CancelledError,
            GeninError if the networks fail.
        """
        request, cancel = self._request(prompt, seed, options), options.get("cancel")
        if isinstance(self._engine, PictureEngine):
            return self._engine.generate(request, cancel or never)
        single, asked = self._single.get(request.steps), (request.guidance_scale, request.size)
        as_made = single is not None and (single.guidance_scale, self.image_size) == asked
        if (cancel is None or isinstance(cancel, Cancellation)) and as_made and request.start is None:
            return self._draw_at_once(request, cancel or never)
        done = deque(self._draw(request, cancel or never), maxlen=1)
        generation = done[-1].generation
        assert generation is not None
        return generation

    def stream(
        self, prompt: str | Sequence[str], seed: int | Sequence[int] = 0, **options: Unpack[Options]
    ) -> Iterator[StreamStep]:
        """`generate`, yielding after every step; its options. Arguments are checked at once, before the first step is asked for."""
        request, cancel = self._request(prompt, seed, options), options.get("cancel") or never
        if isinstance(self._engine, PictureEngine):
            return self._engine.stream(request, cancel)
        return self._draw(request, cancel)

    def close(self) -> None:
        """Free the networks and remove what was unpacked. In a process that was forked later both are left alone."""
        if not self._closed:
            self._closed = True
            if self._process == os.getpid():
                self._engine.close()
                if self._bundle is not None:
                    self._bundle.close()

    def __repr__(self) -> str:
        size = f"{self.image.width}x{self.image.height}"
        state = "closed" if self._closed else f"{self.runtime} {self.precision} on {self.provider}"
        return f"<Pipeline {self.name}: {state}, {size}, {counted(self.default_steps, 'step')}>"

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # --- drawing -----------------------------------------------------------------------------------------------------

    def _draw(self, request: Request, cancel: Callable[[], bool]) -> Iterator[StreamStep]:
        clock = StageClock(cancel)
        x = batch_normal(request.seeds, self._latents_of(request.size), mode=request.noise)
        empty, text = self._embed(request, clock)
        known = None
        if request.start is not None:
            known = KnownLatents(
                self._encode(request.start, clock), x, self._schedule, self._latent_mask(request.start)
            )
            x = known.at(request.timesteps[0][0])
        for index, (t, t_next) in enumerate(request.timesteps):
            x, x0 = self._schedule.step(self._predict(x, t, empty, text, request, clock), x, t, t_next)
            if known is not None:
                x, x0 = known.keep(x, t_next), known.keep(x0, END)
            generation = None
            preview = self._preview_of(x0, request.start, cancel)
            if index + 1 == len(request.timesteps):
                generation = self._finish(x, request, clock)
                preview = _already(generation.images)
            clock.lap(OTHER)
            yield StreamStep(index, len(request.timesteps), x, generation, preview)
            clock.resume()

    def _draw_at_once(self, request: Request, cancel: Callable[[], bool]) -> Generation:
        assert isinstance(self._engine, BundleEngine)
        clock = StageClock(cancel)
        noise = batch_normal(request.seeds, self.latents.shape, mode=request.noise)
        ids, steps = self._tokenizer(request.prompts), request.steps
        engine = self._engine
        pictures = self._run(TEXT_TO_IMAGE, lambda: engine.draw(ids, noise, steps), clock)
        self._check_shape(TEXT_TO_IMAGE, pictures, (len(noise), self.image.height, self.image.width, 3))
        clock.lap(OTHER)
        return generation_of(request, pictures, clock)

    def _embed(self, request: Request, clock: StageClock) -> tuple[Array | None, Array]:
        """Every distinct prompt is encoded once => (the empty prompt's embedding if guidance needs it, (N, L, D))."""
        guided = request.guidance_scale != 1.0
        distinct = list(dict.fromkeys([*request.prompts, *([""] if guided else [])]))
        ids = self._tokenizer(distinct)
        embeddings = self._run("text_encoder", lambda: self._engine.encode(ids), clock)
        self._check_shape("text_encoder", embeddings, (len(distinct), self.text.max_length, self.text.hidden_size))
        text = embeddings[[distinct.index(prompt) for prompt in request.prompts]]
        return (embeddings[[distinct.index("")]] if guided else None), text

    def _predict(
        self, x: Array, t: int, empty: Array | None, text: Array, request: Request, clock: StageClock
    ) -> Array:
        if empty is None:
            inputs, embeddings = x, text
        else:  # both branches of guidance in one batch, the empty prompt first
            inputs = np.concatenate([x, x])
            embeddings = np.concatenate([np.broadcast_to(empty, text.shape), text])
        prediction = self._run("unet", lambda: self._engine.predict(inputs, t, embeddings), clock)
        self._check_shape("unet", prediction, inputs.shape)
        if empty is None:
            return prediction
        return guide(prediction[: len(x)], prediction[len(x) :], request.guidance_scale)

    def _encode(self, start: Start, clock: StageClock) -> Array:
        """The image's latents (1, C, h, w), scaled as the UNet sees them."""
        pictures = encoder_input(start.image[None])
        latents = self._run(VAE_ENCODER, lambda: self._engine.encode_picture(pictures), clock)
        self._check_shape(VAE_ENCODER, latents, (1, *self._latents_of((pictures.shape[2], pictures.shape[3]))))
        return latents * np.float32(self.latents.scaling_factor)

    def _run(self, stage: str, network: Callable[[], Result], clock: StageClock) -> Result:
        """Run a network, whose time is the stage's. Errors: CancelledError."""
        check(clock.cancel)
        clock.lap(OTHER)
        with self._one_at_a_time, interruptible(clock.cancel, self._engine):
            result = network()
        clock.lap(stage)
        return result

    def _latent_mask(self, start: Start) -> Array | None:
        return None if start.mask is None else start.latent_mask(self._pixels_a_latent)

    def _decode(self, latents: Array, clock: StageClock) -> Array:
        scaled = latents * np.float32(1.0 / self.latents.scaling_factor)
        images = self._run("vae_decoder", lambda: self._engine.decode(scaled), clock)
        own = latents.shape[1:] == self.latents.shape
        size = self.image_size if own else tuple(side * self._pixels_a_latent for side in latents.shape[2:])
        self._check_shape("vae_decoder", images, (len(latents), 3, *size))
        return images

    @property
    def _pixels_a_latent(self) -> int:
        return self.image.height // self.latents.height

    def _latents_of(self, size: tuple[int, int]) -> tuple[int, int, int]:
        if size == self.image_size:
            return self.latents.shape
        height, width = (side // self._pixels_a_latent for side in size)
        return self.latents.channels, height, width

    def _finish(self, x: Array, request: Request, clock: StageClock) -> Generation:
        images = self._decode(x, clock)
        if not np.isfinite(images).all():
            raise GeninError("the model returned NaN or infinity", where=self.path, remedy="its weights are damaged")
        pictures = to_pictures(images)
        if request.start is not None:
            pictures = request.start.composite(pictures)
        clock.lap(OTHER)
        return generation_of(request, pictures, clock)

    def _preview_of(self, x0: Array, start: Start | None, cancel: Callable[[], bool]) -> Callable[[], Pictures]:
        def preview() -> Pictures:
            self._check_open()
            clock = StageClock(cancel if isinstance(cancel, Cancellation) else never)
            pictures = to_pictures(np.nan_to_num(self._decode(x0, clock)))
            return pictures if start is None else start.composite(pictures)

        return preview

    # --- checks ------------------------------------------------------------------------------------------------------

    def _request(self, prompts: str | Sequence[str], seeds: int | Sequence[int], options: Options) -> Request:
        self._check_open()
        check_options(options)
        prompts, seeds = prompts_and_seeds(prompts, seeds)
        size, steps = self._size(options.get("size")), options.get("steps")
        steps = self.default_steps if steps is None else whole(steps, "steps")
        timesteps, guidance_scale = self._timesteps(steps), self._guidance(options.get("guidance_scale"))
        image, mask, start, strength = options.get("image"), options.get("mask"), None, None
        if image is not None:
            self._check_takes_images()
            few, masked = str(steps) in self._few_steps, mask is not None
            strength, taken = settled_strength(options.get("strength"), steps, few=few, masked=masked)
            start, timesteps = read_start(image, mask, size), timesteps[len(timesteps) - taken :]
        noise = options.get("noise", "philox")
        if isinstance(self._engine, PictureEngine):
            self._tokenizer(prompts)  # warns of those that it cuts
        return Request(prompts, seeds, steps, timesteps, guidance_scale, noise, size, start, strength)

    def _size(self, size: tuple[int, int] | None) -> tuple[int, int]:
        if size is None:
            return self.image_size
        sides = several(size)
        if len(sides) != 2 or not all(map(is_whole, sides)):
            raise InputError(f"size must be (height, width) in whole pixels; got {size!r}")
        height, width = map(operator.index, sides)
        if (height, width) == self.image_size:
            return self.image_size
        step = self.image.multiple
        if step is None:
            own = f"{self.image.width}x{self.image.height}"
            raise InputError(
                f"this bundle draws {own} only",
                where=self.path,
                remedy="leave the size out, or export it again for any size",
            )
        if not all(step <= side <= MAX_SIDE and side % step == 0 for side in (height, width)):
            raise InputError(
                f"size {width}x{height} cannot be drawn", remedy=f"name multiples of {step} up to {MAX_SIDE}"
            )
        return height, width

    @property
    def _few_steps(self) -> Mapping[str, tuple[int, ...]]:
        return self.sampler.few_step_timesteps or {}

    def _timesteps(self, steps: int) -> tuple[tuple[int, int], ...]:
        few = self._few_steps
        if str(steps) in few:
            return self._schedule.explicit_steps(few[str(steps)])
        timesteps = self._schedule.steps(steps)
        if few and not is_silent():
            message = f"this student was trained for {counted_each(map(int, few), 'step')}, not for {steps}"
            warnings.warn(message, UserWarning, stacklevel=_stacklevel_of_caller())
        return timesteps

    def _guidance(self, scale: float | None) -> float:
        if scale is None:
            return self.default_guidance_scale
        scale = number(scale, "guidance_scale")
        if self.sampler.guidance == "baked" and scale != 1.0:
            raise InputError(
                f"guidance scale {scale:g}: guidance is baked into this student's weights",
                where=self.path,
                remedy="leave the guidance scale out",
            )
        return scale

    def _check_takes_images(self) -> None:
        if not self.takes_images:
            what = f"this bundle has no {VAE_ENCODER} graph, which an image needs"
            raise InputError(what, where=self.path, remedy="make one that has it: genin export MODEL --out BUNDLE")

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("the pipeline is closed", where=self.path, remedy="load it again")
        if self._process != os.getpid():  # engines' threads are not there, and their locks may be held for ever
            what = "the pipeline was loaded before this process was forked"
            raise InputError(what, where=self.path, remedy="load it in the new process, or start that by spawn")

    def _check_shape(self, component: str, array: Array | Pictures, shape: tuple[int, ...]) -> None:
        if array.shape != shape:
            raise GeninError(f"the {component} gave shape {array.shape}, expected {shape}", where=self.path)


def _stacklevel_of_caller() -> int:
    """The `stacklevel` with which a warning points to the first line outside this module."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") == __name__:
        level, frame = level + 1, frame.f_back
    return level


def _already(pictures: Pictures) -> Callable[[], Pictures]:
    return lambda: pictures


def __getattr__(name: str) -> object:
    """`load_pipeline` is in `loading`; programs that were written before it moved find it here, too."""
    if name == "load_pipeline":
        return importlib.import_module("genin.runtimes.loading").load_pipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""A call's arguments, checked and filled in, before any network runs.

Not here: what depends on the model: sizes, timesteps, guidance (`pipeline`); images and masks (`starts`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from genin.runtimes.arguments import is_whole
from genin.runtimes.errors import InputError
from genin.runtimes.noise import MODES, check_seed
from genin.runtimes.starts import Start, check_start_options
from genin.runtimes.vocabulary import check_choice, nearest
from genin.runtimes.wording import counted

if TYPE_CHECKING:
    from genin.runtimes.starts import ImageLike


@dataclass(frozen=True)
class Request:
    """A call's arguments, checked and filled in. `timesteps` are those of the steps that are taken, of `steps` as asked for.
    `start` and `strength` are None where a drawing starts from noise."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    timesteps: tuple[tuple[int, int], ...]
    guidance_scale: float
    noise: str
    size: tuple[int, int]  # height and width in pixels
    start: Start | None = None
    strength: float | None = None


class Options(TypedDict, total=False):
    """How to draw, besides prompt and seed (`Pipeline.generate`); all may be left out."""

    steps: int | None
    guidance_scale: float | None
    noise: str
    size: tuple[int, int] | None
    image: ImageLike | None
    strength: float | None
    mask: ImageLike | None
    cancel: Callable[[], bool] | None


def check_options(options: Options) -> None:
    """Errors: TypeError for an option that does not exist, InputError for one that cannot be what it is."""
    if unknown := sorted(set(options) - set(Options.__annotations__)):
        remedy = nearest(unknown[0], ("seed", *Options.__annotations__))
        raise TypeError(f"unexpected keyword argument '{unknown[0]}'; {remedy}")
    cancel = options.get("cancel")
    if cancel is not None and not callable(cancel):
        raise InputError("cancel must be a function without arguments, or None")
    check_choice(options.get("noise", "philox"), MODES, "noise mode")
    check_start_options(options)


def prompts_and_seeds(
    prompts: str | Sequence[str], seeds: int | Sequence[int]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """One prompt per seed: a single prompt is drawn once per seed, a single seed s stands for s, s + 1, … Errors: InputError."""
    given = prompts
    prompts = (prompts,) if isinstance(prompts, str) or not isinstance(prompts, Iterable) else tuple(prompts)
    if not prompts or isinstance(given, Mapping) or not all(isinstance(prompt, str) for prompt in prompts):
        raise InputError(f"prompts must be one text or several, not {given!r}")
    if is_whole(seeds) or not isinstance(seeds, Iterable):
        first = check_seed(seeds)
        seeds = tuple(check_seed(first + index) for index in range(len(prompts)))
    else:
        seeds = tuple(check_seed(seed) for seed in seeds)
    if len(prompts) == 1 and seeds:
        prompts = prompts * len(seeds)
    if len(seeds) != len(prompts):
        raise InputError(
            f"{counted(len(prompts), 'prompt')} and {counted(len(seeds), 'seed')}", remedy="give one seed per prompt"
        )
    return prompts, seeds

"""Recipes: every training setting of every stage, as frozen dataclasses read from one YAML file.

A recipe file holds one section a stage (`autoencoder`, `text_encoder`, `teacher`, `finetune`, `student`, `pool`, `prune`,
`steps`, `adversarial`); a section or key left out takes the default written here. An unknown key or a value of the wrong type is
refused before any work, with the names that would have been right. The resolved recipe is saved beside every result, so
that a model folder says by itself how it was made.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from genin.runtimes.errors import InputError


@dataclass(frozen=True)
class Optimisation:
    """What all stages share. `images` ends a stage; a `minutes` budget may end it sooner."""

    batch_size: int = 64
    images: int = 200_000
    lr: float = 5e-4
    lr_warmup_images: int = 6_400
    lr_final_fraction: float = 0.05  # cosine decay to this share of `lr`
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    mixed_precision: str = "bf16"  # "no" or "bf16"; fp16 is refused: adversarial training diverges in it
    compile: bool = False
    seed: int = 0
    checkpoint_minutes: float = 5.0
    preview_images: int = 32_000  # a grid and the curves each time this many images were seen
    cache_images: int = 40_000  # pictures rendered (or read) and encoded once before training


@dataclass(frozen=True)
class AutoencoderRecipe(Optimisation):
    image_size: int = 64
    channels: int = 32
    latent_channels: int = 4
    encoder_blocks: tuple[int, ...] = (1, 2, 3)
    decoder_blocks: tuple[int, ...] = (4, 4, 0)
    edge_weight: float = 0.5
    prior_weight: float = 0.05
    latent_noise: float = 0.05
    batch_size: int = 32
    lr: float = 1e-3
    images: int = 120_000
    cache_images: int = 24_000


@dataclass(frozen=True)
class TextEncoderRecipe(Optimisation):
    """Pre-training on the data set's attribute columns; afterwards it is frozen."""

    vocab_size: int = 1_400
    max_length: int = 48
    hidden_size: int = 192
    layers: int = 3
    heads: int = 6
    batch_size: int = 128
    images: int = 80_000
    lr: float = 1e-3


@dataclass(frozen=True)
class TeacherRecipe(Optimisation):
    """The UNet. `text_in_time` adds the pooled caption to the time embedding and lets both scale and shift every block
    (diffusers' `addition_embed_type="text"`), so that what a caption says reaches the resolutions without attention."""

    channels: tuple[int, ...] = (64, 128)
    layers_per_block: int = 2
    head_dim: int = 32
    norm_groups: int = 16
    text_in_time: bool = True
    caption_dropout: float = 0.1
    min_snr_gamma: float = 0.0  # 0: off (Hang et al. 2023, arXiv:2303.09556)
    guidance_scale: float = 2.0  # of the previews, and the model folder's default
    images: int = 600_000
    cache_images: int = 60_000
    batch_size: int = 32


@dataclass(frozen=True)
class FinetuneRecipe(Optimisation):
    """Tuning a teacher on new pictures."""

    lora_rank: int = 0  # 0: the whole UNet
    train_text_encoder: bool = False
    autoencoder_images: int = 0  # > 0: first go on training the autoencoder, for that many images
    caption_dropout: float = 0.1
    images: int = 60_000
    cache_images: int = 40_000
    lr: float = 1e-4


@dataclass(frozen=True)
class StudentRecipe:
    """Which of the teacher's blocks the student keeps. `name` is a preset of `genin.distill.student`."""

    name: str = "bk-small"


@dataclass(frozen=True)
class PoolRecipe:
    """Pictures of the guided teacher, sampled once: what the student is shown in the phases below."""

    size: int = 4_096
    teacher_steps: int = 8  # of DPM-Solver++(2M), which follows the same ODE as DDIM in far fewer steps
    guidance_scale: float = 0.0  # 0: the teacher's own
    batch_size: int = 64
    seed: int = 0


@dataclass(frozen=True)
class PruneRecipe(Optimisation):
    """Phase 1: the pruned network learns the guided teacher's prediction at every timestep."""

    output_weight: float = 1.0
    feature_weight: float = 0.0  # > 0 runs the teacher beside the student, for its block outputs
    batch_size: int = 32
    images: int = 60_000
    lr: float = 6e-4


@dataclass(frozen=True)
class StepsRecipe(Optimisation):
    """Phase 2: at each few-step timestep, from states of its own making, the student aims at the teacher's picture."""

    step_counts: tuple[int, ...] = (4, 2, 1)
    huber_c: float = 0.05
    batch_size: int = 32
    images: int = 120_000
    lr: float = 6e-4


@dataclass(frozen=True)
class AdversarialRecipe(Optimisation):
    """Phase 3: adversarial diffusion distillation (Sauer et al. 2023, arXiv:2311.17042)."""

    step_counts: tuple[int, ...] = (4, 2, 1)
    adversarial_weight: float = 0.05
    distillation_weight: float = 0.0  # the paper's term; it costs a guided pass of the teacher an update
    regression_weight: float = 1.0
    huber_c: float = 0.05
    discriminator_lr: float = 1e-3
    discriminator_updates: int = 2  # for each of the student
    discriminator_hidden: int = 96
    max_noise_timestep: int = 600  # pictures are re-noised up to this timestep before the discriminator sees them
    r1_weight: float = 0.1
    r1_every: int = 4
    mismatched_captions: float = 0.25  # share of the discriminator's fakes that are true pictures under wrong captions
    real_share: float = 1.0  # share of the real side that is true pictures; the rest are the teacher's
    batch_size: int = 32
    images: int = 60_000
    cache_images: int = 20_000
    lr: float = 1e-4
    ema_decay: float = 0.998


@dataclass(frozen=True)
class Recipe:
    autoencoder: AutoencoderRecipe = field(default_factory=AutoencoderRecipe)
    text_encoder: TextEncoderRecipe = field(default_factory=TextEncoderRecipe)
    teacher: TeacherRecipe = field(default_factory=TeacherRecipe)
    finetune: FinetuneRecipe = field(default_factory=FinetuneRecipe)
    student: StudentRecipe = field(default_factory=StudentRecipe)
    pool: PoolRecipe = field(default_factory=PoolRecipe)
    prune: PruneRecipe = field(default_factory=PruneRecipe)
    steps: StepsRecipe = field(default_factory=StepsRecipe)
    adversarial: AdversarialRecipe = field(default_factory=AdversarialRecipe)

    def as_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, ready for YAML and JSON."""
        return typing.cast("dict[str, Any]", _plain(dataclasses.asdict(self)))


# Smallest and largest value of the settings that have one, by name, in whatever section. Others are at least 0.
LIMITS: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(
        ("batch_size", "cache_images", "preview_images", "teacher_steps", "vocab_size", "r1_every"), (1, 1e9)
    ),
    **dict.fromkeys(
        ("size", "channels", "latent_channels", "layers", "heads", "hidden_size", "layers_per_block"), (1, 1e6)
    ),
    **dict.fromkeys(("head_dim", "norm_groups", "discriminator_hidden", "discriminator_updates"), (1, 1e6)),
    **dict.fromkeys(("ema_decay", "caption_dropout", "lr_final_fraction", "mismatched_captions", "real_share"), (0, 1)),
    "image_size": (8, 8192),
    "max_length": (3, 10_000),
    "step_counts": (1, 1000),
    "max_noise_timestep": (1, 1000),
}
T = TypeVar("T")


def load_recipe(path: Path | None) -> Recipe:
    """The recipe in a YAML file, or the defaults. Errors: InputError naming the key and what is allowed there."""
    if path is None:
        return Recipe()
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError("cannot read the recipe", where=path, remedy=str(error.strerror)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError("the recipe is not valid YAML", where=path, remedy=" ".join(str(error).split())) from error
    return _parse(Recipe, {} if data is None else data, "", path)


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe as YAML."""
    import yaml

    path.write_text(yaml.safe_dump(recipe.as_dict(), sort_keys=False), encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _parse(cls: type[T], data: Any, prefix: str, path: Path) -> T:
    if not isinstance(data, dict):
        raise InputError(f"section '{prefix or 'recipe'}' must be a mapping", where=path)
    hints = typing.get_type_hints(cls)
    known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in data.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if key not in known:
            near = difflib.get_close_matches(str(key), sorted(known), n=3, cutoff=0.4) or sorted(known)
            raise InputError(f"unknown key '{name}'", where=path, remedy=f"did you mean: {', '.join(near)}")
        hint = hints[key]
        values[key] = (
            _parse(hint, value, name, path)
            if isinstance(hint, type) and dataclasses.is_dataclass(hint)
            else _within(str(key), _convert(hint, value, name, path), name, path)
        )
    return cls(**values)


def _within(key: str, value: Any, name: str, path: Path) -> Any:
    """A value within its limits. Errors: InputError that names them."""
    low, high = LIMITS.get(key, (0, float("inf")))
    numbers = value if isinstance(value, tuple) else (value,)
    if isinstance(value, tuple) and not value:
        raise InputError(f"'{name}' is empty", where=path)
    for number in numbers:
        if isinstance(number, (int, float)) and not low <= number <= high:
            raise InputError(f"'{name}' must be from {low:g} to {high:g}, not {value!r}", where=path)
    return value


def _convert(hint: Any, value: Any, name: str, path: Path) -> Any:
    """Check one YAML value against its annotation; int passes for float, a list for a tuple."""
    if isinstance(hint, types.GenericAlias) or typing.get_origin(hint) is tuple:
        (item, _ellipsis) = typing.get_args(hint)
        if isinstance(value, (list, tuple)):
            return tuple(_convert(item, v, name, path) for v in value)
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif (hint is int and isinstance(value, int) and not isinstance(value, bool)) or (
        hint in (bool, str) and isinstance(value, hint)
    ):
        return value
    wanted = getattr(hint, "__name__", str(hint))
    raise InputError(f"'{name}' must be {wanted}, not {value!r}", where=path)

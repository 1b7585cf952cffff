"""Recipes: every training setting of every stage, as frozen dataclasses read from one YAML file.

A recipe file holds one section a stage (`autoencoder`, `text_encoder`, `teacher`, `finetune`, `student`, `pool`, `prune`,
`steps`, `adversarial`, `alignment`, `decoder`); a section or key left out takes the default written here. An unknown key or a
value of the wrong type is refused before any work, with the names that would have been right. The resolved recipe is saved
beside every result, so that a model folder says by itself how it was made.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from genin.runtimes.errors import InputError

T = TypeVar("T")


def key(default: T, says: str) -> T:
    """A setting, its default, and what docs/recipes.md says of it."""
    return field(default=default, metadata={"says": says})


CHECKPOINTING = (
    "compute activations again on the way back instead of keeping them: a third more work, a fraction of the memory"
)


@dataclass(frozen=True)
class Optimisation:
    """What all trainings share. `images` ends one; a budget in minutes may end it sooner."""

    batch_size: int = key(64, "captioned pictures in an update, over all processes")
    images: int = key(200_000, "pictures seen before the training ends; 0 leaves a phase out")
    accumulate: int = key(
        1,
        "parts that a process's share of the batch is worked through in, one after the other: a large batch in little memory",
    )
    lr: float = key(5e-4, "peak learning rate of AdamW")
    optimizer: str = key(
        "adamw",
        '"adamw", or "adamw8bit": its moments in 8 bits (Dettmers et al. 2022, arXiv:2110.02861), by bitsandbytes',
    )
    lr_warmup_images: int = key(
        6_400, "pictures over which the rate rises to its peak (a twentieth of the run at most)"
    )
    lr_final_fraction: float = key(0.05, "share of the peak where its cosine decay ends")
    weight_decay: float = key(0.0, "decoupled weight decay")
    clip_norm: float = key(1.0, "largest norm of a gradient; longer ones are scaled down to it")
    ema_decays: tuple[float, ...] = key(
        (0.999,),
        "decays of the weights' moving averages; the better on held-out pictures is kept, or the first where none are looked at",
    )
    mixed_precision: str = key("bf16", '"bf16" or "no"; fp16 is refused: adversarial training diverges in it')
    compile: bool = key(False, "torch.compile the network; pays on GPUs only")
    seed: int = key(0, "of everything random in the training")
    checkpoint_minutes: float = key(5.0, "between two checkpoints")
    preview_images: int = key(
        32_000,
        "pictures seen between two grids of samples, each with the next row of the log (one every 50 updates)",
    )
    cache_images: int = key(40_000, "pictures read (or rendered) and encoded once before the training")
    keep_averages: bool = key(
        False, "keep the first average's weights at every grid of samples, for a curve of quality over time"
    )


@dataclass(frozen=True)
class AutoencoderRecipe(Optimisation):
    """Pictures into latents of a quarter of their side, and back: an `AutoencoderTiny`."""

    image_size: int = key(64, "side of the pictures in pixels; the teacher's, too")
    channels: int = key(32, "width of encoder and decoder")
    latent_channels: int = key(4, "numbers a place of the latents; more are sharper")
    encoder_blocks: tuple[int, ...] = key((1, 2, 3), "residual blocks a level, going down")
    decoder_blocks: tuple[int, ...] = key((4, 4, 0), "residual blocks a level, going up")
    edge_weight: float = key(0.5, "weight of the loss on differences between neighbouring pixels")
    prior_weight: float = key(0.05, "weight of the pull of latents towards mean 0 and variance 1")
    latent_noise: float = key(0.05, "standard deviation of noise on the latents in training, which decoders must bear")
    batch_size: int = 32
    lr: float = 1e-3
    images: int = 120_000
    cache_images: int = 24_000


@dataclass(frozen=True)
class TextEncoderRecipe(Optimisation):
    """A small CLIP text model, pre-trained to tell the data set's attribute columns; frozen afterwards."""

    vocab_size: int = key(1_400, "byte pairs at most")
    max_length: int = key(48, "tokens of a caption; longer ones are cut")
    hidden_size: int = key(192, "width of the states that the UNet reads")
    layers: int = key(3, "transformer layers")
    heads: int = key(6, "attention heads")
    batch_size: int = 128
    images: int = 80_000
    lr: float = 1e-3


@dataclass(frozen=True)
class TeacherRecipe(Optimisation):
    """The teacher's UNet."""

    channels: tuple[int, ...] = key((64, 128), "width of each level, the finest first")
    layers_per_block: int = key(2, "residual blocks a level")
    head_dim: int = key(32, "channels of an attention head")
    norm_groups: int = key(16, "groups of the normalisations")
    text_in_time: bool = key(
        True, "add the pooled caption to the time embedding, so that it reaches the levels without attention"
    )
    caption_dropout: float = key(0.1, "share of the captions that are left out, for guidance")
    min_snr_gamma: float = key(0.0, "min-SNR weighting (Hang et al. 2023, arXiv:2303.09556); 0 is off")
    aspect_buckets: bool = key(
        False,
        "wide and tall pictures of a folder keep their shape: an update sees one of a few shapes of about the same area",
    )
    guidance_scale: float = key(2.0, "of the previews, and the model folder's default")
    images: int = 600_000
    cache_images: int = 60_000
    batch_size: int = 32


@dataclass(frozen=True)
class FinetuneRecipe(Optimisation):
    """Tuning a teacher on new pictures."""

    lora_rank: int = key(0, "tune low-rank adapters of this rank and merge them; 0 tunes the whole UNet")
    train_text_encoder: bool = key(False, "let the text encoder learn, too: by adapters, where the UNet does")
    autoencoder_images: int = key(0, "pictures on which the autoencoder is trained before the UNet")
    caption_dropout: float = key(0.1, "share of the captions that are left out, for guidance")
    aspect_buckets: bool = key(
        False,
        "wide and tall pictures of a folder keep their shape: an update sees one of a few shapes of about the same area",
    )
    min_snr_gamma: float = key(0.0, "min-SNR weighting (Hang et al. 2023, arXiv:2303.09556), 5 in the paper; 0 is off")
    noise_offset: float = key(
        0.0,
        "deviation of a constant a picture and channel that is added to the noise, for darker darks (Guttenberg 2023, "
        "crosslabs.org/blog/diffusion-with-offset-noise), 0.1 there; 0 is off",
    )
    cache_texts: bool = key(
        True,
        "embed each caption once, where the text encoder is frozen and captions stay as they are (a dataset folder's); it then "
        "leaves the device",
    )
    gradient_checkpointing: bool = key(False, CHECKPOINTING)
    frozen_precision: str = key(
        "bf16",
        'of the weights that adapters stand beside, in training: "bf16" (the same bits under mixed_precision bf16, and half '
        'the memory; without that it has no effect) or "no"',
    )
    validation_prompts: tuple[str, ...] = key((), "what the grids of samples show; empty: the first captions")
    held_out_images: int = key(
        64,
        "captions of the val split, as far as it has them, that are drawn in 8 guided steps at every grid of samples, to choose "
        "the best checkpoint by; 0 for none",
    )
    images: int = 60_000
    cache_images: int = 40_000
    lr: float = 1e-4


@dataclass(frozen=True)
class StudentRecipe:
    """What stays of the teacher's UNet."""

    name: str = key("bk-small", "a preset of genin.distill.models.pruning, below")
    width: float = key(0.0, "share of their channels that the levels below the finest keep; 0: the preset's")
    top_width: float = key(0.0, "the same of the finest level")

    def __str__(self) -> str:
        widths = {"width": self.width, "top_width": self.top_width}
        return ", ".join([self.name, *(f"{name} {value:g}" for name, value in widths.items() if value)])


@dataclass(frozen=True)
class PoolRecipe:
    """Pictures of the guided teacher, sampled once: what the student is shown in the phases below."""

    size: int = key(4_096, "pictures; too few and the student learns them by heart")
    teacher_steps: int = key(8, "of DPM-Solver++(2M), at DDIM's timesteps")
    guidance_scale: float = key(0.0, "0 is the teacher's own")
    batch_size: int = key(64, "pictures sampled at once")
    teacher_precision: str = key(
        "no", '"bf16" keeps the frozen teacher\'s weights in half the memory, throughout the distillation; "no" in fp32'
    )
    seed: int = key(0, "of the noise")


@dataclass(frozen=True)
class PruneRecipe(Optimisation):
    """Phase 1: the pruned network learns the guided teacher's prediction at every timestep."""

    output_weight: float = key(1.0, "weight of the distance between the predictions")
    random_conditioning: float = key(
        0.0,
        "largest share of pictures shown with another picture's caption, reached at the most noise (arXiv:2504.02011); costs a "
        "guided pass of the teacher for each of them",
    )
    feature_weight: float = key(0.0, "weight of the distance between block outputs; above 0 the teacher runs along")
    gradient_checkpointing: bool = key(False, CHECKPOINTING)
    batch_size: int = 32
    images: int = 60_000
    lr: float = 6e-4


@dataclass(frozen=True)
class StepsRecipe(Optimisation):
    """Phase 2: at each few-step timestep, from states of its own making, the student aims at the teacher's picture."""

    step_counts: tuple[int, ...] = key(
        (4, 2, 1), "numbers of steps that are trained, in turn; the largest is the default"
    )
    regression_weight: float = key(1.0, "weight of the distance to the teacher's picture, number by number")
    huber_c: float = key(0.05, "where that distance, a pseudo-Huber, turns from square to absolute")
    backward_distillation: bool = key(
        False,
        "every step but the first aims at where the guided teacher goes from the student's own state there, in place of the "
        "pair's picture (Kohler et al. 2024, arXiv:2405.05224); costs guided passes of the teacher",
    )
    rollout: bool = key(
        True,
        "train every step but the first where the student itself arrives; false: at the teacher's picture, noised afresh",
    )
    consistency_weight: float = key(
        0.0,
        "weight of guided consistency along the pool's trajectories: from two neighbouring states of one the student must reach "
        "the same next few-step state (Song et al. 2023, arXiv:2303.01469; in segments, Kim et al. 2024, arXiv:2310.02279)",
    )
    perceptual_weight: float = key(0.0, "weight of the distance to the teacher's picture in features; 0 leaves it out")
    perceptual_features: str = key(
        "teacher", '"teacher": those of its own encoder; "lpips": the published network on decoded pictures'
    )
    perceptual_weights: str = key("", "folder that holds LPIPS's weights; empty: GENIN_METRIC_WEIGHTS, else a download")
    gradient_checkpointing: bool = key(False, CHECKPOINTING)
    max_noise_timestep: int = key(
        60, "pictures are noised again up to this timestep before the teacher's encoder sees them"
    )
    held_out_images: int = key(
        512,
        "captions of the val split that are drawn at every grid of samples, to choose the best checkpoint by; 0 for none",
    )
    ema_decays: tuple[float, ...] = (0.999, 0.99)
    batch_size: int = 32
    images: int = 120_000
    lr: float = 6e-4


@dataclass(frozen=True)
class AdversarialRecipe(StepsRecipe):
    """Phase 3: the second with a discriminator, adversarial diffusion distillation (Sauer et al. 2023, arXiv:2311.17042) in
    the teacher's features (2024, arXiv:2403.12015). It has the second's keys, and takes over none of its values."""

    backward_distillation: bool = True
    perceptual_weight: float = 4.0
    adversarial_weight: float = key(0.1, "weight of the discriminator's word")
    discriminator: str = key(
        "teacher", 'where it looks: "teacher", its encoder on noised latents; "dinov2", on decoded pictures'
    )
    discriminator_weights: str = key("facebook/dinov2-small", "folder or hub name of the DINOv2")
    multi_scale: bool = key(True, "a head on every one of those feature maps; false: on the finest alone")
    distillation_weight: float = key(0.0, "weight of the paper's distillation term; costs a guided pass of the teacher")
    matching_weight: float = key(
        0.0,
        "weight of distribution matching (Yin et al. 2024, arXiv:2311.18828); above 0 a copy of the teacher is trained along on "
        "the student's pictures",
    )
    fake_score_rank: int = key(
        0,
        "0: that copy is whole; above, low-rank adapters of this rank on the teacher's own weights, a hundredth of the memory",
    )
    fake_score_lr: float = key(2e-4, "learning rate of that copy")
    fake_score_updates: int = key(1, "its updates for each of the student's")
    discriminator_lr: float = key(1e-3, "its learning rate")
    discriminator_hidden: int = key(64, "width of its heads")
    r1_weight: float = key(0.1, "weight of the gradient penalty on true pictures")
    r1_every: int = key(4, "updates from one penalty to the next")
    mismatched_captions: float = key(
        0.0, "share of its fakes that are true pictures under other captions, which must say enough not to fit"
    )
    real_share: float = key(1.0, "share of its true side that is data; the rest are the teacher's pictures")
    alignment_weight: float = key(
        0.0, "weight of the picture's own caption being told among others, by the model below"
    )
    alignment_model: str = key("", "folder or hub name of a CLIP; empty: one trained on the set (section alignment)")
    images: int = 60_000
    lr: float = 4e-4


@dataclass(frozen=True)
class AlignmentRecipe(Optimisation):
    """A small model of pictures and texts, trained on the set where `adversarial.alignment_weight` asks for one."""

    channels: int = key(48, "width of its finest level")
    embedding: int = key(128, "size of the space that pictures and texts share")
    noise: float = key(0.2, "standard deviation of noise on the latents in training")
    batch_size: int = 128
    lr: float = 1e-3
    images: int = 120_000


@dataclass(frozen=True)
class DecoderRecipe(Optimisation):
    """Phase 4: a tiny decoder in place of the teacher's, from true pictures and the student's own latents."""

    channels: int = key(16, "its width")
    blocks: tuple[int, ...] = key(
        (4, 4, 0), "its residual blocks a level, the coarsest first; each further level doubles the side"
    )
    edge_weight: float = key(0.5, "weight of the loss on differences between neighbouring pixels")
    latent_noise: float = key(0.05, "standard deviation of noise on the latents of true pictures")
    batch_size: int = 32
    lr: float = 1e-3
    images: int = 0
    cache_images: int = 24_000


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
    alignment: AlignmentRecipe = field(default_factory=AlignmentRecipe)
    decoder: DecoderRecipe = field(default_factory=DecoderRecipe)

    def as_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, ready for YAML and JSON."""
        return typing.cast("dict[str, Any]", plain(dataclasses.asdict(self)))


# What settings that are names may be.
CHOICES: Mapping[str, tuple[str, ...]] = {
    "mixed_precision": ("bf16", "no"),
    "teacher_precision": ("bf16", "no"),
    "optimizer": ("adamw", "adamw8bit"),
    "frozen_precision": ("bf16", "no"),
    "perceptual_features": ("teacher", "lpips"),
    "discriminator": ("teacher", "dinov2"),
}

# Lists that may hold nothing.
MAY_BE_EMPTY = {"validation_prompts"}

# Smallest and largest value of the settings that have one, by name, in whatever section. Others are at least 0.
LIMITS: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(
        ("batch_size", "accumulate", "cache_images", "preview_images", "r1_every", "fake_score_updates"), (1, 1e9)
    ),
    **dict.fromkeys(
        ("size", "channels", "latent_channels", "layers", "heads", "hidden_size", "layers_per_block"), (1, 1e6)
    ),
    **dict.fromkeys(("head_dim", "norm_groups", "discriminator_hidden", "embedding"), (1, 1e6)),
    **dict.fromkeys(
        (
            "ema_decays",
            "caption_dropout",
            "lr_final_fraction",
            "mismatched_captions",
            "real_share",
            "random_conditioning",
            "width",
            "top_width",
        ),
        (0, 1),
    ),
    "image_size": (8, 8192),
    "max_length": (3, 10_000),
    "teacher_steps": (1, 64),  # more of them would share timesteps
    "vocab_size": (300, 1e6),  # its bytes and a few pieces
    "step_counts": (1, 1000),
    "max_noise_timestep": (1, 1000),
}


class RecipeLoader(yaml.SafeLoader):
    """PyYAML's safe loader with two rules of YAML 1.2: `1e-4` is a number, and no key stands twice in a mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:  # before keys merged by `<<` are added, which may be overridden
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != "tag:yaml.org,2002:merge":
                if key_node.value in seen:
                    problem = f"the key '{key_node.value}' is repeated"
                    raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key_node.start_mark)
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


class RecipeDumper(yaml.SafeDumper):
    """Quotes the text that `RecipeLoader` would take for a number."""


EXPONENT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")
for resolver in (RecipeLoader, RecipeDumper):
    resolver.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+.0123456789"))


def load_recipe(path: Path | None) -> Recipe:
    """The recipe in a YAML file, or the defaults. Errors: InputError naming the key and what is allowed there."""
    if path is None:
        return Recipe()
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), RecipeLoader)
    except OSError as error:
        raise InputError("cannot read the recipe", where=path, remedy=str(error.strerror)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError("the recipe is not valid YAML", where=path, remedy=" ".join(str(error).split())) from error
    return _parse(Recipe, {} if data is None else data, "", path)


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe as YAML."""
    path.write_text(yaml.dump(recipe.as_dict(), Dumper=RecipeDumper, sort_keys=False), encoding="utf-8")


def plain(value: Any) -> Any:
    """With lists for tuples, as YAML and JSON have them."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


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
    """A value within its limits or choices. Errors: InputError that names them."""
    if key in CHOICES and value not in CHOICES[key]:
        allowed = " or ".join(CHOICES[key])
        raise InputError(f"'{name}' must be {allowed}, not {value!r}", where=path)
    low, high = LIMITS.get(key, (0, float("inf")))
    numbers = value if isinstance(value, tuple) else (value,)
    if isinstance(value, tuple) and not value and key not in MAY_BE_EMPTY:
        raise InputError(f"'{name}' is empty", where=path)
    for number in numbers:
        if not isinstance(number, (int, float)):
            continue
        if not math.isfinite(number):
            raise InputError(f"'{name}' must be a finite number, not {value!r}", where=path)
        if not low <= number <= high:
            allowed = f"at least {low:g}" if math.isinf(high) else f"from {low:g} to {high:g}"
            raise InputError(f"'{name}' must be {allowed}, not {value!r}", where=path)
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

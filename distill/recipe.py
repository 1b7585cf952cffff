"""Recipes: every training setting of every stage, as frozen dataclasses read from one YAML file.

A recipe file holds one section per stage (`autoencoder`, `text_encoder`, `teacher`, `finetune`, `student`, `pool`, `prune`,
`steps`, `adversarial`, `alignment`, `decoder`); a section or key left out takes the default written here. An unknown key, or a
value of the wrong type or out of its limits, is refused before any work, with its line and the allowed values. The
resolved recipe is saved beside every result, so that a model folder says by itself how it was made.

Not here: how settings are checked (`recipe_fields`), YAML (`recipe_yaml`), the page and the schema (`recipe_docs`).
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, Strict, TypeAdapter, ValidationError

from genin.distill.recipe_fields import (
    AtLeastOne,
    Count,
    Flag,
    Number,
    Positive,
    Several,
    Share,
    Size,
    Text,
    WithoutTitles,
    key,
    refusal,
    section,
)
from genin.distill.recipe_yaml import read_yaml, write_yaml

Precision = Literal["bf16", "no"]
Timestep = Annotated[int, Strict(), Field(ge=1, le=1000)]

CHECKPOINTING = (
    "recompute activations in the backward pass instead of keeping them: a third more work, a fraction of the memory"
)


@section
class Optimisation:
    """What all trainings share. `images` ends one; a budget in minutes may end it sooner."""

    batch_size: Positive = key(64, "captioned pictures in an update, over all processes")
    images: Count = key(200_000, "pictures seen before the training ends; 0 leaves a phase out")
    accumulate: Positive = key(
        1,
        "gradient accumulation steps per process: a large batch in little memory",
    )
    lr: Number = key(5e-4, "peak learning rate of AdamW")
    optimizer: Literal["adamw", "adamw8bit"] = key(
        "adamw",
        '"adamw", or "adamw8bit": its moments in 8 bits (Dettmers et al. 2022, arXiv:2110.02861), by bitsandbytes',
    )
    lr_warmup_images: Count = key(
        6_400, "pictures over which the rate rises to its peak (a twentieth of the run at most)"
    )
    lr_final_fraction: Share = key(0.05, "share of the peak where its cosine decay ends")
    weight_decay: Number = key(0.0, "decoupled weight decay")
    clip_norm: Number = key(1.0, "largest norm of a gradient; longer ones are scaled down to it")
    ema_decays: AtLeastOne[Share] = key(
        (0.999,),
        "decays of the weights' moving averages; the better on held-out pictures is kept, or the first without held-out pictures",
    )
    mixed_precision: Precision = key("bf16", '"bf16" or "no"; fp16 is refused: adversarial training diverges in it')
    compile: Flag = key(False, "torch.compile the network; worthwhile on GPUs only")
    seed: Count = key(0, "of everything random in the training")
    checkpoint_minutes: Number = key(5.0, "between two checkpoints")
    preview_images: Positive = key(
        32_000,
        "pictures seen between two grids of samples, each with the next row of the log (one every 50 updates)",
    )
    cache_images: Positive = key(40_000, "pictures read (or rendered) and encoded once before the training")
    keep_averages: Flag = key(
        False, "keep the first average's weights at every grid of samples, for a curve of quality over time"
    )


@section
class AutoencoderRecipe(Optimisation):
    """Pictures into latents, and back: an `AutoencoderTiny`. Every level but the first halves the side."""

    image_size: Annotated[int, Strict(), Field(ge=8, le=8192)] = key(
        64, "side of the pictures in pixels; the teacher's, too"
    )
    channels: Size = key(32, "width of encoder and decoder")
    latent_channels: Size = key(4, "channels of the latents; more are sharper")
    encoder_blocks: AtLeastOne[Count] = key((1, 2, 3), "residual blocks per level, going down")
    decoder_blocks: AtLeastOne[Count] = key((4, 4, 0), "residual blocks per level, going up")
    initial_weights: Text = key(
        "",
        "folder with weights to start from: an `AutoencoderTiny` of diffusers, or NAME_encoder.pth and NAME_decoder.pth of the "
        "TAESD family; channels and blocks must be theirs",
    )
    crop: Count = key(0, "side of a random square of each picture that an update sees; 0 is the whole picture")
    edge_weight: Number = key(0.5, "weight of the loss on differences between neighbouring pixels")
    prior_weight: Number = key(0.05, "weight of the pull of latents towards mean 0 and variance 1")
    scale_weight: Number = key(
        0.0,
        "weight of the distance between the shrunk picture and what is decoded from equally shrunk latents, by 2 or 4: latents "
        "with less high frequency are easier to diffuse (Skorokhodov et al. 2025, arXiv:2502.14831)",
    )
    latent_noise: Number = key(0.05, "deviation of noise on the latents, a share of theirs, which decoders must bear")
    latent_noise_max: Number = key(
        0.0,
        "above 0, every other picture gets noise of a deviation between 0 and this instead (cf. Yang et al. 2025, "
        "arXiv:2507.15856)",
    )
    channel_dropout: Share = key(
        0.0,
        "share of the pictures that are decoded from their first channels alone, a quarter, half or three quarters of them, so "
        "that coarse things come first (cf. Chen et al. 2025, arXiv:2508.00413)",
    )
    principal_axes: Flag = key(
        False,
        "latents in the order of their principal axes and with one scale, in place of unit variance each; set prior_weight to 0",
    )
    batch_size: int = 32
    lr: float = 1e-3
    images: int = 120_000
    cache_images: int = 24_000


@section
class TextEncoderRecipe(Optimisation):
    """A small CLIP text model, pre-trained to predict the data set's attribute columns; frozen afterwards."""

    vocab_size: Annotated[int, Strict(), Field(ge=300, le=10**6)] = key(1_400, "byte pairs at most")
    max_length: Annotated[int, Strict(), Field(ge=3, le=10_000)] = key(48, "tokens of a caption; longer ones are cut")
    hidden_size: Size = key(192, "width of the states that the UNet reads")
    layers: Size = key(3, "transformer layers")
    heads: Size = key(6, "attention heads")
    batch_size: int = 128
    images: int = 80_000
    lr: float = 1e-3


@section
class TeacherRecipe(Optimisation):
    """The teacher's UNet."""

    channels: AtLeastOne[Size] = key((64, 128), "width of each level, the finest first")
    layers_per_block: Size = key(2, "residual blocks per level")
    head_dim: Size = key(32, "channels of an attention head")
    norm_groups: Size = key(16, "groups of the normalisations")
    text_in_time: Flag = key(
        True, "add the pooled caption to the time embedding, so that it reaches the levels without attention"
    )
    caption_dropout: Share = key(0.1, "share of the captions that are left out, for guidance")
    min_snr_gamma: Number = key(0.0, "min-SNR weighting (Hang et al. 2023, arXiv:2303.09556); 0 is off")
    aspect_buckets: Flag = key(
        False,
        "wide and tall pictures of a folder keep their shape: an update sees one of a few shapes of about the same area",
    )
    guidance_scale: Number = key(2.0, "of the previews, and the model folder's default")
    images: int = 600_000
    cache_images: int = 60_000
    batch_size: int = 32


@section
class FinetuneRecipe(Optimisation):
    """Fine-tuning a teacher on new pictures."""

    lora_rank: Count = key(0, "tune low-rank adapters of this rank and merge them; 0 tunes the whole UNet")
    train_text_encoder: Flag = key(False, "let the text encoder learn, too: by adapters, where the UNet does")
    autoencoder_images: Count = key(0, "pictures on which the autoencoder is trained before the UNet")
    caption_dropout: Share = key(0.1, "share of the captions that are left out, for guidance")
    aspect_buckets: Flag = key(
        False,
        "wide and tall pictures of a folder keep their shape: an update sees one of a few shapes of about the same area",
    )
    min_snr_gamma: Number = key(0.0, "min-SNR weighting (Hang et al. 2023, arXiv:2303.09556), 5 in the paper; 0 is off")
    noise_offset: Number = key(
        0.0,
        "deviation of a constant per picture and channel that is added to the noise, for darker darks (Guttenberg 2023, "
        "crosslabs.org/blog/diffusion-with-offset-noise), 0.1 there; 0 is off",
    )
    cache_texts: Flag = key(
        True,
        "embed each caption once, where the text encoder is frozen and captions stay as they are (a dataset folder's); it then "
        "leaves the device",
    )
    gradient_checkpointing: Flag = key(False, CHECKPOINTING)
    frozen_precision: Precision = key(
        "bf16",
        'of the weights that adapters stand beside, in training: "bf16" (the same bits under mixed_precision bf16, in half '
        'the memory; no effect otherwise) or "no"',
    )
    validation_prompts: Several[Text] = key((), "what the grids of samples show; empty: the first captions")
    held_out_images: Count = key(
        64,
        "captions of the val split, as far as it has them, that are drawn in 8 guided steps at every grid of samples, to choose "
        "the best checkpoint by; 0 for none",
    )
    images: int = 60_000
    cache_images: int = 40_000
    lr: float = 1e-4


@section
class StudentRecipe:
    """The blocks and channels kept of the teacher's UNet."""

    name: Text = key("bk-small", "a preset of genin.distill.models.pruning, below")
    width: Share = key(0.0, "share of their channels that the levels below the finest keep; 0: the preset's")
    top_width: Share = key(0.0, "the same of the finest level")

    def __str__(self) -> str:
        widths = {"width": self.width, "top_width": self.top_width}
        return ", ".join([self.name, *(f"{name} {value:g}" for name, value in widths.items() if value)])


@section
class PoolRecipe:
    """Pictures of the guided teacher, sampled once: what the student is shown in the phases below."""

    size: Size = key(4_096, "number of pictures; with too few the student overfits")
    teacher_steps: Annotated[int, Strict(), Field(ge=1, le=64)] = key(8, "of DPM-Solver++(2M), at DDIM's timesteps")
    guidance_scale: Number = key(0.0, "0 is the teacher's own")
    batch_size: Positive = key(64, "pictures sampled at once")
    inverted: Count = key(
        0,
        "further pairs, of true pictures: each with the noise that the teacher's ODE leads back to (Balanced Conic Rectified Flow, "
        "2025, arXiv:2510.25229)",
    )
    inverted_steps: Annotated[int, Strict(), Field(ge=1, le=64)] = key(16, "steps of that way back")
    inverted_jitter: Share = key(
        0.2, "largest share of fresh noise that is mixed into an inverted one whenever it is used, along the sphere"
    )
    teacher_precision: Precision = key(
        "no", '"bf16" keeps the frozen teacher\'s weights in half the memory, throughout the distillation; "no" in fp32'
    )
    seed: Count = key(0, "of the noise")


@section
class PruneRecipe(Optimisation):
    """Phase 1: the pruned network learns the guided teacher's prediction at every timestep."""

    output_weight: Number = key(1.0, "weight of the distance between the predictions")
    random_conditioning: Share = key(
        0.0,
        "largest share of pictures shown with another picture's caption, reached at the most noise (arXiv:2504.02011); costs a "
        "guided pass of the teacher for each of them",
    )
    feature_weight: Number = key(
        0.0, "weight of the distance between block outputs; above 0 the teacher runs in every update"
    )
    gradient_checkpointing: Flag = key(False, CHECKPOINTING)
    batch_size: int = 32
    images: int = 60_000
    lr: float = 6e-4


@section
class StepsRecipe(Optimisation):
    """Phase 2: at each few-step timestep, from states that it has produced itself, the student learns the teacher's picture."""

    step_counts: AtLeastOne[Timestep] = key(
        (4, 2, 1), "numbers of steps that are trained, in turn; the largest is the default"
    )
    regression_weight: Number = key(1.0, "weight of the distance to the teacher's picture, per latent value")
    regression_final_share: Share = key(
        1.0,
        "share of regression_weight that is left at the end: it falls over the last third, since pairs bind a student to optima of "
        "its teacher that it cannot reach (Zheng & Yang 2024, arXiv:2405.20750)",
    )
    huber_c: Number = key(0.05, "threshold of that pseudo-Huber distance between quadratic and linear")
    backward_distillation: Flag = key(
        False,
        "every step but the first aims at where the guided teacher goes from the student's own state there, in place of the "
        "pair's picture (Kohler et al. 2024, arXiv:2405.05224); costs guided passes of the teacher",
    )
    rollout: Flag = key(
        True,
        "train every step but the first where the student itself arrives; false: at the teacher's picture, noised afresh",
    )
    consistency_weight: Number = key(
        0.0,
        "weight of guided consistency along the pool's trajectories: from two neighbouring states of one the student must reach "
        "the same next few-step state (Song et al. 2023, arXiv:2303.01469; in segments, Kim et al. 2024, arXiv:2310.02279)",
    )
    kernel_weight: Number = key(
        0.0,
        "weight of the kernel distance between the student's pictures of a caption and true ones of the same, in the teacher's "
        "features: a conditional MMD (Gretton et al. 2012; as a loss of few-step generators cf. arXiv:2602.04770)",
    )
    kernel_captions: Size = key(4, "captions in an update of that distance")
    kernel_samples: Annotated[int, Strict(), Field(ge=2, le=1024)] = key(8, "the student's pictures of each of them")
    kernel_true: Annotated[int, Strict(), Field(ge=2, le=1024)] = key(16, "true pictures of each of them")
    kernel_bank: Size = key(256, "captions whose true pictures are encoded when the phase begins")
    perceptual_weight: Number = key(0.0, "weight of the distance to the teacher's picture in features; 0 leaves it out")
    perceptual_features: Literal["teacher", "lpips"] = key(
        "teacher", '"teacher": those of its own encoder; "lpips": the published network on decoded pictures'
    )
    perceptual_weights: Text = key(
        "", "folder that holds LPIPS's weights; empty: GENIN_METRIC_WEIGHTS, else a download"
    )
    gradient_checkpointing: Flag = key(False, CHECKPOINTING)
    max_noise_timestep: Timestep = key(
        60, "pictures are noised again up to this timestep before the teacher's encoder sees them"
    )
    held_out_images: Count = key(
        512,
        "captions of the val split that are drawn at every grid of samples, to choose the best checkpoint by; 0 for none",
    )
    ema_decays: tuple[float, ...] = (0.999, 0.99)
    batch_size: int = 32
    images: int = 120_000
    lr: float = 6e-4


@section
class AdversarialRecipe(StepsRecipe):
    """Phase 3: the second with a discriminator, adversarial diffusion distillation (Sauer et al. 2023, arXiv:2311.17042) in
    the teacher's features (2024, arXiv:2403.12015). It has the second phase's keys, but not its values."""

    backward_distillation: bool = True
    perceptual_weight: float = 4.0
    adversarial_weight: Number = key(0.1, "weight of the adversarial loss")
    discriminator: Literal["teacher", "dinov2", "efficientnet"] = key(
        "teacher",
        'where it looks: "teacher", its encoder on noised latents; "dinov2" or "efficientnet" (Lite0, as Projected GAN has it: '
        "Sauer et al. 2021, arXiv:2111.01007), on decoded pictures",
    )
    discriminator_weights: Text = key(
        "facebook/dinov2-small", "folder or hub name of the DINOv2, or the file of EfficientNet-Lite0's weights"
    )
    multi_scale: Flag = key(True, "a head on every one of those feature maps; false: on the finest alone")
    distillation_weight: Number = key(
        0.0, "weight of the paper's distillation term; costs a guided pass of the teacher"
    )
    matching_weight: Number = key(
        0.0,
        "weight of distribution matching (Yin et al. 2024, arXiv:2311.18828); above 0 a copy of the teacher is also trained, on "
        "the student's pictures",
    )
    matching_decoupled: Flag = key(
        False,
        "guidance's part of that gradient at more noise than the student's last step sees, the rest at every noise (Liu et al. "
        "2025, arXiv:2511.22677); costs two more passes of the teacher",
    )
    fake_score_rank: Count = key(
        0,
        "0: that copy is whole; above, low-rank adapters of this rank on the teacher's own weights, a hundredth of the memory",
    )
    fake_score_lr: Number = key(2e-4, "learning rate of that copy")
    fake_score_updates: Positive = key(1, "its updates for each of the student's")
    discriminator_lr: Number = key(1e-3, "its learning rate")
    discriminator_hidden: Size = key(64, "width of its heads")
    r1_weight: Number = key(0.1, "weight of the gradient penalty on true pictures")
    r1_every: Positive = key(4, "updates from one penalty to the next")
    mismatched_captions: Share = key(
        0.0,
        "share of the discriminator's fakes that are true pictures with other captions (detailed enough not to fit)",
    )
    real_share: Share = key(1.0, "share of its true side that is data; the rest are the teacher's pictures")
    alignment_weight: Number = key(0.0, "weight of the contrastive image-text loss, by the model below")
    alignment_model: Text = key("", "folder or hub name of a CLIP; empty: one trained on the set (section alignment)")
    images: int = 60_000
    lr: float = 4e-4


@section
class AlignmentRecipe(Optimisation):
    """A small model of pictures and texts, trained on the set where `adversarial.alignment_weight` asks for one."""

    channels: Size = key(48, "width of its finest level")
    embedding: Size = key(128, "size of the space that pictures and texts share")
    noise: Number = key(0.2, "standard deviation of noise on the latents in training")
    batch_size: int = 128
    lr: float = 1e-3
    images: int = 120_000


@section
class DecoderRecipe(Optimisation):
    """Phase 4: a tiny decoder in place of the teacher's, from true pictures and the student's own latents."""

    channels: Size = key(16, "its width")
    blocks: AtLeastOne[Count] = key(
        (4, 4, 0), "its residual blocks per level, the coarsest first; each further level doubles the side"
    )
    edge_weight: Number = key(0.5, "weight of the loss on differences between neighbouring pixels")
    latent_noise: Number = key(0.05, "standard deviation of noise on the latents of true pictures")
    true_targets: Flag = key(
        False,
        "the student's own latents are its last step from true pictures noised to that step, and should look like these: the "
        "decoder learns to undo what the student softens",
    )
    batch_size: int = 32
    lr: float = 1e-3
    images: int = 0
    cache_images: int = 24_000


@section
class Recipe:
    """All settings of all stages; a field is a section of the YAML file (docs/recipes.md). Change it by `dataclasses.replace`."""

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


def load_recipe(path: str | Path | None) -> Recipe:
    """The recipe in a YAML file, or the defaults. Errors: InputError naming key, value, line and what is allowed there."""
    if path is None:
        return Recipe()
    file = read_yaml(Path(path))
    try:
        return TypeAdapter(Recipe).validate_python(file.data)
    except ValidationError as error:
        raise refusal(Recipe, error, file.data, place=file.place) from error


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe as YAML."""
    write_yaml(path, recipe.as_dict())


def json_schema() -> dict[str, Any]:
    """The JSON schema of a recipe file, for editors: every key with its description, default and limits."""
    schema = TypeAdapter(Recipe).json_schema(schema_generator=WithoutTitles)
    return {"$schema": WithoutTitles.schema_dialect, **schema, "title": "genin recipe"}


def plain(value: Any) -> Any:
    """With lists for tuples, as YAML and JSON have them."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

"""The settings of a distillation: the student's shape, the pool, the phases."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict

from genin.distill.recipe_fields import (
    Above0,
    AtLeastOne,
    Count,
    Flag,
    Number,
    Positive,
    Several,
    Share,
    Size,
    Text,
    key,
    section,
)
from genin.distill.recipe_optimisation import CHECKPOINTING, Optimisation, Precision

Timestep = Annotated[int, Strict(), Field(ge=1, le=1000)]


@section
class StudentRecipe:
    """The blocks and channels kept of the teacher's UNet."""

    name: Text = key("bk-small", "a preset of genin.distill.models.student_config, below")
    width: Share = key(0.0, "share of their channels that the levels below the finest keep; 0: the preset's")
    top_width: Share = key(0.0, "the same of the finest level")
    level_widths: Several[Share] = key(
        (),
        "the same of every level, the finest first, in place of the other two: coarse levels cost parameters, not operations",
    )
    levels_without_attention: Several[Count] = key((), "0 is the finest level; empty: the preset's")

    def __str__(self) -> str:
        said: dict[str, float | tuple[float, ...]] = {"width": self.width, "top_width": self.top_width}
        if self.level_widths:
            said = {"level_widths": self.level_widths}
        said["levels_without_attention"] = self.levels_without_attention
        return ", ".join([self.name, *(f"{name} {_numbers(value)}" for name, value in said.items() if value)])


def _numbers(value: float | tuple[float, ...]) -> str:
    return " ".join(f"{number:g}" for number in (value if isinstance(value, tuple) else (value,)))


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
    repeat: Flag = key(
        False,
        "train a student of the same shape that the run starts from (--init) in this phase, too; false: it goes on with the next "
        "phases, and only one whose channels are cut is trained here",
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
    huber_c: Above0 = key(0.05, "threshold of that pseudo-Huber distance between quadratic and linear")
    backward_distillation: Flag = key(
        False,
        "every step but the first aims at where the guided teacher goes from the student's own state there, in place of the "
        "pair's picture (Kohler et al. 2024, arXiv:2405.05224); costs guided passes of the teacher",
    )
    fresh_noise: Share = key(
        0.0,
        "share of the rollouts of several steps that begin with noise beyond the pool's; only with backward_distillation, whose "
        "last aims need no pair",
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
    kernel_captions: Size = key(4, "captions in an update of that distance, over all processes")
    kernel_samples: Annotated[int, Strict(), Field(ge=2, le=1024)] = key(8, "the student's pictures of each of them")
    kernel_true: Annotated[int, Strict(), Field(ge=2, le=1024)] = key(16, "true pictures of each of them")
    kernel_bank: Size = key(256, "captions whose true pictures are encoded when the phase begins")
    perceptual_weight: Number = key(0.0, "weight of the distance to the teacher's picture in features; 0 leaves it out")
    perceptual_final_share: Share = key(
        1.0,
        "share of perceptual_weight that is left at the end, falling as the other does: the teacher's targets are soft",
    )
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
    the teacher's features (2024, arXiv:2403.12015), and one on decoded pictures. It has the second phase's keys, but not its
    values."""

    backward_distillation: bool = True
    perceptual_weight: float = 4.0
    adversarial_weight: Number = key(
        0.1, "weight of the adversarial loss, by a discriminator in the teacher's features of noised latents"
    )
    picture_adversarial_weight: Number = key(
        0.0,
        "weight of a second adversarial loss, on decoded pictures, by a discriminator in the features of a network trained on "
        "photographs: for what the teacher's features miss, such as textures. The decoder is that of the student it starts from "
        "(--init) where both have one encoder, else the teacher's; a small one makes this cheap",
    )
    picture_discriminator: Literal["efficientnet", "dinov2"] = key(
        "efficientnet",
        'that network: "efficientnet" (Lite0, with random mixing as in Projected GAN: Sauer et al. 2021, arXiv:2111.01007) or '
        '"dinov2"',
    )
    picture_discriminator_weights: Text = key(
        "",
        "its weights: the file of EfficientNet-Lite0's (empty: in GENIN_METRIC_WEIGHTS, else the installed one), or folder or hub "
        "name of a DINOv2 (empty: facebook/dinov2-small)",
    )
    picture_discriminator_crop: Share = key(
        0.0,
        "side of the random square that EfficientNet sees of each picture, as a share of the picture's; 0: whole pictures. Half a "
        "side takes a quarter of the decoding, which is what costs",
    )
    multi_scale: Flag = key(True, "a head on every feature map; false: on the finest alone")
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
    discriminator_lr: Number = key(1e-3, "learning rate of the discriminators")
    discriminator_hidden: Size = key(64, "width of their heads")
    r1_weight: Number = key(0.1, "weight of the gradient penalty on true pictures")
    r1_every: Positive = key(4, "updates from one penalty to the next")
    mismatched_captions: Share = key(
        0.0,
        "share of the discriminators' fakes that are true pictures with other captions (detailed enough not to fit)",
    )
    real_share: Share = key(1.0, "share of their true side that is data; the rest are the teacher's pictures")
    alignment_weight: Number = key(0.0, "weight of the contrastive image-text loss, by the model below")
    alignment_model: Text = key("", "folder or hub name of a CLIP; empty: one trained on the set (section alignment)")
    images: int = 60_000
    lr: float = 4e-4

    @property
    def uses_true_pictures(self) -> bool:
        """Whether a discriminator of this phase is shown true pictures."""
        return self.real_share > 0 and max(self.adversarial_weight, self.picture_adversarial_weight) > 0


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
        (4, 4, 0),
        "its residual blocks per level, the coarsest first; each further level doubles the side: four numbers for the built-in "
        "teacher and for Stable Diffusion, whose latents have an eighth of a picture's side",
    )
    edge_weight: Number = key(0.5, "weight of the loss on differences between neighbouring pixels")
    latent_noise: Number = key(0.05, "standard deviation of noise on the latents of true pictures")
    batch_size: int = 32
    lr: float = 1e-3
    images: int = 0
    cache_images: int = 4_096

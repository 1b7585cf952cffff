"""The settings of a teacher's stages: autoencoder, text encoder, UNet, and fine-tuning."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, Strict

from genin.distill.recipe_fields import AtLeastOne, Count, Flag, Number, Several, Share, Size, Text, key, section
from genin.distill.recipe_optimisation import CHECKPOINTING, Optimisation, Precision


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
    initial_weights_licence: Text = key(
        "unknown", "their licence, which becomes one of the teacher's: an SPDX identifier"
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
    decoder_images: Count = key(
        0,
        "further pictures on which the decoder alone is trained afterwards, from the latents as they are: sharper pictures of the "
        "same latents",
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
    autoencoder_images: Count = key(0, "pictures on which the decoder is trained before the UNet")
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
        "captions of the val split, at most all of them, that are drawn in 8 guided steps at every grid of samples, to choose "
        "the best checkpoint by; 0 for none",
    )
    images: int = 60_000
    cache_images: int = 40_000
    lr: float = 1e-4

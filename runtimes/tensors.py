"""Names of the tensors that go into and out of a model's networks: diffusers' and optimum's, and those of Apple's Swift package."""

from __future__ import annotations

from collections.abc import Mapping

from genin.runtimes.vocabulary import TEXT_TO_IMAGE, VAE_ENCODER

TensorNames = Mapping[str, tuple[str, ...]]  # by component

INPUTS: TensorNames = {
    "text_encoder": ("input_ids",),
    "unet": ("sample", "timestep", "encoder_hidden_states"),
    "vae_decoder": ("latent_sample",),
    VAE_ENCODER: ("sample",),
    TEXT_TO_IMAGE: ("input_ids", "noise"),
}
# Drawing uses the first; golden files have all.
OUTPUTS: TensorNames = {
    "text_encoder": ("last_hidden_state", "pooler_output"),
    "unet": ("out_sample",),
    "vae_decoder": ("sample",),
    VAE_ENCODER: ("latent_sample",),
    TEXT_TO_IMAGE: ("images",),
}
# In the same order as those above.
APPLE_INPUTS: TensorNames = {
    "text_encoder": ("input_ids",),
    "unet": ("sample", "timestep", "encoder_hidden_states"),
    "vae_decoder": ("z",),
    VAE_ENCODER: ("z",),
}
APPLE_OUTPUTS: TensorNames = {
    "text_encoder": ("last_hidden_state", "pooled_outputs"),
    "unet": ("noise_pred",),
    "vae_decoder": ("image",),
    VAE_ENCODER: ("latent",),  # mean and log variance, one after the other
}

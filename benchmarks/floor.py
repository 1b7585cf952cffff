"""The autoencoder's floor: the reference's pictures, encoded and decoded by a model folder's own VAE.

No latent diffusion model can be closer to the reference than its decoder lets it; so an FD of reconstructions stands
beside every model's FD. The encoder gives its distribution's mode, without noise.

Not here: bundles (they ship no encoder), and what is measured (`evaluate`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genin.benchmarks.picture_sets import PictureRow, Pictures, PictureSet, picture_batches
from genin.benchmarks.progress import progress_bar
from genin.runtimes.errors import InputError, MissingExtraError

BATCH_SIZE = 16


@dataclass(frozen=True)
class Reconstructed:
    """One batch, N×H×W×3 uint8 twice, and its mean squared error (peak 255)."""

    originals: Pictures
    reconstructions: Pictures
    rows: Sequence[PictureRow]
    squared_error: float


def autoencoder_floor(model: Path, reference: PictureSet, size: int, limit: int) -> Iterator[Reconstructed]:
    """Encode and decode the first `limit` pictures at `size` px. InputError if the folder's VAE cannot be loaded."""
    vae = load_vae(model)
    total = min(limit, len(reference.rows))
    with progress_bar("autoencoder floor", total) as advance:
        for loaded in picture_batches(reference, size=size, limit=limit, batch_size=BATCH_SIZE):
            if len(loaded.rows):
                again = reconstruct(vae, loaded.pictures)
                error = float(np.mean((again.astype(np.float64) - loaded.pictures) ** 2))
                yield Reconstructed(loaded.pictures, again, loaded.rows, error)
            advance(BATCH_SIZE)


def load_vae(model: Path) -> Any:
    """The VAE of a model folder, whatever diffusers class its config names; fp32, eval mode."""
    try:
        from diffusers import AutoModel
    except ImportError as error:
        raise MissingExtraError("diffusers", "distill") from error
    try:
        return (
            AutoModel.from_pretrained(str(model), subfolder="vae", local_files_only=True).eval().requires_grad_(False)
        )
    except (OSError, ValueError) as error:
        raise InputError("the model's autoencoder cannot be loaded", where=model / "vae") from error


def reconstruct(vae: Any, pictures: Pictures) -> Pictures:
    """N×H×W×3 uint8 => the same, through the autoencoder."""
    import torch

    with torch.inference_mode():
        images = torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).float() / 127.5 - 1
        encoded = vae.encode(images)
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        decoded = vae.decode(latents).sample
        pixels = ((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    result: Pictures = pixels.permute(0, 2, 3, 1).numpy()
    return result

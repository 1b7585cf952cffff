"""The autoencoder's floor: the reference's pictures, encoded and decoded by a model folder's own VAE, as a subject.

No latent diffusion model can be closer to the reference than its decoder allows, so the distance of reconstructions belongs beside
every model's. The encoder gives its distribution's mode, without noise.

Not here: bundles (they ship no encoder), and what is measured (`evaluate`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genin.benchmarks.model_facts import ModelFacts, read_facts
from genin.dataset.rows import PictureRow
from genin.dataset.sets import Pictures, PictureSet, picture_batches
from genin.runtimes.errors import InputError, MissingExtraError
from genin.runtimes.folder import plain_json
from genin.runtimes.progress import progress

BATCH_SIZE = 16


class AutoencoderSubject:
    """Reconstructions of the reference; `originals` are the last batch's. Errors: InputError for anything but a model
    folder, or one whose VAE cannot be loaded."""

    def __init__(self, path: Path, reference: PictureSet) -> None:
        self.path, self.reference = path, reference
        self.facts: ModelFacts = read_facts(path)
        if self.facts.kind != "model":
            raise InputError(
                "a bundle has no encoder to measure", where=path, remedy="give the model folder it was exported from"
            )
        self.image_size = self.facts.image_size
        self.originals: Pictures = np.zeros((0, self.image_size, self.image_size, 3), np.uint8)
        self._vae = load_vae(path)
        self._squared_error, self._count = 0.0, 0

    def __enter__(self) -> AutoencoderSubject:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def batches(
        self, rows: Sequence[PictureRow], folder: Path | None, title: str
    ) -> Iterator[tuple[Pictures, Sequence[PictureRow]]]:
        """Reconstruct the reference's first pictures, as many as there are `rows`."""
        with progress(title, len(rows), unit="pictures") as shown:
            for loaded in picture_batches(self.reference, size=self.image_size, limit=len(rows), batch_size=BATCH_SIZE):
                if len(loaded.rows):
                    self.originals = loaded.pictures
                    again = reconstruct(self._vae, loaded.pictures)
                    errors = (again.astype(np.float64) - loaded.pictures) ** 2
                    self._squared_error += float(errors.mean(axis=(1, 2, 3)).sum())
                    self._count += len(again)
                    yield again, loaded.rows
                shown.advance(BATCH_SIZE)

    def record(self) -> dict[str, Any]:
        """Its fields in a result: no sampling, and how near the reconstructions are (peak 255)."""
        error = self._squared_error / max(1, self._count)
        unknown = ("steps", "guidance_scale", "runtime", "provider", "precision", "parameters", "macs")
        return {
            "model": self.facts.name,
            "path": str(self.path),
            "kind": "autoencoder",
            "role": self.facts.role,
            "model_sha256": self.facts.source_sha256,
            "source_sha256": self.facts.source_sha256,
            **dict.fromkeys(unknown),
            "psnr_db": float(10 * np.log10(255.0**2 / error)) if error else None,
        }

    def notes(self) -> dict[str, str]:
        """Why some of `record` is null."""
        return dict.fromkeys(("steps", "guidance_scale"), "the autoencoder's reconstructions are measured, not samples")


def load_vae(model: Path) -> Any:
    """The VAE of a model folder, whatever diffusers class its config names; fp32, eval mode."""
    try:
        from diffusers import AutoModel
    except ImportError as error:
        raise MissingExtraError("diffusers", "distill") from error
    try:
        with plain_json(model / "vae") as plain:
            return AutoModel.from_pretrained(str(plain), local_files_only=True).eval().requires_grad_(False)
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

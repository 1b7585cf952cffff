"""Pictures of held-out captions, drawn while a network trains: are they nearer to true ones than before?

`kid` is the kernel distance (Bińkowski et al. 2018, arXiv:1801.01401) between the network's pictures and true ones of the same
captions, which no training has seen, in the frozen teacher's own features (for a teacher that is tuned: those of its base). Every
teacher has them, and they need no decoder. It chooses the checkpoint, so it is not a figure to report (`genin evaluate` has those,
on other captions). `kid_error` is half of its 95 % interval: it shows when a network gets worse, but not which of two good ones is
better. Captions, noises and true pictures are the same every time, so that results differ by the network alone.

Not here: what is special to students (`student.held_out`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genin.benchmarks.quality.frechet import MIN_KID_PICTURES, Features, kid_of_pairs
from genin.distill.inputs.latents import cache_latents
from genin.distill.inputs.sources import Source
from genin.distill.models.guided import Guided
from genin.distill.models.pixels import batch_size_for

BATCH = 64  # of latents of 16×16
TIMESTEP = 20  # hardly any noise: there a denoiser looks at fine detail
SEED = 1_000_003
# Noise (N, C, H, W) of the captions in these rows => their pictures, as final latents.
Draw = Callable[[Tensor, slice], Tensor]


@dataclass(frozen=True)
class HeldOutPictures:
    """N `captions`, their `text` (N, L, D) as `teacher` embeds it, and the `noise` (N, C, H, W) to draw from; features of their
    true pictures in the teacher's encoder (N, F)."""

    teacher: Guided
    captions: Sequence[str]
    text: Tensor
    noise: Tensor
    true: Features

    @staticmethod
    def seen_by(teacher: Guided, captions: Sequence[str], latents: Tensor) -> HeldOutPictures:
        """True pictures, as final latents (N, C, H, W). Of the teacher's UNet only the encoder is used."""
        text = teacher.embed(list(captions))
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(SEED))
        return HeldOutPictures(teacher, captions, text, noise, _features(teacher, latents, text, _of_view(noise)))

    def kid(self, drawn: Tensor) -> dict[str, float]:
        """`kid` and `kid_error` of pictures drawn under the captions, final latents (N, C, H, W)."""
        # Features differ in scale, and KID's kernel would see few of them: each at the true pictures' mean and deviation.
        mean, deviation = self.true.mean(axis=0), self.true.std(axis=0) + 1e-6
        features = _features(self.teacher, drawn, self.text, _of_view(self.noise))
        drawn_features, true_features = ((one - mean) / deviation for one in (features, self.true))
        kid = kid_of_pairs(drawn_features, true_features, self.captions, self.captions)
        return {"kid": kid.value, "kid_error": kid.error}

    def drawn(self, draw: Draw, noise: Tensor) -> Tensor:
        """Latents of the first captions, one per noise, on the CPU."""
        parts = [draw(noise[rows].to(self.teacher.device), rows).cpu() for rows in _batches(noise)]
        return torch.cat(parts)


def held_out_latents(source: Source, vae: Any, size: int, count: int, cache: Path) -> Tensor | None:
    """Final latents of a held-out source's first `count` pictures, kept in the file `cache`; None where too few for KID."""
    count = min(count, len(source))
    if count < 2 * MIN_KID_PICTURES:
        return None
    return cache_latents(source, vae, count, size, cache).latents.float()


def _of_view(noise: Tensor) -> Tensor:
    """The noise that pictures are looked at under: another than the one they are drawn from, which they resemble a little and true
    ones do not."""
    return noise.roll(1, 0)


@torch.no_grad()
def _features(teacher: Guided, latents: Tensor, text: Tensor, noise: Tensor) -> Features:
    """Final latents (N, C, H, W), row i under caption i => (N, F): all levels' maps of the teacher's encoder, averaged over
    space."""
    features = []
    for rows in _batches(latents):
        x0, part = latents[rows].to(teacher.device), noise[rows].to(teacher.device)
        t = torch.full((len(x0),), TIMESTEP, dtype=torch.long, device=teacher.device)
        maps, _ = teacher.features(teacher.process.add_noise(x0, part, t), t, text[rows])
        features.append(torch.cat([one.float().mean(dim=(2, 3)) for one in maps], dim=1).cpu())
    return torch.cat(features).numpy()


def _batches(latents: Tensor) -> list[slice]:
    """Batches of rows to draw."""
    size, count = batch_size_for(BATCH, latents.shape[-1], 16), len(latents)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]

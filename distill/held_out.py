"""Held-out captions, drawn by the student while it trains: is it nearer to true pictures than it was, and does noise matter yet?

- `kid`: kernel distance (Bińkowski et al. 2018, arXiv:1801.01401) between the student's pictures and true ones of the same
  captions, which no training has seen, in the frozen teacher's own features: any teacher brings them along, and they need no
  decoder. It chooses the checkpoint, so it is not a figure to report (`genin evaluate` has those, on other captions).
  `kid_error` is half of its 95 % interval: it sees a student get worse, but not which of two good ones is the better.
- `diversity`: how far apart the student's pictures of two noises under one caption are, over how far the teacher's are.

The captions, noises and true pictures are the same at every look, so that looks differ in the student alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genin.benchmarks.frechet import MIN_KID_PICTURES, Features, kid_of_pairs
from genin.distill.host import at_once
from genin.distill.latent_cache import cache_latents
from genin.distill.phases import walk
from genin.distill.pool import Guided
from genin.distill.sources import Source

BATCH = 64  # of latents of 16×16
TIMESTEP = 20  # hardly any noise: what a denoiser sees there are the fine parts
PAIRS = 16  # captions of which the teacher draws two pictures
TEACHER_STEPS = 8
SEED = 1_000_003


@dataclass(frozen=True)
class HeldOut:
    """N `captions`, their `text` (N, L, D) and `noise` (N, C, H, W), further noises for the first of them; features of their true
    pictures (N, F); the mean distance between the teacher's pictures of two noises under one caption."""

    teacher: Guided
    captions: Sequence[str]
    text: Tensor
    noise: Tensor
    second_noise: Tensor
    true: Features
    teacher_apart: float

    @classmethod
    def of(cls, teacher: Guided, source: Source, vae: Any, size: int, count: int, cache: Path) -> HeldOut | None:
        """The first `count` captions and pictures of a held-out source; None where it has too few for KID. Latents are kept in
        the file `cache`."""
        count = min(count, len(source))
        if count < 2 * MIN_KID_PICTURES:
            return None
        latents = cache_latents(source, vae, count, size, teacher.device, cache).latents.float()
        captions = source.captions(range(count))
        text = teacher.embed(captions)
        generator = torch.Generator().manual_seed(SEED)
        noise = torch.randn(count, *latents.shape[1:], generator=generator)
        second = torch.randn(min(PAIRS, count), *latents.shape[1:], generator=generator)
        pairs = len(second)
        drawn = [
            teacher.sample(
                half.to(teacher.device), text[:pairs], teacher.process.trailing_timesteps(TEACHER_STEPS)
            ).states[-1]
            for half in (noise[:pairs], second)
        ]
        return cls(teacher, captions, text, noise, second, _features(teacher, latents, text, noise), _apart(*drawn))

    def __call__(self, student: nn.Module, timesteps: Sequence[int]) -> dict[str, float]:
        """Figures of a student, which draws through `timesteps`."""
        drawn = self._draw(student, self.noise, timesteps)
        again = self._draw(student, self.second_noise, timesteps)
        # Features differ in scale, and KID's kernel would see few of them: each at the true pictures' mean and deviation.
        mean, deviation = self.true.mean(axis=0), self.true.std(axis=0) + 1e-6
        ours, theirs = (
            (found - mean) / deviation for found in (_features(self.teacher, drawn, self.text, self.noise), self.true)
        )
        found = kid_of_pairs(ours, theirs, self.captions, self.captions)
        apart = _apart(drawn[: len(again)], again) / self.teacher_apart
        return {"kid": found.value, "kid_error": found.error, "diversity": apart}

    def _draw(self, student: nn.Module, noise: Tensor, timesteps: Sequence[int]) -> Tensor:
        """Latents of the first captions, one a noise."""
        parts = []
        size = at_once(BATCH, noise.shape[-1], 16)
        for start in range(0, len(noise), size):
            part = noise[start : start + size].to(self.teacher.device)
            text = self.text[start : start + len(part)]
            parts.append(walk(student, self.teacher.process, part, text, timesteps).pictures[-1].cpu())
        return torch.cat(parts)


@torch.no_grad()
def _features(teacher: Guided, latents: Tensor, text: Tensor, noise: Tensor) -> Features:
    """Final latents (N, C, H, W), row i under caption i => (N, F): all levels' maps of the teacher's encoder, averaged over their
    places."""
    found = []
    size = at_once(BATCH, latents.shape[-1], 16)
    for start in range(0, len(latents), size):
        rows = slice(start, start + size)
        x0, part = latents[rows].to(teacher.device), noise[rows].to(teacher.device)
        t = torch.full((len(x0),), TIMESTEP, dtype=torch.long, device=teacher.device)
        maps, _ = teacher.features(teacher.process.add_noise(x0, part, t), t, text[rows])
        found.append(torch.cat([one.float().mean(dim=(2, 3)) for one in maps], dim=1).cpu())
    return torch.cat(found).numpy()


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one.float() - other.float()).abs().mean())

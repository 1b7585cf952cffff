"""Held-out captions, drawn by a network while it trains: is it nearer to true pictures than it was, and does noise matter yet?

- `kid`: kernel distance (Bińkowski et al. 2018, arXiv:1801.01401) between the network's pictures and true ones of the same
  captions, which no training has seen, in the frozen teacher's own features (a teacher that is tuned: those of
  its base): any teacher brings them along, and they need no decoder. It chooses the checkpoint, so it is not a figure to report
  (`genin evaluate` has those, on other captions).
  `kid_error` is half of its 95 % interval: it sees a network get worse, but not which of two good ones is the better.
- `diversity`, of students: how far apart their pictures of two noises under one caption are, over how far the teacher's are.

The captions, noises and true pictures are the same at every look, so that looks differ in the network alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
# Noise (N, C, H, W) of the captions in these rows => their pictures, as final latents.
Draw = Callable[[Tensor, slice], Tensor]


@dataclass(frozen=True)
class HeldOutPictures:
    """N `captions`, their `text` (N, L, D) as `teacher` embeds it, and `noise` (N, C, H, W); features of their true pictures in
    the teacher's encoder (N, F)."""

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
        return HeldOutPictures(teacher, captions, text, noise, _features(teacher, latents, text, noise))

    def kid(self, drawn: Tensor) -> dict[str, float]:
        """`kid` and `kid_error` of pictures drawn under the captions, final latents (N, C, H, W)."""
        # Features differ in scale, and KID's kernel would see few of them: each at the true pictures' mean and deviation.
        mean, deviation = self.true.mean(axis=0), self.true.std(axis=0) + 1e-6
        ours, theirs = (
            (found - mean) / deviation for found in (_features(self.teacher, drawn, self.text, self.noise), self.true)
        )
        found = kid_of_pairs(ours, theirs, self.captions, self.captions)
        return {"kid": found.value, "kid_error": found.error}

    def drawn(self, draw: Draw, noise: Tensor) -> Tensor:
        """Latents of the first captions, one a noise, on the CPU."""
        parts = [draw(noise[rows].to(self.teacher.device), rows).cpu() for rows in _batches(noise)]
        return torch.cat(parts)


@dataclass(frozen=True)
class HeldOut(HeldOutPictures):
    """What students are held against: further noises for the first captions, and the mean distance between the teacher's pictures
    of two noises under one caption."""

    second_noise: Tensor
    teacher_apart: float

    @classmethod
    def of(cls, teacher: Guided, source: Source, vae: Any, size: int, count: int, cache: Path) -> HeldOut | None:
        """The first `count` captions and pictures of a held-out source; None where it has too few for KID. Latents are kept in
        the file `cache`."""
        latents = held_out_latents(source, vae, size, count, teacher.device, cache)
        if latents is None:
            return None
        plain = HeldOutPictures.seen_by(teacher, source.captions(range(len(latents))), latents)
        text, noise, pairs = plain.text, plain.noise, min(PAIRS, len(latents))
        generator = torch.Generator().manual_seed(SEED)
        torch.randn(noise.shape, generator=generator)  # the first noises: these come after them
        second = torch.randn(pairs, *noise.shape[1:], generator=generator)
        drawn = [
            teacher.sample(
                half.to(teacher.device), text[:pairs], teacher.process.trailing_timesteps(TEACHER_STEPS)
            ).states[-1]
            for half in (noise[:pairs], second)
        ]  # fmt: skip
        return cls(teacher, plain.captions, text, noise, plain.true, second, _apart(*drawn))

    def __call__(self, student: nn.Module, timesteps: Sequence[int]) -> dict[str, float]:
        """Figures of a student, which draws through `timesteps`."""

        def draw(noise: Tensor, rows: slice) -> Tensor:
            return walk(student, self.teacher.process, noise, self.text[rows], timesteps).pictures[-1]

        drawn, again = self.drawn(draw, self.noise), self.drawn(draw, self.second_noise)
        apart = _apart(drawn[: len(again)], again) / self.teacher_apart
        return {**self.kid(drawn), "diversity": apart}


def held_out_latents(
    source: Source, vae: Any, size: int, count: int, device: torch.device, cache: Path
) -> Tensor | None:
    """Final latents of a held-out source's first `count` pictures, kept in the file `cache`; None where too few for KID."""
    count = min(count, len(source))
    if count < 2 * MIN_KID_PICTURES:
        return None
    return cache_latents(source, vae, count, size, device, cache).latents.float()


@torch.no_grad()
def _features(teacher: Guided, latents: Tensor, text: Tensor, noise: Tensor) -> Features:
    """Final latents (N, C, H, W), row i under caption i => (N, F): all levels' maps of the teacher's encoder, averaged over their
    places."""
    found = []
    for rows in _batches(latents):
        x0, part = latents[rows].to(teacher.device), noise[rows].to(teacher.device)
        t = torch.full((len(x0),), TIMESTEP, dtype=torch.long, device=teacher.device)
        maps, _ = teacher.features(teacher.process.add_noise(x0, part, t), t, text[rows])
        found.append(torch.cat([one.float().mean(dim=(2, 3)) for one in maps], dim=1).cpu())
    return torch.cat(found).numpy()


def _batches(latents: Tensor) -> list[slice]:
    """Rows that are drawn at once."""
    size, count = at_once(BATCH, latents.shape[-1], 16), len(latents)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one.float() - other.float()).abs().mean())

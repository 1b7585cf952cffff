"""Distribution matching: the student's pictures, taken together, are moved to where the teacher's pictures are.

A regression onto pairs pulls each picture towards one other, and to a blur where it cannot reach it. Here two denoisers see the
student's picture under noise: the guided teacher, and a *fake score*, a copy of the teacher that learns on the student's pictures
alone. Where they disagree, the picture is more of the student's kind than of the teacher's; their difference is the gradient of the
KL divergence between the two distributions (DMD: Yin et al. 2024, arXiv:2311.18828), and no pair is needed. The fake score must
keep up with a student that moves, so it may be updated several times for each of the student's (two time scales: DMD2, Yin et al.
2024, arXiv:2405.14867, section 4.2).

Not here: the loss as a function of tensors (`losses.distribution_matching`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genin.distill.inputs.update import Update
from genin.distill.loop.training import Training
from genin.distill.models.diffusion import predict
from genin.distill.models.guided import Guided
from genin.distill.student.losses import distribution_matching

# Shares of the schedule between which pictures are noised: at either end one of the two cannot judge it (DMD, appendix).
LOWEST, HIGHEST = 0.02, 0.98


@dataclass(frozen=True)
class FakeScore:
    """`network` predicts as the teacher does, and is registered with `training` as "fake_score"."""

    training: Training
    teacher: Guided
    network: nn.Module
    updates: int = 1

    def loss(self, picture: Tensor, text: Tensor, update: Update) -> Tensor:
        """The student's loss on its finished pictures (N, C, H, W); gradients reach the pictures alone."""
        t, noise = self._noise(picture, update)
        with torch.no_grad(), self.training.autocast():
            x_t = self.teacher.process.add_noise(picture.detach(), noise, t)
            real, _ = self.teacher(x_t, t, text)
            fake, _ = self.teacher.denoiser.like(self.network)(x_t, t, text)
        return distribution_matching(picture, real, fake)

    def decoupled_loss(self, picture: Tensor, text: Tensor, update: Update, above: int) -> Tensor:
        """The same in two parts with a noise each (Liu et al. 2025, arXiv:2511.22677): what moves the distribution, the teacher
        without guidance against the fake score, at every noise; and guidance, which makes few steps look right, only at more noise
        than the timestep `above`, where the student's last step has not decided yet."""
        denoiser, process = self.teacher.denoiser, self.teacher.process
        t, noise = self._noise(picture, update)
        t_guidance, noise_guidance = self._noise(picture, update, above)
        with torch.no_grad(), self.training.autocast():
            x_t = process.add_noise(picture.detach(), noise, t)
            real, _ = denoiser(x_t, t, text)
            fake, _ = denoiser.like(self.network)(x_t, t, text)
            x_t = process.add_noise(picture.detach(), noise_guidance, t_guidance)
            guided, _ = self.teacher(x_t, t_guidance, text)
            unguided, _ = denoiser(x_t, t_guidance, text)
        return distribution_matching(picture, real, fake) + distribution_matching(picture, guided, unguided)

    def learn(self, picture: Tensor, text: Tensor, update: Update) -> Tensor:
        """Learn to denoise the student's pictures; returns the mean loss."""
        denoiser, losses = self.teacher.denoiser, []
        for _ in range(self.updates):
            t, noise = self._noise(picture, update)
            x_t = denoiser.process.add_noise(picture.detach(), noise, t)
            with self.training.autocast():
                predicted = predict(self.network, x_t, denoiser.timesteps(t), text)
            loss = (predicted.float() - denoiser.target(picture.detach(), noise, t)).square().mean()
            self.training.optimise("fake_score", loss)
            losses.append(loss.detach())
        return torch.stack(losses).mean()

    def _noise(self, picture: Tensor, update: Update, above: int = 0) -> tuple[Tensor, Tensor]:
        """Timesteps from the lowest one, or `above`, to the highest, and noise."""
        count = self.teacher.process.num_train_timesteps
        high = round(HIGHEST * count)
        low = min(max(round(LOWEST * count), above), high - 1)
        return low + update.randint(high - low), update.randn(*picture.shape[1:])

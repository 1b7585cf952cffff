"""How a picture is looked at in training: frozen networks that turn latents into feature maps.

A *view* is opened once an update and gives a *look*: a function of latents and their captions' states. Whatever compares
pictures (a distance, a discriminator) compares them through one look, so that they differ in nothing but themselves, and terms
that share a view share its passes.

- `TeacherView`: latents noised a little, through the frozen teacher's own encoder: any teacher brings it along, it needs no
  decoder, and it works where the student does (LADD, Sauer et al. 2024, arXiv:2403.12015).
- `DinoView`: decoded pictures through a frozen DINOv2, the discriminator's features of the ADD paper (Sauer et al. 2023,
  arXiv:2311.17042, section 3.1). Its weights come from a folder or a hub; nothing is drawn from thin air where they are not.

Not here: what is done with the maps (`terms`, `discriminator`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from genin.distill.inputs.update import Update
from genin.distill.loop.training import Training
from genin.distill.models.autoencoder import decode
from genin.distill.models.guided import Guided
from genin.runtimes.errors import InputError

Seen = tuple[list[Tensor], Tensor]  # feature maps, finest first; an embedding of how they were looked at, (N, E)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Look(Protocol):
    """Latents (N, C, h, w) and their captions' states (N, L, D) => what is seen; gradients only if asked for. `rows` says which of
    the batch's pictures they are where they are not all."""

    def __call__(self, x0: Tensor, text: Tensor, *, learn: bool = False, rows: Tensor | None = None) -> Seen: ...


class View(Protocol):
    """Opened once an update for a batch of pictures; `channels` are those of its maps, `embedding` the size of what it adds."""

    channels: tuple[int, ...]
    embedding: int

    def open(self, update: Update, picture: Tensor) -> Look: ...


@dataclass(frozen=True)
class TeacherLook:
    """The frozen teacher's encoder on pictures noised by `noise` to `t`."""

    teacher: Guided
    autocast: Callable[[], Any]
    t: Tensor
    noise: Tensor

    def __call__(self, x0: Tensor, text: Tensor, *, learn: bool = False, rows: Tensor | None = None) -> Seen:
        t, noise = (self.t, self.noise) if rows is None else (self.t[rows], self.noise[rows])
        with torch.set_grad_enabled(learn), self.autocast():
            return self.teacher.features(self.teacher.process.add_noise(x0, noise, t), t, text)


class TeacherView:
    """Pictures noised up to `max_timestep`, each its own; the dial "noise" moves that."""

    def __init__(self, training: Training, teacher: Guided, max_timestep: int) -> None:
        self.training, self.teacher, self.max_timestep = training, teacher, max_timestep
        unet = teacher.unet
        widths = list(unet.config.block_out_channels)
        self.channels = (*widths, *([widths[-1]] if unet.mid_block is not None else []))
        self.embedding = unet.time_embedding.linear_2.out_features

    def open(self, update: Update, picture: Tensor) -> TeacherLook:
        process = self.teacher.process
        highest = min(round(self.max_timestep * self.training.dial("noise")), process.num_train_timesteps)
        t, noise = update.randint(max(1, highest)), update.randn(*picture.shape[1:])
        return TeacherLook(self.teacher, self.training.autocast, t, noise)


class DinoView:
    """Maps of four of DINOv2's layers, a quarter of its depth apart, on pictures decoded and enlarged to `side` pixels."""

    def __init__(self, training: Training, vae: Any, dino: Any, side: int = 224) -> None:
        self.training, self.vae = training, vae
        self.dino = dino.to(training.device).requires_grad_(False).eval()
        patch = dino.config.patch_size
        self.side = max(1, round(side / patch)) * patch
        depth = dino.config.num_hidden_layers
        self.layers = sorted({max(1, depth * part // 4) for part in (1, 2, 3, 4)})
        self.channels = (dino.config.hidden_size,) * len(self.layers)
        self.embedding = 1

    def open(self, update: Update, picture: Tensor) -> Look:
        return self._look

    def _look(self, x0: Tensor, text: Tensor, *, learn: bool = False, rows: Tensor | None = None) -> Seen:
        with torch.set_grad_enabled(learn), self.training.autocast():
            pixels = standardised(decode(self.vae, x0).float(), self.side, IMAGENET_MEAN, IMAGENET_STD)
            states = self.dino(pixels, output_hidden_states=True).hidden_states
            places = self.side // self.dino.config.patch_size
            maps = [states[layer][:, 1:].transpose(1, 2).unflatten(2, (places, places)) for layer in self.layers]
        return maps, x0.new_zeros(len(x0), 1)


def standardised(pictures: Tensor, side: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pictures in [−1, 1] => (N, 3, side, side), less a mean and over a deviation: what image encoders were trained on."""
    pixels = F.interpolate(pictures.clamp(-1, 1) / 2 + 0.5, size=(side, side), mode="bicubic", antialias=True)
    centre, spread = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    return (pixels - centre) / spread


def load_dino(path: str) -> Any:
    """A DINOv2 of transformers from a folder or a hub name. Errors: InputError saying what is wrong with it."""
    from transformers import AutoModel, Dinov2Model

    try:
        model = AutoModel.from_pretrained(path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        remedy = (
            "name a folder or hub model, such as facebook/dinov2-small, or set adversarial.discriminator to teacher"
        )
        raise InputError(f"cannot load DINOv2 ({reason})", where=path, remedy=remedy) from error
    if not isinstance(model, Dinov2Model):
        what = f"this is a {type(model).__name__}, not a DINOv2"
        raise InputError(what, where=path, remedy="name one, such as facebook/dinov2-small")
    return model

"""Feature extractors: frozen networks that turn latents into feature maps, for terms that compare pictures.

All pictures of an update that are compared with each other (the student's, the target, true ones) go through one extractor
in the same view (noise, or the same part of the picture), so that only the pictures differ.

- `TeacherFeatures`: latents noised a little, through the frozen teacher's own encoder: every teacher has one, it needs no decoder,
and it works in the student's latents (LADD, Sauer et al. 2024, arXiv:2403.12015).
- `EfficientNetFeatures`: decoded pictures through a frozen EfficientNet-Lite0, as in Projected GAN; small enough for a CPU.
- `DinoFeatures`: decoded pictures through a frozen DINOv2, the discriminator's features of the ADD paper (Sauer et al. 2023,
  arXiv:2311.17042, section 3.1). Its weights come from a folder or a hub.

Not here: what is done with the maps (`terms`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genin.benchmarks.quality.efficientnet import DEVIATION, MEAN, EfficientNetLite0
from genin.benchmarks.quality.weights import IMAGENET_MEAN, IMAGENET_STD
from genin.distill.inputs.update import Update
from genin.distill.loop.training import Training
from genin.distill.models.autoencoder import decode
from genin.distill.models.guided import Guided
from genin.runtimes.errors import InputError


class Features(NamedTuple):
    """Feature maps (N, C, H, W), the finest first, and an embedding of the pictures' noise, (N, E)."""

    maps: list[Tensor]
    embedding: Tensor


class View(NamedTuple):
    """How an extractor sees the pictures of an update: noised up to timesteps (N,) with standard normal noise (N, C, h, w), or
    cropped at latent rows and columns `corners` (N, 2)."""

    t: Tensor
    noise: Tensor
    corners: Tensor

    def of(self, rows: Tensor) -> View:
        """The view of some of the pictures."""
        return View(*(part[rows] for part in self))


def whole_view(pictures: Tensor) -> View:
    """That of an extractor which sees pictures as they are: timestep 0, from the first corner."""
    zeros = torch.zeros(len(pictures), device=pictures.device)
    return View(zeros, pictures.new_zeros(len(pictures), 0), zeros.long()[:, None].expand(-1, 2))


class FeatureExtractor(Protocol):
    """`channels` are those of its maps, `embedding` is the size of its embedding of the noise."""

    channels: tuple[int, ...]
    embedding: int

    def draw_view(self, update: Update, pictures: Tensor) -> View:
        """This update's view of a batch of latents."""

    def __call__(self, pictures: Tensor, text: Tensor, view: View, *, gradients: bool = False) -> Features:
        """Latents (N, C, h, w) and their captions' states (N, L, D) => features, with gradients to the latents if asked for."""


class TeacherFeatures:
    """The teacher's encoder on pictures noised up to `max_timestep`, each by its own; the adjustment "noise" is a factor on it."""

    def __init__(self, training: Training, teacher: Guided, max_timestep: int) -> None:
        self.training, self.teacher, self.max_timestep = training, teacher, max_timestep
        training.allow_adjustment("noise")
        unet = teacher.unet
        widths = list(unet.config.block_out_channels)
        self.channels = (*widths, *([widths[-1]] if unet.mid_block is not None else []))
        self.embedding = unet.time_embedding.linear_2.out_features

    def draw_view(self, update: Update, pictures: Tensor) -> View:
        process = self.teacher.process
        highest = min(round(self.max_timestep * self.training.adjustment("noise")), process.num_train_timesteps)
        timesteps, noise = update.randint(max(1, highest)), update.randn(*pictures.shape[1:])
        return whole_view(pictures)._replace(t=timesteps, noise=noise)

    def __call__(self, pictures: Tensor, text: Tensor, view: View, *, gradients: bool = False) -> Features:
        with torch.set_grad_enabled(gradients), self.training.autocast():
            x_t = self.teacher.process.add_noise(pictures, view.noise, view.t)
            return Features(*self.teacher.features(x_t, view.t, text))


class DinoFeatures:
    """Maps of four of DINOv2's layers, a quarter of its depth apart, on pictures decoded and enlarged to `side` pixels, without
    noise."""

    def __init__(self, training: Training, vae: Any, dino: Any, side: int = 224) -> None:
        self.training, self.vae = training, vae
        self.dino = dino.to(training.device).requires_grad_(False).eval()
        patch = dino.config.patch_size
        self.side = max(1, round(side / patch)) * patch
        depth = dino.config.num_hidden_layers
        self.layers = sorted({max(1, depth * part // 4) for part in (1, 2, 3, 4)})
        self.channels = (dino.config.hidden_size,) * len(self.layers)
        self.embedding = 1

    def draw_view(self, update: Update, pictures: Tensor) -> View:
        return whole_view(pictures)

    def __call__(self, pictures: Tensor, text: Tensor, view: View, *, gradients: bool = False) -> Features:
        with torch.set_grad_enabled(gradients), self.training.autocast():
            pixels = standardised(decode(self.vae, pictures).float(), self.side, IMAGENET_MEAN, IMAGENET_STD)
            states = self.dino(pixels, output_hidden_states=True).hidden_states
            places = self.side // self.dino.config.patch_size
            maps = [states[layer][:, 1:].transpose(1, 2).unflatten(2, (places, places)) for layer in self.layers]
        return Features(maps, pictures.new_zeros(len(pictures), 1))


class EfficientNetFeatures:
    """Four maps of EfficientNet-Lite0 on decoded pictures, mixed at random across channels and scales, without noise: what
    Projected GAN's discriminator sees (Sauer et al. 2021, arXiv:2111.01007, section 3.2). Mixed features leave a discriminator
    no channel to lean on; a mixing that learnt would undo that.

    With `crop`, a share of the shorter side, only a random square of that side is decoded, its own for every picture: decoding is
    what costs."""

    def __init__(
        self, training: Training, vae: Any, network: EfficientNetLite0, width: int = 64, *, crop: float = 0
    ) -> None:
        self.training, self.vae, self.crop = training, vae, crop
        self.network = network.to(training.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same in every run
            self.mixing = RandomMixing(network.channels, width).to(training.device).requires_grad_(False).eval()
        self.channels = (width,) * len(network.channels)
        self.embedding = 1

    def draw_view(self, update: Update, pictures: Tensor) -> View:
        view = whole_view(pictures)
        if not self.crop:
            return view
        places = (side - self.crop_side(pictures) + 1 for side in pictures.shape[-2:])
        return view._replace(corners=torch.stack([update.randint(count) for count in places], dim=1))

    def crop_side(self, pictures: Tensor) -> int:
        """Latents on a side of the square that is seen."""
        return max(1, round(self.crop * min(pictures.shape[-2:])))

    def __call__(self, pictures: Tensor, text: Tensor, view: View, *, gradients: bool = False) -> Features:
        with torch.set_grad_enabled(gradients), self.training.autocast():
            shown = crops(pictures, view.corners, self.crop_side(pictures)) if self.crop else pictures
            pixels = decode(self.vae, shown).float().clamp(-1, 1) / 2 + 0.5
            mean, deviation = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, DEVIATION))
            maps = self.mixing(self.network((pixels - mean) / deviation))
        return Features(maps, pictures.new_zeros(len(pictures), 1))


def crops(pictures: Tensor, corners: Tensor, side: int) -> Tensor:
    """(N, C, h, w) => (N, C, side, side), the square at each picture's corner (row, column), (N, 2)."""
    places = zip(pictures, corners.tolist(), strict=True)
    return torch.stack([picture[:, row : row + side, column : column + side] for picture, (row, column) in places])


class RandomMixing(nn.Module):
    """Maps, the finest first => as many of `width` channels: a random 1×1 convolution each, then from coarse to fine the sum with
    what comes enlarged from below, by a random 3×3 convolution."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.across_channels = nn.ModuleList(nn.Conv2d(count, width, 1, bias=False) for count in channels)
        self.across_scales = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        mixed: list[Tensor] = []
        below: Tensor | None = None
        for one, channels, scales in reversed(list(zip(maps, self.across_channels, self.across_scales, strict=True))):
            x = channels(one)
            if below is not None:
                x = x + F.interpolate(below, size=x.shape[-2:], mode="bilinear", align_corners=False)
            below = scales(x)
            mixed.insert(0, below)
        return mixed


def standardised(pictures: Tensor, side: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pictures in [−1, 1] => (N, 3, side, side), minus a mean, over a deviation: the inputs that image encoders were trained on."""
    pixels = F.interpolate(pictures.clamp(-1, 1) / 2 + 0.5, size=(side, side), mode="bicubic", antialias=True)
    centre, spread = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    return (pixels - centre) / spread


def load_dino(path: str) -> Any:
    """A DINOv2 of transformers from a folder or a hub name, the smallest where it is empty.

    Errors: InputError saying what is wrong.
    """
    from transformers import AutoModel, Dinov2Model

    path = path or "facebook/dinov2-small"
    try:
        model = AutoModel.from_pretrained(path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        remedy = (
            "name a folder or hub model, such as facebook/dinov2-small, or set picture_discriminator to efficientnet"
        )
        raise InputError(f"cannot load DINOv2 ({reason})", where=path, remedy=remedy) from error
    if not isinstance(model, Dinov2Model):
        what = f"this is a {type(model).__name__}, not a DINOv2"
        raise InputError(what, where=path, remedy="name one, such as facebook/dinov2-small")
    return model

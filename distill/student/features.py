"""Feature extractors: frozen networks that turn latents into feature maps, for terms that compare pictures.

All pictures of an update that are compared with each other (the student's, the target, true ones) go through one extractor
under the same noise, so that only the pictures differ.

- `TeacherFeatures`: latents noised a little, through the frozen teacher's own encoder: every teacher has one, it needs no decoder,
and it works in the student's latents (LADD, Sauer et al. 2024, arXiv:2403.12015).
- `EfficientNetFeatures`: decoded pictures through a frozen EfficientNet-Lite0, as in Projected GAN; small enough for a CPU.
- `DinoFeatures`: decoded pictures through a frozen DINOv2, the discriminator's features of the ADD paper (Sauer et al. 2023,
  arXiv:2311.17042, section 3.1). Its weights come from a folder or a hub.

Not here: what is done with the maps (`terms`, `discriminator`).
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


class Noise(NamedTuple):
    """The noise that is added to pictures before features are extracted: timesteps (N,) and standard normal noise (N, C, h, w)."""

    t: Tensor
    noise: Tensor

    def of(self, rows: Tensor) -> Noise:
        """The noise of some of the pictures."""
        return Noise(self.t[rows], self.noise[rows])


def no_noise(pictures: Tensor) -> Noise:
    """That of an extractor which sees pictures as they are: timestep 0."""
    return Noise(torch.zeros(len(pictures), device=pictures.device), pictures.new_zeros(len(pictures), 0))


class FeatureExtractor(Protocol):
    """`channels` are those of its maps, `embedding` is the size of its embedding of the noise."""

    channels: tuple[int, ...]
    embedding: int

    def draw_noise(self, update: Update, pictures: Tensor) -> Noise:
        """This update's noise for a batch of latents."""

    def __call__(self, pictures: Tensor, text: Tensor, noise: Noise, *, gradients: bool = False) -> Features:
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

    def draw_noise(self, update: Update, pictures: Tensor) -> Noise:
        process = self.teacher.process
        highest = min(round(self.max_timestep * self.training.adjustment("noise")), process.num_train_timesteps)
        return Noise(update.randint(max(1, highest)), update.randn(*pictures.shape[1:]))

    def __call__(self, pictures: Tensor, text: Tensor, noise: Noise, *, gradients: bool = False) -> Features:
        with torch.set_grad_enabled(gradients), self.training.autocast():
            x_t = self.teacher.process.add_noise(pictures, noise.noise, noise.t)
            return Features(*self.teacher.features(x_t, noise.t, text))


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

    def draw_noise(self, update: Update, pictures: Tensor) -> Noise:
        return no_noise(pictures)

    def __call__(self, pictures: Tensor, text: Tensor, noise: Noise, *, gradients: bool = False) -> Features:
        with torch.set_grad_enabled(gradients), self.training.autocast():
            pixels = standardised(decode(self.vae, pictures).float(), self.side, IMAGENET_MEAN, IMAGENET_STD)
            states = self.dino(pixels, output_hidden_states=True).hidden_states
            places = self.side // self.dino.config.patch_size
            maps = [states[layer][:, 1:].transpose(1, 2).unflatten(2, (places, places)) for layer in self.layers]
        return Features(maps, pictures.new_zeros(len(pictures), 1))


class EfficientNetFeatures:
    """Four maps of EfficientNet-Lite0 on decoded pictures, mixed at random across channels and scales, without noise: what
    Projected GAN's discriminator sees (Sauer et al. 2021, arXiv:2111.01007, section 3.2). Mixed features leave a discriminator
    no channel to lean on; a mixing that learnt would undo that."""

    def __init__(self, training: Training, vae: Any, network: EfficientNetLite0, width: int = 64) -> None:
        self.training, self.vae = training, vae
        self.network = network.to(training.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same in every run
            self.mixing = RandomMixing(network.channels, width).to(training.device).requires_grad_(False).eval()
        self.channels = (width,) * len(network.channels)
        self.embedding = 1

    def draw_noise(self, update: Update, pictures: Tensor) -> Noise:
        return no_noise(pictures)

    def __call__(self, pictures: Tensor, text: Tensor, noise: Noise, *, gradients: bool = False) -> Features:
        with torch.set_grad_enabled(gradients), self.training.autocast():
            pixels = decode(self.vae, pictures).float().clamp(-1, 1) / 2 + 0.5
            mean, deviation = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, DEVIATION))
            maps = self.mixing(self.network((pixels - mean) / deviation))
        return Features(maps, pictures.new_zeros(len(pictures), 1))


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
    """A DINOv2 of transformers from a folder or a hub name. Errors: InputError saying what is wrong."""
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

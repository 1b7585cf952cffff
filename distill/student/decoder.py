"""Phase 4: a tiny decoder, which draws the student's latents in fewer operations than one step of its UNet.

In a pipeline of few steps the decoder is a large part of the time, and the teacher's was made for pictures of many steps. This one
is diffusers' `AutoencoderTiny` again, narrower, and learns from two kinds of pairs: latents of true pictures with those pictures,
and latents that the student itself has drawn with the teacher's decoding of them. A discriminator on pictures, as in VQGAN's
decoder, was tried and left out: decoders as small as this answer it with patterns (docs/log.md). So was a decoder that makes true
pictures of the student's last steps from them: where these start from much noise it learns to average.

The encoder stays the teacher's where that is an `AutoencoderTiny`, too; else a tiny one is trained with the decoder to give the
teacher's latents, so that the student's folder is complete.

Not here: the first autoencoder, which defines the latent space (`autoencoder`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genin.distill.inputs.sources import load_pictures
from genin.distill.inputs.update import Update
from genin.distill.loop.previews import save_grid
from genin.distill.loop.training import GRAD_NORM, Preview, Training
from genin.distill.models.autoencoder import decode_pictures, edge_loss, encode_pictures
from genin.distill.models.diffusion import plain_attention
from genin.distill.models.narrow_decoder import start_as
from genin.distill.models.pixels import batch_size_for, to_tensor, to_uint8
from genin.distill.recipe import DecoderRecipe
from genin.distill.student.pool import row_generator
from genin.distill.student.rollout import Student
from genin.distill.student.terms.term import Figures, PhaseContext
from genin.runtimes.errors import InputError

FRESH_SEED = 0x5EED  # of the noise that pairs are drawn from: no pool's


def build_tiny(vae: Any, recipe: DecoderRecipe, factor: int) -> Any:
    """An `AutoencoderTiny` with a small decoder for final latents of `vae`, whose sides are a `factor`th of a picture's. It is
    untrained, or starts as the teacher's with fewer channels and blocks where that is an `AutoencoderTiny` of at least its width.

    Errors: InputError if the recipe's levels do not make that factor.
    """
    from diffusers import AutoencoderTiny

    levels = len(recipe.blocks)
    if 2 ** (levels - 1) != factor:
        what = (
            f"decoder.blocks has {levels} levels, which enlarge {2 ** (levels - 1)} times; this teacher needs {factor}"
        )
        raise InputError(what, remedy=f"give it {factor.bit_length()} numbers, the coarsest level first")
    config = vae.config
    copied = isinstance(vae, AutoencoderTiny)
    tiny = AutoencoderTiny(
        encoder_block_out_channels=config.encoder_block_out_channels if copied else (recipe.channels,) * levels,
        num_encoder_blocks=config.num_encoder_blocks if copied else (1, *recipe.blocks[:0:-1]),
        decoder_block_out_channels=(recipe.channels,) * levels,
        num_decoder_blocks=tuple(recipe.blocks),
        latent_channels=config.latent_channels,
        act_fn="relu",
        # A decoder of another kind has other raw latents; the tiny one takes the final ones as they are.
        scaling_factor=config.scaling_factor if copied else 1.0,
    )
    if copied:
        tiny.encoder.load_state_dict(vae.encoder.state_dict())
        if config.decoder_block_out_channels[0] >= recipe.channels:
            start_as(tiny.decoder, vae.decoder)
    return tiny


@dataclass(frozen=True)
class Pairs:
    """Final latents, (N, C, h, w) float16, and what they should look like, (N, H, W, 3) uint8. The first `true` pairs are of true
    pictures, the others the student's own."""

    latents: Tensor
    pictures: NDArray[np.uint8]
    true: int

    def of(self, rows: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        rows = rows.cpu()
        return self.latents[rows].to(device).float(), to_tensor(self.pictures[rows.numpy()], device)


@torch.no_grad()
def make_pairs(context: PhaseContext, network: nn.Module, step_counts: Sequence[int], count: int) -> Pairs:
    """`count` true pictures with their latents, or all that there are, and as many of the student's, each number of steps in turn;
    these the processes draw together.

    All are in memory, in every process: 6·size² bytes per picture and its pair, 1.6 MB at 512 px.
    """
    training, data, vae = context.training, context.data, context.teacher.vae
    count = min(count, len(data.pool))
    pictures = load_pictures(data.source, count, context.teacher.image_size, training.folder)
    latents = data.latents  # of the same pictures, by the same encoder
    if latents is None or len(latents) < len(pictures):
        latents = encode_pictures(vae, pictures, training.device)
    latents = latents[: len(pictures)]
    drawn, decoded = [], []
    student = Student(network, data.teacher.process)
    size = batch_size_for(64, int(data.pool.states.shape[-1]), 16)
    accelerator, batches = training.accelerator, -(-count // size)
    for first in range(0, batches, accelerator.num_processes):  # a batch for each process; too many are cut off
        index = first + accelerator.process_index
        rows = torch.arange(index * size, (index + 1) * size)
        timesteps = student.process.trailing_timesteps(step_counts[index % len(step_counts)])
        # Not the pool's noise, under which the student may know its pictures by heart.
        fresh = [
            torch.randn(data.pool.states.shape[2:], generator=row_generator(FRESH_SEED, row)) for row in rows.tolist()
        ]
        with training.autocast():
            noise = torch.stack(fresh).to(training.device)
            final = student.rollout(noise, data.text(rows), timesteps).pictures[-1]
        shown = torch.from_numpy(decode_pictures(vae, final.float())).to(training.device)
        drawn.append(accelerator.gather(final.half()).cpu())
        decoded.append(accelerator.gather(shown).cpu().numpy())
    both = np.concatenate([pictures, np.concatenate(decoded)[:count]])
    return Pairs(torch.cat([latents, torch.cat(drawn)[:count]]), both, len(pictures))


def decoder_step(
    training: Training,
    tiny: Any,
    decoder: nn.Module,
    pairs: Pairs,
    recipe: DecoderRecipe,
    encoder: nn.Module | None,
) -> Callable[[Update], Any]:
    """L1 on pixels + edge_weight·L1 on their differences; every other row of the global batch is a true picture.

    `encoder` is the tiny autoencoder's own where it is trained, too: L2 to the teacher's latents of the true half.
    """
    scale = float(tiny.config.scaling_factor)

    def step(update: Update) -> Figures:
        true, weight = update.rows_every(2)
        rows = update.randint(len(pairs.latents) - pairs.true) + pairs.true
        rows[true] = update.randint(pairs.true)[true]
        latents, pictures = pairs.of(rows, training.device)
        # The student's latents have errors of their own; noise is added to true ones.
        noise = torch.zeros_like(latents)
        noise[true] = recipe.latent_noise * update.randn(*latents.shape[1:])[true]
        with training.autocast():
            decoded = decoder((latents + noise) / scale).float()
        pixel, edge = (decoded - pictures).abs().mean(), edge_loss(decoded, pictures)
        loss = pixel + recipe.edge_weight * edge
        mse = (decoded.detach()[true] - pictures[true]).square().mean()
        psnr = 10 * torch.log10(4.0 / mse)
        # `health` watches `last`: unlike the whole loss, its sign and scale are stable.
        figures: Figures = {"last": pixel.detach(), "edge": edge.detach(), "psnr_db": psnr}
        if encoder is not None:
            with training.autocast():
                distance = (encoder(pictures[true]).float() * scale - latents[true]).square().mean() * weight
            training.optimise("encoder", distance)
            figures["latents"] = distance.detach()
        norm = training.optimise("decoder", loss)
        return {"loss": loss.detach(), **figures, GRAD_NORM: norm}

    return step


def train_decoder(context: PhaseContext, network: nn.Module, step_counts: Sequence[int], *, initial: Any = None) -> Any:
    """Run the phase, with the student's UNet `network`; returns the tiny autoencoder with its averaged weights. `initial` is one to
    start from, where its shape fits."""
    training, recipe, vae = context.training, context.phase, context.teacher.vae
    torch.manual_seed(recipe.seed)
    tiny = build_tiny(vae, recipe, context.teacher.image_size // int(context.data.pool.states.shape[-1]))
    if initial is not None and _shapes(initial) == _shapes(tiny):
        tiny.load_state_dict(initial.state_dict())
    decoder = training.add("decoder", tiny.decoder.to(memory_format=torch.channels_last))
    encoder = None if type(vae) is type(tiny) else training.add("encoder", tiny.encoder)
    if context.resume:
        training.resume()
    if training.progress < 1:
        plain_attention(network, training.device)
        network.to(training.device).eval()
        pairs = make_pairs(context, network, step_counts, recipe.cache_images)
        training.run(
            decoder_step(training, tiny, decoder, pairs, recipe, encoder),
            _preview(training, vae, pairs, float(tiny.config.scaling_factor)),
            last=True,
        )
    finished = copy.deepcopy(tiny)
    finished.decoder.load_state_dict(training.ema_weights("decoder").state_dict())
    if encoder is not None:
        finished.encoder.load_state_dict(training.ema_weights("encoder").state_dict())
    return finished.requires_grad_(False).eval().to(memory_format=torch.contiguous_format)


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in network.state_dict().items()}


def _preview(training: Training, vae: Any, pairs: Pairs, scale: float) -> Preview:
    """A grid writer: true pictures, the teacher's decoding and the tiny one; then the student's latents by both decoders."""
    rows = torch.arange(min(10, pairs.true))
    own = rows + pairs.true

    def preview(path: Path) -> None:
        tiny: Any = training.ema_weights("decoder")
        grid = [pairs.pictures[rows.numpy()]]
        for part in (rows, own):
            latents = pairs.latents[part].to(training.device).float()
            with torch.no_grad():
                drawn = to_uint8(tiny(latents / scale).float().cpu().numpy())
            grid += [decode_pictures(vae, latents), drawn]
        both = ("the teacher's decoder", "the tiny decoder")
        labels = ["true pictures", *both, *(f"the student's latents, {one}" for one in both)]
        save_grid(grid, path, labels=labels)

    return preview

"""Pictures and texts in one space, for a term that measures whether a picture shows what its caption says.

- `SetAligner`: a small convolutional tower on latents, and a linear one on the frozen text encoder's state, trained
  contrastively on the set's own pictures and captions (CLIP's loss: Radford et al. 2021, arXiv:2103.00020, figure 3) before the
  student needs it. It needs no decoder, and has seen pictures of this kind.
- `ClipAligner`: a CLIP of transformers, from a folder or a hub, on decoded pictures, where its weights are available.

Both embed at unit length. The towers are trained on the batch of all processes together; in parts (`accumulate`) a picture is
compared with the captions of its own part only. Not here: the loss (`losses`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genin.distill.inputs.update import Update
from genin.distill.loop.agreement import gathered
from genin.distill.loop.training import Training
from genin.distill.models.autoencoder import decode
from genin.distill.recipe import AdversarialRecipe, AlignmentRecipe, Recipe
from genin.distill.student.features import standardised
from genin.distill.student.losses import image_to_text
from genin.distill.student.pool import DistillationData
from genin.distill.student.terms.term import Figures, PhaseContext, StudentBatch, Term
from genin.runtimes.errors import InputError

ALIGNMENT_SHARE = 0.2  # of the third phase's minutes, where its model is trained on the set
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Aligner(Protocol):
    """Embeddings (N, D) at unit length of latents (N, C, h, w), and of captions by their states (N, L, D') and rows of the pool
    (N,). `scale` is the factor on their products (CLIP's inverse temperature)."""

    scale: float

    def embed_images(self, pictures: Tensor) -> Tensor: ...

    def embed_texts(self, text: Tensor, rows: Tensor) -> Tensor: ...


class Towers(nn.Module):
    """Latents (N, C, h, w) and text states (N, L, D') => two embeddings (N, size)."""

    def __init__(self, latent_channels: int, text_size: int, width: int, size: int) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width)
        layers: list[nn.Module] = [nn.Conv2d(latent_channels, width, 3, padding=1), nn.SiLU()]
        for narrow, wide in itertools.pairwise(widths):
            layers += [nn.Conv2d(narrow, wide, 3, stride=2, padding=1), nn.GroupNorm(1, wide), nn.SiLU()]
            layers += [nn.Conv2d(wide, wide, 3, padding=1), nn.GroupNorm(1, wide), nn.SiLU()]
        self.picture = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], size))
        self.text = nn.Linear(text_size, size)
        self.log_scale = nn.Parameter(torch.tensor(2.6592))  # ln(1/0.07), CLIP's initial value

    def forward(self, latents: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        return self.embed_images(latents), self.embed_texts(text)

    def embed_images(self, latents: Tensor) -> Tensor:
        return F.normalize(self.picture(latents).float(), dim=1)

    def embed_texts(self, text: Tensor) -> Tensor:
        # The state at the last position (padding repeats the end of text) has seen the whole caption.
        return F.normalize(self.text(text[:, -1]).float(), dim=1)


class SetAligner:
    """A trained, frozen pair of towers."""

    def __init__(self, towers: Towers) -> None:
        self.towers = towers.requires_grad_(False).eval()
        self.scale = float(towers.log_scale.exp().clamp(max=100))

    def embed_images(self, pictures: Tensor) -> Tensor:
        return self.towers.embed_images(pictures)

    def embed_texts(self, text: Tensor, rows: Tensor) -> Tensor:
        return self.towers.embed_texts(text)


def train_set_aligner(
    training: Training, latents: Tensor, texts: Tensor, recipe: AlignmentRecipe, *, resume: bool
) -> SetAligner:
    """Train the towers on latents (N, C, h, w) with their captions' states (N, L, D), row by row; noised, so that they do not learn
    to recognise a student's small faults."""
    torch.manual_seed(recipe.seed)
    towers: Any = training.add("aligner", Towers(latents.shape[1], texts.shape[-1], recipe.channels, recipe.embedding))
    if resume:
        training.resume()

    def step(update: Update) -> dict[str, Tensor | float]:
        rows = update.randint(len(latents)).cpu()
        pictures, text = (part[rows].float().to(training.device) for part in (latents, texts))
        pictures = pictures + recipe.noise * update.randn(*pictures.shape[1:])
        with training.autocast():
            images, captions = (gathered(training.accelerator, part) for part in towers(pictures, text))
        scale = training.accelerator.unwrap_model(towers).log_scale.exp().clamp(max=100)
        loss = (image_to_text(images, captions, scale) + image_to_text(captions, images, scale)) / 2
        hits = ((images @ captions.T).argmax(1) == torch.arange(len(images), device=images.device)).float().mean()
        training.optimise("aligner", loss)
        return {"loss": loss.detach(), "accuracy": hits}

    training.run(step, once=True)
    average: Any = training.ema_weights("aligner")
    return SetAligner(average)


class ClipAligner:
    """A frozen CLIP on decoded pictures; its own text tower reads the captions of the pool, each when it first occurs."""

    def __init__(self, training: Training, vae: Any, clip: Any, tokenizer: Any, captions: Any) -> None:
        self.training, self.vae, self.tokenizer, self.captions = training, vae, tokenizer, captions
        self.clip = clip.to(training.device).requires_grad_(False).eval()
        self.side = clip.config.vision_config.image_size
        self.scale = float(clip.logit_scale.exp())
        self._embedded: dict[int, Tensor] = {}

    def embed_texts(self, text: Tensor, rows: Tensor) -> Tensor:
        numbers = rows.tolist()
        with torch.no_grad():
            if new := [row for row in dict.fromkeys(numbers) if row not in self._embedded]:
                tokens = self.tokenizer(self.captions(new), padding=True, truncation=True, return_tensors="pt")
                states = self.clip.text_model(**tokens.to(self.training.device)).pooler_output
                self._embedded |= dict(zip(new, self.clip.text_projection(states).cpu(), strict=True))
        texts = torch.stack([self._embedded[row] for row in numbers]).to(self.training.device)
        return F.normalize(texts.float(), dim=1)

    def embed_images(self, pictures: Tensor) -> Tensor:
        with self.training.autocast():
            pixels = standardised(decode(self.vae, pictures).float(), self.side, CLIP_MEAN, CLIP_STD)
            states = self.clip.vision_model(pixel_values=pixels).pooler_output
            images = self.clip.visual_projection(states)
        return F.normalize(images.float(), dim=1)


def load_clip(path: str) -> tuple[Any, Any]:
    """A CLIP of transformers and its tokenizer, from a folder or a hub name. Errors: InputError saying what is wrong."""
    from transformers import AutoModel, AutoTokenizer, CLIPModel

    remedy = "name one, such as openai/clip-vit-base-patch32, or leave adversarial.alignment_model empty"
    try:
        model = AutoModel.from_pretrained(path)
        if not isinstance(model, CLIPModel):
            raise InputError(f"this is a {type(model).__name__}, not a CLIP", where=path, remedy=remedy)
        return model, AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"cannot load CLIP ({reason})", where=path, remedy=remedy) from error


@dataclass(frozen=True)
class Alignment(Term):
    """weight·cross-entropy of each picture's own caption among the batch's, by a frozen model of pictures and texts:
    a CLIP where the recipe names one, else one that is trained on the set when the phase begins."""

    section = AdversarialRecipe
    key = "alignment_weight"
    training: Training
    aligner: Aligner
    data: DistillationData
    weight: float

    @classmethod
    def check(cls, recipe: Recipe, phase: AdversarialRecipe) -> None:
        if not phase.alignment_model and not recipe.alignment.images:
            what = "adversarial.alignment_weight needs a model, which alignment.images: 0 leaves untrained"
            raise InputError(what, remedy="give alignment some images, or name a CLIP (adversarial.alignment_model)")

    @classmethod
    def load(cls, phases: Sequence[Any]) -> Any:
        paths = [phase.alignment_model for phase in phases if phase.alignment_model]
        return load_clip(paths[0]) if paths else None

    @classmethod
    def build(cls, context: PhaseContext) -> Alignment:
        clip = context.pretrained.get(cls)
        aligner = _set_aligner(context) if clip is None else _clip_aligner(context, *clip)
        return cls(context.training, aligner, context.data, context.phase.alignment_weight)

    def __call__(self, batch: StudentBatch) -> tuple[Tensor, Figures]:
        with self.training.autocast():
            with (
                torch.no_grad()
            ):  # of the whole batch, in every process and part: a picture's loss depends on all captions
                texts = self.aligner.embed_texts(self.data.text(batch.batch_rows), batch.batch_rows)
            images = self.aligner.embed_images(batch.picture)
        loss = image_to_text(images, texts, self.aligner.scale, batch.update.offset)
        return self.weight * loss, {"alignment": loss.detach()}


def _clip_aligner(context: PhaseContext, clip: Any, tokenizer: Any) -> Aligner:
    source = context.data.source

    def captions(rows: Sequence[int]) -> list[str]:
        return source.captions(context.data.caption_rows(torch.tensor(rows)).tolist())

    return ClipAligner(context.training, context.teacher.vae, clip, tokenizer, captions)


def _set_aligner(context: PhaseContext) -> Aligner:
    """Trained on true pictures where they are cached, else on the pool's, in a share of the phase's minutes."""
    phase_training, data, recipe = context.training, context.data, context.recipe.alignment
    minutes = None
    if phase_training.minutes is not None:
        minutes = ALIGNMENT_SHARE * phase_training.minutes
        phase_training.minutes -= minutes
    training = Training(phase_training.folder, "alignment", recipe, minutes=minutes)
    latents = data.pool.states[:, -1] if data.latents is None else data.latents
    count = min(len(latents), len(data.texts))
    return train_set_aligner(training, latents[:count], data.texts[:count], recipe, resume=context.resume)

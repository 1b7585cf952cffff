"""Training of the built-in world's attribute classifier: `python -m genin.distill.world_classifier --out FILE`.

Pictures come from the train split; a second process keeps rendering fresh ones while the network learns, so that it
rarely sees one twice. Light blur, noise, contrast and shifts make it robust to what a decoder does to a picture without
teaching it to guess. The file it writes holds fp16 weights and, as metadata, the recipe and the accuracy per attribute
on fresh renders of the test split, whose attribute combinations it has never seen.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from genin.benchmarks.quality.classifier import AttributeClassifier, save_classifier
from genin.dataset.splits import Split
from genin.distill.world.dataset import render_batch
from genin.distill.world.scene import ATTRIBUTES, Scene

CHUNK = 256


@dataclass(frozen=True)
class ClassifierRecipe:
    """What trains the classifier; `minutes` ends it early and completes the learning rate's decay by then."""

    images: int = 700_000
    minutes: float = 15.0
    batch_size: int = 128
    lr: float = 4e-3
    weight_decay: float = 0.02
    first_pictures: int = 4_096  # rendered before training starts
    kept_pictures: int = 40_000  # the oldest make room for fresh ones
    image_size: int = 64
    seed: int = 0
    test_pictures: int = 4_096


class FreshPictures:
    """A pool of renders and labels that one other process keeps filling while training samples from it.

    Errors: BrokenProcessPool if that process is killed.
    """

    def __init__(self, recipe: ClassifierRecipe, pool: ProcessPoolExecutor) -> None:
        shape = (recipe.kept_pictures, recipe.image_size, recipe.image_size, 3)
        self.recipe, self.pool = recipe, pool
        self.pictures = np.zeros(shape, np.uint8)
        self.labels = np.zeros((recipe.kept_pictures, len(ATTRIBUTES)), np.int64)
        self.rendered = 0
        self.pending: Future[tuple[NDArray[np.uint8], NDArray[np.int64]]] | None = None
        while self.rendered < min(recipe.first_pictures, recipe.kept_pictures):
            self.refresh(wait=True)

    def refresh(self, *, wait: bool = False) -> None:
        """Take in what the other process has finished, and ask it for more."""
        if self.pending is not None and (wait or self.pending.done()):
            pictures, labels = self.pending.result()
            rows = (self.rendered + np.arange(len(pictures))) % len(self.pictures)
            self.pictures[rows], self.labels[rows] = pictures, labels
            self.rendered += len(pictures)
            self.pending = None
        if self.pending is None:
            recipe = self.recipe
            self.pending = self.pool.submit(
                labelled_batch, "train", recipe.seed, self.rendered, CHUNK, recipe.image_size
            )

    def sample(self, chance: np.random.Generator) -> tuple[Tensor, Tensor]:
        """One batch: images in [−1, 1] NCHW, labels (N, attributes)."""
        rows = chance.integers(min(self.rendered, len(self.pictures)), size=self.recipe.batch_size)
        return _to_images(self.pictures[rows]), torch.from_numpy(self.labels[rows])


def labelled_batch(
    split: Split, seed: int, start: int, count: int, size: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Renders and their labels (count, attributes), in the order of `ATTRIBUTES`."""
    pictures, scenes = render_batch(split, seed, start, count, size)
    return pictures, labels_of(scenes)


def labels_of(scenes: list[Scene]) -> NDArray[np.int64]:
    """Each scene's values as indices into `ATTRIBUTES`."""
    return np.array([[v.index(getattr(scene, name)) for name, v in ATTRIBUTES.items()] for scene in scenes])


def _to_images(pictures: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, noise, contrast and brightness per picture, and one shift per batch; half the pictures stay sharp."""

    def draw(high: float) -> Tensor:
        return torch.rand(len(images), 1, 1, 1, generator=generator) * high

    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    share = (draw(2.0) - 1.0).clamp(min=0.0)
    images = images + share * (soft - images)
    images = images * (0.88 + draw(0.24)) + (draw(0.16) - 0.08)
    images = images + torch.randn(images.shape, generator=generator) * draw(0.1)
    dy, dx = (int(torch.randint(-2, 3, (), generator=generator)) for _ in range(2))
    return torch.roll(images, (dy, dx), dims=(2, 3)).clamp(-1, 1)


def train_classifier(out: Path, recipe: ClassifierRecipe, *, report: Any = None) -> dict[str, float]:
    """Train, test on fresh renders of the test split, write `out`; returns the accuracy per attribute."""
    torch.manual_seed(recipe.seed)
    model = AttributeClassifier(ATTRIBUTES, image_size=recipe.image_size).to(memory_format=torch.channels_last)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        fresh = FreshPictures(recipe, pool)
        seen, seconds = _fit(model, fresh, recipe, report)
    model = model.to(memory_format=torch.contiguous_format).eval()
    accuracy = measure(model, "test", recipe.test_pictures, seed=recipe.seed + 1)
    facts = {
        "data": "genin built-in world, train split",
        "recipe": asdict(recipe),
        "images_seen": seen,
        "pictures_rendered": fresh.rendered,
        "train_s": round(seconds),
        "test_split": {"seed": recipe.seed + 1, "samples": recipe.test_pictures},
        "test_accuracy": {name: round(value, 5) for name, value in accuracy.items()},
        "licence": "Apache-2.0",
    }
    save_classifier(model, out, facts)
    return accuracy


def _fit(model: AttributeClassifier, fresh: FreshPictures, recipe: ClassifierRecipe, report: Any) -> tuple[int, float]:
    """One cosine-decayed AdamW run; returns (images seen, seconds)."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr)
    chance, generator = np.random.default_rng(recipe.seed), torch.Generator().manual_seed(recipe.seed)
    started = time.monotonic()
    for update in _updates(recipe, started):
        fresh.refresh()
        images, labels = fresh.sample(chance)
        images = augment(images, generator).contiguous(memory_format=torch.channels_last)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * update.lr_factor
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images)
        losses = [F.cross_entropy(logits[name].float(), labels[:, i]) for i, name in enumerate(ATTRIBUTES)]
        loss = torch.stack(losses).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if report is not None and update.index % 100 == 0:
            worst = {name: round(float(value), 4) for name, value in zip(ATTRIBUTES, losses, strict=True)}
            report({"images_seen": update.seen, "elapsed_s": round(time.monotonic() - started), **worst})
    return (update.index + 1) * recipe.batch_size, time.monotonic() - started


@dataclass(frozen=True)
class _Update:
    index: int
    seen: int
    lr_factor: float


def _updates(recipe: ClassifierRecipe, started: float) -> Iterator[_Update]:
    """Updates until the images or the minutes are spent; a 5 % warm-up, then a cosine to zero."""
    index = 0
    while True:
        spent = (time.monotonic() - started) / (60 * recipe.minutes)
        progress = max(index * recipe.batch_size / recipe.images, spent)
        if progress >= 1 and index > 0:
            return
        progress = min(progress, 1.0)
        factor = min(1.0, progress / 0.05) * 0.5 * (1 + math.cos(math.pi * progress)) + 0.002
        yield _Update(index, index * recipe.batch_size, factor)
        index += 1


def measure(model: AttributeClassifier, split: Split, count: int, *, seed: int) -> dict[str, float]:
    """Accuracy per attribute on `count` renders of a split."""
    right: Mapping[str, list[NDArray[np.bool_]]] = {name: [] for name in ATTRIBUTES}
    for start in range(0, count, CHUNK):
        pictures, scenes = render_batch(split, seed, start, min(CHUNK, count - start), model.image_size)
        for name, values in model.predict(pictures).items():
            right[name].append(values == np.array([getattr(scene, name) for scene in scenes]))
    return {name: float(np.concatenate(parts).mean()) for name, parts in right.items()}


@click.command(epilog="Example: python -m genin.distill.world_classifier --out world_classifier.safetensors")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The safetensors file to write.")
@click.option("--minutes", default=ClassifierRecipe.minutes, show_default=True, help="Training time.")
@click.option("--images", default=ClassifierRecipe.images, show_default=True, help="Images to train on at most.")
@click.option("--threads", default=0, help="Threads of the training process (0: leave as is).")
@click.option("--seed", default=0, show_default=True)
def train_command(out: Path, minutes: float, images: int, threads: int, seed: int) -> None:
    """Train the built-in world's attribute classifier and print its accuracy on fresh test renders."""
    if threads:
        torch.set_num_threads(threads)
    recipe = ClassifierRecipe(minutes=minutes, images=images, seed=seed)
    accuracy = train_classifier(out, recipe, report=lambda row: click.echo(row, err=True))
    for name, value in accuracy.items():
        click.echo(f"{name:12} {100 * value:6.2f} %")


if __name__ == "__main__":
    train_command()

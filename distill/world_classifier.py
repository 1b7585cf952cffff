"""Training of the built-in world's attribute classifier: `python -m genin.distill.world_classifier --out FILE`.

Pictures come from the train split; a second process keeps rendering fresh ones while the network learns, so that it rarely sees one
twice. Light blur, noise, contrast and shifts make it robust to what a decoder does to a picture without teaching it to guess. The
file it writes holds fp16 weights and, as metadata, the recipe and the accuracy per attribute on fresh renders of the test split,
whose attribute combinations it has never seen. Log and checkpoint are beside it, in FILE.training; which pictures are ready at an
update depends on the machine, so that no two runs are the same to the bit.

Not here: the loop (`loop.training`), the network (`benchmarks.quality.classifier`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import click
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field, Strict
from torch import Tensor, nn

from genin.benchmarks.quality.classifier import AttributeClassifier, save_classifier
from genin.dataset.splits import Split
from genin.distill.inputs.update import Update
from genin.distill.loop.networks import NetworkOptions
from genin.distill.loop.training import Training
from genin.distill.recipe import Optimisation
from genin.distill.recipe_fields import Positive, key, section
from genin.distill.world.dataset import render_batch
from genin.distill.world.scene import ATTRIBUTES, Scene
from genin.runtimes.errors import GeninError

CHUNK = 256
MINUTES = 15.0
STAGE = "classifier"


@section
class ClassifierRecipe(Optimisation):
    """What trains the classifier."""

    first_pictures: Positive = key(4_096, "pictures rendered before the training starts")
    kept_pictures: Positive = key(40_000, "pictures that updates draw from; the oldest make room for fresh ones")
    image_size: Annotated[int, Strict(), Field(ge=8, le=8192)] = key(128, "side of the pictures in pixels")
    test_pictures: Positive = key(4_096, "pictures of the test split that the accuracies are measured on")
    images: int = 700_000
    batch_size: int = 128
    lr: float = 4e-3
    lr_warmup_images: int = 35_000
    lr_final_fraction: float = 0.002
    weight_decay: float = 0.02


class FreshPictures:
    """A pool of renders and labels that one other process keeps filling while training samples from it.

    Errors: BrokenProcessPool if that process is killed.
    """

    def __init__(self, recipe: ClassifierRecipe, pool: ProcessPoolExecutor, first: int = 0) -> None:
        """`first` is the first scene to render, of the split's endless sequence."""
        shape = (recipe.kept_pictures, recipe.image_size, recipe.image_size, 3)
        self.recipe, self.pool, self.first = recipe, pool, first
        self.pictures = np.zeros(shape, np.uint8)
        self.labels = np.zeros((recipe.kept_pictures, len(ATTRIBUTES)), np.int64)
        self.rendered = 0
        self.pending: Future[tuple[NDArray[np.uint8], NDArray[np.int64]]] | None = None
        while self.rendered < min(recipe.first_pictures, recipe.kept_pictures):
            self.refresh(wait=True)

    def __len__(self) -> int:
        return min(self.rendered, len(self.pictures))

    def refresh(self, *, wait: bool = False) -> None:
        """Add the pictures that the other process has finished, and ask it for more."""
        if self.pending is not None and (wait or self.pending.done()):
            pictures, labels = self.pending.result()
            rows = (self.rendered + np.arange(len(pictures))) % len(self.pictures)
            self.pictures[rows], self.labels[rows] = pictures, labels
            self.rendered += len(pictures)
            self.pending = None
        if self.pending is None:
            start, recipe = self.first + self.rendered, self.recipe
            self.pending = self.pool.submit(labelled_batch, "train", recipe.seed, start, CHUNK, recipe.image_size)

    def batch(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Images in [−1, 1] NCHW of these rows, and their labels (N, attributes)."""
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


def train_classifier(
    out: Path, recipe: ClassifierRecipe, *, minutes: float | None = None, resume: bool = False
) -> dict[str, float]:
    """Train, test on fresh renders of the test split, write `out`; returns the accuracy per attribute.

    `minutes` end the training early and complete the learning rate's decay by then. Errors: InputError for a checkpoint that
    another recipe made, GeninError for a training that does not become stable.
    """
    training = Training(out.with_name(f"{out.name}.training"), STAGE, recipe, minutes=minutes)
    torch.manual_seed(recipe.seed)
    model = AttributeClassifier(ATTRIBUTES, image_size=recipe.image_size).to(memory_format=torch.channels_last)
    # No average: its batch statistics would belong to other weights.
    network = training.add(STAGE, model, NetworkOptions(betas=(0.9, 0.999), average=False))
    if resume:
        training.resume()
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        fresh = FreshPictures(recipe, pool, first=training.images_seen)
        training.run(classifier_step(training, network, fresh), last=True)
    model = model.cpu().to(memory_format=torch.contiguous_format).eval()
    accuracy = measure(model, "test", recipe.test_pictures, seed=recipe.seed + 1)
    facts = {
        "data": "genin built-in world, train split",
        "recipe": {**asdict(recipe), "minutes": minutes},
        "images_seen": training.images_seen,
        "pictures_rendered": fresh.rendered,
        "train_s": round(training.state.elapsed_s),
        "test_split": {"seed": recipe.seed + 1, "samples": recipe.test_pictures},
        "test_accuracy": {name: round(value, 5) for name, value in accuracy.items()},
        "licence": "Apache-2.0",
    }
    save_classifier(model, out, facts)
    return accuracy


def classifier_step(
    training: Training, network: nn.Module, fresh: FreshPictures
) -> Callable[[Update], dict[str, Tensor]]:
    """One update: the sum of the attributes' cross-entropies on augmented pictures."""

    def step(update: Update) -> dict[str, Tensor]:
        fresh.refresh()
        images, labels = fresh.batch(update.randint(len(fresh)).cpu().numpy())
        images = augment(images, update.generator).contiguous(memory_format=torch.channels_last).to(training.device)
        labels = labels.to(training.device)
        with training.autocast():
            logits = network(images)
        losses = {name: F.cross_entropy(logits[name].float(), labels[:, i]) for i, name in enumerate(ATTRIBUTES)}
        loss = torch.stack(list(losses.values())).sum()
        training.optimise(STAGE, loss)
        return {"loss": loss.detach(), **{f"loss_{name}": value.detach() for name, value in losses.items()}}

    return step


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
@click.option(
    "--minutes", type=click.FloatRange(0, min_open=True), default=MINUTES, show_default=True, help="Training time."
)
@click.option(
    "--images",
    type=click.IntRange(1),
    default=ClassifierRecipe.images,
    show_default=True,
    help="Images to train on at most.",
)
@click.option(
    "--image-size",
    type=click.IntRange(8, 1024),
    default=ClassifierRecipe.image_size,
    show_default=True,
    help="Side of its pictures in pixels.",
)
@click.option("--threads", default=0, help="Threads of the training process (0: leave as is).")
@click.option("--seed", default=0, show_default=True)
@click.option("--resume", is_flag=True, help="Resume the last run for OUT.")
def train_command(
    out: Path, minutes: float, images: int, image_size: int, threads: int, seed: int, resume: bool
) -> None:
    """Train the built-in world's attribute classifier and print its accuracy on fresh test renders."""
    if threads:
        torch.set_num_threads(threads)
    try:
        recipe = ClassifierRecipe(images=images, image_size=image_size, seed=seed)
        accuracy = train_classifier(out, recipe, minutes=minutes, resume=resume)
    except (GeninError, KeyboardInterrupt) as error:  # in one line: this command does not run under `genin`
        raise click.ClickException(str(error) or "interrupted") from error
    for name, value in accuracy.items():
        click.echo(f"{name:12} {100 * value:6.2f} %")


if __name__ == "__main__":
    train_command()

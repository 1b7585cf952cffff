"""The attribute classifier: its file format, its training, and the accuracy of the shipped weights."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from tunable import no_curves as no_curves

torch = pytest.importorskip("torch")

from genin.benchmarks.quality.classifier import AttributeClassifier, load_classifier, save_classifier  # noqa: E402
from genin.distill import world_classifier  # noqa: E402
from genin.distill.loop.training import Training  # noqa: E402
from genin.distill.world.dataset import render_batch  # noqa: E402
from genin.distill.world.scene import ATTRIBUTES  # noqa: E402
from genin.distill.world_classifier import (  # noqa: E402
    ClassifierRecipe,
    FreshPictures,
    augment,
    labels_of,
    measure,
    train_classifier,
    train_command,
)
from genin.runtimes.errors import InputError  # noqa: E402

SHIPPED = Path(__file__).parents[2] / "weights" / "genin_training_weights" / "world_classifier.safetensors"
COLOURS = {"colour": ("red", "green", "blue")}


@pytest.fixture(scope="module")
def shipped() -> AttributeClassifier:
    return load_classifier(SHIPPED)


def test_shipped_weights_name_every_attribute_of_fresh_renders(shipped: AttributeClassifier) -> None:
    accuracy = measure(shipped, "test", 600, seed=20_261_124)
    assert set(accuracy) == set(ATTRIBUTES)
    assert min(accuracy.values()) >= 0.98, accuracy


def test_shipped_weights_endure_a_decoders_blur(shipped: AttributeClassifier) -> None:
    pictures, scenes = render_batch("test", 5, 0, 256, 128)
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    soft = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    blurred = soft.permute(0, 2, 3, 1).round().to(torch.uint8).numpy()
    for name, values in shipped.predict(blurred).items():
        assert np.mean(values == np.array([getattr(s, name) for s in scenes])) >= 0.95, name


def test_shipped_file_says_how_it_was_made(shipped: AttributeClassifier) -> None:
    facts = shipped.metadata
    assert {name: tuple(values) for name, values in facts["attributes"].items()} == dict(ATTRIBUTES)
    assert facts["recipe"]["image_size"] == shipped.image_size == 128
    assert min(facts["test_accuracy"].values()) >= 0.98
    assert SHIPPED.stat().st_size < 1_500_000


def test_features_do_not_depend_on_the_batch_and_hardly_on_the_size(shipped: AttributeClassifier) -> None:
    pictures, _ = render_batch("val", 0, 0, 9, 128)
    together = shipped.features(pictures)
    assert together.shape == (9, 192) and together.dtype == np.float32
    assert np.allclose(together, shipped.features(pictures, batch_size=2), atol=1e-4)
    larger, _ = render_batch("val", 0, 0, 9, 256)
    cosine = (together * shipped.features(larger)).sum(1) / np.linalg.norm(together, axis=1)
    assert (cosine / np.linalg.norm(shipped.features(larger), axis=1)).min() > 0.95
    assert shipped.features(pictures[:0]).shape == (0, 192)


def test_a_file_round_trips(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AttributeClassifier(COLOURS, image_size=32).eval()
    path = tmp_path / "colours.safetensors"
    save_classifier(model, path, {"licence": "Apache-2.0"})
    loaded = load_classifier(path)
    assert loaded.attributes == COLOURS and loaded.metadata["licence"] == "Apache-2.0"
    pictures = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    assert np.allclose(model.features(pictures), loaded.features(pictures), atol=1e-2)
    assert set(loaded.predict(pictures)["colour"]) <= set(COLOURS["colour"])
    assert [p.name for p in tmp_path.iterdir()] == ["colours.safetensors"]


def test_bad_files_are_refused_by_name(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(InputError, match=r"no such classifier: .*absent"):
        load_classifier(tmp_path / "absent.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x10\x00\x00")
    with pytest.raises(InputError, match="not a readable classifier"):
        load_classifier(broken)
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, other)
    with pytest.raises(InputError, match="not a genin classifier"):
        load_classifier(other)


def test_wrong_pictures_are_refused(shipped: AttributeClassifier) -> None:
    with pytest.raises(InputError, match="uint8"):
        shipped.features(np.zeros((2, 64, 64, 3), np.float32))


def test_augmentation_keeps_shape_and_range() -> None:
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    changed = augment(images, torch.Generator().manual_seed(2))
    assert changed.shape == images.shape and changed.abs().max() <= 1
    assert torch.equal(changed, augment(images, torch.Generator().manual_seed(2)))


def test_labels_index_the_values() -> None:
    _, scenes = render_batch("train", 0, 0, 4, 16)
    for row, drawn in zip(labels_of(scenes), scenes, strict=True):
        assert [values[i] for values, i in zip(ATTRIBUTES.values(), row, strict=True)] == list(
            drawn.attributes().values()
        )


def test_a_killed_renderer_ends_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """It used to leave the training waiting for it for ever."""
    monkeypatch.setattr(world_classifier, "CHUNK", 4)
    recipe = ClassifierRecipe(first_pictures=4, kept_pictures=8, image_size=16)
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        fresh = FreshPictures(recipe, pool)
        assert (
            fresh.rendered == 4
            and fresh.labels[:4].tolist() == labels_of(render_batch("train", 0, 0, 4, 16)[1]).tolist()
        )
        for process in list(pool._processes.values()):
            process.kill()
        with pytest.raises(BrokenProcessPool):
            for _ in range(3):  # the batch that was on its way may have arrived
                fresh.refresh(wait=True)


@pytest.fixture
def quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The renderer as a fork of the test: a new interpreter would import torch first."""
    monkeypatch.setattr(world_classifier, "get_context", lambda _method: get_context("fork"))


TINY = {"batch_size": 16, "first_pictures": 64, "kept_pictures": 128, "image_size": 16, "test_pictures": 32}


@pytest.mark.train
@pytest.mark.usefixtures("quick_start")
def test_training_is_the_shared_loop_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs: list[tuple[int, int]] = []

    def watched(training: Training, step: Any, *arguments: Any, **options: Any) -> None:
        before = training.images_seen
        run(training, step, *arguments, **options)
        runs.append((before, training.images_seen))

    run = Training.run
    monkeypatch.setattr(Training, "run", watched)
    monkeypatch.setattr(world_classifier, "CHUNK", 32)
    monkeypatch.setattr(world_classifier, "ClassifierRecipe", lambda **chosen: ClassifierRecipe(**{**TINY, **chosen}))
    out = tmp_path / "small.safetensors"
    command = ["--out", str(out), "--minutes", "9", "--image-size", "16"]
    for images, resume in ((48, []), (96, ["--resume"])):
        train_command.main([*command, "--images", str(images), *resume], standalone_mode=False)
        assert capsys.readouterr().out.count(" %\n") == len(ATTRIBUTES)
    assert runs == [(0, 48), (48, 96)]
    facts = load_classifier(out).metadata
    assert facts["images_seen"] == 96 and facts["recipe"]["minutes"] == 9 and facts["recipe"]["image_size"] == 16
    row = json.loads((tmp_path / "small.safetensors.training" / "classifier.log.jsonl").read_text().splitlines()[-1])
    assert row["images_seen"] == 96 and row["loss"] == pytest.approx(
        sum(row[f"loss_{n}"] for n in ATTRIBUTES), abs=1e-4
    )
    with pytest.raises(click.ClickException, match=r"started with classifier\.seed 0"):
        train_command.main([*command, "--images", "96", "--seed", "1", "--resume"], standalone_mode=False)


@pytest.mark.train
@pytest.mark.usefixtures("quick_start")
def test_a_few_updates_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refresh = FreshPictures.refresh  # the first pictures suffice: rendering more would keep a core busy all the while
    monkeypatch.setattr(
        FreshPictures, "refresh", lambda self, *, wait=False: refresh(self, wait=True) if wait else None
    )
    settings = {**TINY, "batch_size": 64, "first_pictures": 512, "kept_pictures": 512, "image_size": 32}
    recipe = ClassifierRecipe(**settings, images=6_400)
    train_classifier(tmp_path / "small.safetensors", recipe)
    log = (tmp_path / "small.safetensors.training" / "classifier.log.jsonl").read_text().splitlines()
    first, last = (json.loads(log[i])["loss"] for i in (0, -1))
    chance = sum(np.log(len(values)) for values in ATTRIBUTES.values())
    assert last < 0.85 * first and last < 0.85 * chance


@pytest.mark.slow
def test_training_learns_and_writes_a_loadable_file(tmp_path: Path) -> None:
    recipe = ClassifierRecipe(images=6_400, batch_size=64, first_pictures=1_024, kept_pictures=2_048, test_pictures=256)
    accuracy = train_classifier(tmp_path / "small.safetensors", recipe, minutes=3)
    assert accuracy["light"] > 0.5 and accuracy["environment"] > 0.3
    assert load_classifier(tmp_path / "small.safetensors").metadata["images_seen"] == 6_400

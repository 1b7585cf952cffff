"""Drawing from an image: strengths, masks, what diffusers draws, images of every kind, what is refused.

That every engine draws the same is in `test_engines`.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import IMAGE_SIZE, psnr_db
from genin import cli
from genin.dataset.files import fit, read_picture
from genin.runtimes.coreml_engine import CoreMLEngine, Package
from genin.runtimes.errors import BundleError, InputError
from genin.runtimes.loading import folder_pipeline, load_pipeline
from genin.runtimes.noise import batch_normal
from genin.runtimes.origin import fingerprint
from genin.runtimes.pictures import Picture
from genin.runtimes.pipeline import Pipeline
from genin.runtimes.starts import Start, encoder_input, open_image, open_mask, read_start, settled_strength, strengths
from genin.runtimes.tensors import APPLE_INPUTS
from tiny_bundle import without_encoder

torch = pytest.importorskip("torch")

SIZE = (IMAGE_SIZE, IMAGE_SIZE)


@pytest.fixture(scope="module")
def student(tiny_student_folder: Path) -> Iterator[Pipeline]:
    with load_pipeline(tiny_student_folder) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def image(student: Pipeline) -> Picture:
    return student("orange sunset", seed=1)


@pytest.fixture
def mask() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """White inside, black outside, and a grey edge."""
    values = np.zeros(SIZE, np.uint8)
    values[7:21, 4:18] = 128
    values[8:20, 5:17] = 255
    return values


# --- as diffusers does ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "strength", "taken"), [(4, 0.25, 1), (4, 0.75, 3), (2, 0.5, 1), (2, 1.0, 2), (1, 1.0, 1)]
)
def test_students_equal_diffusers(
    tiny_student_folder: Path, student: Pipeline, image: Picture, steps: int, strength: float, taken: int
) -> None:
    theirs = diffusers_picture(tiny_student_folder, image.to_pil(), steps, strength, 1.0)
    ours = student.generate("ninja", 11, steps=steps, image=image, strength=strength, noise="torch")
    assert psnr_db(ours.images[0], theirs) >= 40
    assert psnr_db(image.array, theirs) < 40
    seen = list(student.stream("ninja", 11, steps=steps, image=image, strength=strength))
    assert [step.steps for step in seen] == [taken] * taken and ours.steps == steps


@pytest.mark.parametrize(("steps", "strength"), [(10, 0.55), (7, 0.8), (8, 1.0)])
def test_teachers_equal_diffusers(tiny_model_folder: Path, image: Picture, steps: int, strength: float) -> None:
    """Guided, at strengths between the steps, and with a number of steps that does not divide the schedule."""
    theirs = diffusers_picture(tiny_model_folder, image.to_pil(), steps, strength, 3.0)
    with load_pipeline(tiny_model_folder) as teacher:
        ours = teacher("ninja", seed=11, steps=steps, image=image, strength=strength, noise="torch")
    assert psnr_db(ours.array, theirs) >= 40


def test_a_variational_encoder_equals_diffusers_from_its_mean(compact_model: Path, image: Picture) -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(compact_model, subfolder="vae")
    with torch.no_grad():
        mean = vae.encode(torch.from_numpy(encoder_input(image.array[None]))).latent_dist.mean
    theirs = diffusers_picture(compact_model, mean * vae.config.scaling_factor, 4, 0.5, 1.0)
    with load_pipeline(compact_model) as pipeline:
        ours = pipeline("ninja", seed=11, image=image, strength=0.5, noise="torch")
    assert psnr_db(ours.array, theirs) >= 40


def diffusers_picture(folder: Path, image: Any, steps: int, strength: float, scale: float) -> Any:
    """By diffusers' own pipeline with DDIM, from torch's noise of seed 11."""
    from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline

    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(folder, safety_checker=None)
    assert isinstance(pipeline.scheduler, DDIMScheduler)
    pipeline.set_progress_bar_config(disable=True)
    settings: dict[str, Any] = {"num_inference_steps": steps, "strength": strength, "guidance_scale": scale}
    generator = torch.Generator().manual_seed(11)
    return np.asarray(pipeline("ninja", image=image, generator=generator, **settings).images[0])


# --- strengths --------------------------------------------------------------------------------------------------------


def test_the_strengths_that_exist(student: Pipeline) -> None:
    assert student.strengths() == (0.25, 0.5, 0.75, 1.0) and student.strengths(2) == (0.5, 1.0)
    assert student.strengths(1) == (1.0,)
    with pytest.raises(InputError, match="steps must be a whole number from 1 to 1,000; got 0"):
        student.strengths(0)


@pytest.mark.parametrize("steps", [1, 3, 49, 50, 1000])
def test_every_strength_takes_one_step_more(steps: int) -> None:
    """As diffusers counts them, whatever a quotient is rounded to."""
    for few in (False, True):
        taken = [settled_strength(value, steps, few=few, masked=False) for value in strengths(steps)]
        assert taken == list(zip(strengths(steps), range(1, steps + 1), strict=True))


@pytest.mark.parametrize(("steps", "expected"), [(1, (1, 1)), (2, (0.5, 1)), (4, (0.75, 3))])
def test_default_strengths_of_students(steps: int, expected: tuple[float, int]) -> None:
    assert settled_strength(None, steps, few=True, masked=False) == expected
    assert settled_strength(None, steps, few=True, masked=True) == (1, steps)


def test_default_strengths_of_teachers() -> None:
    assert settled_strength(None, 50, few=False, masked=False) == (0.8, 40)
    assert settled_strength(None, 1, few=False, masked=False) == (1, 1)
    assert settled_strength(0.29, 100, few=False, masked=True) == (0.29, int(100 * 0.29))  # 28, as in diffusers
    assert settled_strength(0.333, 3, few=True, masked=False) == (1 / 3, 1)


# --- masks ------------------------------------------------------------------------------------------------------------


def test_outside_the_mask_every_step_has_the_images_own_latents(student: Pipeline, image: Picture, mask: Any) -> None:
    """Noised to where the step leads by the drawing's own noise; at the end as they are."""
    encoded = student._engine.encode_picture(encoder_input(image.array[None])) * student.latents.scaling_factor
    noise = batch_normal([3, 4], student.latents.shape)
    outside = np.asarray(Start(image.array, mask).latent_mask(4) == 0)
    assert 0 < outside.sum() < outside.size
    for step, after in zip(
        student.stream("ninja", [3, 4], image=image, mask=mask, strength=0.75), (499, 249, None), strict=True
    ):
        alpha, sigma = (1.0, 0.0) if after is None else student._schedule.alpha_sigma(after)
        difference = np.abs(step.latents - (alpha * encoded + sigma * noise)).max(axis=1, keepdims=True)
        assert difference[np.broadcast_to(outside, difference.shape)].max() < 1e-5
        assert difference.max() > 0.1
        shown = step.preview()
        assert np.array_equal(shown[:, mask == 0], np.stack([image.array[mask == 0]] * 2))


def test_grey_blends_and_black_keeps(image: Picture, mask: Any) -> None:
    start, drawn = Start(image.array, mask), 255 - image.array[None]
    got = start.composite(drawn)[0]
    assert np.array_equal(got[mask == 0], image.array[mask == 0]) and np.array_equal(
        got[mask == 255], drawn[0][mask == 255]
    )
    expected = (drawn[0] * 128.0 + image.array * 127.0) / 255
    assert np.abs(got - expected)[mask == 128].max() <= 0.5
    assert start.latent_mask(4).shape == (1, 1, 8, 8)
    assert start.latent_mask(4)[0, 0, 1, 1] == np.float32(128 / 255)  # the most that any of its pixels is drawn anew


def test_masks_of_every_kind(tmp_path: Path, mask: Any) -> None:
    Image.fromarray(mask).save(tmp_path / "grey.png")
    Image.fromarray(mask).convert("RGB").save(tmp_path / "rgb.png")
    kinds: list[Any] = [mask, np.stack([mask] * 3, axis=2), tmp_path / "grey.png", str(tmp_path / "rgb.png")]
    kinds += [Image.fromarray(mask), Picture(np.stack([mask] * 3, axis=2))]
    for kind in kinds:
        assert np.array_equal(np.asarray(open_mask(kind)), mask)
    assert np.array_equal(np.asarray(open_mask(mask > 200)), np.where(mask > 200, 255, 0))
    clear = Image.new("LA", SIZE, (255, 0))
    clear.paste((255, 255), (3, 3, 9, 9))
    assert np.asarray(open_mask(clear)).sum() == 36 * 255  # what is transparent is kept


# --- images -----------------------------------------------------------------------------------------------------------


def picture_of(mode: str, size: tuple[int, int] = (45, 33)) -> Image.Image:
    pixels = np.random.default_rng(2).integers(0, 256, (size[1], size[0], 4), np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257)
    return Image.fromarray(pixels).convert("RGB" if mode == "CMYK" else "RGBA").convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "I;16", "1"])
def test_images_are_converted_as_datasets_are(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png")
    picture_of(mode).save(path)
    expected = np.asarray(fit(read_picture(path), (24, 40)))
    for given in (path, str(path), Image.open(path)):
        start = read_start(given, None, (40, 24))
        assert start.mask is None and np.array_equal(start.image, expected)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_a_turned_picture_that_is_not_loaded_yet_is_turned_once(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"picture.{suffix}"
    picture_of("RGB").save(path, exif=exif)
    with Image.open(path) as given:
        assert np.array_equal(np.asarray(open_image(given, "image")), np.asarray(open_image(path, "image")))


def test_image_and_mask_are_cut_alike() -> None:
    """To the size that is drawn: a mark in both stays at one place."""
    image, mask = np.zeros((90, 60, 3), np.uint8), np.zeros((90, 60), np.uint8)
    image[30:60, 20:40], mask[30:60, 20:40] = 255, 255
    start = read_start(image, mask, (30, 30))
    assert start.image.shape == (30, 30, 3) and start.mask is not None
    assert np.abs(start.image[:, :, 0].astype(int) - start.mask).mean() < 4
    assert (start.mask[:5] == 0).all() and (start.mask[12:18, 12:18] == 255).all()


def test_the_array_of_a_picture_is_taken_as_it_is(student: Pipeline, image: Picture, tmp_path: Path) -> None:
    image.save(tmp_path / "a.png")
    kinds: list[Any] = [image, image.array, image.to_pil(), tmp_path / "a.png", str(tmp_path / "a.png")]
    drawn = [student("ninja", image=kind, strength=0.5) for kind in kinds]
    assert all(picture == drawn[0] for picture in drawn)


def test_another_size_is_drawn_from_an_image(student: Pipeline, image: Picture) -> None:
    drawn = student("ninja", image=image, strength=0.25, size=(IMAGE_SIZE + 8, IMAGE_SIZE))
    assert drawn.shape == (IMAGE_SIZE + 8, IMAGE_SIZE, 3)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"image": None, "mask": np.zeros(SIZE, np.uint8)}, "a mask needs an image"),
        ({"image": None, "strength": 0.5}, "a strength needs an image"),
        ({"strength": math.nan}, "strength must be a number; got nan"),
        ({"strength": "0.5"}, "strength must be a number"),
        ({"strength": 0}, "strength must be above 0 and at most 1; got 0"),
        ({"strength": 1.5}, "strength must be above 0 and at most 1; got 1.5"),
        ({"strength": 0.6}, r"strength 0.6 does not exist.*in 4 steps; the nearest is 0.5 \(of 0.25, 0.5, 0.75, 1\)"),
        ({"strength": 0.9, "steps": 1}, "in 1 step; the nearest is 1"),
        ({"strength": 0.1, "steps": 3}, "leaves none of 3 steps; the nearest is 0.333"),
        ({"image": "absent.png"}, "the image cannot be used: the file is missing: absent.png"),
        ({"image": __file__}, "the image cannot be used: not a picture"),
        ({"image": 3}, r"must be a path, a picture or an array \(H, W, 3\) of uint8; got int"),
        ({"image": np.zeros(SIZE)}, r"got an array \(32, 32\) of float64"),
        ({"image": np.zeros((0, 4, 3), np.uint8)}, r"got an array \(0, 4, 3\)"),
        ({"image": Image.new("RGBA", SIZE, (0, 0, 0, 0))}, "the image cannot be used: fully transparent"),
        ({"mask": np.zeros((IMAGE_SIZE, 31), np.uint8)}, "the mask is 31x32, the image 32x32"),
        ({"mask": Image.new("RGB", SIZE, "red")}, "the mask has colours"),
        ({"mask": np.zeros(SIZE)}, "the mask must be a path"),
        ({"mask": "absent.png"}, "the mask cannot be used: the file is missing"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(
    student: Pipeline, image: Picture, arguments: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(student, "_engine", None)
    with pytest.raises(InputError, match=says):
        student.stream("ninja", **{"image": image, **arguments})


# --- Core ML's shapes -------------------------------------------------------------------------------------------------


class AppleEncoder:
    """A compiled `VAEEncoder`: one picture at a time => mean and log variance."""

    def __init__(self, encode: Callable[[Any], Any]) -> None:
        self.encode, self.calls = encode, 0

    def predict(self, data: dict[str, Any]) -> dict[str, Any]:
        assert {name: array.shape for name, array in data.items()} == {"z": (1, 3, *SIZE)}
        self.calls += 1
        mean = self.encode(data["z"])
        return {"latent": np.concatenate([mean, np.full_like(mean, -30)], axis=1)}


def test_coreml_takes_the_mean_of_apples_encoder(student: Pipeline, image: Picture) -> None:
    def package(shapes: dict[str, tuple[int, ...]], model: Any) -> Package:
        return Package(model, shapes, dict.fromkeys(shapes, np.dtype(np.float32)))

    model, loaded = AppleEncoder(student._engine.encode_picture), []
    shape = {"z": (1, 3, *SIZE)}
    engine = CoreMLEngine({}, {"vae_encoder": lambda: loaded.append(1) or package(shape, model)})  # type: ignore[func-returns-value]
    pictures = np.concatenate([encoder_input(image.array[None])] * 2)
    for _ in range(2):
        assert np.allclose(engine.encode_picture(pictures), student._engine.encode_picture(pictures), atol=1e-4)
    assert (loaded, model.calls) == ([1], 4)
    assert set(APPLE_INPUTS) == {"text_encoder", "unet", "vae_decoder", "vae_encoder"}
    with pytest.raises(BundleError, match="the vae_encoder package has no input 'z'"):
        CoreMLEngine({}, {"vae_encoder": lambda: package({"sample": (1,)}, model)}).encode_picture(pictures)


# --- files and commands -----------------------------------------------------------------------------------------------


def test_a_picture_says_how_it_was_drawn_from_an_image(
    student: Pipeline, image: Picture, mask: Any, tiny_student_folder: Path, tmp_path: Path
) -> None:
    drawn = student("ninja", seed=5, image=image, mask=mask, strength=0.5)
    again = Picture.open(drawn.save(tmp_path / "a.png"))
    assert (again.settings["strength"], again.settings["steps"]) == (0.5, 4)
    assert again == drawn == student(**again.settings, image=image, mask=mask)
    assert again.origin["licence"] == "Apache-2.0"
    assert again.origin["model_sha256"] == fingerprint(tiny_student_folder)
    assert "strength" not in image.settings


@pytest.mark.export
def test_pictures_of_a_bundle_name_the_weights_of_its_model(tiny_bundle: Path, inverted_student: Path) -> None:
    with load_pipeline(tiny_bundle, "onnxruntime") as pipeline:
        assert pipeline("ninja", steps=1).origin["model_sha256"] == fingerprint(inverted_student)


def test_a_picture_does_not_name_weights_that_did_not_draw_it(tiny_student_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_student_folder, folder)
    with load_pipeline(folder) as pipeline:
        weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
        os.utime(weights, (1, 1))  # another training has been saved there
        assert "model_sha256" not in pipeline("ninja", steps=1).origin


def test_a_relative_name_means_the_working_folder_of_when_it_was_loaded(
    tiny_student_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_student_folder)
    with load_pipeline(".") as pipeline:
        monkeypatch.chdir(tmp_path)
        origin = pipeline("ninja", steps=1).origin
    assert origin["model"] == tiny_student_folder.resolve().name
    assert origin["model_sha256"] == fingerprint(tiny_student_folder)


def test_a_model_that_is_gone_draws_on(tiny_student_folder: Path, tmp_path: Path, student: Pipeline) -> None:
    (tmp_path / "model").symlink_to(tiny_student_folder)
    with folder_pipeline(tmp_path / "model", lambda: student._engine, runtime="pytorch", precision="fp32") as pipeline:
        monkey, pipeline._engine = pipeline._engine, Unclosed(pipeline._engine)
        (tmp_path / "model").unlink()
        assert set(pipeline("ninja").origin) == {"model", "runtime", "precision"}
        assert monkey is student._engine


class Unclosed:
    """An engine that another pipeline goes on using."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def close(self) -> None:
        pass


@pytest.mark.export
def test_generate_and_inspect_commands(
    tiny_bundle: Path, image: Picture, mask: Any, tmp_path: Path, genin: Callable[..., dict[str, Any]]
) -> None:
    files = [image.save(tmp_path / "image.png"), tmp_path / "mask.png"]
    Image.fromarray(mask).save(files[1])
    out, model = tmp_path / "out.png", ("-m", tiny_bundle, "--runtime", "onnxruntime")
    start = ("--image", files[0], "--mask", files[1], "--strength", "0.75")
    report = genin("generate", "a ninja", *model, *start, "--out", out, "--seed", "5")
    assert (report["image"], report["mask"], report["strength"]) == (*map(str, files), 0.75)
    assert np.array_equal(Picture.open(out).array[mask == 0], image.array[mask == 0])
    facts = genin("inspect", out)
    assert facts["kind"] == "picture" and (facts["width"], facts["height"]) == SIZE
    assert facts["settings"] == json.loads(json.dumps(dict(Picture.open(out).settings)))
    assert facts["origin"]["licence"] == "Apache-2.0" and len(facts["origin"]["model_sha256"]) == 64
    report = genin("generate", "a ninja", *model, "--out", out)
    assert report["image"] is report["mask"] is report["strength"] is None


def test_inspect_prints_a_pictures_settings(
    student: Pipeline, image: Picture, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student("a ninja", seed=5, image=image, strength=0.5).save(tmp_path / "a.png")
    assert cli.run(["inspect", str(tmp_path / "a.png")]) == 0
    said = capsys.readouterr().out
    for line in ("picture: 32x32", "prompt: a ninja", "seed: 5", "steps: 4", "strength: 0.5", "licence: Apache-2.0"):
        assert line in said.splitlines()
    Image.new("RGB", SIZE).save(tmp_path / "b.png")
    assert cli.run(["inspect", str(tmp_path / "b.png")]) == 0
    assert "note: it holds no settings" in capsys.readouterr().out
    (tmp_path / "c.png").write_bytes(b"no picture")
    assert cli.run(["inspect", str(tmp_path / "c.png")]) == 2
    assert "cannot be read as a picture" in capsys.readouterr().err


def test_inspect_says_which_strengths_exist(
    tiny_student_folder: Path, tiny_model_folder: Path, genin: Callable[..., dict[str, Any]]
) -> None:
    facts = genin("inspect", tiny_student_folder)
    assert facts["takes_images"] and facts["strengths"] == {"4": [0.25, 0.5, 0.75, 1], "2": [0.5, 1], "1": [1]}
    assert genin("inspect", tiny_model_folder)["strengths"] is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--mask", "x.png"], "a mask needs an image"),
        (["--image", "absent.png"], "the file is missing"),
        (["--image", "picture.png", "--strength", "nan"], "strength must be a number"),
        (["--image", "picture.png", "--strength", "0.3"], "the nearest is 0.25"),
        (["--image", "picture.png", "--mask", "picture.png"], "the mask has colours"),
        (["--image", "picture.png", "-m", "old"], "no vae_encoder graph"),
    ],
)
def test_generate_command_refuses(
    tiny_student_folder: Path,
    tiny_bundle: Path,
    tmp_path: Path,
    options: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    picture_of("RGB", SIZE).save("picture.png")
    if "old" in options:
        without_encoder(tiny_bundle, tmp_path / "old")
    files = sorted(path.name for path in tmp_path.iterdir())
    assert cli.run(["generate", "ninja", "-m", str(tiny_student_folder), *options]) == 2
    said = capsys.readouterr()
    assert says in said.err and len(said.err.strip().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == files

"""The tiny decoder: whose encoder it keeps, what it learns from, that it fits into the student's folder and its bundle."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from conftest import press_ctrl_c
from tunable import empty_curves
from tunable import no_curves as no_curves

torch = pytest.importorskip("torch")

from genin.cli import run  # noqa: E402
from genin.distill.inputs.update import Update  # noqa: E402
from genin.distill.loop import training  # noqa: E402
from genin.distill.loop.training import Training  # noqa: E402
from genin.distill.models.folder import load_model_folder, save_model_folder  # noqa: E402
from genin.distill.recipe import DecoderRecipe  # noqa: E402
from genin.distill.student.decoder import Pairs, build_tiny, decoder_step  # noqa: E402
from genin.distill.student.provenance import StartingStudent, latent_space  # noqa: E402
from genin.runtimes.errors import InputError  # noqa: E402

pytestmark = pytest.mark.train
RECIPE = """
pool: {size: 16, teacher_steps: 2, batch_size: 16}
prune: {images: 0}
steps: {images: 8, batch_size: 8, held_out_images: 0, step_counts: [2, 1]}
adversarial: {images: 0}
decoder: {images: 32, batch_size: 8, channels: 8, blocks: [1, 1, 0], cache_images: 16, lr: 0.003}
"""


def distil(teacher: Path, recipe: Path, out: Path, *more: str) -> int:
    arguments = ["--teacher", str(teacher), "--data", "builtin:world", "--student", "bk-small"]
    return run(["distill", *arguments, "--recipe", str(recipe), "--out", str(out), *more])


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("decoder") / "tiny.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def student(tiny_model_folder: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("distilled") / "student"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("genin.distill.loop.previews.plot_curves", empty_curves)
        assert distil(tiny_model_folder, recipe, out) == 0
    return out


def test_the_student_has_a_smaller_decoder_and_its_teachers_encoder(student: Path, tiny_model_folder: Path) -> None:
    from diffusers import StableDiffusionPipeline

    teacher, found = load_model_folder(tiny_model_folder).vae, load_model_folder(student).vae
    for name, value in teacher.encoder.state_dict().items():
        assert torch.equal(value, found.encoder.state_dict()[name])
    sizes = [sum(weight.numel() for weight in vae.decoder.parameters()) for vae in (found, teacher)]
    assert sizes[0] < sizes[1] and found.config.scaling_factor == teacher.config.scaling_factor
    pipeline = StableDiffusionPipeline.from_pretrained(student)
    [picture] = pipeline("a ninja", num_inference_steps=2, guidance_scale=1.0, output_type="np").images
    assert picture.shape == (32, 32, 3)
    info = json.loads((student / "genin.json").read_text(encoding="utf-8"))
    assert info["recipe"]["decoder"]["channels"] == 8 and info["images_seen"] == 8  # the UNet's alone


def test_it_learns(tiny_model_folder: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "ROW_UPDATES", 20)
    longer = tmp_path / "longer.yaml"
    longer.write_text(RECIPE.replace("images: 32, batch", "images: 1920, batch"), encoding="utf-8")
    assert distil(tiny_model_folder, longer, tmp_path / "out") == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "training" / "decoder.log.jsonl").read_text().splitlines()]
    assert rows[-1].keys() >= {"last", "edge", "psnr_db"}
    assert rows[-1]["last"] < 0.8 * rows[0]["last"] and rows[-1]["psnr_db"] > rows[0]["psnr_db"] + 1.5
    assert (tmp_path / "out" / "training" / "decoder.samples-00001920.png").is_file()


def test_ctrl_c_changes_nothing_about_where_it_leads(
    student: Path, tiny_model_folder: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    next_update = Training._next_update

    def interrupted(run: Training) -> Update:
        if run.stage == "decoder" and run.state.update_index == 1:
            press_ctrl_c()
        return next_update(run)

    out = tmp_path / "again"
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_next_update", interrupted)
        assert distil(tiny_model_folder, recipe, out) == 130
    assert json.loads((out / "genin.json").read_text(encoding="utf-8"))["images_seen"] == 8
    assert distil(tiny_model_folder, recipe, out, "--resume") == 0
    for part in ("unet", "vae"):
        wanted, found = (getattr(load_model_folder(path), part).state_dict() for path in (student, out))
        assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_another_teachers_latents_are_not_given_to_an_earlier_decoder(
    student: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """A teacher whose autoencoder was tuned since: its own decodes them."""
    model = load_model_folder(tiny_model_folder)
    with torch.no_grad():
        next(model.vae.encoder.parameters()).mul_(1.1)
    save_model_folder(model, tmp_path / "tuned")
    none = tmp_path / "none.yaml"
    none.write_text(RECIPE[: RECIPE.index("decoder:")], encoding="utf-8")
    assert distil(tmp_path / "tuned", none, tmp_path / "out", "--init", str(student)) == 0
    found, wanted = load_model_folder(tmp_path / "out").vae.state_dict(), model.vae.state_dict()
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_decoder_goes_on_from_an_earlier_one_and_stays_where_none_is_trained(
    student: Path, tiny_model_folder: Path, recipe: Path, tmp_path: Path
) -> None:
    before = load_model_folder(student).vae.state_dict()
    still = tmp_path / "still.yaml"
    still.write_text(RECIPE.replace("lr: 0.003", "lr: 0"), encoding="utf-8")
    none = tmp_path / "none.yaml"
    none.write_text(RECIPE[: RECIPE.index("decoder:")], encoding="utf-8")
    for name, path in {"still": still, "none": none}.items():
        assert distil(tiny_model_folder, path, tmp_path / name, "--init", str(student)) == 0
        after = load_model_folder(tmp_path / name).vae.state_dict()
        assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in before)


def test_the_decoder_alone_can_be_trained_for_a_finished_student(
    student: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "alone.yaml"
    path.write_text(RECIPE.replace("steps: {images: 8", "steps: {images: 0"), encoding="utf-8")
    assert distil(tiny_model_folder, path, tmp_path / "alone", "--init", str(student)) == 0
    before, after = load_model_folder(student), load_model_folder(tmp_path / "alone")
    assert all(torch.equal(a, b) for a, b in zip(before.unet.parameters(), after.unet.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(before.vae.parameters(), after.vae.parameters(), strict=True))


def test_a_teacher_of_another_kind_gets_a_tiny_encoder_too(
    tiny_model_folder: Path, recipe: Path, tmp_path: Path
) -> None:
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    model: Any = load_model_folder(tiny_model_folder)
    model.vae = AutoencoderKL(
        block_out_channels=(8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4, norm_num_groups=4, scaling_factor=3.5,
    )  # fmt: skip
    save_model_folder(model, tmp_path / "teacher")
    assert distil(tmp_path / "teacher", recipe, tmp_path / "out") == 0
    vae = load_model_folder(tmp_path / "out").vae
    assert type(vae).__name__ == "AutoencoderTiny" and vae.config.scaling_factor == 1.0
    rows = [json.loads(line) for line in (tmp_path / "out" / "training" / "decoder.log.jsonl").read_text().splitlines()]
    assert rows[-1]["latents"] > 0


def test_levels_must_make_the_teachers_factor(tiny_model_folder: Path) -> None:
    vae = load_model_folder(tiny_model_folder).vae
    with pytest.raises(InputError, match=r"3 levels, which enlarge 4 times; this teacher needs 8"):
        build_tiny(vae, DecoderRecipe(), 8)


@pytest.mark.parametrize("amount", [0.0, 0.5])
def test_noise_is_added_to_the_latents_of_true_pictures_only(amount: float) -> None:
    class Recorder(torch.nn.Module):
        seen: Any = None

        def forward(self, latents: Any) -> Any:
            self.seen = latents.detach()
            return torch.zeros(len(latents), 3, 16, 16, requires_grad=True)

    latents = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 4, 4, 4).half()
    pairs = Pairs(latents, np.zeros((8, 16, 16, 3), np.uint8), true=4)
    loop = SimpleNamespace(device=torch.device("cpu"), autocast=nullcontext, optimise=lambda *_: torch.zeros(()))
    tiny, decoder = SimpleNamespace(config=SimpleNamespace(scaling_factor=1.0)), Recorder()
    step = decoder_step(loop, tiny, decoder, pairs, DecoderRecipe(latent_noise=amount), None)  # type: ignore[arg-type]
    step(Update(0, 0, 8, 0, 8, torch.Generator().manual_seed(0), torch.device("cpu")))
    spread = decoder.seen.flatten(1).std(dim=1)
    assert (spread[1::2] == 0).all(), "the student's latents bring their own errors along"
    assert (spread[::2] > 0.2).all() if amount else (spread[::2] == 0).all()


def test_a_student_that_was_stored_in_half_precision_shares_its_teachers_encoder(tiny_model_folder: Path) -> None:
    ours, theirs = (load_model_folder(tiny_model_folder).vae for _ in range(2))
    with torch.no_grad():
        for value in ours.encoder.parameters():
            value.copy_(value.half())
        student = StartingStudent("", "", (), 0, {}, ours, None, False)
        assert student.decodes_latents_of(theirs)
        next(ours.encoder.parameters()).add_(0.01)
    assert not student.decodes_latents_of(theirs)
    # One of another kind says whose latents it decodes.
    student = replace(student, vae=None, latent_space=latent_space(theirs))
    assert student.decodes_latents_of(theirs) and not student.decodes_latents_of(ours)

"""Distillation and tuning through the command line on tiny models: what is written, resumed, refused; and that it learns."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from torch import Tensor  # noqa: E402

from conftest import press_ctrl_c  # noqa: E402
from distilled import RECIPE, STAGES, command, distilled_once, last_row  # noqa: E402
from genin.cli import run  # noqa: E402
from genin.distill import recipe_docs  # noqa: E402
from genin.distill.inputs.update import Update  # noqa: E402
from genin.distill.loop import previews  # noqa: E402
from genin.distill.loop.checkpoints import checkpoint_path, read_checkpoint, read_rows  # noqa: E402
from genin.distill.loop.training import Training  # noqa: E402
from genin.distill.models.check import check_prediction_type, pictures_to_check  # noqa: E402
from genin.distill.models.diffusion import TEACHER_SCHEDULER, Denoiser, PredictionType, Process  # noqa: E402
from genin.distill.models.folder import load_model_folder, save_model_folder  # noqa: E402
from genin.distill.models.guided import Guided  # noqa: E402
from genin.distill.recipe import Recipe, load_recipe  # noqa: E402
from genin.distill.student.budget import Budget  # noqa: E402
from genin.distill.student.pool import DistillationData, Pool, row_generator  # noqa: E402
from genin.distill.student.terms.adversarial import true_pictures  # noqa: E402
from genin.runtimes.errors import InputError  # noqa: E402

TUNING = "finetune: {images: 16, batch_size: 8, cache_images: 16, lr: 0.001, lr_warmup_images: 1, held_out_images: 0}\n"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    return distilled_once(tmp_path_factory, tiny_model_folder) / "recipe.yaml"


@pytest.fixture(scope="module")
def student(recipe: Path) -> Path:
    """Of one run through every phase with every term on (`distilled`)."""
    return recipe.with_name("student")


@pytest.fixture(autouse=True)
def without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the run that is looked at draws them: they take longer than these trainings."""
    monkeypatch.setattr(previews, "plot_curves", lambda *_, **__: None)


@pytest.mark.train
def test_pruning_is_judged_on_captions_and_noises_it_does_not_learn_from(student: Path) -> None:
    from genin.distill.inputs.tensor_file import TensorFile

    folder = student / "training"
    [*_, last] = read_rows(folder / "prune.log.jsonl")
    assert 0 < last["held_out_loss"] < 10 * last["loss"]
    pool, unseen = (
        TensorFile(folder / name).tensor("states") for name in ("pool.safetensors", "held_out_pool.safetensors")
    )
    assert len(unseen) and len(pool)
    assert not any(torch.equal(a, b) for a in unseen[:, 0] for b in pool[:, 0])


@pytest.mark.train
def test_a_student_is_a_model_folder_that_diffusers_opens(student: Path) -> None:
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(student)
    assert pipeline.unet.mid_block is None and pipeline.unet.config.layers_per_block == 1
    info = json.loads((student / "genin.json").read_text(encoding="utf-8"))
    assert info["kind"] == "student" and info["guidance"] == "baked"
    assert info["few_step_timesteps"] == {"4": [999, 749, 499, 249], "2": [999, 499], "1": [999]}
    assert info["images_seen"] == 16 + 16 + 24 and info["recipe"]["student"]["name"] == "bk-small"
    assert "student of 1, 2, 4 steps" in (student / "README.md").read_text(encoding="utf-8")


LOGGED = {
    "prune": {"output", "features"},
    "steps": {"first", "last", "perceptual", "consistency", "kid", "diversity"},
    "adversarial": {
        "first", "last", "perceptual", "consistency", "discriminator", "adversarial", "distillation", "r1", "matching",
        "fake_score", "alignment",
    },
    "alignment": {"accuracy"},
    "decoder": {"last", "edge", "psnr_db"},
}  # fmt: skip


@pytest.mark.train
@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_leaves_its_log_curves_and_pictures(student: Path, stage: str) -> None:
    row, images = last_row(student, stage), getattr(load_recipe(student / "training" / "recipe.yaml"), stage).images
    log = (student / "training" / f"{stage}.log.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in log]  # `r1` comes once in several updates, and the first rows are short
    assert {"loss", *LOGGED[stage]} <= {key for row in rows for key in row} and row["images_seen"] == images
    assert all(math.isfinite(value) for value in row.values())
    curves = student / "training" / f"{stage}.curves.png"
    assert curves.is_file() and (curves.stat().st_size > 0) == (stage == "prune")  # the others are not drawn
    drawn = (student / "training" / f"{stage}.samples-{images:08d}.png").is_file()
    assert drawn == (stage != "alignment")
    kept = (student / "training" / f"{stage}.average-{images:08d}.safetensors").is_file()
    assert kept == (stage == "steps")


@pytest.mark.train
def test_a_finished_run_resumes_without_an_update_and_writes_no_checkpoint(
    student: Path, recipe: Path, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(training: Training) -> Update:
        raise AssertionError(f"update {training.state.update_index} of {training.stage}")

    monkeypatch.setattr(Training, "_next_update", refused)
    shutil.copytree(student, tmp_path / "again")
    checkpoints = sorted((tmp_path / "again" / "training").glob("*.checkpoint.pt"))
    before = [path.stat().st_mtime_ns for path in checkpoints]
    assert run([*command(tiny_model_folder, recipe, tmp_path / "again"), "--resume"]) == 0
    assert len(before) == len(STAGES) and [path.stat().st_mtime_ns for path in checkpoints] == before
    assert same_weights(student, tmp_path / "again")


@pytest.mark.train
def test_a_phase_that_another_has_built_on_learns_no_more(
    student: Path, recipe: Path, tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By minutes, whose shares a resumed run changes, or by images: the later phase would take the place of what it learns."""
    ended = {one: read_checkpoint(checkpoint_path(student / "training", one))["finished_of"] for one in STAGES}
    assert ended["prune"] == load_recipe(recipe).prune.images and all(ended[one] for one in STAGES[1:-1])
    out, more = tmp_path / "again", tmp_path / "more.yaml"
    shutil.copytree(student, out)
    text = recipe.read_text(encoding="utf-8")
    more.write_text(re.sub(r"(steps: \{.*?images: )\d+", r"\g<1>4096", text, count=1), encoding="utf-8")
    assert run([*command(tiny_model_folder, more, out), "--resume"]) == 2
    assert "phase 'adversarial' has begun with what 'steps' had learnt" in capsys.readouterr().err
    assert same_weights(student, out)


def same_weights(one: Path, other: Path) -> bool:
    a, b = load_model_folder(one), load_model_folder(other)
    pairs = ((getattr(a, part).state_dict(), getattr(b, part).state_dict()) for part in ("unet", "vae"))
    return all(torch.equal(value, theirs[name]) for ours, theirs in pairs for name, value in ours.items())


@pytest.mark.train
def test_ctrl_c_in_any_stage_leads_to_the_same_student(
    student: Path,
    recipe: Path,
    tiny_model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One run, interrupted in one stage after the other: in the first update of `steps`, `adversarial` and `decoder`, and in the
    last of `alignment`, which is finished then."""
    next_update = Training._next_update
    interrupted = {"steps": 0, "alignment": 2, "adversarial": 0, "decoder": 0}
    begun_at: list[dict[str, int]] = []  # of each launch: stage => its first update

    def pressed(training: Training) -> Update:
        begun_at[-1].setdefault(training.stage, training.state.update_index)
        if interrupted.get(training.stage) == training.state.update_index:
            del interrupted[training.stage]
            press_ctrl_c()
        return next_update(training)

    monkeypatch.setattr(Training, "_next_update", pressed)
    arguments = command(tiny_model_folder, recipe, tmp_path / "again")
    says = []
    while True:
        begun_at.append({})
        if run([*arguments, *["--resume"][: len(says)]]) != 130:
            break
        says.append(capsys.readouterr().err.splitlines()[-1])
    assert len(says) == 4 and all("the same again with resume continues" in line for line in says)
    assert "interrupted at the end of stage alignment" in says[1]
    launches = [
        {"prune": 0, "steps": 0}, {"steps": 1, "alignment": 0}, {"adversarial": 0}, {"adversarial": 1, "decoder": 0},
        {"decoder": 1},
    ]  # fmt: skip
    assert begun_at == launches  # nothing is done twice
    assert same_weights(student, tmp_path / "again")


@pytest.mark.train
def test_ctrl_c_in_the_last_update_of_all_has_nothing_to_interrupt(
    student: Path, tiny_model_folder: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(student, tmp_path / "again")
    for path in (tmp_path / "again" / "training").glob("decoder.*"):
        path.unlink()
    next_update = Training._next_update

    def pressed(training: Training) -> Update:
        assert training.stage == "decoder"
        if training.state.update_index == 1:
            press_ctrl_c()
        return next_update(training)

    monkeypatch.setattr(Training, "_next_update", pressed)
    assert run([*command(tiny_model_folder, recipe, tmp_path / "again"), "--resume"]) == 0
    assert same_weights(student, tmp_path / "again")


@pytest.mark.train
def test_a_student_goes_on_from_another(
    student: Path, tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a learning rate of nothing its weights are the other's; licence, data and images add up; no pruning again. Without its
    term the adversarial phase needs no true pictures."""
    first = tmp_path / "first"
    shutil.copytree(student, first)
    info = json.loads((first / "genin.json").read_text(encoding="utf-8"))
    info |= {"licence": "CC-BY-NC-4.0", "data": "fan-art", "name": "first"}
    (first / "genin.json").write_text(json.dumps(info), encoding="utf-8")
    recipe, out = tmp_path / "on.yaml", tmp_path / "on"
    recipe.write_text(
        "pool: {size: 8, teacher_steps: 2, batch_size: 8}\nsteps: {images: 0}\n"
        "adversarial: {images: 8, batch_size: 8, lr: 0, held_out_images: 0, adversarial_weight: 0, step_counts: [3, 1]}\n"
    )
    arguments = command(tiny_model_folder, recipe, out)
    assert run([*arguments, "--init", str(first)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["images_seen"] == 56 + 8
    before, after = (load_model_folder(path) for path in (first, out))
    wanted, found = before.unet.state_dict(), after.unet.state_dict()
    assert all(torch.allclose(wanted[name], found[name], atol=1e-6) for name in wanted)
    assert after.info["images_seen"] == 56 + 8 and after.info["data"] == "fan-art, builtin:world"
    assert "CC-BY-NC-4.0" in after.info["licence"] and after.info["recipe"]["prune"]["images"] == 0
    assert after.info["recipe"]["init"].items() >= {"name": "first", **before.info["recipe"]}.items()
    assert list(after.info["few_step_timesteps"]) == ["3", "1"]  # of the phase that was run, not of those left out
    assert not list((out / "training").glob("prune*"))
    [seen] = load_file(out / "training" / "latents.safetensors").values()
    assert len(seen) == pictures_to_check(before.latent_size)  # those that the teacher is tried on, and no more
    assert run([*arguments, "--init", str(first), "--resume"]) == 0
    assert run([*arguments, "--resume"]) == 2
    assert "started with another init" in capsys.readouterr().err
    recipe.write_text(
        "pool: {size: 8, teacher_steps: 2, batch_size: 8}\nsteps: {images: 0}\nadversarial: {images: 0}\n"
        "prune: {repeat: true, images: 16, batch_size: 8}\n"
    )
    again = tmp_path / "again"
    other = load_model_folder(first)
    other.info["latent_space"] = "another teacher's"
    save_model_folder(other, first)
    with pytest.warns(UserWarning, match="first: its decoder is of other latents than this teacher's"):
        assert run([*command(tiny_model_folder, recipe, again), "--init", str(first)]) == 0
    assert (again / "training" / "prune.log.jsonl").is_file() and load_model_folder(again).info[
        "images_seen"
    ] == 56 + 16


# --- refused before any work --------------------------------------------------------------------------------------------


@pytest.mark.train
@pytest.mark.parametrize(
    ("teacher", "preset", "options", "says"),
    [
        ("TEACHER", "bk-base", ["--init", "STUDENT"], "not the shape of bk-base"),
        ("TEACHER", "full", ["--init", "TEACHER"], "not a student"),
        ("TEACHER", "full", ["--init", "TEACHER", "--dry-run"], "--init has no effect on it"),
        ("STUDENT", "bk-small", [], "cannot teach"),
        ("EMPTY", "bk-small", [], "model_index.json"),
        ("TEACHER", "bk-small", ["--data", "PICTURES"], "1 of 2 pictures has no caption, first b.png"),
        ("TEACHER", "bk-small", ["--recipe", "NOTHING"], "trains nothing"),
        ("TEACHER", "bk-small", ["--out", "STUDENT"], "not empty"),
    ],
)
def test_what_cannot_be_distilled_is_refused(
    student: Path,
    tiny_model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    teacher: str,
    preset: str,
    options: list[str],
    says: str,
) -> None:
    """One line that says why, and nothing is written."""
    pictures, nothing = tmp_path / "pictures", tmp_path / "nothing.yaml"
    for folder in (pictures, tmp_path / "empty"):
        folder.mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (16, 16), "red").save(pictures / f"{name}.png")
    (pictures / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a red square"}\n{"file_name": "b.png"}\n')
    nothing.write_text("prune: {images: 0}\nsteps: {images: 0}\nadversarial: {images: 0}\n")
    places = {
        "TEACHER": tiny_model_folder, "STUDENT": student, "EMPTY": tmp_path / "empty", "PICTURES": pictures,
        "NOTHING": nothing,
    }  # fmt: skip
    arguments = ["--teacher", str(places[teacher]), "--student", preset]
    for option, default in (("--data", "builtin:world"), ("--out", str(tmp_path / "no"))):
        if option not in options:
            arguments += [option, default]
    before = sorted(student.rglob("*"))
    assert run(["distill", *arguments, *[str(places.get(option, option)) for option in options]]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "no").exists() and sorted(student.rglob("*")) == before


# --- what the phases learn from -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pool", "scenes", "cached"), [(12, 40, 12), (12, 40, 5), (12, 7, 7), (12, 7, 4)])
def test_true_pictures_are_those_of_the_rollouts_captions(pool: int, scenes: int, cached: int) -> None:
    """Each number is its caption's index, so that a picture under another caption shows."""
    number = torch.arange(pool) % scenes
    states = number.half().view(-1, 1, 1, 1, 1).expand(-1, 2, 1, 1, 1)
    teacher = SimpleNamespace(device=torch.device("cpu"))
    texts = torch.arange(min(pool, scenes)).half().view(-1, 1, 1)
    latents = (torch.arange(cached).half() + 0.5).view(-1, 1, 1, 1)
    data: Any = DistillationData(teacher, Pool(states, states[:, 1:], (999,)), range(scenes), texts, latents)  # type: ignore[arg-type]
    update = Update(0, 0, pool, 0, pool, torch.Generator().manual_seed(0), teacher.device)
    picture, text = true_pictures(data, 1.0, update, torch.arange(pool))
    assert torch.equal(picture.flatten() - 0.5, text.flatten())
    has_own = number < cached
    assert torch.equal(text.flatten()[has_own], number[has_own].float())
    picture, text = true_pictures(data, 0.0, update, torch.arange(pool))
    assert torch.equal(picture.flatten(), number.float()) and torch.equal(text.flatten(), number.float())


def test_true_pictures_have_their_captions_where_more_are_inverted_than_sampled() -> None:
    """Pairs are those of the pool, then the inverted; captions are counted from 0."""

    def pool(count: int) -> Pool:
        states = torch.arange(count).half().view(-1, 1, 1, 1, 1).expand(-1, 2, 1, 1, 1)
        return Pool(states, states[:, 1:], (999,))

    teacher = SimpleNamespace(device=torch.device("cpu"))
    texts, latents = torch.arange(8).half().view(-1, 1, 1), torch.arange(8).half().view(-1, 1, 1, 1)
    data: Any = DistillationData(teacher, pool(4), range(8), texts, latents, pool(8), 0.0)  # type: ignore[arg-type]
    update = Update(0, 0, 12, 0, 12, torch.Generator().manual_seed(0), teacher.device)
    picture, text = true_pictures(data, 1.0, update, torch.arange(12))
    assert picture.flatten().tolist() == text.flatten().tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[3] / "recipes").glob("*.yaml")), ids=lambda p: p.name)
def test_the_recipes_that_come_along_are_read(path: Path) -> None:
    assert load_recipe(path) != Recipe()


@pytest.mark.train
def test_a_run_is_not_resumed_with_something_else(
    student: Path, tiny_model_folder: Path, recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", "builtin:world", "--recipe", str(recipe), "--out", str(student), "--resume"]
    assert run(["distill", "--teacher", str(tiny_model_folder), "--student", "bk-base", *arguments]) == 2
    assert "started with another student" in capfd.readouterr().err
    other = load_model_folder(tiny_model_folder)
    with torch.no_grad():
        other.unet.conv_in.bias.add_(1)
    save_model_folder(other, tmp_path / "other")
    assert run(["distill", "--teacher", str(tmp_path / "other"), "--student", "bk-small", *arguments]) == 2
    assert "started with another teacher" in capfd.readouterr().err


@pytest.mark.train
def test_a_resume_that_is_refused_leaves_the_student_as_it_was(
    student: Path, tiny_model_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What differs is the last phase's: the ones before it would have been taken up, and saved over the student."""
    recipe, out = tmp_path / "other.yaml", tmp_path / "out"
    recipe.write_text(RECIPE.replace("matching_weight: 0.1", "matching_weight: 0.2"), encoding="utf-8")
    shutil.copytree(student, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    arguments = ["--data", "builtin:world", "--student", "bk-small", "--out", str(out), "--resume"]
    assert run(["distill", "--teacher", str(tiny_model_folder), "--recipe", str(recipe), *arguments]) == 2
    assert "started with adversarial.matching_weight 0.1" in capfd.readouterr().err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"prediction_type": "sample"}, "says that it predicts 'sample', but its predictions are of 'v_prediction'"),
        ({"prediction_type": "epsilon"}, "ends in pure noise"),
        ({"prediction_type": "epsilon", "rescale_betas_zero_snr": False}, "its predictions are of 'v_prediction'"),
    ],
)
def test_a_teacher_that_is_not_what_it_says_is_refused(
    config: dict[str, Any], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The shipped one, trained, under another scheduler than its own."""
    from genin.names import InstalledNames

    teacher, out, recipe = tmp_path / "teacher", tmp_path / "out", tmp_path / "recipe.yaml"
    recipe.write_text(
        "\n".join(line for line in RECIPE.splitlines() if "decoder:" not in line) + "\ndecoder: {images: 0}",
        encoding="utf-8",
    )
    shutil.copytree(InstalledNames().model("builtin:teacher"), teacher)
    path = teacher / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | config), encoding="utf-8")
    arguments = ["--data", "builtin:world", "--recipe", str(recipe), "--out", str(out)]
    assert run(["distill", "--teacher", str(teacher), *arguments]) == 2
    assert message in capfd.readouterr().err
    assert not (out / "unet").exists() and not (out / "training" / "pool.safetensors").exists()


@pytest.mark.parametrize("deviation", [0.5, 0.8, 1.0, 1.5])
@pytest.mark.parametrize("kind", get_args(PredictionType))
def test_a_teachers_type_is_told_from_its_predictions(kind: str, deviation: float) -> None:
    """Of a denoiser to which captions tell half of a picture's variance; one that has learnt nothing is let through."""
    draw = [torch.randn(32, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    told, rest = (part * deviation / 2**0.5 for part in draw)
    spread = deviation**2 / 2
    true = Process({**TEACHER_SCHEDULER, "prediction_type": kind})

    class Ideal(torch.nn.Module):
        """Predicts the mean of what may lie below the noise."""

        def forward(self, x: Tensor, t: Tensor, **_: Any) -> tuple[Tensor]:
            alpha, sigma = true.alpha_sigma(t)
            picture = told + alpha * spread / (alpha**2 * spread + sigma**2) * (x - alpha * told)
            noise = (x - alpha * picture) / sigma
            return ({"v_prediction": alpha * noise - sigma * picture, "epsilon": noise, "sample": picture}[kind],)

    text = torch.zeros(32, 1, 1)
    for said in get_args(PredictionType):
        process = Process({**TEACHER_SCHEDULER, "prediction_type": said})
        for unet, refused in ((Ideal(), said != kind), (Zero(), False)):
            teacher = Guided(Denoiser(unet, process), None, None, text[:1], torch.device("cpu"), 2.0)
            with pytest.raises(InputError, match=f"of '{kind}'") if refused else contextlib.nullcontext():
                check_prediction_type(teacher, told + rest, text, Path("scheduler"))


class Zero(torch.nn.Module):
    def forward(self, x: Tensor, t: Tensor, **_: Any) -> tuple[Tensor]:
        return (torch.zeros_like(x),)


@pytest.mark.train
def test_a_handful_of_pictures_is_enough_and_licences_add_up(
    tiny_model_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data, out, recipe = tmp_path / "few", tmp_path / "tuned", tmp_path / "tuning.yaml"
    recipe.write_text(TUNING, encoding="utf-8")
    data.mkdir()
    rows = [{"file_name": f"{i}.png", "text": f"thing {i}", "licence": "MIT"} for i in range(5)]
    for row in rows:
        Image.new("RGB", (64, 64), "teal").save(data / row["file_name"])
    (data / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = json.loads((tiny_model_folder / "genin.json").read_text())
    arguments = ["--base", str(tiny_model_folder), "--data", str(data), "--recipe", str(recipe), "--out", str(out)]
    assert run(["teacher", "finetune", *arguments]) == 0, capfd.readouterr().err
    info = load_model_folder(out).info
    assert {*base["licence"].split(", "), "MIT"} - {"unknown"} == set(info["licence"].split(", "))
    assert {"source": "", "rights": "", "licence": "MIT", "pictures": 5} in info["origins"]
    assert "name" not in info
    # Text encoders are trained on attribute columns only: without them a teacher cannot start from nothing.
    assert run(["teacher", "train", "--data", str(data), "--out", str(tmp_path / "new")]) == 2
    assert "start from one (init)" in capfd.readouterr().err and not (tmp_path / "new").exists()


def test_a_pool_of_another_seed_is_of_other_noise() -> None:
    one, same, other, next_row = (
        torch.randn(4, generator=row_generator(*key)) for key in ((0, 5), (0, 5), (7, 5), (0, 6))
    )
    assert torch.equal(one, same) and not torch.equal(one, other) and not torch.equal(one, next_row)


def test_a_dry_run_needs_neither_data_nor_out(tiny_model_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["distill", "--teacher", str(tiny_model_folder), "--student", "bk-small", "--dry-run", "--json"]) == 0
    facts = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert 0 < facts["student_parameters"] < facts["teacher_parameters"]
    assert 0 < facts["student_macs"] < facts["teacher_macs"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prune: {imagess: 3}", "prune.imagess"),
        ("steps: {step_counts: 4}", "steps.step_counts"),
        ("adversarial: {lr: fast}", "adversarial.lr"),
        ("prune: {batch_size: 0}", "prune.batch_size"),
        ("steps: {step_counts: []}", "steps.step_counts"),
        ("adversarial: {step_counts: [4, 0]}", "adversarial.step_counts"),
        ("prune: {lr: .nan}", "prune.lr"),
        ("prune: {ema_decays: [7.0]}", "prune.ema_decays"),
        ("prunes: {}", "prune"),
        ("prune: [", "not valid YAML"),
    ],
)
def test_a_wrong_recipe_is_refused_before_any_work(
    tmp_path: Path, tiny_model_folder: Path, text: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe, out = tmp_path / "wrong.yaml", tmp_path / "out"
    recipe.write_text(text, encoding="utf-8")
    arguments = ["--teacher", str(tiny_model_folder), "--data", "builtin:world", "--out", str(out)]
    assert run(["distill", *arguments, "--recipe", str(recipe)]) == 2
    assert message in capfd.readouterr().err
    assert not out.exists()


@pytest.mark.train
@pytest.mark.parametrize("options", [[], ["--lora", "2"]])
def test_a_tuned_teacher_differs_where_it_should(tiny_model_folder: Path, tmp_path: Path, options: list[str]) -> None:
    out, recipe = tmp_path / "tuned", tmp_path / "tuning.yaml"
    recipe.write_text(TUNING, encoding="utf-8")
    arguments = [
        "--base",
        str(tiny_model_folder),
        "--data",
        "builtin:world",
        "--recipe",
        str(recipe),
        "--out",
        str(out),
    ]
    assert run(["teacher", "finetune", *arguments, *options]) == 0
    before, after = load_model_folder(tiny_model_folder), load_model_folder(out)
    old, new = before.unet.state_dict(), after.unet.state_dict()
    assert old.keys() == new.keys(), "adapters must be merged"
    changed = {name for name in old if not torch.allclose(old[name], new[name], atol=1e-7)}
    if options:
        assert changed and all(".to_" in name for name in changed)
    else:
        assert len(changed) > len(old) / 2
    for name, value in before.text_encoder.state_dict().items():
        assert torch.equal(value, after.text_encoder.state_dict()[name])
    assert after.info["kind"] == "teacher" and after.info["images_seen"] == 16


@pytest.mark.train
def test_ctrl_c_in_the_last_update_of_a_tuning_has_nothing_to_interrupt(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, next_update = tmp_path / "tuning.yaml", Training._next_update
    recipe.write_text(TUNING, encoding="utf-8")

    def pressed(training: Training) -> Update:
        if training.state.update_index == 1:
            press_ctrl_c()
        return next_update(training)

    monkeypatch.setattr(Training, "_next_update", pressed)
    arguments = ["--base", str(tiny_model_folder), "--data", "builtin:world", "--recipe", str(recipe), "--lora", "2"]
    assert run(["teacher", "finetune", *arguments, "--out", str(tmp_path / "out")]) == 0
    assert load_model_folder(tmp_path / "out").info["images_seen"] == 16


def test_a_budget_is_shared_out() -> None:
    phases = ("prune", "steps", "adversarial")
    budget = Budget(10, phases)
    assert sum(budget.of(part, budget.of("pool") or 0) or 0 for part in phases) == pytest.approx(7)
    assert sum(budget.of(part, spent=1) or 0 for part in phases) == pytest.approx(9)
    assert Budget(10, ["prune"]).of("prune", spent=2) == pytest.approx(8)
    assert Budget(None).of("pool") is None


@pytest.mark.train
def test_a_teacher_starts_from_an_earlier_one_also_in_another_shape(
    tiny_model_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "wider.yaml"
    recipe.write_text(
        "autoencoder: {latent_channels: 6, images: 8, batch_size: 4, cache_images: 8, channels: 8,"
        " encoder_blocks: [1, 1, 1], decoder_blocks: [1, 1, 1]}\n"
        "teacher: {images: 8, batch_size: 4, cache_images: 8, channels: [16, 32], layers_per_block: 1, head_dim: 8,"
        " norm_groups: 4}\n"
    )
    out = tmp_path / "wider"
    arguments = ["teacher", "train", "--data", "builtin:world", "--init", str(tiny_model_folder)]
    assert run([*arguments, "--recipe", str(recipe), "--out", str(out)]) == 0, capfd.readouterr().err
    config = json.loads((out / "unet" / "config.json").read_text())
    assert config["in_channels"] == config["out_channels"] == 6
    for name in ("vocab.json", "merges.txt"):
        assert (out / "tokenizer" / name).read_bytes() == (tiny_model_folder / "tokenizer" / name).read_bytes()
    text = "text_encoder/model.safetensors"
    assert (out / text).read_bytes() == (tiny_model_folder / text).read_bytes()

    # A refinement of its decoder, asked for later, leaves everything else.
    weights = "diffusion_pytorch_model.safetensors"
    before, unet = load_file(out / "vae" / weights), (out / "unet" / weights).read_bytes()
    recipe.write_text(recipe.read_text().replace("images: 8,", "images: 8, decoder_images: 8,", 1))
    assert run([*arguments, "--recipe", str(recipe), "--out", str(out), "--resume"]) == 0, capfd.readouterr().err
    after = load_file(out / "vae" / weights)
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder"} and (out / "unet" / weights).read_bytes() == unet


@pytest.mark.train
def test_a_world_grows_to_twice_the_side_and_the_student_with_it(
    student: Path, tiny_model_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """32 → 64 px by `--init` of both: all weights stay, only the side doubles."""
    recipe, teacher, out = tmp_path / "twice.yaml", tmp_path / "teacher", tmp_path / "student"
    recipe.write_text(
        "autoencoder: {image_size: 64, images: 0}\n"
        "teacher: {images: 4, batch_size: 4, cache_images: 4, lr: 0, channels: [16, 32], layers_per_block: 1, head_dim: 8,"
        " norm_groups: 4, text_in_time: false}\npool: {size: 4, teacher_steps: 2, batch_size: 4}\n"
        "steps: {images: 4, batch_size: 4, lr: 0, held_out_images: 0}\nadversarial: {images: 0}\n"
    )
    shared = ["--data", "builtin:world", "--recipe", str(recipe)]
    command = ["teacher", "train", "--init", str(tiny_model_folder), *shared, "--out", str(teacher)]
    assert run(command) == 0, capfd.readouterr().err
    command = ["distill", "--teacher", str(teacher), *shared, "--student", "bk-small", "--init", str(student)]
    assert run([*command, "--out", str(out)]) == 0, capfd.readouterr().err
    for small, large in ((tiny_model_folder, teacher), (student, out)):
        before, after = load_model_folder(small), load_model_folder(large)
        assert (before.image_size, after.image_size) == (32, 64)
        assert after.unet.config.sample_size == 2 * before.unet.config.sample_size
        for part in ("unet", "vae", "text_encoder"):
            wanted, found = getattr(before, part).state_dict(), getattr(after, part).state_dict()
            assert all(torch.allclose(wanted[name], found[name], atol=1e-6) for name in wanted)
    assert run(["generate", "a ninja", "--model", str(out), "--out", str(tmp_path / "drawn.png")]) == 0
    assert Image.open(tmp_path / "drawn.png").size == (64, 64)


def test_what_two_networks_share_is_copied_and_the_rest_left_alone() -> None:
    from genin.distill.teacher.run import start_from

    torch.manual_seed(0)
    narrow, wide = torch.nn.Conv2d(2, 3, 1), torch.nn.Conv2d(4, 5, 1)
    fresh = wide.weight.detach().clone()
    share = start_from(wide, narrow)
    assert torch.equal(wide.weight[:3, :2], narrow.weight) and torch.equal(wide.bias[:3], narrow.bias)
    assert torch.equal(wide.weight[3:], fresh[3:]) and torch.equal(wide.weight[:3, 2:], fresh[:3, 2:])
    assert share == pytest.approx((6 + 3) / (20 + 5))


def test_a_deeper_unet_starts_from_an_earlier_one_at_the_finest_level() -> None:
    from genin.distill.recipe import TeacherRecipe
    from genin.distill.teacher.run import start_from
    from genin.distill.teacher.train import build_unet

    small = {"layers_per_block": 1, "head_dim": 8, "norm_groups": 4}
    earlier = build_unet(TeacherRecipe(channels=(8, 16), **small), 4, 8, 8)
    deeper = build_unet(TeacherRecipe(channels=(8, 16, 16), **small), 6, 8, 8)
    fresh = deeper.state_dict()["conv_in.weight"].clone()
    share = start_from(deeper, earlier, ("conv_in", "conv_out"))
    old, new = earlier.state_dict(), deeper.state_dict()
    finest = "resnets.0.conv1.weight"
    assert torch.equal(new[f"down_blocks.0.{finest}"], old[f"down_blocks.0.{finest}"])
    assert torch.equal(new[f"up_blocks.2.{finest}"], old[f"up_blocks.1.{finest}"])
    assert torch.equal(new["conv_in.weight"], fresh) and not torch.equal(
        new["conv_in.weight"][:, :4], old["conv_in.weight"]
    )
    assert 0.4 < share < 0.9


def test_the_page_of_recipes_is_current() -> None:
    page = Path(__file__).parents[3] / "docs" / "recipes.md"
    wanted = "run: python -m genin.distill.recipe_docs > docs/recipes.md"
    assert page.read_text(encoding="utf-8") == recipe_docs.markdown(), wanted

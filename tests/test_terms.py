"""The terms of a student's objective, and the switches of its recipe: each does what it says, and is refused where it cannot."""

from __future__ import annotations

import json
import shutil
import signal
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from genin.cli import run  # noqa: E402
from genin.distill import objective  # noqa: E402
from genin.distill.alignment import train_set_aligner  # noqa: E402
from genin.distill.diffusion import TEACHER_SCHEDULER, Denoiser, Process  # noqa: E402
from genin.distill.discriminator import Discriminator  # noqa: E402
from genin.distill.looks import DinoView, TeacherView  # noqa: E402
from genin.distill.losses import image_to_text  # noqa: E402
from genin.distill.model_folder import load_model_folder  # noqa: E402
from genin.distill.phases import consistency_loss, under_other_captions, walk  # noqa: E402
from genin.distill.pool import Guided, Pool  # noqa: E402
from genin.distill.recipe import AlignmentRecipe, StepsRecipe  # noqa: E402
from genin.distill.terms import AddDistillation, Finished, LpipsTerm, Perceptual  # noqa: E402
from genin.distill.training import Training, Update  # noqa: E402

PLAIN: Any = SimpleNamespace(autocast=nullcontext, device=torch.device("cpu"), dial=lambda _name: 1.0)


def update(count: int, index: int = 0) -> Update:
    return Update(index, 0, count, 0, count, torch.Generator().manual_seed(index), torch.device("cpu"))


class Knows(torch.nn.Module):
    """Predicts v as if it knew the clean latents."""

    def __init__(self, process: Process, x0: Tensor) -> None:
        super().__init__()
        self.process, self.x0, self.asked = process, x0, []  # type: ignore[var-annotated]

    def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        self.asked.append((t.clone(), encoder_hidden_states.clone()))
        alpha, sigma = self.process.alpha_sigma(t)
        x0 = self.x0[: len(x)]
        eps = torch.where(sigma > 0, (x - alpha * x0) / sigma.clamp_min(1e-6), torch.zeros_like(x))
        return (alpha * eps - sigma * x0,)


def pool_on_the_way_to(process: Process, x0: Tensor, timesteps: tuple[int, ...]) -> Pool:
    """Trajectories that lead straight from noise to `x0`."""
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(3))
    states = [process.add_noise(x0, noise, torch.full((len(x0),), t)) for t in timesteps]
    every = torch.stack([*states, x0], dim=1)
    return Pool(every, x0[:, None].expand(-1, len(timesteps), -1, -1, -1), timesteps)


def guided(unet: Any, process: Process) -> Guided:
    return Guided(Denoiser(unet, process), None, None, torch.zeros(1, 1, 2), torch.device("cpu"), 1.0)


@pytest.mark.parametrize("teacher_steps", [4, 6, 8])
def test_consistency_is_nothing_for_a_student_that_walks_the_teachers_path(teacher_steps: int) -> None:
    process = Process(TEACHER_SCHEDULER)
    x0 = torch.ones(6, 4, 8, 8) * 0.7
    timesteps = tuple(
        process.trailing_timesteps(teacher_steps)
    )  # a pool's: those of 6 steps straddle the few-step ones
    lesson: Any = SimpleNamespace(
        teacher=SimpleNamespace(process=process), pool=pool_on_the_way_to(process, x0, timesteps),
        text=lambda rows: torch.zeros(len(rows), 3, 5),
    )  # fmt: skip
    knows, lost = Knows(process, x0), Knows(process, -x0)
    for index in range(8):
        training: Any = SimpleNamespace(**vars(PLAIN), average_of=lambda _name: knows)
        assert float(consistency_loss(training, knows, lesson, StepsRecipe(), update(6, index))) < 1e-5
        assert float(consistency_loss(training, lost, lesson, StepsRecipe(), update(6, index))) > 0.05


def test_random_conditioning_swaps_captions_at_high_noise_and_asks_the_teacher_anew() -> None:
    process = Process(TEACHER_SCHEDULER)
    x0 = torch.ones(64, 4, 8, 8)
    teacher = Knows(process, x0)
    lesson: Any = SimpleNamespace(teacher=guided(teacher, process))
    t = torch.tensor([0] * 32 + [999] * 32)
    text = torch.arange(64.0).view(64, 1, 1).expand(-1, 1, 2)
    x, target = torch.randn(64, 4, 8, 8), torch.full((64, 4, 8, 8), 5.0)
    targets, texts = under_other_captions(PLAIN, lesson, 1.0, x, t, target, text, update(64))
    assert torch.equal(texts[:32], text[:32]) and torch.equal(targets[:32], target[:32])  # no noise: nothing is swapped
    assert torch.equal(texts[32:], text[31:-1])  # all noise: everything is
    assert torch.allclose(targets[32:], x0[32:], atol=1e-5)
    assert torch.equal(teacher.asked[-1][1], texts[32:])  # under the caption that is shown


def test_without_rollout_later_steps_see_noised_pictures_and_not_where_the_student_went() -> None:
    process = Process(TEACHER_SCHEDULER)
    student = Knows(process, torch.full((2, 4, 8, 8), 3.0))
    noise, text = torch.randn(2, 4, 8, 8), torch.zeros(2, 1, 2)
    given = torch.full((2, 4, 8, 8), -1.0)
    done = walk(student, process, noise, text, [999, 499], instead=lambda t: given)
    assert torch.equal(done.states[0], noise) and torch.equal(done.states[1], given)
    done = walk(student, process, noise, text, [999, 499])
    assert not torch.allclose(done.states[1], given)


def test_terms_with_one_view_share_one_look() -> None:
    opened = []

    class View:
        channels, embedding = (3,), 1

        def open(self, _update: Update, _picture: Tensor) -> Any:
            opened.append(1)
            return lambda x0, text, learn=False: ([x0], x0.new_zeros(len(x0), 1))

    picture = torch.randn(4, 3, 8, 8, requires_grad=True)
    finished = Finished(picture, picture.detach() * 1.5, torch.zeros(4, 1, 2), torch.arange(4), update(4))
    view = View()
    same, _ = Perceptual(view, 2.0)(finished)
    assert float(same.detach()) == pytest.approx(0, abs=1e-6)  # features at unit length: a scale is no distance
    Perceptual(view, 1.0)(finished)
    assert len(opened) == 1
    Perceptual(View(), 1.0)(finished)
    assert len(opened) == 2


def test_the_alignment_loss_is_least_where_each_picture_meets_its_own_text() -> None:
    images = torch.eye(4)
    assert float(image_to_text(images, images, 100.0)) < 1e-6
    assert float(image_to_text(images, images.roll(1, 0), 100.0)) == pytest.approx(100, rel=1e-3)
    assert float(image_to_text(images, torch.ones(4, 4) / 2, 7.0)) == pytest.approx(
        1.386, rel=1e-3
    )  # ln 4: none stands out


def test_an_aligner_trained_on_the_set_tells_whose_picture_it_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    texts = torch.randn(64, 3, 8)
    latents = (texts[:, -1, :4, None, None] + texts[:, -1, 4:, None, None].abs()).expand(-1, 4, 8, 8).clone()
    recipe = AlignmentRecipe(
        channels=16, embedding=16, noise=0.0, images=6_400, batch_size=32, lr=3e-3, mixed_precision="no"
    )
    aligner = train_set_aligner(Training(tmp_path, "alignment", recipe), latents, texts, recipe, resume=False)
    pictures = latents.clone().requires_grad_(True)
    images, captions = aligner(pictures, texts, torch.arange(64))
    assert torch.allclose(images.norm(dim=1), torch.ones(64), atol=1e-4)
    assert float(((images @ captions.T).argmax(1) == torch.arange(64)).float().mean()) > 0.6
    image_to_text(images, captions, aligner.scale).backward()
    assert float(pictures.grad.abs().sum()) > 0
    assert not any(weight.requires_grad for weight in aligner.towers.parameters())


# --- networks of others, with random weights: their architecture is real, what they say is not -------------------------


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dino") / "dinov2"
    config = Dinov2Config(hidden_size=24, num_hidden_layers=4, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip") / "clip"
    tokenizer = CLIPTokenizer.from_pretrained(tiny_model_folder / "tokenizer")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {
        **sizes,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 32,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = CLIPConfig(
        text_config=text, vision_config={**sizes, "image_size": 32, "patch_size": 16}, projection_dim=12
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_dinov2_looks_at_decoded_pictures_and_gradients_reach_the_latents(dino: Path, tiny_model_folder: Path) -> None:
    from genin.distill.looks import load_dino
    from genin.distill.model_folder import load_model_folder

    vae = load_model_folder(tiny_model_folder).vae.requires_grad_(False)
    view = DinoView(PLAIN, vae, load_dino(str(dino)), side=56)
    latents, text = torch.randn(2, 4, 16, 16, requires_grad=True), torch.zeros(2, 3, 8)
    maps, emb = view.open(update(2), latents)(latents, text, learn=True)
    assert [tuple(one.shape) for one in maps] == [(2, 24, 4, 4)] * 4 and view.channels == (24,) * 4
    logits = Discriminator(view.channels, 8, view.embedding, 8)(maps, emb, text)
    sum(one.mean() for one in logits).backward()  # type: ignore[union-attr]
    assert latents.grad is not None and float(latents.grad.abs().sum()) > 0


SWITCHES = """
pool: {{size: 16, teacher_steps: 4, batch_size: 16}}
prune: {{images: 16, batch_size: 8, random_conditioning: 1.0}}
steps: {{images: 16, batch_size: 8, held_out_images: 0, consistency_weight: 0.5, rollout: false, perceptual_weight: 1,
  perceptual_features: lpips}}
adversarial: {{images: 16, batch_size: 8, cache_images: 16, held_out_images: 0, multi_scale: false, keep_averages: true,
  discriminator: dinov2, discriminator_weights: {dino}, alignment_weight: 0.1, alignment_model: '{clip}'}}
alignment: {{images: 256, batch_size: 32, channels: 8, embedding: 8}}
"""


@pytest.mark.parametrize("own_aligner", [True, False])
def test_every_switch_of_a_recipe_runs(
    tiny_model_folder: Path, dino: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_aligner: bool
) -> None:
    import lpips

    def random_weights(net: str, _weights: str | None) -> Any:
        torch.manual_seed(0)
        network = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
        return SimpleNamespace(network=network.requires_grad_(False).eval())

    monkeypatch.setattr(objective, "load_lpips", random_weights)
    recipe, out = tmp_path / "switches.yaml", tmp_path / "out"
    recipe.write_text(SWITCHES.format(dino=dino, clip="" if own_aligner else clip), encoding="utf-8")
    arguments = ["--teacher", str(tiny_model_folder), "--data", "builtin:world", "--student", "bk-small"]
    command = ["distill", *arguments, "--recipe", str(recipe), "--out", str(out)]
    assert run(command) == 0
    rows = {name: _last_row(out, name) for name in ("prune", "steps", "adversarial")}
    assert rows["steps"].keys() >= {"consistency", "perceptual"}
    assert rows["adversarial"].keys() >= {"alignment", "discriminator", "adversarial"}
    assert (out / "training" / "alignment.checkpoint.pt").exists() == own_aligner
    kept = sorted(path.name for path in (out / "training").glob("*.average-*"))
    assert kept == ["adversarial.average-00000016.safetensors"]
    assert run([*command, "--resume"]) == 0


@pytest.fixture(scope="module")
def uninterrupted(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """A command that wants --out, for a student with an aligner of its own and guided consistency; and what it comes to."""
    folder = tmp_path_factory.mktemp("interrupted")
    (folder / "recipe.yaml").write_text(
        "pool: {size: 16, teacher_steps: 4, batch_size: 16}\nprune: {images: 0}\n"
        "steps: {images: 24, batch_size: 8, held_out_images: 0, consistency_weight: 0.5}\n"
        "adversarial: {images: 24, batch_size: 8, cache_images: 16, held_out_images: 0, alignment_weight: 0.1}\n"
        "alignment: {images: 64, batch_size: 16, channels: 8, embedding: 8}\n"
    )
    arguments = ["--teacher", str(tiny_model_folder), "--data", "builtin:world", "--student", "bk-small"]
    command = ["distill", *arguments, "--recipe", str(folder / "recipe.yaml"), "--out"]
    assert run([*command, str(folder / "whole")]) == 0
    return command, folder / "whole"


@pytest.mark.parametrize("stage", ["steps", "alignment", "adversarial"])
def test_ctrl_c_in_any_stage_leads_to_the_same_student(
    uninterrupted: tuple[list[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    command, whole = uninterrupted
    next_update, first = Training._next_update, dict[str, int]()

    def interrupted(training: Training) -> Update:
        if training.stage == stage and training.update_index == 1:
            signal.raise_signal(signal.SIGINT)
        return next_update(training)

    def noted(training: Training) -> Update:
        first.setdefault(training.stage, training.update_index)
        return next_update(training)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_next_update", interrupted)
        assert run([*command, str(tmp_path / "again")]) == 130
    monkeypatch.setattr(Training, "_next_update", noted)
    assert run([*command, str(tmp_path / "again"), "--resume"]) == 0
    stages = ["steps", "alignment", "adversarial"]
    begun_at = [2 if name == stage else 0 for name in stages[stages.index(stage) :]]
    assert first == dict(zip(stages[stages.index(stage) :], begun_at, strict=True))  # nothing is done again
    wanted, found = (load_model_folder(path).unet.state_dict() for path in (whole, tmp_path / "again"))
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def _last_row(out: Path, phase: str) -> dict[str, float]:
    row: dict[str, float] = json.loads((out / "training" / f"{phase}.log.jsonl").read_text().splitlines()[-1])
    return row


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ("adversarial: {discriminator: dinov2, discriminator_weights: /nowhere/dino}", "cannot load DINOv2"),
        ("adversarial: {alignment_weight: 1, alignment_model: /nowhere/clip}", "cannot load CLIP"),
        ("steps: {perceptual_weight: 1, perceptual_features: lpips, perceptual_weights: /nowhere}", "names no folder"),
        ("adversarial: {discriminator: vgg}", "'adversarial.discriminator' must be teacher or dinov2, not 'vgg'"),
        ("prune: {random_conditioning: 1.5}", "'prune.random_conditioning' must be from 0 to 1"),
        ("decoder: {images: 8, blocks: [1, 0]}", "decoder.blocks has 2 levels"),
        ("steps: {rollout: false, backward_distillation: true}", "steps.rollout is false"),
        ("adversarial: {alignment_weight: 1}\nalignment: {images: 0}", "leaves untrained"),
        ("decoder: {images: 8, batch_size: 1}", "decoder.batch_size leaves a process 1 picture"),
        (
            "prune: {images: 0}\nsteps: {images: 0}\nadversarial: {images: 0}\ndecoder: {images: 8}",
            "no trained student",
        ),
        (
            "steps: {perceptual_weight: 1, perceptual_features: lpips}\n"
            "adversarial: {perceptual_features: lpips, perceptual_weights: /elsewhere}",
            "perceptual_weights differ",
        ),
    ],
)
def test_what_a_recipe_names_is_looked_for_before_any_work(
    tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], section: str, says: str
) -> None:
    recipe, out = tmp_path / "bad.yaml", tmp_path / "out"
    recipe.write_text(section + "\n", encoding="utf-8")
    arguments = ["--teacher", str(tiny_model_folder), "--data", "builtin:world", "--student", "bk-small"]
    assert run(["distill", *arguments, "--recipe", str(recipe), "--out", str(out)]) == 2
    assert says in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            ("scheduler/scheduler_config.json", "prediction_type", "flow_prediction"),
            "unknown prediction type 'flow_prediction'",
        ),
        (("vae/config.json", "scaling_factor", 40.0), "set it to"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(
    tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str, Any], says: str
) -> None:
    """No silent wrong training: another parameterisation, latents that no schedule covers."""
    file, key, value = change
    shutil.copytree(tiny_model_folder, tmp_path / "teacher")
    config = json.loads((tmp_path / "teacher" / file).read_text(encoding="utf-8"))
    (tmp_path / "teacher" / file).write_text(json.dumps({**config, key: value}), encoding="utf-8")
    recipe = tmp_path / "short.yaml"
    recipe.write_text("pool: {size: 8, teacher_steps: 2, batch_size: 8}\n", encoding="utf-8")
    arguments = ["--teacher", str(tmp_path / "teacher"), "--data", "builtin:world", "--student", "bk-small"]
    assert run(["distill", *arguments, "--recipe", str(recipe), "--out", str(tmp_path / "out")]) == 2
    assert says in capsys.readouterr().err


def test_one_network_is_not_taken_for_another(clip: Path, dino: Path, tiny_model_folder: Path) -> None:
    from genin.distill.alignment import load_clip
    from genin.distill.looks import load_dino
    from genin.runtimes.errors import InputError

    with pytest.raises(InputError, match="not a DINOv2"):
        load_dino(str(clip))
    with pytest.raises(InputError, match="not a CLIP"):
        load_clip(str(dino))


def test_lpips_sees_decoded_pictures_and_small_ones_enlarged(tiny_model_folder: Path) -> None:
    """An LPIPS that is the mean square distance: what it is given are pictures of 64 px, from latents with gradients."""
    from genin.distill.autoencoder import decode
    from genin.distill.model_folder import load_model_folder

    vae = load_model_folder(tiny_model_folder).vae.requires_grad_(False)
    seen: list[torch.Size] = []

    def distance(first: Tensor, second: Tensor) -> Tensor:
        seen.append(first.shape)
        return (first - second).square().mean(dim=(1, 2, 3))

    for side in (16, 8):
        picture, target = torch.randn(2, 4, side, side, requires_grad=True), torch.randn(2, 4, side, side)
        finished = Finished(picture, target, torch.zeros(2, 1, 2), torch.arange(2), update(2))
        loss, figures = LpipsTerm(PLAIN, vae, distance, 3.0)(finished)  # type: ignore[arg-type]
        assert seen[-1] == (2, 3, 64, 64)
        if side == 16:
            expected = (decode(vae, picture) - decode(vae, target)).square().mean()
            assert float(loss.detach()) == pytest.approx(3 * float(expected), rel=1e-4)
            assert float(figures["perceptual"]) == pytest.approx(float(expected), rel=1e-4)
        loss.backward()
        assert picture.grad is not None and float(picture.grad.abs().sum()) > 0


def test_adds_distillation_pulls_towards_what_the_teacher_makes_of_the_picture() -> None:
    """Eq. 4 with a teacher who always sees the same picture: α_t times the square distance to it, gradients to the picture only."""
    process = Process(TEACHER_SCHEDULER)
    x0 = torch.full((16, 4, 8, 8), 0.5)
    teacher = guided(Knows(process, x0), process)
    picture = torch.zeros(16, 4, 8, 8, requires_grad=True)
    finished = Finished(picture, x0, torch.zeros(16, 1, 2), torch.arange(16), update(16))
    loss, _ = AddDistillation(PLAIN, teacher, 2.0)(finished)
    alpha, _ = process.alpha_sigma(update(16).randint(1000))
    assert float(loss.detach()) == pytest.approx(2 * 0.25 * float(alpha.mean()), rel=1e-4)
    loss.backward()
    assert picture.grad is not None and float(picture.grad.max()) < 0  # towards 0.5


def test_the_noise_dial_moves_how_much_noise_a_picture_is_seen_through(tiny_model_folder: Path) -> None:
    from genin.distill.model_folder import load_model_folder

    model = load_model_folder(tiny_model_folder)
    teacher = guided(model.unet, Process(TEACHER_SCHEDULER))
    picture = torch.zeros(64, 4, 16, 16)
    for dial in (1.0, 0.5):
        training: Any = SimpleNamespace(**{**vars(PLAIN), "dial": lambda _name, dial=dial: dial})
        look = TeacherView(training, teacher, 60).open(update(64), picture)
        assert 30 * dial < int(look.t.max()) < 60 * dial

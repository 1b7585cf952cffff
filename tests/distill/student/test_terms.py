"""The terms of a student's objective, and the switches of its recipe: each does what it says, and is refused where it cannot."""

from __future__ import annotations

import copy
import importlib
import json
import math
import pkgutil
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from inspect import isclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from genin.cli import run  # noqa: E402
from genin.distill.inputs.update import Update  # noqa: E402
from genin.distill.loop import health, previews  # noqa: E402
from genin.distill.loop import training as loop  # noqa: E402
from genin.distill.loop.memory import Others, PhaseSizes, Unet  # noqa: E402
from genin.distill.loop.networks import NetworkOptions  # noqa: E402
from genin.distill.loop.training import Training  # noqa: E402
from genin.distill.models.diffusion import TEACHER_SCHEDULER, Denoiser, Process  # noqa: E402
from genin.distill.models.folder import ModelFolder, load_model_folder  # noqa: E402
from genin.distill.models.guided import Guided  # noqa: E402
from genin.distill.recipe import AdversarialRecipe, AlignmentRecipe, PruneRecipe, Recipe, StepsRecipe, load_recipe  # noqa: E402
from genin.distill.student import objective, phases, terms  # noqa: E402
from genin.distill.student.cost import distill_flop, distill_memory, distill_options  # noqa: E402
from genin.distill.student.distillation import distill  # noqa: E402
from genin.distill.student.features import DinoFeatures, Features, TeacherFeatures, View, whole_view  # noqa: E402
from genin.distill.student.losses import image_to_text  # noqa: E402
from genin.distill.student.phases import StateBatch, consistency_loss, shuffle_captions  # noqa: E402
from genin.distill.student.pool import DistillationData, Pool  # noqa: E402
from genin.distill.student.rollout import Rollout, Student  # noqa: E402
from genin.distill.student.terms.adversarial import PictureAdversarial  # noqa: E402
from genin.distill.student.terms.alignment import Alignment, train_set_aligner  # noqa: E402
from genin.distill.student.terms.discriminator import Discriminator  # noqa: E402
from genin.distill.student.terms.perceptual import LpipsTerm, Perceptual  # noqa: E402
from genin.distill.student.terms.score_distillation import AddDistillation  # noqa: E402
from genin.distill.student.terms.term import Memory, PhaseContext, StudentBatch, Term  # noqa: E402
from genin.runtimes.errors import InputError  # noqa: E402
from phase_updates import begin, data_of, updated  # noqa: E402

PLAIN: Any = SimpleNamespace(
    autocast=nullcontext,
    device=torch.device("cpu"),
    adjustment=lambda _name: 1.0,
    allow_adjustment=lambda _name: None,
)


def update(count: int, index: int = 0) -> Update:
    return Update(index, 0, count, 0, count, torch.Generator().manual_seed(index), torch.device("cpu"))


class Knows(torch.nn.Module):
    """Predicts v as if it knew the clean latents."""

    def __init__(self, process: Process, x0: Tensor) -> None:
        super().__init__()
        self.process, self.x0, self.calls = process, x0, []  # type: ignore[var-annotated]

    def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        self.calls.append((t.clone(), encoder_hidden_states.clone()))
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
    data: Any = SimpleNamespace(
        teacher=SimpleNamespace(process=process), pool=pool_on_the_way_to(process, x0, timesteps),
        text=lambda rows: torch.zeros(len(rows), 3, 5),
    )  # fmt: skip
    knows, lost = Knows(process, x0), Knows(process, -x0)
    for index in range(8):
        training: Any = SimpleNamespace(**vars(PLAIN), ema_weights=lambda _name: knows)
        assert float(consistency_loss(training, knows, data, StepsRecipe(), update(6, index))) < 1e-5
        assert float(consistency_loss(training, lost, data, StepsRecipe(), update(6, index))) > 0.05


def test_random_conditioning_swaps_captions_at_high_noise_and_asks_the_teacher_anew() -> None:
    process = Process(TEACHER_SCHEDULER)
    x0 = torch.ones(64, 4, 8, 8)
    teacher = Knows(process, x0)
    of_row = torch.arange(100.0).view(100, 1, 1).expand(-1, 1, 2)
    data: Any = SimpleNamespace(teacher=guided(teacher, process), pool=range(100), text=lambda rows: of_row[rows])
    t = torch.tensor([0] * 32 + [999] * 32)
    text = torch.full((64, 1, 2), -1.0)
    x, target = torch.randn(64, 4, 8, 8), torch.full((64, 4, 8, 8), 5.0)
    shuffled = shuffle_captions(PLAIN, data, StateBatch(x, t, target, text), 1.0, update(64))
    targets, texts = shuffled.target, shuffled.text
    assert torch.equal(texts[:32], text[:32]) and torch.equal(targets[:32], target[:32])  # no noise: nothing is swapped
    assert (
        float(texts[32:].min()) >= 0 and len(texts[32:].unique()) > 16
    )  # all noise: everything is, each by a row's own draw
    assert torch.allclose(targets[32:], x0[32:], atol=1e-5)
    assert torch.equal(teacher.calls[-1][1], texts[32:])  # under the caption that is shown


def test_without_rollout_later_steps_see_noised_pictures_and_not_where_the_student_went() -> None:
    process = Process(TEACHER_SCHEDULER)
    student = Student(Knows(process, torch.full((2, 4, 8, 8), 3.0)), process)
    noise, text = torch.randn(2, 4, 8, 8), torch.zeros(2, 1, 2)
    given = torch.full((2, 4, 8, 8), -1.0)
    done = student.rollout(noise, text, [999, 499], replace_state=lambda t: given)
    assert torch.equal(done.states[0], noise) and torch.equal(done.states[1], given)
    done = student.rollout(noise, text, [999, 499])
    assert not torch.allclose(done.states[1], given)


def test_terms_with_one_extractor_share_its_pass_over_the_students_picture() -> None:
    passes = []

    class Extractor:
        channels, embedding = (3,), 1

        def draw_view(self, _update: Update, pictures: Tensor) -> View:
            return whole_view(pictures)

        def __call__(self, pictures: Tensor, text: Tensor, view: View, *, gradients: bool = False) -> Features:
            if gradients:
                passes.append(1)
            return Features([pictures], pictures.new_zeros(len(pictures), 1))

    picture = torch.randn(4, 3, 8, 8, requires_grad=True)
    batch = StudentBatch(picture, picture.detach() * 1.5, torch.zeros(4, 1, 2), torch.arange(4), update(4))
    extractor = Extractor()
    same, _ = Perceptual(extractor, lambda: 2.0)(batch)
    assert float(same.detach()) == pytest.approx(0, abs=1e-6)  # features at unit length: a scale is no distance
    Perceptual(extractor, lambda: 1.0)(batch)
    assert len(passes) == 1
    Perceptual(Extractor(), lambda: 1.0)(batch)
    assert len(passes) == 2


def test_the_alignment_loss_is_least_where_each_picture_meets_its_own_text() -> None:
    images = torch.eye(4)
    assert float(image_to_text(images, images, 100.0)) < 1e-6
    assert float(image_to_text(images, images.roll(1, 0), 100.0)) == pytest.approx(100, rel=1e-3)
    assert float(image_to_text(images[2:], images, 100.0, first=2)) < 1e-6  # a part of the images, all the texts
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
    images, captions = aligner.embed_images(pictures), aligner.embed_texts(texts, torch.arange(64))
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
    from genin.distill.models.folder import load_model_folder
    from genin.distill.student.features import load_dino

    vae = load_model_folder(tiny_model_folder).vae.requires_grad_(False)
    extractor = DinoFeatures(PLAIN, vae, load_dino(str(dino)), side=56)
    latents, text = torch.randn(2, 4, 16, 16, requires_grad=True), torch.zeros(2, 3, 8)
    noise = extractor.draw_view(update(2), latents)
    maps, emb = extractor(latents, text, noise, gradients=True)
    alone = extractor(latents[:1], text[:1], noise.of(torch.tensor([0])))
    assert all(torch.allclose(one, both[:1], atol=1e-4) for one, both in zip(alone.maps, maps, strict=True))
    assert [tuple(one.shape) for one in maps] == [(2, 24, 4, 4)] * 4 and extractor.channels == (24,) * 4
    logits = Discriminator(extractor.channels, 8, extractor.embedding, 8)(maps, emb, text)
    sum(one.mean() for one in logits).backward()  # type: ignore[union-attr]
    assert latents.grad is not None and float(latents.grad.abs().sum()) > 0


def test_every_switch_of_a_recipe_makes_its_terms(
    tmp_path: Path, model: ModelFolder, data: DistillationData, dino: Path, clip: Path
) -> None:
    """Networks of others in the terms, one head, no rollout: figures are finite, and gradients reach the student."""
    import lpips

    from genin.distill.student.features import load_dino
    from genin.distill.student.terms.alignment import load_clip

    torch.manual_seed(0)
    network = lpips.LPIPS(net="squeeze", pretrained=False, pnet_rand=True, verbose=False).requires_grad_(False).eval()
    pretrained = {LpipsTerm: network, PictureAdversarial: load_dino(str(dino)), Alignment: load_clip(str(clip))}
    recipe = recipe_with(
        perceptual_features="lpips", picture_adversarial_weight=0.1, picture_discriminator="dinov2", multi_scale=False,
        alignment_model=str(clip), rollout=False, backward_distillation=False, fake_score_rank=2, fake_score_updates=2,
    )  # fmt: skip
    training, step = begin(tmp_path, "adversarial", recipe, model, data, pretrained)
    found = updated(training, step)
    discriminators = {
        f"{prefix}{name}" for prefix in ("", "picture_") for name in ("adversarial", "discriminator", "r1")
    }
    assert found.keys() >= {"perceptual", "alignment", "matching", "fake_score"} | discriminators
    assert all(math.isfinite(value) for value in found.values()) and found["grad_norm"] > 0
    for name in ("discriminator", "picture_discriminator"):
        assert len(training.accelerator.unwrap_model(training.networks.modules[name]).heads) == 1
    assert not (tmp_path / "alignment.checkpoint.pt").exists()  # a CLIP is there: nothing is trained in its place


def test_terms_of_no_weight_need_no_networks(tmp_path: Path, model: ModelFolder, data: DistillationData) -> None:
    recipe = recipe_with(adversarial_weight=0.0, matching_weight=0.0, alignment_weight=0.0, consistency_weight=0.0)
    training, step = begin(tmp_path, "adversarial", recipe, model, data)
    assert list(training.networks.modules) == ["student"]
    assert (
        updated(training, step).keys() & {"discriminator", "adversarial", "matching", "alignment", "consistency"}
        == set()
    )


def test_a_blind_discriminator_is_given_less_noise_to_look_through(
    tmp_path: Path, model: ModelFolder, data: DistillationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The alarm provoked on purpose: any accuracy counts as blind, after two updates."""
    monkeypatch.setattr(health, "PATIENCE", 1)
    monkeypatch.setattr(health, "BLIND", 1.1)
    monkeypatch.setattr(health, "ADRIFT", (0.0, 9.0, 9.0))  # rows of one update, of an untrained student, wander
    monkeypatch.setattr(loop, "ROW_UPDATES", 1)
    monkeypatch.setattr(previews, "plot_curves", lambda *_, **__: None)
    judged = AdversarialRecipe(batch_size=8, images=48, mixed_precision="no", backward_distillation=False)
    training, step = begin(tmp_path, "adversarial", Recipe(adversarial=judged), model, data)
    highest: list[int] = []
    randint = Update.randint

    def seen(update: Update, high: int) -> Tensor:
        highest.append(high)
        return randint(update, high)

    monkeypatch.setattr(Update, "randint", seen)
    training.run(step)
    found = [json.loads(line) for line in (tmp_path / "adversarial.events.jsonl").read_text().splitlines()]
    assert [(event["update"], event["alarm"]) for event in found] == [(at, "discriminator_blind") for at in (2, 4, 6)]
    assert highest == [60, 60, 40, 40, 27, 27]


def test_with_backward_distillation_a_rollout_ends_at_each_of_its_later_steps_in_turn(
    tmp_path: Path, model: ModelFolder, data: DistillationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first prediction aims at the pair's picture, the last at the teacher's; one step alone has the pair's only."""
    teacher_completion, pseudo_huber = phases.teacher_completion, phases.pseudo_huber
    ends: list[list[int]] = []
    aims: list[Tensor] = []
    pairs: list[list[str]] = []

    def noted(training: Any, data: Any, done: Rollout, *rest: Any) -> Tensor:
        ends.append([int(t[0]) for t in done.timesteps])
        assert [picture.requires_grad for picture in done.pictures] == [True, *[False] * (len(done.pictures) - 2), True]
        aims.append(teacher_completion(training, data, done, *rest))
        return aims[-1]

    def compared(picture: Tensor, aim: Tensor, *rest: Any) -> Tensor:
        pairs[-1].append("teacher" if any(aim is known for known in aims) else "pair")
        return pseudo_huber(picture, aim, *rest)

    monkeypatch.setattr(phases, "teacher_completion", noted)
    monkeypatch.setattr(phases, "pseudo_huber", compared)
    steps = StepsRecipe(
        batch_size=8, images=64, mixed_precision="no", backward_distillation=True, step_counts=(4, 2, 1)
    )
    training, step = begin(tmp_path, "steps", Recipe(steps=steps), model, data)
    for index in range(10):
        pairs.append([])
        updated(training, step, index)
    four = [[999, 749], [999, 749, 499], *[[999, 749, 499, 249]] * 2]
    assert [way for way in ends if 749 in way] == four
    assert [way for way in ends if 749 not in way] == [[999, 499]] * 3
    assert pairs == [["pair", "teacher"], ["pair", "teacher"], ["pair"]] * 3 + [["pair", "teacher"]]


def test_fresh_noise_is_compared_with_no_pair(
    tmp_path: Path, model: ModelFolder, data: DistillationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    pseudo_huber, rollout = phases.pseudo_huber, Student.rollout
    weights: list[Tensor | float] = []
    noises: list[Tensor] = []

    def compared(picture: Tensor, aim: Tensor, c: float, weight: Tensor | float) -> Tensor:
        weights.append(weight)
        return pseudo_huber(picture, aim, c, weight)

    def rolled(student: Student, noise: Tensor, *rest: Any, **named: Any) -> Rollout:
        noises.append(noise)
        return rollout(student, noise, *rest, **named)

    monkeypatch.setattr(phases, "pseudo_huber", compared)
    monkeypatch.setattr(Student, "rollout", rolled)
    steps = StepsRecipe(
        batch_size=64,
        images=640,
        mixed_precision="no",
        backward_distillation=True,
        step_counts=(2, 1),
        fresh_noise=0.25,
    )
    training, step = begin(tmp_path, "steps", Recipe(steps=steps), model, data)
    for index in range(2):
        updated(training, step, index)
    paired, last, of_one_step = weights
    assert isinstance(paired, Tensor) and last == of_one_step == 1.0  # one step aims at its pair alone
    known = torch.stack([data.noise(torch.tensor([row]))[0] for row in range(data.pairs)])
    is_known = (noises[0][:, None] == known[None]).flatten(2).all(2).any(1)
    assert torch.equal(paired.flatten(), is_known / 0.75)
    assert 4 <= int((~is_known).sum()) <= 30
    assert (noises[1][:, None] == known[None]).flatten(2).all(2).any(1).all()


# --- all terms at once, in memory ------------------------------------------------------------------------------------

ALL: dict[str, Any] = {
    "mixed_precision": "no", "batch_size": 8, "images": 800, "consistency_weight": 0.5, "perceptual_weight": 2.0,
    "backward_distillation": True,
}  # fmt: skip
# Networks that are trained along do not move, so that an update in parts meets the same ones.
JUDGED = ALL | {
    "distillation_weight": 0.5, "matching_weight": 0.1, "real_share": 0.5, "mismatched_captions": 0.25,
    "alignment_weight": 0.1, "discriminator_lr": 0.0, "fake_score_lr": 0.0,
}  # fmt: skip
PRUNE: dict[str, Any] = {"mixed_precision": "no", "batch_size": 8, "images": 800, "feature_weight": 0.1}
PRUNE |= {"random_conditioning": 1.0}
SMALL_ALIGNER = AlignmentRecipe(channels=8, embedding=8, images=0, mixed_precision="no")


def recipe_with(**changed: Any) -> Recipe:
    """All phases with every term on, and the changes that each of them knows."""

    def known(phase: type) -> dict[str, Any]:
        return {field.name: changed[field.name] for field in fields(phase) if field.name in changed}

    return Recipe(
        prune=PruneRecipe(**PRUNE | known(PruneRecipe)),
        steps=StepsRecipe(**ALL | known(StepsRecipe)),
        adversarial=AdversarialRecipe(**JUDGED | changed),
        alignment=SMALL_ALIGNER,
    )


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> ModelFolder:
    return load_model_folder(tiny_model_folder)


@pytest.fixture(scope="module")
def data(model: ModelFolder) -> DistillationData:
    return data_of(model)


def figures(tmp_path: Path, model: ModelFolder, data: DistillationData, phase: str, index: int, **changed: Any) -> Any:
    return updated(*begin(tmp_path, phase, recipe_with(**changed), model, data), index)


def test_pairs_fade_out_towards_the_end_of_a_phase(tmp_path: Path, model: ModelFolder, data: DistillationData) -> None:
    alone = {"consistency_weight": 0.0, "perceptual_weight": 0.0, "kernel_weight": 0.0}
    recipe = recipe_with(**alone, regression_final_share=0.0)
    training, step = begin(tmp_path, "steps", recipe, model, data)
    training.state.images_seen = training.settings.images
    found = {name: float(value) for name, value in training.perform_update(step).items()}
    assert found["last"] > 0 and found["loss"] == 0


# Phase and update, even ones with the discriminator's penalty => figures.
PINNED: dict[tuple[str, int], dict[str, float]] = {
    ("prune", 0): {
        "loss": 0.79003,
        "output": 0.76329,
        "features": 0.26746,
        "grad_norm": 1.2161,
    },
    ("steps", 0): {
        "loss": 1.9531,
        "first": 0.75469,
        "last": 0.59207,
        "spread": 0.37126,
        "shift": 0.080796,
        "consistency": 0.15368,
        "perceptual": 0.60142,
        "grad_norm": 7.9403,
    },
    ("steps", 1): {
        "loss": 1.1091,
        "first": 0.74166,
        "last": 0.32791,
        "spread": 0.63237,
        "shift": 0.072703,
        "consistency": 0.2063,
        "perceptual": 0.2356,
        "grad_norm": 5.1675,
    },
    ("adversarial", 0): {
        "loss": 2.2553,
        "first": 0.757,
        "last": 0.58638,
        "spread": 0.37541,
        "shift": 0.093143,
        "consistency": 0.1338,
        "perceptual": 0.63298,
        "discriminator": 2.0173,
        "r1": 0.061125,
        "adversarial": -0.023038,
        "distillation": 0.079731,
        "fake_score": 0.66252,
        "matching": 0.018494,
        "alignment": 2.1129,
        "grad_norm": 8.2942,
    },
    ("adversarial", 1): {
        "loss": 1.4099,
        "first": 0.76737,
        "last": 0.33478,
        "spread": 0.6294,
        "shift": 0.050848,
        "consistency": 0.17861,
        "perceptual": 0.25291,
        "discriminator": 1.9164,
        "adversarial": 0.035652,
        "distillation": 0.099441,
        "fake_score": 0.57945,
        "matching": 0.015556,
        "alignment": 2.0884,
        "grad_norm": 5.9183,
    },
}  # fmt: skip


@pytest.mark.parametrize(("phase", "index"), PINNED)
def test_the_losses_of_an_update_are_what_they_were(
    tmp_path: Path, model: ModelFolder, data: DistillationData, phase: str, index: int
) -> None:
    """Every term on. A change of these numbers is a change of what students learn: it belongs in the changelog."""
    found = figures(tmp_path, model, data, phase, index)
    found.pop("discriminator_accuracy", None)  # of few signs: other machines may round one of them
    rounded = {name: round(value, 5) for name, value in found.items()}
    assert found.keys() == PINNED[phase, index].keys(), f"new figures for PINNED: {rounded}"
    assert found == pytest.approx(PINNED[phase, index], rel=2e-3), rounded


# --- a term that is not genin's ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ToyRecipe(StepsRecipe):
    """A phase with one weight more."""

    toy_weight: float = 0.0
    toy_width: int = 3


@dataclass(frozen=True)
class Toy(Term):
    """weight·|picture|, times what it loaded, by a network that is trained along: all that a term can ask for, in one class."""

    section = ToyRecipe
    key = "toy_weight"
    training: Training
    network: Any
    factor: float
    weight: float

    @classmethod
    def check(cls, recipe: Recipe, phase: Any) -> None:
        if phase.toy_width > 8:
            raise InputError("steps.toy_width is over 8", remedy="make it smaller")

    @classmethod
    def load(cls, phases: Sequence[Any]) -> float:
        return float(len(phases))

    @classmethod
    def build(cls, context: PhaseContext) -> Toy:
        linear = torch.nn.Linear(1, context.phase.toy_width)
        network = context.training.add("toy", linear, NetworkOptions(lr=1e-3, average=False))
        return cls(context.training, network, context.pretrained[cls], context.phase.toy_weight)

    @classmethod
    def memory(cls, phase: Any, sizes: PhaseSizes) -> Memory:
        return Memory({"toy": 1_000}, {"toy's pass": 10_000})

    @classmethod
    def operations(cls, phase: Any, sizes: PhaseSizes) -> dict[str, float]:
        return {"toy's pass": 500.0}

    @classmethod
    def lighter(cls, phase: Any) -> dict[str, Any]:
        return {"toy_width": 1}

    def __call__(self, batch: StudentBatch) -> tuple[Tensor, dict[str, Any]]:
        self.training.optimise("toy", self.network(batch.picture.detach().mean().view(1, 1)).square().mean())
        loss = self.factor * batch.picture.abs().mean()
        return self.weight * loss, {"toy": loss.detach()}


def test_a_new_term_is_one_class(
    tmp_path: Path, model: ModelFolder, data: DistillationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In `TERMS`, it is checked, loaded, built, summed up, counted and advised like the others; without weight it is not there."""
    monkeypatch.setattr(objective, "TERMS", (*objective.TERMS, Toy))
    plain, toy = (Recipe(steps=ToyRecipe(**ALL, toy_weight=weight)) for weight in (0.0, 2.0))
    assert Toy not in objective.active_terms(plain.steps) and objective.active_terms(toy.steps)[-1] is Toy
    with pytest.raises(InputError, match="toy_width is over 8"):
        objective.check_terms(Recipe(steps=ToyRecipe(toy_weight=1, toy_width=9)), ["steps"])
    pretrained = objective.load_pretrained(toy, ["prune", "steps"])
    assert pretrained[Toy] == 1.0
    before = updated(*begin(tmp_path / "plain", "steps", plain, model, data))
    training, step = begin(tmp_path / "toy", "steps", toy, model, data, pretrained)
    weights = training.networks.modules["toy"].weight.clone()  # type: ignore[operator]
    after = updated(training, step)
    assert after["loss"] == pytest.approx(before["loss"] + 2 * after["toy"], rel=1e-5)
    assert not torch.equal(training.networks.modules["toy"].weight, weights)  # type: ignore[arg-type]
    config = Unet.of(model.unet.config, 32)
    sizes = PhaseSizes(config, config, Others(0, 0))
    memory, more = (distill_memory("steps", recipe, sizes) for recipe in (plain, toy))
    assert more["toy"] == 1_000 and more["activations"] == memory["activations"] + 10_000
    assert distill_flop("steps", toy, sizes) == distill_flop("steps", plain, sizes) + 1_000
    assert "steps.toy_width: 1" in distill_options("steps", toy)


@pytest.mark.parametrize(
    ("section", "key", "says"),
    [
        (ToyRecipe, "toy_wieght", r"Toy\.key: ToyRecipe has no key 'toy_wieght'; did you mean 'toy_weight'\?"),
        (StepsRecipe, "toy_weight", "StepsRecipe has no key 'toy_weight'"),
        (StepsRecipe, "adversarial_weight", "StepsRecipe has no key 'adversarial_weight'"),
    ],
)
def test_a_term_whose_weight_is_no_key_is_refused(section: type[StepsRecipe], key: str, says: str) -> None:
    """It would never be active, and nobody would be told."""
    with pytest.raises(TypeError, match=says):
        type("Toy", (Toy,), {"section": section, "key": key})


def test_every_term_is_one_of_the_objective_s() -> None:
    modules = pkgutil.iter_modules(terms.__path__, f"{terms.__name__}.")
    classes = {one for module in modules for one in vars(importlib.import_module(module.name)).values() if isclass(one)}
    assert {one for one in classes if issubclass(one, Term) and one is not Term} == set(objective.TERMS)


OF_A_PART = {"spread", "shift"}  # deviations within a part of the batch, for health


@pytest.mark.parametrize(("phase", "index"), PINNED)
def test_an_update_in_parts_is_that_of_the_whole_batch(
    tmp_path: Path, model: ModelFolder, data: DistillationData, phase: str, index: int
) -> None:
    """Every term on: its losses, and the norm of all gradients."""
    whole = figures(tmp_path, model, data, phase, index)
    for parts in (2, 8):
        found = figures(tmp_path, model, data, phase, index, accumulate=parts)
        assert found.keys() == whole.keys()
        for name in whole.keys() - OF_A_PART:
            assert found[name] == pytest.approx(whole[name], rel=1e-4, abs=1e-6), (parts, name)


def test_pictures_are_judged_in_parts_as_in_a_whole_batch_and_decoded_by_the_students_decoder(
    tmp_path: Path, model: ModelFolder, data: DistillationData
) -> None:
    from genin.benchmarks.quality.efficientnet import EfficientNetLite0

    torch.manual_seed(0)
    pretrained = {PictureAdversarial: EfficientNetLite0().requires_grad_(False).eval()}
    own_vae = copy.deepcopy(model.vae)
    with torch.no_grad():
        own_vae.decoder.layers[0].weight.add_(0.1)
    found = []
    for accumulate, vae in ((1, own_vae), (2, own_vae), (1, None)):
        recipe = recipe_with(
            adversarial_weight=0.0, matching_weight=0.0, alignment_weight=0.0, consistency_weight=0.0,
            picture_adversarial_weight=0.5, picture_discriminator_crop=0.5, accumulate=accumulate,
        )  # fmt: skip
        folder = tmp_path / f"{accumulate} {vae is None}"
        found.append(updated(*begin(folder, "adversarial", recipe, model, data, pretrained, vae)))
    whole, parts, others = found
    assert {
        "picture_adversarial",
        "picture_discriminator",
        "picture_r1",
    } <= whole.keys() and "discriminator" not in whole
    for name in whole.keys() - OF_A_PART:
        assert parts[name] == pytest.approx(whole[name], rel=1e-3, abs=1e-6), name
    assert abs(others["picture_r1"] / whole["picture_r1"] - 1) > 0.01


@pytest.mark.parametrize(
    ("section", "says"),
    [
        (
            "adversarial: {picture_adversarial_weight: 1, picture_discriminator: dinov2, "
            "picture_discriminator_weights: /nowhere/dino}",
            "cannot load DINOv2",
        ),
        (
            "adversarial: {picture_adversarial_weight: 1, picture_discriminator_weights: /nowhere/lite0}",
            "no such file with EfficientNet-Lite0's weights",
        ),
        (
            "adversarial: {picture_adversarial_weight: 1, picture_discriminator: dinov2, picture_discriminator_crop: 0.5}",
            "picture_discriminator_crop is for EfficientNet",
        ),
        ("adversarial: {alignment_weight: 1, alignment_model: /nowhere/clip}", "cannot load CLIP"),
        (
            "steps: {perceptual_weight: 1, perceptual_features: lpips, perceptual_weights: /nowhere}",
            "no such folder of weights",
        ),
        (
            "adversarial: {picture_discriminator: vgg}",
            "'adversarial.picture_discriminator' must be efficientnet or dinov2, not 'vgg'",
        ),
        ("prune: {random_conditioning: 1.5}", "'prune.random_conditioning' must be from 0 to 1"),
        ("decoder: {images: 8, blocks: [1, 0]}", "decoder.blocks has 2 levels"),
        ("steps: {rollout: false, backward_distillation: true}", "steps.rollout is false"),
        ("steps: {fresh_noise: 0.5}", "steps.fresh_noise has no pairs"),
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
    from genin.distill.student.features import load_dino
    from genin.distill.student.terms.alignment import load_clip

    with pytest.raises(InputError, match="not a DINOv2"):
        load_dino(str(clip))
    with pytest.raises(InputError, match="not a CLIP"):
        load_clip(str(dino))


def test_lpips_sees_decoded_pictures_and_small_ones_enlarged(tiny_model_folder: Path) -> None:
    """An LPIPS that is the mean square distance: what it is given are pictures of 64 px, from latents with gradients."""
    from genin.distill.models.autoencoder import decode
    from genin.distill.models.folder import load_model_folder

    vae = load_model_folder(tiny_model_folder).vae.requires_grad_(False)
    seen: list[torch.Size] = []

    def distance(first: Tensor, second: Tensor) -> Tensor:
        seen.append(first.shape)
        return (first - second).square().mean(dim=(1, 2, 3))

    for side in (16, 8):
        picture, target = torch.randn(2, 4, side, side, requires_grad=True), torch.randn(2, 4, side, side)
        batch = StudentBatch(picture, target, torch.zeros(2, 1, 2), torch.arange(2), update(2))
        loss, figures = LpipsTerm(PLAIN, vae, distance, lambda: 3.0)(batch)  # type: ignore[arg-type]
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
    batch = StudentBatch(picture, x0, torch.zeros(16, 1, 2), torch.arange(16), update(16))
    loss, _ = AddDistillation(PLAIN, teacher, 2.0)(batch)
    alpha, _ = process.alpha_sigma(update(16).randint(1000))
    assert float(loss.detach()) == pytest.approx(2 * 0.25 * float(alpha.mean()), rel=1e-4)
    loss.backward()
    assert picture.grad is not None and float(picture.grad.max()) < 0  # towards 0.5


def test_the_noise_adjustment_moves_how_much_noise_a_picture_is_seen_through(tiny_model_folder: Path) -> None:
    from genin.distill.models.folder import load_model_folder

    model = load_model_folder(tiny_model_folder)
    teacher = guided(model.unet, Process(TEACHER_SCHEDULER))
    picture = torch.zeros(64, 4, 16, 16)
    for factor in (1.0, 0.5):
        training: Any = SimpleNamespace(**{**vars(PLAIN), "adjustment": lambda _name, factor=factor: factor})
        noise = TeacherFeatures(training, teacher, 60).draw_view(update(64), picture)
        assert 30 * factor < int(noise.t.max()) < 60 * factor


def test_a_refused_batch_leaves_an_earlier_runs_checkpoints(tiny_model_folder: Path, tmp_path: Path) -> None:
    """Without `resume` a run begins by removing them: it must not before everything that can be refused is."""
    checkpoint = tmp_path / "out" / "training" / "decoder.checkpoint.pt"
    checkpoint.parent.mkdir(parents=True)
    torch.save({}, checkpoint)
    recipe = load_recipe(None)
    recipe = replace(recipe, decoder=replace(recipe.decoder, images=8, batch_size=1))
    with pytest.raises(InputError, match=r"decoder\.batch_size leaves a process 1 picture"):
        distill(tiny_model_folder, "builtin:world", tmp_path / "out", recipe)
    assert checkpoint.exists()

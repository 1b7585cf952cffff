"""What students learn from true pictures: inverted pairs, sets under one caption, a decoder that undoes the last step."""

from __future__ import annotations

import itertools
import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from genin.benchmarks.quality.efficientnet import EfficientNetLite0, load_efficientnet  # noqa: E402
from genin.distill.inputs.sources import FolderSource, WorldSource  # noqa: E402
from genin.distill.inputs.update import Update  # noqa: E402
from genin.distill.models.diffusion import TEACHER_SCHEDULER, Process  # noqa: E402
from genin.distill.models.folder import load_model_folder  # noqa: E402
from genin.distill.recipe import AdversarialRecipe, PoolRecipe, Recipe, StepsRecipe  # noqa: E402
from genin.distill.student.features import EfficientNetFeatures, RandomMixing, crops  # noqa: E402
from genin.distill.student.inversion import build_inverted, first_timestep, invert  # noqa: E402
from genin.distill.student.losses import falling, kernel_distance  # noqa: E402
from genin.distill.student.pool import DistillationData, Pool, row_generator  # noqa: E402
from genin.distill.student.pool_parts import PoolParts  # noqa: E402
from genin.distill.student.terms.kernel import Kernel, check_groups, check_shares  # noqa: E402
from genin.distill.student.terms.perceptual import perceptual_weight  # noqa: E402
from genin.distill.student.terms.score_distillation import FakeScore  # noqa: E402
from genin.runtimes.errors import InputError  # noqa: E402
from phase_updates import begin, data_of, updated  # noqa: E402

CPU = torch.device("cpu")


def update(count: int, index: int = 0) -> Update:
    return Update(index, 0, count, 0, count, torch.Generator().manual_seed(index), CPU)


class GaussianDenoiser:
    """The exact denoiser of N(0, deviation²): its ODE is a straight scaling of the noise."""

    def __init__(self, process: Process, deviation: float) -> None:
        self.process, self.deviation = process, deviation

    def __call__(self, x: Tensor, t: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.process.alpha_sigma(t)
        variance = (alpha * self.deviation) ** 2 + sigma**2
        return x * alpha * self.deviation**2 / variance, x * sigma / variance


class TestInversion:
    @pytest.mark.parametrize("deviation", [0.5, 1.0])
    def test_the_inverse_of_a_known_ode(self, deviation: float) -> None:
        process = Process(TEACHER_SCHEDULER)
        x0 = deviation * torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
        eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
        denoiser: Any = GaussianDenoiser(process, deviation)
        found = invert(denoiser, x0, eps, torch.zeros(4, 1, 1), process.trailing_timesteps(16))
        first = torch.full((4,), first_timestep(process))
        alpha, sigma = process.alpha_sigma(first)
        scale = ((alpha * deviation) ** 2 + sigma**2).sqrt()
        assert torch.allclose(found, process.add_noise(x0, eps, first) / scale, atol=0.03)
        assert float(found.std()) == pytest.approx(1, abs=0.1)

    def test_inverted_noise_leads_back_to_the_picture(self, tiny_model_folder: Path, tmp_path: Path) -> None:
        model = load_model_folder(tiny_model_folder)
        data = data_of(model)
        latents = data.latents
        assert latents is not None
        recipe = PoolRecipe(inverted=6, inverted_steps=20, batch_size=4)
        source: Any = SimpleNamespace(digest="d", captions=data.source.captions)
        asked: list[int] = []

        def time_is_up(done: int, size: int, seconds: float) -> bool:
            asked.append(done)
            return False

        parts = PoolParts(tmp_path / "inverted.safetensors", "key")
        found = build_inverted(data.teacher, source, recipe, latents, parts, time_is_up)
        assert len(found) == 6 and asked == [4, 6]
        assert torch.equal(found.final(torch.arange(6)), latents[:6].float())
        text = data.texts[:6].float()
        process, first = data.teacher.process, first_timestep(data.teacher.process)
        way = [*(t for t in process.trailing_timesteps(200) if t > first), first]
        x = found.noise(torch.arange(6))
        for t, t_next in itertools.pairwise(way):
            times = torch.full((6,), t)
            x0, eps = data.teacher.denoiser(x, times, text)
            x = process.ddim_step(x0, eps, torch.full((6,), t_next)).detach()
        eps = torch.stack([torch.randn(x.shape[1:], generator=row_generator(0, row)) for row in range(6)])
        wanted = process.add_noise(latents[:6].float(), eps, torch.full((6,), first))
        error = (x - wanted).square().mean().sqrt() / latents[:6].float().std()
        assert float(error) < 0.1
        again = build_inverted(data.teacher, source, recipe, latents, parts, time_is_up)
        assert torch.equal(again.states, found.states) and asked == [4, 6]  # read, not made again


class TestPairs:
    def data(self, *, jitter: float = 0.0) -> DistillationData:
        def pool(count: int, first: float) -> Pool:
            states = (torch.arange(count).half() + first).view(-1, 1, 1, 1, 1).expand(-1, 2, 1, 8, 8)
            return Pool(states, states[:, 1:], (999,))

        teacher: Any = SimpleNamespace(device=CPU)
        texts = torch.arange(6).half().view(-1, 1, 1)
        return DistillationData(teacher, pool(6, 0.0), range(6), texts, None, pool(4, 100.0), jitter)  # type: ignore[arg-type]

    def test_pairs_are_those_of_the_pool_then_the_inverted(self) -> None:
        data, rows = self.data(), torch.tensor([0, 5, 6, 9])
        assert data.pairs == 10
        assert data.caption_rows(rows).tolist() == [0, 5, 0, 3] == data.text(rows).flatten().tolist()
        assert data.final(rows)[:, 0, 0, 0].tolist() == [0, 5, 100, 103] == data.noise(rows)[:, 0, 0, 0].tolist()

    def test_only_inverted_noise_is_jittered(self) -> None:
        rows = torch.arange(10)
        noise = self.data(jitter=0.2).noise(rows, update(10))
        plain = self.data().noise(rows)
        assert torch.equal(noise[:6], plain[:6])
        angles = 0.5 * math.pi * 0.2 * torch.rand(10, generator=torch.Generator().manual_seed(0))
        means = noise[6:].mean(dim=(1, 2, 3)) / plain[6:].mean(dim=(1, 2, 3))
        assert torch.allclose(means, angles[6:].cos(), atol=0.01)


class TestKernel:
    def test_two_sets_of_one_distribution_are_at_distance_zero(self) -> None:
        x, y = torch.randn(2, 64, 16, 8, generator=torch.Generator().manual_seed(0))
        assert abs(float(kernel_distance(x, y))) < 0.01
        assert float(kernel_distance(x + 2.0, y)) > 0.1

    def test_a_known_value(self) -> None:
        """One group, two points each on a line: d(x, x') = 1, d(y, y') = 2 = s, all d(x, y) = 1 or 3, one bandwidth."""
        x, y = torch.tensor([[[0.0], [1.0]]]), torch.tensor([[[-1.0], [-3.0]]])
        e = math.exp
        cross = (e(-1 / 2) + e(-3 / 2) + e(-2 / 2) + e(-4 / 2)) / 4
        assert float(kernel_distance(x, y, (1.0,))) == pytest.approx(e(-1 / 2) + e(-1) - 2 * cross, rel=1e-5)

    def test_equal_pictures_repel_each_other(self) -> None:
        true = torch.randn(1, 16, 4, generator=torch.Generator().manual_seed(1))
        spread = torch.randn(1, 8, 4, generator=torch.Generator().manual_seed(2))
        collapsed = spread.mean(dim=1, keepdim=True).expand(-1, 8, -1) + 1e-3 * spread
        assert float(kernel_distance(collapsed, true)) > float(kernel_distance(spread, true)) + 0.1

    def test_the_worlds_groups_share_what_their_caption_says(self) -> None:
        source = WorldSource("train", 100)
        captions, pictures = source.caption_groups(3, 4, 32)
        assert pictures.shape == (3, 4, 32, 32, 3) and len(captions) == 3
        for group in pictures:
            assert len({picture.tobytes() for picture in group}) == 4

    def test_a_folder_without_shared_captions_is_refused(self, tmp_path: Path) -> None:
        from genin.distill.world.dataset import write_dataset

        write_dataset(tmp_path / "set", split="train", count=4, size=16, seed=0, captions="complete")
        with pytest.raises(InputError, match="no caption has 2 pictures"):
            FolderSource(tmp_path / "set").caption_groups(4, 2, 16)
        with pytest.raises(InputError, match="no caption has 2 pictures"):  # before any work
            recipe = Recipe(adversarial=AdversarialRecipe(kernel_weight=1.0, kernel_true=2))
            check_groups(FolderSource(tmp_path / "set"), recipe, ("prune", "adversarial"))

    def test_the_term_moves_the_student(self, tiny_model_folder: Path, tmp_path: Path) -> None:
        model = load_model_folder(tiny_model_folder)
        data = data_of(model)
        groups = WorldSource("train", 50)
        source: Any = SimpleNamespace(
            captions=data.source.captions, caption_groups=groups.caption_groups, held_out=lambda: None, digest="groups"
        )
        phase = StepsRecipe(
            kernel_weight=1.0, kernel_captions=2, kernel_samples=3, kernel_true=4, kernel_bank=3, batch_size=4, images=8,
            regression_weight=0.0, step_counts=(2,), held_out_images=0,
        )  # fmt: skip
        recipe = Recipe(steps=phase)
        training, step = begin(tmp_path, "steps", recipe, model, replace(data, source=source))
        with pytest.raises(InputError, match="kernel_captions 2 leaves some of the 4 parts of an update none"):
            check_shares(replace(phase, accumulate=2), processes=2)
        row = updated(training, step)
        assert row["kernel"] == pytest.approx(row["loss"]) and row["kernel"] > 0 and row["grad_norm"] > 0
        source.caption_groups = None  # what was made is read again
        resumed = begin(tmp_path, "steps", recipe, model, replace(data, source=source))
        assert updated(*resumed)["kernel"] == row["kernel"]
        gradients = {name: p.grad for name, p in training.networks.unwrapped("student").named_parameters()}
        assert gradients["conv_out.weight"] is not None and gradients["conv_out.weight"].abs().sum() > 0

    def test_draws_depend_on_seed_and_stage(self) -> None:
        seeds = {update(8).own_generator("kernel").initial_seed(), update(8).own_generator("other").initial_seed()}
        another = replace(update(8), generator=torch.Generator().manual_seed(12345))
        assert len(seeds | {another.own_generator("kernel").initial_seed()}) == 3

    @pytest.mark.parametrize(("captions", "shares"), [(3, 1), (3, 2), (4, 4)])
    def test_shares_of_an_update_have_its_captions_among_them(self, captions: int, shares: int) -> None:
        phase: Any = SimpleNamespace(kernel_captions=captions, kernel_samples=2)
        data: Any = SimpleNamespace(pool=SimpleNamespace(states=torch.zeros(1, 1, 4, 2, 2)))
        term = Kernel(SimpleNamespace(phase=phase, data=data), student=None)  # type: ignore[arg-type]
        term.__dict__["bank"] = SimpleNamespace(texts=torch.zeros(64))
        (groups, noise, factor), *_ = (term._share(one) for one in [update(8)])
        assert factor == 1 and noise.shape == (captions, 2, 4, 2, 2)
        found = [term._share(replace(update(8), batch=8 // shares, offset=i * 8 // shares)) for i in range(shares)]
        assert sorted(torch.cat([one[0] for one in found]).tolist()) == sorted(groups.tolist())
        assert np.mean([float(own.mean()) * weight for _, own, weight in found]) == pytest.approx(
            float(noise.mean()), abs=1e-6
        )


def test_weights_fall_over_the_last_third() -> None:
    assert [falling(2.0, 0.25, p) for p in (0.0, 0.5, 2 / 3)] == pytest.approx([2.0, 2.0, 2.0])
    assert falling(2.0, 0.25, 5 / 6) == pytest.approx(2.0 * (0.25 + 0.75 / 2))
    assert falling(2.0, 0.25, 1.0) == pytest.approx(0.5) and falling(1.0, 1.0, 1.0) == 1.0
    done = SimpleNamespace(phase=AdversarialRecipe(perceptual_final_share=0.25), training=SimpleNamespace(progress=1.0))
    assert perceptual_weight(done)() == pytest.approx(1.0)  # type: ignore[arg-type]


def test_guidance_is_looked_at_above_the_last_step_only() -> None:
    process = Process(TEACHER_SCHEDULER)
    seen: dict[str, list[int]] = {"guided": [], "plain": []}

    class Teacher:
        def __init__(self) -> None:
            self.process = process
            self.denoiser = self

        def __call__(self, x: Tensor, t: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
            seen["guided"] += t.tolist()
            return torch.ones_like(x), x

        def like(self, _network: Any) -> Any:
            return lambda x, t, text: (torch.zeros_like(x), x)

    class Plain(Teacher):
        def __call__(self, x: Tensor, t: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
            seen["plain"] += t.tolist()
            return torch.zeros_like(x), x

    teacher = Teacher()
    teacher.denoiser = Plain()
    from contextlib import nullcontext

    training: Any = SimpleNamespace(autocast=nullcontext)
    score = FakeScore(training, teacher, torch.nn.Identity())  # type: ignore[arg-type]
    picture = torch.full((64, 1, 2, 2), 0.5, requires_grad=True)
    score.decoupled_loss(picture, torch.zeros(64, 1, 1), update(64), above=700).backward()
    assert min(seen["guided"]) >= 700 and min(seen["plain"]) < 200
    assert picture.grad is not None and float(picture.grad.max()) < 0  # downhill is towards the guided picture


class TestEfficientNet:
    def test_maps_of_four_scales(self) -> None:
        torch.manual_seed(0)
        network = EfficientNetLite0().eval()
        maps = network(torch.randn(2, 3, 64, 64))
        assert [tuple(one.shape) for one in maps] == [(2, 24, 16, 16), (2, 40, 8, 8), (2, 112, 4, 4), (2, 320, 2, 2)]
        assert sum(p.numel() for p in network.parameters()) == 2_958_848

    def test_weights_by_another_packages_names(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        network = EfficientNetLite0()
        state = {
            f"_layer{i}.{name.rpartition('.')[2]}": value
            for i, (name, value) in enumerate(network.state_dict().items())
        }
        torch.save(
            state | {"_conv_head.weight": torch.zeros(1), "_bn1.weight": torch.zeros(1), "_fc.bias": torch.zeros(2)},
            tmp_path / "w.pth",
        )
        read = load_efficientnet(tmp_path / "w.pth")
        assert all(torch.equal(value, read.state_dict()[name]) for name, value in network.state_dict().items())

    @pytest.mark.parametrize("content", [None, b"PK", {"a": 1}])
    def test_another_file_is_refused(self, tmp_path: Path, content: Any) -> None:
        path = tmp_path / "w.pth"
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            torch.save({"a": torch.zeros(1)}, path)
        with pytest.raises(InputError, match=r"EfficientNet|cannot read"):
            load_efficientnet(path)

    def test_features_reach_the_latents_and_are_the_same_in_every_run(self, tiny_model_folder: Path) -> None:
        from contextlib import nullcontext

        model = load_model_folder(tiny_model_folder)
        torch.manual_seed(0)
        network = EfficientNetLite0().requires_grad_(False).eval()
        training: Any = SimpleNamespace(device=CPU, autocast=nullcontext)
        latents = torch.randn(2, 4, 8, 8, requires_grad=True)
        first = EfficientNetFeatures(training, model.vae, network)
        torch.manual_seed(77)
        second = EfficientNetFeatures(training, model.vae, network)
        noise = first.draw_view(update(2), latents)
        one = first(latents, torch.zeros(2, 1, 1), noise, gradients=True)
        other = second(latents, torch.zeros(2, 1, 1), noise)
        assert all(torch.equal(a, b) for a, b in zip(one.maps, other.maps, strict=True))
        assert [a.shape[1] for a in one.maps] == list(first.channels)
        sum(a.sum() for a in one.maps).backward()
        assert latents.grad is not None and float(latents.grad.abs().sum()) > 0

    def test_of_a_cropped_picture_only_the_crop_is_decoded(self, tiny_model_folder: Path) -> None:
        from contextlib import nullcontext

        model = load_model_folder(tiny_model_folder)
        network = EfficientNetLite0().requires_grad_(False).eval()
        training: Any = SimpleNamespace(device=CPU, autocast=nullcontext)
        extractor = EfficientNetFeatures(training, model.vae, network, crop=0.5)
        latents = torch.randn(64, 4, 8, 8, requires_grad=True)
        view = extractor.draw_view(update(64), latents)
        assert view.corners.min() == 0 and view.corners.max() == 4 and len(view.corners.unique(dim=0)) > 10
        shown = crops(latents, view.corners, 4)
        row, column = view.corners[7].tolist()
        assert torch.equal(shown[7], latents[7, :, row : row + 4, column : column + 4])
        few = view.of(torch.tensor([7]))
        maps = extractor(latents[7:8], torch.zeros(1, 1, 1), few, gradients=True).maps
        maps[0].sum().backward()
        assert latents.grad is not None
        seen = latents.grad[7].abs().sum(0) > 0
        assert int(seen.sum()) == 16 and bool(seen[row : row + 4, column : column + 4].all())

    def test_coarse_maps_reach_fine_ones(self) -> None:
        mixing = RandomMixing((4, 8), 6)
        fine, coarse = torch.zeros(1, 4, 8, 8), torch.ones(1, 8, 4, 4)
        assert float(mixing([fine, coarse])[0].abs().sum()) > 0
        assert float(mixing([fine, 0 * coarse])[0].abs().sum()) == 0


def test_a_decoders_pairs(tiny_model_folder: Path, tmp_path: Path) -> None:
    from genin.distill.models.autoencoder import encode_pictures
    from genin.distill.recipe import DecoderRecipe
    from genin.distill.student.decoder import make_pairs
    from genin.distill.student.terms.term import PhaseContext

    model = load_model_folder(tiny_model_folder)
    data = replace(data_of(model), source=WorldSource("train", 8))  # type: ignore[arg-type]
    alone = SimpleNamespace(num_processes=1, process_index=0, gather=lambda rows: rows)
    training: Any = SimpleNamespace(device=CPU, folder=tmp_path, autocast=nullcontext, accelerator=alone)
    context = PhaseContext(training, data, model, Recipe(), DecoderRecipe())
    pairs = make_pairs(context, model.unet, (2,), 6)
    assert pairs.true == 6 and len(pairs.latents) == len(pairs.pictures) == 12
    # True pictures that the discriminators were shown are not encoded again.
    assert data.latents is not None and torch.equal(pairs.latents[:6], data.latents[:6])
    few = replace(context, data=replace(data, source=WorldSource("train", 5), latents=data.latents[:5]))
    pairs = make_pairs(few, model.unet, (2,), 6)  # a pool that is larger than the data
    assert pairs.true == 5 and len(pairs.latents) == len(pairs.pictures) == 11
    fresh = make_pairs(replace(context, data=replace(data, latents=None)), model.unet, (2,), 6)
    assert torch.equal(fresh.latents[:6], encode_pictures(model.vae, fresh.pictures[:6], CPU))


def test_the_recipe_has_these_keys_off() -> None:
    recipe = Recipe()
    assert recipe.pool.inverted == 0 and recipe.steps.kernel_weight == 0 and recipe.steps.regression_final_share == 1
    assert AdversarialRecipe().matching_decoupled is False

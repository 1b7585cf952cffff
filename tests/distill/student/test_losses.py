"""The loss functions on cases whose value is known by hand, and the discriminator's shapes and gradients."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from genin.distill.inputs.update import Update  # noqa: E402
from genin.distill.models.unet_features import encoder_features  # noqa: E402
from genin.distill.student.losses import (  # noqa: E402
    accuracy,
    distribution_matching,
    feature_loss,
    hinge_discriminator,
    hinge_generator,
    perceptual_distance,
    pseudo_huber,
    r1_penalty,
)
from genin.distill.student.terms.discriminator import Discriminator  # noqa: E402


def test_pseudo_huber_is_l2_near_and_l1_far() -> None:
    zero = torch.zeros(3, 1, 2, 2)
    assert float(pseudo_huber(zero, zero, 0.05)) == 0
    assert float(pseudo_huber(zero + 1e-3, zero, 1.0)) == pytest.approx(0.5e-6, rel=1e-1)
    assert float(pseudo_huber(zero + 100, zero, 0.05)) == pytest.approx(99.95, rel=1e-4)


def test_feature_loss_does_not_depend_on_a_blocks_scale() -> None:
    small, large = torch.ones(2, 3), 1000 * torch.ones(2, 3)
    assert float(feature_loss([1.1 * small], [small])) == pytest.approx(0.01, rel=1e-4)
    assert float(feature_loss([1.1 * large], [large])) == pytest.approx(0.01, rel=1e-4)


def test_feature_loss_is_a_mean_over_rows() -> None:
    """Each row by its own norm: 0.01 of one a hundred times as long, 0.04 of the other."""
    teacher = torch.ones(2, 3) * torch.tensor([[100.0], [1.0]])
    student = teacher * torch.tensor([[1.1], [1.2]])
    assert float(feature_loss([student], [teacher])) == pytest.approx(0.025, rel=1e-4)


@pytest.mark.parametrize(("total", "parts", "period"), [(8, 1, 4), (8, 2, 4), (8, 8, 4), (12, 4, 5), (6, 3, 10)])
def test_means_over_every_so_manieth_row_add_up_to_that_of_the_batch(total: int, parts: int, period: int) -> None:
    values, share, sums = torch.arange(float(total)) + 1, total // parts, []
    for offset in range(0, total, share):
        update = Update(0, 0, share, offset, total, torch.Generator(), torch.device("cpu"))
        rows, weight = update.rows_every(period)
        sums.append(weight * float(values[offset : offset + share][rows].mean()) if len(rows) else 0.0)
        assert len(rows) or weight == 0
    assert sum(sums) / parts == pytest.approx(float(values[::period].mean()))


def test_perceptual_distance_compares_directions_at_each_place() -> None:
    one, other = torch.zeros(2, 2, 3, 3), torch.zeros(2, 2, 3, 3)
    one[:, 0], other[:, 1] = 5.0, 0.1  # at right angles: ‖x̂ − ŷ‖² = 2
    assert float(perceptual_distance([one], [other])) == pytest.approx(2)
    assert float(perceptual_distance([one, one], [7 * one, other])) == pytest.approx(1)


def test_distribution_matching_moves_pictures_from_the_students_kind_to_the_teachers() -> None:
    picture = torch.zeros(2, 1, 2, 2, requires_grad=True)
    real, fake = torch.full((2, 1, 2, 2), 2.0), torch.full((2, 1, 2, 2), -1.0)
    distribution_matching(picture, real, fake).backward()
    assert torch.allclose(picture.grad, torch.full((2, 1, 2, 2), -3 / 2 / 8))  # (−1 − 2)/mean|0 − 2|, over 8 elements
    assert float(distribution_matching(picture, real, real)) == 0


def test_hinge_stops_at_the_margin() -> None:
    ones = torch.ones(4, 1, 2, 2)
    assert float(hinge_discriminator([2 * ones], [-2 * ones])) == 0
    assert float(hinge_discriminator([0 * ones], [0 * ones])) == 2
    assert float(hinge_discriminator([-ones, 2 * ones], [ones, -2 * ones])) == 2
    assert float(hinge_generator([3 * ones, ones])) == -2
    assert float(accuracy([ones], [ones])) == 0.5


def test_mismatched_pictures_are_a_share_of_the_fakes() -> None:
    ones = torch.ones(4, 1, 2, 2)
    arguments = ([ones], [0 * ones], [3 * ones])
    assert float(hinge_discriminator(*arguments, share=0.25)) == pytest.approx(0.75 * 1 + 0.25 * 4)
    assert float(hinge_discriminator(*arguments, share=0.25, mismatched_weight=2)) == pytest.approx(0.75 + 2 * 0.25 * 4)
    assert float(hinge_discriminator(*arguments[:2], share=0.25)) == pytest.approx(0.75)  # a part without any


@pytest.mark.parametrize("constant", [-1.0, 0.0, 0.5, 1.0])
def test_a_blind_discriminator_gains_nothing_by_leaning_to_one_side(constant: float) -> None:
    logits = [torch.full((2, 1, 4, 4), constant), torch.full((2, 1, 2, 2), constant)]
    assert float(hinge_discriminator(logits, logits, logits, share=0.25)) == pytest.approx(2)


def test_r1_is_the_squared_gradient() -> None:
    features = torch.randn(5, 2, 3, 3, requires_grad=True)
    logits = (features * 2.0).mean(dim=1, keepdim=True)  # per-sample mean over 3×3 places: d/df = 2/(2·9)
    penalty = r1_penalty([logits], [features])
    assert float(penalty) == pytest.approx(18 * (1 / 9) ** 2, rel=1e-5)


@pytest.fixture(scope="module")
def unet() -> object:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=8,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        resnet_time_scale_shift="scale_shift",
    ).requires_grad_(False)


def test_encoder_features_are_the_unets_own(unet: object) -> None:
    x, t, text = torch.randn(2, 4, 8, 8), torch.tensor([3, 900]), torch.randn(2, 5, 16)
    seen: dict[int, torch.Tensor] = {}
    middle = unet.mid_block.register_forward_hook(lambda _m, _i, output: seen.__setitem__(0, output))  # type: ignore[attr-defined]
    unet(x, t, encoder_hidden_states=text)  # type: ignore[operator]
    middle.remove()
    features, emb = encoder_features(unet, x, t, text)
    assert [tuple(f.shape[1:]) for f in features] == [(32, 8, 8), (64, 4, 4), (64, 4, 4)]
    assert torch.allclose(features[-1], seen[0], atol=1e-5) and emb.shape[0] == 2


def test_the_discriminator_learns_heads_only_and_reads_time_and_text(unet: object) -> None:
    heads = Discriminator((32, 64, 64), 16, 128, 16)
    x, t, text = torch.randn(2, 4, 8, 8, requires_grad=True), torch.tensor([3, 900]), torch.randn(2, 5, 16)
    features, emb = encoder_features(unet, x, t, text)
    logits = heads(features, emb, text)
    assert len(logits) == 3 and all(head.shape[:2] == (2, 1) for head in logits)
    hinge_generator(logits).backward()
    assert x.grad is not None and float(x.grad.abs().sum()) > 0, "no gradient reaches the picture"
    with torch.no_grad():
        for head in heads.heads:
            head.film.weight.normal_()
        # The last state alone has seen the whole caption.
        other = heads(features, emb, torch.cat([text[:, :-1], text[:, -1:].roll(1, dims=0)], dim=1))
        same = heads(features, emb, text)
    assert not torch.allclose(other[0], same[0])

"""A wider network starts as about the network that it was made from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from genin.distill.models.folder import load_model_folder, save_model_folder
from genin.distill.models.widening import levels_with_attention, may_widen, widened
from genin.distill.recipe import TeacherRecipe
from genin.distill.teacher.run import start_from
from genin.distill.teacher.train import build_unet, earlier_unet
from genin.runtimes.errors import InputError

pytestmark = pytest.mark.unit
Widths = tuple[int, ...]


def plain(widths: Widths) -> Any:
    """A UNet without attention, whose biases and norms are not those of a fresh one."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    unet: Any = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=widths,
        layers_per_block=2,
        down_block_types=("DownBlock2D",) * len(widths),
        up_block_types=("UpBlock2D",) * len(widths),
        mid_block_type=None,
        cross_attention_dim=8,
        attention_head_dim=1,
        norm_num_groups=4,
        resnet_time_scale_shift="scale_shift",
    )
    with torch.no_grad():
        for value in unet.parameters():
            value += 0.1 * torch.randn_like(value)
    return unet.eval()


@torch.no_grad()
def drawn(unet: Any) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(3, 4, 8, 8, generator=generator)
    text = torch.randn(3, 5, unet.config.cross_attention_dim, generator=generator)
    predicted: Tensor = unet(noise, torch.tensor([10, 400, 990]), text).sample
    return predicted


def difference(unet: Any, other: Any) -> float:
    ours, theirs = drawn(unet), drawn(other)
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("widths", [(16, 32), (16, 16), (16, 16, 32)])
@pytest.mark.parametrize("copies", [2, 3])
def test_levels_that_grow_together_compute_the_same(widths: Widths, copies: int) -> None:
    unet = plain(widths)
    wide = widened(unet, [copies * width for width in widths])
    assert difference(wide, unet) < 0.01  # the timestep's sinusoids are fitted


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((16, 32, 32), (32, 32, 32)),  # the second level loses its projection
        ((16, 16, 16), (32, 16, 16)),  # it gets one
        ((16, 32, 32), (48, 32, 32)),
        ((8, 16), (32, 32)),  # both grow, by different factors
    ],
)
def test_a_level_alone_keeps_most_of_it(before: Widths, after: Widths) -> None:
    unet = plain(before)
    wide = widened(unet, after)
    fresh = plain(after)
    start_from(fresh, unet)  # the leading channels alone
    assert difference(wide, unet) < 0.5 * difference(fresh, unet)


def test_copies_do_not_stay_equal() -> None:
    wide: Any = widened(plain((16, 32)), (32, 32))
    wide(torch.randn(2, 4, 8, 8), torch.tensor([10, 400]), torch.randn(2, 5, 8)).sample.square().mean().backward()
    gradient = wide.conv_in.weight.grad
    assert torch.equal(wide.conv_in.weight[::2], wide.conv_in.weight[1::2])
    assert not torch.allclose(gradient[::2] / gradient[::2].norm(), gradient[1::2] / gradient[1::2].norm(), rtol=0.1)


def test_a_teacher_grows_wider(tiny_model_folder: Path, tmp_path: Path) -> None:
    """Through the recipe, saved and widened again."""
    model: Any = load_model_folder(tiny_model_folder)
    widths = tuple(model.unet.config.block_out_channels)
    recipe = TeacherRecipe(channels=(2 * widths[0], *widths[1:]), norm_groups=model.unet.config.norm_num_groups)
    earlier = earlier_unet(model.unet, recipe)
    text_size = model.unet.config.cross_attention_dim
    network: Any = build_unet(recipe, 4, 8, text_size, earlier.config.time_embedding_dim)
    plainly: Any = build_unet(recipe, 4, 8, text_size)
    start_from(network, earlier)
    start_from(plainly, model.unet)  # the leading channels alone
    given = torch.randn(2, 4, 8, 8), torch.tensor([10, 400]), torch.randn(2, 5, text_size)
    with torch.inference_mode():
        before, wide, other = (unet(*given).sample for unet in (model.unet, network, plainly))
    assert (wide - before).square().mean() < 0.7 * (other - before).square().mean()
    assert network.config.block_out_channels == (2 * widths[0], *widths[1:])
    model.unet = network
    save_model_folder(model, tmp_path / "wide")
    again: Any = load_model_folder(tmp_path / "wide")
    assert earlier_unet(again.unet, recipe) is again.unet
    assert again.unet.config.time_embedding_dim == 4 * widths[0]


def test_what_cannot_grow_is_refused(tiny_model_folder: Path) -> None:
    unet = plain((16, 32))
    for widths in ((24, 32), (8, 32), (16, 32, 32)):
        with pytest.raises(InputError, match=r"cannot become one of .*\n*.*whole multiple"):
            widened(unet, widths)
        assert earlier_unet(unet, TeacherRecipe(channels=widths)) is unet  # what fits is taken
    attentive: Any = load_model_folder(tiny_model_folder).unet
    last = len(attentive.config.block_out_channels) - 1
    widths = [*attentive.config.block_out_channels]
    widths[last] *= 2
    with pytest.raises(InputError, match=f"level {last} has attention"):
        widened(attentive, widths)
    assert earlier_unet(attentive, TeacherRecipe(channels=tuple(widths))) is attentive


def test_the_middle_block_is_part_of_the_deepest_level() -> None:
    """Stable Diffusion's has attention, its deepest level has none."""
    down, up = ["CrossAttnDownBlock2D", "DownBlock2D"], ["UpBlock2D", "CrossAttnUpBlock2D"]
    config = {"block_out_channels": [8, 16], "down_block_types": down, "up_block_types": up}
    for middle, attends in ((None, False), ("UNetMidBlock2DCrossAttn", True)):
        unet = SimpleNamespace(config=config | {"mid_block_type": middle})
        assert levels_with_attention(unet) == [True, attends] and may_widen(unet, [8, 32]) != attends

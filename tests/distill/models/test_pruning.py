"""Pruning: which blocks go, which of the teacher's weights stay, and that plain diffusers opens what is left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from genin.benchmarks.model_facts import unet_cost  # noqa: E402
from genin.distill.models.narrowing import resized_sinusoids  # noqa: E402
from genin.distill.models.pruning import build_student, kept_channels, narrowed_state, teacher_key  # noqa: E402
from genin.distill.models.student_config import PRESETS, pruning_of, student_config  # noqa: E402
from genin.distill.recipe import StudentRecipe  # noqa: E402
from genin.runtimes.errors import InputError  # noqa: E402


@pytest.fixture(scope="module")
def teacher() -> Any:
    """Stable Diffusion's shape in small: four levels, the two deepest equally wide."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(1)
    return UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 32, 48, 48), layers_per_block=2, cross_attention_dim=24,
        attention_head_dim=4, norm_num_groups=8,
    ).eval()  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_every_weight_of_a_student_is_one_of_the_teachers(teacher: Any, name: str, tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel

    student, copied = build_student(teacher, PRESETS[name])
    assert copied == 1.0
    student.save_pretrained(tmp_path)  # type: ignore[operator]
    reopened = UNet2DConditionModel.from_pretrained(tmp_path)
    x, t, text = torch.randn(1, 4, 16, 16), torch.tensor([500]), torch.randn(1, 7, 24)
    with torch.no_grad():
        assert torch.allclose(reopened(x, t, text).sample, student(x, t, text).sample, atol=1e-5)
        if name == "full":
            assert torch.allclose(reopened(x, t, text).sample, teacher(x, t, text).sample, atol=1e-5)


def test_the_block_map_is_that_of_bk_sdm() -> None:
    assert (
        teacher_key("up_blocks.0.resnets.1.conv1.weight", last_pair=2, shift=1) == "up_blocks.1.resnets.2.conv1.weight"
    )
    assert (
        teacher_key("up_blocks.2.attentions.0.norm.bias", last_pair=2, shift=0) == "up_blocks.2.attentions.0.norm.bias"
    )
    assert (
        teacher_key("down_blocks.1.resnets.0.norm1.bias", last_pair=2, shift=1) == "down_blocks.1.resnets.0.norm1.bias"
    )
    assert (
        teacher_key("up_blocks.1.upsamplers.0.conv.bias", last_pair=2, shift=1) == "up_blocks.2.upsamplers.0.conv.bias"
    )


def test_published_sizes_of_stable_diffusion_1_5() -> None:
    """BK-SDM's paper, table 1: UNets of 0.86 G (teacher), 0.58 G (base), 0.48 G (small) and 0.32 G (tiny) parameters."""
    sd15 = {
        "sample_size": 64, "in_channels": 4, "out_channels": 4, "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2, "cross_attention_dim": 768, "attention_head_dim": 8,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    }  # fmt: skip
    published = {"full": 0.86e9, "bk-base": 0.58e9, "bk-small": 0.48e9, "bk-tiny": 0.32e9}
    for name, parameters in published.items():
        found, macs = unet_cost(student_config(sd15, PRESETS[name]), tokens=77)
        assert found == pytest.approx(parameters, rel=0.02), name
        assert macs > 0


@pytest.mark.parametrize(("name", "levels"), [("bk-small-narrow", (1,)), ("bk-small-slim", (0, 1))])
def test_a_narrower_student_is_the_wide_one_where_the_rest_carries_nothing(name: str, levels: tuple[int, ...]) -> None:
    """Every index of every weight: channels that nothing writes, or inside of a block nothing reads, leave without a trace.
    Normalisation, whose statistics they would enter, is taken out of both, and the timestep's sinusoids, which fewer can only come
    near to."""
    from diffusers import UNet2DConditionModel
    from diffusers.models.resnet import ResnetBlock2D

    torch.manual_seed(2)
    wide = UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=2, cross_attention_dim=24, norm_num_groups=8,
        attention_head_dim=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), time_embedding_dim=20,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), resnet_time_scale_shift="scale_shift",
        addition_embed_type="text", addition_embed_type_num_heads=4,
    )  # fmt: skip
    width = {0: 32, 1: 64}
    dead = {level: _one_in_four(width[level]) for level in levels}
    with torch.no_grad():
        wide.time_embedding.linear_1.weight.zero_()
        if 0 in levels:
            wide.conv_in.weight[dead[0]] = 0
            wide.conv_in.bias[dead[0]] = 0
        for level in levels:
            for block in (wide.down_blocks[level], wide.up_blocks[1 - level]):
                for key, weight in block.named_parameters():
                    if "conv" in key and "conv1" not in key:  # samplers' layers are called conv, too
                        weight[dead[level]] = 0
                    if key.endswith("conv2.weight"):  # each block has channels of its own inside
                        weight[:, _one_in_four(width[level])] = 0
    cut, whole = build_student(wide, PRESETS[name])[0], build_student(wide, PRESETS["bk-small-conv"])[0]
    for network in (cut, whole):
        network.conv_norm_out = torch.nn.Identity()
        for module in list(network.modules()):
            if isinstance(module, ResnetBlock2D):
                module.norm1 = module.norm2 = torch.nn.Identity()
    x, t, text = torch.randn(2, 4, 8, 8), torch.tensor([300, 700]), torch.randn(2, 7, 24)
    with torch.no_grad():
        out, expected = cut(x, t, text).sample, whole(x, t, text).sample
    assert cut.config["block_out_channels"] == (24 if 0 in levels else 32, 48)
    assert torch.allclose(out, expected, atol=1e-5 * expected.abs().max().item())


def _one_in_four(width: int) -> torch.Tensor:
    """Channels that go when a quarter does: one of each of eight groups' four, two of their eight."""
    size = width // 8
    picked = [torch.randperm(size)[: size // 4] + group * size for group in range(8)]
    return torch.cat(picked)


def test_resized_sinusoids_tell_the_time_about_as_well_with_weights_of_ordinary_size() -> None:
    from diffusers.models.embeddings import get_timestep_embedding

    torch.manual_seed(0)
    weight, sinusoids = torch.randn(20, 64) / 8, {"flip_sin_to_cos": True, "downscale_freq_shift": 0}
    fewer = resized_sinusoids(weight, 48, sinusoids)
    before, after = (get_timestep_embedding(torch.arange(1000), size, **sinusoids) for size in (64, 48))
    wanted, found = before @ weight.T, after @ fewer.T
    assert float((found - wanted).std() / wanted.std()) < 0.5 and float(fewer.abs().max()) < 3
    assert resized_sinusoids(weight, 64, sinusoids) is weight


def test_a_wider_student_is_cut_to_a_narrower_one_and_others_are_not(teacher: Any) -> None:
    wide, narrow = (
        build_student(teacher, PRESETS["bk-small-conv"])[0],
        build_student(teacher, PRESETS["bk-small-narrow"])[0],
    )
    cut = narrowed_state(narrow, wide)
    assert cut is not None and all(cut[key].shape == value.shape for key, value in narrow.state_dict().items())
    assert narrowed_state(wide, narrow) is None  # nothing makes up channels
    assert narrowed_state(build_student(teacher, PRESETS["bk-small"])[0], wide) is None  # nor attention
    assert narrowed_state(build_student(teacher, PRESETS["bk-tiny"])[0], wide) is None  # nor are levels taken out


def test_a_recipe_may_give_widths_of_its_own() -> None:
    assert pruning_of(StudentRecipe(name="bk-small-narrow")) == PRESETS["bk-small-narrow"]
    own = pruning_of(StudentRecipe(name="bk-small-narrow", top_width=0.5))
    assert (own.width, own.top_width, own.attention_levels) == (0.75, 0.5, (0, 1))
    assert str(StudentRecipe(name="bk-base", width=0.5)) == "bk-base, width 0.5"
    without = StudentRecipe(name="bk-small-conv", levels_without_attention=(0, 2))
    assert pruning_of(without) == replace(PRESETS["bk-small-conv"], attention_levels=(0, 2))
    assert str(without) == "bk-small-conv, levels_without_attention 0 2"


def test_each_level_may_have_a_width_of_its_own(teacher: Any) -> None:
    recipe = StudentRecipe(name="bk-small-conv", level_widths=(1.0, 0.5, 0.5, 1.0))
    student, copied = build_student(teacher, pruning_of(recipe))
    assert tuple(student.config["block_out_channels"]) == (16, 16, 24, 48) and copied == 1.0
    # The teacher's two deepest levels are equally wide and need no shortcut; the student's is the identity of what is left.
    kept = kept_channels(teacher, student)
    shortcut = student.state_dict()["down_blocks.3.resnets.0.conv_shortcut.weight"][..., 0, 0]
    assert kept is not None and torch.equal(shortcut, torch.eye(48)[kept[3]][:, kept[2]])
    assert str(recipe) == "bk-small-conv, level_widths 1 0.5 0.5 1"
    for wrong in ((1.0, 0.5), (1.0, 0.5, 0.0, 1.0)):
        with pytest.raises(InputError, match=r"level_widths is .*, and the student has 4 levels"):
            build_student(teacher, pruning_of(replace(recipe, level_widths=wrong)))


def test_bad_students_are_refused(teacher: Any) -> None:
    with pytest.raises(InputError, match="bk-base"):
        pruning_of(StudentRecipe(name="bk-bse"))
    shallow = dict(teacher.config) | {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    with pytest.raises(InputError, match="2 levels"):
        student_config(shallow, PRESETS["bk-tiny"])
    deaf = shallow | {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "block_out_channels": (16, 32)}
    deaf |= {"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}
    with pytest.raises(InputError, match="would not see the caption"):
        student_config(deaf, PRESETS["bk-small-conv"])


# What Stable Diffusion 1.5's UNet says of itself (its folder's unet/config.json), and 2.1's.
SD15: dict[str, Any] = {
    "sample_size": 64, "in_channels": 4, "out_channels": 4, "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2, "cross_attention_dim": 768, "attention_head_dim": 8, "norm_num_groups": 32,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}  # fmt: skip
SD21 = {**SD15, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}


@pytest.mark.parametrize(
    ("name", "millions"),
    [("full", 859.5), ("bk-base", 579.4), ("bk-small", 482.3), ("bk-tiny", 323.4), ("swift", 182.6)],
)
def test_students_of_stable_diffusion_have_the_published_sizes(name: str, millions: float) -> None:
    """BK-SDM's table 1 (arXiv:2305.15798)."""
    parameters, _ = unet_cost(student_config(SD15, PRESETS[name]), tokens=77)
    assert round(parameters / 1e6, 1) == millions


@pytest.mark.parametrize("teacher", [SD15, SD21])
def test_the_student_led_by_latency_takes_a_quarter_of_the_operations(teacher: dict[str, Any]) -> None:
    config = student_config(teacher, PRESETS["swift"])
    before, after = (2 * unet_cost(c, tokens=77)[1] / 1e9 for c in (teacher, config))
    assert 790 < before < 820 and after <= 230
    assert config["down_block_types"][0] == "DownBlock2D" and config["up_block_types"][-1] == "UpBlock2D"


def test_a_narrow_student_keeps_the_channels_that_its_features_are_compared_by(teacher: Any) -> None:
    """With all of the teacher's blocks and its channels, in another order of computing: kept ones have the teacher's values where
    nothing else has been taken out, at the entrance."""
    student, _ = build_student(teacher, PRESETS["swift"])
    kept = kept_channels(teacher, student)
    assert kept is not None and [len(k) for k in kept[:3]] == list(student.config.block_out_channels)  # type: ignore[attr-defined]
    x = torch.randn(1, 4, 16, 16)
    assert torch.equal(student.conv_in(x), teacher.conv_in(x)[:, kept[0]])  # type: ignore[operator]
    assert kept_channels(teacher, build_student(teacher, PRESETS["bk-tiny"])[0]) is None


def test_the_recipe_of_the_experiment_has_a_decoder_of_a_twentieth_of_the_operations() -> None:
    from genin.benchmarks.model_facts import cost_of
    from genin.distill.recipe import load_recipe
    from genin.distill.student.decoder import build_tiny

    recipe = load_recipe(Path(__file__).parents[3] / "recipes" / "naruto-sd15.yaml")
    vae = SimpleNamespace(config=SimpleNamespace(latent_channels=4, scaling_factor=0.18215))
    with torch.device("meta"):
        tiny = build_tiny(vae, recipe.decoder, 8)
        _, macs = cost_of(tiny, lambda: tiny.decode(torch.zeros(1, 4, 64, 64)))
    assert 2 * macs / 1e9 == pytest.approx(141, abs=1)

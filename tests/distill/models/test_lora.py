"""Adapters as files: what is written opens in diffusers and merges to the same weights; other people's files merge as they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunable import no_curves as no_curves
from tunable import write_pictures

torch = pytest.importorskip("torch")

from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch import Tensor  # noqa: E402

from genin.cli import run  # noqa: E402
from genin.distill.models.folder import load_model_folder  # noqa: E402
from genin.distill.models.lora import FILE, Lora, _read, lora_of, merge_lora  # noqa: E402
from genin.runtimes.errors import InputError  # noqa: E402

Json = Callable[..., dict[str, Any]]
QUERY = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
OUT, MLP = (f"text_model.encoder.layers.0.{name}" for name in ("self_attn.out_proj", "mlp.fc1"))
RECIPE = """
finetune: {images: 0, batch_size: 8, held_out_images: 0}
"""


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weights_of(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    model = load_model_folder(folder)
    return model.unet.state_dict(), model.text_encoder.state_dict()


def kohya(unet: str = QUERY, layer: str = "text_model.encoder.layers.0") -> dict[str, Tensor]:
    """Rank 3 and alpha 1.5 on one layer of the UNet, rank 2 and alpha 2 on two of the text encoder."""
    found = {}
    for seed, (name, rank, alpha, wide, high) in enumerate(
        (
            (f"lora_unet_{unet}", 3, 1.5, 32, 32),
            (f"lora_te_{layer}.self_attn.out_proj", 2, 2.0, 32, 32),
            (f"lora_te_{layer}.mlp.fc1", 2, 2.0, 32, 64),
        )
    ):
        name = name.replace(".", "_")
        found[f"{name}.lora_down.weight"] = draw(rank, wide, seed=seed)
        found[f"{name}.lora_up.weight"] = draw(high, rank, seed=10 + seed)
        found[f"{name}.alpha"] = torch.tensor(alpha)
    return found


@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
def test_other_peoples_files_merge_as_they_say(
    tiny_model_folder: Path, tmp_path: Path, genin: Json, layout: str
) -> None:
    weights = kohya()
    shares, names = {"unet": 1.5 / 3, "text": 2 / 2}, {}
    if layout == "diffusers":  # without alphas, which are those of the ranks then
        shares = {"unet": 1.0, "text": 1.0}
        names = {
            f"lora_unet_{QUERY}": f"unet.{QUERY}.lora",
            f"lora_te_{OUT}": f"text_encoder.{OUT}.lora_linear_layer",
            f"lora_te_{MLP}": f"text_encoder.{MLP}.lora_linear_layer",
        }
    stored = {
        f"{new}.{side}.weight": weights[f"{old.replace('.', '_')}.lora_{side}.weight"]
        for old, new in names.items()
        for side in ("down", "up")
    }
    save_file(stored or weights, tmp_path / "style.safetensors")
    out = tmp_path / "out"
    said = f"{tmp_path / 'style.safetensors'}:0.5"
    report = genin("teacher", "merge", tiny_model_folder, "--lora", said, "--out", out)
    assert report["merged"] == "style.safetensors:0.5"
    (unet, text), (unet_before, text_before) = weights_of(out), weights_of(tiny_model_folder)
    expected = {}
    for before, prefix, layer in ((unet_before, "unet", QUERY), (text_before, "te", OUT), (text_before, "te", MLP)):
        down, up = (weights[f"lora_{prefix}_{layer.replace('.', '_')}.lora_{side}.weight"] for side in ("down", "up"))
        share = 0.5 * shares["unet" if prefix == "unet" else "text"]
        expected[f"{layer}.weight"] = before[f"{layer}.weight"] + share * up @ down
    for after, before in ((unet, unet_before), (text, text_before)):
        for name, value in after.items():
            assert torch.allclose(value, expected.get(name, before[name]), atol=1e-5), name
    info = json.loads((out / "genin.json").read_text())
    assert info["merged_loras"] == ["style.safetensors:0.5"] and "unknown" in info["licence"]


@pytest.mark.parametrize("spot", ["to_q", "to_out"])
def test_the_first_layout_which_names_no_network_merges(
    tiny_model_folder: Path, tmp_path: Path, genin: Json, spot: str
) -> None:
    """`….attn1.processor.to_q_lora.down.weight`, as diffusers 0.12 to 0.15 saved attention processors."""
    processor = f"{QUERY.removesuffix('to_q')}processor.{spot}_lora"
    down, up = draw(4, 32), draw(32, 4, seed=1)
    save_file({f"{processor}.down.weight": down, f"{processor}.up.weight": up}, tmp_path / "old.safetensors")
    genin("teacher", "merge", tiny_model_folder, "--lora", tmp_path / "old.safetensors", "--out", tmp_path / "out")
    after, before = (weights_of(folder)[0] for folder in (tmp_path / "out", tiny_model_folder))
    layer = QUERY.removesuffix("to_q") + {"to_q": "to_q", "to_out": "to_out.0"}[spot] + ".weight"
    assert torch.allclose(after[layer], before[layer] + up @ down, atol=1e-6)
    assert all(torch.equal(after[name], before[name]) for name in before if name != layer)


def test_adapters_that_peft_saved_merge_as_peft_merges_them(
    tiny_model_folder: Path, tmp_path: Path, genin: Json
) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=3, lora_alpha=6, init_lora_weights=False, target_modules=["to_q", "to_out.0"])
    adapted = get_peft_model(load_model_folder(tiny_model_folder).unet, config)
    adapted.save_pretrained(tmp_path / "adapter")
    genin("teacher", "merge", tiny_model_folder, "--lora", tmp_path / "adapter", "--out", tmp_path / "out")
    after, expected = weights_of(tmp_path / "out")[0], adapted.merge_and_unload().state_dict()
    assert all(torch.allclose(value, expected[name], atol=1e-6) for name, value in after.items())
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    for changes, said in (
        ({"use_rslora": True}, "use_rslora"),
        ({"lora_alpha": None}, "without a rank"),
        ({"lora_alpha": 0}, "lora_alpha' is 0"),
    ):
        (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings | changes))
        with pytest.raises(InputError, match=said):
            _read(tmp_path / "adapter" / "adapter_model.safetensors")
    (tmp_path / "adapter" / "adapter_config.json").unlink()
    with pytest.raises(InputError, match=r"adapter_config\.json"):
        _read(tmp_path / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        ("hada_w1_a", "LoHa"),
        ("lokr_w1", "LoKr"),
        ("dora_scale", "DoRA"),
        ("lora_magnitude_vector", "DoRA"),
        ("oft_blocks", "OFT"),
        ("lora_mid.weight", "Tucker"),
        ("processor.to_k_custom_diffusion.weight", "Custom Diffusion"),
    ],
)
def test_other_kinds_of_adapters_are_refused_by_name(tmp_path: Path, suffix: str, kind: str) -> None:
    file = tmp_path / "other.safetensors"
    save_file({f"lora_unet_{QUERY.replace('.', '_')}.{suffix}": draw(2, 2)}, file)
    with pytest.raises(InputError, match=rf"this is .*{kind}.*other\.safetensors"):
        _read(file)


def test_adapters_that_diffusers_saved_of_a_network_alone_have_the_scale_of_their_header(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    from peft import LoraConfig

    model = load_model_folder(tiny_model_folder)
    before = model.unet.state_dict()[f"{QUERY}.weight"].clone()
    model.unet.add_adapter(LoraConfig(r=3, lora_alpha=12, init_lora_weights=False, target_modules=["to_q"]))
    model.unet.save_lora_adapter(tmp_path / "of-unet")  # names without a network
    model.unet.fuse_lora()
    model.unet.unload_lora()
    fused = model.unet.state_dict()[f"{QUERY}.weight"] - before
    [file] = (tmp_path / "of-unet").glob("*.safetensors")
    with safe_open(file, framework="pt") as opened:
        header, names = opened.metadata(), list(opened.keys())
    assert "lora_adapter_metadata" in header
    stored = load_file(file)
    settings = json.loads(header["lora_adapter_metadata"])
    in_peft = {f"unet.{name.replace('.weight', '.default.weight')}": value for name, value in stored.items()}
    as_unet = {"lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in settings.items()})}
    save_file(in_peft, tmp_path / "default.safetensors", metadata={"format": "pt", **as_unet})
    for path in (file, tmp_path / "default.safetensors"):
        again = load_model_folder(tiny_model_folder)
        merge_lora(again, Lora(path, 1.0))
        merged = again.unet.state_dict()[f"{QUERY}.weight"] - before
        torch.testing.assert_close(merged, fused, rtol=1e-4, atol=1e-6)
    uneven = {"lora_adapter_metadata": json.dumps(settings | {"rank_pattern": {"to_q": 2}})}
    save_file(stored, tmp_path / "uneven.safetensors", metadata={"format": "pt", **uneven})
    with pytest.raises(InputError, match="rank_pattern"):
        _read(tmp_path / "uneven.safetensors")
    assert len(names) > 2


def test_a_small_scale_is_multiplied_in_whole_precision(tmp_path: Path) -> None:
    small = (draw(32, 32) * 1e-4).half()
    names = [f"unet.{QUERY}.lora_{side}.weight" for side in "AB"]
    stored = dict(zip(names, (small, small.clone()), strict=True)) | {f"unet.{QUERY}.alpha": torch.tensor(1.0)}
    save_file(stored, tmp_path / "a.safetensors")
    weights, _ = _read(tmp_path / "a.safetensors")
    torch.testing.assert_close(weights[names[1]], small.float() / 32, rtol=1e-6, atol=0)


@pytest.mark.parametrize("layout", ["kohya", "prefix", "default", "alpha"])
def test_files_that_other_readers_pass_over_merge_with_their_alphas(
    tiny_model_folder: Path, tmp_path: Path, genin: Json, layout: str
) -> None:
    """A text encoder's attention without its output's; names without a network; peft's `.default.`; alphas beside pairs."""
    down, up, query = draw(2, 32), draw(32, 2, seed=1), "text_model.encoder.layers.0.self_attn.q_proj"
    part, share = ("text", 0.25) if layout == "kohya" else ("unet", 0.25 if layout == "alpha" else 1.0)
    names = {
        "kohya": [f"lora_te_{query.replace('.', '_')}.lora_{side}.weight" for side in ("down", "up")],
        "prefix": [f"{QUERY}.lora_{side}.weight" for side in "AB"],
        "default": [f"unet.{QUERY}.lora_{side}.default.weight" for side in "AB"],
        "alpha": [f"unet.{QUERY}.lora_{side}.weight" for side in "AB"],
    }[layout]
    stored = dict(zip(names, (down, up), strict=True))
    if share != 1:
        stored[names[0].replace(".lora_down.weight", ".alpha").replace(".lora_A.weight", ".alpha")] = torch.tensor(0.5)
    save_file(stored, tmp_path / "style.safetensors")
    genin("teacher", "merge", tiny_model_folder, "--lora", tmp_path / "style.safetensors", "--out", tmp_path / "out")
    place = f"{query if part == 'text' else QUERY}.weight"
    (before, after) = (
        dict(zip(("unet", "text"), weights_of(folder), strict=True))[part][place]
        for folder in (tiny_model_folder, tmp_path / "out")
    )
    torch.testing.assert_close(after - before, share * up @ down, rtol=1e-4, atol=1e-5)


@pytest.mark.train
def test_loras_are_merged_before_tuning_and_a_run_goes_on_with_the_same_ones_only(
    tiny_model_folder: Path, tmp_path: Path, genin: Json, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(kohya(), tmp_path / "style.safetensors")
    recipe, data, out = tmp_path / "r.yaml", write_pictures(tmp_path / "data"), tmp_path / "out"
    recipe.write_text(RECIPE)
    command = ["teacher", "finetune", "--base", tiny_model_folder, "--data", data, "--recipe", recipe]
    lora = ["--load-lora", tmp_path / "style.safetensors"]
    genin(*command, *lora, "--out", out)
    genin("teacher", "merge", tiny_model_folder, "--lora", tmp_path / "style.safetensors", "--out", tmp_path / "merged")
    for tuned, merged in zip(weights_of(out), weights_of(tmp_path / "merged"), strict=True):
        assert all(torch.equal(tuned[name], merged[name]) for name in merged)
    genin(*command, *lora, "--out", out, "--resume")
    assert run([*map(str, command), "--out", str(out), "--resume"]) == 2
    assert "another merged LoRA" in capsys.readouterr().err


def planted(fault: str) -> dict[str, Tensor]:
    good = kohya()
    down, up = list(good)[:2]
    match fault:
        case "width":
            return {**good, down: draw(3, 320)}
        case "no place":
            return kohya(unet="down_blocks.3.attentions.0.transformer_blocks.0.attn1.to_q")
        case "rank":
            return {**good, up: draw(32, 5)}
        case "half":
            return {name: value for name, value in good.items() if name != up}
        case "NaN or infinite":
            return {**good, up: good[up] * float("nan")}
        case "alpha":
            return {**good, down.replace("lora_down.weight", "alpha"): torch.tensor(float("nan"))}
        case "alpha of zero":
            return {**good, down.replace("lora_down.weight", "alpha"): torch.tensor(0.0)}
        case "alpha beside":
            pair = {f"unet.{QUERY}.lora_A.weight": good[down], f"unet.{QUERY}.lora_B.weight": good[up]}
            return {**pair, f"unet.{QUERY}.alpha": torch.tensor(float("inf"))}
        case "whole numbers":
            return {**good, down: good[down].to(torch.int8), up: good[up].to(torch.int8)}
        case "bias":
            pair = {f"unet.{QUERY}.lora_A.weight": good[down], f"unet.{QUERY}.lora_B.weight": good[up]}
            return {**pair, f"unet.{QUERY}.lora_B.bias": draw(32)}
        case "diff" | "diff_b" | "a1.weight":
            return {**good, down.replace("lora_down.weight", fault): draw(32, 32)}
        case "dora":
            return {**good, down.replace("lora_down.weight", "dora_scale"): draw(32, 1)}
        case "sdxl":
            return {f"text_encoder_2.{OUT}.lora_A.weight": draw(2, 32)}
        case "loha":
            return {down.replace("lora_down.weight", f"hada_w1_{side}"): draw(32, 3) for side in "ab"}
    raise AssertionError(fault)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "width",
            f"'unet.{QUERY.removesuffix('to_q')}processor.to_q_lora.down.weight' is (3, 320), this model's would be (3, 32)",
        ),
        (
            "no place",
            "'unet.down_blocks.3.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight' has no place",
        ),
        ("rank", "incomplete pair"),
        ("half", "to_q.lora_up.weight"),
        ("NaN or infinite", "NaN or infinite"),
        ("alpha", "is nan"),
        ("alpha beside", "is inf"),
        ("alpha of zero", "is 0.0"),
        ("whole numbers", "whole numbers (torch.int8)"),
        ("bias", "LoRA with a bias"),
        ("diff", "whole differences"),
        ("diff_b", "whole differences"),
        ("a1.weight", "GLoRA"),
        ("dora", "DoRA"),
        ("sdxl", "'text_encoder_2."),
        ("loha", "LoHa"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_the_name_of_its_first_wrong_weight(
    tiny_model_folder: Path, tmp_path: Path, fault: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    save_file(planted(fault), tmp_path / "wrong.safetensors")
    out = tmp_path / "out"
    said = ["--lora", str(tmp_path / "wrong.safetensors"), "--out", str(out)]
    assert run(["teacher", "merge", str(tiny_model_folder), *said]) == 2
    error = capfd.readouterr().err
    assert message in error and "wrong.safetensors" in error and len(error.strip().splitlines()) == 1
    assert not out.exists()


def test_what_stands_after_the_last_colon_is_a_scale(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"not yet read")
    assert lora_of(str(file)).scale == 1 and lora_of(f"{file}:-0.25").scale == -0.25
    assert lora_of(f"{tmp_path}:2").file == file
    (tmp_path / "b:3").mkdir()
    (tmp_path / "b:3" / FILE).write_bytes(b"")
    assert lora_of(str(tmp_path / "b:3")).scale == 1
    for said, message in (
        (f"{file}:inf", "must be a number"),
        (f"{file}:x", "no such LoRA"),
        (str(tmp_path / "none"), "no such LoRA"),
    ):
        with pytest.raises(InputError, match=message):
            lora_of(said)
    (tmp_path / "c.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"2 files.*a.safetensors, c.safetensors"):
        lora_of(str(tmp_path))
    (tmp_path / "d.bin").write_bytes(b"")
    with pytest.raises(InputError, match="safetensors only"):
        lora_of(str(tmp_path / "d.bin"))


@pytest.mark.parametrize("damage", [b"", b"not a file of weights", b"\xff" * 64], ids=["empty", "text", "bytes"])
def test_a_damaged_file_is_named(
    tiny_model_folder: Path, tmp_path: Path, damage: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cut.safetensors").write_bytes(damage)
    said = ["--lora", str(tmp_path / "cut.safetensors"), "--out", str(tmp_path / "out")]
    assert run(["teacher", "merge", str(tiny_model_folder), *said]) == 2
    assert "cannot read the LoRA" in capfd.readouterr().err

"""`genin teacher finetune`, on tiny random models: what is saved in memory changes nothing, and what is asked for is done."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tunable import with_random_unet, write_pictures

torch = pytest.importorskip("torch")

from PIL import Image  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from torch import Tensor  # noqa: E402

from genin.cli import run  # noqa: E402
from genin.distill import finetune, training  # noqa: E402
from genin.distill.diffusion import Process  # noqa: E402
from genin.distill.held_out import HeldOutPictures  # noqa: E402
from genin.distill.lora import FILE  # noqa: E402
from genin.distill.model_folder import load_model_folder  # noqa: E402
from genin.distill.text_cache import TextCache  # noqa: E402
from genin.distill.training import Training, Update  # noqa: E402

SHARED = Path(__file__).parents[2] / "shared" / "data" / "tiny_sd_diffusers_fixture"
DEFAULTS = {"images": 32, "batch_size": 8, "lr": 0.003, "lr_warmup_images": 1, "held_out_images": 0}
Tune = Callable[..., list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def short_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "ROW_UPDATES", 1)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures") / "data", 40, val=16)


@pytest.fixture
def tune(tiny_model_folder: Path, pictures: Path, tmp_path: Path, genin: Callable[..., dict[str, Any]]) -> Tune:
    """Tune the tiny model into `tmp_path/NAME` with the recipe's keys as given; returns the rows of the log."""

    def call(name: str, *options: str | Path, base: Path = tiny_model_folder, data: Any = pictures, **keys: Any) -> Any:
        out, recipe = tmp_path / name, tmp_path / f"{name}.json"
        recipe.write_text(json.dumps({"finetune": {**DEFAULTS, **keys}}))
        genin("teacher", "finetune", "--base", base, "--data", data, "--recipe", recipe, "--out", out, *options)
        return [json.loads(line) for line in (out / "training" / "finetune.log.jsonl").read_text().splitlines()]

    return call


def losses(rows: list[dict[str, Any]]) -> list[float]:
    return [row["loss"] for row in rows]


def unet_of(folder: Path) -> dict[str, Tensor]:
    return load_model_folder(folder).unet.state_dict()  # type: ignore[no-any-return]


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- what saves memory changes nothing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [0, 2])
def test_captions_embedded_once_are_those_embedded_on_the_way(tune: Tune, tmp_path: Path, lora: int) -> None:
    keys = {"mixed_precision": "no", "lora_rank": lora, "caption_dropout": 0.5}
    once, always = tune("once", **keys), tune("always", cache_texts=False, **keys)
    assert losses(once) == pytest.approx(losses(always), rel=1e-3) and len(once) == 4
    for folder in ("once", "always"):  # what does not learn is in no checkpoint
        state = torch.load(tmp_path / folder / "training" / "finetune.checkpoint.pt", weights_only=True)
        assert not any(name.startswith("text_encoder.") for name in state["modules"]["denoiser"])
    before, after = (load_model_folder(tmp_path / name).text_encoder.state_dict() for name in ("once", "always"))
    assert same(before, after)


def test_captions_of_the_world_and_of_text_encoders_that_learn_are_embedded_on_the_way(
    tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    monkeypatch.setattr(finetune.TextCache, "of", lambda *given: used.append(given) or 1 / 0)
    tune("world", data="builtin:world", cache_images=16, images=8)
    tune("learns", train_text_encoder=True, images=8)
    assert not used
    assert run(["teacher", "finetune", "--data", "none"]) == 2


def test_the_table_holds_each_caption_once_and_the_empty_one() -> None:
    asked: list[str] = []

    def embed(captions: list[str]) -> Tensor:
        asked.extend(captions)
        return torch.tensor([[[float(len(caption))]] for caption in captions])

    table = TextCache.of(["aa", "b", "aa", "cccc", ""] * 40, embed)
    assert asked == ["", "aa", "b", "cccc"] and table.states.dtype == torch.float16
    assert table(["cccc", "", "aa", "aa"]).flatten().tolist() == [4, 0, 2, 2]


@pytest.mark.parametrize("keys", [{}, {"lora_rank": 2}, {"lora_rank": 2, "train_text_encoder": True}])
def test_checkpointed_gradients_are_the_same(tune: Tune, keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils import checkpoint

    calls: list[Any] = []
    real = checkpoint.checkpoint
    monkeypatch.setattr(checkpoint, "checkpoint", lambda *args, **known: calls.append(args) or real(*args, **known))
    kept = tune("kept", mixed_precision="no", **keys)
    assert not calls
    again = tune("again", mixed_precision="no", gradient_checkpointing=True, **keys)
    assert calls and losses(again) == pytest.approx(losses(kept), rel=1e-5)
    assert [row["grad_norm"] for row in again] == pytest.approx([row["grad_norm"] for row in kept], rel=1e-4)


def test_frozen_weights_in_bf16_lead_to_the_same_bits(tune: Tune, tmp_path: Path) -> None:
    keys = {"lora_rank": 2, "held_out_images": 16}
    half, whole = tune("half", **keys), tune("whole", frozen_precision="no", **keys)
    assert losses(half) == losses(whole) and half[-1]["kid"] == whole[-1]["kid"]
    assert same(load_file(tmp_path / "half" / FILE), load_file(tmp_path / "whole" / FILE))
    assert same(unet_of(tmp_path / "half"), unet_of(tmp_path / "whole"))


def test_weights_under_adapters_are_kept_in_half_the_bytes_and_averages_share_them(
    tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Training] = []
    real = Training.run
    monkeypatch.setattr(Training, "run", lambda self, *args: seen.append(self) or real(self, *args))
    tune("out", lora_rank=2, ema_decays=[0.9, 0.99], held_out_images=16)
    network: Any = seen[0].modules["denoiser"]
    live = dict(network.unet.named_parameters())
    linear = {name: p for name, p in live.items() if "base_layer.weight" in name}
    assert linear and {p.dtype for p in linear.values()} == {torch.bfloat16}
    assert {p.dtype for name, p in live.items() if "lora_" in name or "norm" in name} == {torch.float32}
    for average in seen[0].averages.values():
        for name, parameter in average.module.unet.named_parameters():  # type: ignore[union-attr,operator]
            assert (parameter is live[name]) == ("lora_" not in name)
    base = (tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert (tmp_path / "out" / "training" / "finetune.checkpoint.pt").stat().st_size < base / 4


# --- resume -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [{}, {"lora_rank": 2, "train_text_encoder": True}])
def test_an_interrupted_run_ends_in_the_same_bits(
    tune: Tune, tmp_path: Path, keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {**keys, "noise_offset": 0.1, "min_snr_gamma": 5.0, "held_out_images": 16, "preview_images": 16}
    whole = tune("whole", **keys)
    real = Training.optimise

    def interrupted(self: Training, name: str, loss: Tensor) -> float:
        if self.update_index == 1 and not self.history[1:]:
            monkeypatch.setattr(Training, "optimise", real)
            signal.raise_signal(signal.SIGINT)
        return real(self, name, loss)

    monkeypatch.setattr(Training, "optimise", interrupted)
    with pytest.raises(AssertionError, match="--resume goes on"):
        tune("parts", **keys)
    assert not (tmp_path / "parts" / "model_index.json").exists()
    parts = tune("parts", "--resume", **keys)
    assert losses(parts) == losses(whole) and [row.get("kid") for row in parts] == [row.get("kid") for row in whole]
    assert same(unet_of(tmp_path / "parts"), unet_of(tmp_path / "whole"))
    texts = (load_model_folder(tmp_path / name).text_encoder.state_dict() for name in ("parts", "whole"))
    assert same(*texts)
    if keys.get("lora_rank"):
        # Tensor by tensor: the header's own entries are written in any order.
        adapters = (load_file(tmp_path / name / FILE) for name in ("parts", "whole"))
        assert same(*adapters)


# --- what is learnt ----------------------------------------------------------------------------------------------------


def test_offset_noise_is_a_constant_a_picture_and_channel(tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {"plain": [], "offset": []}
    real = Process.add_noise
    for name, keys in (("plain", {}), ("offset", {"noise_offset": 0.3})):

        def spied(self: Process, x0: Tensor, noise: Tensor, t: Tensor, name: str = name) -> Tensor:
            if len(noise) == 32:  # an update's, not those of the checks before
                seen[name].append((noise, t))
            return real(self, x0, noise, t)

        monkeypatch.setattr(Process, "add_noise", spied)
        tune(name, images=64, batch_size=32, **keys)
    shifts = []
    for (plain, t), (offset, same_t) in zip(seen["plain"], seen["offset"], strict=True):
        assert torch.equal(t, same_t) and plain.shape == offset.shape
        shift = offset - plain
        assert float(shift.std(dim=(2, 3)).max()) < 1e-5
        shifts.append(shift.mean(dim=(2, 3)))
    assert torch.cat(shifts).shape == (64, 4) and float(torch.cat(shifts).std()) == pytest.approx(0.3, rel=0.15)


def test_min_snr_weights_reach_the_loss(tune: Tune) -> None:
    assert losses(tune("plain", images=8)) != losses(tune("weighted", images=8, min_snr_gamma=1.0))


def test_grids_show_the_prompts_that_were_given(tune: Tune, tmp_path: Path) -> None:
    def sheet(name: str) -> Image.Image:
        return Image.open(tmp_path / name / "training" / "finetune.samples-00000008.png")

    (tmp_path / "prompts.txt").write_text("a ninja\n\nan orange mountain\nthe sunset\n")
    prompts = ["a ninja", "an orange mountain", "the sunset"]
    tune("file", "--prompts", tmp_path / "prompts.txt", images=8)
    tune("recipe", images=8, validation_prompts=prompts)
    tune("others", images=8, validation_prompts=[*prompts[:2], "running"])
    tune("none", images=8, validation_prompts=[])
    assert sheet("file").tobytes() == sheet("recipe").tobytes() != sheet("others").tobytes()
    assert sheet("file").width == 3 * (2 * 66 + 2) and sheet("none").width == 3 * (10 * 66 + 2)
    # The first row of two is the same pictures: other prompts do not move their noise.
    first_row = (0, 0, sheet("file").width, 3 * 66)
    assert sheet("file").crop(first_row).tobytes() == sheet("others").crop(first_row).tobytes()


@pytest.mark.parametrize("keys", [{}, {"lora_rank": 2}])
def test_the_checkpoint_that_is_nearest_on_held_out_captions_is_kept(
    tune: Tune, tmp_path: Path, keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kids, at = iter([3.0, 1.0, 5.0, 4.0]), []

    def kid(self: HeldOutPictures, drawn: Tensor) -> dict[str, float]:
        at.append(drawn)
        return {"kid": next(kids), "kid_error": 0.1}

    with monkeypatch.context() as patched:
        patched.setattr(HeldOutPictures, "kid", kid)
        rows = tune("best", held_out_images=16, preview_images=8, **keys)
    assert [row["kid"] for row in rows] == [3.0, 1.0, 5.0, 4.0] and all(len(drawn) == 16 for drawn in at)
    state = torch.load(tmp_path / "best" / "training" / "finetune.checkpoint.pt", weights_only=True)
    assert state["best"]["update"] == 2
    if keys:
        kept = {n.removeprefix("unet."): v for n, v in state["best"]["state"].items() if "lora_" in n}
        stored = load_file(tmp_path / "best" / FILE)
        assert sorted(map(float, (v.sum() for v in kept.values()))) == sorted(
            map(float, (v.sum() for v in stored.values()))
        )
    else:
        kept = {n.removeprefix("unet."): v for n, v in state["best"]["state"].items() if n.startswith("unet.")}
        assert same(kept, unet_of(tmp_path / "best"))


def test_looks_tell_true_pictures_from_noise(tiny_model_folder: Path) -> None:
    """In the base's features: halves of the same pictures are nearer to each other than to noise."""
    from genin.distill.finetune import as_guided

    guided = as_guided(load_model_folder(tiny_model_folder), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(64, 4, 4, 4, generator=generator)
    pictures = torch.nn.functional.interpolate(low, scale_factor=4)
    held_out = HeldOutPictures.seen_by(guided, [f"caption {i}" for i in range(64)], pictures)
    near = held_out.kid(pictures.roll(1, 0))
    far = held_out.kid(torch.randn(64, 4, 16, 16, generator=generator))
    assert far["kid"] > near["kid"] + 3 * near["kid_error"]


def test_looks_take_what_the_val_split_has_and_are_left_out_where_that_is_too_little(
    tune: Tune, tmp_path: Path
) -> None:
    assert "kid" in tune("all", images=8, held_out_images=64)[-1]  # of 16
    few = write_pictures(tmp_path / "few-pictures", 24, val=6)
    assert "kid" not in tune("few", data=str(few), images=8, held_out_images=64)[-1]


# --- which models ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/tiny_sd_diffusers_fixture is not here")
@pytest.mark.parametrize("lora", [0, 2])
def test_a_folder_that_an_old_diffusers_wrote_is_tuned(tune: Tune, tmp_path: Path, lora: int) -> None:
    from diffusers import DiffusionPipeline

    base = with_random_unet(SHARED, tmp_path / "base")
    rows = tune("tuned", base=base, lora_rank=lora, images=16, train_text_encoder=lora > 0, min_snr_gamma=5.0)
    assert len(rows) == 2 and all(row["loss"] < 10 for row in rows)
    before, after = unet_of(base), unet_of(tmp_path / "tuned")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and (not lora or all(".to_" in name for name in changed))
    assert (tmp_path / "tuned" / FILE).is_file() == (lora > 0)
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "tuned")
    assert pipeline.scheduler.config.prediction_type == "epsilon"


def edited(folder: Path, out: Path, file: str, **changes: Any) -> Path:
    shutil.copytree(folder, out)
    path = out / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return out


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("genin.json", {"kind": "student", "parent": "big"}, "a few-step student cannot be tuned"),
        ("scheduler/scheduler_config.json", {"_class_name": "LCMScheduler"}, "latent consistency model"),
        ("scheduler/scheduler_config.json", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "flow-matching"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "prediction type"),
        ("scheduler/scheduler_config.json", {"prediction_type": "epsilon"}, "rescale_betas_zero_snr"),
        ("model_index.json", {"unet": ["diffusers", "UNet3DConditionModel"]}, "UNet3DConditionModel"),
        ("model_index.json", {"text_encoder": ["transformers", "T5EncoderModel"]}, "T5EncoderModel"),
    ],
)
def test_what_cannot_be_tuned_is_refused_before_anything_is_written(
    tiny_model_folder: Path,
    pictures: Path,
    tmp_path: Path,
    file: str,
    changes: dict[str, Any],
    message: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    base, out = edited(tiny_model_folder, tmp_path / "base", file, **changes), tmp_path / "out"
    assert run(["teacher", "finetune", "--base", str(base), "--data", str(pictures), "--out", str(out)]) == 2
    error = capfd.readouterr().err
    assert message in error and str(base) in error and len(error.strip().splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_channels": 9}, "inpainting"),
        ({"cross_attention_dim": 64}, "width 64"),
        ({"time_cond_proj_dim": 16}, "latent consistency"),
        ({"class_embed_type": "timestep"}, "class embeddings"),
        (
            {
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 8,
                "projection_class_embeddings_input_dim": 80,
            },
            "text_time",
        ),
    ],
)
def test_unets_of_other_families_are_refused(
    tiny_model_folder: Path,
    pictures: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from diffusers import UNet2DConditionModel

    base, out = tmp_path / "base", tmp_path / "out"
    shutil.copytree(tiny_model_folder, base)
    config = {**UNet2DConditionModel.load_config(base / "unet"), **changes}
    UNet2DConditionModel.from_config(config).save_pretrained(base / "unet")
    assert run(["teacher", "finetune", "--base", str(base), "--data", str(pictures), "--out", str(out)]) == 2
    error = capfd.readouterr().err
    assert message in error and not out.exists()


def test_two_processes_draw_the_same_offsets_as_one() -> None:
    def update(batch: int, offset: int) -> Update:
        generator = torch.Generator().manual_seed(5)
        return Update(0, 0, batch, offset, 8, generator, torch.device("cpu"))

    whole = update(8, 0).randn(4, 1, 1)
    assert torch.equal(torch.cat([update(4, 0).randn(4, 1, 1), update(4, 4).randn(4, 1, 1)]), whole)


def test_two_processes_tune_as_one_does(tiny_model_folder: Path, pictures: Path, tmp_path: Path) -> None:
    """Adapters on both networks, offset noise, weights and a look; one writes the file of adapters."""
    keys = {**DEFAULTS, "mixed_precision": "no", "noise_offset": 0.1, "min_snr_gamma": 5.0, "held_out_images": 16}
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"finetune": {**keys, "images": 24, "lora_rank": 2, "train_text_encoder": True}}))
    command = ["-m", "genin", "teacher", "finetune", "--base", str(tiny_model_folder), "--data", str(pictures)]
    stored = []
    for name, launcher in (("one", []), ("two", ["-m", "torch.distributed.run", "--nproc_per_node", "2"])):
        done = subprocess.run(
            [sys.executable, *launcher, *command, "--recipe", str(recipe), "--out", str(tmp_path / name), "--json"],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr[-2000:]
        stored.append(load_file(tmp_path / name / FILE))
    one, two = stored
    assert one.keys() == two.keys()
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-4
    assert max(float(value.abs().max()) for name, value in one.items() if "up" in name) > 1e-3

"""`genin teacher finetune`, on tiny random models: what is saved in memory changes nothing, and what is asked for is done.

Three runs with every option of a tuning on are made once (`tuned`): the whole UNet, adapters on it, adapters on both networks.
Tests read their files, or compare them with a run that differs in one option.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conftest import press_ctrl_c
from tunable import edited, empty_curves, in_two_processes, write_pictures
from tunable import no_curves as no_curves

torch = pytest.importorskip("torch")

from PIL import Image  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from torch import Tensor  # noqa: E402

from genin.cli import run  # noqa: E402
from genin.distill.inputs import latents as latent_cache  # noqa: E402
from genin.distill.inputs import sources  # noqa: E402
from genin.distill.inputs.latents import Bucket, LatentCache  # noqa: E402
from genin.distill.inputs.sources import FolderSource  # noqa: E402
from genin.distill.inputs.texts import TextCache  # noqa: E402
from genin.distill.inputs.update import Update  # noqa: E402
from genin.distill.loop import previews, training  # noqa: E402
from genin.distill.loop.held_out import HeldOutPictures  # noqa: E402
from genin.distill.loop.training import Training  # noqa: E402
from genin.distill.models.diffusion import TEACHER_SCHEDULER, Process  # noqa: E402
from genin.distill.models.folder import load_model_folder  # noqa: E402
from genin.distill.models.lora import FILE  # noqa: E402
from genin.distill.recipe import FinetuneRecipe, load_recipe  # noqa: E402
from genin.distill.teacher import finetune  # noqa: E402
from genin.distill.teacher.captioned import prepare_texts  # noqa: E402
from genin.distill.teacher.finetune import as_guided, hold_out, tuning_step  # noqa: E402
from genin.distill.teacher.train import teacher_preview  # noqa: E402

CPU = torch.device("cpu")
SHORT = {"images": 16, "batch_size": 8, "lr": 0.01, "lr_warmup_images": 1, "held_out_images": 0, "ema_decays": [0.5]}
# Every option that changes what is learnt, in fp32 so that other ways of computing the same can be told from other results.
FULL = SHORT | {"mixed_precision": "no", "caption_dropout": 0.5, "noise_offset": 0.1, "min_snr_gamma": 5.0}
FULL |= {"held_out_images": 64, "preview_images": 8}
RUNS: Mapping[str, dict[str, Any]] = {
    "whole": {},
    "adapters": {"lora_rank": 2},
    "both": {"lora_rank": 2, "train_text_encoder": True},
}
Tune = Callable[..., list[dict[str, Any]]]


def tune_into(out: Path, base: Path, data: Path | str, *options: str | Path, **keys: Any) -> int:
    recipe = out.with_name(f"{out.name}.json")
    recipe.write_text(json.dumps({"finetune": keys}))
    command = ["teacher", "finetune", "--base", base, "--data", data, "--recipe", recipe, "--out", out, *options]
    return run([str(word) for word in command])


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "training" / "finetune.log.jsonl").read_text().splitlines()]


@pytest.fixture(autouse=True)
def a_row_an_update_and_no_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "ROW_UPDATES", 1)
    monkeypatch.setattr(finetune, "teacher_preview", lambda *_given: None)  # a grid takes longer than its training


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 pictures to train on, 16 held out."""
    return write_pictures(tmp_path_factory.mktemp("pictures") / "data", 40, val=16, size=32)


@pytest.fixture(scope="module")
def tuned(tiny_model_folder: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `RUNS`, each with all of `FULL`. Nothing in them computes activations twice."""
    from torch.utils import checkpoint

    folder = tmp_path_factory.mktemp("tuned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "ROW_UPDATES", 1)
        patch.setattr(previews, "plot_curves", empty_curves)
        patch.setattr(latent_cache, "CHUNK", 4)
        patch.setattr(sources, "FEW", 99)  # chunks are made in this process
        patch.setattr(checkpoint, "checkpoint", lambda *_given, **_named: pytest.fail("gradients were checkpointed"))
        for name, keys in RUNS.items():
            assert tune_into(folder / name, tiny_model_folder, pictures, **FULL, **keys) == 0
    return folder


@pytest.fixture
def tune(tiny_model_folder: Path, pictures: Path, tmp_path: Path) -> Tune:
    """Tune the tiny model into `tmp_path/NAME` with the recipe's keys as given; returns the rows of the log."""

    def call(name: str, *options: str | Path, data: Path | str = pictures, **keys: Any) -> list[dict[str, Any]]:
        assert tune_into(tmp_path / name, tiny_model_folder, data, *options, **keys) == 0
        return rows_of(tmp_path / name)

    return call


def losses(rows: list[dict[str, Any]]) -> list[float]:
    return [row["loss"] for row in rows]


def unet_of(folder: Path) -> dict[str, Tensor]:
    return load_model_folder(folder).unet.state_dict()  # type: ignore[no-any-return]


def text_encoder_of(folder: Path) -> dict[str, Tensor]:
    return load_model_folder(folder).text_encoder.state_dict()  # type: ignore[no-any-return]


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- what a run leaves -------------------------------------------------------------------------------------------------


@pytest.mark.train
@pytest.mark.parametrize("name", RUNS)
def test_a_run_says_what_it_was(tuned: Path, name: str) -> None:
    out = tuned / name
    rows = rows_of(out)
    assert [row["images_seen"] for row in rows] == [8, 16] and all(row.keys() >= {"kid", "grad_norm"} for row in rows)
    info = json.loads((out / "genin.json").read_text())
    assert info["kind"] == "teacher" and info["parent"] == "teacher" and info["data"] == "data"
    assert info["licence"] == "CC0-1.0, Apache-2.0" and info["images_seen"] == 16
    assert info["recipe"]["finetune"]["lora_rank"] == RUNS[name].get("lora_rank", 0)
    card = (out / "README.md").read_text()
    assert ("by low-rank adapters of rank 2" in card) == (name != "whole") and "CC0-1.0" in card
    assert load_recipe(out / "training" / "recipe.yaml").finetune.noise_offset == 0.1
    assert (out / FILE).is_file() == (name != "whole")
    left = {file.name for file in (out / "training").iterdir()}
    assert left >= {"finetune.curves.png", "finetune.samples-00000008.png", "finetune.samples-00000016.png", "run.json"}
    assert left >= {"latents.safetensors", "held_out.safetensors"} and not [name for name in left if "partial" in name]


@pytest.mark.train
@pytest.mark.parametrize("name", ["adapters", "both"])
def test_what_is_written_is_what_was_merged(tiny_model_folder: Path, tuned: Path, name: str) -> None:
    """The file of adapters, as diffusers opens it and adds it to the base, gives the weights of the folder."""
    from diffusers import StableDiffusionPipeline

    train_text, stored = name == "both", load_file(tuned / name / FILE)
    assert any(key.startswith("text_encoder.") for key in stored) == train_text
    assert all(value.dtype == torch.float32 for value in stored.values())
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model_folder)
    before = {key: value.clone() for key, value in pipeline.unet.state_dict().items()}
    pipeline.load_lora_weights(tuned / name)
    assert pipeline.unet.peft_config["default_0"].lora_alpha == 2
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    merged, merged_text = unet_of(tuned / name), text_encoder_of(tuned / name)
    for found, expected in ((pipeline.unet, merged), (pipeline.text_encoder, merged_text)):
        state = found.state_dict()
        assert state.keys() >= expected.keys()
        assert max(float((state[key] - expected[key]).abs().max()) for key in expected) < 1e-5
    assert max(float((merged[key] - before[key]).abs().max()) for key in before) > 1e-3
    changed = {n for n, value in text_encoder_of(tiny_model_folder).items() if not torch.equal(value, merged_text[n])}
    assert bool(changed) == train_text and all("self_attn" in key for key in changed)


@pytest.mark.train
@pytest.mark.parametrize(
    ("name", "keys", "options", "message"),
    [
        ("whole", {"noise_offset": 0.2}, [], "noise_offset"),
        ("adapters", {}, ["--lora", "4"], "another lora"),
        ("both", {"seed": 1}, [], "seed"),
    ],
)
def test_a_run_is_not_resumed_with_other_settings(
    tiny_model_folder: Path, pictures: Path, tuned: Path, tmp_path: Path, name: str, keys: dict[str, Any],
    options: list[str], message: str, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    shutil.copytree(tuned / name, out)
    before = times_in(out)
    keys = {**FULL, **RUNS[name], **keys}
    assert tune_into(out, tiny_model_folder, pictures, "--resume", *options, **keys) == 2
    assert message in capfd.readouterr().err
    assert before == times_in(out)


def times_in(folder: Path) -> dict[Path, int]:
    """When each file was written; the lock's is whenever a training has looked at it."""
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.name != ".lock"}


def test_data_that_is_not_there_is_refused(
    tiny_model_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert tune_into(tmp_path / "out", tiny_model_folder, "none") == 2
    assert "no such dataset folder: none" in capfd.readouterr().err and not (tmp_path / "out").exists()


# --- what saves memory changes nothing ---------------------------------------------------------------------------------


@pytest.mark.train
@pytest.mark.parametrize("name", ["whole", "adapters"])
def test_captions_embedded_once_are_those_embedded_on_the_way(
    tune: Tune, tuned: Path, tiny_model_folder: Path, tmp_path: Path, name: str
) -> None:
    always = tune("always", **FULL, **RUNS[name], cache_texts=False)
    assert losses(rows_of(tuned / name)) == pytest.approx(losses(always), rel=1e-3)
    for folder in (tuned / name, tmp_path / "always"):  # what does not learn is in no checkpoint
        state = torch.load(folder / "training" / "finetune.checkpoint.pt", weights_only=True)
        assert not any(key.startswith("text_encoder.") for key in state["modules"]["denoiser"])
        assert same(text_encoder_of(folder), text_encoder_of(tiny_model_folder))


@pytest.mark.parametrize(
    ("keys", "rephrases", "cached"),
    [
        ({}, False, True),
        ({}, True, False),  # the built-in world's captions
        ({"train_text_encoder": True}, False, False),
        ({"cache_texts": False}, False, False),
    ],
)
def test_captions_are_embedded_once_where_neither_they_nor_their_encoder_change(
    tiny_model_folder: Path, keys: dict[str, Any], rephrases: bool, cached: bool
) -> None:
    guided = as_guided(load_model_folder(tiny_model_folder), CPU)
    stage: Any = SimpleNamespace(settings=FinetuneRecipe(**keys), autocast=nullcontext, device=CPU)
    source: Any = SimpleNamespace(rephrases=rephrases, captions=lambda rows: [f"caption {row}" for row in rows])
    texts = prepare_texts(stage, guided, source, 3, ["a ninja"])
    assert (texts.table is not None) == cached
    if texts.table is not None:
        assert list(texts.table.rows) == ["", "caption 0", "caption 1", "caption 2", "a ninja"]
        wanted = guided.embed(["a ninja", "caption 1"])
        assert torch.allclose(texts.inputs(["a ninja", "caption 1"]), wanted, atol=2e-3)
    else:
        assert texts.inputs(["a ninja"]).dtype == torch.int64


def test_the_table_holds_each_caption_once_and_the_empty_one() -> None:
    asked: list[str] = []

    def embed(captions: list[str]) -> Tensor:
        asked.extend(captions)
        return torch.tensor([[[float(len(caption))]] for caption in captions])

    table = TextCache.of(["aa", "b", "aa", "cccc", ""] * 40, embed)
    assert asked == ["", "aa", "b", "cccc"] and table.states.dtype == torch.float16
    assert table(["cccc", "", "aa", "aa"]).flatten().tolist() == [4, 0, 2, 2]


@pytest.mark.train
@pytest.mark.parametrize("name", RUNS)
def test_checkpointed_gradients_are_the_same(
    tune: Tune, tuned: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.utils import checkpoint

    calls: list[Any] = []
    real = checkpoint.checkpoint
    monkeypatch.setattr(checkpoint, "checkpoint", lambda *args, **known: calls.append(args) or real(*args, **known))
    again, kept = tune("again", **FULL, **RUNS[name], gradient_checkpointing=True), rows_of(tuned / name)
    assert calls and losses(again) == pytest.approx(losses(kept), rel=1e-5)
    assert [row["grad_norm"] for row in again] == pytest.approx([row["grad_norm"] for row in kept], rel=1e-4)


@pytest.mark.train
def test_frozen_weights_in_bf16_lead_to_the_same_bits_and_averages_share_them(
    tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Training] = []
    real = Training.run
    monkeypatch.setattr(
        Training, "run", lambda self, *args, **options: seen.append(self) or real(self, *args, **options)
    )
    keys = SHORT | {"lora_rank": 2, "held_out_images": 16, "ema_decays": [0.9, 0.99]}
    half, whole = tune("half", **keys), tune("whole", **keys, frozen_precision="no")
    assert losses(half) == losses(whole) and half[-1]["kid"] == whole[-1]["kid"]
    assert same(load_file(tmp_path / "half" / FILE), load_file(tmp_path / "whole" / FILE))
    assert same(unet_of(tmp_path / "half"), unet_of(tmp_path / "whole"))
    for run_of, kept_in in zip(seen, (torch.bfloat16, torch.float32), strict=True):
        network: Any = run_of.networks.modules["denoiser"]
        live = dict(network.unet.named_parameters())
        linear = {name: p for name, p in live.items() if "base_layer.weight" in name}
        assert linear and {p.dtype for p in linear.values()} == {kept_in}
        assert {p.dtype for name, p in live.items() if "lora_" in name or "norm" in name} == {torch.float32}
        for average in run_of.averages.values():
            for name, parameter in average.module.unet.named_parameters():  # type: ignore[union-attr,operator]
                assert (parameter is live[name]) == ("lora_" not in name)
    base = (tmp_path / "half" / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert (tmp_path / "half" / "training" / "finetune.checkpoint.pt").stat().st_size < base / 2


# --- resume -----------------------------------------------------------------------------------------------------------


@pytest.mark.train
@pytest.mark.parametrize("name", ["whole", "both"])
def test_an_interrupted_run_ends_in_the_same_bits(
    tune: Tune, tuned: Path, tiny_model_folder: Path, pictures: Path, tmp_path: Path, name: str,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    real = Training.optimise

    def interrupted(self: Training, network: str, loss: Tensor) -> float:
        monkeypatch.setattr(Training, "optimise", real)
        press_ctrl_c()
        return real(self, network, loss)

    monkeypatch.setattr(Training, "optimise", interrupted)
    keys, parts = {**FULL, **RUNS[name]}, tmp_path / "parts"
    assert tune_into(parts, tiny_model_folder, pictures, **keys) == 130
    assert (
        "the same again with resume continues" in capfd.readouterr().err and not (parts / "model_index.json").exists()
    )
    assert [row["images_seen"] for row in rows_of(parts)] == [8]
    page = parts / "training" / "index.html"  # None without jinja2
    assert not page.exists() or "Interrupted." in page.read_text("utf-8")
    resumed, whole = tune("parts", "--resume", **keys), rows_of(tuned / name)
    assert losses(resumed) == losses(whole) and [row.get("kid") for row in resumed] == [row.get("kid") for row in whole]
    assert not page.exists() or "Finished 2" in page.read_text("utf-8")
    assert same(unet_of(parts), unet_of(tuned / name))
    assert same(text_encoder_of(parts), text_encoder_of(tuned / name))
    if name == "both":  # tensor by tensor: the header's own entries are written in any order
        assert same(load_file(parts / FILE), load_file(tuned / name / FILE))


# --- what is learnt ----------------------------------------------------------------------------------------------------


class Step:
    """One update of `tuning_step` over 64 random latents, with a network that predicts 0 and keeps what it was given."""

    def __init__(self, **keys: Any) -> None:
        self.process, self.given = Process(TEACHER_SCHEDULER), list[tuple[Any, ...]]()
        latents = torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(1)).half()
        self.cache = LatentCache((Bucket(latents),), 1.0)
        stage: Any = SimpleNamespace(
            settings=FinetuneRecipe(**keys), autocast=nullcontext, optimise=lambda _name, _loss: 0.25
        )
        source: Any = SimpleNamespace(captions=lambda rows, epoch: [f"caption {row} of {epoch}" for row in rows])
        texts: Any = SimpleNamespace(inputs=lambda captions: captions)
        network: Any = self._predict
        step = tuning_step(stage, network, self.process, self.cache, source, texts)
        self.row = {name: float(value) for name, value in step(self.update()).items()}

    def update(self) -> Update:
        return Update(3, 0, 64, 0, 64, torch.Generator().manual_seed(5), CPU)

    def _predict(self, x_t: Tensor, t: Tensor, captions: list[str]) -> Tensor:
        self.given.append((x_t, t, captions))
        return torch.zeros_like(x_t)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 5.0])
def test_the_loss_of_an_update_is_that_of_its_formula(gamma: float) -> None:
    """w(t)·‖prediction − target‖², in the order in which resumed runs draw: pictures, noise, timesteps, dropped captions."""
    step = Step(min_snr_gamma=gamma, caption_dropout=0.5)
    update = step.update()
    rows, x0 = step.cache.draw(update)
    noise, t, dropped = update.randn(4, 8, 8), update.randint(1000), update.rand() < 0.5
    error = step.process.target(x0, noise, t).square().mean(dim=(1, 2, 3))
    weight = torch.ones(64)
    if gamma:
        snr = (step.process.alphas / step.process.sigmas).square().double()
        every = snr.clamp_max(gamma) / (snr + 1)  # on v (Hang et al. 2023, arXiv:2303.09556)
        weight = (every / every.mean())[t].float()
    assert step.row == {"loss": pytest.approx(float((weight * error).mean()), rel=1e-4), "grad_norm": 0.25}
    [(x_t, asked, captions)] = step.given
    assert torch.equal(asked, t) and torch.allclose(x_t, step.process.add_noise(x0, noise, t))
    wanted = [f"caption {row} of 3" for row in rows.tolist()]
    assert captions == ["" if drop else text for drop, text in zip(dropped.tolist(), wanted, strict=True)]
    assert 16 < int(dropped.sum()) < 48


def test_offset_noise_is_a_constant_a_picture_and_channel() -> None:
    plain, offset = Step(), Step(noise_offset=0.3)
    [(x_t, t, captions)], [(shifted, same_t, same_captions)] = plain.given, offset.given
    assert torch.equal(t, same_t) and captions == same_captions  # it is drawn last
    shift = (shifted - x_t) / plain.process.sigmas[t].view(-1, 1, 1, 1)
    assert float(shift.std(dim=(2, 3)).max()) < 1e-4
    assert float(shift.mean(dim=(2, 3)).std()) == pytest.approx(0.3, rel=0.15)
    assert offset.row["loss"] != plain.row["loss"]


@pytest.mark.train
def test_grids_show_the_prompts_that_were_given(
    tune: Tune, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "teacher_preview", teacher_preview)

    def sheet(out: Path) -> Image.Image:
        return Image.open(out / "training" / "finetune.samples-00000008.png")

    prompts = ["a ninja", "an orange mountain", "the sunset"]
    (tmp_path / "prompts.txt").write_text("\n\n".join(prompts))
    keys = {**SHORT, "images": 8, "cache_images": 16}
    tune("file", "--prompts", tmp_path / "prompts.txt", data="builtin:world", **keys)
    tune("recipe", data="builtin:world", validation_prompts=[*prompts[:2], "running"], **keys)
    assert load_recipe(tmp_path / "file" / "training" / "recipe.yaml").finetune.validation_prompts == tuple(prompts)
    file, recipe = sheet(tmp_path / "file"), sheet(tmp_path / "recipe")
    assert file.size == recipe.size and file.width == 6 * (2 * 34 + 2)
    assert sheet(tuned / "whole").width == 6 * (10 * 34 + 2)  # the first captions, where none are given
    # The first row of two is the same pictures: other prompts do not move their noise.
    first_row = (0, 0, file.width, 6 * 34)
    assert file.crop(first_row).tobytes() == recipe.crop(first_row).tobytes()
    assert file.tobytes() != recipe.tobytes()


@pytest.mark.train
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
        rows = tune("best", **SHORT | {"images": 32, "held_out_images": 16, "preview_images": 8, **keys})
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
    from genin.distill.teacher.finetune import as_guided

    guided = as_guided(load_model_folder(tiny_model_folder), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(64, 4, 4, 4, generator=generator)
    pictures = torch.nn.functional.interpolate(low, scale_factor=4)
    held_out = HeldOutPictures.seen_by(guided, [f"caption {i}" for i in range(64)], pictures)
    near = held_out.kid(pictures.roll(1, 0))
    far = held_out.kid(torch.randn(64, 4, 16, 16, generator=generator))
    assert far["kid"] > near["kid"] + 3 * near["kid_error"]


def test_pictures_are_looked_at_under_another_noise_than_they_are_drawn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """They resemble their own a little, which true pictures do not."""
    seen: list[Tensor] = []
    monkeypatch.setattr(
        "genin.distill.loop.held_out._features",
        lambda _teacher, latents, _text, noise: seen.append(noise) or latents.flatten(1).numpy(),
    )
    pictures = torch.randn(64, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    teacher: Any = SimpleNamespace(embed=lambda captions: torch.zeros(len(captions), 1, 1))
    held_out = HeldOutPictures.seen_by(teacher, [f"caption {i}" for i in range(64)], pictures)
    held_out.kid(pictures.roll(1, 0))
    true, drawn = seen
    assert torch.equal(true, drawn) and not (drawn == held_out.noise).flatten(1).all(dim=1).any()


def test_looks_take_what_the_val_split_has_and_are_left_out_where_that_is_too_little(
    tiny_model_folder: Path, pictures: Path, tmp_path: Path
) -> None:
    model = load_model_folder(tiny_model_folder)
    few = write_pictures(tmp_path / "few-pictures", 24, val=6, size=32)
    for data, asked, found in ((pictures, 64, 16), (pictures, 16, 16), (pictures, 0, None), (few, 64, None)):
        folder = tmp_path / f"{data.name}-{asked}"
        folder.mkdir()
        settings = FinetuneRecipe(held_out_images=asked)
        stage = Training(folder, "finetune", settings)
        held_out = hold_out(stage, as_guided(model, CPU), FolderSource(data), model, settings, adapted=True)
        assert (None if held_out is None else len(held_out.captions)) == found


# --- which models ------------------------------------------------------------------------------------------------------


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


def test_a_crop_of_the_autoencoder_must_fit_the_base(
    tiny_model_folder: Path, pictures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its pictures have the base's size, whatever the recipe says."""
    recipe, out = tmp_path / "recipe.json", tmp_path / "out"
    keys = {"autoencoder": {"image_size": 512, "crop": 256}, "finetune": {"autoencoder_images": 8}}
    recipe.write_text(json.dumps(keys))
    options = ["--base", tiny_model_folder, "--data", pictures, "--out", out, "--recipe", recipe]
    assert run(["teacher", "finetune", *map(str, options)]) == 2
    assert "autoencoder.crop is 256 px, more than the pictures'" in capfd.readouterr().err and not out.exists()


def test_the_decoder_learns_and_the_encoder_stays(tiny_model_folder: Path, pictures: Path, tmp_path: Path) -> None:
    """The UNet knows its latents."""
    recipe, out = tmp_path / "recipe.json", tmp_path / "out"
    settings = {"autoencoder_images": 8, "images": 8, "batch_size": 8, "cache_images": 8, "held_out_images": 0}
    recipe.write_text(json.dumps({"autoencoder": {"batch_size": 4}, "finetune": settings}))
    options = ["--base", tiny_model_folder, "--data", pictures, "--out", out, "--recipe", recipe]
    assert run(["teacher", "finetune", *map(str, options)]) == 0
    before, after = (
        load_file(folder / "vae" / "diffusion_pytorch_model.safetensors") for folder in (tiny_model_folder, out)
    )
    changed = {name.partition(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"decoder"} and before.keys() == after.keys()


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


# --- several processes -------------------------------------------------------------------------------------------------


def test_two_processes_draw_the_same_offsets_as_one() -> None:
    def update(batch: int, offset: int) -> Update:
        generator = torch.Generator().manual_seed(5)
        return Update(0, 0, batch, offset, 8, generator, torch.device("cpu"))

    whole = update(8, 0).randn(4, 1, 1)
    assert torch.equal(torch.cat([update(4, 0).randn(4, 1, 1), update(4, 4).randn(4, 1, 1)]), whole)


TWO = """
import sys
sys.path.insert(0, {tests!r})
import diffusers.loaders, diffusers.models, peft, transformers
from diffusers import StableDiffusionPipeline
from genin.cli import run
from genin.distill.inputs import latents
from genin.distill.loop import training
from tunable import become_two
latents.CHUNK, training.ROW_UPDATES = 4, 1
become_two()
raise SystemExit(run(sys.argv[1:]))
"""


@pytest.mark.processes
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_two_processes_encode_and_tune_as_one_does(
    tiny_model_folder: Path, pictures: Path, tuned: Path, tmp_path: Path
) -> None:
    """Adapters on both networks, offset noise, weights and looks; one writes the file of adapters."""
    (tmp_path / "two.py").write_text(TWO.format(tests=str(Path(__file__).parents[2] / "helpers")))
    shutil.copyfile(tuned / "both.json", tmp_path / "two.json")
    command = [
        "teacher",
        "finetune",
        "--base",
        tiny_model_folder,
        "--data",
        pictures,
        "--recipe",
        tmp_path / "two.json",
    ]
    in_two_processes(tmp_path / "two.py", *command, "--out", tmp_path / "two")
    one, two = (load_file(folder / FILE) for folder in (tuned / "both", tmp_path / "two"))
    assert one.keys() == two.keys()
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-4
    assert max(float(value.abs().max()) for name, value in one.items() if "up" in name) > 1e-3
    for name in ("latents.safetensors", "held_out.safetensors"):  # chunks of both, in one file
        assert (tmp_path / "two" / "training" / name).read_bytes() == (tuned / "both" / "training" / name).read_bytes()
    assert not list((tmp_path / "two" / "training").glob("*.journal"))

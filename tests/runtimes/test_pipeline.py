"""Pipelines: guidance, noise, arguments, choosing a runtime, damaged models, `genin generate` and `genin runtimes`.

What every engine must do is in `test_engines`.
"""

from __future__ import annotations

import json
import platform
import shutil
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import IMAGE_SIZE, LATENT_SIZE, MAX_LENGTH, psnr_db
from fake_hub import write_fake_bundle
from genin import cli
from genin.runtimes import engine as engines
from genin.runtimes.bundle import Bundle
from genin.runtimes.coreml_engine import CoreMLEngine, Package, units_of
from genin.runtimes.engine import ENGINES, EngineSettings
from genin.runtimes.errors import BundleError, GeninError, InputError, MissingExtraError
from genin.runtimes.lazy import engine_module
from genin.runtimes.loading import choose, load_pipeline
from genin.runtimes.manifest import ModelConstants
from genin.runtimes.pipeline import Choice, Pipeline
from genin.runtimes.tensors import APPLE_INPUTS

torch = pytest.importorskip("torch")

PROMPTS = ["a ninja meditating on the mountain", "orange sunset"]


@pytest.fixture(scope="module")
def reference(tiny_student_folder: Path) -> Iterator[Pipeline]:
    with load_pipeline(tiny_student_folder, "pytorch") as pipeline:
        yield pipeline


# --- Core ML's shapes, with PyTorch in the place of its packages -----------------------------------------------------


class FakePackage:
    """Behaves as a compiled package: fixed shapes and dtypes, Apple's names, and nothing else accepted."""

    def __init__(self, component: str, shapes: dict[str, tuple[int, ...]], dtype: Any, run: Any) -> None:
        self.component, self.shapes, self.dtype, self.run = component, shapes, dtype, run

    def predict(self, data: dict[str, Any]) -> dict[str, Any]:
        assert {name: array.shape for name, array in data.items()} == self.shapes
        assert all(array.dtype == self.dtype and array.flags.c_contiguous for array in data.values())
        names = {"text_encoder": "last_hidden_state", "unet": "noise_pred", "vae_decoder": "image"}
        return {"another": None, names[self.component]: self.run(data).astype(self.dtype)}


@pytest.mark.parametrize("batch", [1, 2])
def test_coreml_engine_feeds_apples_shapes(
    reference: Pipeline, tiny_student_folder: Path, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = reference._engine

    def unet(data: dict[str, Any]) -> Any:
        text = data["encoder_hidden_states"][:, :, 0].transpose(0, 2, 1)
        assert len(set(data["timestep"].tolist())) == 1
        return inner.predict(data["sample"], int(data["timestep"][0]), np.ascontiguousarray(text))

    runs = {
        "text_encoder": ({"input_ids": (1, MAX_LENGTH)}, lambda data: inner.encode(data["input_ids"].astype(np.int64))),
        "unet": (
            {
                "sample": (batch, 4, LATENT_SIZE, LATENT_SIZE),
                "timestep": (batch,),
                "encoder_hidden_states": (batch, 32, 1, 32),
            },
            unet,
        ),
        "vae_decoder": ({"z": (1, 4, LATENT_SIZE, LATENT_SIZE)}, lambda data: inner.decode(data["z"])),
    }
    packages = {
        name: Package(
            FakePackage(name, shapes, np.float32, run), shapes, dict.fromkeys(APPLE_INPUTS[name], np.dtype(np.float32))
        )
        for name, (shapes, run) in runs.items()
    }
    constants = ModelConstants(reference.image, reference.latents, reference.text, reference.sampler)
    pipeline = Pipeline(
        tiny_student_folder, CoreMLEngine(packages), reference._tokenizer, constants, Choice("coreml", "fp32")
    )
    prompts = [*PROMPTS, "running"]
    assert psnr_db(pipeline.generate(prompts, 2).images, reference.generate(prompts, 2).images) > 50
    with pytest.raises(BundleError, match="no input 'z'"):
        CoreMLEngine(packages | {"vae_decoder": packages["unet"]})

    def fail(_data: dict[str, Any]) -> Any:
        raise RuntimeError("Error computing\nNN outputs.")

    monkeypatch.setattr(packages["unet"].model, "run", fail)
    with pytest.raises(GeninError, match=r"the unet graph failed \(Error computing NN outputs\.\)"):
        pipeline.generate("ninja")


def test_what_pytorch_raises_is_one_line(reference: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("CUDA out of\nmemory.")

    engine: Any = reference._engine
    monkeypatch.setattr(engine._get().unet, "forward", fail)
    with pytest.raises(GeninError, match=r"the unet graph failed \(CUDA out of memory\.\)"):
        reference.generate("ninja")


@pytest.mark.export
@pytest.mark.skipif(platform.system() == "Darwin", reason="Core ML runs here")
def test_coreml_is_refused_elsewhere(tiny_bundle: Path) -> None:
    with Bundle.open(tiny_bundle) as bundle, pytest.raises(InputError, match="Core ML runs on macOS only"):
        CoreMLEngine.open(bundle, {})
    with pytest.raises(InputError, match=r"Core ML runs on macOS only.*onnxruntime"):
        engines.engine_class("coreml")


@pytest.mark.export
def test_core_ml_refuses_what_it_does_not_do(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    with Bundle.open(tiny_bundle) as bundle:
        for settings, said in (
            (EngineSettings(threads=2), "its own threads"),
            (EngineSettings(max_memory=10**9), "no limit of memory"),
        ):
            with pytest.raises(InputError, match=said):
                CoreMLEngine.open(bundle, {}, settings=settings)


def test_fp32_is_computed_in_fp32_on_a_mac(tiny_bundle: Path) -> None:
    with Bundle.open(tiny_bundle) as bundle:
        graph = bundle.manifest.graphs[0]
    assert units_of(replace(graph, precision="fp32")) == "CPU_ONLY"
    assert units_of(replace(graph, precision="fp16")) == "ALL"


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_an_engine_that_cannot_be_imported_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that it needs is missing: `auto` goes on with another engine."""

    def broken(module: str) -> Any:
        raise ImportError(f"DLL load failed while importing {module}")

    monkeypatch.setattr("importlib.import_module", broken)
    said = rf"'{name}' is installed but cannot be imported \(DLL load failed.*\); pip install 'genin\[{name}\]'"
    with pytest.raises(MissingExtraError, match=said):
        engine_module(name)


# --- guidance, noise, arguments --------------------------------------------------------------------------------------


def test_equals_diffusers(tiny_model_folder: Path) -> None:
    """A guided teacher, from the same seed as diffusers' pipeline: the same picture."""
    from diffusers import StableDiffusionPipeline

    theirs = StableDiffusionPipeline.from_pretrained(tiny_model_folder, safety_checker=None)
    theirs.set_progress_bar_config(disable=True)
    with load_pipeline(tiny_model_folder) as ours:
        assert (ours.runtime, ours.default_steps, ours.default_guidance_scale) == ("pytorch", 6, 3.0)
        for steps, scale in ((6, 3.0), (3, 1.0), (4, 7.5)):
            generator = torch.Generator().manual_seed(11)
            expected = theirs(
                PROMPTS[0], num_inference_steps=steps, guidance_scale=scale, generator=generator, output_type="np"
            ).images
            got = ours.generate(PROMPTS[0], 11, steps=steps, guidance_scale=scale, noise="torch").images
            assert psnr_db(got, np.rint(expected * 255)) > 50


def test_distinct_prompts_are_encoded_once(tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with load_pipeline(tiny_model_folder) as pipeline:
        encoded: list[int] = []
        encode = pipeline._engine.encode
        monkeypatch.setattr(pipeline._engine, "encode", lambda ids: encoded.append(len(ids)) or encode(ids))
        pipeline.generate(["ninja", "sunset", "ninja", ""], 0, steps=1)
        pipeline.generate("ninja", [1, 2, 3], steps=1, guidance_scale=1.0)
        assert encoded == [3, 1]


@pytest.mark.export
def test_overhead_is_small(tiny_bundle: Path) -> None:
    """Outside the graphs: at most 2 % or half a millisecond, or what this busy machine makes of that."""
    with load_pipeline(tiny_bundle, "onnxruntime", threads=1) as pipeline:
        generations = [pipeline.generate(PROMPTS[0], steps=1) for _ in range(40)]
    best = min(generations, key=lambda generation: generation.timings["other"])
    assert best.timings["other"] < max(0.02 * best.total_ms, 1.0)


def test_a_long_prompt_warns(reference: Pipeline) -> None:
    with pytest.warns(UserWarning, match="cut off: 'sunset'"):
        reference.generate("ninja " * 30 + "sunset", steps=1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"prompt": []}, "one text or several"),
        ({"prompt": [3]}, "one text or several"),
        ({"prompt": "half a \ud83e"}, "Unicode"),
        ({"prompt": ["a", "b"], "seed": [1, 2, 3]}, "2 prompts and 3 seeds"),
        ({"seed": []}, "0 seeds"),
        ({"seed": -1}, "seed must be .*got -1"),
        ({"seed": None}, "seed must be a whole number.*got None"),
        ({"seed": 1.5}, "seed must be a whole number.*got 1.5"),
        ({"prompt": None}, "one text or several"),
        ({"seed": [2**64]}, "seed"),
        ({"steps": 0}, "steps must be a whole number, at least 1; got 0"),
        ({"steps": 1001}, "1 to 1000"),
        ({"steps": 2.0}, "steps must be a whole number.*got 2.0"),
        ({"guidance_scale": 3.0}, "baked into this student"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a number; got nan"),
        ({"noise": "numpy"}, "unknown noise mode"),
    ],
)
def test_wrong_arguments_are_refused_at_once(reference: Pipeline, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        next(reference.stream(**{"prompt": "ninja", "seed": 0, **arguments}))
    reference.generate("ninja", 2**64 - 1, steps=1, guidance_scale=1.0)


def test_one_seed_for_several_prompts_is_the_first_of_as_many(reference: Pipeline) -> None:
    drawn = reference.generate(["ninja", "ninja"], 7, steps=1, guidance_scale=1.0)
    assert drawn.seeds == (7, 8) and not np.array_equal(*drawn.images)


# --- choosing ----------------------------------------------------------------------------------------------------------


@pytest.mark.export
def test_auto_takes_the_first_that_is_installed(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(runtime: str = "auto", precision: str = "auto") -> tuple[str, str, str]:
        choice = choose(manifest, runtime, precision, tiny_bundle)
        return choice.runtime, choice.format, choice.precision

    with Bundle.open(tiny_bundle) as bundle:
        manifest = bundle.manifest
    assert chosen() == ("openvino", "openvino", "fp32")
    assert chosen(precision="fp16") == ("openvino", "openvino", "fp16")
    assert chosen("onnxruntime") == ("onnxruntime", "onnx", "fp32")
    absent = {"openvino"}
    find = engines._is_installed
    monkeypatch.setattr(engines, "_is_installed", lambda name: name not in absent and find(name))
    assert chosen() == ("onnxruntime", "onnx", "fp32")
    absent.add("onnxruntime")
    with pytest.raises(MissingExtraError, match=r"'onnxruntime' is not installed; pip install 'genin\[onnxruntime\]'"):
        load_pipeline(tiny_bundle)
    with pytest.raises(MissingExtraError, match=r"pip install 'genin\[openvino\]'"):
        load_pipeline(tiny_bundle, "openvino")


def test_auto_takes_the_most_exact_precision_of_all_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seed draws the same picture whatever is installed."""
    write_fake_bundle(tmp_path, ["openvino/int8", "onnx/fp32", "onnx/fp16", "coreml/fp32"])
    with Bundle.open(tmp_path) as bundle:
        manifest = bundle.manifest
    absent: set[str] = set()
    monkeypatch.setattr(engines.EngineRow, "reason", lambda row: "absent" if row.extra in absent else None)
    assert choose(manifest, "auto", "auto", tmp_path) == Choice("openvino", "fp32", "onnx")
    assert choose(manifest, "openvino", "auto", tmp_path) == Choice("openvino", "fp32", "onnx")
    assert choose(manifest, "auto", "int8", tmp_path) == Choice("openvino", "int8", "openvino")
    absent |= {"openvino"}
    assert choose(manifest, "auto", "auto", tmp_path) == Choice("onnxruntime", "fp32", "onnx")
    absent |= {"onnxruntime"}
    assert choose(manifest, "auto", "auto", tmp_path) == Choice("coreml", "fp32", "coreml")


@pytest.mark.export
@pytest.mark.parametrize("release", ["1.24.0", "1.24.1"])
def test_releases_of_onnxruntime_that_are_not_used(
    tiny_bundle: Path, release: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Installed by hand, for pyproject.toml excludes them: they are named, and another runtime is chosen."""
    monkeypatch.setattr(engines.importlib.metadata, "version", lambda name: release)
    with load_pipeline(tiny_bundle) as pipeline:
        assert pipeline.runtime == "openvino"
    says = f"onnxruntime {release} does not read external weights.*pip install 'genin\\[onnxruntime\\]'"
    with pytest.raises(InputError, match=says):
        load_pipeline(tiny_bundle, "onnxruntime")
    assert cli.run(["runtimes", "--json"]) == 0
    [row] = [r for r in json.loads(capsys.readouterr().out)["runtimes"] if r["runtime"] == "onnxruntime"]
    assert not row["available"] and release in row["reason"] and row["install"] == "pip install 'genin[onnxruntime]'"
    assert row["missing"] == []


@pytest.mark.export
def test_what_a_bundle_lacks_is_said(tiny_bundle: Path, tiny_student_folder: Path, tmp_path: Path) -> None:
    for path, runtime, precision, says in (
        (tiny_bundle, "onnxrunntime", "auto", "did you mean onnxruntime"),
        (tiny_bundle, "auto", "palette4", "no graphs for palette4.*onnx fp32, onnx fp16, onnx int8, openvino fp32"),
        (tiny_bundle, "coreml", "auto", "no graphs for coreml"),
        (tiny_bundle, "pytorch", "auto", "runs model folders"),
        (tiny_student_folder, "onnxruntime", "auto", "genin export"),
        (tiny_student_folder, "auto", "int8", "runs in fp32, bf16 or fp16, not int8"),
        (tiny_student_folder, "auto", "fp16", "fp16 is for cuda and mps"),
        (tmp_path, "auto", "auto", "neither model nor bundle"),
        (tmp_path / "absent", "auto", "auto", "no such model"),
    ):
        with pytest.raises(InputError, match=says):
            load_pipeline(path, runtime, precision)
    with pytest.raises(InputError, match=r"threads must be .*got 0"):
        load_pipeline(tiny_bundle, threads=0)


def test_a_model_folder_draws_in_bf16(tiny_student_folder: Path) -> None:
    """The UNet alone is rounded: the same picture but for that."""
    with load_pipeline(tiny_student_folder) as exact, load_pipeline(tiny_student_folder, precision="bf16") as rounded:
        assert (exact.precision, rounded.precision) == ("fp32", "bf16")
        pictures = [one("a ninja", seed=3, steps=2).array.astype(float) for one in (exact, rounded)]
    assert 25 < psnr_db(*pictures) < 70


# --- damaged models ---------------------------------------------------------------------------------------------------


def test_weights_that_are_not_numbers_are_an_error(tiny_student_folder: Path) -> None:
    with load_pipeline(tiny_student_folder) as pipeline:
        next(pipeline._engine._get().unet.parameters()).fill_(float("nan"))  # type: ignore[attr-defined]
        with pytest.raises(GeninError, match="NaN or infinity"):
            pipeline.generate("ninja")


UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("file", "keep", "says"),
    [
        (UNET, 0.5, f"damaged or truncated: .*{UNET}"),
        (UNET, 0.0, f"damaged or truncated: .*{UNET}"),
        (UNET, None, "no weights here.*unet"),
        ("text_encoder/model.safetensors", 0.9, "truncated: .*text_encoder/model.safetensors"),
        ("vae/config.json", None, "lacks a file: .*vae/config.json"),
        ("unet/config.json", 0.5, r"not valid JSON \(.*\): .*unet/config.json"),
        ("tokenizer/merges.txt", None, "lacks a file .*merges.txt"),
        ("scheduler/scheduler_config.json", None, "no scheduler"),
        ("model_index.json", 0.3, "not valid JSON"),
        ("genin.json", 0.5, r"not valid JSON \(.*\): .*genin.json"),
    ],
)
def test_damaged_model_folders_name_the_file(
    tiny_student_folder: Path, tmp_path: Path, file: str, keep: float | None, says: str
) -> None:
    folder = tmp_path / "m"
    shutil.copytree(tiny_student_folder, folder)
    content = (folder / file).read_bytes()
    (folder / file).unlink()
    if keep is not None:
        (folder / file).write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(InputError, match=says):
        load_pipeline(folder)


def test_bin_weights_are_read_without_pickle(tiny_student_folder: Path, tmp_path: Path, reference: Pipeline) -> None:
    from safetensors.torch import load_file

    folder = tmp_path / "m"
    shutil.copytree(tiny_student_folder, folder)
    weights = load_file(folder / UNET)
    (folder / UNET).unlink()
    bin_file = folder / "unet" / "diffusion_pytorch_model.bin"
    torch.save(weights, bin_file)
    with load_pipeline(folder) as pipeline:
        assert np.array_equal(pipeline.generate("ninja").images, reference.generate("ninja").images)

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"conv_in.weight": Evil()}, bin_file)
    with pytest.raises(InputError, match=r"cannot read diffusion_pytorch_model\.bin"):
        load_pipeline(folder)
    assert not (tmp_path / "ran").exists()
    torch.save({name: tensor for name, tensor in weights.items() if name != "conv_in.weight"}, bin_file)
    with pytest.raises(InputError, match=r"diffusion_pytorch_model\.bin.*conv_in\.weight"):
        load_pipeline(folder)


def test_weights_under_another_name_are_named(tiny_student_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(tiny_student_folder, folder)
    (folder / UNET).rename(folder / "unet" / "diffusion_pytorch_model.non_ema.safetensors")
    with pytest.raises(InputError, match=r"weights under another name.*non_ema\.safetensors"):
        load_pipeline(folder)


def test_nan_in_a_folder_is_damage_and_infinity_is_not(tiny_model_folder: Path, tmp_path: Path) -> None:
    from genin.runtimes.folder import read_json

    path = tmp_path / "scheduler_config.json"
    path.write_text('{"lambda_min_clipped": -Infinity}')
    assert read_json(path, "", infinite=True)["lambda_min_clipped"] == float("-inf")
    with pytest.raises(InputError, match=r"-Infinity is not a number\): .*scheduler_config\.json"):
        read_json(path, "")  # of genin's own files
    path.write_text('{"guidance_scale": NaN}')
    with pytest.raises(InputError, match=r"not valid JSON.*scheduler_config\.json"):
        read_json(path, "", infinite=True)


@pytest.mark.parametrize("channels", [0.5, {"0": 32}, [32] * 17])
@pytest.mark.parametrize("part", ["unet", "vae"])
def test_levels_that_are_no_list_are_refused(
    tiny_model_folder: Path, tmp_path: Path, part: str, channels: object
) -> None:
    shutil.copytree(tiny_model_folder, tmp_path / "m")
    file = tmp_path / "m" / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"block_out_channels": channels}))
    with pytest.raises(InputError, match=rf"'block_out_channels' is not a list.*{part}/config\.json"):
        load_pipeline(tmp_path / "m")


def test_a_folder_without_genin_json_is_somebody_elses_teacher(tiny_model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model_folder, tmp_path / "m")
    (tmp_path / "m" / "genin.json").unlink()
    with load_pipeline(tmp_path / "m") as pipeline:
        assert (pipeline.default_steps, pipeline.default_guidance_scale) == (50, 7.5)


# --- the commands -----------------------------------------------------------------------------------------------------


@pytest.mark.export
def test_generate_command(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = ["-m", str(tiny_bundle), "--runtime", "onnxruntime", "--threads", "1"]
    assert cli.run(["generate", "A Ninja, on the mountain!", *model, "--seed", "3"]) == 0
    assert capsys.readouterr().out.strip() == "a-ninja-on-the-mountain-3.png"
    picture = Image.open(tmp_path / "a-ninja-on-the-mountain-3.png")
    assert picture.size == (IMAGE_SIZE, IMAGE_SIZE)
    assert picture.text["prompt"] == "A Ninja, on the mountain!"  # type: ignore[attr-defined]
    assert (picture.text["seed"], picture.text["steps"]) == ("3", "4")  # type: ignore[attr-defined]

    out = tmp_path / "x.png"
    options = ["--seed", "2", "--count", "10", "--steps", "1", "--out", str(out), "--json"]
    assert cli.run(["generate", "A Ninja, on the mountain!", *model, *options]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [Path(path).name for path in report["images"]] == [f"x-{seed}.png" for seed in range(2, 12)]
    assert Image.open(report["images"][-1]).text["seed"] == "11"  # type: ignore[attr-defined]
    assert (report["runtime"], report["steps"], report["seeds"]) == ("onnxruntime", 1, list(range(2, 12)))
    assert set(report["timings_ms"]) == {"text_encoder", "unet", "vae_decoder", "other"}
    assert not list(tmp_path.glob(".*"))
    with load_pipeline(tiny_bundle, "onnxruntime") as pipeline:
        expected = pipeline.generate("A Ninja, on the mountain!", 11, steps=1).images[0]
    assert psnr_db(np.asarray(Image.open(tmp_path / "x-11.png")), expected) > 50


def test_generate_keeps_no_pictures(
    tiny_student_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However many are drawn, those of one batch at most are in memory when the next begins."""
    drawn: list[weakref.ref[Any]] = []
    alive: list[int] = []
    generate = Pipeline.generate

    def note(self: Pipeline, *arguments: Any, **options: Any) -> Any:
        alive.append(sum(reference() is not None for reference in drawn))
        generation = generate(self, *arguments, **options)
        drawn.append(weakref.ref(generation.images))
        return generation

    monkeypatch.setattr(Pipeline, "generate", note)
    command = ["generate", "ninja", "-m", str(tiny_student_folder), "--out", str(tmp_path), "--count", "36", "--json"]
    assert cli.run([*command, "--steps", "1"]) == 0
    assert len(drawn) == 5 and max(alive) <= 1
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(report["images"]) == len(report["seeds"]) == 36 and report["timings_ms"]["unet"] > 0


@pytest.mark.export
def test_generate_command_says_what_it_cut(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = "ninja " * 30 + "sunset"
    assert cli.run(["generate", prompt, "-m", str(tiny_bundle), "--out", str(tmp_path), "--json"]) == 0
    captured = capsys.readouterr()
    assert "cut off: 'sunset'" in captured.err
    assert "cut off: 'sunset'" in json.loads(captured.out)["notes"][0]


@pytest.mark.export
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--out", "x.jpg"], "PNG"),
        (["--out", "file/x.png"], "cannot write here"),
        (["--runtime", "tensorrt"], "unknown runtime"),
        (["--guidance-scale", "4"], "baked"),
        (["--seed", "-1"], "seed"),
        (["--steps", "5000"], "1 to 1000"),
        (["-m", "absent"], "no such model"),
    ],
)
def test_generate_command_refuses(
    tiny_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert cli.run(["generate", "ninja", "-m", str(tiny_bundle), *options]) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("*.png"))


def test_runtimes_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    find = engines._is_installed
    monkeypatch.setattr(engines, "_is_installed", lambda name: name != "openvino" and find(name))
    assert cli.run(["runtimes", "--json"]) == 0
    rows = {row["runtime"]: row for row in json.loads(capsys.readouterr().out)["runtimes"]}
    assert set(rows) == set(ENGINES)
    assert rows["onnxruntime"]["available"]
    assert rows["onnxruntime"]["version"]
    assert rows["openvino"]["reason"] == "'openvino' is not installed"
    assert rows["openvino"]["install"] == "pip install 'genin[openvino]'"
    if platform.system() != "Darwin":
        assert "macOS only" in rows["coreml"]["reason"]
        assert rows["coreml"]["install"] is None
    with warnings.catch_warnings():
        assert cli.run(["runtimes"]) == 0
    assert "genin[openvino]" in " ".join(capsys.readouterr().out.split())

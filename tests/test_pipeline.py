"""One contract for every runtime: the same pictures, arguments, timings, cancelling and errors, whatever runs the graphs.

A runtime in the table without a contract class here fails `test_every_runtime_has_a_contract`.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image
from tiny_bundle import edit_manifest

from genin import cli
from genin.runtimes import bundle as bundles
from genin.runtimes import engine as engines
from genin.runtimes import pipeline as pipelines
from genin.runtimes.bundle import Bundle, file_entry
from genin.runtimes.coreml_engine import INPUTS, CoreMLEngine, Package
from genin.runtimes.engine import ENGINES
from genin.runtimes.errors import BundleError, CancelledError, GeninError, InputError, MissingExtraError
from genin.runtimes.pipeline import Pipeline, load_pipeline

torch = pytest.importorskip("torch")

# Two pipelines, closed in the order in which they were opened; then a Ctrl-C.
INTERRUPTED = """
import gc, signal, sys
from genin.runtimes.pipeline import load_pipeline
path, runtime = sys.argv[1:]
first, second = (load_pipeline(path, runtime) for _ in range(2))
first.generate("ninja", steps=1)
for name in ("first", "second"):
    globals().pop(name).close()
    gc.collect()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""
PROMPTS = ["a ninja meditating on the mountain", "orange sunset"]


def psnr_db(a: Any, b: Any) -> float:
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


@pytest.fixture(scope="module")
def reference(tiny_student_folder: Path) -> Iterator[Pipeline]:
    with load_pipeline(tiny_student_folder, "pytorch") as pipeline:
        yield pipeline


class RuntimeContract:
    """What every runtime must do. A subclass names its runtime and what it opens."""

    runtime: ClassVar[str]
    provider: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16")
    source: ClassVar[str] = "tiny_bundle"

    @pytest.fixture(scope="class")
    def path(self, request: pytest.FixtureRequest) -> Path:
        path: Path = request.getfixturevalue(self.source)
        return path

    @pytest.fixture(scope="class")
    def pipeline(self, path: Path) -> Iterator[Pipeline]:
        with load_pipeline(path, self.runtime, self.precisions[0], threads=1) as pipeline:
            yield pipeline

    def test_says_what_it_is(self, pipeline: Pipeline, path: Path) -> None:
        assert (pipeline.runtime, pipeline.provider, pipeline.precision) == (self.runtime, self.provider, "fp32")
        assert pipeline.path == path
        assert pipeline.image_size == (64, 64)
        assert (pipeline.default_steps, pipeline.default_guidance_scale) == (4, 1.0)
        assert pipeline.load_s > 0

    def test_draws_the_pictures_of_pytorch(self, pipeline: Pipeline, reference: Pipeline) -> None:
        ours, theirs = pipeline.generate(PROMPTS, [3, 9]), reference.generate(PROMPTS, [3, 9])
        assert ours.images.shape == (2, 64, 64, 3)
        assert ours.images.dtype == np.uint8
        assert psnr_db(ours.images, theirs.images) > 50
        assert theirs.images.std() > 20  # a grey picture would prove nothing
        assert psnr_db(ours.images[0], theirs.images[1]) < 25

    def test_every_precision_and_step_count(self, path: Path, reference: Pipeline) -> None:
        for precision in self.precisions:
            with load_pipeline(path, self.runtime, precision) as pipeline:
                assert pipeline.precision == precision
                for steps in (1, 2, 3):
                    ours, theirs = (
                        pipeline.generate("ninja", 5, steps=steps),
                        reference.generate("ninja", 5, steps=steps),
                    )
                    assert ours.steps == steps
                    assert psnr_db(ours.images, theirs.images) > 40

    def test_a_picture_does_not_depend_on_its_batch(self, pipeline: Pipeline) -> None:
        batch = pipeline.generate([*PROMPTS, PROMPTS[0]], [3, 9, 4])
        for index in range(3):
            alone = pipeline.generate(batch.prompts[index], batch.seeds[index])
            assert psnr_db(alone.images[0], batch.images[index]) > 50

    def test_repeats_itself(self, pipeline: Pipeline) -> None:
        assert np.array_equal(pipeline.generate("ninja", 1).images, pipeline.generate("ninja", 1).images)

    def test_streams_with_previews(self, pipeline: Pipeline) -> None:
        steps = list(pipeline.stream(PROMPTS, 0, steps=4))
        assert [step.index for step in steps] == [0, 1, 2, 3]
        assert all(step.steps == 4 and step.latents.shape == (2, 4, 16, 16) for step in steps)
        assert [step.generation is None for step in steps] == [True, True, True, False]
        last = steps[-1].generation
        assert last is not None
        assert np.array_equal(last.images, pipeline.generate(PROMPTS, 0, steps=4).images)
        assert np.array_equal(steps[-1].preview(), last.images)
        # Each preview is the step's own estimate of the end: with two steps more of it is settled than with one.
        far, near = (psnr_db(steps[index].preview(), last.images) for index in (0, 2))
        assert near > far

    def test_times_every_stage(self, pipeline: Pipeline) -> None:
        generation = pipeline.generate("ninja")
        assert set(generation.timings) == {"text_encoder", "unet", "vae_decoder", "other"}
        assert all(value > 0 for value in generation.timings.values())
        assert generation.total_ms == pytest.approx(sum(generation.timings.values()))

    def test_cancels_before_any_network(self, pipeline: Pipeline) -> None:
        for asked in range(4):
            left = iter([False] * asked + [True] * 9)
            with pytest.raises(CancelledError):
                pipeline.generate("ninja", steps=2, cancel=lambda left=left: next(left))
        pipeline.generate("ninja", steps=1)

    def test_says_so_where_a_student_has_not_learnt_the_steps(self, pipeline: Pipeline) -> None:
        with pytest.warns(UserWarning, match="trained for 1, 2, 4 steps, not for 3"):
            pipeline.generate("ninja", steps=3)

    def test_closes(self, path: Path) -> None:
        pipeline = load_pipeline(path, self.runtime)
        pipeline.close()
        pipeline.close()
        with pytest.raises(InputError, match="closed"):
            pipeline.generate("ninja")

    def test_leaves_signals_alone(self, path: Path) -> None:
        command = [sys.executable, "-c", INTERRUPTED, str(path), self.runtime]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


class TestPyTorch(RuntimeContract):
    runtime, provider, precisions, source = "pytorch", "cpu", ("fp32",), "tiny_student_folder"


class TestOnnxRuntime(RuntimeContract):
    runtime, provider = "onnxruntime", "CPUExecutionProvider"


class TestOpenVino(RuntimeContract):
    runtime, provider = "openvino", "CPU"


@pytest.mark.skipif(platform.system() != "Darwin", reason="Core ML runs on macOS only")
class TestCoreML(RuntimeContract):
    runtime, provider, precisions = "coreml", CoreMLEngine.provider, ("fp32",)

    @pytest.fixture(scope="class")
    def path(self, tiny_student_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        from tiny_bundle import write_tiny_bundle

        folder = tmp_path_factory.mktemp("coreml") / "bundle"
        write_tiny_bundle(tiny_student_folder, folder, formats=("coreml",))
        return folder


def test_every_runtime_has_a_contract() -> None:
    assert {contract.runtime for contract in RuntimeContract.__subclasses__()} == set(ENGINES)


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
def test_coreml_engine_feeds_apples_shapes(reference: Pipeline, tiny_student_folder: Path, batch: int) -> None:
    inner = reference._engine

    def unet(data: dict[str, Any]) -> Any:
        text = data["encoder_hidden_states"][:, :, 0].transpose(0, 2, 1)
        assert len(set(data["timestep"].tolist())) == 1
        return inner.predict(data["sample"], int(data["timestep"][0]), np.ascontiguousarray(text))

    runs = {
        "text_encoder": ({"input_ids": (1, 32)}, lambda data: inner.encode(data["input_ids"].astype(np.int64))),
        "unet": (
            {"sample": (batch, 4, 16, 16), "timestep": (batch,), "encoder_hidden_states": (batch, 32, 1, 32)},
            unet,
        ),
        "vae_decoder": ({"z": (1, 4, 16, 16)}, lambda data: inner.decode(data["z"])),
    }
    packages = {
        name: Package(
            FakePackage(name, shapes, np.float32, run), shapes, dict.fromkeys(INPUTS[name], np.dtype(np.float32))
        )
        for name, (shapes, run) in runs.items()
    }
    constants = (reference.image, reference.latents, reference.text, reference.sampler)
    pipeline = Pipeline(
        tiny_student_folder,
        CoreMLEngine(packages),
        reference._tokenizer,
        constants,
        runtime="coreml",
        precision="fp32",
    )
    prompts = [*PROMPTS, "running"]
    assert psnr_db(pipeline.generate(prompts, 2).images, reference.generate(prompts, 2).images) > 50
    with pytest.raises(BundleError, match="no input 'z'"):
        CoreMLEngine(packages | {"vae_decoder": packages["unet"]})


@pytest.mark.skipif(platform.system() == "Darwin", reason="Core ML runs here")
def test_coreml_is_refused_elsewhere(tiny_bundle: Path) -> None:
    with Bundle.open(tiny_bundle) as bundle, pytest.raises(InputError, match="Core ML runs on macOS only"):
        CoreMLEngine.open(bundle, {})
    with pytest.raises(InputError, match=r"Core ML runs on macOS only.*onnxruntime"):
        engines.engine_class("coreml")


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
        ({"prompts": []}, "one text or several"),
        ({"prompts": [3]}, "one text or several"),
        ({"prompts": "half a \ud83e"}, "Unicode"),
        ({"prompts": ["a", "b"], "seeds": [1, 2, 3]}, "2 prompts and 3 seeds"),
        ({"seeds": []}, "0 seeds"),
        ({"seeds": -1}, "seed -1"),
        ({"seeds": [2**64]}, "seed"),
        ({"steps": 0}, "0 steps"),
        ({"steps": 1001}, "1 to 1000"),
        ({"steps": 2.0}, "not a number"),
        ({"guidance_scale": 3.0}, "baked into this student"),
        ({"guidance_scale": float("nan")}, "not a number"),
        ({"noise": "numpy"}, "unknown noise mode"),
    ],
)
def test_wrong_arguments_are_refused_at_once(reference: Pipeline, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        next(reference.stream(**{"prompts": "ninja", "seeds": 0, **arguments}))
    reference.generate("ninja", 2**64 - 1, steps=1, guidance_scale=1.0)


# --- choosing ----------------------------------------------------------------------------------------------------------


def test_auto_takes_the_first_that_is_installed(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(runtime: str = "auto", precision: str = "auto") -> tuple[str, str, str]:
        return pipelines.choose(manifest, runtime, precision, tiny_bundle)

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


def test_openvino_runs_onnx_where_there_is_no_ir(tiny_bundle: Path, tmp_path: Path, reference: Pipeline) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "b")
    graphs = json.loads((tmp_path / "b" / "manifest.json").read_text(encoding="utf-8"))["graphs"]
    edit_manifest(tmp_path / "b", "graphs", value=[graph for graph in graphs if graph["format"] == "onnx"])
    bundles.pack(tmp_path / "b", tmp_path / "b.genin")
    with load_pipeline(tmp_path / "b.genin", precision="fp16") as pipeline:
        assert (pipeline.runtime, pipeline.precision) == ("openvino", "fp16")
        assert psnr_db(pipeline.generate("ninja", 3).images, reference.generate("ninja", 3).images) > 40


def test_what_a_bundle_lacks_is_said(tiny_bundle: Path, tiny_student_folder: Path, tmp_path: Path) -> None:
    for path, runtime, precision, says in (
        (tiny_bundle, "onnxrunntime", "auto", "did you mean onnxruntime"),
        (tiny_bundle, "auto", "int8", "no graphs for int8.*onnx fp32, onnx fp16, openvino fp32"),
        (tiny_bundle, "coreml", "auto", "no graphs for coreml"),
        (tiny_bundle, "pytorch", "auto", "runs model folders"),
        (tiny_student_folder, "onnxruntime", "auto", "genin export"),
        (tiny_student_folder, "auto", "int8", "runs in fp32"),
        (tmp_path, "auto", "auto", "neither model nor bundle"),
        (tmp_path / "absent", "auto", "auto", "no such model"),
    ):
        with pytest.raises(InputError, match=says):
            load_pipeline(path, runtime, precision)
    with pytest.raises(InputError, match="threads 0"):
        load_pipeline(tiny_bundle, threads=0)


# --- damaged models ---------------------------------------------------------------------------------------------------


def broken(tiny_bundle: Path, out: Path, format: str, content: bytes) -> Path:
    """A copy whose UNet graphs of one format hold `content`, with hashes to match: only the engine can tell."""
    shutil.copytree(tiny_bundle, out)
    graphs = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["graphs"]
    for index, graph in enumerate(graphs):
        if graph["format"] == format and graph["component"] == "unet":
            (out / graph["path"]).write_bytes(content)
            files = [file_entry(out, file["path"]).__dict__ for file in graph["files"]]
            edit_manifest(out, "graphs", index, "files", value=files)
    return out


@pytest.mark.parametrize(("runtime", "format"), [("onnxruntime", "onnx"), ("openvino", "openvino")])
def test_graphs_that_are_none_are_refused(tiny_bundle: Path, tmp_path: Path, runtime: str, format: str) -> None:
    for index, content in enumerate((b"", b"not a graph", bytes(range(256)))):
        path = broken(tiny_bundle, tmp_path / str(index), format, content)
        with pytest.raises(BundleError, match=r"cannot load '.*unet"):
            load_pipeline(path, runtime)


def test_constants_that_do_not_fit_the_graphs_are_errors(tiny_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "b")
    edit_manifest(tmp_path / "b", "image", "height", value=128)
    edit_manifest(tmp_path / "b", "image", "multiple", value=None)
    with load_pipeline(tmp_path / "b") as pipeline, pytest.raises(GeninError, match="vae_decoder gave shape"):
        pipeline.generate("ninja")
    edit_manifest(tmp_path / "b", "latents", "channels", value=8)
    with load_pipeline(tmp_path / "b", "onnxruntime") as pipeline, pytest.raises(GeninError, match="unet graph failed"):
        pipeline.generate("ninja")


def test_weights_that_are_not_numbers_are_an_error(tiny_student_folder: Path) -> None:
    with load_pipeline(tiny_student_folder) as pipeline:
        next(pipeline._engine._get().unet.parameters()).fill_(float("nan"))  # type: ignore[attr-defined]
        with pytest.raises(GeninError, match="not finite"):
            pipeline.generate("ninja")


UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("file", "keep", "says"),
    [
        (UNET, 0.5, f"damaged or cut short: .*{UNET}"),
        (UNET, 0.0, f"damaged or cut short: .*{UNET}"),
        (UNET, None, "no weights here.*unet"),
        ("text_encoder/model.safetensors", 0.9, "cut short: .*text_encoder/model.safetensors"),
        ("vae/config.json", None, "lacks a file: .*vae/config.json"),
        ("unet/config.json", 0.5, "not valid JSON: .*unet/config.json"),
        ("tokenizer/merges.txt", None, "lacks a file: .*merges.txt"),
        ("scheduler/scheduler_config.json", None, "no scheduler"),
        ("model_index.json", 0.3, "not valid JSON"),
        ("genin.json", 0.5, "not valid JSON: .*genin.json"),
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


def test_nan_in_a_folder_is_damage_and_infinity_is_not(tiny_model_folder: Path, tmp_path: Path) -> None:
    from genin.runtimes.folder import read_json

    path = tmp_path / "scheduler_config.json"
    path.write_text('{"lambda_min_clipped": -Infinity}')
    assert read_json(path, "")["lambda_min_clipped"] == float("-inf")
    path.write_text('{"guidance_scale": NaN}')
    with pytest.raises(InputError, match=r"not valid JSON.*scheduler_config\.json"):
        read_json(path, "")


def test_a_folder_without_genin_json_is_somebody_elses_teacher(tiny_model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model_folder, tmp_path / "m")
    (tmp_path / "m" / "genin.json").unlink()
    with load_pipeline(tmp_path / "m") as pipeline:
        assert (pipeline.default_steps, pipeline.default_guidance_scale) == (50, 7.5)


# --- the commands -----------------------------------------------------------------------------------------------------


def test_generate_command(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = ["-m", str(tiny_bundle), "--runtime", "onnxruntime", "--threads", "1"]
    assert cli.run(["generate", "A Ninja, on the mountain!", *model, "--seed", "3"]) == 0
    assert capsys.readouterr().out.strip() == "a-ninja-on-the-mountain-3.png"
    picture = Image.open(tmp_path / "a-ninja-on-the-mountain-3.png")
    assert picture.size == (64, 64)
    assert picture.text["prompt"] == "A Ninja, on the mountain!"  # type: ignore[attr-defined]
    assert (picture.text["seed"], picture.text["steps"]) == ("3", "4")  # type: ignore[attr-defined]

    out = tmp_path / "x.png"
    options = ["--seed", "2", "--count", "10", "--steps", "1", "--out", str(out), "--json"]
    assert cli.run(["generate", "A Ninja, on the mountain!", *model, *options]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [Path(path).name for path in report["images"]] == [f"x-{seed}.png" for seed in range(2, 12)]
    assert (report["runtime"], report["steps"], report["seeds"]) == ("onnxruntime", 1, list(range(2, 12)))
    assert set(report["timings_ms"]) == {"text_encoder", "unet", "vae_decoder", "other"}
    assert not list(tmp_path.glob(".*"))
    with load_pipeline(tiny_bundle, "onnxruntime") as pipeline:
        expected = pipeline.generate("A Ninja, on the mountain!", 11, steps=1).images[0]
    assert psnr_db(np.asarray(Image.open(tmp_path / "x-11.png")), expected) > 50


def test_generate_command_says_what_it_cut(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = "ninja " * 30 + "sunset"
    assert cli.run(["generate", prompt, "-m", str(tiny_bundle), "--out", str(tmp_path), "--json"]) == 0
    captured = capsys.readouterr()
    assert "cut off: 'sunset'" in captured.err
    assert "cut off: 'sunset'" in json.loads(captured.out)["notes"][0]


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

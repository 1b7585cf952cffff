"""One contract for every engine: the same pictures, timings, cancelling and errors, whatever runs the networks.

A new engine is a row of `ENGINES` and a subclass here; `test_every_engine_has_a_contract` fails until it has one.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from conftest import IMAGE_SIZE, LATENT_SIZE, psnr_db
from genin.runtimes import native_engine
from genin.runtimes.bundle import pack
from genin.runtimes.cancellation import Cancellation
from genin.runtimes.coreml_engine import CoreMLEngine
from genin.runtimes.engine import ENGINES, BundleEngine
from genin.runtimes.errors import CancelledError, GeninError, InputError
from genin.runtimes.loading import load_pipeline
from genin.runtimes.noise import batch_normal
from genin.runtimes.pipeline import Pipeline
from tiny_bundle import edit_manifest, update_hash, without_encoder, write_tiny_bundle

pytest.importorskip("torch")

# Two pipelines, closed in the order in which they were opened; then a Ctrl-C.
INTERRUPTED = """
import gc, signal, sys
from genin.runtimes.loading import load_pipeline
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


@pytest.fixture(scope="module")
def reference(tiny_student_folder: Path) -> Iterator[Pipeline]:
    with load_pipeline(tiny_student_folder, "pytorch") as pipeline:
        yield pipeline


class EngineContract:
    """What every engine must do. A subclass names its runtime, the model that it opens, and a file of the UNet in it."""

    runtime: ClassVar[str]
    provider: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]
    source: ClassVar[str]
    unet_file: ClassVar[str]
    refusal: ClassVar[str] = "unet"  # of a damaged UNet
    threads: ClassVar[int | None] = 1  # None: it takes no number
    encoder_stage: ClassVar[str] = "vae_encoder"

    @pytest.fixture(scope="class")
    def path(self, request: pytest.FixtureRequest) -> Path:
        path: Path = request.getfixturevalue(self.source)
        return path

    @pytest.fixture(scope="class")
    def pipeline(self, path: Path) -> Iterator[Pipeline]:
        with load_pipeline(path, self.runtime, self.precisions[0], threads=self.threads) as pipeline:
            yield pipeline

    def test_reports_its_runtime_and_sizes(self, pipeline: Pipeline, path: Path) -> None:
        assert (pipeline.runtime, pipeline.provider, pipeline.precision) == (self.runtime, self.provider, "fp32")
        assert pipeline.path == path
        assert pipeline.image_size == (IMAGE_SIZE, IMAGE_SIZE)
        assert (pipeline.default_steps, pipeline.default_guidance_scale) == (4, 1.0)
        assert pipeline.load_s > 0

    def test_same_pictures_as_pytorch(self, pipeline: Pipeline, reference: Pipeline) -> None:
        ours, theirs = pipeline.generate(PROMPTS, [3, 9]), reference.generate(PROMPTS, [3, 9])
        assert ours.images.shape == (2, IMAGE_SIZE, IMAGE_SIZE, 3)
        assert ours.images.dtype == np.uint8
        assert psnr_db(ours.images, theirs.images) > 50
        assert theirs.images.std() > 15  # a grey picture would prove nothing
        assert psnr_db(ours.images[0], theirs.images[1]) < 25

    def test_every_precision_and_step_count(self, path: Path, reference: Pipeline) -> None:
        for precision in self.precisions:
            with load_pipeline(path, self.runtime, precision) as pipeline:
                assert pipeline.precision == precision
                for steps in (1, 2, 3):
                    ours = pipeline.generate("ninja", 5, steps=steps)
                    theirs = reference.generate("ninja", 5, steps=steps)
                    assert ours.steps == steps
                    assert psnr_db(ours.images, theirs.images) > 40

    def test_a_picture_does_not_depend_on_its_batch(self, pipeline: Pipeline) -> None:
        batch = pipeline.generate([*PROMPTS, PROMPTS[0]], [3, 9, 4])
        for index in range(3):
            alone = pipeline.generate(batch.prompts[index], batch.seeds[index])
            assert psnr_db(alone.images[0], batch.images[index]) > 50

    def test_repeats_itself(self, pipeline: Pipeline) -> None:
        assert np.array_equal(pipeline.generate("ninja", 1).images, pipeline.generate("ninja", 1).images)

    def test_threads(self, path: Path, pipeline: Pipeline) -> None:
        with load_pipeline(path, self.runtime, threads=2) as other:
            assert psnr_db(other.generate("ninja", 1).images, pipeline.generate("ninja", 1).images) > 50
        load_pipeline(path, self.runtime, threads=1).close()  # PyTorch's threads are the process's
        with pytest.raises(InputError, match="threads must be a whole number from 1 to 1,024; got 0"):
            load_pipeline(path, self.runtime, threads=0)

    def test_threads_reach_the_engine(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        told = self.watch_threads(monkeypatch)
        load_pipeline(path, self.runtime, threads=2).close()
        assert told and set(told) == {2}

    def watch_threads(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """A list that the engine's threads are added to whenever it is told of some."""
        raise NotImplementedError

    def test_threads_draw_each_their_own(self, path: Path, pipeline: Pipeline) -> None:
        """Beside each other, on one pipeline: nobody gets another's picture."""
        wanted = {seed: pipeline("ninja", seed=seed, steps=1) for seed in range(8)}
        found: dict[int, Any] = {}
        drawers = [
            threading.Thread(target=lambda seed=seed: found.update({seed: pipeline("ninja", seed=seed, steps=1)}))
            for seed in wanted
        ]
        for drawer in drawers:
            drawer.start()
        for drawer in drawers:
            drawer.join()
        assert found == wanted

    def test_streams_with_previews(self, pipeline: Pipeline) -> None:
        steps = list(pipeline.stream(PROMPTS, 0, steps=4))
        assert [step.index for step in steps] == [0, 1, 2, 3]
        assert all(step.steps == 4 and step.latents.shape == (2, 4, LATENT_SIZE, LATENT_SIZE) for step in steps)
        assert [step.generation is None for step in steps] == [True, True, True, False]
        last = steps[-1].generation
        assert last is not None
        assert np.array_equal(last.images, pipeline.generate(PROMPTS, 0, steps=4).images)
        assert np.array_equal(steps[-1].preview(), last.images)
        # Each preview is the step's own estimate of the end: with two steps more of it is settled than with one.
        far, near = (psnr_db(steps[index].preview(), last.images) for index in (0, 2))
        assert near > far

    def test_draws_from_an_image(self, path: Path, reference: Pipeline) -> None:
        """As PyTorch does, from every start that exists, in every precision, and independently of the batch."""
        image = reference("orange sunset", seed=1)
        for precision in self.precisions:
            with load_pipeline(path, self.runtime, precision, threads=self.threads) as pipeline:
                for strength in pipeline.strengths():
                    ours, theirs = (
                        drawn.generate("ninja", [3, 9], image=image, strength=strength)
                        for drawn in (pipeline, reference)
                    )
                    assert ours.strength == theirs.strength == strength
                    assert psnr_db(ours.images, theirs.images) > (50 if precision == "fp32" else 35)
                    assert psnr_db(theirs.images[0], theirs.images[1]) < 40
                if precision == "fp32":
                    alone = pipeline.generate("ninja", 9, image=image, strength=1.0)
                    assert psnr_db(alone.images[0], ours.images[1]) > 50
        assert ours.timings[self.encoder_stage] > 0

    def test_draws_inside_a_mask(self, pipeline: Pipeline, reference: Pipeline) -> None:
        image, mask = reference("orange sunset", seed=1).array, np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
        mask[8:20, 5:17] = 255
        for strength in (0.5, 1.0):
            ours, theirs = (
                drawn("ninja", seed=3, image=image, mask=mask, strength=strength).array
                for drawn in (pipeline, reference)
            )
            assert np.array_equal(ours[mask == 0], image[mask == 0])
            assert psnr_db(ours[mask > 0], image[mask > 0]) < 30
            assert psnr_db(ours, theirs) > 50

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

    def test_a_cancellation_reaches_a_network_that_runs(self, pipeline: Pipeline) -> None:
        """Drawings last 1,000 steps of one network; each is cancelled somewhere in the middle."""
        before = pipeline.generate("ninja", 5, steps=1).images
        for wait_s in np.random.default_rng(0).uniform(0.0, 0.03, 10):
            stop = Cancellation()
            timer = threading.Timer(wait_s, stop.cancel)
            timer.start()
            with pytest.raises(CancelledError), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pipeline.generate("ninja", steps=1000, cancel=stop)
            timer.join()
        assert np.array_equal(pipeline.generate("ninja", 5, steps=1).images, before)

    def test_an_interrupted_engine_runs_nothing_until_it_may_proceed(self, pipeline: Pipeline) -> None:
        pipeline._engine.interrupt()
        with pytest.raises(GeninError):
            pipeline.generate("ninja", steps=1)
        pipeline._engine.proceed()
        pipeline.generate("ninja", steps=1)

    def test_warns_of_steps_that_a_student_has_not_learnt(self, pipeline: Pipeline) -> None:
        with pytest.warns(UserWarning, match="trained for 1, 2, 4 steps, not for 3"):
            pipeline.generate("ninja", steps=3)

    @pytest.mark.parametrize("content", [b"", b"not a graph", bytes(range(256))])
    def test_a_damaged_network_is_refused(self, path: Path, tmp_path: Path, content: bytes) -> None:
        damaged = self.with_unet(path, tmp_path / "damaged", content)
        with pytest.raises(InputError, match=self.refusal):
            load_pipeline(damaged, self.runtime, "fp32")

    def with_unet(self, path: Path, out: Path, content: bytes) -> Path:
        """A copy whose UNet's file holds `content`, with a hash that agrees if there are hashes."""
        shutil.copytree(path, out)
        (out / self.unet_file).write_bytes(content)
        return out

    def test_closes(self, path: Path) -> None:
        pipeline = load_pipeline(path, self.runtime)
        pipeline.close()
        pipeline.close()
        with pytest.raises(InputError, match="closed"):
            pipeline.generate("ninja")

    def test_a_closed_engine_runs_nothing(self, path: Path) -> None:
        pipeline = load_pipeline(path, self.runtime)
        engine, step = pipeline._engine, next(pipeline.stream("ninja", steps=2))
        ids = pipeline._tokenizer(["ninja"])
        text = engine.encode(ids)
        pipeline.close()
        latents, picture = step.latents, np.zeros((1, 3, IMAGE_SIZE, IMAGE_SIZE), np.float32)
        for call in (
            lambda: engine.encode(ids),
            lambda: engine.predict(latents, 1, text),
            lambda: engine.decode(latents),
            lambda: engine.encode_picture(picture),
            step.preview,
        ):
            with pytest.raises(GeninError, match="closed"):
                call()

    @pytest.mark.processes
    def test_leaves_signals_alone(self, path: Path) -> None:
        command = [sys.executable, "-c", INTERRUPTED, str(path), self.runtime]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


class BundleEngineContract(EngineContract):
    """What every engine of bundles must do beside: it trusts neither the graphs nor what the manifest says of them."""

    pytestmark = pytest.mark.export  # of the bundle
    precisions = ("fp32", "fp16", "int8")
    source = "tiny_bundle"
    refusal = "cannot load '.*unet"  # by the engine: the hash agrees

    def with_unet(self, path: Path, out: Path, content: bytes) -> Path:
        damaged = super().with_unet(path, out, content)
        update_hash(damaged, self.unet_file)
        return damaged

    def test_the_encoder_is_loaded_when_an_image_is_given(self, path: Path, tmp_path: Path) -> None:
        """Drawing from text costs nothing for it, not even the reading of its file."""
        pack(path, tmp_path / "b.genin")
        with load_pipeline(tmp_path / "b.genin", self.runtime) as pipeline:
            picture = pipeline("ninja", steps=1)
            assert not self.loaded_encoder(pipeline)
            pipeline("ninja", image=picture)
            assert self.loaded_encoder(pipeline)

    def loaded_encoder(self, pipeline: Pipeline) -> bool:
        assert isinstance(pipeline._engine, BundleEngine) and pipeline._bundle is not None
        read = any("vae_encoder/" in path for path in pipeline._bundle._checked)
        assert read == ("vae_encoder" in pipeline._engine._loaded)
        return read

    def test_a_bundle_without_an_encoder_draws_from_text_alone(
        self, path: Path, tmp_path: Path, pipeline: Pipeline
    ) -> None:
        with load_pipeline(without_encoder(path, tmp_path / "old"), self.runtime) as old:
            picture = old("ninja", seed=3)
            assert picture == pipeline("ninja", seed=3) and pipeline.takes_images and not old.takes_images
            with pytest.raises(InputError, match=r"no vae_encoder graph.*genin export"):
                old("ninja", image=picture)

    def test_wrong_shapes_are_errors(self, path: Path, tmp_path: Path) -> None:
        """Constants that do not fit the graphs: those of what a graph gives, and of what it is given."""
        copy = Path(shutil.copytree(path, tmp_path / "copy"))
        for side in ("height", "width"):
            edit_manifest(copy, "image", side, value=2 * IMAGE_SIZE)
        edit_manifest(copy, "image", "multiple", value=None)
        with load_pipeline(copy, self.runtime) as pipeline, pytest.raises(GeninError, match="vae_decoder gave shape"):
            pipeline.generate("ninja")
        edit_manifest(copy, "latents", "channels", value=8)
        with load_pipeline(copy, self.runtime) as pipeline, pytest.raises(GeninError, match="unet graph failed"):
            pipeline.generate("ninja")

    def test_draws_with_a_single_graph(self, matrix: Path, compact_model: Path) -> None:
        """Where a bundle has one of so many steps: the same pictures as the networks give one by one, in any batch."""
        with load_pipeline(compact_model) as pipeline:
            expected = pipeline.generate(PROMPTS, [3, 9], steps=2).images
        with load_pipeline(matrix, self.runtime) as pipeline:
            found, alone = pipeline.generate(PROMPTS, [3, 9], steps=2), pipeline.generate(PROMPTS[1], 9, steps=2)
            assert isinstance(pipeline._engine, BundleEngine)
            drawn = pipeline._engine.draw(pipeline._tokenizer(PROMPTS), batch_normal([3, 9], pipeline.latents.shape), 2)
        assert found.timings["text_to_image"] > 0 and found.timings["unet"] == 0
        assert drawn.dtype == np.uint8 and np.array_equal(drawn, found.images)
        for ours, theirs in ((found.images, expected), (alone.images, expected[1:])):
            assert np.abs(ours.astype(int) - theirs).max() <= 1
        with pytest.raises(GeninError, match="closed"):
            pipeline._engine.draw(pipeline._tokenizer(PROMPTS), batch_normal([3, 9], pipeline.latents.shape), 2)

    def test_what_was_unpacked_goes_when_it_closes(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pack(path, tmp_path / "b.genin")
        (tmp_path / "temporary").mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
        with load_pipeline(tmp_path / "b.genin", self.runtime) as pipeline:
            pipeline.generate("ninja", steps=1)
            assert list((tmp_path / "temporary").iterdir())
        assert not list((tmp_path / "temporary").iterdir())

    def test_a_precision_that_the_bundle_lacks_is_refused(self, path: Path) -> None:
        with pytest.raises(InputError, match=f"no graphs for {self.runtime} palette4"):
            load_pipeline(path, self.runtime, "palette4")


class TestPyTorch(EngineContract):
    runtime, provider, precisions = "pytorch", "cpu", ("fp32",)
    source = "tiny_student_folder"
    unet_file = "unet/diffusion_pytorch_model.safetensors"

    def watch_threads(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        import torch

        told: list[int] = []
        monkeypatch.setattr(torch, "set_num_threads", told.append)
        return told


class TestOnnxRuntime(BundleEngineContract):
    runtime, provider = "onnxruntime", "CPUExecutionProvider"
    unet_file = "onnx/fp32/unet/model.onnx"

    def watch_threads(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        import onnxruntime

        told: list[int] = []
        session = onnxruntime.InferenceSession

        def noted(path: str, options: Any, **rest: Any) -> Any:
            told.append(options.intra_op_num_threads)
            return session(path, options, **rest)

        monkeypatch.setattr(onnxruntime, "InferenceSession", noted)
        return told


class TestOpenVino(BundleEngineContract):
    runtime, provider = "openvino", "CPU"
    unet_file = "openvino/fp32/unet/openvino_model.xml"

    def watch_threads(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        from genin.runtimes import openvino_engine

        told: list[int] = []
        compile_graph = openvino_engine._compile

        def noted(*arguments: Any) -> Any:
            model = compile_graph(*arguments)
            told.append(int(model.get_property("INFERENCE_NUM_THREADS")))
            return model

        monkeypatch.setattr(openvino_engine, "_compile", noted)
        return told


@pytest.mark.skipif(platform.system() != "Darwin", reason="Core ML runs on macOS only")
class TestCoreML(BundleEngineContract):
    threads = None
    runtime, provider = "coreml", "Core ML, the processor"
    unet_file = "coreml/fp32/Unet.mlpackage/Data/com.apple.CoreML/model.mlmodel"

    @pytest.fixture(scope="class")
    def path(self, tiny_student_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("coreml") / "bundle"
        write_tiny_bundle(tiny_student_folder, folder, formats=("coreml",))
        return folder

    def test_threads(self, path: Path, pipeline: Pipeline) -> None:
        with pytest.raises(InputError, match="chooses its own threads"):
            load_pipeline(path, self.runtime, threads=2)

    def test_threads_reach_the_engine(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.skip("it takes no number of threads")

    def test_draws_with_a_single_graph(self, matrix: Path, compact_model: Path) -> None:
        pytest.skip("the format has no single graphs")

    def loaded_encoder(self, pipeline: Pipeline) -> bool:
        assert isinstance(pipeline._engine, CoreMLEngine)
        return "vae_encoder" in pipeline._engine._packages


@pytest.mark.skipif(shutil.which("cmake") is None or shutil.which("g++") is None, reason="needs cmake and g++")
@pytest.mark.usefixtures("native_package")
class TestNative(BundleEngineContract):
    runtime, provider = "native", f"onnxruntime {importlib.metadata.version('onnxruntime')}"
    unet_file = "onnx/fp32/unet/model.onnx"
    refusal = "failed while loading onnx/fp32/unet/model.onnx"
    encoder_stage = "text_to_image"

    @pytest.fixture(scope="class")
    def pipeline(self, path: Path, native_package: Path) -> Iterator[Pipeline]:
        with load_pipeline(path, self.runtime, "fp32", threads=1) as pipeline:
            yield pipeline

    def watch_threads(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        told: list[int] = []
        worker = native_engine.NativeWorker

        def noted(*values: Any, threads: int, **named: Any) -> Any:
            told.append(threads)
            return worker(*values, threads=threads, **named)

        monkeypatch.setattr(native_engine, "NativeWorker", noted)
        return told

    def test_the_encoder_is_loaded_when_an_image_is_given(self, path: Path, tmp_path: Path) -> None:
        pytest.skip("the library does not tell which networks it has loaded")

    def test_streams_with_previews(self, pipeline: Pipeline) -> None:
        """One prompt, and without latents, which the library keeps; steps that nobody was there to see are left out."""
        steps = list(pipeline.stream("ninja", 0, steps=100))
        indices = [step.index for step in steps]
        assert indices == sorted(set(indices)) and indices[-1] == 99 and len(indices) > 2
        assert all(step.generation is None and step.latents.size == 0 for step in steps[:-1])
        last = steps[-1].generation
        assert last is not None and np.array_equal(last.images, pipeline.generate("ninja", 0, steps=100).images)
        assert np.array_equal(steps[-1].preview(), last.images)
        far, near = (psnr_db(steps[at].preview(), last.images) for at in (0, -2))
        assert near > far
        with pytest.raises(InputError, match="one prompt at a time"):
            pipeline.stream(PROMPTS)

    def test_times_every_stage(self, pipeline: Pipeline) -> None:
        """All of the drawing together: the library does not tell its networks apart."""
        timings = pipeline.generate("ninja").timings
        assert timings["text_to_image"] > 0 and timings["other"] > 0 and timings["unet"] == 0

    def test_cancels_before_any_network(self, pipeline: Pipeline) -> None:
        """A function is asked every few milliseconds, as the library asks nobody."""
        for asked in range(4):
            left = iter([False] * asked + [True] * 9)
            with pytest.raises(CancelledError), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pipeline.generate("ninja", steps=1000, cancel=lambda left=left: next(left))
        pipeline.generate("ninja", steps=1)

    def test_wrong_shapes_are_errors(self, path: Path, tmp_path: Path) -> None:
        """In the library's words."""
        copy = Path(shutil.copytree(path, tmp_path / "copy"))
        for side in ("height", "width"):
            edit_manifest(copy, "image", side, value=2 * IMAGE_SIZE)
        edit_manifest(copy, "image", "multiple", value=None)
        with load_pipeline(copy, self.runtime) as pipeline, pytest.raises(GeninError, match="vae_decoder gave"):
            pipeline.generate("ninja")
        edit_manifest(copy, "latents", "channels", value=8)
        with load_pipeline(copy, self.runtime) as pipeline, pytest.raises(GeninError, match="running the unet"):
            pipeline.generate("ninja")

    def test_what_was_unpacked_goes_when_it_closes(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Only the tokenizer, which Python reads, too."""
        pack(path, tmp_path / "b.genin")
        (tmp_path / "temporary").mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
        with load_pipeline(tmp_path / "b.genin", self.runtime) as pipeline:
            pipeline.generate("ninja", steps=1)
            unpacked = [path for path in (tmp_path / "temporary").rglob("*") if path.is_file()]
            assert unpacked and {file.parent.name for file in unpacked} == {"tokenizer"}
        assert not list((tmp_path / "temporary").iterdir())

    def test_a_closed_engine_runs_nothing(self, path: Path) -> None:
        """It has no single networks that could be called, open or closed."""
        pipeline = load_pipeline(path, self.runtime)
        steps, engine = pipeline.stream("ninja", steps=2), pipeline._engine
        pipeline.close()
        with pytest.raises(GeninError, match="closed"):
            next(steps)
        with pytest.raises(GeninError, match="no single networks"):
            engine.encode(pipeline._tokenizer(["ninja"]))

    def test_draws_with_a_single_graph(self, matrix: Path, compact_model: Path) -> None:
        """By itself, where a bundle has one of so many steps: the same pictures."""
        with load_pipeline(compact_model) as pipeline:
            expected = pipeline.generate(PROMPTS, [3, 9], steps=2).images
        with load_pipeline(matrix, self.runtime) as pipeline:
            found, alone = pipeline.generate(PROMPTS, [3, 9], steps=2), pipeline.generate(PROMPTS[1], 9, steps=2)
        for ours, theirs in ((found.images, expected), (alone.images, expected[1:])):
            assert np.abs(ours.astype(int) - theirs).max() <= 1

    def test_what_it_cannot_draw_is_one_line(self, pipeline: Pipeline) -> None:
        with pytest.raises(InputError, match="philox noise, not from torch"):
            pipeline.generate("ninja", noise="torch")

    def test_closing_ends_what_another_thread_draws(self, path: Path) -> None:
        pipeline, ended = load_pipeline(path, self.runtime), threading.Event()

        def draw() -> None:
            with pytest.raises(GeninError), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pipeline.generate("ninja", steps=1000)
            ended.set()

        drawer = threading.Thread(target=draw)
        drawer.start()
        time.sleep(0.05)
        pipeline.close()
        drawer.join(10)
        assert ended.is_set()


def test_every_engine_has_a_contract() -> None:
    tested = {*EngineContract.__subclasses__(), *BundleEngineContract.__subclasses__()} - {BundleEngineContract}
    assert {contract.runtime for contract in tested} == set(ENGINES)


@pytest.mark.export
def test_openvino_runs_onnx_where_there_is_no_ir(tiny_bundle: Path, tmp_path: Path, reference: Pipeline) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "b")
    graphs = json.loads((tmp_path / "b" / "manifest.json").read_text(encoding="utf-8"))["graphs"]
    edit_manifest(tmp_path / "b", "graphs", value=[graph for graph in graphs if graph["format"] == "onnx"])
    pack(tmp_path / "b", tmp_path / "b.genin")
    with load_pipeline(tmp_path / "b.genin", precision="fp16") as pipeline:
        assert (pipeline.runtime, pipeline.precision) == ("openvino", "fp16")
        assert psnr_db(pipeline.generate("ninja", 3).images, reference.generate("ninja", 3).images) > 40

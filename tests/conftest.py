"""Tiny random models that every area's tests share (real formats, fixed seeds, no downloads), and how the suite runs.

`tiny_model_folder` is a teacher (classifier-free guidance, no few-step timesteps), `tiny_student_folder` the same
networks declared as a student (guidance baked in, four-, two- and one-step timesteps). Both are read-only: copy them
before changing anything.

Property tests (Hypothesis) draw the same examples in every run; `--hypothesis-profile random` draws new ones.

The suite runs in one worker process per core. A file's tests stay in one worker, so module fixtures are built once;
what several files need is built once for all workers by `built_once`. A test without a marker is a unit test: it gets the
marker `unit` and a short time limit. Ctrl-C ends the run even while a training has installed its own handler: tests that
mean to interrupt genin call `press_ctrl_c`.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import hypothesis
import pytest
from filelock import FileLock

from genin.runtimes.threads import limit_threads

os.environ["GENIN_AUTO"] = "order"  # what is fastest here must decide no test
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or every worker and every process of a test compiles torch anew
sys.dont_write_bytecode = False
os.fsync = lambda _: None  # type: ignore[assignment,misc]  # without it only a power cut loses what was written
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.register_profile("random", deadline=None)
hypothesis.settings.load_profile("fixed")
limit_threads(1)  # before torch is imported: the workers share the cores, and tiny networks gain nothing from threads

NATIVE = Path(__file__).parents[1] / "runtimes" / "native"
WORDS = (
    "ninja",
    "orange",
    "outfit",
    "mountain",
    "sunset",
    "meditating",
    "running",
    "the",
    "under",
    "with",
    "and",
    "on",
)
MAX_LENGTH = 32
LATENT_SIZE, IMAGE_SIZE = 8, 32
UNIT_TIMEOUT_SECONDS = 120  # most of it for importing torch and diffusers on a busy machine
TINY_SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "set_alpha_to_one": True,
    "clip_sample": False,
    "steps_offset": 0,
}
TEACHER_INFO: dict[str, Any] = {
    "genin_model": 1,
    "kind": "teacher",
    "parent": None,
    "few_step_timesteps": None,
    "default_steps": 6,
    "guidance": "free",
    "guidance_scale": 3.0,
    "image_size": IMAGE_SIZE,
    "licence": "Apache-2.0",
    "recipe": {},
    "metrics": {},
}
STUDENT_INFO = TEACHER_INFO | {
    "kind": "student",
    "parent": "tiny",
    "few_step_timesteps": {"4": [999, 749, 499, 249], "2": [999, 499], "1": [999]},
    "default_steps": 4,
    "guidance": "baked",
}


# --- how the suite runs ---------------------------------------------------------------------------------------------

# Tests that train, export or start processes; every other test is a unit test.
KINDS = ("train", "export", "processes", "clients", "slow")
# What makes a test one of a kind by its fixtures: building them takes long.
KIND_BY_FIXTURE = {"tiny_bundle": "export", "compact_model": "export"}
BUILDS_MOST = "test_export.py"  # `matrix` and `threes`


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in KIND_BY_FIXTURE:
                item.add_marker(KIND_BY_FIXTURE[fixture])
        if not any(item.get_closest_marker(kind) for kind in KINDS):
            item.add_marker("unit")
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(UNIT_TIMEOUT_SECONDS))
    # Files that take long come first, so that no worker is left with one of them at the end; before all others the one that builds
    # the largest bundle, so that no worker has to wait for it.
    long_files = {item.path for item in items if item.get_closest_marker("unit") is None}
    items.sort(key=lambda item: (item.path.name != BUILDS_MOST, item.path not in long_files))


def built_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """The path `name`, made by `build(path)` in whichever worker needs it first. Read-only for all of them."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    out, built = root / "shared" / name, root / "shared" / f"{name}.built"
    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{built}.lock"):
        if not built.exists():
            build(out)
            built.touch()
    return out


@pytest.fixture(autouse=True, scope="module")
def imports_are_no_garbage() -> None:
    """genin and its libraries collect garbage between networks, each time among a million objects of what was imported: a quarter
    of a tiny training. They are set aside before each file."""
    gc.collect()
    gc.freeze()


class CtrlC:
    """Knows Ctrl-C of the person at the keyboard from that of a test, whatever handlers genin installs."""

    def __init__(self) -> None:
        self.by_test = self.by_person = False
        self.signal = signal.signal
        self.handlers: dict[Any, Any] = {}  # ours => genin's

    def install(self, signal_number: int, handler: Any) -> Any:
        """In place of `signal.signal`: `handler` sees only what a test sends; a person's Ctrl-C always interrupts."""
        if signal_number != signal.SIGINT or not callable(handler):
            return self.signal(signal_number, handler)

        def handle(number: int, frame: FrameType | None) -> Any:
            if not self.by_test:
                self.by_person = True
                raise KeyboardInterrupt
            return handler(number, frame)

        self.handlers[handle] = handler
        previous = self.signal(signal_number, handle)
        return self.handlers.get(previous, previous)


ctrl_c = CtrlC()


def press_ctrl_c() -> None:
    """What a person does at the keyboard, sent to genin by a test."""
    ctrl_c.by_test = True
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        ctrl_c.by_test = False


def pytest_sessionstart() -> None:
    signal.signal = ctrl_c.install
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish() -> None:
    signal.signal = ctrl_c.signal
    gc.unfreeze()  # or libraries report at the end that their types were leaked


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Any:
    try:
        return (yield)
    finally:
        if ctrl_c.by_person:  # genin's command line made an exit code of it
            pytest.exit("interrupted", returncode=pytest.ExitCode.INTERRUPTED)


# --- the command line, and the models it works on -------------------------------------------------------------------


@pytest.fixture
def genin(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Run a command with --json; it has to succeed. Returns the object on the last line of stdout."""

    from genin.cli import run

    def call(*arguments: str | Path) -> dict[str, Any]:
        capsys.readouterr()
        code = run([*map(str, arguments), "--json"])
        output = capsys.readouterr()
        assert code == 0, output.err
        result: dict[str, Any] = json.loads(output.out.splitlines()[-1])
        return result

    return call


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers model folder with random weights: 32-px pictures, 4×8×8 latents, captions of up to 32 tokens."""
    return built_once(tmp_path_factory, "teacher", write_tiny_model)


@pytest.fixture(scope="session")
def tiny_student_folder(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_model_folder`, declared as a few-step student with guidance baked in."""

    def build(folder: Path) -> None:
        shutil.copytree(tiny_model_folder, folder)
        (folder / "genin.json").write_text(json.dumps(STUDENT_INFO), encoding="utf-8")

    return built_once(tmp_path_factory, "student", build)


@pytest.fixture(scope="session")
def compact_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student whose UNet adds the text to the time embedding and scales its norms by it (`exported.write_compact_model`)."""
    from exported import write_compact_model

    return built_once(tmp_path_factory, "compact", write_compact_model)


@pytest.fixture(scope="session")
def inverted_student(tiny_student_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny student with a textual inversion of two vectors, `<ninja>`; what it draws from other prompts stays."""

    def build(folder: Path) -> None:
        import torch

        from genin.distill.models.folder import load_model_folder, save_model_folder

        model = load_model_folder(tiny_student_folder)
        model.tokenizer.add_tokens(["<ninja>", "<ninja>_1"])
        model.text_encoder.resize_token_embeddings(len(model.tokenizer), mean_resizing=False)
        with torch.no_grad():
            rows = model.text_encoder.get_input_embeddings().weight
            rows[-2:] = torch.randn(2, rows.shape[1], generator=torch.Generator().manual_seed(5)) / 2
        save_model_folder(model, folder)

    return built_once(tmp_path_factory, "inverted", build)


@pytest.fixture(scope="session")
def tiny_bundle(inverted_student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle folder of the tiny student: ONNX and OpenVINO, fp32 and fp16. Read-only, like the others."""
    from tiny_bundle import write_tiny_bundle

    return built_once(tmp_path_factory, "bundle", lambda folder: write_tiny_bundle(inverted_student, folder))


@pytest.fixture(scope="session")
def matrix(compact_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compact model in every format and precision (`exported.export_matrix`)."""
    from exported import export_matrix

    return export_matrix(tmp_path_factory, compact_model)


@pytest.fixture(scope="session")
def threes(compact_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compact teacher in ONNX with a batch of 3 (`exported.export_fixed_batch`)."""
    from exported import export_fixed_batch

    return export_fixed_batch(tmp_path_factory, compact_model)


@pytest.fixture(scope="session")
def native_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The native library, built from source: `libgenin`, `genin_draw` and its tests."""

    def build(folder: Path) -> None:
        for command in (
            ["cmake", "-S", NATIVE, "-B", folder, "-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_CXX_FLAGS=-Werror"],
            ["cmake", "--build", folder, "-j2"],
        ):
            result = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=300)
            assert result.returncode == 0, result.stdout + result.stderr

    return built_once(tmp_path_factory, "native", build)


@pytest.fixture(scope="class")
def native_package(native_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The package genin_native as its wheel has it, which this process and new ones can import."""
    site = tmp_path_factory.mktemp("site")
    command = ["cmake", "--install", native_build, "--prefix", site, "--component", "python"]
    subprocess.run([*map(str, command)], check=True, capture_output=True, timeout=60)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH")))))
        yield site


@pytest.fixture(scope="session")
def ort() -> Path:
    """ONNX Runtime's shared library, as its wheel has it."""
    found = importlib.util.find_spec("onnxruntime")
    if found is None or found.origin is None:
        pytest.skip("needs onnxruntime")
    [library] = (Path(found.origin).parent / "capi").glob("libonnxruntime.so.*")
    return library


def psnr_db(a: Any, b: Any) -> float:
    """Peak signal-to-noise ratio of uint8 pictures; infinite if they are equal."""
    import numpy as np

    error = np.mean((a.astype(np.float64) - b) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def write_tiny_model(folder: Path) -> None:
    import torch
    from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    tokenizer = write_tiny_tokenizer(folder / "tokenizer")
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            projection_dim=32,
            num_hidden_layers=1,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    text_encoder.text_model.embeddings.token_embedding.weight.data.mul_(50)  # prompts must differ in random weights
    unet = UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        block_out_channels=(16, 32),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    vae = AutoencoderTiny(
        encoder_block_out_channels=(16, 16, 16),
        decoder_block_out_channels=(16, 16, 16),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
        latent_channels=4,
        scaling_factor=0.8,
    )
    with torch.no_grad():  # random decoders draw grey: stretch the last layer to the picture's range
        last = vae.decoder.layers[-1]
        spread = vae.decode(torch.randn(4, 4, LATENT_SIZE, LATENT_SIZE)).sample
        last.weight.mul_(0.5 / spread.std())
        last.bias.fill_(0.5)
        first = vae.encoder.layers[
            -1
        ]  # and random encoders give hardly anything: latents of a model have unit variance
        seen = vae.encode(torch.rand(4, 3, IMAGE_SIZE, IMAGE_SIZE) * 2 - 1).latents
        first.bias.sub_(seen.mean(dim=(0, 2, 3)))
        seen = vae.encode(torch.rand(4, 3, IMAGE_SIZE, IMAGE_SIZE) * 2 - 1).latents
        first.weight.div_(0.8 * seen.std())
        first.bias.div_(0.8 * seen.std())
    pipeline = StableDiffusionPipeline(
        text_encoder=text_encoder.eval(),
        unet=unet.eval(),
        vae=vae.eval(),
        tokenizer=tokenizer,
        scheduler=DDIMScheduler.from_config(TINY_SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    (folder / "genin.json").write_text(json.dumps(TEACHER_INFO), encoding="utf-8")


def write_tiny_tokenizer(folder: Path) -> Any:
    """A CLIP byte-pair tokenizer whose merges spell `WORDS`; any other text is spelt in bytes."""
    from transformers import CLIPTokenizer

    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    byte = [*map(chr, printable)] + [chr(256 + n) for n in range(256 - len(printable))]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        letters = [*word[:-1], word[-1] + "</w>"]
        for end in range(1, len(letters)):
            pair = ("".join(letters[:end]), letters[end])
            if pair not in merges:
                merges.append(pair)
    pieces = dict.fromkeys([*byte, *(b + "</w>" for b in byte), *map("".join, merges)])
    vocabulary = [*pieces, "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(vocabulary)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n", encoding="utf-8")
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=MAX_LENGTH, pad_token="<|endoftext|>"
    )

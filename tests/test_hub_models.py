"""Models by their hub name: which files come, what a refusal says, and what to do without a network. No network here."""

from __future__ import annotations

import errno
import json
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fake_hub import FakeHub, write_fake_bundle
from genin.cli import run
from genin.hub import repository
from genin.hub.model import download, wanted_files
from genin.hub.repository import HubName, may_be_on_the_hub
from genin.names import InstalledNames
from genin.runtimes.engine import EngineRow, EngineSettings
from genin.runtimes.errors import InputError
from genin.runtimes.folder import MODEL_FILES, missing_files, weight_files
from genin.runtimes.loading import decide_for, load_pipeline

NAME = "somebody/ninja-diffusion"
UNET = "unet/diffusion_pytorch_model"
# The listing of stable-diffusion-v1-5's repository, as far as it matters here.
SD15 = [
    *(".gitattributes", "README.md", "model_index.json", "v1-inference.yaml"),
    *("v1-5-pruned.ckpt", "v1-5-pruned.safetensors", "v1-5-pruned-emaonly.ckpt", "v1-5-pruned-emaonly.safetensors"),
    *("feature_extractor/preprocessor_config.json", "safety_checker/config.json", "safety_checker/model.safetensors"),
    *("scheduler/scheduler_config.json", "text_encoder/config.json", "text_encoder/model.fp16.safetensors"),
    *("text_encoder/model.safetensors", "text_encoder/pytorch_model.bin", "text_encoder/pytorch_model.fp16.bin"),
    *("tokenizer/merges.txt", "tokenizer/special_tokens_map.json", "tokenizer/tokenizer_config.json"),
    *("tokenizer/vocab.json", "unet/config.json", f"{UNET}.bin", f"{UNET}.fp16.bin", f"{UNET}.fp16.safetensors"),
    *(f"{UNET}.non_ema.bin", f"{UNET}.non_ema.safetensors", f"{UNET}.safetensors"),
    *("vae/config.json", "vae/diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.fp16.bin"),
    *("vae/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.safetensors"),
]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHub:
    pytest.importorskip("huggingface_hub")
    monkeypatch.chdir(tmp_path)
    return FakeHub(monkeypatch, tmp_path / "cache")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One captioned picture."""
    folder = tmp_path_factory.mktemp("reference")
    Image.new("RGB", (32, 32), "red").save(folder / "0.png")
    (folder / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "a ninja"}\n')
    return folder


# --- which files -----------------------------------------------------------------------------------------------------


def weights(files: list[str]) -> list[str]:
    return [file for file in files if file.endswith((".safetensors", ".bin"))]


def test_of_a_repository_that_holds_everything_twice_one_copy_comes() -> None:
    wanted = wanted_files(SD15)
    assert set(MODEL_FILES) <= set(wanted)
    assert set(weights(wanted)) == {file for file in MODEL_FILES if file.endswith(".safetensors")}
    assert not [file for file in wanted if file.endswith(".ckpt") or "safety_checker" in file or "non_ema" in file]


@pytest.mark.parametrize(
    ("lost", "taken"),
    [
        ((), ".safetensors"),
        ((".safetensors",), ".fp16.safetensors"),
        ((".safetensors", ".fp16.safetensors"), ".bin"),
        ((".safetensors", ".fp16.safetensors", ".bin"), ".fp16.bin"),
    ],
)
def test_plain_safetensors_then_fp16_then_bin(lost: tuple[str, ...], taken: str) -> None:
    stems = (UNET, "vae/diffusion_pytorch_model", "text_encoder/model", "text_encoder/pytorch_model")
    gone = {f"{stem}{suffix}" for stem in stems for suffix in lost}
    found = weights(wanted_files([file for file in SD15 if file not in gone]))
    assert len(found) == 3 and all(file.split("model", 1)[1] == taken for file in found)


@given(st.permutations(SD15))
def test_the_order_of_the_listing_changes_nothing(files: list[str]) -> None:
    assert sorted(wanted_files(files)) == sorted(wanted_files(SD15))


def test_shards_come_with_their_own_list() -> None:
    shards = [f"{UNET}-0000{n}-of-00002.safetensors" for n in (1, 2)]
    half = [f"{UNET}.fp16-0000{n}-of-00002.safetensors" for n in (1, 2)]
    lists = [f"{UNET}.safetensors.index.json", f"{UNET}.safetensors.index.fp16.json"]
    others = [file for file in SD15 if not file.startswith(UNET)]
    both = [file for file in wanted_files([*others, *shards, *half, *lists]) if file.startswith(UNET)]
    assert sorted(both) == sorted([*shards, lists[0]])
    only_half = [file for file in wanted_files([*others, *half, lists[1]]) if file.startswith(UNET)]
    assert sorted(only_half) == sorted([*half, lists[1]])


def test_a_folder_of_fp16_weights_draws(
    tiny_student_folder: Path, tmp_path: Path, genin: Callable[..., object]
) -> None:
    """As `save_pretrained(variant="fp16")` writes it, and as a clone of a repository with both copies has it."""
    diffusers, torch = pytest.importorskip("diffusers"), pytest.importorskip("torch")
    from genin.benchmarks.model_facts import read_facts

    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(tiny_student_folder)
    half = tmp_path / "half"
    pipeline.to(dtype=torch.float16).save_pretrained(half, variant="fp16")
    shutil.copy(tiny_student_folder / "genin.json", half)
    assert [file.name for file in weight_files(half / "unet")] == ["diffusion_pytorch_model.fp16.safetensors"]
    assert not missing_files(half)
    genin("generate", "a ninja", "-m", half, "--out", tmp_path / "ninja.png", "--runtime", "pytorch")
    plain, fp16 = read_facts(tiny_student_folder), read_facts(half)
    assert fp16.parameters == plain.parameters
    size = fp16.component_bytes("pytorch", "fp32")["unet"]
    assert size is not None
    for part in ("unet", "vae", "text_encoder"):
        for file in (tiny_student_folder / part).glob("*.safetensors"):
            shutil.copy(file, half / part)
    both = read_facts(half).component_bytes("pytorch", "fp32")
    assert both == plain.component_bytes("pytorch", "fp32") and both["unet"] != size


# --- with a network --------------------------------------------------------------------------------------------------


def test_a_name_is_downloaded_and_used(
    hub: FakeHub, tiny_student_folder: Path, tmp_path: Path, genin: Callable[..., object]
) -> None:
    hub.add(tiny_student_folder, NAME)
    genin("generate", "a ninja", "-m", NAME, "--out", tmp_path / "ninja.png", "--runtime", "pytorch")
    assert (tmp_path / "ninja.png").is_file()
    first, second = (set(patterns) for _, patterns in hub.calls)
    assert not weights(list(first)), "the small files come before the gigabytes"
    assert first < second and weights(list(second))


@pytest.mark.parametrize("online", [True, False])
def test_a_model_folder_with_another_programs_manifest(
    hub: FakeHub, tiny_student_folder: Path, tmp_path: Path, online: bool
) -> None:
    """As it is on a disk."""
    folder = Path(shutil.copytree(tiny_student_folder, tmp_path / "repository"))
    (folder / "manifest.json").write_text('{"short_name": "app"}')
    hub.add(folder, NAME)
    if not online:
        shutil.copytree(folder, hub.cache / f"models--{NAME.replace('/', '--')}" / "snapshots" / "main")
        hub.online = False
    assert (InstalledNames().model(NAME) / "unet").is_dir()


def test_a_revision_is_another_model(hub: FakeHub, tiny_student_folder: Path, tiny_model_folder: Path) -> None:
    hub.add(tiny_student_folder, NAME)
    hub.add(tiny_model_folder, NAME, revision="refs/pr/1")
    kinds = [
        json.loads((InstalledNames().model(name) / "genin.json").read_text())["kind"]
        for name in (NAME, f"{NAME}@refs/pr/1")
    ]
    assert kinds == ["student", "teacher"]
    with pytest.raises(InputError, match=f"no such revision: hub:{NAME}@v9; leave out @v9"):
        InstalledNames().model(f"{NAME}@v9")


def test_a_family_that_is_not_run_is_refused_before_its_weights(
    hub: FakeHub, tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_model_folder, tmp_path / "xl")
    index = json.loads((tmp_path / "xl" / "model_index.json").read_text())
    (tmp_path / "xl" / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionXLPipeline"}))
    hub.add(tmp_path / "xl", NAME)
    assert run(["generate", "a ninja", "-m", NAME, "--out", "x.png"]) == 2
    assert "this is Stable Diffusion XL" in capsys.readouterr().err
    assert not weights([file for _, patterns in hub.calls for file in patterns])


def test_a_gated_repository_says_how_to_get_in(hub: FakeHub, tiny_model_folder: Path) -> None:
    hub.add(tiny_model_folder, NAME)
    hub.gated.add(NAME)
    with pytest.raises(InputError) as caught:
        download(NAME)
    said = str(caught.value)
    assert f"accept its terms at https://huggingface.co/{NAME}, then: huggingface-cli login" in said
    assert "HF_TOKEN" in said


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_wrapped_by_the_client_is_still_one(
    hub: FakeHub, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """Downloading a file, the client raises LocalEntryNotFoundError and keeps the hub's answer as its cause."""
    import huggingface_hub
    import requests
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    def refuse(*_: object, **__: object) -> str:
        answer = requests.Response()
        answer.status_code = status
        raise LocalEntryNotFoundError("an error happened") from HfHubHTTPError("no", response=answer)

    hub.add(tiny_model_folder, NAME)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(InputError, match="accept its terms"):
        download(NAME)


def test_a_name_that_is_nowhere(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "a ninja", "-m", "nobody/nothing", "--out", "x.png"]) == 2
    said = capsys.readouterr().err
    assert "no such model: neither a local path nor on the hub, or private" in said and "huggingface-cli login" in said
    assert said.count("nobody/nothing") == 1


def test_the_hub_is_not_asked_in_silence(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """`runs/studnet` where there is no folder `runs`: a slip in a path looks like a name."""
    said: list[str] = []

    @contextmanager
    def shown(title: str, **_: object) -> Iterator[None]:
        said.append(title)
        yield

    monkeypatch.setattr("genin.hub.model.progress", shown)
    with pytest.raises(InputError, match="neither a local path nor on the hub"):
        InstalledNames().model("runs/studnet")
    assert said == ["'runs/studnet' is no local path: asking the Hugging Face hub"]


def test_python_is_told_no_command_to_run_again(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.online = False
    with pytest.raises(InputError) as caught:
        InstalledNames().model(NAME)
    folder = NAME.rpartition("/")[2]
    assert str(caught.value).endswith(f"; and give its path, ./{folder}") and "genin generate" not in str(caught.value)
    assert run(["generate", "a ninja", "-m", NAME]) == 2
    assert capsys.readouterr().err.rstrip().endswith(f"; and run: genin generate 'a ninja' -m ./{folder}")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (
            ("README.md", "ninja-v3.ckpt", "ninja-v3.safetensors", "ninja-v4.safetensors"),
            r"single files only \(ninja-v3.ckpt, ninja-v3.safetensors and 1 more\).*from_single_file\('ninja-v3.ckpt'\)",
        ),
        (("README.md", "config.json", "tf_model.h5"), "neither a diffusers model nor a genin bundle.*model_index.json"),
    ],
)
def test_repositories_without_a_model_folder(hub: FakeHub, tmp_path: Path, files: tuple[str, ...], says: str) -> None:
    for file in files:
        (tmp_path / "repository").mkdir(exist_ok=True)
        (tmp_path / "repository" / file).write_text("x")
    hub.add(tmp_path / "repository", NAME)
    with pytest.raises(InputError, match=says):
        download(NAME)
    assert not hub.calls, "nothing is downloaded"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_not_a_missing_network(
    hub: FakeHub, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    import huggingface_hub

    def full(*_: object, **__: object) -> str:
        raise OSError(number, "it is full")

    hub.add(tiny_model_folder, NAME)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(InputError, match=r"cache cannot be written \(it is full\)"):
        download(NAME)


def test_a_hub_that_says_nothing_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own requests for names and commits have no limit."""
    import huggingface_hub

    asked: list[object] = []

    def silent(_method: str, _url: str, *, timeout: float | None = None) -> None:
        asked.append(timeout)
        raise TimeoutError("nobody answers")

    def ask(*_: object, timeout: float | None = None, **__: object) -> None:
        session.request("GET", "https://huggingface.co", timeout=timeout)

    session = SimpleNamespace(request=silent)
    monkeypatch.setattr("huggingface_hub.utils.get_session", lambda: session)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: SimpleNamespace(list_repo_files=ask))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", ask)
    name = repository.HubName.parse(NAME, "model")
    assert repository.list_files(name) is None and repository.snapshot(name, ["a.json"]) is None
    assert asked == [repository.SILENCE_S] * 2
    assert session.request is silent, "it is the program's client, too"


# --- bundles ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def fake_bundle(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle on the hub, of three formats and precisions; the installed engines are OpenVINO and ONNX Runtime."""
    folder = tmp_path / "repository"
    write_fake_bundle(folder)
    hub.add(folder, NAME)
    monkeypatch.setattr(EngineRow, "reason", lambda row: None if row.extra in ("openvino", "onnxruntime") else "absent")
    return folder


def graphs(folder: Path) -> set[str]:
    """Format and precision of all graphs in a folder."""
    return {"/".join(path.relative_to(folder).parts[:2]) for path in folder.rglob("weights.bin")}


@pytest.mark.parametrize("pictures", [1, None])
def test_what_was_fetched_is_what_draws(
    fake_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pictures: int | None
) -> None:
    """Few pictures are drawn by what loads fastest, others by what was measured: of what is there."""
    monkeypatch.delenv("GENIN_AUTO")
    monkeypatch.setenv("GENIN_CACHE", str(tmp_path / "cache"))
    place = download(NAME, "auto", "auto")
    decision = decide_for(place, "auto", "auto", EngineSettings(pictures=pictures))
    assert decision.way.choice.runtime == "openvino"


@pytest.mark.parametrize(
    ("options", "fetched"),
    [
        ((), {"openvino/fp32"}),
        (("--precision", "fp16"), {"onnx/fp16"}),  # OpenVINO reads them, too
        (("--runtime", "onnxruntime"), {"onnx/fp32"}),
        (("--runtime", "onnxruntime", "--precision", "fp16"), {"onnx/fp16"}),
    ],
)
@pytest.mark.parametrize("command", ["generate", "compare", "evaluate"])
def test_of_a_bundle_only_the_graphs_of_the_run_are_fetched(
    hub: FakeHub,
    fake_bundle: Path,
    tmp_path: Path,
    command: str,
    options: tuple[str, ...],
    fetched: set[str],
    reference: Path,
) -> None:
    arguments = {
        "generate": ["generate", "a ninja", "-m", NAME, "--out", str(tmp_path / "x.png")],
        "compare": ["compare", NAME, "--out", str(tmp_path / "x.png")],
        "evaluate": ["evaluate", NAME, "--reference", str(reference), "--samples", "1"],
    }[command]
    assert run([*arguments, *options]) != 0, "its graphs are none"
    [local] = hub.cache.glob("models--*/snapshots/*")
    assert graphs(local) == fetched
    assert (local / "tokenizer" / "vocab.json").is_file() and (local / "README.md").is_file()
    assert not (local / "golden").exists()
    assert hub.calls[0] == (NAME, ["manifest.json"]), "the manifest says which graphs there are"


def test_a_benchmark_and_a_verification_fetch_all_that_they_run(
    hub: FakeHub, fake_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from genin.benchmarks.contenders import contenders

    [contender] = contenders(InstalledNames(), [NAME], "onnxruntime", "fp32")
    assert graphs(contender.path) == {"onnx/fp32"}
    [contender] = contenders(InstalledNames(), [NAME], None, "fp32")
    assert graphs(contender.path) == graphs(fake_bundle)
    shutil.rmtree(hub.cache)
    assert run(["verify", NAME]) == 1
    assert "damaged" not in capsys.readouterr().out
    assert graphs(contender.path) == graphs(fake_bundle) and (contender.path / "golden" / "unet.npz").is_file()


def test_a_model_folder_is_made_of_the_graphs_that_have_the_encoder(
    hub: FakeHub, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever would be run, which is fetched first, to see the manifest; other formats are not."""
    from genin.distill.models.restored import exact_precision

    with pytest.raises(InputError, match="this bundle has no encoder's"):
        exact_precision(fake_bundle)
    taken: list[Path] = []
    monkeypatch.setattr("genin.distill.models.restored.restored", lambda path, cache: taken.append(path) or path)
    monkeypatch.setattr("genin.distill.models.restored.exact_precision", lambda path: "fp16")
    local = InstalledNames().folder(NAME)
    assert taken == [local] and graphs(local) == {"onnx/fp32", "onnx/fp16"}


def test_a_precision_that_a_bundle_lacks_is_refused_before_any_graph_is_fetched(
    hub: FakeHub, fake_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["generate", "a ninja", "-m", NAME, "--precision", "int8", "--out", "x.png"]) == 2
    said = capsys.readouterr().err
    assert "no graphs for int8" in said and "onnx fp32, onnx fp16, openvino fp32" in said and f"hub:{NAME}" in said
    assert [patterns for _, patterns in hub.calls] == [["manifest.json"]]


def test_a_bundle_without_a_network(hub: FakeHub, fake_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is in the cache serves; what is not is named, and serves once it has been put where the message says."""
    local = download(NAME)
    hub.online = False
    assert download(NAME) == local
    assert run(["generate", "a ninja", "-m", NAME, "--precision", "fp16", "--out", "x.png"]) == 2
    said = capsys.readouterr().err
    assert f"into {local} and run it again: onnx/fp16/" in said
    missing = said.split("run it again: ")[1].strip().split(", ")
    assert len(missing) == 6
    for file in missing:
        (local / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(fake_bundle / file, local / file)
    assert download(NAME, precision="fp16") == local


def test_a_bundle_in_the_cache_serves_the_runtime_that_it_was_fetched_for(hub: FakeHub, fake_bundle: Path) -> None:
    """Another engine that is installed later has none of its graphs there: it is not asked for them without a network."""
    local = download(NAME, runtime="onnxruntime")
    assert graphs(local) == {"onnx/fp32"}
    hub.online = False
    assert download(NAME, runtime="auto") == local
    with pytest.raises(InputError, match=r"run it again: onnx/fp16/"):
        download(NAME, precision="fp16")
    assert download(NAME, runtime="openvino") == local  # it reads ONNX, too
    for runtime, precision in (("auto", "auto"), ("openvino", "auto"), ("onnxruntime", "fp32")):
        choice = decide_for(local, runtime, precision, EngineSettings()).way.choice
        assert (choice.format, choice.precision) == ("onnx", "fp32")


@pytest.mark.export
def test_a_part_of_a_bundle_draws(
    hub: FakeHub, tiny_bundle: Path, tmp_path: Path, genin: Callable[..., object]
) -> None:
    hub.add(tiny_bundle, NAME)
    fp16 = ("--runtime", "onnxruntime", "--precision", "fp16")
    genin("generate", "a ninja", "-m", NAME, *fp16, "--out", tmp_path / "ninja.png")
    [local] = hub.cache.glob("models--*/snapshots/*")
    fetched = {
        "/".join(path.relative_to(local).parts[:2]) for kind in ("*.onnx", "*.xml") for path in local.rglob(kind)
    }
    assert fetched == {"onnx/fp16"}
    with pytest.raises(InputError, match="is missing"), load_pipeline(local, "onnxruntime", "fp32"):
        pass


# --- without one -----------------------------------------------------------------------------------------------------


def test_without_a_network_it_says_which_files_and_which_command(
    hub: FakeHub, tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it says is done to the letter: the files it lists, where it says, and the command that it prints."""
    hub.online = False
    assert run(["generate", "a ninja's hat", "-m", NAME, "--out", "x.png", "--runtime", "pytorch", "--steps", "1"]) == 2
    said = capsys.readouterr().err
    assert f"'{NAME}' is not a local path, and the hub cannot be reached" in said
    listed = said.split("say ./ninja-diffusion: ")[1].split(" (weights")[0].split(", ")
    assert listed == list(MODEL_FILES)
    for file in listed:
        (tmp_path / "ninja-diffusion" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tiny_model_folder / file, tmp_path / "ninja-diffusion" / file)
    command = shlex.split(said.split("and run: ")[1])
    assert command[:3] == ["genin", "generate", "a ninja's hat"] and "./ninja-diffusion" in command
    assert run(command[1:]) == 0 and (tmp_path / "x.png").is_file()


def test_python_callers_are_told_the_files_too(hub: FakeHub) -> None:
    hub.online = False
    with pytest.raises(InputError, match=r"unet/config.json.*and give its path, ./ninja-diffusion"):
        InstalledNames().model(f"{NAME}@fp16")


def test_a_whole_snapshot_serves_without_a_network(hub: FakeHub, tiny_model_folder: Path) -> None:
    hub.add(tiny_model_folder, NAME)
    online = download(NAME)
    hub.online = False
    assert download(NAME) == online


def test_a_part_of_a_snapshot_does_not(hub: FakeHub, tiny_model_folder: Path) -> None:
    """The network fails in the midst of a download: now, and when the same is asked for again."""
    hub.add(tiny_model_folder, NAME)
    hub.fails_at = "unet/diffusion_pytorch_model.safetensors"
    for _ in range(2):
        missing = "only partly in the hub's cache .*: unet/diffusion_pytorch_model.safetensors, .*give its path"
        with pytest.raises(InputError, match=missing) as caught:
            download(NAME)
        assert "unet/config.json" not in str(caught.value), "what is there is not asked for"
    assert not hub.online


def test_a_client_that_answers_with_what_it_has_is_not_believed(
    hub: FakeHub, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the hub stops answering between listing and downloading, the client returns an earlier, partial snapshot."""
    import huggingface_hub

    partial = hub.cache / "partial"
    shutil.copytree(tiny_model_folder, partial)
    (partial / MODEL_FILES[2]).unlink()
    hub.add(tiny_model_folder, NAME)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(partial))
    with pytest.raises(InputError, match="only partly in the hub's cache"):
        download(NAME)


# --- names -----------------------------------------------------------------------------------------------------------


def test_names() -> None:
    assert HubName.parse("a/b-1.5", "model") == HubName("a/b-1.5", "model", None)
    assert HubName.parse("a/b@refs/convert/parquet", "dataset").revision == "refs/convert/parquet"
    assert str(HubName.parse("a/b@v1", "model")) == "a/b@v1"
    for wrong in ("b", "a/b/c", "a/b@", "../b", "/a/b", "a/", "a b/c"):
        assert not may_be_on_the_hub(wrong), wrong


def test_a_mistyped_path_is_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    assert may_be_on_the_hub("other/tuned") and not may_be_on_the_hub("models/tuned")

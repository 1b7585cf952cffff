"""`import genin`: what it offers, what it costs, and that the README's example does what it says."""

from __future__ import annotations

import importlib
import pickle
import re
import subprocess
import sys
import typing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import genin
from genin import api_docs
from genin.runtimes.engine import ENGINES

ROOT = Path(__file__).parents[1]
NOT_AT_IMPORT = ("torch", "click", "numpy", "PIL", "rich")


@pytest.fixture(scope="module")
def pipe() -> typing.Iterator[genin.Pipeline]:
    with genin.load("builtin:student", threads=1) as pipeline:
        yield pipeline


def test_one_prompt_is_one_picture(pipe: genin.Pipeline, tmp_path: Path) -> None:
    picture = pipe("a ninja", seed=7)
    assert picture.array.shape == (*pipe.image_size, 3) and picture.array.dtype == np.uint8
    assert np.array_equal(np.asarray(picture), pipe.generate("a ninja", 7).images[0])
    assert (picture.prompt, picture.seed) == ("a ninja", 7)
    saved = picture.save(tmp_path / "new" / "ninja.png")
    with Image.open(saved) as image:
        assert np.array_equal(np.asarray(image), picture.array)
        settings = image.info
    assert {
        "prompt": "a ninja",
        "seed": "7",
        "model": "builtin:student",
        "runtime": pipe.runtime,
    }.items() <= settings.items()


def test_a_picture_is_drawn_again_from_its_settings(pipe: genin.Pipeline) -> None:
    first = pipe("a ninja", seed=3, steps=2)
    again = pipe(**first.settings)
    assert first.settings["steps"] == 2 and again == first and first.shape == (*pipe.image_size, 3)
    assert first != pipe("a ninja", seed=4, steps=2) and first != "a ninja"
    drawn_by = {"model": "builtin:student", "runtime": pipe.runtime, "precision": pipe.precision}
    assert dict(first.origin) == {
        **drawn_by,
        "licence": "Apache-2.0, MIT",
        "model_sha256": first.origin["model_sha256"],
    }
    assert len(first.origin["model_sha256"]) == 64


def test_a_picture_is_read_back_with_what_draws_it_again(pipe: genin.Pipeline, tmp_path: Path) -> None:
    picture = pipe("a ninja, drawn “so”", seed=3, steps=2)
    again = genin.Picture.open(str(picture.save(tmp_path / "a.png")))
    assert again == picture and again.origin == picture.origin and again.settings == picture.settings
    assert pipe(**again.settings) == picture
    assert genin.Picture.open(picture.save(tmp_path / "a.jpg")).settings == {}
    Image.fromarray(picture.array).save(tmp_path / "other.png")  # by another program
    assert np.array_equal(genin.Picture.open(tmp_path / "other.png").array, picture.array)
    (tmp_path / "text.png").write_text("no picture")
    genin.Picture(picture.array, {"seed": "many"}).save(tmp_path / "damaged.png")
    for name, says in {"text": "cannot be read", "damaged": "settings are damaged", "absent": "no such"}.items():
        with pytest.raises(genin.InputError, match=says):
            genin.Picture.open(tmp_path / f"{name}.png")


def test_a_picture_does_not_say_where_its_model_lies(tiny_student_folder: Path, tmp_path: Path) -> None:
    with genin.load(tiny_student_folder) as pipe:
        assert pipe.name == str(tiny_student_folder)
        saved = pipe("ninja", steps=1).save(tmp_path / "a.png")
    with Image.open(saved) as image:
        assert image.info["model"] == tiny_student_folder.name
    assert str(tiny_student_folder.parent).encode() not in saved.read_bytes()


def test_numbers_of_numpy_are_numbers(pipe: genin.Pipeline) -> None:
    plain = pipe("a ninja", seed=3, steps=2, size=pipe.image_size, guidance_scale=1.0)
    size: typing.Any = np.array(pipe.image_size)
    seed: typing.Any = np.array(3)
    given: dict[str, typing.Any] = {"steps": np.int64(2), "size": size, "guidance_scale": np.float32(1)}
    picture = pipe("a ninja", seed=seed, **given)
    assert isinstance(picture, genin.Picture) and picture == plain
    assert {type(value) for value in picture.settings.values()} == {str, int, float, tuple}
    (first, _) = pipe("a ninja", seed=np.array([3, 4]), **given)  # type: ignore[call-overload]
    assert first.seed == 3 and type(first.seed) is int


def test_a_home_folder_is_found(pipe: genin.Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert pipe("a ninja").save("~/new/a.png") == tmp_path / "new" / "a.png"
    assert genin.Picture.open("~/new/a.png").prompt == "a ninja"


@pytest.mark.parametrize(
    ("name", "near", "far"),
    [("studnet", "did you mean {}/student?", "other"), ("qqqq", "give a path, or one of", "student.genin")],
)
def test_only_the_last_part_of_a_path_is_compared(tmp_path: Path, name: str, near: str, far: str) -> None:
    folder = tmp_path / "a-long-folder-that-all-have"
    for other in ("student", "other.txt"):
        (folder / other).mkdir(parents=True)
    with pytest.raises(genin.InputError) as caught:
        genin.load(folder / name)
    assert near.format(folder) in str(caught.value) and far not in str(caught.value)


def test_several_prompts_or_seeds_are_a_list(pipe: genin.Pipeline) -> None:
    texts = ["a ninja", "a ninja at night"]
    both = pipe(texts, seed=[4, 5])
    assert [picture.seed for picture in both] == [4, 5] and [picture.prompt for picture in both] == texts
    assert len(pipe("a ninja", seed=[1])) == 1 and len(pipe(["a ninja"], seed=1)) == 1
    alone = pipe(texts[1], seed=5).array.astype(int)
    assert np.abs(both[1].array.astype(int) - alone).max() <= 1, "a picture does not depend on its batch"


def test_stream_ends_with_what_a_call_gives(pipe: genin.Pipeline) -> None:
    *_, last = pipe.stream("a ninja", seed=7)
    assert last.generation is not None
    assert np.array_equal(last.generation.images[0], pipe("a ninja", seed=7).array)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_picture_is_saved_by_its_suffix(pipe: genin.Pipeline, tmp_path: Path, suffix: str) -> None:
    picture = pipe("a ninja", seed=7)
    with Image.open(picture.save(tmp_path / f"a{suffix}")) as image:
        assert image.size == pipe.image_size[::-1]
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a.gif", "cannot be saved as '.gif'"),
        ("a.pngg", r"did you mean .png"),
        ("file/a.png", "cannot write the picture"),
    ],
)
def test_a_picture_that_cannot_be_saved(pipe: genin.Pipeline, tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(genin.InputError, match=says):
        pipe("a ninja", seed=7).save(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("builtin:studnet", {}, "did you mean builtin:student"),
        ("builtin:student", {"runtime": "onnx"}, "unknown runtime 'onnx'.*did you mean onnxruntime"),
        ("builtin:student", {"threads": 0}, "threads"),
        ("builtin:student", {"device": "cuda"}, "a bundle runs on the cpu, not on cuda"),
        ("builtin:teacher", {"device": "gpu"}, "unknown device 'gpu'.*cpu, cuda, mps"),
        ("builtin:teacher", {"device": "cuda:99"}, "device cuda:99 is not available"),
        ("no/such/folder", {}, "no such model"),
        ("x" * 300, {}, r"cannot be read \(File name too long\)"),
        ("a\0b", {}, "a model must be a path"),
        ("builtin:world", {}, "this is a dataset, not a model.*models are builtin:student"),
        ("builtin:student", {"runtime": None}, "runtime None is not a text; choose from auto"),
        ("builtin:student", {"precision": None}, "precision None is not a text; choose from auto"),
    ],
)
def test_what_cannot_be_loaded_is_a_typed_error(name: str, options: dict[str, typing.Any], says: str) -> None:
    with pytest.raises(genin.InputError, match=says) as caught:
        genin.load(name, **options)
    assert isinstance(caught.value, genin.GeninError) and "\n" not in str(caught.value)


def test_a_closed_folder_hides_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(genin.InputError, match="no such model"):
        genin.load(tmp_path / "student")
    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(genin.InputError, match=r"cannot be read \(Permission denied\)"):
        genin.load(tmp_path / "student")


def test_verify_is_the_command(pipe: genin.Pipeline) -> None:
    report = genin.verify("builtin:student")
    assert report.ok and report.as_json()["ok"]


def test_everything_listed_is_there() -> None:
    assert all(getattr(genin, name) is not None for name in genin.__all__)
    assert set(genin.__all__) <= set(dir(genin))
    with pytest.raises(AttributeError, match="module 'genin' has no attribute 'paint'"):
        genin.paint  # noqa: B018


def test_import_takes_neither_torch_nor_a_command_line_nor_time() -> None:
    code = f"import sys, genin; print([name for name in {NOT_AT_IMPORT} if name in sys.modules])"
    command = [sys.executable, "-X", "importtime", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
    (line,) = (line for line in done.stderr.splitlines() if re.search(r"\| genin$", line))
    assert int(line.split("|")[1]) < 100_000, "microseconds, on a busy machine"  # 3 ms on an idle one


def test_the_example_of_the_readme(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(code.strip().splitlines()) <= 5
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
    with Image.open(tmp_path / "ninja.png") as image:
        assert image.size == (128, 128) and np.asarray(image).std() > 20


def test_the_page_is_what_the_docstrings_say() -> None:
    written = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert written == api_docs.markdown(), "run: python -m genin.api_docs > docs/api.md"


def test_what_the_page_names_is_there_and_described() -> None:
    """Every heading and every row of types can be imported, and no signature or table shows a type that is not on the page."""
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    described = re.findall(r"^## (genin[.\w]*)\.(\w+)$", page, re.MULTILINE)
    described += [
        (module, name) for name, module in re.findall(r"^\| `(\w+)` \| `(genin[.\w]+)` \|", page, re.MULTILINE)
    ]
    assert len(described) > 40
    for module, name in described:
        assert hasattr(importlib.import_module(module), name), f"{module}.{name}"
    signatures = re.findall(r"```python\n((?:\w+\().*?)```", page, re.DOTALL)
    shown = " ".join([*signatures, *re.findall(r"^\| `\w+` \| (`.*`) \| (?:`|required)", page, re.MULTILINE)])
    names = set(re.findall(r"(?<![.'\w])[A-Z][A-Za-z]+", shown)) | set(re.findall(r"[A-Z]\w+Error", page))
    known = {name for _, name in described} | set(api_docs.ERRORS)
    of_python = {
        "Any",
        "Callable",
        "False",
        "Iterator",
        "Literal",
        "Mapping",
        "NDArray",
        "None",
        "Path",
        "Sequence",
        "True",
    }
    assert names - of_python - known == {"Image"}, "Pillow's"


def test_every_field_of_a_table_is_described_or_none_is() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for part in page.split("\n## ")[1:]:
        fields = re.findall(r"^\| `(\w+)` \| `[^|]*(?:\\\|[^|]*)*` \| (?:`|required)", part, re.MULTILINE)
        described = re.findall(r"^- ((?:`\w+`, )*`\w+`): ", part.partition("| field |")[0], re.MULTILINE)
        named = {name for names in described for name in re.findall(r"\w+", names)}
        if fields and named:
            assert named == set(fields), part.partition("\n")[0]


def test_every_runtime_is_named_where_one_is_chosen() -> None:
    for documented in (genin.load.__doc__ or "", (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")):
        assert not [name for name in ENGINES if name not in documented]


@pytest.mark.parametrize(
    ("prompt", "options", "says"),
    [
        ({"a": 1}, {}, "one text or several, not {'a': 1}"),
        (None, {}, "one text or several, not None"),
        ("a ninja", {"size": 128}, r"size must be \(height, width\) in whole pixels; got 128"),
        ("a ninja", {"size": (64, 64.0)}, r"in whole pixels; got \(64, 64.0\)"),
        ("a ninja", {"cancel": True}, "cancel must be a function"),
        ("a ninja", {"seed": 1.5}, r"seed must be a whole number from 0 to 2\*\*64 - 1; got 1.5"),
        ("a ninja", {"seed": None}, "seed must be"),
        ("a ninja", {"seed": True}, "seed must be.*got True"),
        ("a ninja", {"steps": 2.5}, "steps must be a whole number, at least 1; got 2.5"),
        ("a ninja", {"steps": True}, "steps must be.*got True"),
        ("a ninja", {"guidance_scale": "1"}, "guidance_scale must be a number; got '1'"),
    ],
)
def test_arguments_of_a_wrong_type_are_named(
    pipe: genin.Pipeline, prompt: typing.Any, options: dict[str, typing.Any], says: str
) -> None:
    with pytest.raises(genin.InputError, match=says):
        pipe(prompt, **options)


def test_a_picture_is_encoded_by_any_spelling_of_its_format(pipe: genin.Pipeline) -> None:
    picture = pipe("a ninja", seed=7)
    assert picture.encoded("jpg") == picture.encoded("JPEG")
    with pytest.raises(genin.InputError, match="choose from PNG, JPEG, WEBP"):
        picture.encoded("gif")


MISSING = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "diffusers", "nncf", "psutil"):
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Absent())
import genin
try:
    exec(sys.argv[1])
except genin.MissingExtraError as error:
    print(error.extra)
"""


@pytest.mark.parametrize(
    ("code", "extra"),
    [
        ("from genin.distill import distill", "distill"),
        ("from genin.benchmarks import bench, BenchOptions as O; bench('builtin:student', O(samples=600))", "metrics"),
        ("genin.load('builtin:teacher')", "distill"),
    ],
)
def test_a_missing_extra_is_named_by_verbs_as_by_commands(code: str, extra: str) -> None:
    command = [sys.executable, "-c", MISSING, code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.strip() == extra, done.stderr[-600:]


def test_packages_list_their_verbs_and_come_with_genin() -> None:
    code = "import sys, genin; print('export' in dir(genin.export), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.split() == ["True", "False"], done.stderr


def test_one_pipeline_serves_several_threads(pipe: genin.Pipeline) -> None:
    alone = [pipe("a ninja", seed=seed).array for seed in range(12)]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda seed: pipe("a ninja", seed=seed).array, range(12)))
    assert all(np.array_equal(*pair) for pair in zip(alone, together, strict=True))


def test_errors_come_back_from_worker_processes() -> None:
    error = pickle.loads(pickle.dumps(genin.MissingExtraError("torch", "distill")))
    assert (str(error), error.extra, error.remedy) == (
        "'torch' is not installed; pip install 'genin[distill]'",
        "distill",
        "pip install 'genin[distill]'",
    )


def test_a_picture_shares_its_pixels_only_when_asked(pipe: genin.Pipeline) -> None:
    generation = pipe.generate("a ninja", 7)
    (picture,) = pipe.pictures(generation)
    assert np.asarray(picture) is picture.array and np.array(picture) is not picture.array
    picture.array[:] = 0
    assert generation.images.any(), "the generation's own pixels stay"

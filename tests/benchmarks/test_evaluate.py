"""`genin evaluate` through the command line: names and keys of figures, refusals, statistics, resuming."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fake_hub import write_fake_bundle
from genin.benchmarks import evaluation
from genin.benchmarks.quality import statistics_file
from genin.benchmarks.quality.evaluator import Against, Evaluator, SaveTo
from genin.benchmarks.quality.frechet import moments
from genin.benchmarks.quality.measures import (
    FD_NAMES,
    KID_NAMES,
    StatisticsAccumulator,
    Suite,
    load_suite,
    statistics_distances,
)
from genin.benchmarks.quality.sampling import SEED_STRIDE
from genin.benchmarks.quality.statistics_file import (
    FeatureCollector,
    SetStatistics,
    Statistics,
    caption_numbers,
    load_statistics,
    save_statistics,
)
from genin.cli import run
from genin.dataset.files import is_intact
from genin.dataset.rows import PictureRow
from genin.runtimes.errors import InputError
from genin.runtimes.origin import fingerprint

SHARED = Path(__file__).parents[3] / "shared" / "data" / "lpips_squeezenet"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/lpips_squeezenet is not here")
KEYS = (
    *(
        "model",
        "steps",
        "guidance_scale",
        "samples",
        "seed",
        "reference",
        "fd_world",
        "fd_squeezenet",
        "kid_squeezenet",
    ),
    *("fid", "lpips_squeeze_paired", "attribute_accuracy", "diversity", "parameters", "macs"),
    *("notes", "weights", "resize", "intervals"),
)

every_network = pytest.mark.usefixtures("every_network")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No downloads: only the shared folder's weights, where it is."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("GENIN_METRIC_WEIGHTS", raising=False)
    if SHARED.is_dir():
        monkeypatch.setenv("GENIN_METRIC_WEIGHTS", str(SHARED))


@pytest.fixture(name="every_network")
def with_every_network() -> None:
    """For tests of the networks themselves."""


@pytest.fixture(autouse=True)
def few_features(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks that are pretrained take longer than all else; most tests are about what surrounds any of them."""
    if "every_network" not in request.fixturenames:
        monkeypatch.setattr(evaluation, "load_suite", partial(load_suite, features=("world",)))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of the built-in world with complete captions."""
    out = tmp_path_factory.mktemp("world") / "reference"
    assert (
        run(["world", "render", "--count", "12", "--split", "test", "--captions", "complete", "--out", str(out)]) == 0
    )
    return out


def evaluate(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    capsys.readouterr()
    assert run(["evaluate", *map(str, arguments), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    capsys.readouterr()
    assert run(["evaluate", *map(str, arguments)]) == 2
    line = capsys.readouterr().err.strip()
    assert line.startswith("genin: ") and "\n" not in line
    return line


@every_network
def test_a_model_gets_every_promised_key_and_a_reason_for_every_null(
    tiny_student_folder: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluate(
        capsys, tiny_student_folder, "--reference", world, "--samples", "8", "--steps", "1", "--seed", "3"
    )
    assert set(KEYS) <= set(result)
    assert (result["samples"], result["seed"], result["steps"]) == (8, 3, 1)
    assert result["seeds"] == {"first": 3 * SEED_STRIDE, "last": 3 * SEED_STRIDE + 7}
    assert result["parameters"] > 0 and result["macs"] > 0 and result["reference_count"] == 8
    for name in (*FD_NAMES.values(), *KID_NAMES.values(), "lpips_squeeze_paired", "diversity"):
        assert result[name] is not None or result["notes"][name], name
    assert "8 pictures for 192 features" in result["notes"]["fd_world"]  # refused, not computed from a singular matrix
    assert result["kid_world"] is not None and len(result["intervals"]["kid_world"]) == 2
    assert 0 <= result["attribute_accuracy"]["mean"] <= 1 and set(result["attribute_accuracy"]) >= {"hair", "outfit"}
    assert result["attribute_accuracy_reference"]["mean"] > 0.9  # the classifier knows real renders
    assert "fd_ratio" not in result


@needs_shared
@every_network
def test_squeezenet_figures_carry_their_weights_and_resize(
    tiny_student_folder: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluate(capsys, tiny_student_folder, "--reference", world, "--samples", "8", "--steps", "1")
    assert result["kid_squeezenet"] is not None and 0 < result["diversity"] < 1
    assert result["resize"]["squeezenet"] == "bilinear-224" and result["resize"]["lpips_squeeze"] == "bilinear-64"
    assert len(result["weights"]["squeezenet"]["tensors_sha256"]) == 64
    assert set(result["weights"]["lpips_squeeze"]) == {"trunk", "heads"}
    assert result["fid"] is None and "Inception" in result["notes"]["fid"]


@every_network
def test_without_weights_figures_are_null_not_replaced(
    tiny_student_folder: Path, world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GENIN_METRIC_WEIGHTS", raising=False)
    result = evaluate(capsys, tiny_student_folder, "--reference", world, "--samples", "4", "--steps", "1")
    for name in ("fid", "fd_squeezenet", "kid_squeezenet", "lpips_squeeze_paired", "diversity"):
        assert result[name] is None and "not found" in result["notes"][name], name
    assert set(result["weights"]) == {"efficientnet", "world"}  # what installed packages carry


def test_real_pictures_score_as_real(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = evaluate(capsys, world, "--reference", world)
    assert result["kind"] == "pictures" and result["samples"] == 12 and result["steps"] is None
    assert result["pictures_sha256"] == result["reference_sha256"]
    assert result["attribute_accuracy"] == result["attribute_accuracy_reference"]
    assert result["intervals"]["kid_world"][0] < 0 < result["intervals"]["kid_world"][1]  # nothing between equal sets
    assert result["precision_world"] == result["recall_world"] == 1


@needs_shared
def test_teacher_is_drawn_from_the_same_seeds_and_paired(
    tiny_model_folder: Path, tiny_student_folder: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = (tiny_student_folder, "--reference", world, "--samples", "4")
    same = evaluate(capsys, *common, "--steps", "2", "--against", tiny_student_folder, "--against-steps", "2")
    assert same["lpips_squeeze_paired"] == pytest.approx(0, abs=1e-6) and same["pairs"] == 4
    other = evaluate(capsys, *common, "--steps", "1", "--against", tiny_model_folder)
    assert other["lpips_squeeze_paired"] > 0.01
    assert other["against"]["steps"] == 6 and other["against"]["guidance_scale"] == 3.0
    assert other["fd_ratio"] is None and other["notes"]["fd_ratio"]  # four pictures give no FD


@needs_shared
@every_network
def test_saved_statistics_stand_for_the_model_they_came_from(
    tiny_model_folder: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = (tiny_model_folder, "--reference", world, "--samples", "8", "--steps", "2")
    first = evaluate(capsys, *common, "--save-statistics", tmp_path / "kept")
    kept = load_statistics(tmp_path / "kept")
    assert kept.source["steps"] == 2 and kept.pairs is not None and len(kept.pairs.rows) == 8
    again = evaluate(capsys, *common, "--against", tmp_path / "kept")
    assert again["pairs"] == 8 and again["lpips_squeeze_paired"] == pytest.approx(0, abs=1e-6)
    assert again["against"]["kid_world"] == pytest.approx(first["kid_world"], rel=0.02)  # float16 features
    assert kept.captions is not None and len(set(kept.captions)) == 8
    fewer = evaluate(
        capsys, tiny_model_folder, "--reference", world, "--samples", "5", *common[-2:], "--against", tmp_path / "kept"
    )
    assert fewer["pairs"] == 8 and fewer["fd_ratio"] is None
    other_seed = evaluate(capsys, *common[:-2], "--steps", "2", "--seed", "9", "--against", tmp_path / "kept")
    assert other_seed["pairs"] == 8  # what the pairs need is drawn extra
    assert other_seed["lpips_squeeze_paired"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("captions", [True, False])
def test_saved_statistics_need_not_be_of_the_references_number(captions: bool) -> None:
    """The captions of kept features are the file's own, or unknown."""
    generator = np.random.default_rng(0)
    kept, real = (generator.standard_normal((count, 4)).astype(np.float32) for count in (60, 40))
    reference = StatisticsAccumulator(Suite({}, None, None, {}))
    reference.collectors["world"] = FeatureCollector("f", [real])
    reference.rows = [PictureRow(f"{index}.png", f"caption {index % 30}") for index in range(40)]
    numbers = caption_numbers([f"caption {index % 30}" for index in range(60)]) if captions else None
    statistics = Statistics({"world": SetStatistics("f", moments(kept), kept)}, {}, captions=numbers)
    assert statistics_distances(statistics, reference).values["kid_world"] == pytest.approx(0, abs=0.5)


def test_changed_statistics_are_refused(
    tiny_model_folder: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "kept.safetensors"
    common = (tiny_model_folder, "--reference", world, "--samples", "4", "--steps", "1")
    evaluate(capsys, *common, "--save-statistics", file)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert "sha256" in refused(capsys, *common, "--against", file)


def test_pictures_without_an_attribute_do_not_count_against_it() -> None:
    classifier: Any = SimpleNamespace(
        attributes={"hair": ("red", "blue")}, predict=lambda pictures: {"hair": np.array(["red"] * len(pictures))}
    )
    accumulator = StatisticsAccumulator(Suite({}, None, classifier, {}))
    rows = [PictureRow(f"{hair}.png", columns={"hair": hair} if hair else {}) for hair in ("red", "blue", "")]
    accumulator.add(np.zeros((3, 8, 8, 3), np.uint8), rows)
    assert accumulator.accuracy() == {"hair": 0.5, "mean": 0.5}


def test_fd_ratio_needs_equal_numbers_and_one_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On folders of pictures, enough for FD: the ratio of a set to itself is one, to a smaller one there is none."""
    monkeypatch.delenv("GENIN_METRIC_WEIGHTS", raising=False)
    from genin.names import InstalledNames

    classifier = InstalledNames().classifier()
    for name, count in (("reference", 210), ("one", 210), ("small", 200)):
        write_noise(tmp_path / name, count, seed=len(name))
    suite = load_suite(None, classifier, features=("world",))
    evaluator = Evaluator(tmp_path / "reference", suite)
    same = evaluator.evaluate(tmp_path / "one", against=Against(tmp_path / "one"))
    assert same["fd_world"] > 0 and same["intervals"]["fd_world"][0] <= same["fd_world"]
    assert same["fd_ratio"] == pytest.approx(1) and same["fd_ratio_features"] == "world"
    assert same["fd_to_against"]["fd_world"] == pytest.approx(0, abs=1e-3)
    smaller = evaluator.evaluate(tmp_path / "one", against=Against(tmp_path / "small"))
    assert smaller["fd_ratio"] is None and "equal numbers" in smaller["notes"]["fd_ratio"]
    assert evaluator.evaluate(tmp_path / "small", against=Against(tmp_path / "one"))["fd_ratio"] is None
    evaluator.evaluate(tmp_path / "one", save=SaveTo(statistics=tmp_path / "statistics"))
    assert evaluator.evaluate(tmp_path / "one", against=Against(tmp_path / "statistics"))["fd_ratio"] == pytest.approx(
        1
    )
    write_noise(tmp_path / "other", 210, seed=99)
    elsewhere = Evaluator(tmp_path / "other", suite)
    found = elsewhere.evaluate(tmp_path / "one", against=Against(tmp_path / "statistics"))
    assert found["fd_ratio"] is None and "another reference" in found["notes"]["fd_ratio"]


def write_noise(folder: Path, count: int, seed: int) -> None:
    folder.mkdir()
    chance = np.random.default_rng(seed)
    for index in range(count):
        base = chance.integers(0, 256, 3)
        picture = np.clip(base + chance.normal(0, 40, (32, 32, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{index:04d}.png")


def test_interrupted_sampling_goes_on_from_the_saved_pictures(
    tiny_student_folder: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = (tiny_student_folder, "--reference", world, "--steps", "1", "--save-images", tmp_path / "kept")
    whole = evaluate(capsys, *common, "--samples", "6")
    kept = tmp_path / "kept"
    note = PngInfo()
    note.add_text("genin", Image.open(kept / "000000.png").info["genin"])
    marked = Image.new("RGB", (32, 32), "red")
    marked.save(kept / "000000.png", pnginfo=note)  # would be drawn again if it were not read
    (kept / "000004.png").unlink()
    drawn = (kept / "000002.png").read_bytes()
    (kept / "000002.png").write_bytes(drawn[:-20])  # cut off by a power cut, and below one without content
    (kept / "000003.png").write_bytes(b"")
    again = evaluate(capsys, *common, "--samples", "7")
    assert again["samples"] == 7 and len(list(kept.glob("*.png"))) == 7
    assert np.asarray(Image.open(kept / "000000.png"))[0, 0].tolist() == [255, 0, 0]
    assert np.array_equal(np.asarray(Image.open(kept / "000002.png")), np.asarray(Image.open(io.BytesIO(drawn))))
    assert not [path for path in kept.glob("*.png") if not is_intact(path)]
    rows = [json.loads(line) for line in (kept / "metadata.jsonl").read_text().splitlines()]
    assert [row["seed"] for row in rows] == list(range(7)) and whole["samples"] == 6
    evaluate(capsys, *common, "--samples", "2")
    assert len((kept / "metadata.jsonl").read_text().splitlines()) == 7  # fewer now are no reason to forget the others
    assert "other captions or seeds" in refused(capsys, *common, "--seed", "1")
    assert "other settings (steps)" in refused(capsys, *common[:3], "--steps", "2", "--save-images", kept)


def test_a_models_fingerprint_is_of_what_it_consists_of(tiny_model_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_model_folder, tmp_path / "copy")
    before = fingerprint(copy)
    (copy / "training").mkdir()
    (copy / "training" / "pool.safetensors").write_bytes(b"gigabytes of another kind")
    assert fingerprint(copy) == before == fingerprint(tiny_model_folder)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert fingerprint(copy) != before


def test_the_floor_is_the_autoencoders(
    tiny_model_folder: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = (tiny_model_folder, "--reference", world, "--samples", "8")
    floor = evaluate(capsys, *common, "--floor")
    assert floor["kind"] == "autoencoder" and floor["steps"] is None
    assert floor["samples"] == 8 and 0 < floor["psnr_db"] < 60 and floor["kid_world"] is not None
    samples = evaluate(capsys, *common, "--steps", "1")
    assert samples["pictures_sha256"] != floor["pictures_sha256"]
    assert "leaves no pictures to save" in refused(capsys, *common, "--floor", "--save-images", world.parent / "kept")
    assert "the reference is missing; name a dataset folder" in refused(capsys, tiny_model_folder)


def test_weights_are_hashed_once(
    tiny_student_folder: Path,
    world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hashed: list[Path] = []

    def counted(path: Path) -> str:
        hashed.append(path)
        return fingerprint(path)

    for module in ("model_facts", "quality.subjects"):
        monkeypatch.setattr(f"genin.benchmarks.{module}.fingerprint", counted, raising=False)
    result = evaluate(capsys, tiny_student_folder, "--reference", world, "--samples", "2", "--steps", "1")
    assert hashed == [tiny_student_folder]
    assert result["model_sha256"] == result["source_sha256"] == fingerprint(tiny_student_folder)
    hashed.clear()
    sheet = tmp_path / "sheet.png"
    assert run(["compare", str(tiny_student_folder), "--steps", "1", "--out", str(sheet)]) == 0
    assert not hashed, "a sheet says nothing of the weights"


@pytest.mark.parametrize("kept", [0, 60])
def test_a_damaged_bundle_is_refused_as_one(
    kept: int, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "student.genin"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("manifest.json", "{}" * 50)
    file.write_bytes(file.read_bytes()[:kept])
    what = "the bundle is damaged, or not copied or downloaded whole" if kept else "the file is empty"
    says = f"{what}: {file}; export or download it again"
    assert says in refused(capsys, file, "--reference", world)
    assert says in refused(capsys, world, "--reference", world, "--against", file)
    assert run(["generate", "a ninja", "-m", str(file), "--out", str(tmp_path / "x.png")]) == 2
    assert says in capsys.readouterr().err, "the same as of generate"


def test_a_value_of_the_wrong_kind_is_refused(
    tiny_student_folder: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(tiny_student_folder, tmp_path / "model")
    info = json.loads((folder / "genin.json").read_text())
    for wrong in ({"image_size": "5²"}, {"few_step_timesteps": {"²": [999]}}):
        (folder / "genin.json").write_text(json.dumps(info | wrong))
        line = refused(capsys, folder, "--reference", world)
        assert "genin.json" in line and str(folder) in line and line.endswith("re-create or re-download it")


def test_a_bundle_has_no_floor(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_fake_bundle(tmp_path / "bundle")
    assert "no encoder" in refused(capsys, tmp_path / "bundle", "--reference", world, "--floor")


def test_refusals_say_what_where_and_the_remedy(
    tiny_student_folder: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_student_folder
    assert "no such folder of weights" in refused(
        capsys, model, "--reference", world, "--metric-weights", tmp_path / "absent"
    )
    assert "absent" in refused(capsys, model, "--reference", tmp_path / "absent")
    bare = tmp_path / "bare"
    shutil.copytree(world, bare)
    (bare / "metadata.jsonl").unlink()
    assert "no captions" in refused(capsys, model, "--reference", bare)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    assert "not empty" in refused(capsys, model, "--reference", world, "--save-images", tmp_path / "full")
    with pytest.raises(InputError, match="unknown feature set"):
        load_suite(None, None, features=("clip",))


def test_a_split_of_the_reference_is_compared_with_alone(
    tiny_student_folder: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "split"
    shutil.copytree(world, folder)
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for index, row in enumerate(rows):
        row["split"] = ("train", "train", "val", "test")[index % 4]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    kept = tmp_path / "kept"
    result = evaluate(
        capsys, tiny_student_folder, "--reference", folder, "--split", "held-out", "--steps", "1", "--save-images", kept
    )
    held_out = [row["text"] for row in rows if row["split"] != "train"]
    assert result["samples"] == result["reference_count"] == len(held_out) == len(rows) // 2
    assert result["reference"].endswith("split (held-out)")
    assert [json.loads(line)["text"] for line in (kept / "metadata.jsonl").read_text().splitlines()] == held_out
    for row in rows:
        row["split"] = "train"
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert "no pictures in its val split" in refused(capsys, folder, "--reference", folder, "--split", "val")
    assert "no pictures in its train split" in refused(capsys, folder, "--reference", world, "--split", "train")


def test_broken_pictures_are_named(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "pictures"
    shutil.copytree(world, folder)
    (folder / "000003.png").write_bytes(b"not a picture")
    result = evaluate(capsys, folder, "--reference", world)
    assert result["samples"] == 11 and "000003.png" in result["notes"]["broken"]
    assert "own pictures" not in str(result["notes"])
    for picture in folder.glob("*.png"):
        content = (world / picture.name).read_bytes()
        picture.write_bytes(content[: len(content) // 2])  # its header is whole
    assert "no picture there can be read" in refused(capsys, folder, "--reference", world)
    assert "the reference's own pictures" in evaluate(capsys, world, "--reference", world)["notes"]["reference"]


@pytest.mark.parametrize(
    ("change", "used"),
    [
        ({}, True),
        ({"against_steps": 100}, True),
        ({"against_steps": 50}, False),
        ({"samples": 7}, False),
        ({"seed": 3}, False),
        ({"guidance_scale": 1.5}, False),
        ({"source_sha256": "another model"}, False),
        ({"reference_sha256": "another world"}, False),
    ],
)
def test_statistics_in_the_package_are_used_where_they_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], used: bool
) -> None:
    model = tmp_path / "teacher"
    model.mkdir()
    (model / "model_index.json").touch()
    source = {"samples": 8, "seed": 0, "steps": 100, "source_sha256": "teacher", "picture_size": 64}
    source |= {"reference": "builtin:world", "reference_sha256": "world", "guidance_scale": 2.0}
    sampler = SimpleNamespace(guidance_scale=change.get("guidance_scale", 2.0))
    monkeypatch.setattr(evaluation, "read_constants", lambda _path: SimpleNamespace(sampler=sampler))
    saved = save_statistics(tmp_path / "shipped.safetensors", {}, source)
    found = {"source_sha256": "teacher", "reference_sha256": "world", **change}
    monkeypatch.setattr(statistics_file, "fingerprint", lambda _path: found["source_sha256"])
    evaluator: Any = SimpleNamespace(
        samples=change.get("samples", 8),
        seed=change.get("seed", 0),
        reference_name="builtin:world",
        reference_at=lambda size: (None, {"reference_sha256": found["reference_sha256"]}),
    )
    names: Any = SimpleNamespace(teacher_statistics=lambda: saved, model=lambda _name: model)
    options = evaluation.EvaluateOptions(against="builtin:teacher", against_steps=change.get("against_steps"))
    against = evaluation._against("builtin:teacher", options, names, evaluator)
    assert against.path == (saved if used else model)

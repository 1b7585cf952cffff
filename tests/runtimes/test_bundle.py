"""Bundles: what is written is read; every planted fault is a BundleError that names it, and nothing lands outside."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genin.runtimes import bundle as bundles
from genin.runtimes.bundle import Bundle, GraphEntry, Manifest
from genin.runtimes.errors import BundleError
from genin.runtimes.manifest import check_path
from genin.runtimes.vocabulary import COMPONENTS
from tiny_bundle import edit_manifest

SCHEDULER = {"num_train_timesteps": 1000, "prediction_type": "v_prediction", "beta_schedule": "scaled_linear"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle whose graphs are a few bytes: sound to a reader, of no use to an engine."""
    root = tmp_path / "sound"
    graphs = []
    for component in COMPONENTS:
        place = f"onnx/fp32/{component}/model.onnx"
        (root / place).parent.mkdir(parents=True)
        (root / place).write_bytes(component.encode() * 100)
        (root / f"{place}_data").write_bytes(b"weights")
        graphs.append(
            GraphEntry(
                component=component,
                format="onnx",
                precision="fp32",
                path=place,
                files=(bundles.file_entry(root, place), bundles.file_entry(root, f"{place}_data")),
                inputs=(bundles.TensorSpec("sample", ("batch", 4, 8, 8), "float32"),),
                outputs=(),
                converter="by hand",
                stored="fp32",
                compute="fp32",
                opset=20,
                parity=bundles.Parity(99.5, 1e-6, 1.0, 90.0, "nothing"),
            )
        )
    whole, golden = "onnx/fp32/text_to_image_2/model.onnx", "golden/text_to_image_2.npz"
    for place in (whole, golden):
        (root / place).parent.mkdir(parents=True)
        (root / place).write_bytes(b"all of it")
    single = bundles.SingleGraphEntry(
        component="text_to_image",
        format="onnx",
        precision="fp32",
        path=whole,
        files=(bundles.file_entry(root, whole),),
        inputs=(bundles.TensorSpec("noise", ("batch", 4, 8, 8), "float32"),),
        outputs=(),
        converter="by hand",
        stored="fp32",
        compute="fp32",
        operations={"Conv": 3},
        steps=2,
        guidance_scale=1.0,
        golden=bundles.file_entry(root, golden),
    )
    (root / "README.md").write_text("# ninja 忍者\n", encoding="utf-8")
    manifest = Manifest(
        name="student",
        genin_version="0.1.0",
        model=bundles.ModelInfo(
            kind="student", licence="Apache-2.0", title="忍者", parameters=3, recipe={"a": [1, None]}
        ),
        image=bundles.ImageSize(64, 64),
        latents=bundles.Latents(4, 8, 8, 1.1),
        text=bundles.TextConstants(48, 16, 1, 0, 1),
        sampler=bundles.SamplerConstants(
            name="ddim",
            prediction_type="v_prediction",
            scheduler=SCHEDULER,
            default_steps=4,
            few_step_timesteps={"2": (999, 499), "1": (999,)},
            guidance="baked",
            guidance_scale=1.0,
        ),
        graphs=tuple(graphs),
        single_graphs=(single,),
        files=(bundles.file_entry(root, "README.md"),),
    )
    bundles.write_manifest(manifest, root)
    return root


@pytest.fixture
def packed(folder: Path, tmp_path: Path) -> Path:
    bundles.pack(folder, tmp_path / "sound.genin")
    return tmp_path / "sound.genin"


def test_what_is_written_is_read(folder: Path) -> None:
    with Bundle.open(folder) as bundle:
        text = (folder / "manifest.json").read_text(encoding="utf-8")
        assert bundle.manifest.to_json() == text
        assert next(iter(json.loads(text))) == "genin_bundle"
        bundle.check_hashes()
        assert bundle.manifest.precisions("onnx") == ("fp32",)
        assert bundle.manifest.precisions("openvino") == ()
        assert set(bundle.manifest.components("onnx", "fp32")) == set(COMPONENTS)


def test_a_packed_bundle_holds_the_same(folder: Path, packed: Path, tmp_path: Path) -> None:
    with Bundle.open(folder) as plain, Bundle.open(packed) as archive:
        assert archive.manifest == plain.manifest
        archive.check_hashes()
        graph = archive.manifest.graphs[0]
        local = archive.local_graph(graph)
        assert local.read_bytes() == (folder / graph.path).read_bytes()
        assert local.with_name("model.onnx_data").read_bytes() == b"weights"
    assert not local.exists()
    bundles.pack(folder, tmp_path / "again.genin")
    assert (tmp_path / "again.genin").read_bytes() == packed.read_bytes()


def test_unpacking_holds_a_piece_of_the_weights_at_a_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = folder / "weights.bin"
    with weights.open("wb") as stream:
        stream.truncate(64 << 20)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    entry = bundles.file_entry(folder, "weights.bin")
    manifest["files"].append({"path": entry.path, "sha256": entry.sha256, "size_bytes": entry.size_bytes})
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    asked: list[int] = []
    original = zipfile.ZipExtFile.read

    def read(self: zipfile.ZipExtFile, n: int | None = -1) -> bytes:
        asked.append(self._left if n is None or n < 0 else n)  # type: ignore[attr-defined]
        return original(self, n)

    monkeypatch.setattr(zipfile.ZipExtFile, "read", read)
    bundles.pack(folder, tmp_path / "large.genin")
    with Bundle.open(tmp_path / "large.genin") as bundle:
        assert bundle.local("weights.bin").stat().st_size == 64 << 20
    assert len(asked) > 64 and max(asked) <= 1 << 20


def test_graphs_that_are_folders(folder: Path) -> None:
    inside = "coreml/fp16/Unet.mlpackage/Data/weights.bin"
    (folder / inside).parent.mkdir(parents=True)
    (folder / inside).write_bytes(b"12345")
    with Bundle.open(folder) as bundle:
        entry = bundles.file_entry(folder, inside)
        package = dataclasses.replace(
            bundle.manifest.graphs[1], format="coreml", path="coreml/fp16/Unet.mlpackage", files=(entry,)
        )
        manifest = dataclasses.replace(bundle.manifest, graphs=(*bundle.manifest.graphs, package))
    bundles.write_manifest(manifest, folder)
    with Bundle.open(folder) as bundle:
        assert bundle.local_graph(package).samefile(folder / "coreml/fp16/Unet.mlpackage")
    with pytest.raises(BundleError, match="not among its own files"):
        dataclasses.replace(package, path="coreml/fp16/TextEncoder.mlpackage")


# --- planted faults: files -------------------------------------------------------------------------------------------

GRAPH = "onnx/fp32/unet/model.onnx"


def truncate(folder: Path) -> None:
    (folder / GRAPH).write_bytes((folder / GRAPH).read_bytes()[:-1])


def lengthen(folder: Path) -> None:
    (folder / GRAPH).write_bytes((folder / GRAPH).read_bytes() + b"x")


def remove(folder: Path) -> None:
    (folder / GRAPH).unlink()


def link(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere"
    shutil.move(folder / GRAPH, elsewhere)
    (folder / GRAPH).symlink_to(elsewhere)


def link_a_folder(folder: Path) -> None:
    shutil.move(folder / "onnx", folder.parent / "onnx")
    (folder / "onnx").symlink_to(folder.parent / "onnx")


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (truncate, f"'{GRAPH}' is truncated"),
        (lengthen, f"'{GRAPH}' is too large"),
        (remove, f"'{GRAPH}' is missing"),
        (link, f"'{GRAPH}' is a link"),
        (link_a_folder, "is a link, or behind one"),
        (lambda folder: (folder / "manifest.json").unlink(), "no manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "manifest.json").write_text("[" * 100_000), "not valid JSON"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "not the manifest of a genin bundle"),
    ],
)
def test_damaged_folders_are_refused(folder: Path, fault: Callable[[Path], Any], says: str) -> None:
    fault(folder)
    with pytest.raises(BundleError, match=says):
        Bundle.open(folder)


def test_changed_content_is_refused_where_it_is_used(folder: Path) -> None:
    content = (folder / GRAPH).read_bytes()
    (folder / GRAPH).write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with Bundle.open(folder) as bundle:
        with pytest.raises(BundleError, match=f"'{GRAPH}' is damaged or was changed"):
            bundle.check_hashes()
        assert [path for path, good in bundle.hash_report().items() if not good] == [GRAPH]
        with pytest.raises(BundleError, match="wrong sha256"):
            bundle.local_graph(bundle.manifest.components("onnx", "fp32")["unet"])
        bundle.local_graph(bundle.manifest.components("onnx", "fp32")["text_encoder"])


def test_links_of_the_hub_cache_are_read(folder: Path, tmp_path: Path) -> None:
    """The hub's client stores snapshots as links into its blobs; links anywhere else stay refused."""
    snapshot, blobs = tmp_path / "models--x" / "snapshots" / "abc", tmp_path / "models--x" / "blobs"
    blobs.mkdir(parents=True)
    for file in [path for path in folder.rglob("*") if path.is_file()]:
        blob = blobs / hashlib.sha256(str(file).encode()).hexdigest()
        shutil.copy(file, blob)
        place = snapshot / file.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(blob)
    with Bundle.open(snapshot) as bundle:
        bundle.check_hashes()
    (snapshot / GRAPH).unlink()
    (snapshot / GRAPH).symlink_to(folder / GRAPH)
    with pytest.raises(BundleError, match="link"):
        Bundle.open(snapshot)


# --- planted faults: the manifest ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        *(
            "../outside",
            "a/../../outside",
            "/etc/passwd",
            "C:/x",
            "C:\\x",
            "a\\b",
            "a//b",
            "./a",
            "a/.",
            "",
            "a/",
            "nul/\0",
        ),
        *("con", "onnx/NUL.txt", "CONOUT$", "lpt².txt", "a.", "a ", "a\nb", "x" * 300, "/".join("a" * 600), "\ud800"),
    ],
)
def test_hostile_paths_are_refused(folder: Path, path: str) -> None:
    with pytest.raises(BundleError, match="is refused"):
        check_path(path)
    edit_manifest(folder, "files", 0, "path", value=path)
    with pytest.raises(BundleError, match=r"is refused|not valid Unicode"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("keys", "value", "says"),
    [
        (("genin_bundle",), 2, "format 2, this genin reads 1.*update genin"),
        (("genin_bundle",), True, "not the manifest of a genin bundle"),
        (("name",), None, "name: 'None' is not of type str"),
        (("image", "height"), 10**9, "image: image height 1000000000 is outside"),
        (("image", "width"), 64.0, "width: '64.0' is not of type int"),
        (("latents", "scaling_factor"), 0, "scaling_factor must be positive"),
        (("latents", "height"), 1024, "no whole multiple of the latents"),
        (("image", "width"), 70, "no whole multiple of the latents"),
        (("latents", "scaling_factor"), float("nan"), "NaN is not a number"),
        (("model", "title"), "half \ud83e", "a text is not valid Unicode"),
        (("text", "max_length"), 10**9, "max_length"),
        (("sampler", "guidance"), "strong", "'strong' is not one of baked, free"),
        (("sampler", "name"), "euler", "not one of ddim"),
        (("sampler", "default_steps"), 0, "default_steps 0 is outside"),
        (("sampler", "few_step_timesteps"), {"2": [999]}, "has 1 timesteps"),
        (("sampler", "few_step_timesteps"), {"2": [499, 999]}, "is not decreasing"),
        (("sampler", "few_step_timesteps"), {"1": [1000]}, "timestep 1000 is outside"),
        (("sampler", "prediction_type"), "epsilon", "the scheduler says 'v_prediction'"),
        (("sampler", "scheduler", "num_train_timesteps"), "many", "not an integer"),
        (("graphs", 1, "component"), "unet2", "unknown component 'unet2'"),
        (("graphs", 1, "component"), "vae_decoder", "two graphs have the same"),
        (("graphs", 1, "path"), "onnx/fp32/other.onnx", "not among its own files"),
        (("graphs", 1, "files"), [], "not among its own files"),
        (("graphs", 1, "files", 0, "sha256"), "0" * 63, "64 hexadecimal digits"),
        (("graphs", 1, "files", 0, "size_bytes"), -1, "size_bytes -1"),
        (("graphs", 1, "inputs", 0, "shape"), [None], "shape"),
        (("image", "multiple"), 0.5, "multiple: '0.5' is not of type int"),
        (("image", "multiple"), 0, "multiple of the image size 0 is outside"),
        (("single_graphs", 0, "component"), "unet", "unknown component 'unet'"),
        (("single_graphs", 0, "steps"), 9, "steps of a single graph 9 is outside 1 … 8"),
        (("single_graphs", 0, "guidance_scale"), None, "guidance_scale"),
        (("single_graphs", 0, "golden", "path"), "../golden.npz", "is refused"),
        (("graphs", 0, "operations"), {"Conv": "many"}, "operations.Conv: 'many' is not of type int"),
        (("files",), {}, "files: not a list"),
        (("files", 0, "path"), "ONNX/fp32/unet/model.onnx", "listed twice"),
        (("files", 0, "path"), "manifest.json", "lists itself"),
        (("model",), [], "model: not an object"),
    ],
)
def test_wrong_manifests_are_refused(folder: Path, keys: tuple[str | int, ...], value: object, says: str) -> None:
    edit_manifest(folder, *keys, value=value)
    with pytest.raises(BundleError, match=says):
        Bundle.open(folder)


@pytest.mark.parametrize(
    "keys",
    [
        ("graphs", 0, "format"),
        ("graphs", 0, "component"),
        ("graphs", 0, "precision"),
        ("sampler", "guidance"),
        ("sampler", "prediction_type"),
    ],
)
def test_a_refusal_is_one_short_line(folder: Path, keys: tuple[str | int, ...]) -> None:
    edit_manifest(folder, *keys, value="a\nb" * 10_000)
    with pytest.raises(BundleError) as refused:
        Bundle.open(folder)
    assert len(refused.value.what) < 200 and "\n" not in str(refused.value)


def test_a_number_that_is_too_large_is_refused(folder: Path) -> None:
    """Python would read it as infinite, which JSON cannot say."""
    edit_manifest(folder, "model", "recipe", value="HERE")
    text = (folder / "manifest.json").read_text(encoding="utf-8").replace('"HERE"', '{"lr": -1e999}')
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(BundleError, match="-1e999 is not a number"):
        Bundle.open(folder)


def test_unknown_keys_are_ignored(folder: Path) -> None:
    edit_manifest(folder, "graphs", 0, "mood", value="calm")
    Bundle.open(folder).close()


def test_absent_keys_are_named(folder: Path) -> None:
    data = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    del data["graphs"][2]["precision"]
    (folder / "manifest.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(BundleError, match=r"graphs\[2\]: 'precision' is missing"):
        Bundle.open(folder)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200)
@given(data=st.data(), value=json_values)
def test_any_wrong_value_is_a_typed_error(data: st.DataObject, value: object) -> None:
    place: Any = json.loads(SOUND)
    root = place
    for _ in range(data.draw(st.integers(0, 4))):
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or not place[key]:
            break
        place = place[key]
    keys = list(place) if isinstance(place, dict) else list(range(len(place)))
    place[data.draw(st.sampled_from(keys))] = value
    try:
        Manifest.from_json(json.dumps(root))
    except BundleError as error:
        assert "\n" not in str(error)


SOUND = json.dumps(
    {
        "genin_bundle": 1,
        "name": "s",
        "genin_version": "0",
        "model": {"kind": "student", "licence": "x", "title": "t", "parent": None, "recipe": {"a": 1}},
        "image": {"height": 64, "width": 64},
        "latents": {"channels": 4, "height": 8, "width": 8, "scaling_factor": 1},
        "text": {"max_length": 8, "hidden_size": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
        "sampler": {
            "name": "ddim",
            "prediction_type": "epsilon",
            "scheduler": {"num_train_timesteps": 10},
            "default_steps": 2,
            "few_step_timesteps": {"1": [9]},
            "guidance": "free",
            "guidance_scale": 7.5,
        },
        "graphs": [
            {
                "component": "unet",
                "format": "onnx",
                "precision": "fp16",
                "path": "a",
                "files": [{"path": "a", "sha256": "0" * 64, "size_bytes": 1}],
                "inputs": [{"name": "x", "shape": ["batch", 4], "dtype": "float32"}],
                "outputs": [],
                "converter": "c",
                "stored": "fp16",
                "compute": "fp32",
                "parity": {"psnr_db": 1.0, "max_abs": 0, "cosine": 1, "floor_db": 0.5, "checked_with": "x"},
            }
        ],
    }
)


# --- planted faults: the archive -------------------------------------------------------------------------------------


def rewrite(source: Path, out: Path, change: Callable[[zipfile.ZipInfo, bytes, zipfile.ZipFile], None]) -> Path:
    """Copy an archive member by member; `change` writes each."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(out, "w") as new:
        for member in old.infolist():
            change(member, old.read(member), new)
    return out


def plant(name: str, *, mode: int = 0o644 | stat.S_IFREG, compress: int = zipfile.ZIP_STORED) -> Any:
    def change(member: zipfile.ZipInfo, content: bytes, new: zipfile.ZipFile) -> None:
        if member.filename == "manifest.json":
            extra = zipfile.ZipInfo(name)
            extra.external_attr, extra.compress_type = mode << 16, compress
            new.writestr(extra, b"planted")
        new.writestr(member, content)

    return change


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (plant("../../planted.txt"), "is refused"),
        (plant("/tmp/planted.txt"), "is refused"),
        (plant("a/../b"), "is refused"),
        (plant("manifest.json"), "in the archive twice"),
        (plant("README.MD"), "in the archive twice"),
        (plant("link", mode=0o777 | stat.S_IFLNK), "is a link or a special file"),
        (plant("pipe", mode=0o644 | stat.S_IFIFO), "is a link or a special file"),
        (plant("small", compress=zipfile.ZIP_DEFLATED), "compressed or encrypted"),
        (lambda m, content, new: new.writestr(m, content[:-1] if m.filename == GRAPH else content), "is truncated"),
        (lambda m, content, new: None if m.filename == GRAPH else new.writestr(m, content), "is missing"),
    ],
)
def test_hostile_archives_are_refused(packed: Path, tmp_path: Path, change: Any, says: str) -> None:
    hostile = rewrite(packed, tmp_path / "hostile.genin", change)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BundleError, match=says):
        Bundle.open(hostile)
    assert sorted(tmp_path.rglob("*")) == before


def test_members_that_overlap_are_refused(packed: Path, tmp_path: Path) -> None:
    """Ten names for the same bytes: small on disk, large when unpacked."""
    with zipfile.ZipFile(packed, "a") as archive:
        [graph] = [member for member in archive.infolist() if member.filename == GRAPH]
        for index in range(50):
            twin = zipfile.ZipInfo(f"twin{index}")
            twin.header_offset, twin.CRC = graph.header_offset, graph.CRC
            twin.file_size = twin.compress_size = graph.file_size
            archive.filelist.append(twin)
        archive._didModify = True  # type: ignore[attr-defined]
    with pytest.raises(BundleError, match="larger than the archive"):
        Bundle.open(packed)


def test_unpacking_that_was_interrupted_begins_anew(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(source: Any, target: Any, _length: int) -> None:
        target.write(source.read(1))
        raise KeyboardInterrupt

    with Bundle.open(packed) as bundle:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(shutil, "copyfileobj", interrupted)
            bundle.read_bytes("README.md")
        assert bundle.read_bytes("README.md")


def test_what_was_unpacked_and_is_in_use_does_not_keep_a_bundle_from_closing(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows a file that an engine has open cannot be removed."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "in use by another process")

    bundle = Bundle.open(packed)
    place = bundle.local("README.md")
    with monkeypatch.context() as patch:
        for name in ("unlink", "rmdir"):
            patch.setattr(os, name, refuse)
        bundle.close()
    shutil.rmtree(place.parent)


def test_a_file_that_was_changed_after_its_first_use_is_refused(folder: Path) -> None:
    with Bundle.open(folder) as bundle:
        before = bundle.local("README.md").read_bytes()
        (folder / "README.md").write_bytes(bytes(len(before)))
        with pytest.raises(BundleError, match=r"'README.md' is damaged or was changed"):
            bundle.local("README.md")


def test_changed_content_of_an_archive_is_refused(packed: Path, tmp_path: Path) -> None:
    def change(member: zipfile.ZipInfo, content: bytes, new: zipfile.ZipFile) -> None:
        new.writestr(member, content[::-1] if member.filename == GRAPH else content)

    hostile = rewrite(packed, tmp_path / "hostile.genin", change)
    with Bundle.open(hostile) as bundle, pytest.raises(BundleError, match="wrong sha256"):
        bundle.local(GRAPH)


def test_random_damage_is_a_typed_error(packed: Path, tmp_path: Path) -> None:
    draw, content = random.Random(0), packed.read_bytes()
    damaged = tmp_path / "damaged.genin"
    refused = 0
    for _ in range(300):
        data = bytearray(content[: draw.randrange(len(content))] if draw.random() < 0.2 else content)
        for _ in range(draw.randrange(1, 4)):
            if data:
                data[draw.randrange(len(data))] = draw.randrange(256)
        damaged.write_bytes(data)
        try:
            with Bundle.open(damaged) as bundle:
                bundle.check_hashes()
        except BundleError:
            refused += 1
    assert refused > 250


def test_other_files_are_not_bundles(tmp_path: Path) -> None:
    for content, says in (
        (b"nothing", "neither a model nor a bundle.*give a model folder"),
        (b"", "the file is empty.*download it again"),
        (b"PK\x03\x04 and no more", "the bundle is damaged, or not copied or downloaded whole"),
        (b"BMW is a car", "neither a model nor a bundle"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "neither a model nor a bundle"),
        (b"\xff\xd8\xff\xe0JFIF", "this is a picture, not a model or a bundle"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer.*git lfs pull"),
        (b'{"schema_version": 3}', "this is JSON, not a model or a bundle.*genin bench compare OLD NEW"),
        (b"<!DOCTYPE html>", "this is a web page, not a bundle"),
    ):
        (tmp_path / "x.genin").write_bytes(content)
        with pytest.raises(BundleError, match=says):
            Bundle.open(tmp_path / "x.genin")
    with pytest.raises(BundleError, match="no such bundle"):
        Bundle.open(tmp_path / "absent")
    assert bundles.is_bundle(tmp_path / "x.genin")  # it says so: opening it says what is wrong
    (tmp_path / "x.bin").write_bytes(b"nothing")
    assert not bundles.is_bundle(tmp_path / "x.bin")
    assert not bundles.is_bundle(tmp_path)

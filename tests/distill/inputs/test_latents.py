"""Encoded pictures: the same bits from any number of processes, interrupted or not; buckets; nothing stale or cut short is used."""

from __future__ import annotations

import json
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mapped import about_the_worker, killed, squares, until_the_end
from tunable import no_curves as no_curves

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from torch import Tensor  # noqa: E402

from genin.cli import run  # noqa: E402
from genin.dataset import files as picture_files  # noqa: E402
from genin.distill.data.aspect import bucket_of  # noqa: E402
from genin.distill.inputs import latents as latent_cache  # noqa: E402
from genin.distill.inputs import sources  # noqa: E402
from genin.distill.inputs.latents import LatentCache, cache_latents, latent_shape  # noqa: E402
from genin.distill.inputs.sources import FolderSource, WorldSource, captions_to_show, map_source, pictures_at  # noqa: E402
from genin.distill.inputs.tensor_file import TensorFile, create  # noqa: E402
from genin.distill.inputs.update import Update  # noqa: E402
from genin.distill.models import autoencoder  # noqa: E402
from genin.distill.models.folder import load_model_folder  # noqa: E402
from genin.runtimes.errors import GeninError, InputError  # noqa: E402

CPU = torch.device("cpu")
SCENES = 30
SHAPES = ((96, 48), (48, 96), (64, 64), (90, 50), (80, 60))


@pytest.fixture(scope="module")
def vae(tiny_model_folder: Path) -> Any:
    return load_model_folder(tiny_model_folder).vae


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four pictures, made in this process: what worker processes do is tested below."""
    monkeypatch.setattr(latent_cache, "CHUNK", 4)
    monkeypatch.setattr(sources, "FEW", 99)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pictures of five shapes and of different colours; the captions are their numbers."""
    path = tmp_path_factory.mktemp("shapes")
    chance, rows = np.random.default_rng(0), []
    for number in range(40):
        width, height = SHAPES[number % len(SHAPES)]
        pixels = chance.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(path / f"{number:03d}.png")
        rows.append({"file_name": f"{number:03d}.png", "text": f"number {number}", "split": "train"})
    (path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def cached(vae: Any, path: Path, count: int = SCENES) -> LatentCache:
    return cache_latents(WorldSource("train", SCENES), vae, count, 64, path)


class Encodings:
    """Counts what is encoded; stops before the call of number `stop`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop: int | None = None) -> None:
        self.pictures, self.calls, self.stop, self.encode = 0, 0, stop, autoencoder.encode_pictures
        monkeypatch.setattr(autoencoder, "encode_pictures", self)

    def __call__(self, vae: Any, pictures: Any, device: torch.device) -> Tensor:
        if self.calls == self.stop:
            raise KeyboardInterrupt
        self.calls += 1
        self.pictures += len(pictures)
        return self.encode(vae, pictures, device)


def test_autocast_makes_the_encoder_work_in_bf16(vae: Any) -> None:
    pictures = WorldSource("train", SCENES).pictures(0, SCENES, 64)
    wanted = autoencoder.encode_pictures(vae, pictures, CPU)
    with torch.autocast("cpu", torch.bfloat16):
        found = autoencoder.encode_pictures(vae, pictures, CPU)
    error = float((found.float() - wanted.float()).std() / wanted.float().std())
    assert found.dtype == torch.float16 and 0 < error < 0.02


def test_latents_are_those_of_the_pictures_in_order(vae: Any, tmp_path: Path) -> None:
    pictures = WorldSource("train", SCENES).pictures(0, SCENES, 64)
    found = cached(vae, tmp_path / "latents.safetensors")
    wanted = torch.cat([autoencoder.encode_pictures(vae, pictures[i : i + 4], CPU) for i in range(0, SCENES, 4)])
    assert torch.equal(found.latents, wanted) and found.latents.dtype == torch.float16 and len(found) == SCENES
    [stored] = load_file(tmp_path / "latents.safetensors").values()  # as any reader of the format sees it
    assert torch.equal(stored.permute(0, 3, 1, 2), wanted)
    assert found.latents[torch.tensor([3, 1])].is_contiguous(memory_format=torch.channels_last)
    assert [path.name for path in tmp_path.iterdir()] == ["latents.safetensors"]
    assert latent_shape(vae, 64, CPU) == tuple(wanted.shape[1:])


@pytest.mark.parametrize("stop", [1, 4, 8])
def test_an_interrupted_cache_goes_on_to_the_same_bits(
    vae: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    whole = cached(vae, tmp_path / "whole.safetensors")
    path = tmp_path / "latents.safetensors"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        Encodings(patch, stop)
        cached(vae, path)
    assert not path.exists()
    with (tmp_path / "latents.0.journal").open("a") as journal:
        journal.write("[1")  # the machine went down in the middle of a line
    again = Encodings(monkeypatch)
    assert torch.equal(cached(vae, path).latents, whole.latents)
    assert again.pictures == SCENES - 4 * (stop - 1)  # the first call looks at a few pictures' scale
    assert (tmp_path / "latents.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    cached(vae, path)
    assert again.pictures == SCENES - 4 * (stop - 1)


def test_a_chunk_without_its_line_is_encoded_again(vae: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that were on their way when the machine went down are not believed."""
    whole, path = cached(vae, tmp_path / "whole.safetensors"), tmp_path / "latents.safetensors"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        Encodings(patch, 5)
        cached(vae, path)
    journal = tmp_path / "latents.0.journal"
    journal.write_text("".join(line for line in journal.read_text().splitlines(True) if "2" not in line))
    partial = TensorFile(path.with_suffix(".partial"))
    partial.write("64x64", range(8, 12), torch.full((4, 16, 16, 4), 9.0).half())
    assert torch.equal(cached(vae, path).latents, whole.latents)


@pytest.mark.parametrize("suffix", [".safetensors", ".partial"])
def test_a_file_that_is_not_whole_is_made_anew(
    vae: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / "latents.safetensors"
    whole = cached(vae, path).latents.clone()
    damaged, content = path.with_suffix(suffix), path.read_bytes()
    for broken in (content[:-1000], content[:40], b"", b"\xff" * 200):
        path.unlink()
        damaged.write_bytes(broken)
        (tmp_path / "latents.0.journal").write_text("".join(f"[{number}]\n" for number in range(8)))
        again = Encodings(monkeypatch)
        assert torch.equal(cached(vae, path).latents, whole) and again.pictures >= SCENES


def test_another_count_or_encoder_is_another_cache(vae: Any, tmp_path: Path, tiny_model_folder: Path) -> None:
    path = tmp_path / "latents.safetensors"
    assert len(cached(vae, path, 10)) == 10 and len(cached(vae, path)) == SCENES
    other = load_model_folder(tiny_model_folder).vae
    with torch.no_grad():
        other.encoder.layers[0].weight.mul_(1.1)
    assert not torch.equal(cached(other, path).latents, cached(vae, path).latents)
    other.register_to_config(scaling_factor=0.8e-3)
    with pytest.raises(InputError, match=r"deviate by .* not by about 1.*scaling_factor is 0.0008; set it to"):
        cached(other, path)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_what_is_missing(vae: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: int) -> None:
    """Each alone, one after the other, with files as their only way to meet."""
    whole, path = cached(vae, tmp_path / "whole.safetensors"), tmp_path / "latents.safetensors"
    shares = []
    with monkeypatch.context() as patch:
        patch.setattr(latent_cache.Filling, "finish", lambda _self: None)
        # What all have read before anybody wrote.
        patch.setattr(latent_cache.Filling, "missing", lambda _self, chunks: list(chunks))
        for rank in range(world):
            patch.setattr(latent_cache, "rank_and_world", lambda rank=rank: (rank, world))
            counted = Encodings(patch)
            with pytest.raises(Exception, match="could not be read again"):
                cached(vae, path)
            patch.setattr(autoencoder, "encode_pictures", counted.encode)
            shares.append(counted.pictures - (SCENES if rank == 0 else 0))  # the first looks at scales
    assert sum(shares) == SCENES and min(shares) > 0
    again = Encodings(monkeypatch)
    assert torch.equal(cached(vae, path).latents, whole.latents) and again.pictures == 0


def test_shards_are_read_from_end_to_end(
    vae: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By place in the archive: a disk does not seek, and the latents are those of the folder."""
    pytest.importorskip("webdataset", reason="genin[data] is not installed")
    shards, read = tmp_path / "shards", []
    assert run(["data", "shard", str(folder), "--out", str(shards), "--per-shard", "15"]) == 0
    open_member = picture_files.open_member
    monkeypatch.setattr(picture_files, "open_member", lambda path: (read.append(path), open_member(path))[1])
    monkeypatch.setattr(sources, "usable_cores", lambda: 1)  # in this process, where it can be seen
    found = cache_latents(FolderSource(shards), vae, 40, 64, tmp_path / "shards.safetensors")
    order = []
    for archive in sorted(shards.glob("*.tar")):
        with tarfile.open(archive) as tar:
            members = sorted((member.offset, member.name) for member in tar if member.name.endswith(".png"))
        order += [archive / name for _, name in members]
    assert len(order) == 40 and read[-40:] == order  # those before were a look at the scale
    alike = cache_latents(FolderSource(folder), vae, 40, 64, tmp_path / "folder.safetensors")
    assert torch.equal(found.latents, alike.latents)


# --- buckets -----------------------------------------------------------------------------------------------------------


def fake_update(index: int, batch: int = 8, offset: int = 0, total: int = 8) -> Update:
    return Update(index, 0, batch, offset, total, torch.Generator().manual_seed(index), CPU)


def test_pictures_fall_into_buckets_by_their_own_shape(vae: Any, folder: Path, tmp_path: Path) -> None:
    source = FolderSource(folder)
    found = cache_latents(source, vae, 40, 64, tmp_path / "latents.safetensors", multiple=2)
    assert sorted(row for bucket in found.buckets for row in bucket.rows.tolist()) == list(range(40))  # type: ignore[union-attr]
    assert len(found.buckets) > 3 and len(found) == 40
    for bucket in found.buckets:
        assert bucket.rows is not None
        for row, latents in zip(bucket.rows.tolist(), bucket.latents, strict=True):
            shape = bucket_of(Image.open(folder / f"{row:03d}.png").size, 64, 8)
            assert latents.shape[-2:] == (shape[1] // 4, shape[0] // 4)
            alone = autoencoder.encode_pictures(vae, source.pictures_of([row], shape), CPU)[0]
            assert torch.allclose(latents.float(), alone.float(), atol=4e-3)


def test_an_update_sees_one_shape_and_every_picture_alike(vae: Any, folder: Path, tmp_path: Path) -> None:
    found = cache_latents(FolderSource(folder), vae, 40, 64, tmp_path / "latents.safetensors", multiple=2)
    place = {row: (b, i) for b, bucket in enumerate(found.buckets) for i, row in enumerate(bucket.rows.tolist())}  # type: ignore[union-attr]
    seen: Counter[int] = Counter()
    for index in range(2_000):
        rows, latents = found.draw(fake_update(index))
        assert len({place[row][0] for row in rows.tolist()}) == 1
        for row, x0 in zip(rows.tolist(), latents, strict=True):
            bucket, at = place[row]
            assert torch.equal(x0, found.buckets[bucket].latents[at].float())
        seen.update(rows.tolist())
        halves = [found.draw(fake_update(index, 4, offset)) for offset in (0, 4)]
        assert torch.equal(torch.cat([half[0] for half in halves]), rows)
    assert len(seen) == 40 and max(seen.values()) < 2 * min(seen.values())


def test_without_buckets_a_draw_is_what_it_was(vae: Any, tmp_path: Path) -> None:
    found, update, other = cached(vae, tmp_path / "latents.safetensors"), fake_update(3), fake_update(3)
    rows, latents = found.draw(update)
    wanted = other.randint(len(found))
    assert torch.equal(rows, wanted) and torch.equal(latents, found.latents[wanted].float())
    assert torch.equal(update.randn(2), other.randn(2))  # and the rest of the update's randomness is where it was


@pytest.mark.train
def test_tuning_on_buckets(
    tiny_model_folder: Path, folder: Path, tmp_path: Path, genin: Callable[..., dict[str, Any]]
) -> None:
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "tuned"
    recipe.write_text(
        "finetune: {images: 16, batch_size: 4, held_out_images: 0, aspect_buckets: true}\n", encoding="utf-8"
    )
    genin("teacher", "finetune", "--base", tiny_model_folder, "--data", folder, "--recipe", recipe, "--out", out)
    shapes = {tuple(one.shape[1:3]) for name, one in load_file(out / "training" / "latents.safetensors").items()}
    assert shapes >= {(8, 8), (6, 10), (10, 6)}
    rows = [json.loads(line) for line in (out / "training" / "finetune.log.jsonl").read_text().splitlines()]
    assert rows[-1]["images_seen"] == 16


def test_buckets_that_cannot_be_had(
    tiny_model_folder: Path, tmp_path: Path, vae: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("finetune: {images: 4, batch_size: 4, aspect_buckets: true}\n", encoding="utf-8")
    arguments = ["--base", str(tiny_model_folder), "--data", "builtin:world", "--recipe", str(recipe)]
    assert run(["teacher", "finetune", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert "aspect buckets need a dataset folder" in capsys.readouterr().err
    with pytest.raises(InputError, match="no shape but the square"):
        cache_latents(FolderSource(folder), vae, 40, 64, tmp_path / "latents.safetensors", multiple=16)


# --- files and cores ---------------------------------------------------------------------------------------------------


@given(st.permutations(range(12)), st.lists(st.integers(1, 11), max_size=4))
def test_rows_written_in_any_order_are_the_tensor(tmp_path_factory: Any, order: list[int], cuts: list[int]) -> None:
    path = tmp_path_factory.mktemp("file") / "x.safetensors"
    values, other = torch.randn(12, 3, 2).half(), torch.arange(5)
    create(path, {"a": (torch.float16, (12, 3, 2)), "b": (torch.int64, (5,))}, {"said": "ü"})
    file = TensorFile(path)
    bounds = sorted({0, 12, *cuts})
    for start, stop in pairwise(bounds):
        file.write("a", order[start:stop], values[torch.tensor(order[start:stop])])
    file.write("b", range(5), other)
    assert torch.equal(file.tensor("a"), values) and torch.equal(file.tensor("b"), other)
    stored = load_file(path)
    assert torch.equal(stored["a"], values) and torch.equal(stored["b"], other) and file.facts == {"said": "ü"}
    with pytest.raises(ValueError, match="rows of"):
        file.write("a", [0], values[:1, :2])


def test_a_file_larger_than_memory_is_mapped(tmp_path: Path) -> None:
    path, rows = tmp_path / "x.safetensors", 1 << 25  # 1 TiB: sparse, and nothing of it is read but a row
    try:
        create(path, {"a": (torch.float16, (rows, 4, 64, 64))}, {})
    except OSError:
        pytest.skip("this file system has no files as large as that")
    file = TensorFile(path)
    file.write("a", [rows - 1], torch.ones(1, 4, 64, 64).half())
    assert float(file.tensor("a")[torch.tensor([0, rows - 1])].sum()) == 4 * 64 * 64


def test_work_on_all_cores_comes_in_order_and_not_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "usable_cores", lambda: 2)
    monkeypatch.setattr(sources, "FEW", 4)
    source, taken = WorldSource("train", 3), 0

    def tasks() -> Iterator[tuple[int]]:
        yield from ((start,) for start in (1, 2, 3, 4, 5))

    assert list(map_source(squares, source, list(tasks()))) == [
        [s * s, (s + 1) ** 2, (s + 2) ** 2] for s in range(1, 6)
    ]
    assert list(map_source(squares, source, [])) == []
    with pytest.raises(InputError, match="unlucky: 13"):
        for _ in map_source(squares, source, [(n,) for n in (1, 2, 3, 4, 13, 6)]):
            taken += 1
    assert taken == 4


def test_what_is_left_ends_no_later_than_its_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "usable_cores", lambda: 2)
    monkeypatch.setattr(sources, "FEW", 4)
    results: Any = map_source(until_the_end, WorldSource("train", 3), [(n,) for n in range(8)])
    assert next(results) == 0
    began = time.monotonic()
    results.close()  # as Ctrl-C does
    assert time.monotonic() - began < 5


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_worker_that_is_killed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "usable_cores", lambda: 2)
    monkeypatch.setattr(sources, "FEW", 4)
    with pytest.raises(
        GeninError, match="was killed, as systems do where memory runs out: builtin:world; free some memory"
    ):
        list(map_source(killed, WorldSource("train", 3), [(n,) for n in range(8)]))


def test_workers_are_not_forked_and_load_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork would take over the locks of PyTorch's and rich's threads, but not the threads."""
    monkeypatch.setattr(sources, "usable_cores", lambda: 2)
    monkeypatch.setattr(sources, "FEW", 4)
    found = set(map_source(about_the_worker, WorldSource("train", 3), [(n,) for n in range(5)]))
    assert found == {("spawn", False, True)}


def test_loaded_pictures_are_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "CHUNK", 4)
    source = WorldSource("train", SCENES)
    assert np.array_equal(sources.load_pictures(source, 99, 32, tmp_path), source.pictures(0, SCENES, 32))
    assert not list(tmp_path.iterdir())  # its file has no name
    assert np.array_equal(pictures_at(source, [5, 2], (32, 32)), source.pictures(0, 6, 32)[[5, 2]])


def test_captions_of_grids_are_different_and_spread() -> None:
    class Captioned:
        def __len__(self) -> int:
            return 60

        def captions(self, indices: Sequence[int]) -> list[str]:
            return [["a drawing", "a fox", "a deer", "an owl"][index // 15] for index in indices]

    source: Any = Captioned()
    assert captions_to_show(source, 2) == ["a drawing", "a deer"]
    assert captions_to_show(source, 20) == ["a drawing", "a fox", "a deer", "an owl"]

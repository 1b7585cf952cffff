"""`runtimes/golden` against every implementation: tokens, noise, schedules, pictures. One contract, a subclass for each."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import struct
import subprocess
import warnings
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

import genin
from conftest import psnr_db
from genin.runtimes import tokenizer
from genin.runtimes.assigned import is_assigned
from genin.runtimes.noise import philox_normal, philox_words
from genin.runtimes.samplers import Schedule
from genin.runtimes.tokenizer import ClipTokenizer
from native_painter import NativePainter

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "runtimes" / "golden"
WEIGHTS = ROOT / "runtimes" / "weights"
GOLDEN = json.loads((FOLDER / "golden.json").read_text(encoding="utf-8"))
SAME_ENGINE_DB, OTHER_ENGINE_DB = 60.0, 40.0
PATIENCE_S = 60.0
BLOCKS = len(GOLDEN["tokens"]["sha256_of_blocks"])


@cache
def prompts() -> list[str]:
    lines = gzip.decompress((FOLDER / GOLDEN["tokens"]["prompts"]).read_bytes()).decode("ascii").splitlines()
    return [json.loads(line) for line in lines]


@cache
def tokenizer_files() -> tuple[Path, Path, Any]:
    bundle = WEIGHTS / GOLDEN["tokens"]["bundle"]
    text = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["text"]
    return bundle / "tokenizer" / "vocab.json", bundle / "tokenizer" / "merges.txt", SimpleNamespace(**text)


def sha256(array: NDArray[Any]) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


class PictureContract:
    """The pictures of a runtime."""

    floor_db: ClassVar[float] = SAME_ENGINE_DB

    def picture(self, asked: dict[str, Any]) -> NDArray[np.uint8]:
        raise NotImplementedError

    @pytest.mark.parametrize("golden", GOLDEN["pictures"], ids=lambda golden: golden["file"])
    def test_pictures(self, golden: dict[str, Any]) -> None:
        wanted = genin.Picture.open(FOLDER / golden["file"]).array
        assert psnr_db(self.picture(golden), wanted) >= self.floor_db


class GoldenContract(PictureContract):
    """What an implementation of the runtime gives."""

    def tokens(self, texts: list[str]) -> NDArray[np.int64]:
        raise NotImplementedError

    def words(self, seed: int, step: int, count: int) -> NDArray[np.uint32]:
        raise NotImplementedError

    def normals(self, seed: int, step: int, count: int) -> NDArray[np.float32]:
        raise NotImplementedError

    def walk(self, asked: dict[str, Any]) -> tuple[list[list[int]], NDArray[np.float32]]:
        raise NotImplementedError

    def test_tokens(self) -> None:
        found = self.tokens(prompts()).reshape(BLOCKS, -1)
        assert found.shape[1] * BLOCKS == len(prompts()) * tokenizer_files()[2].max_length
        first = np.array(GOLDEN["tokens"]["first"])
        assert np.array_equal(found[0][: first.size].reshape(first.shape), first)
        wrong = [
            number
            for number, block in enumerate(found)
            if sha256(block) != GOLDEN["tokens"]["sha256_of_blocks"][number]
        ]
        assert not wrong, f"blocks of {GOLDEN['tokens']['block']} prompts"

    @pytest.mark.parametrize("golden", GOLDEN["noise"], ids=lambda golden: f"{golden['seed']}-{golden['step']}")
    def test_noise(self, golden: dict[str, Any]) -> None:
        words = self.words(golden["seed"], golden["step"], golden["count"])
        normals = self.normals(golden["seed"], golden["step"], golden["count"])
        assert words[:8].tolist() == golden["words"] and sha256(words) == golden["words_sha256"]
        assert normals[:8].tolist() == golden["normals"] and sha256(normals) == golden["normals_sha256"]

    @pytest.mark.parametrize("golden", GOLDEN["schedules"])
    def test_schedules(self, golden: dict[str, Any]) -> None:
        pairs, x = self.walk(golden)
        assert pairs == golden["pairs"]
        assert np.allclose(x, golden["x"], rtol=1e-5, atol=1e-5)


def drawn(runtime: str, asked: dict[str, Any]) -> NDArray[np.uint8]:
    pytest.importorskip(runtime)
    with genin.load(WEIGHTS / asked["bundle"], runtime=runtime, threads=2) as pipe:
        return pipe(asked["prompt"], seed=asked["seed"], steps=asked["steps"]).array


class TestPython(GoldenContract):
    def tokens(self, texts: list[str]) -> NDArray[np.int64]:
        vocabulary, merges, text = tokenizer_files()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # prompts that are cut
            return ClipTokenizer(vocabulary.read_bytes(), merges.read_bytes(), text)(texts)

    def words(self, seed: int, step: int, count: int) -> NDArray[np.uint32]:
        return philox_words(seed, step, count)

    def normals(self, seed: int, step: int, count: int) -> NDArray[np.float32]:
        return philox_normal(seed, step, count)

    def walk(self, asked: dict[str, Any]) -> tuple[list[list[int]], NDArray[np.float32]]:
        schedule = Schedule.from_config(asked["scheduler"])
        pairs = schedule.steps(asked["steps"]) if "steps" in asked else schedule.explicit_steps(asked["timesteps"])
        x = philox_normal(0, 0, len(asked["x"]))
        for index, (t, t_next) in enumerate(pairs):
            x, _ = schedule.step(philox_normal(1, index, len(x)), x, t, t_next)
        return [list(pair) for pair in pairs], x

    def picture(self, asked: dict[str, Any]) -> NDArray[np.uint8]:
        return drawn("onnxruntime", asked)


class TestOpenVino(PictureContract):
    floor_db = OTHER_ENGINE_DB

    def picture(self, asked: dict[str, Any]) -> NDArray[np.uint8]:
        return drawn("openvino", asked)


@pytest.mark.export
@pytest.mark.skipif(shutil.which("cmake") is None or shutil.which("g++") is None, reason="needs cmake and g++")
class TestNative(GoldenContract):
    @pytest.fixture(autouse=True)
    def built(self, native_build: Path, ort: Path) -> None:
        self.build, self.engine = native_build, ort

    def probe(self, *arguments: object, stdin: bytes = b"") -> bytes:
        command = [str(self.build / "genin_probe"), *map(str, arguments)]
        return subprocess.run(command, input=stdin, capture_output=True, check=True, timeout=100).stdout

    def tokens(self, texts: list[str]) -> NDArray[np.int64]:
        vocabulary, merges, text = tokenizer_files()
        numbers = (text.max_length, text.bos_token_id, text.eos_token_id, text.pad_token_id)
        encoded = (one.encode() for one in texts)
        stdin = b"".join(struct.pack("<I", len(one)) + one for one in encoded)
        return np.frombuffer(self.probe("tokens", vocabulary, merges, *numbers, stdin=stdin), np.int64)

    def words(self, seed: int, step: int, count: int) -> NDArray[np.uint32]:
        return np.frombuffer(self.probe("words", seed, step, 0, count), np.uint32)

    def normals(self, seed: int, step: int, count: int) -> NDArray[np.float32]:
        return np.frombuffer(self.probe("normals", seed, step, count), np.float32)

    def walk(self, asked: dict[str, Any]) -> tuple[list[list[int]], NDArray[np.float32]]:
        found = self.probe("schedule", stdin=json.dumps(asked).encode())
        size = 4 * len(asked["x"])
        return np.frombuffer(found[:-size], np.int64).reshape(-1, 2).tolist(), np.frombuffer(found[-size:], np.float32)

    def picture(self, asked: dict[str, Any]) -> NDArray[np.uint8]:
        painter = NativePainter(self.build / "libgenin.so", self.engine, str(WEIGHTS / asked["bundle"]))
        try:
            ticket = painter.submit(asked["prompt"], asked["seed"], steps=asked["steps"])
            assert painter.wait(ticket, PATIENCE_S) == "ok"
            found = painter.take(ticket)
        finally:
            painter.close()
        assert found is not None
        return found.array


def test_the_vectors_cover_unicode() -> None:
    """Every assigned character outside the private areas is in a prompt."""
    seen = set("".join(prompts()))
    signs = (chr(code) for code in range(0x110000) if is_assigned(chr(code)))
    assert not [ascii(sign) for sign in signs if sign not in seen and tokenizer.unicodedata.category(sign) != "Co"]


def test_later_versions_of_unicode_change_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    later = pytest.importorskip("unicodedata2")
    assert later.unidata_version > "14.0.0"
    monkeypatch.setattr(tokenizer, "unicodedata", later)
    vocabulary, merges, text = tokenizer_files()
    added = [
        chr(code) for code in range(0x110000) if not is_assigned(chr(code)) and later.category(chr(code))[0] != "C"
    ]
    assert len(added) > 1000
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenize = ClipTokenizer(vocabulary.read_bytes(), merges.read_bytes(), text)
        block = tokenize(prompts()[:1000])
        assert (tokenize([f"a{sign}b" for sign in added]) == tokenize(["ab"])).all()
    assert sha256(block) == GOLDEN["tokens"]["sha256_of_blocks"][0]

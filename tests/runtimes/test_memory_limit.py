"""A limit on a bundle's memory: which networks stay loaded, what is refused, and that pictures stay the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import genin
from conftest import psnr_db
from genin.cli import run
from genin.runtimes import memory
from genin.runtimes.engine import BundleEngine
from genin.runtimes.errors import GeninError, InputError, OutOfMemoryError
from genin.runtimes.memory import MemoryLimit, Taken

MB = 1_000_000
FILES = {"text": 10 * MB, "unet": 40 * MB, "decoder": 5 * MB}


class Machine:
    """A limit whose networks take what `sizes` says; `run` is one network's turn, and records what is loaded. It is its own measure
    of memory: what is loaded now."""

    def __init__(self, limit: int, sizes: dict[str, Taken], monkeypatch: pytest.MonkeyPatch) -> None:
        self.limit = MemoryLimit(limit, FILES, {name: name for name in FILES})
        self.sizes, self.loaded, self.loads = sizes, list[str](), list[str]()
        self.peak, self.turn, self.before = 0, "", 0
        monkeypatch.setattr(memory, "release", lambda: None)
        monkeypatch.setattr(memory.Resident, "now", self.now)

    def now(self) -> Machine:
        self.before = self.held()
        return self

    def held(self) -> int:
        return sum(self.sizes[name].held for name in self.loaded)

    def taken_since(self, base: int) -> Taken:
        added, taken = self.held() - self.before, self.sizes[self.turn]
        return Taken(base + added, base + added + taken.peak - taken.held)

    def drop(self, name: Any) -> None:
        if name in self.loaded:
            self.loaded.remove(name)

    def run(self, name: str, side: int = 64, error: BaseException | None = None) -> None:
        with self.limit.running(name, [side], self.drop):
            if name not in self.loaded:
                self.loaded.append(name)
                self.loads.append(name)
            if error is not None:
                raise error
            self.turn = name
            self.peak = max(self.peak, self.held() + self.sizes[name].peak - self.sizes[name].held)

    def draw(self, pictures: int = 1, side: int = 64) -> list[str]:
        """What was loaded for the last of some pictures."""
        for _ in range(pictures):
            self.loads.clear()
            for name in ("text", "unet", "unet", "decoder"):
                self.run(name, side)
        return list(self.loads)


SIZES = {"text": Taken(20 * MB, 30 * MB), "unet": Taken(80 * MB, 120 * MB), "decoder": Taken(10 * MB, 60 * MB)}


@pytest.mark.parametrize(
    ("limit", "loads"),
    [
        (160 * MB, []),  # 20 + 10 + 120: all stay
        (149 * MB, ["decoder", "text"]),
        (121 * MB, ["text", "unet", "decoder"]),  # nothing beside the UNet's peak
    ],
)
def test_as_many_stay_as_fit(limit: int, loads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(limit, SIZES, monkeypatch)
    assert machine.draw() == ["text", "unet", "decoder"]
    assert sorted(machine.draw(3)) == sorted(loads)
    assert machine.peak <= limit


def test_another_size_is_measured_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(160 * MB, dict(SIZES), monkeypatch)
    machine.draw(2)
    machine.sizes["unet"] = Taken(80 * MB, 150 * MB)
    machine.draw(side=128)
    assert machine.peak <= 160 * MB
    assert machine.draw(side=128)  # not all fit beside the larger peak
    assert machine.peak <= 160 * MB


def test_a_network_that_is_too_large_by_itself_is_refused_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(100 * MB, SIZES, monkeypatch)
    for _ in range(2):
        machine.run("text")
        with pytest.raises(OutOfMemoryError, match=r"the unet takes 120 MB by itself.*more than max_memory 100 MB"):
            machine.run("unet")
        assert machine.loaded in (["text"], [])
    assert machine.loads.count("unet") == 1


@pytest.mark.parametrize("error", [KeyError(), KeyboardInterrupt()])
def test_a_failed_first_run_leaves_nothing_loaded(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stayed loaded would be in the reading before the next run, and so be measured as nothing."""
    machine = Machine(130 * MB, SIZES, monkeypatch)
    with pytest.raises(type(error)):
        machine.run("unet", error=error)
    assert machine.loaded == []
    machine.draw(3)
    assert machine.peak <= 130 * MB


def test_a_network_that_cannot_be_loaded_leaves_others_right(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(160 * MB, SIZES, monkeypatch)
    with pytest.raises(KeyError), machine.limit.running("unet", [64], machine.drop):
        raise KeyError
    machine.draw(3)
    assert machine.peak <= 160 * MB


def test_where_the_system_does_not_say_files_stand_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.Resident, "now", lambda: None)
    limit, dropped = MemoryLimit(140 * MB, FILES, {name: name for name in FILES}), list[Any]()
    for name in ("text", "unet", "decoder", "text"):
        with limit.running(name, [], dropped.append):
            pass
    assert dropped == ["text", "unet"]
    with (
        pytest.raises(GeninError, match="max_memory 110 MB"),
        MemoryLimit(110 * MB, FILES, dict.fromkeys(FILES, "x")).running("unet", [], dropped.append),
    ):
        pass


@pytest.fixture(params=["onnxruntime", "openvino"])
def runtime(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return str(request.param)


@contextmanager
def counted(pipeline: genin.Pipeline) -> Iterator[list[str]]:
    engine: Any = pipeline._engine
    assert isinstance(engine, BundleEngine)
    loads, load = list[str](), engine._loader.load
    object.__setattr__(engine._loader, "load", lambda graph: loads.append(graph.component) or load(graph))
    yield loads


def test_the_same_pictures(runtime: str) -> None:
    with genin.load("builtin:student", runtime=runtime, threads=1) as free:
        wanted = [picture.array for picture in free(["a ninja", "a happy ninja"], seed=7)]
    with genin.load("builtin:student", runtime=runtime, threads=1, max_memory=7 * MB) as limited:
        with counted(limited) as loads:
            try:
                drawn = limited(["a ninja", "a happy ninja"], seed=7)
            except GeninError as error:
                assert "by itself at this size, more than max_memory 7 MB" in str(error)
        assert loads
    with genin.load("builtin:student", runtime=runtime, threads=1, max_memory=2000 * MB) as limited:
        with counted(limited) as loads:
            drawn = limited(["a ninja", "a happy ninja"], seed=7)
            assert loads == ["text_encoder", "unet", "vae_decoder"]
            limited(["a ninja", "a happy ninja"], seed=7)
            limited(["a ninja", "a happy ninja"], seed=7)
            assert len(loads) <= 5  # each was loaded alone first, then all of them fit
        # Without its arena ONNX Runtime may sum in another order: a value may be rounded the other way.
        assert all(psnr_db(picture.array, other) >= 60 for picture, other in zip(drawn, wanted, strict=True))


def test_what_cannot_be() -> None:
    with pytest.raises(InputError, match=r"the weights of the text_encoder alone are 3 MB, more than max_memory 2 MB"):
        genin.load("builtin:student", runtime="onnxruntime", max_memory=2 * MB)
    with pytest.raises(InputError, match="max_memory must be"):
        genin.load("builtin:student", max_memory=0)
    with pytest.raises(InputError, match="max_memory is for bundles"):
        genin.load("builtin:teacher", max_memory=2 * MB)


def test_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.png"
    assert run(["generate", "a ninja", "--max-memory", "1MB", "--out", str(out)]) == 2
    assert "more than max_memory 1 MB" in capfd.readouterr().err
    assert not out.exists()

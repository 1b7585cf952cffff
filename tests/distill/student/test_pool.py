"""The teacher's pool: the same rows from any number of processes, interrupted, closed by time or made longer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from genin.distill.inputs.sources import WorldSource  # noqa: E402
from genin.distill.models import guided  # noqa: E402
from genin.distill.models.diffusion import Denoiser, Process  # noqa: E402
from genin.distill.models.folder import load_model_folder  # noqa: E402
from genin.distill.models.guided import Guided  # noqa: E402
from genin.distill.models.text import embed  # noqa: E402
from genin.distill.recipe import PoolRecipe, Recipe  # noqa: E402
from genin.distill.student import pool as pools  # noqa: E402
from genin.distill.student.budget import SHARES, Budget  # noqa: E402
from genin.distill.student.distillation import sample_held_out, sample_pool  # noqa: E402
from genin.distill.student.pool import Pool, build_pool  # noqa: E402
from genin.runtimes.errors import GeninError  # noqa: E402

RECIPE = PoolRecipe(size=10, teacher_steps=2, batch_size=2)
ROUNDING = 2e-3  # of float16 states, of batches that were put together in another way

Build = Callable[..., Pool]


@pytest.fixture(scope="module")
def teacher(tiny_model_folder: Path) -> Guided:
    model = load_model_folder(tiny_model_folder)
    device = torch.device("cpu")
    with torch.no_grad():
        empty = embed(model.text_encoder, model.tokenizer, [""], device)
    process = Process(model.scheduler_config, device)
    return Guided(Denoiser(model.unet, process), model.text_encoder, model.tokenizer, empty, device, 3.0)


@pytest.fixture
def build(teacher: Guided, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Build the pool in `path`, by a clock on which a batch takes a second; `build.rows` are the sizes of the batches that were
    sampled. `stop` raises after so many batches; `limit` is the time for sampling in seconds, over all runs."""
    sample = guided.sample
    rows: list[int] = []
    clock = [0.0]
    monkeypatch.setattr(pools, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def counted(unet: Any, process: Any, noise: Any, *arguments: Any, **options: Any) -> Any:
        rows.append(len(noise))
        clock[0] += 1.0
        return sample(unet, process, noise, *arguments, **options)

    monkeypatch.setattr(guided, "sample", counted)

    def call(
        recipe: PoolRecipe = RECIPE,
        path: Path = tmp_path / "pool.safetensors",
        *,
        stop: int | None = None,
        limit: float | None = None,
        fingerprint: str = "teacher",
    ) -> Pool:
        rows.clear()

        def time_is_up(done: int, size: int, seconds: float) -> bool:
            assert 0 < done <= size == recipe.size
            if len(rows) == stop:
                raise KeyboardInterrupt
            return limit is not None and seconds >= limit

        source = WorldSource("train", 7)
        return build_pool(teacher, source, recipe, path, fingerprint=fingerprint, time_is_up=time_is_up)

    call.rows = rows  # type: ignore[attr-defined]
    return call


def same(one: Pool, other: Pool) -> bool:
    return torch.equal(one.states, other.states) and torch.equal(one.x0, other.x0) and one.timesteps == other.timesteps


def test_a_pool_is_read_and_not_sampled_again(build: Any, tmp_path: Path) -> None:
    made = build()
    assert len(made) == 10 and build.rows == [2] * 5 and made.states.shape == (10, 3, 4, 8, 8)
    stored = load_file(tmp_path / "pool.safetensors")
    assert torch.equal(stored["states"], made.states) and torch.equal(stored["x0"], made.x0)
    assert [path.name for path in tmp_path.iterdir()] == ["pool.safetensors"] and made.seconds > 0
    assert same(build(), made) and build.rows == []
    assert same(build(replace(RECIPE, size=4)), Pool(made.states[:4], made.x0[:4], made.timesteps))
    build(fingerprint="another")
    assert sum(build.rows) == 10


def test_a_pool_of_another_seed_begins_in_other_noise(build: Any) -> None:
    one, other = build(), build(replace(RECIPE, seed=7))
    assert not torch.equal(one.states[:, 0], other.states[:, 0])


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_an_interrupted_pool_goes_on_to_the_same_bits(build: Any, tmp_path: Path, stop: int) -> None:
    whole = build(path=tmp_path / "whole.safetensors")
    with pytest.raises(KeyboardInterrupt):
        build(stop=stop)
    assert same(build(), whole) and sum(build.rows) == 10 - 2 * stop


def test_a_longer_pool_only_goes_on(build: Any) -> None:
    first = build()
    states = first.states.clone()
    longer = build(replace(RECIPE, size=14))
    assert len(longer) == 14 and torch.equal(longer.states[:10], states) and build.rows == [2, 2]
    assert longer.seconds >= first.seconds > 0


def test_a_pool_whose_time_is_up_goes_on_when_there_is_more_time(build: Any, tmp_path: Path) -> None:
    whole = build(path=tmp_path / "whole.safetensors")
    first = build(limit=3)
    assert len(first) == 6 and build.rows == [2] * 3 and first.seconds == 3
    assert same(build(limit=3), first) and same(build(replace(RECIPE, size=20), limit=2), first) and build.rows == []
    longer = build(limit=4)
    assert len(longer) == 8 and build.rows == [2] and longer.seconds == 4
    assert same(build(), whole) and build.rows == [2]


def test_time_spent_before_an_interruption_counts(build: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(limit=3, stop=2)
    assert len(build(limit=3)) == 6 and build.rows == [2]


@pytest.mark.parametrize("limit", [None, 2])
def test_processes_share_the_rows(
    build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    """Two by turns, both of which saw no rows when they began; the first, which merges, comes last."""
    whole = build(path=tmp_path / "whole.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(pools, "rank_and_world", lambda: (1, 2))
        patch.setattr(pools, "is_main_process", lambda: False)
        with pytest.raises(GeninError, match="could not be read again"):
            build(limit=limit)
        assert sum(build.rows) == (5 if limit is None else 4)  # of rows 1, 3, 5, 7, 9
        patch.undo()
        patch.setattr(pools, "rank_and_world", lambda: (0, 2))
        done_rows, seconds = pools.PoolParts.done_rows, pools.PoolParts.seconds
        patch.setattr(pools.PoolParts, "done_rows", lambda self: done_rows(self) if build.rows else set())
        build.rows.clear()
        patch.setattr(pools.PoolParts, "seconds", lambda self: seconds(self) if build.rows else 0.0)
        found = build(replace(RECIPE, batch_size=1), limit=3 if limit else None)  # rows 0, 2, 4
    assert len(found) == (10 if limit is None else 6)  # row 7 has no 6 before it
    assert torch.allclose(found.states.float(), whole.states[: len(found)].float(), atol=ROUNDING)
    assert torch.allclose(found.x0.float(), whole.x0[: len(found)].float(), atol=ROUNDING)


def test_other_processes_finish_what_was_begun(build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed as one of three; one alone goes on, with holes to fill."""
    whole = build(path=tmp_path / "whole.safetensors")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pools, "rank_and_world", lambda: (1, 3))
        build(stop=1)
    found = build()
    assert sum(build.rows) == 8 and len(found) == 10
    assert torch.allclose(found.states.float(), whole.states.float(), atol=ROUNDING)


@pytest.mark.parametrize("broken", [b"", b"no such file", None])
def test_a_part_that_is_not_whole_is_sampled_again(build: Any, tmp_path: Path, broken: bytes | None) -> None:
    whole = build(path=tmp_path / "whole.safetensors")
    with pytest.raises(KeyboardInterrupt):
        build(stop=3)
    part = tmp_path / "pool.parts" / "000000002.safetensors"
    part.write_bytes(part.read_bytes()[:-100] if broken is None else broken)
    assert same(build(), whole) and sum(build.rows) == 6


def test_parts_of_another_pool_are_left_out(build: Any, tmp_path: Path) -> None:
    whole = build(path=tmp_path / "whole.safetensors")
    with pytest.raises(KeyboardInterrupt):
        build(replace(RECIPE, seed=5), stop=3)
    assert same(build(), whole) and sum(build.rows) == 10


def test_a_disk_that_is_full_leaves_what_there_is(build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = build(path=tmp_path / "whole.safetensors")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("genin.distill.student.pool_parts.create", full)
        with pytest.raises(
            GeninError, match=r"cannot write .No space left.*; free some space, then run it again with resume"
        ):
            build()
    assert same(build(), whole) and build.rows == []


def test_a_run_with_more_minutes_samples_the_rest(teacher: Guided, tmp_path: Path) -> None:
    """Minutes for one batch at first; then the same again; then as long as it takes."""

    def sampled(minutes: float | None) -> int:
        run: Any = SimpleNamespace(
            recipe=Recipe(pool=RECIPE), source=WorldSource("train", 7), folder=tmp_path, teacher_fingerprint="teacher",
            budget=Budget(None if minutes is None else minutes / SHARES["pool"]),
        )  # fmt: skip
        return len(sample_pool(run, teacher, silent=True))

    assert [sampled(1e-9), sampled(1e-9), sampled(None)] == [2, 2, 10]


def test_held_out_pictures_take_no_longer_than_their_share_of_the_pools_minutes(
    teacher: Guided, tmp_path: Path
) -> None:
    def sampled(minutes: float | None, *phases: str) -> int:
        run: Any = SimpleNamespace(
            recipe=Recipe(pool=RECIPE), source=WorldSource("train", 7), folder=tmp_path, teacher_fingerprint="teacher",
            budget=Budget(None if minutes is None else minutes / SHARES["pool"]), phases=phases,
        )  # fmt: skip
        held_out = sample_held_out(run, teacher, silent=True)
        return 0 if held_out is None else len(held_out.pool)

    assert [sampled(1e-9, "prune"), sampled(None, "prune", "decoder"), sampled(None, "decoder")] == [
        2,
        7,
        0,
    ]  # of 7 captions

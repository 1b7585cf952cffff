"""An evaluation whose pictures two processes draw: the figures of one process, and each process its share of the work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genin.benchmarks import sampling
from genin.benchmarks.sampling import SamplingSettings, Share, claim_folder, draw_share, plan
from genin.cli import run

SHARED = Path(__file__).parents[2] / "shared" / "data" / "lpips_squeezenet"
SETTINGS = SamplingSettings("m", 1, 1.0, "pytorch", "fp32")
# The command as it is, and beside it a note of who saves which picture.
RECORDED = """
import os, sys
from pathlib import Path
from genin.benchmarks import sampling
save, log = sampling.save_picture, Path(os.environ["LOG"])
def recorded(path, picture, row):
    (log / f"{os.environ.get('RANK', 'alone')} {path.parent.name} {path.name}").touch()
    save(path, picture, row)
sampling.save_picture = recorded
from genin.cli import main
main()
"""
PROCESSES = ("-m", "torch.distributed.run", "--nproc_per_node", "2")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "reference"
    assert (
        run(["world", "render", "--count", "30", "--split", "test", "--captions", "complete", "--out", str(out)]) == 0
    )
    return out


def evaluate(
    tmp_path: Path, *arguments: str | Path, launcher: Sequence[str] = (), code: int = 0
) -> tuple[dict[str, Any], list[list[str]], str]:
    """(result, [process, folder, picture] of every one that was saved, what was said)."""
    pytest.importorskip("torch")
    log = tmp_path / f"log-{len(list(tmp_path.glob('log-*')))}"
    log.mkdir()
    program = tmp_path / "recorded.py"
    program.write_text(RECORDED, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, *launcher, str(program), "evaluate", *map(str, arguments), "--json"],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "LOG": str(log),
            "TORCH_HOME": str(tmp_path / "empty"),
            "GENIN_METRIC_WEIGHTS": str(SHARED if SHARED.is_dir() else tmp_path / "none"),
            "TMPDIR": str(tmp_path),
        },
    )
    assert (done.returncode == 0) == (code == 0), done.stderr[-2000:]
    lines = done.stdout.strip().splitlines()
    assert len(lines) == (1 if code == 0 else 0), "one report, whatever the number of processes"
    saved = [path.name.split() for path in sorted(log.iterdir())]
    return json.loads(lines[0]) if lines else {}, saved, done.stderr


def test_two_processes_measure_what_one_does(tiny_student_folder: Path, reference: Path, tmp_path: Path) -> None:
    """Also against another model, and with more samples than the reference has captions."""
    arguments = (tiny_student_folder, "--reference", reference, "--samples", "37", "--seed", "3", "--batch-size", "4")
    more = ("--steps", "2", "--against", tiny_student_folder, "--against-steps", "1")
    one, _, _ = evaluate(tmp_path, *arguments, *more)
    two, saved, _ = evaluate(tmp_path, *arguments, *more, launcher=PROCESSES)
    assert one["samples"] == 37 and one["kid_world"] is not None and one["against"]["samples"] == 37
    assert two == one
    for folder in ("pictures", "against"):
        shares = [{name for who, where, name in saved if (who, where) == (rank, folder)} for rank in "01"]
        assert not shares[0] & shares[1] and len(shares[0] | shares[1]) == 37
        assert [len(share) for share in shares] == [20, 17], "batches of four, in turns"
    assert not list(tmp_path.glob("genin-evaluate-*")), "pictures that nobody asked for do not stay"


def test_saved_pictures_are_those_of_one_process_and_are_gone_on_with(
    tiny_student_folder: Path, reference: Path, tmp_path: Path
) -> None:
    arguments = (tiny_student_folder, "--reference", reference, "--steps", "1", "--batch-size", "4")
    kept = tmp_path / "two"
    evaluate(tmp_path, *arguments, "--samples", "10", "--save-images", kept)
    shutil.copytree(kept, tmp_path / "one")
    one, _, _ = evaluate(tmp_path, *arguments, "--samples", "20", "--save-images", tmp_path / "one")
    two, saved, _ = evaluate(tmp_path, *arguments, "--samples", "20", "--save-images", kept, launcher=PROCESSES)
    assert two == one
    mine = {name for _, where, name in saved if where == "two"}
    assert mine == {f"{n:06d}.png" for n in range(10, 20)}, "those that were there are not drawn again"
    files = sorted(path.relative_to(kept) for path in kept.rglob("*") if path.is_file())
    assert files == sorted(
        path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()
    )
    assert all((kept / file).read_bytes() == (tmp_path / "one" / file).read_bytes() for file in files)


def test_what_is_not_drawn_is_measured_by_the_first_alone(reference: Path, tmp_path: Path) -> None:
    arguments = (reference, "--reference", reference)
    one, _, _ = evaluate(tmp_path, *arguments)
    two, saved, _ = evaluate(tmp_path, *arguments, launcher=PROCESSES)
    assert two == one and not saved


def test_a_refusal_ends_all_of_them(tiny_student_folder: Path, reference: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    arguments = (tiny_student_folder, "--reference", reference, "--samples", "4", "--save-images", tmp_path / "full")
    _, saved, said = evaluate(tmp_path, *arguments, launcher=PROCESSES, code=2)
    assert "genin: the folder is not empty" in said and not saved
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(1, 40), batch=st.integers(1, 9), of=st.integers(1, 5), there=st.sets(st.integers(0, 39)))
def test_shares_are_whole_batches_each_drawn_once(
    tmp_path_factory: pytest.TempPathFactory, count: int, batch: int, of: int, there: set[int]
) -> None:
    """As one process would draw them: the same batches, without what is there."""
    rows = plan(["a fox", "a crane"], count, 1, [{}, {}])
    there = {index for index in there if index < count}

    def drawn(shares: int) -> list[tuple[int, ...]]:
        folder = tmp_path_factory.mktemp("shares") / "pictures"
        claim_folder(folder, SETTINGS)
        for index in there:
            sampling.save_picture(folder / rows[index].file_name, np.zeros((8, 8, 3), np.uint8), rows[index])
        calls: list[tuple[int, ...]] = []

        def generate(_: Sequence[str], *, seeds: Sequence[int], **__: Any) -> Any:
            calls.append(tuple(seeds))
            return SimpleNamespace(images=np.zeros((len(seeds), 8, 8, 3), np.uint8))

        for number in range(shares):
            pipeline: Any = SimpleNamespace(generate=generate)
            draw_share(pipeline, rows, SETTINGS, folder, Share(number, shares), batch_size=batch)
        assert len(list(folder.glob("*.png"))) == count
        return sorted(calls)

    assert drawn(of) == drawn(1)
    assert sum(map(len, drawn(of))) == count - len(there)

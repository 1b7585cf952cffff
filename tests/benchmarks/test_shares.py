"""An evaluation whose pictures two processes draw: the figures of one process, and each process its share of the work."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genin.benchmarks import evaluation
from genin.benchmarks.quality import sampling
from genin.benchmarks.quality.measures import load_suite
from genin.benchmarks.quality.sampling import SamplingSettings, Share, claim_folder, draw_share, plan
from genin.cli import run

SHARED = Path(__file__).parents[3] / "shared" / "data" / "lpips_squeezenet"
SETTINGS = SamplingSettings("m", 1, 1.0, "pytorch", "fp32")
PROGRAM = Path(__file__).parents[1] / "helpers" / "evaluations.py"


@dataclass(frozen=True)
class Shared:
    """What two processes printed and saved, by the name of the command, and what one process printed for the same commands."""

    folder: Path
    stderr: str
    code: int
    printed: dict[str, list[str]]
    saved: dict[str, list[set[tuple[str, str]]]]
    alone: dict[str, dict[str, Any]]

    def result(self, name: str) -> Any:
        first, second = self.printed[name]
        assert not second, "one report, whatever the number of processes"
        return json.loads(first)


@pytest.fixture(scope="module")
def shared(tiny_student_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """All commands one after another in one launch of two processes, the one that is refused last."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("shares")
    reference = folder / "reference"
    render = ["world", "render", "--count", "10", "--split", "test", "--captions", "complete", "--out", str(reference)]
    assert run(render) == 0
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("mine")
    drawn = [str(tiny_student_folder), "--reference", str(reference), "--batch-size", "2"]
    against = [*drawn, "--samples", "13", "--seed", "3", "--steps", "2"]
    against += ["--against", str(tiny_student_folder), "--against-steps", "1"]
    kept = [*drawn, "--steps", "1", "--save-images"]
    commands = {
        "against": against,
        "kept": [*kept, str(folder / "kept"), "--samples", "9"],
        "pictures": [str(reference), "--reference", str(reference)],
        "refused": [*drawn, "--samples", "4", "--save-images", str(folder / "full")],
    }
    environment = {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TORCH_HOME": str(folder / "empty"),
        "GENIN_METRIC_WEIGHTS": str(SHARED) if SHARED.is_dir() else "",
    }

    def alone(*arguments: str) -> dict[str, Any]:
        printed = io.StringIO()
        with redirect_stdout(printed):
            assert run(["evaluate", *arguments, "--json"]) == 0
        result: dict[str, Any] = json.loads(printed.getvalue())
        return result

    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(evaluation, "load_suite", partial(load_suite, features=("world",)))  # as in `evaluations.py`
        alone(*kept, str(folder / "kept"), "--samples", "5")
        shutil.copytree(folder / "kept", folder / "kept alone")
        by_one = {name: alone(*commands[name]) for name in ("against", "pictures")}
        by_one["kept"] = alone(*kept, str(folder / "kept alone"), "--samples", "9")
    (folder / "commands.json").write_text(json.dumps(commands))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(PROGRAM), str(folder)]
    (folder / "temporary").mkdir()
    environment |= {"TMPDIR": str(folder / "temporary")}
    done = subprocess.run(
        launch, capture_output=True, text=True, timeout=400, check=False, env={**os.environ, **environment}
    )
    ranks = [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]
    nothing = ("", ())  # of a process that was ended
    found = {name: [rank.get(name, nothing) for rank in ranks] for name in commands}
    return Shared(
        folder,
        done.stderr,
        done.returncode,
        {name: [printed for printed, _ in of_ranks] for name, of_ranks in found.items()},
        {name: [{tuple(picture) for picture in saved} for _, saved in of_ranks] for name, of_ranks in found.items()},
        by_one,
    )


@pytest.mark.processes
def test_two_processes_measure_what_one_does(shared: Shared) -> None:
    """Also against another model, and with more samples than the reference has captions."""
    one = shared.alone["against"]
    assert one["samples"] == 13 and one["kid_world"] is not None and one["against"]["samples"] == 13
    assert shared.result("against") == one
    for folder in ("pictures", "against"):
        shares = [{name for where, name in saved if where == folder} for saved in shared.saved["against"]]
        assert not shares[0] & shares[1] and len(shares[0] | shares[1]) == 13
        assert [len(share) for share in shares] == [7, 6], "batches of two, in turns"
    assert not list((shared.folder / "temporary").glob("genin-evaluate-*")), (
        "pictures that nobody asked for do not stay"
    )


@pytest.mark.processes
def test_saved_pictures_are_those_of_one_process_and_are_gone_on_with(shared: Shared) -> None:
    assert shared.result("kept") == shared.alone["kept"]
    mine = {name for saved in shared.saved["kept"] for where, name in saved if where == "kept"}
    assert mine == {f"{n:06d}.png" for n in range(5, 9)}, "those that were there are not drawn again"
    by_two, by_one = (files(shared.folder / name) for name in ("kept", "kept alone"))
    assert by_two == by_one


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.processes
def test_what_is_not_drawn_is_measured_by_the_first_alone(shared: Shared) -> None:
    assert shared.result("pictures") == shared.alone["pictures"]
    assert shared.saved["pictures"] == [set(), set()]


@pytest.mark.processes
def test_a_refusal_ends_all_of_them(shared: Shared) -> None:
    assert shared.code != 0 and "genin: the folder is not empty" in shared.stderr
    assert shared.printed["refused"] == ["", ""] and shared.saved["refused"] == [set(), set()]
    assert [path.name for path in (shared.folder / "full").iterdir()] == ["mine.txt"]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
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

        def generate(_: Sequence[str], *, seed: Sequence[int], **__: Any) -> Any:
            calls.append(tuple(seed))
            return SimpleNamespace(images=np.zeros((len(seed), 8, 8, 3), np.uint8))

        for number in range(shares):
            pipeline: Any = SimpleNamespace(generate=generate)
            draw_share(pipeline, rows, SETTINGS, folder, Share(number, shares, batch))
        assert len(list(folder.glob("*.png"))) == count
        return sorted(calls)

    assert drawn(of) == drawn(1)
    assert sum(map(len, drawn(of))) == count - len(there)

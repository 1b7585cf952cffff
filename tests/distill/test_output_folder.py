"""The folder that a training writes: what a refused command removes of it, and what it must not."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from genin.distill.commands import _output
from genin.distill.loop import run_folder
from genin.distill.teacher.text_encoder import AttributeHeads
from genin.files import atomic_path
from genin.runtimes.errors import InputError

pytestmark = pytest.mark.unit


def refused(out: Path, *files: str, claimed: bool) -> None:
    """A command that is refused when `files` are there already, by itself or by another one that has the folder's lock."""
    with pytest.raises(InputError), _output(out, False) as target:
        (target / "training").mkdir(parents=True)
        if claimed:
            run_folder._lock(target / "training")
        for name in files:
            (target / "training" / name).touch()
        raise InputError("refused")


def test_a_folder_of_a_refused_training_is_removed(tmp_path: Path) -> None:
    refused(tmp_path / "out", "run.json", claimed=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", ["teacher.checkpoint.pt", "pool.partial", "latents.partial"])
def test_work_is_never_removed(tmp_path: Path, file: str) -> None:
    refused(tmp_path / "out", file, claimed=True)
    assert (tmp_path / "out" / "training" / file).exists()


def test_another_commands_folder_is_not_removed(tmp_path: Path) -> None:
    """Both were started at once; this one found the other's lock."""
    refused(tmp_path / "out", "run.json", claimed=False)
    assert (tmp_path / "out" / "training" / "run.json").exists()


def test_columns_may_have_the_names_of_a_modules_attributes() -> None:
    import torch
    from torch import nn

    class Encoder(nn.Module):
        def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor]:
            return (torch.zeros(*ids.shape, 8),)

    names = ("type", "keys", "train", "a.b", "")
    heads = AttributeHeads(Encoder(), dict.fromkeys(names, ("x", "y")), 8)
    assert {name: logits.shape for name, logits in heads(torch.zeros(2, 3)).items()} == dict.fromkeys(names, (2, 3))


def test_a_file_in_the_way_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from genin.cli import run

    (tmp_path / "file").touch()
    assert run(["world", "render", "--count", "1", "--out", str(tmp_path / "file" / "x")]) == 2
    said = capsys.readouterr().err
    assert "File exists" in said and "unexpected" not in said


def test_a_resumed_run_removes_the_temporary_files_of_a_killed_one(tmp_path: Path) -> None:
    places: list[Path] = []
    with pytest.raises(KeyError), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # a process that is killed removes nothing
        with atomic_path(tmp_path / "steps.samples-00000040.png") as partial:
            places.append(partial)
            raise KeyError
    others = [tmp_path / name for name in ("pool.partial", "latents.partial", ".mine.partial", "steps.log.jsonl")]
    for path in others:
        path.touch()
    assert places[0].exists()
    run_folder._lock(tmp_path)
    assert not places[0].exists() and all(path.exists() for path in others)

"""Files appear whole or not at all, under names that nobody else uses, with the permissions of any new file."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest

from genin.files import new_folder
from genin.runtimes.errors import GeninError, InputError
from genin.runtimes.files import (
    atomic_path,
    claim_output,
    cut_to_bytes,
    refusal_of_size,
    refused_write,
    reserve,
    write_text,
)
from genin.runtimes.generation import GenerateOptions, claimed, generate, output_paths
from genin.runtimes.manifest import check_path
from genin.runtimes.pictures import Picture


def test_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with atomic_path(path) as partial:
        partial.write_text("half")
        assert not path.exists() and partial.parent == path.parent
        partial.write_text("whole")
    assert path.read_text() == "whole" and [entry.name for entry in path.parent.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(error), atomic_path(path) as partial:
        partial.write_text("half")
        raise error
    assert path.read_text() == "old" and [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_link_that_leads_nowhere_is_refused_before_the_work(tmp_path: Path) -> None:
    from genin.distill.commands import _target
    from genin.export.exporter import _check_out

    (tmp_path / "out").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match="already exists"), new_folder(tmp_path / "out"):
        raise AssertionError
    with pytest.raises(InputError, match="already exists"):
        _check_out(tmp_path / "out")
    with pytest.raises(InputError, match="leads nowhere"):
        _target(tmp_path / "out", resume=False)


def test_two_writers_of_one_file_do_not_share_a_name(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_path(path) as one:
        with atomic_path(path) as other:
            assert one != other
            other.write_text("second")
        one.write_text("first")
    assert path.read_text() == "first" and [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_what_a_killed_writer_left_under_a_fixed_name_is_overwritten(tmp_path: Path) -> None:
    path, partial = tmp_path / "a.txt", tmp_path / "a.partial"
    partial.write_text("a killed writer's half of a longer text")
    with atomic_path(path, partial=partial) as given:
        assert given == partial
        given.write_text("whole")
    assert path.read_text() == "whole" and [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_long_name_fits(tmp_path: Path) -> None:
    path = tmp_path / ("忍" * 80 + ".txt")  # 244 of the 255 bytes that most file systems allow
    write_text(path, "x")
    assert path.read_text() == "x"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no umask")
def test_permissions_are_those_of_a_new_file_whatever_the_writer_gives(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("x")
    with atomic_path(tmp_path / "a") as partial:
        partial.write_text("x")
        partial.chmod(0o600)
    assert (tmp_path / "a").stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("name", ["忍" * 85, "𝓷" * 63 + "abc", "a" * 255, "é" * 127 + "a"], ids=["3", "4", "1", "2"])
def test_names_of_255_bytes_fit(tmp_path: Path, name: str) -> None:
    assert len(name.encode()) == 255
    write_text(tmp_path / name, "x")
    with new_folder(tmp_path / "beside" / name) as folder:
        (folder / "a.txt").write_text("y")
    assert (tmp_path / name).read_text() == "x" and (tmp_path / "beside" / name / "a.txt").read_text() == "y"
    assert [entry.name for entry in (tmp_path / "beside").iterdir()] == [name]


def test_a_cut_name_ends_with_a_whole_character() -> None:
    assert [cut_to_bytes("a忍b", limit) for limit in range(6)] == ["", "a", "a", "a", "a忍", "a忍b"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limits")
def test_what_the_system_refuses_is_told_apart(tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        too_large = refusal_of_size(tmp_path, 1 << 21)
        with pytest.raises(OSError) as raised, atomic_path(tmp_path / "a") as partial:
            partial.write_bytes(bytes(1 << 21))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert too_large is not None and too_large.errno == raised.value.errno == errno.EFBIG
    refused = refused_write(raised.value, tmp_path / "a")
    assert refused is not None and refused.exit_code == 1
    assert str(refused).startswith(f"cannot write (File too large): {tmp_path / 'a'}; ")
    assert refusal_of_size(tmp_path, 1 << 21) is None and list(tmp_path.iterdir()) == []
    full = refusal_of_size(tmp_path, 1 << 60)
    assert full is not None and full.errno == errno.ENOSPC
    assert refused_write(FileNotFoundError(errno.ENOENT, "No such file")) is None


def test_reserved_space_is_the_files(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w+b") as file:
        reserve(file, 0)
        reserve(file, 5000)
        assert file.seek(0, 2) in (0, 5000)


@pytest.mark.parametrize(
    "prompt", ["𝓷𝓲𝓷𝓳𝓪" * 12, "忍" * 60, "é" * 200, "a" * 5000, "con", "../../etc", "a:b\\c. .", "", "NUL.txt"]
)
def test_pictures_named_after_a_prompt_have_names_for_every_system(prompt: str, tmp_path: Path) -> None:
    places = output_paths(tmp_path, prompt, range(2**64 - 3, 2**64 - 1))
    for place in places.values():
        assert place.parent == tmp_path and len(place.name.encode()) <= 220
        assert check_path(place.name) == place.name


def test_two_commands_at_once_get_names_of_their_own(tmp_path: Path) -> None:
    """Both have looked for a free name before either has drawn."""
    first, second = (output_paths(tmp_path, "a ninja", range(1))[0] for _ in range(2))
    assert first == second
    assert [claimed(first).name, claimed(second).name] == ["a-ninja-0.png", "a-ninja-0 (2).png"]


@pytest.mark.timeout(10)
def test_a_link_to_nothing_is_no_free_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    assert claimed(tmp_path / "a.png").name == "a (2).png"


def test_a_picture_that_cannot_be_saved_leaves_no_empty_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")

    def full(picture: Picture, path: Path) -> Path:
        raise GeninError("the disk is full", where=path)

    monkeypatch.setattr(Picture, "save", full)
    with pytest.raises(GeninError, match="the disk is full"):
        generate("a ninja", GenerateOptions(model="builtin:student-1step", runtime="onnxruntime", out=tmp_path))
    assert not any(tmp_path.iterdir())
    (tmp_path / "file").touch()
    assert claimed(tmp_path / "file" / "a.png").name == "a.png"  # no folder: saving says so


def test_an_output_whose_name_is_too_long_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too long"):
        claim_output(tmp_path / f"{'a' * 300}.png", ".png")

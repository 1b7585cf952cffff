"""Files appear whole or not at all, under names that nobody else uses, with the permissions of any new file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from genin.runtimes.files import atomic_path, write_text


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

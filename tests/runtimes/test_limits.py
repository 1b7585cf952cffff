"""Cores and memory that control groups grant, by files as version 2, version 1 and containers lay them out."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from genin.cli import run
from genin.runtimes import limits, threads


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(limits, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(limits, "MEMBERSHIP", tmp_path / "membership")
    return tmp_path / "groups"


def lay(root: Path, membership: str, files: dict[str, str]) -> None:
    (root.parent / "membership").write_text(membership)
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content + "\n")


@pytest.mark.parametrize(
    ("membership", "files", "cores", "memory"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "150000 100000", "a/memory.max": "1000000"}, 1.5, 1_000_000),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/b/memory.max": "max"}, None, None),
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "200000 100000"}, 2.0, None),
        # A container sees its own group at the root, under the path that it has outside.
        ("0::/../docker/x\n", {"cpu.max": "50000 100000", "memory.max": "7"}, 0.5, 7),
        (
            "4:memory:/job\n2:cpu,cpuacct:/job\n",
            {
                "cpu,cpuacct/job/cpu.cfs_quota_us": "300000",
                "cpu,cpuacct/job/cpu.cfs_period_us": "100000",
                "memory/job/memory.limit_in_bytes": "2000000",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            3.0,
            2_000_000,
        ),
        ("2:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None, None),
        ("damaged", {"cpu.max": "100000"}, None, None),
        ("", {}, None, None),
    ],
)
def test_limits_of_groups(
    groups: Path, membership: str, files: dict[str, str], cores: float | None, memory: int | None
) -> None:
    lay(groups, membership, files)
    assert (limits.core_quota(), limits.memory_limit_bytes()) == (cores, memory)


def test_a_quota_bounds_threads_unless_the_user_says_otherwise(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "available_cores", lambda: 8)
    monkeypatch.setattr(threads, "available_cores", lambda: 8)
    monkeypatch.setattr(threads, "_limit", None)
    for name in threads.POOL_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert limits.usable_cores() == 8 and threads.thread_limit() is None
    threads.respect_quota.__wrapped__()
    assert not set(threads.POOL_VARIABLES) & set(threads.os.environ)
    lay(groups, "0::/\n", {"cpu.max": "150000 100000"})
    assert limits.usable_cores() == 2 and threads.thread_limit() == 2
    threads.respect_quota.__wrapped__()
    assert {threads.os.environ[name] for name in threads.POOL_VARIABLES} == {"2"}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    threads.respect_quota.__wrapped__()
    assert threads.os.environ["OMP_NUM_THREADS"] == "3"
    monkeypatch.setattr(threads, "_limit", 5)
    assert threads.thread_limit() == 5


@pytest.mark.parametrize(
    "words",
    [
        "teacher merge x --lora y --out z",
        "export x --out z",
        "plan x --out z.json",
        "evaluate x",
        "distill --dry-run --init x",
    ],
)
def test_a_small_container_is_told_before_pytorch_is_imported(groups: Path, words: str) -> None:
    lay(groups, "0::/\n", {"memory.max": "600000000"})
    with pytest.warns(
        UserWarning, match=r"^PyTorch and what comes with it need about 1\.0 GB, and this container has 0\.6$"
    ):
        assert run(words.split()) == 2
    lay(groups, "0::/\n", {"memory.max": "2000000000"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(words.split()) == 2

"""One mutation: a copy of a target's files, one or two of them damaged, its command in a forked process, and how that ended."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzzing.damage import damage
from fuzzing.targets import TARGETS, Target

SECONDS, MEMORY = 20, 2 << 30  # of the processor
HANGS = 600  # seconds by the clock
CODES = (0, 1, 2)
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = {
    "os.mkdir": 1,
    "os.rename": 2,
    "os.remove": 1,
    "os.rmdir": 1,
    "os.link": 2,
    "os.symlink": 2,
    "os.truncate": 1,
}
NEVER = ("pickle.find_class", "socket.getaddrinfo", "socket.connect", "subprocess.Popen", "os.system", "os.exec")


@dataclass(frozen=True)
class Ending:
    """`wrong` says what did not end well; empty if all did."""

    target: str
    number: int
    outcome: str
    seconds: float
    wrong: tuple[str, ...] = ()
    last: str = ""
    cpu: float = 0.0


def choose(seed: int, number: int, only: Sequence[str]) -> tuple[str, random.Random]:
    rng = random.Random(f"{seed}:{number}")
    names = list(only) or list(TARGETS)
    return rng.choices(names, [TARGETS[name].weight for name in names])[0], rng


def prepare(seeds: Path, place: Path, target: Target, rng: random.Random) -> None:
    """The sandbox of one mutation: `in` has the seed's files, hard links but for those that are damaged."""
    for name in ("home", "tmp", "outs"):
        (place / name).mkdir(parents=True)
    shutil.copytree(seeds / target.seed, place / "in", copy_function=os.link)
    found = sorted({path for pattern in target.files for path in (place / "in").glob(pattern) if path.is_file()})
    assert found, target
    pattern = rng.choice(target.files)  # not the file: a bundle has many of some kinds
    files = sorted(path for path in (place / "in").glob(pattern) if path.is_file()) or found
    for path in rng.sample(files, min(len(files), rng.choice((1, 1, 1, 2)))):
        damage(path, rng)


def child(words: Sequence[str], place: Path) -> None:
    """The forked process; never returns."""
    report = os.open(place / "violations", os.O_WRONLY | os.O_CREAT)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(place / name, os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.alarm(HANGS)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ |= {
        "HOME": str(place / "home"),
        "TMPDIR": str(place / "tmp"),
        "GENIN_CACHE": str(place / "home" / "cache"),
    }
    os.environ["XDG_CACHE_HOME"] = str(place / "home" / ".cache")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(place / "home" / "inductor")
    tempfile.tempdir = None
    os.chdir(place / "outs")
    allowed = tuple(str(place / name) + os.sep for name in ("home", "tmp", "outs"))
    if "--resume" in words or "edit" in words:
        allowed += (str(place / "in") + os.sep,)

    def inside(path: Any) -> bool:
        if not isinstance(path, str | bytes):
            return True  # a descriptor
        full = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 (links stay)
        return f"{full}{os.sep}".startswith(allowed) or full.startswith(("/dev/", "/proc/self"))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in NEVER:
            os.write(report, f"{event} {arguments[:2]}\n".encode("utf-8", "replace"))
        elif event == "open":
            path, _mode, flags = arguments
            if isinstance(flags, int) and flags & WRITES and not inside(path):
                os.write(report, f"writes {path}\n".encode("utf-8", "replace"))
        elif event in CHANGES:
            for path in arguments[: CHANGES[event]]:
                if not inside(path):
                    os.write(report, f"{event} {path}\n".encode("utf-8", "replace"))

    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    sys.addaudithook(hook)
    code = 99
    try:
        from genin import cli

        cli.show_all_letters()
        cli.quiet_libraries()
        code = cli.run(words)
    except BaseException:  # what the command line would show as a traceback
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def judge(name: str, number: int, place: Path, ended: tuple[int, Any, float]) -> Ending:
    status, usage, seconds = ended
    read = {
        part: (place / part).read_bytes() if (place / part).exists() else b""
        for part in ("stdout", "stderr", "violations")
    }
    stderr, stdout = read["stderr"].decode("utf-8", "replace"), read["stdout"].decode("utf-8", "replace")
    lines = stderr.strip().split("\n")
    wrong = [line[:200] for line in dict.fromkeys(read["violations"].decode("utf-8", "replace").splitlines())]
    if os.WIFSIGNALED(status):
        stopped = os.WTERMSIG(status)
        late = (signal.SIGALRM, signal.SIGXCPU, signal.SIGKILL)
        outcome = "timeout" if stopped in late else f"signal {stopped}"
        wrong.append(outcome)
    else:
        code = os.WEXITSTATUS(status)
        outcome = f"exit {code}"
        if code not in CODES:
            wrong.append(outcome)
        reported = "--json" in TARGETS[name].words and _is_json(
            stdout
        )  # genin verify: what is wrong with a bundle is its result
        if code and not lines[-1].startswith("genin: ") and not reported:
            wrong.append("the last line is no error of genin")
        if code == 0 and "--json" in TARGETS[name].words and not _is_json(stdout):
            wrong.append("no strict JSON")
    if "Traceback (most" in stderr:
        wrong.append("traceback")
    if "genin: unexpected" in stderr:
        wrong.append("unexpected")
    if usage.ru_maxrss * 1024 > MEMORY + resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024:
        wrong.append(f"{usage.ru_maxrss >> 10} MiB")
    if left := [path.name for path in (place / "tmp").iterdir()]:
        wrong.append(f"left in the temporary folder: {left[:3]}")
    return Ending(name, number, outcome, seconds, tuple(wrong), lines[-1][:400], usage.ru_utime + usage.ru_stime)


def _is_json(stdout: str) -> bool:
    try:
        json.loads(stdout.strip().split("\n")[-1], parse_constant=lambda word: 1 / 0)
    except (ValueError, ZeroDivisionError):
        return False
    return True


def one(work: Path, seed: int, number: int, only: Sequence[str], keep: bool = False) -> Ending:
    name, rng = choose(seed, number, only)
    target, place = TARGETS[name], work / f"one-{os.getpid()}"
    shutil.rmtree(place, ignore_errors=True)
    prepare(work / "seeds", place, target, rng)
    words = [word.format(**{"in": place / "in", "out": place / "outs" / "out"}) for word in target.words.split()]
    began = time.monotonic()
    process = os.fork()
    if process == 0:
        child(words, place)
    _, status, usage = os.wait4(process, 0)
    ending = judge(name, number, place, (status, usage, time.monotonic() - began))
    if ending.wrong or keep:
        kept = work / "wrong" / f"{name}-{seed}-{number}"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(place, kept, symlinks=True)
    shutil.rmtree(place, ignore_errors=True)
    return ending

"""Hostile input as a program: damage the files that genin reads, run the command that reads them, and see that it ends well.

    python tools/fuzz.py --mutations 10000 --seed 1 --work fuzz --out figures.json
    python tools/fuzz.py --work fuzz --only recipe --replay 1:4711      one mutation again, its files are kept

`WORK/seeds` gets valid files of every kind once (about a minute). A mutation copies the files of one target, damages one or two
of them (JSON and YAML: keys and values; the header of safetensors; names inside archives; bytes, of any file), and runs the
target's command in a forked process, whose imports are made already: about 50 ms each. It ends well if

    the exit code is 0, 1 or 2; an error is the last line of stderr, begins with "genin: ", is not "unexpected …", no traceback
    it takes at most 20 s of processor time and 2 GiB more than the imports
    nothing is written, made, renamed or removed but below its --out, its temporary folder (empty at the end) and its home
    no pickle is loaded, no host is looked up
    the last line of a command that succeeds with --json is strict JSON

Writing, pickles and look-ups are seen by an audit hook of Python's, so what native libraries do by themselves is seen only where
it leaves a file. Same seed, same mutations; a run that was stopped goes on where it was. Exit code 1 if one mutation did not end
well; WORK/wrong keeps its files.

Not here: the native library, which has a fuzz program of its own (runtimes/native/tests/fuzz.cpp).
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import gc
import importlib
import io
import json
import os
import pkgutil
import random
import resource
import shutil
import signal
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[1]
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
WARM = ("folder", "folder-draw", "lora", "recipe", "pictures", "film", "shard")
NEVER = ("pickle.find_class", "socket.getaddrinfo", "socket.connect", "subprocess.Popen", "os.system", "os.exec")


@dataclass(frozen=True)
class Target:
    """A command and the files it reads. `seed` is a folder of WORK/seeds; one of `files` (patterns in it) is damaged; in `words`
    {in} is the copy of the folder and {out} a path to write. `weight`: its share of the mutations."""

    seed: str
    files: tuple[str, ...]
    words: str
    weight: int


BUNDLE = ("manifest.json", "*/*/tokenizer/*.json", "*/*/tokenizer/merges.txt", "*/*/tokenizer/*.txt", "**/*.json")
FOLDER = ("model_index.json", "genin.json", "*/config.json", "scheduler/*.json", "tokenizer/*")
PICTURES = ("*.png", "*.jpg", "*.webp", "*.gif", "*.tif", "*.bmp")
TABLES = ("metadata.jsonl", "*.csv", "*.parquet", "*.txt", "dataset.json")
DRAW = "--steps 1 --threads 1 --runtime onnxruntime --out {out}.png --json"
COMPARE = "compare {in}/bundle --prompts {in}/p.jsonl --runtime onnxruntime --steps 1 --out {out}.png"
PREPARE, INSPECT = "data prepare {in} --out {out} --json", "inspect {in} --json"
TUNE = (
    "teacher finetune --base {in}/model --data {in}/data --recipe {in}/recipe.json --out {in}/run --resume --threads 1"
)
DRAW_FOLDER = "generate ninja -m {in} --steps 1 --threads 1 --out {out}.png --json"
# fmt: off
TARGETS: Mapping[str, Target] = {
    "manifest": Target("bundle", BUNDLE, INSPECT, 60),
    "bundle": Target("bundle", (*BUNDLE, "**/*.onnx"), "generate ninja -m {in} " + DRAW, 50),
    "verify": Target("bundle", (*BUNDLE, "**/*.onnx", "golden/**/*"), "verify {in} --json", 20),
    "packed": Target("packed", ("model.genin",), "inspect {in}/model.genin --json", 40),
    "packed-draw": Target("packed", ("model.genin",), "generate ninja -m {in}/model.genin " + DRAW, 25),
    "folder": Target("model", FOLDER, INSPECT, 50),
    "weights": Target("model", ("*/*.safetensors",), INSPECT, 30),
    "folder-draw": Target("model", (*FOLDER, "*/*.safetensors"), DRAW_FOLDER, 30),
    "lora": Target("merge", ("lora.safetensors",), "teacher merge {in}/model --lora {in}/lora.safetensors --out {out}", 30),
    "recipe": Target("recipe", ("*.yaml",), "distill --dry-run --recipe {in}/recipe.yaml --json", 60),
    "plan": Target("plan", ("plan.json",), "export {in}/model --plan {in}/plan.json --format onnx --out {out}", 1),
    "table": Target("table", TABLES, "data inspect {in} --json", 70),
    "csv": Target("csv", ("metadata.csv",), PREPARE, 50),
    "parquet": Target("parquet", ("*.parquet",), PREPARE, 25),
    "sidecars": Target("sidecars", ("*.txt",), "data inspect {in} --json", 30),
    "shards": Target("shards", ("*.tar",), "data inspect {in} --json", 50),
    "edit": Target("edit", ("new.csv", "data/metadata.jsonl"), "data edit {in}/data --from {in}/new.csv", 40),
    "edit-lines": Target("edit", ("new.jsonl", "data/dataset.json"), "data edit {in}/data --from {in}/new.jsonl", 30),
    "edit-all": Target("edit", ("data/metadata.jsonl",), "data edit {in}/data --regex ninja cat --json", 15),
    "page": Target("edit", ("data/*",), "data edit {in}/data --to {out}.html", 20),
    "shard": Target("edit", ("data/*",), "data shard {in}/data --out {out} --json", 25),
    "pictures": Target("pictures", PICTURES, PREPARE, 70),
    "picture": Target("pictures", PICTURES, "data inspect {in} --sheet {out}.png --json", 40),
    "drawn": Target("drawn", ("drawn.png",), "inspect {in}/drawn.png --json", 30),
    "start": Target("start", ("start.png",), "generate ninja -m {in}/bundle --image {in}/start.png " + DRAW, 20),
    "film": Target("film", ("*.mp4",), PREPARE, 8),
    "comic": Target("comic", ("*.cbz",), PREPARE, 30),
    "prompts": Target("prompts", ("*.jsonl",), COMPARE, 8),
    "resume": Target("run", ("run/training/*", "run/training/**/*", "recipe.json"), TUNE, 2),
}
# fmt: on


# --- valid files -----------------------------------------------------------------------------------------------------


def write_seeds(folder: Path) -> None:
    """Valid files of every kind, below `folder`; made once."""
    if folder.is_dir():
        return
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "helpers")]
    import numpy as np
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    import conftest
    import films
    from genin.cli import run
    from tiny_bundle import write_tiny_bundle
    from tunable import write_pictures

    new = folder.with_name("seeds.partial")
    shutil.rmtree(new, ignore_errors=True)
    for name in (
        "merge",
        "plan",
        "recipe",
        "prompts",
        "packed",
        "csv",
        "parquet",
        "sidecars",
        "shards",
        "edit",
        "pictures",
    ):
        (new / name).mkdir(parents=True)
    for name in ("drawn", "start", "film", "comic"):
        (new / name).mkdir()
    conftest.write_tiny_model(new / "model")
    (new / "model" / "genin.json").write_text(json.dumps(conftest.STUDENT_INFO), "utf-8")
    shutil.copytree(new / "model", new / "merge" / "model")
    (new / "merge" / "model" / "genin.json").unlink()
    shutil.copytree(new / "model", new / "plan" / "model")
    unet = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    save_file(
        {f"{unet}.lora_A.weight": torch.ones(2, 32), f"{unet}.lora_B.weight": torch.ones(32, 2)},
        new / "merge" / "lora.safetensors",
    )
    (new / "plan" / "plan.json").write_text(
        json.dumps({"genin_plan": 1, "name": "mixed", "default": "fp16", "layers": {}})
    )
    for path in ("pictures.yaml", "builtin-4step.yaml"):
        shutil.copy(ROOT / "recipes" / path, new / "recipe" / "recipe.yaml")
    write_tiny_bundle(new / "model", new / "bundle", ("onnx",))
    for place in ("prompts", "start"):
        shutil.copytree(new / "bundle", new / place / "bundle")
    assert (
        run(
            [
                "export",
                str(new / "model"),
                "--format",
                "onnx",
                "--precision",
                "fp16",
                "--out",
                str(new / "packed" / "model.genin"),
            ]
        )
        == 0
    )
    (new / "prompts" / "p.jsonl").write_text('{"text": "a ninja"}\n{"text": "two ninjas"}\n', "utf-8")
    data = write_pictures(new / "table", 6, size=32)
    (data / "dataset.json").write_text('{"columns": ["text"], "licence": "CC0-1.0"}')
    shutil.copytree(data, new / "edit" / "data")
    rows = [json.loads(line) for line in (data / "metadata.jsonl").read_text("utf-8").splitlines()]
    (new / "edit" / "new.csv").write_text('file_name,text\n0.png,a red ninja\n1.png,"two, ninjas"\n', "utf-8")
    (new / "edit" / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:3]), "utf-8")
    for place in ("csv", "sidecars", "pictures", "parquet"):
        for row in rows[:4]:
            shutil.copy(data / row["file_name"], new / place)
    lines = [f"{row['file_name']};{row['text']};{number}\n" for number, row in enumerate(rows[:4])]
    (new / "csv" / "metadata.csv").write_text("file_name;text;number\n" + "".join(lines), "utf-8")
    for row in rows[:4]:
        (new / "sidecars" / row["file_name"]).with_suffix(".txt").write_text(row["text"] + " é 忍", "utf-8")
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 255, (48, 40, 3), np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    for name in ("a.jpg", "b.webp", "c.gif", "d.tif", "e.bmp"):
        picture.save(new / "pictures" / name, **({"exif": turned} if name in ("a.jpg", "b.webp") else {}))
    import pyarrow
    from pyarrow import parquet

    stored = [{"bytes": (data / row["file_name"]).read_bytes(), "path": row["file_name"]} for row in rows]
    parquet.write_table(
        pyarrow.table({"image": stored, "text": [row["text"] for row in rows]}), new / "parquet" / "train.parquet"
    )
    assert run(["data", "shard", str(data), "--out", str(new / "made"), "--per-shard", "3"]) == 0
    for path in (new / "made").glob("*.tar"):
        shutil.copy(path, new / "shards")
    picture.resize((32, 32)).save(new / "start" / "start.png")
    bundle = str(new / "bundle")
    assert (
        run(["generate", "ninja", "-m", bundle, "--runtime", "onnxruntime", "--out", str(new / "drawn" / "drawn.png")])
        == 0
    )
    films.write_film(new / "film" / "a.mp4", [films.scene(seed // 12, seed, (160, 96)) for seed in range(36)])
    with zipfile.ZipFile(new / "comic" / "a.cbz", "w") as archive:
        for number in range(2):
            page = io.BytesIO()
            films.scene(number, 0, (200, 300)).save(page, "PNG")
            archive.writestr(f"page{number}.png", page.getvalue())
    _write_run(new, run)
    new.rename(folder)


def _write_run(new: Path, run: Callable[[Sequence[str]], int]) -> None:
    """A training that was stopped: a teacher of a few updates, to be resumed."""
    place = new / "run"
    place.mkdir()
    shutil.copytree(new / "table", place / "data")
    shutil.copytree(new / "model", place / "model")
    (place / "model" / "genin.json").unlink()
    few = {"images": 8, "batch_size": 4, "preview_images": 1, "held_out_images": 0, "lr_warmup_images": 1}
    recipe = {"finetune": {**few, "lora_rank": 2}}
    (place / "recipe.json").write_text(json.dumps(recipe))
    words = [
        "teacher",
        "finetune",
        "--base",
        str(place / "model"),
        "--data",
        str(place / "data"),
        "--out",
        str(place / "run"),
    ]
    assert run([*words, "--recipe", str(place / "recipe.json"), "--threads", "1"]) == 0


# --- damage ----------------------------------------------------------------------------------------------------------

# fmt: off
VALUES: tuple[Any, ...] = (
    None, True, False, "", " ", "nan", "../../../outside", "/etc/passwd", "C:\\NUL", "a\x00b", "\ud800", "é" * 300, "x" * 70_000,
    0, -1, 1, 3, 2**31, 2**63, 2**64, 10**400, -(10**30), 0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), [], {}, [[]], [0],
    [None], [1, 2], ["a"], {"a": {}}, [1e300] * 3, {"": ""}, "1" * 5000,
)
BYTES = (
    b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\xe2\x80\xa8", b"\x1b[31m", b"'", b'"', b"{", b"[" * 3000, b"\r\n", b"../",
    b"\xed\xa0\x80",
)
# fmt: on


def damage_tree(data: Any, rng: random.Random) -> Any:
    """Change one or two places in what JSON or YAML holds."""
    data = copy.deepcopy(data)
    for _ in range(rng.choice((1, 1, 2))):
        places = list(_places(data))
        if not places or rng.random() < 0.03:
            return rng.choice(VALUES)
        node, key = rng.choice(places)
        what = rng.random()
        if what < 0.2:
            del node[key]
        elif what < 0.3 and isinstance(node, dict):
            node[rng.choice(("", "x", str(key) + "s", "__class__", "file_name"))] = node.pop(key)
        elif what < 0.4:
            node[key] = copy.deepcopy(rng.choice(places)[0])
        elif what < 0.5 and isinstance(node[key], int | float) and not isinstance(node[key], bool):
            node[key] = node[key] * rng.choice((-1, 2, 1000, 0.5))
        else:
            node[key] = copy.deepcopy(rng.choice(VALUES))
    return data


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value in it."""
    for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        yield node, key
        yield from _places(node[key])


def damage_bytes(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 3, 20))):
        # headers say most: half of the places are among the first 200
        place = rng.randrange(max(1, min(len(data), 200) if rng.random() < 0.5 else len(data)))
        what = rng.randrange(7)
        if what == 0 and data:
            data[place % len(data)] ^= 1 << rng.randrange(8)
        elif what == 1 and data:
            data[place % len(data)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif what == 2:
            del data[place:]
        elif what == 3:
            del data[place : place + rng.randrange(1, 40)]
        elif what == 4:
            data[place:place] = rng.choice(BYTES)
        elif what == 5:
            other = rng.randrange(max(1, len(data)))
            data[place:place] = data[other : other + rng.randrange(1, 400)]
        else:
            data[place : place + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\x80"))
    return bytes(data)


def damage(path: Path, rng: random.Random) -> None:
    """Damage a file in place of what it holds, or without knowing."""
    content = path.read_bytes()
    if rng.random() < 0.04:
        path.unlink()
        if rng.random() < 0.3:
            path.mkdir()
        return
    knowing = {
        ".json": _json, ".jsonl": _json_lines, ".yaml": _yaml, ".safetensors": _safetensors,
        ".genin": _zip, ".cbz": _zip, ".tar": _tar,
    }.get(path.suffix)  # fmt: skip
    changed = None
    if knowing and rng.random() < 0.7:
        try:
            changed = knowing(content, rng)
        except (ValueError, OSError, UnicodeError, zipfile.BadZipFile, tarfile.TarError):
            changed = None
    path.unlink()  # it may be a link to the seed
    path.write_bytes(damage_bytes(content, rng) if changed is None else changed)


def _text(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _json(content: bytes, rng: random.Random) -> bytes:
    return _text(damage_tree(json.loads(content), rng))


def _json_lines(content: bytes, rng: random.Random) -> bytes:
    rows = damage_tree([json.loads(line) for line in content.splitlines() if line.strip()], rng)
    return b"".join(_text(row) + b"\n" for row in (rows if isinstance(rows, list) else [rows]))


def _yaml(content: bytes, rng: random.Random) -> bytes:
    import yaml

    data = damage_tree(yaml.safe_load(content), rng)
    if rng.random() < 0.3:
        return b"a: &a [x, x]\n" + b"".join(b"b%d: &b%d [*a, *a]\n" % (n, n) for n in range(9)) + content
    return _text(data)


def _safetensors(content: bytes, rng: random.Random) -> bytes:
    length = int.from_bytes(content[:8], "little")
    header = _text(damage_tree(json.loads(content[8 : 8 + length]), rng))
    said = len(header) if rng.random() < 0.9 else rng.choice((0, 1, 2**40, 2**63, 2**64 - 1))
    return said.to_bytes(8, "little") + header + content[8 + length :]


# fmt: off
NAMES = (
    "../outside", "/tmp/outside", "a" * 300, "a\x00", "..", "", "CON", "a/../../b", "\ufffe", "5²3.png", ".hidden.png", "x/y/z.png",
)
# fmt: on


def _zip(content: bytes, rng: random.Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    out = io.BytesIO()
    chosen = rng.randrange(len(members))
    with zipfile.ZipFile(out, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for number, (name, data) in enumerate(members):
            if number == chosen:
                what = rng.random()
                if what < 0.25:
                    continue
                if what < 0.5:
                    name = rng.choice(NAMES) or "-"
                else:
                    data = _member(name, data, rng)
            archive.writestr(name, data)
    return out.getvalue()


def _member(name: str, data: bytes, rng: random.Random) -> bytes:
    return _json(data, rng) if name.endswith(".json") and rng.random() < 0.7 else damage_bytes(data, rng)


def _tar(content: bytes, rng: random.Random) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(content)) as archive, tarfile.open(fileobj=out, mode="w") as new:
        members = archive.getmembers()
        chosen = rng.randrange(len(members))
        for number, member in enumerate(members):
            stream = archive.extractfile(member)
            data = stream.read() if stream else b""
            if number == chosen:
                what = rng.random()
                if what < 0.2:
                    continue
                if what < 0.4:
                    member.name = rng.choice(NAMES) + rng.choice(("", ".png", ".json", ".txt"))
                elif what < 0.5:
                    member.type, member.linkname, data = tarfile.SYMTYPE, rng.choice(NAMES), b""
                else:
                    data = _member(member.name, data, rng)
            member.size = len(data)
            new.addfile(member, io.BytesIO(data))
    return out.getvalue()


# --- one mutation ----------------------------------------------------------------------------------------------------


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


def imports(work: Path) -> None:
    """Whatever commands import, so that a mutation's process has it already, and writes no byte code."""
    import genin

    for name in (
        "av",
        "diffusers",
        "matplotlib.pyplot",
        "onnxruntime",
        "pyarrow.parquet",
        "scenedetect",
        "transformers",
        "webdataset",
    ):
        importlib.import_module(name)
    sys.dont_write_bytecode = True
    apart = ("__main__", "hook-genin", ".native", ".golden", "_docs", "openvino", "coreml", "to_")
    for module in pkgutil.walk_packages(genin.__path__, "genin."):
        if not any(part in module.name for part in apart):
            importlib.import_module(module.name)
    import torch

    from genin.cli import run

    torch.set_num_threads(1)
    for name in WARM:  # for what commands import while they run
        target = TARGETS[name]
        words = target.words.format(**{"in": work / "seeds" / target.seed, "out": work / "warm" / name})
        shutil.rmtree(work / "warm", ignore_errors=True)
        (work / "warm").mkdir()
        with contextlib.redirect_stdout(io.StringIO()):
            assert run(words.split()) == 0, words
    gc.freeze()  # a forked process copies every page that its collector touches


def run_all(work: Path, seed: int, numbers: range, only: Sequence[str], jobs: int) -> list[Ending]:
    """Every process takes each Nth mutation, and adds how it ended to a file: a run that was stopped goes on from there."""
    path = work / f"endings-{seed}{'-' + '-'.join(only) if only else ''}.jsonl"
    done = {ending.number for ending in _read(path)}
    children = []
    for job in range(jobs):
        if (process := os.fork()) == 0:
            _some(work, seed, [number for number in numbers[job::jobs] if number not in done], only, path)
            os._exit(0)
        children.append(process)
    try:
        for process in children:
            os.waitpid(process, 0)
    except KeyboardInterrupt:
        for process in children:
            os.kill(process, signal.SIGTERM)
    return [ending for ending in _read(path) if ending.number in numbers]


def _some(work: Path, seed: int, numbers: Sequence[int], only: Sequence[str], path: Path) -> None:
    began = time.monotonic()
    for count, number in enumerate(numbers, 1):
        ending = one(work, seed, number, only)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(ending)) + "\n")
        if ending.wrong:
            click.echo(f"{ending.target} {seed}:{number} {'; '.join(ending.wrong)} | {ending.last}")
        if count % 250 == 0:
            click.echo(f"{count} of {len(numbers)} mutations, {time.monotonic() - began:.0f} s", err=True)


def _read(path: Path) -> list[Ending]:
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    return [Ending(**{**row, "wrong": tuple(row["wrong"])}) for row in map(json.loads, lines)]


@click.command(help=__doc__)
@click.option("--mutations", type=click.IntRange(1), default=10_000, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option(
    "--work", type=click.Path(path_type=Path), required=True, help="Folder of the valid files and of what was wrong."
)
@click.option("--only", default="", help="Names of targets, with commas.")
@click.option("--replay", default="", help="SEED:NUMBER of one mutation (with the same --only).")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option("--out", type=click.Path(path_type=Path), help="The figures as JSON.")
def main(mutations: int, seed: int, work: Path, only: str, replay: str, jobs: int, out: Path | None) -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "GENIN_AUTO": "order"}
    work = work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    write_seeds(work / "seeds")
    imports(work)
    chosen = [name for name in only.split(",") if name]
    if replay:
        seed, number = map(int, replay.split(":"))
        click.echo(one(work, seed, number, chosen, keep=True))
        return
    began = time.monotonic()
    endings = run_all(work, seed, range(mutations), chosen, jobs)
    counts: dict[str, Counter[str]] = {}
    cpu: Counter[str] = Counter()
    for ending in endings:
        counts.setdefault(ending.target, Counter())["wrong" if ending.wrong else ending.outcome] += 1
        cpu[ending.target] += ending.cpu
    slowest, bad = max(endings, key=lambda one: one.seconds), sum(bool(ending.wrong) for ending in endings)
    figures = {
        "mutations": len(endings), "seed": seed, "wrong": bad, "seconds": round(time.monotonic() - began, 1),
        "slowest": [slowest.target, slowest.number, round(slowest.seconds, 1)],
        "cpu_seconds": {name: round(cpu[name], 1) for name in sorted(cpu)},
        "outcomes": {name: dict(sorted(counts[name].items())) for name in sorted(counts)},
    }  # fmt: skip
    click.echo(json.dumps(figures, indent=1))
    if out:
        out.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()

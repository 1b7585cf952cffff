"""The command line: every command explains itself; wrong usage is one line with the choices and exit code 2."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from huggingface_hub import DatasetCard
from PIL import Image

from genin import __version__, cli, cli_docs

ROOT = Path(__file__).parents[1]
HIDE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Absent())
sys.argv[0] = "genin"
from genin.cli import main
main()
"""
NO_TORCH = ("torch", "diffusers", "transformers", "onnx", "jinja2", "psutil")


def genin_without(absent: tuple[str, ...], *arguments: str) -> subprocess.CompletedProcess[str]:
    """The real command in a process in which `absent` packages cannot be imported."""
    code = HIDE.replace("{absent}", repr(set(absent)))
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("path", cli.COMMANDS)
def test_every_command_has_help_with_an_example(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([*path.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: genin {path}")
    assert f"Example: genin {path}" in " ".join(shown.split())


def test_help_lists_every_command_and_begins_with_quickstart(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {path.split()[0]} " in shown for path in cli.COMMANDS)
    assert "Start with `genin quickstart`" in shown
    assert cli.run(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Usage: genin"),
        (["exprot"], "no command 'exprot'; did you mean export?"),
        (["prepare", "art"], "no command 'prepare'; did you mean: genin data prepare; see"),
        (["finetun"], "did you mean: genin teacher finetune"),
        (["selftest"], "did you mean: genin bench selftest"),
        (["bench", "--size", "64x96"], "'64x96' is not a side in pixels; write 64 or 64,96: pictures are squares here"),
        (["world", "render", "--size", "64,96"], "'64,96' is not a side in pixels; write one number, such as 64"),
        (["generate", "a", "--size", "64,64"], "write 512x768, the width first, or 512 for a square"),
        (["generate", "a", "--max-memory", "9" * 400], "is not a size; write 2.5MB"),
        (["runtimes", "--explain", __file__], "neither a model nor a bundle"),
        (["xyzzy"], "choose from: quickstart, world, data"),
        (["data", "prepair"], "no command 'data prepair'; did you mean prepare?"),
        (["world", "render", "--split", "tset"], "'train', 'val', 'test'"),
        (["world", "render", "--siez", "64"], "'--size'"),
        (["bench", "nowhere", "--runtime", "onnx"], "did you mean onnxruntime?"),
        (["evaluate", "nowhere", "--reference", "builtin:world"], "no such model or bundle: nowhere"),
        (["bench", "builtin:studnet"], "builtin:student"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_says_what_would_be_right(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments) == 2
    out, err = capsys.readouterr()
    assert says in " ".join((out + err).split())
    assert not arguments or (err.startswith("genin: ") and err.count("\n") == 1)


def test_a_cache_in_nobodys_home_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GENIN_CACHE", "~nobody-here/cache")
    monkeypatch.setenv("GENIN_AUTO", "")
    assert cli.run(["runtimes", "--explain", "builtin:student"]) == 2
    assert capsys.readouterr().err.startswith("genin: there is no such user: ~nobody-here/cache; ")


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["quickstart", "--out", "OUT"], "all"),
        (["teacher", "train", "--data", "builtin:world", "--out", "OUT"], "distill"),
        (["evaluate", "FOLDER", "--reference", "FOLDER"], "metrics"),
    ],
)
def test_a_missing_extra_is_named_with_its_install_line(tmp_path: Path, arguments: list[str], extra: str) -> None:
    (tmp_path / "folder").mkdir()
    places = {"OUT": str(tmp_path / "out"), "FOLDER": str(tmp_path / "folder")}
    done = genin_without(NO_TORCH, *(places.get(one, one) for one in arguments))
    assert done.returncode == 2
    assert f"is not installed; pip install 'genin[{extra}]'" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


NOT_IN_DATA = (
    *(
        "torch",
        "torchvision",
        "diffusers",
        "transformers",
        "tokenizers",
        "safetensors",
        "accelerate",
        "peft",
        "pydantic",
    ),
    *("onnx", "onnxruntime", "openvino", "matplotlib", "psutil"),
)
NO_NETWORK = """
import socket
def refuse(*arguments): raise AssertionError("a command that needs no network asked for one")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
"""


def test_a_mistyped_path_is_no_missing_package_alone() -> None:
    done = genin_without(("huggingface_hub",), "generate", "a ninja", "-m", "models/student")
    assert done.returncode == 2
    assert done.stderr == (
        "genin: no such model or bundle, and to look for it on the Hugging Face hub 'huggingface_hub' is not installed: "
        "models/student; pip install 'genin[hub]'\n"
    )


def test_preparing_data_needs_the_data_extra_alone_and_no_network(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    Image.linear_gradient("L").resize((80, 64)).convert("RGB").save(source / "fox.png")
    licence = "license: other\nlicense_name: 'Studio: ask, then draw'"
    (source / "README.md").write_text(f"---\n{licence}\n---\n", encoding="utf-8")
    command = ("data", "prepare", str(source), "--out", str(tmp_path / "out"))
    done = genin_without((*NOT_IN_DATA, "huggingface_hub"), *command)
    assert done.returncode == 2
    assert done.stderr == "genin: 'huggingface_hub' is not installed; pip install 'genin[data]'\n"
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    program = NO_NETWORK + HIDE.replace("{absent}", repr(set(NOT_IN_DATA)))
    done = subprocess.run(
        [sys.executable, "-c", program, *command], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    card = DatasetCard((tmp_path / "out" / "README.md").read_text(encoding="utf-8"))
    assert (card.data.license, card.data.license_name) == ("other", "Studio: ask, then draw")
    assert (tmp_path / "out" / "report.html").is_file()


def test_help_needs_no_extra() -> None:
    """A game's install can read about every command it has not installed."""
    code = "from genin import cli; raise SystemExit(max(cli.run([*p.split(), '--help']) for p in cli.COMMANDS))"
    program = HIDE.replace("{absent}", repr(set(NO_TORCH))).replace("from genin.cli import main\nmain()", code)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.processes
def test_libraries_say_nothing_while_a_command_runs() -> None:
    """Imports that warn, log to stderr and log to stdout, as they do without us; our own warnings stay, a few of a kind."""
    code = """
from genin.terminal import quiet_libraries
quiet_libraries()
import diffusers, coremltools, nncf, warnings
warnings.warn("theirs", FutureWarning)
for i in range(9):
    warnings.warn_explicit(f"caption {i}\\nwas cut", UserWarning, "f.py", 1, module="genin.runtimes.tokenizer")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    ours = [f"genin: caption {i} was cut" for i in range(3)] + ["genin: … and more warnings like this one"]
    assert (done.stdout, done.stderr.splitlines()) == ("", ours)


SLOW = """
import os, signal, sys, time
from pathlib import Path
import click
from genin import cli, files

def stop_later(*_):
    os.write(1, b"stops after this update")  # a handler must not print: the main program may be doing so
    sys.exit(5)

@click.command("slow")
def slow():
    if {trains}:  # a training's own handler, as in genin.distill.loop.host
        signal.signal(signal.SIGINT, stop_later)
    with files.new_folder(Path({out!r})) as folder, files.atomic_path(folder / "a") as partial:
        partial.write_text("half")
        print("ready", flush=True)
        time.sleep(60)

sys.argv = ["genin", "slow"]
cli.COMMANDS["slow"] = cli.Row("__main__:slow", "")
cli.main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without asking it")
@pytest.mark.parametrize(
    ("trains", "code", "says"),
    [(False, cli.TERMINATED, "genin: interrupted"), (True, 5, "stops after this update")],
)
def test_sigterm_does_what_ctrl_c_does_and_leaves_no_temporary_file(
    tmp_path: Path, trains: bool, code: int, says: str
) -> None:
    program = SLOW.format(trains=trains, out=str(tmp_path / "out"))
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        assert list(tmp_path.glob(".out.*"))
        process.terminate()
        said, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, said.strip()) == (code, says)
    assert not list(tmp_path.iterdir())


def test_the_page_of_commands_is_current() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == cli_docs.markdown(), "run: python -m genin.cli_docs > docs/cli.md"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_a_terminal_that_lacks_letters_shows_their_numbers(encoding: str, tmp_path: Path) -> None:
    """Also half a surrogate pair, which a file name that is not UTF-8 has, on any terminal."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    program = "import sys; from genin.terminal import show_all_letters as show; show(); print('忍 \\udcff'); sys.stderr.write('忍')"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, check=False, timeout=60
    )
    letter = "忍" if encoding == "utf-8" else "\\u5fcd"
    assert (done.returncode, done.stderr.decode(encoding)) == (0, letter)
    assert done.stdout.decode(encoding).strip() == f"{letter} \\udcff"


@pytest.mark.parametrize(
    ("number", "code", "says"),
    [
        (errno.ENOSPC, 1, "genin: cannot write (No space left on device): a/b; free some space\n"),
        (errno.EFBIG, 1, "genin: cannot write (File too large): a/b; "),
        (errno.EROFS, 1, "genin: cannot write (Read-only file system): a/b; "),
        (errno.ENAMETOOLONG, 2, "genin: File name too long: a/b; choose a shorter name\n"),
        (errno.EBADF, 1, "genin: unexpected OSError"),
    ],
)
def test_a_write_that_the_system_refuses_is_one_line(
    number: int, code: int, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise OSError(number, os.strerror(number), "a/b")

    monkeypatch.setattr(cli, "command_line", lambda: click.Command("genin", callback=refuse))
    assert cli.run([]) == code
    error = capsys.readouterr().err
    assert error.startswith(says) and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "says"), [("a\nb", "genin: Is a directory: a b; "), (None, "genin: Is a directory; ")]
)
def test_a_file_of_an_odd_name_or_none_is_one_line(
    name: str | None, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), *([] if name is None else [name]))

    monkeypatch.setattr(cli, "command_line", lambda: click.Command("genin", callback=refuse))
    assert cli.run([]) == 2
    error = capsys.readouterr().err
    assert error.startswith(says) and len(error.splitlines()) == 1


def test_safetensors_words_for_a_refused_write_are_understood(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise RuntimeError("Error while serializing: I/O error: File too large (os error 27)")

    monkeypatch.setattr(cli, "command_line", lambda: click.Command("genin", callback=refuse))
    assert cli.run([]) == 1
    assert capsys.readouterr().err.startswith("genin: cannot write (File too large); ")

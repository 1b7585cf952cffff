"""The `genin` command: a table of lazy strings, and one place where errors become a line and an exit code.

A command is imported only when it runs or prints its own help, so `genin --help` costs an import of click and nothing
else, and a torch-free install can list what it cannot run. A row that needs an optional package names the extra that
installs it.

Exit codes: 0 ok, 1 the job failed, 2 bad usage or input, 130 interrupted by Ctrl-C, 143 by SIGTERM. `GENIN_DEBUG=1` adds the Python
traceback. SIGTERM, from a batch system or `docker stop`, does what Ctrl-C does.

Not here: what any command does; see the module each row names.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import signal
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

import click

from genin.hub.repository import OfflineError
from genin.runtimes.errors import GeninError, InputError, MissingExtraError
from genin.runtimes.files import refused_write
from genin.runtimes.lazy import missing_extra
from genin.runtimes.threads import check_environment
from genin.terminal import as_typed, debugging, open_missing_streams, quiet_libraries, show_all_letters
from genin.version import __version__

INTERRUPTED, TERMINATED = 130, 143  # 128 + the signal's number, as shells have it


@dataclass(frozen=True)
class Row:
    """One command: where it lives ("module:function"), its one-line help, and the extra it needs."""

    target: str
    help: str
    extra: str | None = None


GROUPS: Mapping[str, str] = {
    "world": "The built-in ninja world: endless captioned pictures.",
    "data": "Turn folders of pictures into a captioned dataset.",
    "teacher": "Train a teacher, or tune an existing one on your pictures.",
}

COMMANDS: Mapping[str, Row] = {
    "quickstart": Row(
        "genin.quickstart.commands:quickstart_command", "The whole chain in ten minutes, ending in a page.", "all"
    ),
    "world render": Row(
        "genin.distill.world.commands:render_command", "Render a dataset of the built-in world.", "distill"
    ),
    "data prepare": Row("genin.distill.data.commands:prepare_command", "Clean, resize and caption pictures.", "data"),
    "data inspect": Row("genin.distill.data.commands:inspect_command", "Count, check and show a dataset.", "distill"),
    "data edit": Row("genin.distill.data.commands:edit_command", "Correct captions by hand.", "data"),
    "data shard": Row("genin.distill.data.commands:shard_command", "Write WebDataset shards.", "data"),
    "data caption": Row("genin.distill.data.commands:caption_command", "Caption pictures with a model.", "distill"),
    "teacher train": Row("genin.distill.commands:teacher_train_command", "Train a teacher from nothing.", "distill"),
    "teacher finetune": Row(
        "genin.distill.commands:teacher_finetune_command", "Tune a teacher on a dataset.", "distill"
    ),
    "teacher merge": Row("genin.distill.commands:teacher_merge_command", "Merge LoRAs into a teacher.", "distill"),
    "distill": Row("genin.distill.commands:distill_command", "Distil a teacher into a few-step student.", "distill"),
    "export": Row("genin.export.commands:export_command", "Export a model to ONNX, OpenVINO and Core ML.", "export"),
    "plan": Row(
        "genin.export.commands:plan_command",
        "Plan each layer's precision from its sensitivity to quantisation.",
        "export",
    ),
    "verify": Row("genin.export.commands:verify_command", "Check a bundle's hashes, schema and parity.", "onnxruntime"),
    "inspect": Row("genin.export.commands:inspect_command", "Show a model's or bundle's sizes and licence.", "export"),
    "generate": Row("genin.runtimes.commands:generate_command", "Make a picture from a prompt.", "onnxruntime"),
    "bench": Row(
        "genin.benchmarks.bench_commands:bench_command", "Measure latency, memory, size and quality.", "metrics"
    ),
    "bench compare": Row("genin.benchmarks.bench_commands:compare_command", "Compare two results: faster or slower."),
    "bench merge": Row("genin.benchmarks.bench_commands:merge_command", "Show results of several devices.", "metrics"),
    "bench export": Row("genin.benchmarks.bench_commands:export_command", "Write a result in another format."),
    "bench selftest": Row(
        "genin.benchmarks.bench_commands:selftest_command", "Say which differences this machine shows.", "onnxruntime"
    ),
    "evaluate": Row(
        "genin.benchmarks.commands:evaluate_command", "Measure picture quality against a reference.", "metrics"
    ),
    "compare": Row(
        "genin.benchmarks.commands:compare_command", "Show models side by side on the same prompts.", "metrics"
    ),
    "runtimes": Row("genin.runtimes.commands:runtimes_command", "Show what runs here and what is missing."),
}


class LazyGroup(click.Group):
    """A group whose commands are listed in `COMMANDS` under its prefix; help lists them without importing any."""

    def __init__(self, prefix: str = "", *, help: str, epilog: str | None = None) -> None:
        super().__init__(name=prefix or "genin", help=help, epilog=epilog, no_args_is_help=True)
        self.prefix = f"{prefix} " if prefix else ""

    def rows(self) -> dict[str, str]:
        """Sub-command name => one-line help, in the table's order."""
        rows: dict[str, str] = {}
        for path, row in COMMANDS.items():
            if path.startswith(self.prefix):
                name, *rest = path.removeprefix(self.prefix).split(" ")
                rows.setdefault(name, GROUPS.get(name, "") if rest else row.help)
        return rows

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.rows())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        path = self.prefix + cmd_name
        if path in COMMANDS:
            return load(path)
        return LazyGroup(cmd_name, help=GROUPS[cmd_name]) if not self.prefix and cmd_name in GROUPS else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        names = list(self.rows())
        if args and not args[0].startswith("-") and args[0] not in names:
            raise click.UsageError(f"no command '{self.prefix}{args[0]}'; {self._meant(args, names)}", ctx)
        if len(args) > 1 and f"{args[0]} {args[1]}" in COMMANDS and args[0] in COMMANDS:  # genin bench compare
            below = f"{args[0]} {args[1]}"
            return below, load(below), args[2:]
        return super().resolve_command(ctx, args)

    def _meant(self, args: Sequence[str], names: Sequence[str]) -> str:
        """Which command was meant: one of that name in a group, one of a similar name, or any of them."""
        nested = {path: path.split(" ")[1] for path in COMMANDS if " " in path} if not self.prefix else {}
        close = [] if args[0] in nested.values() else difflib.get_close_matches(args[0], names, n=2)
        if close:
            return f"did you mean {' or '.join(close)}?"
        alike = difflib.get_close_matches(args[0], nested.values(), n=1, cutoff=0.8)
        if below := [f"genin {path}" for path, name in nested.items() if name in alike]:
            return f"did you mean: {' or: '.join(below)}"
        return f"choose from: {', '.join(names)}"

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.rows().items()))


def load(path: str) -> click.Command:
    """Import the command at `path` of the table."""
    module, _, name = COMMANDS[path].target.partition(":")
    command = getattr(importlib.import_module(module), name)
    assert isinstance(command, click.Command), f"{COMMANDS[path].target} is not a click command"
    return command


EPILOG = (
    "Start with `genin quickstart`, or draw at once: "
    'genin generate "a happy ninja with a red bun, a blue headband and a green outfit, running in a forest at night"'
)


def command_line() -> click.Command:
    """The root command, as click sees it."""
    root = LazyGroup(
        help="Distil a text-to-image diffusion model into a one-to-four-step student, and ship it anywhere.",
        epilog=EPILOG,
    )
    click.version_option(__version__, prog_name="genin")(root)
    return root


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code. Errors go to stderr as one line."""
    try:
        # Outside its standalone mode click returns the code of `ctx.exit(code)`, else what the command returns.
        check_environment()
        code = command_line().main(list(arguments), prog_name="genin", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as stop:
        click.echo(stop.format_message())
        return InputError.exit_code
    except click.UsageError as error:
        where = f"; see `{error.ctx.command_path} --help`" if error.ctx else ""
        return _fail(_one_line(error.format_message()).rstrip(".") + where, InputError.exit_code)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except OfflineError as error:
        return _fail(error.for_command(arguments), error.exit_code)
    except GeninError as error:
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        # A training's own message says what it saved and how to go on; click passes it on as the cause of an Abort.
        said = _one_line(str(error)) or _one_line(str(error.__cause__ or ""))
        return _fail(said or "interrupted", INTERRUPTED)
    except (FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, IsADirectoryError) as error:
        hint = "" if debugging() else "; GENIN_DEBUG=1 shows the traceback"
        where = "" if error.filename is None else f": {error.filename}"
        return _fail(f"{error.strerror or 'cannot be used'}{where}{hint}", InputError.exit_code)
    except Exception as error:
        if missing := _missing_package(error, arguments):
            return _fail(str(missing), missing.exit_code)
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            return _fail(f"{error.strerror}: {error.filename}; choose a shorter name", InputError.exit_code)
        if refused := refused_write(error):
            return _fail(str(refused), refused.exit_code)
        hint = "" if debugging() else "; GENIN_DEBUG=1 shows the traceback"
        return _fail(f"unexpected {type(error).__name__}: {error}{hint}", 1)
    return code if isinstance(code, int) else 0


def main() -> NoReturn:
    """The entry point of `genin` and `python -m genin`."""
    open_missing_streams()
    show_all_letters()
    quiet_libraries()
    terminated = interrupt_on_sigterm()
    code = run(as_typed(sys.argv[1:]))
    sys.exit(TERMINATED if code == INTERRUPTED and terminated.is_set() else code)


def interrupt_on_sigterm() -> threading.Event:
    """Let SIGTERM do what Ctrl-C does at that moment. By default it ends the process at once, and leaves temporary files behind.

    Returns an event that is set from the first SIGTERM on.
    """
    terminated = threading.Event()

    def interrupt(_signal: int, frame: FrameType | None) -> None:
        terminated.set()
        on_ctrl_c = signal.getsignal(signal.SIGINT)
        if not callable(on_ctrl_c):
            raise KeyboardInterrupt
        on_ctrl_c(signal.SIGINT, frame)

    signal.signal(signal.SIGTERM, interrupt)
    return terminated


def _missing_package(error: Exception, arguments: Sequence[str]) -> MissingExtraError | None:
    """A package that a command needs is absent: the command's row names the extra that installs it."""
    words = " ".join(arguments) + " "
    named = [path for path in COMMANDS if words.startswith(f"{path} ")]
    extra = COMMANDS[max(named, key=len)].extra if named else None
    if getattr(error, "name", None) in ("jinja2", "matplotlib"):
        extra = "report"  # less than the command's own, which brings PyTorch
    return missing_extra(error, extra or "all")


def _fail(line: str, exit_code: int) -> int:
    if debugging():
        traceback.print_exc()
    click.echo(f"genin: {_one_line(line)}", err=True)
    return exit_code


def _one_line(text: str) -> str:
    return " ".join(text.split())

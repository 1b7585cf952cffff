"""Which configurations of a model to measure: runtime, precision, steps, threads, pictures at once, and their size.

A model folder runs on PyTorch; a bundle runs on every runtime and precision it has graphs for, unless some are named.
Teachers run at their own number of steps, others at the steps asked for.

Not here: how they are measured (`rounds`).
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genin.benchmarks.contenders import Contender
from genin.benchmarks.model_facts import ModelFacts
from genin.benchmarks.peers.table import MODEL_FOLDER, PEERS, folder_remedy
from genin.benchmarks.results.files import GENIN, engine_text
from genin.runtimes.errors import InputError
from genin.runtimes.limits import usable_cores
from genin.runtimes.vocabulary import AUTO, nearest
from genin.runtimes.wording import counted


@dataclass(frozen=True)
class Configuration:
    """One thing to measure; `label` is how the user named the model. `batch` pictures are drawn at once, `size` pixels wide and
    high; None is the model's own size. `program` is what draws: genin or one of its peers, whose engine is `runtime` then. `asked`
    are the runtime and precision that were asked for, where genin has chosen."""

    label: str
    path: Path
    runtime: str
    precision: str
    steps: int
    role: str | None = None
    device: str = "cpu"
    threads: int = field(default_factory=usable_cores)
    batch: int = 1
    size: int | None = None
    program: str = GENIN
    asked: tuple[str, str] | None = None

    def __str__(self) -> str:
        steps = counted(self.steps, "step")
        engine = engine_text(self.program, self.runtime, self.precision)
        return f"{self.label} · {engine} · {steps}{self.suffix}"

    @property
    def suffix(self) -> str:
        """What its name ends with where it is not one picture of the model's own size, on the CPU."""
        device = f" · {self.device}" if self.device != "cpu" else ""
        batch = f" · batch {self.batch}" if self.batch != 1 else ""
        return device + batch + (f" · {self.size} px" if self.size is not None else "")

    @property
    def is_plain(self) -> bool:
        """Whether it draws one picture at a time, of the model's own size."""
        return self.batch == 1 and self.size is None

    def numbers(self, round: int) -> range:
        """The numbers of the pictures that it draws in a round: with any batch, the first pictures are the same."""
        return range(round * self.batch, (round + 1) * self.batch)


@dataclass(frozen=True)
class Choices:
    """What to measure of each contender; an empty list means all that it has, its default number of steps, all usable cores, one
    picture at once, its own size. `peers` are the other programs to measure beside genin."""

    runtimes: Sequence[str] = ()
    precisions: Sequence[str] = ()
    steps: Sequence[int] = ()
    teacher_steps: Sequence[int] = ()
    device: str = "cpu"  # where PyTorch runs model folders
    threads: Sequence[int] = ()
    batches: Sequence[int] = ()
    sizes: Sequence[int] = ()
    peers: Sequence[str] = ()


def configure(model: Contender, facts: ModelFacts, choices: Choices) -> list[Configuration]:
    """The configurations of one contender: of the steps asked for, those that a student was trained for, if there are any."""
    device = choices.device if facts.kind == "model" else "cpu"
    sizes = [None if size == facts.image_size else size for size in choices.sizes] or [None]
    sweep = itertools.product(choices.threads or (usable_cores(),), choices.batches or (1,), sizes)
    swept: list[dict[str, Any]] = [dict(zip(("threads", "batch", "size"), values, strict=True)) for values in sweep]
    return [
        Configuration(model.label, model.path, *pair, steps=count, role=_role(facts), device=device, **one)
        for pair in _pairs(facts, choices)
        for count in _steps(facts, choices)
        for one in swept
    ]


def configure_peers(
    model: Contender, facts: ModelFacts, choices: Choices
) -> tuple[list[Configuration], list[tuple[Configuration, str]]]:
    """The configurations of one contender on each peer, at the steps and with the threads of genin's own; and those that cannot be,
    with the reason. A peer that is not installed is one of them, once."""
    found: list[Configuration] = []
    refused: list[tuple[Configuration, str]] = []
    for name in choices.peers:
        peer = PEERS[name]
        own = peer.precisions(facts.graphs) if (peer.opens == MODEL_FOLDER) == (facts.kind == "model") else []
        named = [] if facts.kind == "model" or AUTO in choices.precisions else choices.precisions
        chosen = [one for one in named if one in own] if named else own
        asked = [
            Configuration(model.label, model.path, peer.runtime, precision, count, _role(facts), threads=threads, program=name)
            for precision in chosen or named or ["–"]
            for count in _steps(facts, choices)
            for threads in choices.threads or (usable_cores(),)
        ]  # fmt: skip
        if not peer.is_installed():
            refused.append((asked[0], f"it is not installed: {peer.install}"))
        elif choices.device != "cpu" and facts.kind == "model":
            refused.append((asked[0], f"peers are measured on the CPU, not on {choices.device}; leave out --device"))
        elif not own:
            refused.append((asked[0], folder_remedy(name, model.path)))
        elif not chosen:
            refused.append((asked[0], f"it opens this model in {', '.join(own)}"))
        else:
            found += asked
    return found, refused


def _steps(facts: ModelFacts, choices: Choices) -> Sequence[int]:
    asked = choices.teacher_steps if is_teacher(facts) else choices.steps
    known = [count for count in asked if count in facts.trained_steps]
    return known or asked or [facts.default_steps]


def _role(facts: ModelFacts) -> str | None:
    return "teacher" if is_teacher(facts) else facts.role


def steps_note(facts: ModelFacts, choices: Choices) -> str | None:
    """What `configure` left out of a student's step counts, or measured although it was not trained for it."""
    strange = [count for count in choices.steps if facts.trained_steps and count not in facts.trained_steps]
    if not strange or is_teacher(facts):
        return None
    trained, said = (", ".join(map(str, counts)) for counts in (facts.trained_steps, strange))
    only = len(strange) == len(choices.steps)
    return f"trained for {trained} steps, " + (f"measured at {said} anyway" if only else f"not measured at {said}")


def is_teacher(facts: ModelFacts) -> bool:
    """Whether the folder says so; a model folder without a role is a third-party teacher."""
    return facts.role == "teacher" or (facts.role is None and facts.kind == "model")


def first_steps(configurations: Iterable[Configuration]) -> dict[str, int]:
    """Label of each teacher => the first number of steps that it was to be measured at, whether it could be or not."""
    found: dict[str, int] = {}
    for one in configurations:
        if one.role == "teacher":
            found.setdefault(one.label, one.steps)
    return found


def check_precisions(precisions: Sequence[str], models: Iterable[ModelFacts]) -> None:
    """Errors: InputError for a precision that none of the bundles has."""
    known = list(dict.fromkeys(name for facts in models if facts.kind != "model" for _, name in facts.choices()))
    for name in precisions:
        if known and name not in (AUTO, *known):
            raise InputError(f"no bundle has the precision '{name}'", remedy=nearest(name, (AUTO, *known)))


def component_bytes(facts: ModelFacts, runtime: str, precision: str) -> tuple[dict[str, int | None], list[int]]:
    """Bytes per component, and those that are known."""
    sizes = facts.component_bytes(runtime, precision)
    if not any(sizes.values()) and runtime == "openvino":
        sizes = facts.component_bytes("onnxruntime", precision)
    return sizes, [size for size in sizes.values() if size is not None]


def _pairs(facts: ModelFacts, choices: Choices) -> list[tuple[str, str]]:
    """(runtime, precision), at least one: the process that is to run what a bundle has no graphs for says so."""
    offered = facts.choices()
    if facts.kind == "model":
        return offered
    pairs: list[tuple[str, str]] = []
    here = list(dict.fromkeys(name for name, _ in offered))
    if "onnxruntime" in here and "openvino" not in here and importlib.util.find_spec("openvino") is not None:
        here.insert(here.index("onnxruntime") + 1, "openvino")
    for runtime in choices.runtimes or here or (AUTO,):
        own = [precision for name, precision in offered if name == runtime]
        if runtime == AUTO:
            own = [AUTO]
        elif not own:  # OpenVINO reads a bundle's ONNX graphs where it has no others
            own = [precision for name, precision in offered if name == "onnxruntime"]
        pairs += [(runtime, precision) for precision in choices.precisions or own or (AUTO,)]
    return list(dict.fromkeys(pairs))

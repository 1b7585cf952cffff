"""Which engine, with how many threads, draws a bundle fastest on this machine: measured once, then remembered.

`runtime="auto"` asks here. What is measured is whole pictures, as the bundle draws them by default; the precision is never traded
for speed, since the same seed must draw the same picture on every machine. Nothing is measured where it would say little: on a busy
machine, of a bundle whose pictures take longer than the budget, where only one way exists, or with the environment variable
GENIN_AUTO=order. Then the order of `loading.AUTO_ORDER` holds. Nor is it for a few pictures (`genin generate`): ONNX Runtime loads
in half of the time that OpenVINO takes. Results are files in genin's cache folder, one for each bundle, machine and question;
`genin runtimes --explain BUNDLE` shows them.

Not here: what could run a bundle (`loading`), trustworthy figures (`genin bench`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from genin.runtimes.engine import ENGINES, EngineSettings
from genin.runtimes.errors import GeninError, InputError
from genin.runtimes.files import atomic_path
from genin.runtimes.limits import processor_name, usable_cores
from genin.runtimes.names import installed_names
from genin.runtimes.pipeline import Choice, Pipeline
from genin.runtimes.quiet import warnings_ignored
from genin.runtimes.threads import are_cores_idle, thread_limit

SWITCH, BY_ORDER = "GENIN_AUTO", "order"
BUDGET_S = 3.0  # for all ways together
LARGE_BYTES = 250_000_000  # of graphs: a picture of more takes too long to be drawn a few times
RUNS = 5  # after one that warms up
FEW = 20  # pictures that are drawn before measuring would have paid
LOADS_FASTEST = "onnxruntime"
SIMILAR = 1.03  # ways within this of the fastest are as good; of those the one with the fewest threads is taken
FORMAT = 1
PROMPT = "a portrait"

Open = Callable[[Choice, EngineSettings], Pipeline]


@dataclass(frozen=True)
class Way:
    """An engine with a number of threads; None leaves it to the engine."""

    choice: Choice
    threads: int | None


@dataclass(frozen=True)
class Timing:
    """The fastest of a few pictures, in milliseconds, and the seconds that loading took."""

    runtime: str
    format: str
    precision: str
    threads: int | None
    picture_ms: float
    load_s: float


@dataclass(frozen=True)
class Decision:
    """What draws, and why. `timings` are empty where nothing was measured."""

    way: Way
    why: str
    timings: tuple[Timing, ...] = ()


def decide(
    bundle: str, choices: Sequence[Choice], settings: EngineSettings, graph_bytes: int, open_pipeline: Open
) -> Decision:
    """The fastest of `choices`, of which the first is taken where nothing is measured.

    Args:
        bundle: what tells a bundle from others: a hash of its manifest.
        choices: runtimes that can run it here.
        settings: threads, if they are given, are not varied; nor for a program in the background, which has one.
        graph_bytes: size of its graphs.
        open_pipeline: loads it. Ways that cannot be loaded or drawn with are left out.

    Errors: InputError for another value of GENIN_AUTO.
    """
    ways, switch = list(_ways(choices, settings)), os.environ.get(SWITCH, "")
    if switch not in ("", BY_ORDER):
        raise InputError(
            f"the environment variable {SWITCH} is '{switch}'", remedy=f"set it to {BY_ORDER}, or leave it unset"
        )
    if switch:
        return Decision(Way(choices[0], settings.threads), f"{SWITCH}={BY_ORDER}: the first that is installed")
    if len(ways) == 1:
        return Decision(ways[0], "nothing else can run it here")
    place = _place(bundle, ways)
    if (timings := _read(place, ways)) is not None:
        return _fastest(ways, timings, "measured before", settings.pictures)
    exact = [choice for choice in choices if choice.precision == choices[0].precision]
    quick = [choice for choice in exact if choice.runtime == LOADS_FASTEST]
    if settings.pictures is not None and settings.pictures <= FEW and quick:
        return Decision(Way(quick[0], settings.threads), "few pictures, not measured: what loads fastest")
    if graph_bytes > LARGE_BYTES:
        return Decision(
            Way(choices[0], settings.threads), "too large to be measured in seconds: the first that is installed"
        )
    if not are_cores_idle(max(way.threads or 1 for way in ways)):
        return Decision(
            Way(choices[0], settings.threads), "other work is running, not measured: the first that is installed"
        )
    timings = _measure(ways, settings, open_pipeline)
    if not timings:
        return Decision(Way(choices[0], settings.threads), "no way could be measured: the first that is installed")
    _write(place, timings)
    return _fastest(ways, timings, "measured now", settings.pictures)


def forget(bundle: str, choices: Sequence[Choice], settings: EngineSettings) -> None:
    """Let the next `decide` measure again."""
    with suppress(OSError):
        _place(bundle, list(_ways(choices, settings))).unlink()


def _ways(choices: Sequence[Choice], settings: EngineSettings) -> Iterator[Way]:
    """Every engine once for each format that it reads best, with one thread, two, four, … and all cores; of the first's precision.
    Core ML only where there is nothing else: its first load takes minutes, and other units than the processor compute in fp16."""
    others = [choice for choice in choices if choice.runtime != "coreml"]
    choices = [choice for choice in others if choice.precision == others[0].precision] or choices
    limit = thread_limit() or usable_cores()
    counts = [settings.threads] if settings.threads else [1 << i for i in range(limit.bit_length()) if 1 << i < limit]
    if settings.background and not settings.threads:
        counts = [1]
    elif not settings.threads:
        counts.append(limit)
    seen: set[str] = set()
    for choice in choices:
        if choice.runtime not in seen:  # OpenVINO's own format comes before ONNX
            seen.add(choice.runtime)
            for count in counts if choice.runtime != "coreml" else [None]:
                yield Way(choice, count)


def _measure(ways: Sequence[Way], settings: EngineSettings, open_pipeline: Open) -> tuple[Timing, ...]:
    found: list[Timing] = []
    begun = time.perf_counter()
    for number, way in enumerate(ways):
        left_s = BUDGET_S - (time.perf_counter() - begun)
        if left_s <= 0:
            break
        with suppress(GeninError):
            found.append(_timing(way, settings, left_s / (len(ways) - number), open_pipeline))
    return tuple(found)


def _timing(way: Way, settings: EngineSettings, budget_s: float, open_pipeline: Open) -> Timing:
    begun = time.perf_counter()
    choice = way.choice
    with warnings_ignored(), open_pipeline(choice, replace(settings, threads=way.threads)) as pipeline:
        load_s = time.perf_counter() - begun
        pipeline.generate(PROMPT, 0)
        times: list[float] = []
        while len(times) < RUNS and (not times or time.perf_counter() - begun < budget_s):
            run = time.perf_counter()
            pipeline.generate(PROMPT, 0)
            times.append(time.perf_counter() - run)
    picture_ms = round(1e3 * min(times), 3)
    return Timing(choice.runtime, choice.format, choice.precision, way.threads, picture_ms, round(load_s, 3))


def _fastest(ways: Sequence[Way], timings: Sequence[Timing], why: str, pictures: int | None) -> Decision:
    cost_ms = partial(_cost_ms, timings, pictures)
    best = min(map(cost_ms, timings))
    similar = [timing for timing in timings if cost_ms(timing) <= best * SIMILAR]
    chosen = min(similar, key=lambda timing: (timing.threads or usable_cores(), cost_ms(timing)))
    [way] = [way for way in ways if (way.choice.runtime, way.threads) == (chosen.runtime, chosen.threads)]
    return Decision(way, f"{why}: {chosen.picture_ms:g} ms a picture", tuple(timings))


def _cost_ms(timings: Sequence[Timing], pictures: int | None, timing: Timing) -> float:
    """Of one picture, or of loading and all. The first time that an engine was loaded counts: later ones did not import it."""
    if pictures is None:
        return timing.picture_ms
    load_s = max(other.load_s for other in timings if other.runtime == timing.runtime)
    return 1e3 * load_s + pictures * timing.picture_ms


# --- what is remembered ------------------------------------------------------------------------------------------------


def _place(bundle: str, ways: Sequence[Way]) -> Path:
    """The file of an answer. Another machine, release of an engine, bundle or question has another one."""
    question = {
        "format": FORMAT,
        "bundle": bundle,
        "ways": [(*asdict(way.choice).values(), way.threads) for way in ways],
        "engines": {way.choice.runtime: ENGINES[way.choice.runtime].version() for way in ways},
        "machine": (platform.machine(), platform.system(), processor_name(), usable_cores()),
    }
    name = hashlib.sha256(json.dumps(question).encode()).hexdigest()[:32]
    return installed_names().cache() / "measured" / f"{name}.json"


def _read(place: Path, ways: Sequence[Way]) -> tuple[Timing, ...] | None:
    known = {(way.choice.runtime, way.threads) for way in ways}
    try:
        rows: Any = json.loads(place.read_text(encoding="utf-8"))
        timings = tuple(Timing(**row) for row in rows)
        sound = all(
            (one.runtime, one.threads) in known and 0 < one.picture_ms < math.inf and 0 <= one.load_s < math.inf
            for one in timings
        )
        return timings if timings and sound else None
    except (OSError, ValueError, TypeError, RecursionError):  # not there yet, or damaged: it is only a cache
        return None


def _write(place: Path, timings: Sequence[Timing]) -> None:
    with suppress(OSError), atomic_path(place, sync=False) as partial:
        partial.write_text(json.dumps([asdict(timing) for timing in timings], indent=1) + "\n", encoding="utf-8")

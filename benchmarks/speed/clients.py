"""Several clients at once: how many pictures a second does the machine draw for them, and how long does each wait?

A client is a process with a model of its own that asks for its next picture as soon as it has one (a closed loop): a pipeline draws
one picture at a time, so clients of one process would only wait for each other. The numbers of clients take turns, up and down
again, so that what changes on the machine meanwhile is shared out evenly. A client that has drawn for its turn's time draws on,
uncounted, until all have: nobody is counted on a machine that has become quiet.

Not here: latency of a single client, with intervals (`rounds`).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

import numpy as np

from genin.benchmarks.results.statistics import summary
from genin.benchmarks.speed.configurations import Configuration
from genin.benchmarks.speed.memory import pss_bytes
from genin.benchmarks.speed.protocol import Protocol
from genin.benchmarks.speed.sustained import Told
from genin.benchmarks.speed.worker import Worker, WorkerError

TURNS: Final = 4  # of each number of clients: up, down, up, down
TURN_S: Final = 5.0
SHOWN: Final = ("p50", "p95", "p99")

Draw = Callable[[], float]


def serve(
    configuration: Configuration, protocol: Protocol, counts: Sequence[int], told: Told = lambda _: None
) -> dict[str, Any]:
    """Draw for each number of clients in `counts`: "1" => its figures, "2" => …; without those numbers that could not be started,
    for lack of memory, say. Errors: WorkerError where none could."""
    workers: list[Worker] = []
    try:
        rounds, draws, memory = itertools.count(), list[Draw](), dict[str, int | None]()
        try:
            while len(workers) < max(counts):
                workers.append(Worker(configuration, protocol))
                draws.append(partial(_draw, workers[-1], configuration, protocol, rounds))
                draws[-1]()
                if len(workers) in counts:  # now: with more of them, pages that all share would count less
                    held = [pss_bytes(worker.process.pid) for worker in workers]
                    memory[str(len(workers))] = None if None in held else sum(filter(None, held))
        except WorkerError:
            if not memory:
                raise
        found = take_turns(draws, [int(count) for count in memory], told=told)
        for count, figures in found.items():
            figures["pictures_per_s"] = round(figures.pop("calls_per_s") * configuration.batch, 4)
            figures["pss_bytes"] = memory[count]
        return found
    finally:
        for worker in workers:
            worker.close()


def _draw(worker: Worker, configuration: Configuration, protocol: Protocol, rounds: itertools.count[int]) -> float:
    """The next picture, or batch, in milliseconds: of all clients, no two draw the same."""
    answer = worker.ask(do="time", keep=False, **protocol.call(configuration.numbers(next(rounds))))
    return float(answer["total_ms"])


def take_turns(
    draws: Sequence[Draw], counts: Sequence[int], seconds: float = TURN_S, told: Told = lambda _: None
) -> dict[str, dict[str, Any]]:
    """Let the first 1, 2, … of `draws`, as `counts` says, be called at once, each again and again. A call returns its own
    milliseconds. Errors: the first that a call raises, after all have ended."""
    order = sorted(set(counts))
    turns: Mapping[int, list[tuple[list[float], float]]] = {count: [] for count in order}
    for turn in range(TURNS):
        for place, count in enumerate(order if turn % 2 == 0 else order[::-1]):
            turns[count].append(draw_at_once(draws[:count], seconds))
            told((turn * len(order) + place + 1) / (TURNS * len(order)))
    return {str(count): _figures(turns[count]) for count in order}


def draw_at_once(draws: Sequence[Draw], seconds: float) -> tuple[list[float], float]:
    """Milliseconds of the counted calls, and calls a second: the sum of the clients' own rates, each over its own counted time."""
    unfinished = set(range(len(draws)))

    def client(number: int) -> tuple[list[float], float]:
        began, times, rate, counted = time.perf_counter(), [], 0.0, 0
        try:
            while not counted or unfinished:
                times.append(draws[number]())
                if not counted and (took := time.perf_counter() - began) >= seconds:
                    counted, rate = len(times), len(times) / took
                    unfinished.discard(number)
        finally:
            unfinished.discard(number)  # the others are not to wait for one that failed
        return times[:counted], rate

    with ThreadPoolExecutor(len(draws)) as pool:
        found = list(pool.map(client, range(len(draws))))
    return [ms for times, _ in found for ms in times], sum(rate for _, rate in found)


def _figures(turns: Sequence[tuple[list[float], float]]) -> dict[str, Any]:
    rates = [rate for _, rate in turns]
    latency = summary([np.array(times) for times, _ in turns])
    return {
        "calls": sum(len(times) for times, _ in turns),
        "calls_per_s": sum(rates) / len(rates),
        "slowest_to_fastest_turn": round(min(rates) / max(rates), 4),
        **{f"{name}_ms": latency[name] for name in SHOWN},
    }

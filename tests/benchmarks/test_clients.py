"""Several clients at once: everybody is counted while all draw, figures add up, a client that fails ends all."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from genin.benchmarks.benchmarking import BenchOptions
from genin.benchmarks.report.report import Report, render
from genin.benchmarks.results.exports import to_markdown
from genin.benchmarks.results.files import seal
from genin.benchmarks.results.schema import errors_of
from genin.benchmarks.results.table import clients_text, results_table
from genin.benchmarks.speed import clients
from genin.benchmarks.speed.apart import Apart, add_apart
from genin.benchmarks.speed.clients import draw_at_once, serve, take_turns
from genin.benchmarks.speed.configurations import Configuration
from genin.benchmarks.speed.memory import pss_bytes, rss_bytes
from genin.benchmarks.speed.protocol import Protocol
from genin.benchmarks.speed.samples import Measured, ProcessRun
from genin.benchmarks.speed.worker import WorkerError
from genin.runtimes.errors import InputError
from result_files import results, row


class Machine:
    """Draws one picture at a time, in `seconds`, whoever asks; it remembers how many were waiting at most."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.inside, self.most, self.calls = seconds, 0, 0, 0
        self.place = ThreadPoolExecutor(1)  # first come, first served, which a lock is not

    def draw(self) -> float:
        began = time.perf_counter()
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.place.submit(time.sleep, self.seconds).result()
        self.calls += 1
        self.inside -= 1
        return 1000 * (time.perf_counter() - began)


def test_a_machine_of_one_place_draws_no_more_for_three_and_lets_them_wait() -> None:
    machine = Machine(0.01)
    found = take_turns([machine.draw] * 3, (3, 1, 3), seconds=0.2)
    assert list(found) == ["1", "3"] and machine.most == 3
    one, three = found["1"], found["3"]
    assert three["calls_per_s"] < 2 * one["calls_per_s"]  # three places would be 3 times; the machine may be busy
    assert three["p50_ms"] > 1.5 * one["p50_ms"] and one["p50_ms"] >= 10
    assert three["p99_ms"] is None and 0 < one["slowest_to_fastest_turn"] <= 1
    assert one["calls"] + three["calls"] <= machine.calls  # the last ones are drawn, not counted


def test_numbers_that_could_be_started_keep_their_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third process does not start."""

    class Scarce:
        started = 0

        def __init__(self, *_: Any) -> None:
            Scarce.started += 1
            if Scarce.started > 2:
                raise WorkerError("its process was killed")
            self.process = SimpleNamespace(pid=0)

        def ask(self, **_: Any) -> dict[str, Any]:
            time.sleep(0.001)
            return {"total_ms": 1.0}

        def close(self) -> None:
            Scarce.started -= 1

    monkeypatch.setattr(clients, "Worker", Scarce)
    monkeypatch.setattr(clients, "pss_bytes", lambda pid: 5)
    monkeypatch.setattr(clients, "take_turns", partial(take_turns, seconds=0.01))
    one = Configuration("m", Path("m"), "onnxruntime", "fp16", 1)
    made, measured = row("m", 1.0), Measured(one, [ProcessRun({"runtime": "onnxruntime", "precision": "fp16"}, 1.0)])
    add_apart([made], [measured], Protocol(), Apart(clients=(1, 2, 3, 4)))
    assert list(made["clients"]) == ["1", "2"] and made["clients"]["2"]["pss_bytes"] == 10
    assert made["notes"]["clients"] == "3, 4 clients could not be started at once"
    told = results_table(results(made))
    assert "m · onnxruntime fp16 · 4 steps: clients: 3, 4 clients could not be started at once" in told
    add_apart([made], [measured], Protocol(), Apart(clients=(3,)))
    assert made["clients"] is None and made["notes"]["clients"] == "its process was killed"


def test_calls_that_are_longer_than_a_turn_count_once() -> None:
    times, rate = draw_at_once([Machine(0.05).draw, Machine(0.05).draw], seconds=0.001)
    assert len(times) == 2 and 2 / 0.2 < rate < 2 / 0.05


def test_a_client_that_fails_ends_all() -> None:
    def fail() -> float:
        raise WorkerError("its process was killed")

    with pytest.raises(WorkerError, match="killed"):
        draw_at_once([Machine(0.01).draw, fail], seconds=0.05)


class Worker:
    """Of a process: which pictures it was asked for."""

    made: list[Worker]

    def __init__(self, *_: object) -> None:
        self.seeds: list[int] = []
        self.closed, self.process = False, self
        self.pid = 0
        Worker.made.append(self)

    def ask(self, *, seed: list[int], **request: Any) -> dict[str, float]:
        assert request["do"] == "time" and request["keep"] is False
        self.seeds += seed
        time.sleep(0.01)
        return {"total_ms": 10.0}

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[Worker]:
    Worker.made = []
    monkeypatch.setattr(clients, "Worker", Worker)
    monkeypatch.setattr(clients, "take_turns", lambda draws, counts, told: take_turns(draws, counts, 0.05, told))
    monkeypatch.setattr(clients, "pss_bytes", lambda _: 1200 // len(Worker.made))  # as of pages that all share
    return Worker.made


def test_clients_are_processes_that_draw_different_pictures(workers: list[Worker]) -> None:
    shares: list[float] = []
    found = serve(Configuration("m", Path("m"), "onnxruntime", "fp16", 4, batch=2), Protocol(), (1, 2), shares.append)
    assert len(workers) == 2 and all(one.closed for one in workers)
    seeds = [seed for one in workers for seed in one.seeds]
    assert sorted(seeds) == list(range(len(seeds)))
    assert found["1"]["pss_bytes"] == found["2"]["pss_bytes"] == 1200 and shares[-1] == 1.0 and len(shares) == 8
    assert found["1"]["pictures_per_s"] == pytest.approx(2 * found["1"]["calls"] / 0.2, rel=0.5)  # a batch is two


def test_rows_have_them_in_every_output(workers: list[Worker]) -> None:
    measured = [
        Measured(
            Configuration("m", Path("m"), "auto", "auto", 4),
            [ProcessRun({"runtime": "onnxruntime", "precision": "fp16"}, 1.0)],
        )
    ]
    configuration = Configuration("m", Path("m"), "onnxruntime", "fp16", 4, batch=2)
    measured[0].configuration = configuration
    rows: list[dict[str, Any]] = [row("m", 10.0)]
    add_apart(rows, measured, Protocol(), Apart(clients=(1, 2)))
    file = results(*rows, row("n", 10.0))
    assert not list(errors_of(seal(file)))
    text = clients_text(file)
    assert text.startswith("**m · onnxruntime fp16 · 4 steps: clients at once**") and "n ·" not in text
    assert [line.split("|")[1].strip() for line in text.splitlines()[2:]] == ["clients", "------:", "1", "2"]
    assert text in to_markdown(file)
    pytest.importorskip("jinja2", reason="genin[report] is not installed")
    page = render(Report(file, []))
    assert "Several clients at once" in page and "pictures/s" in page


def test_shared_memory_counts_in_shares() -> None:
    import os

    own = pss_bytes(os.getpid())
    if own is None:
        pytest.skip("this system does not tell it")
    assert 0 < own <= (rss_bytes() or 0)
    assert pss_bytes(2**22 + 1) is None


@pytest.mark.parametrize("wrong", [0, -1, 1000, [1, 0], 1.5])
def test_numbers_of_clients_that_make_no_sense_are_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match="clients"):
        BenchOptions(clients=wrong)


@pytest.mark.parametrize("name", ["threads", "batch", "size", "steps"])
def test_nought_is_not_taken_for_unset(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} must be a whole number"):
        BenchOptions(**{name: 0})
    assert getattr(BenchOptions(**{name: None}), name) == ()

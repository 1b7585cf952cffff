"""`--duration` and `--warmup 2s`: how long is drawn, how many runs there are at least, what is kept, recorded and refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from genin import cli
from genin.benchmarks import CompareOptions, EvaluateOptions, benchmarking
from genin.benchmarks.benchmarking import BenchOptions
from genin.benchmarks.report.report import Report, render
from genin.benchmarks.results.compare import compare_results
from genin.benchmarks.results.files import seal
from genin.benchmarks.results.table import results_table
from genin.benchmarks.speed import rounds
from genin.benchmarks.speed.configurations import Configuration
from genin.benchmarks.speed.protocol import Protocol
from genin.benchmarks.speed.rounds import measure
from genin.benchmarks.speed.samples import Measured
from genin.benchmarks.suites import read_suite
from genin.runtimes.errors import InputError
from result_files import results, row


class Clock:
    """Time that passes only while a picture is drawn."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    time = perf_counter


class Drawer:
    """In place of a process: a picture takes as many milliseconds as its model's name says."""

    clock = Clock()
    facts: ClassVar[dict[str, Any]] = {"first_run_ms": 500.0, "load_s": 0.1}
    cold_start_s = 1.0
    kept: ClassVar[list[int]] = []

    def __init__(self, configuration: Configuration, protocol: Protocol) -> None:
        self.milliseconds, self.pictures = int(configuration.label), 0

    def ask(self, **request: Any) -> dict[str, Any]:
        if request["do"] == "finish":
            np.save(request["out"], np.zeros((self.pictures, 8, 8, 3), np.uint8))
            return {"memory_bytes": {"peak": 7}}
        self.clock.now += self.milliseconds / 1000
        self.pictures += request["keep"]
        return {"total_ms": float(self.milliseconds), "stages_ms": {}}

    def close(self) -> None:
        self.kept.append(self.pictures)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(rounds, "Worker", Drawer)
    monkeypatch.setattr(rounds, "time", Drawer.clock)
    monkeypatch.setattr(Drawer, "kept", [])

    def draw(protocol: Protocol, *milliseconds: int) -> list[Measured]:
        configurations = [Configuration(str(one), Path(str(one)), "pytorch", "fp32", 1) for one in milliseconds]
        return measure(configurations, protocol, {})[0]

    return draw


def test_each_configuration_draws_for_its_duration_and_at_least_two_of_each_process(drawn: Any) -> None:
    fast, slow, slowest = drawn(Protocol(duration_s=10.0, processes=5, warmup=0), 100, 1500, 9000)
    assert [[len(group) for group in one.groups()] for one in (fast, slow, slowest)] == [[21] * 5, [2] * 5, [2] * 5]
    assert sum(fast.total_ms()) / 1000 == pytest.approx(10.0, abs=0.6)
    assert [run.round for _, run in slow.runs()] == [0, 1] * 5
    (alone,) = drawn(Protocol(duration_s=1.0, processes=1, warmup=0), 9000)
    assert len(alone.total_ms()) == 3


def test_pictures_beyond_the_first_rounds_are_timed_and_not_kept(drawn: Any) -> None:
    protocol = Protocol(duration_s=10.0, processes=2, warmup=1)
    (measured,) = drawn(protocol, 100)
    assert Drawer.kept == [20, 20] == [protocol.kept_rounds()] * 2 and len(measured.total_ms()) == 102
    assert sorted(measured.by_number()) == list(range(20)) and len(list(measured.drawn())) == 40


@pytest.mark.parametrize(("milliseconds", "pictures"), [(500, 4), (3000, 1), (20_000, 1)])
def test_seconds_of_warm_up(milliseconds: int, pictures: int, drawn: Any) -> None:
    begun = Drawer.clock.now
    drawn(Protocol(runs=1, processes=1, warmup_s=2.0), milliseconds)
    assert Drawer.clock.now - begun == pytest.approx((pictures + 1) * milliseconds / 1000)


def test_what_was_asked_for_is_recorded_and_shown() -> None:
    asked = Protocol(duration_s=10.0, warmup_s=2.0).describe()
    assert {key: asked[key] for key in ("runs", "duration_s", "warmup", "warmup_s", "processes")} == {
        "runs": 10,
        "duration_s": 10.0,
        "warmup": 0,
        "warmup_s": 2.0,
        "processes": 5,
    }
    assert Protocol().describe()["duration_s"] is None
    measured = results(row("a", 8.0), row("b", 80.0) | {"runs": 12})
    measured["protocol"] |= asked
    said = render(Report(seal(measured)))
    assert "10 s of timed pictures of each, at least 10 runs; 2 s of warm-up in each" in said
    assert '<th scope="col">runs</th>' in said and "percentiles over 12 to 40 pictures" in said
    table = results_table(measured).splitlines()[2:]
    assert " runs " in table[0] and "|   12 |" in table[3] and " runs " not in results_table(results(row("a", 8.0)))


def test_a_comparison_says_another_warm_up_but_not_other_pictures_of_another_number() -> None:
    old = results(row("a", 8.0) | {"pairs": 8})
    new = results(row("a", 8.0) | {"pairs": 9, "pictures_sha256": "5" * 64}, run_id="b")
    new["protocol"] |= {"warmup_s": 2.0, "warmup": 0}
    found = compare_results(seal(old), seal(new), 0.02)
    assert "measured with another warmup" in str(found.to_json()) and "other pictures" not in str(found.to_json())
    alike = results(row("a", 8.0) | {"pairs": 8, "pictures_sha256": "5" * 64}, run_id="b")
    assert "the same weights draw other pictures" in str(compare_results(seal(old), seal(alike), 0.02).to_json())
    alike["protocol"] |= {"seed": 7}
    found = compare_results(seal(old | {"protocol": old["protocol"] | {"seed": 0}}), seal(alike), 0.02)
    assert "measured with another seed" in str(found.to_json()) and "other pictures" not in str(found.to_json())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"duration": 0}, "duration must be a number above 0; got 0"),
        ({"duration": "soon"}, "duration must be seconds; got 'soon'; write 10 or 10s"),
        ({"duration": "1e9s"}, "duration must be seconds"),
        ({"duration": 90_000}, "duration is 90000 seconds; name up to 86400, a day"),
        ({"duration": 5, "runs": 9}, "runs and duration are both given; give one of them"),
        ({"warmup": "2.5"}, "warmup must be pictures or seconds; got '2.5'; write 2 or 2s"),
        ({"warmup": -1}, "warmup must be a whole number, at least 0; got -1"),
        *(
            ({name: None}, f"{name} has no value; give it one, or leave it out")
            for name in ("processes", "seed", "warmup", "device", "reference")
        ),
        ({"device": 0}, "device 0 is not a text"),
    ],
)
def test_other_values_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as refused:
        BenchOptions(**options)
    assert says in str(refused.value)


def test_a_key_that_a_suite_leaves_empty_is_named_and_lists_may_be_empty(tmp_path: Path) -> None:
    suite = tmp_path / "mine.yaml"
    suite.write_text("models: [a]\nprompts: [b]\nprocesses:\n")
    with pytest.raises(InputError, match=r"processes has no value: .*mine\.yaml; give it one, or leave it out"):
        read_suite(suite)
    assert BenchOptions(steps=None, runs=None).steps == ()
    for options in (CompareOptions, EvaluateOptions):
        for wrong, says in (({"device": 1}, "device 1 is not a text"), ({"seed": None}, "seed has no value")):
            with pytest.raises(InputError, match=says):
                options(**wrong)


def test_the_command_line_and_suites_take_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[BenchOptions] = []

    def stop(_: object, options: BenchOptions) -> None:
        asked.append(options)
        raise InputError("enough")

    monkeypatch.setattr(benchmarking, "bench", stop)
    suite = tmp_path / "mine.yaml"
    suite.write_text("models: [a]\nprompts: [b]\nduration: 20s\nwarmup: 1.5s\n")
    named = read_suite(suite)[1]["suite"]
    assert read_suite(suite)[1] == {"prompts": ["b"], "duration": "20s", "warmup": "1.5s", "suite": named}
    for given in ("--duration 10s --warmup 2s", "--duration 0.5", f"--suite {suite}", f"--suite {suite} --runs 9"):
        assert cli.run(["bench", *given.split()]) == 2
    protocols = [benchmarking._protocol(replace(one, prompts=["a"])) for one in asked]
    found = [(one.duration_s, one.runs, one.warmup, one.warmup_s) for one in protocols]
    assert found == [(10.0, 40, 0, 2.0), (0.5, 40, 2, None), (20.0, 40, 0, 1.5), (None, 9, 0, 1.5)]


@pytest.mark.parametrize(
    "given", ["--duration 0", "--duration x", "--warmup x", "--warmup 1.5", "--duration 9 --runs 9"]
)
def test_wrong_options_are_one_line(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", *given.split()]) == 2
    assert "write" in (said := capsys.readouterr().err) or "not both" in said

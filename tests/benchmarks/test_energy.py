"""Energy counters: a fake folder in place of /sys/class/powercap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from genin.benchmarks.model_facts import ModelFacts
from genin.benchmarks.speed import energy, rounds
from genin.benchmarks.speed.configurations import Configuration
from genin.benchmarks.speed.energy import NOT_AVAILABLE, NOT_THE_CPU, EnergyMeter
from genin.benchmarks.speed.protocol import Protocol
from genin.benchmarks.speed.rounds import measure
from genin.benchmarks.speed.rows import speed_row


def zone(folder: Path, place: str, name: str, microjoules: int, full: int | None = 1_000_000_000) -> Path:
    path = folder / place
    path.mkdir(parents=True, exist_ok=True)
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    if full is not None:
        (path / "max_energy_range_uj").write_text(f"{full}\n")
    return path / "energy_uj"


def test_packages_add_up_and_their_parts_do_not_count_twice(tmp_path: Path) -> None:
    first, second = (zone(tmp_path, f"intel-rapl:{n}", f"package-{n}", 5_000_000) for n in (0, 1))
    part, board = zone(tmp_path, "intel-rapl:0:0", "core", 0), zone(tmp_path, "intel-rapl:2", "psys", 0)
    meter = EnergyMeter(tmp_path)
    assert meter.available and meter.read() == [5_000_000, 5_000_000]
    before = meter.read()
    first.write_text("7500000"), second.write_text("6000000"), part.write_text("900000"), board.write_text("9000000")
    assert meter.joules_since(before) == 3.5


@pytest.mark.parametrize(("full", "joules"), [(1_000_000_000, 3.0), (None, None)])
def test_a_counter_that_has_begun_again_goes_on_where_its_range_is_known(
    full: int | None, joules: float | None, tmp_path: Path
) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 999_000_000, full)
    meter = EnergyMeter(tmp_path)
    before = meter.read()
    counter.write_text("2000000")
    assert meter.joules_since(before) == joules


def test_what_cannot_be_read_is_not_available(tmp_path: Path) -> None:
    assert not EnergyMeter(tmp_path / "none").available and EnergyMeter(tmp_path / "none").joules_since([]) is None
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    meter = EnergyMeter(tmp_path)
    before = meter.read()
    counter.unlink()  # as for one whom the system does not let read it
    assert meter.joules_since(before) is None and not EnergyMeter(tmp_path).available


@pytest.mark.parametrize(
    ("counted", "device", "joules", "note"),
    [(True, "cpu", 0.25, None), (False, "cpu", None, NOT_AVAILABLE), (True, "cuda", None, NOT_THE_CPU)],
)
def test_a_row_has_the_joules_of_a_picture(
    counted: bool, device: str, joules: float | None, note: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 0) if counted else None

    class Drawing:
        facts = dict.fromkeys(("runtime", "provider", "precision"), "pytorch") | {"first_run_ms": 500.0, "load_s": 1.0}
        cold_start_s = 1.0

        def __init__(self, *_: Any) -> None: ...

        def ask(self, **request: Any) -> dict[str, Any]:
            if counter is not None and request["do"] == "time":
                counter.write_text(str(int(counter.read_text()) + 500_000))
            return {"total_ms": 500.0, "stages_ms": {}, "memory_bytes": {}}

        def close(self) -> None: ...

    monkeypatch.setattr(rounds, "Worker", Drawing)
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    configuration = Configuration("m", Path("m"), "pytorch", "fp32", 1, device=device, batch=2)
    measured, _ = measure([configuration], Protocol(runs=4, processes=2, warmup=1), {})
    facts = ModelFacts(Path("m"), "bundle", "m", None, 64, 1, 1.0)
    facts.__dict__["sha256"] = "0" * 64
    row = speed_row(measured[0], facts)
    assert row["joules_per_picture"] == joules  # half a joule for both pictures of a batch; warm-up is not counted
    assert row["notes"].get("joules_per_picture") == note
    assert row["name"].endswith(" · 1 step · batch 2" if device == "cpu" else " · 1 step · cuda · batch 2")

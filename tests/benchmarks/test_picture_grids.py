"""Which pictures a page shows, and which it compares with which."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from genin.benchmarks.peers.table import PEERS
from genin.benchmarks.speed.configurations import Configuration
from genin.benchmarks.speed.picture_grids import ENGINES, PROGRAMS, SIDE_BY_SIDE, picture_grids
from genin.benchmarks.speed.picture_quality import Reference, key_of
from genin.benchmarks.speed.protocol import Protocol
from genin.benchmarks.speed.samples import Measured, ProcessRun, Run
from result_files import row

STUDENT = Configuration("student", Path("student"), "onnxruntime", "fp16", 4)


def measured(latency_ms: float, value: int, **more: Any) -> tuple[Measured, dict[str, Any]]:
    """A configuration that drew three pictures of one value, and its row."""
    configuration = replace(STUDENT, **more)
    process = ProcessRun({}, 1.0, [Run(number, 0.0, latency_ms, {}) for number in range(3)])
    process.pictures = np.full((3, 8, 8, 3), value, np.uint8)
    facts = {"runtime": configuration.runtime, "precision": configuration.precision, "steps": configuration.steps}
    facts |= {"program": configuration.program, "name": str(configuration), "bundle": configuration.label}
    return Measured(configuration, [process]), row(configuration.label, latency_ms) | facts


def named(grid: Any) -> list[tuple[str, str]]:
    return [(one.name, one.against) for one in grid.rows]


def test_an_untimed_reference_is_shown_once_among_what_is_compared_with_it() -> None:
    slow, fast = measured(9.0, 1), measured(5.0, 2, runtime="openvino")
    drawn = {number: np.zeros((8, 8, 3), np.uint8) for number in range(3)}
    references = {key_of(STUDENT): Reference(drawn, "onnxruntime fp32", True)}
    pair = [slow, fast]
    first, every = picture_grids([one for one, _ in pair], [row for _, row in pair], Protocol(), references)
    assert (first.title, every.title, every.folded, len(first.captions)) == (SIDE_BY_SIDE, ENGINES, True, 3)
    reference, names = every.rows[0], [str(one.configuration) for one, _ in pair]
    assert reference.detail == "onnxruntime fp32, 4 steps, not timed" and not reference.pictures.any()
    assert named(first) == [(names[1], reference.name)]
    assert named(every) == [(reference.name, ""), (names[0], reference.name), (names[1], reference.name)]
    (alone,) = picture_grids([slow[0]], [slow[1]], Protocol(), references)
    assert not alone.folded and named(alone) == [(reference.name, ""), (names[0], reference.name)]


def test_a_measured_reference_is_its_own_row_and_other_noise_is_not_compared() -> None:
    own_noise = next(name for name, peer in PEERS.items() if peer.own_noise)
    wide, small = measured(9.0, 1, precision="fp32"), measured(5.0, 2, precision="int8")
    other, one_step = measured(7.0, 9, program=own_noise), measured(2.0, 3, steps=1)
    references = {key_of(STUDENT): Reference(wide[0].by_number(), "onnxruntime fp32", True, wide[0])}
    pair = [wide, small, other, one_step]
    first, every = picture_grids([one for one, _ in pair], [row for _, row in pair], Protocol(), references)
    names = [str(one.configuration) for one, _ in pair]
    assert every.title == PROGRAMS
    assert named(every) == [(names[0], ""), (names[1], names[0]), (names[2], ""), (names[3], "")]
    assert named(first) == [(names[1], names[0]), (names[3], "")]  # each model and steps on its fastest engine
    assert picture_grids([], [], Protocol(), {}) == []

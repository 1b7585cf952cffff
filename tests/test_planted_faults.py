"""The table of planted faults fits the code: each can still be planted, and its tests are there."""

from __future__ import annotations

from programs import load_program


def test_every_fault_can_be_planted() -> None:
    planted_faults = load_program("tools/planted_faults.py")
    planted_faults.check()
    names = [fault.name for fault in planted_faults.FAULTS]
    assert len(set(names)) == len(names) == 71

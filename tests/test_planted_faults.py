"""The table of planted faults fits the code: each can still be planted, and its tests are there."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

TOOL = Path(__file__).resolve().parents[1] / "tools" / "planted_faults.py"


def test_every_fault_can_be_planted() -> None:
    spec = importlib.util.spec_from_file_location("planted_faults", TOOL)
    assert spec is not None and spec.loader is not None
    planted_faults = importlib.util.module_from_spec(spec)
    sys.modules["planted_faults"] = planted_faults
    spec.loader.exec_module(planted_faults)
    planted_faults.check()
    names = [fault.name for fault in planted_faults.FAULTS]
    assert len(set(names)) == len(names) == 60

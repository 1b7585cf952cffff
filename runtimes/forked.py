"""What a process has of engines that were loaded before it was forked: they stay as they are.

The threads of an engine are not in a forked process, and freeing it would wait for them for ever, at the latest when the process
ends.

Not here: refusing to draw there (`pipeline`).
"""

from __future__ import annotations

import ctypes
import os
from weakref import WeakSet

_loaded: WeakSet[object] = WeakSet()


def keep_in_forks(loaded: object) -> None:
    """`loaded`, and what it refers to, is never freed in a process that is forked while it lives."""
    _loaded.add(loaded)


def _keep() -> None:
    for each in list(_loaded):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))  # a reference from Python would end with the interpreter


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_keep)

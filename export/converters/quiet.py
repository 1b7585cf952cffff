"""Converters talk: tracer warnings, progress bars, tables. `quiet` keeps them off the user's terminal while they work.

What they say matters only when they fail, and then it is in the exception. Not covered: native code that writes to the
file descriptors (none of the converters does at its default level).
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings, logging below CRITICAL, stdout and stderr of Python code inside the block."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

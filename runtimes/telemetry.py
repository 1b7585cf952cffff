"""Usage statistics of other libraries, switched off: drawing, exporting and measuring on one's own machine tell nobody.

ONNX Runtime reports to Microsoft, OpenVINO and NNCF to Google Analytics, all unless told not to; OpenVINO also leaves an
identifier in the home folder. Each decides when it is imported, so `import genin` calls this first. ONNX Runtime and the hub's
client read a variable, which child processes inherit and where a value that the user has set is kept. OpenVINO and NNCF have none;
both go on without the package that reports, `openvino_telemetry`, so it is made to look absent, in this process, unless the
program has imported it already.

Not here: a library that was imported before genin; the hub, which is asked for files only where a hub name was given (`genin.hub`).
"""

from __future__ import annotations

import os
import sys

VARIABLES = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
REPORTING_PACKAGE = "openvino_telemetry"


def switch_off_telemetry() -> None:
    """Keep ONNX Runtime, OpenVINO, NNCF and the hub's client from reporting that they are used."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    # None in place of a module: importing it raises ModuleNotFoundError.
    sys.modules.setdefault(REPORTING_PACKAGE, None)  # type: ignore[arg-type]

"""What `import genin` offers for drawing: `load` and `verify`, by any name that the command line takes, too.

Not here: what names mean (`names`), opening what they point to (`genin.runtimes.loading`), the pipeline itself
(`genin.runtimes.pipeline`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from genin.names import InstalledNames
from genin.runtimes.loading import load_pipeline
from genin.runtimes.pipeline import Pipeline
from genin.runtimes.vocabulary import AUTO

if TYPE_CHECKING:
    from genin.export.checks.verify import Report


def load(
    name: str | Path = "builtin:student",
    *,
    runtime: str = AUTO,
    precision: str = AUTO,
    threads: int | None = None,
    device: str = "cpu",
    max_memory: int | None = None,
) -> Pipeline:
    """A pipeline that draws: `genin.load("builtin:student")("a ninja", seed=7).save("ninja.png")`.

    Args:
        name: `builtin:student`, `builtin:student-1step` or `builtin:teacher`; a bundle (a folder or a `.genin` file); a model
            folder; or `owner/name` of the Hugging Face hub, of which only the files that are needed are fetched.
        runtime: `pytorch`, `onnxruntime`, `openvino`, `coreml` or `native`; `auto` is the one of those installed that draws the
            bundle fastest here, with so many threads as are fastest: measured at the first load (up to 3 s), then remembered
            (`genin runtimes --explain BUNDLE`). PyTorch for a model folder.
        precision: `fp32`, `fp16`, `int8` or what else the bundle has; `auto` is its most exact. A model folder runs in `fp32`, or
            with its UNet in `bf16` (`fp16` on cuda and mps): a third of the time where the processor has such arithmetic.
        threads: of the engine; None is its own choice, or what was measured.
        device: `cpu`, `cuda`, `cuda:1`, `mps`: where PyTorch runs a model folder. Bundles run on `cpu`.
        max_memory: bytes that a bundle's networks may take, weights and all. As many stay loaded as fit; the others are loaded for
            every picture, one after the other. Refused where a network's weights alone are larger.

    Errors: InputError if the name, runtime, precision, threads or device is wrong, with the nearest right one; BundleError for a
        bundle that is damaged or of another version; MissingExtraError with the line that installs what is missing.
    """
    path = InstalledNames().model(str(name), runtime, precision)
    pipeline = load_pipeline(path, runtime, precision, threads=threads, device=device, max_memory=max_memory)
    pipeline.name = str(name)
    return pipeline


def verify(name: str | Path, *, against: str | Path | None = None) -> Report:
    """Hash every file of a bundle, run every graph that an installed engine can run, and compare with its golden outputs.

    Args:
        name: as of `load`.
        against: a model folder, or another bundle, whose outputs in PyTorch then take the place of the golden ones.

    Returns: a report; `ok` is whether nothing failed and something was run, `as_json()` is what `genin verify --json` prints.
    Errors: BundleError if the bundle cannot be opened at all; InputError if it is to be compared with itself.
    """
    from genin.export.checks.verify import verify_named

    return verify_named(InstalledNames(), str(name), None if against is None else str(against))
